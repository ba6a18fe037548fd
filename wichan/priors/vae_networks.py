"""The networks of the variational autoencoder: what the encoder is shown, and plain and residual perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from wichan.priors.spectral_grid import SpectralGrid

_FAINT = 0.02  # added to relative powers before the logarithm: below, differences say little


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between, none at the end."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def tapered(first: int, last: int, layers: int = 4) -> list[int]:
    """Widths that go in equal steps from ``first`` to ``last``."""
    return [round(first + (last - first) * i / layers) for i in range(layers + 1)]


class Residual(nn.Module):
    """x + g(norm(x)) with one hidden layer of twice the width; g starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.narrow(nn.functional.silu(self.widen(self.norm(x))))
        return out


def residual_perceptron(first: int, width: int, depth: int, last: int) -> nn.Sequential:
    """A linear layer, ``depth`` residual blocks, a norm, a linear layer."""
    blocks = [Residual(width) for _ in range(depth)]
    return nn.Sequential(nn.Linear(first, width), *blocks, nn.LayerNorm(width), nn.Linear(width, last))


def error_network(first: int, width: int = 64) -> nn.Sequential:
    """Log of an error from ``first`` numbers; a fresh one says 0 everywhere."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(first, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)


class SpectrumView(nn.Module):
    r"""Log-powers of the observation, brought back to the antennas, on a grid of twice as many frequencies.

    Powers forget the phase of r: the latent point is the same for r and :math:`e^{j\varphi} r`, so that the estimate turns with
    its input. Twice the frequencies keep all that is left, the autocorrelation over every distance.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.grid = SpectralGrid(shape, "block-toeplitz")
        self.num_features = self.grid.num_points

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r"""Real (T, num_features) of complex (T, \*shape) whose entries have a power about 1."""
        power = torch.view_as_real(self.grid.transform(x)).square().sum(-1)
        return (power.flatten(1) + _FAINT).log()


class PilotView(nn.Module):
    """The unitary DFT of each pilot's observation, real and imaginary parts, joined over pilots by 1 x 1 convolutions.

    As [Fesl2024] has it, but without a rectifier after the last convolution, which would leave only positive values.
    """

    def __init__(self, shape: Sequence[int], num_pilots: int) -> None:
        super().__init__()
        self.shape, self.num_pilots = tuple(shape), num_pilots
        self.num_features = 2 * math.prod(shape)
        channels = tapered(num_pilots, 1, num_pilots // 2) if num_pilots > 1 else [1]
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv1d(before, after, 1), nn.ReLU()]
        self.join = nn.Sequential(*layers[:-1])

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        r"""Real (T, 2N) of complex (T, P, \*shape)."""
        waves = torch.fft.fftn(r, dim=tuple(range(2, r.dim())), norm="ortho").flatten(2)
        joined: torch.Tensor = self.join(torch.cat([waves.real, waves.imag], dim=-1))
        return joined[:, 0]
