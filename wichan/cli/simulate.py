"""``wichan simulate``: recipe in, data set out; interrupted anywhere, it continues where it was."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer


def simulate(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see: wichan recipes) or path of a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; default: the recipe's name.")] = None,
    num_samples: Annotated[int | None, typer.Option("-n", "--num-samples", help="Samples in each cell of each split.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed; default: the recipe's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given again.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Splits to make, comma between names, or all.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "cpu",
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; default: what suits the machine.")] = None,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Make the I-th of N parts only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print counts, bytes and time; write nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a data set from a recipe.

    Run the same command again to continue after an interruption.
    """
    from wichan.simulate import load_recipe, parse_overrides

    overrides = parse_overrides(settings or [])
    if split is not None:
        overrides["split"] = [name.strip() for name in split.split(",")]
    loaded = load_recipe(recipe, overrides)
    options = {"n": num_samples, "shard": shard, "workers": workers, "device": device}
    folder = out if out is not None else Path(loaded.name)
    if dry_run:
        _dry_run(loaded, folder, options, json)
        return
    try:
        _run(loaded, folder, {**options, "seed": seed}, json)
    except KeyboardInterrupt:
        again = _command(recipe, folder, num_samples, seed, settings or [], split, device, workers, shard)
        _explain_interrupt(folder, again, json)
        raise typer.Exit(130) from None


def _dry_run(recipe: Any, folder: Path, options: dict[str, Any], as_json: bool) -> None:
    from wichan.cli.console import emit_json, human_bytes, human_seconds, key_values, message, say
    from wichan.simulate import plan_report

    plan = plan_report(recipe, folder, **options)
    if as_json:
        emit_json(plan.to_dict())
        return
    for text in plan.warnings:
        message("warning", text)
    rows = {
        "recipe": plan.recipe,
        "cells": f"{plan.cells:,}",
        "samples": f"{plan.samples:,}",
        "shards": f"{plan.shards:,} of up to {plan.shard_size:,} samples",
        "size": human_bytes(plan.bytes),
        "time": f"about {human_seconds(plan.seconds)} with {plan.workers} worker{'s' if plan.workers > 1 else ''}",
    }
    say(key_values(rows))


def _run(recipe: Any, folder: Path, options: dict[str, Any], as_json: bool) -> None:
    from wichan.cli.console import emit_json, message, say
    from wichan.cli.progress import ProgressReport
    from wichan.simulate import run

    with ProgressReport(recipe.name) as bar:

        def follow(state: Any) -> None:
            rates = (state.samples_per_second, state.bytes_per_second, state.seconds_left)
            bar.update(state.samples_found + state.samples_done, state.samples_total, *rates)

        report = run(recipe, folder, progress=follow, on_warning=lambda text: message("warning", text), **options)
    if as_json:
        emit_json(report.to_dict())
    else:
        say(_summary(report))


def _summary(report: Any) -> str:
    from wichan.cli.console import human_bytes, human_seconds

    where = f"{report.path}: {report.samples_total:,} samples in {report.shards:,} shard{'s' if report.shards > 1 else ''}"
    if not report.samples:
        return f"{where}, all there already"
    speed = f"{report.samples_per_second:,.0f} samples/s, {human_bytes(report.bytes / max(report.seconds, 1e-9))}/s"
    text = f"{where}, {report.samples:,} made now in {human_seconds(report.seconds)} ({speed})"
    return text if report.complete else f"{text}; other parts are missing still"


def _command(
    recipe: str,
    folder: Path,
    num_samples: int | None,
    seed: int | None,
    settings: list[str],
    split: str | None,
    device: str,
    workers: int | None,
    shard: str | None,
) -> str:
    """The command line that continues this run."""
    words = ["wichan", "simulate", recipe, "-o", str(folder)]
    named = [("-n", num_samples), ("--seed", seed), *(("--set", setting) for setting in settings), ("--split", split)]
    named += [("--device", None if device == "cpu" else device), ("--workers", workers), ("--shard", shard)]
    for option, value in named:
        if value is not None:
            words += [option, str(value)]
    return shlex.join(words)


def _explain_interrupt(folder: Path, command: str, as_json: bool) -> None:
    from wichan.cli.console import emit_json, message, stderr

    text = f"what {folder} holds is safe; continue with:"
    message("interrupted", text)
    stderr().print(f"  {command}", soft_wrap=True)
    if as_json:
        emit_json({"error": f"interrupted: {text} {command}"})
