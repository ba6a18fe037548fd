"""What the documents say is true: their code runs, their links lead somewhere, their commands exist."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import wichan as wc

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT, ROOT / "docs", ROOT / "docs" / "guide", ROOT / "datasets", ROOT / "models"]
PAGES = [page for folder in FOLDERS for page in sorted(folder.glob("*.md"))]
NEEDS_SIONNA = "# needs Sionna\n"


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(ROOT / "README.md", "python")[0]
    assert code == blocks(ROOT / "docs" / "design.md", "python")[0]
    scope: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), scope)
    printed = float(re.search(r"-?\d+\.\d+", capsys.readouterr().out)[0])
    # The error that was made is the error that was claimed. Over seeds, 256 frames scatter by 0.4 dB: errors within a frame
    # are few and correlated, and so is its power.
    assert abs(printed - 10 * math.log10(scope["err_var"].mean())) < 1.2
    assert printed < -20  # no is -20 dB: an estimate from 80 pilots must do better than one pilot alone


def test_the_own_estimator_of_the_guide_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(ROOT / "docs" / "index.md", "python")[0]
    exec(compile(code, "docs/index.md", "exec"), {"__name__": "guide"})
    printed = capsys.readouterr().out
    assert "0 failed" in printed
    assert "mine" in printed


def guide_pages() -> list[Any]:
    """The pages of the guide that hold Python; those that need Sionna say so in their blocks."""
    found = []
    for page in sorted((ROOT / "docs" / "guide").glob("*.md")):
        needs = [code.startswith(NEEDS_SIONNA) for code in blocks(page, "python")]
        if needs:
            found.append(pytest.param(page, marks=[pytest.mark.sionna] if any(needs) else [], id=page.stem))
    return found


@pytest.mark.parametrize("page", guide_pages())
def test_a_page_of_the_guide_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wc.simulate.SOURCES, "_entries", dict(wc.simulate.SOURCES._entries))  # a page registers its own
    monkeypatch.setitem(sys.modules, "my_lab", None)
    scope: dict[str, Any] = {"__name__": "guide"}
    with torch.random.fork_rng():  # a reader's network starts from the global generator
        for number, code in enumerate(blocks(page, "python"), start=1):
            exec(compile(code, f"{page.name}, block {number}", "exec"), scope)


def test_the_guide_covers_its_tasks() -> None:
    pages = {page.id for page in guide_pages()}
    assert {"simulate", "estimate", "train", "plug-in", "extend", "analyse", "from-a-dataset"} <= pages


@cache
def generated() -> set[str]:
    """What docs/generate.py writes below docs/_generated when the site is built."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {str(module.OUT / name).removesuffix(".ipynb") for name in module.all_pages()}


def leads_somewhere(page: Path, target: str) -> bool:
    place = page.parent / target
    return place.exists() or str(place.resolve()).removesuffix(".ipynb") in generated()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if "://" not in target and not leads_somewhere(page, target)] == []


def test_commands_in_documents_exist() -> None:
    from typer.main import get_command

    from wichan.cli import app

    verbs = set(get_command(app).commands)
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    shell = "\n".join(block for page in PAGES for block in blocks(page, "sh"))
    named = set(re.findall(r"^wichan ([a-z]+)", shell, flags=re.MULTILINE))
    made = set(re.findall(r"^make ([a-z-]+)", shell, flags=re.MULTILINE))
    scripts = set(re.findall(r"^(?:\S+ )?\S*python3? ((?:sims|tests|notebooks|docs)/\S+)", shell, flags=re.MULTILINE))
    assert {"simulate", "evaluate"} <= named
    assert {"demo", "test"} <= made
    assert (named - verbs, made - goals) == (set(), set())
    assert "sims/link_level.py" in scripts
    assert [script for script in scripts if not (ROOT / script).exists()] == []
