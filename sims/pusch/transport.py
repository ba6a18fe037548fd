"""The PUSCH transport chain of TS 38.212 with all four redundancy versions, on Sionna's encoder, CRCs and scrambler."""

from __future__ import annotations

import math
from typing import Any

import torch

from pusch.ldpc import LayeredDecoder

_LN2 = math.log(2.0)


def base_graph(encoder: Any) -> torch.Tensor:
    """Shifts of the base graph of a Sionna LDPC encoder, int64 (num_rows, num_columns), -1 where there is no edge."""
    checks = encoder.pcm[:: encoder.z].tocoo()  # the first row of every block of Z
    base = torch.full((checks.shape[0], checks.shape[1] // encoder.z), -1)
    row, column = torch.as_tensor(checks.row).long(), torch.as_tensor(checks.col).long()
    base[row, column // encoder.z] = column % encoder.z
    return base


class TransportChain:
    r"""Transport block <-> scrambled bits of a slot, for incremental redundancy.

    A transport block gets its CRC, is cut into code blocks with their own CRC and is LDPC-coded. Transmission i then sends
    E bits a code block from the circular buffer, beginning where the standard says for redundancy version rv(i); beyond the
    end of the buffer it goes on at its start. (Sionna's own chain sends version 0 only, and no rate below 1/5, which
    G-FR1-A3-8 has: 1368 / 7200.)

    Args:
        tb_size: payload [bit].
        num_coded_bits: bits that a slot carries.
        code_rate: target code rate.
        bits_per_symbol: modulation order.
        rv: redundancy versions in the order of transmission.
        n_rnti, n_id: scrambling.
        gate: a block whose received information, sum of 1 - log2(1 + e^(-s L)), is below this share of its size is
            counted as lost without being decoded; no code can decode below 1 with such log-likelihood ratios.

    Source: 3GPP TS 38.212 clauses 5.1, 5.2.2, 5.3.2, 5.4.2 and 6.2; TS 38.211 clause 6.3.1.1.
    """

    def __init__(
        self,
        tb_size: int,
        num_coded_bits: int,
        code_rate: float,
        bits_per_symbol: int,
        *,
        rv: tuple[int, ...] = (0, 2, 3, 1),
        n_rnti: int = 1,
        n_id: int = 1,
        gate: float = 0.95,
        num_iterations: int = 12,
    ) -> None:
        from sionna.phy.fec.crc import CRCEncoder
        from sionna.phy.fec.ldpc import LDPC5GEncoder
        from sionna.phy.fec.scrambling import TB5GScrambler
        from sionna.phy.nr import calculate_tb_size

        sizes = calculate_tb_size(
            target_tb_size=tb_size,
            num_coded_bits=num_coded_bits,
            target_coderate=code_rate,
            modulation_order=bits_per_symbol,
        )
        self.tb_size, self.cb_size, self.num_blocks, tb_crc, cb_crc = (int(value) for value in sizes[:5])
        lengths = torch.as_tensor(sizes[5]).flatten().tolist()
        if self.tb_size != tb_size or len(set(lengths)) != 1:
            raise ValueError(f"tb_size={tb_size} is not a transport block of equal code blocks")
        self.bits_per_symbol, self.rv, self.gate = bits_per_symbol, rv, gate
        self.block_bits = int(lengths[0])
        self._tb_crc = CRCEncoder("CRC16" if tb_crc == 16 else "CRC24A", k=tb_size)
        self._cb_crc = CRCEncoder("CRC24B", k=self.cb_size - cb_crc) if cb_crc else None
        self.encoder = LDPC5GEncoder(self.cb_size, min(self.block_bits, 5 * self.cb_size))
        self._scrambler = TB5GScrambler(n_rnti=n_rnti, n_id=n_id, channel_type="PUSCH")
        self._sequence: torch.Tensor | None = None
        self.buffer_size = self.encoder.n_cb_comp
        starts = self.encoder.get_start_positions_comp(list(rv))
        place = torch.arange(self.block_bits).view(bits_per_symbol, -1).T.flatten()  # the bit interleaver, clause 5.4.2.2
        self._sent = torch.stack([(start + place) % self.buffer_size for start in starts])
        self._decoder = LayeredDecoder(base_graph(self.encoder), self.encoder.z, num_iterations=num_iterations)

    def blocks(self, payload: torch.Tensor) -> torch.Tensor:
        """Code blocks with all CRCs, (batch, num_blocks, cb_size), of payloads (batch, tb_size)."""
        whole = self._tb_crc(payload).view(payload.shape[0], self.num_blocks, -1)
        return whole if self._cb_crc is None else self._cb_crc(whole)

    def buffers(self, blocks: torch.Tensor) -> torch.Tensor:
        """Circular buffers without filler bits, (batch, num_blocks, buffer_size): put together from Sionna's versions."""
        versions = self.encoder(blocks, rv=[0, 1, 2, 3])
        whole = versions.new_full((*blocks.shape[:-1], self.buffer_size), -1.0)
        step = torch.arange(versions.shape[-1])
        for version, start in enumerate(self.encoder.get_start_positions_comp([0, 1, 2, 3])):
            whole[..., (start + step) % self.buffer_size] = versions[..., version, :]
        assert bool((whole >= 0).all())
        return whole

    def transmissions(self, buffers: torch.Tensor) -> torch.Tensor:
        """Scrambled bits of every transmission in turn, (num_transmissions, batch, num_coded_bits)."""
        return torch.stack([self._scramble(buffers[..., index].flatten(1)) for index in self._sent])

    def _scramble(self, bits: torch.Tensor) -> torch.Tensor:
        return (bits != self.sequence(bits.shape[-1])).to(bits.dtype)

    def sequence(self, length: int) -> torch.Tensor:
        """The scrambling sequence, float (length,)."""
        if self._sequence is None:
            self._sequence = self._scrambler(torch.zeros(1, length)).flatten()
        return self._sequence

    def collect(self, soft: torch.Tensor, llr: torch.Tensor, attempt: torch.Tensor) -> None:
        """Add the soft bits of one transmission to the receiver's buffers, in place.

        Args:
            soft: (batch, num_blocks, buffer_size), log p(1)/p(0).
            llr: log p(1)/p(0) of the bits of a slot, (batch, num_coded_bits).
            attempt: which transmission it was, int64 (batch,).
        """
        plain = llr * (1 - 2 * self.sequence(llr.shape[-1]))
        for i, index in enumerate(self._sent):
            chosen = torch.nonzero(attempt == i).flatten()
            part = plain[chosen].view(len(chosen), self.num_blocks, self.block_bits)
            grown = soft[chosen]
            grown.index_add_(-1, index, part)  # a position that is sent twice in one slot counts twice
            soft[chosen] = grown

    def information(self, soft: torch.Tensor, buffers: torch.Tensor) -> torch.Tensor:
        """Received information over block size, (batch, num_blocks); ``buffers`` are the true bits."""
        right = soft * (2 * buffers - 1)
        gained = torch.where(soft == 0, 0.0, 1 - torch.nn.functional.softplus(-right) / _LN2)
        return gained.sum(-1) / self.cb_size

    def decode(self, soft: torch.Tensor, blocks: torch.Tensor, buffers: torch.Tensor) -> torch.Tensor:
        """Whether each transport block is decoded without error, bool (batch,).

        Args:
            soft: (batch, num_blocks, buffer_size), log p(1)/p(0).
            blocks, buffers: what was sent, as `blocks` and `buffers` give it. The comparison with the truth stands for the
                CRC, which misses an error with probability 2^-16 or 2^-24.
        """
        fine = (self.information(soft, buffers) >= self.gate).all(-1)
        chosen = torch.nonzero(fine).flatten()
        if len(chosen):
            fine[chosen] = (self.hard(soft[chosen]) == blocks[chosen].bool()).flatten(1).all(-1)
        return fine

    def hard(self, soft: torch.Tensor) -> torch.Tensor:
        """Decoded code blocks, bool (batch, num_blocks, cb_size)."""
        rows = soft.flatten(0, 1)
        punctured = 2 * self.encoder.z
        known = self.cb_size - punctured
        llr = torch.cat(
            [
                rows.new_zeros(len(rows), punctured),
                -rows[:, :known],
                rows.new_full((len(rows), self.encoder.k_filler), 100.0),
                -rows[:, known:],
            ],
            dim=1,
        )
        return self._decoder(llr)[:, : self.cb_size].view(*soft.shape[:2], -1)
