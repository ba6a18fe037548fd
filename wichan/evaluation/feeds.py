"""Where the channels of an evaluation come from: drawn from a recipe, or read from a data set and binned."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, WichanWarning, check_choice, check_real
from wichan.evaluation.kinds import EVALUATION_KINDS
from wichan.evaluation.setting import Setting

DEFAULT_POINTS = 6
_FEW_VALUES = 24  # a condition with no more distinct values than this is not binned


@dataclass(frozen=True)
class FeedOptions:
    """What both feeds need to know; see `wichan.evaluation.evaluate`."""

    sweep: str
    points: Sequence[Any] | None
    num_channels: int | None
    split: str | None
    seed: int | None
    batch_size: int
    device: str


@dataclass(frozen=True)
class Sample:
    """A batch of frames.

    Attributes:
        point: index of each frame's point, int64 (batch,). Frames of one point come in the order of their channels.
        h, y, no: channel, observation and noise variance, first axis the batch.
        conditions: name -> (batch,) tensor; ``profile`` is a list of names.
    """

    point: torch.Tensor
    h: torch.Tensor
    y: torch.Tensor
    no: torch.Tensor
    conditions: dict[str, Any]


class Feed(ABC):
    """Iterates over `Sample` batches, point by point.

    Attributes:
        setting: what estimators may know beforehand.
        sweep: the swept condition.
        points: its values.
        total: channels over all points.
        device: where channels are computed.
        common: whether channel i is the same draw at every point.
        provenance: where the channels come from, for the report.
    """

    setting: Setting
    sweep: str
    points: list[float | str]
    total: int
    device: str
    common: bool
    provenance: dict[str, Any]

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...


def _checked_points(sweep: str, points: Sequence[Any]) -> list[float | str]:
    if not points:
        raise InvalidValueError("points is empty; at least one is needed")
    if sweep == "profile":
        bad = next((point for point in points if not isinstance(point, str)), None)
        if bad is not None:
            raise InvalidTypeError(f"points={bad!r} must be a profile name, got {type(bad).__name__}")
        checked: list[float | str] = list(points)
    else:
        checked = [check_real("points", point) for point in points]
    if len(set(checked)) < len(checked):
        raise InvalidValueError(f"points={checked} holds a point more than once")
    return checked


def _spread_points(law: Any) -> list[float | str]:
    """Values of a choice, or `DEFAULT_POINTS` over a range: geometric for a log-uniform law."""
    if law.is_text or law.kind in ("constant", "choice"):
        distinct = list(law.categories)
        if law.is_text or len(distinct) <= _FEW_VALUES:
            return distinct if law.is_text else sorted(float(value) for value in distinct)
    low, high = law.low, law.high
    if law.kind == "log_uniform":
        return [low * (high / low) ** (i / (DEFAULT_POINTS - 1)) for i in range(DEFAULT_POINTS)]
    return [low + (high - low) * i / (DEFAULT_POINTS - 1) for i in range(DEFAULT_POINTS)]


def base_setting(recipe: Any, overrides: Mapping[str, Any] | None, split: str | None, seed: int | None) -> Setting:
    """The setting of one split without named cells, whose own conditions would hide the swept one."""
    from wichan.simulate import load_recipe

    for key in ("split", "cell"):
        if overrides and key in overrides:
            raise InvalidValueError(
                f"overrides[{key!r}]={overrides[key]!r} does not apply: give split=..., or fix conditions instead"
            )
    loaded = load_recipe(recipe, overrides)
    setting = Setting.of(loaded, split, seed)
    selection: dict[str, Any] = {"split": setting.split, "cell": "all"}
    if loaded.splits[setting.split].cells:
        selection[f"splits.{setting.split}.cells"] = None
    return Setting.of(load_recipe(loaded, selection), setting.split, seed)


def _half_widths(centres: torch.Tensor) -> torch.Tensor:
    """Half the width of the bin around each centre: half the way to the nearest neighbour, outwards as inwards."""
    if centres.numel() == 1:
        return 1e-6 * centres.abs()
    half = (centres[1:] - centres[:-1]) / 2
    return torch.cat([half[:1], torch.maximum(half[:-1], half[1:]), half[-1:]])


class RecipeFeed(Feed):
    """Draws channels of a recipe, the swept condition fixed at each point."""

    common = True

    def __init__(self, recipe: Any, options: FeedOptions, overrides: Mapping[str, Any] | None = None) -> None:
        from wichan.simulate import load_recipe

        sweep, points = options.sweep, options.points
        self.setting = base_setting(recipe, overrides, options.split, options.seed)
        check_choice("sweep", sweep, self.setting.laws)
        chosen = _checked_points(sweep, points) if points is not None else _spread_points(self.setting.laws[sweep])
        key = "profile" if sweep == "profile" else f"conditions.{sweep}"
        # All points are checked before any channel is drawn.
        self._lay_out(chosen, [load_recipe(self.setting.recipe, {key: point}) for point in chosen], options, overrides)

    def _lay_out(
        self, points: list[float | str], recipes: list[Any], options: FeedOptions, overrides: Mapping[str, Any] | None
    ) -> None:
        """Take points, the recipe of each, and how many channels to draw."""
        self.sweep, self.points, self._recipes = options.sweep, points, recipes
        usual = EVALUATION_KINDS[self.setting.recipe.kind].num_channels
        self.num_channels = usual if options.num_channels is None else options.num_channels
        self.batch_size, self.device = options.batch_size, options.device
        self.total = self.num_channels * len(points)
        known = self.setting.recipe
        self.provenance = {"recipe": known.name, "recipe_version": known.recipe_version, "split": self.setting.split}
        self.provenance |= {"overrides": dict(overrides or {})}

    def __iter__(self) -> Iterator[Sample]:
        from wichan.simulate import stream

        size = min(self.batch_size, self.num_channels)
        options: dict[str, Any] = {"batch_size": size, "seed": self.setting.seed, "split": self.setting.split}
        options |= {"num_batches": math.ceil(self.num_channels / size), "device": self.device}
        # Over the SNR all points share their channels, so they go side by side: whoever builds a filter for a channel
        # builds it once. Estimators of an IRS build nothing, and their time is that of a point.
        together = self.sweep == "snr_db" and self.setting.recipe.kind != "irs"
        groups = [range(len(self.points))] if together else [[point] for point in range(len(self.points))]
        for group in groups:
            left = self.num_channels
            for batches in zip(*(stream(self._recipes[point], **options) for point in group), strict=True):
                take = min(left, size)
                yield _joined([_cut(batch, point, take) for point, batch in zip(group, batches, strict=True)])
                left -= take


def _cut(batch: Any, point: int, take: int) -> Sample:
    """The first ``take`` frames of a stream's batch."""
    # Beside numbers also what has an axis of its own: angles and powers of clusters, which a genie is told.
    conditions: dict[str, Any] = {name: batch[name][:take] for name in batch.columns if name not in ("h", "y", "no")}
    if "profile" in conditions:
        names = batch.categories["profile"]
        conditions["profile"] = [names[code] for code in conditions["profile"].tolist()]
    return Sample(torch.full((take,), point), batch.h[:take], batch.y[:take], batch.no[:take], conditions)


