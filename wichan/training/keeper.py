"""The callback that runs a task within its budget: clock, stop, state, best weights, metrics, progress."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from wichan.random import derive_seed
from wichan.training.config import TrainConfig
from wichan.training.folder import RunFolder
from wichan.training.module import DivergedError, Task
from wichan.training.prefetch import BatchFeed
from wichan.training.state import RunState, restore_optimiser, save_state

SAVE_PERIOD = 300.0  # s between two saves of the state, at least
_AGREE_EVERY = 5  # steps between two agreements of several devices on time and interrupts
_CHECK_EVERY = 20  # steps between two looks at the loss on a GPU, each of which waits for it


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        steps, frames: done, on all devices.
        used: share of the budget that is gone.
        seconds: spent.
        frames_per_second: since this part of the run began, validation not counted.
        busy: share of the training time in which the network did not wait for frames.
        rate: learning rate.
        loss: mean training loss since the last validation; NaN between validations.
        metrics: of a validation that has just ended; else empty.
        best: metrics of the best weights so far.
        improved: whether this validation found them.
    """

    steps: int
    frames: int
    used: float
    seconds: float
    frames_per_second: float
    busy: float
    rate: float
    loss: float
    metrics: dict[str, float]
    best: dict[str, float]
    improved: bool


class Keeper(L.Callback):
    """Keeps a run: see the module.

    Args:
        config: the run.
        state: where it stands; changed as it goes on.
        tensors: saved tensors of a resumed run, for the optimiser.
        feed: the batches.
        folder: where to write; None writes nothing.
        progress: called after steps and validations.
        save_best: writes the best weights and their metrics.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: RunState,
        tensors: dict[str, torch.Tensor],
        feed: BatchFeed,
        folder: RunFolder | None,
        progress: Callable[[TrainProgress], None] | None,
        save_best: Callable[[Task, RunState], None],
        writer: Any = None,
    ) -> None:
        self.config, self.state, self.feed, self.folder = config, state, feed, folder
        self.asked_to_stop = False  # by Ctrl-C or SIGTERM, in this process
        self.interrupted = False  # agreed between all
        self._tensors, self._progress, self._save_best, self._writer = tensors, progress, save_best, writer
        self._before, self._first = state.seconds, state.steps
        self._began = self._saved = time.monotonic()
        self._validating = 0.0  # s spent on validation in this part
        self._val_began = 0.0

    def ask_to_stop(self, *_: Any) -> None:
        """End the run after the step in progress; fit to be a signal handler."""
        self.asked_to_stop = True

    # -- Start and step. --

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Bring the optimiser back and start the clock."""
        if self._tensors:
            restore_optimiser(trainer.optimizers[0], self._tensors)
            self._tensors = {}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and self.state.scaler:
            scaler.load_state_dict(self.state.scaler)
        if threading.current_thread() is threading.main_thread():
            # Over Lightning's own handler, which leaves at once; it puts back what was there before.
            signal.signal(signal.SIGTERM, self.ask_to_stop)
        self._began = self._saved = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        """Seed dropout by the number of the step, so that a resumed run draws what an undisturbed one would."""
        seed = derive_seed(self.config.seed, "step", module.steps, trainer.global_rank)
        torch.default_generator.manual_seed(seed)
        if module.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Look at the clock, the budget and the loss."""
        self.state.steps = module.steps
        self._agree(trainer, module)
        if trainer.is_global_zero:
            self._check_loss(module, outputs)
            if time.monotonic() - self._saved > SAVE_PERIOD:
                self.save(trainer, module)
            self._tell(trainer, module, math.nan)
        if trainer.world_size == 1:
            self.interrupted = self.asked_to_stop
        if self.interrupted:
            self._stop(trainer, "interrupted")
        elif module.used >= 1:
            self._stop(trainer, self.budget_reason(module))

    def _agree(self, trainer: L.Trainer, module: Any) -> None:
        """Set the task's clock; all devices must see the same time, or their learning rates would part."""
        now = self._before + time.monotonic() - self._began
        if trainer.world_size == 1:
            module.seconds = self.state.seconds = now
            return
        if module.steps % _AGREE_EVERY and module.steps > self._first + 1:
            return
        both = torch.tensor([now, float(self.asked_to_stop)], dtype=torch.float64, device=module.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        module.seconds = self.state.seconds = float(both[0])
        self.interrupted = bool(both[1])

    def _check_loss(self, module: Any, outputs: Any) -> None:
        if module.device.type == "cuda" and module.steps % _CHECK_EVERY:
            return
        value = float(outputs["loss"])
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} after {module.steps} steps; the best weights are kept, try a lower lr")

    @staticmethod
    def budget_reason(module: Any) -> str:
        """Which part of the budget is used up."""
        return "max_steps" if module.max_steps is not None and module.steps >= module.max_steps else "max_time"

    def _stop(self, trainer: L.Trainer, why: str) -> None:
        self.state.stopped = self.state.stopped or why
        trainer.should_stop = True

    # -- Validation. --

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Note the time."""
        self._val_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Keep the best weights, save the state, write the metrics."""
        self._validating += time.monotonic() - self._val_began
        if self.interrupted or not module.metrics:
            return
        value, best = module.metrics[str(self.config.monitor)], self.state.best.get(str(self.config.monitor), math.inf)
        improved = value < best
        if improved:
            self.state.best, self.state.best_step, self.state.stale = dict(module.metrics), module.steps, 0
        else:
            self.state.stale += 1
        if trainer.is_global_zero:
            loss = module.mean_loss()
            if not math.isfinite(value):
                raise DivergedError(f"{self.config.monitor} is {value} after {module.steps} steps; the best weights are kept")
            if improved:
                self._save_best(module, self.state)
            self._record(module, loss, trainer.world_size)
            self.save(trainer, module)
            self._tell(trainer, module, loss, dict(module.metrics), improved)
        if self.config.patience and self.state.stale >= self.config.patience:
            self._stop(trainer, "patience")

    def _record(self, module: Any, loss: float, world: int) -> None:
        row = {"step": module.steps, "frames": self.frames(module, world), "seconds": round(self.state.seconds, 3)}
        row |= {"lr": module.rate, "train_loss": loss} | {f"val_{name}": value for name, value in module.metrics.items()}
        row |= {"busy": round(self.busy, 4), "frames_per_second": round(self.speed(module, world), 2)}
        if self.folder is not None:
            self.folder.add_metrics(row)
        if self._writer is not None:
            for name, number in row.items():
                if name != "step":
                    self._writer.add_scalar(name.replace("val_", "val/", 1), number, module.steps)
            self._writer.flush()

    # -- End. --

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        """Save where the run stands."""
        if trainer.is_global_zero:
            if not self.state.best:  # ended before the first validation: these weights are all there is
                self._save_best(module, self.state)
            self.save(trainer, module)

    def save(self, trainer: L.Trainer, module: Any) -> None:
        """Write the state."""
        self._saved = time.monotonic()
        if self.folder is None:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.state.scaler = {} if scaler is None else dict(scaler.state_dict())
        save_state(self.folder.state, module, trainer.optimizers[0], self.state)

    # -- Numbers. --

    @property
    def training_seconds(self) -> float:
        """Time of this part, validation not counted."""
        return max(time.monotonic() - self._began - self._validating, 1e-9)

    @property
    def busy(self) -> float:
        """Share of that time in which the network did not wait for frames."""
        return min(max(1 - self.feed.waited / self.training_seconds, 0.0), 1.0)

    def frames(self, module: Any, world: int) -> int:
        """Frames seen on all devices."""
        return int(module.steps) * self.config.batch_size * world

    def speed(self, module: Any, world: int) -> float:
        """Frames a second on all devices."""
        return (module.steps - self._first) * self.config.batch_size * world / self.training_seconds

    def _tell(
        self, trainer: L.Trainer, module: Any, loss: float, metrics: dict[str, float] | None = None, improved: bool = False
    ) -> None:
        if self._progress is None:
            return
        frames, speed = self.frames(module, trainer.world_size), self.speed(module, trainer.world_size)
        numbers = (module.used, module.seconds, speed, self.busy, module.rate, loss)
        self._progress(TrainProgress(module.steps, frames, *numbers, metrics or {}, self.state.best, improved))
