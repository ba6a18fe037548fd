"""Power over beams and delay."""

from __future__ import annotations

import math

import torch

from wichan.analysis.correlation import spatial_correlation
from wichan.analysis.rank import effective_rank
from wichan.analysis.transforms import AngleDelay, angle_delay_power
from wichan.channels.arrays import AntennaArray
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidValueError
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.draw import DATA, THEORY, Picture, decibels, heat, last_delay, title
from wichan.evaluation.plots.view import ChannelView

_DEPTH = 40.0
_OVERSAMPLING = 4
_BEFORE = 2 * _OVERSAMPLING
_NAMES = ("along x", "horizontal", "vertical")


def angle_delay(view: ChannelView) -> Picture:
    """Mean power over the beams of the larger array and delay, theory beside it, and both over the beams alone."""
    view.need("angle-delay", subcarriers=4)
    side, array = _end(view)

    def power(source: torch.Tensor | ChannelCovariance) -> AngleDelay:
        return angle_delay_power(source, array, side=side, frequencies=view.f, oversampling=_OVERSAMPLING)

    mean, expected = power(view.h), view.expect(lambda c: power(c).value)
    which = _axis(mean)
    beams, data = _along(mean.direction[:, which], mean.value)
    panels = [(f"mean of {view.h.shape[0]:,} samples", data)]
    if expected is not None:
        panels.append(("theory", _along(mean.direction[:, which], expected)[1]))
    top = float(decibels(data).max())
    keep = last_delay(decibels(data.sum(0)), float(decibels(data.sum(0)).max()) - _DEPTH, 4 * _OVERSAMPLING)
    delays = torch.arange(-_BEFORE, keep, dtype=torch.float64) * float(mean.delay[1])
    unit = float(mean.delay[1]) * _OVERSAMPLING if view.frequencies is None else 1e-6
    label = "beam [cycles an element]" if array is None else f"direction cosine, {_NAMES[which]}"
    with figure_canvas(9.4 if len(panels) > 1 else 7.0, 3.6, len(panels) + 1) as (figure, axes):
        for index, (axis, (name, shown)) in enumerate(zip(axes[:-1], panels, strict=True)):
            level = decibels(shown.roll(_BEFORE, -1)[:, : _BEFORE + keep]) - top
            bar = "power [dB of the largest]" if index == len(panels) - 1 else None
            heat(figure, axis, level, (beams, 1.0), (delays, unit), limits=(-_DEPTH, 0.0), label=bar)
            axis.set_title(name)
            axis.set_xlabel(label)
            axis.locator_params(axis="x", nbins=5)
        axes[0].set_ylabel("delay [µs]" if view.frequencies is not None else "delay [1 / bandwidth]")
        # Over all beams of the end, vertical ones and polarisations summed; the unit is the channel's own power.
        size = mean.value.numel()
        styles = ({**DATA, "marker": "o"}, {**THEORY, "marker": "s", "markerfacecolor": "none", "markeredgewidth": 1.0})
        for (_, shown), style in zip(panels, styles, strict=False):
            axes[-1].plot(beams, decibels(shown.sum(1) / size), **style)
        axes[-1].set_xlabel(label)
        axes[-1].set_ylabel("power of the beam [dB]")
        axes[-1].set_title("all delays")
        axes[-1].legend()
        title(figure, f"{view.title} ({'receive' if side == 'rx' else 'transmit'} array)".lstrip())
        return Picture(png_bytes(figure), {"side": side, **_ranks(view, side)})


def _end(view: ChannelView) -> tuple[str, AntennaArray | None]:
    """The end with more antenna positions, and its array where one is known."""
    counts = {}
    for side, array, ports in (("rx", view.rx_array, view.h.shape[1]), ("tx", view.tx_array, view.h.shape[2])):
        counts[side] = (ports if array is None else array.num_positions, array)
    side = max(counts, key=lambda name: counts[name][0])
    if counts[side][0] < 2:
        raise InvalidValueError("kind='angle-delay' needs at least 2 antenna positions at one end; the channels have 1")
    return side, counts[side][1]


def _axis(view: AngleDelay) -> int:
    """The array axis with the most beams; the horizontal one of two equal ones."""
    counts = [0 if math.isnan(float(c[0])) else c.unique().numel() for c in view.direction.T]
    return max((1, 2, 0), key=lambda axis: counts[axis])


def _along(direction: torch.Tensor, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over beams that share a direction cosine."""
    beams, place = direction.unique(return_inverse=True)
    return beams, torch.zeros(beams.numel(), power.shape[1], dtype=power.dtype).index_add_(0, place, power)


def _ranks(view: ChannelView, side: str) -> dict[str, float | None]:
    expected = view.expect(lambda c: _mean(spatial_correlation(c, side=side, normalize=False)))
    measured = spatial_correlation(view.h, side=side, normalize=False)
    return {
        "measured_effective_rank": float(effective_rank(measured)),
        "theory_effective_rank": None if expected is None else float(effective_rank(expected)),
    }


def _mean(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.mean(0) if matrix.dim() > 2 else matrix
