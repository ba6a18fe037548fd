"""Sionna's LDPC decoder, stopped for each block as soon as all parity checks hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder, vn_update_sum

_AT_ONCE = 64  # blocks: larger batches leave the cache and take longer a block


class StoppingDecoder:
    """Belief propagation in stages; a block whose hard decisions form a codeword takes no part in the next stage.

    Sionna's decoder runs all iterations for all blocks. It returns its messages on request and goes on from them, so the
    blocks that are not done yet see exactly the iterations that they would have seen.

    Args:
        encoder: Sionna's encoder of the code.
        num_iter: most iterations.
        first: iterations before the first look at the parity checks.
        step: iterations between looks; 0: never look, run all iterations for all blocks.
    """

    def __init__(self, encoder: LDPC5GEncoder, num_iter: int = 20, *, first: int = 4, step: int = 2) -> None:
        self.stages = _stages(num_iter, first, step)
        self._totals = torch.empty(0)
        self._decoder = LDPC5GDecoder(encoder, num_iter=num_iter, vn_update=self._update, return_state=True)
        self._checks = scipy.sparse.csr_matrix(self._decoder.pcm).astype(np.int32)

    def _update(self, *arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sionna's own variable node update, which also gives the soft decisions on all bits, punctured ones included."""
        messages, self._totals = vn_update_sum(*arguments, **options)
        return messages, self._totals

    def _unfinished(self) -> torch.Tensor:
        """Which blocks violate a parity check; the decoder decides for a 1 where the soft decision is at most 0."""
        hard = (self._totals <= 0).to(torch.int32).T.contiguous().numpy()
        return torch.from_numpy(((self._checks @ hard) & 1).any(axis=0))

    def __call__(self, llr: torch.Tensor) -> torch.Tensor:
        """Decode logits (..., n) to information bits (..., k)."""
        parts = [self._decode(some) for some in llr.flatten(0, -2).split(_AT_ONCE)]
        return torch.cat(parts).reshape(*llr.shape[:-1], -1)

    def _decode(self, flat: torch.Tensor) -> torch.Tensor:
        active, state = torch.arange(flat.shape[0]), None
        bits = None
        for count in self.stages:
            decided, state = self._decoder(flat[active], num_iter=count, msg_v2c=state)
            bits = decided if bits is None else bits.index_copy(0, active, decided)
            going = self._unfinished()
            active, state = active[going], state[going]
            if not len(active):
                break
        assert bits is not None
        return bits


def _stages(num_iter: int, first: int, step: int) -> list[int]:
    if not step or num_iter <= first:
        return [num_iter]
    rest = num_iter - first
    return [first, *[step] * (rest // step), *([rest % step] if rest % step else [])]
