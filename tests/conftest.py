"""What every test shares: one thread, a seeded generator, and a guard over torch's global state."""

from __future__ import annotations

import importlib.util
import os

# Before torch loads its BLAS, and inherited by the processes that tests start.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["MPLBACKEND"] = "Agg"

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ADAPTERS = Path(__file__).resolve().parents[1] / "wichan" / "integrations" / "sionna"
HAS_SIONNA = importlib.util.find_spec("sionna") is not None
HAS_PEERS = all(importlib.util.find_spec(name) is not None for name in ("gmm_estimator", "qce"))
DESELECTED = pytest.StashKey[Counter]()

# The same examples in every run, and no deadline: a busy machine is not a bug.
hypothesis.settings.register_profile("wichan", derandomize=True, deadline=None)
hypothesis.settings.load_profile("wichan")


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh random stream, the same for every test."""
    return torch.Generator().manual_seed(7)


@pytest.fixture
def shared_data() -> Path:
    """Folder of recorded data; a test that asks for it carries the marker ``shared_data``."""
    return SHARED_DATA


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    config.stash[DESELECTED] = Counter()


# -- Tests that cannot run here are left out and counted, so that a skip never hides in a green line. --


def _missing(item: pytest.Item) -> str | None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        return "gpu (no CUDA device)"
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        return "shared_data (no recorded data)"
    if _needs_sionna(item) and not HAS_SIONNA:
        return "sionna (Sionna is not installed)"
    if item.get_closest_marker("peers") and not HAS_PEERS:
        return "peers (gmm-estimator or qce is not installed)"
    return None


def _needs_sionna(item: pytest.Item) -> bool:
    # Examples in the docstrings of the adapters cannot carry a marker.
    is_example = isinstance(item, pytest.DoctestItem) and ADAPTERS in item.path.parents
    return is_example or item.get_closest_marker("sionna") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {item: _missing(item) for item in items}
    dropped = [item for item, reason in reasons.items() if reason]
    if dropped:
        items[:] = [item for item in items if not reasons[item]]
        config.stash[DESELECTED].update(reason for reason in reasons.values() if reason)
        config.hook.pytest_deselected(items=dropped)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a pytest-xdist worker hands its count to the process that reports
        session.config.workeroutput["deselected"] = dict(session.config.stash[DESELECTED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    # Every worker collects every test, so the counts of any one worker are the counts of the run.
    if counts := getattr(node, "workeroutput", {}).get("deselected"):
        node.config.stash[DESELECTED] = Counter(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, count in sorted(config.stash[DESELECTED].items()):
        terminalreporter.write_line(f"deselected {count} marked {reason}")


# -- State of the whole process belongs to the user: a test, and the code it runs, must leave it alone. --


def _global_state() -> dict[str, Any]:
    return {
        "torch's global generator": torch.get_rng_state(),
        "NumPy's global generator": np.random.get_state(),  # noqa: NPY002 (looked at, never drawn from)
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch's global generator"])
    np.random.set_state(state["NumPy's global generator"])  # noqa: NPY002
    torch.set_default_dtype(state["torch's default dtype"])
    torch.set_num_threads(state["torch's number of threads"])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return all(np.array_equal(left, right) for left, right in zip(a, b, strict=True))
    return bool(a == b)


@contextmanager
def _guarded(item: pytest.Item) -> Iterator[None]:
    before = _global_state()
    try:
        yield
    finally:
        after = _global_state()
        _restore(before)
    changed = [name for name, value in before.items() if not _same(value, after[name])]
    if item.get_closest_marker("sionna") or item.get_closest_marker("peers"):  # they draw from the global generators by design
        changed = [name for name in changed if "generator" not in name]
    if changed:
        pytest.fail(f"the test changed {', '.join(changed)}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    with _guarded(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    with _guarded(item):
        return (yield)
