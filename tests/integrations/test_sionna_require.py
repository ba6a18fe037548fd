"""Without Sionna, with two of them, and with the wrong one: one line each, and wichan itself is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from wichan.errors import MissingDependencyError
from wichan.integrations.sionna import require

ROOT = Path(__file__).resolve().parents[2]

# A fresh interpreter in which Sionna is neither installed nor importable.
WITHOUT = """
import importlib.abc, importlib.metadata as metadata, sys
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sionna":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
real = metadata.version
def version(name):
    if name in ("sionna", "sionna-no-rt"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
"""
USES = """
import torch, wichan as wc
from wichan.errors import MissingDependencyError
s = wc.integrations.sionna
grid = wc.OFDMGrid(14, 12, 15e3)
pilots = wc.observations.OFDMPilots(grid, (2, 11), 3)
uses = {
    "as_channel_estimator": lambda: s.as_channel_estimator(wc.estimators.LS, None),
    "observation_of": lambda: s.observation_of(None),
    "resource_grid_of": lambda: s.resource_grid_of(pilots),
    "as_baseline": lambda: s.as_baseline(lambda rg: None, pilots),
    "require_sionna": lambda: s.require_sionna("require_sionna"),
    "sionna-ls": lambda: wc.evaluation.evaluate("ofdm-siso", ["sionna-ls"], num_channels=2, reference=None),
    "sionna-lmmse": lambda: wc.evaluation.evaluate("ofdm-siso", ["sionna-lmmse"], num_channels=2, reference=None),
}
for name, use in uses.items():
    try:
        use()
    except MissingDependencyError as error:
        print(error)
assert all(getattr(s, name) is not None for name in s.__all__)
print(len(uses), "uses")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_without_sionna_every_use_names_the_extra() -> None:
    command = (
        "from wichan.cli import main\nprint('--')\n"
        "sys.argv = 'wichan evaluate --estimators sionna-ls -n 2 --reference none'.split()\nmain()\n"
    )
    done = run(WITHOUT + USES + command)
    lines, listed = (text.splitlines() for text in done.stdout.split("--\n"))
    assert lines.pop() == f"{len(lines)} uses"
    assert all(
        "is not installed" in line and "the extra [sionna]: pip install 'sionna-no-rt>=2.1,<3'" in line for line in lines
    ), lines
    names = ("as_channel_estimator", "observation_of", "resource_grid_of", "as_baseline", "require_sionna", "sionna-ls")
    assert all(line.startswith((name, f"estimator '{name}'")) for name, line in zip(names, lines, strict=False))
    # The command: the same in one line, and exit code 1.
    assert (done.returncode, listed) == (1, []), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: estimator 'sionna-ls' needs Sionna")
    assert "Traceback" not in done.stderr


def fake(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name not in ("sionna", "sionna-no-rt"):
            return real(name)
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("versions", "texts"),
    [
        ({"sionna": "2.2.0", "sionna-no-rt": "2.2.0"}, ["both installed", "sionna 2.2.0 and sionna-no-rt 2.2.0", "uninstall"]),
        ({"sionna-no-rt": "2.0.1"}, ["sionna-no-rt==2.0.1", "sionna-no-rt>=2.1,<3"]),
        ({"sionna": "1.2.1"}, ["sionna==1.2.1", "sionna>=2.1,<3"]),
        ({"sionna": "3.0.0"}, ["sionna==3.0.0", "sionna>=2.1,<3"]),
        ({"sionna": "nightly"}, ["sionna==nightly", "sionna>=2.1,<3"]),
    ],
)
def test_two_sionnas_or_a_wrong_one_are_named(monkeypatch: pytest.MonkeyPatch, versions: dict, texts: list) -> None:
    fake(monkeypatch, versions)
    with pytest.raises(MissingDependencyError) as caught:
        require.require_sionna("as_channel_estimator")
    message = str(caught.value)
    assert message.startswith("as_channel_estimator needs Sionna")
    assert "\n" not in message
    assert all(text in message for text in texts), message


@pytest.mark.parametrize("version", ["2.1", "2.1.0rc1", "2.2.0", "2.10.3", "2.99"])
def test_allowed_versions_are_no_problem(version: str) -> None:
    assert require.sionna_problem({"sionna-no-rt": version}) is None
    assert require.sionna_problem({}) is None


def test_doctor_reports_two_sionnas(monkeypatch: pytest.MonkeyPatch) -> None:
    from wichan.cli.doctor import examine

    fake(monkeypatch, {"sionna": "2.2.0", "sionna-no-rt": "2.1.0"})
    (problem,) = examine()["problems"]
    assert "sionna 2.2.0 and sionna-no-rt 2.1.0 are both installed" in problem
    fake(monkeypatch, {"sionna": "1.2.1"})
    (problem,) = examine()["problems"]
    assert "sionna==1.2.1" in problem


def test_a_copy_without_metadata_must_say_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, {})
    copy = ModuleType("sionna")
    monkeypatch.setattr(require, "_imported", lambda: copy)
    with pytest.raises(MissingDependencyError, match=r"needs Sionna>=2.1,<3; the copy on the path says no version"):
        require.require_sionna("x")
    copy.__version__ = "1.0.2"
    with pytest.raises(MissingDependencyError, match=r"the copy on the path says 1.0.2"):
        require.require_sionna("x")
    copy.__version__ = "2.1.0"
    assert require.require_sionna("x") is copy


def test_what_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> ModuleType:
        raise ImportError("libfoo.so: no such file")

    monkeypatch.setattr(require, "_imported", broken)
    fake(monkeypatch, {"sionna": "2.2.0"})
    with pytest.raises(MissingDependencyError, match=r"x needs Sionna, which is installed but cannot be imported: libfoo.so"):
        require.require_sionna("x")


@pytest.mark.sionna
@pytest.mark.slow
def test_the_first_import_leaves_the_global_generators_alone() -> None:
    code = (
        "import torch\ntorch.manual_seed(5)\nbefore = torch.get_rng_state()\n"
        "from wichan.integrations.sionna import require_sionna\nsionna = require_sionna('x')\n"
        "print(torch.equal(before, torch.get_rng_state()))\n"
        "sionna.phy.config.seed = None  # what the import does by itself\n"
        "print(torch.equal(before, torch.get_rng_state()))"
    )
    assert run(code).stdout.split() == ["True", "False"]
