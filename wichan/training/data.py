"""Where the frames of a training run come from: a simulator's stream, or a data set on disk; and the fixed validation set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidValueError, StoreError, unknown_name
from wichan.random import make_generator
from wichan.simulate.sampler import BlockSampler, one_thread
from wichan.training.config import TrainConfig

Frames = dict[str, torch.Tensor]
TRAIN, VALIDATION = "train", "val"
_MIXED_CELLS = 8  # blocks of this many cells are shuffled together, where a recipe has cells
_CALIBRATION_BLOCK = 10_000  # blocks from here on belong to the calibration set


@dataclass(frozen=True)
class Share:
    """Which part of the frames a process takes: number ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1


class FrameSource(ABC):
    """Frames for training, in an order that depends on the seed alone.

    Attributes:
        observation: the pilots; of histories their sizes.
        epoch_frames: frames of one pass.
        name: what it is, for a reader.
    """

    observation: Any
    epoch_frames: int
    name: str

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of what a frame holds."""

    @abstractmethod
    def batches(self, names: Sequence[str], size: int, share: Share, first: int = 0) -> Iterator[Frames]:
        """Yield batches without end.

        Args:
            names: columns to give.
            size: frames in a batch.
            share: which process asks; shares do not overlap.
            first: number of the batch to begin with: a resumed run goes on where it was.
        """

    @abstractmethod
    def fixed(self, names: Sequence[str], number: int, part: str = VALIDATION) -> Frames:
        """Return ``number`` frames of the validation split, the same in every run.

        Args:
            names: columns to give.
            number: of frames.
            part: ``"val"``, or ``"calibration"`` for others (as far as a data set has others).
        """


def open_source(config: TrainConfig, device: torch.device | str = "cpu") -> FrameSource:
    """Open the source that a run's settings name.

    Raises:
        InvalidValueError: a recipe without pilots, no split to train on or to validate on. StoreError: no data set.
    """
    return config.family.source(config, device)


class StreamSource(FrameSource):
    """Draws frames from a recipe while training; batch number i never depends on what came before.

    Args:
        recipe: name, path or loaded recipe.
        overrides: settings to change.
        seed: of the training frames; the validation set has the recipe's own, and so do both where fading is frozen.
        device: where frames are computed and stay.
        kind: of the recipe, which decides what the pilots are.
    """

    def __init__(
        self, recipe: Any, overrides: dict[str, Any], seed: int, device: torch.device | str = "cpu", kind: str = "ofdm"
    ) -> None:
        from wichan.simulate import load_recipe

        loaded = load_recipe(recipe, overrides)
        _check_recipe(loaded, kind)
        # Frozen channels belong to a seed: with another one, training would see other channels than validation.
        self.name, self.seed = f"recipe {loaded.name}", seed if loaded.independent_fading else loaded.seed
        self._samplers: dict[str, BlockSampler] = {}
        for split in (TRAIN, VALIDATION):
            chosen = load_recipe(loaded, {"split": split})
            self._samplers[split] = type(self)._sampler(chosen, device)
        link = self._samplers[TRAIN].link  # type: ignore[attr-defined]
        self.observation = link.observation
        self.epoch_frames = loaded.splits[TRAIN].num_samples * len(self._samplers[TRAIN].recipe.selected_cells())

    @staticmethod
    def _sampler(recipe: Any, device: torch.device | str) -> BlockSampler:
        from wichan.simulate import KINDS

        sampler: BlockSampler = KINDS[recipe.kind](recipe, device=device)
        sampler.ready()
        return sampler

    def columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self._samplers[TRAIN].columns)

    def _block(self, split: str, seed: int, cell: str, block: int, names: Sequence[str]) -> Frames:
        sampler = self._samplers[split]
        with one_thread(), torch.no_grad():
            values = sampler.sample(sampler.key(seed, split, cell, block), device_noise=split == TRAIN)
        return {name: values[name].to(sampler.device) for name in names}

    def _chunk(self, number: int, names: Sequence[str]) -> Frames:
        """Block ``number`` of the only cell, or some cells' blocks, shuffled."""
        cells = self._samplers[TRAIN].recipe.selected_cells()
        span = min(len(cells), _MIXED_CELLS)
        places = [divmod(number * span + i, len(cells)) for i in range(span)]
        frames = _joined([self._block(TRAIN, self.seed, cells[cell][1], block, names) for block, cell in places])
        return frames if span == 1 else _shuffled(frames, make_generator(self.seed, "mix", number))

    def batches(self, names: Sequence[str], size: int, share: Share, first: int = 0) -> Iterator[Frames]:
        sampler = self._samplers[TRAIN]
        span = sampler.block_size * min(len(sampler.recipe.selected_cells()), _MIXED_CELLS)
        number, skip = divmod(first * size, span)
        held: Frames | None = None
        while True:
            while held is None or count(held) < size:
                chunk = {k: v[skip:] for k, v in self._chunk(number * share.world + share.rank, names).items()}
                held = chunk if held is None else _joined([held, chunk])
                number, skip = number + 1, 0
            yield {name: value[:size] for name, value in held.items()}
            held = {name: value[size:] for name, value in held.items()}

    def fixed(self, names: Sequence[str], number: int, part: str = VALIDATION) -> Frames:
        sampler = self._samplers[VALIDATION]
        cells = [cell for _, cell in sampler.recipe.selected_cells()]
        step = max(len(cells) // number, 1)  # more cells than frames: some of them
        cells = cells[::step][:number]
        start = 0 if part == VALIDATION else _CALIBRATION_BLOCK
        pieces = []
        for i, cell in enumerate(cells):
            wanted = number // len(cells) + (i < number % len(cells))
            blocks = range(start, start + math.ceil(wanted / sampler.block_size))
            whole = _joined([self._block(VALIDATION, sampler.recipe.seed, cell, block, names) for block in blocks])
            pieces.append({name: value[:wanted] for name, value in whole.items()})
        return _joined(pieces)


class DiskSource(FrameSource):
    """Reads frames of a data set folder; every pass has an order of its own.

    Args:
        path: the folder.
        seed: of the order.
        device: where frames go.
        kind: of the recipe that it was made from.
    """

    def __init__(self, path: str, seed: int, device: torch.device | str = "cpu", kind: str = "ofdm") -> None:
        from wichan.simulate import build_link, recipe_from_dict
        from wichan.store import load_manifest

        manifest = load_manifest(path)
        splits = list(dict.fromkeys(cell.split for cell in manifest.cells))
        for split in (TRAIN, VALIDATION):
            if split not in splits:
                raise InvalidValueError(f"data={path!r} has no split {split!r} (it has {', '.join(splits)}); both are needed")
        if "kind" not in manifest.header.recipe:
            raise StoreError(f"{path} was not made from a recipe; where its pilots are is not known")
        recipe = recipe_from_dict(manifest.header.recipe)
        _check_recipe(recipe, kind)
        self.path, self.seed, self.device = path, seed, torch.device(device)
        self.name = f"data set {path}"
        self.observation = build_link(recipe).observation
        self._columns = tuple(column.name for column in manifest.header.columns)
        self.epoch_frames = sum(shard.count for shard in manifest.shards if shard.split == TRAIN)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def _open(self, split: str, names: Sequence[str]) -> Any:
        import wichan.store as store

        return store.open(self.path, split=split, columns=list(names))

    def batches(self, names: Sequence[str], size: int, share: Share, first: int = 0) -> Iterator[Frames]:
        data = self._open(TRAIN, names)
        per_pass = len(data) // share.world // size
        if not per_pass:
            raise InvalidValueError(f"batch_size={size} on {share.world} devices is more than the {len(data)} training frames")
        number = first
        while True:
            one_pass, start = divmod(number, per_pass)
            order = torch.randperm(len(data), generator=make_generator(self.seed, "order", one_pass))
            mine = order[share.rank :: share.world]
            for i in range(start, per_pass):
                yield self._moved(data.batch(mine[i * size : (i + 1) * size].tolist()))
            number = (one_pass + 1) * per_pass

    def fixed(self, names: Sequence[str], number: int, part: str = VALIDATION) -> Frames:
        data = self._open(VALIDATION, names)
        # Spread over the split, cells too; the calibration set lies between.
        step = max(len(data) // (2 * number), 1)
        offset = 0 if part == VALIDATION or step * 2 * number > len(data) else step
        places = range(offset, len(data), 2 * step if step * 2 * number <= len(data) else step)
        return self._moved(data.batch(list(places)[:number]))

    def _moved(self, frames: Frames) -> Frames:
        return {name: value.to(self.device, non_blocking=True) for name, value in frames.items()}


def _check_recipe(recipe: Any, kind: str) -> None:
    if recipe.kind != kind:
        raise InvalidValueError(
            f"recipe={recipe.name!r} is of kind {recipe.kind!r}; only kind {kind!r} has pilots to train this model on"
        )
    for split in (TRAIN, VALIDATION):
        if split not in recipe.split_names():
            raise InvalidValueError(
                f"recipe={recipe.name!r} has no split {split!r} (it has {', '.join(recipe.split_names())}); both are needed"
            )


def check_columns(source: FrameSource, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return ``wanted`` if the source has all of these columns.

    Raises:
        UnknownNameError: one is missing, such as a condition that the network must be told.
    """
    for name in wanted:
        if name not in source.columns():
            raise unknown_name(f"column needed from {source.name}", name, source.columns())
    return tuple(wanted)


def count(frames: Frames) -> int:
    """How many frames there are."""
    return len(next(iter(frames.values())))


def _joined(pieces: Sequence[Frames]) -> Frames:
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _shuffled(frames: Frames, generator: torch.Generator) -> Frames:
    order = torch.randperm(count(frames), generator=generator)
    return {name: value[order.to(value.device)] for name, value in frames.items()}


def cut(frames: Frames, size: int, share: Share) -> list[Frames]:
    """Cut a fixed set into batches and take this process's share of the frames."""
    mine = {name: value[share.rank :: share.world] for name, value in frames.items()}
    return [{k: v[i : i + size] for k, v in mine.items()} for i in range(0, count(mine), size)]
