"""One end of a spatially correlated link: plane waves of several clusters over a linear or planar array."""

from __future__ import annotations

import math

import torch

from wichan.channels.spatial_spectrum import laplace_nodes, uniform_laplace_nodes

# Numbers that one pass writes for a few samples: they stay in the second-level cache.
_CACHED = 1 << 17
# Turns of each wave from one antenna to the next, along the outer and the inner axis: float64 (n, L) each.
Turns = tuple[torch.Tensor, torch.Tensor]


class ArrayEnd:
    r"""Array of half-wavelength spacing with a Laplacian spectrum around every cluster.

    A linear array answers to an angle :math:`\theta` from broadside with :math:`e^{+j\pi n\sin\theta}`. A planar array of R
    rows and C columns numbers its antennas as `wichan.channels.UPA` does, rows first and from top to bottom, ``c * R + r``;
    azimuth :math:`\theta` and elevation :math:`\epsilon` give :math:`e^{+j\pi(c\cos\epsilon\sin\theta - r\sin\epsilon)}`.
    Its spectrum is the product of two Laplace densities, integrated over both offsets together.

    Args:
        num_ant: antennas.
        spread: standard deviation of the spectrum in azimuth [rad].
        rows: rows of a planar array, a divisor of ``num_ant``; ``None`` for a linear one.
        elevation_spread: standard deviation in elevation [rad], planar arrays only.
    """

    def __init__(self, num_ant: int, spread: float, rows: int | None = None, elevation_spread: float = 0.0) -> None:
        self.num_ant, self.is_planar = num_ant, rows is not None
        self.rows = 1 if rows is None else rows
        self.columns = num_ant // self.rows
        self.spread, self.elevation_spread = spread, elevation_spread
        # The fastest phase over azimuth and over elevation, which the nodes must resolve.
        self._bandwidth = math.pi * (self.columns - 1), math.pi * (self.columns + self.rows - 2)
        self._offset, self._weight = laplace_nodes(spread, self._bandwidth[0])
        self._lift = torch.zeros(1, dtype=torch.float64)
        if self.is_planar:
            self._lift, weight = laplace_nodes(elevation_spread, self._bandwidth[1])
            self._weight = torch.outer(weight, self._weight).flatten()
        # A line of antennas is walked as a square: with z^(B a + b) = (z^B)^a z^b a wave costs 2 sqrt(N) powers and not N.
        self._inner = self.rows if self.is_planar else math.ceil(math.sqrt(num_ant))
        self._outer = self.columns if self.is_planar else -(-num_ant // self._inner)

    @property
    def num_waves(self) -> int:
        """Waves of one cluster."""
        return self._weight.numel()

    def synthesise(
        self, innovation: torch.Tensor, azimuth: torch.Tensor, elevation: torch.Tensor | None, power: torch.Tensor
    ) -> torch.Tensor:
        """Sum the waves of every sample over the array.

        Args:
            innovation: complex gain of every wave before its amplitude, (n, K, P * num_waves): K sums a sample.
            azimuth, elevation: angles of the P clusters [rad], float64 (n, P); ``None`` for a linear array's elevation.
            power: powers of the clusters, float64 (n, P), with sum 1.

        Returns:
            (n, K, num_ant), dtype of ``innovation``; about 8 K num_ant FLOP a wave.
        """
        amplitude = (power[..., None] * self._weight.to(power.device)).sqrt().flatten(1)
        gain = innovation * amplitude.to(innovation.real.dtype)[:, None]
        total = _wave_sum(gain, self._turns(azimuth, elevation), self._outer, range(self._inner))
        return total.flatten(-2)[..., : self.num_ant]

    def covariance(self, azimuth: torch.Tensor, elevation: torch.Tensor | None, power: torch.Tensor) -> torch.Tensor:
        """Covariance over unit-variance innovations in `synthesise`, complex128 (n, num_ant, num_ant)."""
        energy = (power[..., None] * self._weight.to(power.device)).flatten(1)
        return self._from_energy(energy, self._turns(azimuth, elevation))

    def mean_covariance(self, max_angle: float, max_elevation: float) -> torch.Tensor:
        """Mean of `covariance` over angles of a cluster that are uniform up to the given ones, (num_ant, num_ant)."""
        azimuth, energy = uniform_laplace_nodes(max_angle, self.spread, self._bandwidth[0])
        if not self.is_planar:
            return self._from_energy(energy[None], self._line(azimuth.sin()[None]))[0]
        elevation, weight = uniform_laplace_nodes(max_elevation, self.elevation_spread, self._bandwidth[1])
        turns = self._plane(azimuth.sin()[None], elevation[None])
        return self._from_energy(torch.outer(weight, energy).flatten()[None], turns)[0]

    def _turns(self, azimuth: torch.Tensor, elevation: torch.Tensor | None) -> Turns:
        """Turns of all waves around the clusters, clusters first: (n, P * num_waves)."""
        # sin(a + b) by its addition theorem: two transcendental functions a cluster instead of one a wave.
        offset = self._offset.to(azimuth.device)
        sine = azimuth.sin()[..., None] * offset.cos() + azimuth.cos()[..., None] * offset.sin()
        if elevation is None:
            return self._line(sine.flatten(1))
        return self._plane(sine, elevation[..., None] + self._lift.to(elevation.device))

    def _line(self, sine: torch.Tensor) -> Turns:
        return sine * (self._inner / 2), sine / 2

    @staticmethod
    def _plane(sine: torch.Tensor, elevation: torch.Tensor) -> Turns:
        """All pairs of an elevation and an azimuth, elevations first."""
        outer = elevation.cos()[..., :, None] * sine[..., None, :] / 2
        inner = (-elevation.sin() / 2)[..., :, None].expand_as(outer)
        return outer.flatten(1), inner.flatten(1)

    def _from_energy(self, energy: torch.Tensor, turns: Turns) -> torch.Tensor:
        """Covariance of waves with mean powers ``energy``, (n, L): a correlation for each pair of lags, put in its places."""
        gain = energy.to(torch.complex128)[:, None]
        if self.is_planar:
            lags = _wave_sum(gain, turns, self._outer, range(1 - self.rows, self.rows))[:, 0]
        else:
            lags = _wave_sum(gain, turns, self._outer, range(self._inner))[:, 0].flatten(1)[:, : self.num_ant, None]
        # Lags (-a, -b) are the conjugates of (a, b); a runs over columns, b over rows.
        lags = torch.cat([lags[:, 1:].flip(1, 2).conj(), lags], dim=1)
        column = torch.arange(self.num_ant, device=lags.device) // self.rows
        row = torch.arange(self.num_ant, device=lags.device) % self.rows
        across, down = column[:, None] - column + self.columns - 1, row[:, None] - row + self.rows - 1
        return lags.flatten(1)[:, across * lags.shape[2] + down]


def _wave_sum(gain: torch.Tensor, turns: Turns, num_outer: int, inner: range) -> torch.Tensor:
    """Sums over l of g_l exp(j 2 pi (a outer_l + b inner_l)), (n, K, L) to (n, K, num_outer, len(inner)): batched products."""
    (count, sums, waves), dtype = gain.shape, gain.dtype
    size = max(1, _CACHED // (waves * (num_outer * sums + len(inner))))
    parts = []
    for start in range(0, max(count, 1), size):
        rows = slice(start, start + size)
        outer = _phasors(turns[0][rows, None, :], range(num_outer), -2, dtype)
        left = (gain[rows, :, None, :] * outer[:, None]).flatten(1, 2)
        parts.append(left @ _phasors(turns[1][rows, :, None], inner, -1, dtype))
    return torch.cat(parts).unflatten(1, (sums, num_outer))


def _phasors(turns: torch.Tensor, powers: range, axis: int, dtype: torch.dtype) -> torch.Tensor:
    """Unit phasors of multiples of ``turns``; whole turns are dropped in double precision before the cast."""
    shape = [1] * turns.dim()
    shape[axis] = -1
    angle = turns * torch.arange(powers.start, powers.stop, dtype=torch.float64, device=turns.device).reshape(shape)
    angle = angle.sub_(angle.round()).to(dtype.to_real()).mul_(2 * math.pi)
    return torch.complex(angle.cos(), angle.sin())
