"""LMMSE modes over all axes at once: any covariance, any linear pilots."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.channels.covariance_factor import ThinFactor, apply_modes, cheapest_order, squared
from wichan.estimators.filter_module import StoredFactor
from wichan.estimators.spectral import SpectralFilter, count_kept, decompose, space_modes
from wichan.linalg import thin_factor
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

_CACHED_VALUES = 2**19  # |V|^2 is kept where it has at most this many entries (4 MiB)


def split_receivers(covariance: ChannelCovariance) -> tuple[torch.Tensor, ChannelCovariance] | None:
    r"""Split :math:`R = S_{rx} \otimes R_1` into a factor of :math:`S_{rx}` and the covariance of one receive antenna.

    Returns ``None`` where there is a single receive antenna or R is no such product.
    """
    rx, tx = covariance.shape[:2]
    if not covariance.is_kronecker or rx == 1:
        return None
    term = covariance.terms[0]
    assert isinstance(term, KroneckerTerm)
    joint = (term.space @ term.space.mH).unflatten(0, (rx, tx)).unflatten(-1, (rx, tx))
    receive, transmit = torch.einsum("atbt->ab", joint), torch.einsum("atas->ts", joint)
    trace = torch.einsum("aa->", receive)
    product = torch.einsum("ab,ts->atbs", receive, transmit / trace)
    if not float((product - joint).abs().max()) <= 1e-13 * float(joint.abs().max()):
        return None
    one = KroneckerTerm(thin_factor(transmit / trace, 1e-15), term.time, term.frequency)
    return thin_factor(receive, 1e-15), ChannelCovariance([one], 1, tx)


class JointFilter(SpectralFilter):
    r"""Exact LMMSE for any covariance and any pilots, in the rank of the covariance.

    Where R is :math:`S_{rx} \otimes R_1` the receive antennas are rotated apart first and the modes are those of a single
    one; else modes reach over all antennas.

    Args:
        obs: linear pilots on the grid.
        covariance: unbatched.
        rtol: smallest eigenvalue of R to keep, relative to the largest; what is cut off counts as error and as noise.

    Cost: building, G (N x r) once in pieces of 32 MiB, r^2 num_rx_ant P, and an eigendecomposition of size r. A frame:
    8 r (num_rx_ant P + N) FLOP, or less where the Tucker form is cheaper. Bytes: 16 r (num_rx_ant P + N, or the core).
    """

    rank_axes = {"space_ri": (1,), "sigma": (0,), "lam": (0,), "see_ri": (0,)}
    see = ComplexBuffer()  # B, (r, P) for split receive antennas, else (r, num_rx_ant P)
    lam: torch.Tensor
    leak: torch.Tensor

    def __init__(self, obs: OFDMPilots, covariance: ChannelCovariance, rtol: float) -> None:
        super().__init__()
        self.shape = covariance.shape
        with torch.no_grad():
            split = split_receivers(covariance)
            receive = split[0] if split else torch.ones(1, 1, dtype=torch.complex128, device=covariance.device)
            inner = split[1] if split else covariance
            self.space, sigma = space_modes(receive)
            factor = inner.tucker(rtol)
            seen = observe_columns(obs, factor, inner.shape[:2])
            lam, core, self.see = decompose(factor.core, seen.T)
            self.modes = StoredFactor(_cheapest(replace(factor, core=core)))
            leak = residual_at_pilots(obs, factor, inner.shape[:2]) * sigma.mean()
        self.register_buffer("sigma", sigma)
        self.register_buffer("lam", lam)
        self.register_buffer("leak", leak.reshape(()))
        self.refresh()

    def refresh(self) -> None:
        self.kept = count_kept(self.lam)

    @property
    def inner(self) -> torch.Tensor:
        return self.lam

    def unmodelled(self) -> torch.Tensor:
        return self.leak

    def cut(self, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return weights[..., : self.kept[dtype]]

    def energy(self, weights: torch.Tensor) -> torch.Tensor:
        factor, dtype = self.modes.factor(), weights.dtype
        if math.prod(factor.sizes) * factor.rank <= _CACHED_VALUES:
            energy = self.cached(("energy", dtype), lambda: squared(factor.columns(0, factor.rank)).flatten(1).to(dtype))
            return self._rotate_energy(weights @ energy)
        return self._rotate_energy(factor.energy(weights))

    def error(self, no: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        left = self.cached("left", lambda: self._rotate_energy(self.sigma[:, None] * self.modes.residual))
        return super().error(no, dtype) + left.to(dtype)

    def _rotate_energy(self, total: torch.Tensor) -> torch.Tensor:
        """Take energies behind rotated antennas, (*lead, r_s, N), to antennas, (*lead, rx or 1, tx, symbols, subcarriers)."""
        if self.space.shape[-1]:
            total = squared(self.space).to(total.dtype) @ total
        return total.reshape(*total.shape[:-2], -1, *self.shape[1:])

    def coefficients(self, pilots: torch.Tensor) -> torch.Tensor:
        dtype = pilots.dtype
        see = self.cached(("see", dtype), lambda: (self.see[: self.kept[dtype]].T / self.scale()).to(dtype).contiguous())
        rotation = self.rotation(dtype)
        inner = pilots.reshape(*pilots.shape[:-2], -1, see.shape[0]) @ see
        return inner if rotation is None else rotation.mH @ inner

    def expand(self, coefficients: torch.Tensor) -> torch.Tensor:
        dtype = coefficients.dtype
        factor = self.modes.factor(dtype, self.kept[dtype])
        rotation = self.rotation(dtype)
        inner = coefficients if rotation is None else rotation @ coefficients
        grid = apply_modes((inner @ factor.core.T).unflatten(-1, factor.core_shape), factor.bases)
        return grid.reshape(*coefficients.shape[:-2], *self.shape)


def observe_columns(obs: OFDMPilots, factor: ThinFactor, antennas: tuple[int, ...]) -> torch.Tensor:
    """Return the transpose of :math:`P G`, complex128, (r, num_rx_ant P), from pieces of 32 MiB of G."""
    pieces = [obs.project(factor.columns(*piece).unflatten(1, antennas)).flatten(1) for piece in factor.chunks()]
    return torch.cat(pieces)


def residual_at_pilots(obs: OFDMPilots, factor: ThinFactor, antennas: tuple[int, ...]) -> torch.Tensor:
    """Return the mean energy that the factor leaves out at the pilot elements, as they are received."""
    left = factor.residual.unflatten(0, (*antennas, *factor.sizes[1:]))
    power = squared(obs.pilots.detach().to(torch.complex128))
    return (left * power).sum(1)[:, obs.mask].mean()


def _cheapest(factor: ThinFactor) -> ThinFactor:
    """Expand the factor where applying it dense takes about as few operations as its Tucker form."""
    now, tucker = list(factor.core_shape), math.prod(factor.core_shape) * factor.rank
    for axis in cheapest_order(now, factor.sizes):
        if factor.bases[axis] is not None:
            tucker += math.prod(now) * factor.sizes[axis]
            now[axis] = factor.sizes[axis]
    # One large product runs about twice as fast as a chain of small ones.
    if math.prod(factor.sizes) * factor.rank > 2 * tucker:
        return factor
    return ThinFactor(factor.dense(), (None, None, None), factor.sizes, factor.residual)
