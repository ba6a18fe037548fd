"""``wichan verify``: is every byte of a data set what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def verify(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    complete: Annotated[bool, typer.Option("--complete", help="Exit with 1 if the data set is unfinished, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a data set for damage.

    Every file is compared with its SHA-256; exit code 1 on damage. An unfinished data set, of which some samples are still
    to be made, is no damage: the output says "unfinished" and the exit code is 0, or 1 with --complete.
    """
    import wichan.store as store
    from wichan.cli.console import emit_json
    from wichan.cli.progress import ProgressReport

    with ProgressReport("verify", unit="MB") as bar:
        report = store.verify(path, progress=lambda done, total: bar.update(done // 10**6, total // 10**6))
    if json:
        emit_json(report.to_dict())
    else:
        _print(path, report, complete)
    if not report.ok or (complete and not report.complete):
        raise typer.Exit(1)


def _print(path: Path, report: Any, must_be_complete: bool) -> None:
    from wichan.cli.console import message, say

    *others, last = report.problems or ("",)
    for problem in others:
        message("error", f"{path}: {problem}")
    if last:
        message("error", f"{path}: {last}; {report.remedy}")
    for name in report.unlisted:
        message("warning", f"{path}: {name} is not listed in the manifest and does not count")
    if not report.ok:
        return
    files = f"in {len(report.shards):,} file{'s' if len(report.shards) != 1 else ''} are what was written"
    if report.complete:
        say(f"{path}: complete; {report.num_samples:,} samples {files}")
        return
    there = f"{path}: unfinished; {report.num_samples:,} of {report.num_planned:,} samples are there"
    if must_be_complete:
        message("error", f"{there}; {report.remedy}")
    else:
        say(f"{there}, and those {files}")
