"""Evaluations of coarsely quantised links: estimators by name, rates, sweeps over settings, and wrong requests."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from wichan.channels import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.estimators import BLS, Linear
from wichan.evaluation import Built, Setting, evaluate
from wichan.evaluation.figure import positions
from wichan.evaluation.fitted import training_set
from wichan.evaluation.kinds import SLOW_CHANNELS, channels_wanted
from wichan.evaluation.rate import rate_uatf
from wichan.evaluation.structural import setting_points
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.priors import GMM
from wichan.simulate import load_recipe, recipe_from_dict, run, stream
from wichan.training import save_prior, save_weights, zoo

#: The shipped recipe with an eighth of its antennas and a prior that is fitted in a fraction of a second.
SMALL: dict[str, Any] = {"num_rx_ant": 8, "num_train": 600, "num_components": 4, "num_factors": 2, "prior.max_iter": 15}
LADDER = ("bls", "blmmse", "bussgang-gmm", "bussgang-genie")


def small(**overrides: Any) -> Any:
    return load_recipe("quantized-simo", SMALL | overrides)


def replaced(**sections: Any) -> Any:
    """A recipe with other sections, where `small` would merge old and new ones."""
    return recipe_from_dict({**small().plain(), **sections})


def measure(estimators: Any = ("bls",), recipe: Any = None, **options: Any) -> Any:
    settings = {"points": [10.0], "num_channels": 32, "num_resamples": 50, "reference": None, "metrics": ["nmse"]}
    return evaluate(small() if recipe is None else recipe, estimators, **(settings | options))


def nmse(result: Any) -> dict[str, list[float]]:
    return dict(zip(result.estimators, result.statistics.nmse.value.T.tolist(), strict=True))


@pytest.fixture(scope="module")
def over_snr() -> Any:
    return evaluate(small(), points=[0.0, 10.0, 20.0], num_channels=400, num_resamples=200)


def test_defaults_of_the_kind(over_snr: Any) -> None:
    assert over_snr.estimators == LADDER
    assert over_snr.reference == "bussgang-genie"
    assert over_snr.told == ((), (), (), ("angles", "powers"))
    assert over_snr.detail is None


def test_order_of_the_estimators(over_snr: Any) -> None:
    """Who knows more does better, at every SNR; BLS to BLMMSE by theory, the others on 400 common channels."""
    value = over_snr.statistics.nmse.value
    assert bool((value[:, 1:] < value[:, :-1]).all())


def test_least_squares_has_its_closed_form(over_snr: Any) -> None:
    no = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    expected = (1 + no) * math.pi / 2 - 1  # 1 / (1 - rho) = pi / 2 for one bit
    low, high = over_snr.statistics.nmse.low[:, 0], over_snr.statistics.nmse.high[:, 0]
    spread = (high - low) / 4  # one standard error; 8 antennas of 400 channels are correlated
    assert bool(((over_snr.statistics.nmse.value[:, 0] - expected).abs() < 4 * spread).all())


def test_rates_are_those_of_the_same_channels(over_snr: Any) -> None:
    assert over_snr.rates.value.shape == (3, 5)
    assert over_snr.rate.value.shape == (3, 4)
    assert bool((over_snr.rates.low <= over_snr.rates.value).all())
    assert bool((over_snr.rates.value <= over_snr.rates.high).all())
    recipe = small(snr_db=10.0)
    batch = next(stream(recipe, batch_size=400, split="test"))
    obs = Setting.of(recipe).quantized
    estimate = BLS(obs)(batch.y, batch.no).h_hat
    # The same terms, summed in another order.
    assert float(rate_uatf(batch.h, batch.h, batch.no, obs)) == pytest.approx(float(over_snr.rates.value[1, -1]), rel=1e-9)
    assert float(rate_uatf(batch.h, estimate, batch.no, obs)) == pytest.approx(float(over_snr.rate.value[1, 0]), rel=1e-6)


def test_report(over_snr: Any, tmp_path: Path) -> None:
    table = over_snr.table("rate")
    assert table.startswith("Achievable rate [bit/s/Hz] of quantized-simo against SNR [dB]")
    assert "known channel" in table
    assert over_snr.drawable == ("rate",)
    paths = over_snr.save(tmp_path, kinds=over_snr.drawable)
    assert [path.name for path in paths][-1] == "evaluate_snr_db_rate.png"
    assert all(path.stat().st_size > 1000 for path in paths)
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert float(rows[0]["rate_perfect"]) == over_snr.rates.value[0, -1]
    assert json.loads(paths[1].read_text())["estimators"][2]["points"][1]["rate"] == over_snr.rate.value[1, 2]
    with pytest.raises(InvalidValueError, match="detail=False"):
        over_snr.figure(tmp_path / "x.png", "ber")
    with pytest.raises(InvalidValueError, match="no rate was measured"):
        measure().table("rate")


@pytest.mark.slow
def test_mixtures_and_the_conditional_mean() -> None:
    names = ["bussgang-gmm", "bussgang-mfa", "bussgang-gmm-quantized", "bussgang-mfa-quantized", "blmmse", "cme-gibbs"]
    notes: list[str] = []
    result = measure([*names, "bussgang-genie"], num_channels=100, on_note=notes.append)
    values = {name: value[0] for name, value in nmse(result).items()}
    # On common channels; the smallest of these gaps is 0.6 dB.
    assert values["cme-gibbs"] < values["bussgang-genie"] < values["bussgang-gmm"] < values["blmmse"]
    assert values["bussgang-mfa"] < values["blmmse"]
    assert values["bussgang-gmm"] < values["bussgang-gmm-quantized"] < values["blmmse"]
    assert "no channel seen" in result.notes["bussgang-mfa-quantized"]
    assert sum("fitting" in note for note in notes) >= 2


# -- Sweeps over settings --


def test_a_sweep_over_bits_is_one_evaluation_a_point() -> None:
    names = ["bls", "blmmse", "bussgang-genie"]
    swept = measure(names, small(snr_db=10.0), sweep="num_bits", points=[1.0, 3.0, math.inf])
    assert swept.points == (1, 3, math.inf)
    for p, bits in enumerate((1, 3, "inf")):
        alone = measure(names, small(num_bits=bits), points=[10.0])
        assert torch.equal(swept.statistics.nmse.value[p], alone.statistics.nmse.value[0])
    assert all(a > b > c for a, b, c in nmse(swept).values())
    value = json.loads(swept.to_json())
    assert value["points"] == [1, 3, "inf"]
    assert [row["point"] for row in csv.DictReader(swept.to_csv().splitlines())][:3] == ["1", "3", "inf"]
    assert "bits of a converter" in swept.table()
    assert positions(swept) == ([0.0, 1.0, 2.0], ["1", "3", "inf"])


def test_dotted_keys_and_aliases_are_one_sweep() -> None:
    by_alias, by_key = (measure(sweep=name, points=[1, 2]) for name in ("num_pilots", "pilots.num_pilots"))
    assert nmse(by_alias) == nmse(by_key)
    assert measure(sweep="conditions.snr_db").sweep == "snr_db"
    assert by_key.sweep == "pilots.num_pilots"


def test_a_prior_is_fitted_once_for_all_bits_and_anew_for_other_sizes() -> None:
    notes: list[str] = []
    law = {"channel.rx_spread_deg": 3.0, "snr_db": 10.0}  # nobody else has fitted this one
    bits = measure(["bussgang-gmm"], small(**law), sweep="num_bits", points=[1, 2], on_note=notes.append)
    assert len(notes) == 1
    assert bits.notes["bussgang-gmm"] == "gmm of 4 components fitted to 600 training channels"
    notes.clear()
    sizes = measure(["bussgang-gmm"], small(**law), sweep="num_train", points=[1e2, 600.0], on_note=notes.append)
    assert len(notes) == 1  # the second point is the fit of before
    assert sizes.points == (100, 600)
    assert sizes.notes["bussgang-gmm"].startswith("100: gmm of 4 components fitted to 100 training channels; 600: ")


def test_a_sweep_that_mixes_all_snrs_says_so() -> None:
    notes: list[str] = []
    measure(sweep="num_bits", points=[1], on_note=notes.append)
    measure(recipe=small(snr_db=10.0), sweep="num_bits", points=[1], on_note=notes.append)
    measure(on_note=notes.append)
    assert notes == ["every point mixes all SNRs of the recipe; fix one with snr_db=10 among the settings (--set snr_db=10)"]


def test_channels_are_common_where_their_law_is() -> None:
    seen: list[torch.Tensor] = []

    def spy(y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return y.new_zeros(len(y), 8, 1, 1, 1)

    for sweep in ("num_train", "num_clusters"):
        measure({"spy": spy}, sweep=sweep, points=[1, 3])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[2], seen[3])
    first = training_set(Setting.of(small()))
    assert not torch.isin(first[:32, 0, 0, 0, 0].real, seen[0].real).any()  # training channels are others


def test_a_setting_of_an_ofdm_recipe() -> None:
    recipe = load_recipe("ofdm-siso", {"grid.num_subcarriers": 24, "snr_db": 10.0})
    options: dict[str, Any] = {"points": [2, 6], "num_channels": 8, "num_resamples": 50}
    result = evaluate(recipe, ["ls", "lmmse-genie"], sweep="pilots.subcarrier_step", **options)
    assert result.reference == "lmmse-genie"
    assert result.ber.value.shape == (2, 2)
    assert result.reliability.mean_err_var.shape == (2, 2, 10)
    assert result.drawable == ("calibration", "ber", "sinr")  # pilots change: no one map of resource elements
    with pytest.raises(InvalidValueError, match="pilots or grid change"):
        _ = result.resource_elements
    alone = evaluate(recipe, ["ls", "lmmse-genie"], overrides={"pilots.subcarrier_step": 6}, points=[10.0], **_less(options))
    assert torch.equal(result.ber.value[1], alone.ber.value[0])
    assert torch.equal(result.statistics.nmse.value[1], alone.statistics.nmse.value[0])
    same = evaluate(recipe, ["ls"], sweep="channel.num_rx_ant", reference=None, **(options | {"points": [1, 2]}))
    assert same.resource_elements.shape == (2, 1, 14, 24)


def _less(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "points"}


# -- Other sources of channels --


def test_a_data_set_tells_the_genie(tmp_path: Path) -> None:
    run(small(), tmp_path / "set", n=40, workers=1, on_warning=lambda text: None)
    result = evaluate(data=tmp_path / "set", estimators=["bls", "bussgang-genie"], num_resamples=50, points=[0.0, 20.0])
    assert result.told[1] == ("angles", "powers")
    assert result.rates is not None
    assert nmse(result)["bussgang-genie"][1] < nmse(result)["bls"][1]


def test_a_source_with_conditions() -> None:
    law = {"snr_db": 10.0, "delay_spread": 1e-7, "max_doppler": 10.0}
    recipe = replaced(source="tdl", profile={"choice": ["A", "C"]}, channel={}, conditions=law)
    result = measure(["blmmse", "bussgang-genie"], recipe, num_channels=16)
    assert result.told[1] == ("delay_spread", "max_doppler", "profile")
    # One antenna: the covariance is the power, and both are the scalar LMMSE up to its sample power.
    assert nmse(result)["blmmse"][0] == pytest.approx(nmse(result)["bussgang-genie"][0], rel=0.05)


def test_a_source_without_covariance_has_no_genie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpatialGaussian, "has_closed_form", False)
    assert measure(reference="auto").reference is None
    with pytest.raises(InvalidValueError, match="no closed-form covariance"):
        measure(["bussgang-genie"])


def test_slow_estimators_ask_for_fewer_channels() -> None:
    notes: list[str] = []
    assert channels_wanted(None, {"bls": None, "exact": "cme-gibbs"}, notes.append) == SLOW_CHANNELS
    assert "200 channels a point" in notes[0]
    assert channels_wanted(None, {"bls": None, "mine": BLS}, None) is None
    assert channels_wanted(None, None, None) is None
    assert channels_wanted(7, {"cme-gibbs": None}, notes.append) == 7
    assert len(notes) == 1


# -- Bad input --


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"estimators": ["ls"]}, InvalidValueError, "'ls' does not apply to recipe 'quantized-simo' of kind 'quantized'"),
        ({"recipe": "ofdm-siso"}, InvalidValueError, "'bls' does not apply to recipe 'ofdm-siso' of kind 'ofdm'"),
        ({"estimators": ["blmse"]}, UnknownNameError, "did you mean 'blmmse'"),
        ({"estimators": ["linear"]}, InvalidValueError, "does not apply"),
        ({"estimators": ["bussgang-vae"]}, InvalidValueError, "wichan train vae --stream quantized-simo"),
        ({"metrics": ["ber"]}, InvalidValueError, "metric='ber' does not apply .* it has nmse, rate"),
        ({"metrics": ["rates"]}, UnknownNameError, "did you mean 'rate'"),
        ({"metrics": []}, InvalidValueError, "metrics is empty"),
        ({"recipe": "ofdm-siso", "estimators": ["ls"], "metrics": ["rate"]}, InvalidValueError, "it has nmse, ber, sinr"),
        ({"recipe": "ofdm-siso", "estimators": ["ls"], "metrics": ["ber"], "detail": False}, InvalidValueError, "detail=True"),
        ({"sweep": "bits"}, UnknownNameError, "num_bits"),
        ({"sweep": "quantizer.bits", "points": [1]}, UnknownNameError, "num_bits"),
        ({"sweep": "name", "points": ["a"]}, UnknownNameError, "sweep='name'"),
        ({"sweep": "num_bits", "points": None}, InvalidValueError, "needs its values"),
        ({"sweep": "num_bits", "points": [0]}, InvalidValueError, "num_bits"),
        ({"sweep": "num_bits", "points": [1.5]}, (InvalidTypeError, InvalidValueError), "num_bits"),
        ({"sweep": "num_bits", "points": [math.nan]}, InvalidValueError, "points"),
        ({"sweep": "num_bits", "points": [1, 1.0]}, InvalidValueError, "more than once"),
        ({"sweep": "num_bits", "points": [[1]]}, InvalidTypeError, "points"),
        ({"sweep": "quantizer.kind", "points": ["unifrm"]}, InvalidValueError, "unifrm"),
        ({"estimators": ["bussgang-gmm-quantized"], "sweep": "num_bits", "points": [1, math.inf]}, InvalidValueError, "inf"),
        ({"overrides": {"prior.num_components": 700}, "estimators": ["bussgang-gmm"]}, InvalidValueError, "num_components=700"),
    ],
)
def test_wrong_requests(options: dict[str, Any], kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        measure(**options)
    assert "\n" not in str(caught.value)


def test_a_rate_needs_a_data_phase() -> None:
    wide = {"num_ofdm_symbols": 1, "num_subcarriers": 12, "subcarrier_spacing": 15e3}
    recipe = replaced(grid=wide, pilots={"pattern": "block", "symbols": [0]})
    assert evaluate(recipe, ["bls"], points=[10.0], num_channels=4, num_resamples=20, reference=None).rates is None
    with pytest.raises(InvalidValueError, match="metric='rate' does not apply to recipe 'quantized-simo'"):
        measure(recipe=recipe, metrics=["nmse", "rate"])


def test_an_estimator_that_wants_to_be_told_what_is_not_there() -> None:
    with pytest.raises(InvalidValueError, match="wants to be told speed; known conditions: snr_db, angles, powers"):
        measure({"mine": Built(lambda y, no, speed: y, told=("speed",))})


def test_points_of_a_setting() -> None:
    assert setting_points("x", [1e3, 2.5, "full", torch.tensor(4), math.inf]) == [1000, 2.5, "full", 4, math.inf]
    with pytest.raises(InvalidTypeError, match="points=True"):
        setting_points("x", [True])


# -- Files and released weights. --


def release(folder: Path, prior: Any, **fields: Any) -> None:
    """Put a prior where released models lie."""
    folder.mkdir(parents=True)
    save_prior(prior, folder / "weights.safetensors")
    lines = {"title": "x", "kind": prior.kind, "trained_on": "quantized-simo", "command": "x", "wall_time": "1 min"}
    (folder / "config.yaml").write_text(yaml.safe_dump(lines | {"headline": "", "overrides": SMALL} | fields))


def test_released_weights_serve_the_recipe_that_they_were_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = GMM(3, max_iter=3).fit(training_set(Setting.of(small())))
    release(tmp_path / "models" / "simo-gmm", prior)
    monkeypatch.setattr(zoo, "model_folder", lambda: tmp_path / "models")

    def note(**overrides: Any) -> str:
        return measure(["bussgang-gmm"], small(**overrides), num_channels=4).notes["bussgang-gmm"]

    released = "released weights of simo-gmm, trained on quantized-simo"
    assert note() == released
    assert note(num_bits=3, num_pilots=2, num_factors=3) == released  # a mixture is one of channels
    assert note(num_components=5) == "gmm of 5 components fitted to 600 training channels"
    assert "fitted to 500 training channels" in note(num_train=500)
    assert "fitted" in note(num_clusters=2)
    named = measure(["simo-gmm"], small(), num_channels=4)
    assert named.notes["simo-gmm"].startswith("gmm of ")


def test_files_that_do_not_fit_the_recipe(tmp_path: Path) -> None:
    path = save_prior(GMM(2, max_iter=2).fit(training_set(Setting.of(small()))), tmp_path / "gmm.safetensors")
    with pytest.raises(InvalidValueError, match="gmm.safetensors' does not fit recipe 'quantized-simo': "):
        measure([f"mine={path}"], small(num_rx_ant=4))
    with pytest.raises(InvalidValueError, match="is a prior of kind 'gmm'; it needs a recipe of kind 'quantized'"):
        evaluate("ofdm-siso", {"mine": str(path)}, points=[10.0], num_channels=4, reference=None)
    linear = save_weights(Linear(OFDMPilots(OFDMGrid(6, 12, 15e3), (1, 4), 3)), tmp_path / "linear.safetensors")
    with pytest.raises(InvalidValueError, match="is a network of kind 'linear' for pilots on an OFDM grid"):
        measure([str(linear)])
