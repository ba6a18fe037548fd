"""`fit`: run a training within its budget, on one device or several, and give back the best estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_int
from wichan.training.best import BestWeights
from wichan.training.build import build_network
from wichan.training.config import TrainConfig
from wichan.training.data import FrameSource, Share, check_columns, count, cut, open_source
from wichan.training.first_guess import give_first_guess
from wichan.training.folder import EVENTS, RunFolder
from wichan.training.prefetch import BatchFeed
from wichan.training.state import RunState, read_state, restore_network
from wichan.training.surroundings import interruptible, surroundings

if TYPE_CHECKING:
    from wichan.estimators import Estimator
    from wichan.training.keeper import Keeper, TrainProgress
    from wichan.training.module import Task

_PATIENCE = timedelta(minutes=5)  # of several devices with each other


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a training run gave.

    Attributes:
        estimator: with the best weights, on the CPU, in evaluation mode.
        folder: where the run lies; None if nothing was written.
        best: validation metrics of these weights.
        best_step: when they were found.
        steps, frames: done, over all parts of the run and all devices.
        seconds: time spent, over all parts.
        stopped: ``max_steps``, ``max_time``, ``patience`` or ``interrupted``.
        frames_per_second: in this part, validation not counted.
        busy: share of the training time in which the network did not wait for frames.
    """

    estimator: Estimator
    folder: Path | None
    best: dict[str, float]
    best_step: int
    steps: int
    frames: int
    seconds: float
    stopped: str
    frames_per_second: float
    busy: float

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain data."""
        names = ("best", "best_step", "steps", "frames", "seconds", "stopped", "frames_per_second", "busy")
        return {"folder": None if self.folder is None else str(self.folder)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Place:
    """Where a run computes: device, process number ``rank`` of ``world``, intra-op threads (None: as they are)."""

    device: torch.device
    share: Share = Share()
    threads: int | None = None


def fit(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    devices: int = 1,
    threads: int | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a learned estimator.

    The same settings, device and number of threads give the same weights where the budget is counted in steps; so does a run
    that was interrupted and resumed. Ctrl-C ends after the step in progress, with everything saved. The global random
    generators are as before afterwards.

    Args:
        config: what to train, on what, how, for how long.
        out: folder for settings, state, best weights and metrics; None keeps everything in memory.
        resume: go on with the run that ``out`` holds; time and steps spent before count.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        devices: processes that share every step (Lightning's DDP), each with its own frames; on ``cuda`` one GPU each.
        threads: intra-op threads of the CPU during the run.
        progress: called after every step and validation.
        on_note: told what the user may want to know.

    Returns:
        `TrainResult`.

    Raises:
        WichanError: wrong settings, a folder that holds another run, a data set without a validation split, a loss that
            became NaN (`wichan.training.DivergedError`; the best weights stay in the folder). One line each.

    Example:
        >>> config = TrainConfig.of("linear", max_steps=4, val_frames=16, overrides={"grid.num_subcarriers": 12})
        >>> fit(config, device="cpu").steps
        4
    """
    from wichan.simulate.devices import pick_device
    from wichan.training.processes import companions

    if not isinstance(config, TrainConfig):
        raise InvalidTypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    chosen, world = pick_device(device), check_int("devices", devices, minimum=1)
    if chosen.type == "cuda" and world > torch.cuda.device_count():
        raise InvalidValueError(f"devices={world} is more than the {torch.cuda.device_count()} GPUs of this machine")
    if resume and out is None:
        raise InvalidValueError("resume needs the folder of the run: give out")
    place = Place(chosen, Share(0, world), None if threads is None else check_int("threads", threads, minimum=1))
    folder = None if out is None else RunFolder(out)
    if folder is not None:
        folder.check(config, resume)
    opened = open_run(config, place)  # whatever is wrong is found before a folder is made
    if folder is not None:
        folder.begin(config)
    saved = folder.state if folder is not None and resume and folder.state.exists() else None
    with companions(config, place, saved):
        return run(config, place, opened, folder, saved, progress, on_note or (lambda text: None))


def open_run(config: TrainConfig, place: Place) -> tuple[FrameSource, Task]:
    """Open the frames and build the task of a run.

    Raises:
        WichanError: settings that do not fit each other.
    """
    source = open_source(config, place.device)
    task = config.family.task(build_network(config, source.observation), config)
    check_columns(source, task.columns)
    per_epoch = source.epoch_frames // (config.batch_size * place.share.world)
    if config.data is not None and not per_epoch:
        raise InvalidValueError(
            f"batch_size={config.batch_size} on {place.share.world} devices exceeds the {source.epoch_frames} training frames"
        )
    limits = [config.max_steps, None if config.max_epochs is None else config.max_epochs * max(per_epoch, 1)]
    task.max_steps = min((limit for limit in limits if limit is not None), default=None)
    return source, task


