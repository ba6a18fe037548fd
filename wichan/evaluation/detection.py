"""Data on the elements without pilots: random symbols through the true channel, detected with each estimate.

The observation of an evaluation carries pilots only. Here the other elements carry data, drawn from a generator of their own
with noise of their own, the same for all estimators (and, where points share their channels, for all points).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.evaluation.equalizer import combine, sinr_after, unbiased_weights
from wichan.evaluation.modulation import QAM
from wichan.random import complex_normal, make_generator, uniform

_BLOCK = 64  # frames drawn at once; results depend on it, and not on the batch size
_CHUNK_BYTES = 16 << 20
_HIGHEST_SINR = 1e12  # a noiseless receiver's mean must stay finite


class Draws(NamedTuple):
    """Random numbers of n frames.

    Attributes:
        offset: float64 in [0, 1), (n, 2): shifts of the regular samples of data elements and of all elements.
        bits: bool, (n, num_streams, elements, bits_per_symbol).
        noise: complex64 of variance 1, (n, num_rx_ant, elements).
    """

    offset: torch.Tensor
    bits: torch.Tensor
    noise: torch.Tensor


class DrawSource:
    """Gives the draws of one point, frame by frame: the same whatever the batch size.

    Args:
        qam: the constellation.
        sizes: num_streams, num_rx_ant, elements.
        seed: of the evaluation.
        key: which stream of random numbers.
    """

    def __init__(self, qam: QAM, sizes: tuple[int, int, int], seed: int, key: int) -> None:
        self._qam, self._sizes = qam, sizes
        self._generator = make_generator(seed, "data", key)
        self._left: Draws | None = None

    def _block(self) -> Draws:
        streams, antennas, elements = self._sizes
        offset = uniform((_BLOCK, 2), generator=self._generator, dtype=torch.float64)
        bits = self._qam.random_bits((_BLOCK, streams, elements), generator=self._generator)
        return Draws(offset, bits, complex_normal((_BLOCK, antennas, elements), generator=self._generator))

    def take(self, count: int) -> Draws:
        """The draws of the next ``count`` frames."""
        have = 0 if self._left is None else self._left.offset.shape[0]
        blocks = [self._block() for _ in range(-(-(count - have) // _BLOCK))]
        parts = ([] if self._left is None else [self._left]) + blocks
        joined = parts[0] if len(parts) == 1 else Draws(*(torch.cat(same) for same in zip(*parts, strict=True)))
        self._left = Draws(*(part[count:] for part in joined))
        return Draws(*(part[:count] for part in joined))


def systematic(offset: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """``count`` of ``size`` places, evenly spread and shifted by ``offset`` in [0, 1): each place is as likely as any other.

    Args:
        offset: float64, (n,).
        count: places to choose, at most ``size``.
        size: how many there are.

    Returns:
        int64, (n, count), ascending, all different.
    """
    steps = torch.arange(count, dtype=torch.float64, device=offset.device) + offset[:, None]
    return (steps * (size / count)).long().clamp_max(size - 1) if count else steps.long()


def pick(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Elements of (n, num_rx_ant, num_tx_ant, T, F) at flat places (n, count): (n, num_rx_ant, num_tx_ant, count)."""
    flat = x.flatten(-2)
    return flat.gather(-1, places[:, None, None].expand(*flat.shape[:-1], places.shape[1]))


class Link:
    """The data part of a link: counts bit errors and adds up the SINR after the equaliser.

    Args:
        mask: where pilots are, bool (T, F).
        qam: the constellation.
        num_elements: data elements of a frame that are looked at; None for all.
        num_streams: streams of unit power, one an antenna; where there are more antennas than streams, elements take the
            antennas in turn.
        num_tx_ant: transmit antennas.
    """

    def __init__(self, mask: torch.Tensor, qam: QAM, num_elements: int | None, num_streams: int, num_tx_ant: int) -> None:
        self.data = (~mask.cpu()).flatten().nonzero().flatten()
        available = self.data.numel()
        self.num_elements = available if num_elements is None else min(num_elements, available)
        self.qam, self.num_streams = qam, num_streams
        self._rotates = num_streams < num_tx_ant
        first = torch.arange(self.num_elements)
        self._antennas = (first + torch.arange(num_streams)[:, None]) % num_tx_ant  # (num_streams, elements)

    @property
    def bits_per_frame(self) -> int:
        """Bits that a frame counts for."""
        return self.num_elements * self.num_streams * self.qam.bits_per_symbol

    @property
    def symbols_per_frame(self) -> int:
        """Symbols that a frame counts for."""
        return self.num_elements * self.num_streams

    def _streams(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Channels of the streams at data elements, (n, num_rx_ant, num_streams, elements)."""
        picked = pick(x, places)
        if not self._rotates:
            return picked
        antennas = self._antennas.to(x.device).expand(*picked.shape[:2], *self._antennas.shape)
        return picked.gather(2, antennas)

    def measure(
        self,
        h: torch.Tensor,
        estimates: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        no: torch.Tensor,
        draws: Draws,
    ) -> torch.Tensor:
        """Sums over each frame, for every estimate and, last, for the true channel.

        Args:
            h: true channel, complex, (n, num_rx_ant, num_tx_ant, T, F).
            estimates: h_hat and err_var (or None), each of the shape of ``h``.
            no: noise variance, (n,).
            draws: of these frames.

        Returns:
            float64 on the CPU, (3, num_estimates + 1, n): wrong bits, sum of log2(1 + SINR), sum of SINR.
        """
        frames = max(1, _CHUNK_BYTES // (16 * self.num_elements * h.shape[1] * self.num_streams**2))
        parts = []
        for start in range(0, h.shape[0], frames):
            here = slice(start, start + frames)
            pairs = [(h_hat[here], None if err_var is None else err_var[here]) for h_hat, err_var in estimates]
            part = self._chunk(h[here], [*pairs, (h[here], None)], no[here], Draws(*(draw[here] for draw in draws)))
            parts.append(part.cpu())
        return torch.cat(parts, dim=-1)

    def _chunk(
        self,
        h: torch.Tensor,
        estimates: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        no: torch.Tensor,
        draws: Draws,
    ) -> torch.Tensor:
        places = self.data[systematic(draws.offset[:, 0], self.num_elements, self.data.numel())].to(h.device)
        truth = self._streams(h, places)
        bits = draws.bits.to(h.device)
        noise_power = no.to(h.real.dtype)[:, None, None]
        y = draws.noise.to(h.device, h.dtype) * noise_power.sqrt()
        y += (truth * self.qam.map(bits)[:, None]).sum(dim=2)
        rows = []
        for h_hat, err_var in estimates:
            variance = noise_power if err_var is None else noise_power + self._streams(err_var, places).sum(dim=2)
            weights, _ = unbiased_weights(self._streams(h_hat, places).to(h.dtype), variance)
            wrong = (self.qam.demap(combine(weights, y)) ^ bits).sum(dim=(1, 2, 3))
            sinr = sinr_after(weights, truth, noise_power).clamp_max(_HIGHEST_SINR)
            information = torch.log2(1 + sinr).sum(dim=(1, 2), dtype=torch.float64)
            rows.append(torch.stack([wrong.double(), information, sinr.sum(dim=(1, 2), dtype=torch.float64)]))
        return torch.stack(rows, dim=1)
