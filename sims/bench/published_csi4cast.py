"""CSI-4CAST as published for TDD [CSI4CAST2025]_, written plainly in torch's own layers: the peer of quicker forms."""

from __future__ import annotations

import math

import torch
from torch import nn

NUM_PARAMETERS = 21_913_750


def _denoiser() -> nn.Sequential:
    sizes = (2, 4, 8, 4, 2)
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _temporal() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(16, 512)]
    for after in (512, 512, 16):
        layers += [nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, after)]
    return nn.Sequential(*layers, nn.LayerNorm(16), nn.Dropout(0.1))


class _Block(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1, attention over channels, shortcut."""

    def __init__(self, width: int = 64, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.first = nn.Sequential(nn.Conv2d(width, width, 1, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
        )
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 2, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.first(x).unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        maps = self.second(maps)
        return (maps * self.attention(maps) + x).relu()


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temporal = _temporal()
        self.maps = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), *(_Block() for _ in range(4)), nn.Conv2d(64, 2, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.temporal(x.mT).mT
        return self.maps(x.unflatten(-1, (-1, 2)).movedim(-1, 1)).movedim(1, -1).flatten(-2)


class PublishedCSI4CAST(nn.Module):
    """(sequences, 16, 600) to (sequences, 4, 600), one sequence an antenna; one standardisation for the whole batch."""

    position: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = _denoiser()
        self.delay, self.frequency = _Branch(), _Branch()
        self.token = nn.Conv1d(600, 768, 3, padding=1, padding_mode="circular")
        self.stamp = nn.Linear(4, 768, bias=False)  # never used, as published
        self.mix = nn.Linear(16, 16)
        layer = nn.TransformerEncoderLayer(768, 8, 512, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.features, self.future = nn.Linear(768, 600), nn.Linear(16, 4)
        angle = torch.arange(16)[:, None] * torch.exp(torch.arange(0, 768, 2) * (-math.log(1e4) / 768))
        self.register_buffer("position", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict."""
        image = x.unflatten(-1, (-1, 2)).movedim(-1, 1)
        x = x - self.denoiser(image).movedim(1, -1).flatten(-2)
        mean, spread = x.mean(), x.std(correction=0).clamp_min(1e-6)
        x = (x - mean) / spread
        delays = torch.fft.ifft(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()))
        x = self.delay(torch.view_as_real(delays).flatten(-2)) + self.frequency(x)
        tokens = self.mix((self.token(x.mT).mT + self.position).mT).mT
        return self.future(self.features(self.encoder(tokens)).mT).mT * spread + mean
