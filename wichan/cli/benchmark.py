"""``wichan evaluate --benchmark``: predictors in the settings of a published benchmark."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wichan.evaluation import BenchmarkResult, CSIRRGBenchmark
    from wichan.evaluation.benchmarks.estimate import Estimate

Benchmark = Annotated[str | None, typer.Option("--benchmark", help="Score predictors in a published benchmark: csi-rrg.")]
Predictors = Annotated[
    str | None, typer.Option("--predictors", metavar="A,B", help="With --benchmark: names (--list) or NAME=PATH; default all.")
]
Duplex = Annotated[str, typer.Option("--duplex", help="With --benchmark: tdd or fdd.")]
Budget = Annotated[str, typer.Option("--budget", help="With --benchmark: quick (minutes) or full.")]
Categories = Annotated[
    str | None,
    typer.Option("--categories", metavar="A,B", help="With --benchmark: regular, robustness, generalization; default all."),
]
Noises = Annotated[
    str | None,
    typer.Option("--noises", metavar="A,B", help="With --benchmark: awgn, phase, burst, drop, awgn=20; default all."),
]
Imputation = Annotated[
    str, typer.Option("--imputation", help="With --benchmark: lost snapshots are filled by hold, linear or published.")
]
Published = Annotated[bool, typer.Option("--published", help="With --benchmark: published numbers in the tables too.")]
Workers = Annotated[int | None, typer.Option("--workers", help="With --benchmark: cells side by side; default by machine.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --benchmark: print settings, views and time; score nothing.")]

#: Options of ``evaluate`` that make sense with a benchmark only, without one only, and with both.
ONLY_WITH = ("predictors", "duplex", "budget", "categories", "noises", "imputation", "published", "workers", "dry_run")
ONLY_WITHOUT = (
    *("recipe", "sweep", "points", "estimators", "reference", "split", "metric", "modulation"),
    *("num_streams", "coherence", "detail", "detail_point"),
)


def run_benchmark(context: typer.Context) -> None:
    """Score, print, write; or with ``--dry-run`` say what that would take."""
    from wichan.errors import check_choice
    from wichan.evaluation.benchmarks import BENCHMARKS

    values = context.params
    check_choice("benchmark", values["benchmark"], BENCHMARKS)
    made = _benchmark(context)
    if values["dry_run"]:
        _dry_run(made, _names(values["predictors"]), values["json"])
        return
    try:
        result = _scored(made, values)
    except KeyboardInterrupt:
        _explain_interrupt(context)
        raise typer.Exit(130) from None
    _report(result, values["out"], values["json"])


def given(context: typer.Context, names: tuple[str, ...]) -> list[str]:
    """Those of the options ``names`` that stand on the command line, as they are written there."""
    options = {option.name: max(option.opts, key=len) for option in context.command.params}
    return [options[name] for name in names if _is_given(context, name)]


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_foreign(context: typer.Context) -> None:
    """Refuse options of the other way to evaluate.

    Raises:
        typer.BadParameter: options that would have no effect.
    """
    with_benchmark = context.params["benchmark"] is not None
    wrong = given(context, ONLY_WITHOUT if with_benchmark else ONLY_WITH)
    if wrong:
        reason = "cannot go with --benchmark" if with_benchmark else "cannot go without --benchmark csi-rrg"
        raise typer.BadParameter(f"{', '.join(wrong)} {reason}")


def _benchmark(context: typer.Context) -> CSIRRGBenchmark:
    from wichan.evaluation.benchmarks import BENCHMARKS
    from wichan.simulate import parse_overrides

    values = context.params
    made: CSIRRGBenchmark = BENCHMARKS[values["benchmark"]](
        values["duplex"],
        values["budget"],
        categories=_names(values["categories"]),
        cells=_names(values["cells"]),
        noises=_noises(values["noises"]),
        num_samples=values["num_channels"],
        seed=0 if values["seed"] is None else values["seed"],
        data=values["data"],
        overrides=parse_overrides(values["settings"] or []),
        imputation=values["imputation"],
        device=values["device"],
        batch_size=values["batch_size"] if given(context, ("batch_size",)) else None,
        workers=values["workers"],
    )
    return made


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _noises(text: str | None) -> Any:
    """``awgn,drop`` or ``awgn=20,awgn=25,drop=0.05``: noise -> degrees, None for all of them."""
    from wichan.errors import InvalidValueError

    words = _names(text)
    if words is None or not words:
        return words
    chosen: dict[str, list[float] | None] = {}
    for word in words:
        name, equals, degree = word.partition("=")
        if not equals:
            chosen[name] = None
            continue
        try:
            number = float(degree)
        except ValueError:
            raise InvalidValueError(f"--noises={text!r}: degree {degree!r} of {name!r} must be a number") from None
        known = chosen.setdefault(name, [])
        if known is not None:
            known.append(number)
    return chosen


def _scored(made: CSIRRGBenchmark, values: dict[str, Any]) -> BenchmarkResult:
    from dataclasses import replace

    from wichan.cli.console import message
    from wichan.cli.progress import ProgressReport

    with ProgressReport(values["benchmark"], unit="views") as bar:
        result = made.run(
            _names(values["predictors"]),
            values["out"],
            progress=lambda done, total: bar.update(done, total),
            on_note=lambda text: message("note", text),
        )
    return replace(result, published=values["published"])


def _report(result: BenchmarkResult, out: Path | None, as_json: bool) -> None:
    from wichan.cli.console import emit_json, is_terminal, message, say, show

    written = [str(path) for path in result.save(out)] if out is not None else []
    if as_json:
        emit_json(result.to_dict() | {"files": written})
        return
    if is_terminal():
        show(result)
    else:
        say(result.table())
    if written:
        message("wrote", ", ".join(written))


def _dry_run(made: CSIRRGBenchmark, predictors: list[str] | None, as_json: bool) -> None:
    from wichan.cli.console import emit_json, human_seconds, key_values, message, say

    estimate: Estimate = made.estimate(predictors, on_note=lambda text: message("note", text))
    if as_json:
        emit_json(estimate.to_dict())
        return
    threads = f"{estimate.workers} worker{'s' if estimate.workers > 1 else ''}"
    rows = {
        "benchmark": f"csi-rrg, {made.duplex}, {made.budget}",
        "settings": f"{estimate.settings:,}",
        "samples": f"{estimate.samples:,}",
        "views": f"{estimate.views:,}",
        "time": f"about {human_seconds(estimate.seconds)} with {threads}",
    }
    rows |= {f"  {name or 'noise and scores'}": f"{1e3 * spent:.3g} ms a view" for name, spent in estimate.per_view.items()}
    say(key_values(rows))


def _explain_interrupt(context: typer.Context) -> None:
    """Say what is safe, and the command that goes on."""
    from wichan.cli.console import emit_json, message, stderr

    out, command = context.params["out"], _command(context)
    kept = f"finished cells are safe in {out}; continue with:"
    text = "nothing was kept; with -o DIR finished cells are" if out is None else kept
    message("interrupted", text)
    if out is not None:
        stderr().print(f"  {command}", soft_wrap=True)
    if context.params["json"]:
        emit_json({"error": f"interrupted: {text}" + ("" if out is None else f" {command}")})


def _command(context: typer.Context) -> str:
    """The command line that was given, from its options."""
    words = ["wichan", "evaluate"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if not _is_given(context, option.name or ""):
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            name = max(option.opts, key=len)
            words += [name] if item is True else [name, str(item)]
    return shlex.join(words)
