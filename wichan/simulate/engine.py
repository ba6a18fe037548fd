"""The local engine: a recipe computed block by block into a data set on disk."""

from __future__ import annotations

import os
import time
import warnings as python_warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wichan.errors import StoreError, WichanWarning, check_int
from wichan.simulate.devices import pick_device
from wichan.simulate.planner import Plan, check_part, make_run_plan, shard_blocks
from wichan.simulate.recipe import load_recipe
from wichan.simulate.report import DryRun, Progress, RunReport
from wichan.simulate.sampler import BlockSampler, one_thread
from wichan.simulate.schema import Recipe
from wichan.simulate.sources import KINDS
from wichan.simulate.space import space_shortage
from wichan.store import DatasetWriter, Header, ShardPlan, current_versions

ProgressCallback = Callable[[Progress], None]
# A worker process costs about 2 s to start and 0.25 GB: short runs stay in this process, and three are the most that keep
# all processes together under 1.5 GB. One process computes in one thread and writes in others, so it fills two cores.
SHORT_RUN_SECONDS = 20.0
MOST_WORKERS = 3
DISK_BYTES_PER_SECOND = 0.5e9


@dataclass(frozen=True, eq=False)
class Job:
    """A run, checked and laid out, before anything is written."""

    recipe: Recipe
    sampler: BlockSampler
    plan: Plan
    seed: int
    part: tuple[int, int] | None

    def header(self) -> Header:
        """What the manifest says of how the samples are made."""
        sampler = self.sampler
        return Header(
            recipe=self.recipe.plain(),
            recipe_name=self.recipe.name,
            recipe_version=self.recipe.recipe_version,
            seed=self.seed,
            block_size=self.plan.block_size,
            columns=sampler.columns,
            device=sampler.device.type,
            snr_convention=sampler.snr_convention,
            normalization=sampler.normalization,
            versions=current_versions() | sampler.versions(),
        )

    def warnings(self) -> tuple[str, ...]:
        """What a user should know of the selected splits before trusting the samples."""
        chosen = self.recipe.selected_splits()
        worst = [item for item in self.sampler.interference() if item.split in chosen and item.matters]
        return tuple(dict.fromkeys(item.warning() for item in worst))[:1]


