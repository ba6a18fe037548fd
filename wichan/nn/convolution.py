"""Convolutions over an OFDM grid."""

from __future__ import annotations

import torch
from torch import nn


class ConvEnhancer(nn.Module):
    """Four 3 x 3 convolutions with zero padding, ReLU between them: one real image in, one out, of the same size.

    Args:
        channels: feature maps after the first three convolutions.
    """

    def __init__(self, channels: tuple[int, ...] = (8, 32, 8)) -> None:
        super().__init__()
        sizes = (1, *channels, 1)
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        # Channels last: with 8 to 32 maps a CPU convolves that faster.
        self.layers = nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, rows, columns) to the same."""
        return self.layers(image.unsqueeze(1).contiguous(memory_format=torch.channels_last)).squeeze(1)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set weights so that the output equals the input.

        The first two maps of every layer carry the positive and the negative part; the others keep their random weights and
        are left out by the last layer until training takes them in.
        """
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        first, *middle, last = convolutions
        first.weight[:2] = 0
        first.weight[0, 0, 1, 1], first.weight[1, 0, 1, 1] = 1, -1
        for layer in middle:
            layer.weight[:2] = 0
            layer.weight[0, 0, 1, 1] = layer.weight[1, 1, 1, 1] = 1
        last.weight.zero_()
        last.weight[0, 0, 1, 1], last.weight[0, 1, 1, 1] = 1, -1
        for layer in convolutions:
            assert layer.bias is not None  # every convolution here has one
            layer.bias[:2] = 0
