r"""The covariance of channels from quantised observations of them alone.

Correlations survive quantisation up to a function that can be inverted, amplitudes from two bits on: what a converter hides of
one sample, many samples show.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from wichan.errors import (
    InvalidValueError,
    ShapeError,
    WichanWarning,
    check_choice,
    check_finite,
    check_real,
    check_tensor,
)
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.correlation import correlations
from wichan.priors.quantized_samples import MOMENTS, QuantizedSamples, Tally

ONE_BIT = ("unit-power", "correlation")
_DEVIATION = (0.1, 10.0)  # of a real part, relative to what the converters are set to


def recover_covariance(
    r: torch.Tensor,
    obs: QuantizedPilots,
    no: Any,
    weights: torch.Tensor | None = None,
    *,
    moments: str = "labels",
    one_bit: str = "unit-power",
    floor: float = 1e-6,
) -> torch.Tensor:
    r"""Estimate the covariance of zero-mean Gaussian channels from quantised pilots.

    1. Correlations of the converters' inputs from weighted moments of their outputs. One bit: the arcsine law backwards,
       :math:`\operatorname{Re} X_{ij} = \sin(\tfrac\pi2 \operatorname{Re}\mathrm E[r_i r_j^*])`, and the imaginary part alike.
       More bits: the exact moment of two quantised Gaussians backwards (`wichan.priors.correlation`), which uses all labels
       and errs by little more than unquantised samples do; ``moments="signs"`` uses their signs alone, as in [Fesl2024]_.
    2. Powers :math:`c_m` from the shares of samples inside the thresholds; with infinite resolution the mean power. One bit
       shows none, and a channel with elements of unit power is assumed: :math:`c_m = |a_m|^2 + \mathrm{no}`.
    3. :math:`\hat C_h = \Pi\big(A^+ (D^{1/2} X D^{1/2} - \mathrm{no}\, I) A^{+H}\big)` with D = diag(c) and the
       projection :math:`\Pi` to positive matrices of the same trace (`nearest_psd`). Dither counts as noise.

    Args:
        r: complex, (\*batch, M): observations, all samples of the batch alike.
        obs: what made them. Its matrix A must have full column rank. Rows of one bit must hold one channel element each, as
            with A = I or one transmit antenna: only then is the power of a row known. Resolutions may be mixed.
        no: noise variance, a number or a tensor over the batch. Up to 16 distinct values are recovered apart and averaged
            with the weights n/(power + no)^2; more are binned to 16 levels first.
        weights: real, at least 0, (T,), or (T, K) for K covariances at once; T is the size of the batch.
        moments: "labels" or "signs".
        one_bit: "unit-power"; or "correlation", where all converters have one bit: the correlation with its noise is taken for
            the channel's covariance, as public code does.
        floor: smallest eigenvalue of a result, relative to their mean.

    Returns:
        Covariance, complex as ``r``, (N, N), or (K, N, N) for weights (T, K): Hermitian positive definite.

    Raises:
        InvalidTypeError: ``obs`` is no `QuantizedPilots`, ``r`` is not complex.
        ShapeError, InvalidValueError: shapes that do not fit, NaN, a negative ``no`` or weight, weights that sum to 0, infinite
            resolution throughout, values of ``r`` that are no labels at this ``no``, a matrix as excluded above.

    Warns:
        WichanWarning: all observations are equal (so does one alone), or show less power than ``no``: the floors decide.

    Cost: 8 T M^2 K FLOP and about 300 K M^2 operations for the inversion. Sources: [VanVleck1966]_, [Fesl2024]_.

    Example:
        >>> obs = QuantizedPilots(torch.eye(4, dtype=torch.complex64), num_bits=2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = torch.randn(20000, 4, generator=generator, dtype=torch.complex64)
        >>> h[:, 1] = h[:, 0]
        >>> r = obs.observe(h, 0.1, generator=generator)
        >>> [round(x, 1) for x in recover_covariance(r, obs, 0.1)[0].abs().tolist()]
        [1.0, 1.0, 0.0, 0.0]
    """
    check_choice("moments", moments, MOMENTS)
    check_choice("one_bit", one_bit, ONE_BIT)
    floor = check_real("floor", floor, positive=True, maximum=1.0)
    samples = QuantizedSamples(r, obs, no, moments)
    share = _checked_weights(weights, samples)
    if bool((samples.unit == samples.unit[0]).all()):
        warnings.warn(
            f"r holds {samples.num} equal observation(s): what is recovered is bounded by its floors, not by data",
            WichanWarning,
            stacklevel=2,
        )
    raw = Recovery(samples, one_bit).covariances(samples.tally(share))
    if float(raw.diagonal(dim1=-2, dim2=-1).real.sum(-1).min()) <= 0:
        warnings.warn("r holds less power than no alone: its covariance is the floor", WichanWarning, stacklevel=2)
    covs = nearest_psd(raw, floor)
    return (covs if weights is not None and weights.dim() == 2 else covs[0]).to(r.dtype)


def _checked_weights(weights: torch.Tensor | None, samples: QuantizedSamples) -> torch.Tensor:
    """Weights (T, K), float64."""
    if weights is None:
        return torch.ones(samples.num, 1, dtype=torch.float64, device=samples.unit.device)
    check_finite("weights", check_tensor("weights", weights, kind="real"))
    if weights.dim() not in (1, 2) or len(weights) != samples.num:
        raise ShapeError(f"weights has shape {tuple(weights.shape)}; it must be ({samples.num},) or ({samples.num}, K)")
    share = weights.detach().to(samples.unit.device, torch.float64).reshape(samples.num, -1)
    if float(share.min()) < 0:
        raise InvalidValueError(f"weights={float(share.min()):g} must be at least 0")
    if float(share.sum(0).min()) <= 0:
        raise InvalidValueError("weights of a component sum to 0; each needs a positive weight")
    return share


class Recovery:
    """From tallies of quantised samples to covariances of the channel.

    Args:
        samples: the observations.
        one_bit: what stands in for the power that signs do not show.
    """

    def __init__(self, samples: QuantizedSamples, one_bit: str = "unit-power") -> None:
        obs = samples.obs
        matrix = obs.matrix().detach().to(samples.unit.device, torch.complex128)
        rows, columns = matrix.shape
        signs = samples.bank.signs
        if one_bit == "correlation" and not bool(signs.all()):
            raise InvalidValueError("one_bit='correlation' is for converters that all have one bit")
        if bool(signs.any()) and bool(((matrix[signs] != 0).sum(1) != 1).any()):
            raise InvalidValueError(
                "obs has num_bits=1, which shows no power: each row of its matrix must hold one element of the channel alone"
            )
        rank = int(torch.linalg.matrix_rank(matrix))
        if rank < columns:
            raise InvalidValueError(
                f"obs has a matrix of rank {rank} for {columns} channel elements; a covariance needs full column rank"
            )
        self.samples = samples
        self.inverse = None if obs.is_identity else torch.linalg.pinv(matrix)
        self.assumed = matrix.abs().square().sum(1)  # E|y_m|^2 of one-bit rows without noise
        self.subtracts = one_bit == "unit-power"

    def covariances(self, tally: Tally) -> torch.Tensor:
        """Covariances of the channel, Hermitian but not yet positive, complex128 (K, N, N)."""
        size = self.samples.dim if self.inverse is None else len(self.inverse)
        total = torch.zeros(tally.count.shape[1], size, size, dtype=torch.complex128, device=tally.count.device)
        norm = torch.zeros_like(tally.count[0])
        for g, level in enumerate(self.samples.levels):
            count = tally.count[g].clamp_min(1e-12)
            noise = level.noise if self.subtracts else 0.0
            power, correlation = self._level(tally.sums[g] / count.unsqueeze(-1), count, noise, level.scale)
            cov = _assemble(correlation, power, noise)
            if self.inverse is not None:
                cov = self.inverse @ cov @ self.inverse.mH
            # The error of a level's covariance grows with its power, and falls with its samples.
            weight = tally.count[g] / (self.samples.obs.input_power + level.noise) ** 2
            norm += weight
            total += weight[:, None, None] * cov
        return total / norm.clamp_min(1e-300)[:, None, None]

    def _level(self, means: torch.Tensor, count: torch.Tensor, noise: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """E|y|^2, (K, M), and correlations, (K, 2, pairs), of one level from mean features (K, width)."""
        samples, size = self.samples, self.samples.dim
        power = self._power(means, count, noise, scale)
        products = means[:, size**2 : 2 * size**2] if samples.by_sign else means[:, : size**2]
        moment = (products[:, size:] / math.sqrt(8)).reshape(len(means), 2, -1)
        if samples.by_sign:
            return power, torch.sin(math.pi * moment.clamp(-0.5, 0.5))
        return power, correlations(moment, power / scale**2, samples.bank)

    def _power(self, means: torch.Tensor, count: torch.Tensor, noise: float, scale: float) -> torch.Tensor:
        samples, size = self.samples, self.samples.dim
        power = (self.assumed + noise).expand(len(means), size).clone()
        start = size**2 * (2 if samples.by_sign else 1)
        for index, (quantizer, tau) in enumerate(zip(samples.bank.quantizers, samples.thresholds, strict=True)):
            mine = samples.bank.which == index
            if quantizer.is_identity:
                power[:, mine] = means[:, :size][:, mine] * scale**2
            elif len(tau):
                stop = start + int(mine.sum()) * len(tau)
                inside = means[:, start:stop].reshape(len(means), -1, len(tau)) / 2
                least = 1 / count.clamp_min(2.0)[:, None, None]
                share = torch.minimum(torch.maximum(inside, least), 1 - least)
                power[:, mine] = 2 * (deviation_from_shares(share, tau) * scale).square()
                start = stop
        return power


def deviation_from_shares(shares: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    r"""Standard deviation of a zero-mean real Gaussian from the shares of samples inside thresholds.

    One threshold: :math:`s = \tau / (\sqrt2\,\mathrm{erf}^{-1} P)`. More: Gauss-Newton on
    :math:`\sum_b (\mathrm{erf}(\tau_b/\sqrt2 s) - P_b)^2`, with the derivative
    :math:`-\sqrt{2/\pi}\,\tau_b\, e^{-\tau_b^2/2s^2}/s^2` (not the :math:`e^{-\tau_b^2/2s}` of published code).

    Args:
        shares: P, float64 (..., thresholds), within (0, 1).
        thresholds: positive, float64 (thresholds,).

    Returns:
        float64 (...), within [0.1, 10].
    """
    middle = len(thresholds) // 2
    s = (thresholds[middle] / (math.sqrt(2) * torch.special.erfinv(shares[..., middle]))).clamp(*_DEVIATION)
    if len(thresholds) == 1:
        return s
    for _ in range(100):
        ratio = thresholds / s.unsqueeze(-1)
        residual = torch.erf(ratio / math.sqrt(2)) - shares
        slope = -math.sqrt(2 / math.pi) * ratio * torch.exp(-ratio.square() / 2) / s.unsqueeze(-1)
        step = (residual * slope).sum(-1) / slope.square().sum(-1).clamp_min(1e-300)
        new = (s - step.clamp(-0.5, 0.5)).clamp(*_DEVIATION)
        moved, s = float((new - s).abs().max()), new
        if moved < 1e-10:
            break
    return s


def _assemble(correlation: torch.Tensor, power: torch.Tensor, noise: float) -> torch.Tensor:
    """Covariance before the noise, (K, M, M), from correlations (K, 2, pairs) and powers (K, M)."""
    size = power.shape[-1]
    i, j = torch.triu_indices(size, size, 1, device=power.device)
    upper = torch.complex(correlation[:, 0], correlation[:, 1]) * (power[:, i] * power[:, j]).sqrt()
    cov = torch.zeros(*power.shape, size, dtype=torch.complex128, device=power.device)
    cov[:, i, j] = upper
    cov[:, j, i] = upper.conj()
    return cov + torch.diag_embed(power - noise).to(cov.dtype)


def nearest_psd(cov: torch.Tensor, floor: float) -> torch.Tensor:
    r"""Nearest matrix of the same trace with eigenvalues of at least ``floor`` times their mean.

    .. math:: \lambda_i \leftarrow \max(\lambda_i - \mu,\ 0) + \epsilon,\qquad \sum_i \lambda_i\ \text{unchanged}

    Setting negative eigenvalues to the floor alone would add the power that noise took below zero. A trace that is not
    positive (more noise than power) gives ``floor`` times the identity.

    Args:
        cov: Hermitian, complex128 (K, N, N).
        floor: smallest eigenvalue, relative to the mean one.
    """
    values, vectors = torch.linalg.eigh(cov)
    size = values.shape[-1]
    mean = values.mean(-1, keepdim=True)
    least = floor * torch.where(mean > 0, mean, torch.ones_like(mean))
    # Eigenvalues above the floor by descending size: mu is the largest shift that still leaves the last of them positive.
    above = values.flip(-1) - least
    goal = (size * (mean - least)).clamp_min(0.0)
    shift = (above.cumsum(-1) - goal) / torch.arange(1, size + 1, dtype=values.dtype, device=values.device)
    last = ((above > shift).sum(-1, keepdim=True) - 1).clamp_min(0)
    mu = shift.gather(-1, last)
    kept = (values - least - mu).clamp_min(0.0) + least
    kept = torch.where(mean > 0, kept, least)
    return (vectors * kept.unsqueeze(-2)) @ vectors.mH
