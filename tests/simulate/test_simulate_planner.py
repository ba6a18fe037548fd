"""The plan of a run, and the scenario cells of the CSI benchmark."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.simulate import KINDS, load_recipe, make_run_plan, plan_cells
from wichan.simulate.planner import check_part, shard_blocks
from wichan.simulate.sampler import block_size
from wichan.store import ShardPlan

OFDM = load_recipe("ofdm-siso")
SAMPLER = KINDS["ofdm"](OFDM)


def test_cells_carry_the_recipe_sizes_or_n() -> None:
    assert [(c.split, c.cell, c.count) for c in plan_cells(OFDM)] == [
        ("train", "main", 100_000),
        ("val", "main", 10_000),
        ("test", "main", 2_000),
    ]
    assert [c.count for c in plan_cells(OFDM, 7)] == [7, 7, 7]
    chosen = load_recipe("ofdm-siso", {"split": ["test", "train"]})
    assert [c.split for c in plan_cells(chosen)] == ["train", "test"]


def test_benchmark_cells_are_27_27_510() -> None:
    recipe = load_recipe("csi-rrg", {"split": "all"})
    cells = {split: recipe.cell_names(split) for split in recipe.split_names()}
    assert {split: len(names) for split, names in cells.items()} == {"train": 27, "regular": 27, "generalization": 510}
    assert cells["train"] == cells["regular"]
    assert len(set(cells["generalization"]) & set(cells["train"])) == 27
    assert cells["train"][0] == "cm_A_ds_030_ms_001"
    assert "cm_E_ds_400_ms_045" in cells["generalization"]
    speeds = sorted({int(name[-3:]) for name in cells["generalization"]})
    assert speeds == [1, 3, 6, 9, 10, *range(12, 46, 3)]
    assert sum(c.count for c in plan_cells(recipe)) == 27_000 + 2_700 + 51_000
    # six noise levels on each generalization cell: the benchmark's 3,060 settings; 6 x 27 regular ones
    assert (6 * len(cells["generalization"]), 6 * len(cells["regular"])) == (3060, 162)


def test_cell_values_follow_their_name() -> None:
    recipe = load_recipe("csi-rrg")
    for name in ("cm_A_ds_030_ms_010", "cm_D_ds_300_ms_001"):
        cell = recipe.scenario("train", name)  # type: ignore[attr-defined]
        assert cell.name == name
        assert (cell.profile, round(cell.delay_spread * 1e9), cell.speed) == (name[3], int(name[8:11]), int(name[-3:]))


@given(n=st.integers(1, 5000), blocks=st.integers(1, 4), parts=st.integers(1, 7))
def test_parts_cover_every_sample_once(n: int, blocks: int, parts: int) -> None:
    size = blocks * SAMPLER.block_size
    whole = make_run_plan(OFDM, SAMPLER, n=n, shard_size=size)
    assert whole.num_samples == 3 * n
    pieces = [make_run_plan(OFDM, SAMPLER, n=n, shard_size=size, part=(i, parts)).shards for i in range(1, parts + 1)]
    assert sorted((s for piece in pieces for s in piece), key=lambda s: s.index) == list(whole.shards)
    for shard in whole.shards:
        assert shard.first % SAMPLER.block_size == 0
        rows = list(shard_blocks(shard, SAMPLER.block_size))
        assert sum(count for _, count in rows) == shard.count
        assert rows[0][0] == shard.first // SAMPLER.block_size


def test_blocks_of_a_shard() -> None:
    assert list(shard_blocks(ShardPlan(0, "train", "main", 512, 300), 256)) == [(2, 256), (3, 44)]


def test_block_size_shrinks_with_the_sample() -> None:
    assert (block_size(256, 26_897), block_size(20, 1_843_213), block_size(256, 1 << 20)) == (256, 20, 32)
    with pytest.raises(InvalidValueError, match="at most 67108864"):
        block_size(256, (64 << 20) + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"n": 2.5}, "n=2.5 must be an integer"),
        ({"shard_size": 100}, "shard_size=100 must be a multiple of the block size 256"),
        ({"n": 10**9, "shard_size": 256}, "shards; at most 1000000"),
        ({"part": (0, 3)}, "shard=0/3: i must be between 1 and n=3"),
        ({"part": (4, 3)}, "shard=4/3: i must be between 1 and n=3"),
    ],
)
def test_bad_plans_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        make_run_plan(OFDM, SAMPLER, **arguments)


def test_part_is_read_from_text() -> None:
    assert check_part("2/8") == check_part((2, 8)) == (2, 8)
    for bad in ("2", "a/b", "-1/3", "1/2/3", "2/"):
        with pytest.raises(InvalidValueError, match="must be i/n"):
            check_part(bad)
    with pytest.raises(InvalidTypeError, match="must be a pair"):
        check_part(3)
