"""House rules that no linter knows: length of files and functions, docstrings, one page that lists every public name."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "wichan").rglob("*.py"))
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    """``wichan/linalg/__init__.py`` -> ``wichan.linalg``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_name(path) for path in FILES if path.name != "__main__.py"]
ROOMS = [module_name(path) for path in FILES if path.name == "__init__.py" and path.parent.parent.name == "wichan"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < MAX_FILE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f"{node.name}: {code_lines(node)} lines" for node in functions if code_lines(node) > MAX_FUNCTION_LINES] == []


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    return node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__ or name.endswith("__init__"), "the module has no docstring"
    assert [label for label, documented in public(module) if not documented] == []


def public(module: object) -> Iterator[tuple[str, bool]]:
    """Public functions, classes and methods defined in ``module``; a method may inherit its docstring."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        if own and inspect.isclass(value):
            # A dataclass without a docstring is given its signature as one.
            yield name, bool(value.__doc__) and not value.__doc__.startswith(f"{name}(")
            for method in vars(value):
                if not method.startswith("_") and (callable(vars(value)[method]) or isinstance(vars(value)[method], property)):
                    yield f"{name}.{method}", bool(inspect.getdoc(getattr(value, method)))
        elif own and inspect.isfunction(value):
            yield name, bool(inspect.getdoc(value))


def test_names_of_test_files_are_unique() -> None:
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("room", ROOMS)
def test_api_page_lists_every_public_name(room: str) -> None:
    sections = (ROOT / "docs" / "api.md").read_text().split("\n## ")
    section = next((text for text in sections if text.startswith(f"`{room}`")), "")
    assert section, f"docs/api.md has no section for {room}"
    names = importlib.import_module(room).__all__
    assert [name for name in names if f"`{name}`" not in section and f"`{name}(" not in section] == []


def test_api_page_lists_every_registered_estimator() -> None:
    from wichan.estimators import ESTIMATORS

    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in ESTIMATORS if f"`{name}`" not in page] == []


def test_every_cited_source_is_in_the_bibliography() -> None:
    cited = {key for path in FILES for key in re.findall(r"\[([A-Z][A-Za-z]+[0-9]{4}[a-z]?)\]_", path.read_text())}
    listed = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "docs" / "references.bib").read_text(), flags=re.MULTILINE))
    assert cited
    assert sorted(cited - listed) == []
