"""Priors on disk and fits of priors: what goes in comes out, nothing runs, and every wrong file or setting is one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, save_file

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError, WichanError
from wichan.estimators import BussgangGMM, BussgangMFA, Linear
from wichan.observations import OFDMPilots, QuantizedPilots, pilot_sequence
from wichan.priors import GMM, MFA
from wichan.random import complex_normal
from wichan.simulate import run
from wichan.training import load_weights, save_weights, zoo
from wichan.training.prior_data import training_channels, training_observations
from wichan.training.prior_files import load_prior, save_prior
from wichan.training.priors import PriorConfig, PriorProgress, fit_prior
from wichan.training.weights_reader import read_weights

SMALL: dict[str, Any] = {"num_rx_ant": 6, "num_train": 200, "num_components": 2, "num_factors": 2, "prior.max_iter": 8}
OPTIONS = {"max_iter": 5}


def channels(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Correlated channels of two kinds, 200 of them."""
    h = complex_normal((200, *shape), generator=generator, dtype=torch.complex64)
    h[:100, ..., 1:] = 0.9 * h[:100, ..., :1] + 0.1 * h[:100, ..., 1:]
    return h


MADE: dict[str, Callable[[], Any]] = {
    "full": lambda: GMM(3, **OPTIONS),
    "circulant": lambda: GMM(2, structure="block-circulant", **OPTIONS),
    "toeplitz": lambda: GMM(2, structure="block-toeplitz", **OPTIONS),
    "isotropic": lambda: MFA(2, 2, **OPTIONS),
    "diagonal": lambda: MFA(2, 1, noise="diagonal", **OPTIONS),
}


@pytest.fixture
def saved(tmp_path: Path, generator: torch.Generator) -> Path:
    return save_prior(GMM(2, **OPTIONS).fit(channels(generator, 4)), tmp_path / "gmm.safetensors", {"steps": 5})


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_round_trip(kind: str, shape: tuple[int, ...], tmp_path: Path, generator: torch.Generator) -> None:
    h = channels(generator, *shape)
    prior = MADE[kind]().fit(h)
    path = save_prior(prior, tmp_path / "a.safetensors", {"stream": "quantized-simo"})
    again = load_prior(path)
    assert type(again) is type(prior)
    assert again.is_fitted
    assert not again.training
    assert again.shape == shape
    assert again.config() == prior.config()
    assert torch.equal(again.covariances(), prior.covariances())
    assert torch.equal(again.log_prob(h), prior.log_prob(h))
    assert save_prior(again, tmp_path / "b.safetensors", {"stream": "quantized-simo"}).read_bytes() == path.read_bytes()
    info, _ = read_weights(path)
    assert (info.kind, info.obs, info.training) == (prior.kind, None, {"stream": "quantized-simo"})


def test_load_gives_the_prior_or_its_estimator(tmp_path: Path, generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), 4)
    r = obs.observe(channels(generator, 4), 0.1, generator=generator)
    for kind, cls in (("full", BussgangGMM), ("isotropic", BussgangMFA)):
        prior = MADE[kind]().fit(channels(generator, 4))
        path = save_prior(prior, tmp_path / "best.safetensors")
        assert type(wc.load(path)) is type(prior)
        est = wc.load(tmp_path, obs=obs)  # the folder of a run
        assert type(est) is cls
        assert torch.equal(est(r, 0.1).h_hat, cls(prior, obs)(r, 0.1).h_hat)


def test_the_lines_of_the_guide(generator: torch.Generator) -> None:
    h_train = channels(generator, 4)
    obs = QuantizedPilots(torch.eye(4, dtype=torch.complex128), num_bits=1)
    prior = wc.estimators.GMM(num_components=2, structure="block-circulant").fit(h_train)
    est = wc.estimators.BussgangGMM(prior, obs)
    r = obs.observe(h_train, 0.1, generator=generator)
    h_hat, err_var = est(r, 0.1)
    assert h_hat.shape == err_var.shape == h_train.shape
    # Better than the mean of all channels, 0: a one-bit link at 10 dB leaves half an error or less.
    assert float((h_hat - h_train).abs().square().mean()) < 0.6 * float(h_train.abs().square().mean())


