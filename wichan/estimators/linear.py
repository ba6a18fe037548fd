"""The learned linear estimator: one matrix from pilots to the grid, the same for real and imaginary parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from wichan.estimators.learned import LearnedEstimator, both_parts
from wichan.estimators.warm_start import best_linear


class Linear(LearnedEstimator):
    r"""A linear layer with bias from pilots to the whole grid, applied to real and imaginary parts alike.

    .. math:: \hat h = W \hat h_{\mathrm{LS}} + (1 + j) b, \qquad W \in \mathbb{R}^{TF \times P}.

    Being real, W cannot follow the phase slope of a mean delay, which pooled LMMSE can: that one bounds it from below.

    Args:
        obs: the pilots.
        **options: see `LearnedEstimator`.

    Cost: 2 P T F multiply-adds a frame. Source: baseline of B. Guler, H. Jafarkhani, "AdaFortiTran", ICC 2025 [Guler2025]_.
    """

    network: nn.Linear
    kind = "linear"
    presets = {
        "paper": {"scale_input": False},
        "paper-large": {"scale_input": False, "pilots": {"symbols": (2, 11), "subcarrier_step": 10}},
        "default": {"pilots": {"symbols": (2, 5, 8, 11), "subcarrier_step": 3}},
    }

    def _build(self) -> nn.Module:
        return nn.Linear(self.obs.num_pilots, self.obs.grid.num_resource_elements)

    def _mean(self, pilots: torch.Tensor, conditions: Any) -> torch.Tensor:
        symbols, subcarriers = self.obs.grid.shape
        return both_parts(self.network, pilots).unflatten(-1, (subcarriers, symbols))

    @torch.no_grad()
    def warm_start(self, batches: Iterable[Any]) -> bool:
        """Set the matrix to the least-squares solution; there is nothing better for a mean square error."""
        self.network.weight.copy_(best_linear(self, batches))
        self.network.bias.zero_()
        return True
