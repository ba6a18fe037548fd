"""Sweeps: the same channels for all estimators, point by point over one condition."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int
from wichan.evaluation.baselines import BASELINES, Built, resolve
from wichan.evaluation.feeds import DataFeed, Feed, FeedOptions, RecipeFeed, Sample
from wichan.evaluation.result import Evaluation, shown_point
from wichan.evaluation.statistics import compare
from wichan.random import make_generator

DEFAULT_ESTIMATORS = ("ls", "lmmse-pooled", "lmmse-genie")


def evaluate(
    recipe: Any = "ofdm-siso",
    estimators: Sequence[str] | Mapping[str, Any] = DEFAULT_ESTIMATORS,
    *,
    sweep: str = "snr_db",
    points: Sequence[float | str] | None = None,
    data: str | Path | None = None,
    num_channels: int | None = None,
    reference: str | None = "lmmse-genie",
    split: str | None = None,
    cells: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    num_resamples: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    r"""Measure the NMSE of several estimators over one condition, on the same channels and noise.

    At each point the swept condition is fixed and all others are drawn from the recipe's laws. Draws are common to all
    estimators, and to all points (except where the profile itself is swept): channel i has the same fading everywhere, so
    curves are smooth and gaps are sharp.
    Estimators that are not told the conditions are built once, for the recipe's whole distribution.

    Args:
        recipe: name, path or `Recipe` of kind ``ofdm``; with ``data`` it is read from the data set.
        estimators: names of `BASELINES`, or a mapping ``name -> estimator``: a name, an `Estimator`, or anything callable as
            ``(y, no, **conditions) -> Estimate`` or ``h_hat``, with the wanted conditions in its attribute ``told``.
        sweep: the condition that changes, a key of the recipe's conditions, or ``"profile"``.
        points: its values in SI units; default 6 spread over the recipe's law. With ``data``: centres of bins.
        data: folder of a data set; its samples are binned by the swept condition instead of drawing new ones.
        num_channels: channels at each point; default 1000, with ``data`` all (at most this many a bin).
        reference: the estimator that gaps are measured from (run even if not in ``estimators``); None for no gaps.
        split: split to draw from or to read; default the test split.
        cells: with ``data``: read these cells only.
        overrides: changes to the recipe, dotted keys as for ``wichan simulate --set``.
        seed: seed of channels, noise and bootstrap; default the recipe's.
        batch_size: channels at once.
        device: where channels are computed and estimators run: ``"cpu"``, ``"cuda"``, ``"auto"``.
        num_resamples: bootstrap resamples of the 95 % intervals.
        progress: called with (channels done, channels in all) after every batch.

    Returns:
        `Evaluation`: print it, or use ``.to_csv``, ``.to_json``, ``.figure``, ``.save``.

    Raises:
        InvalidValueError: an unknown name, a condition that the recipe does not have, an estimator that returns NaN.
        ShapeError: an estimator that returns another shape than the channel's.

    Example:
        >>> result = evaluate("ofdm-siso", ["ls", "lmmse-genie"], points=[0.0, 20.0], num_channels=16)
        >>> result.points, result.nmse_db.value.shape, result.reference
        ((0.0, 20.0), torch.Size([2, 2]), 'lmmse-genie')
    """
    from wichan.simulate.devices import pick_device

    device = str(pick_device(device))
    check_int("batch_size", batch_size, minimum=1)
    if num_channels is not None:
        check_int("num_channels", num_channels, minimum=2)
    chosen = _chosen(estimators, reference)
    options = FeedOptions(sweep, points, num_channels, split, seed, batch_size, device)
    feed = _feed(recipe, data, options, overrides, cells)
    built = {name: _placed(resolve(entry, name, feed.setting), device) for name, entry in chosen.items()}
    energies, errors, calibration = _measure(feed, built, progress)
    statistics = compare(
        errors,
        energies,
        generator=make_generator(feed.setting.seed, "bootstrap"),
        reference=None if reference is None else list(chosen).index(reference),
        common=feed.common,
        num_resamples=num_resamples,
    )
    return Evaluation(
        sweep=sweep,
        points=tuple(feed.points),
        estimators=tuple(built),
        told=tuple(entry.told for entry in built.values()),
        reference=reference,
        num_channels=tuple(energy.numel() for energy in energies),
        statistics=statistics,
        calibration=calibration,
        notes={name: entry.note for name, entry in built.items()},
        provenance=feed.provenance | {"seed": feed.setting.seed, "device": device, "versions": _versions()},
    )


def _feed(
    recipe: Any,
    data: str | Path | None,
    options: FeedOptions,
    overrides: Mapping[str, Any] | None,
    cells: Sequence[str] | None,
) -> Feed:
    if data is None:
        if cells is not None:
            raise InvalidValueError("cells apply to a data set; fix conditions of a recipe with overrides")
        return RecipeFeed(recipe, options, overrides)
    if overrides:
        raise InvalidValueError("overrides do not apply to a data set; its recipe is what it was made with")
    return DataFeed(data, options, cells)


def _chosen(estimators: Sequence[str] | Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    """Name -> entry, the reference appended where it is missing; unknown names are found before any work is done."""
    if isinstance(estimators, str):
        estimators = [estimators]
    chosen = dict(estimators) if isinstance(estimators, Mapping) else dict.fromkeys(estimators)
    if not chosen:
        raise InvalidValueError(f"estimators is empty; at least one is needed (known: {', '.join(BASELINES)})")
    for name, entry in chosen.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"estimators={name!r} must be a name; give objects as a mapping name -> estimator")
        if entry is None or isinstance(entry, str):
            check_choice("estimator", entry or name, BASELINES)
    if reference is not None and reference not in chosen:
        check_choice("reference", reference, dict.fromkeys([*chosen, *BASELINES]))
        chosen[reference] = None
    return chosen


def _placed(built: Built, device: str) -> Built:
    if isinstance(built.estimator, torch.nn.Module):
        built.estimator.to(device)
    return built


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


def _measure(
    feed: Feed, built: Mapping[str, Built], progress: Callable[[int, int], None] | None
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Energy, and squared error of every estimator, of every channel at every point; and sum of errors over err_var."""
    energies: list[list[torch.Tensor]] = [[] for _ in feed.points]
    errors: list[list[torch.Tensor]] = [[] for _ in feed.points]
    claimed = torch.zeros(len(feed.points), len(built), dtype=torch.float64)
    done = 0
    with _evaluating(built.values()):
        for sample in feed:
            runs = [_run(name, entry, sample, feed) for name, entry in built.items()]
            energy = _energy(sample.h)
            error = torch.stack([error for error, _ in runs])
            claim = torch.stack([claim for _, claim in runs])
            for point in sample.point.unique().tolist():
                here = sample.point == point
                energies[point].append(energy[here])
                errors[point].append(error[:, here])
                claimed[point] += claim[:, here].sum(dim=1)
            done += sample.h.shape[0]
            if progress is not None:
                progress(done, feed.total)
    joined = [torch.cat(parts, dim=-1) for parts in errors]
    calibration = torch.stack([error.sum(dim=-1) for error in joined]) / claimed
    return [torch.cat(parts) for parts in energies], joined, torch.where(claimed > 0, calibration, torch.nan)


