"""M converters behind a gain control, and the second-order statistics of what comes out of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_finite, check_noise, check_real, check_shape
from wichan.observations.quantizer import Quantizer, check_bits
from wichan.observations.quantizer_statistics import bussgang_gain, exact_covariance, output_power

METHODS = ("exact", "white", "scaled")
# Variances below this share of the converters' input power are raised to it: without noise a dead antenna has no gain.
VARIANCE_FLOOR = 1e-12
_CHUNK = 1 << 20  # entries of covariances that are worked on at once


class ConverterBank(nn.Module):
    r"""M converters that one gain control sets to :math:`s = \sqrt{(\mathrm{input\_power} + \mathrm{noise})/2}` a real part.

    What `wichan.observations.QuantizedPilots` does behind the antennas; its methods of the same names are documented there.

    Args:
        num_measurements: M.
        num_bits: one resolution, or M of them.
        kind: ``"uniform"`` or ``"lloyd-max"``.
        input_power: power that the gain control assumes, without noise.
        dither_power: variance of the dither, counted as noise.
    """

    _order: torch.Tensor

    def __init__(self, num_measurements: int, num_bits: Any, kind: str, input_power: float, dither_power: float) -> None:
        super().__init__()
        self.num_measurements = num_measurements
        self.input_power = check_real("input_power", input_power, positive=True)
        self.dither_power = check_real("dither_power", dither_power, minimum=0.0)
        self.bits = self._checked_bits(num_bits)
        distinct = sorted(set(self.bits))
        self.quantizers = nn.ModuleList(Quantizer(value, kind) for value in distinct)
        self.is_linear = math.isinf(distinct[0])
        # Which measurements each kind of converter serves, and how to undo their sorting.
        self._rows = [torch.tensor([m for m, value in enumerate(self.bits) if value == want]) for want in distinct]
        self.register_buffer("_order", torch.cat(self._rows).argsort(), persistent=False)

    def _checked_bits(self, num_bits: Any) -> tuple[int | float, ...]:
        if isinstance(num_bits, torch.Tensor) and num_bits.dim() == 1:
            num_bits = num_bits.tolist()
        if not isinstance(num_bits, (list, tuple)):
            return (check_bits("num_bits", num_bits),) * self.num_measurements
        if len(num_bits) != self.num_measurements:
            raise ShapeError(
                f"num_bits has {len(num_bits)} entries; give one number, or one for each of the M={self.num_measurements} rows"
            )
        return tuple(check_bits("num_bits", value) for value in num_bits)

    @property
    def num_bits(self) -> int | float | tuple[int | float, ...]:
        """The resolution, or those of all rows where they differ."""
        return self.bits if len(self._rows) > 1 else self.bits[0]

    def noise_power(self, no: Any) -> Any:
        """no + dither_power."""
        if not isinstance(no, torch.Tensor):
            return check_real("no", no, minimum=0.0, maximum=1e30) + self.dither_power
        check_noise(no, no.shape, dtype=torch.float64, device=no.device)
        return no + self.dither_power

    def scale(self, no: Any) -> Any:
        """s, as ``no``."""
        power = (self.input_power + self.noise_power(no)) / 2
        return power.sqrt() if isinstance(power, torch.Tensor) else math.sqrt(power)

    def _scale(self, no: torch.Tensor) -> torch.Tensor:
        return ((self.input_power + self.dither_power + no) / 2).sqrt()

    def _joined(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Pieces of each kind of converter, back in the order of the measurements."""
        return torch.cat(pieces, dim=-1)[..., self._order]

    def forward(self, y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        r"""Quantise ``y`` (\*batch, M) under the gain for ``no``, checked and aligned with the batch."""
        scale = self._scale(no)
        scale = scale[..., None] if scale.dim() else scale
        if len(self._rows) == 1:
            return self.quantizers[0](y, scale)
        rows = [members.to(y.device) for members in self._rows]
        return self._joined([quantizer(y[..., m], scale) for quantizer, m in zip(self.quantizers, rows, strict=True)])

    # -- Statistics for circular Gaussian y. --

    def aligned(self, no: Any, lead: torch.Size, like: torch.Tensor) -> torch.Tensor:
        """``no`` over leading axes; a tensor with more axes than there are adds them in front."""
        shape = no.shape if isinstance(no, torch.Tensor) and no.dim() > len(lead) else lead
        return check_noise(no, shape, dtype=like.real.dtype if like.is_complex() else like.dtype, device=like.device)

    def _variances(self, field: str, variance: torch.Tensor) -> torch.Tensor:
        """Checked variances, raised to the floor."""
        lowest = float(variance.detach().min()) if variance.numel() else 0.0
        if lowest < -1e-5 * self.input_power:
            raise InvalidValueError(f"{field} has the variance {lowest:g}; a variance must be at least 0")
        return variance.clamp_min(VARIANCE_FLOOR * self.input_power)

    def _by_row(self, function: Any, variance: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        scale = self._scale(no)[..., None]
        if len(self._rows) == 1:
            return function(self.quantizers[0], variance, scale)
        rows = [members.to(variance.device) for members in self._rows]
        return self._joined([function(q, variance[..., m], scale) for q, m in zip(self.quantizers, rows, strict=True)])

    def statistic(self, function: Any, variance: torch.Tensor, no: Any) -> torch.Tensor:
        """`bussgang_gain` or `output_power` of every row for ``variance`` (*batch, M)."""
        check_finite("variance", check_shape("variance", variance, (self.num_measurements,)))
        no = self.aligned(no, variance.shape[:-1], variance)
        return self._by_row(function, self._variances("variance", variance), no)

    def covariance(self, cov_y: torch.Tensor, no: Any, method: str) -> torch.Tensor:
        """Covariance of what comes out for ``cov_y`` (*batch, M, M)."""
        check_choice("method", method, METHODS)
        size = self.num_measurements
        check_finite("cov_y", check_shape("cov_y", cov_y, (size, size)))
        no = self.aligned(no, cov_y.shape[:-2], cov_y)
        cov = cov_y.expand(*torch.broadcast_shapes(cov_y.shape[:-2], no.shape), size, size)
        if self.is_linear:
            return cov
        diagonal = cov.diagonal(dim1=-2, dim2=-1).real
        variance = self._variances("cov_y", diagonal)
        if method == "exact":
            inner = self._exact(cov, no)
        else:
            gain = self._by_row(bussgang_gain, variance, no)
            if method == "scaled":
                share = gain.mean(-1).clamp(0, 1).square()[..., None, None]
                return share * cov + (1 - share) * torch.diag_embed(diagonal).to(cov.dtype)
            inner = gain[..., :, None] * cov * gain[..., None, :]
        power = self._by_row(output_power, variance, no).expand(cov.shape[:-1])
        return inner.diagonal_scatter(power.to(inner.dtype), dim1=-2, dim2=-1)

    def _exact(self, cov: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """In double precision; without a gradient in passes that bound the memory."""
        flat = cov.reshape(-1, *cov.shape[-2:])
        noise = no.to(torch.float64).expand(cov.shape[:-2]).reshape(-1)
        if flat.numel() == 0:
            return cov.clone()
        if flat.requires_grad or noise.requires_grad or flat.numel() <= _CHUNK:
            return self._exact_pass(flat, noise).reshape(cov.shape)
        items = max(1, _CHUNK // flat[0].numel())
        out = torch.empty_like(flat)
        for k in range(0, len(flat), items):
            out[k : k + items] = self._exact_pass(flat[k : k + items], noise[k : k + items])
        return out.reshape(cov.shape)

    def _exact_pass(self, cov: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        wide = cov.to(torch.complex128)
        variance = wide.diagonal(dim1=-2, dim2=-1).real.clamp_min(VARIANCE_FLOOR * self.input_power)
        gain = self._by_row(bussgang_gain, variance, noise)
        quantizers = [q for q in self.quantizers if isinstance(q, Quantizer)]
        # Rounding in single precision must not make one variance look like many.
        tolerance = 1e-10 if cov.dtype == torch.complex128 else 1e-6
        return exact_covariance(quantizers, self._rows, wide, variance, self._scale(noise), gain, tolerance).to(cov.dtype)
