"""simulate, recipes, info, verify, plot: from a recipe to a checked and drawn data set."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wichan as wichan_package
from wichan.cli import app

SMALL = ["--set", "grid.num_subcarriers=24", "--split", "train"]


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def assert_one_error(result: Any, code: int, *texts: str) -> None:
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert all(text in lines[0] for text in texts), lines[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small complete data set of two splits; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("made") / "out"
    result = wichan("simulate", "ofdm-siso", "-o", str(folder), "-n", "40", *SMALL[:2], "--split", "train,test")
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.h5"))


# -- simulate --


def test_simulate_twice_finds_all_there(tmp_path: Path) -> None:
    command = ["simulate", "ofdm-siso", "-o", str(tmp_path / "x"), "-n", "30", "--seed", "4", *SMALL]
    first = wichan(*command)
    assert first.exit_code == 0
    assert "30 samples in 1 shard, 30 made now" in first.stdout
    assert "all there already" in wichan(*command).stdout


def test_simulate_json_is_one_object(tmp_path: Path) -> None:
    result = wichan("simulate", "ofdm-siso", "-o", str(tmp_path / "x"), "-n", "30", *SMALL, "--json")
    report = json.loads(result.stdout)
    assert report["samples"] == 30
    assert report["complete"] is True
    assert report["path"] == str(tmp_path / "x")


def test_default_folder_is_the_recipe_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert wichan("simulate", "ofdm-siso", "-n", "4", *SMALL).exit_code == 0
    assert (tmp_path / "ofdm-siso" / "manifest.json").is_file()


def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = wichan("simulate", "ofdm-siso", "-n", "5000", "--dry-run", *SMALL).stdout
    assert "5,000" in text
    assert "MB" in text
    plan = json.loads(wichan("simulate", "ofdm-siso", "-n", "5000", "--dry-run", "--json", *SMALL).stdout)
    assert plan["samples"] == 5000
    assert plan["bytes"] > 5000 * 24 * 14 * 16
    assert not list(tmp_path.iterdir())


def test_parts_make_the_whole(tmp_path: Path) -> None:
    command = ["simulate", "ofdm-siso", "-o", str(tmp_path / "x"), "-n", "30", *SMALL[:2], "--split", "train,test"]
    assert "other parts are missing still" in wichan(*command, "--shard", "1/2").stdout
    assert wichan(*command, "--shard", "2/2").exit_code == 0
    assert wichan("verify", str(tmp_path / "x")).exit_code == 0
    assert json.loads(wichan("info", str(tmp_path / "x"), "--json").stdout)["complete"] is True


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["odfm-siso"], ["did you mean 'ofdm-siso'"]),
        (["ofdm-siso", "--set", "conditions.snr_bd=3"], ["snr_bd", "did you mean 'snr_db'"]),
        (["ofdm-siso", "--set", "sed=3"], ["did you mean 'seed'"]),
        (["ofdm-siso", "--set", "foo"], ["key=value"]),
        (["ofdm-siso", "--set", "snr_db=loud"], ["snr_db='loud'"]),
        (["ofdm-siso", "--set", "grid.num_subcarriers=many"], ["num_subcarriers", "many"]),
        (["ofdm-siso", "--set", "delay_spread=-1e-9"], ["delay_spread", "at least 0"]),
        (["ofdm-siso", "--set", "grid.num_subcarriers=0"], ["num_subcarriers"]),
        (["ofdm-siso", "--set", "pilots.symbols=[40]"], ["40"]),
        (["ofdm-siso", "--shard", "3/2"], ["shard"]),
        (["ofdm-siso", "--shard", "0/2"], ["shard"]),
        (["ofdm-siso", "--shard", "half"], ["i/n"]),
        (["ofdm-siso", "-n", "0"], ["n=0"]),
        (["ofdm-siso", "-n", "4", "--workers", "0"], ["workers=0"]),
        (["ofdm-siso", "-n", "4", "--seed", "-1"], ["seed=-1"]),
        (["ofdm-siso", "-n", "4", "--device", "tpu"], ["device='tpu'"]),
        (["ofdm-siso", "--split", "tain"], ["did you mean 'train'"]),
        (["./none.yaml"], ["none.yaml"]),
    ],
)
def test_wrong_requests(args: list[str], texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_error(wichan("simulate", *args), 2, *texts)
    assert not _shards(tmp_path / "ofdm-siso")


def test_folder_of_another_recipe_is_left_alone(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert_one_error(wichan("simulate", "mimo-ofdm", "-n", "4", "-o", str(copy)), 1, "ofdm-siso", "mimo-ofdm")
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_foreign_folder_and_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert_one_error(wichan("simulate", "ofdm-siso", "-n", "4", *SMALL, "-o", str(tmp_path)), 1, "thesis.txt")
    assert_one_error(wichan("simulate", "ofdm-siso", "-n", "4", *SMALL, "-o", str(tmp_path / "thesis.txt")), 1, "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so the file system's refusal is played.
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_one_error(wichan("simulate", "ofdm-siso", "-n", "4", *SMALL, "-o", str(tmp_path / "x")), 1, "Read-only file system")


def test_ctrl_c_leaves_a_folder_that_continues(tmp_path: Path) -> None:
    words = ["simulate", "ofdm-siso", "-o", "my data", "-n", "60000", "--set", "snr_db={uniform: [0, 10]}", "--split", "train"]
    words += ["--workers", "1"]
    package = str(Path(wichan_package.__file__).resolve().parents[1])  # the process starts elsewhere
    process = subprocess.Popen(
        [sys.executable, "-m", "wichan.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
    )
    deadline = time.monotonic() + 60
    while not _shards(tmp_path / "my data") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert shlex.split(err.splitlines()[-1]) == ["wichan", *words]
    check = wichan("verify", str(tmp_path / "my data"))
    assert check.exit_code == 0
    assert "samples are still to be made" in check.stdout


# -- recipes --


def test_recipes_lists_all() -> None:
    names = [row["name"] for row in json.loads(wichan("recipes", "--json").stdout)["recipes"]]
    assert {"ofdm-siso", "ofdm-siso-legacy", "csi-rrg", "mimo-ofdm"} <= set(names)
    assert all(name in wichan("recipes").stdout for name in names)


@pytest.mark.parametrize("name", ["ofdm-siso", "csi-rrg"])
def test_one_recipe_in_full(name: str) -> None:
    import yaml

    text = wichan("recipes", name).stdout
    settings = yaml.safe_load(text.split("## All settings")[1])
    shown = json.loads(wichan("recipes", name, "--json").stdout)
    assert settings == shown["recipe"]
    assert settings["name"] == name


def test_unknown_recipe_suggests() -> None:
    assert_one_error(wichan("recipes", "csi-rgr"), 2, "did you mean 'csi-rrg'")


# -- info and verify --


def test_info(made: Path) -> None:
    facts = json.loads(wichan("info", str(made), "--json").stdout)
    assert facts["num_samples"] == 80
    text = wichan("info", str(made)).stdout
    assert "complete" in text
    assert "14 num_ofdm_symbols x 24 num_subcarriers" in text
    assert "test" in text


def test_verify_finds_one_flipped_bit(copy: Path) -> None:
    assert wichan("verify", str(copy)).exit_code == 0
    shard = _shards(copy)[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert_one_error(wichan("verify", str(copy)), 1, shard.name, "SHA-256")
    result = wichan("verify", str(copy), "--json")
    assert result.exit_code == 1
    assert [problem["name"] for problem in json.loads(result.stdout)["problems"]] == [shard.name]


def test_truncated_shard(copy: Path) -> None:
    shard = _shards(copy)[0]
    os.truncate(shard, 1000)
    assert_one_error(wichan("verify", str(copy)), 1, shard.name, "1000 bytes")
    assert_one_error(wichan("plot", str(copy), "-o", str(copy / "x.png")), 1, shard.name)


def test_unlisted_shard_is_a_warning(copy: Path) -> None:
    shutil.copy(_shards(copy)[0], copy / "shard-00007.h5")
    result = wichan("verify", str(copy))
    assert result.exit_code == 0
    assert "shard-00007.h5 is not listed" in result.stderr


@pytest.mark.parametrize("verb", ["info", "verify", "plot"])
def test_path_that_is_no_data_set(verb: str, tmp_path: Path) -> None:
    assert_one_error(wichan(verb, str(tmp_path / "none")), 1, "none")
    assert_one_error(wichan(verb, str(tmp_path)), 1, "manifest.json")
    (tmp_path / "manifest.json").write_text("{")
    assert_one_error(wichan(verb, str(tmp_path)), 1, "manifest.json")
    (tmp_path / "file").write_text("x")
    assert_one_error(wichan(verb, str(tmp_path / "file")), 1, "file")


# -- plot --


def test_plot_draws_a_small_png(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = wichan("plot", str(made), "--sample", "45")
    assert result.stdout == "out_sample_45.png\n"
    data = (tmp_path / "out_sample_45.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 80_000
    answer = json.loads(wichan("plot", str(made), "-o", str(tmp_path / "y.png"), "--column", "y", "--json").stdout)
    assert answer == {"path": str(tmp_path / "y.png"), "column": "y", "sample": 0}


def test_plot_without_a_recipe_grid(tmp_path: Path) -> None:
    folder, png = tmp_path / "csi", tmp_path / "c.png"
    done = wichan("simulate", "csi-rrg", "--set", "cell=cm_A_ds_030_ms_001", "-n", "2", "-o", str(folder))
    assert done.exit_code == 0, done.stderr
    assert wichan("plot", str(folder), "-o", str(png)).exit_code == 0
    assert png.stat().st_size > 3000


@pytest.mark.parametrize(
    ("args", "texts"), [(["--sample", "80"], ["sample=80", "at most 79"]), (["--column", "no"], ["known: h, y"])]
)
def test_plot_of_what_is_not_there(made: Path, args: list[str], texts: list[str]) -> None:
    assert_one_error(wichan("plot", str(made), *args), 2, *texts)
