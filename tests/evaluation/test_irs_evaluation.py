"""Evaluations of links through an IRS: estimators by name, measures, sweeps over settings, data sets, and wrong requests."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import KroneckerOMP, SparseEstimate
from wichan.evaluation import (
    BASELINES,
    IRSOptions,
    Setting,
    beam_gains,
    evaluate,
    median_interval,
    nmse_per_pattern,
    qpsk_symbol_error_rate,
    support_recovery_rate,
)
from wichan.evaluation import irs_baselines as baselines_room
from wichan.evaluation.baselines import kind_of
from wichan.evaluation.irs_baselines import PatternLS, TrueSupport, off_grid
from wichan.evaluation.kinds import channels_wanted
from wichan.evaluation.measures import MEASURES
from wichan.simulate import load_recipe, run, stream

#: The shipped recipe with a smaller array at every place.
SMALL: dict[str, Any] = {"num_irs": 32, "num_bs_ant": 8, "num_ms_ant": 4, "grid": 10, "channel.grid_size": 10}
OFF_GRID: dict[str, Any] = {"angles": "uniform", "channel.grid_size": None}
ALL = tuple(MEASURES)


def small(**overrides: Any) -> Any:
    return load_recipe("irs-mimo", SMALL | overrides)


def measure(estimators: Any = ("kron-omp",), recipe: Any = None, **options: Any) -> Any:
    settings = {"points": [12.0], "num_channels": 8, "num_resamples": 50, "reference": None, "metrics": ["nmse"]}
    return evaluate(small() if recipe is None else recipe, estimators, **(settings | options))


def values(result: Any, name: str) -> list[list[float]]:
    found: list[list[float]] = result.measures[name].value.tolist()
    return found


@pytest.fixture(scope="module")
def over_snr() -> Any:
    """As many channels as batches of 64 hold and a few more."""
    names = ["omp", "kron-omp", "kron-omp-published"]
    return evaluate(small(), names, points=[4.0, 20.0], num_channels=70, num_resamples=100, metrics=["nmse", *ALL])


def test_defaults_of_the_kind() -> None:
    result = evaluate(small(max_iter=10), points=[12.0], num_channels=3, num_resamples=20)
    assert result.estimators == ("kron-omp", "kron-sbl-mm", "kron-sbl-svd", "kron-sbl-pc", "oracle-ls")
    assert result.reference == "oracle-ls"
    paths = ("ms_irs_arrival", "ms_irs_departure", "irs_bs_arrival", "irs_bs_departure")
    assert result.told == ((),) * 4 + (paths,)
    assert tuple(result.measures) == tuple(name for name in ALL if name != "time")  # no seed repeats a run time
    assert result.detail is None
    assert result.rates is None
    assert result.provenance["irs"] == {"coherence": 1000, "threshold": 1e-4, "ser_noise": "received"}
    assert all("grid of 10 x 10 x 10" in note for note in result.notes.values())
    assert evaluate(small(), ["omp"], points=[12.0], num_channels=2, num_resamples=20, detail=False).measures == {}


@pytest.mark.parametrize("name", [name for name in BASELINES if kind_of(name) == "irs" and name != "ls-irs"])
def test_every_estimator_is_built_by_its_name(name: str) -> None:
    result = measure([name], small(max_iter=40), num_channels=4, points=[20.0], metrics=["nmse", "srr", "ser"])
    value = float(result.statistics.nmse.value)
    # At 20 dB all but the published form of Kronecker OMP, which knows no noise, explain most of the channel.
    assert value < (2.0 if name == "kron-omp-published" else 0.5), value
    assert 0 <= values(result, "srr")[0][0] <= 1
    assert 0 <= values(result, "ser")[0][0] <= 0.75
    assert bool(torch.isfinite(result.calibration).all())


def test_least_squares_of_every_pattern(generator: torch.Generator) -> None:
    recipe = small(**{"num_pilots": 5, "training.pilots": "dft"})
    setting = Setting.of(recipe)
    batch = next(stream(recipe, batch_size=200, split="test"))
    est = PatternLS(setting.irs)
    h_hat, err_var = est(batch.y, batch.no)
    # Orthogonal pilots of power 1: the error of an element is no 4 / 5, and 200 x 192 of them leave 2 % of their mean.
    torch.testing.assert_close(err_var[:, 0, 0, 0, 0], 0.8 * batch.no, rtol=1e-5, atol=0)
    assert float(((h_hat - batch.h).abs().square() / err_var).mean()) == pytest.approx(1.0, abs=0.02)
    clean = setting.irs.project(batch.h)
    torch.testing.assert_close(est(clean, 0.0).h_hat, batch.h, rtol=1e-4, atol=1e-4)
    single = est(batch.y[0], float(batch.no[0]))
    torch.testing.assert_close(single.err_var, err_var[0])
    result = measure(["ls-irs"], recipe, metrics=["nmse", *ALL])
    assert math.isnan(values(result, "srr")[0][0])
    assert "every pattern alone" in result.notes["ls-irs"]
    with pytest.raises(InvalidValueError, match="'ls-irs' needs at least 4 independent pilots.* has 3 "):
        measure(["ls-irs"])
    with pytest.raises(ShapeError, match="y has shape"):
        est(batch.y[:, 1:], 0.1)


def test_measures_are_those_of_the_same_channels() -> None:
    recipe = small(snr_db=12.0)
    options = IRSOptions(coherence=60, threshold=0.01)
    result = measure(["kron-omp", "oracle-ls"], recipe, num_channels=20, metrics=["nmse", *ALL], irs=options)
    batch = next(stream(recipe, batch_size=20, split="test"))
    setting = Setting.of(recipe)
    h, no = batch.h, batch.no.double()
    estimate = KroneckerOMP(setting.irs_dictionary)(batch.y, batch.no)
    ratios = nmse_per_pattern(estimate.h_hat, h)
    # The same numbers, averaged in another order.
    assert values(result, "nmse-pattern")[0][0] == pytest.approx(float(ratios.mean()), rel=1e-10)
    assert values(result, "nmse-median")[0][0] == float(median_interval(ratios).value)
    support = TrueSupport(setting, "test")({name: batch[name] for name in batch.columns})
    assert support is not None
    expected = support_recovery_rate(estimate.coefficients, support, 0.01).mean()
    assert values(result, "srr")[0] == [pytest.approx(float(expected), rel=1e-10), 1.0]
    gains, known = beam_gains(h, estimate.h_hat), beam_gains(h, h)
    snr = setting.irs.project(h).abs().double().square().mean(dim=1) / no
    noise = known.expected.square() / snr[:, None, None]
    errors = [qpsk_symbol_error_rate(g.gain, noise, g.expected).mean() for g in (gains, known)]
    ser = values(result, "ser")[0]
    assert [ser[0], ser[-1]] == [pytest.approx(float(rate), rel=1e-9) for rate in errors]
    rates = [torch.log2(1 + g.gain.abs().square() / no[:, None, None]).mean() for g in (gains, known)]
    se = values(result, "se")[0]
    assert [se[0], se[-1]] == [pytest.approx(float(rate) * (1 - 18 / 60), rel=1e-9) for rate in rates]


def test_a_receiver_that_knows_the_channel(over_snr: Any) -> None:
    # Behind its beams it has the SNR of the training, which is exact: 2 Q(a) - Q(a)^2 with a^2 the SNR. The noise of a sample
    # is kept in single precision, 6e-8, and an exponent of 50 makes 3e-6 of it.
    for point, snr_db in enumerate((4.0, 20.0)):
        q = math.erfc(math.sqrt(10 ** (snr_db / 10) / 2)) / 2
        assert values(over_snr, "ser")[point][-1] == pytest.approx(2 * q - q * q, rel=1e-4)


def test_symbol_errors_at_the_noise_of_the_training() -> None:
    kept = measure(metrics=["nmse", "ser", "se"], num_channels=20, irs=IRSOptions(ser_noise="transmitted"))
    batch = next(stream(small(snr_db=12.0), batch_size=20, split="test"))
    known = beam_gains(batch.h, batch.h)
    rates = qpsk_symbol_error_rate(known.gain, batch.no, known.expected)
    # The same channels, averaged in another order; a few patterns that cancel the channel are all that counts.
    assert values(kept, "ser")[0][-1] == pytest.approx(float(rates.mean()), rel=1e-6)
    assert values(kept, "ser") != values(measure(metrics=["nmse", "ser"], num_channels=20), "ser")
    # Spectral efficiency is at that noise either way.
    assert values(kept, "se") == values(measure(metrics=["nmse", "se"], num_channels=20), "se")


def test_shapes_order_and_intervals(over_snr: Any) -> None:
    for name, level in over_snr.measures.items():
        assert level.value.shape == (2, 5 if MEASURES[name].known else 4), name
        if name == "time":
            assert bool((level.value > 0).all())
            assert bool(level.low.isnan().all())
            continue
        assert bool(((level.low <= level.value) & (level.value <= level.high)).all()), name
    ser, se, srr = (over_snr.measures[name].value for name in ("ser", "se", "srr"))
    # 70 common channels: nobody beats the receiver that knows, or the support of who is told it.
    assert bool((se[:, :-1] <= se[:, -1:]).all())
    assert bool((ser[:, :-1] >= ser[:, -1:] * (1 - 1e-9)).all())
    assert srr[:, -1].tolist() == [1.0, 1.0]
    errors = over_snr.measures["nmse-pattern"].value
    assert bool((errors[:, 3] < errors[:, :3].min(dim=1).values).all())
    assert bool((over_snr.measures["nmse-median"].value < errors).all())  # a few failed channels rule the mean
    # Strong patterns have small relative errors and most of the energy.
    assert bool((over_snr.statistics.nmse.value < errors).all())


def test_report(over_snr: Any, tmp_path: Path) -> None:
    table = over_snr.table("ser")
    assert table.startswith("Symbol error rate of irs-mimo against SNR [dB]")
    assert "known channel" in table
    assert "known channel" not in over_snr.table("srr")
    assert "95 %" not in over_snr.table("time")
    assert over_snr.drawable == ALL
    paths = over_snr.save(tmp_path, kinds=over_snr.drawable)
    assert [path.name for path in paths[3:]] == [f"evaluate_snr_db_{name}.png" for name in ALL]
    assert all(path.stat().st_size > 1000 for path in paths)
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert float(rows[0]["se_perfect"]) == values(over_snr, "se")[0][-1]
    assert "srr_perfect" not in rows[0]
    point = json.loads(paths[1].read_text())["estimators"][1]["points"][1]
    assert point["nmse_pattern"] == values(over_snr, "nmse-pattern")[1][1]
    assert point["time_low"] is None
    with pytest.raises(InvalidValueError, match=r"ser was not measured; run again with metrics=\('nmse', 'ser'\)"):
        measure().table("ser")
    with pytest.raises(UnknownNameError, match="did you mean 'srr'"):
        over_snr.measured("ssr")


def test_an_estimator_of_ones_own_has_a_dash_where_it_has_no_coefficients(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting.of(small())
    fine = KroneckerOMP(setting.irs.dictionary(grid=20))  # its own grid, twice as fine: the paths lie on it too

    def zero(y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        return y.new_zeros(len(y), 8, 4, 6, 1)

    def foreign(y: torch.Tensor, no: torch.Tensor) -> Any:
        return SparseEstimate(zero(y, no), torch.ones(len(y), 8, 4, 6, 1), coefficients=y.new_ones(len(y), 5))

    result = measure({"zero": zero, "fine": fine, "foreign": foreign, "kron-omp": None}, metrics=["nmse", *ALL], points=[30.0])
    srr = values(result, "srr")[0]
    assert math.isnan(srr[0])
    assert math.isnan(srr[2])
    batch = next(stream(small(snr_db=30.0), batch_size=8, split="test"))
    columns = {name: batch[name] for name in batch.columns}
    for index, own in ((1, fine), (3, KroneckerOMP(setting.irs_dictionary))):
        support = TrueSupport(setting, "test")(columns, own.dictionary)
        assert support is not None
        rate = support_recovery_rate(own(batch.y, batch.no).coefficients, support).mean()
        assert srr[index] == pytest.approx(float(rate), rel=1e-10)
    line = next(line for line in result.table("srr").splitlines() if line.startswith("zero"))
    assert line.split() == ["zero", "-"]
    assert result.rows()[0]["srr"] is None
    assert values(result, "ser")[0][0] == 0.75  # no beam, and a guess among four
    assert values(result, "se")[0][0] == 0
    assert values(result, "nmse-pattern")[0][0] == pytest.approx(1.0, rel=1e-12)
    from rich.console import Console

    Console(width=120).print(result)
    from wichan.evaluation import rich_table

    Console(width=120).print(rich_table(result, 120, "srr"))
    assert "zero" in capsys.readouterr().out


# -- Sweeps and other sources of channels --


def test_a_sweep_over_patterns_is_one_evaluation_a_point() -> None:
    wanted = ["nmse", "nmse-median", "srr", "ser", "se"]
    swept = measure(["kron-omp", "oracle-ls"], small(snr_db=12.0), sweep="num_patterns", points=[4, 8], metrics=wanted)
    assert swept.points == (4, 8)
    for p, number in enumerate((4, 8)):
        alone = measure(["kron-omp", "oracle-ls"], small(num_patterns=number), metrics=wanted)
        for name in wanted[1:]:
            assert torch.equal(swept.measures[name].value[p], alone.measures[name].value[0]), name
    pilots = measure(recipe=small(snr_db=12.0), sweep="num_pilots", points=[2, 4], metrics=["nmse", "se"])
    assert pilots.measures["se"].value.shape == (2, 2)
    elements = measure(recipe=small(snr_db=12.0), sweep="num_irs", points=[16, 64], metrics=["nmse", "srr"])
    assert "elements of the IRS" in elements.table()
    assert measure(recipe=small(snr_db=12.0), sweep="dictionary.grid", points=[10, 20]).points == (10, 20)


def test_a_data_set_tells_the_paths(tmp_path: Path) -> None:
    run(small(), tmp_path / "set", n=40, workers=1, on_warning=lambda text: None)
    wanted = ["nmse", *ALL]
    result = evaluate(data=tmp_path / "set", estimators=["kron-omp"], num_resamples=50, points=[4.0, 20.0], metrics=wanted)
    assert result.estimators == ("kron-omp", "oracle-ls")
    assert [row[1] for row in values(result, "srr")] == [1.0, 1.0]
    assert result.statistics.nmse.value[1, 1] < result.statistics.nmse.value[0, 1]


@pytest.mark.parametrize(
    "more",
    [
        {"direct": True},
        {"angles": "grid"},
        {"grid.num_subcarriers": 3, "grid.subcarrier_spacing": 1e6},
        {"num_irs": [4, 8], "num_bs_ant": [2, 4]},
    ],
    ids=["direct", "grid", "wideband", "planar"],
)
def test_links_of_other_kinds(more: dict[str, Any]) -> None:
    result = measure(["oracle-ls"], small(num_pilots=4, num_patterns=24, **more), points=[60.0], metrics=["nmse", *ALL])
    # What is told the atoms of all paths has nothing left to find: 60 dB of SNR and more unknowns than one.
    assert float(result.statistics.nmse.value) < 1e-5
    assert values(result, "srr")[0] == [1.0]


def test_paths_beside_the_grid_have_no_reference() -> None:
    assert off_grid(Setting.of(small())) is None
    recipe = small(**OFF_GRID)
    assert "between the points" in str(off_grid(Setting.of(recipe)))
    result = measure(recipe=recipe, reference="auto", metrics=["nmse", "srr"])
    assert result.reference is None
    assert 0 <= values(result, "srr")[0][0] < 0.5  # against the points next to the paths
    with pytest.raises(InvalidValueError, match="'oracle-ls' cannot be built for recipe 'irs-mimo': its paths lie between"):
        measure(["oracle-ls"], recipe)
    assert off_grid(Setting.of(small(grid=20))) is None  # every point of the channels' grid is one of the dictionary's
    assert off_grid(Setting.of(small(grid=14))) is not None


def test_channels_that_do_not_tell_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines_room, "path_names", lambda setting: ("nowhere",))
    with pytest.raises(InvalidValueError, match="metric 'srr' does not apply to recipe 'irs-mimo': its channels do not tell"):
        measure(metrics=["nmse", "srr"])
    with pytest.raises(InvalidValueError, match="'oracle-ls' cannot be built"):
        measure(["oracle-ls"])
    result = measure(metrics=None, reference="auto")
    assert result.reference is None
    assert "srr" not in result.measures
    assert "ser" in result.measures


# -- Run time --


def test_run_times_are_of_a_point_and_warm() -> None:
    seen: list[int] = []

    def spy(y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        seen.append(len(y))
        return y.new_zeros(len(y), 8, 4, 6, 1)

    result = measure({"spy": spy}, points=[4.0, 20.0], num_channels=10, batch_size=8, metrics=["nmse", "time"])
    assert seen == [1, 8, 2, 8, 2]
    assert result.measures["time"].value.shape == (2, 1)
    seen.clear()
    measure({"spy": spy}, points=[4.0, 20.0], num_channels=10, batch_size=8)
    assert seen == [8, 2, 8, 2]


def test_slow_estimators_ask_for_fewer_channels() -> None:
    notes: list[str] = []
    assert channels_wanted(None, {"mine": "sbl", "kron-omp": None}, notes.append) == 20
    assert "20 channels a point" in notes[0]
    assert channels_wanted(None, {"sbl": None, "cme-gibbs": None}, None) == 20
    assert channels_wanted(None, {"kron-sbl-pc": None}, None) is None


# -- Bad input --


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"estimators": ["ls"]}, InvalidValueError, "'ls' does not apply to recipe 'irs-mimo' of kind 'irs'; these do: omp"),
        ({"recipe": "ofdm-siso", "estimators": ["omp"]}, InvalidValueError, "'omp' does not apply to recipe 'ofdm-siso'"),
        ({"estimators": ["kron-opm"]}, UnknownNameError, "did you mean 'kron-omp'"),
        ({"estimators": ["linear"]}, InvalidValueError, "does not apply"),
        ({"metrics": ["ber"]}, InvalidValueError, "metric='ber' does not apply .* it has nmse, nmse-pattern"),
        ({"metrics": ["rate"]}, InvalidValueError, "metric='rate' does not apply"),
        ({"metrics": ["ssr"]}, UnknownNameError, "did you mean 'srr'"),
        ({"recipe": "ofdm-siso", "estimators": ["ls"], "metrics": ["srr"]}, InvalidValueError, "it has nmse, ber, sinr"),
        (
            {"metrics": ["se"], "irs": IRSOptions(coherence=18)},
            InvalidValueError,
            "coherence=18 must be more than 18, the",
        ),
        ({"irs": {"coherence": 10}}, InvalidTypeError, "irs must be IRSOptions or None, got dict"),
        ({"sweep": "num_elements", "points": [1]}, UnknownNameError, "num_patterns"),
        ({"sweep": "num_patterns", "points": None}, InvalidValueError, "needs its values"),
        ({"sweep": "num_patterns", "points": [0]}, InvalidValueError, "num_patterns"),
        ({"sweep": "dictionary.grid", "points": [3]}, InvalidValueError, "grid=3 must be at least"),
    ],
)
def test_wrong_requests(options: dict[str, Any], kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        measure(**options)
    assert "\n" not in str(caught.value)


def test_wrong_options() -> None:
    with pytest.raises(InvalidValueError, match="coherence=0 must be at least 1"):
        IRSOptions(coherence=0)
    with pytest.raises(InvalidValueError, match="threshold=1 must be at most"):
        IRSOptions(threshold=1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'received'"):
        IRSOptions(ser_noise="recieved")


def test_weights_are_of_no_use(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"")
    with pytest.raises(InvalidValueError, match="is a set of weights, which recipe 'irs-mimo' of kind 'irs' has no use for"):
        measure({"mine": str(path)})
