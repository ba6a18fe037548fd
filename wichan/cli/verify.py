"""``wichan verify``: is every byte of a data set what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def verify(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a data set for damage.

    Every shard is compared with its SHA-256; exit code 1 on damage.
    """
    import wichan.store as store
    from wichan.cli.console import emit_json
    from wichan.cli.progress import ProgressReport

    with ProgressReport("verify", unit="MB") as bar:
        report = store.verify(path, progress=lambda done, total: bar.update(done // 10**6, total // 10**6))
    if json:
        emit_json(report.to_dict())
    else:
        _print(path, report)
    if not report.ok:
        raise typer.Exit(1)


def _print(path: Path, report: Any) -> None:
    from wichan.cli.console import message, say

    for problem in report.problems:
        message("error", f"{path}: {problem}")
    for name in report.unlisted:
        message("warning", f"{path}: {name} is not listed in the manifest and does not count")
    if not report.ok:
        return
    count = f"{report.num_samples:,} samples in {len(report.shards):,} files are what was written"
    missing = report.num_planned - report.num_samples
    say(f"{path}: {count}" + (f"; {missing:,} samples are still to be made" if missing else ""))
