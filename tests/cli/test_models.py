"""wichan models: the list, a card, what a weight file holds, and wrong names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app
from wichan.estimators import Linear
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.training import save_weights, zoo

CARD = "# tiny\n\nA matrix.\n"
CONFIG = """\
title: A small matrix
kind: linear
trained_on: ofdm-siso
overrides: {grid.num_subcarriers: 24}
command: wichan train linear --stream ofdm-siso --set grid.num_subcarriers=24
wall_time: 1 min
headline: -9.1 dB
"""


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    (folder / "tiny").mkdir(parents=True)
    pilots = OFDMPilots(OFDMGrid(14, 24, 15e3), (2, 5, 8, 11), 3)
    save_weights(Linear(pilots), folder / "tiny" / "weights.safetensors", {"steps": 3})
    (folder / "tiny" / "config.yaml").write_text(CONFIG)
    (folder / "tiny" / "card.md").write_text(CARD)
    monkeypatch.setattr(zoo, "model_folder", lambda: folder)
    return folder


def test_list(models: Path) -> None:
    result = wichan("models")
    assert result.exit_code == 0, result.stderr
    header, row = result.stdout.splitlines()
    assert header.split() == ["model", "kind", "parameters", "size", "trained", "on", "grid", "and", "pilots", "result"]
    assert row.startswith("tiny   linear  15,592 ")  # 336 x (32 + 1), the error head 4503, its scale
    for text in (
        " kB ",
        "ofdm-siso",
        "14 x 24, 15 kHz, 32 pilots in symbols 2, 5, 8, 11 at",
        "-9.1 dB",
    ):
        assert text in row


def test_list_as_json(models: Path) -> None:
    (model,) = json.loads(wichan("models", "--json").stdout)["models"]
    assert model["name"] == "tiny"
    assert model["overrides"] == {"grid.num_subcarriers": 24}
    assert model["grid"]["num_subcarriers"] == 24
    assert model["pilots"] == {"num_pilots": 32, "symbols": [2, 5, 8, 11], "subcarriers": list(range(0, 24, 3))}
    assert model["num_bytes"] == (models / "tiny" / "weights.safetensors").stat().st_size
    assert model["headline"] == "-9.1 dB"
    assert model["training"] == {"steps": 3}


def test_card(models: Path) -> None:
    assert wichan("models", "tiny").stdout == CARD
    model = json.loads(wichan("models", "tiny", "--json").stdout)
    assert model["card"] == CARD
    assert model["command"].startswith("wichan train linear")
    assert model["config"] == {"condition_ranges": {}, "scale_input": True}


def test_a_weight_file(models: Path) -> None:
    path = str(models / "tiny" / "weights.safetensors")
    text = wichan("models", path).stdout
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert rows["file"] == path
    assert rows["training.steps"] == "3"
    assert json.loads(wichan("models", path, "--json").stdout)["kind"] == "linear"


def test_a_release_without_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "model_folder", lambda: models / "tiny")
    assert wichan("models").stdout == "no model is released with this version\n"
    assert json.loads(wichan("models", "--json").stdout) == {"models": []}


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["tinny"], 2, "did you mean 'tiny'"),
        (["no.safetensors"], 2, "is no file"),
        (["tiny", "--json"], 1, "has no card"),
    ],
)
def test_wrong_requests(models: Path, args: list[str], code: int, text: str) -> None:
    (models / "tiny" / "card.md").unlink()
    result = wichan("models", *args)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_evaluate_takes_names_and_paths(models: Path) -> None:
    path = models / "tiny" / "weights.safetensors"
    options = ["--points", "10", "-n", "8", "--set", "grid.num_subcarriers=24", "--reference", "none", "--json"]
    result = wichan("evaluate", "--estimators", f"ls,tiny,mine={path},{path}", *options)
    assert result.exit_code == 0, result.stderr
    assert [row["name"] for row in json.loads(result.stdout)["estimators"]] == ["ls", "tiny", "mine", "weights"]
