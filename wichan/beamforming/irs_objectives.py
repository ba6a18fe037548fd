"""What phases are chosen for: gain of the best pair of beams, or rate with water-filling; gradients in closed form."""

from __future__ import annotations

import math

import torch

_FLOOR = 1e-250  # stands for the gain of a stream that is none


class BeamGain:
    r"""Mean over subcarriers of :math:`\sigma_{\max}^2(G_f)`, the power gain of the best single beam at either end.

    Convex in G, so a full step of `irs_ascent.ascend` never descends.
    """

    def value(self, channel: torch.Tensor) -> torch.Tensor:
        """(\\*batch, F, rows, columns) -> (\\*batch)."""
        return torch.linalg.eigvalsh(_small_gram(channel)[0])[..., -1].mean(dim=-1)

    def value_and_gradient(self, channel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With it :math:`G v v^H`."""
        gram, on_right = _small_gram(channel)
        values, vectors = torch.linalg.eigh(gram)
        top = vectors[..., -1:]
        gradient = (channel @ top) @ top.mH if on_right else top @ (top.mH @ channel)
        return values[..., -1].mean(dim=-1), gradient


class WaterFilledRate:
    r"""Capacity, :math:`\frac1F \max_{p} \sum_{f,k} \log_2(1 + p_{fk} \sigma_{fk}^2)`, poured over streams and subcarriers.

    At the best powers the rate's derivative through them vanishes, so the gradient is that with powers held fixed:
    :math:`G V\, \mathrm{diag}(p / (1 + p \sigma^2)) V^H`.

    Args:
        power: P / no of every channel, mean over subcarriers, real (B,); it meets channels (B, S, F, rows, columns).
        num_streams: most streams a subcarrier; None: no limit.
    """

    def __init__(self, power: torch.Tensor, num_streams: int | None) -> None:
        self._power = power
        self._num_streams = num_streams

    def value(self, channel: torch.Tensor) -> torch.Tensor:
        """(B, S, F, rows, columns) -> (B, S)."""
        gains = torch.linalg.eigvalsh(_small_gram(channel)[0]).clamp_min(0.0)
        return self._rate(gains, self._powers(gains))

    def value_and_gradient(self, channel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With it the gradient."""
        gram, on_right = _small_gram(channel)
        gains, vectors = torch.linalg.eigh(gram)
        gains = gains.clamp_min(0.0)
        powers = self._powers(gains)
        weighted = (vectors * (powers / (1 + powers * gains))[..., None, :]) @ vectors.mH
        return self._rate(gains, powers), channel @ weighted if on_right else weighted @ channel

    def _powers(self, gains: torch.Tensor) -> torch.Tensor:
        """Powers of all eigenmodes, (B, S, F, modes), eigenvalues rising."""
        most = gains.shape[-1] if self._num_streams is None else min(self._num_streams, gains.shape[-1])
        kept = gains[..., -most:]
        power = self._power.reshape(-1, 1) * gains.shape[-2]
        powers = water_filling(kept.flatten(-2), power.expand(gains.shape[:2])).unflatten(-1, kept.shape[-2:])
        return torch.nn.functional.pad(powers, (gains.shape[-1] - most, 0))

    @staticmethod
    def _rate(gains: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
        return torch.log1p(powers * gains).sum(dim=-1).mean(dim=-1) / math.log(2.0)


def water_filling(gains: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    r"""Powers that maximise :math:`\sum_i \log(1 + p_i g_i)` under :math:`\sum_i p_i = P`, in closed form by sorting.

    Args:
        gains: power gains over noise, real, (\*batch, n), at least 0.
        power: P, real, (\*batch).

    Returns:
        (\*batch, n); :math:`p_i = \max(0, \mu - 1/g_i)`. Where every gain is 0 the first mode takes all.
    """
    falling, order = gains.sort(dim=-1, descending=True)
    depth = 1 / falling.clamp_min(_FLOOR)
    count = torch.arange(1, gains.shape[-1] + 1, dtype=gains.dtype, device=gains.device)
    level = (power[..., None] + depth.cumsum(dim=-1)) / count
    used = (level > depth).sum(dim=-1, keepdim=True).clamp_min(1)
    filled = (level.gather(-1, used - 1) - depth).clamp_min(0.0)
    alone = torch.nn.functional.one_hot(torch.zeros_like(used[..., 0]), gains.shape[-1]) * power[..., None]
    filled = torch.where(falling[..., :1] > _FLOOR, filled, alone)
    return torch.zeros_like(gains).scatter(-1, order, filled)


def _small_gram(channel: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """G^H G or G G^H, whichever is smaller, and whether it is the first."""
    on_right = channel.shape[-1] <= channel.shape[-2]
    return (channel.mH @ channel if on_right else channel @ channel.mH), on_right
