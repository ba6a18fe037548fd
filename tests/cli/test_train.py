"""``wichan train``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wichan as wc
from wichan.cli import app
from wichan.training import TrainConfig

GRID = ["grid.num_ofdm_symbols=8", "grid.num_subcarriers=12", "pilots.symbols=[1, 6]", "max_doppler=100"]
SMALL = [word for setting in GRID for word in ("--set", setting)]
QUICK = [*SMALL, "--val-frames", "16", "--batch-size", "8", "--val-every", "3", "--warm-start", "0", "--device", "cpu"]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def one_error(result: Any, code: int, *texts: str) -> None:
    assert result.exit_code == code, (result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert all(text in errors[0] for text in texts), errors[0]


def test_a_run_from_the_stream_and_its_continuation(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = wichan("train", "linear", "--stream", "ofdm-siso", "--max-steps", "6", "-o", str(folder), *QUICK)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{folder}: 6 steps, 48 frames in ")
    assert "device busy" in result.stdout
    assert "all steps done\nbest at step " in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["3", "6"]
    assert "NMSE" in lines[0]
    again = wichan("train", "linear", "-o", str(folder), "--resume", "--max-steps", "9", "--device", "cpu", "--json")
    value = json.loads(again.stdout)
    assert (value["steps"], value["frames"], value["stopped"]) == (9, 72, "max_steps")
    assert value["config"]["batch_size"] == 8  # the settings of the run, not the defaults
    assert {"nmse_db", "score_db", "error_ratio", "loss"} == set(value["best"])
    assert wc.training.load_weights(folder).kind == "linear"


def test_a_run_from_a_data_set(tmp_path: Path) -> None:
    data, folder = str(tmp_path / "set"), str(tmp_path / "run")
    assert wichan("simulate", "ofdm-siso", "-n", "30", *SMALL, "--split", "train,val", "-o", data).exit_code == 0
    result = wichan("train", "linear", "--data", data, "--max-epochs", "2", "-o", folder, "--json", *QUICK[len(SMALL) :])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 2 * (30 // 8)


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    args = ["train", "adafortitran", "--model-set", "width=8", "--loss", "mse", "--dry-run", "-o", str(folder), *QUICK]
    result = wichan(*args)
    assert result.exit_code == 0, result.stderr
    assert "told" in result.stdout
    assert "delay_spread, max_doppler" in result.stdout
    value = json.loads(wichan(*args, "--json").stdout)
    settings = {"width": 8}
    pilots = wc.simulate.build_link(wc.simulate.load_recipe("ofdm-siso", value["config"]["overrides"])).observation
    network = wc.estimators.AdaFortiTran(pilots, **settings)
    assert value["parameters"] == sum(p.numel() for p in network.parameters())
    assert TrainConfig.from_dict(value["config"]).model_options == settings
    assert not folder.exists()


def test_the_published_size(tmp_path: Path) -> None:
    pilots = ["--set", "pilots.symbols=[2, 11]"]
    value = json.loads(wichan("train", "adafortitran", "--model-set", "preset=paper", "--dry-run", "--json", *pilots).stdout)
    pair = wc.estimators.AdaFortiTran.preset("paper")
    assert value["parameters"] == sum(p.numel() for p in pair.parameters())
    assert sum(p.numel() for p in pair.network.parameters()) == 287_234  # the table of the published model


@pytest.mark.parametrize(
    ("args", "code", "texts"),
    [
        (["adafortitrn"], 2, ["model='adafortitrn'", "did you mean 'adafortitran'"]),
        (["linear", "--loss", "mes"], 2, ["loss='mes'", "did you mean 'mse'"]),
        (["linear", "--stream", "ofdm-sis"], 2, ["recipe='ofdm-sis'", "did you mean 'ofdm-siso'"]),
        (["linear", "--stream", "csi-rrg"], 2, ["only kind 'ofdm' has pilots"]),
        (["linear", "--stream", "ofdm-siso", "--data", "x"], 2, ["exclude each other"]),
        (["linear", "--data", "no-such-folder"], 1, ["no-such-folder", "does not exist"]),
        (["linear", "--max-time", "0"], 2, ["max_time=0"]),
        (["linear", "--max-time", "soon"], 2, ["max_time='soon'", "30m"]),
        (["linear", "--lr", "0"], 2, ["lr=0"]),
        (["linear", "--set", "snr=3"], 2, ["snr"]),
        (["linear", "--model-set", "depth"], 2, ["--model-set 'depth' must be key=value"]),
        (["linear", "--model-set", "depth=3"], 2, ["model option='depth'"]),
        (["fortitran", "--model-set", "patch=[7, 2]"], 2, ["patch"]),
        (["linear", "--device", "tpu"], 2, ["device='tpu'"]),
        (["linear", "--devices", "0"], 2, ["devices=0"]),
        (["linear", "--resume", "-o", "no-such-run"], 1, ["no-such-run", "holds no training run"]),
    ],
)
def test_wrong_requests_are_one_line(args: list[str], code: int, texts: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    one_error(wichan("train", *args), code, *texts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_another_run(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert wichan("train", "linear", "--max-steps", "1", "-o", folder, *QUICK).exit_code == 0
    one_error(wichan("train", "linear", "--max-steps", "1", "-o", folder, *QUICK), 2, "resume it")
    one_error(wichan("train", "fortitran", "-o", folder, "--resume"), 2, "model='linear', not 'fortitran'")
    one_error(wichan("train", "linear", "-o", folder, "--resume", "--seed", "8"), 2, "seed=0, not 8")


def test_a_loss_that_is_not_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wc.training.LOSSES, "mse", lambda estimate, h: estimate.err_var.sum() * float("nan"))
    result = wichan("train", "linear", "--loss", "mse", "--max-steps", "3", "-o", str(tmp_path), *QUICK)
    one_error(result, 1, "the loss is nan after 1 steps")


def test_ctrl_c_keeps_the_best_weights_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wichan.cli", "train", "linear", "--max-time", "10m", "-o", "run", "--json", *QUICK]
    environment = {**os.environ, "PYTHONPATH": str(Path(wc.__file__).parents[1])}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "last.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-2] == "interrupted: run holds the best weights so far; continue with:"
    assert shlex.split(lines[-1]) == ["wichan", "train", "linear", "-o", "run", "--resume", "--device", "cpu"]
    value = json.loads(out)
    assert value["error"].startswith("interrupted: ")
    assert value["stopped"] == "interrupted"
    assert wc.training.load_weights(tmp_path / "run").kind == "linear"
