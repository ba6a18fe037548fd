"""Frames of a run: order, shares, going on, the fixed set, and the thread that works ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import wichan as wc
from wichan.errors import InvalidValueError, StoreError, UnknownNameError
from wichan.training.config import TrainConfig
from wichan.training.data import DiskSource, Share, StreamSource, check_columns, cut, open_source
from wichan.training.prefetch import BatchFeed

NAMES = ("h", "y", "no", "delay_spread")
WHOLE = Share()


def some(source: Any, count: int, size: int = 100, share: Share = WHOLE, first: int = 0) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(source.batches(NAMES, size, share, first), count))


def same(a: dict[str, torch.Tensor], b: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for name in NAMES)


@pytest.fixture
def source(tiny_recipe: dict[str, Any]) -> StreamSource:
    return StreamSource("ofdm-siso", tiny_recipe, seed=5)


# -- Streams. --


def test_frames_are_those_of_the_live_stream(source: StreamSource, tiny_recipe: dict[str, Any]) -> None:
    live = wc.simulate.stream("ofdm-siso", batch_size=100, seed=5, num_batches=6, **tiny_recipe)
    assert all(same(mine, theirs) for mine, theirs in zip(some(source, 6), live, strict=True))


@pytest.mark.parametrize("first", [1, 2, 5])
def test_a_stream_goes_on_where_it_was(source: StreamSource, first: int) -> None:
    whole = some(source, 8, share=Share(1, 3))
    assert all(same(a, b) for a, b in zip(whole[first:], some(source, 8 - first, share=Share(1, 3), first=first), strict=True))


def test_shares_of_a_stream_do_not_overlap_and_make_the_whole(source: StreamSource) -> None:
    parts = [torch.cat([b["no"] for b in some(source, 4, 128, Share(rank, 2))]) for rank in range(2)]
    whole = torch.cat([b["no"] for b in some(source, 8, 128)])
    assert torch.equal(torch.cat(parts).sort().values, whole.sort().values)
    assert not set(parts[0].tolist()) & set(parts[1].tolist())


def test_cells_are_mixed(tiny_recipe: dict[str, Any]) -> None:
    cells = {f"c{i}": {"delay_spread": (i + 1) * 1e-8} for i in range(3)}
    source = StreamSource("ofdm-siso", tiny_recipe | {"splits.train.cells": cells}, seed=5)
    spreads = some(source, 1)[0]["delay_spread"]
    # Of 100 frames out of three equal cells, each has 33 on average and at least 10 but in 1e-7 of all orders.
    assert min(torch.unique(spreads, return_counts=True)[1].tolist()) >= 10
    assert same(some(source, 12)[10], some(source, 1, first=10)[0])
    assert source.epoch_frames == 3 * 100_000


def test_the_fixed_set_depends_on_the_recipe_alone(source: StreamSource, tiny_recipe: dict[str, Any]) -> None:
    other = StreamSource("ofdm-siso", tiny_recipe, seed=99)
    mine = source.fixed(NAMES, 300)
    assert len(mine["h"]) == 300
    assert same(mine, other.fixed(NAMES, 300))
    assert same({name: value[:20] for name, value in mine.items()}, source.fixed(NAMES, 20))
    apart = source.fixed(NAMES, 300, "calibration")["no"]
    training = torch.cat([b["no"] for b in some(source, 3)])
    # No frame is shared: the noise variances are continuous.
    assert not set(mine["no"].tolist()) & (set(apart.tolist()) | set(training.tolist()))


def test_the_fixed_set_covers_cells(tiny_recipe: dict[str, Any]) -> None:
    cells = {f"c{i}": {"delay_spread": (i + 1) * 1e-8} for i in range(3)}
    source = StreamSource("ofdm-siso", tiny_recipe | {"splits.val.cells": cells}, seed=5)
    assert torch.unique(source.fixed(NAMES, 8)["delay_spread"], return_counts=True)[1].tolist() == [3, 3, 2]
    assert len(source.fixed(NAMES, 2)["h"]) == 2  # fewer frames than cells


@pytest.mark.parametrize(
    ("recipe", "overrides", "text"),
    [
        ("csi-rrg", {}, "only kind 'ofdm' has pilots"),
        ("ofdm-siso", {"splits": {"val": None}}, "splits.val"),
        ("ofdm-sis", {}, "did you mean 'ofdm-siso'"),
    ],
)
def test_recipes_that_cannot_be_trained_on(recipe: str, overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(wc.errors.WichanError, match="^[^\n]*$") as caught:
        StreamSource(recipe, overrides, 0)
    assert text in str(caught.value)


def test_a_recipe_without_a_validation_split(tmp_path: Path) -> None:
    text = (wc.simulate.recipe_folder() / "ofdm-siso.yaml").read_text().replace("  val: {num_samples: 10000}\n", "")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InvalidValueError, match="has no split 'val' \\(it has train, test\\)"):
        StreamSource(tmp_path / "mine.yaml", {}, 0)


def test_a_condition_that_is_not_there(source: StreamSource) -> None:
    with pytest.raises(UnknownNameError, match="column needed from recipe ofdm-siso='speed'"):
        check_columns(source, ("h", "speed"))


# -- Data sets. --


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "set"
    small = {"grid.num_ofdm_symbols": 8, "grid.num_subcarriers": 12, "pilots.symbols": [1, 6], "max_doppler": 100.0}
    recipe = wc.simulate.load_recipe("ofdm-siso", small | {"splits.train.num_samples": 50, "splits.val.num_samples": 20})
    wc.simulate.run(wc.simulate.load_recipe(recipe, {"split": ["train", "val"]}), path, workers=1, on_warning=lambda text: None)
    return path


def test_every_frame_comes_once_a_pass_in_a_new_order(folder: Path) -> None:
    source = DiskSource(str(folder), seed=3)
    assert source.epoch_frames == 50
    passes = [torch.cat([b["no"] for b in some(source, 5, 10, first=5 * i)]) for i in range(2)]
    stored = wc.store.open(folder, split="train")[:]["no"]
    assert all(torch.equal(one.sort().values, stored.sort().values) for one in passes)
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], torch.cat([b["no"] for b in some(DiskSource(str(folder), seed=4), 5, 10)]))


def test_a_data_set_goes_on_where_it_was_and_is_shared(folder: Path) -> None:
    source = DiskSource(str(folder), seed=3)
    whole = some(source, 9, 8, Share(1, 2))
    assert all(same(a, b) for a, b in zip(whole[5:], some(source, 4, 8, Share(1, 2), first=5), strict=True))
    one, two = (set(torch.cat([b["no"] for b in some(source, 3, 8, Share(rank, 2))]).tolist()) for rank in range(2))
    assert not one & two


def test_the_fixed_set_of_a_data_set(folder: Path) -> None:
    source = DiskSource(str(folder), seed=3)
    stored = wc.store.open(folder, split="val")[:]["no"].tolist()
    assert source.fixed(NAMES, 100)["no"].tolist() == stored  # all there is
    mine, apart = source.fixed(NAMES, 10)["no"].tolist(), source.fixed(NAMES, 10, "calibration")["no"].tolist()
    assert sorted(mine + apart) == sorted(stored)


def test_data_sets_that_cannot_be_trained_on(folder: Path, tmp_path: Path, tiny_recipe: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_source(TrainConfig.of("linear", data=str(tmp_path / "none")))
    with pytest.raises(InvalidValueError, match="batch_size=51"):
        some(DiskSource(str(folder), seed=3), 1, 51)
    lone = wc.simulate.load_recipe("ofdm-siso", tiny_recipe | {"split": "train"})
    wc.simulate.run(lone, tmp_path / "lone", n=4, workers=1, on_warning=lambda text: None)
    with pytest.raises(InvalidValueError, match="has no split 'val' \\(it has train\\)"):
        DiskSource(str(tmp_path / "lone"), 0)


# -- Ahead of the device. --


def numbers(first: int) -> Iterator[dict[str, torch.Tensor]]:
    for i in itertools.count(first):
        yield {"i": torch.tensor(i)}


@pytest.mark.parametrize("background", [False, True])
def test_a_feed_hands_out_passes_in_order(background: bool) -> None:
    feed = BatchFeed(numbers, first=3, length=lambda given: 4 - given % 4, device=torch.device("cpu"), background=background)
    passes = [[int(batch["i"]) for batch in feed] for _ in range(3)]
    feed.close()
    assert passes == [[3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert feed.given == 12
    assert feed.waited >= 0


def test_an_error_in_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    def failing(first: int) -> Iterator[dict[str, torch.Tensor]]:
        yield {"i": torch.tensor(first)}
        raise InvalidValueError("no more")

    feed = BatchFeed(failing, first=0, length=lambda given: 9, device=torch.device("cpu"), background=True)
    with pytest.raises(InvalidValueError, match="no more"):
        list(feed)
    feed.close()


def test_waiting_is_measured() -> None:
    import time

    def slow(first: int) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            time.sleep(0.02)
            yield {}

    feed = BatchFeed(slow, first=0, length=lambda given: 5, device=torch.device("cpu"), background=False)
    list(feed)
    assert feed.waited >= 5 * 0.02 * 0.99


def test_a_fixed_set_is_cut_without_loss() -> None:
    frames = {"no": torch.arange(11.0)}
    parts = [torch.cat([b["no"] for b in cut(frames, 2, Share(rank, 3))]) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == frames["no"].tolist()