def _energy(x: torch.Tensor) -> torch.Tensor:
    """Sum of |x|^2 over each channel, float64 on the CPU."""
    return torch.view_as_real(x).double().square().sum(dim=(-5, -4, -3, -2, -1)).cpu()


def _run(name: str, built: Built, sample: Sample, feed: Feed) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error of each channel, and the error variance that the estimator claims for it (NaN: none)."""
    missing = [condition for condition in built.told if condition not in sample.conditions]
    if missing:
        known = ", ".join(sample.conditions)
        raise InvalidValueError(f"estimator {name!r} wants to be told {', '.join(missing)}; known conditions: {known}")
    # Copies: an estimator that works in place must not change what the next one sees.
    told = {key: _copy(sample.conditions[key]) for key in built.told}
    result = built.estimator(sample.y.clone(), _copy(sample.no), **told)
    h_hat, err_var = result if isinstance(result, tuple) else (result, None)
    if not isinstance(h_hat, torch.Tensor) or h_hat.shape != sample.h.shape:
        got = f"shape {tuple(h_hat.shape)}" if isinstance(h_hat, torch.Tensor) else f"type {type(h_hat).__name__}"
        raise ShapeError(f"estimator {name!r} returned h_hat of {got}; the channel has shape {tuple(sample.h.shape)}")
    error = _energy(h_hat - sample.h)
    if not bool(torch.isfinite(error).all()):
        first = int(sample.point[~torch.isfinite(error)][0])
        where = shown_point(feed.sweep, feed.points[first])
        raise InvalidValueError(f"estimator {name!r} returned NaN or infinity at {feed.sweep}={where}; h_hat must be finite")
    if err_var is None:
        return error, torch.full_like(error, torch.nan)
    return error, _claimed(name, err_var, h_hat).sum(dim=(-4, -3, -2, -1), dtype=torch.float64).cpu()


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _claimed(name: str, err_var: Any, h_hat: torch.Tensor) -> torch.Tensor:
    """The error variance an estimator returned, in the shape of its estimate."""
    if not isinstance(err_var, torch.Tensor) or err_var.is_complex():
        raise ShapeError(
            f"estimator {name!r} returned err_var of type {type(err_var).__name__}; it must be a real torch.Tensor"
        )
    try:
        full = err_var.expand(h_hat.shape)
    except RuntimeError:
        have, want = tuple(err_var.shape), tuple(h_hat.shape)
        raise ShapeError(f"estimator {name!r} returned err_var of shape {have}; h_hat has {want}") from None
    low = float(err_var.min()) if err_var.numel() else 0.0
    if not (math.isfinite(low) and bool(torch.isfinite(err_var).all())) or low < 0:
        raise InvalidValueError(
            f"estimator {name!r} returned NaN, infinite or negative err_var; it must be finite and at least 0"
        )
    return full


def _versions() -> dict[str, str]:
    import platform

    from wichan import __version__

    return {"wichan": __version__, "torch": torch.__version__, "python": platform.python_version()}
