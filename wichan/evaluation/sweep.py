"""Sweeps: the same channels for all estimators, point by point over one condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int
from wichan.evaluation.baselines import BASELINES, Built, resolve
from wichan.evaluation.detail import DetailOptions, check_detail
from wichan.evaluation.feeds import DataFeed, Feed, FeedOptions, RecipeFeed
from wichan.evaluation.irs_totals import IRSOptions, check_irs
from wichan.evaluation.kinds import EVALUATION_KINDS, channels_wanted, check_estimators, check_metrics, default_reference
from wichan.evaluation.measure import Measured, measure
from wichan.evaluation.names import check_known, named
from wichan.evaluation.result import Evaluation
from wichan.evaluation.setting import Setting
from wichan.evaluation.statistics import compare_beside
from wichan.evaluation.structural import merged, merged_notes, note_mixed_snr, setting_feeds, setting_key
from wichan.evaluation.totals import Totals, joined_results, joined_rows, open_totals
from wichan.random import make_generator

AUTO = "auto"


def evaluate(
    recipe: Any = "ofdm-siso",
    estimators: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    sweep: str = "snr_db",
    points: Sequence[float | str] | None = None,
    data: str | Path | None = None,
    num_channels: int | None = None,
    reference: str | None = AUTO,
    split: str | None = None,
    cells: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    num_resamples: int = 2000,
    detail: bool | DetailOptions = True,
    metrics: Sequence[str] | None = None,
    irs: IRSOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Evaluation:
    r"""Measure the NMSE of several estimators over one condition, on the same channels and noise.

    At each point the swept condition is fixed and all others are drawn from the recipe's laws. Draws are common to all
    estimators, and to all points (except where the profile itself is swept): channel i has the same fading everywhere, so
    curves are smooth and gaps are sharp.
    Estimators that are not told the conditions are built once, for the recipe's whole distribution. A sweep over a setting of
    the recipe, such as ``quantizer.num_bits``, ``pilots.num_pilots`` or ``prior.num_train``, builds link and estimators anew at
    every point; channels stay the same draws where the setting does not change their law.

    Args:
        recipe: name, path or `Recipe` of kind ``ofdm``, ``quantized`` or ``irs``; with ``data`` it is read from the data set.
        estimators: default those of the recipe's kind, see `wichan.evaluation.kinds`; names of `BASELINES`, ``NAME=PATH`` of a
            weight file or the path alone; or a mapping ``name -> estimator``: a name, a path, an `Estimator`, or
            anything callable as ``(y, no, **conditions) -> Estimate`` or ``h_hat``, with the wanted conditions in its attribute
            ``told``.
        sweep: the condition that changes, a key of the recipe's conditions, or ``"profile"``; or a setting of the recipe, a
            dotted key or an alias.
        points: its values in SI units; default 6 spread over the recipe's law; a setting has no default. With ``data``: centres
            of bins.
        data: folder of a data set; its samples are binned by the swept condition instead of drawing new ones.
        num_channels: channels at each point; default 1000 (100 of kind ``irs``; fewer where an estimator is slow, such as
            ``cme-gibbs`` or ``sbl``), with ``data`` all (at most this many a bin).
        reference: the estimator that gaps are measured from (run even if not in ``estimators``); None for no gaps; ``"auto"``
            for the genie of the recipe's kind.
        split: split to draw from or to read; default the test split.
        cells: with ``data``: read these cells only.
        overrides: changes to the recipe, dotted keys as for ``wichan simulate --set``.
        seed: seed of channels, noise and bootstrap; default the recipe's.
        batch_size: channels at once.
        device: where channels are computed and estimators run: ``"cpu"``, ``"cuda"``, ``"auto"``.
        num_resamples: bootstrap resamples of the 95 % intervals.
        detail: also measure NMSE of each resource element, calibration by decile, bit errors and SINR after an equaliser:
            ``result.resource_elements``, ``.reliability``, ``.ber``, ``.sinr_db``. `DetailOptions`, or False to leave it out.
            For kind ``quantized``: measure the rate where the link has a data phase, ``result.rate``. For kind ``irs``: all
            of ``result.measures`` but the run time.
        metrics: names of what is wanted beside NMSE, refused if the recipe's kind does not have it; ``"rate"`` is measured only
            if it is named here (None: see ``detail``).
        irs: for kind ``irs``: how long a channel stays the same, what counts as found; `IRSOptions`, None for the defaults.
        progress: called with (channels done, channels in all) once the estimators are built, and after every batch.
        on_note: told what takes long, such as a prior that must be fitted first.

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
    options_of_detail, options_of_irs = check_detail(detail), check_irs(irs)
    named_ones = None if estimators is None else _chosen(estimators, reference)
    count = channels_wanted(num_channels, None if data is not None else named_ones, on_note)
    options = FeedOptions(sweep, points, count, split, seed, batch_size, device)
    feeds = _feeds(recipe, data, options, overrides, cells)
    note_mixed_snr(feeds, on_note)
    setting = feeds[0].setting
    wanted = check_metrics(("nmse",) if metrics is None else metrics, setting.recipe)
    reference, chosen = _complete(named_ones, reference, feeds)
    totals = open_totals(feeds, len(chosen), options_of_detail, wanted, given=metrics is not None, irs=options_of_irs)
    measured, notes, told = _measured(feeds, chosen, totals, device, progress, on_note)
    beside = compare_beside(
        measured.errors,
        measured.energies,
        joined_rows(totals),
        generator=make_generator(setting.seed, "bootstrap"),
        reference=None if reference is None else list(chosen).index(reference),
        common=all(feed.common for feed in feeds),
        num_resamples=num_resamples,
    )
    counts, seen = tuple(map(torch.numel, measured.energies)), tuple(point for feed in feeds for point in feed.points)
    return Evaluation(
        sweep=feeds[0].sweep,
        points=seen,
        estimators=tuple(chosen),
        told=told,
        reference=reference,
        num_channels=counts,
        statistics=beside.comparison,
        calibration=measured.calibration,
        notes=notes,
        provenance=feeds[0].provenance | _origin(setting, device, options_of_irs),
        **joined_results(totals, beside, counts, seen, options_of_detail),
    )


