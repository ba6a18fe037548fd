"""Blocks of kind ``ofdm``: conditions, fading, noise conventions, mixtures, and what the frozen mode repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wichan.simulate import KINDS, BlockSampler, build_link, load_recipe
from wichan.simulate.interference import interference_at

SMALL = {"grid.num_ofdm_symbols": 4, "grid.num_subcarriers": 12, "pilots.symbols": [0, 3]}


def sampler_of(name: str = "ofdm-siso", **overrides: Any) -> BlockSampler:
    recipe = load_recipe(name, {**(SMALL if name.startswith("ofdm") else {}), **overrides})
    sampler: BlockSampler = KINDS[recipe.kind](recipe)
    return sampler


def block(
    sampler: BlockSampler, split: str = "train", cell: str = "main", index: int = 0, seed: int = 0
) -> dict[str, torch.Tensor]:
    return sampler.sample(sampler.key(seed, split, cell, index))


@pytest.mark.parametrize("name", ["ofdm-siso", "mimo-ofdm", "csi-rrg"])
def test_columns_describe_the_block(name: str) -> None:
    sampler = (
        sampler_of(name) if name != "csi-rrg" else sampler_of(name, **{"array.rows": 1, "array.columns": 1, "num_history": 2})
    )
    split, cell = sampler.recipe.selected_cells()[0]
    values = block(sampler, split, cell)
    assert list(values) == [column.name for column in sampler.columns]
    for column in sampler.columns:
        assert tuple(values[column.name].shape) == (sampler.block_size, *column.shape)
        assert column.dtype in (str(values[column.name].dtype).removeprefix("torch."), "category")
        assert len(column.axes) == len(column.shape)


def test_a_block_depends_on_its_key_only() -> None:
    first, second = sampler_of(), sampler_of()
    before = block(first, index=3)
    block(second, index=1)
    assert all(torch.equal(before[name], value) for name, value in block(second, index=3).items())
    for change in ({"index": 4}, {"seed": 1}, {"split": "val"}):
        other = block(first, **{"index": 3, **change})
        assert not torch.equal(before["h"], other["h"])
        assert not torch.equal(before["snr_db"], other["snr_db"])


def test_changing_one_condition_leaves_the_others_alone() -> None:
    plain, fixed = block(sampler_of()), block(sampler_of(snr_db=10.0))
    assert torch.equal(plain["delay_spread"], fixed["delay_spread"])
    assert torch.equal(plain["h"], fixed["h"])
    assert torch.all(fixed["snr_db"] == 10)
    assert torch.allclose(fixed["no"], torch.tensor(0.1))


def test_noise_has_the_variance_that_the_snr_says() -> None:
    sampler = sampler_of(snr_db=7.0)
    values = block(sampler)
    noise = values["y"] - sampler.observation.noiseless(values["h"])  # type: ignore[attr-defined]
    measured = noise.abs().square().mean()
    # 12,288 complex values: the relative standard error is 1/sqrt(12288) = 0.9 %; 4.5 % is five of them
    assert float(measured) == pytest.approx(10**-0.7, rel=0.045)


def test_conventions_differ_by_the_share_of_pilots() -> None:
    per_pilot = block(sampler_of(snr_db=10.0))["no"]
    on_grid = block(sampler_of(snr_db=10.0, snr_convention="grid-measured"))["no"]
    assert torch.allclose(on_grid / per_pilot, torch.tensor(8 / 48))  # 2 symbols x 4 pilots out of 48 elements
    sampler = sampler_of(snr_db=10.0, snr_convention="grid-measured-realised")
    values = block(sampler)
    clean = sampler.observation.noiseless(values["h"]).abs().square().mean(dim=(1, 2, 3))  # type: ignore[attr-defined]
    assert torch.allclose(values["no"], clean / 10, rtol=1e-5)
    realised = block(sampler_of(snr_db=10.0, snr_convention="per-realisation"))["no"]
    assert torch.allclose(values["no"] / realised, torch.tensor(8 / 48))


def test_a_mixture_draws_every_profile() -> None:
    sampler = sampler_of(profile={"choice": ["A", "D"]}, **{"delay_spread": 1e-6, "max_doppler": 0.0})
    values = block(sampler)
    share = (values["profile"] == 1).double().mean()
    assert sampler.columns[-1].categories == ("A", "D")
    assert float(share) == pytest.approx(0.5, abs=5 * 0.5 / 16)  # five standard deviations of 256 coin tosses
    # the line of sight makes TDL-D far steadier over frequency than TDL-A
    power = values["h"].abs().square()
    roughness = power.std(dim=-1) / power.mean(dim=-1)
    assert float(roughness[values["profile"] == 1].mean()) < 0.7 * float(roughness[values["profile"] == 0].mean())


def test_cells_may_override_conditions_and_profile() -> None:
    cells = {"slow": {"max_doppler": 0}, "other": {"profile": "B", "max_doppler": 10}}
    sampler = sampler_of(**{"splits.test.cells": cells})
    assert sampler.recipe.cell_names("test") == ("slow", "other")
    assert torch.all(block(sampler, "test", "slow")["max_doppler"] == 0)
    values = block(sampler, "test", "other")
    assert sampler.columns[-1].categories == ("A", "B")
    assert torch.all(values["profile"] == 1)


def test_doppler_follows_speed_and_carrier() -> None:
    sampler = sampler_of(max_doppler=None, **{"conditions.speed": 30.0, "channel.carrier_frequency": 2e9})
    values = block(sampler)
    assert torch.allclose(values["max_doppler"], torch.tensor(30 * 2e9 / 299_792_458.0))
    assert torch.all(values["speed"] == 30)
    still = block(sampler_of(max_doppler=None))
    assert torch.all(still["max_doppler"] == 0)


@pytest.mark.parametrize(("source", "channel"), [("rayleigh", {}), ("rician", {"k_factor_db": 3.0})])
def test_flat_sources(source: str, channel: dict[str, Any]) -> None:
    recipe = load_recipe("ofdm-siso").plain()
    recipe |= {"source": source, "profile": None, "channel": {"num_rx_ant": 2, **channel}, "conditions": {"snr_db": 5.0}}
    from wichan.simulate import recipe_from_dict

    sampler = KINDS["ofdm"](recipe_from_dict(recipe))
    values = block(sampler)
    assert tuple(values["h"].shape[1:]) == (2, 1, 14, 120)
    assert "profile" not in values
    # flat: one number per antenna pair
    assert torch.allclose(values["h"], values["h"][..., :1, :1].expand_as(values["h"]))
    # 512 values of variance 1: five standard errors of the mean power
    assert float(values["h"][..., 0, 0].abs().square().mean()) == pytest.approx(1.0, abs=5 / 512**0.5)


def test_ensemble_normalisation_gives_unit_power() -> None:
    sampler = sampler_of("mimo-ofdm")
    factor = sampler.normalization["amplitude"]["C"]  # type: ignore[call-overload, index]
    values = block(sampler)
    # 256 channels with little diversity: per-sample power has a standard deviation near 0.6, so 0.19 is five standard errors
    assert float(values["h"].abs().square().mean()) == pytest.approx(1.0, abs=0.19)
    raw = block(sampler_of("mimo-ofdm", normalize=None))
    assert torch.allclose(raw["h"] * factor, values["h"], rtol=1e-4, atol=1e-6)
    # SNR counts the received power, so the noise follows the gain
    assert torch.allclose(raw["no"] * factor**2, values["no"], rtol=1e-4)


def test_frozen_fading_repeats_one_channel_per_condition() -> None:
    sampler = sampler_of("ofdm-siso-legacy")
    first, second = block(sampler), block(sampler, split="val", index=5)
    place = {}
    for values in (first, second):
        for h, spread, doppler in zip(
            values["h"], values["delay_spread"].tolist(), values["max_doppler"].tolist(), strict=True
        ):
            assert torch.equal(place.setdefault((spread, doppler), h), h)
    assert len(place) > 150  # 512 draws out of 240 miss about 28
    fresh = block(sampler_of("ofdm-siso-legacy", independent_fading=True))
    pairs = torch.stack([fresh["delay_spread"], fresh["max_doppler"]], dim=1).unique(dim=0)
    assert len(torch.view_as_real(fresh["h"]).flatten(1).unique(dim=0)) == 256 > len(pairs)


def test_frozen_fading_refuses_conditions_that_never_repeat() -> None:
    from wichan.errors import InvalidValueError

    with pytest.raises(InvalidValueError, match=r"at most 10000 different conditions; use \{choice: \[...\]\} for max_doppler"):
        sampler_of("ofdm-siso-legacy", max_doppler={"uniform": [0, 1000]})


def test_link_gives_estimators_what_the_data_was_made_with() -> None:
    sampler = sampler_of()
    link = build_link(sampler.recipe)  # type: ignore[arg-type]
    values = block(sampler)
    arguments = link.source.arguments({name: value[:3] for name, value in values.items()})
    assert set(arguments) == {"delay_spread", "max_doppler"}
    covariance = link.models["A"].covariance(link.grid, **arguments)
    assert covariance.shape == (1, 1, 4, 12)
    assert link.laws("train", "main")["snr_db"].high == 25


def test_interference_grows_with_the_conditions_and_matters_near_the_noise() -> None:
    slow = sampler_of(max_doppler=10.0, delay_spread=30e-9).interference()
    fast = sampler_of(max_doppler=1000.0, delay_spread=3e-6).interference()
    assert [item.split for item in slow] == ["train", "val", "test"]
    assert fast[0].doppler_db - slow[0].doppler_db == pytest.approx(40, abs=0.3)  # power goes with the square of Doppler
    assert slow[0].late_paths_db == -torch.inf < fast[0].late_paths_db
    assert (slow[0].matters, fast[0].matters) == (False, True)
    assert slow[0].noise_db == -25
    assert "inter-carrier -61" in slow[0].line()
    assert "within 10 dB of the noise" in fast[0].warning()


def test_interference_of_noiseless_data_never_matters() -> None:
    grid = load_recipe("ofdm-siso").grid.build()  # type: ignore[attr-defined]
    paths = torch.ones(1), torch.zeros(1)
    where = {"split": "train", "cell": "main", "profile": "", "delay_spread": None}
    item = interference_at(grid, paths, max_doppler=5000.0, noise_db=None, **where)
    assert not item.matters
    assert item.line().startswith("train: Doppler 5000 Hz: ")
