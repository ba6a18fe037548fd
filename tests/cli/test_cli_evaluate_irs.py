"""evaluate on a link through an IRS: tables, files, a data set, and wrong requests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app

SETTINGS = ("num_irs=32", "num_bs_ant=8", "num_ms_ant=4", "grid=10", "channel.grid_size=10")
SET = [part for setting in SETTINGS for part in ("--set", setting)]
RECIPE = ["evaluate", "--recipe", "irs-mimo", *SET]
FEW = ["--points", "12,20", "-n", "6"]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def test_tables_in_the_order_of_the_metrics() -> None:
    result = wichan(*RECIPE, "--estimators", "kron-omp,omp", "--metric", "srr,nmse,ser,se,time", *FEW)
    assert result.exit_code == 0, result.stderr
    titles = [line.partition(" of irs")[0] for line in result.stdout.splitlines() if " of irs-mimo against SNR [dB]" in line]
    assert titles == [
        "Support recovery rate",
        "NMSE [dB]",
        "Symbol error rate",
        "Spectral efficiency [bit/s/Hz]",
        "Run time [ms per channel]",
    ]
    assert result.stdout.count("oracle-ls") == 6  # five rows, and once in the caption of the score
    assert result.stdout.count("\nknown channel  ") == 2


def test_json_and_files(tmp_path: Path) -> None:
    options = ["--estimators", "kron-omp", "--metric", "se,srr", "--coherence", "100", "--json", "-o", str(tmp_path)]
    result = wichan(*RECIPE, *options, *FEW)
    value = json.loads(result.stdout)
    assert value["irs"]["coherence"] == 100
    assert [Path(name).name for name in value["files"]] == [
        *(f"evaluate_snr_db.{suffix}" for suffix in ("csv", "json", "png")),
        "evaluate_snr_db_se.png",
        "evaluate_snr_db_srr.png",
    ]
    rows = list(csv.DictReader((tmp_path / "evaluate_snr_db.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert 0 < float(rows[0]["se"]) <= float(rows[0]["se_perfect"])
    # Fewer channel uses for one training leave less for data: 82 of 100 against 982 of 1000.
    more = json.loads(wichan(*RECIPE, "--estimators", "kron-omp", "--metric", "se", "--json", *FEW).stdout)
    first, second = (one["estimators"][0]["points"][0]["se"] for one in (value, more))
    assert first / second == pytest.approx(82 / 98.2, rel=1e-12)


def test_data_set(tmp_path: Path) -> None:
    folder = str(tmp_path / "x")
    made = wichan("simulate", "irs-mimo", "-n", "30", "--split", "test", "-o", folder, *SET)
    assert made.exit_code == 0, made.stderr
    result = wichan("evaluate", "--data", folder, "--estimators", "kron-omp", "--metric", "srr,ser", "--json")
    value = json.loads(result.stdout)
    assert value["reference"] == "oracle-ls"
    assert value["points"] == [4.0, 8.0, 12.0, 16.0, 20.0]
    assert sum(value["num_channels"]) == 30


def test_estimators_are_listed() -> None:
    known = json.loads(wichan("evaluate", "--list", "--json").stdout)["estimators"]
    assert {"omp", "kron-omp", "sbl", "pc-sbl", "kron-sbl-am", "kron-sbl-svd", "kron-sbl-pc", "oracle-ls"} <= set(known)
    assert all(known.values())


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--metric", "srr"], ["metric='srr' does not apply to recipe 'ofdm-siso'"]),
        (["--recipe", "irs-mimo", "--metric", "ber"], ["metric='ber'", "srr"]),
        (["--recipe", "irs-mimo", "--metric", "sers"], ["did you mean 'ser'"]),
        (["--recipe", "irs-mimo", "--estimators", "ls"], ["'ls' does not apply", "kron-omp"]),
        (["--estimators", "kron-omp"], ["'kron-omp' does not apply to recipe 'ofdm-siso'"]),
        (["--recipe", "irs-mimo", "--estimators", "kron-sbl"], ["did you mean 'kron-sbl-"]),
        (["--recipe", "irs-mimo", "--coherence", "0"], ["coherence=0 must be at least 1"]),
        (["--recipe", "irs-mimo", "--coherence", "18", "--metric", "se"], ["coherence=18 must be more than 18"]),
        (
            [*RECIPE[1:], "--set", "angles=uniform", "--set", "channel.grid_size=null", "--reference", "oracle-ls"],
            ["'oracle-ls' cannot be built", "--reference none"],
        ),
    ],
)
def test_wrong_requests(args: list[str], texts: list[str]) -> None:
    result = wichan("evaluate", *args)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(text in lines[0] for text in texts), lines[0]
