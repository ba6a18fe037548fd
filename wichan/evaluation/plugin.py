"""The practical receiver for ``wichan evaluate``: statistics estimated from the pilots of each frame."""

from __future__ import annotations

from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting


def build_lmmse_plugin(setting: Setting) -> Built:
    """LMMSE with delay profile and Doppler estimated from the pilots of each frame: the practical receiver.

    It is made for speeds up to the fastest of the recipe, as a receiver is for those that its standard supports; nothing
    else of the recipe is used.
    """
    from wichan.estimators import PluginLMMSE

    plugin = PluginLMMSE(setting.observation, max_doppler=_fastest(setting))
    made_for = f"Doppler up to {float(plugin.dopplers[-1]):.0f} Hz"
    return Built(plugin, note=f"profile and Doppler from the pilots of each frame; {made_for}")


def _fastest(setting: Setting) -> float | None:
    """Largest Doppler of the recipe [Hz]; ``None``, the estimator's default, where nothing moves or the source does not say."""
    top = {name: law.high for name, law in setting.laws.items() if name != "profile"}
    found = setting.link.source.max_doppler(top)
    return float(found) if found else None
