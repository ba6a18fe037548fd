"""``wichan train gmm`` and ``mfa``, and what other verbs make of their files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import wichan as wc
from wichan.cli import app
from wichan.training.prior_files import load_prior

SETTINGS = ["num_rx_ant=6", "num_train=200", "num_components=2", "num_factors=2", "prior.max_iter=6"]
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def one_error(result: Any, code: int, *texts: str) -> None:
    assert result.exit_code == code, (result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert all(text in errors[0] for text in texts), errors[0]


def test_a_fit_and_its_use(tmp_path: Path) -> None:
    folder = tmp_path / "gmm"
    result = wichan("train", "gmm", "--stream", "quantized-simo", "-o", str(folder), *SMALL)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{folder}: gmm of 2 components, 73 parameters, 200 samples, ")  # 2 (36 + 1) - 1
    assert "nat in training, " in result.stdout
    assert load_prior(folder).shape == (6, 1, 1, 1)
    shown = dict(line.split(maxsplit=1) for line in wichan("models", str(folder)).stdout.splitlines() if " " in line.strip())
    assert shown["kind"] == "gmm"
    assert shown["channels"] == "prior of 6 channel elements, 2 components, full"
    described = json.loads(wichan("models", str(folder), "--json").stdout)
    assert described["training"]["config"]["model"] == "gmm"
    assert "grid" not in described
    options = ["--recipe", "quantized-simo", "--points", "10", "-n", "8", "--reference", "none", *SMALL[:2]]
    table = wichan("evaluate", "--estimators", f"bls,mine={folder}", *options, "--json")
    assert table.exit_code == 0, table.stderr
    bls, mine = json.loads(table.stdout)["estimators"]
    assert mine["points"][0]["nmse"] < bls["points"][0]["nmse"]
    assert f"gmm of {folder}" in mine["note"]
    one_error(wichan("evaluate", "--estimators", f"mine={folder}", "-n", "8"), 2, "is a prior of kind 'gmm'", "quantized")


def test_options(tmp_path: Path) -> None:
    folder = str(tmp_path / "mfa")
    args = ["--model-set", "num_factors=3", "--num-samples", "50", "--seed", "4", "-o", folder, "--json"]
    value = json.loads(wichan("train", "mfa", *args, *SMALL).stdout)
    assert value["num_samples"] == 50
    assert value["config"]["seed"] == 4
    assert load_prior(folder).num_factors == 3
    one_error(wichan("train", "mfa", *args[:-1], *SMALL), 2, "holds a training run")


def test_from_quantised_pilots(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    result = wichan("train", "gmm", "--from-observations", "--snr-db", "5", "--max-time", "1m", "-o", folder, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert json.loads(wichan("models", folder, "--json").stdout)["training"]["config"]["from_observations"] is True


def test_from_a_data_set(tmp_path: Path) -> None:
    data, folder = str(tmp_path / "set"), str(tmp_path / "run")
    made = wichan("simulate", "quantized-simo", "-n", "40", "--split", "train", "--set", "num_rx_ant=6", "-o", data)
    assert made.exit_code == 0, made.stderr
    result = wichan("train", "gmm", "--data", data, "--model-set", "num_components=2", "-o", folder, "--json")
    value = json.loads(result.stdout)
    assert value["num_samples"] == 40
    assert value["held_out"] is None  # there is no validation split


def test_a_dry_run_fits_nothing(tmp_path: Path) -> None:
    args = ["train", "gmm", "--dry-run", "-o", str(tmp_path / "run"), "--model-set", "structure=circulant", *SMALL]
    assert "prior.structure" in wichan(*args).stdout
    value = json.loads(wichan(*args, "--json").stdout)
    assert (value["prior"]["structure"], value["prior"]["num_components"]) == ("circulant", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "texts"),
    [
        (["gmn"], 2, ["model='gmn'"]),
        (["gmm", "--lr", "0.1"], 2, ["--lr does not apply to gmm, which is fitted by EM"]),
        (["gmm", "--resume"], 2, ["--resume does not apply to gmm"]),
        (["mfa", "--devices", "2"], 2, ["--devices does not apply to mfa"]),
        (["mfa", "--no-compile"], 2, ["--compile does not apply to mfa"]),
        (["linear", "--num-samples", "3"], 2, ["--num-samples does not apply to linear; it is for gmm and mfa"]),
        (["linear", "--from-observations"], 2, ["--from-observations does not apply to linear"]),
        (["gmm", "--snr-db", "3"], 2, ["snr_db=3.0", "from_observations"]),
        (["gmm", "--model-set", "structure=ful"], 2, ["did you mean 'full'"]),
        (["gmm", "--model-set", "depth"], 2, ["--model-set 'depth' must be key=value"]),
        (["gmm", "--set", "num_bit=1"], 2, ["num_bit", "did you mean 'num_bits'"]),
        (["gmm", "--num-samples", "0"], 2, ["num_samples=0"]),
        (["gmm", "--max-time", "soon"], 2, ["max_time='soon'"]),
        (["gmm", "--data", "no-such-folder"], 1, ["no-such-folder", "does not exist"]),
        (["gmm", "--stream", "ofdm-siso", "--from-observations"], 2, ["needs quantised pilots"]),
    ],
)
def test_wrong_requests_are_one_line(args: list[str], code: int, texts: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    one_error(wichan("train", *args), code, *texts)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_the_prior(tmp_path: Path) -> None:
    settings = ["--set", "num_rx_ant=16", "--num-samples", "20000", "--model-set", "tol=0", "--model-set", "max_iter=100000"]
    command = [sys.executable, "-m", "wichan.cli", "train", "gmm", "-o", "run", "--json", *settings]
    environment = {**os.environ, "PYTHONPATH": str(Path(wc.__file__).parents[1])}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    lines = err.splitlines()
    assert lines[-2].startswith("interrupted: run holds the prior after ")
    assert lines[-1].strip() == "wichan evaluate --recipe quantized-simo --estimators bls,gmm=run"
    value = json.loads(out)
    assert value["stopped"] == "interrupted"
    prior = load_prior(tmp_path / "run")
    assert bool(torch.isfinite(prior.covariances().real).all())


def test_metrics_in_several_tables(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    options = ["--points", "0,10", "-n", "8", "--set", "num_rx_ant=4", "--reference", "none", "-o", out]
    result = wichan("evaluate", "--recipe", "quantized-simo", "--estimators", "bls", "--metric", "rate,nmse", *options)
    assert result.exit_code == 0, result.stderr
    rate, nmse = result.stdout.index("Achievable rate"), result.stdout.index("NMSE [dB]")
    assert rate < nmse
    names = {path.name for path in Path(out).iterdir()}
    assert names == {f"evaluate_snr_db{end}" for end in (".csv", ".json", ".png", "_rate.png")}


def test_a_sweep_over_a_setting() -> None:
    options = ["--points", "1,2,inf", "-n", "8", "--set", "num_rx_ant=4", "--set", "snr_db=10"]
    args = ["evaluate", "--recipe", "quantized-simo", "--estimators", "bls", "--sweep", "num_bits", *options]
    result = wichan(*args)
    assert result.exit_code == 0, result.stderr
    assert "bussgang-genie" in result.stdout  # the default reference
    header = next(line for line in result.stdout.splitlines() if line.startswith("estimator"))
    assert header.split()[:4] == ["estimator", "1", "2", "inf"]
    value = json.loads(wichan(*args, "--json").stdout)
    assert value["points"] == [1, 2, "inf"]
    assert "rate" not in value["estimators"][0]["points"][0]  # nobody asked for it


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--metric", "nmse,ber"], ["metric='ber' does not apply to recipe 'quantized-simo'"]),
        (["--metric", "rates"], ["did you mean 'rate'"]),
        (["--metric", ","], ["names no metric"]),
        (["--estimators", "ls"], ["'ls' does not apply"]),
        (["--sweep", "num_bits"], ["needs its values"]),
        (["--sweep", "bits", "--points", "1"], ["sweep='bits'", "num_bits"]),
        (["--sweep", "num_bits", "--points", "0"], ["num_bits"]),
    ],
)
def test_wrong_evaluations(args: list[str], texts: list[str]) -> None:
    one_error(wichan("evaluate", "--recipe", "quantized-simo", *args), 2, *texts)
