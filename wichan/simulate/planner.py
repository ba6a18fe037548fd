"""The plan of a run: a pure function of recipe, sizes and selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wichan.errors import InvalidTypeError, InvalidValueError, check_int
from wichan.simulate.sampler import BlockSampler
from wichan.simulate.schema import Recipe
from wichan.store import Cell, ShardPlan, make_plan, samples_per_shard

MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What a run makes.

    Attributes:
        cells: every (split, cell) with its number of samples, in the recipe's order.
        shards: the shards of this run (all, or the part of ``--shard i/n``); indices count over the whole data set.
        shard_size: samples in a full shard, a multiple of ``block_size``.
        block_size: samples in a block.
    """

    cells: tuple[Cell, ...]
    shards: tuple[ShardPlan, ...]
    shard_size: int
    block_size: int

    @property
    def num_samples(self) -> int:
        """Samples in this run's shards."""
        return sum(shard.count for shard in self.shards)


def plan_cells(recipe: Recipe, n: int | None = None) -> tuple[Cell, ...]:
    """Return the selected (split, cell) pairs with ``n`` samples each, or the recipe's own numbers."""
    if n is not None:
        check_int("n", n, minimum=1, maximum=10**9)
    chosen = recipe.selected_cells()
    return tuple(Cell(split, cell, recipe.num_samples(split) if n is None else n) for split, cell in chosen)


def make_run_plan(
    recipe: Recipe,
    sampler: BlockSampler,
    *,
    n: int | None = None,
    part: tuple[int, int] | None = None,
    shard_size: int | None = None,
) -> Plan:
    """Lay the samples out in shards.

    Args:
        recipe: the recipe; its ``split`` and ``cell`` say what to generate.
        sampler: gives block size and columns.
        n: samples in each (split, cell); default the recipe's.
        part: ``(i, n)``, 1 <= i <= n: only every n-th shard, starting with the i-th.
        shard_size: samples in a shard, a multiple of the block size; default as many as fit 128 MiB.

    Raises:
        InvalidValueError: a size or part that is not allowed, or more than a million shards.
    """
    block = sampler.block_size
    size = samples_per_shard(sampler.columns, block) if shard_size is None else check_int("shard_size", shard_size, minimum=1)
    if size % block:
        raise InvalidValueError(f"shard_size={size} must be a multiple of the block size {block}")
    cells = plan_cells(recipe, n)
    total = sum(-(-cell.count // size) for cell in cells)
    if total > MAX_SHARDS:
        raise InvalidValueError(f"n={n} makes {total} shards; at most {MAX_SHARDS} are allowed")
    shards = make_plan(cells, size)
    if part is not None:
        index, count = check_part(part)
        shards = shards[index - 1 :: count]
    return Plan(cells, tuple(shards), size, block)


def check_part(part: object) -> tuple[int, int]:
    """Return ``(i, n)`` with 1 <= i <= n, from a pair or a text ``"i/n"``."""
    if isinstance(part, str):
        first, slash, last = part.partition("/")
        if not slash or not first.strip().isdigit() or not last.strip().isdigit():
            raise InvalidValueError(f"shard={part!r} must be i/n, such as 2/8")
        part = (int(first), int(last))
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise InvalidTypeError(f"shard={part!r} must be a pair (i, n) or a text i/n")
    count = check_int("shard: n", part[1], minimum=1, maximum=100_000)
    index = check_int("shard: i", part[0])
    if not 1 <= index <= count:
        raise InvalidValueError(f"shard={index}/{count}: i must be between 1 and n={count}")
    return index, count


def shard_blocks(shard: ShardPlan, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield (block index, rows wanted) of a shard; only the last block of a cell is cut."""
    for start in range(0, shard.count, block_size):
        yield (shard.first + start) // block_size, min(block_size, shard.count - start)
