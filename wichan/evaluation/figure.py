"""Pictures: NMSE curves with confidence bands, and a look at channels. Needs matplotlib, imported on use."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.analysis.profile import power_delay_profile, profile_of_covariance
from wichan.errors import InvalidValueError, MissingDependencyError, check_int, check_shape, check_tensor
from wichan.evaluation.labels import axis_label, point_text, shown_point
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wichan.grid import OFDMGrid

#: Okabe and Ito's palette: distinct for all common kinds of colour blindness, and in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F")
MARKERS = "osD^vPX*<"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "lines.markeredgewidth": 0.0,
    "savefig.dpi": 130,
}


@contextmanager
def figure_canvas(
    width: float, height: float, columns: int, rows: int = 1, **kwargs: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with ``rows`` x ``columns`` axes in the house style, on its own Agg canvas: no display and no pyplot state."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise MissingDependencyError("figures need matplotlib; install it with: pip install matplotlib") from None
    with matplotlib.rc_context(_STYLE):
        figure = NewFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(rows, columns, squeeze=False, **kwargs).flat)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours."""
    buffer, small_buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png")
    from PIL import Image  # comes with matplotlib

    # A palette of 256 colours looks the same and takes a fifth of the bytes.
    with Image.open(buffer) as image:
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    small.save(small_buffer, format="PNG", optimize=True)
    return small_buffer.getvalue()


def png_path(path: str | Path) -> Path:
    """Return ``path`` if it ends in ``.png``, the one format that is written; else raise `InvalidValueError`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InvalidValueError(f"{str(path)!r} must end in .png: figures are written as PNG only")
    return path


def save_png(figure: Figure, path: Path) -> Path:
    """Write `png_bytes` to ``path``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(figure))
    return path


