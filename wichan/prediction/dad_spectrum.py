"""Sparse Bayesian learning of an angle-Doppler power spectrum, and the linear prediction that follows from it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

#: Noise is never taken to be below this share of a cell's power: what remains of C must be invertible in double precision.
_RELATIVE_FLOOR = 1e-9


class Forecast(NamedTuple):
    r"""The conditional mean and variance of future snapshots.

    Attributes:
        mean: complex, (B, cells, N, P, M).
        variance: real, (B, cells, N, P), the same for all M copies.
    """

    mean: torch.Tensor
    variance: torch.Tensor


class AngleDopplerModel:
    r"""A uniform line of N antennas seen at T instants, as a sum of plane waves on a grid of angles and Doppler shifts.

    An observation of a cell is :math:`y = \sum_{a,g} x_{ag}\, u_a \otimes v_g + n`, with
    :math:`u_a = e^{j2\pi n a/N_a}`, :math:`v_g = e^{j2\pi t g/G}`, independent :math:`x_{ag} \sim CN(0, p_{ag})` and
    noise that may differ between instants. Its covariance :math:`C` depends on lags only, so it is one two-dimensional
    FFT of p; so are the filter bank :math:`a^H C^{-1} y` and the diagonal :math:`a^H C^{-1} a`.

    Args:
        num_antennas: N.
        num_history, num_horizon: T and P.
        num_angles: grid points over a full turn of phase between neighbours; at least N.
        num_doppler: grid points over one cycle a snapshot; at least T + P, so that no lag wraps around.
    """

    def __init__(self, num_antennas: int, num_history: int, num_horizon: int, num_angles: int, num_doppler: int) -> None:
        self.size = num_antennas, num_history
        self.horizon = num_horizon
        self.grid = num_angles, num_doppler
        antenna, time = torch.arange(num_antennas), torch.arange(num_history)
        future = num_history + torch.arange(num_horizon)
        space = (antenna[:, None] - antenna) % num_angles

        def lags(rows: torch.Tensor) -> torch.Tensor:
            delay = (rows[:, None] - time) % num_doppler
            return (space[:, None, :, None] * num_doppler + delay[None, :, None, :]).flatten()

        self.past_lags, self.future_lags = lags(time), lags(future)

    def fit(self, y: torch.Tensor, noise: torch.Tensor, iterations: int, smoothing: float) -> torch.Tensor:
        r"""Learn the power spectrum of every cell.

        Fixed point of the marginal likelihood's gradient, :math:`p \leftarrow p\, q / w` with
        :math:`q = \frac1M \sum_m |a^H C^{-1} y_m|^2` and :math:`w = a^H C^{-1} a`, from a flat start; a step is followed
        by a little blurring along both axes, because clusters are continuous where the fixed point would make points.

        Args:
            y: complex, (B, cells, N, T, M): the M copies share a spectrum. Lost instants are zero.
            noise: real, (B, T), variance at every instant; infinite where it was lost.
            iterations: fixed-point steps.
            smoothing: share of a grid point's power that goes to its neighbours at each step, on each axis.

        Returns:
            p, float64, (B, cells, num_angles, num_doppler).

        Cost of a cell and a step with n = N T: 4 n^3 FLOP for the inverse, 8 n^2 M for its products, and
        5 (M + 2) Na G log2(Na G) for the FFTs.
        """
        y, noise = y.to(torch.complex128), noise.double()
        received = noise.isfinite().sum(-1)[:, None] * self.size[0] * y.shape[-1]
        quiet = torch.where(noise.isfinite(), noise, 0).sum(-1)[:, None] * self.size[0] * y.shape[-1]
        power = y.abs().square().sum((2, 3, 4))
        start = (power - quiet).clamp_min(0.01 * quiet).clamp_min(_RELATIVE_FLOOR * power.amax(1, keepdim=True)) / received
        p = (start / math.prod(self.grid))[:, :, None, None].expand(-1, -1, *self.grid)
        for _ in range(iterations):
            inverse = self._inverse(p, noise)
            q = self._matched(inverse @ y.flatten(2, 3)).abs().square().mean(-1)
            w = self._diagonal(inverse)
            p = self._blur(p * (q / w.clamp_min(torch.finfo(w.dtype).tiny)), smoothing)
        return p

    def predict(self, p: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> Forecast:
        """Return the conditional mean and variance of the P snapshots that follow, given spectra and observations.

        Cost of a cell: 4 n^3 FLOP for the inverse, 8 n^2 N P for the gain, 8 n N P M for the mean.
        """
        (antennas, snapshots), steps = self.size, self.horizon
        y, noise = y.to(torch.complex128), noise.double()
        inverse = self._inverse(p, noise)
        cross = self._covariance(p, self.future_lags).unflatten(-1, (antennas * steps, antennas * snapshots))
        gain = cross @ inverse
        mean = (gain @ y.flatten(2, 3)).unflatten(2, (antennas, steps))
        explained = (gain * cross.conj()).sum(-1).real.unflatten(2, (antennas, steps))
        variance = p.sum((2, 3))[:, :, None, None] - explained
        return Forecast(mean, variance.clamp_min(0))

    def _covariance(self, p: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
        """Entries of the signal's covariance at the given lags, (B, cells, len(lags))."""
        table = torch.fft.ifft2(p, norm="forward").flatten(2)
        return table[:, :, lags.to(p.device)]

    def _inverse(self, p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """C^-1 with zero rows and columns where a snapshot was lost, (B, cells, n, n) complex128."""
        size = math.prod(self.size)
        covariance = self._covariance(p, self.past_lags).unflatten(-1, (size, size))
        level = noise.repeat(1, self.size[0])[:, None]
        kept = level.isfinite()
        both = kept[..., :, None] & kept[..., None, :]
        covariance = torch.where(both, covariance, 0)
        covariance.diagonal(dim1=-2, dim2=-1).add_(torch.where(kept, level, 1.0))
        return torch.where(both, torch.cholesky_inverse(torch.linalg.cholesky(covariance)), 0)

    def _matched(self, x: torch.Tensor) -> torch.Tensor:
        """a^H x for all grid points: (B, cells, n, M) -> (B, cells, num_angles, num_doppler, M)."""
        return torch.fft.fftn(x.unflatten(2, self.size), s=self.grid, dim=(2, 3))

    def _diagonal(self, inverse: torch.Tensor) -> torch.Tensor:
        """a^H C^-1 a for all grid points, from the sums of C^-1 over equal lags."""
        sums = inverse.new_zeros((*inverse.shape[:2], math.prod(self.grid)))
        sums.index_add_(2, self.past_lags.to(inverse.device), inverse.flatten(2))
        return torch.fft.fft2(sums.unflatten(2, self.grid)).real

    def _blur(self, p: torch.Tensor, share: float) -> torch.Tensor:
        for axis, points in zip((-2, -1), self.grid, strict=True):
            if share and points > 1:
                p = (1 - share) * p + share / 2 * (p.roll(1, axis) + p.roll(-1, axis))
        return p
