"""Score all contestants in all settings of one cell: the same channels and the same noise for everybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from wichan.evaluation.benchmarks.channels import Block, ChannelSource
from wichan.evaluation.benchmarks.contestants import Contestant
from wichan.evaluation.benchmarks.genie import told_of
from wichan.evaluation.benchmarks.metrics import step_scores, target_sums
from wichan.evaluation.benchmarks.scenarios import CATEGORIES, Cell, Setting
from wichan.observations import history_impairment, impute
from wichan.random import make_generator

#: Samples that share one noise generator; part of what a seed means.
NOISE_UNIT = 5


@dataclass(frozen=True)
class Job:
    """All settings of one cell in one category: what is computed, written and resumed as a whole."""

    category: str
    cell: Cell
    duplex: str
    noises: tuple[tuple[str, float], ...]
    num_samples: int

    @property
    def name(self) -> str:
        """Name of its file, without ending."""
        return f"{self.category}_{self.cell.name}"

    @property
    def split(self) -> str:
        """The recipe's split that its samples come from."""
        return CATEGORIES[self.category]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Its settings, in the order of its scores."""
        return tuple(Setting(self.category, self.cell, noise, degree, self.duplex) for noise, degree in self.noises)

    @property
    def num_views(self) -> int:
        """Damaged histories that every contestant sees."""
        return self.num_samples * len(self.noises)


@dataclass(frozen=True, eq=False)
class JobScores:
    """Scores of a job, sample by sample.

    Attributes:
        values: float32, (num_settings, num_predictors, num_samples, num_horizon, 4), see
            `wichan.evaluation.benchmarks.metrics.MEASURES`.
        energy: of the targets, float32 (num_samples, num_horizon).
        se0: spectral efficiency with the true channel, float32 (num_samples, num_horizon).
        seconds: spent in each predictor, float64 (num_predictors,).
    """

    values: torch.Tensor
    energy: torch.Tensor
    se0: torch.Tensor
    seconds: torch.Tensor


def make_jobs(settings: Sequence[Setting], num_samples: dict[str, int]) -> tuple[Job, ...]:
    """Group settings by category and cell, in their order."""
    groups: dict[tuple[str, str, str], list[Setting]] = {}
    for setting in settings:
        groups.setdefault((setting.category, setting.cell.name, setting.duplex), []).append(setting)
    return tuple(
        Job(category, group[0].cell, duplex, tuple((s.noise, s.degree) for s in group), num_samples[category])
        for (category, _, duplex), group in groups.items()
    )


def score_job(
    job: Job,
    source: ChannelSource,
    contestants: Sequence[Contestant],
    *,
    seed: int,
    imputation: str = "hold",
    on_views: Callable[[int], None] | None = None,
) -> JobScores:
    """Score every contestant in every setting of a job.

    Channels of a block are computed once, each damaged once a setting, and everybody predicts from the same tensor. Noise
    depends on seed, split, cell, kind of noise and sample only: settings that differ in degree start from the same draws
    (common random numbers), so their differences carry little noise; neither batch size nor the other settings matter.

    Args:
        job: what to score.
        source: where channels come from.
        contestants: who.
        seed: of the noise.
        imputation: how lost snapshots are filled for those who do not take gaps, see `wichan.observations.impute`.
        on_views: called with the number of views done since the last call; may raise to stop.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: a predictor that answers wrongly, named.
    """
    seconds = torch.zeros(len(contestants), dtype=torch.float64)
    parts: list[list[torch.Tensor]] = []
    geometry = any(contestant.told == "geometry" for contestant in contestants)
    for index, block in enumerate(_blocks(job, source, geometry)):
        first, count = index * source.block_size, min(source.block_size, job.num_samples - index * source.block_size)
        target = block.target[:count]
        sums = target_sums(target)
        rows = []
        for noise, degree in job.noises:
            history, present = damaged(block.history, noise, degree, count, seed=seed, place=(job.split, job.cell.name, first))
            whole = history if present is None else impute(history, present, method=imputation)
            views = _Views(history, present, whole, target)
            rows.append(_score_all(contestants, views, (block, job, source), seconds))
            if on_views is not None:
                on_views(count)
        parts.append([torch.stack(rows).cpu(), sums.energy.cpu(), sums.se.cpu()])
    values, energy, se0 = (list(column) for column in zip(*parts, strict=True))
    return JobScores(torch.cat(values, dim=2), torch.cat(energy), torch.cat(se0), seconds)


def _blocks(job: Job, source: ChannelSource, rays: bool) -> Iterator[Block]:
    for index in range(-(-job.num_samples // source.block_size)):
        yield source.block(job.split, job.cell, index, job.duplex, rays=rays)


def damaged(
    history: torch.Tensor, noise: str, degree: float, count: int, *, seed: int, place: tuple[str, str, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The first ``count`` histories of a block as a setting shows them.

    Args:
        history: clean, complex64 (num_samples, 32, 1, 16, 300).
        noise, degree: see `wichan.evaluation.benchmarks.scenarios.DEGREES`.
        count: how many samples are wanted.
        seed: of the noise.
        place: split, cell, and number of the block's first sample within the cell.

    Returns:
        (count, 32, 1, 16, 300), and which snapshots arrived, bool (count, 16), or None where all did.
    """
    impairment = history_impairment(noise, degree)
    split, cell, first = place
    pieces, arrived = [], []
    for start in range(0, count, NOISE_UNIT):
        unit = history[start : start + NOISE_UNIT]
        if unit.shape[0] < NOISE_UNIT:  # the end of a data set: the draw must not depend on how many samples there are
            unit = torch.cat([unit, unit[-1:].expand(NOISE_UNIT - unit.shape[0], *unit.shape[1:])])
        key = ("csi-rrg-noise", split, cell, noise, (first + start) // NOISE_UNIT)
        piece, present = impairment(unit, generator=make_generator(seed, *key, device=history.device))
        pieces.append(piece)
        arrived.append(present)
    present = torch.cat(arrived)[:count]
    return torch.cat(pieces)[:count], None if bool(present.all()) else present


class _Views(NamedTuple):
    """A damaged block: as it came, which snapshots arrived (None: all), repaired, and what is to be predicted."""

    history: torch.Tensor
    present: torch.Tensor | None
    whole: torch.Tensor
    target: torch.Tensor


def _score_all(
    contestants: Sequence[Contestant], views: _Views, origin: tuple[Block, Job, ChannelSource], seconds: torch.Tensor
) -> torch.Tensor:
    """Scores of everybody on one damaged block, (num_predictors, num_samples, num_horizon, 4); adds to ``seconds``."""
    block, job, source = origin
    rows: list[torch.Tensor] = []
    for number, contestant in enumerate(contestants):
        start = time.perf_counter()
        given, present = (views.history, views.present) if contestant.takes_gaps else (views.whole, None)
        told = None
        if contestant.told:
            told = told_of(block, job.cell, source.model(job.split, job.cell), given, present)
        answer = contestant.predict(given, present, views.target.shape, told)
        seconds[number] += time.perf_counter() - start
        rows.append(step_scores(answer.h_pred, views.target, answer.err_var))
    return torch.stack(rows)
