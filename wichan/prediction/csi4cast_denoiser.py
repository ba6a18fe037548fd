"""The "C" of CSI-4CAST: a convolutional residual that estimates the noise of a history [CSI4CAST2025]_."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class ConvDenoiser(nn.Module):
    """x - f(x), where f is a chain of 3 x 3 convolutions over the image snapshots x subcarriers.

    Real and imaginary parts are the two channels at both ends. Every convolution is followed by batch normalisation, and by
    a ReLU but for the last one: an estimate of noise has both signs.

    Args:
        channels: feature maps between both ends; empty: f is absent and the history passes unchanged.
        rectified: put a ReLU behind the last step too, as published, which only lets values be lowered.
    """

    def __init__(self, channels: Sequence[int], rectified: bool = False) -> None:
        super().__init__()
        sizes = (2, *channels, 2) if channels else ()
        self.steps = nn.ModuleList()
        for before, after in zip(sizes, sizes[1:], strict=False):
            convolution = nn.Conv2d(before, after, 3, padding=1)
            nn.init.uniform_(convolution.weight, -1 / math.sqrt(before), 1 / math.sqrt(before))
            assert convolution.bias is not None  # asked for by default
            nn.init.zeros_(convolution.bias)
            self.steps.append(nn.Sequential(convolution, nn.BatchNorm2d(after)))
        self.rectified = rectified

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, num_history, 2 num_subcarriers), parts interleaved, to the same."""
        if not len(self.steps):
            return x
        noise = to_image(x)
        for index, step in enumerate(self.steps):
            noise = step(noise)
            if self.rectified or index + 1 < len(self.steps):
                noise = noise.relu()
        return x - from_image(noise)


def to_image(x: torch.Tensor) -> torch.Tensor:
    """(sequences, snapshots, 2 num_subcarriers), parts interleaved, to (sequences, 2, snapshots, num_subcarriers)."""
    return x.unflatten(-1, (-1, 2)).permute(0, 3, 1, 2).contiguous()


def from_image(image: torch.Tensor) -> torch.Tensor:
    """The way back from `to_image`."""
    return image.permute(0, 2, 3, 1).flatten(-2)
