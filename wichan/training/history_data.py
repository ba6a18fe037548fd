"""Histories and what followed them, for training: from the live simulator or from a data set, and the fixed validation set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError, StoreError
from wichan.random import make_generator
from wichan.training.data import TRAIN, VALIDATION, Frames, FrameSource, Share
from wichan.training.history_options import HistoryOptions, chosen_antennas, impaired_batch, with_noise

if TYPE_CHECKING:
    from wichan.simulate.csi_rrg import CSIRRGRecipe, CSIRRGSampler

HISTORY = "h_u_hist"
FUTURES = ("h_u_pred", "h_d_pred")
KIND = "csi-rrg"
_HELD_OUT = 10  # the last of so many samples of every cell of a data set are for validation, as published
_MIXED_CELLS = 27  # blocks of so many cells are shuffled together
_BLOCK = 4  # samples of a block; as many as fit into memory with all cells mixed
#: Blocks from here on belong to these sets; neither a data set nor a training run of any length reaches them.
FIRST_BLOCKS = {VALIDATION: 10**12, "calibration": 2 * 10**12}


@dataclass(frozen=True)
class HistorySizes:
    """What a predictor must know of its data, keywords of `wichan.prediction.LearnedPredictor`."""

    num_subcarriers: int
    num_history: int
    num_horizon: int


class HistorySource(FrameSource):
    """What both sources share: antennas, noise.

    Training batches hold some antennas of every sample under noise that is new in every pass; the fixed sets hold all
    antennas, under noise that is the same in every run.

    Args:
        recipe: where the data comes from.
        seed: of order, antennas and noise in training.
        options: of the task.
        device: where frames are computed and go.
    """

    observation: HistorySizes

    def __init__(self, recipe: CSIRRGRecipe, seed: int, options: HistoryOptions, device: torch.device | str) -> None:
        self.seed, self.options, self.device = seed, options, torch.device(device)
        self._noise_seed = recipe.seed
        uplink, downlink = (end - first for first, end in (recipe.uplink_bins, recipe.downlink_bins))
        if uplink != downlink:
            raise InvalidValueError(
                f"recipe={recipe.name!r} has {uplink} uplink bins and {downlink} downlink bins; predictors need as many"
            )
        self.observation = HistorySizes(uplink, recipe.num_history, recipe.num_horizon)

    def columns(self) -> tuple[str, ...]:
        return (HISTORY, *FUTURES)

    def _thinned(self, frames: Frames, names: Sequence[str], *key: str | int) -> Frames:
        """Some antennas of every sample, and the sample's ``power`` over all of them."""
        history = frames[HISTORY]
        kept = {"power": torch.view_as_real(history).square().flatten(1).mean(1) * 2}
        generator = make_generator(self.seed, "antennas", *key)
        antennas = chosen_antennas((history.shape[0], history.shape[1]), self.options.antennas, generator)
        if antennas is None:
            return kept | {name: frames[name] for name in names}
        rows, chosen = torch.arange(len(antennas), device=history.device)[:, None], antennas.to(history.device)
        return kept | {name: frames[name][rows, chosen] for name in names}

    def _impaired(self, frames: Frames, *key: str | int) -> Frames:
        """A training batch with its noise."""
        generator = make_generator(self.seed, "history", *key, device=frames[HISTORY].device)
        power = frames.pop("power")
        if self.options.impaired and torch.rand((), generator=generator, device=generator.device) < self.options.impaired:
            return frames | {HISTORY: impaired_batch(frames[HISTORY], generator)}
        return frames | {HISTORY: with_noise(frames[HISTORY], power, self.options.snr_db, generator)}

    def _fixed_noise(self, frames: Frames, names: Sequence[str], *key: str | int) -> Frames:
        """Frames of a fixed set with their noise."""
        history = frames[HISTORY]
        power = torch.view_as_real(history).square().flatten(1).mean(1) * 2
        generator = make_generator(self._noise_seed, "history", *key, device=history.device)
        return {name: frames[name] for name in names} | {HISTORY: with_noise(history, power, self.options.snr_db, generator)}


