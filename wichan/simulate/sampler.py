"""Blocks: the unit of data generation, and the contract of everything that fills them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from wichan.errors import InvalidValueError
from wichan.random import make_generator
from wichan.simulate.interference import Interference
from wichan.simulate.schema import Recipe
from wichan.store import Column

MAX_BLOCK_BYTES = 40 << 20
MAX_SAMPLE_BYTES = 64 << 20


@dataclass(frozen=True)
class BlockKey:
    """Names one block of samples: everything its random numbers depend on.

    Args:
        seed: seed of the run.
        recipe: recipe name.
        version: recipe version.
        split: split name.
        cell: cell name.
        block: index of the block within the cell.
    """

    seed: int
    recipe: str
    version: int
    split: str
    cell: str
    block: int

    def generator(self, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
        """Return a fresh generator for one purpose ("rays", "noise", a condition's name) within the block."""
        place = (self.recipe, self.version, self.split, self.cell, self.block)
        return make_generator(self.seed, *place, *purpose, device=device)


class BlockSampler(ABC):
    """Computes whole blocks of a recipe.

    A sampler is built once per process and cell-independent work is kept between blocks. `sample` depends only on the
    recipe and the key, never on what was computed before.

    Args:
        recipe: a checked recipe of the kind's schema.
        device: where channels and observations are computed; random parameters are always drawn on the CPU.
    """

    schema: ClassVar[type[Recipe]]
    nominal_block: ClassVar[int] = 256

    columns: tuple[Column, ...]
    snr_convention: str | None = None
    normalization: dict[str, Any] | str | None = None

    def __init__(self, recipe: Recipe, *, device: str | torch.device = "cpu") -> None:
        self.recipe = recipe
        self.device = torch.device(device)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample over all columns."""
        return sum(column.nbytes for column in self.columns)

    @property
    def block_size(self) -> int:
        """Samples in a block: the kind's own number, halved until a block fits 40 MiB (part of the format version)."""
        return block_size(self.nominal_block, self.bytes_per_sample)

    def key(self, seed: int, split: str, cell: str, block: int) -> BlockKey:
        """Name a block of this recipe."""
        return BlockKey(seed, self.recipe.name, self.recipe.recipe_version, split, cell, block)

    @abstractmethod
    def sample(self, key: BlockKey, *, device_noise: bool = False) -> dict[str, torch.Tensor]:
        """Compute the block ``key``.

        Args:
            key: which block.
            device_noise: draw observation noise on ``self.device`` (a live stream) instead of the CPU (a data set).

        Returns:
            column name -> tensor (block_size, \\*shape) in the order of ``columns``; words as codes.
        """

    def ready(self) -> None:
        """Raise what would keep the sampler from computing (a package that is missing); asked before a run starts."""
        return

    def versions(self) -> dict[str, str]:
        """Versions of further packages that fix the bits of the samples."""
        return {}

    def interference(self) -> tuple[Interference, ...]:
        """What a frequency-domain model leaves out, one entry a split; empty where that makes no sense."""
        return ()


def block_size(nominal: int, bytes_per_sample: int) -> int:
    """Return the block size for a sample size; refuse samples over 64 MiB."""
    if bytes_per_sample > MAX_SAMPLE_BYTES:
        raise InvalidValueError(
            f"a sample has {bytes_per_sample} bytes; at most {MAX_SAMPLE_BYTES} are allowed: "
            "choose a smaller grid or fewer antennas"
        )
    size = nominal
    while size > 1 and size * bytes_per_sample > MAX_BLOCK_BYTES:
        size //= 2
    return size


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run with one intra-op thread (PyTorch's CPU kernels change bits with the thread count); restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