def curve_figure(evaluation: Evaluation, path: str | Path) -> Path:
    """Write `curve_png` to ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(curve_png(evaluation))
    return path


def curve_png(evaluation: Evaluation) -> bytes:
    """Draw NMSE over the swept condition, and beside it the gap to the reference, with 95 % bands.

    Estimators that are told the conditions are dashed.
    """
    scored = evaluation.statistics.gap_db is not None and len(evaluation.estimators) > 1
    with figure_canvas(8.6 if scored else 5.6, 3.9, 2 if scored else 1) as (figure, axes):
        draw_curves(axes[0], evaluation, evaluation.nmse_db)
        axes[0].set_ylabel("NMSE [dB]")
        if scored:
            assert evaluation.statistics.gap_db is not None
            draw_curves(axes[1], evaluation, evaluation.statistics.gap_db)
            axes[1].set_ylabel(f"gap to {evaluation.reference} [dB]")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5 if scored else 3))
        source = evaluation.provenance.get("recipe") or evaluation.provenance.get("data") or ""
        few, many = min(evaluation.num_channels), max(evaluation.num_channels)
        count = f"{few}" if few == many else f"{few}–{many}"
        figure.suptitle(f"{source}: {count} channels a point, bands are 95 % intervals".lstrip(": "), fontsize=9.5)
        return png_bytes(figure)


def draw_curves(axes: Axes, evaluation: Evaluation, level: Interval) -> None:
    """Draw a statistic of every estimator over the points, with its band; further columns of ``level`` are left out."""
    x, labels = positions(evaluation)
    for e, name in enumerate(evaluation.estimators):
        colour = PALETTE[e % len(PALETTE)]
        told = bool(evaluation.told[e])
        value, low, high = (part[:, e].tolist() for part in level)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        label = f"{name} (told)" if told else name
        marker = MARKERS[e % len(MARKERS)]
        axes.plot(x, value, "--" if told else "-", color=colour, marker=marker, label=label)
    if labels is not None:
        axes.set_xticks(x, labels)
    axes.set_xlabel(axis_label(evaluation.sweep))


def positions(evaluation: Evaluation) -> tuple[list[float], list[str] | None]:
    """Where the points stand on the horizontal axis, and their labels where these are no numbers of a linear axis.

    Words stand side by side, and so do values that include infinity or, as sizes do, spread over more than a decade.
    """
    points = [shown_point(evaluation.sweep, point) for point in evaluation.points]
    numbers = [point for point in points if not isinstance(point, str)]
    if len(numbers) == len(points) and all(math.isfinite(number) for number in numbers):
        whole = all(isinstance(point, int) for point in evaluation.points)  # only a setting has whole values
        if not (whole and min(numbers) > 0 and max(numbers) > 10 * min(numbers)):
            return [float(number) for number in numbers], None
    return [float(i) for i in range(len(points))], [point_text(point) for point in points]


def channel_figure(
    h: torch.Tensor,
    path: str | Path,
    *,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    frequencies: torch.Tensor | None = None,
    sample: int = 0,
    label: str | None = None,
    covariance: torch.Tensor | None = None,
    theory: str = "theory, same conditions",
    title: str = "",
) -> Path:
    r"""Write a picture of one channel, |h| over time and frequency, and of the mean power delay profile of all.

    Args:
        h: complex, (num_samples, \*antennas, num_times, num_subcarriers).
        path: PNG to write.
        grid: gives the axes their units; without it they count snapshots, subcarriers and delay bins.
        times: instants [s], evenly spaced, (num_times,), where they are not the OFDM symbols of a grid.
        frequencies: offsets from the carrier [Hz], evenly spaced and rising, (num_subcarriers,); default the grid's.
        sample: which sample to show; its first antenna pair is drawn.
        label: what the picture calls that sample; default its number within ``h``.
        covariance: E[h h^H] over subcarriers, (num_subcarriers, num_subcarriers): theory, drawn beside the data.
        theory: what the legend calls it.
        title: one line above the picture.

    Raises:
        ShapeError: ``h`` does not fit ``grid``, ``times`` or ``frequencies``.
        InvalidValueError: no such sample, or a path that does not end in ``.png``.
    """
    path = png_path(path)
    check_tensor("h", h, kind="complex")
    check_shape("h", h, (None, None, None) if grid is None else grid.shape)
    check_int("sample", sample, minimum=0, maximum=h.shape[0] - 1)
    if frequencies is None and grid is not None:
        frequencies = grid.frequencies
    for axis, points in ((-2, times), (-1, frequencies)):
        if points is not None:
            check_shape("times" if axis == -2 else "frequencies", points, (h.shape[axis],))
    with figure_canvas(8.6, 3.6, 2) as (figure, axes):
        _heat_map(figure, axes[0], h[sample].reshape(-1, *h.shape[-2:])[0], times, frequencies)
        axes[0].set_title(f"sample {sample}" if label is None else label)
        if times is None:
            axes[0].set_xlabel("snapshot" if grid is None else "OFDM symbol")
        _profile(axes[1], h, frequencies, covariance, theory)
        if title:
            figure.suptitle(title, fontsize=9.5)
        return save_png(figure, path)


def edges_of(points: torch.Tensor | None, count: int, unit: float) -> tuple[float, float]:
    """Outer edges of ``count`` cells around evenly spaced points, in ``unit``; without points the cells are counted."""
    if points is None:
        return -0.5, count - 0.5
    first, last = float(points[0]) / unit, float(points[-1]) / unit
    half = (last - first) / (count - 1) / 2 if count > 1 else 0.5
    return first - half, last + half


def _heat_map(
    figure: Figure, axes: Axes, h: torch.Tensor, times: torch.Tensor | None, frequencies: torch.Tensor | None
) -> None:
    level = 20 * torch.log10(h.abs().double().clamp_min(1e-10))
    top = float(level.max())
    image = axes.imshow(
        level.T.numpy(),
        aspect="auto",
        origin="lower",
        extent=(*edges_of(times, h.shape[0], 1e-3), *edges_of(frequencies, h.shape[1], 1e6)),
        interpolation="nearest",
        cmap="viridis",
        vmin=max(float(level.min()), top - 40),
    )
    axes.grid(visible=False)
    axes.set_xlabel("time [ms]")
    axes.set_ylabel("subcarrier" if frequencies is None else "frequency from the carrier [MHz]")
    axes.locator_params(axis="x", integer=times is None)
    figure.colorbar(image, ax=axes, label="magnitude [dB]")


def _profile(
    axes: Axes, h: torch.Tensor, frequencies: torch.Tensor | None, covariance: torch.Tensor | None, theory: str
) -> None:
    oversampling = 8
    level = _level(power_delay_profile(h, oversampling=oversampling))
    low, high = edges_of(frequencies, h.shape[-1], 1e6)
    bandwidth = 1.0 if frequencies is None else high - low
    delays = torch.arange(level.numel(), dtype=torch.float64) / (oversampling * bandwidth)
    # Up to the last delay of half the window that stands above -50 dB: what comes later is window, not channel.
    floor = float(level.max()) - 50
    half = level.numel() // 2
    above = torch.nonzero(level[:half] > floor).flatten()
    keep = min(half, max(int(above[-1]) + 1, 8 * oversampling))
    axes.plot(delays[:keep], level[:keep], color=PALETTE[0], label="data")
    if covariance is not None:
        expected = _level(profile_of_covariance(covariance, oversampling=oversampling))
        axes.plot(delays[:keep], expected[:keep], "--", color=PALETTE[1], label=theory)
        axes.legend()
    axes.set_ylim(floor, float(level.max()) + 4)
    axes.set_title(f"mean power delay profile of {h.shape[0]:,} samples")
    axes.set_xlabel("delay [1 / bandwidth]" if frequencies is None else "delay [µs]")
    axes.set_ylabel("power [dB]")


def _level(power: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(power.clamp_min(1e-30))
