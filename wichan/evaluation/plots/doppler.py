"""Mean power over Doppler shift."""

from __future__ import annotations

import torch

from wichan.analysis.dopplers import doppler_spectrum, jakes_spectrum
from wichan.channels.tdl import TDL
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.draw import DATA, LIMIT, THEORY, Picture, decibels, quantity, title
from wichan.evaluation.plots.pdp import lag_numbers
from wichan.evaluation.plots.view import ChannelView

_OVERSAMPLING = 8


def doppler_numbers(view: ChannelView) -> dict[str, float | None]:
    """RMS Doppler spread and coherence time, data and theory."""
    return lag_numbers(view, "time", view.t, "rms_doppler_spread", "coherence_time_50")


def doppler(view: ChannelView) -> Picture:
    """Doppler spectrum of all samples, theory through the same window, and Jakes' law at full resolution where it holds."""
    view.need("doppler", times=2)
    units = view.times is not None
    density, shift = doppler_spectrum(view.h, times=view.t, oversampling=_OVERSAMPLING)
    expected = view.expect(lambda c: doppler_spectrum(c, times=view.t, oversampling=_OVERSAMPLING).density)
    level = decibels(density)
    law = _jakes(view, shift, float(density.sum() * (shift[1] - shift[0])))
    numbers = doppler_numbers(view)
    spreads = [quantity(numbers[f"{n}_rms_doppler_spread"], 1.0, "Hz") for n in ("measured", "theory")]
    with figure_canvas(6.4, 3.8, 1) as (figure, axes):
        axes[0].plot(shift, level, **(DATA | {"label": f"data, RMS {spreads[0]}" if units else "data"}))
        if expected is not None:
            label = f"theory, same window, RMS {spreads[1]}" if units else "theory, same window"
            axes[0].plot(shift, decibels(expected), **(THEORY | {"label": label}))
        if law is not None:
            axes[0].plot(shift, decibels(law), **LIMIT, label="Jakes' law, full resolution")
        top = float(level.max())
        axes[0].set_ylim(max(float(level.min()), top - 50) - 2, top + 6)
        axes[0].set_xlabel("Doppler shift [Hz]" if units else "Doppler shift [cycles a snapshot]")
        axes[0].set_ylabel("power density [dB/Hz]" if units else "power density [dB]")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        axes[0].set_title(f"mean Doppler spectrum of {view.h.shape[0]:,} samples")
        title(figure, view.title)
        return Picture(png_bytes(figure), numbers)


def _jakes(view: ChannelView, shift: torch.Tensor, power: float) -> torch.Tensor | None:
    """Jakes' density averaged over the samples' own Doppler; only where all of the fading obeys it."""
    top = view.conditions.get("max_doppler")
    models = [part.model for part in view.theory]
    if top is None or not models or not all(isinstance(m, TDL) and not m.profile.los_power for m in models):
        return None
    top = top.double()
    # A standing sample is a line at 0, which has no density.
    top = top[top > 0]
    if not top.numel():
        return None
    return power * jakes_spectrum(shift[:, None], top).mean(-1)
