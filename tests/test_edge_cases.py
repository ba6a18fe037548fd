"""Corners where numerics like to break: no spread, no motion, more rays than subcarriers, no energy at the pilots."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch

from wichan.channels import CDL, TDL, ULA, ChannelCovariance, RayleighBlock, Rays, cluster_coefficients
from wichan.channels.cdl_covariance import _random_heading_law, _speed_points
from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators import LMMSE, LS
from wichan.evaluation import evaluate
from wichan.grid import OFDMGrid
from wichan.linalg import compress_factor
from wichan.observations import OFDMPilots
from wichan.simulate import load_recipe, stream


def dense_lmmse(covariance, obs, no):
    """Textbook formula in complex128: expected error of every entry."""
    r, p = covariance.matrix(), obs.matrix().to(torch.complex128)
    gain = torch.linalg.solve(p @ r @ p.mH + no * torch.eye(len(p)), p @ r)
    return (r - (p @ r).mH @ gain).diagonal().real


@pytest.mark.parametrize("profile", ["A", "D"])
@pytest.mark.parametrize("num_subcarriers", [1, 12, 20, 30])
def test_more_taps_than_subcarriers_at_one_delay(profile, num_subcarriers):
    """23 (14) taps that coincide: a wide factor of rank one, where rounding must not be divided by its own root."""
    grid = OFDMGrid(4, num_subcarriers, 15e3)
    covariance = TDL(profile, delay_spread=0.0, max_doppler=100.0).covariance(grid)
    factor = covariance.factor()
    assert torch.allclose(factor @ factor.mH, covariance.matrix(), atol=1e-6)
    obs = OFDMPilots(grid, symbols=(0, 3), subcarrier_step=min(3, num_subcarriers))
    expected = dense_lmmse(covariance, obs, 1e-3)
    assert torch.allclose(LMMSE(obs, covariance).expected_error(1e-3).flatten(), expected, rtol=1e-6, atol=1e-12)
    if num_subcarriers > 1:
        assert float(LS(obs, covariance=covariance).interpolation_error.max()) < 10


def test_compressing_identical_rows():
    row = torch.randn(1, 30, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    factor = row.expand(20, 30)
    small = compress_factor(factor, 0.0)
    assert small.shape[-1] == 1
    assert torch.allclose(small @ small.mH, factor @ factor.mH, atol=1e-9)


def test_covariance_from_many_samples_of_flat_fading(generator):
    grid = OFDMGrid(2, 6, 15e3)
    h = RayleighBlock().frequency_response(grid, 100, generator=generator)
    flat = h.flatten(1).to(torch.complex128)
    assert torch.allclose(ChannelCovariance.from_samples(h).matrix(), flat.T @ flat.conj() / 100, atol=1e-6)


def test_pilots_that_see_no_power_give_zero_not_nan():
    grid = OFDMGrid(1, 4, 15e3)
    covariance = ChannelCovariance.from_matrix(torch.diag(torch.tensor([0.0, 1, 1, 1])).to(torch.complex128), (1, 1, 1, 4))
    lmmse = LMMSE(OFDMPilots(grid, symbols=(0,), subcarrier_step=4), covariance)
    for no in (0.0, 0.1):
        h_hat, err_var = lmmse(torch.ones(2, 1, 1, 4, dtype=torch.complex64), no)
        assert not bool(h_hat.any())
        assert torch.allclose(err_var[0].flatten(), torch.tensor([0.0, 1, 1, 1]), atol=1e-6)


def test_one_pair_with_mixed_precision(generator):
    gain = torch.ones(2, 3, 4, 1, 1, dtype=torch.complex64)
    doppler = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) * 100
    rays = Rays(gain=gain, delay=torch.zeros(3), doppler=doppler)
    for duration in (1e-3, 10.0):
        assert cluster_coefficients(rays, torch.tensor([0.0, duration], dtype=torch.float64)).dtype == torch.complex64


def test_noise_gradient_at_zero_is_zero(generator):
    obs = OFDMPilots(OFDMGrid(2, 4, 15e3), symbols=(0,))
    no = torch.zeros(3, requires_grad=True)
    y = obs.observe(torch.ones(3, 1, 1, 2, 4, dtype=torch.complex64), no, generator=generator)
    y.abs().square().sum().backward()
    assert torch.equal(no.grad, torch.zeros(3))


def test_noise_beyond_single_precision_is_refused():
    obs = OFDMPilots(OFDMGrid(2, 4, 15e3), symbols=(0,))
    with pytest.raises(InvalidValueError, match=r"no=1e\+38 must be at most 1e30"):
        LS(obs)(torch.ones(1, 2, 4, dtype=torch.complex64), 1e38)


@pytest.mark.parametrize("speed", [(0.0, 60.0), 700.0])
def test_doppler_laws_hold_over_many_turns(speed):
    """Up to 250 turns of Doppler phase over the grid, against a brute-force mean over headings and speeds."""
    grid = OFDMGrid(20, 1, 30e3, symbol_duration=2.352e-3)
    model = CDL("A", delay_spread=0.0, carrier_frequency=2.4e9, speed=speed)
    lag, zenith = float(grid.times[-1]), torch.tensor([0.3, 1.2, 1.57], dtype=torch.float64)
    points = _speed_points(model, None, lag)
    got = sum(
        weight * _random_heading_law(zenith, 2 * math.pi / model.wavelength * v, grid.times)[:, -1] for v, weight in points
    )
    speeds = np.linspace(*speed, 1601) if isinstance(speed, tuple) else np.array([speed])
    heading = (np.arange(1500) + 0.5) * math.pi / 1500
    phase = 2 * math.pi / model.wavelength * lag * speeds[:, None]
    for ray, value in zip(zenith.tolist(), got.tolist(), strict=True):
        law = scipy.special.j0(phase * math.sin(ray) * np.sin(heading)) * np.cos(phase * math.cos(ray) * np.cos(heading))
        law = law.mean(1)
        truth = scipy.integrate.simpson(law, x=speeds) / 60 if len(speeds) > 1 else law[0]
        assert value == pytest.approx(truth, abs=1e-8)


def test_orientation_as_a_tensor():
    tilt = torch.tensor([0.1, 0.2, 0.3])
    as_tensor = CDL("A", delay_spread=1e-7, carrier_frequency=2e9, speed=1.0, rx_array=ULA(2), rx_orientation=tilt)
    as_list = CDL("A", delay_spread=1e-7, carrier_frequency=2e9, speed=1.0, rx_array=ULA(2), rx_orientation=tilt.tolist())
    assert as_tensor.mean_power() == as_list.mean_power()


def test_stream_refuses_no_columns():
    with pytest.raises(InvalidValueError, match=r"columns=\[\] is empty"):
        stream("ofdm-siso", batch_size=2, columns=[])


def test_null_takes_away_what_another_source_does_not_know():
    gone = {"source": "rayleigh", "profile": None, "channel": {}, "delay_spread": None, "max_doppler": None}
    recipe = load_recipe("ofdm-siso", gone)
    assert next(stream(recipe, batch_size=2)).h.shape == (2, 1, 1, 14, 120)


def test_lmmse_refuses_pilots_that_have_changed(generator):
    grid = OFDMGrid(4, 12, 15e3)
    covariance = TDL("A", delay_spread=1e-7).covariance(grid)
    obs = OFDMPilots(grid, symbols=(0, 3), subcarrier_step=3, learnable=True)
    lmmse = LMMSE(obs, covariance)
    y = torch.ones(1, 4, 12, dtype=torch.complex64)
    before = lmmse(y, 0.1).h_hat
    with torch.no_grad():
        for parameter in obs.parameters():
            parameter.mul_(1.0)
    assert torch.equal(lmmse(y, 0.1).h_hat, before)  # written, but the same
    with torch.no_grad():
        for parameter in obs.parameters():
            parameter.mul_(2.0)
    with pytest.raises(InvalidValueError, match="pilots have changed"):
        lmmse(y, 0.1)


def test_lmmse_refuses_the_covariance_of_another_grid():
    covariance = TDL("A", delay_spread=1e-7).covariance(OFDMGrid(4, 12, 15e3))
    with pytest.raises(InvalidValueError, match="covariance belongs to OFDMGrid"):
        LMMSE(OFDMPilots(OFDMGrid(4, 12, 30e3), symbols=(0,)), covariance)


def test_ports_of_a_dmrs_are_a_sequence():
    with pytest.raises(InvalidTypeError, match="ports=2 must be a sequence"):
        OFDMPilots.dmrs(OFDMGrid(14, 24, 30e3), ports=2)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda y, no: (y.unsqueeze(2), torch.tensor(-1.0)), "NaN, infinite or negative err_var"),
        (lambda y, no: (y.unsqueeze(2), 0.1), "err_var of type float"),
        (lambda y, no: (y.unsqueeze(2), torch.ones(7)), "err_var of shape"),
    ],
)
def test_evaluation_names_the_estimator_with_a_bad_error(estimator, message):
    with pytest.raises(InvalidValueError, match=message):
        evaluate("ofdm-siso", {"mine": estimator}, points=[10], num_channels=4, reference=None)


def test_an_estimator_that_works_in_place_does_not_harm_the_others():
    def greedy(y, no):
        return y.zero_().unsqueeze(2)

    alone = evaluate("ofdm-siso", {"ls": "ls"}, points=[10], num_channels=8, reference=None)
    beside = evaluate("ofdm-siso", {"greedy": greedy, "ls": "ls"}, points=[10], num_channels=8, reference=None)
    assert float(beside.nmse_db.value[0, 1]) == float(alone.nmse_db.value[0, 0])
    assert float(beside.nmse_db.value[0, 0]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("overrides", [{"split": "val"}, {"cell": "main"}])
def test_evaluation_refuses_a_selection_among_overrides(overrides):
    with pytest.raises(InvalidValueError, match="does not apply: give split="):
        evaluate("ofdm-siso", ["ls"], overrides=overrides, num_channels=4, reference=None)


def test_evaluation_refuses_a_point_twice():
    with pytest.raises(InvalidValueError, match="more than once"):
        evaluate("ofdm-siso", ["ls"], points=[5, 5.0], num_channels=4, reference=None)
