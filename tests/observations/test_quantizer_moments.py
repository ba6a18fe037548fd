"""E[Q_i(u) Q_j(v)]: table, series and gradients against adaptive quadrature of another formula, and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import multivariate_normal

from wichan.observations import Quantizer
from wichan.observations.quantizer_moments import Jumps, PairMoment, common_moment, pair_slopes, series_moment, table_moment

CPU = torch.device("cpu")


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_quadrature(rows: Quantizer, columns: Quantizer, rho: float, alpha: float, beta: float) -> float:
    """E[Q_i(u) E[Q_j(v) | u]] by adaptive quadrature over each cell of u: the inner expectation is a sum of normal cdfs."""
    tau, labels = rows.thresholds.numpy() * alpha, rows.labels.numpy()
    inner_tau, inner_jumps, lowest = columns.thresholds.numpy() * beta, columns.labels.diff().numpy(), float(columns.labels[0])
    spread = math.sqrt(1 - rho**2)

    def integrand(u: float) -> float:
        mean = lowest + float(inner_jumps @ ndtr((rho * u - inner_tau) / spread))
        return math.exp(-u * u / 2) / math.sqrt(2 * math.pi) * mean

    edges = np.clip([-11.0, *tau, 11.0], -11, 11)
    total = 0.0
    for low, high, label in zip(edges[:-1], edges[1:], labels, strict=True):
        if high > low:
            kinks = [k for k in inner_tau / rho if low < k < high] if abs(rho) > 0.5 else []
            total += label * quad(integrand, low, high, points=kinks or None, epsabs=1e-13, epsrel=1e-12, limit=300)[0]
    return total


PAIRS = [
    (2, "uniform", 2, "uniform"),
    (3, "lloyd-max", 3, "lloyd-max"),
    (1, "uniform", 3, "uniform"),
    (4, "uniform", 2, "lloyd-max"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[1]}{p[0]}-{p[3]}{p[2]}")
@pytest.mark.parametrize("rho", [-0.3, 0.6, 0.95, -0.999])
def test_table_and_series_equal_quadrature(pair: tuple, rho: float) -> None:
    rows, columns = Quantizer(pair[0], pair[1]), Quantizer(pair[2], pair[3])
    jumps = Jumps.of(rows, CPU), Jumps.of(columns, CPU)
    for alpha, beta in ((1.0, 1.0), (0.6, 1.3), (2.5, 0.2)):
        want = by_quadrature(rows, columns, rho, alpha, beta)
        # 1e-9 is what the library states.
        assert float(table_moment(*jumps, one(rho)[None], one(alpha), one(beta))) == pytest.approx(want, abs=1e-9)
        entry = one(rho).reshape(1, 1, 1, 1).expand(1, 2, 1, 1)
        got = series_moment(*jumps, entry, one(alpha)[None], one(beta)[None])
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_two_bits_equal_box_probabilities_of_a_bivariate_normal() -> None:
    rows, rho, alpha, beta = Quantizer(2), 0.7, 1.1, 0.8
    edges = [np.array([-9.0, *(rows.thresholds.numpy() * scale), 9.0]) for scale in (alpha, beta)]
    normal = multivariate_normal(mean=[0, 0], cov=[[1, rho], [rho, 1]])
    cdf = np.array([[normal.cdf([a, b]) for b in edges[1]] for a in edges[0]])
    box = cdf[1:, 1:] - cdf[:-1, 1:] - cdf[1:, :-1] + cdf[:-1, :-1]
    want = rows.labels.numpy() @ box @ rows.labels.numpy()
    half = Jumps.of(rows, CPU)
    # SciPy's bivariate cdf has errors of some 1e-8 in each of 16 boxes.
    assert float(table_moment(half, half, one(rho)[None], one(alpha), one(beta))) == pytest.approx(want, abs=1e-6)


def test_one_bit_is_the_arcsine_law() -> None:
    rho = torch.cat([-torch.logspace(-12, 0, 200, dtype=torch.float64), torch.linspace(0, 1, 300, dtype=torch.float64)])
    half = Jumps.of(Quantizer(1), CPU)
    want = torch.asin(rho) / math.pi  # labels +-1/sqrt(2): half of (2/pi) asin
    for scale in (0.01, 1.0, 30.0):  # there is no threshold that could move
        got = table_moment(half, half, rho[None], one(scale), one(scale))[0]
        # f is constant: the rounding of integrals, and Hermite interpolation of t in a bent coordinate.
        torch.testing.assert_close(got, want, atol=2e-12, rtol=0)


@pytest.mark.parametrize("num_bits", [2, 3, 5, 8])
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 4.0])
def test_table_equals_series_at_any_mismatch_of_the_gain(num_bits: int, scale: float) -> None:
    half = Jumps.of(Quantizer(num_bits), CPU)
    rho = torch.cos(torch.linspace(0.1, 3.0, 200, dtype=torch.float64))
    got = table_moment(half, half, rho[None], one(scale), one(scale))[0]
    want = series_moment(half, half, rho.reshape(1, 1, 20, 10), one(scale)[None], one(scale)[None]).flatten()
    torch.testing.assert_close(got, want, atol=1e-9 * max(1.0, scale**2), rtol=0)


@pytest.mark.parametrize("num_bits", [2, 4])
@pytest.mark.parametrize("ratio", [1.0, 1 + 1e-9, 1 + 1e-4, 1.3])
def test_near_full_correlation(num_bits: int, ratio: float) -> None:
    half = Jumps.of(Quantizer(num_bits), CPU)
    angle = torch.logspace(-10, -0.5, 60, dtype=torch.float64)
    rho = torch.cat([torch.cos(angle), one(1.0), -torch.cos(angle), one(-1.0)])
    table = table_moment(half, half, rho[None], one(1.0), one(ratio))[0]
    series = series_moment(half, half, rho.reshape(1, 2, 1, 61), one(1.0)[None], one(ratio)[None]).flatten()
    torch.testing.assert_close(table, series, atol=1e-9, rtol=0)
    # At rho = 1 both see the same Gaussian: E[Q(u) Q(u)] by adaptive quadrature over the merged cells.
    quantizer = Quantizer(num_bits)
    tau, labels = quantizer.thresholds.numpy(), quantizer.labels.numpy()
    edges = np.unique([-11.0, *tau, *(tau * ratio), 11.0])
    middle = (edges[1:] + edges[:-1]) / 2
    level = labels[np.searchsorted(tau, middle)] * labels[np.searchsorted(tau * ratio, middle)]
    assert float(table[60]) == pytest.approx(float(np.sum(level * np.diff(ndtr(edges)))), abs=1e-9)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 20), st.floats(0.05, 20), st.floats(-1, 1))
def test_odd_and_bounded(first: int, second: int, alpha: float, beta: float, rho: float) -> None:
    jumps = Jumps.of(Quantizer(first), CPU), Jumps.of(Quantizer(second), CPU)
    entry = one(rho, -rho).reshape(1, 2, 1, 1)
    got = series_moment(*jumps, entry, one(alpha)[None], one(beta)[None]).flatten()
    assert float(got.sum()) == 0.0
    swapped = series_moment(*jumps[::-1], entry, one(beta)[None], one(alpha)[None]).flatten()
    torch.testing.assert_close(got, swapped, atol=1e-9, rtol=0)
    # Cauchy-Schwarz with E Q^2 at most the square of the outermost label; the sign is that of rho.
    bound = float(Quantizer(first).labels[-1] * Quantizer(second).labels[-1])
    assert abs(float(got[0])) <= bound + 1e-9
    assert float(got[0]) * rho >= 0 or abs(float(got[0])) < 1e-9


def test_the_choice_between_table_and_series_does_not_show(generator: torch.Generator) -> None:
    half = Jumps.of(Quantizer(3), CPU)
    rho = torch.rand(2, 2, 60, 60, generator=generator, dtype=torch.float64) * 1.9 - 0.95
    scales = one(0.8, 1.1)
    many = common_moment(half, half, rho, scales, scales)
    few = torch.stack([common_moment(half, half, rho[:, :, :1, i : i + 1], scales, scales) for i in range(60)], dim=-1)
    torch.testing.assert_close(many[:, :, 0], few[:, :, 0, 0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[1]}{p[0]}-{p[3]}{p[2]}")
def test_slopes_are_derivatives(pair: tuple, generator: torch.Generator) -> None:
    jumps = Jumps.of(Quantizer(pair[0], pair[1]), CPU), Jumps.of(Quantizer(pair[2], pair[3]), CPU)
    rho = torch.rand(1, 2, 2, 3, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    alpha = torch.rand(1, 2, generator=generator, dtype=torch.float64) + 0.5
    beta = torch.rand(1, 3, generator=generator, dtype=torch.float64) + 0.5
    inputs = [t.requires_grad_() for t in (rho, alpha, beta)]
    # Steps of 1e-4 leave 1e-9 / 1e-4 of the series' tolerance and a curvature of 1e-8.
    assert torch.autograd.gradcheck(lambda *t: PairMoment.apply(*t, *jumps, False), inputs, eps=1e-4, atol=5e-5)


def test_slopes_hold_where_rho_is_zero() -> None:
    half = Jumps.of(Quantizer(2), CPU)
    slope, by_alpha, by_beta = pair_slopes(half, half, one(0.0), one(1.0), one(1.0))
    # At rho = 0 the slope is the product of two Bussgang gains, 1 - distortion each.
    assert float(slope) == pytest.approx((1 - Quantizer(2).distortion) ** 2, abs=1e-12)
    assert float(by_alpha) == pytest.approx(0.0, abs=1e-15) and float(by_beta) == pytest.approx(0.0, abs=1e-15)
