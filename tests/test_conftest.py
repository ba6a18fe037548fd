"""The guards of conftest.py must themselves be able to fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytest_plugins = ["pytester"]

HARMLESS = "def test_harmless(generator):\n    torch.rand(3, generator=generator)\n"
OFFENCES = {
    "torch's global generator": "torch.rand(1)",
    "NumPy's global generator": "np.random.rand()",
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "torch's number of threads": "torch.set_num_threads(2)",
}


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project that has our conftest.py and markers, but no recorded data beside it."""
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers = gpu\n  shared_data\n  sionna\nfilterwarnings = error")
    return pytester


@pytest.mark.parametrize("what", OFFENCES)
def test_a_test_that_changes_global_state_fails(inner: pytest.Pytester, what: str) -> None:
    source = f"import numpy as np, torch\n{HARMLESS}def test_offence():\n    {OFFENCES[what]}\n"
    result = inner.runpytest_inprocess(inner.makepyfile(source), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*changed {what}*"])


def test_a_fixture_that_changes_global_state_fails(inner: pytest.Pytester) -> None:
    fixture = "@pytest.fixture(scope='module')\ndef noise():\n    return torch.randn(2)\n"
    source = f"import pytest, torch\n{fixture}def test_noise(noise):\n    pass\n"
    result = inner.runpytest_inprocess(inner.makepyfile(source), "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)


def test_a_failing_test_keeps_its_own_message(inner: pytest.Pytester) -> None:
    source = "import torch\ndef test_both():\n    torch.rand(1)\n    raise ValueError('my own words')\n"
    result = inner.runpytest_inprocess(inner.makepyfile(source), "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*my own words*"])


SIONNA = "import pytest, torch\n@pytest.mark.sionna\ndef test_draw():\n    torch.rand(1)\n"


def test_sionna_may_use_the_global_generator(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name if name == "sionna" else real(name, *rest))
    inner.runpytest_inprocess(inner.makepyfile(SIONNA), "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_without_sionna_its_tests_are_deselected_and_counted(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sionna" else real(name, *rest))
    source = SIONNA + "def test_here():\n    pass\n"
    result = inner.runpytest_inprocess(inner.makepyfile(source), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["deselected 1 marked sionna (Sionna is not installed)"])


def test_what_cannot_run_is_deselected_and_counted(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    marks = ["gpu", "gpu", "shared_data"]
    tests = [f"@pytest.mark.{mark}\ndef test_{i}():\n    raise RuntimeError\n" for i, mark in enumerate(marks)]
    source = "import pytest\n" + "".join(tests) + "def test_here():\n    pass\n"
    result = inner.runpytest_inprocess(inner.makepyfile(source), "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["deselected 2 marked gpu*", "deselected 1 marked shared_data*"])
