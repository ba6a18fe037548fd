"""Randomness as an argument: seeded streams and complex noise. The global generator is never touched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch


def derive_seed(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and every element of ``key``.

    The hash (BLAKE2b over length-prefixed UTF-8) makes streams of different keys independent, and is the same on every
    machine: ``derive_seed(seed, split, cell, block)`` is the stream of one block of a data set.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *key):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def make_generator(seed: int, *key: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a fresh `torch.Generator` seeded by `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *key))


def uniform(
    shape: Sequence[int], low: float = 0.0, high: float = 1.0, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Draw from U[low, high) on the generator's device."""
    return torch.rand(*shape, generator=generator, device=generator.device, dtype=dtype).mul_(high - low).add_(low)


def complex_normal(
    shape: Sequence[int],
    variance: float = 1.0,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.complex64,
) -> torch.Tensor:
    """Draw circularly symmetric CN(0, variance): half of the variance in each real part."""
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    parts = torch.randn(*shape, 2, generator=generator, device=generator.device, dtype=real)
    return torch.view_as_complex(parts.mul_(math.sqrt(variance / 2)))
