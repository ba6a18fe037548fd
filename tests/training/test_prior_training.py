"""Training of a variational autoencoder: losses against formulas, a run from start to end, and its files."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError
from wichan.estimators import BLS, BussgangVAE
from wichan.estimators.bussgang_vae import ConditionalFilter
from wichan.observations import QuantizedPilots, pilot_sequence
from wichan.priors import VAE
from wichan.random import complex_normal
from wichan.training import TrainConfig, TrainProgress, fit, load_weights, save_weights
from wichan.training.data import open_source
from wichan.training.prior_files import load_prior, save_prior
from wichan.training.prior_losses import PriorLoss, parse_prior_loss
from wichan.training.prior_task import PriorTraining

ARRAY = {"channel.num_rx_ant": 8}


def settings_of(**settings: Any) -> TrainConfig:
    """Settings of a run that takes a second."""
    options = {"num_factors": 2, "hidden": 16, "depth": 1} | settings.pop("model_options", {})
    small: dict[str, Any] = {"overrides": ARRAY, "batch_size": 32, "val_frames": 64, "val_every": 4, "max_steps": 12}
    if "max_time" in settings:
        del small["max_steps"]
    return TrainConfig.of("vae", **(small | {"model_options": options} | settings))


def train(config: TrainConfig, **options: Any) -> Any:
    return fit(config, device="cpu", **options)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# -- Losses. --


def test_losses_are_sums_with_weights() -> None:
    assert parse_prior_loss("elbo") == {"elbo": 1.0}
    assert parse_prior_loss("mse+0.01*kl") == {"mse": 1.0, "kl": 0.01}
    assert parse_prior_loss(" 2 * nll + 1e+2*kl + log-mse") == {"nll": 2.0, "kl": 100.0, "log-mse": 1.0}


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("hinge", UnknownNameError, "loss='hinge'"),
        ("mse+", UnknownNameError, "loss=''"),
        ("mse+mse", InvalidValueError, "names a term twice"),
        ("elbo+kl", InvalidValueError, "elbo, which is nll + kl"),
        ("x*kl", InvalidValueError, "the weight of kl must be a number above 0, got 'x'"),
        ("0*kl", InvalidValueError, "the weight of kl must be a number above 0, got '0'"),
        ("nan*kl", InvalidValueError, "the weight of kl"),
        (3, InvalidTypeError, "loss must be a name, got int"),
    ],
)
def test_bad_losses(name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        parse_prior_loss(name)
    assert text in str(caught.value)


def batch_for(obs: QuantizedPilots, generator: torch.Generator) -> dict[str, torch.Tensor]:
    size = (6, *obs.channel_shape)
    h, noise = (complex_normal(size, generator=generator, dtype=torch.complex128) for _ in range(2))
    no = torch.rand(6, generator=generator, dtype=torch.float64) + 0.05
    return {"h": h, "y": obs.observe(h, no, generator=generator), "no": no, "noise": noise}


def value_of(name: str, prior: VAE, batch: dict[str, torch.Tensor], spectra: torch.Tensor) -> float:
    mean, log_std = prior.encode(batch["y"], batch["no"])
    return float(PriorLoss(name, prior)(prior, mean, log_std, spectra, batch).detach())


def log_density(x: torch.Tensor, cov: torch.Tensor) -> torch.Tensor:
    """Mean of log CN(x; 0, cov) with an inverse and a determinant, without its constant."""
    quadratic = (x.conj()[:, None, :] @ torch.linalg.inv(cov) @ x[..., None])[:, 0, 0].real
    return (-torch.logdet(cov).real - quadratic).mean()


@pytest.mark.parametrize(
    ("structure", "variant"), [("circulant", "noisy"), ("toeplitz", "noisy"), ("circulant", "real"), ("toeplitz", "real")]
)
def test_nll_is_the_density_of_what_is_explained(structure: str, variant: str, generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), 4, 1)
    prior = VAE(obs, 2, structure=structure, variant=variant, hidden=8, depth=0, error_head=False).double()
    batch = batch_for(obs, generator)
    spectra = torch.rand(6, *prior.grid.sizes, generator=generator, dtype=torch.float64) + 0.1
    cov, x = prior.grid.covariance(spectra), batch["h"]
    if variant == "real":
        cov, x = obs.output_covariance(obs.input_covariance(cov, batch["no"]), batch["no"]), batch["y"]
    elif structure == "toeplitz":
        cov = cov + batch["no"][:, None, None] * torch.eye(4)
        x = x + batch["noise"] * batch["no"].sqrt()[:, None]
    # Loading of 1e-4 for single precision where converters are behind; else rounding.
    tolerance = 5e-3 if variant == "real" and structure == "toeplitz" else 1e-10
    assert value_of("nll", prior, batch, spectra) == pytest.approx(-float(log_density(x, cov)), abs=tolerance)
    mean, log_std = prior.encode(batch["y"], batch["no"])
    divergence = float(prior.divergence(mean, log_std).detach())
    total = value_of("nll", prior, batch, spectra) + divergence
    assert value_of("elbo", prior, batch, spectra) == pytest.approx(total)
    assert value_of("2*nll+0.5*kl", prior, batch, spectra) == pytest.approx(2 * total - 1.5 * divergence)


@pytest.mark.parametrize("structure", ["circulant", "toeplitz"])
def test_mse_is_that_of_the_filter(structure: str, generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(1), 4, 1)
    prior = VAE(obs, 2, structure=structure, hidden=8, depth=0, error_head=False).double()
    batch = batch_for(obs, generator)
    spectra = torch.rand(6, *prior.grid.sizes, generator=generator, dtype=torch.float64) + 0.1
    found = ConditionalFilter(obs, prior)(spectra, batch["y"], batch["no"])
    error = (found.h_hat - batch["h"]).abs().square().sum(-1)
    # Loading of 1e-4 of the diagonal.
    assert value_of("mse", prior, batch, spectra) == pytest.approx(float(error.mean()), rel=1e-3)
    log = (4 * (error / 4 + 1e-3).log()).mean()
    assert value_of("log-mse", prior, batch, spectra) == pytest.approx(float(log), rel=1e-3)


@pytest.mark.parametrize("name", ["mse", "elbo"])
def test_the_error_is_learned_beside(name: str, generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(1), 4, 1)
    prior = VAE(obs, 2, hidden=8, depth=0).double()
    with torch.no_grad():
        prior.error_network[-1].bias.fill_(math.log(0.5))
    batch = batch_for(obs, generator)
    mean, log_std = prior.encode(batch["y"], batch["no"])
    spectra = prior.decode(mean)
    error = (ConditionalFilter(obs, prior)(spectra, batch["y"], batch["no"]).h_hat - batch["h"]).abs().square().mean(-1)
    PriorLoss(name, prior)(prior, mean, log_std, spectra, batch).backward()
    # d/d log v of log v + e/v, with e to the loading of 1e-4.
    assert float(prior.error_network[-1].bias.grad) == pytest.approx(float((1 - error / 0.5).detach().mean()), abs=1e-3)


def test_without_channels_there_is_no_squared_error() -> None:
    config = settings_of(model_options={"variant": "real"}, loss="mse+kl")
    with pytest.raises(InvalidValueError, match="^loss='mse\\+kl': mse needs channels[^\n]*$"):
        train(config)


# -- Settings. --


def test_defaults_follow_the_model() -> None:
    plain = TrainConfig.of("vae")
    assert (plain.stream, plain.loss, plain.monitor) == ("quantized-simo", "mse+0.01*kl", "nmse_db")
    paper = TrainConfig.of("vae", model_options={"preset": "paper"})
    assert (paper.loss, paper.lr, paper.optimiser, paper.ema, paper.clip) == ("elbo", 5e-4, "adam", 0.0, 1.0)
    real = TrainConfig.of("vae", model_options={"variant": "real"})
    assert (real.loss, real.monitor) == ("nll+2*kl", "loss")
    assert TrainConfig.of("vae", loss="elbo", lr=0.1).lr == 0.1
    assert TrainConfig.from_dict(real.to_dict()) == real
    with pytest.raises(UnknownNameError, match="loss='log-mse\\+nll' is unknown|loss='hinge'"):
        TrainConfig.of("vae", loss="hinge")
    with pytest.raises(UnknownNameError, match="loss='elbo'"):
        TrainConfig.of("linear", loss="elbo")
    with pytest.raises(UnknownNameError, match="model='vea'.*did you mean 'vae'"):
        TrainConfig.of("vea")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"stream": "ofdm-siso", "overrides": {}}, InvalidValueError, "only kind 'quantized'"),
        ({"model_options": {"factors": 3}}, UnknownNameError, "model option='factors'"),
        ({"model_options": {"preset": "papre"}}, UnknownNameError, "did you mean 'paper'"),
        ({"model_options": {"num_factors": 0}}, InvalidValueError, "num_factors=0"),
        ({"target": "y"}, InvalidValueError, "target='y': a vae learns the column h"),
    ],
)
def test_wrong_requests_are_one_line(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        train(settings_of(**settings))
    assert text in str(caught.value)


def test_other_networks_are_not_trained_on_converters() -> None:
    with pytest.raises(InvalidValueError, match="only kind 'ofdm' has pilots"):
        train(TrainConfig.of("linear", stream="quantized-simo", max_steps=1))


# -- A run. --


def test_a_run_learns_and_leaves_a_folder(tmp_path: Path) -> None:
    config = settings_of(max_steps=200, val_every=100, batch_size=64, lr=3e-3, val_frames=500)
    result = train(config, out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [100, 200]
    est = result.estimator
    assert isinstance(est, BussgangVAE)
    assert not est.training
    frames = open_source(config).fixed(("h", "y", "no"), config.val_frames)
    with torch.no_grad():
        found = est(frames["y"], frames["no"])
        plain = BLS(est.obs)(frames["y"], frames["no"])
    energy = frames["h"].abs().square().sum()
    got, bls = (float(10 * ((e.h_hat - frames["h"]).abs().square().sum() / energy).log10()) for e in (found, plain))
    assert result.best["nmse_db"] == pytest.approx(got, abs=1e-4)  # float32 in other batch sizes
    assert set(result.best) == {"nmse_db", "score_db", "error_ratio", "loss"}
    assert got < bls - 3  # which amplifies noise: mean error about 4 over -10 ... 20 dB
    assert got < -1  # and better than no estimate at all, 0 dB
    ratio = float(((found.h_hat - frames["h"]).abs().square() / found.err_var).mean())
    assert result.best["error_ratio"] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_options": {"preset": "paper", "num_factors": 2}},
        {"model_options": {"structure": "circulant"}, "loss": "elbo"},
        {"loss": "mse+0.1*elbo"},
        {"loss": "log-mse+0.01*kl"},
        {"model_options": {"variant": "genie"}},
        {"model_options": {"variant": "real"}},
        {"model_options": {"variant": "real", "structure": "circulant"}, "overrides": ARRAY | {"num_bits": 2}},
        {"overrides": ARRAY | {"num_bits": 3, "num_pilots": 2}},
        {"overrides": ARRAY | {"num_bits": "inf"}},
        {"overrides": {"channel.num_rx_ant": 3, "channel.num_tx_ant": 2, "num_pilots": 2}},
        {"precision": "bf16-mixed"},
        {"model_options": {"free_bits": 0.2}, "ema": 0.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.get("model_options", settings).values())).replace(" ", ""),
)
def test_other_settings(settings: dict[str, Any]) -> None:
    if "preset" in settings.get("model_options", {}):
        config = settings_of(**settings, loss="elbo")
        config = config.changed(model_options=settings["model_options"])
    else:
        config = settings_of(**settings)
    result = train(config, threads=1)
    assert result.steps == 12
    assert all(math.isfinite(value) for value in result.best.values())
    assert all(torch.isfinite(value).all() for value in result.estimator.state_dict().values())


@pytest.mark.slow
def test_learning_from_observations_alone_finds_the_clusters() -> None:
    # No channel is seen: behind one bit, at 10 dB, a spectrum that knows nothing (white) leaves 1 - 2/(1.1 pi) = 0.42.
    config = settings_of(
        model_options={"variant": "real", "hidden": 32, "num_factors": 4},
        overrides=ARRAY | {"snr_db": 10},
        max_steps=500,
        val_every=250,
        batch_size=128,
        lr=3e-3,
        val_frames=1000,
    )
    result = train(config)
    assert result.best["nmse_db"] < 10 * math.log10(0.42) - 0.7


def interrupt_at(step: int) -> Callable[[TrainProgress], None]:
    def follow(state: TrainProgress) -> None:
        if state.steps == step and not state.metrics:
            os.kill(os.getpid(), signal.SIGINT)

    return follow


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    config = settings_of()
    whole = train(config, out=tmp_path / "whole")
    part = train(config, out=tmp_path / "part", progress=interrupt_at(6))
    assert (part.stopped, part.steps) == ("interrupted", 6)
    assert isinstance(load_weights(tmp_path / "part"), BussgangVAE)  # Ctrl-C keeps weights
    rest = train(config, out=tmp_path / "part", resume=True)
    assert rest.best == whole.best
    assert same(rest.estimator, whole.estimator)


def test_time_limits_a_run() -> None:
    result = train(settings_of(max_time=0.5, val_every=1000))
    assert result.stopped == "max_time"
    assert result.best


def test_noise_is_drawn_anew_from_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"channel.num_rx_ant": 8, "splits.train.num_samples": 64, "splits.val.num_samples": 32}
    recipe = wc.simulate.load_recipe("quantized-simo", small | {"split": ["train", "val"]})
    wc.simulate.run(recipe, tmp_path / "set", workers=1, on_warning=lambda text: None)
    seen: list[torch.Tensor] = []
    value = PriorTraining._value

    def spied(self: Any, prior: Any, batch: Any, generator: Any) -> Any:
        seen.append(batch["y"])
        return value(self, prior, batch, generator)

    monkeypatch.setattr(PriorTraining, "_value", spied)
    data = wc.store.open(tmp_path / "set", split="train")[:]
    stored = {tuple(row.tolist()) for row in data["y"]}
    for variant, redrawn in (("noisy", True), ("real", False)):
        seen.clear()
        options = {"stream": None, "data": str(tmp_path / "set"), "overrides": {}, "ema": 0.0}
        result = train(settings_of(**options, max_steps=2, model_options={"variant": variant}))
        assert result.steps == 2
        steps = [tuple(row.tolist()) for y in seen[:2] for row in y]
        # 16 signs a sample: noise that leaves all of 64 samples as they were has no probability to speak of.
        assert set(steps) <= stored if not redrawn else not set(steps) <= stored


# -- Files. --


def test_files_rebuild_prior_and_estimator(tmp_path: Path, generator: torch.Generator) -> None:
    matrix = complex_normal((6, 4), generator=generator, dtype=torch.complex128)
    for index, obs in enumerate(
        [QuantizedPilots.from_sequence(pilot_sequence(2), 4, 3), QuantizedPilots(matrix, [1, 1, 2, 2, math.inf, 3])]
    ):
        prior = VAE(obs, 2, hidden=8, depth=1, seed=7)
        path = save_weights(BussgangVAE(prior), tmp_path / f"{index}.safetensors", {"steps": 3})
        assert path.read_bytes() == save_prior(prior, tmp_path / f"{index}-prior.safetensors", {"steps": 3}).read_bytes()
        est, alone = load_weights(path), load_prior(path)
        assert isinstance(est, BussgangVAE)
        assert isinstance(alone, VAE)
        r = obs.observe(complex_normal((5, 4), generator=generator, dtype=torch.complex128), 0.1, generator=generator)
        with torch.no_grad():
            want = BussgangVAE(prior)(r, 0.1)
            assert torch.equal(est(r, 0.1).h_hat, want.h_hat)
            assert torch.equal(BussgangVAE(alone, obs)(r, 0.1).err_var, want.err_var)
        assert load_weights(path, obs).obs is obs
    with pytest.raises(InvalidValueError, match="^obs has num_measurements"):
        load_weights(path, QuantizedPilots(torch.eye(4, dtype=torch.complex128)))


def test_damaged_files(tmp_path: Path) -> None:
    prior = VAE(QuantizedPilots.from_sequence(pilot_sequence(1), 4), 2, hidden=8)
    whole = save_prior(prior, tmp_path / "a.safetensors").read_bytes()
    assert b"kind" in whole
    for damaged in (whole[:-9], whole.replace(b'\\"hidden\\": 8', b'\\"hidden\\": 9'), whole.replace(b"hidden", b"hiddem")):
        (tmp_path / "b.safetensors").write_bytes(damaged)
        assert damaged != whole
        with pytest.raises(StoreError, match="^[^\n]*$"):
            load_weights(tmp_path / "b.safetensors")
    with torch.no_grad():
        prior.decoder[-1].bias[0] = math.nan
    with pytest.raises(InvalidValueError, match="NaN"):
        save_weights(prior, tmp_path / "c.safetensors")


@pytest.mark.gpu
def test_a_gpu(tmp_path: Path) -> None:
    config = settings_of(max_steps=12)
    part = fit(config, out=tmp_path, device="cuda", progress=interrupt_at(6))
    rest = fit(config, out=tmp_path, device="cuda", resume=True)
    assert (part.steps, rest.steps) == (6, 12)
    assert next(rest.estimator.parameters()).device.type == "cpu"
    # The channels are the same, the noise is not.
    assert rest.best["nmse_db"] == pytest.approx(train(config).best["nmse_db"], abs=1.0)