def run(
    config: TrainConfig,
    place: Place,
    opened: tuple[FrameSource, Task],
    folder: RunFolder | None,
    saved: Path | None,
    progress: Callable[[TrainProgress], None] | None,
    on_note: Callable[[str], None],
) -> TrainResult:
    """Train in this process, one of ``place.share.world``."""
    from wichan.training.keeper import Keeper

    source, task = opened
    with surroundings(place.device, place.threads):
        state, tensors, updates = (RunState(), {}, 0) if saved is None else read_state(saved)
        if saved is None:
            give_first_guess(task, source, config)
        else:
            restore_network(task, tensors, updates, saved)
        task.steps, task.seconds, state.stopped = state.steps, state.seconds, ""
        keep = BestWeights(config, source, folder)
        if folder is not None:
            folder.drop_metrics_after(state.steps)
        if saved is not None:
            keep.read()
        feed = _feed(config, source, task, place)
        optimiser_tensors = {name: value for name, value in tensors.items() if name.startswith("optimiser.")}
        writer = _event_writer(folder, state.steps, on_note) if place.share.rank == 0 else None
        keeper = Keeper(config, state, optimiser_tensors, feed, folder, progress, keep.take, writer)
        try:
            if task.used < 1 and not (config.patience and state.stale >= config.patience):
                _train(config, place, source, task, keeper, feed)
            else:  # a run that had ended before
                state.stopped = keeper.budget_reason(task) if task.used >= 1 else "patience"
            if place.share.rank == 0 and state.stopped != "interrupted":
                keep.calibrate(task, state)
        finally:
            feed.close()
            if writer is not None:
                writer.close()
        world = place.share.world
        where = None if folder is None else folder.path
        done = (state.steps, keeper.frames(task, world), state.seconds, state.stopped)
        pace = (keeper.speed(task, world), keeper.busy)
        return TrainResult(config.family.estimator(keep.network(task)), where, state.best, state.best_step, *done, *pace)


def _train(config: TrainConfig, place: Place, source: FrameSource, task: Task, keeper: Keeper, feed: BatchFeed) -> None:
    import lightning as L
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    cuda, world = place.device.type == "cuda", place.share.world
    frames = source.fixed(task.columns, config.val_frames)
    if count(frames) < world:
        raise InvalidValueError(f"devices={world} is more than the {count(frames)} frames of the validation set")
    fixed = cut(frames, config.batch_size, place.share)
    if config.compile:
        task.compile_network()
    trainer = L.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=[place.device.index or 0] if cuda and world == 1 else world,
        strategy=DDPStrategy(find_unused_parameters=task.has_idle_weights, timeout=_PATIENCE) if world > 1 else "auto",
        plugins=[LightningEnvironment()],
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.clip or None,
        max_epochs=-1,
        callbacks=[keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with interruptible(keeper.ask_to_stop):
        try:
            trainer.fit(task, feed, _Fixed(fixed, keeper))
        except SystemExit:  # how Lightning leaves after a second Ctrl-C
            raise KeyboardInterrupt from None
    task.cpu()


class _Fixed:
    """The validation batches; none once the run must end at once."""

    def __init__(self, batches: list[dict[str, torch.Tensor]], keeper: Keeper) -> None:
        self._batches, self._keeper = batches, keeper

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter([] if self._keeper.interrupted else self._batches)


def _feed(config: TrainConfig, source: FrameSource, task: Task, place: Place) -> BatchFeed:
    columns = task.columns

    def length(given: int) -> int:
        """Batches until the next validation, which is at a multiple of ``val_every``, or the end."""
        left = config.val_every - given % config.val_every
        return left if task.max_steps is None else max(min(left, task.max_steps - given), 0)

    return BatchFeed(
        lambda first: source.batches(columns, config.batch_size, place.share, first),
        first=task.steps,
        length=length,
        device=place.device,
        background=place.device.type == "cuda" or config.data is not None or torch.get_num_threads() == 1,
    )


def _event_writer(folder: RunFolder | None, step: int, on_note: Callable[[str], None]) -> Any:
    """A writer of TensorBoard events where that is installed."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        on_note("tensorboard is not installed: metrics go to metrics.csv only")
        return None
    return SummaryWriter(str(folder.path / EVENTS), purge_step=step + 1)
