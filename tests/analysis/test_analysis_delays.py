"""Delay spread, coherence bandwidth and frequency correlation: closed forms, Monte Carlo, plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan import OFDMGrid
from wichan.analysis import (
    coherence_bandwidth,
    frequency_correlation,
    mean_delay,
    power_delay_profile,
    rms_delay_spread,
)
from wichan.channels import CDL, TDL, Panel, RayleighBlock, Rays, TapTable
from wichan.channels.profiles import load_table

GRID = OFDMGrid(2, 256, 60e3)


def test_two_paths(generator: torch.Generator) -> None:
    powers, delays = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64), torch.tensor([0.0, 2e-6], dtype=torch.float64)
    torch.testing.assert_close(mean_delay(powers, delays), torch.tensor([1e-6, 0.5e-6], dtype=torch.float64))
    # sigma = T sqrt(p (1 - p))
    expected = 2e-6 * torch.tensor([0.5, math.sqrt(3) / 4], dtype=torch.float64)
    torch.testing.assert_close(rms_delay_spread(powers, delays), expected)
    # |rho| = |cos(pi df T)| for equal paths; for 3:1 it is at least 1/2 and touches it at df = 1/(2T)
    assert float(coherence_bandwidth(powers[0], delays, level=0.5)) == pytest.approx(1 / (3 * 2e-6), rel=1e-9)
    assert float(coherence_bandwidth(powers[0], delays, level=0.9)) == pytest.approx(
        math.acos(0.9) / (math.pi * 2e-6), rel=1e-9
    )
    assert float(coherence_bandwidth(powers[1], delays, level=0.49)) == math.inf


def test_exponential_profile() -> None:
    tau, fine = 100e-9, 1e-9
    delays = torch.arange(4000, dtype=torch.float64) * fine
    powers = torch.exp(-delays / tau)
    # Sums instead of integrals: relative error of order (fine / tau)^2 = 1e-4.
    assert float(rms_delay_spread(powers, delays)) == pytest.approx(tau, rel=2e-4)
    for level in (0.5, 0.9):  # |rho| = 1 / sqrt(1 + (2 pi df tau)^2)
        expected = math.sqrt(1 / level**2 - 1) / (2 * math.pi * tau)
        assert float(coherence_bandwidth(powers, delays, level=level)) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("name", "ABCDE")
def test_tables_have_unit_delay_spread(name: str) -> None:
    model = TDL(name, delay_spread=1e-6)
    # The 3GPP tables are rounded; TDL-D is 0.6 % off, the worst.
    assert float(rms_delay_spread(model)) == pytest.approx(1e-6, rel=0.01)
    assert float(rms_delay_spread(model.profile)) == pytest.approx(model.profile.rms_delay_spread(), rel=1e-12)
    row = load_table("tr38901_tdl")["profiles"][name]
    delay, power = np.array(row["taps"]).T
    power = 10 ** (power / 10)
    power[0] += 0 if row["los_power_db"] is None else 10 ** (row["los_power_db"] / 10)
    spread = np.sqrt(np.average((delay - np.average(delay, weights=power)) ** 2, weights=power))
    assert float(rms_delay_spread(model)) == pytest.approx(1e-6 * spread, rel=1e-9)
    cdl = CDL(name, delay_spread=1e-6, carrier_frequency=3e9, speed=1.0)
    assert float(rms_delay_spread(cdl)) == pytest.approx(1e-6, rel=0.02)  # isotropic: the table's own, rounded


def test_coherence_bandwidth_of_a_table_by_brute_force() -> None:
    model = TDL("A", delay_spread=100e-9)
    power, delay = model.profile.power.numpy(), model.delays().numpy()
    lags = np.arange(0, 3e7, 1e3)
    rho = np.abs(np.exp(-2j * np.pi * lags[:, None] * delay) @ power)
    first = lags[np.argmax(rho <= 0.5)]
    assert float(coherence_bandwidth(model)) == pytest.approx(first, abs=1e3)  # the scan's own step


def test_rays_of_a_model_and_its_covariance_agree(generator: torch.Generator) -> None:
    array = Panel(2, 2, polarization="cross", pattern="38.901")
    model = CDL("C", delay_spread=100e-9, carrier_frequency=3e9, speed=3.0, rx_array=array)
    exact = float(rms_delay_spread(model))
    assert exact < 70e-9  # the panel looks past the late clusters
    # Relative error of the correlation method: (2 pi df sigma)^2 = 9e-5.
    assert float(rms_delay_spread(model.covariance(OFDMGrid(1, 4, 15e3)))) == pytest.approx(exact, rel=2e-4)
    rays = model.sample(400, generator=generator)
    each = rms_delay_spread(rays)
    assert each.shape == (400,)
    powers = (rays.gain.abs().square().sum((-3, -2, -1)) * 4).mean(0).double()  # responses have modulus 1, 4 positions
    # Mean powers of 400 links: 20 rays of 24 clusters fade little; measured 0.4 %.
    assert float(rms_delay_spread(powers, rays.delay)) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("profile", ["A", "D"])
def test_channels_converge_to_the_model(profile: str, generator: torch.Generator) -> None:
    model = TDL(profile, delay_spread=300e-9, max_doppler=100.0)
    covariance = model.covariance(GRID)
    h = model.frequency_response(GRID, 3000, generator=generator)
    exact = float(rms_delay_spread(model))
    narrow = model.covariance(OFDMGrid(1, 8, 15e3))
    # Late paths turn most: the last of TDL-D by 0.37 rad a subcarrier, and its weak tail makes the spread. Measured: spread
    # 0.3 % low (with 60 kHz 4.2 %), mean 0.7 % low.
    assert float(rms_delay_spread(narrow)) == pytest.approx(exact, rel=0.005)
    assert float(mean_delay(narrow)) == pytest.approx(float(mean_delay(model)), rel=0.01)
    # 3000 fades: taps are known to 1.8 %, their spread to about 1 %; 3 sigma.
    assert float(rms_delay_spread(h, grid=GRID)) == pytest.approx(float(rms_delay_spread(covariance)), rel=0.03)
    value, lag = frequency_correlation(h, grid=GRID)
    expected, _ = frequency_correlation(covariance)
    assert float(lag[1]) == pytest.approx(60e3)
    assert float((value - expected).abs().max()) < 0.05  # 1/sqrt(3000) = 0.018 where rho is small, 3 sigma


def test_profile_method_takes_the_window_off() -> None:
    model = TDL("B", delay_spread=300e-9)
    wide = OFDMGrid(1, 1024, 60e3)  # 61 MHz: bins of 16 ns
    covariance = model.covariance(wide)
    # Bias of the threshold (50 dB: the Hann window's tails beyond it) and of the bins; measured 0.3 %.
    spread = rms_delay_spread(covariance, method="profile", threshold_db=50.0)
    assert float(spread) == pytest.approx(300e-9, rel=0.01)
    assert float(mean_delay(covariance, method="profile")) == pytest.approx(float(mean_delay(model)), rel=0.01)
    path = TapTable([0.0], [0.0], name="one")
    alone = TDL(path).covariance(wide)
    assert float(rms_delay_spread(alone, method="profile", threshold_db=80.0)) < 3e-9  # a fifth of a bin


def test_noise_is_taken_off(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=300e-9)
    h = model.frequency_response(GRID, 1000, generator=generator)
    noisy = h + 0.1 * torch.randn(h.shape, dtype=h.dtype, generator=generator)
    blind, told = rms_delay_spread(noisy, grid=GRID), rms_delay_spread(noisy, grid=GRID, no=0.01)
    assert float(blind) > 400e-9
    # What is left is the noise's own fluctuation: 0.01 / sqrt(5e5 elements) against 1 - rho = 6e-3: 0.2 %.
    assert float(told) == pytest.approx(float(rms_delay_spread(h, grid=GRID)), rel=0.02)


def test_correlation_against_numpy(generator: torch.Generator) -> None:
    h = torch.randn(3, 2, 5, 9, dtype=torch.complex64, generator=generator)
    value, lag = frequency_correlation(h, frequencies=torch.arange(9) * 10.0, batch_dims=1)
    assert lag.tolist() == [10.0 * k for k in range(9)]
    for b in range(3):
        rows = h[b].reshape(-1, 9).numpy().astype(complex)
        for d in range(9):
            up, low = rows[:, d:], rows[:, : 9 - d]
            rho = (up * low.conj()).sum() / np.sqrt((abs(up) ** 2).sum() * (abs(low) ** 2).sum())
            assert complex(value[b, d]) == pytest.approx(rho, abs=1e-12)
    assert float(value.abs().max()) <= 1 + 1e-12


def test_profile_keeps_axes_and_equals_its_parts(generator: torch.Generator) -> None:
    h = torch.randn(4, 3, 32, dtype=torch.complex128, generator=generator)
    each = power_delay_profile(h, batch_dims=1)
    assert each.shape == (4, 128)
    torch.testing.assert_close(each.mean(0), power_delay_profile(h))


def test_a_batch_of_conditions_is_kept() -> None:
    model = TDL("C", delay_spread=100e-9)
    covariance = model.covariance(OFDMGrid(1, 16, 15e3), delay_spread=torch.tensor([50e-9, 200e-9]))
    # (2 pi 15e3 200e-9)^2 = 4e-4
    torch.testing.assert_close(
        rms_delay_spread(covariance), torch.tensor([50e-9, 200e-9], dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_flat_and_single_paths() -> None:
    assert float(rms_delay_spread(RayleighBlock(2, 2))) == 0.0
    assert float(coherence_bandwidth(RayleighBlock(2, 2))) == math.inf
    still = torch.zeros(1, 1, 1)
    rays = Rays(gain=torch.ones(1, 1, 1, 1, 1, dtype=torch.complex64), delay=torch.tensor([1e-6]), doppler=still)
    assert float(mean_delay(rays)) == pytest.approx(1e-6)


def test_gradients() -> None:
    powers = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    delays = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_delay_spread, (powers, delays))
    h = torch.randn(2, 3, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    steps = torch.arange(6) * 0.01
    assert torch.autograd.gradcheck(lambda x: rms_delay_spread(x, frequencies=steps), (h,))
    one = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    rms_delay_spread(one, torch.zeros(1)).backward()
    assert one.grad is not None and bool(torch.isfinite(one.grad).all())
