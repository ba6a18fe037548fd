"""LMMSE against the channels it is made for: its error, what it says about its error, and the limits of noise."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import CDL, TDL, ULA, ChannelModel
from wichan.channels.covariance import ChannelCovariance
from wichan.estimators.lmmse import LMMSE
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.testing import CALIBRATION_TOLERANCE, calibration_by_decile

GRID = OFDMGrid(num_ofdm_symbols=7, num_subcarriers=24, subcarrier_spacing=30e3)
OBS = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3)
RX2 = torch.tensor([[1, 0.7], [0.7, 1]], dtype=torch.complex128)
MODELS: dict[str, ChannelModel] = {
    "one product": TDL("A", delay_spread=300e-9, max_doppler=700.0),
    "correlated antennas": TDL("B", delay_spread=300e-9, max_doppler=700.0, num_rx_ant=2, rx_correlation=RX2),
    "line of sight": TDL("D", delay_spread=300e-9, max_doppler=700.0),
    "clusters": CDL("C", delay_spread=300e-9, carrier_frequency=3.5e9, speed=30.0, rx_array=ULA(4)),
}


def gaussian(covariance: ChannelCovariance, count: int, generator: torch.Generator) -> torch.Tensor:
    """Gaussian channels with exactly this covariance: then err_var is a conditional variance and has a known law."""
    factor = covariance.factor(1e-14)
    white = complex_normal((count, factor.shape[1]), generator=generator, dtype=torch.complex128)
    return (white @ factor.mT).reshape(count, *covariance.shape).to(torch.complex64)


@pytest.mark.parametrize("structure", ["joint", "kronecker", "separable"])
@pytest.mark.parametrize("name", MODELS)
def test_monte_carlo_error_is_the_analytic_one(name: str, structure: str, generator: torch.Generator) -> None:
    """Draws of the channel model itself, through rays, against the closed-form covariance."""
    model, no, count = MODELS[name], 0.03, 3000
    lmmse = LMMSE(OBS, model.covariance(GRID), structure)
    h = model.frequency_response(GRID, count, generator=generator)
    h_hat, err_var = lmmse(OBS.observe(h, no, generator=generator), no)
    error = (h_hat - h).abs().square().double().mean(dim=(1, 2, 3, 4))
    analytic = float(lmmse.expected_error(no).mean())
    assert float(err_var.double().mean()) == pytest.approx(analytic, rel=1e-5)
    # Five standard errors of the mean over independent frames: exceeded once in two million runs of a correct estimator.
    spread = float(error.std()) / math.sqrt(count)
    assert spread < 0.05 * analytic, "too few frames to tell anything"
    assert abs(float(error.mean()) - analytic) < 5 * spread


@pytest.mark.parametrize("name", MODELS)
def test_error_variance_is_calibrated(name: str, generator: torch.Generator) -> None:
    count = 3000
    covariance = MODELS[name].covariance(GRID)
    h = gaussian(covariance, count, generator)
    # Noise from 5 to 30 dB, so that deciles of err_var differ by entry and by frame.
    no = 10 ** (-(5 + 25 * torch.rand(count, generator=generator)) / 10)
    h_hat, err_var = LMMSE(OBS, covariance)(OBS.observe(h, no, generator=generator), no)
    deciles = calibration_by_decile(h_hat, err_var, h)
    assert float((deciles - 1).abs().max()) < CALIBRATION_TOLERANCE
    # |e|^2 / err_var is exponential with mean 1: half of it lies below ln 2, nine tenths below ln 10.
    ratio = (h_hat - h).abs().square() / err_var
    for share, limit in ((0.5, math.log(2)), (0.9, math.log(10))):
        coverage = (ratio < limit).double().mean(dim=(1, 2, 3, 4))
        # Entries of a frame share few modes, so frames are the independent unit; five standard errors.
        assert abs(float(coverage.mean()) - share) < 5 * float(coverage.std()) / math.sqrt(count)


@pytest.mark.parametrize("structure", ["kronecker", "separable"])
def test_a_filter_of_another_structure_knows_its_error(structure: str, generator: torch.Generator) -> None:
    """The filter does not match the channel, but its error is computed under the channel: calibrated in every decile."""
    covariance = MODELS["clusters"].covariance(GRID)
    h = gaussian(covariance, 3000, generator)
    no = 10 ** (-(5 + 25 * torch.rand(3000, generator=generator)) / 10)
    h_hat, err_var = LMMSE(OBS, covariance, structure)(OBS.observe(h, no, generator=generator), no)
    assert float((calibration_by_decile(h_hat, err_var, h) - 1).abs().max()) < CALIBRATION_TOLERANCE


def test_a_wrong_covariance_promises_too_much(generator: torch.Generator) -> None:
    """Told 30 ns where there are 300 ns: the error made is many times the error promised, and calibration shows it.

    The true ratio follows from both covariances: err = ||G - W G_p||^2 + no ||W||^2 with the filter W of the wrong one.
    """
    true, told = (TDL("A", delay_spread=s, max_doppler=700.0).covariance(GRID) for s in (300e-9, 30e-9))
    no, count = 0.01, 2000
    h = gaussian(true, count, generator)
    h_hat, err_var = LMMSE(OBS, told)(OBS.observe(h, no, generator=generator), no)
    r, wrong, p = true.matrix(), told.matrix(), OBS.matrix().to(torch.complex128)
    w = torch.linalg.solve(p @ wrong @ p.mH + no * torch.eye(len(p)), p @ wrong).mH
    left = torch.eye(len(r)) - w @ p
    theory = float(((left @ r @ left.mH).diagonal().real + no * w.abs().square().sum(1)).mean())
    made, promised = float((h_hat - h).abs().square().mean()), float(err_var.mean())
    # 2000 frames with at least a few independent modes each: 5 / sqrt(2000) is a bound on 5 standard errors
    assert made == pytest.approx(theory, rel=0.11)
    assert made > 3 * promised
    assert float(calibration_by_decile(h_hat, err_var, h).min()) > 1 + CALIBRATION_TOLERANCE


@pytest.mark.parametrize("structure", ["joint", "kronecker", "separable"])
@pytest.mark.parametrize("snr_db", [60.0, 100.0])
def test_very_high_snr_in_single_precision(snr_db: float, structure: str, generator: torch.Generator) -> None:
    """A Cholesky solve in complex64 fails here; the modes do not, and the error stays known."""
    model = TDL("A", delay_spread=50e-9, max_doppler=50.0)  # few modes, all seen
    covariance, no = model.covariance(GRID), 10 ** (-snr_db / 10)
    h = gaussian(covariance, 500, generator)
    y = OBS.observe(h, no, generator=generator)
    assert y.dtype == torch.complex64
    h_hat, err_var = LMMSE(OBS, covariance, structure)(y, no)
    measured = float((h_hat - h).abs().square().double().mean())
    # Rounding of h to single precision alone is an error of 1e-15: nothing at 60 dB, and little at 100 dB.
    assert measured == pytest.approx(float(err_var.double().mean()), rel=0.25)
    if snr_db == 60.0:
        assert measured < 10 * no


def test_cut_off_energy_keeps_the_error_calibrated(generator: torch.Generator) -> None:
    """With a coarse tolerance the residual dominates at high SNR, and err_var says so."""
    covariance, no = MODELS["line of sight"].covariance(GRID), 1e-6
    h = gaussian(covariance, 500, generator)
    y = OBS.observe(h, no, generator=generator)
    coarse, fine = (LMMSE(OBS, covariance, rtol=rtol) for rtol in (1e-3, 1e-14))
    measured = float((coarse(y, no).h_hat - h).abs().square().double().mean())
    claimed = float(coarse.expected_error(no).mean())
    assert claimed > 3 * float(fine.expected_error(no).mean())
    # The residual at the pilots is met as white noise, which it is not: a factor of two either way.
    assert 0.5 < measured / claimed < 2


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("structure", ["joint", "kronecker", "separable"])
def test_endless_noise_leaves_the_prior(name: str, structure: str) -> None:
    covariance = MODELS[name].covariance(GRID)
    y = torch.ones(2, covariance.num_rx_ant, *GRID.shape, dtype=torch.complex64)
    h_hat, err_var = LMMSE(OBS, covariance, structure)(y, 1e15)
    assert float(h_hat.abs().max()) < 1e-12
    torch.testing.assert_close(err_var[0].double(), covariance.diagonal(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("structure", ["joint", "kronecker", "separable"])
def test_no_noise(name: str, structure: str, generator: torch.Generator) -> None:
    covariance = MODELS[name].covariance(GRID)
    lmmse = LMMSE(OBS, covariance, structure)
    h = gaussian(covariance, 50, generator)
    y = OBS.observe(h, 0.0, generator=generator)
    h_hat, err_var = lmmse(y, 0.0)
    assert bool(torch.isfinite(torch.view_as_real(h_hat)).all())
    assert float(err_var.min()) > 0
    floor = 1e-12 * float(lmmse.filter.largest)
    torch.testing.assert_close(lmmse.expected_error(0.0), lmmse.expected_error(floor))
    assert float(lmmse.expected_error(0.0).mean()) <= float(lmmse.expected_error(1e-6).mean())
    if structure == "joint":
        # What is seen without noise is reproduced: 1e-5 of |h| = 1 for single precision and modes near the floor.
        torch.testing.assert_close(OBS.project(h_hat), OBS.project(h), rtol=0, atol=1e-4)


@pytest.mark.parametrize("power", [1e-14, 1.0, 1e14])
def test_path_loss_is_only_a_scale(power: float, generator: torch.Generator) -> None:
    covariance = MODELS["correlated antennas"].covariance(GRID)
    term = covariance.terms[0]
    scaled = ChannelCovariance([type(term)(term.space * power**0.5, term.time, term.frequency)], 2, 1)  # type: ignore[union-attr]
    y = complex_normal((3, 2, *GRID.shape), generator=generator)
    for structure in ("joint", "kronecker", "separable"):
        want = LMMSE(OBS, covariance, structure)(y, 0.1)
        found = LMMSE(OBS, scaled, structure)(y * power**0.5, 0.1 * power)
        torch.testing.assert_close(found.h_hat / power**0.5, want.h_hat, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.err_var / power, want.err_var, rtol=1e-4, atol=1e-6)


def test_wrong_noise_is_worse_than_right_noise(generator: torch.Generator) -> None:
    """The minimum is at the true noise variance, so an error in its use would show."""
    covariance, no = MODELS["one product"].covariance(GRID), 0.1
    h = gaussian(covariance, 2000, generator)
    y = OBS.observe(h, no, generator=generator)
    lmmse = LMMSE(OBS, covariance)
    error = [float((lmmse(y, no * factor).h_hat - h).abs().square().mean()) for factor in (0.25, 1.0, 4.0)]
    assert error[1] < error[0]
    assert error[1] < error[2]