def _joined(samples: Sequence[Sample]) -> Sample:
    """Put batches of several points one after the other."""
    if len(samples) == 1:
        return samples[0]
    conditions: dict[str, Any] = {}
    for name, first in samples[0].conditions.items():
        values = [sample.conditions[name] for sample in samples]
        conditions[name] = torch.cat(values) if isinstance(first, torch.Tensor) else [word for part in values for word in part]
    point, h, y, no = (torch.cat([getattr(sample, name) for sample in samples]) for name in ("point", "h", "y", "no"))
    return Sample(point, h, y, no, conditions)


class DataFeed(Feed):
    """Reads channels of a data set and sorts them into bins of the swept condition."""

    common = False

    def __init__(self, path: str | Path, options: FeedOptions, cells: Sequence[str] | None = None) -> None:
        import wichan.store as store
        from wichan.simulate import recipe_from_dict

        manifest = store.load_manifest(path)
        splits = manifest.header.recipe.get("splits", {})
        there = {cell.split for cell in manifest.cells}
        chosen = options.split or ("test" if "test" in there else None)
        self._selection: dict[str, Any] = {"split": chosen, "cells": list(cells) if cells is not None else None}
        self._data = store.open(path, **self._selection)
        header = self._data.manifest.header
        if not splits:
            raise StoreError(f"{path} was not made from a recipe; estimators cannot be built for it")
        self.setting = base_setting(recipe_from_dict(header.recipe), None, chosen or next(iter(splits)), options.seed)
        if not self.setting.recipe.independent_fading:
            text = "the data's fading is frozen: intervals cover the noise only, and an estimator may seem to beat its genie"
            warnings.warn(text, WichanWarning, stacklevel=3)
        self.sweep, self.batch_size, self.device = options.sweep, options.batch_size, options.device
        scalar = [name for name, column in self._data.columns.items() if not column.shape and name != "no"]
        check_choice("sweep", self.sweep, scalar)
        # Angles and powers of clusters, which a genie is told, have an axis of their own.
        wide = [name for name, column in self._data.columns.items() if column.shape and name not in ("h", "y")]
        self._conditions = [*scalar, *wide]
        self.points, self._members = self._binned(options.points, options.num_channels)
        self.total = sum(member.numel() for member in self._members)
        self.provenance = {"recipe": header.recipe_name, "recipe_version": header.recipe_version, "data": str(path)}
        self.provenance |= {**self._selection, "data_seed": header.seed}

    def _column(self, name: str) -> torch.Tensor:
        """One scalar column of all samples, read in slices."""
        import wichan.store as store

        alone = store.open(self._data.folder, columns=[name], **self._selection)
        try:
            step = 4096
            return torch.cat([alone[start : start + step][name] for start in range(0, len(alone), step)])
        finally:
            alone.close()

    def _binned(self, points: Sequence[Any] | None, num_channels: int | None) -> tuple[list[float | str], list[torch.Tensor]]:
        """Bin centres and the samples nearest to each; empty bins are left out."""
        values = self._column(self.sweep)
        centres: list[float | str]
        if self.sweep in self._data.categories:
            names = list(self._data.categories[self.sweep])
            centres = names if points is None else _checked_points(self.sweep, points)
            members = [torch.nonzero(values == names.index(str(c))).flatten() if c in names else values[:0] for c in centres]
        else:
            numbers = values.double()
            centres = _data_points(numbers) if points is None else sorted(_checked_points(self.sweep, points))
            grid = torch.tensor(centres, dtype=torch.float64)
            distance, nearest = (numbers[:, None] - grid).abs().min(dim=1)
            near = distance <= _half_widths(grid)[nearest] * (1 + 1e-6)
            members = [torch.nonzero((nearest == i) & near).flatten() for i in range(len(centres))]
        kept = [(centre, member[:num_channels]) for centre, member in zip(centres, members, strict=True) if member.numel()]
        if not kept:
            raise InvalidValueError(
                f"points={list(centres)} match no sample of the data set (one point alone takes exact matches)"
            )
        kept = [item for item in kept if item[1].numel() > 1] or kept  # one sample has no interval
        return [centre for centre, _ in kept], [member for _, member in kept]

    def __iter__(self) -> Iterator[Sample]:
        for point, member in enumerate(self._members):
            for index in member.split(self.batch_size):
                batch = self._data.batch(index.tolist())
                conditions: dict[str, Any] = {name: batch[name].to(self.device) for name in self._conditions}
                for name, words in self._data.categories.items():
                    if name in conditions:
                        conditions[name] = [words[code] for code in batch[name].tolist()]
                where = torch.full((index.numel(),), point)
                h, y, no = (batch[name].to(self.device) for name in ("h", "y", "no"))
                yield Sample(where, h, y, no, conditions)


def _data_points(values: torch.Tensor) -> list[float | str]:
    """Distinct values where there are few, else centres of `DEFAULT_POINTS` bins of equal width."""
    distinct = values.unique()
    # Values of a continuous law do not come back: a handful of samples is no list of choices.
    comes_back = values.numel() >= 2 * distinct.numel() or distinct.numel() <= DEFAULT_POINTS
    if distinct.numel() <= _FEW_VALUES and comes_back:
        return distinct.tolist()
    low, high = float(values.min()), float(values.max())
    width = (high - low) / DEFAULT_POINTS
    return [low + width * (i + 0.5) for i in range(DEFAULT_POINTS)]
