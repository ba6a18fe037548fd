"""How far off is an interpolated estimate? Error read off the pilots themselves, without any channel statistics.

A line through two samples of a smooth function misses it by (x - x0)(x - x1) times its second divided difference, the nearest
sample by (x - x0) times the first. Differences of neighbouring pilots, averaged over a frame and freed from the noise in
them, give the mean square of those; the geometry gives the rest. Antennas that share elements leak into one another in
proportion to their slope. Valid while a pilot spacing is short against the channel's coherence: beyond, the error is larger.
"""

from __future__ import annotations

import torch
from torch import nn

from wichan.estimators.pilot_points import GridRule, PilotPoints, divided_differences

# E|h''|^2 E|h|^2 / (E|h'|^2)^2 of Jakes fading: with only two pilots on an axis the curvature follows from the slope.
_JAKES_KURTOSIS = 1.5


def power_of(x: torch.Tensor) -> torch.Tensor:
    """|x|^2 elementwise."""
    return torch.view_as_real(x.resolve_conj()).square().sum(dim=-1)


class Differences(nn.Module):
    """Divided differences of one order along one axis, and their mean square over a frame.

    Args:
        axis: "frequency" (differences of neighbouring points of a pilot row) or "time" (of pilot rows).
        order: order that the error asks for: 1 slope, 2 half the curvature.
        points, rule: geometry of the antenna.

    Attributes:
        available: the highest order that the pilots can give, or 0: then nothing is known and the term is left out.
    """

    coefficients: torch.Tensor

    def __init__(self, axis: str, order: int, points: PilotPoints, rule: GridRule) -> None:
        super().__init__()
        self.axis, self.order = axis, order
        ends = list(zip(rule.row_start, rule.row_start[1:], strict=False))
        known = [rule.row_time] if axis == "time" else [points.frequency[a:b] for a, b in ends]
        longest = max(known, key=len)
        self.available = min(order, longest.numel() - 1)
        # Two samples of power P differ by at most 4 P in the mean square: a bound on the slope where noise blurs it.
        self.steepest = 4 / float(longest[-1] - longest[0]) ** 2 if longest.numel() > 1 else 0.0
        # The time difference is taken on as many subcarriers as carry pilots; more would say the same again.
        self.stride = max(1, rule.left.numel() // rule.row_time.numel() // max(b - a for a, b in ends))
        parts = [divided_differences(row, self.available) for row in known]
        self.count = max(sum(len(part) for part in parts), 1)
        # Rows lie one after the other; a window that would cross from one into the next gets zero weights.
        gap = torch.zeros(self.available, self.available + 1, dtype=torch.float64)
        padded = [piece for part, row in zip(parts, known, strict=True) for piece in (part, gap[: row.numel()])]
        total = sum(row.numel() for row in known) - self.available
        self.register_buffer("coefficients", torch.cat(padded)[: max(total, 0)], persistent=False)

    def bias(self, variance: torch.Tensor) -> torch.Tensor:
        """Mean square that noise alone makes; ``variance`` of the points, or of the rows, real (num_points | num_rows,)."""
        if not len(self.coefficients):
            return variance.new_zeros(())
        windows = variance.unfold(0, self.available + 1, 1)
        return (windows * self.coefficients.to(variance.dtype).square()).sum() / self.count

    def forward(self, samples: torch.Tensor, no: torch.Tensor, bias: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        r"""Mean square of the difference without its noise, at least 0.

        Args:
            samples: complex, (\*batch, num_rx_ant, num_points), or (\*batch, num_rx_ant, num_rows, num_subcarriers).
            no: real, () or (\*batch, 1), mean noise variance of the frame.
            bias: real, (), see `bias`.
            power: real, (\*batch, 1), mean power of the channel, used where two pilots must tell the curvature.

        Returns:
            real, (\*batch, 1).
        """
        if self.axis == "time":
            samples = samples[..., :: self.stride]
        width = 2 * samples.shape[-1] if self.axis == "time" else 2
        flat = torch.view_as_real(samples).flatten(power.dim())
        weights = self.coefficients.to(power.dtype).repeat_interleave(width, dim=0)
        difference = flat[..., : len(weights)] * weights[:, 0]
        for j in range(1, self.available + 1):
            difference = torch.addcmul(difference, flat[..., j * width : j * width + len(weights)], weights[:, j])
        scale = 2 / (width * self.count * flat.shape[-2])
        square = difference.square().flatten(power.dim() - 1).sum(dim=-1, keepdim=True) * scale
        value = (square - no * bias.to(power.dtype)).clamp_min(0)
        if self.available == self.order:
            return value
        ratio = value / power.clamp_min(torch.finfo(power.dtype).tiny)
        return 0.25 * _JAKES_KURTOSIS * value * ratio.clamp_max(self.steepest)


def needed_differences(points: PilotPoints, rule: GridRule, interpolation: str) -> list[Differences]:
    """The differences whose mean squares make up the error of one antenna; axes with a single pilot tell nothing."""
    main = 2 if interpolation == "linear" else 1
    orders = sorted({main, 1}) if points.antennas.shape[1] > 1 else [main]
    terms = [Differences(axis, order, points, rule) for axis in ("frequency", "time") for order in orders]
    return [term for term in terms if term.available]
