"""The published IRS-aided uplink: training that is redrawn, channels, exact SNR in every realisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wichan.channels import IRSCascade
from wichan.observations import IRSDictionary, IRSTraining

NUM_MS, NUM_IRS, NUM_BS, NUM_PATHS, GRID = 6, 256, 16, 3, 18
NUM_PILOTS, NUM_PATTERNS = 3, 6


@dataclass(frozen=True)
class Trials:
    """Channels that share their pilots and patterns, at every SNR.

    Attributes:
        training: the observation.
        dictionary: its dictionary on the common grid of 18 points.
        h: complex128, (B, Nbs, Nms, K, 1).
        y: complex128, (B, M).
        no: float64, (B,).
        support: bool, (B, Nk) for each factor.
        points: SNR of each instance.
    """

    training: IRSTraining
    dictionary: IRSDictionary
    h: Tensor
    y: Tensor
    no: Tensor
    support: tuple[Tensor, ...]
    points: tuple[float, ...]


def draw_trials(number: int, count: int, snr_db: Sequence[float]) -> Trials:
    """``count`` channels behind training number ``number``; channel and noise are the same at every SNR, up to the level."""
    generator = torch.Generator().manual_seed(9_000_011 * (number + 1))
    irs = IRSCascade(NUM_MS, NUM_IRS, NUM_BS, NUM_PATHS, angles="block", grid_size=GRID)
    training = IRSTraining(irs, NUM_PILOTS, NUM_PATTERNS, patterns="random", pilots="qpsk", seed=number).double()
    dictionary = training.dictionary(grid=GRID)
    drawn = irs.sample(count, generator=generator).double()
    h = training.channel(drawn)
    clean = training.noiseless(h)
    noise = torch.randn(clean.shape, dtype=torch.complex128, generator=generator)
    power = clean.abs().square().mean(1)
    levels = [power / 10 ** (level / 10) for level in snr_db]
    repeat = len(levels)
    return Trials(
        training,
        dictionary,
        h.repeat(repeat, *[1] * (h.dim() - 1)),
        torch.cat([clean + level.sqrt()[:, None] * noise for level in levels]),
        torch.cat(levels),
        tuple(mask.repeat(repeat, 1) for mask in dictionary.mode_support(drawn)),
        tuple(float(level) for level in snr_db for _ in range(count)),
    )
