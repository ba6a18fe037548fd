"""EM behind coarse converters: what it maximises, where it begins and ends, and what it gains."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, special

from wichan.channels import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators import GMMEM, BussgangMixture
from wichan.observations import QuantizedPilots, Quantizer, pilot_sequence
from wichan.priors import MixturePrior
from wichan.random import complex_normal

Known = Callable[..., MixturePrior]

COVARIANCE = torch.tensor([[1.0, 0.6 + 0.5j], [0.6 - 0.5j, 1.3]], dtype=torch.complex128)
OTHER = torch.tensor([[0.02, 0.0], [0.0, 0.03]], dtype=torch.complex128)


def objective(obs: QuantizedPilots, r: np.ndarray, no: float, cov: np.ndarray) -> Callable[[np.ndarray], float]:
    """-log p(r | h) - log CN(h; 0, C) of h as (re, im), up to a constant."""
    matrix, bits = obs.matrix().numpy(), obs.num_bits
    edges = np.concatenate([[-np.inf], Quantizer(bits).thresholds.numpy() * obs.scale(no), [np.inf]])

    def value(x: np.ndarray) -> float:
        h = x[: len(cov)] + 1j * x[len(cov) :]
        y, total = matrix @ h, (h.conj() @ np.linalg.solve(cov, h)).real
        for seen, part in ((r.real, y.real), (r.imag, y.imag)):
            cell = np.searchsorted(edges, seen, side="right") - 1
            low, high = ((edges[cell + i] - part) / math.sqrt(no / 2) for i in (0, 1))
            total -= np.log(special.ndtr(high) - special.ndtr(low)).sum()
        return total

    return value


def seen(num_bits: int, count: int, no: float, generator: torch.Generator) -> tuple[QuantizedPilots, torch.Tensor]:
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), 2, num_bits=num_bits)
    h = complex_normal((count, 2), generator=generator, dtype=torch.complex128) @ torch.linalg.cholesky(COVARIANCE).T
    return obs, obs.observe(h, no, generator=generator)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_the_limit_is_the_most_probable_channel(num_bits: int, known_mixture: Known, generator: torch.Generator) -> None:
    no = 0.5
    obs, r = seen(num_bits, 3, no, generator)
    got = GMMEM(known_mixture(COVARIANCE[None]), obs, num_iter=300)(r, no).h_hat.numpy()
    for row, found in zip(r.numpy(), got, strict=True):
        best = optimize.minimize(
            objective(obs, row, no, COVARIANCE.numpy()), np.zeros(4), method="BFGS", options={"gtol": 1e-7}
        )
        # BFGS with numerical slopes ends within about 1e-5 of the optimum.
        np.testing.assert_allclose(found, best.x[:2] + 1j * best.x[2:], atol=1e-4)


def test_every_iteration_climbs(known_mixture: Known, generator: torch.Generator) -> None:
    no = 0.05
    obs, r = seen(1, 4, no, generator)
    prior = known_mixture(COVARIANCE[None])
    steps = [GMMEM(prior, obs, num_iter=count)(r, no).h_hat.numpy() for count in range(8)]
    for t, row in enumerate(r.numpy()):
        value = objective(obs, row, no, COVARIANCE.numpy())
        values = [value(np.concatenate([step[t].real, step[t].imag])) for step in steps]
        assert all(b < a + 1e-12 for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("num_bits", [1, 2])
def test_error_variance_is_the_inverse_curvature(num_bits: int, known_mixture: Known) -> None:
    # On a diagonal of the complex plane real and imaginary parts are alike, and the mean over both is exact.
    no, step = 0.3, 1e-3
    obs = QuantizedPilots(torch.eye(1, dtype=torch.complex128), num_bits)
    r = obs.quantize(torch.full((1, 1), 0.9 + 0.9j, dtype=torch.complex128), no)
    one = torch.full((1, 1, 1), 0.8, dtype=torch.complex128)
    got = GMMEM(known_mixture(one), obs, num_iter=300)(r, no)
    value = objective(obs, r[0].numpy(), no, one[0].numpy())
    x = np.array([got.h_hat.real.item(), got.h_hat.imag.item()])
    shift = np.array([step, 0.0])
    curvature = (value(x + shift) - 2 * value(x) + value(x - shift)) / step**2
    # One real part has variance 1 / curvature; the second difference is good to 1e-6.
    assert got.err_var.item() == pytest.approx(2 / curvature, rel=1e-5)


def test_it_begins_with_the_bussgang_estimate(known_mixture: Known, generator: torch.Generator) -> None:
    obs, r = seen(2, 20, 0.2, generator)
    prior = known_mixture(torch.stack([OTHER, COVARIANCE]))
    want = BussgangMixture(prior, obs, top=1)(r, 0.2).h_hat
    torch.testing.assert_close(GMMEM(prior, obs, num_iter=0)(r, 0.2).h_hat, want)


def test_without_converters_one_iteration_is_the_lmmse_of_the_likeliest(
    known_mixture: Known, generator: torch.Generator
) -> None:
    obs = QuantizedPilots(torch.eye(2, dtype=torch.complex128), math.inf)
    y = torch.tensor([[1.0, 1.2j], [0.05, 0.1]], dtype=torch.complex128)
    got = GMMEM(known_mixture(torch.stack([OTHER, COVARIANCE])), obs, num_iter=1)(y, 0.1)
    for row, cov in enumerate((COVARIANCE, OTHER)):
        gain = cov @ torch.linalg.inv(cov + 0.1 * torch.eye(2))
        torch.testing.assert_close(got.h_hat[row], gain @ y[row])
        torch.testing.assert_close(got.err_var[row], (cov - gain @ cov).diagonal().real)


def test_mixed_resolution_and_many_noise_variances(known_mixture: Known, generator: torch.Generator) -> None:
    obs = QuantizedPilots(torch.eye(2, dtype=torch.complex128), [1, math.inf])
    prior = known_mixture(torch.stack([OTHER, COVARIANCE]), torch.tensor([0.3, 0.7], dtype=torch.float64))
    h = complex_normal((2, 6, 2), generator=generator)
    no = torch.tensor([[0.1], [0.4]]).expand(2, 6).contiguous()
    no[0, 3] = 0.4
    r = obs.observe(h, no, generator=generator)
    est = GMMEM(prior, obs)
    whole = est(r, no)
    assert whole.h_hat.dtype == torch.complex64 and whole.h_hat.shape == (2, 6, 2)
    for index in np.ndindex(2, 6):
        alone = est(r[index], float(no[index]))
        torch.testing.assert_close(alone.h_hat, whole.h_hat[index])
        torch.testing.assert_close(alone.err_var, whole.err_var[index])
    # An antenna without a converter is known to its noise.
    assert float((whole.err_var[..., 1] / no).max()) < 1.0


def test_no_noise_and_many_bits_give_finite_numbers(known_mixture: Known, generator: torch.Generator) -> None:
    prior = known_mixture(torch.stack([OTHER, COVARIANCE]))
    for num_bits in (1, 3, 8, 12):
        obs, r = seen(num_bits, 30, 0.0, generator)
        for no in (0.0, 1e-9, 1e3):
            got = GMMEM(prior, obs)(r, no)
            assert bool(torch.isfinite(got.h_hat).all()) and bool((got.err_var > 0).all())


def test_bad_arguments(known_mixture: Known) -> None:
    prior, obs = known_mixture(COVARIANCE[None]), QuantizedPilots(torch.eye(2, dtype=torch.complex128))
    with pytest.raises(InvalidValueError, match="num_iter=-1 must be at least 0"):
        GMMEM(prior, obs, num_iter=-1)
    with pytest.raises(InvalidTypeError, match="num_iter=2.5 must be an integer"):
        GMMEM(prior, obs, num_iter=2.5)
    with pytest.raises(InvalidTypeError, match="prior"):
        GMMEM(COVARIANCE, obs)
    with pytest.raises(InvalidTypeError, match="obs must be QuantizedPilots"):
        GMMEM(prior, obs.linear)


def test_it_gains_on_the_bussgang_estimate(known_mixture: Known, generator: torch.Generator) -> None:
    # Sixteen antennas, four pilots, one cluster of unknown direction among eight: gains around 2 dB at 10 dB, more with more
    # bits. 400 channels leave 0.3 dB in the ratio.
    model = SpatialGaussian(16)
    drawn = model.sample(8, generator=generator)
    covariances = model.conditional_covariance(drawn.angles, drawn.powers).to(torch.complex128)
    prior = known_mixture(covariances + 1e-6 * torch.eye(16))
    h = prior.sample(400, generator=generator, dtype=torch.complex128)
    for num_bits, gain_db in ((1, 1.0), (2, 1.5)):
        obs = QuantizedPilots.from_sequence(pilot_sequence(4), 16, num_bits=num_bits)
        r = obs.observe(h, 0.1, generator=generator)
        before, after = (
            float((GMMEM(prior, obs, num_iter=count)(r, 0.1).h_hat - h).abs().square().mean()) for count in (0, 30)
        )
        assert 10 * math.log10(before / after) > gain_db
