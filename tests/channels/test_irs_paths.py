"""Laws of the directions of an IRS link by Monte Carlo, and the grid of directions."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from wichan.channels import IRSCascade, frequency_response
from wichan.channels.irs_geometry import IRSGeometry, array_response
from wichan.channels.irs_paths import grid_cosines, laplace_offsets, turned_cosines, wrap_cosine
from wichan.errors import InvalidValueError, ShapeError, UnknownNameError

DRAWS = 20_000


def assert_distributed(values: torch.Tensor, law) -> None:
    """Kolmogorov-Smirnov at the level 1e-6: 2.7 / sqrt(n) for n independent values."""
    assert scipy.stats.kstest(values.flatten().numpy(), law.cdf).pvalue > 1e-6


UNIFORM = scipy.stats.uniform(-1, 2)


def test_uniform_directions_of_linear_arrays(generator):
    """Every path has its own, and cosines are uniform in [-1, 1)."""
    draw = IRSCascade(2, 8, 4, 2).sample(DRAWS // 2, generator=generator)
    for name, value in draw.paths.items():
        assert value.shape == (DRAWS // 2, 2, 1) and value.dtype == torch.float64, name
        assert float(value.min()) >= -1 and float(value.max()) < 1
        assert_distributed(value, UNIFORM)
        # Correlation of two independent uniform numbers: 5 standard errors.
        assert abs(float((value[:, 0] * value[:, 1]).mean() * 3)) < 5 / math.sqrt(DRAWS / 2)


def test_uniform_directions_of_planar_arrays_are_isotropic(generator):
    """Both cosines are uniform, their norm at most 1, and E e^{j pi (r u + c w)} is sinc of the distance of the elements."""
    value = IRSCascade((2, 2), (3, 3), (2, 2), 1).sample(DRAWS, generator=generator).paths["ms_irs_arrival"][:, 0]
    assert float(value.square().sum(-1).max()) <= 1 + 1e-12
    for axis in range(2):
        assert_distributed(value[:, axis], UNIFORM)
    for row, col in [(1, 0), (1, 1), (2, 1), (2, 2)]:
        mean = torch.exp(1j * math.pi * (row * value[:, 0] + col * value[:, 1])).mean()
        distance = math.pi * math.hypot(row, col)
        assert abs(complex(mean) - math.sin(distance) / distance) < 5 / math.sqrt(DRAWS)


def test_hops_over_isotropic_directions_are_white_along_a_linear_surface(generator):
    """E[H H^H] over elements is the identity: 5 standard errors of a product of two unit-variance entries."""
    rays = IRSCascade(1, 6, 1, 3).sample(DRAWS, generator=generator).ms_irs
    h = frequency_response(rays, torch.zeros(1), torch.zeros(1)).flatten(1)
    moment = h.T @ h.conj() / DRAWS
    assert float((moment - torch.eye(6)).abs().max()) < 5 * 1.5 / math.sqrt(DRAWS)


def test_hop_power_is_the_hop_gain(generator):
    """E|H|^2 of an entry equals the gain; the mean of 20,000 powers of near-exponential variables, 5 standard errors."""
    model = IRSCascade(2, 4, 2, 3, angles="cluster", direct=True, hop_gain_db=(-80.0, -60.0), direct_gain_db=-95.0)
    draw = model.sample(DRAWS, generator=generator)
    for rays, db in ((draw.ms_irs, -80.0), (draw.irs_bs, -60.0), (draw.direct, -95.0)):
        h = frequency_response(rays, torch.zeros(1), torch.zeros(1))
        power = float(h.abs().square().double().mean())
        assert power == pytest.approx(10 ** (db / 10), rel=5 * 1.5 / math.sqrt(DRAWS))


@pytest.mark.parametrize("spread", [0.05, 0.3, 3.0])
def test_offsets_in_a_cluster_are_laplacian(spread, generator):
    """The cut Laplace law with its scale; below a tenth of pi the cut does not show and the deviation is the spread."""
    scale = spread / math.sqrt(2)
    value = laplace_offsets((DRAWS,), spread, generator)
    mass = -math.expm1(-math.pi / scale)

    class Cut:
        @staticmethod
        def cdf(x):
            return 0.5 + (scipy.stats.laplace(scale=scale).cdf(x) - 0.5) / mass

    assert_distributed(value, Cut)
    assert float(value.abs().max()) <= math.pi
    if spread < 0.31:
        # The fourth moment of a Laplace variable is 6 sigma^4: 5 standard errors of its mean square.
        assert float(value.square().mean()) == pytest.approx(spread**2, rel=5 * math.sqrt(5 / DRAWS))


def test_no_spread_is_one_direction(generator):
    draw = IRSCascade(2, (2, 4), 4, 3, angles="cluster", angle_spread=0.0).sample(50, generator=generator)
    for value in draw.paths.values():
        assert float((value - value[:, :1]).abs().max()) < 1e-12


@pytest.mark.parametrize("surface", [8, (4, 4)])
def test_clusters_have_one_departure_and_arrivals_around_a_centre(surface, generator):
    """At a linear array the sines' angles differ from each other by differences of Laplacian offsets: variance 2 s^2, unless
    folded at the end of the visible range; within 2 % at 0.02 rad over centres away from it."""
    model = IRSCascade(2, surface, 4, 2, angles="cluster", angle_spread=0.02)
    paths = model.sample(DRAWS, generator=generator).paths
    for link in ("ms_irs", "irs_bs"):
        departure, arrival = paths[f"{link}_departure"], paths[f"{link}_arrival"]
        assert torch.equal(departure[:, 0], departure[:, 1])
        assert not torch.equal(arrival[:, 0], arrival[:, 1])
    at_station = paths["irs_bs_arrival"][..., 0]
    inside = (at_station.abs() < 0.9).all(-1)
    angle = at_station[inside].asin()
    gap = (angle[:, 0] - angle[:, 1]).square().mean()
    # A difference of two Laplace variables has the kurtosis 4.5: 5 standard errors.
    assert float(gap) == pytest.approx(2 * 0.02**2, rel=5 * math.sqrt(3.5 / int(inside.sum())))


def test_turns_are_turns_of_the_angles():
    """u_row = sin e, u_col = cos e sin a: turning the angles of a direction is exact; a linear array has u = sin a."""
    lift, across = torch.tensor([0.3, -0.7]).double(), torch.tensor([0.5, -0.2]).double()
    by, up = torch.tensor([0.11, -0.2]).double(), torch.tensor([-0.05, 0.2]).double()
    centre = torch.stack([lift.sin(), lift.cos() * across.sin()], dim=-1)
    want = torch.stack([(lift + up).sin(), (lift + up).cos() * (across + by).sin()], dim=-1)
    assert torch.allclose(turned_cosines(centre, by, up), want, atol=1e-14)
    line = turned_cosines(across.sin()[:, None], by, up)
    assert torch.allclose(line[:, 0], (across + by).sin(), atol=1e-14)


def test_grid_law_is_uniform_on_the_grid(generator):
    """Every point of every axis has the same share (chi square at the level 1e-6), and paths are independent."""
    model = IRSCascade(2, (2, 2), 4, 2, angles="grid", grid_size={"ms": 5, "irs": (6, 4), "bs": 7})
    paths = model.sample(DRAWS, generator=generator).paths
    sizes = {"ms_irs_arrival": (6, 4), "ms_irs_departure": (5,), "irs_bs_arrival": (7,), "irs_bs_departure": (6, 4)}
    for name, points in sizes.items():
        for axis, size in enumerate(points):
            step = (paths[name][..., axis] + 1) * size / 2
            index = step.round().to(torch.int64)
            assert float((step - index).abs().max()) < 1e-12
            counts = torch.bincount(index.flatten(), minlength=size)
            assert len(counts) == size and scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6
        equal = (paths[name][:, 0] == paths[name][:, 1]).all(-1).double().mean()
        share = 1 / math.prod(points)
        assert abs(float(equal) - share) < 5 * math.sqrt(share / DRAWS)


@pytest.mark.parametrize("surface", [256, (8, 8)])
def test_block_law_is_one_departure_and_consecutive_arrivals(surface, generator):
    """The published law: cyclic neighbours, every start equally likely (chi square at 1e-6), one row of a planar grid."""
    paths = IRSCascade(6, surface, 16, 3, angles="block", grid_size=18).sample(DRAWS, generator=generator).paths
    for link in ("ms_irs", "irs_bs"):
        departure, arrival = paths[f"{link}_departure"], paths[f"{link}_arrival"]
        assert torch.equal(departure, departure[:, :1].expand_as(departure))
        index = ((arrival + 1) * 9).round().to(torch.int64)
        assert torch.equal(index[:, 1:, -1], (index[:, :-1, -1] + 1) % 18)
        assert float((arrival - grid_cosines(index, (18,) * arrival.shape[-1])).abs().max()) == 0
        starts = torch.bincount(index[:, 0, -1], minlength=18)
        assert scipy.stats.chisquare(starts.numpy()).pvalue > 1e-6
        if arrival.shape[-1] == 2:
            assert torch.equal(index[..., :1], index[:, :1, :1].expand_as(index[..., :1]))


def test_wrap_keeps_the_response_and_the_range():
    """Sums of cosines leave [-1, 1) by at most 1; what comes back has the same response, also at the edges."""
    u = torch.tensor([-2.0, -1.0, -1e-18, 0.0, 0.3, 1.0, 1.7, 2.0 - 1e-16, -1 - 1e-17], dtype=torch.float64)
    wrapped = wrap_cosine(u)
    assert bool(((wrapped >= -1) & (wrapped < 1)).all())
    before, after = (array_response(value[:, None], (9,), torch.complex128) for value in (u, wrapped))
    assert float((before - after).abs().max()) < 1e-13


def test_responses_of_arrays_by_their_formula(generator):
    """e^{j pi (r u_row + c u_col)}, element r C + c; modulus 1; far elements keep their phase in single precision."""
    u = 2 * torch.rand(5, 2, generator=generator, dtype=torch.float64) - 1
    row, col = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
    want = torch.exp(1j * math.pi * (row * u[:, :1] + col * u[:, 1:]))
    assert float((array_response(u, (3, 4), torch.complex128) - want).abs().max()) < 1e-14
    long = array_response(u[:, :1], (4096,))
    exact = torch.exp(1j * math.pi * torch.arange(4096, dtype=torch.float64) * u[:, :1])
    assert long.dtype == torch.complex64
    assert float((long - exact).abs().max()) < 1e-6  # two rounded tables and a product, 6e-8 each


def test_bad_geometry_is_refused_in_one_line():
    geometry = IRSGeometry((2,), (4,), (3,))
    path = torch.zeros(1, 1, 1)
    nan = {"ms_irs_arrival": path * math.nan, "ms_irs_departure": path}
    near = {"ms_irs_arrival": path, "ms_irs_departure": path, "ms_irs_distance": torch.ones(1, 1)}
    gain = torch.ones(1, 1, dtype=torch.complex64)
    cases = [
        (lambda: array_response(torch.zeros(3, 2), (4,)), ShapeError, "must have 1 cosines"),
        (lambda: geometry.rays("ms_irs", nan, gain), InvalidValueError, "ms_irs_arrival holds 1 NaN"),
        (lambda: geometry.rays("ms_irs", near, gain), InvalidValueError, "wavelength=None is missing"),
        (
            lambda: geometry.rays("ms_irs", {"ms_irs_arrival": path, "ms_irs_departure": path}, gain * math.nan),
            InvalidValueError,
            "NaN",
        ),
        (lambda: geometry.rays("ms_bs", {}, gain), UnknownNameError, "link='ms_bs'"),
        (lambda: geometry.shape("station"), UnknownNameError, "end='station'"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
