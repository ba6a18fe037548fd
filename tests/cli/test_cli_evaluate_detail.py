"""evaluate: the table of another metric, pictures of the detail, and wrong requests for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app

SMALL = ["--set", "grid.num_subcarriers=12", "-n", "12", "--points", "0,20", "--estimators", "ls", "--reference", "none"]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", *args])


@pytest.mark.parametrize(
    ("metric", "first"), [("nmse", "NMSE [dB] of"), ("ber", "Bit error rate of"), ("sinr", "Effective SINR [dB] of")]
)
def test_metric_chooses_the_table(metric: str, first: str) -> None:
    result = wichan("--metric", metric, "--modulation", "qpsk", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{first} ofdm-siso against SNR [dB]\n")
    assert ("known channel" in result.stdout) == (metric != "nmse")
    assert ("qpsk" in result.stdout) == (metric == "ber")


def test_detail_writes_its_pictures(tmp_path: Path) -> None:
    result = wichan("--detail", "--detail-point", "20", "--json", "-o", str(tmp_path), *SMALL)
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    kinds = ("resource_elements", "calibration", "ber", "sinr")
    names = ["evaluate_snr_db" + end for end in (".csv", ".json", ".png", *(f"_{kind}.png" for kind in kinds))]
    assert [Path(name).name for name in value["files"]] == names
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    assert value["detail"]["point"] == 20.0
    assert 0 < value["estimators"][0]["points"][1]["ber"] < 0.5


def test_a_metric_s_own_curve_comes_with_it(tmp_path: Path) -> None:
    assert wichan("--metric", "sinr", "-o", str(tmp_path), *SMALL).exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["evaluate_snr_db.png", "evaluate_snr_db_sinr.png"]


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--metric", "bler"], ["metric='bler'", "ber"]),
        (["--modulation", "8psk"], ["modulation='8psk'", "qpsk"]),
        (["--num-streams", "2"], ["num_streams=2", "at most 1"]),
        (["--num-streams", "0"], ["num_streams=0"]),
        (["--detail"], ["-o DIR"]),
        (["--detail", "--detail-point", "7", "-o", "{out}"], ["point=7.0", "0, 20"]),
    ],
)
def test_wrong_requests(args: list[str], texts: list[str], tmp_path: Path) -> None:
    result = wichan(*(arg.format(out=tmp_path) for arg in args), *SMALL)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert all(text in lines[0] for text in texts), lines[0]
