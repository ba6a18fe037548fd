"""evaluate --benchmark: tables, files, an interrupted run, and wrong requests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app

SMALL = [
    *("--set", "uplink_bins=[0,12]", "--set", "downlink_bins=[20,32]", "--set", "num_bins=32"),
    *("--set", "array.rows=2", "--set", "array.columns=2"),
]
TWO = ["--cells", "cm_A_ds_030_ms_010,cm_D_ds_300_ms_001", "--categories", "regular", "-n", "2", *SMALL]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", "--benchmark", "csi-rrg", *args])


def test_table() -> None:
    result = wichan("--predictors", "hold, pad", "--published", *TWO)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Regular (TDD)\n")
    assert "12 settings, 24 views" in result.stdout
    assert "CSI-4CAST (published)" in result.stdout


def test_json_is_one_object_and_files_are_written(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "results"
    args = ["--predictors", "hold", "--duplex", "fdd", "--noises", "awgn=20,awgn=0", "--seed", "5", "--json", "-o", str(out)]
    value = json.loads(wichan(*args, *TWO).stdout)
    assert (value["duplex"], value["seed"], value["settings"]) == ("fdd", 5, 4)
    names = [Path(name).name for name in value["files"]]
    assert names == ["results.csv", "summary.json", "tables.txt", "lines.png", "radar.png", "violin.png"]
    assert len(list(csv.DictReader((out / "results.csv").read_text().splitlines()))) == 4
    assert json.loads((out / "summary.json").read_text()) == {key: item for key, item in value.items() if key != "files"}


def test_dry_run_scores_nothing(tmp_path: Path) -> None:
    args = ["--predictors", "hold", "--dry-run", "-o", str(tmp_path / "x")]
    result = wichan(*args, *TWO)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1:4] == ["settings            12", "samples             4", "views               24"]
    assert not (tmp_path / "x").exists()
    value = json.loads(wichan(*args, "--json", *TWO).stdout)
    assert value["views"] == 24
    assert value["seconds"] > 0


def test_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wichan.cli.progress import ProgressReport

    def stop(self: ProgressReport, done: int, total: int, *_: Any) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    out = str(tmp_path / "my results")
    args = ["--predictors", "hold", "--workers", "1", "-o", out, *TWO]
    with monkeypatch.context() as patch:
        patch.setattr(ProgressReport, "update", stop)
        result = wichan(*args)
    assert result.exit_code == 130
    assert f"finished cells are safe in {out}" in result.stderr
    assert "  wichan evaluate --" in result.stderr
    assert f"--out '{out}'" in result.stderr
    assert "--benchmark csi-rrg --predictors hold" in result.stderr
    assert len(list((tmp_path / "my results" / "cells").iterdir())) == 1
    assert wichan(*args).exit_code == 0
    other = wichan(*args, "--seed", "3")
    assert other.exit_code == 2
    assert "holds a run with other arguments (seed: 0 there, 3 now)" in other.stderr
    with monkeypatch.context() as patch:
        patch.setattr(ProgressReport, "update", stop)
        result = wichan("--predictors", "hold", "--json", *TWO)
    assert result.exit_code == 130
    assert "nothing was kept" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--sweep", "snr_db"], "--sweep cannot go with --benchmark"),
        (["--recipe", "csi-rrg", "--estimators", "ls"], "--recipe, --estimators cannot go with --benchmark"),
        (["--metric", "ber"], "--metric"),
        (["--duplex", "both"], "duplex='both' is unknown"),
        (["--budget", "slow"], "budget='slow' is unknown"),
        (["--categories", "regula"], "did you mean 'regular'"),
        (["--cells", "cm_A"], "cell='cm_A' is unknown"),
        (["--noises", "awgn=7"], "degree 7 of noise 'awgn' is not in the benchmark"),
        (["--noises", "awgn=x"], "degree 'x' of 'awgn' must be a number"),
        (["--noises", ""], "noises=[] is empty"),
        (["--predictors", "hol"], "did you mean 'hold'"),
        (["--predictors", "pad", "--duplex", "fdd"], "predictor 'pad' has no FDD form"),
        (["--imputation", "zero"], "imputation='zero' is unknown"),
        (["--set", "splits.regular.num_samples=3"], "which the benchmark chooses itself"),
        (["-n", "0"], "num_samples=0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_requests_are_one_line(args: list[str], text: str) -> None:
    result = wichan(*args)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("args", [["--predictors", "hold"], ["--duplex", "tdd"], ["--dry-run"], ["--published"]])
def test_options_of_a_benchmark_need_one(args: list[str]) -> None:
    result = CliRunner().invoke(app, ["evaluate", *args])
    assert result.exit_code == 2
    assert f"{args[0]} cannot go without --benchmark csi-rrg" in result.stderr


def test_unknown_benchmark() -> None:
    result = CliRunner().invoke(app, ["evaluate", "--benchmark", "csi-rrk"])
    assert result.exit_code == 2
    assert "benchmark='csi-rrk' is unknown; did you mean 'csi-rrg'" in result.stderr


def test_list_names_the_predictors() -> None:
    known = json.loads(CliRunner().invoke(app, ["evaluate", "--list", "--json"]).stdout)
    assert {"hold", "csi4cast", "wiener-genie-cell"} <= set(known["predictors"])
    assert "csi4cast" in CliRunner().invoke(app, ["evaluate", "--list"]).stdout
