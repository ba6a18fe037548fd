"""``wichan doctor``: what is installed, what is missing for what, and what this machine offers."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

#: Packages of the plain install.
CORE = (
    *("torch", "numpy", "scipy", "h5py", "pydantic", "typer", "rich", "PyYAML", "matplotlib"),
    *("lightning", "safetensors", "scikit-learn", "torchmetrics"),
)
#: Extra -> what it is for and its packages.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sionna": ("link-level adapters, UMi/UMa/RMa sources", ("sionna-no-rt",)),
    "rt": ("ray-traced scenes", ("sionna",)),
    "tensorflow": ("bridge to tf.data, in an environment of its own", ("tensorflow",)),
    "ray": ("simulation on a cluster", ("ray",)),
    "semantic": ("image and video transmission", ("diffusers", "av")),
    "peers": ("comparing with other people's estimators for coarse converters", ("gmm-estimator", "qce")),
    "notebooks": ("running the tutorials", ("ipykernel", "jupytext", "nbclient")),
    "docs": ("building the documentation", ("sphinx", "myst-nb", "pydata-sphinx-theme")),
    "test-core": ("running the tests without Sionna, notebooks and linters", ("pytest", "pytest-xdist", "hypothesis")),
    "test": ("running every check", ("ruff", "mypy", "import-linter")),
}
#: Other distributions that bring the same package.
_ALSO = {"lightning": ("pytorch-lightning",), "sionna-no-rt": ("sionna",)}


def _version(package: str) -> str | None:
    for name in (package, *_ALSO.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _packages() -> dict[str, str | None]:
    return {name: _version(name) for name in CORE}


def _extras() -> dict[str, dict[str, Any]]:
    report = {}
    for extra, (purpose, packages) in EXTRAS.items():
        found = {name: _version(name) for name in packages}
        missing = [name for name, version in found.items() if version is None]
        install = f"extra {extra!r} of wichan" if missing else None
        if missing and extra == "rt" and _installed("sionna-no-rt"):
            install = f"{install}, once sionna-no-rt is uninstalled"
        report[extra] = {"for": purpose, "packages": found, "missing": missing, "install": install}
    return report


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [{"name": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count()}]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append({"name": f"cuda:{index}", "model": properties.name, "memory_bytes": properties.total_memory})
    return devices


def _recipes() -> dict[str, Any]:
    from wichan.simulate import list_recipes, recipe_folder

    return {"folder": str(recipe_folder()), "count": len(list_recipes())}


def _problems(packages: dict[str, str | None]) -> list[str]:
    from wichan.integrations.sionna.require import sionna_problem, sionna_versions

    missing = [name for name, version in packages.items() if version is None]
    problems = [f"{', '.join(missing)} missing; install wichan again with its dependencies"] if missing else []
    problem = sionna_problem(sionna_versions())
    return [*problems, problem] if problem else problems


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def examine() -> dict[str, Any]:
    """Everything that ``wichan doctor`` reports, as plain JSON types; ``problems`` is empty where all is well."""
    import platform

    from wichan import __version__

    packages = _packages()
    problems = _problems(packages)
    report: dict[str, Any] = {
        "wichan": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": _extras(),
        "devices": _devices() if packages["torch"] else [],
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "memory_bytes": _memory(),
        "problems": problems,
    }
    try:
        report["recipes"] = _recipes()
    except Exception as error:  # a broken recipe folder is a finding, not a crash
        report["recipes"] = {"folder": None, "count": 0}
        problems.append(f"recipes cannot be read: {error}")
    return report


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _device_text(device: dict[str, Any]) -> str:
    from wichan.cli.console import human_bytes

    if "model" in device:
        return f"{device['name']} ({device['model']}, {human_bytes(device['memory_bytes'])})"
    return f"{device['name']} ({device['threads']} threads of {device['cores']} cores)"


def _print(report: dict[str, Any]) -> None:
    from wichan.cli.console import human_bytes, key_values, message, print_table, say

    summary = {
        "wichan": report["wichan"],
        "python": f"{report['python']} on {report['platform']}",
        "devices": ", ".join(_device_text(device) for device in report["devices"]) or "none",
        "memory": human_bytes(report["memory_bytes"]) if report["memory_bytes"] else "unknown",
        "disk": f"{human_bytes(report['disk_free_bytes'])} free here",
        "recipes": f"{report['recipes']['count']} in {report['recipes']['folder'] or 'no folder'}",
    }
    say(key_values(summary))
    say("")
    rows = [[name, version or "missing", "core", ""] for name, version in report["packages"].items()]
    for extra, entry in report["extras"].items():
        for name, version in entry["packages"].items():
            remedy = "" if version else entry["install"]
            rows.append([name, version or "-", f"[{extra}] {entry['for']}", remedy])
    print_table(["package", "version", "needed for", "comes with"], rows)
    for problem in report["problems"]:
        message("error", problem)


def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show what is installed and what is missing."""
    from wichan.cli.console import emit_json

    report = examine()
    if json:
        emit_json(report)
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(1)
