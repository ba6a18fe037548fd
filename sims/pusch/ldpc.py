"""Layered belief propagation for quasi-cyclic LDPC codes, many code blocks at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_LARGEST = 20.0  # of a message: beyond it the sum-product rule gains nothing in single precision


def _phi(x: torch.Tensor) -> torch.Tensor:
    """-log tanh(x/2), its own inverse, in a form that keeps single precision for large x."""
    return x.clamp(1e-4, _LARGEST).expm1_().reciprocal_().mul_(2).log1p_()


class LayeredDecoder:
    r"""Sum-product decoding, one row of the base graph (a layer) after the other.

    A layer sees what the layers before it found in the same iteration, so about half as many iterations are needed as with
    flooding. A block leaves the batch as soon as all its parity checks hold.

    Args:
        base: shifts of the base graph, (num_rows, num_columns), -1 where there is no edge.
        lifting: lifting size Z.
        num_iterations: at most so many passes over all layers.
        core_rows: rows that are always used; a later row ties one further column, which belongs to it alone, and is left
            out while nothing of that column has been received.

    Cost: 30 FLOP an edge, lifted row and iteration. Source: 3GPP TS 38.212 clause 5.3.2 (the code).
    """

    def __init__(
        self, base: Sequence[Sequence[int]] | torch.Tensor, lifting: int, *, num_iterations: int = 12, core_rows: int = 4
    ) -> None:
        shifts = torch.as_tensor(base, dtype=torch.int64)
        self.lifting, self.num_iterations, self.core_rows = int(lifting), int(num_iterations), core_rows
        self.num_columns = shifts.shape[1]
        step = torch.arange(self.lifting)
        self.rows, self.own = [], []
        for row in shifts:
            columns = torch.nonzero(row >= 0).flatten()
            turned = (step + row[columns, None]) % self.lifting
            self.rows.append((columns[:, None] * self.lifting + turned).flatten())
            self.own.append(int(columns[-1]))

    def _used(self, llr: torch.Tensor) -> list[int]:
        seen = (llr.view(self.num_columns, self.lifting, -1) != 0).flatten(1).any(1).tolist()
        return [i for i in range(len(self.rows)) if i < self.core_rows or seen[self.own[i]]]

    def __call__(self, llr: torch.Tensor) -> torch.Tensor:
        """Decode.

        Args:
            llr: log p(0)/p(1) of every code bit, float32, (num_blocks, num_columns * Z), 0 where nothing is known.

        Returns:
            Hard decisions, bool, of the same shape; parity checks may be violated where decoding failed.
        """
        total = llr.T.contiguous()
        used = self._used(total)
        messages: list[torch.Tensor | None] = [None] * len(used)
        alive = torch.arange(llr.shape[0])
        decided = torch.empty_like(total, dtype=torch.bool)
        for _ in range(self.num_iterations):
            for position, row in enumerate(used):
                messages[position] = self._layer(total, self.rows[row], messages[position])
            bits = total < 0
            left = self._violated(bits, used)
            decided[:, alive] = bits
            if not bool(left.any()):
                break
            if 4 * int(left.sum()) <= 3 * left.numel():  # copying pays only where many are done
                alive, total = alive[left], total[:, left]
                messages = [None if m is None else m[..., left] for m in messages]
        return decided.T

    def _layer(self, total: torch.Tensor, index: torch.Tensor, message: torch.Tensor | None) -> torch.Tensor:
        prior = total[index].view(-1, self.lifting, total.shape[1])
        if message is not None:
            prior -= message
        negative = prior < 0
        strength = _phi(prior.abs())
        others = strength.sum(0) - strength
        size = _phi(others)
        flip = negative ^ (negative.sum(0) % 2 == 1)
        message = torch.where(flip, -size, size)
        total[index] = (prior + message).flatten(0, 1)
        return message

    def _violated(self, bits: torch.Tensor, used: list[int]) -> torch.Tensor:
        wrong = torch.zeros(bits.shape[1], dtype=torch.bool)
        for row in used:
            parity = bits[self.rows[row]].view(-1, self.lifting, bits.shape[1]).sum(0) % 2
            wrong |= (parity == 1).any(0)
        return wrong
