"""Covariances from quantised observations: an independent recipe, consistency, weights, and bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels.spatial import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanWarning
from wichan.observations import QuantizedPilots, Quantizer, pilot_sequence
from wichan.priors import recover_covariance
from wichan.priors.quantized_samples import QuantizedSamples
from wichan.priors.recovery import Recovery
from wichan.random import complex_normal


def identity_obs(dim: int, num_bits: Any, **options: Any) -> QuantizedPilots:
    return QuantizedPilots(torch.eye(dim, dtype=torch.complex128), num_bits, **options)


def random_covariance(dim: int, generator: torch.Generator, *, unit: bool = True) -> torch.Tensor:
    x = complex_normal((dim, 3), generator=generator, dtype=torch.complex128)
    cov = x @ x.mH + 0.3 * torch.eye(dim)
    root = cov.diagonal().real.rsqrt()
    cov = cov * root * root[:, None]
    if unit:
        return cov
    root = (0.6 + torch.rand(dim, generator=generator, dtype=torch.float64)).sqrt()
    return cov * root * root[:, None]


def draw(cov: torch.Tensor, num: int, generator: torch.Generator) -> torch.Tensor:
    root = torch.linalg.cholesky(cov)
    return complex_normal((num, len(cov)), generator=generator, dtype=torch.complex128) @ root.mT


def nmse(estimate: torch.Tensor, cov: torch.Tensor) -> float:
    return float((estimate - cov).abs().square().sum() / cov.abs().square().sum())


# -- Against an independent recipe. --


def written_out(r: np.ndarray, weights: np.ndarray, num_bits: int, no: float) -> np.ndarray:
    """Steps 1 to 3 of the signs' recipe with loops, before the projection."""
    from scipy.optimize import least_squares
    from scipy.special import erf

    n, dim = weights.sum(), r.shape[1]
    s = (np.where(r.real >= 0, 1, -1) + 1j * np.where(r.imag >= 0, 1, -1)) / np.sqrt(2)
    second = (s * weights[:, None]).T @ s.conj() / n
    corr = np.sin(np.pi / 2 * second.real) + 1j * np.sin(np.pi / 2 * second.imag)
    np.fill_diagonal(corr, 1)
    power = np.full(dim, 1 + no)
    if num_bits > 1:
        step = Quantizer(num_bits).step * np.sqrt((1 + no) / 2)
        tau = step * np.arange(1, 2 ** (num_bits - 1))
        for m in range(dim):
            inside = (np.abs(r[:, m].real)[:, None] < tau) * 0.5 + (np.abs(r[:, m].imag)[:, None] < tau) * 0.5
            share = np.clip((weights[:, None] * inside).sum(0) / n, 1 / n, 1 - 1 / n)
            fit = least_squares(lambda d, p=share: erf(tau / (np.sqrt(2) * d)) - p, 0.7, xtol=1e-15, ftol=1e-15, gtol=1e-15)
            power[m] = 2 * fit.x[0] ** 2
    root = np.sqrt(power)
    return corr * root * root[:, None] - no * np.eye(dim)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_signs_are_the_recipe_written_out(num_bits: int, generator: torch.Generator) -> None:
    no, obs = 0.2, identity_obs(5, num_bits)
    r = obs.observe(draw(random_covariance(5, generator), 400, generator), no, generator=generator)
    weights = torch.rand(400, 2, generator=generator, dtype=torch.float64)
    samples = QuantizedSamples(r, obs, no, "signs")
    got = Recovery(samples).covariances(samples.tally(weights))
    for k in range(2):
        want = written_out(r.numpy(), weights[:, k].numpy(), num_bits, no)
        # Sums over 400 samples in single precision.
        np.testing.assert_allclose(got[k].numpy(), want, atol=2e-5)


