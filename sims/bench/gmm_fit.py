"""Fitting a Gaussian mixture to channels beside gmm-estimator, whose EM qce inherits: CPU seconds a fit, and likelihoods.

CPU time of the process counts, of all threads, so that a busy machine or a threaded library does not tilt the ratio. Each
repeat takes another seed; likelihoods are means over the repeats, of 10^4 channels that neither has seen.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import Row

from wichan.channels import SpatialGaussian
from wichan.priors import GMM

NUM_CHANNELS = 10_000
MOST_REPEATS = 3  # a fit of the peer takes tens of seconds
TARGET = ">= 5x"


def gmm_fit(repeats: int) -> list[Row]:
    """Fits of equal settings: both packages' k-means start, zero means, floor 1e-6, tolerance 1e-3."""
    rows: list[Row] = []
    repeats = min(repeats, MOST_REPEATS)
    for structure, size, max_iter in (("full", 32, 100), ("full", 64, 10), ("toeplitz", 32, 10), ("circulant", 32, 100)):
        rows += _case(structure, size, max_iter, repeats)
    return rows


def _case(structure: str, size: int, max_iter: int, repeats: int) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    model = SpatialGaussian(size)
    train, new = (model.sample(NUM_CHANNELS, generator=generator).h[..., 0].to(torch.complex128) for _ in range(2))
    _ours(structure, 2, 2, 0, train[:200])  # the first call of a library loads it
    _peer(structure, 2, 2, 0, train[:200])
    times: dict[str, list[float]] = {"ours": [], "reached": [], "peer": []}
    scores: dict[str, list[float]] = {"ours": [], "reached": [], "peer": []}
    for seed in range(repeats):
        seconds, peer = _cpu_seconds(lambda s=seed: _peer(structure, size, max_iter, s, train))
        times["peer"].append(seconds)
        scores["peer"].append(float(peer.score(new.numpy())))
        bar = float(peer.score(train.numpy()))
        for name, reached in (("ours", None), ("reached", bar)):
            seconds, prior = _cpu_seconds(lambda s=seed, r=reached: _ours(structure, size, max_iter, s, train, r))
            times[name].append(seconds)
            scores[name].append(prior.log_likelihood(new))
    theirs = statistics.median(times["peer"])
    rows = []
    for name, text in (("ours", f"at most {max_iter} iterations"), ("reached", "until the peer's likelihood")):
        held_out = f"held out {statistics.mean(scores[name]):.2f} and {statistics.mean(scores['peer']):.2f} nat"
        setting = f"{structure}, N = K = {size}, 10^4 channels, {text}; {held_out}"
        rows.append(Row("GMM fit", setting, "fit (CPU)", statistics.median(times[name]), "gmm-estimator", theirs, TARGET))
    return rows


def _ours(structure: str, size: int, max_iter: int, seed: int, h: torch.Tensor, reached: float | None = None) -> GMM:
    def enough(iteration: int, most: int, value: float) -> bool:
        return reached is not None and value >= reached

    return GMM(size, structure, max_iter=max_iter, seed=seed).fit(h, progress=enough)


def _peer(structure: str, size: int, max_iter: int, seed: int, h: torch.Tensor) -> Any:
    from gmm_estimator import GmmEstimator

    model = GmmEstimator(size, structure, max_iter=max_iter, random_state=seed, zero_mean=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when max_iter is reached
        return model.fit(h.numpy())


def _cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result
