"""Delay-Doppler and angle-delay views: one path in one element, unitary, exact inverses, theory of their powers."""

from __future__ import annotations

import math

import pytest
import torch

from wichan import OFDMGrid
from wichan.analysis import (
    angle_delay_power,
    delay_doppler_power,
    from_angle_delay,
    from_delay_doppler,
    to_angle_delay,
    to_delay_doppler,
)
from wichan.channels import CDL, TDL, ULA, UPA, AntennaArray, ChannelCovariance, Panel

GRID = OFDMGrid(14, 24, 15e3)


def path(grid: OFDMGrid, gain: complex, delay: float, doppler: float, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    phase = 2 * math.pi * (doppler * grid.times[:, None] - delay * grid.frequencies)
    return (gain * torch.polar(torch.ones_like(phase), phase)).to(dtype)


@pytest.mark.parametrize(("d", "v"), [(0, 7), (3, 0), (23, 13), (5, 9)])
def test_one_path_is_one_element(d: int, v: int) -> None:
    axes = to_delay_doppler(torch.ones(14, 24, dtype=torch.complex128), GRID)
    delay, doppler = float(axes.delay[d]), float(axes.doppler[v])
    assert delay == pytest.approx(d / (24 * 15e3))
    assert doppler == pytest.approx((v - 7) / (14 * GRID.symbol_duration))
    gain = 0.3 - 0.4j
    value = to_delay_doppler(path(GRID, gain, delay, doppler), GRID).value
    expected = torch.zeros(14, 24, dtype=torch.complex128)
    expected[v, d] = gain * math.sqrt(14 * 24)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("window", [None, "hann"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 3e-5), (torch.complex128, 1e-12)])
