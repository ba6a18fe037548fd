"""Power over Doppler shift and delay."""

from __future__ import annotations

import torch

from wichan.analysis.transforms import DelayDoppler, delay_doppler_power
from wichan.channels.covariance import ChannelCovariance
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.doppler import doppler_numbers
from wichan.evaluation.plots.draw import Picture, decibels, heat, last_delay, title
from wichan.evaluation.plots.pdp import delay_numbers
from wichan.evaluation.plots.view import ChannelView

_DEPTH = 40.0
_BEFORE = 2  # delay bins shown before 0, where leakage of the first path lies
_FEW_ELEMENTS = 2048


def delay_doppler(view: ChannelView) -> Picture:
    """One sample, the mean of all, and what theory expects, each through a Hann window over both axes."""
    view.need("delay-doppler", times=2, subcarriers=4)
    # Points a bin: a small grid would look like a mosaic, and a large one takes its time.
    points = 4 if view.h.shape[-2] * view.h.shape[-1] <= _FEW_ELEMENTS else 2
    before = _BEFORE * points
    mean = _power(view, view.h, points)
    expected = view.expect(lambda c: _power(view, c, points).value)
    one = _power(view, view.h[view.sample], points)
    panels = [(view.sample_label, one.value), (f"mean of {view.h.shape[0]:,} samples", mean.value)]
    if expected is not None:
        panels.append(("theory", expected))
    top = float(decibels(mean.value).max())
    keep = last_delay(decibels(mean.value.sum(0)), float(decibels(mean.value.sum(0)).max()) - _DEPTH, 4 * points)
    step = float(mean.delay[1])
    delays = torch.arange(-before, keep, dtype=torch.float64) * step
    unit = step * points if view.frequencies is None else 1e-6
    with figure_canvas(3.1 * len(panels) + 0.6, 3.6, len(panels), sharey=True) as (figure, axes):
        for index, (axis, (name, power)) in enumerate(zip(axes, panels, strict=True)):
            level = decibels(power.roll(before, -1)[:, : before + keep]) - top
            last = "power [dB of the largest mean]" if index == len(panels) - 1 else None
            heat(
                figure,
                axis,
                level,
                (mean.doppler, 1.0 if view.times is None else 1e3),
                (delays, unit),
                limits=(-_DEPTH, 0.0),
                label=last,
            )
            axis.set_title(name)
            axis.set_xlabel("Doppler shift [kHz]" if view.times is not None else "Doppler shift [cycles a snapshot]")
            axis.locator_params(axis="x", nbins=5)
        axes[0].set_ylabel("delay [µs]" if view.frequencies is not None else "delay [1 / bandwidth]")
        title(figure, view.title)
        numbers = delay_numbers(view) | doppler_numbers(view)
        return Picture(png_bytes(figure), numbers)


def _power(view: ChannelView, source: torch.Tensor | ChannelCovariance, points: int) -> DelayDoppler:
    return delay_doppler_power(source, times=view.t, frequencies=view.f, oversampling=points)
