"""What every verb does: help, errors on one line, exit codes, quiet ends."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wichan.cli import app
from wichan.cli.console import human_bytes, human_seconds, stderr
from wichan.cli.progress import ProgressReport
from wichan.errors import StoreError, WichanWarning

VERBS = ("simulate", "recipes", "info", "verify", "plot", "train", "models", "evaluate", "doctor")


def wichan(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def assert_one_error(result: Any, code: int, *texts: str) -> None:
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    # Typer writes the name of an argument in capitals or not, by version.
    assert all(text.lower() in lines[0].lower() for text in texts), lines[0]


def test_help_names_every_verb() -> None:
    for result in (wichan(), wichan("--help"), wichan("-h")):
        assert result.exit_code == 0
        assert all(f"  {verb} " in result.stdout for verb in VERBS)
        assert "..." not in result.stdout.split("Commands:")[1]  # every summary fits its line


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = wichan(verb, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_version() -> None:
    import wichan as package

    assert wichan("--version").stdout == f"wichan {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["simulat"], ["simulat", "Did you mean 'simulate'"]),
        (["simulate", "ofdm-siso", "--sed", "3"], ["--sed", "--seed", "see: wichan simulate --help"]),
        (["simulate"], ["recipe"]),
        (["simulate", "ofdm-siso", "-n", "ten"], ["-n", "integer"]),
        (["verify"], ["path"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: list[str], texts: list[str]) -> None:
    assert_one_error(wichan(*args), 2, *texts)


def _raise(error: BaseException) -> Any:
    def replacement(*_: Any, **__: Any) -> Any:
        raise error

    return replacement


@pytest.mark.parametrize(
    ("error", "code", "texts"),
    [
        (RuntimeError("two\nlines"), 1, ["RuntimeError: two lines", "WICHAN_DEBUG=1"]),
        (PermissionError(13, "Permission denied", "/some/file"), 1, ["/some/file: Permission denied"]),
        (MemoryError(), 1, ["out of memory"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_whatever_goes_wrong_is_one_line(
    error: BaseException, code: int, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wichan.store.info", _raise(error))
    assert_one_error(wichan("info", "somewhere"), code, *texts)


def test_a_process_ends_the_same_way() -> None:
    done = subprocess.run([sys.executable, "-m", "wichan.cli", "info", "nowhere"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: nowhere does not exist\n")


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("two\nlines"), 1), (KeyboardInterrupt(), 130), (StoreError("no data"), 1)]
)
def test_json_tells_the_error_on_stdout_too(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wichan.store.info", _raise(error))
    result = wichan("info", "somewhere", "--json")
    assert result.exit_code == code
    assert f"error: {json.loads(result.stdout)['error']}\n" == result.stderr


def test_json_tells_wrong_usage_too() -> None:
    result = wichan("info", "--json", "--wrong")
    assert result.exit_code == 2
    assert list(json.loads(result.stdout)) == ["error"]
    assert "--wrong" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("module", ["typer", "rich", "wichan.cli.verbs", "wichan.store"])
def test_ctrl_c_during_imports_is_one_line(module: str, as_json: bool) -> None:
    words = ["info", "nowhere", *(["--json"] if as_json else [])]
    code = f"""if True:
        import sys
        class Interrupt:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        from wichan.cli import main
        main({words!r})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert (json.loads(done.stdout) == {"error": "interrupted"}) if as_json else (done.stdout == "")


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_debug_lets_the_traceback_through(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WICHAN_DEBUG", value)
    result = wichan("info", "nowhere")
    assert isinstance(result.exception, StoreError if value == "1" else SystemExit)


def test_warnings_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(path: Path) -> dict[str, int]:
        warnings.warn("watch\nout", WichanWarning, stacklevel=1)
        return {"a": 1}

    monkeypatch.setattr("wichan.store.info", noisy)
    result = wichan("info", "somewhere", "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: watch out\n"
    assert json.loads(result.stdout) == {"a": 1}


def test_reader_that_goes_away_is_no_drama() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "wichan.cli", "recipes", "csi-rrg", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()  # before anything is written: torch alone takes longer to load
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_import_stays_light() -> None:
    heavy = "matplotlib h5py pydantic scipy lightning sklearn wichan.simulate.schema"
    code = f"import sys, wichan.cli; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_respected(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name in ["FORCE_COLOR", *(["NO_COLOR"] if no_color else [])]:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm")
    stderr.cache_clear()
    try:
        text = CliRunner().invoke(app, ["info", "nowhere"], color=True).stderr
    finally:
        stderr.cache_clear()
    assert ("31m" in text) is not no_color
    assert "error: " in text


def test_doctor() -> None:
    result = wichan("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == (1 if report["problems"] else 0)
    assert report["packages"]["torch"]
    assert report["devices"][0]["name"] == "cpu"
    assert report["recipes"]["count"] >= 4
    missing = {name: entry for name, entry in report["extras"].items() if entry["missing"]}
    assert all(f"extra {name!r} of wichan" in entry["install"] for name, entry in missing.items())
    text = wichan("doctor").stdout
    assert "torch" in text
    assert "recipes" in text


def test_doctor_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import wichan.cli.doctor as module

    real = module._version
    monkeypatch.setattr(module, "_version", lambda name: None if name in ("h5py", "ray") else real(name))
    result = wichan("doctor")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: h5py missing; install wichan again with its dependencies"
    assert "extra 'ray' of wichan" in result.stdout
    assert "pip install" not in result.stdout + result.stderr  # wichan is on no index


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3 TB"), (5e15, "5,000 TB")]
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (float("inf"), "unknown"),
    ],
)
def test_human_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_preparation_does_not_count_into_the_rate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0, 30.0, 30.0, 30.0, 40.0, 40.0, 40.0])  # half a minute until the first unit is begun
    monkeypatch.setattr("wichan.cli.progress.time.monotonic", lambda: next(clock))
    with ProgressReport("job", unit="channels") as bar:
        bar.update(0, 100)
        bar.update(50, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "job: 0/100 channels (0 %), 0 channels/s, unknown left",
        "job: 50/100 channels (50 %), 5 channels/s, 10 s left",
    ]


def test_plain_progress_prints_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 4.9, 5.1, 5.1, 9.0, 10.2, 10.2])
    monkeypatch.setattr("wichan.cli.progress.time.monotonic", lambda: next(clock))
    with ProgressReport("job") as bar:
        for done in (10, 49, 51, 90, 99):
            bar.update(done, 100, rate=10.0, byte_rate=2e6)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "job: 51/100 samples (51 %), 10 samples/s, 2 MB/s, 4.9 s left",
        "job: 99/100 samples (99 %), 10 samples/s, 2 MB/s, 0.1 s left",
    ]
