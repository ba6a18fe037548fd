"""What covariance recovery inverts, without noise of sampling: moments, shares inside thresholds, the projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.observations import QuantizedPilots, Quantizer
from wichan.priors.correlation import Bank, correlations
from wichan.priors.quantized_samples import form_features, pair_products
from wichan.priors.recovery import deviation_from_shares, nearest_psd
from wichan.random import complex_normal


def random_covariance(dim: int, generator: torch.Generator) -> torch.Tensor:
    x = complex_normal((dim, 3), generator=generator, dtype=torch.complex128)
    cov = x @ x.mH + 0.3 * torch.eye(dim)
    root = cov.diagonal().real.rsqrt()
    return cov * root * root[:, None]


# -- Inversions without noise of sampling. --


@pytest.mark.parametrize("bits", [(1,), (2,), (3,), (4,), (6,), (1, 3), (2, math.inf), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("limit", [0.5, 0.95, 0.9999])
def test_correlations_come_back_from_exact_moments(bits: tuple, limit: float, generator: torch.Generator) -> None:
    dim, kinds = 8, sorted(set(bits))
    each = [bits[m % len(bits)] for m in range(dim)]
    obs = QuantizedPilots(torch.eye(dim, dtype=torch.complex128), each)
    x = torch.stack([random_covariance(dim, generator) for _ in range(3)])
    x[1] = torch.ones(dim, dim)  # all in phase: the largest correlations
    x = limit * x + (1 - limit) * torch.eye(dim)
    variance = 0.4 + 2 * torch.rand(3, dim, generator=generator, dtype=torch.float64)
    variance[2] = 1.0
    variance[:, [m for m in range(dim) if each[m] == 1]] = 1.0
    root = variance.sqrt()
    r = obs.output_covariance(x * root[:, :, None] * root[:, None, :], 0.0, "exact")
    scale = torch.tensor([1.0 if b == 1 else obs.scale(0.0) for b in each], dtype=torch.float64)
    i, j = torch.triu_indices(dim, dim, 1)
    r = (r / (scale * scale[:, None]))[:, i, j]
    bank = Bank([Quantizer(b) for b in kinds], torch.tensor([kinds.index(b) for b in each]))
    got = correlations(torch.stack([r.real, r.imag], 1) / 2, variance / obs.scale(0.0) ** 2, bank)
    # What `correlations` promises; the series left off at 0.9 and the last Newton step both stay below it.
    torch.testing.assert_close(torch.complex(got[:, 0], got[:, 1]), x[:, i, j], atol=2e-4 if 6 in bits else 1e-4, rtol=0)


@pytest.mark.parametrize("num_bits", [2, 3, 4])
def test_deviation_from_exact_shares(num_bits: int) -> None:
    tau = Quantizer(num_bits).thresholds
    tau = tau[tau > 1e-6]
    s = torch.tensor([0.3, 0.7, 1.0, 1.6, 3.0], dtype=torch.float64)
    shares = torch.erf(tau / (math.sqrt(2) * s[:, None]))
    torch.testing.assert_close(deviation_from_shares(shares, tau), s, atol=1e-9, rtol=0)  # where Newton's steps end


def test_deviation_is_the_least_squares_one(generator: torch.Generator) -> None:
    """Shares that no deviation fits: the published exponent would end elsewhere."""
    from scipy.optimize import minimize_scalar

    tau = torch.tensor([0.6, 1.2, 1.8], dtype=torch.float64)
    shares = torch.erf(tau / (math.sqrt(2) * 0.9)) + 0.05 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    shares = shares.clamp(0.01, 0.99)
    got = deviation_from_shares(shares, tau)
    for want, found in zip(shares, got, strict=True):
        cost = minimize_scalar(
            lambda s, p=want: float((torch.erf(tau / (math.sqrt(2) * s)) - p).square().sum()),
            bounds=(0.1, 10),
            method="bounded",
            options={"xatol": 1e-12},
        )
        assert float(found) == pytest.approx(cost.x, abs=1e-6)  # a minimum is found to the root of the rounding error


def test_deviation_stays_in_bounds() -> None:
    shares = torch.tensor([[1e-9, 1e-9, 1e-9], [1 - 1e-12] * 3], dtype=torch.float64)
    got = deviation_from_shares(shares, torch.tensor([0.6, 1.2, 1.8], dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([10.0, 0.1], dtype=torch.float64))


def test_pair_products_carry_quadratic_forms(generator: torch.Generator) -> None:
    x = complex_normal((20, 6), generator=generator, dtype=torch.complex128)
    p = random_covariance(6, generator)
    want = ((x.conj() @ p) * x).sum(1).real
    torch.testing.assert_close(form_features(p) @ pair_products(x), want, atol=1e-13, rtol=0)  # rounding


# -- The projection. --


def test_nearest_psd_keeps_the_trace(generator: torch.Generator) -> None:
    cov = torch.stack([random_covariance(5, generator) - shift * torch.eye(5) for shift in (0.0, 0.5, 0.9)])
    got = nearest_psd(cov, 1e-6)
    trace = cov.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    torch.testing.assert_close(got.diagonal(dim1=-2, dim2=-1).real.sum(-1), trace, atol=1e-12, rtol=0)
    torch.testing.assert_close(got[0], cov[0], atol=1e-12, rtol=0)  # what is positive stays
    least = torch.linalg.eigvalsh(got)[:, 0] / (trace / 5)
    assert bool((least >= 1e-6 * (1 - 1e-6)).all())


def test_nearest_psd_is_nearest(generator: torch.Generator) -> None:
    """Against the shift that keeps the trace, found by bisection, and against other positive matrices."""
    from scipy.optimize import brentq

    cov = random_covariance(6, generator) - 0.8 * torch.eye(6)
    values = torch.linalg.eigvalsh(cov).numpy()
    shift = brentq(lambda mu: np.maximum(values - mu, 0).sum() - values.sum(), -5, 5, xtol=1e-15)
    got = nearest_psd(cov[None], 1e-9)[0]
    np.testing.assert_allclose(torch.linalg.eigvalsh(got).numpy(), np.maximum(values - shift, 0), atol=1e-8)  # the floor
    for _ in range(30):
        other = got + 0.1 * random_covariance(6, generator)
        other = other * (torch.trace(got).real / torch.trace(other).real)
        assert float(torch.linalg.matrix_norm(other - cov)) >= float(torch.linalg.matrix_norm(got - cov))


def test_more_noise_than_power_gives_the_floor() -> None:
    cov = nearest_psd(-torch.eye(3, dtype=torch.complex128)[None], 1e-6)[0]
    torch.testing.assert_close(cov, 1e-6 * torch.eye(3, dtype=torch.complex128))
