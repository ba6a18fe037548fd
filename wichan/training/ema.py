"""Moving average of weights: what is validated and kept."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage(nn.Module):
    r"""Exponential moving average of a module's parameters, :math:`a \leftarrow d a + (1 - d) w`.

    The decay starts low, :math:`d_n = \min(d, (1 + n)/(10 + n))` after n updates, so that a short run is not an average
    with its random start. Buffers are copied.

    Args:
        module: what is averaged; it is copied.
        decay: d, at least 0 and below 1; 0 copies the weights.

    Attributes:
        module: the copy that holds the average; its parameters require no gradient.
        updates: n.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the weights of ``module`` in, after an optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages = [parameter.detach() for parameter in self.module.parameters()]
        weights = [parameter.detach() for parameter in module.parameters()]
        if decay:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        else:
            torch._foreach_copy_(averages, weights)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)

    def train(self, mode: bool = True) -> WeightAverage:
        """Stay in evaluation mode, whatever the trainer asks for."""
        return super().train(False)
