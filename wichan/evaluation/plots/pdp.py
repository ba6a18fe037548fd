"""Mean power over delay."""

from __future__ import annotations

import torch

from wichan.analysis.correlation import LagProducts, crossing, lag_products
from wichan.analysis.delays import spread_of
from wichan.analysis.profile import power_delay_profile
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.draw import DATA, THEORY, Picture, decibels, last_delay, number, quantity, title
from wichan.evaluation.plots.view import ChannelView

_OVERSAMPLING = 8


def theory_products(view: ChannelView, axis: str) -> LagProducts | None:
    """Products over lags that the theory expects, averaged over the samples before any normalisation."""
    parts = [view.expect(lambda c, i=i: _mean(lag_products(c, axis)[i])) for i in range(3)]  # type: ignore[misc]
    return None if parts[0] is None else LagProducts(*parts)  # type: ignore[arg-type]


def _mean(part: torch.Tensor) -> torch.Tensor:
    return part.mean(0) if part.dim() > 1 else part


def lag_numbers(view: ChannelView, axis: str, points: torch.Tensor, spread: str, coherence: str) -> dict[str, float | None]:
    """Spread and coherence along one axis, data and theory, under the names ``measured_...`` and ``theory_...``."""
    numbers: dict[str, float | None] = {}
    lag = points - points[0]
    for name, products in (("measured", lag_products(view.h, axis)), ("theory", theory_products(view, axis))):
        rho = None if products is None else products.correlation()
        numbers[f"{name}_{spread}"] = None if rho is None else float(spread_of(rho[1], float(lag[1])))
        numbers[f"{name}_{coherence}"] = None if rho is None else float(crossing(rho, lag, 0.5))
    return numbers


def delay_numbers(view: ChannelView) -> dict[str, float | None]:
    """RMS delay spread and coherence bandwidth of the mean profile, data and theory."""
    return lag_numbers(view, "frequency", view.f, "rms_delay_spread", "coherence_bandwidth_50")


def pdp(view: ChannelView) -> Picture:
    """Mean power delay profile of all samples, through a Hann window of the whole band."""
    view.need("pdp", subcarriers=2)
    units = view.frequencies is not None
    level = decibels(power_delay_profile(view.h, oversampling=_OVERSAMPLING))
    expected = view.expect(lambda c: power_delay_profile(c, oversampling=_OVERSAMPLING))
    bandwidth = float(view.f[-1] - view.f[0]) * view.f.numel() / (view.f.numel() - 1)
    delays = torch.arange(level.numel(), dtype=torch.float64) / (_OVERSAMPLING * bandwidth)
    shown = delays * (1e6 if units else bandwidth)
    floor = float(level.max()) - 50
    keep = last_delay(level, floor, 8 * _OVERSAMPLING)
    numbers = delay_numbers(view)
    spreads = [quantity(numbers[f"{n}_rms_delay_spread"], 1e-9, "ns") for n in ("measured", "theory")]
    with figure_canvas(6.4, 3.8, 1) as (figure, axes):
        axes[0].plot(shown[:keep], level[:keep], **(DATA | {"label": f"data, RMS {spreads[0]}" if units else "data"}))
        if expected is not None:
            label = f"theory, RMS {spreads[1]}" if units else "theory"
            axes[0].plot(shown[:keep], decibels(expected)[:keep], **(THEORY | {"label": label}))
        axes[0].set_ylim(floor, float(level.max()) + 4)
        axes[0].set_xlabel("delay [µs]" if units else "delay [1 / bandwidth]")
        axes[0].set_ylabel("power [dB]")
        axes[0].legend()
        axes[0].set_title(f"mean power delay profile of {view.h.shape[0]:,} samples")
        title(figure, view.title)
        return Picture(png_bytes(figure), numbers | {"mean_power": number(view.h.abs().square().mean())})
