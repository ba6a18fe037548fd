"""What a receiver expects before it has seen anything: powers, spreads and correlations of the drawn profiles and spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from wichan.estimators.scattering import delay_profiles, doppler_correlations
from wichan.linalg import toeplitz

COUNT = 4000
LAGS = torch.arange(14, dtype=torch.float64) / 14e3
TOP = 1500.0


@pytest.fixture
def profiles(generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    delay, power = delay_profiles(COUNT, (20e-9, 500e-9), generator=generator)
    assert delay.dtype == power.dtype == torch.float64 and delay.shape == power.shape == (COUNT, 24)
    return delay.numpy(), power.numpy()


def spread(delay: np.ndarray, power: np.ndarray) -> np.ndarray:
    found = []
    for d, p in zip(delay, power, strict=True):
        mean = np.average(d, weights=p)
        found.append(math.sqrt(np.average((d - mean) ** 2, weights=p)))
    return np.array(found)


def test_powers_sum_to_one_and_the_first_path_arrives_at_zero(profiles: tuple[np.ndarray, np.ndarray]) -> None:
    delay, power = profiles
    assert np.abs(power.sum(1) - 1).max() < 1e-12 and power.min() >= 0 and delay.min() >= 0
    assert np.where(power > 0, delay, np.inf).min(1).max() == 0


def test_number_of_clusters_is_uniform(profiles: tuple[np.ndarray, np.ndarray]) -> None:
    counts = np.bincount((profiles[1] > 0).sum(1), minlength=25)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 0.01


def test_delay_spread_is_log_uniform_in_its_range(profiles: tuple[np.ndarray, np.ndarray]) -> None:
    delay, power = profiles
    found = spread(delay, power)
    assert found.max() < 500e-9 * (1 + 1e-9)
    # One cluster has no spread, and a few have less than the range where a direct path leaves the echoes too little power.
    single = (power > 0).sum(1) == 1
    assert found[single].max() == 0
    many = found[(power > 0).sum(1) >= 4]
    scaled = many[many >= 20e-9 * (1 - 1e-9)]
    assert len(scaled) > 0.97 * len(many)
    uniform = np.log(scaled / 20e-9) / math.log(25)
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01


def test_no_range_means_one_delay_spread(generator: torch.Generator) -> None:
    delay, power = delay_profiles(200, (1e-7, 1e-7), generator=generator)
    found = spread(delay.numpy(), power.numpy())
    assert np.median(found) == pytest.approx(1e-7, rel=1e-9) and found.max() <= 1e-7 * (1 + 1e-9)


def test_a_quarter_of_the_profiles_has_a_direct_path(profiles: tuple[np.ndarray, np.ndarray]) -> None:
    delay, power = profiles
    # K above 0 dB puts more than half of the power into the first path; without a direct one that is rare among 12 and more.
    many = (power > 0).sum(1) >= 12
    first = np.where(delay == 0, power, 0).sum(1)[many]
    share = np.mean(first > 0.5)
    assert abs(share - 0.25) < 0.05  # 2000 profiles: 0.01, and a few shadowed echoes
    k_db = 10 * np.log10(first[first > 0.5] / (1 - first[first > 0.5]))
    assert 7 < k_db.mean() < 13  # uniform in 0 to 20 dB, and a little more from echoes at the same delay


def test_correlation_starts_at_one_and_is_that_of_a_spectrum(generator: torch.Generator) -> None:
    correlation = doppler_correlations(COUNT, TOP, LAGS, generator=generator)
    assert correlation.dtype == torch.complex128 and correlation.shape == (COUNT, 14)
    assert float((correlation[:, 0] - 1).abs().max()) < 1e-12
    # A covariance: no eigenvalue below zero but for rounding.
    matrices = toeplitz(torch.cat([correlation[:, :1].real.to(correlation.dtype), correlation[:, 1:]], dim=1))
    assert float(torch.linalg.eigvalsh(matrices).min()) > -1e-12 * 14


def test_spectrum_ends_at_the_largest_doppler(generator: torch.Generator) -> None:
    # The curvature at lag 0 is the mean square Doppler, (2 pi)^2 E f^2, at most that of a single path at the edge.
    lags = torch.tensor([0.0, 1e-6], dtype=torch.float64)
    correlation = doppler_correlations(COUNT, TOP, lags, generator=generator)
    mean_square = 2 * (1 - correlation[:, 1].real) / (2 * math.pi * 1e-6) ** 2
    assert float(mean_square.max()) <= TOP**2 * (1 + 1e-6)
    assert float(mean_square.max()) > 0.9 * TOP**2


def test_nearly_half_of_the_spectra_are_those_of_jakes(generator: torch.Generator) -> None:
    correlation = doppler_correlations(COUNT, TOP, LAGS, generator=generator)
    jakes = correlation[correlation.imag.abs().amax(1) == 0]  # the others have no symmetric spectrum
    share = len(jakes) / COUNT
    assert abs(share - 0.45) < 4 * math.sqrt(0.45 * 0.55 / COUNT)
    # Solved for its Doppler at a small lag, each is Bessel's function at all lags; the Doppler is uniform.
    dopplers = []
    for row in jakes[:300].real.numpy():
        x = math.sqrt(4 * (1 - math.sqrt(row[1])))  # J0(x) = 1 - x^2/4 + x^4/64: a start for Newton's method
        for _ in range(8):
            x += (scipy.special.j0(x) - row[1]) / max(scipy.special.j1(x), 1e-12)
        dopplers.append(x * 14e3 / (2 * math.pi))
        assert np.abs(row - scipy.special.j0(x * np.arange(14))).max() < 1e-6
    assert scipy.stats.kstest(np.array(dopplers) / TOP, "uniform").pvalue > 0.01


def test_nothing_moves_without_doppler(generator: torch.Generator) -> None:
    correlation = doppler_correlations(50, 0.0, LAGS, generator=generator)
    assert torch.allclose(correlation, torch.ones((), dtype=torch.complex128), atol=1e-12)


def test_seed_decides() -> None:
    make = [
        lambda g: torch.cat(delay_profiles(5, (1e-8, 1e-7), generator=g)),
        lambda g: doppler_correlations(5, TOP, LAGS, generator=g),
    ]
    for draw in make:
        first, same, other = (draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, same) and not torch.equal(first, other)
