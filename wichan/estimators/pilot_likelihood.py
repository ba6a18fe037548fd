r"""How likely are the pilots of a frame under a delay profile and a Doppler?

The pilots of a lattice (S symbols x K subcarriers) have the covariance :math:`T(\nu) \otimes F(p) + \mathrm{no}\,I` with
Jakes fading over time and a delay profile p over frequency. In the eigenmodes of both,
:math:`T = U \Lambda U^T` and :math:`F = V M V^H`, it is diagonal:

.. math:: -\ln L = \sum_{s,k} \Big[\ln(\lambda_s \mu_k + \mathrm{no})
    + \frac{|u_s^T X v_k^*|^2}{\lambda_s \mu_k + \mathrm{no}}\Big] .

Doppler and profile are searched in turn, each on a list of candidates whose eigenmodes are computed once. Everything over
frequency lives in the span of delays within a window, r dimensions instead of K: outside of it there is only noise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from wichan.channels.special import bessel_j0
from wichan.errors import InvalidValueError
from wichan.estimators.pilot_lattice import PilotLattice
from wichan.nn.buffers import ComplexBuffer

_SPAN = 1e-5  # singular values of the window's steering matrix below this share of the largest are left out
_FINEST = 8  # delays in one resolution cell, 1 / bandwidth of the pilots ...
_COARSEST = 2  # ... and at least as many where the window is wide
_DELAYS = 256  # delays that are enough
_SPREAD_RATIO = 1.5  # of neighbouring candidates
_FLOOR = 1e-4  # share of a candidate's power that is spread over the whole window
_SMALLEST = 1e-3  # of the noise: the least power of a frame


def power_of(x: torch.Tensor) -> torch.Tensor:
    """|x|^2 elementwise, without the slow sum over an axis of two."""
    real, imag = x.real, x.imag
    return torch.addcmul(real * real, imag, imag)


class Fit(NamedTuple):
    """What the pilots of B frames say.

    Attributes:
        shape: float64 (B, C), log-likelihood of every candidate profile at the best Doppler.
        doppler: float64 (B, J), log-likelihood of every Doppler at the best profile.
        power: float64 (B,), mean power of the channel: of the pilots less their noise.
    """

    shape: torch.Tensor
    doppler: torch.Tensor
    power: torch.Tensor


def exponential_profile(delays: torch.Tensor, onset: float, spread: float) -> torch.Tensor:
    r"""Return the exponential profile :math:`e^{-(\tau - \tau_0)/\sigma}/\sigma` on a regular delay grid, sum 1.

    Power between two grid points is shared so that its mean delay stays: the profile is integrated against the linear
    B-spline of each point, which is the second difference of its second integral.

    Args:
        delays: float64, (D,), regular [s].
        onset, spread: [s]; the spread is greater than 0.
    """
    step = float(delays[1] - delays[0])
    reach = torch.cat([delays[:1] - step, delays, delays[-1:] + step]) - onset
    late = reach.clamp_min(0)
    twice = late + spread * torch.expm1(-late / spread)
    weight = (twice[2:] - 2 * twice[1:-1] + twice[:-2]).clamp_min(0)
    total = weight.sum()
    weight = weight / total if float(total) > 0 else torch.full_like(weight, 1 / len(weight))
    return (1 - _FLOOR) * weight + _FLOOR / len(weight)


def default_window(lattice: PilotLattice, max_delay: float | None = None, early: float | None = None) -> tuple[float, float]:
    """Return the delays that are looked at [s]: from a little before the receiver's time to the end of the cyclic prefix.

    Raises:
        InvalidValueError: one pilot subcarrier, or a window longer than the delays that the comb tells apart.
    """
    if len(lattice.frequencies) < 2:
        raise InvalidValueError("obs has pilots on one subcarrier, which show no delay; at least 2 are needed")
    span = float(lattice.frequencies[-1])
    unambiguous = 1 / float(lattice.frequencies.diff().min())
    grid = lattice.obs.grid
    before = min(max(grid.cyclic_prefix / 16, 0.5 / span), 0.25 * unambiguous) if early is None else early
    wanted = grid.cyclic_prefix or 0.125 / grid.subcarrier_spacing
    after = min(wanted, 0.95 * unambiguous - before) if max_delay is None else max_delay
    if before + after > unambiguous * (1 + 1e-9):
        raise InvalidValueError(
            f"max_delay={after:g} and early={before:g} span more than the {unambiguous:g} s that the pilot spacing tells apart"
        )
    return -before, after


def default_max_doppler(lattice: PilotLattice) -> float:
    """Return 0.4 / (spacing of the pilot symbols) [Hz]: a fifth below the rate at which the Doppler spectrum folds.

    Raises:
        InvalidValueError: one pilot symbol, which shows no Doppler.
    """
    if len(lattice.times) < 2:
        raise InvalidValueError("max_doppler=None needs pilots in at least 2 symbols; with one, say the largest Doppler [Hz]")
    return 0.4 / float(lattice.times.diff().min())


def doppler_grid(lattice: PilotLattice, low: float, high: float) -> torch.Tensor:
    """Candidates from ``low`` to ``high`` [Hz], float64, denser where channels are slow.

    24 in the width that a frame resolves, 24 to 128 in all. The spacing grows with the root of the distance from ``low``: what
    a frame sees of a Doppler is its square, so that an even grid would be too coarse at the slow end.
    """
    if high <= low:
        return torch.tensor([float(low)], dtype=torch.float64)
    count = math.ceil(24 * (high - low) * float(lattice.times[-1]))
    steps = torch.linspace(0, 1, min(max(count, 24), 128), dtype=torch.float64)
    return low + (high - low) * steps**1.5


def spread_grid(low: float, high: float) -> torch.Tensor:
    """Candidates from ``low`` to ``high`` [s], float64, geometric, 2 to 24 of them."""
    count = min(max(math.ceil(math.log(high / low) / math.log(_SPREAD_RATIO)) + 1, 2), 24)
    return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)


def onset_grid(window: tuple[float, float], span: float) -> torch.Tensor:
    """Candidates for the first arrival [s], float64: half a resolution cell apart over the first quarter of the window.

    At most 8 steps; 0, where a synchronised receiver has it, is among them.
    """
    early, late = -window[0], max(window[1] / 4, 0.0)
    step = max(0.5 / span, (early + late) / 8)
    return torch.arange(-math.floor(early / step), math.floor(late / step) + 1, dtype=torch.float64) * step


def share(grid: torch.Tensor) -> torch.Tensor:
    """Probability of every point of an ascending grid if all values between its ends are equally likely."""
    if grid.numel() < 2:
        return torch.ones_like(grid)
    gaps = grid.diff()
    width = torch.cat([gaps, gaps.new_zeros(1)]) + torch.cat([gaps.new_zeros(1), gaps])
    return width / width.sum()


class PilotLikelihood(nn.Module):
    r"""Candidates for the delay profile and the Doppler of a frame, and how likely its pilots make them.

    Args:
        lattice: the pilots.
        window: first and last delay [s].
        spreads: float64, RMS spreads of exponential profiles [s].
        onsets: float64, delays at which they begin [s]; candidates are all pairs, onset-major.
        dopplers: float64, (J,), maximum Doppler of Jakes fading [Hz].

    Attributes:
        delays: float64, (D,), the delay grid.
        basis: complex128, (K, r), orthonormal span of the window at the pilots.
        steering: complex128, (r, D), the delays in that basis.
        profiles: float64, (C, D), candidates, each of sum 1.
        time_power, time_modes: float64, (J, S) and (J, S, S), eigenvalues and eigenvectors over time.
    """

    basis = ComplexBuffer(persistent=False)
    steering = ComplexBuffer(persistent=False)
    shape_modes = ComplexBuffer(persistent=False)
    flat_modes = ComplexBuffer(persistent=False)
    delays: torch.Tensor
    spreads: torch.Tensor
    dopplers: torch.Tensor
    profiles: torch.Tensor
    shape_power: torch.Tensor
    flat_power: torch.Tensor
    time_power: torch.Tensor
    time_modes: torch.Tensor
    products: torch.Tensor

    def __init__(
        self,
        lattice: PilotLattice,
        window: tuple[float, float],
        spreads: torch.Tensor,
        onsets: torch.Tensor,
        dopplers: torch.Tensor,
    ) -> None:
        super().__init__()
        frequencies, times = lattice.frequencies.cpu(), lattice.times.cpu()
        delays = _delay_grid(window, float(frequencies[-1]))
        steering = torch.exp(-2j * math.pi * frequencies[:, None] * delays)
        left, sigma, _ = torch.linalg.svd(steering, full_matrices=False)
        self.basis = left[:, : max(1, int((sigma > _SPAN * sigma[0]).sum()))].contiguous()
        self.steering = self.basis.mH @ steering
        profiles = torch.stack([exponential_profile(delays, float(t), float(s)) for t in onsets for s in spreads])
        flat = torch.full_like(delays, 1 / len(delays))[None]
        power, self.shape_modes = self.frequency_modes(profiles)
        none, self.flat_modes = self.frequency_modes(flat)
        lam, modes = _time_modes(dopplers, times)
        products = modes.mT[..., :, None] * modes.mT[..., None, :]
        buffers = {
            "delays": delays,
            "spreads": spreads,
            "dopplers": dopplers,
            "profiles": profiles,
            "shape_power": power,
            "flat_power": none,
        }
        buffers |= {"time_power": lam, "time_modes": modes, "products": products.flatten(-2).flatten(0, 1)}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        r"""Coordinates of pilots in the basis: (\*batch, S, K) to (\*batch, S, r)."""
        return x @ self.basis.conj()

    def frequency_modes(self, profiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues (B, r) and eigenvectors (B, r, r) over frequency of profiles (B, D)."""
        mu, modes = torch.linalg.eigh((self.steering * profiles[:, None, :]) @ self.steering.mH)
        return mu.clamp_min(0), modes

    def power(self, x: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """Mean power of the channel at pilots (B, N, S, K), float64 (B,), at least a thousandth of the noise."""
        return torch.maximum(power_of(x).mean(dim=(1, 2, 3)) - no, _SMALLEST * no)

    def doppler(self, z: torch.Tensor, mu: torch.Tensor, modes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """Log-likelihood (B, J) of every Doppler for frames z (B, N, S, r) with frequency modes (B or 1, r), (B or 1, r, r)."""
        seen = z @ modes.conj()[:, None]
        # The eigenvectors over time are real: only the real part of what two symbols have in common counts.
        common = (seen[:, :, :, None, :].conj() * seen[:, :, None, :, :]).real.sum(dim=1).flatten(1, 2)
        energy = (self.products @ common).unflatten(1, self.time_power.shape)
        expected = self.time_power[:, :, None] * mu[:, None, None, :] + no[:, None, None, None]
        return -(z.shape[1] * expected.log() + energy / expected).sum(dim=(2, 3))

    def shape(self, z: torch.Tensor, power: torch.Tensor, doppler: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """Log-likelihood (B, C) of every candidate profile, scaled to ``power`` (B,), at Dopplers of index (B,)."""
        count, rank = self.shape_power.shape
        rotated = self.time_modes[doppler].mT.to(z.dtype)[:, None] @ z
        seen = rotated @ self.shape_modes.conj().movedim(0, 1).flatten(1)
        energy = power_of(seen).sum(dim=1).unflatten(-1, (count, rank))
        lam = (self.time_power[doppler] * power[:, None])[:, :, None, None]
        expected = lam * self.shape_power + no[:, None, None, None]
        return -(z.shape[1] * expected.log() + energy / expected).sum(dim=(1, 3))

    def fit(self, z: torch.Tensor, power: torch.Tensor, no: torch.Tensor) -> Fit:
        """Search Doppler and profile in turn, twice, from a flat profile on."""
        doppler = self.doppler(z, power[:, None] * self.flat_power, self.flat_modes, no)
        for _ in range(2):
            shape = self.shape(z, power, doppler.argmax(dim=1), no)
            best = shape.argmax(dim=1)
            doppler = self.doppler(z, power[:, None] * self.shape_power[best], self.shape_modes[best], no)
        return Fit(shape, doppler, power)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move with the module, but stay in double precision: eigenvectors do not survive single precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def frame_bytes(self, looks: int) -> int:
        """What `fit` takes for a frame with ``looks`` antenna pairs."""
        symbols = self.time_modes.shape[-1]
        rank, candidates = self.shape_power.shape[::-1]
        return 8 * rank * (4 * looks * symbols * candidates + 4 * symbols * candidates + 4 * self.time_power.numel()) + 1


def _delay_grid(window: tuple[float, float], span: float) -> torch.Tensor:
    """Regular delays over the window, one of them 0: 8 in a resolution cell, in a wide window at least 2."""
    low, high = window
    step = max(1 / (_FINEST * span), min((high - low) / _DELAYS, 1 / (_COARSEST * span)))
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), 1)
    return torch.arange(first, last + 1, dtype=torch.float64) * step


def jakes_correlation(dopplers: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """Return J0(2 pi f lag), float64, (J, *lags.shape)."""
    return bessel_j0(2 * math.pi * dopplers.reshape(-1, *[1] * lags.dim()) * lags.abs())


def _time_modes(dopplers: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    lam, modes = torch.linalg.eigh(jakes_correlation(dopplers, times[:, None] - times[None, :]))
    return lam.clamp_min(0), modes
