r"""The OFDM waveform, sample by sample: what an FFT receiver hears of paths that move, come late, or are heard off time.

Transmit antenna :math:`a` sends, in symbol :math:`s` of duration :math:`T_s` with cyclic prefix :math:`T_{cp}`,

.. math:: x_a(t) = \sum_k X_a(s, k)\, e^{j 2\pi f_k (t - s T_s - T_{cp})}, \qquad s T_s \le t < (s + 1) T_s ,

and the receiver takes :math:`N` samples of :math:`\sum_c \sum_a g_{c,a}(t)\, x_a(t - \tau_c)` in each window,
:math:`t_n = s T_s + T_{cp} + n T_u / N`, for an FFT. A sample :math:`t_n - \tau_c` that lies in a neighbouring symbol belongs
to it: that is inter-symbol interference. Since :math:`x_a` is a sum of exponentials, its delayed samples are an inverse FFT
of :math:`X_a(s, k) e^{-j 2\pi f_k \tau_c}`: delays need not be multiples of anything, and nothing is interpolated.

A window that starts :math:`\delta` late on a receiver that is :math:`\epsilon` off the carrier hears other rays in time:
delays :math:`\tau - \delta`, Doppler shifts :math:`\nu + \epsilon`, gains turned by :math:`e^{j 2\pi (\nu + \epsilon) \delta}`.

Samples are taken without a filter before them. What leaves the band therefore comes back into the N bins: with N equal to
the number of subcarriers all interference falls on them, as in the middle of a wide band (`doppler_distortion` and
`late_path_distortion` count that power), while a larger N lets the edges of the band hear less, as a receiver with guard
bands does: the outermost subcarriers, with neighbours on one side only, hear about half. N also says how finely lateness
counts: what is late by less than a sample loses nothing. Paths within the cyclic prefix that stand still are exact for every N.

Cost per frame with C clusters of R rays, A antenna pairs (Q transmit antennas), T symbols, N samples:
``C T N (8 A R + 8 A + 5 Q log2 N)`` FLOP; bytes ``8 C (A + Q) T N`` in complex64 (twice that in complex128) are written and
read about twice, in parts of at most 64 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from wichan.channels.rays import Rays
from wichan.channels.synthesis import cluster_coefficients, combine_clusters, delay_phasors, phasors
from wichan.grid import OFDMGrid

_CHUNK_BYTES = 2**26
_EARLY = 1e-4  # of a sample: how far rounding may push a delay beyond the edge of a symbol


def shifted_rays(rays: Rays, timing_offset: torch.Tensor, carrier_offset: torch.Tensor) -> Rays:
    r"""The rays as a receiver hears them whose windows start late and whose carrier is off.

    Args:
        rays: rays of a batch of links.
        timing_offset: float64 [s], () or (\*batch,): how much later than nominal the windows start.
        carrier_offset: float64 [Hz], () or (\*batch,): added to every Doppler shift.

    Returns:
        Rays whose delays count from the late windows (they may be negative) and whose Doppler shifts hold the offset.
    """
    doppler = rays.doppler + carrier_offset[..., None, None].to(rays.doppler)
    cycles = doppler.to(torch.float64) * timing_offset[..., None, None]
    turn = phasors(cycles, torch.ones(1, dtype=torch.float64), rays.gain.dtype)
    delay = rays.delay.to(torch.float64)
    delay = delay - (timing_offset[..., None] if timing_offset.dim() else timing_offset)  # shared delays may stay shared
    return replace(rays, gain=rays.gain * turn[..., None], doppler=doppler, delay=delay)


@dataclass(frozen=True)
class Waveform:
    """An OFDM transmitter and receiver on ``grid`` with ``fft_size`` samples in each window.

    Args:
        grid: the lattice; its symbol duration says how long the cyclic prefix is, which may be any number of samples.
        fft_size: samples in a window, at least the number of subcarriers.
    """

    grid: OFDMGrid
    fft_size: int

    @property
    def reach(self) -> tuple[float, float]:
        """Earliest and latest delay [s] after the start of the window that comes from the symbols next to one's own."""
        duration = self.grid.symbol_duration
        return -duration, duration + self.grid.cyclic_prefix

    def receive(self, rays: Rays, sent: torch.Tensor) -> torch.Tensor:
        r"""What the receiver's FFT gives for the symbols of the grid.

        Args:
            rays: rays of a batch of links; delays within `reach`.
            sent: complex as the rays, (\*batch, num_tx_ant, 1 + num_ofdm_symbols + 1, num_subcarriers): the symbols of the
                frame between the one before and the one after it. Batch axes may be left out.

        Returns:
            complex, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers). Differentiable in rays and symbols; in a delay
            too, except where it moves a sample across the edge of a symbol.
        """
        flat = _one_batch_axis(rays)
        count = flat.batch_shape[0]
        if not count:
            return flat.gain.new_zeros(*rays.batch_shape, flat.num_rx_ant, *self.grid.shape)
        sent = sent.expand(*rays.batch_shape, *sent.shape[-3:]).reshape(count, *sent.shape[-3:])
        rows = []
        for frames in _slices(count, self._frames_at_once(flat)):
            some, grids = _select(flat, frames), sent[frames]
            parts = [self._window(some, grids, symbols) for symbols in self._symbols_at_once(some)]
            rows.append(torch.cat(parts, dim=-2))
        return torch.cat(rows).reshape(*rays.batch_shape, *rows[0].shape[1:])

    def own_gain(self, rays: Rays) -> torch.Tensor:
        r"""What a symbol on an element contributes to the same element: the diagonal of the system matrix.

        .. math:: h(s, k) = \sum_c e^{-j 2\pi f_k \tau_c}\, \frac{1}{N} \sum_{n \in \mathcal{N}_c} g_c(t_n) ,

        with :math:`\mathcal{N}_c` the samples of the window where path c brings the symbol itself.

        Returns:
            complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
        """
        flat = _one_batch_axis(rays)
        pairs = (flat.num_rx_ant, flat.num_tx_ant)
        if not flat.batch_shape[0]:
            return flat.gain.new_zeros(*rays.batch_shape, *pairs, *self.grid.shape)
        rows = []
        for frames in _slices(flat.batch_shape[0], self._frames_at_once(flat)):
            some = _select(flat, frames)
            amplitude = _ray_amplitudes(some, self._starts(slice(None), some))  # (B, C, R, A, S)
            rotation = phasors(some.doppler, self._instants(some), amplitude.dtype)  # (B, C, R, N)
            mine = (self._owner(some.delay) == 0).to(rotation.real.dtype).unsqueeze(-2)
            mean = (rotation * mine).mean(-1)  # (B, C, R)
            coefficient = (amplitude * mean[..., None, None]).sum(-3)  # (B, C, A, S)
            rows.append(combine_clusters(coefficient, delay_phasors(some.delay, self.grid.frequencies, amplitude.dtype)))
        return torch.cat(rows).reshape(*rays.batch_shape, *pairs, *self.grid.shape)

    # -- One part of the frames, one part of the symbols. --

    def _window(self, rays: Rays, sent: torch.Tensor, symbols: slice) -> torch.Tensor:
        """Received elements of some symbols, (B, num_rx_ant, S, K)."""
        coefficient = self._coefficients(rays, symbols)  # (B, C, rx, tx, S, N or 1)
        owner = self._owner(rays.delay)  # (B or 1, C, N)
        total: torch.Tensor | None = None
        for neighbour in (0, -1, 1):
            mine = owner == neighbour
            compiling = torch.compiler.is_compiling()
            if compiling:
                picked = torch.arange(mine.shape[1], device=mine.device)
            else:
                picked = mine.any(-1).any(0).nonzero().flatten()
                if not picked.numel():
                    continue
            mine = mine[:, picked]
            grids = sent[:, :, symbols.start + 1 + neighbour : symbols.stop + 1 + neighbour]
            wave = self._wave(grids, rays.delay.reshape(owner.shape[:2])[:, picked], neighbour)  # (B, C', tx, S, N)
            if compiling or not bool(mine.all()):
                wave = wave * mine[:, :, None, None, :].to(wave.real.dtype)
            seen = coefficient if picked.numel() == coefficient.shape[1] else coefficient[:, picked]
            part = (seen * wave.unsqueeze(2)).sum(dim=(1, 3))
            total = part if total is None else total + part
        assert total is not None  # every sample belongs to one of the three symbols
        return torch.fft.fft(total, norm="forward")[..., : self.grid.num_subcarriers]

    def _coefficients(self, rays: Rays, symbols: slice) -> torch.Tensor:
        """Gain of every cluster at every sample, (B, C, rx, tx, S, N), or with a last axis of 1 where nothing moves.

        A phase at sample n of symbol s is that of the symbol times that of the sample, so the sum over rays is one product
        of an (A S) x R by an R x N matrix, and the cosines are few.
        """
        pairs = (rays.num_rx_ant, rays.num_tx_ant)
        amplitude = _ray_amplitudes(rays, self._starts(symbols, rays))  # (B, C, R, A, S)
        if not torch.compiler.is_compiling() and not rays.doppler.requires_grad and not rays.doppler.any():
            return amplitude.sum(-3).unflatten(-2, pairs).unsqueeze(-1)
        rotation = phasors(rays.doppler, self._instants(rays), amplitude.dtype)  # (B, C, R, N)
        product = amplitude.flatten(-2).transpose(-1, -2) @ rotation  # (B, C, A S, N)
        return product.unflatten(-2, (*pairs, amplitude.shape[-1]))

    def _wave(self, sent: torch.Tensor, delay: torch.Tensor, neighbour: int) -> torch.Tensor:
        """Delayed samples of symbols (B, tx, S, K) in the windows of the symbols ``neighbour`` before them.

        Subcarriers stand in bins 0 to K - 1, not around bin 0: the common turn that this leaves out is the same at the
        receiver's FFT, where it would be taken back.
        """
        late = delay + neighbour * self.grid.symbol_duration
        ramp = delay_phasors(late, self.grid.frequencies, sent.dtype)  # (B or 1, C, K)
        spectrum = sent.unsqueeze(1) * ramp[:, :, None, None, :]
        return torch.fft.ifft(spectrum, n=self.fft_size, norm="forward")

    def _owner(self, delay: torch.Tensor) -> torch.Tensor:
        """Which symbol a path brings to each sample of a window: -1, 0 or 1 from its own, int64 (B or 1, C, N)."""
        sample = 1 / (self.grid.subcarrier_spacing * self.fft_size)
        instants = torch.arange(self.fft_size, dtype=torch.float64, device=delay.device) * sample
        since = self.grid.cyclic_prefix + instants - delay.detach().to(torch.float64).unsqueeze(-1)
        owner = torch.floor((since + _EARLY * sample) / self.grid.symbol_duration).to(torch.int64)
        return owner if owner.dim() == 3 else owner.unsqueeze(0)

    def _instants(self, rays: Rays) -> torch.Tensor:
        index = torch.arange(self.fft_size, dtype=torch.float64, device=rays.gain.device)
        return index / (self.grid.subcarrier_spacing * self.fft_size)

    def _starts(self, symbols: slice, rays: Rays) -> torch.Tensor:
        return self.grid.times[symbols].to(rays.gain.device) + self.grid.cyclic_prefix

    def _bytes(self, rays: Rays, samples: int) -> int:
        """Bytes of the arrays that one symbol of one frame needs."""
        pairs, size = rays.num_rx_ant * rays.num_tx_ant, rays.gain.element_size()
        return size * rays.num_clusters * (samples * (2 * pairs + 2 * rays.num_tx_ant) + rays.num_rays * pairs)

    def _frames_at_once(self, rays: Rays) -> int:
        turns = rays.gain.element_size() * rays.num_clusters * rays.num_rays * self.fft_size
        return max(1, _CHUNK_BYTES // (self.grid.num_ofdm_symbols * self._bytes(rays, self.fft_size) + 2 * turns))

    def _symbols_at_once(self, rays: Rays) -> Iterator[slice]:
        frames = rays.batch_shape[0]
        return _slices(self.grid.num_ofdm_symbols, max(1, _CHUNK_BYTES // (frames * self._bytes(rays, self.fft_size))))


def fast_size(num_subcarriers: int) -> int:
    """The smallest power of two that holds the subcarriers."""
    return 1 << max(num_subcarriers - 1, 0).bit_length()


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _one_batch_axis(rays: Rays) -> Rays:
    """The same rays with exactly one batch axis; delays that all links share stay shared."""
    lead = len(rays.batch_shape)
    count = math.prod(rays.batch_shape)

    def merged(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.reshape(count, *tensor.shape[lead:])

    delay = rays.delay if rays.delay.dim() == 1 else merged(rays.delay)
    assert delay is not None
    return Rays(
        gain=rays.gain.reshape(count, *rays.gain.shape[lead:]),
        delay=delay,
        doppler=rays.doppler.reshape(count, *rays.doppler.shape[lead:]),
        rx_response=merged(rays.rx_response),
        tx_response=merged(rays.tx_response),
    )


def _select(rays: Rays, frames: slice) -> Rays:
    whole = frames.start == 0 and frames.stop == rays.batch_shape[0]
    return rays if whole else rays[frames]


def _ray_amplitudes(rays: Rays, times: torch.Tensor) -> torch.Tensor:
    """Gain of every ray at every antenna pair and time, (B, C, R, A, S): each ray as a cluster of its own."""

    def single(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.flatten(1, 2).unsqueeze(2)

    gain, doppler = single(rays.gain), single(rays.doppler)
    assert gain is not None and doppler is not None
    delay = rays.delay.new_zeros(gain.shape[1])
    alone = Rays(gain, delay, doppler, single(rays.rx_response), single(rays.tx_response))
    return cluster_coefficients(alone, times).unflatten(1, rays.gain.shape[1:3])
