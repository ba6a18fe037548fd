"""The conditions language: every form, every refusal, and the distributions that are drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wichan.errors import InvalidValueError, UnknownNameError
from wichan.simulate import parse_law

NUM = 20_000


def draws(value: Any, **limits: Any) -> torch.Tensor:
    u = torch.rand(NUM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return parse_law(value, "x", **limits).draw(u)


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        (10, "constant", (10,)),
        ({"constant": 1e-7}, "constant", (1e-7,)),
        ({"uniform": [0, 25]}, "uniform", (0, 25)),
        ("0..25", "uniform", (0.0, 25.0)),
        ({"log_uniform": [25e-9, 300e-9]}, "log_uniform", (25e-9, 300e-9)),
        ([5, 10], "choice", (5, 10)),
        ("50:150:50", "choice", (50, 100, 150)),
        ("0:0.3:0.1", "choice", (0, 0.1, 0.2, pytest.approx(0.3))),
        ({"integer": [1, 4]}, "integer", (1, 4)),
    ],
)
def test_every_form_is_read(value: Any, kind: str, values: tuple[float, ...]) -> None:
    law = parse_law(value)
    assert (law.kind, law.values) == (kind, values)
    assert parse_law(law.plain()) == law


def test_words_are_drawn_as_codes() -> None:
    law = parse_law({"choice": ["A", "C", "A"]}, words=True)
    assert law.categories == ("A", "C")
    assert law.draw(torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64)).tolist() == [0, 1, 0]
    assert parse_law("B", words=True).draw(torch.tensor([0.7], dtype=torch.float64)).tolist() == [0]


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        ({"unifrom": [0, 1]}, {}, "x: law='unifrom' is unknown; did you mean 'uniform'?"),
        ({"uniform": [5, 1]}, {}, r"x: uniform=\[5, 1\] must be \[low, high\] with low <= high"),
        ({"uniform": 5}, {}, "x: uniform=5 must be a list"),
        ({"uniform": [0, 1], "choice": [3]}, {}, "must have exactly one key"),
        ({"log_uniform": [0, 1]}, {}, "must have bounds greater than 0"),
        ({"integer": [0, 1.5]}, {}, "must have whole bounds"),
        ({"choice": []}, {}, "x has no values"),
        ("ten", {}, "x='ten' must be a number"),
        (True, {}, "x=True must be a number"),
        (math.nan, {}, "x=nan must be finite"),
        ([1, math.inf], {}, "x=inf must be finite"),
        ("5:1:2", {}, "step that leads from first to last"),
        ("0:1:0", {}, "step that leads from first to last"),
        (-1e-9, {"minimum": 0.0}, "x=-1e-09 must be at least 0"),
        ({"uniform": [0, 1]}, {"positive": True}, "x=0 must be greater than 0"),
        (3, {"words": True}, "x=3 must be a name"),
        ({"uniform": ["A", "B"]}, {"words": True}, "must be a name, or {choice:"),
        (None, {}, "x=None must be a number"),
    ],
)
def test_bad_laws_are_one_clear_line(value: Any, limits: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError), match=message) as caught:
        parse_law(value, "x", **limits)
    assert "\n" not in str(caught.value)


def test_uniform_and_log_uniform_have_their_quantiles() -> None:
    # The standard error of a median of 20,000 uniform numbers is 0.0035 of the range; 0.02 is more than five of them.
    assert float(draws({"uniform": [0, 25]}).median()) == pytest.approx(12.5, abs=0.02 * 25)
    low, high = math.log(25e-9), math.log(300e-9)
    assert float(draws({"log_uniform": [25e-9, 300e-9]}).log().median()) == pytest.approx(
        (low + high) / 2, abs=0.02 * (high - low)
    )


def test_choice_and_integer_are_equally_likely_and_reach_both_ends() -> None:
    for value, expected in (({"integer": [1, 4]}, [1, 2, 3, 4]), ([10, 20, 20, 30], [10, 20, 30])):
        found, counts = draws(value).unique(return_counts=True)
        assert found.tolist() == expected
        share = counts / NUM
        wanted = torch.tensor([0.25] * 4 if len(expected) == 4 else [0.25, 0.5, 0.25])
        # five standard deviations of a binomial share
        assert torch.allclose(share, wanted, atol=5 * math.sqrt(0.25 / NUM))


@given(
    kind=st.sampled_from(["uniform", "log_uniform", "integer"]),
    ends=st.lists(st.integers(1, 10**6), min_size=2, max_size=2),
    u=st.floats(0, 1, exclude_max=True),
)
def test_draws_stay_within_the_bounds(kind: str, ends: list[int], u: float) -> None:
    low, high = sorted(ends)
    law = parse_law({kind: [low, high]})
    value = float(law.draw(torch.tensor([u], dtype=torch.float64)))
    assert low <= value <= high
    assert (law.low, law.high) == (low, high)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_any_plain_data_gives_a_law_or_a_clear_error(value: Any) -> None:
    try:
        law = parse_law(value, "x")
    except (InvalidValueError, UnknownNameError) as error:
        assert str(error).startswith("x") or "must be first:last:step" in str(error)
    else:
        assert torch.isfinite(law.draw(torch.tensor([0.0, 0.5], dtype=torch.float64))).all()
