r"""Gaussian variables that are known to lie in an interval: draws and moments that stay accurate far out in the tails.

Probabilities of such intervals underflow quickly (a standard normal exceeds 39 with probability below 1e-330), so everything is
computed from log probabilities, and an interval is mirrored so that it lies to the left, where :math:`\log\Phi` has full
relative accuracy. All functions work elementwise in float64, batches broadcast, bounds may be infinite.
"""

from __future__ import annotations

import math

import torch

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_DEEP = -600.0  # below this log probability exp() nears its underflow
_FAR = 100.0  # beyond this many standard deviations a Gaussian's tail is exponential to 2/FAR^2; differences keep as much
_NARROW = 1e-2  # cells below this many standard deviations: as good as exponential, too, to about NARROW^2/60
_NEWTON_STEPS = 4


def log_normal_pdf(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of the standard normal density; -inf at infinity."""
    return -0.5 * x.square() - _LOG_ROOT_2PI


def inverse_log_cdf(log_p: torch.Tensor) -> torch.Tensor:
    r"""x with :math:`\log\Phi(x)` = ``log_p``, for any ``log_p`` <= 0, to 1e-12 of x where ``log_p`` <= -0.7.

    Cost: one elementary inverse; elements below exp(-600) take a few Newton steps more, on them alone.
    """
    x = torch.special.ndtri(log_p.exp())
    deep = log_p < _DEEP
    if bool(deep.any()):
        x[deep] = _newton(log_p[deep])
    return x


def _newton(log_p: torch.Tensor) -> torch.Tensor:
    # Start at phi(x) / |x| = p, one fixed-point step deep; log Phi is concave and nearly parabolic there.
    square = -2 * log_p - math.log(2 * math.pi)
    x = -(square - square.log()).sqrt()
    for _ in range(_NEWTON_STEPS):
        value = torch.special.log_ndtr(x)
        x = x - (value - log_p) * (value - log_normal_pdf(x)).exp()
    return x


def _mirrored(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The interval with its mean at or left of zero, and the sign that was taken."""
    right = low + high > 0  # (-inf, inf) gives NaN: no mirror
    sign = torch.where(right, -1.0, 1.0).to(low.dtype)
    return torch.where(right, -high, low), torch.where(right, -low, high), sign


def truncated_normal(low: torch.Tensor, high: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Standard normal variables given that they lie in (low, high).

    Args:
        low, high: float64, bounds that broadcast against each other, low < high; infinite ones are allowed.
        uniform: float64 in [0, 1), draws from the uniform distribution, which the inverse distribution function maps.

    Returns:
        float64, one value an element of ``uniform``, never outside the bounds.
    """
    a, b, sign = _mirrored(low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    # log(Phi(a) + (1 - u) (Phi(b) - Phi(a))), with u -> 1 - u for nothing: the complement of [0, 1) is never 0.
    log_p = log_b + torch.log1p(uniform * torch.expm1(log_a - log_b))
    x = inverse_log_cdf(log_p.clamp_max(0.0))
    return sign * torch.minimum(torch.maximum(x, a), b).clamp(-1e300, 1e300)


def log_probability(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Logarithm of the probability that a standard normal variable lies in (low, high)."""
    a, b, _ = _mirrored(low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + torch.log(-torch.expm1(log_a - log_b))


def truncated_moments(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Mean and variance of a standard normal variable given that it lies in (low, high).

    .. math:: m = \frac{\phi(a) - \phi(b)}{\Phi(b) - \Phi(a)},\qquad
        v = 1 + \frac{a\phi(a) - b\phi(b)}{\Phi(b) - \Phi(a)} - m^2

    Far out, where these differences cancel, the tail is exponential and its moments are used.

    Args:
        low, high: float64, low < high, infinite bounds allowed.

    Returns:
        mean within the bounds and variance in [0, 1], float64.
    """
    a, b, sign = _mirrored(low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    log_z = log_b + torch.log(-torch.expm1(log_a - log_b))
    ratio_a, ratio_b = ((log_normal_pdf(x) - log_z).exp() for x in (a, b))
    mean = ratio_a - ratio_b
    moved_a, moved_b = (torch.where(r > 0, x * r, torch.zeros_like(r)) for x, r in ((a, ratio_a), (b, ratio_b)))
    variance = 1 + moved_a - moved_b - mean.square()
    # Far out, and in narrow cells, these differences are rounding; the density is exponential there.
    width = b - a
    steep = (b < -_FAR) | (width < _NARROW)
    tail_mean, tail_variance = _exponential_moments(a, b)
    mean, variance = torch.where(steep, tail_mean, mean), torch.where(steep, tail_variance, variance)
    mean = torch.minimum(torch.maximum(mean, a), b)
    return sign * mean, torch.minimum(variance.clamp(0.0, 1.0), width.square() / 4)


def _exponential_moments(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of an exponential density, cut at a and b: its slope is that at the middle of a narrow cell, else at b < 0."""
    middle = (a + b) / 2
    rate = torch.where(b - a < _NARROW, middle.abs(), b.abs() + 2 / b.abs().clamp_min(1.0))
    slope = (rate * (b - a)).clamp(1e-3, 700.0)
    lost = slope / torch.expm1(slope)
    steep_mean = b - (1 - lost) / rate.clamp_min(1e-300)
    steep_variance = (1 - lost.square() * slope.exp()) / rate.square().clamp_min(1e-300)
    # Series in the slope where the exponentials cancel.
    gentle = rate * (b - a) < 1e-3
    width = torch.where(gentle, b - a, torch.zeros_like(b))
    flat_mean = torch.where(gentle, middle + rate * width.square() / 12, steep_mean)
    return flat_mean, torch.where(gentle, width.square() / 12, steep_variance)