def test_what_is_refused_when_saving(tmp_path: Path, generator: torch.Generator) -> None:
    with pytest.raises(InvalidValueError, match="prior is not fitted"):
        save_prior(GMM(2), tmp_path / "a.safetensors")
    with pytest.raises(InvalidTypeError, match="prior must be one of gmm, mfa, vae, got Tensor"):
        save_prior(torch.ones(2), tmp_path / "a.safetensors")  # type: ignore[arg-type]
    prior = GMM(2, **OPTIONS).fit(channels(generator, 4))
    with pytest.raises(InvalidValueError, match=r"must end in \.safetensors"):
        save_prior(prior, tmp_path / "a.pt")
    with pytest.raises(InvalidTypeError, match="training must be what JSON can hold"):
        save_prior(prior, tmp_path / "a.safetensors", {"h": torch.ones(1)})
    prior.log_weights.fill_(torch.nan)
    with pytest.raises(InvalidValueError, match="prior: tensor log_weights holds 2 NaN"):
        save_prior(prior, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_estimators_and_priors_are_told_apart(saved: Path, tmp_path: Path) -> None:
    linear = save_weights(Linear(OFDMPilots(wc.OFDMGrid(6, 12, 15e3), (1, 4), 3)), tmp_path / "linear.safetensors")
    with pytest.raises(InvalidValueError, match="holds the estimator 'linear' and no prior"):
        load_prior(linear)
    with pytest.raises(InvalidValueError, match="holds a prior of kind 'gmm' and no estimator"):
        load_weights(saved)
    with pytest.raises(InvalidTypeError, match="obs must be OFDMPilots, got QuantizedPilots"):
        wc.load(linear, obs=QuantizedPilots(torch.eye(4, dtype=torch.complex128)))
    with pytest.raises(WichanError):
        wc.load(saved, obs=OFDMPilots(wc.OFDMGrid(6, 12, 15e3), (1, 4), 3))
    with pytest.raises(InvalidValueError, match="is no file"):
        load_prior(tmp_path / "none.safetensors")


Notes = dict[str, str]
Tensors = dict[str, torch.Tensor]


def config(key: str, value: Any) -> Callable[[Tensors, Notes], None]:
    def change(tensors: Tensors, notes: Notes) -> None:
        notes["config"] = json.dumps(json.loads(notes["config"]) | {key: value})

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors, notes: notes.update(kind="gnm"), "kind='gnm' is unknown; did you mean 'gmm'"),
        (lambda tensors, notes: notes.update(config="[]"), "config in its metadata must be a JSON object"),
        (config("structure", "ful"), "cannot be used: structure='ful'"),
        (config("num_components", -1), "cannot be used: num_components=-1"),
        (config("num_components", 3), "does not fit 'gmm': tensor .* has shape"),
        (config("shape", [5]), "does not fit 'gmm': tensor values has shape"),
        (config("shape", None), "does not hold the tensors of 'gmm'"),
        (config("depth", 3), "cannot be used"),
        (lambda tensors, notes: tensors.pop("values"), "1 missing"),
        (lambda tensors, notes: tensors.update(more=torch.ones(1)), "1 unexpected"),
        (lambda tensors, notes: tensors.update(values=tensors["values"].long()), "tensor values has dtype"),
        (lambda tensors, notes: tensors["values"].fill_(torch.inf), "is damaged: tensor values holds"),
    ],
)
def test_files_that_do_not_fit(saved: Path, tmp_path: Path, change: Any, text: str) -> None:
    data = saved.read_bytes()
    notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data)
    change(tensors, notes)
    path = tmp_path / "spoiled.safetensors"
    save_file(tensors, path, notes)
    with pytest.raises(StoreError, match=text) as caught:
        load_prior(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_files(saved: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    data = saved.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(StoreError, match="cut short"):
        load_prior(path)


# -- Fits. --


def test_a_fit_gives_a_folder_and_the_same_prior_again(tmp_path: Path) -> None:
    seen: list[PriorProgress] = []
    settings = PriorConfig("gmm", overrides=SMALL, seed=3)
    result = fit_prior(settings, out=tmp_path / "run", progress=seen.append)
    assert result.num_samples == 200
    assert result.iterations == len(seen) > 1
    assert seen[-1].max_iter == 8
    assert result.objective == seen[-1].objective > seen[0].objective
    assert result.stopped in ("max_iter", "converged")
    assert result.held_out is not None
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best.safetensors", "config.yaml", "metrics.csv"}
    again = fit_prior(PriorConfig(**yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())))
    kept = load_prior(tmp_path / "run")
    assert torch.equal(kept.covariances(), again.prior.covariances())
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [float(row["log_likelihood"]) for row in rows] == [state.objective for state in seen]
    info, _ = read_weights(tmp_path / "run")
    assert info.training["config"]["overrides"]["num_rx_ant"] == 6
    with pytest.raises(InvalidValueError, match="holds a training run"):
        fit_prior(settings, out=tmp_path / "run")


def test_options_of_the_run_go_before_those_of_the_recipe() -> None:
    result = fit_prior(PriorConfig("mfa", {"num_factors": 3, "max_iter": 2}, overrides=SMALL, num_samples=50))
    prior = result.prior
    assert isinstance(prior, MFA)
    assert (prior.num_components, prior.num_factors, result.num_samples) == (2, 3, 50)
    assert result.iterations <= 3


def test_time_ends_a_fit_with_what_is_there() -> None:
    result = fit_prior(PriorConfig("gmm", {"tol": 0.0}, overrides=SMALL, max_time=1e-9))
    assert (result.stopped, result.iterations) == ("max_time", 1)
    assert result.prior.is_fitted


def test_a_fit_from_observations_sees_no_channel(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"overrides": SMALL | {"num_train": 500}, "from_observations": True, "snr_db": 5.0}
    result = fit_prior(PriorConfig("gmm", **settings))
    obs, r, no = training_observations(wc.simulate.load_recipe("quantized-simo", settings["overrides"]), 500, 5.0)
    by_hand = GMM(2, max_iter=8).fit_observations(obs, r, no)
    assert torch.equal(result.prior.covariances(), by_hand.covariances())
    assert no == pytest.approx(10**-0.5, rel=1e-6)


def test_a_fit_from_a_data_set(tmp_path: Path) -> None:
    data = tmp_path / "set"
    recipe = wc.simulate.load_recipe("quantized-simo", SMALL)
    run(recipe, data, n=60, workers=1, on_warning=lambda text: None)
    result = fit_prior(PriorConfig("gmm", {"max_iter": 3}, data=str(data)))
    assert result.num_samples == 60
    stream = fit_prior(PriorConfig("gmm", {"max_iter": 3}, overrides=SMALL, num_samples=60))
    assert torch.equal(result.prior.covariances(), stream.prior.covariances())  # the stream's channels are the data set's
    with pytest.raises(InvalidValueError, match="pilots of several SNRs"):
        fit_prior(PriorConfig("gmm", data=str(data), from_observations=True))
    seen = fit_prior(PriorConfig("gmm", {"max_iter": 3}, data=str(data), from_observations=True, snr_db=10.0))
    assert 0 < seen.num_samples < 60
    with pytest.raises(InvalidValueError, match="snr_db=3.0 is that of no sample"):
        fit_prior(PriorConfig("gmm", data=str(data), from_observations=True, snr_db=3.0))
    with pytest.raises(InvalidValueError, match="num_samples=61 is more than the 60"):
        fit_prior(PriorConfig("gmm", data=str(data), num_samples=61))


def test_channels_of_any_recipe() -> None:
    settings = {"grid.num_ofdm_symbols": 3, "grid.num_subcarriers": 6, "pilots.symbols": [1]}
    options = {"num_components": 2, "structure": "block-circulant", "max_iter": 2}
    result = fit_prior(PriorConfig("gmm", options, stream="ofdm-siso", overrides=settings, num_samples=100))
    assert result.prior.shape == (1, 1, 3, 6)
    h = training_channels(wc.simulate.load_recipe("ofdm-siso", settings), 5)
    assert h.shape == (5, 1, 1, 3, 6)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"model": "gmn"}, UnknownNameError, "did you mean 'gmm'"),
        ({"stream": "quantized-simo", "data": "x"}, InvalidValueError, "exclude each other"),
        ({"data": "x", "overrides": {"a": 1}}, InvalidValueError, "there is none to change"),
        ({"overrides": [1]}, InvalidTypeError, "overrides must be a mapping"),
        ({"num_samples": 0}, InvalidValueError, "num_samples=0"),
        ({"snr_db": 3.0}, InvalidValueError, "give from_observations too"),
        ({"snr_db": float("nan"), "from_observations": True}, InvalidValueError, "snr_db=nan"),
        ({"from_observations": 1}, InvalidTypeError, "from_observations=1"),
        ({"max_time": 0}, InvalidValueError, "max_time"),
        ({"seed": -1}, InvalidValueError, "seed=-1"),
        ({"model_options": {"num_component": 3}}, UnknownNameError, "did you mean 'num_components'"),
        ({"model_options": {"num_components": 0}}, InvalidValueError, "num_components=0"),
        ({"model_options": {"structure": "ful"}}, UnknownNameError, "did you mean 'full'"),
        ({"num_samples": 1, "model_options": {"num_components": 2}}, InvalidValueError, "num_components"),
        ({"stream": "quantised-simo"}, UnknownNameError, "did you mean 'quantized-simo'"),
        ({"stream": "ofdm-siso", "from_observations": True}, InvalidValueError, "needs quantised pilots"),
        ({"data": "nowhere"}, StoreError, "nowhere does not exist"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], kind: type[Exception], text: str) -> None:
    small = {} if "data" in settings or settings.get("stream") == "ofdm-siso" else {"overrides": SMALL}
    with pytest.raises(kind, match=text) as caught:
        fit_prior(PriorConfig(**({"model": "gmm"} | small | settings)))
    assert "\n" not in str(caught.value)


def test_released_priors(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "quantized-gmm"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(saved.read_bytes())
    lines = ["title: x", "kind: gmm", "trained_on: quantized-simo", "command: x", "wall_time: 1 min", "headline:"]
    (folder / "config.yaml").write_text("\n".join(lines))
    monkeypatch.setattr(zoo, "model_folder", lambda: folder.parent)
    assert isinstance(wc.load("quantized-gmm"), GMM)
    (info,) = zoo.list_models()
    assert (info.name, info.kind, info.weights.obs) == ("quantized-gmm", "gmm", None)
    assert info.weights.num_parameters == 2 * 16 + 2  # two Hermitian matrices and two weights
