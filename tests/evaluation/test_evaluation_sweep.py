"""Sweeps, baselines and pooled covariances on a small link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wichan.store as store
from wichan.channels import TDL
from wichan.channels.base import NoClosedFormError
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, StoreError, UnknownNameError
from wichan.evaluation import BASELINES, Built, Setting, evaluate
from wichan.evaluation.feeds import _data_points
from wichan.evaluation.pooling import frequency_covariance
from wichan.simulate import load_recipe, run, stream

#: The published recipe on a quarter of its grid, so that a test takes a fraction of a second.
SMALL: dict[str, Any] = {"grid.num_subcarriers": 24}
NAMES = ("ls", "ls-nearest", "lmmse-pooled", "lmmse-kronecker", "lmmse-separable", "lmmse-genie")


def small(**overrides: Any) -> Any:
    return load_recipe("ofdm-siso", SMALL | overrides)


@pytest.fixture(scope="module")
def over_snr() -> Any:
    return evaluate(small(), NAMES, points=[0.0, 20.0], num_channels=300, num_resamples=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set"
    run(small(), path, n=300, workers=1, on_warning=lambda text: None)
    return path


def test_order_of_the_baselines(over_snr: Any) -> None:
    best_first = [[over_snr.estimators[i] for i in group] for group in over_snr.ranking]
    assert best_first[1] == ["lmmse-genie"]
    assert best_first[0][-2:] == ["ls", "ls-nearest"]
    score = dict(zip(over_snr.estimators, over_snr.statistics.score_db.low.tolist(), strict=True))
    # No estimator may beat its genie by more than the interval; pooled knows less and pays for it.
    assert all(low >= 0 for name, low in score.items())
    assert score["lmmse-pooled"] > 0.5


def test_genie_knows_its_error_at_every_point(over_snr: Any) -> None:
    ratio = over_snr.calibration[:, over_snr.estimators.index("lmmse-genie")]
    # 300 channels, of which the fastest carry most of the error: a standard error of about 7 %.
    assert bool(((ratio - 1).abs() < 0.2).all())


def test_kronecker_is_exact_where_the_model_is_one_product(over_snr: Any) -> None:
    pooled, kronecker = (over_snr.statistics.nmse.value[:, over_snr.estimators.index(n)] for n in NAMES[2:4])
    torch.testing.assert_close(pooled, kronecker, rtol=1e-4, atol=0)  # two algorithms in single precision


def test_same_seed_same_numbers_and_batch_does_not_matter(over_snr: Any) -> None:
    again = evaluate(small(), ["ls", "lmmse-genie"], points=[0.0, 20.0], num_channels=300, num_resamples=200, batch_size=300)
    columns = [over_snr.estimators.index(name) for name in ("ls", "lmmse-genie")]
    torch.testing.assert_close(again.statistics.nmse.value, over_snr.statistics.nmse.value[:, columns], rtol=1e-4, atol=0)
    other = evaluate(small(), ["ls"], points=[0.0], num_channels=50, reference=None, seed=1)
    first = evaluate(small(), ["ls"], points=[0.0], num_channels=50, reference=None)
    assert other.statistics.nmse.value != first.statistics.nmse.value


def test_points_share_their_channels() -> None:
    seen: dict[float, list[torch.Tensor]] = {}

    def spy(y: torch.Tensor, no: torch.Tensor, max_doppler: torch.Tensor, snr_db: torch.Tensor) -> torch.Tensor:
        for snr in snr_db.unique().tolist():
            seen.setdefault(snr, []).append(max_doppler[snr_db == snr])
        return y[:, :, None]

    spy.told = ("max_doppler", "snr_db")  # type: ignore[attr-defined]
    result = evaluate(small(), {"spy": spy}, points=[0.0, 30.0], num_channels=70, batch_size=32, reference=None)
    assert torch.equal(torch.cat(seen[0.0]), torch.cat(seen[30.0]))
    assert result.num_channels == (70, 70)
    assert result.told == (("max_doppler", "snr_db"),)


def test_a_perfect_estimator_reads_the_floor_and_a_zero_one_reads_0_db() -> None:
    truth = iter([batch.h for batch in stream(small(snr_db=10.0), batch_size=20, split="test", num_batches=2)])
    calls = {
        "perfect": lambda y, no: next(truth),
        "zero": lambda y, no: torch.zeros(y.shape[0], 1, 1, *y.shape[-2:], dtype=y.dtype),
    }
    result = evaluate(small(), calls, points=[10.0], num_channels=40, batch_size=20, reference=None)
    assert float(result.nmse_db.value[0, 0]) == pytest.approx(-300)
    assert float(result.nmse_db.value[0, 1]) == pytest.approx(0, abs=1e-12)
    assert bool(result.calibration.isnan().all())


@pytest.mark.parametrize("sweep", ["delay_spread", "max_doppler", "profile"])
def test_other_sweeps(sweep: str) -> None:
    points = ["A", "D"] if sweep == "profile" else None
    result = evaluate(small(), ["lmmse-genie"], sweep=sweep, points=points, num_channels=40, batch_size=16)
    assert len(result.points) == (2 if sweep == "profile" else 6)
    level = result.nmse_db.value[:, 0]
    if sweep == "max_doppler":
        assert float(level[-1]) > float(level[0]) + 10  # a standing channel is far easier than one near aliasing
    if sweep == "profile":
        assert float(level[1]) < float(level[0])  # D has a line of sight that carries most of its power


def test_reference_is_added_and_networks_keep_their_mode() -> None:
    class Net(torch.nn.Module):
        def forward(self, y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return y[:, :, None]

    net = Net()
    result = evaluate(small(), {"net": net}, points=[10.0], num_channels=8)
    assert result.estimators == ("net", "lmmse-genie")
    assert net.training


def test_built_and_names_in_a_mapping() -> None:
    built = Built(
        lambda y, no, delay_spread: y[:, :, None] * (1 + 0 * delay_spread[:, None, None, None, None]), ("delay_spread",)
    )
    result = evaluate(small(), {"mine": built, "also": "ls"}, points=[10.0], num_channels=8, reference="also")
    assert result.told == (("delay_spread",), ())
    assert result.statistics.score_db.value[1] == 0


# -- Pooled covariance --


def test_pooled_covariance_equals_brute_force_average() -> None:
    setting = Setting.of(small())
    pooled = setting.pooled
    assert "closed form" in pooled.note
    u = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    spread, doppler = (grid.flatten() for grid in torch.meshgrid(u, u, indexing="ij"))
    columns = setting.draw_conditions({"delay_spread": spread, "max_doppler": doppler})
    total = torch.zeros(336, 336, dtype=torch.complex128)
    for part in torch.arange(1600).split(200):
        total += setting.covariance("A", {name: value[part] for name, value in columns.items()}).matrix().sum(dim=0)
    # Midpoint rules with 40 and 64 nodes differ by their second-order errors, below 1e-3 of the power.
    torch.testing.assert_close(pooled.covariance.matrix(), total / 1600, rtol=0, atol=1e-3)


def test_pooled_covariance_of_a_mixture_of_profiles() -> None:
    setting = Setting.of(small(profile=["A", "A", "D"]))
    parts = [Setting.of(small(profile=name)).pooled.covariance.matrix() for name in ("A", "D")]
    torch.testing.assert_close(setting.pooled.covariance.matrix(), (2 * parts[0] + parts[1]) / 3, rtol=0, atol=1e-9)


def test_pooled_over_draws_of_the_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Setting.of(small()).pooled.covariance.matrix()
    monkeypatch.setattr("wichan.evaluation.pooling._varies", lambda factor: True)  # as if all factors moved together
    pooled = Setting.of(small()).pooled
    assert "64 draws" in pooled.note
    # Elements have power 1; a mean of 64 draws of a bounded correlation has a standard error below 1/8.
    assert float((pooled.covariance.matrix() - exact).abs().max()) < 0.4
    assert float((pooled.covariance.matrix() - exact).abs().mean()) < 0.08


def test_pooled_from_training_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = small(**{"grid.num_subcarriers": 6, "grid.num_ofdm_symbols": 12})
    exact = Setting.of(tiny).pooled.covariance.matrix()

    def no_closed_form(self: Any, grid: Any, **conditions: Any) -> Any:
        raise NoClosedFormError("none")

    monkeypatch.setattr(TDL, "covariance", no_closed_form)
    pooled = Setting.of(tiny).pooled
    assert "4096 independent training samples" in pooled.note
    # 4096 samples of power 1: a standard error of 1/64 an element, up to 1.5/64 on the diagonal; 5184 elements.
    assert float((pooled.covariance.matrix() - exact).abs().max()) < 0.1
    with pytest.raises(InvalidValueError, match="at most 4096"):
        Setting.of(small(**{"grid.num_subcarriers": 300})).pooled  # noqa: B018


def test_covariance_follows_the_recipe_s_normalisation() -> None:
    setting = Setting.of(load_recipe("mimo-ofdm", {"grid.num_subcarriers": 12}))
    assert float(setting.covariance("C", setting.draw_conditions({})).mean_power()) == pytest.approx(1, rel=1e-6)


def test_frequency_covariance_is_the_marginal() -> None:
    setting = Setting.of(small())
    columns = setting.draw_conditions({"delay_spread": torch.tensor([0.2, 0.8], dtype=torch.float64)})
    dense = setting.covariance("A", columns).matrix().mean(dim=0).reshape(14, 24, 14, 24)
    expected = torch.einsum("tktl->kl", dense) / 14
    torch.testing.assert_close(frequency_covariance(setting, columns, ["A", "A"]), expected, rtol=0, atol=1e-9)


def test_genie_shares_filters_between_equal_conditions(generator: torch.Generator) -> None:
    setting = Setting.of(small(profile=["A", "D"]))
    genie = BASELINES["lmmse-genie"](setting).estimator
    batch = next(stream(small(profile=["A", "D"]), batch_size=6))
    index = torch.tensor([0, 1, 2, 0, 3, 1, 0, 4, 5])  # repeats, uneven
    names = [batch.categories["profile"][code] for code in batch.profile[index].tolist()]
    told = {name: batch[name][index] for name in ("delay_spread", "max_doppler")}
    together = genie(batch.y[index], batch.no[index], profile=names, **told)
    for i in range(index.numel()):
        one = {name: value[i : i + 1] for name, value in told.items()}
        alone = genie(batch.y[index][i : i + 1], batch.no[index][i : i + 1], profile=names[i : i + 1], **one)
        torch.testing.assert_close(together.h_hat[i], alone.h_hat[0], rtol=1e-3, atol=1e-4)  # single precision, other order
        torch.testing.assert_close(together.err_var[i], alone.err_var[0], rtol=1e-3, atol=1e-6)


# -- A data set --


def test_data_set_equals_recipe_where_conditions_agree(folder: Path) -> None:
    result = evaluate(data=folder, estimators=["ls", "lmmse-genie"], sweep="snr_db")
    assert len(result.points) == 6
    assert sum(result.num_channels) == 300  # the test split, every sample in one bin
    assert result.provenance["split"] == "test"
    level = result.nmse_db.value[:, 0]
    assert float(level[0]) > float(level[-1]) + 3
    assert float(result.statistics.score_db.low[0]) > 3


def test_data_set_binned_at_given_points(folder: Path) -> None:
    result = evaluate(data=folder, estimators=["ls"], points=[5.0, 20.0], num_channels=50, reference=None, split="train")
    assert result.points == (5.0, 20.0)
    assert result.num_channels == (50, 50)
    values = store.open(folder, split="train", columns=["snr_db"])[:]["snr_db"]
    assert int((values < 12.5).sum()) >= 50


def test_categories_are_bins(folder: Path) -> None:
    assert evaluate(data=folder, estimators=["ls"], sweep="profile", reference=None).points == ("A",)


# -- Bad input --


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"recipe": "ofdm-sios"}, UnknownNameError, "ofdm-siso"),
        ({"recipe": "csi-rrg"}, InvalidValueError, "only kind 'ofdm'"),
        ({"sweep": "snr"}, UnknownNameError, "snr_db"),
        ({"points": []}, InvalidValueError, "points"),
        ({"points": ["a"]}, InvalidTypeError, "points"),
        ({"points": [1.0], "sweep": "profile"}, InvalidTypeError, "profile name"),
        ({"points": [float("nan")]}, InvalidValueError, "points"),
        ({"points": [-1e-9], "sweep": "delay_spread"}, InvalidValueError, "at least 0"),
        ({"estimators": []}, InvalidValueError, "estimators is empty"),
        ({"estimators": ["lmse-pooled"]}, UnknownNameError, "did you mean 'lmmse-pooled'"),
        ({"estimators": [lambda y, no: y]}, InvalidTypeError, "mapping"),
        ({"estimators": {"mine": 3}}, InvalidTypeError, "mine"),
        ({"reference": "genie"}, UnknownNameError, "lmmse-genie"),
        ({"num_channels": 1}, InvalidValueError, "num_channels"),
        ({"batch_size": 0}, InvalidValueError, "batch_size"),
        ({"split": "tets"}, UnknownNameError, "test"),
        ({"device": "gpu"}, InvalidValueError, "device"),
        ({"overrides": {"grid.num_subcarriers": 0}}, InvalidValueError, "num_subcarriers"),
        ({"cells": ["main"]}, InvalidValueError, "cells"),
        ({"data": "nowhere"}, StoreError, "nowhere"),
        ({"data": "nowhere", "overrides": {"snr_db": 1}}, InvalidValueError, "overrides"),
    ],
)
def test_bad_input(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        evaluate(**{"recipe": "ofdm-siso", "estimators": ["ls"], "num_channels": 4, "reference": None} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("estimator", "kind", "text"),
    [
        (lambda y, no: y, ShapeError, "returned h_hat of shape"),
        (lambda y, no: "h", ShapeError, "of type str"),
        (lambda y, no: (y[:, :, None], no, no), ShapeError, "returned a tuple of 3"),
        (lambda y, no: y[:, :, None] * float("nan"), InvalidValueError, "NaN or infinity at snr_db=5"),
        (Built(lambda y, no, speed: y[:, :, None], told=("speed",)), InvalidValueError, "wants to be told speed"),
    ],
)
def test_bad_estimator_is_named(estimator: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        evaluate(small(), {"mine": estimator}, points=[5.0], num_channels=4, reference=None)
    assert "'mine'" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_error_variance_of_any_real_type_counts(dtype: torch.dtype) -> None:
    def claims(dtype: torch.dtype) -> Any:
        return lambda y, no: (y[:, :, None], torch.ones(1, dtype=dtype))

    both = {"odd": claims(dtype), "plain": claims(torch.float32)}
    result = evaluate(small(), both, points=[5.0], num_channels=4, reference=None)
    assert result.calibration[0, 0] == result.calibration[0, 1]
    assert torch.equal(result.reliability.mean_err_var[0, 0], result.reliability.mean_err_var[0, 1])


def test_a_handful_of_samples_is_binned_unless_values_come_back() -> None:
    assert _data_points(torch.linspace(0.0, 1.0, 16)) == pytest.approx([(i + 0.5) / 6 for i in range(6)])
    assert _data_points(torch.tensor([0.0, 10.0] * 8)) == [0.0, 10.0]
    assert _data_points(torch.tensor([3.0, 1.0, 2.0])) == [1.0, 2.0, 3.0]
