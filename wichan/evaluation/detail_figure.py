"""Pictures of an evaluation's detail: NMSE of every resource element, calibration of ``err_var``, bit errors, SINR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError
from wichan.evaluation.detail import point_index
from wichan.evaluation.figure import MARKERS, PALETTE, draw_curves, figure_canvas, png_path, positions, save_png
from wichan.evaluation.labels import axis_label, shown_point
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import Interval, to_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KNOWN = "known channel"
_MAX_COLUMNS = 4


def resource_element_figure(evaluation: Evaluation, path: str | Path, *, point: Any = None) -> Path:
    """Write one map of NMSE over OFDM symbols and subcarriers for each estimator; dots are pilots.

    Args:
        evaluation: one with detail.
        path: PNG to write.
        point: which point to show; default the one that ``DetailOptions`` names, the middle one.

    Raises:
        InvalidValueError: no detail, no such point, or a path that does not end in ``.png``.
    """
    detail, here = evaluation.measured_detail(), _shown(evaluation, point)
    path = png_path(path)
    maps = to_db(evaluation.resource_elements[here])
    count = len(evaluation.estimators)
    columns = min(count, _MAX_COLUMNS)
    rows = -(-count // columns)
    with figure_canvas(1.3 + 2.2 * columns, 0.5 + 3.3 * rows, columns, rows, sharex=True, sharey=True) as (figure, axes):
        for e, name in enumerate(evaluation.estimators):
            image = axes[e].imshow(
                maps[e].T.numpy(),
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap="viridis",
                vmin=float(maps.min()),
                vmax=float(maps.max()),
            )
            symbols, subcarriers = detail.mask.nonzero(as_tuple=True)
            axes[e].plot(symbols, subcarriers, ".", color="white", markersize=1.8, clip_on=False)
            axes[e].set_title(name)
            axes[e].grid(visible=False)
            axes[e].locator_params(integer=True)
        for spare in axes[count:]:
            spare.set_axis_off()
        for bottom in axes[max(count - columns, 0) : count]:
            bottom.set_xlabel("OFDM symbol")
            bottom.tick_params(labelbottom=True)
        for left in axes[:count:columns]:
            left.set_ylabel("subcarrier")
        figure.colorbar(image, ax=axes, label="NMSE [dB]", pad=0.02)
        draw_title(figure, evaluation, f"NMSE of each resource element at {_at(evaluation, here)}; dots: pilots")
        return save_png(figure, path)


def calibration_figure(evaluation: Evaluation, path: str | Path, *, point: Any = None) -> Path:
    """Write how far ``err_var`` can be believed: against the real error, and by decile at one point.

    Args:
        evaluation: one with detail.
        path: PNG to write.
        point: which point the deciles belong to; default as in `resource_element_figure`.

    Raises:
        InvalidValueError: no detail, no such point, a path that does not end in ``.png``, or no estimator with ``err_var``.
    """
    here = _shown(evaluation, point)
    path = png_path(path)
    table = evaluation.reliability
    claims = [e for e in range(len(evaluation.estimators)) if not bool(table.mean_err_var[:, e].isnan().all())]
    if not claims:
        raise InvalidValueError("no estimator returned err_var: there is nothing to calibrate")
    with figure_canvas(10.2, 3.7, 3) as (figure, axes):
        deciles = list(range(1, table.mean_err_var.shape[-1] + 1))
        for e in claims:
            style: dict[str, Any] = {"color": PALETTE[e % len(PALETTE)], "marker": MARKERS[e % len(MARKERS)]}
            claimed, made = (10 * torch.log10(field[:, e].flatten()) for field in (table.mean_err_var, table.mean_error))
            axes[0].plot(claimed, made, linestyle="", alpha=0.6, label=evaluation.estimators[e], **style)
            axes[1].plot(deciles, table.normalized_error[here, e], **style)
            for covered in (table.coverage_50, table.coverage_90):
                axes[2].plot(deciles, covered[here, e], **style)
        _targets(axes, table.normalized_error[here, claims])
        axes[0].set(xlabel="claimed error variance [dB]", ylabel="real error variance [dB]", title="all points")
        for one, label in ((axes[1], "mean of |error|² / err_var"), (axes[2], "share of errors inside the disc")):
            one.set(xlabel="decile of err_var", ylabel=label, title=f"at {_at(evaluation, here)}")
            one.set_xticks(deciles)
        silent = [name for e, name in enumerate(evaluation.estimators) if e not in claims]
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
        note = f"; without err_var: {', '.join(silent)}" if silent else ""
        draw_title(figure, evaluation, f"calibration of err_var; dotted: an estimator that knows its error{note}")
        return save_png(figure, path)


def _targets(axes: list[Axes], normalized: torch.Tensor) -> None:
    """What a calibrated estimator would show."""
    low, high = min(axes[0].get_xlim()[0], axes[0].get_ylim()[0]), max(axes[0].get_xlim()[1], axes[0].get_ylim()[1])
    axes[0].plot([low, high], [low, high], ":", color="black")
    axes[1].axhline(1, linestyle=":", color="black")
    seen = normalized[normalized > 0]
    if seen.numel() and max(float(seen.max()), 1.0) > 4 * min(float(seen.min()), 1.0):
        axes[1].set_yscale("log")
    else:
        axes[1].set_ylim(0, 2 if not seen.numel() else max(2.0, 1.1 * float(seen.max())))
    for share in (0.5, 0.9):
        axes[2].axhline(share, linestyle=":", color="black")
        axes[2].text(1.02, share, f"{100 * share:.0f} %", transform=axes[2].get_yaxis_transform(), va="center", fontsize=8)
    axes[2].set_ylim(0, 1)


def ber_figure(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the uncoded bit error rate over the swept condition with 95 % bands, beside a receiver that knows the channel.

    Raises:
        InvalidValueError: no detail, no data elements, or a path that does not end in ``.png``.
    """
    ber = evaluation.link().ber
    path = png_path(path)
    # On a logarithmic axis there is no place for zero: what was not seen is left out, and a band ends at one bit.
    least = 1 / max(evaluation.measured_detail().num_bits)
    shown = torch.where(ber.value > 0, ber.value, torch.nan)
    level = Interval(shown, ber.low.clamp_min(least), ber.high)
    with figure_canvas(5.8, 4.2, 1) as (figure, axes):
        draw_known(axes[0], evaluation, level)
        axes[0].set_yscale("log")
        axes[0].set_ylabel("bit error rate")
        axes[0].grid(which="minor", axis="y", linewidth=0.3)
        draw_legend(figure, axes[0], 3)
        draw_title(figure, evaluation, f"uncoded {_data_text(evaluation)} after LMMSE equalisation\n{bands_text(evaluation)}")
        return save_png(figure, path)


