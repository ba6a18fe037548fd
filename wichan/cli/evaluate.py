"""``wichan evaluate``: estimators side by side on the same channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wichan.cli.benchmark import (
    Benchmark,
    Budget,
    Categories,
    DryRun,
    Duplex,
    Imputation,
    Noises,
    Predictors,
    Published,
    Workers,
    refuse_foreign,
    run_benchmark,
)

if TYPE_CHECKING:
    from wichan.evaluation import Evaluation


def evaluate(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe to draw channels from; default: ofdm-siso.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data set to read channels from instead.")] = None,
    sweep: Annotated[
        str, typer.Option("--sweep", help="A condition (snr_db, ...), profile, or a setting (num_bits, ...).")
    ] = "snr_db",
    points: Annotated[
        str | None, typer.Option("--points", help="Values in SI units: 0,10,20 or 0:25:5; default: by law.")
    ] = None,
    estimators: Annotated[str | None, typer.Option("--estimators", metavar="A,B", help="Names (--list) or NAME=PATH.")] = None,
    num_channels: Annotated[
        int | None, typer.Option("--num-channels", "-n", help="At each point; default by estimators.")
    ] = None,
    reference: Annotated[str, typer.Option("--reference", help="Estimator that gaps refer to; none for none.")] = "auto",
    split: Annotated[str | None, typer.Option("--split", help="Split to use; default: test.")] = None,
    cells: Annotated[str | None, typer.Option("--cells", help="With --data or --benchmark: cells, comma between them.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed; default: the recipe's.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Channels at once.")] = 64,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "cpu",
    metric: Annotated[str, typer.Option("--metric", metavar="A,B", help="nmse; ber, sinr; rate; srr, ser, se...")] = "nmse",
    modulation: Annotated[str, typer.Option("--modulation", help="For ber: qpsk, 16qam, 64qam or 256qam.")] = "16qam",
    num_streams: Annotated[int | None, typer.Option("--num-streams", help="For ber, sinr; default: all that fit.")] = None,
    coherence: Annotated[int, typer.Option("--coherence", help="For se: channel uses that a training serves.")] = 1000,
    detail: Annotated[
        bool, typer.Option("--detail", help="With -o: draw resource elements, calibration, BER and SINR too.")
    ] = False,
    detail_point: Annotated[
        str | None, typer.Option("--detail-point", help="With --detail: the point that maps show; default the middle one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the CSV, JSON and PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List the estimators and predictors and leave.")] = False,
    benchmark: Benchmark = None,
    predictors: Predictors = None,
    duplex: Duplex = "tdd",
    budget: Budget = "quick",
    categories: Categories = None,
    noises: Noises = None,
    imputation: Imputation = "hold",
    published: Published = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Compare estimators or predictors on the same channels.

    Prints a table of NMSE (or with --metric of bit errors or SINR after an equaliser, of the rate of a quantised link, of
    support, symbol errors, spectral efficiency or run time over an IRS) over a condition or a setting; with -o it also writes a
    CSV, a JSON and figures, with --detail further figures.

    With --benchmark csi-rrg channel predictors are scored: NMSE, spectral efficiency, ranks. Run the same command with -o again
    to continue after an interruption.
    """
    if list_them:
        _list(json)
        return
    context.params.update(data=data, out=out)  # older Typer keeps them there as text
    refuse_foreign(context)
    if benchmark is not None:
        run_benchmark(context)
        return
    _compare(context.params)


