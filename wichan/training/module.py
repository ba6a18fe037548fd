"""The Lightning module of a task: loss, optimiser, schedule, moving average, validation sums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import nn

from wichan.errors import WichanError
from wichan.estimators.base import Estimate
from wichan.training.config import TrainConfig
from wichan.training.data import Frames
from wichan.training.ema import WeightAverage
from wichan.training.losses import make_loss, parse_loss
from wichan.training.measures import estimate_summary, estimate_sums
from wichan.training.schedule import budget_used, rate_factor


class DivergedError(WichanError, ArithmeticError):
    """The training loss became NaN or infinite."""


class Task(L.LightningModule):
    """What all tasks share; a task says how a batch becomes a loss, and how validation sums become metrics.

    Args:
        network: what is trained.
        config: the run.
        max_steps: steps that the budget allows, epochs counted in; None: time alone limits.

    Attributes:
        average: moving average of the network, or None.
        steps: optimiser steps done, earlier parts of a resumed run included.
        seconds: time that the schedule reckons with; whoever runs the task keeps it up to date.
        metrics: what the last validation found.
        conditions: what the network is told besides the observation and its noise.
        losses: sum of the training losses since the last call of `mean_loss`, and their number.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, max_steps: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.average = WeightAverage(network, config.ema) if config.ema else None
        self.config, self.max_steps = config, max_steps
        self.steps, self.seconds = 0, 0.0
        self.metrics: dict[str, float] = {}
        self.conditions: tuple[str, ...] = ()
        self.losses: tuple[torch.Tensor | float, int] = (0.0, 0)
        self._sums: dict[str, torch.Tensor] = {}

    # -- What a task defines. --

    @abstractmethod
    def loss(self, batch: Frames) -> torch.Tensor:
        """Loss of a batch, a scalar with a gradient."""

    @abstractmethod
    def measure(self, network: nn.Module, batch: Frames) -> dict[str, torch.Tensor]:
        """Sums over a validation batch, name -> float64 scalar; sums of batches are added."""

    @abstractmethod
    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of the validation set from its sums."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch must have."""

    @abstractmethod
    def compile_network(self) -> None:
        """Run what is worth it through ``torch.compile``, in place."""

    @property
    def has_idle_weights(self) -> bool:
        """Whether some weights get no gradient."""
        return False

    # -- Training. --

    @property
    def kept(self) -> nn.Module:
        """The network whose weights are validated and saved: the average, or the one that is trained."""
        return self.network if self.average is None else self.average.module

    @property
    def used(self) -> float:
        """Share of the budget that is gone."""
        return budget_used(self.config, self.steps, self.seconds, self.max_steps)

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return self.config.lr * rate_factor(self.config, self.used)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of the configuration, over all parameters of the network that are trained."""
        kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return kinds[self.config.optimiser](trained, lr=self.config.lr, weight_decay=self.config.weight_decay)

    def training_step(self, batch: Frames, index: int) -> torch.Tensor:
        """Return the loss of a batch and take note of it."""
        loss = self.loss(batch)
        total, count = self.losses
        self.losses = (total + loss.detach().float(), count + 1)
        return loss

    def optimizer_step(
        self, epoch: int, index: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step at the rate of the schedule, then take the weights into the average."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate
        super().optimizer_step(epoch, index, optimizer, optimizer_closure)
        self.steps += 1
        if self.average is not None:
            self.average.update(self.network)

    def mean_loss(self) -> float:
        """Mean training loss since the last call, NaN where there was none."""
        total, count = self.losses
        self.losses = (0.0, 0)
        return float(total) / count if count else float("nan")

    # -- Validation. --

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last validation."""
        self._sums = {}

    def validation_step(self, batch: Frames, index: int) -> None:
        """Add the sums of a batch; in single precision, as the weights will be used."""
        with torch.autocast(self.device.type, enabled=False):
            sums = self.measure(self.kept, batch)
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in sums.items()}

    def on_validation_epoch_end(self) -> None:
        """Add up over devices and keep the metrics."""
        if not self._sums:
            return
        sums = torch.stack(list(self._sums.values()))
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        self.metrics = self.summary(dict(zip(self._sums, sums.tolist(), strict=True)))


class ChannelEstimation(Task):
    """From a received grid to the channel: trains an estimator on columns ``y``, ``no``, its conditions and the target."""

    def __init__(self, network: nn.Module, config: TrainConfig, max_steps: int | None = None) -> None:
        super().__init__(network, config, max_steps)
        self._loss = make_loss(config.loss)
        self.conditions = tuple(getattr(network, "told", ()))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch must have."""
        return tuple(dict.fromkeys((self.config.target, "y", "no", *self.conditions)))

    def estimate(self, network: nn.Module, batch: Frames) -> Estimate:
        """Run an estimator on a batch."""
        result: Estimate = network(batch["y"], batch["no"], **{name: batch[name] for name in self.conditions})
        return result

    def loss(self, batch: Frames) -> torch.Tensor:
        """The loss of the configuration, in single precision whatever the network runs in."""
        estimate = self.estimate(self.network, batch)
        with torch.autocast(self.device.type, enabled=False):
            return self._loss(estimate, batch[self.config.target])

    def measure(self, network: nn.Module, batch: Frames) -> dict[str, torch.Tensor]:
        """Error, energy, decibels a frame, normalised error, loss."""
        h = batch[self.config.target]
        estimate = self.estimate(network, batch)
        return estimate_sums(estimate, h, self._loss(estimate, h))

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """``nmse_db``, ``score_db``, ``error_ratio``, ``loss``: see `wichan.training.measures`."""
        return estimate_summary(sums)

    @property
    def has_idle_weights(self) -> bool:
        """Without nll nothing trains the head of err_var."""
        return "nll" not in parse_loss(self.config.loss)

    def compile_network(self) -> None:
        """Compile the network in place: names of the weights stay."""
        self.network.get_submodule("network").compile()
