"""Pictures: NMSE curves with confidence bands, and a look at channels. Needs matplotlib, imported on use."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import MissingDependencyError, check_int, check_shape, check_tensor
from wichan.evaluation.result import Evaluation, axis_label, shown_point
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
def _figure(width: float, height: float, columns: int, **kwargs: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with ``columns`` axes in the house style, on its own Agg canvas: no display and no pyplot state."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise MissingDependencyError("figures need matplotlib; install it with: pip install matplotlib") from None
    with matplotlib.rc_context(_STYLE):
        figure = NewFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(1, columns, squeeze=False, **kwargs)[0])


def _png(figure: Figure) -> bytes:
    buffer, small_buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png")
    from PIL import Image  # comes with matplotlib

    # A palette of 256 colours looks the same and takes a fifth of the bytes.
    with Image.open(buffer) as image:
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    small.save(small_buffer, format="PNG", optimize=True)
    return small_buffer.getvalue()


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(figure))
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
    with _figure(8.6 if scored else 5.6, 3.9, 2 if scored else 1) as (figure, axes):
        _curves(axes[0], evaluation, evaluation.nmse_db)
        axes[0].set_ylabel("NMSE [dB]")
        if scored:
            assert evaluation.statistics.gap_db is not None
            _curves(axes[1], evaluation, evaluation.statistics.gap_db)
            axes[1].set_ylabel(f"gap to {evaluation.reference} [dB]")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5 if scored else 3))
        source = evaluation.provenance.get("recipe") or evaluation.provenance.get("data") or ""
        few, many = min(evaluation.num_channels), max(evaluation.num_channels)
        count = f"{few}" if few == many else f"{few}–{many}"
        figure.suptitle(f"{source}: {count} channels a point, bands are 95 % intervals".lstrip(": "), fontsize=9.5)
        return _png(figure)


def _curves(axes: Axes, evaluation: Evaluation, level: Interval) -> None:
    points = [shown_point(evaluation.sweep, point) for point in evaluation.points]
    named = any(isinstance(point, str) for point in points)
    x = list(range(len(points))) if named else [float(point) for point in points]
    for e, name in enumerate(evaluation.estimators):
        colour = PALETTE[e % len(PALETTE)]
        told = bool(evaluation.told[e])
        value, low, high = (part[:, e].tolist() for part in level)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        label = f"{name} (told)" if told else name
        marker = MARKERS[e % len(MARKERS)]
        axes.plot(x, value, "--" if told else "-", color=colour, marker=marker, label=label)
    if named:
        axes.set_xticks(x, [str(point) for point in points])
    axes.set_xlabel(axis_label(evaluation.sweep))


def power_delay_profile(h: torch.Tensor, *, oversampling: int = 4) -> torch.Tensor:
    r"""Mean power over delay, seen through a Hann window of the whole band.

    .. math:: P(\tau_d) = E\,\Big|\sum_k w_k h_k e^{j 2\pi k d / (oK)}\Big|^2, \qquad \sum_k w_k = 1

    A path shows as a peak of its own power, 4/bandwidth wide; the window keeps weak late paths above the sidelobes of
    strong early ones.

    Args:
        h: complex, (\*, num_subcarriers).
        oversampling: o, points in each delay bin 1/bandwidth.

    Returns:
        float64, (o num_subcarriers,) at delays d / (o bandwidth), averaged over all leading axes.
    """
    window = _window(h.shape[-1])
    size = oversampling * h.shape[-1]
    taps = torch.fft.ifft(h.to(torch.complex128) * window, n=size, dim=-1, norm="forward")
    return taps.abs().square().reshape(-1, size).mean(dim=0)


def profile_of_covariance(covariance: torch.Tensor, *, oversampling: int = 4) -> torch.Tensor:
    """What `power_delay_profile` converges to, from E[h h^H] over subcarriers, (num_subcarriers, num_subcarriers)."""
    window = _window(covariance.shape[-1])
    size = oversampling * covariance.shape[-1]
    seen = window[:, None] * covariance.to(torch.complex128) * window
    half = torch.fft.ifft(seen, n=size, dim=-2, norm="forward")
    return torch.fft.fft(half, n=size, dim=-1).diagonal().real


def _window(size: int) -> torch.Tensor:
    window = torch.hann_window(size + 2, periodic=False, dtype=torch.float64)[1:-1]  # without the two zeros
    return window / window.sum()


def channel_figure(
    h: torch.Tensor,
    path: str | Path,
    *,
    grid: OFDMGrid | None = None,
    sample: int = 0,
    covariance: torch.Tensor | None = None,
    title: str = "",
) -> Path:
    r"""Write a picture of one channel, |h| over time and frequency, and of the mean power delay profile of all.

    Args:
        h: complex, (num_samples, \*antennas, num_times, num_subcarriers).
        path: PNG to write.
        grid: gives the axes their units; without it they count snapshots, subcarriers and delay bins.
        sample: which sample to show; its first antenna pair is drawn.
        covariance: E[h h^H] over subcarriers, (num_subcarriers, num_subcarriers): theory, drawn beside the data.
        title: one line above the picture.

    Raises:
        ShapeError: ``h`` does not fit ``grid``.
        InvalidValueError: no such sample.
    """
    check_tensor("h", h, kind="complex")
    check_shape("h", h, (None, None, None) if grid is None else grid.shape)
    check_int("sample", sample, minimum=0, maximum=h.shape[0] - 1)
    with _figure(8.6, 3.6, 2) as (figure, axes):
        _heat_map(figure, axes[0], h[sample].reshape(-1, *h.shape[-2:])[0], grid)
        axes[0].set_title(f"sample {sample}")
        _profile(axes[1], h, grid, covariance)
        if title:
            figure.suptitle(title, fontsize=9.5)
        return _save(figure, path)


def _heat_map(figure: Figure, axes: Axes, h: torch.Tensor, grid: OFDMGrid | None) -> None:
    level = 20 * torch.log10(h.abs().double().clamp_min(1e-10))
    num_times, num_subcarriers = h.shape
    first, step = (0.0, 1.0) if grid is None else (-float(num_subcarriers // 2), grid.subcarrier_spacing / 1e6)
    top = float(level.max())
    image = axes.imshow(
        level.T.numpy(),
        aspect="auto",
        origin="lower",
        extent=(-0.5, num_times - 0.5, (first - 0.5) * step, (first + num_subcarriers - 0.5) * step),
        interpolation="nearest",
        cmap="viridis",
        vmin=max(float(level.min()), top - 40),
    )
    axes.grid(visible=False)
    axes.set_xlabel("snapshot" if grid is None else "OFDM symbol")
    axes.set_ylabel("subcarrier" if grid is None else "frequency from the carrier [MHz]")
    axes.locator_params(axis="x", integer=True)
    figure.colorbar(image, ax=axes, label="magnitude [dB]")


def _profile(axes: Axes, h: torch.Tensor, grid: OFDMGrid | None, covariance: torch.Tensor | None) -> None:
    oversampling = 8
    level = _level(power_delay_profile(h, oversampling=oversampling))
    scale = (1.0 if grid is None else 1e6 / grid.bandwidth) / oversampling
    delays = torch.arange(level.numel(), dtype=torch.float64) * scale
    # Up to the last delay of half the window that stands above -50 dB: what comes later is window, not channel.
    floor = float(level.max()) - 50
    half = level.numel() // 2
    above = torch.nonzero(level[:half] > floor).flatten()
    keep = min(half, max(int(above[-1]) + 1, 8 * oversampling))
    axes.plot(delays[:keep], level[:keep], color=PALETTE[0], label="data")
    if covariance is not None:
        theory = _level(profile_of_covariance(covariance, oversampling=oversampling))
        axes.plot(delays[:keep], theory[:keep], "--", color=PALETTE[1], label="theory, same conditions")
        axes.legend()
    axes.set_ylim(floor, float(level.max()) + 4)
    axes.set_title(f"mean power delay profile of {h.shape[0]:,} samples")
    axes.set_xlabel("delay [1 / bandwidth]" if grid is None else "delay [µs]")
    axes.set_ylabel("power [dB]")


def _level(power: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(power.clamp_min(1e-30))
