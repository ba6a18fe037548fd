"""The variational autoencoder: sizes, spectra, what the encoder may and may not see, plain data and back, bad input."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import QuantizedPilots, pilot_sequence
from wichan.priors import VAE
from wichan.priors.vae_networks import PilotView, tapered
from wichan.random import complex_normal


def simo(num_rx_ant: int = 8, num_bits: Any = 1, num_pilots: int = 1, **options: Any) -> QuantizedPilots:
    return QuantizedPilots.from_sequence(pilot_sequence(num_pilots), num_rx_ant, num_bits, **options)


def observed(obs: QuantizedPilots, generator: torch.Generator, n: int = 5, no: float = 0.1) -> torch.Tensor:
    h = complex_normal((n, *obs.channel_shape), generator=generator, dtype=torch.complex128)
    return obs.observe(h, no, generator=generator)


# -- Sizes. --


def test_the_published_network_has_its_published_size() -> None:
    # Four layers each, N = 64 and L = 16, a matrix and an offset a layer: as counted by hand.
    obs = simo(64)
    assert VAE.preset("paper", obs).num_parameters == 35_336
    assert VAE.preset("paper", obs).num_factors == 16
    assert tapered(128, 32) == [128, 104, 80, 56, 32]
    assert tapered(16, 64) == [16, 28, 40, 52, 64]


@pytest.mark.parametrize(("structure", "points"), [("circulant", 8), ("toeplitz", 16), ("block-toeplitz", 16)])
@pytest.mark.parametrize("architecture", ["paper", "residual"])
@torch.no_grad()
def test_spectra_have_the_grid(structure: str, points: int, architecture: str, generator: torch.Generator) -> None:
    obs = simo()
    prior = VAE(obs, 3, structure=structure, architecture=architecture, hidden=16)
    r = observed(obs, generator, 6).reshape(2, 3, 8)
    spectra = prior.spectra_of(r, 0.1)
    assert spectra.shape == (2, 3, points)
    assert spectra.dtype == torch.float64  # as r, whatever the weights
    assert float(spectra.min()) > 0
    torch.testing.assert_close(prior(r[1, 2], 0.1), spectra[1, 2])  # rounding in another batch size
    mean, log_std = prior.encode(r, torch.tensor([0.1, 0.2]))  # noise over the leading axis
    assert mean.shape == log_std.shape == (2, 3, 3)


def test_planar_arrays(generator: torch.Generator) -> None:
    obs = QuantizedPilots(torch.eye(12, dtype=torch.complex128), channel_shape=(3, 4))
    prior = VAE(obs, 2, hidden=8, depth=1)
    assert prior.grid.sizes == (6, 8)
    assert prior.spectra_of(observed(obs, generator), 0.1).shape == (5, 6, 8)
    assert prior.sample(7, generator=generator).shape == (7, 3, 4)


@pytest.mark.parametrize("num_pilots", [2, 3, 5])
def test_the_published_network_joins_pilots(num_pilots: int, generator: torch.Generator) -> None:
    obs = simo(4, num_pilots=num_pilots)
    prior = VAE.preset("paper", obs)
    assert isinstance(prior.view, PilotView)
    convolutions = [m for m in prior.view.join if isinstance(m, torch.nn.Conv1d)]
    assert len(convolutions) == num_pilots // 2
    assert isinstance(prior.view.join[-1], torch.nn.Conv1d)  # no rectifier at the end
    assert prior.spectra_of(observed(obs, generator), 0.1).shape == (5, 4)


# -- Spectra. --


def constant(prior: VAE, log_precision: float) -> VAE:
    """Make a decoder give the same at every point."""
    last = [m for m in prior.decoder if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, log_precision)
    return prior


def test_spectra_are_the_inverse_of_the_decoded_precisions_within_limits() -> None:
    for value, want in ((0.5, math.exp(-0.5)), (100.0, 1e-3), (-100.0, 1e6)):
        prior = constant(VAE(simo(), 3, hidden=8, floor=1e-3), value)
        spectra = prior.decode(torch.zeros(1, 3))
        torch.testing.assert_close(spectra, torch.full_like(spectra, want), rtol=1e-5, atol=0)  # float32


@pytest.mark.parametrize(("bits", "variant", "fixed"), [(1, "real", True), (2, "real", False), (1, "noisy", False)])
def test_what_one_bit_does_not_tell_is_set(bits: int, variant: str, fixed: bool) -> None:
    prior = VAE(simo(num_bits=bits), 3, hidden=8, variant=variant)
    for told in (False, True):
        always = told or (bits == 1 and variant == "real")
        assert VAE(simo(num_bits=bits), 3, hidden=8, variant=variant, fixed_power=told).fixed_power == always
    power = prior.decode(torch.randn(4, 3, generator=torch.Generator().manual_seed(1))).mean(-1)
    assert bool(((power - 1).abs() < 1e-6).all()) == fixed  # float32


def test_draws_have_the_power_of_their_spectra(generator: torch.Generator) -> None:
    prior = constant(VAE(simo(), 3, hidden=8), -math.log(2.0))
    h = prior.sample(20_000, generator=generator)
    # 160,000 powers, not all independent: relative standard deviation below 1/140; three times that.
    assert float(h.abs().square().mean()) == pytest.approx(2.0, rel=0.02)
    assert torch.equal(
        *(prior.sample(3, generator=torch.Generator().manual_seed(4)) for _ in range(2)),
    )


def test_divergence_against_torch(generator: torch.Generator) -> None:
    prior = VAE(simo(), 3, hidden=8)
    mean, log_std = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(torch.zeros(3).double(), 1.0)).sum(-1).mean()
    torch.testing.assert_close(prior.divergence(mean, log_std), want)


def test_free_bits_are_not_charged() -> None:
    prior = VAE(simo(), 2, hidden=8, free_bits=0.5)
    mean = torch.tensor([[2.0, 0.1], [2.0, 0.1]], requires_grad=True)
    value = prior.divergence(mean, torch.zeros(2, 2))
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0 + 0.5)  # 2^2/2, and 0.005 that counts as 0.5
    assert mean.grad is not None
    assert mean.grad[:, 1].eq(0).all()
    assert mean.grad[:, 0].ne(0).all()


def test_the_error_is_told_by_a_network_of_its_own(generator: torch.Generator) -> None:
    prior = VAE(simo(), 3, hidden=8)
    mean, no = torch.randn(4, 3, generator=generator).requires_grad_(), torch.full((4,), 0.1)
    level = prior.error_of(mean, no)
    assert level is not None
    assert level.tolist() == [1.0] * 4  # fresh: the power of the channel
    (level.sum() + 0 * mean.sum()).backward()
    assert prior.error_network[-1].bias.grad is not None
    assert mean.grad is not None
    assert not mean.grad.any()  # what it learns does not move the latent points
    for options in ({"error_head": False}, {"variant": "real"}):
        assert VAE(simo(), 3, hidden=8, **options).error_of(mean, no) is None


# -- What the encoder sees. --


@pytest.mark.parametrize("bits", [1, 3, math.inf])
def test_a_turn_of_the_observation_does_not_move_the_latent_point(bits: float, generator: torch.Generator) -> None:
    obs = simo(num_bits=bits)
    prior = VAE(obs, 3, hidden=16).double()
    r = observed(obs, generator)
    for turn in (1j, -1, complex(math.cos(0.3), math.sin(0.3))):  # a quarter, a half, any
        torch.testing.assert_close(prior.encode(turn * r, 0.1)[0], prior.encode(r, 0.1)[0])


def test_the_encoder_sees_the_same_whatever_the_unit(generator: torch.Generator) -> None:
    # Power 4 with 4 times the noise is the same link in another unit: so are the converters' labels.
    eye = torch.eye(8, dtype=torch.complex128)
    near, far = QuantizedPilots(eye, 3), QuantizedPilots(2 * eye, 3)
    prior = VAE(near, 3, hidden=8, told_noise=False).double()
    other = VAE(far, 3, hidden=8, told_noise=False).double()
    h = complex_normal((5, 8), generator=generator, dtype=torch.complex128)
    torch.testing.assert_close(far.noiseless(h), 2 * near.noiseless(h))
    torch.testing.assert_close(other.encode(far.noiseless(h), 0.4)[0], prior.encode(near.noiseless(h), 0.1)[0])


def test_noise_is_told_within_limits(generator: torch.Generator) -> None:
    obs = simo()
    r = observed(obs, generator)
    told, ignorant = (VAE(obs, 3, hidden=8, told_noise=value) for value in (True, False))
    assert not torch.equal(told.encode(r, 0.1)[0], told.encode(r, 1.0)[0])
    assert torch.equal(ignorant.encode(r, 0.1)[0], ignorant.encode(r, 1.0)[0])
    assert torch.equal(told.encode(r, 0.0)[0], told.encode(r, 1e-4)[0])
    assert torch.equal(told.encode(r, 1e9)[0], told.encode(r, 1e3)[0])


def test_the_genie_reads_the_channel(generator: torch.Generator) -> None:
    obs = simo(num_pilots=2)
    for architecture in ("paper", "residual"):
        prior = VAE(obs, 3, variant="genie", architecture=architecture, hidden=8)
        assert prior.told == ("h",)
        r, h = observed(obs, generator), complex_normal((5, 8), generator=generator)
        assert torch.equal(prior.encode(r, 0.1, h)[0], prior.encode(-r, 0.1, h)[0])
        assert not torch.equal(prior.encode(r, 0.1, h)[0], prior.encode(r, 0.1, h.flip(-1))[0])
        with pytest.raises(InvalidValueError, match="^h is missing[^\n]*$"):
            prior.encode(r, 0.1)


def test_weights_follow_the_seed() -> None:
    first, second, other = (VAE(simo(), 3, hidden=8, seed=seed).encoder[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# -- Plain data and back. --


def observations() -> dict[str, QuantizedPilots]:
    matrix = complex_normal((6, 4), generator=torch.Generator().manual_seed(3), dtype=torch.complex128)
    return {
        "sequence": simo(4, 2, 3, kind="lloyd-max", dither_power=0.1),
        "identity": QuantizedPilots(torch.eye(4, dtype=torch.complex128), math.inf, input_power=2.0),
        "matrix": QuantizedPilots(matrix, 3, channel_shape=(2, 2)),
        "mixed": QuantizedPilots(matrix, [1, 2, 3, math.inf, 1, 1]),
        "mimo": QuantizedPilots.from_sequence(torch.eye(2, 3, dtype=torch.complex128), 4),
    }


@pytest.mark.parametrize("name", list(observations()))
def test_config_and_state_rebuild_prior_and_observation(name: str, generator: torch.Generator) -> None:
    obs = observations()[name]
    prior = VAE(obs, 2, hidden=8, depth=1, floor=1e-4, free_bits=0.1, seed=5)
    config = json.loads(json.dumps(prior.config()))
    other = VAE.from_config(config)
    state = prior.state_dict()
    of_the_observation = ["obs.linear.dense_ri"] if name in ("matrix", "mixed") else []
    assert [key for key in state if key.startswith("obs.")] == of_the_observation
    other.load_state_dict(state)
    assert other.config() == prior.config()
    for attribute in ("num_bits", "kind", "channel_shape", "input_power", "dither_power", "is_identity", "num_measurements"):
        assert getattr(other.obs, attribute) == getattr(obs, attribute)
    assert torch.equal(other.obs.matrix(), obs.matrix())
    r = observed(obs, generator)
    assert torch.equal(other.spectra_of(r, 0.1), prior.spectra_of(r, 0.1))
    again = VAE.from_config(config, obs)
    assert again.obs is obs


# -- Bad input. --


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_factors": 0}, InvalidValueError, "num_factors=0 must be at least 1"),
        ({"num_factors": 2.5}, InvalidTypeError, "num_factors=2.5"),
        ({"variant": "noise"}, UnknownNameError, "did you mean 'noisy'"),
        ({"structure": "full"}, UnknownNameError, "structure='full'"),
        ({"architecture": "cnn"}, UnknownNameError, "architecture='cnn'"),
        ({"hidden": 0}, InvalidValueError, "hidden=0"),
        ({"depth": -1}, InvalidValueError, "depth=-1"),
        ({"told_noise": 1}, InvalidTypeError, "told_noise=1 must be true or false"),
        ({"fixed_power": 1}, InvalidTypeError, "fixed_power=1 must be true or false"),
        ({"error_head": None}, InvalidTypeError, "error_head=None must be true or false"),
        ({"floor": 0.0}, InvalidValueError, "floor=0"),
        ({"free_bits": -1.0}, InvalidValueError, "free_bits=-1"),
        ({"seed": -1}, InvalidValueError, "seed=-1"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        VAE(simo(), **options)
    assert text in str(caught.value)


def test_bad_observations(generator: torch.Generator) -> None:
    with pytest.raises(InvalidTypeError, match="^obs must be QuantizedPilots, got int$"):
        VAE(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="^architecture='paper' reads[^\n]*$"):
        VAE(observations()["matrix"], architecture="paper")
    with pytest.raises(UnknownNameError, match="preset='large'"):
        VAE.preset("large", simo())
    prior = VAE(simo(), 3, hidden=8)
    r = observed(simo(), generator)
    bad = r.clone()
    bad[0, 0] = math.nan
    cases: list[tuple[Any, Any, type[Exception]]] = [
        (bad, 0.1, InvalidValueError),
        (r[:, :-1], 0.1, ShapeError),
        (r.real, 0.1, InvalidTypeError),
        (r, -0.1, InvalidValueError),
        (r, torch.ones(4), ShapeError),
    ]
    for given, no, error in cases:
        with pytest.raises(error, match="^[^\n]*$"):
            prior.spectra_of(given, no)
    with pytest.raises(InvalidTypeError, match="generator"):
        prior.sample(2, generator=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="n=0"):
        prior.sample(0, generator=generator)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"obs": None}, "does not say which observation"),
        ({"obs": {}}, "obs in the config"),
        ({"depths": 3}, "depths"),
    ],
)
def test_damaged_configs(change: dict[str, Any], text: str) -> None:
    config = VAE(simo(), 3, hidden=8).config()
    with pytest.raises(InvalidValueError, match="^[^\n]*$") as caught:
        VAE.from_config(config | change)
    assert text in str(caught.value)