class HistoryStream(HistorySource):
    """Draws samples from a recipe while training; all cells are mixed, and batch i never depends on what came before.

    The benchmark has no validation split: validation and calibration samples are drawn from the training cells, from
    blocks that no data set and no training run reaches (`FIRST_BLOCKS`).

    Args:
        recipe: name, path or loaded recipe of kind ``csi-rrg``.
        overrides: settings to change.
        seed: of the training frames; the fixed sets have the recipe's own.
        options: of the task.
        device: where frames are computed and stay.
    """

    def __init__(
        self,
        recipe: Any,
        overrides: dict[str, Any],
        seed: int,
        options: HistoryOptions,
        device: torch.device | str = "cpu",
    ) -> None:
        from wichan.simulate import load_recipe

        loaded: Any = load_recipe(recipe, overrides)
        _check_recipe(loaded)
        loaded = load_recipe(loaded, {"split": TRAIN})
        super().__init__(loaded, seed, options, device)
        self.name = f"recipe {loaded.name}"
        self._sampler = _small_blocks(loaded, device)
        self._cells = [cell for _, cell in loaded.selected_cells()]
        self._span = min(len(self._cells), _MIXED_CELLS)
        self.epoch_frames = loaded.splits[TRAIN].num_samples * len(self._cells)

    def _block(self, seed: int, cell: str, block: int) -> Frames:
        from wichan.simulate.sampler import one_thread

        with one_thread(), torch.no_grad():
            return self._sampler.sample(self._sampler.key(seed, TRAIN, cell, block))

    def _chunk(self, number: int, names: Sequence[str]) -> tuple[list[Frames], torch.Tensor]:
        """One block of each of some cells, and an order of their samples."""
        pieces = []
        for i in range(self._span):
            block, place = divmod(number * self._span + i, len(self._cells))
            cell = self._cells[place]
            pieces.append(self._thinned(self._block(self.seed, cell, block), names, cell, block))
        total = self._span * self._sampler.block_size
        return pieces, torch.randperm(total, generator=make_generator(self.seed, "mix", number))

    def batches(self, names: Sequence[str], size: int, share: Share, first: int = 0) -> Iterator[Frames]:
        span = self._span * self._sampler.block_size
        held, number, batch = -1, 0, first
        while True:
            parts: list[Frames] = []
            at, end = batch * size, (batch + 1) * size
            while at < end:
                number, place = divmod(at, span)
                if number != held:
                    pieces: list[Frames] = []  # the old ones go before new ones come
                    pieces, order = self._chunk(number * share.world + share.rank, names)
                    held = number
                take = min(end - at, span - place)
                parts.append(_gathered(pieces, order[place : place + take], self._sampler.block_size))
                at += take
            yield self._impaired(_joined(parts), share.rank, batch)
            batch += 1

    def fixed(self, names: Sequence[str], number: int, part: str = VALIDATION) -> Frames:
        cells = self._cells[:: max(len(self._cells) // number, 1)][:number]  # more cells than frames: some of them
        pieces = []
        for i, cell in enumerate(cells):
            wanted = number // len(cells) + (i < number % len(cells))
            for place in range(math.ceil(wanted / self._sampler.block_size)):
                block = FIRST_BLOCKS[part] + place
                whole = self._block(self._noise_seed, cell, block)
                left = min(wanted - place * self._sampler.block_size, self._sampler.block_size)
                noisy = self._fixed_noise(whole, names, cell, block)
                pieces.append({name: value[:left].clone() for name, value in noisy.items()})
        return _joined(pieces)


class HistoryFolder(HistorySource):
    """Reads samples of a data set folder; every pass has an order and noise of its own.

    The last tenth of every cell of split ``train`` is for validation and calibration.

    Args:
        path: the folder.
        seed: of order, antennas and noise.
        options: of the task.
        device: where frames go.
    """

    def __init__(self, path: str, seed: int, options: HistoryOptions, device: torch.device | str = "cpu") -> None:
        from wichan.simulate import recipe_from_dict
        from wichan.store import load_manifest

        manifest = load_manifest(path)
        if "kind" not in manifest.header.recipe:
            raise StoreError(f"{path} was not made from a recipe; what its columns hold is not known")
        recipe: Any = recipe_from_dict(manifest.header.recipe)
        splits = list(dict.fromkeys(cell.split for cell in manifest.cells))
        _check_kind(recipe)
        if TRAIN not in splits:
            raise InvalidValueError(f"data={path!r} has no split {TRAIN!r} (it has {', '.join(splits)})")
        super().__init__(recipe, seed, options, device)
        self.path, self.name = path, f"data set {path}"
        self._columns = tuple(column.name for column in manifest.header.columns)
        self._training, self._held_out = _parts(path, [s for s in manifest.shards if s.split == TRAIN])
        self.epoch_frames = len(self._training)

    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in super().columns() if name in self._columns)

    def _open(self, names: Sequence[str]) -> Any:
        import wichan.store as store

        return store.open(self.path, split=TRAIN, columns=list(names))

    def batches(self, names: Sequence[str], size: int, share: Share, first: int = 0) -> Iterator[Frames]:
        data, total = self._open(names), len(self._training)
        per_pass = total // share.world // size
        if not per_pass:
            raise InvalidValueError(f"batch_size={size} on {share.world} devices is more than the {total} training frames")
        batch = first
        while True:
            one_pass, i = divmod(batch, per_pass)
            order = torch.randperm(total, generator=make_generator(self.seed, "order", one_pass))
            mine = order[share.rank :: share.world][i * size : (i + 1) * size]
            frames = self._moved(data.batch(self._training[mine]))
            yield self._impaired(self._thinned(frames, names, share.rank, batch), share.rank, batch)
            batch += 1

    def fixed(self, names: Sequence[str], number: int, part: str = VALIDATION) -> Frames:
        held, data = self._held_out, self._open(names)
        mine = held[0::2] if part == VALIDATION else held[1::2]
        if len(mine) < number:  # too few for two sets
            mine = held
        places = mine[torch.linspace(0, len(mine) - 1, min(number, len(mine))).round().long()]
        pieces = []
        for position in places.split(_BLOCK):
            frames = self._moved(data.batch(position))
            pieces.append(self._fixed_noise(frames, names, part, int(position[0])))
        return _joined(pieces)

    def _moved(self, frames: Frames) -> Frames:
        return {name: value.to(self.device, non_blocking=True) for name, value in frames.items()}


def _parts(path: str, shards: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of training and held-out samples in the split, the last tenth of every cell held out."""
    sizes: dict[str, int] = {}
    for shard in shards:
        sizes[shard.cell] = max(sizes.get(shard.cell, 0), shard.first + shard.count)
    limits = {cell: size - math.ceil(size / _HELD_OUT) for cell, size in sizes.items()}
    if not any(limits.values()):
        raise InvalidValueError(
            f"data={path!r} has one sample a cell; a tenth of every cell is for validation, so two are needed"
        )
    parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    start = 0
    for shard in shards:
        places = torch.arange(start, start + shard.count)
        early = torch.arange(shard.first, shard.first + shard.count) < limits[shard.cell]
        parts[0].append(places[early])
        parts[1].append(places[~early])
        start += shard.count
    return torch.cat(parts[0]), torch.cat(parts[1])


def _check_kind(recipe: Any) -> None:
    if recipe.kind != KIND:
        raise InvalidValueError(f"recipe={recipe.name!r} is of kind {recipe.kind!r}; a predictor learns from kind {KIND!r}")


def _check_recipe(recipe: Any) -> None:
    _check_kind(recipe)
    if TRAIN not in recipe.split_names():
        raise InvalidValueError(f"recipe={recipe.name!r} has no split {TRAIN!r} (it has {', '.join(recipe.split_names())})")


def _small_blocks(recipe: CSIRRGRecipe, device: torch.device | str) -> CSIRRGSampler:
    """The recipe's sampler with small blocks: all cells of the benchmark are shuffled together, which must fit into memory."""
    from wichan.simulate.csi_rrg import CSIRRGSampler

    class SmallBlocks(CSIRRGSampler):
        nominal_block = _BLOCK

    sampler = SmallBlocks(recipe, device=device)
    sampler.ready()
    return sampler


def _gathered(pieces: Sequence[Frames], order: torch.Tensor, size: int) -> Frames:
    """Samples of blocks of ``size`` by their number, without joining the blocks first."""
    where = [divmod(number, size) for number in order.tolist()]
    return {name: torch.stack([pieces[piece][name][row] for piece, row in where]) for name in pieces[0]}


def _joined(pieces: Sequence[Frames]) -> Frames:
    return pieces[0] if len(pieces) == 1 else {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
