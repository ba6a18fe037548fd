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
        # What a shell starts in the background is deaf to Ctrl-C, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    assert "unfinished" in check.stdout


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


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_the_remedy_that_verify_names_works(copy: Path) -> None:
    damaged = [_shards(copy)[1].name, "data.h5"]
    before = {name: (copy / name).read_bytes() for name in damaged}
    again = ["simulate", "ofdm-siso", "-o", str(copy), "-n", "40", *SMALL[:2], "--split", "train,test"]
    for name in damaged:
        _flip(copy / name)
        assert_one_error(wichan("verify", str(copy)), 1, name, f"delete {name} and run the same `wichan simulate` again")
        (copy / name).unlink()
        result = wichan("verify", str(copy))
        assert_one_error(result, 1, name, "missing; run the same `wichan simulate` again")
        assert "delete" not in result.stderr
        assert wichan(*again).exit_code == 0
        assert wichan("verify", str(copy)).exit_code == 0
        assert (copy / name).read_bytes() == before[name]


def test_verify_ends_several_errors_with_one_remedy(copy: Path) -> None:
    for shard in _shards(copy):
        _flip(shard)
    lines = wichan("verify", str(copy)).stderr.splitlines()
    assert len(lines) == 2
    assert "delete" not in lines[0]
    assert lines[1].endswith("; delete the 2 files whose content is wrong and run the same `wichan simulate` again")
    assert "delete the 2 files" in json.loads(wichan("verify", str(copy), "--json").stdout)["remedy"]


