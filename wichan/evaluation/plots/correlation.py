"""Correlation over frequency, time and antennas."""

from __future__ import annotations

from typing import Any

import torch

from wichan.analysis.correlation import lag_products, spatial_correlation
from wichan.errors import InvalidValueError
from wichan.evaluation.figure import figure_canvas, png_bytes
from wichan.evaluation.plots.doppler import doppler_numbers
from wichan.evaluation.plots.draw import DATA, THEORY, Picture, heat, quantity, title
from wichan.evaluation.plots.pdp import delay_numbers, theory_products
from wichan.evaluation.plots.view import ChannelView

_MAX_ANTENNAS = 64


def correlation(view: ChannelView) -> Picture:
    """Modulus of the correlation over frequency lag, over time lag, and between antennas, theory beside the data."""
    samples, rx, tx, times, subcarriers = view.h.shape
    if rx * tx == 1 and times == 1 and subcarriers == 1:
        raise InvalidValueError("kind='correlation' needs an axis with at least 2 points; the channels have none")
    antennas = _matrices(view) if rx * tx > 1 else []
    lines = [axis for axis, count in (("frequency", subcarriers), ("time", times)) if count > 1]
    panels = len(lines) + len(antennas)
    with figure_canvas(max(3.0 * panels, 4.4), 3.5, panels) as (figure, axes):
        numbers: dict[str, Any] = {}
        for axis, name in zip(axes, lines, strict=False):
            numbers |= _line(view, axis, name)
        for index, (axis, (name, matrix)) in enumerate(zip(axes[len(lines) :], antennas, strict=True)):
            points = torch.arange(matrix.shape[0], dtype=torch.float64)
            label = "|correlation|" if index == len(antennas) - 1 else None
            heat(figure, axis, matrix.abs(), (points, 1.0), (points, 1.0), limits=(0.0, 1.0), label=label)
            axis.set_title(f"antenna pairs, {name}" if rx > 1 and tx > 1 else f"antennas, {name}")
            axis.set_xlabel("rx * num_tx_ant + tx" if rx > 1 and tx > 1 else "antenna")
            axis.locator_params(integer=True)
        if len(antennas) == 2:
            numbers["largest_antenna_difference"] = float((antennas[0][1] - antennas[1][1]).abs().max())
        title(figure, f"{view.title}: {samples:,} samples".lstrip(": "))
        return Picture(png_bytes(figure), numbers)


def _line(view: ChannelView, axis: Any, name: str) -> dict[str, float | None]:
    points, counted = (view.f, view.frequencies is None) if name == "frequency" else (view.t, view.times is None)
    unit, text = {"frequency": (1e6, "frequency lag [MHz]"), "time": (1e-3, "time lag [ms]")}[name]
    if counted:
        unit, text = 1.0, {"frequency": "lag [subcarriers]", "time": "lag [snapshots]"}[name]
    lag = (points - points[0]) / unit
    axis.plot(lag, lag_products(view.h, name).correlation().abs(), **DATA)
    expected = theory_products(view, name)
    if expected is not None:
        axis.plot(lag, expected.correlation().abs(), **THEORY)
    axis.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axis.set_ylim(0, 1.03)
    axis.set_xlim(0, float(lag[-1]))
    axis.set_xlabel(text)
    axis.set_ylabel("|correlation|")
    axis.legend()
    numbers = delay_numbers(view) if name == "frequency" else doppler_numbers(view)
    key = "coherence_bandwidth_50" if name == "frequency" else "coherence_time_50"
    if not counted:
        scale, short = (1e6, "MHz") if name == "frequency" else (1e-3, "ms")
        half = quantity(numbers[f"measured_{key}"], scale, short)
        axis.set_title(f"{name}: half at {half}" if "range" not in half else f"{name}: above 1/2 throughout")
    else:
        axis.set_title(name)
    return numbers


def _matrices(view: ChannelView) -> list[tuple[str, torch.Tensor]]:
    """Correlation between antennas: of the only end with several, or of all pairs."""
    rx, tx = view.h.shape[1:3]
    side = "both" if rx > 1 and tx > 1 else ("rx" if rx > 1 else "tx")
    if side == "both" and rx * tx > _MAX_ANTENNAS:
        side = "rx" if rx >= tx else "tx"
    answer = [("data", spatial_correlation(view.h, side=side))]
    expected = view.expect(lambda c: _mean(spatial_correlation(c, side=side, normalize=False)))
    if expected is not None:
        scale = expected.diagonal().real.clamp_min(1e-300).rsqrt()
        answer.append(("theory", expected * scale[:, None] * scale))
    return answer


def _mean(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.mean(0) if matrix.dim() > 2 else matrix
