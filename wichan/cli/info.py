"""``wichan info``: what a data set holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_CELLS_SHOWN = 12


def info(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a data set holds."""
    import wichan.store as store
    from wichan.cli.console import emit_json

    facts = store.info(path)
    if json:
        emit_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from wichan.cli.console import human_bytes, key_values, print_table, say

    there, planned = facts["num_samples"], facts["num_planned"]
    state = "complete" if facts["complete"] else f"unfinished, {there:,} of {planned:,} samples are there"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows = {
        "data set": facts["path"],
        "state": state,
        "recipe": f"{facts['recipe']} (version {facts['recipe_version']}), seed {facts['seed']}",
        "samples": f"{there:,} in {facts['num_shards']:,} shards of up to {facts['shard_size']:,}",
        "size": human_bytes(facts["num_bytes"]),
        "SNR": facts["snr_convention"] or "none",
        "power": _power(facts["normalization"]),
        "made with": f"{versions}, on {facts['device']}",
    }
    say(key_values(rows))
    say("")
    print_table(["column", "type", "axes of a sample", "unit", "what it is"], [_column(c) for c in facts["columns"]])
    say("")
    print_table(["split", "cell", "samples"], _cells(facts["splits"]))


def _power(normalization: Any) -> str:
    if not normalization:
        return "as the model gives it"
    return str(normalization.get("mode", normalization)) if isinstance(normalization, dict) else str(normalization)


def _column(column: dict[str, Any]) -> list[str]:
    axes = " x ".join(f"{size} {name}" for size, name in zip(column["shape"], column["axes"], strict=True))
    kind = column["dtype"] if not column["categories"] else f"one of {len(column['categories'])} name(s)"
    unit = "" if column["unit"] == "1" else column["unit"]
    return [column["name"], kind, axes or "one number", unit, column["description"]]


def _cells(splits: dict[str, Any]) -> list[list[str]]:
    rows = [[split, cell, f"{count:,}"] for split, entry in splits.items() for cell, count in entry["cells"].items()]
    if len(rows) <= _CELLS_SHOWN:
        return rows
    left = len(rows) - _CELLS_SHOWN + 1
    return [*rows[: _CELLS_SHOWN - 1], ["...", f"{left} more cells (see --json)", ""]]
