r"""Linear filters designed for a simpler covariance than the true one, which nevertheless know their true error.

For any linear filter W and the true thin factor G with pilots' view :math:`G_p`,

.. math:: \mathrm{err}_n = \| [G - W G_p]_{n:} \|^2 + \mathrm{no}\, \| W_{n:} \|^2 + \text{(residual of G)} .
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.channels.covariance_factor import apply_modes, squared
from wichan.errors import InvalidValueError
from wichan.estimators.filter_module import FilterModule, RankBuffers, StoredFactor
from wichan.estimators.joint_filter import JointFilter, observe_columns, residual_at_pilots
from wichan.estimators.spectral import SeparableFilter, SpectralFilter, axis_modes
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

_FRAMES = 128  # frames with a filter of their own that are handled at once


class TrueError(FilterModule):
    """A filter with the error it makes under another covariance.

    Cost: a distinct noise variance costs one application of the filter to each of the r columns of G.
    """

    rank_axes = {"views_ri": (0,)}
    views = ComplexBuffer()  # transpose of G_p, (r, num_rx_ant, P)
    leak: torch.Tensor

    def __init__(self, obs: OFDMPilots, covariance: ChannelCovariance, rtol: float) -> None:
        super().__init__()
        self.shape = covariance.shape
        with torch.no_grad():
            factor = covariance.tucker(rtol)
            self.views = observe_columns(obs, factor, covariance.shape[:2]).unflatten(1, (covariance.num_rx_ant, -1))
            self.truth = StoredFactor(factor)
            self.register_buffer("leak", residual_at_pilots(obs, factor, covariance.shape[:2]))

    @abstractmethod
    def noise_gain(self, no: torch.Tensor) -> torch.Tensor:
        """Return the squared row norms of the filter at noise variances ``no`` (K,), (K, rx, tx, symbols, subcarriers)."""

    def error(self, no: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        spread = (no + self.leak)[:, None, None, None, None]
        total = spread * self.noise_gain(no) + self.truth.residual.reshape(self.shape)
        return torch.stack([(row + self._missed(value)).to(dtype) for row, value in zip(total, no, strict=True)])

    def _missed(self, no: torch.Tensor) -> torch.Tensor:
        factor = self.truth.factor()
        prepared = self.prepare(no, self.views.dtype)
        missed = torch.zeros(self.shape, dtype=self.leak.dtype, device=no.device)
        for start, stop in factor.chunks():
            guess = self.estimate(self.views[start:stop], prepared)
            missed += squared(factor.columns(start, stop).reshape(guess.shape) - guess).sum(0)
        return missed


class KroneckerFilter(TrueError):
    r"""LMMSE for the product of the marginals, :math:`R_S \otimes R_T \otimes R_F`, under the true sum of products.

    Args:
        obs, covariance, rtol: as for `JointFilter`; the covariance is the true one.
    """

    def __init__(self, obs: OFDMPilots, covariance: ChannelCovariance, rtol: float) -> None:
        super().__init__(obs, covariance, rtol)
        self.design: SpectralFilter = exact_filter(obs, covariance.kronecker(), rtol)

    @property
    def largest(self) -> torch.Tensor:
        return self.design.largest

    def prepare(self, no: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return self.design.prepare(no, dtype)

    def estimate(self, pilots: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        return self.design.estimate(pilots, prepared)

    def noise_gain(self, no: torch.Tensor) -> torch.Tensor:
        return self.design.noise_gain(no)


class SuccessiveFilter(TrueError):
    r"""One-dimensional LMMSE filters in turn: along frequency, then time, then receive antennas.

    Each is designed from its own marginal :math:`R_a` of mean power 1 and a white noise-to-signal ratio :math:`\nu`,

    .. math:: W_a = R_a P_a^H (P_a R_a P_a^H + \nu_a I)^{-1}, \qquad
        \nu_F = \frac{\mathrm{no}}{|p|^2\, E|h|^2}, \quad \nu_{a+1} = \frac{e_a}{1 - e_a},

    where :math:`e_a` is the error of stage a averaged along its axis. The handed-over noise takes what a stage leaves as
    white, which it is not, and the estimate is divided by :math:`1 - e_a` so that the next stage sees an unbiased channel.

    Args:
        obs: pilots with ``is_separable``.
        covariance: the true one.
        rtol: as for `JointFilter`, for the true error.

    Raises:
        InvalidValueError: pilots that are not symbols x subcarriers of equal power from one transmit antenna.
    """

    rank_axes = {"views_ri": (0,)}
    symbols = ComplexBuffer()  # 1/p, (P,)

    def __init__(self, obs: OFDMPilots, covariance: ChannelCovariance, rtol: float) -> None:
        if not obs.is_separable:
            raise InvalidValueError("structure='separable' needs pilots of one tx antenna, equal power, symbols x subcarriers")
        super().__init__(obs, covariance, rtol)
        with torch.no_grad():
            term = covariance.kronecker().terms[0]
            assert isinstance(term, KroneckerTerm)
            p = obs.pilot_values(torch.complex128)[0]
            self.symbols = 1 / p
            scaled = [m * squared(m).sum(-1).mean().clamp_min(1e-300).rsqrt() for m in term.factors]
            self.frequency = AxisFilter(scaled[2], obs.pilot_subcarriers)
            self.time = AxisFilter(scaled[1], obs.pilot_symbols)
            self.space = AxisFilter(scaled[0], torch.arange(covariance.num_rx_ant, device=p.device))
        self.register_buffer("signal", covariance.mean_power().clamp_min(1e-300) * squared(p).mean())

    signal: torch.Tensor

    @property
    def largest(self) -> torch.Tensor:
        return self.frequency.lam.amax() * self.time.lam.amax() * self.space.lam.amax() * self.signal

    def matrices(self, no: torch.Tensor) -> list[torch.Tensor | None]:
        r"""Return the filters (space, time, frequency), complex128, (\*no.shape, n, m); no space filter for one antenna."""
        noise, kept, found = no / self.signal, None, []
        for axis in (self.frequency, self.time, self.space)[: 3 if self.shape[0] > 1 else 2]:
            matrix = axis.matrix(noise)
            found.append(matrix if kept is None else matrix / kept[..., None, None])
            kept = axis.kept_share(noise)
            noise = axis.lost_share(noise) / kept
        return [*([None] if len(found) == 2 else []), *reversed(found)]

    def prepare(self, no: torch.Tensor, dtype: torch.dtype) -> Any:
        # One filter a frame takes memory: those are made in pieces when they are applied.
        return no if no.dim() else [None if m is None else m.to(dtype).contiguous() for m in self.matrices(no)]

    def estimate(self, pilots: torch.Tensor, prepared: Any) -> torch.Tensor:
        symbols = self.cached(("symbols", pilots.dtype), lambda: self.symbols.to(pilots.dtype))
        grid = (pilots * symbols).unflatten(-1, (self.time.seen, self.frequency.seen))
        if isinstance(prepared, list):
            return apply_modes(grid, prepared).unsqueeze(-3)
        pieces = []
        for frames, no in zip(grid.split(_FRAMES), prepared.split(_FRAMES), strict=True):
            matrices = [None if m is None else m.to(pilots.dtype) for m in self.matrices(no)]
            pieces.append(apply_modes(frames, matrices))
        return torch.cat(pieces).unsqueeze(-3)

    def noise_gain(self, no: torch.Tensor) -> torch.Tensor:
        space, time, frequency = (None if m is None else squared(m).sum(-1) for m in self.matrices(no))
        assert time is not None and frequency is not None
        gain = time[:, None, None, :, None] * frequency[:, None, None, None, :]
        gain = gain if space is None else gain * space[:, :, None, None, None]
        return (gain * squared(self.symbols).mean()).expand(-1, *self.shape)


class AxisFilter(RankBuffers):
    """LMMSE along one axis for a factor of unit mean power, at any noise-to-signal ratio."""

    rank_axes = {"modes_ri": (1,), "see_ri": (0,), "lam": (0,)}
    modes = ComplexBuffer()  # V, (n, r)
    see = ComplexBuffer()  # B, (r, m)
    lam: torch.Tensor

    def __init__(self, factor: torch.Tensor, index: torch.Tensor) -> None:
        super().__init__()
        lam, self.modes, self.see = axis_modes(factor, index)
        self.register_buffer("lam", lam)
        self.seen = int(index.numel())

    def matrix(self, noise: torch.Tensor) -> torch.Tensor:
        r"""Return the filter, complex, (\*noise.shape, n, m)."""
        weight = 1 / (noise[..., None] + self.lam)
        return (self.modes * weight.unsqueeze(-2)) @ self.see

    def kept_share(self, noise: torch.Tensor) -> torch.Tensor:
        """Return 1 - e, e the error averaged over the axis; summed directly, since it may be far below 1."""
        return (squared(self.modes).mean(0) * (self.lam / (noise[..., None] + self.lam))).sum(-1)

    def lost_share(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the error averaged over the axis, relative to the signal."""
        return (squared(self.modes).mean(0) * (noise[..., None] / (noise[..., None] + self.lam))).sum(-1)


def exact_filter(obs: OFDMPilots, covariance: ChannelCovariance, rtol: float) -> SpectralFilter:
    """Return the cheapest exact LMMSE filter for the observation and an unbatched covariance."""
    if obs.is_separable and covariance.is_kronecker:
        term = covariance.terms[0]
        assert isinstance(term, KroneckerTerm)
        return SeparableFilter(obs, term)
    return JointFilter(obs, covariance, rtol)
