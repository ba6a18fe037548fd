"""The task of learned predictors: from impaired histories to the clean snapshots that followed."""

from __future__ import annotations

from typing import Any

import torch

from wichan.estimators.base import Estimate
from wichan.prediction.learned import LearnedPredictor
from wichan.training.config import TrainConfig
from wichan.training.data import Frames
from wichan.training.history_data import HISTORY
from wichan.training.measures import estimate_summary, estimate_sums
from wichan.training.module import Task
from wichan.training.prediction_losses import error_ratios, make_prediction_loss, parse_prediction_loss


class PredictionTraining(Task):
    """Trains a predictor on the column ``h_u_hist`` and the target, as the source hands them out: noisy and clean.

    Args:
        network: a `LearnedPredictor`.
        config: the run.
        max_steps: see `Task`.
    """

    def __init__(self, network: LearnedPredictor, config: TrainConfig, max_steps: int | None = None) -> None:
        super().__init__(network, config, max_steps)
        self._loss = make_prediction_loss(config.loss)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch must have."""
        return (HISTORY, self.config.target)

    def loss(self, batch: Frames) -> torch.Tensor:
        """The loss of the configuration, or the network's own for its mean, in single precision whatever it runs in."""
        network: Any = self.network
        history, future = batch[HISTORY], batch[self.config.target]
        # Seeded before every step, and put back after the run.
        generator = (
            torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else torch.default_generator
        )
        own = network.training_loss(history, future, generator)
        if own is not None and "nll" not in parse_prediction_loss(self.config.loss):
            return own
        prediction = network(history)
        with torch.autocast(self.device.type, enabled=False):
            loss = self._loss if own is None else make_prediction_loss(self.config.loss, own)
            return loss(prediction, future)

    def measure(self, network: Any, batch: Frames) -> dict[str, torch.Tensor]:
        """Error, energy, decibels a sample, normalised error, loss, and the published mean of ratios."""
        future = batch[self.config.target]
        prediction = network(batch[HISTORY])
        sums = estimate_sums(Estimate(prediction.h_pred, prediction.err_var), future, self._loss(prediction, future))
        ratios = error_ratios(prediction.h_pred.to(torch.complex128), future.to(torch.complex128))
        return sums | {"ratio": ratios.flatten(1).mean(1).sum()}

    def summary(self, sums: dict[str, float]) -> dict[str, float]:
        """``nmse_db``, ``score_db``, ``error_ratio``, ``loss`` as everywhere; ``nmse_ratio``, linear, the mean of ratios."""
        return estimate_summary(sums) | {"nmse_ratio": sums["ratio"] / sums["frames"]}

    @property
    def has_idle_weights(self) -> bool:
        """Without nll nothing trains the head of err_var."""
        return "nll" not in parse_prediction_loss(self.config.loss)

    def compile_network(self) -> None:
        """Compile the network in place: names of the weights stay."""
        self.network.get_submodule("network").compile()
