"""Scalar quantisers for complex signals: one bit, B-bit uniform mid-rise, Lloyd-Max."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_tensor,
)

MAX_BITS = 12
KINDS = ("uniform", "lloyd-max")


@dataclass(frozen=True, eq=False)
class _Design:
    """Thresholds and labels for a real Gaussian input of unit variance, float64 on the CPU, and what they cost."""

    thresholds: torch.Tensor
    labels: torch.Tensor
    distortion: float
    step: float | None


def check_bits(field: str, num_bits: Any) -> int | float:
    """Return a resolution: an integer from 1 to 12, or infinity."""
    if isinstance(num_bits, float) and num_bits == math.inf:
        return math.inf
    return check_int(field, num_bits, minimum=1, maximum=MAX_BITS)


def _uniform_step(num_bits: int) -> float:
    r"""Step of the uniform mid-rise quantiser of least squared error, the root of E[Q^2] = E[v Q]."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import erfc

    index = np.arange(1, 2 ** (num_bits - 1))

    def excess(step: float) -> float:
        tau = index * step
        power = step * (0.25 + float(np.sum(2 * index * erfc(tau / math.sqrt(2)))))
        return power - float(1 + 2 * np.sum(np.exp(-(tau**2) / 2))) / math.sqrt(2 * math.pi)

    # At the lower end labels reach one standard deviation only, at the upper end nine: the root lies between.
    return float(brentq(excess, 1 / 2 ** (num_bits - 1), 9 / 2 ** (num_bits - 1), xtol=1e-15, rtol=1e-14, maxiter=200))


def _cells(labels: Any) -> tuple[Any, Any, Any]:
    """Lower edges, upper edges and probabilities of the cells of positive labels."""
    import numpy as np
    from scipy.special import erfc

    middle = (labels[1:] + labels[:-1]) / 2
    lower, upper = np.concatenate([[0.0], middle]), np.concatenate([middle, [np.inf]])
    return lower, upper, (erfc(lower / math.sqrt(2)) - erfc(upper / math.sqrt(2))) / 2


def _lloyd_max_labels(num_bits: int) -> Any:
    """Positive labels that are the centroids of their cells, by Newton's method on the tridiagonal system."""
    import numpy as np
    from scipy.linalg import solve_banded
    from scipy.special import ndtri

    count = 2 ** (num_bits - 1)
    # High resolution: labels are spaced as the cube root of the density, a Gaussian of variance 3.
    labels = math.sqrt(3) * ndtri(0.5 + (np.arange(count) + 0.5) / (2 * count))

    def density(v: Any) -> Any:
        return np.exp(-(v**2) / 2) / math.sqrt(2 * math.pi)

    for _ in range(60):
        lower, upper, mass = _cells(labels)
        centroid = (density(lower) - density(upper)) / mass
        # d centroid / d edge; both labels beside an edge move it by one half.
        with_upper = (
            np.where(np.isinf(upper), 0.0, density(upper) * (np.where(np.isinf(upper), 0.0, upper) - centroid) / mass) / 2
        )
        with_lower = density(lower) * (centroid - lower) / mass / 2
        with_lower[0] = 0.0  # the edge at zero stays
        bands = np.zeros((3, count))
        bands[0, 1:] = -with_upper[:-1]
        bands[1] = 1 - with_upper - with_lower
        bands[2, :-1] = -with_lower[1:]
        move = solve_banded((1, 1), bands, labels - centroid)
        labels = labels - move
        if np.abs(move).max() < 1e-14:
            break
    return labels


@lru_cache(maxsize=4 * MAX_BITS)
def _design(num_bits: int, kind: str) -> _Design:
    import numpy as np

    if kind == "uniform" or num_bits == 1:  # one bit: both kinds are the same
        step = _uniform_step(num_bits)
        positive = (np.arange(2 ** (num_bits - 1)) + 0.5) * step
        edges = np.arange(2 ** (num_bits - 1)) * step
    else:
        step = None
        positive = _lloyd_max_labels(num_bits)
        edges = _cells(positive)[0]
    from scipy.special import erfc

    # E[Q^2] = l_0^2 + sum of the jumps of l^2 times P(|v| > tau): positive terms only.
    power = positive[0] ** 2 + np.sum(np.diff(positive**2) * erfc(edges[1:] / math.sqrt(2)))
    labels = torch.from_numpy(np.concatenate([-positive[::-1], positive]))
    if num_bits == 1:
        labels = torch.tensor([-1.0, 1.0], dtype=torch.float64) / math.sqrt(2)
    thresholds = torch.from_numpy(np.concatenate([-edges[:0:-1], edges]))
    return _Design(thresholds, labels, float(1 - power), step)


