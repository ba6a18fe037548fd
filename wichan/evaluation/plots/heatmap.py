"""One channel over time and frequency."""

from __future__ import annotations

import torch

from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.draw import Picture, decibels, heat, number, span, title
from wichan.evaluation.plots.view import ChannelView

_PANELS = 4


def heatmap(view: ChannelView) -> Picture:
    """Magnitude of up to four antenna pairs of one sample; of a single pair the phase too."""
    h = view.h[view.sample].flatten(0, 1)
    shown = h[:_PANELS]
    level = decibels(shown.abs().square())
    limits = span(level)
    x = (view.t, 1.0 if view.times is None else 1e-3)
    y = (view.f, 1.0 if view.frequencies is None else 1e6)
    single = h.shape[0] == 1
    panels = 2 if single else shown.shape[0]
    with figure_canvas(8.6 if panels < 3 else 2.9 * panels, 3.6, panels, sharey=True) as (figure, axes):
        for index in range(shown.shape[0]):
            last = index == shown.shape[0] - 1
            heat(figure, axes[index], level[index], x, y, limits=limits, label="magnitude [dB]" if last else None)
            rx, tx = divmod(index, view.h.shape[2])
            axes[index].set_title(view.sample_label if single else f"rx {rx}, tx {tx}")
        if single:
            heat(figure, axes[1], h[0].angle(), x, y, limits=(-torch.pi, torch.pi), label="phase [rad]", cmap="twilight")
            axes[1].set_title("phase")
        for axis in axes:
            axis.set_xlabel("snapshot" if view.times is None else "time [ms]")
        axes[0].set_ylabel("subcarrier" if view.frequencies is None else "frequency from the carrier [MHz]")
        more = f" ({_PANELS} of {h.shape[0]} antenna pairs)" if h.shape[0] > _PANELS else ""
        title(figure, view.title if single else f"{view.title}, {view.sample_label}{more}".lstrip(", "))
        expected = view.expect(lambda c: c.mean_power().mean())
        numbers = {
            "sample_mean_power": number(view.h[view.sample].abs().square().mean()),
            "mean_power": number(view.h.abs().square().mean()),
            "theory_mean_power": number(expected),
        }
        return Picture(png_bytes(figure), numbers)