def test_delay_doppler_there_and_back(
    window: str | None, dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    h = torch.randn(3, 2, 1, 14, 24, dtype=dtype, generator=generator)
    view = to_delay_doppler(h, GRID, window=window)
    assert view.value.dtype == dtype
    back = from_delay_doppler(view.value, GRID, window=window)
    # The Hann window divides by up to 1/0.02 at its ends, along both axes.
    torch.testing.assert_close(back, h, rtol=0, atol=tolerance * (1 if window is None else 50))
    if window is None:
        assert float(view.value.abs().square().sum()) == pytest.approx(float(h.abs().square().sum()), rel=1e-5)


def test_delay_doppler_has_a_gradient(generator: torch.Generator) -> None:
    h = torch.randn(3, 4, dtype=torch.complex128, generator=generator, requires_grad=True)
    grid = OFDMGrid(3, 4, 15e3)
    assert torch.autograd.gradcheck(lambda x: to_delay_doppler(x, grid, window="hann").value, (h,))


@pytest.mark.parametrize("window", [None, "hann"])
def test_delay_doppler_power_of_covariance_is_exact(window: str | None, generator: torch.Generator) -> None:
    """A covariance made of the very samples gives their mean power."""
    h = torch.randn(5, 2, 1, 6, 8, dtype=torch.complex128, generator=generator)
    grid = OFDMGrid(6, 8, 15e3)
    covariance = ChannelCovariance.from_samples(h)
    for oversampling in (1, 3):
        data = delay_doppler_power(h, grid, window=window, oversampling=oversampling)
        theory = delay_doppler_power(covariance, grid, window=window, oversampling=oversampling)
        torch.testing.assert_close(data.value, theory.value, rtol=1e-9, atol=1e-12)
        assert data.value.shape == (data.doppler.numel(), data.delay.numel()) == (6 * oversampling, 8 * oversampling)
    if window is None:
        one = delay_doppler_power(h, grid, window=None)
        view = to_delay_doppler(h, grid).value
        torch.testing.assert_close(one.value, view.abs().square().mean((0, 1, 2)), rtol=1e-9, atol=1e-12)
        assert float(one.value.sum()) == pytest.approx(48 * float(h.abs().square().mean()), rel=1e-9)


def test_delay_doppler_power_of_a_model(generator: torch.Generator) -> None:
    model = TDL("C", delay_spread=300e-9, max_doppler=1000.0)
    theory = delay_doppler_power(model.covariance(GRID)).value
    data = delay_doppler_power(model.frequency_response(GRID, 4000, generator=generator), GRID).value
    strong = theory > theory.max() / 1000
    # Means of 4000 exponentials: 1.6 %, 4 sigma over some dozens of elements; 20 sinusoids are not quite Gaussian.
    assert float((data / theory - 1)[strong].abs().max()) < 0.08


ARRAYS = [ULA(8), ULA(5, axis="z"), UPA(3, 4), Panel(2, 4, polarization="cross", spacing=(0.7, 0.5))]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: a.name)
@pytest.mark.parametrize("side", ["rx", "tx"])
def test_one_plane_wave_is_one_beam(array: AntennaArray, side: str) -> None:
    grid = OFDMGrid(1, 8, 15e3)
    shape = (array.num_ant, 1) if side == "rx" else (1, array.num_ant)
    axes = to_angle_delay(torch.ones(*shape, 1, 8, dtype=torch.complex128), array, grid, side=side)
    assert axes.direction.shape == (array.num_ant, 3)
    axis = 0 if side == "rx" else 1
    visible = [b for b in range(array.num_ant) if float(axes.direction[b].nan_to_num().norm()) <= 1]
    assert len(visible) > array.num_ant // 3
    for beam in visible:
        cosine = axes.direction[beam].nan_to_num()
        x = (1 - cosine.square().sum()).clamp(min=0).sqrt()  # the panels look along x
        unit = torch.stack([x, cosine[1], cosine[2]])
        phase = 2 * math.pi * array.positions @ unit
        wave = torch.zeros(array.num_pol, array.num_positions, dtype=torch.complex128)
        wave[int(axes.polarization[beam])] = torch.polar(torch.ones_like(phase), phase)
        tone = torch.polar(torch.ones(8, dtype=torch.float64), -2 * math.pi * grid.frequencies * axes.delay[3])
        h = wave.reshape(*shape, 1, 1) * tone
        value = to_angle_delay(h, array, grid, side=side).value
        energy = value.abs().square()
        place = energy.flatten().argmax()
        assert int(torch.unravel_index(place, energy.shape)[axis]) == beam
        assert int(torch.unravel_index(place, energy.shape)[3]) == 3
        # Everything in one element: the energy of the whole wave.
        assert float(energy.max()) == pytest.approx(array.num_positions * 8, rel=1e-9)
        torch.testing.assert_close(from_angle_delay(value, array, grid, side=side), h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("array", [*ARRAYS, None], ids=lambda a: "none" if a is None else a.name)
def test_angle_delay_there_and_back(array: AntennaArray | None, generator: torch.Generator) -> None:
    ports = 6 if array is None else array.num_ant
    h = torch.randn(2, ports, 3, 2, 8, dtype=torch.complex64, generator=generator)
    view = to_angle_delay(h, array, OFDMGrid(2, 8, 15e3))
    assert view.value.shape == h.shape and view.value.dtype == h.dtype
    assert float(view.value.abs().square().sum()) == pytest.approx(float(h.abs().square().sum()), rel=1e-5)
    torch.testing.assert_close(from_angle_delay(view.value, array, OFDMGrid(2, 8, 15e3)), h, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["rx", "tx"])
def test_angle_delay_power_of_covariance_is_exact(side: str, generator: torch.Generator) -> None:
    h = torch.randn(5, 4, 3, 2, 8, dtype=torch.complex128, generator=generator)
    array = ULA(4 if side == "rx" else 3)
    data = angle_delay_power(h, array, OFDMGrid(2, 8, 15e3), side=side, oversampling=2)
    theory = angle_delay_power(ChannelCovariance.from_samples(h), array, OFDMGrid(2, 8, 15e3), side=side, oversampling=2)
    assert data.value.shape == (array.num_ant, 16)
    torch.testing.assert_close(data.value, theory.value, rtol=1e-9, atol=1e-12)
    one = angle_delay_power(h, array, OFDMGrid(2, 8, 15e3), side=side, window=None).value
    view = to_angle_delay(h, array, OFDMGrid(2, 8, 15e3), side=side).value.abs().square()
    torch.testing.assert_close(one, view.mean((0, 2, 3) if side == "rx" else (0, 1, 3)), rtol=1e-9, atol=1e-12)


def test_angle_delay_power_of_a_model(generator: torch.Generator) -> None:
    array, grid = Panel(2, 4, polarization="cross", pattern="38.901"), OFDMGrid(1, 32, 240e3)
    model = CDL("A", delay_spread=200e-9, carrier_frequency=3e9, speed=0.0, rx_array=array)
    theory = angle_delay_power(model.covariance(grid), array).value
    data = angle_delay_power(model.frequency_response(grid, 3000, generator=generator), array, grid).value
    strong = theory > theory.max() / 300
    # Means of 3000 exponentials: 1.8 %, 4.5 sigma over a hundred elements.
    assert float((data / theory - 1)[strong].abs().max()) < 0.1