def run(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    n: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    shard: tuple[int, int] | str | None = None,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
    dry_run: bool = False,
    shard_size: int | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> RunReport | DryRun:
    """Simulate a recipe into the folder ``out``; run it again after an interruption and it goes on.

    The samples depend on recipe and seed only: not on workers, shard size, ``n`` (a smaller one is a prefix), the cells
    selected, or how often the run was interrupted.

    Args:
        recipe: name, path, or a loaded recipe (with its overrides).
        out: folder of the data set; created, or resumed if it holds the same recipe.
        n: samples in each (split, cell); default the recipe's numbers.
        seed: default the recipe's.
        workers: processes that compute; 1 is this process. Default: 1 for short runs and on a GPU, else up to 3.
        shard: ``(i, n)`` or ``"i/n"``, 1 <= i <= n: do only every n-th shard, starting with the i-th (for clusters).
        device: ``"cpu"``, ``"cuda"``, ``"auto"``.
        progress: called after every block, in the calling thread.
        dry_run: write nothing, return a `DryRun`.
        shard_size: samples in a shard file, a multiple of the block size; default what fits 128 MiB.
        on_warning: gets each warning; default `warnings.warn` with `WichanWarning`.

    Returns:
        A `RunReport` (a `DryRun` for ``dry_run``).

    Raises:
        InvalidValueError, UnknownNameError: a bad argument or recipe, before anything is written.
        StoreError: a folder that holds something else or is in use, a disk that is full or too small for the whole run
            (seen before anything is written), a worker that died.
        KeyboardInterrupt: finished shards are kept; the same call goes on.
    """
    if dry_run:
        return plan_report(recipe, out, n=n, shard=shard, shard_size=shard_size, device=device, workers=workers)
    started = time.perf_counter()
    if workers is not None:  # before a folder is made
        check_int("workers", workers, minimum=1, maximum=256)
    job = prepare(recipe, n=n, seed=seed, shard=shard, shard_size=shard_size, device=device)
    if shortage := space_shortage(out, job.plan.shards, job.sampler.bytes_per_sample):
        raise StoreError(shortage)
    notes = job.warnings()
    for text in notes:
        if on_warning is None:
            python_warnings.warn(text, WichanWarning, stacklevel=2)
        else:
            on_warning(text)
    plan = job.plan
    with DatasetWriter(out, job.header(), plan.cells, shard_size=plan.shard_size, part=job.part) as writer:
        meter = _Meter(job, writer.pending, progress)
        count = _choose_workers(job, writer.pending, workers)
        if count > 1:
            from wichan.simulate.workers import WorkerPool

            with WorkerPool(job.recipe, job.seed, count) as pool:
                pool.write(writer, meter.block, meter.shard)
        else:
            for shard_plan in writer.pending:
                writer.write_shard(shard_plan, _metered(compute_blocks(job.sampler, job.seed, shard_plan), meter))
                meter.shard()
        manifest = writer.finish()
    return RunReport(
        path=Path(out),
        recipe=job.recipe.name,
        seed=job.seed,
        samples=meter.samples,
        samples_found=meter.found,
        samples_total=plan.num_samples,
        shards=len(plan.shards),
        bytes=meter.samples * job.sampler.bytes_per_sample,
        seconds=time.perf_counter() - started,
        workers=count,
        complete=manifest.complete,
        warnings=notes,
    )


def prepare(
    recipe: Recipe | str | Path,
    *,
    n: int | None = None,
    seed: int | None = None,
    shard: tuple[int, int] | str | None = None,
    shard_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Job:
    """Check every argument of a run and lay it out; nothing is computed or written."""
    loaded = load_recipe(recipe)
    chosen_seed = loaded.seed if seed is None else check_int("seed", seed, minimum=0, maximum=2**63 - 1)
    part = None if shard is None else check_part(shard)
    sampler: BlockSampler = KINDS[loaded.kind](loaded, device=pick_device(device))
    sampler.ready()
    plan = make_run_plan(loaded, sampler, n=n, part=part, shard_size=shard_size)
    return Job(loaded, sampler, plan, chosen_seed, part)


def compute_blocks(sampler: BlockSampler, seed: int, shard: ShardPlan) -> Iterator[dict[str, Any]]:
    """Yield the blocks of a shard; each is computed whole with one thread, and the last one of a cell is cut."""
    for block, rows in shard_blocks(shard, sampler.block_size):
        with one_thread(), torch.no_grad():
            values = sampler.sample(sampler.key(seed, shard.split, shard.cell, block))
        yield {name: value[:rows].cpu() for name, value in values.items()}


def plan_report(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    n: int | None = None,
    shard: tuple[int, int] | str | None = None,
    shard_size: int | None = None,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> DryRun:
    """Say what a run would make and how long it would take (one block is computed to find out).

    Args:
        recipe: name, path, or a loaded recipe.
        out: folder of the run, whose disk must have room; default the recipe's name in the current folder.
        n, shard, shard_size, device, workers: as in `run`.
    """
    job = prepare(recipe, n=n, shard=shard, shard_size=shard_size, device=device)
    shards, plan = job.plan.shards, job.plan
    size = plan.num_samples * job.sampler.bytes_per_sample
    count = _choose_workers(job, shards, workers)
    seconds = max(_compute_seconds(job, shards) / count, size / DISK_BYTES_PER_SECOND) if shards else 0.0
    folder = Path(job.recipe.name) if out is None else out
    shortage = space_shortage(folder, shards, job.sampler.bytes_per_sample)
    return DryRun(
        recipe=job.recipe.name,
        cells=len(plan.cells),
        samples=plan.num_samples,
        shards=len(shards),
        bytes=size,
        block_size=plan.block_size,
        shard_size=plan.shard_size,
        seconds=seconds,
        workers=count,
        warnings=(*job.warnings(), *([shortage] if shortage else [])),
    )


def _choose_workers(job: Job, shards: tuple[ShardPlan, ...], workers: int | None) -> int:
    if workers is not None:
        return min(check_int("workers", workers, minimum=1, maximum=256), max(len(shards), 1))
    if len(shards) < 2 or _cores() < 3 or job.sampler.device.type != "cpu":
        return 1
    return min(_cores(), MOST_WORKERS, len(shards)) if _compute_seconds(job, shards) > SHORT_RUN_SECONDS else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compute_seconds(job: Job, shards: tuple[ShardPlan, ...]) -> float:
    """Time of all blocks in one thread, from the second of two calls (the first one warms up)."""
    if not shards:
        return 0.0
    first, size = shards[0], job.plan.block_size
    for _ in range(2):
        before = time.perf_counter()
        next(compute_blocks(job.sampler, job.seed, first))
        spent = time.perf_counter() - before
    return spent * sum(-(-shard.count // size) for shard in shards)


def _metered(blocks: Iterator[dict[str, Any]], meter: _Meter) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield block
        meter.block(len(next(iter(block.values()))))


class _Meter:
    """Counts what is done and tells the callback."""

    def __init__(self, job: Job, pending: tuple[ShardPlan, ...], callback: ProgressCallback | None) -> None:
        self.samples = 0
        self.total = job.plan.num_samples
        self.found = self.total - sum(shard.count for shard in pending)
        self._shards_total = len(job.plan.shards)
        self._shards_done = self._shards_total - len(pending)
        self._bytes = job.sampler.bytes_per_sample
        self._callback = callback
        self._started = time.perf_counter()

    def block(self, rows: int) -> None:
        """Count a block of ``rows`` samples."""
        self.samples += rows
        if self._callback is not None:
            self._callback(self._progress())

    def shard(self) -> None:
        """Count a shard."""
        self._shards_done += 1

    def _progress(self) -> Progress:
        return Progress(
            samples_done=self.samples,
            samples_found=self.found,
            samples_total=self.total,
            bytes_done=self.samples * self._bytes,
            bytes_total=self.total * self._bytes,
            shards_done=self._shards_done,
            shards_total=self._shards_total,
            seconds=time.perf_counter() - self._started,
        )
