"""Is a Sionna installed that wichan can work with? The only place that answers."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from types import ModuleType

from wichan.errors import MissingDependencyError

#: Versions that wichan works with, as in ``pyproject.toml``: from the first up to, not including, the second.
OLDEST, BELOW = (2, 1), (3, 0)
ALLOWED = ">=2.1,<3"
_DISTRIBUTIONS = ("sionna-no-rt", "sionna")


def sionna_versions() -> dict[str, str]:
    """Version of every installed distribution that brings the package ``sionna``; empty where there is none.

    Nothing is imported.
    """
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def sionna_problem(versions: dict[str, str]) -> str | None:
    """What is wrong with the installed ``versions`` (from `sionna_versions`), in one line; ``None`` where nothing is."""
    if len(versions) > 1:
        both = " and ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        return (
            f"{both} are both installed and overwrite each other's files; "
            "uninstall both (pip uninstall sionna sionna-no-rt), then install one"
        )
    for name, version in versions.items():
        if not _allowed(version):
            return f"{name}=={version} is installed, but wichan works with {name}{ALLOWED} (pip install '{name}{ALLOWED}')"
    return None


def _allowed(version: str) -> bool:
    digits = re.match(r"(\d+)\.(\d+)", version)
    return digits is not None and OLDEST <= (int(digits[1]), int(digits[2])) < BELOW


def _imported() -> ModuleType:
    module = importlib.import_module("sionna")
    if "sionna.phy" in sys.modules:
        return module
    import torch

    # Sionna seeds torch's global generators when it is first imported; they belong to the user.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        importlib.import_module("sionna.phy")
    return module


def require_sionna(feature: str) -> ModuleType:
    """Return the package ``sionna`` (reach its parts as ``.phy``), or say in one line what is missing.

    Every public function of `wichan.integrations.sionna` calls this before it imports anything of Sionna, and no module
    imports Sionna when it is itself imported: so wichan is complete, and can be listed and documented, without Sionna.
    The global random state that Sionna's first import would change is restored.

    Args:
        feature: what asks for Sionna; the message begins with it.

    Raises:
        MissingDependencyError: Sionna is not installed, both of its distributions are, or its version is not allowed.

    Example:
        >>> from wichan.errors import MissingDependencyError
        >>> try:
        ...     module = require_sionna("as_channel_estimator")
        ... except MissingDependencyError as error:
        ...     assert "pip install" in str(error)
    """
    versions = sionna_versions()
    problem = sionna_problem(versions)
    if problem:
        raise MissingDependencyError(f"{feature} needs Sionna: {problem}")
    missing = f"{feature} needs Sionna, which is not installed; it is the extra [sionna]: pip install 'sionna-no-rt{ALLOWED}'"
    try:
        module = _imported()
    except ImportError as error:
        if not versions or getattr(error, "name", None) in ("sionna", "sionna.phy"):
            raise MissingDependencyError(missing) from None
        raise MissingDependencyError(f"{feature} needs Sionna, which is installed but cannot be imported: {error}") from error
    own = str(getattr(module, "__version__", ""))
    if not versions and not _allowed(own):  # a copy on the path, without metadata
        raise MissingDependencyError(f"{feature} needs Sionna{ALLOWED}; the copy on the path says {own or 'no version'}")
    return module
