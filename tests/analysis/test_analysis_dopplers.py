"""Doppler spectrum, spread and coherence time: Jakes' law, SciPy's periodogram, models."""

from __future__ import annotations

import math

import pytest
import scipy.optimize
import scipy.signal
import scipy.special
import torch

from wichan import OFDMGrid
from wichan.analysis import (
    coherence_time,
    doppler_spectrum,
    jakes_spectrum,
    mean_doppler,
    rms_doppler_spread,
    spatial_correlation,
    time_correlation,
)
from wichan.channels import CDL, TDL, RayleighBlock, mimo_correlation

GRID = OFDMGrid(64, 2, 15e3)


def test_jakes_time_correlation_and_coherence(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=100e-9, max_doppler=300.0)
    covariance = model.covariance(GRID)
    value, lag = time_correlation(covariance)
    expected = torch.from_numpy(scipy.special.j0(2 * math.pi * 300.0 * lag.numpy()))
    torch.testing.assert_close(value.real, expected, rtol=0, atol=1e-9)
    assert float(value.imag.abs().max()) < 1e-9
    half = scipy.optimize.brentq(lambda x: scipy.special.j0(x) - 0.5, 1, 2) / (2 * math.pi * 300.0)
    assert float(coherence_time(model)) == pytest.approx(half, rel=1e-9)
    # A straight line over a step of 71 us, where the turn is 0.13 rad: curvature 0.13^2 / 8 = 0.2 %.
    assert float(coherence_time(covariance)) == pytest.approx(half, rel=5e-3)
    h = model.frequency_response(GRID, 4000, generator=generator)
    measured, _ = time_correlation(h, grid=GRID)
    assert float((measured - expected).abs().max()) < 0.06  # 1/sqrt(4000) = 0.016 at most 3 sigma


def test_rms_doppler(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=100e-9, max_doppler=300.0)
    assert float(rms_doppler_spread(model)) == pytest.approx(300 / math.sqrt(2), rel=1e-12)
    # -2 ln J0(x) = x^2/2 (1 + x^2/16 ...): 0.05 % at x = 0.13.
    assert float(rms_doppler_spread(model.covariance(GRID))) == pytest.approx(300 / math.sqrt(2), rel=1e-3)
    specular = TDL("D", delay_spread=100e-9, max_doppler=300.0)
    for function in (mean_doppler, rms_doppler_spread):
        assert float(function(specular.covariance(GRID))) == pytest.approx(float(function(specular)), rel=5e-3)
    rays = specular.sample(500, generator=generator)
    assert rms_doppler_spread(rays).shape == (500,)
    # 20 sinusoids a tap with random phases: every draw has nearly the whole law.
    assert float(rms_doppler_spread(rays).mean()) == pytest.approx(float(rms_doppler_spread(specular)), rel=0.05)
    assert float(rms_doppler_spread(RayleighBlock())) == 0.0
    assert float(coherence_time(TDL("A", delay_spread=0.0))) == math.inf


def test_coherence_time_of_two_lines() -> None:
    powers, shifts = torch.ones(2, dtype=torch.float64), torch.tensor([-50.0, 50.0], dtype=torch.float64)
    assert float(coherence_time(powers, shifts)) == pytest.approx(1 / 300, rel=1e-9)  # |cos(2 pi 50 t)| = 1/2


def test_spectrum_is_scipys_periodogram(generator: torch.Generator) -> None:
    h = torch.randn(5, 64, 2, dtype=torch.complex128, generator=generator)
    density, doppler = doppler_spectrum(h, times=torch.arange(64, dtype=torch.float64) * 1e-3, oversampling=2)
    window = torch.hann_window(66, periodic=False, dtype=torch.float64)[1:-1].numpy()
    f, p = scipy.signal.periodogram(
        h.numpy(), fs=1000.0, window=window, nfft=128, axis=1, return_onesided=False, detrend=False, scaling="density"
    )
    order = f.argsort()
    torch.testing.assert_close(doppler, torch.from_numpy(f[order]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(density, torch.from_numpy(p.mean((0, 2))[order]), rtol=1e-9, atol=0)


def test_spectrum_of_data_covariance_and_law(generator: torch.Generator) -> None:
    long = OFDMGrid(256, 1, 15e3, symbol_duration=1e-4)
    model = TDL("A", delay_spread=100e-9, max_doppler=800.0)
    theory = doppler_spectrum(model.covariance(long))
    h = model.frequency_response(long, 1000, generator=generator)
    data = doppler_spectrum(h, grid=long)
    step = float(theory.doppler[1] - theory.doppler[0])
    assert float(theory.density.sum() * step) == pytest.approx(1.0, rel=1e-9)
    strong = theory.density > theory.density.max() / 100
    # A mean of 1000 exponential variables, hundreds of points looked at: 3.2 % each, 4 sigma.
    assert float((data.density / theory.density - 1)[strong].abs().max()) < 0.14
    inside = theory.doppler.abs() < 550  # away from the poles, where 80 Hz of resolution see nearly a straight line
    law = jakes_spectrum(theory.doppler, 800.0)
    torch.testing.assert_close(theory.density[inside], law[inside], rtol=0.01, atol=0)


def test_jakes_density_integrates_to_one() -> None:
    edge = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    middle = (edge[1:] + edge[:-1]) / 2
    # The midpoint rule misses a part of the integrable poles: 2 sqrt(1e-5) / pi a pole.
    assert float(jakes_spectrum(middle * 100, 100.0).sum() * 1e-5 * 100) == pytest.approx(1.0, abs=2e-3)
    assert float(jakes_spectrum(torch.tensor([100.5]), 100.0)) == 0.0


def test_cdl_rays_and_covariance_agree_on_doppler(generator: torch.Generator) -> None:
    model = CDL("C", delay_spread=100e-9, carrier_frequency=3e9, speed=20.0)
    exact = float(rms_doppler_spread(model.covariance(OFDMGrid(2, 1, 1e5))))
    rays = model.sample(2000, generator=generator)
    # Mean square over links about 0; headings vary, so 2000 links give about 2 %.
    power = rays.gain.abs().square().sum((-2, -1)).double().flatten()
    assert float(rms_doppler_spread(power, rays.doppler.double().flatten())) == pytest.approx(exact, rel=0.06)


def test_spatial_correlation(generator: torch.Generator) -> None:
    grid = OFDMGrid(1, 1, 15e3)
    model = RayleighBlock(4, 2, correlation="high")
    rx, tx = mimo_correlation("high", 4, 2)
    covariance = model.covariance(grid)
    for side, expected in (("rx", rx), ("tx", tx), ("both", torch.kron(rx, tx))):
        torch.testing.assert_close(spatial_correlation(covariance, side=side), expected, rtol=0, atol=1e-9)
        h = model.frequency_response(grid, 20_000, generator=generator)
        # 1/sqrt(20000) = 0.7 %, 4 sigma
        torch.testing.assert_close(spatial_correlation(h, side=side), expected, rtol=0, atol=0.03)
    each = spatial_correlation(h[:6].reshape(2, 3, 4, 2, 1, 1), batch_dims=1, normalize=False)
    torch.testing.assert_close(each.mean(0), spatial_correlation(h[:6], normalize=False))
