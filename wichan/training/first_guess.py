"""Where a run starts: weights that an estimator can work out in closed form from a few thousand frames."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from wichan.training.config import TrainConfig
from wichan.training.data import FrameSource, Share

if TYPE_CHECKING:
    from wichan.training.module import Task

_BATCH = 512


def give_first_guess(task: Task, source: FrameSource, config: TrainConfig) -> bool:
    """Let the network work out its first weights from ``config.warm_start`` frames; the average starts there too.

    Returns:
        Whether the network has such a start (see `wichan.estimators.LearnedEstimator.warm_start`) and took it.
    """
    start = getattr(task.network, "warm_start", None)
    if not config.warm_start or start is None or not start(_batches(source, config)):
        return False
    if task.average is not None:
        task.average.module.load_state_dict(task.network.state_dict())
    return True


def _batches(source: FrameSource, config: TrainConfig) -> Iterator[Any]:
    """The first frames of the source, whichever process asks: every one must find the same weights."""
    left = config.warm_start
    for frames in source.batches(("y", config.target), _BATCH, Share()):
        take = min(left, _BATCH)
        yield SimpleNamespace(y=frames["y"][:take].cpu(), h=frames[config.target][:take].cpu())
        left -= take
        if not left:
            return
