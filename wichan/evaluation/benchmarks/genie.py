"""References that are told more than any receiver knows: the cell's law or the true rays, and the noise."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import torch

from wichan.channels import CDL
from wichan.channels.rays import Rays
from wichan.evaluation.benchmarks.channels import Block, ChannelSource
from wichan.evaluation.benchmarks.scenarios import Cell
from wichan.prediction import Prediction, WienerGenie

_FLOOR = 1e-6  # noise that a reference is told at least: histories that were only cut short have none


@dataclass(frozen=True, eq=False)
class Told:
    """What a reference is told of some samples.

    Attributes:
        cell: their cell.
        model: its channel model.
        scale: factor that was applied to the model's channel, (num_samples,).
        no: power of what was added to each history, (num_samples,).
        rays: their rays, or None.
    """

    cell: Cell
    model: CDL
    scale: torch.Tensor
    no: torch.Tensor
    rays: Rays | None

    def __getitem__(self, rows: slice) -> Told:
        """The same of some of the samples."""
        rays = None if self.rays is None else self.rays[rows]
        return replace(self, scale=self.scale[rows], no=self.no[rows], rays=rays)


def told_of(block: Block, cell: Cell, model: CDL, given: torch.Tensor, present: torch.Tensor | None) -> Told:
    """What there is to tell of a damaged history.

    Args:
        block: the channels.
        cell, model: where they come from.
        given: what the predictor gets, complex (num_samples, 32, 1, 16, 300).
        present: bool (num_samples, 16), which snapshots count; None: all.
    """
    count = given.shape[0]
    added = torch.view_as_real(given - block.history[:count]).square().sum(-1).mean((1, 2, 4))
    weight = torch.ones_like(added) if present is None else present.to(added)
    no = ((added * weight).sum(-1) / weight.sum(-1)).clamp_min(_FLOOR)
    assert block.scale is not None
    return Told(cell, model, block.scale[:count], no, None if block.rays is None else block.rays[:count])


class GenieCaller:
    """`WienerGenie` for whatever cell a history comes from; the filter of a cell is built when it is first met.

    Args:
        given: ``"cell"`` or ``"geometry"``.
        source: gives frequencies and instants.
        duplex: ``"tdd"`` or ``"fdd"``.
    """

    def __init__(self, given: str, source: ChannelSource, duplex: str) -> None:
        self.given, self.takes_gaps = given, given == "geometry"
        recipe = source.recipe
        offsets = (torch.arange(recipe.num_bins, dtype=torch.float64) - recipe.num_bins // 2) * recipe.subcarrier_spacing
        uplink, downlink = (offsets[slice(*edges)] for edges in (recipe.uplink_bins, recipe.downlink_bins))
        self._options: dict[str, Any] = {
            "frequencies": uplink,
            "target_frequencies": uplink if duplex == "tdd" else downlink,
            "csi_period": recipe.csi_period,
            "num_history": recipe.num_history,
            "num_horizon": recipe.num_horizon,
            "duplex": duplex,
        }
        self._guard = threading.Lock()
        self._built: dict[str, WienerGenie] = {}

    def __call__(self, history: torch.Tensor, present: torch.Tensor | None, told: Told) -> Prediction:
        """Predict from a history and what is told of it."""
        genie = self._genie(told)
        rays = {"rays": told.rays} if self.given == "geometry" else {}
        answer: Prediction = genie(history, told.no, present=present, scale=told.scale, **rays)
        return answer

    def _genie(self, told: Told) -> WienerGenie:
        name = told.cell.name if self.given == "cell" else ""
        with self._guard:  # one filter at a time: it takes up to a gigabyte while it is built
            if name not in self._built:
                while len(self._built) >= 4:
                    self._built.pop(next(iter(self._built)))
                model = {"model": told.model} if self.given == "cell" else {}
                self._built[name] = WienerGenie(self.given, **self._options, **model)
            self._built[name] = self._built.pop(name)  # to the end: a filter that another thread is using goes last
            return self._built[name]
