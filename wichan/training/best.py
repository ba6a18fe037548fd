"""The best weights of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from wichan.training.build import build_network
from wichan.training.config import TrainConfig
from wichan.training.data import FrameSource, Share, cut
from wichan.training.folder import RunFolder
from wichan.training.state import RunState

if TYPE_CHECKING:
    from wichan.estimators import LearnedEstimator
    from wichan.priors import VAE


class BestWeights:
    """The best weights so far, in memory and in the folder."""

    def __init__(self, config: TrainConfig, source: FrameSource, folder: RunFolder | None) -> None:
        self._config, self._source, self._folder = config, source, folder
        self._weights: dict[str, torch.Tensor] | None = None

    def read(self) -> None:
        """Take the weights of an earlier part of the run."""
        from safetensors.torch import load_file

        if self._folder is not None and self._folder.best.exists():
            self._weights = load_file(self._folder.best)

    def take(self, task: Any, state: RunState) -> None:
        """Keep the task's weights."""
        self._weights = {name: value.detach().cpu().clone() for name, value in task.kept.state_dict().items()}
        self._write(task, state)

    def _write(self, task: Any, state: RunState) -> None:
        from wichan.training.weights import save_weights

        if self._folder is None:
            return
        notes = {"config": self._config.to_dict(), "metrics": state.best, "step": state.best_step}
        notes |= {"steps": state.steps, "seconds": round(state.seconds, 1), "torch": torch.__version__}
        save_weights(self.network(task), self._folder.best, training=notes)

    def network(self, task: Any) -> LearnedEstimator | VAE:
        """A fresh network with the best weights."""
        made = build_network(self._config, self._source.observation)
        made.load_state_dict(task.kept.state_dict() if self._weights is None else self._weights)
        return made.eval()

    @torch.no_grad()
    def calibrate(self, task: Any, state: RunState) -> None:
        """Set the scale of ``err_var`` so that its mean normalised error is 1 on frames that were not used before."""
        made = self.network(task)
        scale = getattr(getattr(made, "error_head", None), "scale", None)
        if scale is None or "nll" not in self._config.loss:
            return
        frames = self._source.fixed(task.columns, self._config.val_frames, "calibration")
        total = number = 0.0
        for batch in cut(frames, self._config.batch_size, Share()):
            sums = task.measure(made, {name: value.cpu() for name, value in batch.items()})
            total, number = total + float(sums["known"]), number + float(sums["frames"])
        if math.isfinite(total) and total > 0:
            # Exact, whatever was set before: the scale of these weights is multiplied by what is left.
            scale.mul_(total / number)
            self._weights = {name: value.detach().clone() for name, value in made.state_dict().items()}
            self._write(task, state)