def _compare(values: dict[str, Any]) -> None:
    """Estimators over a sweep."""
    recipe, data, out, detail_point = (values[name] for name in ("recipe", "data", "out", "detail_point"))
    if recipe is not None and data is not None:
        raise typer.BadParameter("--recipe and --data exclude each other; give one")
    drawing = values["detail"] or detail_point is not None
    if drawing and out is None:
        raise typer.BadParameter("--detail draws figures and needs a folder for them; give -o DIR")
    options: dict[str, Any] = {
        name: values[name] for name in ("sweep", "split", "seed", "batch_size", "device", "num_channels")
    }
    options |= {
        "points": parse_points(values["points"]),
        "reference": None if values["reference"] == "none" else values["reference"],
        "cells": _names(values["cells"]) if values["cells"] is not None else None,
        "detail": _detail(values["modulation"], values["num_streams"], detail_point),
        "metrics": _metrics(values["metric"]),
        "irs": _irs(values["coherence"]),
    }
    chosen = None if values["estimators"] is None else _names(values["estimators"])
    result = _measure(recipe, data, chosen, values["settings"] or [], options, out)
    _report(result, options["metrics"], out, drawing, values["json"])


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_points(text: str | None) -> list[float | str] | None:
    """Read ``0,10,20``, ``first:last:step`` or names; None stays None."""
    from wichan.errors import InvalidValueError

    if text is None:
        return None
    if ":" in text:
        from wichan.simulate import parse_law

        if text.count(":") != 2:
            raise InvalidValueError(f"--points={text!r} must be first:last:step or values with commas between them")
        return [float(value) for value in parse_law(text, "--points").values]
    words = _names(text)
    if not words:
        raise InvalidValueError(f"--points={text!r} holds no value; at least one is needed")
    try:
        return [float(word) for word in words]
    except ValueError:
        return list(words)


def _list(as_json: bool) -> None:
    from wichan.cli.console import emit_json, print_table, say
    from wichan.evaluation import BASELINES
    from wichan.evaluation.benchmarks.named import NAMES

    known = {name: (BASELINES[name].__doc__ or "").strip().split("\n")[0].replace("``", "") for name in BASELINES}
    if as_json:
        emit_json({"estimators": known, "predictors": NAMES})
        return
    print_table(["estimator", "what it is"], [[name, text] for name, text in known.items()])
    say("")
    print_table(["predictor (--benchmark)", "what it is"], [[name, text] for name, text in NAMES.items()])


def _metrics(text: str) -> list[str]:
    """Metrics in the order of their tables; a wrong name is found before the work."""
    from wichan.errors import InvalidValueError, check_choice
    from wichan.evaluation.kinds import METRICS

    words = list(dict.fromkeys(_names(text)))
    if not words:
        raise InvalidValueError(f"--metric={text!r} names no metric (known: {', '.join(METRICS)})")
    return [check_choice("metric", word, METRICS) for word in words]


def _detail(modulation: str, num_streams: int | None, point: str | None) -> Any:
    """Options of the detail; a wrong name is found before the work."""
    from wichan.evaluation import DetailOptions

    chosen = parse_points(point) if point is not None else None
    return DetailOptions(modulation=modulation, num_streams=num_streams, point=chosen[0] if chosen else None)


def _irs(coherence: int) -> Any:
    """Options of kind ``irs``; a wrong number is found before the work."""
    from wichan.evaluation import IRSOptions

    return IRSOptions(coherence=coherence)


def _measure(
    recipe: str | None,
    data: Path | None,
    estimators: list[str] | None,
    settings: list[str],
    options: dict[str, Any],
    out: Path | None,
) -> Evaluation:
    from wichan.cli.console import message
    from wichan.cli.progress import ProgressReport
    from wichan.evaluation import evaluate as measure
    from wichan.simulate import parse_overrides

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is found before the work
    with ProgressReport("evaluate", unit="channels") as bar:
        options |= {"progress": bar.update, "on_note": lambda text: message("note", text)}
        return measure(recipe or "ofdm-siso", estimators, data=data, overrides=parse_overrides(settings), **options)


def _report(result: Evaluation, metrics: list[str], out: Path | None, drawing: bool, as_json: bool) -> None:
    from wichan.cli.console import emit_json, is_terminal, message, say, show, stdout

    if {"ber", "sinr"} & set(metrics):
        result.link()  # a metric that could not be measured is told before anything is written
    if drawing and result.detail is None:
        message("note", "--detail has nothing more to draw for this kind of recipe")
    kinds = result.drawable if drawing else [metric for metric in metrics if metric != "nmse"]
    written = result.save(out, kinds=kinds) if out is not None else []
    if as_json:
        emit_json(result.to_dict() | {"files": [str(path) for path in written]})
        return
    for number, metric in enumerate(metrics):
        if is_terminal():
            from wichan.evaluation import rich_table

            show(rich_table(result, stdout().width, metric))
        else:
            say(("\n" if number else "") + result.table(metric))
    if written:
        message("wrote", ", ".join(str(path) for path in written))
