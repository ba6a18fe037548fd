"""Recipes of kind ``irs`` and the source ``irs``: what is in the samples, what changes them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wichan import store
from wichan.channels import IRSCascade
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

SMALL = {"num_ms_ant": 2, "num_irs": 16, "num_bs_ant": 4, "num_patterns": 8}
FREE = {"angles": "uniform", "channel.grid_size": None}
BAND = {"grid.num_subcarriers": 4, "grid.subcarrier_spacing": 2e5, "channel.max_delay": 1e-6}


def sampler_of(**overrides: Any) -> Any:
    recipe = load_recipe("irs-mimo", {**SMALL, **overrides})
    sampler: BlockSampler = KINDS[recipe.kind](recipe)
    return sampler


def block(sampler: Any, split: str = "train", index: int = 0) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = sampler.sample(sampler.key(0, split, "main", index))
    return values


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(value, b[name]) for name, value in a.items())


# -- What is in a block. --


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "planar": {"num_irs": [4, 4], "num_bs_ant": [2, 2], "num_ms_ant": [1, 2], "channel.grid_size": 4, "grid": 4},
    "direct": {"direct": True, "patterns": "hadamard", "num_patterns": 20},
    "band": {**BAND, "direct": True, **FREE},
    "delay as a condition": {"conditions.max_delay": {"uniform": [0.0, 1e-6]}, "grid.num_subcarriers": 4, **FREE},
    "gains": {"conditions.ms_irs_gain_db": {"uniform": [-90.0, -60.0]}, "channel.hop_gain_db": [0, -60]},
    "moving": {"channel.max_doppler": 100.0, "training.pattern_duration": 1e-3, "direct": True, **FREE},
    "dark elements": {"channel.failure_rate": 0.5},
    "near": {**FREE, "channel.ms_distance": [2.0, 5.0], "channel.carrier_frequency": 28e9},
    "clusters": {**FREE, "angles": "cluster", "channel.angle_spread_deg": 2.0},
    "scaled": {"normalize": "ensemble", "snr_convention": "dense"},
    "frozen": {"independent_fading": False},
}


@pytest.mark.parametrize("name", CASES)
def test_columns_describe_the_block(name: str) -> None:
    sampler = sampler_of(**CASES[name])
    values = block(sampler)
    assert list(values) == [column.name for column in sampler.columns]
    for column in sampler.columns:
        assert tuple(values[column.name].shape) == (sampler.block_size, *column.shape)
        assert column.dtype == str(values[column.name].dtype).removeprefix("torch.")
        assert bool(
            torch.isfinite(torch.view_as_real(values[column.name]) if column.dtype[0] == "c" else values[column.name]).all()
        )
    obs = sampler.observation
    assert tuple(obs.channel_shape) == tuple(values["h"].shape[1:])
    assert values["y"].shape[1] == obs.num_measurements
    assert ("ms_irs_delay" in values) == (obs.num_subcarriers > 1)
    assert ("direct_arrival" in values) == obs.has_direct
    assert sampler.interference() == ()


@pytest.mark.parametrize("name", ["plain", "band", "gains", "moving", "scaled"])
def test_measurements_are_noisy_pilots_at_the_snr_of_each_sample(name: str) -> None:
    sampler = sampler_of(**CASES[name])
    values = block(sampler)
    clean = sampler.observation.project(values["h"])
    power = clean.abs().square().mean(-1)
    if sampler.recipe.snr_convention == "per-realisation":
        # single precision
        assert torch.allclose(10 * torch.log10(power / values["no"]), values["snr_db"], atol=1e-3)
    else:
        assert torch.allclose(values["no"], 10 ** (-values["snr_db"] / 10), rtol=1e-5)
    share = (values["y"] - clean).abs().square() / values["no"][:, None]
    # exponential variables of mean 1: five standard errors
    assert float(share.mean()) == pytest.approx(1.0, abs=5 / share.numel() ** 0.5)


def test_mean_power_and_its_normalisation() -> None:
    """Sums of two cosines on the grid are uniform on it, so that fading of a handful of paths is the only spread."""
    power = float(torch.cat([block(sampler_of(**FREE), index=i)["h"] for i in range(4)]).abs().square().mean())
    # 1024 samples whose power has a standard deviation below twice its mean
    assert power == pytest.approx(16, rel=5 * 2 / 1024**0.5)
    plain, scaled = block(sampler_of()), block(sampler_of(normalize="ensemble"))
    torch.testing.assert_close(scaled["h"], plain["h"] / 4)


@pytest.mark.parametrize("name", ["plain", "planar", "direct", "band"])
def test_columns_of_paths_give_the_support_of_the_draw(name: str) -> None:
    settings = {**CASES[name], "angles": "block", "channel.grid_size": 18} if name == "band" else CASES[name]
    sampler = sampler_of(**settings)
    values = block(sampler)
    key = sampler.key(0, "train", "main", 0)
    model = sampler.link.models[""]
    draw = model.sample(sampler.block_size, generator=key.generator("rays", ""))
    dictionary = sampler.recipe.build_dictionary(sampler.observation)
    assert torch.equal(dictionary.support(values), dictionary.support(draw))
    for mine, theirs in zip(dictionary.mode_support(values), dictionary.mode_support(draw), strict=True):
        assert torch.equal(mine, theirs)
    # least squares on that support explains the measurements without noise (delays lie between those of the grid)
    if name != "band":
        index = torch.nonzero(dictionary.support(values)[0].flatten()).flatten()
        atoms = dictionary.dense()[:, index]
        clean = sampler.observation.project(values["h"])[0].to(atoms.dtype).unsqueeze(-1)
        # more atoms than a small array can tell apart: the driver that knows what to do with a rank
        residual = clean - atoms @ torch.linalg.lstsq(atoms, clean, rcond=1e-8, driver="gelsd").solution
        assert float(residual.norm() / clean.norm()) < 1e-5  # single precision


def test_one_training_for_all_samples_fixed_by_its_seed() -> None:
    first, second = sampler_of(), sampler_of(**{"training.seed": 1})
    assert torch.equal(first.observation.patterns, sampler_of().observation.patterns)
    assert not torch.equal(first.observation.patterns, second.observation.patterns)
    assert not torch.equal(first.observation.pilots, second.observation.pilots)
    a, b = block(first), block(second)
    assert torch.equal(a["ms_irs_arrival"], b["ms_irs_arrival"]) and not torch.equal(a["h"], b["h"])


def test_settings_of_estimators_do_not_change_a_sample() -> None:
    changed = sampler_of(**{"grid": 24, "max_iter": 3, "sbl.coupling": 0.5, "sbl.couple": ["irs"], "dictionary.direct": True})
    assert equal(block(sampler_of()), block(changed))
    assert changed.recipe.build_dictionary(changed.observation).num_atoms == (25, 24, 24)


def test_aliases_and_nested_grids() -> None:
    recipe = load_recipe(
        "irs-mimo",
        parse_overrides(["num_irs=[16,16]", "num_pilots=6", "pilots=dft", "snr_db=10", "grid={irs: [6, 6], ms: 6, bs: 16}"]),
    )
    link = build_link(recipe)
    obs = link.observation
    assert isinstance(link.models[""], IRSCascade) and link.models[""].irs_shape == (16, 16)
    assert obs.pilots.shape == (6, 6)
    assert recipe.build_dictionary(obs).grids == ((6, 6), (6,), (16,))
    assert link.laws("test", "main")["snr_db"].low == 10
    again = recipe_from_dict(json.loads(json.dumps(recipe.plain())))
    assert torch.equal(build_link(again).observation.patterns, obs.patterns)


def test_other_kinds_see_a_surface_with_all_phases_zero() -> None:
    settings = {"num_rx_ant": None, "num_clusters": None, "rx_spread_deg": None, "num_irs": 8, "num_bs_ant": 4, "num_ms_ant": 1}
    recipe = load_recipe("quantized-simo", {"source": "irs", "channel": settings})
    sampler: Any = KINDS[recipe.kind](recipe)
    values = block(sampler)
    assert values["h"].shape == (256, 4, 1, 1, 1) and values["ms_irs_arrival"].shape == (256, 3, 1)
    model = sampler.link.models[""]
    draw = model.sample(256, generator=sampler.key(0, "train", "main", 0).generator("rays", ""))
    direct = model.response(draw, torch.zeros(1), torch.zeros(1), torch.ones(1, 8, dtype=torch.complex64))
    torch.testing.assert_close(values["h"], direct / 8**0.5)  # scaled to a mean power of 1
    assert sampler.link.source.max_doppler({}) == 0 and sampler.link.source.max_doppler({"max_doppler": 3.0}) == 3


def test_frozen_channels_repeat() -> None:
    values = block(sampler_of(independent_fading=False))
    assert torch.equal(values["h"], values["h"][:1].expand_as(values["h"]))
    assert torch.equal(values["ms_irs_arrival"], values["ms_irs_arrival"][:1].expand_as(values["ms_irs_arrival"]))


# -- Runs, streams, data sets. --


def hashes(folder: Path) -> dict[str, str]:
    return {shard.name: shard.sha256 for shard in store.load_manifest(folder).shards}


def test_run_resume_verify_and_open(tmp_path: Path) -> None:
    recipe = load_recipe("irs-mimo", {**SMALL, "split": "train"})
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
    batch = store.open(tmp_path / "whole").batch(range(700))
    live = next(stream(recipe, batch_size=700, split="train"))
    assert all(torch.equal(batch[name], live[name]) for name in live)
    dictionary = recipe.build_dictionary(build_link(recipe).observation)
    assert dictionary.mode_support(batch)[1].sum(-1).unique().tolist() == [1]
    with pytest.raises(StoreError, match="training.seed is 0 there and 1 here"):
        run(load_recipe(recipe, {"training.seed": 1}), tmp_path / "whole", n=700, shard_size=256)


def test_more_samples_begin_with_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("irs-mimo", {**SMALL, "split": "test"})
    run(recipe, tmp_path / "few", n=100)
    run(recipe, tmp_path / "many", n=400)
    few, many = (store.open(tmp_path / name).batch(range(100)) for name in ("few", "many"))
    assert all(torch.equal(few[name], many[name]) for name in few)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    recipe = load_recipe("irs-mimo", {**SMALL, "split": "train"})
    for workers in (1, 2):
        run(recipe, tmp_path / str(workers), n=700, shard_size=256, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_stream_takes_settings_and_is_not_bound_to_blocks() -> None:
    settings = {**SMALL, "num_pilots": 2, "snr_db": 10.0}
    whole = next(stream("irs-mimo", batch_size=300, **settings))
    parts = list(stream("irs-mimo", batch_size=100, num_batches=3, **settings))
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    assert whole.y.shape == (300, 8 * 2 * 4)


def test_dry_run_counts(tmp_path: Path) -> None:
    plan = plan_report("irs-mimo", tmp_path / "out", n=1000)
    assert isinstance(plan, DryRun)
    per_sample = 16 * 6 * 6 * 8 + 288 * 8 + 2 * 4 + 4 * 3 * 4
    assert (plan.samples, plan.bytes, plan.warnings) == (3000, 3000 * per_sample, ())


# -- Wrong settings. --

BAD = [
    ("num_patterns=0", "training.num_patterns=0 must be greater than or equal to 1"),
    ("num_pilots=0", "training.num_pilots=0 must be greater than or equal to 1"),
    ("num_pilots=1.5", "training.num_pilots=1.5 must be a valid integer"),
    ("patterns=walsh", "training.patterns='walsh' must be 'random', 'dft' or 'hadamard'"),
    ("pilots=bpsk", "training.pilots='bpsk' must be 'qpsk' or 'dft'"),
    ("training={patterns: hadamard, num_patterns: 258}", "training.num_patterns=258 is not the order of a Hadamard matrix"),
    ("training.seed=-1", "training.seed=-1 must be greater than or equal to 0"),
    ("training.pattern=dft", r"training.pattern is unknown .*did you mean 'patterns'"),
    ("training={num_patterns: 65536}", "training.num_patterns=65536 with 4096 elements asks for 268435456 phases; at most"),
    ("grid=15", "dictionary.grid=15 must be at least 16, the number of BS antennas"),
    ("grid={irs: 18, ms: 5, bs: 16}", r"dictionary.grid\['ms'\]=5 must be at least 6"),
    ("grid={irs: 18, ms: 6}", r"dictionary.grid\['bs'\] is missing"),
    ("grid={ris: 18}", "dictionary.grid='ris' is unknown"),
    ("grid=0", "dictionary.grid=0 must hold integers from 1 to 100000"),
    ("grid=18.5", "dictionary.grid=18.5 must hold integers"),
    ("dictionary.delays=3", "dictionary.delays=3 does not apply: there is one subcarrier"),
    ("grid.num_ofdm_symbols=14", "grid.num_ofdm_symbols=14 must be 1"),
    ("num_irs=0", "channel.num_irs=0 must be an integer from 1 to 65536, or a pair"),
    ("num_irs=[4, 4, 4]", r"channel.num_irs=\[4, 4, 4\] must be an integer from 1 to 65536, or a pair"),
    ("num_irs=many", "channel.num_irs='many' must be an integer"),
    ("num_irs=true", "channel.num_irs=True must be an integer"),
    ("channel.num_path=2", "channel.num_path is unknown .*did you mean 'num_paths'"),
    ("num_paths=19", "channel.num_paths=19 must be at most 18"),
    ("angles=uniform", "channel.grid_size=18 does not apply: angles='uniform' has no grid; --set channel.grid_size=null"),
    ("angles=round", "channel.angles='round' must be 'uniform', 'cluster', 'grid' or 'block'"),
    ("channel.grid_size=null", "channel.grid_size=None is missing"),
    ("channel.hop_gain_db=3", "channel.hop_gain_db=3 must be a valid list"),
    ("channel.hop_gain_db=[1, true]", "channel.hop_gain_db=.* must hold numbers"),
    ("channel.failure_rate=2", "channel.failure_rate=2 must be less than or equal to 1"),
    ("channel.ms_distance=3", "channel.angles='block' has directions on a grid"),
    ("sbl.max_iter=0", "sbl.max_iter=0 must be greater than or equal to 1"),
    ("sbl.couple=[los]", "sbl.couple.0='los' must be 'irs', 'ms', 'bs' or 'delay'"),
    ("sbl.coupling=.nan", "sbl.coupling=nan must be a finite number"),
    ("snr_convention=pilot", "snr_convention='pilot' must be 'per-realisation' or 'dense'"),
    ("source=tdl", "source='tdl' must be 'irs'"),
    ("profile=A", "profile='A' does not apply: source 'irs' has no profiles"),
    ("conditions.speed=3", r"conditions.speed is unknown \(known: snr_db, ms_irs_gain_db"),
    ("channel.num_bs_ant=4096", "a sample has .* at most"),
]


@pytest.mark.parametrize(("setting", "message"), BAD, ids=[setting for setting, _ in BAD])
def test_a_bad_setting_is_one_clear_line(setting: str, message: str) -> None:
    extra: dict[str, Any] = {"num_irs": 4096} if "65536}" in setting else {}
    if "4096" in setting:
        extra = {"grid": {"irs": 18, "ms": 6, "bs": 4096}, "num_patterns": 600, "num_irs": 4}
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message) as caught:
        load_recipe("irs-mimo", {**extra, **parse_overrides([setting])})
    assert "\n" not in str(caught.value)


def test_the_mean_snr_needs_a_mean_power() -> None:
    with pytest.raises(
        InvalidValueError, match=r"snr_convention='dense' does not apply: conditions.ms_irs_gain_db gives every"
    ):
        sampler_of(snr_convention="dense", **{"conditions.ms_irs_gain_db": {"uniform": [-20.0, 0.0]}})
