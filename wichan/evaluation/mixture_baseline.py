"""The library's own mixture estimator for ``wichan evaluate``: of the recipe it uses the pilots and nothing else."""

from __future__ import annotations

from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting


def build_delay_doppler_mixture(setting: Setting) -> Built:
    """Mixture over delay and Doppler shapes that are drawn from a cluster model; told nothing, fitted to no recipe.

    The pilots alone decide how fast a channel may fade; with pilots in one symbol the fastest of the recipe does.
    """
    from wichan.estimators import DelayDopplerMixture

    pilots = setting.observation
    mixture = DelayDopplerMixture(pilots, max_doppler=None if len(pilots.pilot_symbols) > 1 else _fastest(setting))
    return Built(mixture, note=f"{mixture.extra_repr()}; fitted to no recipe")


def _fastest(setting: Setting) -> float:
    """Largest Doppler of the recipe [Hz]; 0 where nothing moves or the source does not say."""
    top = {name: law.high for name, law in setting.laws.items() if name != "profile"}
    return float(setting.link.source.max_doppler(top) or 0.0)
