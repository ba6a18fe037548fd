"""Truncated Gaussians against extended precision and SciPy, and the random numbers that drive them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from wichan.estimators.hashed_random import HashedRandom, mixed, row_keys
from wichan.estimators.truncated import inverse_log_cdf, log_probability, truncated_moments, truncated_normal

INF = math.inf
# low, high, mean, variance, log probability: from their definitions in 60 digits (mpmath).
CASES = [
    (-INF, -5.0, -5.1865039671258421, 0.032696434617112225, -15.064998393988726),
    (-INF, -51.0, -51.01959279488113, 0.00038358345112975432, -1305.3511482646023),
    (-INF, -1000.0, -1000.000999998, 9.9999400004999948e-7, -500007.82669481218),
    (-1.0, 2.0, 0.22963717909132897, 0.51976253921153394, -0.20016629432446258),
    (-0.001, 0.001, 0.0, 3.3333328888889101e-7, -7.13354679829352),
    (10.0, 10.001, 10.000499166626417, 8.3332913848914664e-8, -57.831689811773744),
    (-40.0, -39.9, -39.923161943563496, 0.00043552968263218463, -800.62947416012152),
    (0.0, 1e-6, 4.9999999999995833e-7, 8.3333333333330556e-14, -14.734449091169114),
    (-INF, INF, 0.0, 1.0, 0.0),
]


def real(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]:g} to {case[1]:g}")
def test_moments_far_out_and_in_narrow_cells(case: tuple[float, ...]) -> None:
    low, high, mean, variance, log_p = case
    for sign, pair in ((1, (low, high)), (-1, (-high, -low))):
        got = truncated_moments(*real(*pair))
        # Tails count as exponential ones beyond 100 standard deviations, narrow cells below 1/100: 1e-6 of the variance here.
        assert abs(float(got[0]) - sign * mean) < 1e-8 * max(1.0, abs(mean))
        assert abs(float(got[1]) / variance - 1) < 1e-5
        assert abs(float(log_probability(*real(*pair))) - log_p) <= 1e-9 * max(1.0, abs(log_p))


def test_moments_agree_with_scipy_and_join_where_formulas_change() -> None:
    low = torch.linspace(-6, 6, 97, dtype=torch.float64)[:, None]
    width = torch.tensor([0.0099, 0.0101, 0.1, 1.0, 5.0, INF], dtype=torch.float64)
    mean, variance = truncated_moments(low, low + width)
    for i, j in np.ndindex(*mean.shape):
        a, b = float(low[i, 0]), float(low[i, 0] + width[j])
        share = special.ndtr(-a) - special.ndtr(-b) if a > 0 else special.ndtr(b) - special.ndtr(a)
        want = (stats.norm.pdf(a) - stats.norm.pdf(b)) / share
        # SciPy's differences lose digits in narrow cells: 1e-16 over the cell's probability.
        assert abs(float(mean[i, j]) - want) < 1e-7 + 1e-15 / share
    assert bool(((mean >= low) & (mean <= low + width)).all()) and bool(((variance >= 0) & (variance <= 1)).all())
    edge = torch.tensor([-99.999, -100.001], dtype=torch.float64)
    m, v = truncated_moments(torch.full_like(edge, -INF), edge)
    # 2/100^2 of the variance where the exponential tail takes over; 1/100^3 of the mean's distance to the edge.
    assert abs(float((m - edge).diff() / (m - edge)[0])) < 3e-5 and abs(float(v.diff() / v[0])) < 4e-4


def test_the_inverse_reaches_all_tails() -> None:
    log_p = -torch.logspace(math.log10(0.7), 6, 300, dtype=torch.float64)
    np.testing.assert_allclose(inverse_log_cdf(log_p).numpy(), special.ndtri_exp(log_p.numpy()), rtol=1e-9)
    assert inverse_log_cdf(torch.tensor([-math.log(2.0)], dtype=torch.float64)).abs() < 1e-15


@pytest.mark.parametrize(("low", "high"), [(-INF, INF), (0.5, INF), (-INF, -45.0), (-0.2, 0.1), (3.0, 3.5), (60.0, 60.1)])
def test_draws_have_the_moments(low: float, high: float) -> None:
    # Midpoints instead of random numbers: the mean of the inverse distribution function, good to 1/n of the spread.
    count = 20_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    bounds = [x.expand(count) for x in real(low, high)]
    draws = truncated_normal(*bounds, uniform)
    mean, variance = truncated_moments(*real(low, high))
    assert bool(((draws >= low) & (draws <= high)).all())
    assert abs(float(draws.mean() - mean)) < 2e-3 * math.sqrt(float(variance))
    assert abs(float(draws.var() / variance) - 1) < 1e-2
    ends = truncated_normal(*[x.expand(2) for x in real(low, high)], torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert bool(torch.isfinite(ends).all())


def test_hashed_numbers() -> None:
    values = torch.arange(4000, dtype=torch.float64)[:, None].expand(-1, 3)
    stream = HashedRandom(row_keys(values, 5))
    u = stream.uniform(100)
    # Five standard errors of 400 000 uniform numbers: mean, variance, and correlation along and across rows.
    assert abs(float(u.mean()) - 0.5) < 5 * 0.2887 / 632
    assert abs(float(u.var()) * 12 - 1) < 5 * 0.9 / 632
    centred = u - 0.5
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(float(product.mean())) < 5 / 12 / 629
    assert float(u.min()) >= 0 and float(u.max()) < 1 and len(u.unique()) == u.numel()
    z = stream.complex_normal(100)
    assert abs(float(z.abs().square().mean()) - 1) < 5 / 632 and abs(complex((z * z).mean())) < 5 * 1.5 / 632
    assert abs(float(z.abs().pow(4).mean()) - 2) < 5 * 4.5 / 632


def test_a_row_draws_the_same_anywhere() -> None:
    values = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    whole = HashedRandom(row_keys(values, -3)).uniform(4)
    assert torch.equal(whole[0], whole[1])  # minus zero is zero
    assert not torch.equal(whole[0], whole[2])
    assert torch.equal(HashedRandom(row_keys(values[2:], -3)).uniform(4)[0], whole[2])
    assert not torch.equal(HashedRandom(row_keys(values, 10**30)).uniform(4), whole)
    # SplitMix64's finaliser in Python's integers.
    numbers = [1, 12345, -5, 2**62]
    assert [int(x) % 2**64 for x in mixed(torch.tensor(numbers))] == [_split_mix(x % 2**64) for x in numbers]


def _split_mix(z: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) % 2**64
    return z ^ (z >> 31)
