"""K factor, effective rank, condition number, angular spread, distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from wichan import OFDMGrid
from wichan.analysis import (
    angular_spread,
    condition_number,
    effective_rank,
    empirical_cdf,
    fading_power_cdf,
    k_factor,
    mean_angle,
)
from wichan.channels import CDL, TDL, Panel, RayleighBlock, RicianBlock
from wichan.channels.cdl_angles import circular_mean_and_spread

FLAT = OFDMGrid(1, 1, 15e3)


@pytest.mark.parametrize("k_db", [0.0, 6.0, 12.0])
def test_k_factor_by_moments(k_db: float, generator: torch.Generator) -> None:
    model = RicianBlock(k_factor_db=k_db)
    k = 10 ** (k_db / 10)
    assert float(k_factor(model)) == pytest.approx(k, rel=1e-9)
    h = model.frequency_response(FLAT, 200_000, generator=generator)
    # The moment estimate scatters by a few over sqrt(n): measured within 1 %.
    assert float(k_factor(h)) == pytest.approx(k, rel=0.03)
    each = k_factor(h.reshape(4, -1), batch_dims=1)
    assert each.shape == (4,)
    torch.testing.assert_close(each, torch.full((4,), k, dtype=torch.float64), rtol=0.08, atol=0)


def test_k_factor_of_moments_in_closed_form() -> None:
    # Powers 1 and 3, equally often: mean 2, variance 1, so V^2 = sqrt(3) and K = sqrt(3) / (2 - sqrt(3)).
    h = torch.tensor([1.0, 3.0]).sqrt().to(torch.complex128)
    assert float(k_factor(h)) == pytest.approx(math.sqrt(3) / (2 - math.sqrt(3)), rel=1e-6)
    assert float(k_factor(torch.tensor([0.0, 1.0], dtype=torch.complex64))) == 0.0  # more variance than mean: no specular part
    assert float(k_factor(torch.ones(5, dtype=torch.complex64))) == math.inf


def test_k_factor_of_profiles(generator: torch.Generator) -> None:
    assert float(k_factor(TDL("A", delay_spread=1e-7))) == 0.0
    for name, k_db in (("D", 13.3), ("E", 22.0)):  # of the first tap, TR 38.901 tables 7.7.2-4 and -5
        model = TDL(name, delay_spread=1e-7)
        assert 10 * math.log10(model.k_factor) == pytest.approx(k_db, abs=0.05)
        los = model.profile.los_power
        assert float(k_factor(model)) == pytest.approx(los / (1 - los), rel=1e-9)
    array = Panel(1, 2, pattern="38.901")
    cdl = CDL("D", delay_spread=1e-7, carrier_frequency=3e9, speed=0.0, rx_array=array)
    assert cdl.k_factor == pytest.approx(cdl.profile.los_power / float(cdl.profile.power[0]))
    wide = OFDMGrid(1, 4, 5e6)
    h = cdl.frequency_response(wide, 4000, generator=generator)
    assert float(k_factor(h)) == pytest.approx(float(k_factor(cdl)), rel=0.08)  # 3 sigma of 4000 draws


def test_effective_rank_of_matrices(generator: torch.Generator) -> None:
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    share = values / 6
    expected = math.exp(float(-(share * share.log()).sum()))
    u, v = (torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.complex128, generator=generator))[0] for _ in range(2))
    matrices = u @ torch.diag(values).to(u.dtype) @ v
    torch.testing.assert_close(effective_rank(matrices), torch.full((2,), expected, dtype=torch.float64))
    torch.testing.assert_close(condition_number(matrices), torch.full((2,), 3.0, dtype=torch.float64))
    assert float(effective_rank(torch.zeros(2, 2))) == 0.0
    assert float(condition_number(torch.ones(2, 2, dtype=torch.float64) * 0)) == math.inf
    h = torch.randn(5, 4, 2, 3, 6, dtype=torch.complex64, generator=generator)
    ranks = effective_rank(h, axes=(-4, -3))
    assert ranks.shape == (5, 3, 6)
    assert float(ranks[1, 2, 4]) == pytest.approx(float(effective_rank(h[1, :, :, 2, 4])))
    assert condition_number(h, axes=(-4, -3)).shape == (5, 3, 6)


def test_effective_rank_of_covariances() -> None:
    grid = OFDMGrid(6, 8, 15e3)
    white = RayleighBlock(3, 2).covariance(grid)  # flat in time and frequency, white over 6 antenna pairs
    assert float(effective_rank(white)) == pytest.approx(6.0, rel=1e-9)
    assert [float(effective_rank(white, axis=a)) for a in ("space", "time", "frequency")] == pytest.approx([6.0, 1.0, 1.0])
    covariance = TDL("A", delay_spread=300e-9, max_doppler=500.0).covariance(grid)
    values = np.linalg.eigvalsh(covariance.matrix().numpy()).clip(1e-300)
    share = values / values.sum()
    # The factor drops eigenvalues below 1e-7 of the largest.
    assert float(effective_rank(covariance)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)
    batch = TDL("A", delay_spread=1e-7).covariance(grid, delay_spread=torch.tensor([1e-8, 1e-6]))
    low, high = effective_rank(batch, axis="frequency").tolist()
    assert 1.0 <= low < high


def test_angular_spread() -> None:
    spread = math.radians(5)
    angles = torch.tensor([-spread, spread], dtype=torch.float64)
    for turn in (0.0, math.pi, 40.0):  # no matter where angles wrap
        assert float(angular_spread(torch.ones(2), angles + turn)) == pytest.approx(math.sqrt(-2 * math.log(math.cos(spread))))
        # An angle of 40 rad is known to 40 eps.
        assert math.cos(float(mean_angle(torch.ones(2), angles + turn)) - turn) == pytest.approx(1.0, abs=1e-9)
    model = CDL("B", delay_spread=1e-7, carrier_frequency=3e9, speed=0.0, direction="downlink")
    power = (model.profile.power / 20)[:, None].expand(-1, 20).flatten()
    for angle in ("aod", "aoa", "zod", "zoa"):
        _, expected = circular_mean_and_spread(model.angles.angle[angle].flatten(), power)
        assert float(angular_spread(model, angle=angle)) == pytest.approx(float(expected), rel=1e-9)
    up = CDL("D", delay_spread=1e-7, carrier_frequency=3e9, speed=0.0, direction="uplink")
    down = CDL("D", delay_spread=1e-7, carrier_frequency=3e9, speed=0.0, direction="downlink")
    assert float(angular_spread(up, angle="aoa")) == pytest.approx(float(angular_spread(down, angle="aod")), rel=1e-12)
    assert float(mean_angle(down, angle="aod")) == pytest.approx(0.0, abs=0.05)  # the specular ray departs at 0


def test_empirical_cdf(generator: torch.Generator) -> None:
    x = torch.randn(1001, generator=generator)
    value, probability = empirical_cdf(x)
    assert bool((value.diff() >= 0).all())
    assert float(probability[0]) == pytest.approx(1 / 1001) and float(probability[-1]) == 1.0
    thin = empirical_cdf(x.reshape(7, 143), num_points=11)
    assert thin.value.tolist() == value[::100].tolist()
    assert thin.probability.tolist() == probability[::100].tolist()


@pytest.mark.parametrize("k", [0.0, 0.5, 20.0])
def test_fading_power_cdf_is_rices(k: float) -> None:
    x = torch.logspace(-3, 1, 30, dtype=torch.float64)
    b = math.sqrt(2 * k)
    expected = scipy.stats.rice.cdf(np.sqrt(x.numpy()), b, scale=math.sqrt(2.0 / (2 * (1 + k))))
    torch.testing.assert_close(
        fading_power_cdf(x, mean_power=2.0, k_factor=k), torch.from_numpy(expected), rtol=1e-7, atol=1e-12
    )


def test_channels_fade_as_the_law_says(generator: torch.Generator) -> None:
    for model, k in ((RayleighBlock(), 0.0), (RicianBlock(k_factor_db=7.0), 10**0.7)):
        power = model.frequency_response(FLAT, 20_000, generator=generator).abs().square().flatten()
        value, probability = empirical_cdf(power)
        gap = float((fading_power_cdf(value, k_factor=k) - probability).abs().max())
        assert gap < 1.63 / math.sqrt(20_000)  # Kolmogorov and Smirnov at 1 %