def _measured(
    feeds: Sequence[Feed],
    chosen: Mapping[str, Any],
    totals: Sequence[Totals | None],
    device: str,
    progress: Callable[[int, int], None] | None,
    on_note: Callable[[str], None] | None,
) -> tuple[Measured, dict[str, str], tuple[tuple[str, ...], ...]]:
    """Build and measure all estimators, feed by feed: measurements, notes, and what each estimator is told."""
    # The genie may refuse the source, and does so at once; a pooled covariance before it could take half a minute.
    order = sorted(chosen, key=lambda name: not (_is_word(chosen[name]) and (chosen[name] or name).endswith("genie")))
    total = sum(feed.total for feed in feeds)
    parts, notes, done = [], [], 0
    built: dict[str, Built] = {}
    for feed, beyond in zip(feeds, totals, strict=True):
        feed.setting = replace(feed.setting, on_note=on_note)
        made = {name: _placed(resolve(chosen[name], name, feed.setting), device) for name in order}
        built = {name: made[name] for name in chosen}
        parts.append(measure(feed, built, beyond, _from(progress, done, total)))
        notes.append({name: entry.note for name, entry in built.items()})
        done += feed.total
    points = [point for feed in feeds for point in feed.points]
    known = merged_notes(points, notes) if len(feeds) > 1 else notes[0]
    return merged(parts), known, tuple(entry.told for entry in built.values())


def _is_word(entry: Any) -> bool:
    return entry is None or isinstance(entry, str)


def _from(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None] | None:
    """Progress of one feed as a part of all."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _feeds(
    recipe: Any,
    data: str | Path | None,
    options: FeedOptions,
    overrides: Mapping[str, Any] | None,
    cells: Sequence[str] | None,
) -> list[Feed]:
    """One feed, or one for every value of a swept setting."""
    if data is not None:
        if overrides:
            raise InvalidValueError("overrides do not apply to a data set; its recipe is what it was made with")
        return [DataFeed(data, options, cells)]
    if cells is not None:
        raise InvalidValueError("cells apply to a data set; fix conditions of a recipe with overrides")
    sweep, key = setting_key(recipe, options.sweep, overrides)
    if key is not None:
        return list(setting_feeds(recipe, options, key, overrides))
    return [RecipeFeed(recipe, replace(options, sweep=sweep), overrides)]


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
        if _is_word(entry):
            check_known(entry or name)
    if reference not in (None, AUTO) and reference not in chosen:
        check_choice("reference", reference, dict.fromkeys([*chosen, *BASELINES]))
        chosen[reference] = None
    return chosen


def _complete(
    named_ones: Mapping[str, Any] | None, reference: str | None, feeds: Sequence[Feed]
) -> tuple[str | None, dict[str, Any]]:
    """Reference and estimators, by default those of the recipe's kind, once all are known to fit every feed."""
    if reference == AUTO:
        found = [default_reference(feed.setting) for feed in feeds]
        reference = None if None in found else found[0]
    kind = EVALUATION_KINDS[feeds[0].setting.recipe.kind]
    chosen = _chosen(kind.estimators if named_ones is None else named_ones, reference)
    for feed in feeds:
        check_estimators(chosen, feed.setting)
    return reference, chosen


def _placed(built: Built, device: str) -> Built:
    if isinstance(built.estimator, torch.nn.Module):
        built.estimator.to(device)
    return built


def _origin(setting: Setting, device: str, irs: IRSOptions) -> dict[str, Any]:
    """What else decides the numbers: seed, device, versions, and options of the kind."""
    import platform

    from wichan import __version__

    versions = {"wichan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    found = {"seed": setting.seed, "device": device, "versions": versions}
    return found | ({"irs": asdict(irs)} if setting.recipe.kind == "irs" else {})