def sinr_figure(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the effective SINR after the equaliser, and beside it what is lost to a receiver that knows the channel.

    Raises:
        InvalidValueError: no detail, no data elements, or a path that does not end in ``.png``.
    """
    link = evaluation.link()
    path = png_path(path)
    with figure_canvas(8.6, 3.9, 2) as (figure, axes):
        draw_known(axes[0], evaluation, link.sinr_db)
        axes[0].set_ylabel("effective SINR [dB]")
        draw_curves(axes[1], evaluation, link.loss_db)
        axes[1].set_ylabel(f"loss to a {_KNOWN} [dB]")
        axes[1].set_ylim(bottom=min(0.0, axes[1].get_ylim()[0]))
        draw_legend(figure, axes[0], 5)
        draw_title(
            figure, evaluation, f"SINR of {_streams_text(evaluation)} after LMMSE equalisation; {bands_text(evaluation)}"
        )
        return save_png(figure, path)


def rate_figure(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the achievable rate over the swept condition with 95 % bands, beside a receiver that knows the channel.

    Raises:
        InvalidValueError: no rate was measured, or a path that does not end in ``.png``.
    """
    rates = evaluation.measured_rates()
    path = png_path(path)
    with figure_canvas(5.8, 4.2, 1) as (figure, axes):
        draw_known(axes[0], evaluation, rates)
        axes[0].set_ylabel("achievable rate [bit/s/Hz]")
        draw_legend(figure, axes[0], 3)
        draw_title(figure, evaluation, f"rate by use-and-then-forget\n{bands_text(evaluation)}")
        return save_png(figure, path)


#: Kind of figure -> what draws it.
FIGURES: dict[str, Callable[..., Path]] = {
    "resource_elements": resource_element_figure,
    "calibration": calibration_figure,
    "ber": ber_figure,
    "sinr": sinr_figure,
    "rate": rate_figure,
}


def _shown(evaluation: Evaluation, point: Any) -> int:
    return evaluation.measured_detail().point if point is None else point_index(evaluation.points, point)


def _at(evaluation: Evaluation, point: int) -> str:
    value = shown_point(evaluation.sweep, evaluation.points[point])
    label, _, unit = axis_label(evaluation.sweep).partition(" [")
    return f"{label} {value if isinstance(value, str) else f'{value:.4g}'} {unit.rstrip(']')}".rstrip()


def bands_text(evaluation: Evaluation, *, bands: bool = True) -> str:
    """How many channels a point has, and what the bands are."""
    few, many = min(evaluation.num_channels), max(evaluation.num_channels)
    count = f"{few}" if few == many else f"{few}–{many}"
    return f"{count} channels a point" + (", bands are 95 % intervals" if bands else "")


def _streams_text(evaluation: Evaluation) -> str:
    count = evaluation.measured_detail().options.num_streams
    return "one stream" if count == 1 else f"{count} streams"


def _data_text(evaluation: Evaluation) -> str:
    name = evaluation.measured_detail().options.modulation
    label = name.upper() if name == "qpsk" else name.replace("qam", "-QAM")
    return f"{label}, {_streams_text(evaluation)},"


def draw_known(axes: Axes, evaluation: Evaluation, level: Interval) -> None:
    """Draw a statistic of every estimator, and from the last column of ``level`` a receiver that knows the channel."""
    draw_curves(axes, evaluation, level)
    x, _ = positions(evaluation)
    axes.plot(x, level.value[:, -1], ":", color="black", label=_KNOWN)


def draw_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of ``axes`` below the figure, at most ``columns`` entries side by side."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns))


def draw_title(figure: Figure, evaluation: Evaluation, text: str) -> None:
    """Head the figure with the recipe and ``text``."""
    source = evaluation.provenance.get("recipe") or evaluation.provenance.get("data") or ""
    figure.suptitle(f"{source}: {text}".lstrip(": "), fontsize=9.5)