@lru_cache(maxsize=64)
def _placed(num_bits: int, kind: str, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    design = _design(num_bits, kind)
    return design.thresholds.to(device, dtype), design.labels.to(device, dtype)


class Quantizer(nn.Module):
    r"""Scalar quantiser of real numbers; of a complex number it takes real and imaginary part alike.

    .. math:: Q(v) = s\,\ell_i,\qquad i = \#\{a : s\,\tau_a \le v\}

    with thresholds :math:`\tau_a` and labels :math:`\ell_i` for a real Gaussian of unit variance and :math:`s` the standard
    deviation that the gain control sets the converter to. **One bit** has the labels :math:`\pm1/\sqrt2` whatever
    :math:`s` is, so that a complex sample has modulus 1, and :math:`\operatorname{sgn} 0 = +1`.

    Args:
        num_bits: resolution B of each real part, 1 to 12, or ``math.inf`` for none (the identity).
        kind: ``"uniform"``, mid-rise with the step of least squared error, or ``"lloyd-max"``, labels at the centroids of
            their cells.

    Attributes:
        thresholds: float64, (2^B - 1,), ascending; empty for infinite resolution.
        labels: float64, (2^B,), ascending; empty for infinite resolution.
        step: step of the uniform quantiser for unit variance; ``None`` for Lloyd-Max of two or more bits, 0 for infinite B.
        distortion: least E(v - Q(v))^2 at unit variance (for one bit: that of the labels :math:`\pm\sqrt{2/\pi}`); then
            E[Q^2] = E[v Q] = 1 - distortion.

    Raises:
        InvalidTypeError, InvalidValueError: another resolution.
        UnknownNameError: another kind.

    Source: [Max1960]_ (both kinds), [Lloyd1982]_.

    Example:
        >>> quantizer = Quantizer(2)
        >>> round(quantizer.step, 6), round(quantizer.distortion, 6)
        (0.995687, 0.118846)
    """

    def __init__(self, num_bits: int | float, kind: str = "uniform") -> None:
        super().__init__()
        self.num_bits = check_bits("num_bits", num_bits)
        self.kind = str(check_choice("kind", kind, KINDS))
        design = None if math.isinf(self.num_bits) else _design(int(self.num_bits), self.kind)
        self.distortion = 0.0 if design is None else design.distortion
        self.step: float | None = 0.0 if design is None else design.step

    @property
    def is_identity(self) -> bool:
        """Whether the resolution is infinite."""
        return math.isinf(self.num_bits)

    @property
    def thresholds(self) -> torch.Tensor:
        """Thresholds for unit variance, float64, (2^B - 1,)."""
        return self._table(0)

    @property
    def labels(self) -> torch.Tensor:
        """Labels for unit variance, float64, (2^B,)."""
        return self._table(1)

    def _table(self, which: int) -> torch.Tensor:
        if self.is_identity:
            return torch.empty(0, dtype=torch.float64)
        return _placed(int(self.num_bits), self.kind, "cpu", torch.float64)[which].clone()

    def forward(self, x: torch.Tensor, scale: Any = 1.0) -> torch.Tensor:
        r"""Quantise.

        Args:
            x: real or complex, any shape.
            scale: standard deviation of a real part that the converter is set to, greater than 0: a number or a real tensor
                that broadcasts to ``x``.

        Returns:
            As ``x``. The gradient is straight-through: that of the identity. Cost: B comparisons a real number.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: integers or half precision, NaN, a scale that is not positive.
        """
        check_finite("x", check_tensor("x", x))
        if not (x.is_complex() or x.is_floating_point()):
            raise InvalidTypeError(f"x has dtype {x.dtype}; allowed are real and complex tensors")
        if self.is_identity:
            return x
        parts = torch.view_as_real(x.detach().resolve_conj()) if x.is_complex() else x.detach()
        scale = self._checked_scale(scale, x)
        thresholds, labels = _placed(int(self.num_bits), self.kind, str(x.device), parts.dtype)
        if self.num_bits == 1:
            out = torch.where(parts >= 0, labels[1], labels[0])
        else:
            out = labels[torch.bucketize((parts / scale).contiguous(), thresholds, right=True)] * scale
        result = torch.view_as_complex(out.contiguous()) if x.is_complex() else out
        return result + (x - x.detach()) if x.requires_grad else result

    def _checked_scale(self, scale: Any, x: torch.Tensor) -> torch.Tensor:
        real = x.real.dtype if x.is_complex() else x.dtype
        if isinstance(scale, (bool, str)) or scale is None or (isinstance(scale, torch.Tensor) and scale.is_complex()):
            raise InvalidTypeError(f"scale must be a number or a real tensor, got {type(scale).__name__}")
        tensor = torch.as_tensor(scale, dtype=real, device=x.device).detach()
        try:
            fits = torch.broadcast_shapes(tensor.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(f"scale has shape {tuple(tensor.shape)}; it must broadcast to x of shape {tuple(x.shape)}")
        check_finite("scale", tensor)
        if tensor.numel() and not torch.compiler.is_compiling() and float(tensor.min()) <= 0:
            raise InvalidValueError(f"scale={float(tensor.min()):g} must be greater than 0")
        return tensor[..., None] if x.is_complex() else tensor

    def extra_repr(self) -> str:
        return f"num_bits={self.num_bits}, kind={self.kind!r}"
