"""The CSI-RRG benchmark: any predictor, in any of its 3,708 settings a duplex mode, by one call."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidValueError, check_choice, check_int
from wichan.evaluation.benchmarks.budget import FIT_SAMPLES, sample_counts, within_budget
from wichan.evaluation.benchmarks.channels import ChannelSource, LiveChannels, StoredChannels, changed_settings
from wichan.evaluation.benchmarks.contestants import Contestant
from wichan.evaluation.benchmarks.estimate import Estimate, measured_estimate
from wichan.evaluation.benchmarks.fitting import Fit
from wichan.evaluation.benchmarks.named import Roster, contestants_of
from wichan.evaluation.benchmarks.result import BenchmarkResult, make_result
from wichan.evaluation.benchmarks.scenarios import Cell, Setting, cells, settings
from wichan.evaluation.benchmarks.scoring import Job, JobScores, make_jobs, score_job
from wichan.evaluation.benchmarks.storage import RunFolder
from wichan.observations.imputation import METHODS
from wichan.simulate.devices import pick_device
from wichan.simulate.sampler import one_thread

_FEW = 5  # samples a cell that an estimate of the time fits on

__all__ = ["CSIRRGBenchmark", "Cell", "Setting", "cells", "settings"]


class CSIRRGBenchmark:
    """Score predictors of CSI as [CSI4CAST2025]_ does, with the same channels and noise for everybody.

    A predictor sees 16 noisy uplink snapshots of 32 antennas and 300 bins and predicts 4 snapshots: of the uplink (TDD) or of
    a downlink band that it never sees (FDD). Nobody is told the noise (references called genie are). Channels are computed
    block by block, those of the recipe ``csi-rrg``, or read from a data set; nothing is kept but a few sums a sample.

    Noise is drawn anew for every sample and kind of noise. Degrees of a kind start from the same draws: the same normal numbers
    for white and phase noise, the same lost snapshots first, the same bursts hit (with numbers of their own). So differences
    between predictors, and mostly between degrees, carry little of its randomness.

    Args:
        duplex: ``"tdd"`` or ``"fdd"``.
        budget: ``"full"``: 100 samples a setting. ``"quick"``: all 27 regular cells with all degrees and 30 of the 510
            generalization cells (every letter with every delay spread, all speeds), with 4 samples a setting (robustness 2).
        categories: of ``"regular"``, ``"robustness"``, ``"generalization"``; default all.
        cells: names of cells; default all (of the budget). A cell that is named is scored whatever the budget.
        noises: of ``"awgn"``, ``"phase"``, ``"burst"``, ``"drop"``, or a mapping noise -> degrees; default all.
        num_samples: samples a setting; default by budget.
        seed: of noise and computed channels: those of the data set of that seed.
        data: folder of a finished data set of the recipe to read channels from.
        overrides: changed settings of the recipe for computed channels, such as ``{"doppler_angles": "departure"}``.
        imputation: how lost snapshots are filled for predictors that do not take gaps: ``"hold"``, ``"linear"``, or
            ``"published"`` with its gap at the start.
        device: ``"cpu"``, ``"cuda"``, ``"auto"``. On a GPU noise is drawn there, with other bits.
        batch_size: samples that a predictor takes at once; default 20, and 2 for networks on a CPU.
        workers: threads that score cells side by side, each with one thread inside; default: the processors, at most 4, and
            1 on a GPU or with a caller's function. Results do not depend on it.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError, StoreError: what the benchmark, recipe or data set does not have.

    Memory: 0.3 GB a worker beside the predictors' own. Cost: 4.5 ms a view for channel, noise and scores on one core, and
    what the predictors take.

    Example:
        >>> benchmark = CSIRRGBenchmark("tdd", cells=["cm_D_ds_300_ms_010"], categories=["regular"], num_samples=2)
        >>> benchmark.num_settings, benchmark.num_views
        (6, 12)
    """

    def __init__(
        self,
        duplex: str = "tdd",
        budget: str = "quick",
        *,
        categories: Iterable[str] | None = None,
        cells: Iterable[str] | None = None,
        noises: Iterable[str] | Mapping[str, Sequence[float]] | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        data: str | Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        imputation: str = "hold",
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        chosen = settings(duplex, categories, cells=cells, noises=noises)
        if cells is None:
            chosen = within_budget(chosen, budget)
        counts = sample_counts(budget, num_samples)
        self.duplex, self.budget = duplex, budget
        self.seed = check_int("seed", seed, minimum=0, maximum=2**63 - 1)
        self.imputation = check_choice("imputation", imputation, METHODS)
        self.device = pick_device(device)
        self.batch_size = None if batch_size is None else check_int("batch_size", batch_size, minimum=1)
        self.workers = None if workers is None else check_int("workers", workers, minimum=1, maximum=256)
        self.settings = chosen
        self.jobs: tuple[Job, ...] = make_jobs(chosen, dict(counts))
        if data is not None and overrides:
            raise InvalidValueError("data and overrides exclude each other: a data set has the settings that it was made with")
        stored = None if data is None else StoredChannels(data, self.device)
        settings_of = overrides if stored is None else changed_settings(stored.recipe)
        self._live = LiveChannels(settings_of, self.seed, self.device)
        self._source: ChannelSource = self._live if stored is None else stored
        for job in self.jobs:
            self._source.check(job.split, job.cell.name, job.num_samples)

    @property
    def num_settings(self) -> int:
        """Settings to be scored."""
        return len(self.settings)

    @property
    def num_views(self) -> int:
        """Damaged histories that every predictor sees."""
        return sum(job.num_views for job in self.jobs)

    def run(
        self,
        predictors: Any = None,
        out: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        on_note: Callable[[str], None] | None = None,
    ) -> BenchmarkResult:
        """Score predictors.

        Args:
            predictors: names (``hold``, ``ar``, ``wiener``, ``pad``, ``dad``, ``wiener-genie-cell``,
                ``wiener-genie-geometry``, ``cnn``, ``rnn``, ``csi4cast``, ``csibert2``, ``dadnet``), ``NAME=PATH`` for a weight
                file, or a mapping name -> any callable from histories (num_samples, 32, 1, 16, 300) to predictions
                (num_samples, 32, 1, 4, 300), complex: a tensor, an array, or a tuple that starts with it. Default: all that
                have a form or released weights for the duplex mode. Named methods that follow one band in time are left out
                of an FDD run, with a note.
            out: folder that keeps the scores of every finished cell; a second run with the same arguments goes on from there. A
                callable is recognised by its answer to one fixed history, so one that answers at random cannot go on.
            progress: called with (views done, views in all).
            on_note: called with a line on a predictor that was left out.

        Returns:
            `BenchmarkResult`; its ``save(folder)`` writes tables and pictures.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError: a predictor that does not exist or answers
                wrongly, a folder of another run. StoreError: a damaged or read-only folder.
            KeyboardInterrupt: finished cells stay in ``out``.
        """
        chosen, notes = contestants_of(predictors, self._roster(out))
        for note in notes:
            if on_note is not None:
                on_note(note)
        if out is not None:  # scores of another function under the same name are never taken for those of this one
            chosen = [replace(c, identity={"answers": self._fingerprint(c)}) if c.own else c for c in chosen]
        folder = None if out is None else RunFolder(out, self.about(chosen))
        scores = _Crew(self, chosen, folder, progress).run()
        array = self._source.recipe.array
        facts: dict[str, Any] = {"notes": {c.name: c.note for c in chosen}, "provenance": self.provenance()}
        return make_result(self.jobs, scores, [c.name for c in chosen], 2 * array.rows * array.columns, **facts)

    def estimate(self, predictors: Any = None, *, on_note: Callable[[str], None] | None = None) -> Estimate:
        """Measure on a few views how long `run` takes; predictors that need it are fitted (on little) or loaded."""
        with one_thread():
            start = time.perf_counter()
            # A few samples a cell are enough to see what a fit costs, and a prediction costs the same after it.
            chosen, notes = contestants_of(predictors, self._roster(None, per_cell=_FEW))
            preparation = time.perf_counter() - start
            for note in notes:
                if on_note is not None:
                    on_note(note)
            found = measured_estimate(self.jobs, self._source, chosen, seed=self.seed, workers=self.threads(chosen))
        return replace(found, seconds=found.seconds + preparation * FIT_SAMPLES[self.budget] / _FEW)

    def _roster(self, out: str | Path | None, per_cell: int | None = None) -> Roster:
        folder = None if out is None else Path(out)
        fit = Fit(self._live, per_cell or FIT_SAMPLES[self.budget], self.seed, self.duplex, folder)
        return Roster(fit, self.device, self.batch_size)

    def _fingerprint(self, contestant: Contestant) -> list[str]:
        recipe = self._source.recipe
        antennas, bins = 2 * recipe.array.rows * recipe.array.columns, recipe.uplink_bins[1] - recipe.uplink_bins[0]
        shape = torch.Size((1, antennas, 1, recipe.num_history, bins))
        with one_thread():
            return contestant.fingerprint(shape, recipe.num_horizon, self.device)

    def threads(self, contestants: Sequence[Contestant]) -> int:
        """Cells that are scored side by side."""
        if self.workers is not None:
            return min(self.workers, len(self.jobs))
        if self.device.type != "cpu" or any(contestant.own for contestant in contestants):
            return 1  # a caller's function may not be safe to call from two threads
        return min(os.cpu_count() or 1, 4, len(self.jobs))

    def about(self, contestants: Sequence[Contestant]) -> dict[str, Any]:
        """Everything that decides the scores, plain JSON."""
        return {
            "benchmark": "csi-rrg",
            "duplex": self.duplex,
            "predictors": {contestant.name: contestant.identity for contestant in contestants},
            "budget": self.budget,
            "seed": self.seed,
            "imputation": self.imputation,
            "channels": self._source.describe(),
            "device": self.device.type,
            "cells": {job.name: job.num_samples for job in self.jobs},
            "noises": {job.category: [list(pair) for pair in job.noises] for job in self.jobs},
        }

    def provenance(self) -> dict[str, Any]:
        """Arguments and versions, plain JSON."""
        from wichan.store import current_versions

        facts = {"benchmark": "csi-rrg", "duplex": self.duplex, "budget": self.budget, "seed": self.seed}
        facts |= {"imputation": self.imputation, "channels": self._source.describe(), "device": str(self.device)}
        return facts | {"settings": self.num_settings, "views": self.num_views, "versions": current_versions()}


class _Stopped(Exception):
    """Another thread failed or was interrupted; this one gives up its cell."""


class _Crew:
    """Threads that score jobs; finished ones are kept as they come."""

    def __init__(
        self,
        benchmark: CSIRRGBenchmark,
        contestants: list[Contestant],
        folder: RunFolder | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._benchmark, self._contestants, self._folder, self._progress = benchmark, contestants, folder, progress
        self._halted = threading.Event()
        self._lock = threading.Lock()
        self._done = 0

    def run(self) -> list[JobScores]:
        """Scores of all jobs, in their order."""
        jobs = self._benchmark.jobs
        found = [self._folder.load(job, len(self._contestants)) if self._folder else None for job in jobs]
        self._count(sum(job.num_views for job, scores in zip(jobs, found, strict=True) if scores is not None))
        missing = [number for number, scores in enumerate(found) if scores is None]
        if missing:
            with one_thread(), ThreadPoolExecutor(self._benchmark.threads(self._contestants)) as pool:
                futures = {number: pool.submit(self._score, jobs[number]) for number in missing}
                self._follow(list(futures.values()))
                for number, future in futures.items():
                    found[number] = future.result()
        return [scores for scores in found if scores is not None]

    def _follow(self, futures: list[Future[JobScores]]) -> None:
        """Wait for all; on the first error or an interrupt stop the others, and raise what came first."""
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future.exception() for future in done if future.exception() is not None]
            real = [error for error in failed if not isinstance(error, _Stopped)]
            if real:
                raise real[0]  # type: ignore[misc]
        except BaseException:
            self._halted.set()
            for future in futures:
                future.cancel()
            raise

    def _score(self, job: Job) -> JobScores:
        benchmark = self._benchmark
        with torch.inference_mode():
            scores = score_job(
                job,
                benchmark._source,
                self._contestants,
                seed=benchmark.seed,
                imputation=benchmark.imputation,
                on_views=self._count,
            )
        if self._folder is not None:
            self._folder.save(job, scores)
        return scores

    def _count(self, views: int) -> None:
        if self._halted.is_set():
            raise _Stopped
        with self._lock:
            self._done += views
            if self._progress is not None:
                self._progress(self._done, self._benchmark.num_views)
