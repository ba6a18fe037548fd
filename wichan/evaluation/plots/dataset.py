"""From a data set on disk to a `ChannelView`: channels, axes, arrays, and theory for the same samples' conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidValueError, WichanError, check_int, unknown_name
from wichan.evaluation.plots.view import ChannelView, Expected
from wichan.grid import OFDMGrid

MAX_SAMPLES = 512
MAX_BYTES = 64 << 20


def channel_column(data: Any, wanted: str | None) -> str:
    """The column to draw: complex, with time and frequency as its last axes.

    Args:
        data: an open data set.
        wanted: its name, or ``None``: the first that fits.
    """
    fit = [n for n, c in data.columns.items() if c.dtype.startswith("complex") and len(c.shape) >= 2 and min(c.shape[-2:]) > 0]
    if wanted is not None and wanted not in fit:
        raise unknown_name("--column", wanted, fit)
    if not fit:
        raise InvalidValueError("the data set has no complex column with a time and a frequency axis to draw")
    return wanted or str(fit[0])


def neighbours(data: Any, sample: int, nbytes: int, max_samples: int = MAX_SAMPLES, max_bytes: int = MAX_BYTES) -> list[int]:
    """The sample and its neighbours of the same cell, as many as the limits allow."""
    count = max(1, min(max_samples, max_bytes // nbytes))
    place = data.cell_of(sample)[:2]
    near = range(max(0, sample - count + 1), min(len(data), sample + count))
    same = [i for i in near if data.cell_of(i)[:2] == place]
    first = max(0, min(same.index(sample) - count // 2, len(same) - count))
    return same[first : first + count]


def dataset_view(
    folder: str | Path,
    *,
    sample: int = 0,
    column: str | None = None,
    received: bool = False,
    motion: bool = True,
    max_samples: int = MAX_SAMPLES,
    max_bytes: int = MAX_BYTES,
) -> ChannelView:
    """Read what a picture of a data set is drawn from.

    Args:
        folder: of the data set.
        sample: which sample to show; means run over its neighbours in the same cell.
        column: which channel; default the first.
        received: read the received pilots too, where there are any.
        motion: let theory know how the terminal moves; a standing one has the same powers, delays and angles, and its
            covariances take a fraction of the time.
        max_samples, max_bytes: how many neighbours at most.

    Raises:
        StoreError: not a data set. InvalidValueError: no such sample or column.
    """
    import wichan.store as store

    data = store.open(folder)
    check_int("sample", sample, minimum=0, maximum=len(data) - 1)
    check_int("max_samples", max_samples, minimum=1)
    check_int("max_bytes", max_bytes, minimum=1)
    name = channel_column(data, column)
    wanted = [name, *(n for n, c in data.columns.items() if not c.shape)]
    if received and name == "h" and "y" in data.columns:
        wanted.append("y")
    # Of the large columns only what is drawn is read; that the data set is unfinished has been said already.
    data = store.open(folder, columns=wanted, allow_incomplete=True)
    try:
        rows = neighbours(data, sample, data.columns[name].nbytes, max_samples, max_bytes)
        batch = data.batch(rows)
    finally:
        data.close()
    split, cell, _ = data.cell_of(sample)
    h = batch[name]
    view = ChannelView(
        h if h.dim() == 5 else h.reshape(h.shape[0], -1, 1, *h.shape[-2:]),
        sample=rows.index(sample),
        label=f"sample {sample}",
        title=f"{data.manifest.header.recipe_name}, {split}/{cell}: {name}",
        conditions={key: value for key, value in batch.items() if value.dim() == 1},
    )
    return _with_knowledge(view, data, name, batch, (split, cell), motion)


def _with_knowledge(
    view: ChannelView, data: Any, name: str, batch: Mapping[str, torch.Tensor], place: tuple, motion: bool
) -> ChannelView:
    """Add what the recipe tells; a data set without a recipe, or of a kind that is not known here, stays as it is."""
    from wichan.simulate import KINDS, recipe_from_dict

    stored = data.manifest.header.recipe
    rules = {"ofdm": _ofdm, "csi-rrg": _csi_rrg}
    if stored.get("kind") not in rules:
        return view
    try:
        recipe = recipe_from_dict(stored)
        sampler = KINDS[recipe.kind](recipe)
    except WichanError:  # a picture without units beats none
        return view
    return rules[recipe.kind](view, sampler, name, data, batch, place, motion)


def _ofdm(
    view: ChannelView, sampler: Any, name: str, data: Any, batch: Mapping[str, torch.Tensor], place: tuple, motion: bool
) -> ChannelView:
    from wichan.evaluation.setting import Setting

    try:
        setting = Setting.of(sampler.recipe)
    except WichanError:
        return view
    view = replace(view, times=setting.grid.times, frequencies=setting.grid.frequencies)
    if name != "h":
        return view
    if "y" in batch:
        view = replace(view, y=batch["y"], pilots=setting.observation, no=batch.get("no"))
    codes = batch.get("profile")
    names = [""] * view.h.shape[0] if codes is None else [data.categories["profile"][code] for code in codes.tolist()]
    model = setting.model(names[0])
    rx_array, tx_array = (getattr(getattr(model, end, None), "array", None) for end in ("rx", "tx"))
    view = replace(view, rx_array=rx_array, tx_array=tx_array)
    try:
        return replace(view, theory=_expected(setting, batch, names, motion))
    except WichanError:  # a source without a closed form
        return view


def _expected(setting: Any, batch: Mapping[str, torch.Tensor], names: list[str], motion: bool) -> tuple[Expected, ...]:
    """One covariance a sample, grouped by profile; samples of equal conditions share one."""
    parts = []
    for name in dict.fromkeys(names):
        index = torch.tensor([i for i, other in enumerate(names) if other == name])
        picked = {key: value[index].double() for key, value in setting.arguments(batch).items()}
        if not motion:
            picked |= {key: torch.zeros((), dtype=torch.float64) for key in ("speed", "max_doppler") if key in picked}
        if all(bool((value == value.flatten()[0]).all()) for value in picked.values()):
            picked = {key: value.flatten()[0] for key, value in picked.items()}
        parts.append(Expected(setting.covariance(name, picked), index.numel() / len(names), setting.model(name)))
    return tuple(parts)


def _csi_rrg(
    view: ChannelView, sampler: Any, name: str, data: Any, batch: Mapping[str, torch.Tensor], place: tuple, motion: bool
) -> ChannelView:
    recipe, past = sampler.recipe, sampler.recipe.num_history
    times = sampler.times[:past] if name.endswith("hist") else sampler.times[past:]
    band = slice(*(recipe.downlink_bins if name.startswith("h_d") else recipe.uplink_bins))
    frequencies = sampler.frequencies[band]
    # The covariance knows differences of times and frequencies only.
    grid = OFDMGrid(times.numel(), frequencies.numel(), recipe.subcarrier_spacing, recipe.csi_period)
    model = sampler.model(recipe.scenario(*place))
    # Every sample was divided by its own energy; the stored factor brings the model's channel back.
    h = view.h / batch["scale"].to(view.h.real.dtype)[:, None, None, None, None]
    theory = (Expected(model.covariance(grid, **({} if motion else {"speed": 0.0})), 1.0, model),)
    return replace(
        view, h=h, times=times, frequencies=frequencies, rx_array=model.rx.array, tx_array=model.tx.array, theory=theory
    )
