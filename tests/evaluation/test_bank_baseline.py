"""``lmmse-bank`` in an evaluation: built from the recipe's laws, told nothing, between the pooled filter and the genie."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wichan.channels import TDL
from wichan.errors import InvalidValueError
from wichan.estimators import LMMSE
from wichan.evaluation import evaluate
from wichan.evaluation.bank import build_lmmse_bank, law_nodes
from wichan.evaluation.baselines import BASELINES
from wichan.evaluation.setting import Setting
from wichan.simulate import load_recipe

SMALL = {"grid.num_subcarriers": 36}


def setting(overrides: dict[str, object], recipe: str = "ofdm-siso") -> Setting:
    return Setting.of(load_recipe(recipe, overrides=SMALL | overrides))


def test_it_is_known_and_told_nothing() -> None:
    built = BASELINES["lmmse-bank"](setting({}))
    assert built.told == ()
    assert built.estimator.num_conditions == 16 * 24
    assert "384 conditions" in built.note


@pytest.mark.parametrize("name", ["delay_spread", "max_doppler"])
def test_values_stand_for_the_law_with_their_probability(name: str) -> None:
    """Low values are dense, and weights make up for it: the weighted mean is that of the law."""
    here = setting({})
    u, weights = law_nodes(here, name, 16)
    assert sum(weights) == pytest.approx(1) and u == sorted(u)
    assert u[1] - u[0] < u[-1] - u[-2]
    # The integral of a straight line by 16 uneven midpoints; of the uniform quantile itself it is 1/2.
    assert sum(a * b for a, b in zip(u, weights, strict=True)) == pytest.approx(0.5, abs=2e-3)


def test_a_law_of_few_values_is_taken_as_it_is() -> None:
    here = setting({"conditions.delay_spread": {"choice": [5e-8, 1e-7, 1e-7]}, "conditions.max_doppler": 300.0})
    bank = build_lmmse_bank(here).estimator
    assert bank.num_conditions == 3  # the value that is listed twice counts twice
    assert law_nodes(here, "max_doppler", 24) == ([0.5], [1.0])
    fixed = setting({"conditions.delay_spread": 1e-7, "conditions.max_doppler": 300.0})
    y = torch.randn(3, 1, 14, 36, 2, generator=torch.Generator().manual_seed(1)).double()
    covariance = TDL("A", delay_spread=1e-7, max_doppler=300.0).covariance(fixed.grid)
    want = LMMSE(fixed.observation, covariance)(torch.view_as_complex(y), 0.1)
    got = build_lmmse_bank(fixed).estimator(torch.view_as_complex(y), 0.1)
    torch.testing.assert_close(got.h_hat, want.h_hat, rtol=1e-9, atol=1e-9)


def test_profiles_enter_with_their_weights() -> None:
    built = build_lmmse_bank(setting({"profile": {"choice": ["A", "C", "A", "B"]}}))
    bank = built.estimator
    assert bank.num_conditions == 3 * 16 * 24
    far = torch.zeros(1, 1, 14, 36, dtype=torch.complex128)
    prior = bank.posterior(far, 1e12).reshape(3, -1).sum(1)  # pilots without meaning leave the prior; order of first mention
    torch.testing.assert_close(prior, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), rtol=0, atol=1e-9)


def test_line_of_sight_keeps_a_filter_for_each_condition() -> None:
    bank = build_lmmse_bank(setting({"profile": "D"})).estimator
    assert type(bank.mixture).__name__ == "JointMixture"
    assert bank.num_conditions == 8 * 12


def test_a_source_without_closed_form_is_refused() -> None:
    here = setting({})

    class Opaque(TDL):
        has_closed_form = False

    models = {"A": Opaque("A", delay_spread=1e-7)}
    link = dataclasses.replace(here.link, models=models)
    with pytest.raises(InvalidValueError, match="lmmse-bank") as caught:
        build_lmmse_bank(Setting(here.recipe, link, here.split, here.cell))
    assert "\n" not in str(caught.value)


def test_between_the_pooled_filter_and_the_genie() -> None:
    result = evaluate(
        "ofdm-siso",
        ["lmmse-pooled", "lmmse-bank", "lmmse-genie"],
        points=[5.0, 20.0],
        num_channels=150,
        overrides=SMALL,
        detail=False,
    )
    assert list(result.estimators)[:3] == ["lmmse-pooled", "lmmse-bank", "lmmse-genie"]
    pooled, bank, genie = result.nmse_db.value.double().T
    # 1 dB is less than a third of the gap that 2000 channels show (3 dB), and the gap to the genie is below 1.2 dB there.
    assert bool((bank < pooled - 1.0).all())
    assert bool((bank > genie - 0.05).all()) and bool((bank < genie + 2.0).all())
