"""The "A" of CSI-4CAST: layers that weigh snapshots and subcarriers anew before features are taken [CSI4CAST2025]_."""

from __future__ import annotations

import torch
from torch import nn


class TemporalARL(nn.Module):
    """A multilayer perceptron over the snapshots of every real feature, then layer normalisation over the snapshots.

    There is no skip and no gate, so what is left of a feature's amplitude is the direction of the vector of its snapshots.

    Args:
        num_history: snapshots.
        hidden: width of the hidden layers; with 0 only the normalisation is left.
        depth: hidden layers.
        dropout: behind every hidden layer and at the end, in training.

    Cost of a sequence of F real features: F (2 T hidden + (depth - 1) hidden^2) multiply-adds.
    """

    def __init__(self, num_history: int, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.mlp = perceptron(num_history, hidden, depth, dropout) if hidden else nn.Identity()
        self.norm = nn.LayerNorm(num_history)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, num_history, features) to the same."""
        return self.dropout(self.norm(self.mlp(x.mT))).mT


class SubcarrierARL(nn.Module):
    """A multilayer perceptron over the features of every snapshot, which corrects them, then layer normalisation.

    Args:
        num_features: real features of a snapshot.
        hidden, depth, dropout: as in `TemporalARL`; behind the last layer stands a ReLU.
        operation: ``"add"``, x + m(x), or ``"multiply"``, x m(x).
    """

    def __init__(self, num_features: int, hidden: int, depth: int, dropout: float, operation: str) -> None:
        super().__init__()
        self.mlp = nn.Sequential(*perceptron(num_features, hidden, depth, dropout), nn.ReLU())
        self.norm = nn.LayerNorm(num_features)
        self.dropout = nn.Dropout(dropout)
        self.operation = operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, snapshots, num_features) to the same."""
        change = self.mlp(x)
        return self.dropout(self.norm(x * change if self.operation == "multiply" else x + change))


def perceptron(size: int, hidden: int, depth: int, dropout: float) -> nn.Sequential:
    """``depth`` times linear layer, ReLU and dropout, then a linear layer back to ``size``."""
    layers: list[nn.Module] = []
    width = size
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, size))
