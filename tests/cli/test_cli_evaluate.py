"""evaluate: the table, the files, and wrong requests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app
from wichan.cli.evaluate import parse_points
from wichan.errors import InvalidValueError

SMALL = ["--set", "grid.num_subcarriers=12", "-n", "12"]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def test_plain_table() -> None:
    result = wichan("evaluate", "--points", "0,20", "--estimators", "ls, lmmse-genie", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("NMSE [dB] of ofdm-siso against SNR [dB]\n")
    assert "12 channels a point" in result.stdout


def test_json_is_one_object_and_files_are_written(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "results"
    result = wichan(
        *["evaluate", "--sweep", "max_doppler", "--points", "0:1000:500", "--seed", "5", "--json", "-o", str(out)], *SMALL
    )
    value = json.loads(result.stdout)
    assert value["points"] == [0.0, 500.0, 1000.0]
    assert value["seed"] == 5
    assert value["recipe"] == "ofdm-siso"
    assert value["versions"]["wichan"]
    assert value["num_channels"] == [12, 12, 12]
    assert [Path(name).suffix for name in value["files"]] == [".csv", ".json", ".png"]
    assert len(list(csv.DictReader((out / "evaluate_max_doppler.csv").read_text().splitlines()))) == 9
    saved = json.loads((out / "evaluate_max_doppler.json").read_text())
    assert saved == {key: item for key, item in value.items() if key != "files"}


def test_data_set(tmp_path: Path) -> None:
    folder = str(tmp_path / "x")
    assert wichan("simulate", "ofdm-siso", "-n", "30", *SMALL[:2], "--split", "test", "-o", folder).exit_code == 0
    result = wichan("evaluate", "--data", folder, "--points", "5,20", "--estimators", "ls", "--reference", "none", "--json")
    value = json.loads(result.stdout)
    assert sum(value["num_channels"]) == 30
    assert value["reference"] is None


def test_list_names_the_estimators() -> None:
    known = json.loads(wichan("evaluate", "--list", "--json").stdout)["estimators"]
    assert {"ls", "lmmse-pooled", "lmmse-genie"} <= set(known)
    assert all(known.values())
    assert "lmmse-genie" in wichan("evaluate", "--list").stdout


@pytest.mark.parametrize(
    ("text", "points"),
    [(None, None), ("3", [3.0]), ("0, 10,25e-9", [0.0, 10.0, 25e-9]), ("0:1:0.5", [0, 0.5, 1]), ("A,D", ["A", "D"])],
)
def test_points(text: str | None, points: list | None) -> None:
    assert parse_points(text) == points


@pytest.mark.parametrize("text", ["", ",", "1:2", "0:1:0", "1:0:1"])
def test_bad_points(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_points(text)


@pytest.mark.parametrize(
    ("args", "code", "texts"),
    [
        (["--recipe", "csi-rrg"], 2, ["only kind 'ofdm'"]),
        (["--sweep", "speed"], 2, ["sweep='speed'", "max_doppler"]),
        (["--estimators", "lmse-pooled"], 2, ["did you mean 'lmmse-pooled'"]),
        (["--estimators", ""], 2, ["estimators is empty"]),
        (["--points", "a,b"], 2, ["points='a'"]),
        (["--reference", "oracle"], 2, ["oracle"]),
        (["-n", "1"], 2, ["num_channels=1"]),
        (["--batch-size", "0"], 2, ["batch_size=0"]),
        (["--device", "tpu"], 2, ["tpu"]),
        (["--set", "grid.num_subcarriers=0"], 2, ["num_subcarriers"]),
        (["--recipe", "ofdm-siso", "--data", "x"], 2, ["exclude each other"]),
        (["--data", "nowhere"], 1, ["nowhere does not exist"]),
    ],
)
def test_wrong_requests(args: list[str], code: int, texts: list[str]) -> None:
    result = wichan("evaluate", *args)
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(text in lines[0] for text in texts), lines[0]


def test_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = wichan("evaluate", "-o", str(tmp_path / "file" / "sub"), *SMALL)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Not a directory" in result.stderr
