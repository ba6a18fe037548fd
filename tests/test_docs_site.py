"""The site without building it: what is generated is whole, and the MATLAB reader fits the files that are written."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

import wichan as wc

DOCS = Path(__file__).resolve().parent.parent / "docs"
READER = (DOCS / "read_wichan.m").read_text()


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate_site", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, str]:
    return generate.all_pages()


# -- Generated pages ---------------------------------------------------------------------------------------------------


def test_every_room_has_its_docstrings(generate: ModuleType, pages: dict[str, str]) -> None:
    assert {"wichan.channels", "wichan.integrations.sionna", "wichan.grid", "wichan.errors"} <= set(generate.rooms())
    for room in generate.rooms():
        module = importlib.import_module(room)
        text = pages[f"api/{room}.md"]
        missing = [
            name for name in generate.public_names(module) if not re.search(rf"[.: `]{name}`?\.?$", text, flags=re.MULTILINE)
        ]
        assert missing == [], room


def test_a_name_is_described_once_and_linked_elsewhere(generate: ModuleType, pages: dict[str, str]) -> None:
    # nmse is offered by metrics, where it is defined, and by evaluation.
    assert ".. autofunction:: wichan.metrics.nmse\n\n" in pages["api/wichan.metrics.md"]
    assert ".. autofunction:: wichan.evaluation.nmse\n   :no-index:" in pages["api/wichan.evaluation.md"]
    assert generate.candidates("nmse") == ["wichan.metrics.nmse"]
    assert "wichan.estimators.LMMSE" in generate.candidates("wichan.estimators.LMMSE")
    assert generate.exists("wichan.observations.waveform")
    assert not generate.exists("wichan.observations.no_such_name")


def test_catalogue_shows_every_recipe(pages: dict[str, str]) -> None:
    for info in wc.simulate.list_recipes():
        page = pages[f"recipes/{info.name}.md"]
        assert info.path.read_text().rstrip() in page
        assert f"[{info.name}](recipes/{info.name}.md)" in pages["recipes.md"]


def test_benchmark_page_shows_the_committed_numbers(generate: ModuleType, pages: dict[str, str]) -> None:
    bench = json.loads((DOCS / "benchmarks.json").read_text())
    page = pages["benchmarks.md"]
    assert bench["command"].startswith("python sims/bench") and bench["command"] in page
    assert page.count("\n| ") >= len(bench["rows"]) + 1
    assert all(row["setting"] in page and generate.duration(row["wichan"]) in page for row in bench["rows"])
    assert [generate.duration(seconds) for seconds in (2.5, 0.0123, 4.56e-6)] == ["2.5 s", "12.3 ms", "4.56 µs"]


def test_shapes_and_norms_are_escaped_outside_of_code_and_math(generate: ModuleType) -> None:
    lines = [
        "Return |h|^2, (*batch, n), *really*, from ``x * |y|`` and :math:`|z|`; see [Clarke1968]_.",
        "",
        ".. math:: |a| = *b",
        "    + |c|",
        "",
        ">>> 2 * f(*args)",
        "Source: a book.",
    ]
    generate.prepare_docstring(None, "", "", None, None, lines)
    assert lines[0] == (r"Return \|h\|^2, (\*batch, n), *really*, from ``x * |y|`` and :math:`|z|`; see :cite:t:`Clarke1968`.")
    assert lines[2:4] == [".. math:: |a| = *b", "    + |c|"]
    assert lines[5:] == [">>> 2 * f(*args)", "**Source.** a book."]


# -- The MATLAB reader -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of two samples, two receive and four transmit antennas."""
    target = tmp_path_factory.mktemp("matlab") / "set"
    wc.simulate.run("mimo-ofdm", target, n=2, on_warning=lambda text: None)
    return target


def test_reader_asks_for_what_the_manifest_has(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == re.search(r"manifest\.format, '([\w-]+)'", READER)[1]
    assert manifest["format_version"] <= int(re.search(r"format_version > (\d+)", READER)[1])
    asked = {
        "manifest": set(re.findall(r"manifest\.(\w+)", READER)) - {"json"},
        "column": set(re.findall(r"(?:columns\(c\)|columns|column)\.(\w+)", READER)),
        "shard": set(re.findall(r"(?:shards\(s\)|shards)\.(\w+)", READER))
        | set(re.findall(r"place\(shards, '(\w+)'\)", READER)),
    }
    assert {"columns", "shards", "format", "format_version"} <= asked["manifest"] <= manifest.keys()
    assert {"name", "dtype", "shape", "categories"} <= asked["column"] <= manifest["columns"][0].keys()
    assert {"name", "split", "cell", "count"} <= asked["shard"] <= manifest["shards"][0].keys()
    # jsondecode makes a struct array of objects with the same keys in the same order, and a cell array of others.
    for key in ("columns", "shards"):
        assert len({tuple(entry) for entry in manifest[key]}) == 1


def test_reader_undoes_what_h5read_does(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    fields = tuple(re.search(r"complex\(values\.(\w), values\.(\w)\)", READER).groups())
    data = wc.store.open(folder, split="test")[:]
    (shard,) = [shard for shard in manifest["shards"] if shard["split"] == "test"]
    with h5py.File(folder / shard["name"]) as file:
        for column in manifest["columns"]:
            stored, want = file[column["name"]], data[column["name"]].numpy()
            kind = stored.id.get_type()
            if column["dtype"].startswith("complex"):
                assert tuple(kind.get_member_name(i).decode() for i in range(kind.get_nmembers())) == fields == ("r", "i")
            if column["dtype"] == "category":
                assert isinstance(kind, h5py.h5t.TypeEnumID)
                assert [kind.enum_nameof(np.array(code, "u1")).decode() for code in range(kind.get_nmembers())] == column[
                    "categories"
                ]
            seen = np.asfortranarray(stored[()].T)  # h5read: the same bytes, the axes in reverse
            axes = len(column["shape"]) + 1  # the reader counts axes by the manifest: MATLAB drops the last of length 1
            np.testing.assert_array_equal(seen.transpose(range(axes)[::-1]), want)
            assert stored.attrs["axes"].decode() == ",".join(["sample", *column["axes"]])


def test_reader_knows_how_booleans_are_stored(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", los=np.array([True, False, True]))
    wc.store.import_file(tmp_path / "a.npz", tmp_path / "out", columns=["los"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    with h5py.File(tmp_path / "out" / manifest["shards"][0]["name"]) as file:
        kind = file["los"].id.get_type()
        names = {kind.get_member_value(i): kind.get_member_name(i).decode() for i in range(kind.get_nmembers())}
    assert manifest["columns"][0]["dtype"] == "bool" and f"strcmp(column.dtype, '{manifest['columns'][0]['dtype']}')" in READER
    assert names[1] == re.search(r"strcmp\(values, '(\w+)'\)", READER)[1]
    assert torch.equal(wc.store.open(tmp_path / "out")[:]["los"], torch.tensor([True, False, True]))
