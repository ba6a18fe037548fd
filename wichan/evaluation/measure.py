"""One pass over the channels of an evaluation: every estimator on every batch, squared errors added up in float64."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from wichan.errors import InvalidValueError, ShapeError
from wichan.evaluation.baselines import Built
from wichan.evaluation.detail import Outcome
from wichan.evaluation.feeds import Feed, Sample
from wichan.evaluation.labels import shown_point

if TYPE_CHECKING:
    from wichan.evaluation.totals import Totals


class Measured(NamedTuple):
    """Sums over each channel.

    Attributes:
        energies: for each point, |h|^2 of its channels, float64 (num_channels,).
        errors: for each point, |h - h_hat|^2 of every estimator, float64 (E, num_channels).
        calibration: errors over claimed error variances, (P, E); NaN without a claim.
    """

    energies: list[torch.Tensor]
    errors: list[torch.Tensor]
    calibration: torch.Tensor


@contextlib.contextmanager
def _evaluating(built: Iterable[Built]) -> Iterator[None]:
    """No gradients, and networks in evaluation mode; their mode is restored."""
    modules = [entry.estimator for entry in built if isinstance(entry.estimator, torch.nn.Module)]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def measure(
    feed: Feed, built: Mapping[str, Built], totals: Totals | None, progress: Callable[[int, int], None] | None
) -> Measured:
    """Run all estimators on all batches; ``totals`` takes what is added up beside."""
    energies: list[list[torch.Tensor]] = [[] for _ in feed.points]
    errors: list[list[torch.Tensor]] = [[] for _ in feed.points]
    claimed = torch.zeros(len(feed.points), len(built), dtype=torch.float64)
    done = 0
    if progress is not None:
        progress(0, feed.total)
    with _evaluating(built.values()):
        for sample in feed:
            if getattr(totals, "timed", False) and done == 0:
                _warm_up(built, sample, feed)
            runs = [_run(name, entry, sample, feed) for name, entry in built.items()]
            spread = _power(sample.h)
            energy = _of_channel(spread)
            error = torch.stack([_of_channel(run.error) for run in runs])
            claim = torch.stack([_claim(run) for run in runs])
            for point in sample.point.unique().tolist():
                here = sample.point == point
                energies[point].append(energy[here])
                errors[point].append(error[:, here])
                claimed[point] += claim[:, here].sum(dim=1)
            if totals is not None:
                totals.add(sample, spread, runs)
            done += sample.h.shape[0]
            if progress is not None:
                progress(done, feed.total)
    joined = [torch.cat(parts, dim=-1) for parts in errors]
    calibration = torch.stack([error.sum(dim=-1) for error in joined]) / claimed
    return Measured([torch.cat(parts) for parts in energies], joined, torch.where(claimed > 0, calibration, torch.nan))


def _power(x: torch.Tensor) -> torch.Tensor:
    """|x|^2 summed over antennas, float64, (n, T, F)."""
    real, imaginary = x.real.double(), x.imag.double()
    return torch.addcmul(real.square(), imaginary, imaginary).sum(dim=(1, 2))


def _of_channel(power: torch.Tensor) -> torch.Tensor:
    """Sum over the elements of each channel, on the CPU."""
    return power.sum(dim=(-2, -1)).cpu()


def _claim(run: Outcome) -> torch.Tensor:
    """Error variance that an estimator claims for each channel; NaN: none."""
    if run.err_var is None:
        return run.error.new_full((run.error.shape[0],), torch.nan, device="cpu")
    return run.err_var.sum(dim=(1, 2, 3, 4), dtype=torch.float64).cpu()


def _run(name: str, built: Built, sample: Sample, feed: Feed) -> Outcome:
    """Run one estimator on a batch, and check what it returns."""
    missing = [condition for condition in built.told if condition not in sample.conditions]
    if missing:
        known = ", ".join(sample.conditions)
        raise InvalidValueError(f"estimator {name!r} wants to be told {', '.join(missing)}; known conditions: {known}")
    # Copies: an estimator that works in place must not change what the next one sees.
    told = {key: _copy(sample.conditions[key]) for key in built.told}
    inputs = sample.y.clone(), _copy(sample.no)
    start = _clock(sample.y)
    result = built.estimator(*inputs, **told)
    seconds = _clock(sample.y) - start
    if isinstance(result, tuple) and len(result) != 2:
        raise ShapeError(f"estimator {name!r} returned a tuple of {len(result)}; it must be h_hat or (h_hat, err_var)")
    h_hat, err_var = result if isinstance(result, tuple) else (result, None)
    if not isinstance(h_hat, torch.Tensor) or h_hat.shape != sample.h.shape:
        got = f"shape {tuple(h_hat.shape)}" if isinstance(h_hat, torch.Tensor) else f"type {type(h_hat).__name__}"
        raise ShapeError(f"estimator {name!r} returned h_hat of {got}; the channel has shape {tuple(sample.h.shape)}")
    error = _power(h_hat - sample.h)
    finite = torch.isfinite(error.sum(dim=(-2, -1))).cpu()
    if not bool(finite.all()):
        first = int(sample.point[~finite][0])
        where = shown_point(feed.sweep, feed.points[first])
        raise InvalidValueError(f"estimator {name!r} returned NaN or infinity at {feed.sweep}={where}; h_hat must be finite")
    coefficients = getattr(result, "coefficients", None)
    return Outcome(
        h_hat,
        None if err_var is None else _claimed(name, err_var, h_hat),
        error,
        seconds,
        coefficients if isinstance(coefficients, torch.Tensor) else None,
        getattr(built.estimator, "dictionary", None),
    )


def _clock(where: torch.Tensor) -> float:
    """Seconds, once everything that was asked of the tensor's device is done."""
    if where.is_cuda:
        torch.cuda.synchronize(where.device)
    return time.perf_counter()


def _warm_up(built: Mapping[str, Built], sample: Sample, feed: Feed) -> None:
    """Run every estimator on one channel, so that no run time holds what is done only once."""
    first = {name: value[:1] for name, value in sample.conditions.items()}
    one = Sample(sample.point[:1], sample.h[:1], sample.y[:1], sample.no[:1], first)
    for name, entry in built.items():
        _run(name, entry, one, feed)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _claimed(name: str, err_var: Any, h_hat: torch.Tensor) -> torch.Tensor:
    """The error variance an estimator returned, in the shape of its estimate."""
    if not isinstance(err_var, torch.Tensor) or err_var.is_complex():
        raise ShapeError(
            f"estimator {name!r} returned err_var of type {type(err_var).__name__}; it must be a real torch.Tensor"
        )
    try:
        # Integers and half precision as numbers like any other: what follows computes with single or double precision.
        full = err_var.to(torch.promote_types(err_var.dtype, torch.float32)).expand(h_hat.shape)
    except RuntimeError:
        have, want = tuple(err_var.shape), tuple(h_hat.shape)
        raise ShapeError(f"estimator {name!r} returned err_var of shape {have}; h_hat has {want}") from None
    low = float(err_var.min()) if err_var.numel() else 0.0
    if not (math.isfinite(low) and bool(torch.isfinite(err_var).all())) or low < 0:
        raise InvalidValueError(
            f"estimator {name!r} returned NaN, infinite or negative err_var; it must be finite and at least 0"
        )
    return full
