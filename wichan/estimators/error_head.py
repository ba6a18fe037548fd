"""How wrong is a learned estimate? A small network beside the large one."""

from __future__ import annotations

import torch
from torch import nn


class ErrorHead(nn.Module):
    r"""Error variance of a learned estimate on every element of the grid, from a few numbers of the frame.

    It sees, free of scale and phase: the pilots' noise-to-signal ratio, how far the estimate misses the pilots relative to
    the noise, the correlation of neighbouring pilots along the list, and what the network is told. From these it makes

    .. math:: \mathrm{err\_var}(t, k) = s\, \bar p\, e^{a_t + b_k + c},

    with the frame's pilot power :math:`\bar p` and a scale s that is set after training. A fresh head claims nothing: its
    error is the power of the channel.

    Args:
        shape: (num_ofdm_symbols, num_subcarriers).
        num_conditions: numbers that the network is told.
        hidden: width of its two hidden layers.
    """

    scale: torch.Tensor

    def __init__(self, shape: tuple[int, int], num_conditions: int, hidden: int = 48) -> None:
        super().__init__()
        self.shape = shape
        sizes = (4 + num_conditions, hidden, hidden, sum(shape) + 1)
        first, second, last = (nn.Linear(before, after) for before, after in zip(sizes, sizes[1:], strict=False))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self,
        pilots: torch.Tensor,
        fitted: torch.Tensor,
        noise: torch.Tensor,
        level: torch.Tensor,
        told: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return err_var.

        Args:
            pilots: least squares at the pilots, complex (n, num_pilots).
            fitted: the estimate there, no gradient.
            noise: noise variance of a pilot, (n,).
            level: mean power of the pilots, (n,), above 0.
            told: conditions as the network sees them, (n, num_conditions), or None.

        Returns:
            real, (n, num_ofdm_symbols, num_subcarriers).
        """
        ratio = (noise / level).clamp(1e-7, 1e3)
        missed = (pilots - fitted).abs().square().mean(-1) / level
        power = level[:, None]
        step = (pilots[:, 1:] * pilots[:, :-1].conj() / power).mean(-1).abs() if pilots.shape[1] > 1 else torch.ones_like(level)
        rough = (pilots[:, 1:] - pilots[:, :-1]).abs().square().mean(-1) / level if pilots.shape[1] > 1 else 0 * level
        features = [ratio.log() / 3, (missed + 1e-7).log() / 3, step, (rough + 1e-7).log() / 3]
        seen = torch.stack(features, dim=-1)
        out = self.layers(seen if told is None else torch.cat([seen, told], dim=-1))
        symbols, subcarriers, rest = out.split([*self.shape, 1], dim=-1)
        exponent = symbols[:, :, None] + subcarriers[:, None, :] + rest[:, :, None]
        return self.scale * level[:, None, None] * exponent.clamp(-25, 10).exp()
