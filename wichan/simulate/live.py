"""Training straight from the simulator, with no disk between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int
from wichan.simulate.batch import Batch
from wichan.simulate.devices import pick_device
from wichan.simulate.recipe import load_recipe
from wichan.simulate.sampler import BlockSampler, one_thread
from wichan.simulate.schema import Recipe
from wichan.simulate.sources import KINDS


def stream(
    recipe: str | Path | Recipe,
    *,
    batch_size: int,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    split: str = "train",
    num_batches: int | None = None,
    columns: Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    **overrides: Any,
) -> Iterator[Batch]:
    """Yield batches of a recipe's samples, endless unless ``num_batches`` is given.

    Samples come in the order of the data set: block 0 of every selected cell, then block 1, and so on past the recipe's
    number of samples. On the CPU they equal the data set's bit for bit; random parameters are drawn on the CPU, so a GPU
    gets the same channels (to float tolerance), while observation noise is drawn on the device.

    The stream is for the main process (iterate it, or wrap it for ``DataLoader(..., batch_size=None, num_workers=0)``), as
    every worker would repeat the same batches; for workers, `run` a data set to disk and load what `wichan.store.open` gives.

    Args:
        recipe: name, path, or a loaded recipe.
        batch_size: samples in a batch; any number, the blocks' size does not show.
        seed: default the recipe's.
        device: ``"cpu"``, ``"cuda"``, ``"auto"``: where channels and observations are computed and stay.
        split: which split; validation and test streams differ from training.
        num_batches: how many batches; default endless.
        columns: keep only these columns.
        cells: keep only these cells of the split, one name or several; the recipe's ``cell`` under another name.
        **overrides: settings of the recipe, such as ``snr_db=10.0`` or ``cell="cm_A_ds_100_ms_010"``; dotted keys go in as
            ``**{"grid.num_subcarriers": 240}``.

    Returns:
        An iterator of `Batch`: ``batch.h``, ``batch.y``, ``batch.no``, ``batch.conditions``.

    Raises:
        InvalidValueError, UnknownNameError: at the call, not at the first batch.

    Example:
        >>> batch = next(stream("ofdm-siso", batch_size=4, snr_db=10.0))
        >>> batch.h.shape, batch.y.shape, batch.snr_db.tolist()
        (torch.Size([4, 1, 1, 14, 120]), torch.Size([4, 1, 14, 120]), [10.0, 10.0, 10.0, 10.0])
    """
    if cells is not None:
        overrides = _choose(cells, overrides)
    loaded = load_recipe(recipe, {**overrides, "split": split})
    size = check_int("batch_size", batch_size, minimum=1)
    count = None if num_batches is None else check_int("num_batches", num_batches, minimum=0)
    chosen_seed = loaded.seed if seed is None else check_int("seed", seed, minimum=0, maximum=2**63 - 1)
    sampler: BlockSampler = KINDS[loaded.kind](loaded, device=pick_device(device))
    sampler.ready()
    known = [column.name for column in sampler.columns]
    if columns is not None and not columns:
        raise InvalidValueError(f"columns={list(columns)} is empty; name at least one of: {', '.join(known)}")
    kept = known if columns is None else [check_choice("columns", name, known) for name in columns]
    return _batches(sampler, chosen_seed, size, count, kept)


def _choose(cells: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides with ``cells`` as the recipe's ``cell``."""
    if "cell" in overrides:
        raise InvalidValueError(f"cells={cells!r:.60} and cell={overrides['cell']!r:.60} say the same; give one of them")
    names = [cells] if isinstance(cells, str) else cells
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidTypeError(f"cells={cells!r:.60} must be a name or a list of names")
    if not names:
        raise InvalidValueError("cells=[] is empty; name at least one cell, or leave it out for all")
    return {**overrides, "cell": list(names)}


def _batches(sampler: BlockSampler, seed: int, size: int, count: int | None, names: list[str]) -> Iterator[Batch]:
    words = {column.name: column.categories for column in sampler.columns if column.categories and column.name in names}
    blocks = _blocks(sampler, seed, names)
    pieces: list[dict[str, torch.Tensor]] = []
    have = made = 0
    while count is None or made < count:
        while have < size:
            pieces.append(next(blocks))
            have += _rows(pieces[-1])
        made, have = made + 1, have - size
        yield Batch(_take(pieces, size), words)


def _blocks(sampler: BlockSampler, seed: int, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Blocks 0, 1, 2, ... of all selected cells in turn.

    One intra-op thread, as for a data set: on two cores a second one gained 20 to 40 % at best, and on a busy machine it
    took a block of ``ofdm-siso`` from 15 ms to 1 s, since threads wait for each other after every small kernel.
    """
    cells, block = sampler.recipe.selected_cells(), 0
    while True:
        for split, cell in cells:
            with one_thread(), torch.no_grad():
                values = sampler.sample(sampler.key(seed, split, cell, block), device_noise=True)
            yield {name: values[name].to(sampler.device) for name in names}
        block += 1


def _rows(piece: dict[str, torch.Tensor]) -> int:
    return next(iter(piece.values())).shape[0]


def _take(pieces: list[dict[str, torch.Tensor]], size: int) -> dict[str, torch.Tensor]:
    """Cut ``size`` samples off the front of ``pieces`` (which is changed); a whole block goes through without a copy."""
    picked: list[dict[str, torch.Tensor]] = []
    missing = size
    while missing:
        piece = pieces.pop(0)
        rows = _rows(piece)
        if rows > missing:
            pieces.insert(0, {name: value[missing:] for name, value in piece.items()})
            piece, rows = {name: value[:missing] for name, value in piece.items()}, missing
        picked.append(piece)
        missing -= rows
    if len(picked) == 1:
        return picked[0]
    return {name: torch.cat([piece[name] for piece in picked]) for name in picked[0]}
