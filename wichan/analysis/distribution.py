"""Distributions: of samples, and of the power of a fading channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from wichan.errors import InvalidTypeError, ShapeError, check_finite, check_int, check_real, check_tensor


class Distribution(NamedTuple):
    """An empirical distribution.

    Attributes:
        value: rising, as the samples, (n,).
        probability: float64, (n,): share of samples at or below ``value``.
    """

    value: torch.Tensor
    probability: torch.Tensor


def empirical_cdf(samples: torch.Tensor, *, num_points: int | None = None) -> Distribution:
    r"""Empirical distribution function, :math:`\hat F(x_{(i)}) = i / n`.

    Args:
        samples: real, any shape; all values count alike.
        num_points: thin out to that many order statistics, evenly in probability, the smallest and the largest among them.

    Returns:
        `Distribution`.

    Example:
        >>> value, probability = empirical_cdf(torch.tensor([3.0, 1.0, 2.0, 2.0]))
        >>> value.tolist(), probability.tolist()
        ([1.0, 2.0, 2.0, 3.0], [0.25, 0.5, 0.75, 1.0])
    """
    check_tensor("samples", samples)
    if samples.is_complex() or samples.dtype == torch.bool:
        raise InvalidTypeError(f"samples has dtype {samples.dtype}; it must be real")
    if not samples.numel():
        raise ShapeError("samples is empty; at least one value is needed")
    if samples.is_floating_point():
        check_finite("samples", samples)
    value = samples.flatten().sort().values
    count = value.numel()
    index = torch.arange(count, device=value.device)
    if num_points is not None and check_int("num_points", num_points, minimum=2) < count:
        index = torch.linspace(0, count - 1, num_points, dtype=torch.float64, device=value.device).round().to(torch.int64)
    return Distribution(value[index], (index + 1).to(torch.float64) / count)


def fading_power_cdf(power: torch.Tensor, *, mean_power: Any = 1.0, k_factor: Any = 0.0) -> torch.Tensor:
    r"""Distribution function of :math:`|h|^2` for Rician fading; Rayleigh fading is K = 0: :math:`1 - e^{-x/P}`.

    .. math:: F(x) = 1 - Q_1\big(\sqrt{2K}, \sqrt{2(1 + K)\, x / P}\big)

    Args:
        power: x, real, any shape.
        mean_power: P = E|h|^2, greater than 0.
        k_factor: Rician K (linear), at least 0.

    Returns:
        float64, as ``power``.

    Example:
        >>> [round(float(p), 4) for p in fading_power_cdf(torch.tensor([0.1, 1.0]))]
        [0.0952, 0.6321]
    """
    check_tensor("power", power, kind="real")
    mean, k = check_real("mean_power", mean_power, positive=True), check_real("k_factor", k_factor, minimum=0.0)
    x = power.detach().to(torch.float64).cpu().clamp(min=0.0) / mean
    if k == 0:
        return -torch.expm1(-x)
    from scipy.special import chndtr

    # Twice the power over the scattered power of one component is non-central chi-square with two degrees of freedom.
    return torch.from_numpy(chndtr((2 * (1 + k) * x).numpy(), 2.0, 2 * k))
