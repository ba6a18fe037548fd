"""AdaFortiTran as published, written plainly: two passes for real and imaginary part through ``nn.TransformerEncoder``."""

from __future__ import annotations

import torch
from torch import nn


def _convolutions() -> nn.Sequential:
    sizes = (1, 8, 32, 8, 1)
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Enhancer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_block = _convolutions()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv_block(image[:, None])[:, 0]


class Adapter(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        for name in ("snr", "ds", "dop"):
            sizes = [nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 42), nn.ReLU(), nn.Linear(42, 2 * tokens)]
            self.add_module(f"{name}_encoder", nn.Sequential(*sizes))
        self.tokens = tokens

    def forward(self, snr: torch.Tensor, ds: torch.Tensor, dop: torch.Tensor) -> torch.Tensor:
        parts = [self.snr_encoder(snr), self.ds_encoder(ds), self.dop_encoder(dop)]
        return torch.cat([part.view(-1, self.tokens, 2) for part in parts], dim=-1)


class Positions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, 512, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens + self.position_embeddings[:, : tokens.shape[1]]


class Encoder(nn.Module):
    def __init__(self, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(length + 6, width)
        self.positional_encoding = Positions(width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, activation="gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 6)
        self.linear_2 = nn.Linear(width, length)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.transformer(self.positional_encoding(self.linear_1(tokens))))


class PublishedAdaFortiTran(nn.Module):
    """The official layers under their official names."""

    def __init__(self, num_pilots: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.pilot_upsampler = nn.Linear(num_pilots, 120 * 14)
        self.initial_enhancer = Enhancer()
        self.channel_adapter = Adapter(280)
        self.transformer_encoder = Encoder(6, width, dropout)
        self.final_refiner = Enhancer()

    def _part(self, pilots: torch.Tensor, snr: torch.Tensor, ds: torch.Tensor, dop: torch.Tensor) -> torch.Tensor:
        coarse = self.initial_enhancer(self.pilot_upsampler(pilots.flatten(1)).view(-1, 120, 14))
        patches = coarse.view(-1, 40, 3, 7, 2).transpose(2, 3).reshape(-1, 280, 6)
        features = torch.cat([patches, self.channel_adapter(snr, ds, dop)], dim=-1)
        change = self.transformer_encoder(features)
        image = change.view(-1, 40, 7, 3, 2).transpose(2, 3).reshape(-1, 120, 14)
        return self.final_refiner(coarse + image)

    def forward(self, pilots: torch.Tensor, snr: torch.Tensor, ds: torch.Tensor, dop: torch.Tensor) -> torch.Tensor:
        """Pilots complex (n, subcarriers, symbols), conditions raw (n, 1), to complex (n, 120, 14)."""
        real, imaginary = (self._part(part, snr, ds, dop) for part in (pilots.real, pilots.imag))
        return torch.complex(real, imaginary)
