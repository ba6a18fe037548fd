"""How long would it take? A few views are scored with a clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wichan.evaluation.benchmarks.channels import ChannelSource
from wichan.evaluation.benchmarks.contestants import Contestant
from wichan.evaluation.benchmarks.scoring import Job, score_job

_VIEWS = 5


@dataclass(frozen=True)
class Estimate:
    """What a run would cost.

    Attributes:
        settings: settings.
        samples: channels that are made or read.
        views: damaged histories that every predictor sees.
        seconds: wall time, with ``workers`` threads that do not disturb each other.
        per_view: seconds a view in each predictor; ``""`` is all the rest.
        workers: threads.
    """

    settings: int
    samples: int
    views: int
    seconds: float
    per_view: dict[str, float]
    workers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rest = {name or "noise and scores": value for name, value in self.per_view.items()}
        return {
            "settings": self.settings,
            "samples": self.samples,
            "views": self.views,
            "seconds": self.seconds,
            "seconds_per_view": rest,
            "workers": self.workers,
        }


def measured_estimate(
    jobs: Sequence[Job], source: ChannelSource, contestants: Sequence[Contestant], *, seed: int, workers: int
) -> Estimate:
    """Score a setting of the first job twice, the second time with a clock."""
    job = replace(jobs[0], noises=jobs[0].noises[:1], num_samples=min(_VIEWS, jobs[0].num_samples))
    with torch.inference_mode():
        score_job(replace(job, num_samples=1), source, contestants, seed=seed)
        start = time.perf_counter()
        scores = score_job(job, source, contestants, seed=seed)
    wall = time.perf_counter() - start
    views = sum(one.num_views for one in jobs)
    per_view = {c.name: float(spent) / job.num_views for c, spent in zip(contestants, scores.seconds, strict=True)}
    per_view[""] = max(wall - float(scores.seconds.sum()), 0.0) / job.num_views
    return Estimate(
        settings=sum(len(one.noises) for one in jobs),
        samples=sum(one.num_samples for one in jobs),
        views=views,
        seconds=views * sum(per_view.values()) / workers,
        per_view=per_view,
        workers=workers,
    )
