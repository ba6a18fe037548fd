"""What a user gets: the wheel and its data, a light import, pinned versions."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A LightningModule cannot be made inside a function: these two files load Lightning, and are loaded when training starts.
TRAINERS = (
    "wichan.training.keeper",
    "wichan.training.module",
    "wichan.training.prediction_task",
    "wichan.training.prior_task",
)
HEAVY = ("matplotlib", "sionna", "lightning", "sklearn", "torchmetrics", "diffusers", "tensorflow", "ray")


def run_python(code: str, *, package: Path = ROOT, cwd: Path) -> str:
    """Run ``code`` in a fresh interpreter that finds wichan in ``package``; return what it prints."""
    env = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist of ``source`` with the backend that pip would call."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_package_recipes_and_models(wheel: Path) -> None:
    inside = names(wheel)
    folders = [ROOT / "datasets", ROOT / "models"]
    data = {f"wichan/_data/{path.relative_to(ROOT)}" for folder in folders for path in folder.rglob("*.*")}
    tables = {str(path.relative_to(ROOT)) for path in (ROOT / "wichan").rglob("*.json")}
    assert any(name.endswith(".yaml") for name in data)
    assert tables
    assert data | tables | {"wichan/py.typed", "wichan/__init__.py"} <= inside
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "wichan" / "__init__.py").read_text(), flags=re.MULTILINE)[1]
    assert {name.split("/")[0] for name in inside} == {"wichan", f"wichan-{version}.dist-info"}
    assert f"wichan-{version}.dist-info/licenses/LICENSE" in inside


def test_wheel_offers_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "wichan = wichan.cli:main" in archive.read(name).decode()


def test_recipes_are_found_in_a_plain_install_and_in_the_repository(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = "from wichan.simulate.locate import shipped_recipes as s; print(*(f'{n}={p}' for n, p in s().items()), sep='\\n')"
    want = sorted(path.stem for path in (ROOT / "datasets").glob("*.yaml"))
    for package, folder in ((installed, installed / "wichan" / "_data" / "datasets"), (ROOT, ROOT / "datasets")):
        found = dict(line.split("=", 1) for line in run_python(code, package=package, cwd=tmp_path).splitlines())
        assert sorted(found) == want
        assert {Path(path).parent for path in found.values()} == {folder}


def test_models_are_found_in_a_plain_install_and_in_the_repository(wheel: Path, tmp_path: Path) -> None:
    from wichan import OFDMGrid
    from wichan.estimators import Linear
    from wichan.observations import OFDMPilots
    from wichan.training import save_weights

    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    # One more model, in the installed folder alone: a search in the wrong place cannot find it.
    extra = installed / "wichan" / "_data" / "models" / "zz-extra"
    extra.mkdir()
    save_weights(Linear(OFDMPilots(OFDMGrid(6, 12, 15e3), (1, 4), 3)), extra / "weights.safetensors")
    code = "import wichan; found = wichan.training.released(); print(*(f'{n}={p}' for n, p in found.items()), sep='\\n')"
    load = "\nprint('kind=' + wichan.load('zz-extra').kind)"
    want = [path.parent.name for path in sorted((ROOT / "models").glob("*/weights.safetensors"))]
    lines = run_python(code, cwd=tmp_path).split()
    assert lines == [f"{name}={ROOT / 'models' / name}" for name in want]
    lines = run_python(code + load, package=installed, cwd=tmp_path).split()
    assert lines == [*(f"{name}={extra.parent / name}" for name in [*want, "zz-extra"]), "kind=linear"]


def test_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    assert names(again) == names(wheel)


def test_import_costs_little_more_than_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time, torch\nstart = time.perf_counter()\nimport wichan\n"
        f"print(time.perf_counter() - start, *(m for m in {HEAVY} if m in sys.modules))"
    )
    answers = [run_python(code, cwd=tmp_path).split() for _ in range(3)]
    assert [answer[1:] for answer in answers] == [[], [], []]
    # The design's bound, 0.4 s; the median, because a busy machine slows a single start.
    assert statistics.median(float(answer[0]) for answer in answers) < 0.4


def test_no_module_loads_a_heavy_package(tmp_path: Path) -> None:
    code = (
        "import importlib, json, pkgutil, sys, wichan\n"
        "walk = pkgutil.walk_packages(wichan.__path__, 'wichan.')\n"
        f"found = [m.name for m in walk if not m.name.endswith('__main__') and m.name not in {TRAINERS}]\n"
        "for name in found: importlib.import_module(name)\n"
        f"print(json.dumps([len(found), [m for m in {HEAVY} if m in sys.modules]]))"
    )
    count, loaded = json.loads(run_python(code, cwd=tmp_path))
    assert count > 10
    assert loaded == []


def pins(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pinned}


def test_every_requirement_of_the_checks_is_pinned_within_its_range() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + [
        text for extra in ("test", "test-core", "notebooks", "sionna", "docs") for text in extras[extra]
    ]
    requirements = [r for r in map(Requirement, wanted) if r.name != "wichan"]
    pinned = pins()
    assert [str(r) for r in requirements if not r.specifier.contains(pinned.get(r.name, "0"), prereleases=True)] == []


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_pins_are_plain_versions(file: str) -> None:
    # A local suffix (2.13.0+cpu) would bind everyone to one build, and fails where that build is not offered.
    assert [f"{name}=={version}" for name, version in pins(file).items() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    lowest = pins("constraints-lowest.txt")
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test-core"]:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        (bound,) = [specifier.version for specifier in wanted.specifier if specifier.operator == ">="]
        # The one exception is explained in the file.
        assert Version(lowest[name]) == Version(pins()["torch"] if name == "torch" else bound), text
    assert "sionna-no-rt" not in lowest


def test_doctor_looks_for_what_the_project_asks_for() -> None:
    from wichan.cli.doctor import CORE, EXTRAS

    def packages(texts: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(text).name) for text in texts}

    extras = PROJECT["optional-dependencies"]
    assert {canonicalize_name(name) for name in CORE} == packages(PROJECT["dependencies"])
    assert set(EXTRAS) == set(extras)
    assert {extra: set(names) - packages(extras[extra]) for extra, (_, names) in EXTRAS.items()} == dict.fromkeys(EXTRAS, set())