@pytest.mark.peers
@pytest.mark.parametrize("num_bits", [2, 3])
def test_signs_are_those_of_the_authors_package(num_bits: int, generator: torch.Generator) -> None:
    from qce.covariance import estimate_covariance_from_quantized_samples
    from qce.quantizers import ScalarQuantizer

    no, obs = 0.1, identity_obs(6, num_bits)
    r = obs.observe(draw(random_covariance(6, generator), 600, generator), no, generator=generator)
    samples = QuantizedSamples(r, obs, no, "signs")
    got = Recovery(samples).covariances(samples.tally(torch.ones(600, 1)))[0] + no * torch.eye(6)
    converter = Quantizer(num_bits)
    scale = obs.scale(no)
    theirs = estimate_covariance_from_quantized_samples(
        r.numpy(),
        n_bits=num_bits,
        quantizer=ScalarQuantizer(labels=converter.labels.numpy() * scale, thresholds=converter.thresholds.numpy() * scale),
        max_iter=200,
    )
    np.testing.assert_allclose(got.numpy(), theirs, atol=2e-5)  # sums over 600 samples in single precision


# -- Consistency. --


@pytest.mark.parametrize("num_bits", [1, 2, 3, 5])
def test_error_falls_with_the_number_of_samples(num_bits: int, generator: torch.Generator) -> None:
    """Acceptance check 13: ten times the samples, a seventh to a twelfth of the error; within 3 times unquantised samples."""
    no, obs, model = 0.1, identity_obs(16, num_bits), SpatialGaussian(16)
    error = {n: np.zeros(3) for n in (1000, 10000)}
    runs = 20
    for _ in range(runs):
        drawn = model.sample(1, generator=generator)
        cov = model.conditional_covariance(drawn.angles.double(), drawn.powers.double())[0].to(torch.complex128)
        cov = (cov + 0.1 * torch.eye(16)) / 1.1
        for n, total in error.items():
            y = draw(cov + no * torch.eye(16), n, generator)
            r = obs.quantize(y, no)
            plain = (y.mT @ y.conj()) / n - no * torch.eye(16)
            raw = (r.mT @ r.conj()) / n - no * torch.eye(16)
            total += [nmse(recover_covariance(r, obs, no), cov), nmse(plain, cov), nmse(raw, cov)]
    recovered, plain, raw = (np.array([error[n][i] for n in error]) / runs for i in range(3))
    # The mean of 20 runs has a standard error of about 15 %, the ratio of two one of 20 %: 10 within 5 and 20.
    assert 5 < recovered[0] / recovered[1] < 20
    assert (recovered < 3 * plain).all()
    if num_bits < 4:
        assert raw[1] > 0.7 * raw[0]  # the quantised covariance itself saturates
        assert recovered[1] < 0.2 * raw[1]


@pytest.mark.parametrize("num_bits", [2, 3])
def test_labels_know_more_than_signs(num_bits: int, generator: torch.Generator) -> None:
    no, obs, errors = 0.1, identity_obs(8, num_bits), np.zeros(2)
    for _ in range(20):
        cov = random_covariance(8, generator)
        r = obs.observe(draw(cov, 2000, generator), no, generator=generator)
        errors += [nmse(recover_covariance(r, obs, no, moments=m), cov) for m in ("labels", "signs")]
    assert errors[0] < 0.85 * errors[1]  # measured 0.6 at two, 0.5 at three bits; means of 20 within 10 %


