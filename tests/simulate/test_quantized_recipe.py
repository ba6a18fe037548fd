"""Recipes of kind ``quantized`` and the source ``spatial``: what is in the samples, what changes them, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from wichan import store
from wichan.channels import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError
from wichan.simulate import (
    KINDS,
    BlockSampler,
    DryRun,
    Progress,
    RunReport,
    build_link,
    load_recipe,
    parse_overrides,
    plan_report,
    recipe_from_dict,
    run,
    stream,
)

SMALL = {"channel.num_rx_ant": 8}
PLAIN = {"channel.num_clusters": None, "channel.rx_spread_deg": None}
OFDM = {
    **PLAIN,
    "source": "tdl",
    "profile": "A",
    "conditions.delay_spread": 1e-7,
    "channel.num_rx_ant": 2,
    "grid": {"num_ofdm_symbols": 2, "num_subcarriers": 12, "subcarrier_spacing": 15e3},
    "pilots": {"num_pilots": None, "sequence": None, "pattern": "comb", "symbols": [0], "subcarrier_step": 2},
}


def sampler_of(**overrides: Any) -> Any:
    recipe = load_recipe("quantized-simo", {**SMALL, **overrides})
    sampler: BlockSampler = KINDS[recipe.kind](recipe)
    return sampler


def block(sampler: Any, split: str = "train", index: int = 0) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = sampler.sample(sampler.key(0, split, "main", index))
    return values


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(value, b[name]) for name, value in a.items())


# -- What is in a block. --


CASES: dict[str, dict[str, Any]] = {
    "simo": {},
    "three clusters, four pilots": {"channel.num_clusters": 3, "pilots.num_pilots": 4},
    "mimo": {"channel.num_tx_ant": 2, "pilots.num_pilots": 2},
    "planar": {"channel.num_rows": 2, "quantizer.kind": "lloyd-max", "quantizer.num_bits": 3},
    "mixed converters": {"quantizer.num_bits": [1, 1, 2, 2, 3, 3, "inf", 12]},
    "rayleigh": {**PLAIN, "source": "rayleigh"},
    "tdl": {**PLAIN, "source": "tdl", "profile": "B", "conditions.delay_spread": 1e-7, "conditions.max_doppler": 100},
    "cdl": {
        "source": "cdl",
        "profile": "C",
        "channel": {"num_rx_ant": None, "carrier_frequency": 3.5e9, "rx_array": {"columns": 8, "pattern": "38.901"}},
        "channel.num_rx_ant": None,
        **PLAIN,
        "conditions": {"delay_spread": 1e-7, "speed": 3},
    },
    "ofdm": OFDM,
}


@pytest.mark.parametrize("name", CASES)
def test_columns_describe_the_block(name: str) -> None:
    sampler = sampler_of(**CASES[name])
    values = block(sampler)
    assert list(values) == [column.name for column in sampler.columns]
    for column in sampler.columns:
        assert tuple(values[column.name].shape) == (sampler.block_size, *column.shape)
        assert column.dtype in (str(values[column.name].dtype).removeprefix("torch."), "category")
    assert sampler.snr_convention == "quantised"
    obs = sampler.observation
    assert tuple(obs.channel_shape) == tuple(values["h"].shape[1:])
    assert values["y"].shape[1] == obs.num_measurements
    assert torch.allclose(values["no"], 10 ** (-values["snr_db"] / 10), rtol=1e-5)


@pytest.mark.parametrize("name", ["simo", "rayleigh", "cdl", "ofdm"])
def test_channels_have_unit_power_whatever_the_source(name: str) -> None:
    h = torch.cat([block(sampler_of(**CASES[name]), index=index)["h"] for index in range(2)])
    # 512 channels: a power of standard deviation at most 1 each (one direction, one antenna in the worst case)
    assert float(h.abs().square().mean()) == pytest.approx(1.0, abs=5 / 512**0.5)


def test_one_bit_samples_are_signs_of_what_infinite_resolution_sees() -> None:
    signs, ideal = block(sampler_of()), block(sampler_of(**{"quantizer.num_bits": math.inf}))
    for name in ("h", "no", "snr_db", "angles", "powers"):
        assert torch.equal(signs[name], ideal[name])
    half = 2**-0.5
    assert torch.allclose(signs["y"].real, torch.where(ideal["y"].real >= 0, half, -half))
    assert torch.allclose(signs["y"].imag, torch.where(ideal["y"].imag >= 0, half, -half))
    noise = ideal["y"] - ideal["h"].flatten(1)
    share = noise.abs().square() / ideal["no"][:, None]
    # 2,048 exponential variables of mean 1: five standard errors
    assert float(share.mean()) == pytest.approx(1.0, abs=5 / 2048**0.5)


def test_angles_and_powers_are_those_of_the_channel() -> None:
    """The log-likelihood of the channels under the covariance that their columns name is that of whitened Gaussians: the
    quadratic form has mean N; under angles of other samples it is far larger."""
    sampler = sampler_of(**{"channel.num_clusters": 2, "channel.rx_spread_deg": 5.0})
    values = block(sampler)
    model = sampler.link.models[""]
    covariance = model.conditional_covariance(values["angles"], values["powers"]) + 1e-4 * torch.eye(8)
    h = values["h"].reshape(256, 8, 1).to(torch.complex128)

    def quadratic(matrix: torch.Tensor) -> float:
        return float((h.mH @ torch.linalg.solve(matrix, h)).real.mean())

    # the load takes what lies in eigenvalues below 1e-4; 256 forms of standard deviation sqrt(8)
    assert 4 < quadratic(covariance) < 8 + 5 * 8**0.5 / 16
    assert quadratic(covariance.roll(1, 0)) > 80
    link = build_link(sampler.recipe)
    arguments = link.source.arguments(values)
    assert sorted(arguments) == ["angles", "powers"]
    assert link.source.arguments({"angles": values["angles"]}) == {}
    exact = model.covariance(link.grid, **arguments).matrix()
    assert torch.allclose(exact, covariance - 1e-4 * torch.eye(8), atol=1e-9)


def test_pilots_of_several_antennas_have_power_one_together() -> None:
    for tx, pilots in ((1, 1), (2, 4), (4, 2)):
        obs = sampler_of(**{"channel.num_tx_ant": tx, "pilots.num_pilots": pilots}).observation
        assert obs.is_identity == (tx == pilots == 1)
        assert obs.input_power == pytest.approx(1.0)
        assert float(obs.pilots.abs().square().sum()) == pytest.approx(pilots)
    same = sampler_of(**{"channel.num_tx_ant": 2, "pilots.num_pilots": 2, "pilots.sequence": "ones"}).observation.pilots
    assert torch.allclose(same @ same.mH, torch.eye(2, dtype=torch.complex128))


def test_mixed_converters_repeat_for_every_pilot() -> None:
    bits = [1, 2, 3, 4, 5, 6, 7, "inf"]
    obs = sampler_of(**{"quantizer.num_bits": bits, "pilots.num_pilots": 2}).observation
    assert tuple(obs.num_bits) == tuple([*range(1, 8), math.inf] * 2)


def test_observation_is_that_of_the_public_class() -> None:
    sampler = sampler_of(**{"quantizer.num_bits": 2, "quantizer.dither_power": 0.5})
    values = block(sampler)
    key = sampler.key(0, "train", "main", 0)
    again = build_link(sampler.recipe).observation.observe(values["h"], values["no"], generator=key.generator("noise"))
    assert torch.equal(again, values["y"])
    assert sampler.observation.dither_power == 0.5


# -- What changes samples, and what does not. --


def test_the_prior_section_changes_no_sample() -> None:
    other = {"prior.num_components": "auto", "prior.num_factors": 3, "prior.structure": "circulant", "prior.num_train": 7}
    assert equal(block(sampler_of()), block(sampler_of(**other, **{"prior.tol": 0.1, "prior.seed": 4, "prior.max_iter": 2})))


def test_the_converters_change_nothing_but_what_they_give() -> None:
    one, two = block(sampler_of()), block(sampler_of(**{"quantizer.num_bits": 2, "pilots.num_pilots": 4}))
    assert all(torch.equal(value, two[name]) for name, value in one.items() if name != "y")
    assert two["y"].shape == (256, 32)


def test_a_mixture_of_profiles_fills_every_column() -> None:
    sampler = sampler_of(**{**CASES["tdl"], "profile": {"choice": ["A", "B"]}})
    values = block(sampler)
    assert len(values["profile"].unique()) == 2
    assert bool(torch.isfinite(torch.view_as_real(values["h"])).all())


def test_frozen_channels_keep_their_angles() -> None:
    values = block(sampler_of(independent_fading=False))
    assert torch.equal(values["angles"], values["angles"][:1].expand(256, 1))
    assert torch.equal(values["h"], values["h"][:1].expand_as(values["h"]))


@pytest.mark.parametrize("bits", [math.inf, "inf", "INF", "infinity"])
def test_infinite_resolution_in_all_spellings_survives_the_manifest(bits: Any) -> None:
    recipe = load_recipe("quantized-simo", {"num_bits": bits})
    plain = recipe.plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["quantizer"]["num_bits"] == "inf"
    assert recipe_from_dict(plain) == recipe
    assert build_link(recipe).observation.is_linear


def test_yaml_spells_infinity_too() -> None:
    for text in ("num_bits=.inf", "num_bits=inf", "quantizer={num_bits: .inf}", "num_bits=[.inf, inf, 1, 1, 1, 1, 1, 1]"):
        recipe: Any = load_recipe("quantized-simo", {**SMALL, **parse_overrides([text])})
        assert recipe.quantizer.num_bits in ("inf", ["inf", "inf", 1, 1, 1, 1, 1, 1])


def test_spatial_is_a_source_of_kind_ofdm() -> None:
    recipe = load_recipe("ofdm-siso").plain()
    recipe |= {"source": "spatial", "profile": None, "channel": {"num_rx_ant": 4, "num_clusters": 2}}
    recipe |= {"conditions": {"snr_db": 5.0}, "pilots": {"pattern": "comb", "symbols": [2], "subcarrier_step": 3}}
    sampler: Any = KINDS["ofdm"](recipe_from_dict(recipe))
    values = block(sampler)
    assert values["h"].shape == (256, 4, 1, 14, 120) and values["angles"].shape == (256, 2)
    assert torch.equal(values["h"], values["h"][..., :1, :1].expand_as(values["h"]))
    assert [item.late_paths_db for item in sampler.interference()] == [-math.inf] * 3
    model = SpatialGaussian(4, 2)
    direct = model.frequency_response(
        sampler.link.grid, 256, generator=sampler.key(0, "train", "main", 0).generator("rays", "")
    )
    assert torch.equal(direct, values["h"])


@pytest.mark.slow
@pytest.mark.sionna
def test_sionna_channels_behind_coarse_converters() -> None:
    pytest.importorskip("sionna.phy")
    channel = {"num_rx_ant": None, **{name.partition(".")[2]: None for name in PLAIN}, "carrier_frequency": 3.5e9}
    settings = {"source": "sionna:UMi", "profile": "drop", "channel": channel, "conditions": {"speed": 1.0}}
    values = block(sampler_of(**{**settings, "channel.num_rx_ant": None}))
    assert bool(torch.isfinite(torch.view_as_real(values["h"])).all())
    assert {"angles", "powers"}.isdisjoint(values)
    assert "los" in values


# -- Interference. --


def test_only_ofdm_pilots_leave_something_out() -> None:
    assert sampler_of().interference() == ()
    assert sampler_of(**CASES["tdl"]).interference() == ()
    fast = sampler_of(**{**OFDM, "conditions.max_doppler": 1000.0})
    worst = fast.interference()
    assert [item.split for item in worst] == ["train", "val", "test"]
    assert worst[0].doppler_db > -40 and worst[0].noise_db == -20


# -- Runs, streams, data sets. --


def hashes(folder: Path) -> dict[str, str]:
    return {shard.name: shard.sha256 for shard in store.load_manifest(folder).shards}


def test_run_resume_verify_and_open(tmp_path: Path) -> None:
    recipe = load_recipe("quantized-simo", {**SMALL, "split": "train", "channel.num_clusters": 2})
    run(recipe, tmp_path / "whole", n=700, shard_size=256)

    def interrupt(progress: Progress) -> None:
        if progress.samples_done >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "parts", n=700, shard_size=256, progress=interrupt)
    report = run(recipe, tmp_path / "parts", n=700, shard_size=256)
    assert isinstance(report, RunReport)
    assert report.samples_found >= 256 and report.complete and not report.warnings
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")
    assert store.verify(tmp_path / "whole").ok
    data = store.open(tmp_path / "whole")
    batch = data.batch(range(700))
    live = next(stream(recipe, batch_size=700, split="train"))
    assert all(torch.equal(batch[name], live[name]) for name in live)
    assert batch["angles"].shape == (700, 2)
    with pytest.raises(StoreError, match="quantizer.num_bits is 1 there and 2 here"):
        run(load_recipe(recipe, {"num_bits": 2}), tmp_path / "whole", n=700, shard_size=256)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    recipe = load_recipe("quantized-simo", {**SMALL, "split": "train"})
    for workers in (1, 2):
        run(recipe, tmp_path / str(workers), n=700, shard_size=256, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_stream_takes_settings_and_is_not_bound_to_blocks() -> None:
    settings = {**SMALL, "num_bits": 2, "snr_db": 10.0}
    whole = next(stream("quantized-simo", batch_size=300, **settings))
    parts = list(stream("quantized-simo", batch_size=100, num_batches=3, **settings))
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    assert sorted(whole.conditions) == ["snr_db"]
    assert torch.allclose(whole.no, torch.tensor(0.1))


def test_dry_run_counts(tmp_path: Path) -> None:
    plan = plan_report("quantized-simo", tmp_path / "out", n=1000)
    assert isinstance(plan, DryRun)
    assert (plan.samples, plan.bytes, plan.warnings) == (3000, 3000 * (64 * 8 + 64 * 8 + 4 * 4), ())


# -- Wrong settings. --

BAD = [
    ("num_bits=0", "quantizer.num_bits=0 must be at least 1"),
    ("num_bits=13", "quantizer.num_bits=13 must be at most 12"),
    ("num_bits=1.5", "quantizer.num_bits=1.5 must be an integer"),
    ("num_bits=two", "quantizer.num_bits='two' must be a number of bits or inf"),
    ("num_bits=.nan", "quantizer.num_bits=nan must be an integer"),
    ("num_bits=null", "quantizer.num_bits=None must be an integer"),
    ("num_bits=[1, 2]", "quantizer.num_bits has 2 entries; the channel has 64 receive antennas"),
    ("num_bits=[1, x]", "quantizer.num_bits='x' must be a number of bits or inf"),
    ("quantizer.kind=max", "quantizer.kind='max' must be 'uniform' or 'lloyd-max'"),
    ("quantizer.dither_power=-1", "quantizer.dither_power=-1 must be greater than or equal to 0"),
    ("quantizer.bits=3", r"quantizer.bits is unknown \(known: num_bits, kind, dither_power; did you mean 'num_bits'"),
    ("quantizer=3", "quantizer=3 must be a mapping .* with the keys num_bits, kind, dither_power"),
    ("num_pilots=0", "pilots.num_pilots=0 must be greater than or equal to 1"),
    (
        "channel={num_rx_ant: 1024, num_tx_ant: 128}",
        "pilots.num_pilots=1 with 1024 x 128 antennas asks for a matrix .* at most",
    ),
    ("pilots.num_pilot=3", r"pilots.num_pilot is unknown \(known: num_pilots, sequence"),
    ("pilots.sequence=sine", "pilots.sequence='sine' must be 'angle_amp', 'angle' or 'ones'"),
    (
        "grid={num_ofdm_symbols: 1, num_subcarriers: 12, subcarrier_spacing: 15e3}",
        "pilots.num_pilots does not apply: it is for",
    ),
    ("channel.num_clusters=0", "channel.num_clusters=0 must be greater than or equal to 1"),
    ("channel.num_clusters=65", "channel.num_clusters=65 must be less than or equal to 64"),
    ("channel.num_cluster=2", "channel.num_cluster is unknown .*did you mean 'num_clusters'"),
    ("channel.rx_spread_deg=0", "channel.rx_spread_deg=0 must be greater than or equal to 0.01"),
    ("channel.num_rows=3", "num_rows=3 must be a divisor of num_rx_ant=64"),
    ("channel.max_angle_deg=200", "channel.max_angle_deg=200 must be less than or equal to 180"),
    ("prior.num_components=0", "prior.num_components=0 must be an integer from 1 to 65536, or auto"),
    ("prior.num_components=many", "prior.num_components='many' must be an integer from 1 to 65536, or auto"),
    ("prior.structure=round", "prior.structure='round' must be 'full'"),
    ("prior.tol=-1", "prior.tol=-1 must be greater than or equal to 0"),
    ("prior.epochs=3", "prior.epochs is unknown"),
    ("snr_convention=pilot", "snr_convention='pilot' must be 'quantised'"),
    ("normalize=none", "normalize='none' must be 'ensemble'"),
    ("conditions.speed=3", r"conditions.speed is unknown \(known: snr_db\)"),
    ("profile=A", "profile='A' does not apply: source 'spatial' has no profiles"),
    ("source=tdl", "profile=None must be a name|channel.num_clusters is unknown"),
]


@pytest.mark.parametrize(("setting", "message"), BAD, ids=[setting for setting, _ in BAD])
def test_a_bad_setting_is_one_clear_line(setting: str, message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message) as caught:
        load_recipe("quantized-simo", parse_overrides([setting]))
    assert "\n" not in str(caught.value)
