"""Pictures of the measures of an IRS: support recovery, symbol errors, spectral efficiency, run time."""

from __future__ import annotations

from pathlib import Path

import torch

from wichan.evaluation.detail_figure import bands_text, draw_known, draw_legend, draw_title
from wichan.evaluation.figure import draw_curves, figure_canvas, png_path, save_png
from wichan.evaluation.measures import MEASURES
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import Interval

#: Rarer symbol errors than this are left out of the picture.
LEAST_ERROR_RATE = 1e-9


def measure_figure(evaluation: Evaluation, path: str | Path, metric: str) -> Path:
    """Write one measure over the swept condition with 95 % bands, where it exists beside a receiver that knows the channel.

    Args:
        evaluation: one that measured it.
        path: PNG to write.
        metric: one of `MEASURES`.

    Raises:
        UnknownNameError, InvalidValueError: no such measure, one that was not measured, or a path that does not end in
            ``.png``.
    """
    kept = evaluation.measured(metric)
    measure = MEASURES[metric]
    level = measure.shown(kept)
    path = png_path(path)
    with figure_canvas(5.8, 4.2, 1) as (figure, axes):
        if measure.log:  # there is no place for zero
            level = Interval(*(part.clamp_min(torch.finfo(torch.float64).tiny) for part in level))
            axes[0].set_yscale("log")
        if measure.known:
            draw_known(axes[0], evaluation, level)
        else:
            draw_curves(axes[0], evaluation, level)
        axes[0].set_ylabel(measure.axis)
        if metric == "ser" and float(level.value.min()) < LEAST_ERROR_RATE:
            axes[0].set_ylim(bottom=LEAST_ERROR_RATE, top=1.0)
        draw_legend(figure, axes[0], 3)
        draw_title(figure, evaluation, f"{measure.title.partition(' [')[0]}\n{bands_text(evaluation, bands=measure.random)}")
        return save_png(figure, path)