def test_verify_of_an_unfinished_data_set(tmp_path: Path) -> None:
    folder = str(tmp_path / "x")
    command = ["simulate", "ofdm-siso", "-o", folder, "-n", "30", *SMALL[:2], "--split", "train,test"]
    assert wichan(*command, "--shard", "1/2").exit_code == 0
    result = wichan("verify", folder)
    assert result.exit_code == 0
    assert "unfinished; 30 of 60 samples are there" in result.stdout
    assert "unfinished" in wichan("verify", "--help").stdout
    assert_one_error(wichan("verify", folder, "--complete"), 1, "unfinished", "run the same `wichan simulate` again")
    result = wichan("verify", folder, "--complete", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["complete"] is False
    assert wichan(*command, "--shard", "2/2").exit_code == 0
    result = wichan("verify", folder, "--complete")
    assert result.exit_code == 0
    assert "complete; 60 samples" in result.stdout


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


@pytest.fixture(scope="module")
def rrg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few large samples."""
    folder = tmp_path_factory.mktemp("rrg") / "csi"
    done = wichan("simulate", "csi-rrg", "--set", "cell=cm_A_ds_100_ms_001", "--split", "train", "-n", "12", "-o", str(folder))
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def figure_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What `wichan plot` hands to the figure, which is drawn all the same."""
    import wichan.evaluation as evaluation

    calls, draw = [], evaluation.channel_figure

    def note(h: Any, path: Path, **options: Any) -> Path:
        calls.append((h, options))
        return Path(draw(h, path, **options))

    monkeypatch.setattr(evaluation, "channel_figure", note)
    return calls


@pytest.mark.parametrize(
    ("column", "first", "lowest", "count"),
    [("h_u_hist", 0.0, -11.25e6, 16), ("h_u_pred", 16 * 2.352e-3, -11.25e6, 4), ("h_d_pred", 16 * 2.352e-3, 2.25e6, 4)],
)
def test_plot_of_csi_rrg_has_units_and_theory(
    rrg: Path, tmp_path: Path, figure_calls: list, column: str, first: float, lowest: float, count: int
) -> None:
    from wichan.evaluation.figure import power_delay_profile, profile_of_covariance

    result = wichan("plot", str(rrg), "-o", str(tmp_path / "c.png"), "--column", column)
    assert result.exit_code == 0, result.stderr
    ((h, options),) = figure_calls
    times, frequencies = options["times"], options["frequencies"]
    assert float(times[0]) == pytest.approx(first)
    assert len(times) == count
    assert float(frequencies[0]) == pytest.approx(lowest)
    assert float(frequencies[1] - frequencies[0]) == pytest.approx(30e3)
    data, theory = power_delay_profile(h), profile_of_covariance(options["covariance"])
    strong = theory > theory.max() / 100
    # Measured 0.7 dB: 12 samples of 32 correlated ports fade a little. Theory one bin late or without delays is 27 dB off.
    assert float((10 * (data / theory)[strong].log10()).abs().max()) < 1.5


@pytest.mark.parametrize(
    ("fixture", "labels"),
    [
        ("rrg", ["time [ms]", "frequency from the carrier [MHz]", "delay [µs]"]),
        ("made", ["OFDM symbol", "frequency from the carrier [MHz]", "delay [µs]"]),
    ],
)
def test_plot_has_units_on_its_axes(
    fixture: str, labels: list[str], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("wichan.evaluation.figure.save_png", lambda figure, path: drawn.append(figure))
    assert wichan("plot", str(request.getfixturevalue(fixture)), "-o", str(tmp_path / "c.png"), "--sample", "3").exit_code == 0
    picture, profile = drawn[0].axes[:2]
    assert [picture.get_xlabel(), picture.get_ylabel(), profile.get_xlabel()] == labels
    assert picture.get_title() == "sample 3"
    left, right, bottom, top = picture.images[0].get_extent()
    if fixture == "rrg":  # cells are centred on their instants, 2.352 ms apart, and bins, 30 kHz apart
        assert (left, right) == (pytest.approx(-1.176), pytest.approx(15.5 * 2.352))
        assert (bottom, top) == (pytest.approx(-11.265), pytest.approx(-2.265))


def test_plot_reads_near_the_sample_and_one_column(
    rrg: Path, tmp_path: Path, figure_calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wichan.store import WichanDataset

    read, batch = [], WichanDataset.batch

    def note(self: Any, rows: Any) -> Any:
        read.append((list(rows), set(self.columns)))
        return batch(self, rows)

    monkeypatch.setattr(WichanDataset, "batch", note)
    monkeypatch.setattr("wichan.cli.plot._PROFILE_BYTES", 4_000_000)  # three samples of 1.2 MB
    for sample, rows in ((0, [0, 1, 2]), (7, [6, 7, 8]), (11, [9, 10, 11])):
        assert wichan("plot", str(rrg), "-o", str(tmp_path / "c.png"), "--sample", str(sample)).exit_code == 0
        assert read[-1] == (rows, {"h_u_hist", "scale", "delay_spread", "speed", "profile"})
        h, options = figure_calls[-1]
        assert h.shape[0] == 3
        assert rows[options["sample"]] == sample
        assert options["label"] == f"sample {sample}"


def test_plot_stays_in_the_cell(made: Path, tmp_path: Path, figure_calls: list) -> None:
    for sample, place in ((39, 39), (40, 0)):
        assert wichan("plot", str(made), "-o", str(tmp_path / "c.png"), "--sample", str(sample)).exit_code == 0
        h, options = figure_calls[-1]
        assert (h.shape[0], options["sample"]) == (40, place)


def test_plot_of_an_imported_array_counts(tmp_path: Path, figure_calls: list) -> None:
    import numpy as np

    from wichan.store import import_file

    np.savez(tmp_path / "a.npz", h=np.ones((3, 4, 6), np.complex64))
    import_file(tmp_path / "a.npz", tmp_path / "d", columns=["h"])
    assert wichan("plot", str(tmp_path / "d"), "-o", str(tmp_path / "c.png")).exit_code == 0
    assert set(figure_calls[0][1]) == {"sample", "label", "title"}


@pytest.mark.parametrize("name", ["x.foo", "x", "x.png.pdf"])
def test_plot_writes_png_only(made: Path, tmp_path: Path, name: str) -> None:
    assert_one_error(wichan("plot", str(made), "-o", str(tmp_path / name)), 2, name, "must end in .png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "texts"), [(["--sample", "80"], ["sample=80", "at most 79"]), (["--column", "no"], ["known: h, y"])]
)
def test_plot_of_what_is_not_there(made: Path, args: list[str], texts: list[str]) -> None:
    assert_one_error(wichan("plot", str(made), *args), 2, *texts)
