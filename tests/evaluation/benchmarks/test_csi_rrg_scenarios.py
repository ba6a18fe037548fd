"""Enumerators of the CSI-RRG benchmark: counts, names, order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError, WichanError
from wichan.evaluation.benchmarks.budget import quick_cells, sample_counts, within_budget
from wichan.evaluation.benchmarks.scenarios import CATEGORIES, DEGREES, cells, settings


@pytest.mark.parametrize(("split", "count"), [("train", 27), ("regular", 27), ("generalization", 510)])
def test_cells_are_those_of_the_paper(split: str, count: int) -> None:
    found = cells(split)
    assert len({cell.name for cell in found}) == len(found) == count


@pytest.mark.parametrize(("category", "count"), [("regular", 162), ("robustness", 486), ("generalization", 3060)])
@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_settings_are_those_of_the_paper(duplex: str, category: str, count: int) -> None:
    found = settings(duplex, [category])
    assert len({setting.name for setting in found}) == len(found) == count
    assert {setting.duplex for setting in found} == {duplex}


def test_both_duplex_modes_make_7416_settings() -> None:
    names = {setting.name for duplex in ("tdd", "fdd") for setting in settings(duplex)}
    assert len(names) == 7416


def test_names_are_stable() -> None:
    first = settings("fdd", ["robustness"], cells=["cm_D_ds_300_ms_010"], noises={"drop": [0.05]})
    assert [setting.name for setting in first] == ["robustness/fdd/cm_D_ds_300_ms_010/drop_0.05"]
    cell = first[0].cell
    assert (cell.profile, cell.delay_spread, cell.speed) == ("D", 300e-9, 10.0)
    assert first[0].split == "regular"


def test_noises_select_degrees() -> None:
    assert len(settings("tdd", ["regular"], noises=["awgn"])) == 162
    chosen = settings("tdd", ["regular"], noises={"awgn": (20, 5)})
    assert [setting.degree for setting in chosen[:2]] == [5.0, 20.0]  # the benchmark's order, not the caller's
    assert len(settings("tdd", noises="awgn")) == 162 + 3060
    assert len(settings("tdd", ["robustness"], noises={"phase": None, "burst": 10})) == 27 * 5


def test_quick_keeps_every_axis() -> None:
    chosen = quick_cells()
    assert len({cell.name for cell in chosen}) == len(chosen) == 30
    assert {(cell.profile, cell.delay_spread) for cell in chosen} == {
        (cell.profile, cell.delay_spread) for cell in cells("generalization")
    }
    assert {cell.speed for cell in chosen} == {cell.speed for cell in cells("generalization")}
    kept = within_budget(settings("tdd"), "quick")
    assert len(kept) == 162 + 486 + 180
    for noise, degrees in DEGREES.items():
        assert {setting.degree for setting in kept if setting.noise == noise} == set(degrees)
    assert within_budget(settings("tdd"), "full") == settings("tdd")


def test_sample_counts() -> None:
    assert sample_counts("full", None) == dict.fromkeys(CATEGORIES, 100)
    assert set(sample_counts("quick", 7).values()) == {7}
    for number in (0, -1):
        with pytest.raises(InvalidValueError, match="num_samples"):
            sample_counts("quick", number)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"duplex": "both"}, UnknownNameError, "duplex='both'"),
        ({"categories": ["regula"]}, UnknownNameError, "did you mean 'regular'"),
        ({"categories": []}, InvalidValueError, "categories="),
        ({"cells": ["cm_A_ds_030_ms_011"]}, UnknownNameError, "cell='cm_A_ds_030_ms_011' is unknown"),
        ({"categories": ["regular"], "cells": ["cm_B_ds_030_ms_010"]}, UnknownNameError, "it is in generalization"),
        ({"noises": ["white"]}, UnknownNameError, "noise='white'"),
        ({"categories": ["regular"], "noises": ["drop"]}, UnknownNameError, "'drop' is not in the .* regular .they have: awgn"),
        ({"noises": {"awgn": [7]}}, InvalidValueError, "degree 7 of noise 'awgn' is not in the benchmark.*0, 5, 10"),
        ({"noises": {"awgn": ["x"]}}, InvalidTypeError, "degree of noise 'awgn'"),
        ({"noises": {"awgn": "20"}}, InvalidTypeError, "must be numbers"),
        ({"noises": {}}, InvalidValueError, "noises="),
    ],
)
def test_what_the_benchmark_does_not_have_is_refused(arguments: dict[str, Any], error: type[WichanError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        settings(**{"duplex": "tdd"} | arguments)
    assert "\n" not in str(caught.value)


def test_unknown_split_and_budget() -> None:
    with pytest.raises(UnknownNameError, match="split='test'"):
        cells("test")
    with pytest.raises(UnknownNameError, match="budget='slow'"):
        within_budget(settings("tdd", ["regular"]), "slow")
