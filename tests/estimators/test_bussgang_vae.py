"""The filter of a stationary covariance of each observation's own, and the estimator that reads it from the observation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import BussgangLMMSE, BussgangVAE
from wichan.estimators import stationary_filter as parts
from wichan.estimators.bussgang_filters import bussgang_filter
from wichan.estimators.bussgang_vae import ConditionalFilter
from wichan.observations import QuantizedPilots, pilot_sequence
from wichan.priors import VAE
from wichan.random import complex_normal
from wichan.testing import check_estimator


def simo(num_rx_ant: int = 8, num_bits: Any = 1, num_pilots: int = 1, **options: Any) -> QuantizedPilots:
    return QuantizedPilots.from_sequence(pilot_sequence(num_pilots), num_rx_ant, num_bits, **options)


def matrix(rows: int, columns: int) -> torch.Tensor:
    return complex_normal((rows, columns), generator=torch.Generator().manual_seed(3), dtype=torch.complex128)


def drawn(obs: QuantizedPilots, generator: torch.Generator, n: int = 5, no: Any = 0.1) -> torch.Tensor:
    h = complex_normal((n, *obs.channel_shape), generator=generator, dtype=torch.complex128)
    return obs.observe(h, no, generator=generator)


LINKS = {
    "1 bit": lambda: simo(),
    "1 bit, 3 pilots": lambda: simo(num_pilots=3),
    "3 bits": lambda: simo(num_bits=3),
    "2 bits, 3 pilots, dither": lambda: simo(num_bits=2, num_pilots=3, dither_power=0.2),
    "Lloyd-Max": lambda: simo(num_bits=2, kind="lloyd-max"),
    "unquantised": lambda: simo(num_bits=math.inf, num_pilots=2),
    "mixed": lambda: simo(4, [1, 1, 3, 3], channel_shape=(4, 1)),
    "planar": lambda: QuantizedPilots(torch.eye(12, dtype=torch.complex128), 1, channel_shape=(3, 4)),
    "dense": lambda: QuantizedPilots(matrix(6, 4), 2),
}


@pytest.mark.parametrize("structure", ["block-circulant", "block-toeplitz"])
@pytest.mark.parametrize("name", list(LINKS))
def test_filters_equal_those_of_the_matrices(name: str, structure: str, generator: torch.Generator) -> None:
    obs = LINKS[name]()
    prior = VAE(obs, 2, structure=structure, hidden=4, depth=0)
    spectra = torch.rand(5, *prior.grid.sizes, generator=generator, dtype=torch.float64) * 3 + 0.05
    no = torch.rand(5, generator=generator, dtype=torch.float64) + 0.05
    r = drawn(obs, generator, no=no)
    found = ConditionalFilter(obs, prior)(spectra, r, no)
    want = bussgang_filter(obs, prior.grid.covariance(spectra), no, "exact", 1e-12)
    assert found.err_var is not None
    # Quadratures and series of several bits are exact to 1e-9 (quantizer_moments); all else is rounding.
    h_hat = (want.weight() @ r[..., None])[..., 0].reshape(found.h_hat.shape)
    torch.testing.assert_close(found.h_hat, h_hat, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.err_var.flatten(1), want.error, atol=1e-8, rtol=0)
    white = torch.linalg.solve_triangular(want.root, r[..., None], upper=False)[..., 0]
    torch.testing.assert_close(found.log_likelihood, -want.log_det() - white.abs().square().sum(-1), atol=1e-7, rtol=0)
    without = ConditionalFilter(obs, prior)(spectra, r, no, error=False)
    torch.testing.assert_close(without.h_hat, found.h_hat, atol=1e-12, rtol=0)
    torch.testing.assert_close(without.log_likelihood, found.log_likelihood, atol=1e-11, rtol=0)


@pytest.mark.parametrize("structure", ["circulant", "toeplitz"])
def test_training_uses_white_distortion_for_several_bits(structure: str, generator: torch.Generator) -> None:
    obs = simo(num_bits=2, num_pilots=2)
    prior = VAE(obs, 2, structure=structure, hidden=4, depth=0)
    spectra = torch.rand(3, *prior.grid.sizes, generator=generator, dtype=torch.float64) + 0.05
    no, r = torch.full((3,), 0.1, dtype=torch.float64), drawn(obs, generator, 3)
    found = ConditionalFilter(obs, prior)(spectra, r, no, exact=False, error=False)
    want = bussgang_filter(obs, prior.grid.covariance(spectra), no, "white", 1e-12)
    torch.testing.assert_close(found.h_hat, (want.weight() @ r[..., None])[..., 0], atol=1e-12, rtol=0)  # rounding


def test_the_solve_has_the_gradient_of_cholesky(generator: torch.Generator) -> None:
    x = complex_normal((2, 3, 5), generator=generator, dtype=torch.complex128)
    r = complex_normal((2, 3), generator=generator, dtype=torch.complex128).requires_grad_()
    x.requires_grad_()

    def value(x: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return parts.solve(x @ x.mH, r)

    assert torch.autograd.gradcheck(value, (x, r))


@pytest.mark.parametrize("structure", ["circulant", "toeplitz"])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("bits", "num_pilots"), [(1, 1), (1, 2), (2, 1)])
def test_filters_have_the_gradient_of_their_value(
    structure: str, exact: bool, bits: int, num_pilots: int, generator: torch.Generator
) -> None:
    obs = simo(3, bits, num_pilots)
    prior = VAE(obs, 2, structure=structure, hidden=4, depth=0)
    filters, r = ConditionalFilter(obs, prior), drawn(obs, generator, 2)
    no = torch.tensor([0.1, 0.5], dtype=torch.float64)
    spectra = (torch.rand(2, *prior.grid.sizes, generator=generator, dtype=torch.float64) + 0.2).requires_grad_()

    def value(spectra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = filters(spectra, r, no, exact=exact, error=exact)
        return found.h_hat, found.log_likelihood, *((found.err_var,) if exact else ())

    assert torch.autograd.gradcheck(value, (spectra,))


# -- The estimator. --


def constant(prior: VAE, spectrum: torch.Tensor) -> VAE:
    """Make a decoder give one spectrum at every point."""
    last = [m for m in prior.decoder if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(-spectrum.flatten().log())
    return prior


@pytest.mark.parametrize("structure", ["circulant", "toeplitz"])
@pytest.mark.parametrize("num_samples", [1, 4])
def test_one_covariance_for_all_gives_the_bussgang_lmmse(structure: str, num_samples: int, generator: torch.Generator) -> None:
    obs = simo(num_pilots=2)
    prior = VAE(obs, 2, structure=structure, hidden=4, error_head=False).double()
    prior = constant(prior, torch.rand(prior.grid.sizes, generator=generator, dtype=torch.float64) + 0.1)
    r, no = drawn(obs, generator, 6), torch.tensor([0.1, 0.1, 0.2, 0.2, 1.0, 1.0])
    want = BussgangLMMSE(obs, prior.grid.covariance(prior.decode(torch.zeros(1, 2).double())[0]).detach())(r, no)
    for weights in ("uniform", "posterior"):
        with torch.no_grad():
            found = BussgangVAE(prior, num_samples=num_samples, weights=weights)(r, no)  # type: ignore[arg-type]
        # rounding
        torch.testing.assert_close(found.h_hat, want.h_hat, atol=1e-10, rtol=0)
        torch.testing.assert_close(found.err_var, want.err_var, atol=1e-10, rtol=0)


def test_several_points_are_averaged_with_their_weights(generator: torch.Generator) -> None:
    obs = simo(4)
    prior = VAE(obs, 2, hidden=8, depth=1, error_head=False).double()
    r, no = drawn(obs, generator, 3), 0.1
    with torch.no_grad():
        mean, log_std = prior.encode(r, no)
        filters, level = ConditionalFilter(obs, prior), torch.full((3,), no, dtype=torch.float64)
        for weights in ("uniform", "posterior"):
            est = BussgangVAE(prior, num_samples=5, weights=weights, seed=3)  # type: ignore[arg-type]
            assert torch.equal(est.offsets[:2], -est.offsets[3:])
            points = [mean + offset * log_std.exp() for offset in est.offsets]
            found = [filters(prior.decode(z), r, level) for z in points]
            normal = torch.distributions.Normal
            scores = torch.zeros(5, 3, dtype=torch.float64)
            if weights == "posterior":
                prior_of = [normal(torch.zeros(2).double(), 1.0).log_prob(z).sum(-1) for z in points]
                proposal = [normal(mean, log_std.exp()).log_prob(z).sum(-1) for z in points]
                rows = zip(found, prior_of, proposal, strict=True)
                scores = torch.stack([one.log_likelihood + p - q for one, p, q in rows])
            w = scores.softmax(0)[..., None]
            h_hat = sum(w[s] * one.h_hat for s, one in enumerate(found))
            err_var = sum(w[s] * (one.err_var + (one.h_hat - h_hat).abs().square()) for s, one in enumerate(found))
            got = est(r, no)
            torch.testing.assert_close(got.h_hat, h_hat, atol=1e-12, rtol=0)  # rounding
            torch.testing.assert_close(got.err_var, err_var, atol=1e-12, rtol=0)


def test_the_error_head_sets_the_mean_and_the_filter_the_shares(generator: torch.Generator) -> None:
    obs = simo()
    prior = VAE(obs, 2, hidden=8).double()
    with torch.no_grad():
        prior.error_network[-1].bias.fill_(math.log(0.3))
    est, r = BussgangVAE(prior), drawn(obs, generator)
    with torch.no_grad():
        found = est(r, 0.1).err_var
        prior.error_head = False
        plain = est(r, 0.1).err_var
    torch.testing.assert_close(found.mean(-1), torch.full((5,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(found / found.mean(-1, keepdim=True), plain / plain.mean(-1, keepdim=True))


def test_a_quarter_turn_of_the_observation_turns_the_estimate(generator: torch.Generator) -> None:
    obs = simo()
    est, r = BussgangVAE(VAE(obs, 3, hidden=8)), drawn(obs, generator)
    with torch.no_grad():
        torch.testing.assert_close(est(1j * r, 0.1).h_hat, 1j * est(r, 0.1).h_hat, atol=1e-12, rtol=0)  # rounding


PRIORS = {
    "default": lambda: VAE(simo(), 3, hidden=8),
    "paper": lambda: VAE.preset("paper", simo(num_pilots=2), 3),
    "three bits": lambda: VAE(simo(4, 3), 3, hidden=8, structure="circulant"),
    "planar": lambda: VAE(LINKS["planar"](), 3, hidden=8),
    "dense": lambda: VAE(LINKS["dense"](), 3, hidden=8),
    "linear": lambda: VAE(simo(num_bits=math.inf), 3, hidden=8),
}


@pytest.mark.parametrize("name", list(PRIORS))
def test_contract(name: str, generator: torch.Generator) -> None:
    prior = PRIORS[name]()
    skip = {"noise_monotone": "random weights promise nothing"}
    check_estimator(BussgangVAE(prior), prior.obs, generator=generator, skip=skip)
    if name == "default":
        check_estimator(BussgangVAE(prior, num_samples=3, weights="posterior"), prior.obs, generator=generator, skip=skip)


def test_large_batches_go_in_pieces(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = simo()
    est, r = BussgangVAE(VAE(obs, 3, hidden=8)), drawn(obs, generator, 7)
    with torch.no_grad():
        whole = est(r, 0.1)
        monkeypatch.setattr(ConditionalFilter, "chunk", lambda self: 3)
        pieces = est(r, 0.1)
        none = est(r[:0], 0.1)
    torch.testing.assert_close(pieces.h_hat, whole.h_hat, atol=1e-12, rtol=0)
    torch.testing.assert_close(pieces.err_var, whole.err_var, atol=1e-12, rtol=0)
    assert none.h_hat.shape == none.err_var.shape == (0, 8)


def test_the_genie_must_be_told_the_channel(generator: torch.Generator) -> None:
    obs = simo(4, channel_shape=(4, 1, 1, 1))
    est = BussgangVAE(VAE(obs, 2, variant="genie", hidden=8))
    h = complex_normal((2, 3, 4, 1, 1, 1), generator=generator)
    r = obs.observe(h, 0.1, generator=generator)
    assert est.told == ("h",)
    with torch.no_grad():
        assert est(r, 0.1, h=h).h_hat.shape == h.shape
        with pytest.raises(InvalidValueError, match="^h is missing[^\n]*$"):
            est(r, 0.1)
        with pytest.raises(ShapeError, match="^h has shape[^\n]*$"):
            est(r, 0.1, h=h[..., 0])
        with pytest.raises(ShapeError, match="^h has shape[^\n]*$"):
            est(r, 0.1, h=h[:1])


# -- Which observation. --


def test_an_equal_observation_is_taken() -> None:
    prior = VAE(simo(), 3, hidden=8)
    other = simo()
    assert BussgangVAE(prior, other).obs is other
    assert BussgangVAE(prior).obs is prior.obs
    est = BussgangVAE(prior).for_observation(other)
    assert est.obs is other
    assert est.prior is prior


@pytest.mark.parametrize(
    ("obs", "text"),
    [
        (simo(num_bits=2), "num_bits=2; the prior was made for 1"),
        (simo(num_pilots=2), "num_measurements=16"),
        (simo(channel_shape=(8, 1)), r"channel_shape=\(8, 1\)"),
        (QuantizedPilots(1j * torch.eye(8, dtype=torch.complex128)), "another matrix"),
        (simo(input_power=2.0), "input_power=2"),
        (simo(dither_power=0.5), "dither_power=0.5"),
    ],
)
def test_another_observation_is_refused(obs: QuantizedPilots, text: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^obs has [^\n]*{text}[^\n]*$"):
        BussgangVAE(VAE(simo(), 3, hidden=8), obs)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_samples": 0}, InvalidValueError),
        ({"num_samples": 1.5}, InvalidTypeError),
        ({"weights": "best"}, UnknownNameError),
        ({"seed": -1, "num_samples": 2}, InvalidValueError),
        ({"no_floor": 0.0}, InvalidValueError),
        ({"obs": 3}, InvalidTypeError),
        ({"prior": torch.nn.Linear(1, 1)}, InvalidTypeError),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="^[^\n]*$"):
        BussgangVAE(**({"prior": VAE(simo(), 3, hidden=8)} | options))


def test_copies_are_independent(generator: torch.Generator) -> None:
    est = BussgangVAE(VAE(simo(), 3, hidden=8))
    other = copy.deepcopy(est)
    with torch.no_grad():
        other.prior.decoder[-1].bias.add_(1.0)
        assert not torch.equal(est.prior.decoder[-1].bias, other.prior.decoder[-1].bias)
