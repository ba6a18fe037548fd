"""Sweeps: the same channels for all estimators, point by point over one condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int
from wichan.evaluation.baselines import BASELINES, Built, resolve
from wichan.evaluation.detail import DetailOptions, DetailTotals, check_detail
from wichan.evaluation.feeds import DataFeed, Feed, FeedOptions, RecipeFeed
from wichan.evaluation.measure import measure
from wichan.evaluation.names import check_known, named
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import compare_beside
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
    detail: bool | DetailOptions = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    r"""Measure the NMSE of several estimators over one condition, on the same channels and noise.

    At each point the swept condition is fixed and all others are drawn from the recipe's laws. Draws are common to all
    estimators, and to all points (except where the profile itself is swept): channel i has the same fading everywhere, so
    curves are smooth and gaps are sharp.
    Estimators that are not told the conditions are built once, for the recipe's whole distribution.

    Args:
        recipe: name, path or `Recipe` of kind ``ofdm``; with ``data`` it is read from the data set.
        estimators: names of `BASELINES`, ``NAME=PATH`` of a weight file or the path alone; or a mapping ``name -> estimator``:
            a name, a path, an `Estimator`, or anything callable as ``(y, no, **conditions) -> Estimate`` or ``h_hat``, with
            the wanted conditions in its attribute ``told``.
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
        detail: also measure NMSE of each resource element, calibration by decile, bit errors and SINR after an equaliser:
            ``result.resource_elements``, ``.reliability``, ``.ber``, ``.sinr_db``. `DetailOptions`, or False to leave it out.
        progress: called with (channels done, channels in all) once the estimators are built, and after every batch.

    Returns:
        `Evaluation`: print it, or use ``.table``, ``.to_csv``, ``.to_json``, ``.figure``, ``.save``.

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
    options_of_detail = check_detail(detail)
    chosen = _chosen(estimators, reference)
    options = FeedOptions(sweep, points, num_channels, split, seed, batch_size, device)
    feed = _feed(recipe, data, options, overrides, cells)
    totals = None if options_of_detail is None else DetailTotals(feed, len(chosen), options_of_detail)
    # The genie may refuse the source, and does so at once; a pooled covariance before it could take half a minute.
    order = sorted(chosen, key=lambda name: (chosen[name] or name) != "lmmse-genie")
    made = {name: _placed(resolve(chosen[name], name, feed.setting), device) for name in order}
    built = {name: made[name] for name in chosen}
    measured = measure(feed, built, totals, progress)
    beside = compare_beside(
        measured.errors,
        measured.energies,
        None if totals is None else totals.rows(),
        generator=make_generator(feed.setting.seed, "bootstrap"),
        reference=None if reference is None else list(chosen).index(reference),
        common=feed.common,
        num_resamples=num_resamples,
    )
    counts = tuple(energy.numel() for energy in measured.energies)
    return Evaluation(
        sweep=sweep,
        points=tuple(feed.points),
        estimators=tuple(built),
        told=tuple(entry.told for entry in built.values()),
        reference=reference,
        num_channels=counts,
        statistics=beside.comparison,
        calibration=measured.calibration,
        detail=None if totals is None else totals.result(beside.sums, beside.replicates, counts),
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
    chosen = dict(estimators) if isinstance(estimators, Mapping) else named(estimators)
    if not chosen:
        raise InvalidValueError(f"estimators is empty; at least one is needed (known: {', '.join(BASELINES)})")
    for name, entry in chosen.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"estimators={name!r} must be a name; give objects as a mapping name -> estimator")
        if entry is None or isinstance(entry, str):
            check_known(entry or name)
    if reference is not None and reference not in chosen:
        check_choice("reference", reference, dict.fromkeys([*chosen, *BASELINES]))
        chosen[reference] = None
    return chosen


def _placed(built: Built, device: str) -> Built:
    if isinstance(built.estimator, torch.nn.Module):
        built.estimator.to(device)
    return built


def _versions() -> dict[str, str]:
    import platform

    from wichan import __version__

    return {"wichan": __version__, "torch": torch.__version__, "python": platform.python_version()}
