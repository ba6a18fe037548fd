"""``wichan train csi4cast`` and its kin, and ``wichan models`` of a predictor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wichan as wc
from wichan.cli import app
from wichan.prediction import LEARNED_PREDICTORS, RNNPredictor
from wichan.training import save_weights, zoo

RECIPE = ["array={rows: 4, columns: 4}", "num_bins=30", "uplink_bins=[0, 12]", "downlink_bins=[18, 30]"]
SMALL = [word for setting in [*RECIPE, "cell=cm_A_ds_030_ms_010"] for word in ("--set", setting)]
QUICK = [*SMALL, "--model-set", "preset=tiny", "--val-frames", "6", "--batch-size", "4", "--val-every", "2", "--device", "cpu"]
CONFIG = """\
title: A small network
kind: rnn
trained_on: csi-rrg
command: wichan train rnn
wall_time: 1 min
headline: NMSE 0.5
"""


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


@pytest.mark.parametrize("kind", list(LEARNED_PREDICTORS))
def test_every_predictor_trains(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = wichan("train", kind, "--max-steps", "2", "-o", str(folder), *QUICK)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{folder}: 2 steps, 8 frames in ")
    best = result.stdout.splitlines()[-1]
    assert best.startswith("best at step 2: NMSE ")
    assert ", mean ratio " in best
    assert wc.load(folder).kind == kind


def test_settings_reach_the_run_and_its_continuation(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--model-set", "duplex=fdd", "--task-set", "antennas=2", "--task-set", "snr_db=[5, 15]"]
    first = wichan("train", "rnn", "--max-steps", "2", "-o", str(folder), *QUICK, *options)
    assert first.exit_code == 0, first.stderr
    again = wichan("train", "rnn", "--max-steps", "4", "-o", str(folder), "--resume", "--device", "cpu", "--json")
    value = json.loads(again.stdout)
    assert (value["steps"], value["stopped"]) == (4, "max_steps")
    assert value["config"]["target"] == "h_d_pred"
    assert value["config"]["task_options"] == {"snr_db": [5.0, 15.0], "antennas": 2, "impaired": 0.0}
    assert set(value["best"]) == {"nmse_db", "score_db", "error_ratio", "loss", "nmse_ratio"}
    assert wc.load(folder).duplex == "fdd"


def test_a_run_from_a_data_set(tmp_path: Path) -> None:
    data, folder = str(tmp_path / "set"), str(tmp_path / "run")
    made = wichan("simulate", "csi-rrg", "-n", "20", *SMALL, "--split", "train", "-o", data)
    assert made.exit_code == 0, made.stderr
    result = wichan("train", "rnn", "--data", data, "--max-epochs", "1", "-o", folder, "--json", *QUICK[len(SMALL) :])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 18 // 4  # 2 of 20 are for validation


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = wichan("train", "csi4cast", "--dry-run", "-o", str(folder), "--json", *QUICK, "--model-set", "duplex=fdd")
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["parameters"] > 1000
    assert value["frames"] == "recipe csi-rrg"
    assert value["config"]["target"] == "h_d_pred"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["csi4cast", "--stream", "ofdm-siso"], "is of kind 'ofdm'; a predictor learns from kind 'csi-rrg'"),
        (["csi4cast", "--model-set", "duplex=xdd"], "duplex='xdd' is unknown"),
        (["csi4cast", "--model-set", "preset=smol"], "preset='smol' is unknown"),
        (["rnn", "--loss", "log-mse"], "loss='log-mse' is unknown"),
        (["rnn", "--task-set", "antena=2"], "task option='antena' is unknown; did you mean 'antennas'?"),
        (["rnn", "--task-set", "antennas"], "--task-set 'antennas' must be key=value"),
        (["rnn", "--task-set", "snr_db=loud"], "snr_db='loud' must be a real number"),
        (["linear", "--task-set", "antennas=2"], "task_options=['antennas'] do not apply to linear"),
        (["gmm", "--task-set", "antennas=2"], "--task-set does not apply to gmm"),
        (["rnn", "--num-samples", "9"], "--num-samples does not apply to rnn"),
        (["rnn", "--set", "cell=cm_X"], "cell='cm_X' is unknown"),
        (["linear", "--stream", "csi-rrg"], "is of kind 'csi-rrg'; only kind 'ofdm' has pilots"),
    ],
)
def test_wrong_requests_are_one_line(args: list[str], text: str, tmp_path: Path) -> None:
    result = wichan("train", *args, "-o", str(tmp_path / "run"))
    assert result.exit_code == 2, (result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, errors
    assert text in errors[0]
    assert not (tmp_path / "run").exists()


def test_predictors_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "tiny-rnn"
    folder.mkdir(parents=True)
    made = RNNPredictor.preset("tiny", num_subcarriers=24, duplex="fdd")
    save_weights(made, folder / "weights.safetensors", {"steps": 3})
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "card.md").write_text("# tiny-rnn\n")
    monkeypatch.setattr(zoo, "model_folder", lambda: tmp_path / "models")
    listed = wichan("models")
    assert listed.exit_code == 0, listed.stderr
    assert "FDD predictor, 16 snapshots to 4, 24 subcarriers" in " ".join(listed.stdout.split())
    [model] = json.loads(wichan("models", "--json").stdout)["models"]
    assert (model["kind"], model["config"]["duplex"]) == ("rnn", "fdd")
    assert "grid" not in model
    shown = wichan("models", str(folder / "weights.safetensors")).stdout
    assert "predicts" in shown
    assert "config.num_horizon" in shown
    assert wichan("models", "tiny-rnn").stdout == "# tiny-rnn\n"
    assert wc.load("tiny-rnn").num_subcarriers == 24
    refused = wichan("evaluate", "--recipe", "ofdm-siso", "--estimators", "tiny-rnn", "-n", "4")
    assert refused.exit_code == 2
    assert "estimator 'tiny-rnn' is a predictor of kind 'rnn'; it needs a recipe of kind 'csi-rrg'" in refused.stderr
