"""How the learning rate follows the budget."""

from __future__ import annotations

import math

from wichan.training.config import TrainConfig


def budget_used(config: TrainConfig, step: int, seconds: float, max_steps: int | None) -> float:
    """Share of the budget that is used up, 0 to 1: of steps or of time, whichever is more.

    Args:
        config: the run.
        step: steps done.
        seconds: time spent, earlier parts of a resumed run included.
        max_steps: steps allowed (epochs counted in).
    """
    steps = step / max_steps if max_steps is not None else 0.0
    time = seconds / config.max_time if config.max_time is not None else 0.0
    return min(max(steps, time), 1.0)


def rate_factor(config: TrainConfig, used: float) -> float:
    r"""Learning rate as a share of ``config.lr`` when the share ``used`` of the budget is gone.

    It rises linearly over the warm-up w; then, with p = (used - w) / (1 - w) and the final share f, it is 1 (constant),
    :math:`f + (1 - f)(1 + \cos \pi p)/2` (cosine) or :math:`f^p` (exponential).
    """
    if used < config.warmup:
        return max(used / config.warmup, 1e-3)
    left = 1.0 - config.warmup
    p = (used - config.warmup) / left if left > 0 else 1.0
    final = config.lr_final
    if config.schedule == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * p)) / 2
    if config.schedule == "exponential":
        return max(final, 1e-6) ** p
    return 1.0
