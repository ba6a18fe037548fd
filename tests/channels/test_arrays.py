"""Antenna arrays: conventions, patterns, orientation."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import ULA, UPA, AntennaArray, Panel
from wichan.channels.arrays import element_pattern_38901, rotation, to_local, unit_vector
from wichan.errors import InvalidValueError, ShapeError, UnknownNameError

DOUBLE = torch.float64


def test_ula_has_the_documented_sign():
    """e^{j pi n sin(phi)} in the horizon at half-wavelength spacing."""
    phi = torch.tensor([-0.7, 0.0, 0.3, 1.2], dtype=DOUBLE)
    got = ULA(5).response(torch.full_like(phi, math.pi / 2), phi)
    want = torch.exp(1j * math.pi * torch.arange(5) * phi.sin()[:, None])
    assert torch.allclose(got, want, atol=1e-12)


def test_upa_response_is_the_kronecker_product_of_two_linear_arrays():
    theta, phi = torch.tensor(1.1, dtype=DOUBLE), torch.tensor(-0.4, dtype=DOUBLE)
    got = UPA(3, 4).response(theta, phi)
    column = torch.exp(1j * math.pi * theta.sin() * phi.sin() * (torch.arange(4) - 1.5))
    row = torch.exp(1j * math.pi * theta.cos() * (1 - torch.arange(3)))
    assert torch.allclose(got, torch.kron(column, row), atol=1e-12)  # the row runs fastest


def test_panel_ports_are_polarisation_first():
    panel = Panel(4, 4, polarization="cross", pattern="38.901")
    assert (panel.num_ant, panel.num_pol, panel.num_positions) == (32, 2, 16)
    field = panel.field(torch.tensor(math.pi / 2, dtype=DOUBLE), torch.tensor(0.0, dtype=DOUBLE))
    assert field[0, 1] < 0 < field[1, 1]  # ports 0-15 slant -45 degrees, 16-31 slant +45 degrees


def test_element_pattern_peak_floor_and_half_power():
    half = math.radians(32.5)
    angles = [(math.pi / 2, 0.0, 8.0), (math.pi / 2, half, 5.0), (math.pi / 2 + half, 0.0, 5.0), (math.pi / 2, math.pi, -22.0)]
    for theta, phi, gain_db in angles:
        power = element_pattern_38901(torch.tensor(theta, dtype=DOUBLE), torch.tensor(phi, dtype=DOUBLE))
        assert 10 * math.log10(float(power)) == pytest.approx(gain_db, abs=1e-9)


def test_rotation_is_orthogonal_and_turns_boresight():
    matrix = rotation(torch.tensor([0.3, -0.2, 0.5], dtype=DOUBLE))
    assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=DOUBLE), atol=1e-12)
    turned = rotation(torch.tensor([math.pi / 2, 0.0, 0.0], dtype=DOUBLE)) @ torch.tensor([1.0, 0, 0], dtype=DOUBLE)
    assert torch.allclose(turned, torch.tensor([0.0, 1, 0], dtype=DOUBLE), atol=1e-12)


def test_local_angles_point_along_the_turned_vector(generator):
    theta = torch.rand(50, generator=generator, dtype=DOUBLE) * math.pi
    phi = (torch.rand(50, generator=generator, dtype=DOUBLE) * 2 - 1) * math.pi
    orientation = torch.tensor([1.1, 0.4, -0.7], dtype=DOUBLE)
    local_theta, local_phi, _ = to_local(theta, phi, orientation)
    assert torch.allclose(unit_vector(local_theta, local_phi) @ rotation(orientation).T, unit_vector(theta, phi), atol=1e-9)


def test_turning_an_antenna_keeps_the_power_of_its_field(generator):
    theta = torch.rand(50, generator=generator, dtype=DOUBLE) * math.pi
    phi = (torch.rand(50, generator=generator, dtype=DOUBLE) * 2 - 1) * math.pi
    field = ULA(1, polarization="cross").global_field(theta, phi, torch.tensor([0.2, 0.9, -1.3], dtype=DOUBLE))
    assert torch.allclose(field.square().sum(-1), torch.ones(50, 2, dtype=DOUBLE), atol=1e-12)
    # the two slants stay orthogonal
    assert torch.allclose((field[:, 0] * field[:, 1]).sum(-1), torch.zeros(50, dtype=DOUBLE), atol=1e-12)


def test_response_is_differentiable_in_positions_and_angles():
    positions = torch.tensor([[0.0, 0, 0], [0.1, 0.4, -0.2]], dtype=DOUBLE, requires_grad=True)
    theta = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    phi = torch.tensor([0.3], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, t, a: AntennaArray(p).response(t, a), (positions, theta, phi))


def test_bad_arrays_are_named():
    with pytest.raises(InvalidValueError, match="num_ant=0 must be at least 1"):
        ULA(0)
    with pytest.raises(InvalidValueError, match="spacing=-1"):
        ULA(2, spacing=-1)
    with pytest.raises(UnknownNameError, match="polarization='X'"):
        Panel(2, 2, polarization="X")
    with pytest.raises(UnknownNameError, match="pattern='38901'.*did you mean '38.901'"):
        Panel(2, 2, pattern="38901")
    with pytest.raises(ShapeError, match="positions has shape"):
        AntennaArray(torch.zeros(3))
