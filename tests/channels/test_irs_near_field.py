"""Spherical waves against exact distances and plane waves; path gains over distance."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import (
    IRSCascade,
    IRSDraw,
    free_space_gain_db,
    frequency_response,
    line_of_sight_rays,
    log_distance_gain_db,
    spherical_response,
)
from wichan.channels.irs_geometry import array_response
from wichan.channels.near_field import element_offsets, rayleigh_distance
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError

WAVELENGTH = 0.01
NOW = torch.zeros(1, dtype=torch.float64)


def directions(count: int, axes: int, generator: torch.Generator) -> torch.Tensor:
    """Cosines of norm below 1."""
    return (2 * torch.rand(count, axes, generator=generator, dtype=torch.float64) - 1) * 0.7


@pytest.mark.parametrize("shape", [(40,), (6, 9)])
@pytest.mark.parametrize("distance", [0.02, 0.5, 300.0])
def test_spherical_response_is_that_of_exact_distances(shape, distance, generator):
    """e^{j 2 pi (d - d_l) / lambda} with distances in space; double keeps 300 m of 0.01 m to 2 pi 3e4 1e-16, some 1e-11."""
    u = directions(7, len(shape), generator)
    depth = (1 - u.square().sum(-1, keepdim=True)).sqrt()
    point = distance * torch.cat([u, depth], dim=-1)
    elements = element_offsets(shape, WAVELENGTH)
    elements = torch.cat([elements, torch.zeros(len(elements), 3 - len(shape), dtype=torch.float64)], dim=-1)
    if len(shape) == 1:
        point = torch.cat([point[:, :1], torch.zeros(7, 1, dtype=torch.float64), point[:, 1:]], dim=-1)
    length = (point[:, None] - elements).norm(dim=-1)
    want = torch.exp(2j * math.pi * (distance - length) / WAVELENGTH)
    far = torch.full((7,), distance, dtype=torch.float64)
    have = spherical_response(u, far, shape, wavelength=WAVELENGTH, dtype=torch.complex128)
    assert float((have - want).abs().max()) < 1e-9
    assert torch.equal(have[:, 0], torch.ones(7, dtype=torch.complex128))
    loud = spherical_response(u, far, shape, wavelength=WAVELENGTH, amplitude=True, dtype=torch.complex128)
    assert torch.allclose(loud, want * distance / length, rtol=1e-9)


@pytest.mark.parametrize("shape", [(64,), (8, 8)])
def test_far_away_the_wave_is_plane(shape, generator):
    """The first neglected term is pi |p|^2 / (lambda d), at most (pi / 2) R / d at R, the Rayleigh distance: the bound and,
    from broadside, its value, to the next term of relative size 1e-4."""
    limit = rayleigh_distance(shape, WAVELENGTH)
    u = torch.cat([torch.zeros(1, len(shape), dtype=torch.float64), directions(50, len(shape), generator)])
    plane = array_response(u, shape, torch.complex128)
    for ratio in (1e3, 1e6):
        far = torch.full((51,), ratio * limit, dtype=torch.float64)
        wave = spherical_response(u, far, shape, wavelength=WAVELENGTH, dtype=torch.complex128)
        error = (wave - plane).abs().max(dim=-1).values * ratio / (math.pi / 2)
        assert float(error.max()) <= 1 + 1e-4
        assert float(error[0]) == pytest.approx(1, rel=1e-3)


def test_rayleigh_distance():
    """2 D^2 / lambda for 101 elements: D = 0.5 m, 50 m; a plane of 4 x 5 spans 3 and 4 steps."""
    assert rayleigh_distance((101,), WAVELENGTH) == pytest.approx(50.0)
    assert rayleigh_distance((4, 5), WAVELENGTH) == pytest.approx(2 * (5 * WAVELENGTH / 2) ** 2 / WAVELENGTH)


def test_gradients_in_direction_and_distance(generator):
    u = directions(3, 2, generator).requires_grad_()
    far = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    for loud in (False, True):
        assert torch.autograd.gradcheck(
            lambda u, far, loud=loud: spherical_response(
                u, far, (3, 4), wavelength=WAVELENGTH, amplitude=loud, dtype=torch.complex128
            ),
            (u, far),
        )


@pytest.mark.parametrize("surface", [64, (8, 8)])
def test_cascade_with_spherical_waves(surface, generator):
    """Distances are drawn in their range, responses are those of the paths, and far away the draw is that of plane waves."""
    options = {"ms_distance": (0.5, 2.0), "bs_distance": 4.0, "carrier_frequency": 30e9}
    model = IRSCascade(2, surface, 3, 2, **options)
    draw = model.sample(200, generator=generator)
    distance = draw.paths["ms_irs_distance"]
    assert distance.shape == (200, 2) and 0.5 <= float(distance.min()) < 0.6 and 1.9 < float(distance.max()) <= 2.0
    assert float(draw.paths["irs_bs_distance"].min()) == float(draw.paths["irs_bs_distance"].max()) == 4.0
    exact = draw.double()
    want = spherical_response(
        draw.paths["ms_irs_arrival"], distance, model.irs_shape, wavelength=model.geometry.wavelength, dtype=torch.complex128
    )
    assert torch.equal(exact.ms_irs.rx_response.reshape(want.shape), want)
    assert float((draw.ms_irs.rx_response - exact.ms_irs.rx_response).abs().max()) < 1e-6
    assert torch.allclose(want.abs(), torch.ones(1, dtype=torch.float64))
    far, plane = (
        IRSCascade(2, surface, 3, 2, **given).sample(20, generator=torch.Generator().manual_seed(5)).double()
        for given in ({"ms_distance": 1e9, "bs_distance": 1e9, "carrier_frequency": 30e9}, {})
    )
    # The Rayleigh distance is 20 m: R / d is 2e-8 and less.
    for link in ("ms_irs", "irs_bs"):
        a, b = (frequency_response(getattr(each, link), NOW, NOW) for each in (far, plane))
        assert float((a - b).abs().max()) < 1e-6
    near = frequency_response(exact.ms_irs, NOW, NOW)
    assert (
        float((near - frequency_response(model.sample(200, generator=generator).double().ms_irs, NOW, NOW)).abs().max()) > 0.1
    )


def test_line_of_sight_between_near_arrays_is_exact(generator):
    """Cascade over two exact hops against the sum over elements of e^{-j 2 pi (d_bl + d_lm) / lambda} over both distances."""
    terminal, surface, station = (
        torch.rand(count, 3, generator=generator, dtype=torch.float64) * 0.2 + torch.tensor(shift, dtype=torch.float64)
        for count, shift in ((2, (0.0, 0.0, 1.0)), (12, (0.0, 0.0, 0.0)), (3, (0.5, 1.5, 0.0)))
    )
    first = line_of_sight_rays(surface[None], terminal[None], wavelength=WAVELENGTH, dtype=torch.complex128)
    second = line_of_sight_rays(station[None], surface[None], wavelength=WAVELENGTH, dtype=torch.complex128)
    angle = 2 * math.pi * torch.rand(12, generator=generator, dtype=torch.float64)
    theta = torch.polar(torch.ones_like(angle), angle)
    model = IRSCascade(2, 12, 3)
    have = model.response(IRSDraw.from_rays(first, second), NOW, NOW, theta)[0, :, :, 0, 0]
    from_terminal = (surface[:, None] - terminal).norm(dim=-1)
    to_station = (station[:, None] - surface).norm(dim=-1)
    hops = [
        WAVELENGTH / (4 * math.pi * length) * torch.exp(-2j * math.pi * length / WAVELENGTH)
        for length in (to_station, from_terminal)
    ]
    want = hops[0] @ torch.diag(theta) @ hops[1]
    assert float((have - want).abs().max()) < 1e-11 * float(want.abs().max())
    gain = 10 ** (free_space_gain_db(float(from_terminal[0, 0]), 299_792_458.0 / WAVELENGTH) / 20)
    assert float(hops[1][0, 0].abs()) == pytest.approx(gain, rel=1e-12)


def test_line_of_sight_has_a_rank_only_near(generator):
    """Two arrays of 0.3 m at 1 m carry several streams; at 10 km the second singular value is below 1e-3 of the first."""
    line = torch.zeros(16, 3, dtype=torch.float64)
    line[:, 0] = torch.arange(16) * 0.02
    singular = []
    for distance in (1.0, 1e4):
        other = line + torch.tensor([0.0, 0.0, distance])
        rays = line_of_sight_rays(line, other, wavelength=WAVELENGTH, amplitude=1.0, dtype=torch.complex128)
        singular.append(torch.linalg.svdvals(frequency_response(rays, NOW, NOW)[..., 0, 0]))
    assert float(singular[0][1] / singular[0][0]) > 0.5
    assert float(singular[1][1] / singular[1][0]) < 1e-3
    assert line_of_sight_rays(line, line + 1.0, wavelength=WAVELENGTH).gain.dtype == torch.complex64


def test_line_of_sight_gradients_in_positions(generator):
    a, b = (torch.rand(2, count, 3, generator=generator, dtype=torch.float64) + count for count in (2, 3))

    def link(a, b):
        return frequency_response(line_of_sight_rays(a, b, wavelength=0.5, dtype=torch.complex128), NOW, NOW)

    assert torch.autograd.gradcheck(link, (a.requires_grad_(), b.requires_grad_()))


def test_path_gains():
    """Friis by hand: 20 log10 of 299792458 / (4 pi 1e9 10); a decade of distance costs 10 exponent dB."""
    assert free_space_gain_db(10.0, 1e9) == pytest.approx(20 * math.log10(0.299792458 / (40 * math.pi)), abs=1e-12)
    assert log_distance_gain_db(10.0, 3.5) == pytest.approx(-65.0)
    assert log_distance_gain_db(50.0, 2.0, -40.0, reference_distance=5.0) == pytest.approx(-60.0)
    distance = torch.tensor([[1.0, 10.0], [100.0, 1000.0]], dtype=torch.float64, requires_grad=True)
    for law in (lambda d: log_distance_gain_db(d, 2.2), lambda d: free_space_gain_db(d, 3.5e9)):
        value = law(distance)
        assert [law(float(d)) for d in distance.detach().flatten()] == pytest.approx(value.flatten().tolist())
        assert torch.autograd.gradcheck(law, distance)


def test_a_gain_of_the_link_budget_is_absolute(generator):
    """Gains of the laws as hop gains: the mean power is L times their product."""
    budget = (log_distance_gain_db(10.0, 2.2), log_distance_gain_db(50.0, 2.0))
    model = IRSCascade(2, 100, 4, hop_gain_db=budget)
    assert 10 * math.log10(model.mean_power()) == pytest.approx(20 + sum(budget))


def test_bad_input_is_refused_in_one_line():
    u, far = torch.zeros(2, 1), torch.ones(2)
    place = torch.zeros(2, 3)
    cases = [
        (lambda: spherical_response(u, far * 0, (4,), wavelength=0.1), InvalidValueError, "distance=0 must be greater"),
        (lambda: spherical_response(u, far * math.inf, (4,), wavelength=0.1), InvalidValueError, "distance holds 2 NaN or inf"),
        (lambda: spherical_response(u, far[:1], (4,), wavelength=0.1), ShapeError, "distance has shape"),
        (lambda: spherical_response(u, far, (2, 2), wavelength=0.1), ShapeError, "2 cosines"),
        (lambda: spherical_response(u + 1.2, far, (4,), wavelength=0.1), InvalidValueError, "norm of 1.2"),
        (lambda: spherical_response(u, far, (4,), wavelength=-0.1), InvalidValueError, "wavelength=-0.1"),
        (lambda: line_of_sight_rays(place, place + 1, wavelength=0.0), InvalidValueError, "wavelength=0"),
        (lambda: line_of_sight_rays(place, place, wavelength=0.1), InvalidValueError, "share a point"),
        (lambda: line_of_sight_rays(place[0], place + 1, wavelength=0.1), ShapeError, "rx_positions has shape"),
        (lambda: line_of_sight_rays(place * math.nan, place, wavelength=0.1), InvalidValueError, "rx_positions holds"),
        (lambda: free_space_gain_db(0.0, 1e9), InvalidValueError, "distance=0 must be greater"),
        (lambda: free_space_gain_db(1.0, -1e9), InvalidValueError, "carrier_frequency"),
        (lambda: log_distance_gain_db(-1.0, 2.0), InvalidValueError, "distance=-1 must be greater"),
        (lambda: log_distance_gain_db(torch.tensor([1.0, -2.0]), 2.0), InvalidValueError, "distance=-2"),
        (lambda: log_distance_gain_db([1.0], 2.0), InvalidTypeError, "distance must be a number or"),
        (lambda: log_distance_gain_db(1.0, -2.0), InvalidValueError, "exponent=-2"),
        (lambda: log_distance_gain_db(1.0, 2.0, reference_distance=0.0), InvalidValueError, "reference_distance=0"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
