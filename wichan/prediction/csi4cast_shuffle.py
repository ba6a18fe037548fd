"""The "S" of CSI-4CAST: ShuffleNet blocks over the image snapshots x subcarriers [Zhang2018]_."""

from __future__ import annotations

import torch
from torch import nn

from wichan.prediction.csi4cast_denoiser import from_image, to_image


class ShuffleStack(nn.Module):
    """A 3 x 3 convolution to ``channels`` maps, blocks, and a 3 x 3 convolution back to real and imaginary part.

    Args:
        channels: feature maps.
        groups: of the 1 x 1 convolutions; it must divide ``channels``.
        blocks: how many blocks.
        attention: ``"average"`` or ``"average-max"``, see `ChannelAttention`.
        shuffled: ``False`` replaces shuffle blocks by inverted residuals of full 1 x 1 convolutions (`MobileBlock`).
    """

    def __init__(self, channels: int, groups: int, blocks: int, attention: str, shuffled: bool = True) -> None:
        super().__init__()
        self.entry = nn.Conv2d(2, channels, 3, padding=1)
        block = ShuffleBlock if shuffled else MobileBlock
        self.blocks = nn.ModuleList(block(channels, groups, attention) for _ in range(blocks))
        self.exit = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(sequences, snapshots, 2 num_subcarriers), parts interleaved, to the same."""
        maps = self.entry(to_image(x))
        for block in self.blocks:
            maps = block(maps)
        return from_image(self.exit(maps))


class ShuffleBlock(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1, channel attention, and the input added; maps stay as many."""

    def __init__(self, channels: int, groups: int, attention: str) -> None:
        super().__init__()
        self.groups = groups
        self.first = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.last = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        self.last_norm = nn.BatchNorm2d(channels)
        self.attention = ChannelAttention(channels, attention)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(sequences, channels, rows, columns) to the same."""
        out = self.first_norm(self.first(maps)).relu()
        # Channel shuffle: the next grouped convolution sees maps of every group.
        out = out.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        out = self.last_norm(self.last(self.depthwise_norm(self.depthwise(out))))
        return (out * self.attention(out) + maps).relu()


class MobileBlock(nn.Module):
    """Inverted residual: 1 x 1 to twice the maps, depthwise 3 x 3, 1 x 1 back, and the input added [Sandler2018]_."""

    def __init__(self, channels: int, groups: int, attention: str) -> None:
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(sequences, channels, rows, columns) to the same."""
        return maps + self.layers(maps)


class ChannelAttention(nn.Module):
    """One factor in (0, 1) a map, from its mean (``"average"``) or its mean and its maximum (``"average-max"``).

    Args:
        channels: maps.
        kind: ``"average"`` squeezes to half of the channels; ``"average-max"`` keeps them and shares its two layers between
            both pooled vectors, whose results are added before the sigmoid.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.both = kind == "average-max"
        hidden = channels if self.both else max(1, channels // 2)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(sequences, channels, rows, columns) to (sequences, channels, 1, 1)."""
        score = self._score(maps.mean((-2, -1), keepdim=True))
        if self.both:
            score = score + self._score(maps.amax((-2, -1), keepdim=True))
        return score.sigmoid()

    def _score(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.excite(self.squeeze(pooled).relu())