CASES = {
    "unequal powers": lambda g: (identity_obs(4, 3), random_covariance(4, g, unit=False), 0.1),
    "no noise": lambda g: (identity_obs(4, 2), random_covariance(4, g), 0.0),
    "lloyd-max": lambda g: (identity_obs(4, 3, kind="lloyd-max"), random_covariance(4, g), 0.1),
    "dither": lambda g: (identity_obs(4, 1, dither_power=0.3), random_covariance(4, g), 0.1),
    "mixed": lambda g: (identity_obs(4, (1, 2, 4, math.inf)), random_covariance(4, g), 0.1),
    "two pilots, one bit": lambda g: (
        QuantizedPilots.from_sequence(pilot_sequence(2), 4, 1),
        random_covariance(4, g),
        0.1,
    ),
    "three pilots": lambda g: (QuantizedPilots.from_sequence(pilot_sequence(3), 4, 2), random_covariance(4, g), 0.3),
    "two transmit antennas": lambda g: (
        QuantizedPilots.from_sequence(torch.tensor([[1, 1, 0.5], [1, -1, 1j]], dtype=torch.complex128), 2, 3),
        random_covariance(4, g, unit=False),
        0.1,
    ),
    "another gain": lambda g: (identity_obs(4, 3, input_power=2.0), random_covariance(4, g), 0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_right_in_the_limit(case: str, generator: torch.Generator) -> None:
    obs, cov, no = CASES[case](generator)
    h = draw(cov, 60000, generator).reshape(-1, *obs.channel_shape)
    r = obs.observe(h, no, generator=generator)
    got = recover_covariance(r, obs, no)
    # The error of an element is about 1.5 to 3 / sqrt(60000), 0.012; a wrong power or phase would cost 0.1 and more.
    torch.testing.assert_close(got, cov, atol=0.035, rtol=0)


def test_the_public_variant_of_one_bit(generator: torch.Generator) -> None:
    no, obs = 0.5, identity_obs(4, 1)
    cov = random_covariance(4, generator)
    r = obs.observe(draw(cov, 60000, generator), no, generator=generator)
    got = recover_covariance(r, obs, no, one_bit="correlation")
    torch.testing.assert_close(got, (cov + no * torch.eye(4)) / (1 + no), atol=0.035, rtol=0)  # as above


# -- Weights and noise. --


@pytest.mark.parametrize("num_bits", [1, 3])
def test_components_at_once(num_bits: int, generator: torch.Generator) -> None:
    no, obs = 0.1, identity_obs(5, num_bits)
    r = obs.observe(draw(random_covariance(5, generator), 300, generator), no, generator=generator)
    weights = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    weights[:, 2] = (torch.arange(300) < 100).double()
    got = recover_covariance(r, obs, no, weights)
    # Sums in single precision, and Newton's steps that end at the slowest component.
    for k in range(2):
        torch.testing.assert_close(got[k], recover_covariance(r, obs, no, weights[:, k]), atol=1e-6, rtol=0)
    torch.testing.assert_close(got[2], recover_covariance(r[:100], obs, no), atol=1e-5, rtol=0)
    torch.testing.assert_close(recover_covariance(r, obs, no, 7 * weights), got, atol=1e-5, rtol=0)


def test_noise_levels_are_told_apart(generator: torch.Generator) -> None:
    obs, cov = identity_obs(5, 1), random_covariance(5, generator)
    h = draw(cov, 40000, generator)
    levels = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)[torch.randint(3, (40000,), generator=generator)]
    r = obs.observe(h, levels, generator=generator)
    torch.testing.assert_close(recover_covariance(r, obs, levels), cov, atol=0.04, rtol=0)  # five standard errors
    order = torch.randperm(40000, generator=generator)
    again = recover_covariance(r[order].reshape(200, 200, 5), obs, levels[order].reshape(200, 200))
    torch.testing.assert_close(again, recover_covariance(r, obs, levels), atol=1e-5, rtol=0)  # single-precision sums
    one = recover_covariance(r[levels == 0.1], obs, torch.full((int((levels == 0.1).sum()),), 0.1))
    torch.testing.assert_close(one, recover_covariance(r[levels == 0.1], obs, 0.1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_bits", [1, 2])
def test_noise_that_is_never_twice_the_same(num_bits: int, generator: torch.Generator) -> None:
    obs, cov = identity_obs(4, num_bits), random_covariance(4, generator)
    no = 10 ** (-3 * torch.rand(60000, generator=generator, dtype=torch.float64))
    r = obs.observe(draw(cov, 60000, generator), no, generator=generator)
    torch.testing.assert_close(recover_covariance(r, obs, no), cov, atol=0.04, rtol=0)  # five standard errors


def test_precision_follows_the_input(generator: torch.Generator) -> None:
    obs = QuantizedPilots(torch.eye(3, dtype=torch.complex64), 2)
    r = obs.observe(complex_normal((500, 3), generator=generator), 0.1, generator=generator)
    single = recover_covariance(r, obs, 0.1)
    assert single.dtype == torch.complex64
    assert recover_covariance(r.to(torch.complex128), obs, 0.1).dtype == torch.complex128


def test_quarter_turns_change_nothing(generator: torch.Generator) -> None:
    """r -> j r leaves a circular covariance, and conjugation conjugates it (acceptance check 14)."""
    obs = identity_obs(4, 2)
    r = obs.observe(draw(random_covariance(4, generator), 300, generator), 0.1, generator=generator)
    want = recover_covariance(r, obs, 0.1)
    torch.testing.assert_close(recover_covariance(1j * r, obs, 0.1), want, atol=1e-5, rtol=0)  # single-precision sums
    torch.testing.assert_close(recover_covariance(r.conj(), obs, 0.1), want.conj(), atol=1e-5, rtol=0)


# -- Degenerate and bad input. --


@pytest.mark.parametrize("num_bits", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [1, 50])
def test_equal_observations_end_at_the_floor(num_bits: int, num: int) -> None:
    obs = identity_obs(4, num_bits)
    r = obs.quantize(torch.tensor([[1 + 1j, -1 + 2j, 0.1j, 3]], dtype=torch.complex128), 0.1).expand(num, 4)
    with pytest.warns(WichanWarning, match=rf"{num} equal observation"):
        cov = recover_covariance(r, obs, 0.1)
    assert bool(torch.isfinite(torch.view_as_real(cov)).all())
    assert float(torch.linalg.eigvalsh(cov)[0]) > 0


def test_noise_alone_warns(generator: torch.Generator) -> None:
    obs = identity_obs(3, 3)
    r = obs.quantize(0.1 * complex_normal((200, 3), generator=generator, dtype=torch.complex128), 1.0)
    with pytest.warns(WichanWarning, match="less power than no alone"):
        cov = recover_covariance(r, obs, 1.0)
    torch.testing.assert_close(cov, 1e-6 * torch.eye(3, dtype=torch.complex128))


def test_bad_input(generator: torch.Generator) -> None:
    obs = identity_obs(3, 2)
    r = obs.observe(complex_normal((20, 3), generator=generator, dtype=torch.complex128), 0.1, generator=generator)
    broken = r.clone()
    broken[0, 0] = math.nan
    refused = [
        ((r, obs.linear, 0.1), {}, InvalidTypeError, "obs must be a QuantizedPilots, got DensePilots"),
        ((r, identity_obs(3, math.inf), 0.1), {}, InvalidValueError, "num_bits=inf: nothing is quantised; use fit"),
        ((broken, obs, 0.1), {}, InvalidValueError, "r holds 1 NaN"),
        ((r.real, obs, 0.1), {}, InvalidTypeError, "r has dtype"),
        ((r[:, :2], obs, 0.1), {}, ShapeError, r"r has shape \(20, 2\)"),
        ((r[:0], obs, 0.1), {}, ShapeError, "at least one observation"),
        ((r, obs, -0.1), {}, InvalidValueError, "no=-0.1 must be at least 0"),
        ((r, obs, math.nan), {}, InvalidValueError, "no holds NaN"),
        ((r, obs, torch.ones(3)), {}, ShapeError, "no has shape"),
        ((r, obs, 0.5), {}, InvalidValueError, "no labels of the 2-bit converter at this no"),
        ((r, obs, 0.1, torch.ones(19)), {}, ShapeError, r"weights has shape \(19,\); it must be \(20,\) or \(20, K\)"),
        ((r, obs, 0.1, -torch.ones(20)), {}, InvalidValueError, "weights=-1 must be at least 0"),
        ((r, obs, 0.1, torch.zeros(20)), {}, InvalidValueError, "sum to 0"),
        ((r, obs, 0.1), {"moments": "sign"}, UnknownNameError, "did you mean 'signs'"),
        ((r, obs, 0.1), {"one_bit": "correlation"}, InvalidValueError, "converters that all have one bit"),
        ((r, obs, 0.1), {"floor": 0.0}, InvalidValueError, "floor=0 must be greater than 0"),
    ]
    for arguments, options, error, text in refused:
        with pytest.raises(error, match=text) as caught:
            recover_covariance(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_pilots_that_hide_the_covariance(generator: torch.Generator) -> None:
    x = torch.tensor([[1, 1], [1, -1]], dtype=torch.complex128)
    one_bit = QuantizedPilots.from_sequence(x, 2, 1)
    with pytest.raises(InvalidValueError, match="num_bits=1, which shows no power"):
        recover_covariance(
            one_bit.quantize(complex_normal((9, 4), generator=generator, dtype=torch.complex128), 0.1), one_bit, 0.1
        )
    few = QuantizedPilots.from_sequence(x[:, :1], 2, 2)
    with pytest.raises(InvalidValueError, match="rank 2 for 4 channel elements"):
        recover_covariance(few.quantize(complex_normal((9, 2), generator=generator, dtype=torch.complex128), 0.1), few, 0.1)
