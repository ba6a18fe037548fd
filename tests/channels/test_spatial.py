"""The conditionally Gaussian spatial model: covariances against other ways to compute them, and samples against covariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch

from wichan.channels import UPA, SpatialGaussian
from wichan.channels.spatial_spectrum import laplace_nodes, legendre, uniform_laplace_nodes
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.grid import OFDMGrid

DOUBLE = torch.float64
GRID = OFDMGrid(2, 3, 15e3)
ANGLES = torch.tensor([[0.3, -1.1, 1.5], [0.0, 0.7, -0.2]], dtype=DOUBLE)
POWERS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=DOUBLE)

CASES: dict[str, dict[str, Any]] = {
    "linear": {"num_rx_ant": 8, "num_clusters": 3},
    "wide": {"num_rx_ant": 5, "num_clusters": 2, "rx_spread": 1.0},
    "planar": {"num_rx_ant": 6, "num_clusters": 2, "num_rows": 3, "elevation_spread": 0.1},
    "mimo": {"num_rx_ant": 4, "num_clusters": 2, "num_tx_ant": 3},
    "planar-mimo": {"num_rx_ant": 4, "num_rows": 2, "num_tx_ant": 2},
}


def one_draw(model: SpatialGaussian) -> dict[str, torch.Tensor]:
    """Conditions of one channel, for every sample of a batch."""
    columns = model.sample(1, generator=torch.Generator().manual_seed(3)).columns
    return {name: value[0] for name, value in columns.items()}


def jacobi_anger(num_ant: int, spread: float, angles: torch.Tensor, powers: torch.Tensor) -> np.ndarray:
    """First columns in closed form: e^{j pi m sin x} has the Fourier coefficients J_q(pi m), and a Laplace density cut at half
    a turn multiplies harmonic q by (1 - (-1)^q e^{-pi/b}) / ((1 + b^2 q^2)(1 - e^{-pi/b})), b = spread / sqrt 2."""
    decay = spread / math.sqrt(2)
    order = np.arange(-700, 701)
    far = math.exp(-math.pi / decay)
    harmonic = (1 - (-1.0) ** np.abs(order) * far) / ((1 + (decay * order) ** 2) * (1 - far))
    bessel = scipy.special.jv(order[:, None], math.pi * np.arange(num_ant))
    phase = np.exp(1j * angles.numpy()[..., None] * order) * harmonic
    return np.einsum("np,npm->nm", powers.numpy(), phase @ bessel)


# -- Covariances. --


@pytest.mark.parametrize("spread_deg", [0.5, 2.0, 35.0, 120.0])
@pytest.mark.parametrize("num_ant", [1, 2, 9, 64])
def test_linear_covariance_is_the_closed_form(num_ant: int, spread_deg: float) -> None:
    """Against Jacobi-Anger; the spectrum is cut at e^-16 = 1.1e-7, which moves a correlation by at most twice that."""
    model = SpatialGaussian(num_ant, 3, rx_spread=math.radians(spread_deg))
    expected = jacobi_anger(num_ant, math.radians(spread_deg), ANGLES, POWERS)
    assert np.abs(model.conditional_covariance(ANGLES, POWERS)[:, :, 0].numpy() - expected).max() < 3e-7


def test_the_lattice_of_the_public_code_agrees() -> None:
    """[Fesl2024]'s discretisation: 100 N points of u = pi sin(theta), both sides of the array, the Jacobian capped, power
    restored; its columns carry (-1)^n and a ramp of the lattice's offset, undone here. Its midpoint rule is off by the kink
    at the cluster and, beside end-fire, by the root singularity: below 2 % at 1.5 rad, below 1e-3 at the other angles."""
    num_ant, spread = 32, 2.0
    model = SpatialGaussian(num_ant, 3)
    size = 100 * num_ant
    u = 2 * math.pi * (np.arange(size) + 1 / 3) / size - math.pi
    theta = np.degrees(np.arcsin(u / math.pi))
    decay = spread / math.sqrt(2)

    def density(angle: np.ndarray, row: int) -> np.ndarray:
        centre = np.degrees(ANGLES[row].numpy())
        offset = (angle[:, None] - centre + 180) % 360 - 180
        return (np.exp(-np.abs(offset) / decay) / (2 * decay)) @ POWERS[row].numpy()

    for row, tolerance in ((0, 0.02), (1, 1e-3)):
        f = np.degrees((density(theta, row) + density(180 - theta, row)) * 2 * math.pi / np.sqrt(math.pi**2 - u**2))
        f = np.minimum(f, size)
        f *= size / f.sum()
        column = np.exp(1j * np.outer(np.arange(num_ant), u)) @ f / size
        error = np.abs(column - model.conditional_covariance(ANGLES, POWERS)[row, :, 0].numpy()).max()
        assert error < tolerance


@pytest.mark.parametrize("name", CASES)
def test_covariances_are_hermitian_positive_and_of_unit_diagonal(name: str) -> None:
    model = SpatialGaussian(**CASES[name])
    draw = model.sample(20, generator=torch.Generator().manual_seed(0))
    for matrix in (model.conditional_covariance(**draw.columns), model.marginal_covariance()):
        assert matrix.dtype == torch.complex128
        assert torch.allclose(matrix, matrix.mH, atol=1e-14, rtol=0)
        # sums of up to some thousand weights
        assert torch.allclose(matrix.diagonal(dim1=-2, dim2=-1), torch.ones((), dtype=torch.complex128), atol=1e-12, rtol=0)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-13


def test_linear_is_toeplitz_and_planar_is_block_toeplitz() -> None:
    linear = SpatialGaussian(6).conditional_covariance(ANGLES[:1, :1])[0]
    assert torch.allclose(linear[1:, 1:], linear[:-1, :-1], atol=1e-15, rtol=0)
    model = SpatialGaussian(6, num_rows=3)
    planar = model.conditional_covariance(ANGLES[:1, :1], elevations=0.2 * ANGLES[:1, :1])[0].reshape(2, 3, 2, 3)
    assert torch.allclose(planar[0, :, 0], planar[1, :, 1], atol=1e-15, rtol=0)
    assert torch.allclose(planar[:, 1:, :, 1:], planar[:, :-1, :, :-1], atol=1e-15, rtol=0)
    assert not torch.allclose(planar[0, :, 1], planar[1, :, 0])


def test_narrow_clusters_are_plane_waves_over_the_arrays_of_the_library() -> None:
    """Spread 0.02 degrees: the covariance is the outer product of the array's answer to one direction, to (pi N spread)^2."""
    azimuth, elevation = torch.tensor([0.6], dtype=DOUBLE), torch.tensor([-0.3], dtype=DOUBLE)
    tiny = math.radians(0.02)
    planar = SpatialGaussian(12, num_rows=3, rx_spread=tiny, elevation_spread=tiny)
    array = UPA(3, 4).response(math.pi / 2 - elevation, azimuth)[0]
    expected = torch.outer(array, array.conj())
    assert torch.allclose(planar.conditional_covariance(azimuth, elevations=elevation), expected, atol=1e-4, rtol=0)
    line = torch.exp(1j * math.pi * torch.arange(8) * azimuth.sin())
    linear = SpatialGaussian(8, rx_spread=tiny).conditional_covariance(azimuth)
    assert torch.allclose(linear, torch.outer(line, line.conj()), atol=1e-4, rtol=0)


def test_planar_covariance_by_brute_force() -> None:
    """A row of a planar array, and all of it by a plain double sum over a fine grid of both offsets.

    Midpoints of 0.05 decay constants leave 0.05^2 / 24 = 1e-4 of the kink.
    """
    spread, lift = 0.1, 0.2
    model = SpatialGaussian(6, num_rows=2, rx_spread=spread, elevation_spread=lift)
    azimuth, elevation = torch.tensor([0.5], dtype=DOUBLE), torch.tensor([0.3], dtype=DOUBLE)
    x = (torch.arange(-240, 240, dtype=DOUBLE) + 0.5) * 0.05
    weight = torch.exp(-x.abs())
    weight = weight / weight.sum()
    phi, eps = azimuth + x * spread / math.sqrt(2), elevation + x * lift / math.sqrt(2)
    answers = UPA(2, 3).response((math.pi / 2 - eps)[:, None].expand(-1, len(phi)), phi.expand(len(eps), -1))
    waves = answers.flatten(0, 1) * torch.outer(weight, weight).flatten().sqrt()[:, None]
    found = model.conditional_covariance(azimuth, elevations=elevation)
    assert torch.allclose(found, waves.mT @ waves.conj(), atol=2e-4, rtol=0)


def test_kronecker_over_the_two_ends_in_the_order_of_the_library() -> None:
    model = SpatialGaussian(3, 2, num_tx_ant=2)
    given = one_draw(model)
    rx = SpatialGaussian(3, 2).conditional_covariance(given["angles"], given["powers"])
    wide = SpatialGaussian(2, 2, rx_spread=math.radians(35))
    tx = wide.conditional_covariance(given["tx_angles"], given["powers"])
    assert torch.allclose(model.conditional_covariance(**given), torch.kron(rx, tx), atol=1e-14, rtol=0)


# -- Over all angles and powers. --


@pytest.mark.parametrize("num_ant", [1, 2, 17, 64])
@pytest.mark.parametrize("spread_deg", [0.1, 2.0, 60.0])
def test_marginal_covariance_is_the_isotropic_one(num_ant: int, spread_deg: float) -> None:
    """A sine has the same law on a half circle and on a circle, and a uniform angle on a circle stays one after any offset."""
    marginal = SpatialGaussian(num_ant, 3, rx_spread=math.radians(spread_deg)).marginal_covariance()
    expected = scipy.special.j0(math.pi * np.arange(num_ant))
    assert np.abs(marginal[:, 0].numpy() - expected).max() < 1e-8


@pytest.mark.parametrize("name", ["sector", "planar", "mimo"])
def test_marginal_covariance_is_the_mean_of_conditional_ones(name: str) -> None:
    """1,000 draws: entries of modulus at most 1 leave a standard error of at most 1/31; five of them."""
    case = {"num_rx_ant": 6, "num_clusters": 2, "max_angle": 1.0} if name == "sector" else CASES[name]
    model = SpatialGaussian(**case)
    draw = model.sample(1000, generator=torch.Generator().manual_seed(1))
    mean = model.conditional_covariance(**draw.columns).mean(0)
    assert float((mean - model.marginal_covariance()).abs().max()) < 5 / 31


def test_nodes_integrate_what_they_are_for() -> None:
    for nodes, weights in (laplace_nodes(0.05, 200.0), uniform_laplace_nodes(1.2, 0.05, 200.0)):
        assert torch.allclose(nodes, -nodes.flip(0), atol=1e-13, rtol=0)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-13)
        assert float(weights.min()) > 0
    nodes, weights = laplace_nodes(0.05, 200.0)
    # variance of the Laplace law; its cut tail holds e^-16 (16^2 + 34) / 2 = 1.6e-5 of it
    assert float((weights * nodes.square()).sum()) == pytest.approx(0.05**2, rel=3e-5)
    nodes, weights = uniform_laplace_nodes(1.2, 0.05, 200.0)
    assert float((weights * nodes.square()).sum()) == pytest.approx(1.2**2 / 3 + 0.05**2, rel=3e-5)
    nodes, weights = legendre(1.0, 3.0, 5)
    assert float((weights * nodes**4).sum()) == pytest.approx((3**5 - 1) / 5, rel=1e-13)


# -- Samples. --


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("samples", [500, 8_000])
def test_sample_covariance_converges_to_the_conditional_one(name: str, samples: int) -> None:
    """With fixed conditions, in the eigenvectors of the covariance and scaled by its eigenvalues, entries of the sample
    covariance are uncorrelated with standard error 1 / sqrt(T). So the scaled error is 1 in the root mean square whatever T
    (over r^2 >= 4 entries: 0.4 to 1.7), and below 4.5 everywhere. Nothing may lie outside the eigenvectors kept."""
    model = SpatialGaussian(**CASES[name])
    given = one_draw(model)
    h = model.sample(samples, generator=torch.Generator().manual_seed(2), **given).h.flatten(1).to(torch.complex128)
    values, vectors = torch.linalg.eigh(model.conditional_covariance(**given))
    kept = values > 1e-5
    white = h @ vectors.conj()[:, kept] / values[kept].sqrt()
    error = (white.mT @ white.conj() / samples - torch.eye(white.shape[1])).abs() * math.sqrt(samples)
    assert white.shape[1] >= 2
    assert 0.4 < float(error.square().mean().sqrt()) < 1.7
    assert float(error.max()) < 4.5
    outside = (h @ vectors.conj()[:, ~kept]).abs().square().mean(0)
    # an average of T exponential variables is below three times its mean; what is left is rounding to single precision
    assert bool((outside < 3 * values[~kept].clamp_min(0) + 1e-10).all())


@pytest.mark.parametrize("name", CASES)
def test_power_is_one_at_every_antenna(name: str) -> None:
    """4,000 channels: |h|^2 has standard deviation 1, so 5 / sqrt(4000) is five standard errors."""
    model = SpatialGaussian(**CASES[name])
    power = model.sample(4_000, generator=torch.Generator().manual_seed(0)).h.abs().square().double().mean(0)
    assert float((power - 1).abs().max()) < 5 / math.sqrt(4_000)
    assert model.mean_power() == 1.0


def test_64_antennas_have_power_one_to_a_percent(generator: torch.Generator) -> None:
    """The mean over 64 antennas and 20,000 channels: a one-cluster channel has some 6 independent directions, so the standard
    error is near 1 / sqrt(6 * 20,000) = 0.3 %."""
    h = SpatialGaussian(64).sample(20_000, generator=generator).h
    assert float(h.abs().square().mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("clusters", "expected"), [(1, 6), (3, 14)])
def test_share_of_energy_in_few_eigenvalues(clusters: int, expected: int) -> None:
    """Median number of eigenvalues that hold 99 %, at N = 64: 6 and 14 in the reference, one up or down for another draw."""
    model = SpatialGaussian(64, clusters)
    draw = model.sample(300, generator=torch.Generator().manual_seed(5))
    values = torch.linalg.eigvalsh(model.conditional_covariance(**draw.columns)).flip(-1)
    needed = (values.cumsum(-1) < 0.99 * values.sum(-1, keepdim=True)).sum(-1) + 1
    assert abs(int(needed.median()) - expected) <= 1


def test_angles_and_powers_have_their_laws(generator: torch.Generator) -> None:
    draw = SpatialGaussian(2, 3, max_angle=1.0).sample(20_000, generator=generator)
    assert float(draw.angles.abs().max()) <= 1
    # 60,000 uniform numbers: five standard errors of the mean and of the mean square
    assert float(draw.angles.mean()) == pytest.approx(0, abs=5 * 3**-0.5 / 245)
    assert float(draw.angles.square().mean()) == pytest.approx(1 / 3, abs=5 * 0.3 / 245)
    assert torch.allclose(draw.powers.sum(-1), torch.ones(20_000), atol=1e-6)
    # shares of three uniform numbers: mean 1/3 by symmetry
    assert float(draw.powers[:, 0].mean()) == pytest.approx(1 / 3, abs=5 * 0.16 / 141)
    assert torch.equal(SpatialGaussian(2).sample(5, generator=generator).powers, torch.ones(5, 1))


def test_fixing_conditions_leaves_the_other_draws_alone() -> None:
    model = SpatialGaussian(4, 2, num_tx_ant=2)
    free = model.sample(6, generator=torch.Generator().manual_seed(0))
    again = model.sample(6, generator=torch.Generator().manual_seed(0), **free.columns)
    assert torch.allclose(again.h, free.h, atol=1e-6)
    other = model.sample(6, generator=torch.Generator().manual_seed(0), angles=torch.zeros(2))
    assert torch.equal(other.powers, free.powers)
    assert torch.equal(other.tx_angles, free.tx_angles)
    assert not torch.allclose(other.h, free.h)
    # powers count relative to their sum
    doubled = model.sample(6, generator=torch.Generator().manual_seed(0), powers=7 * free.powers)
    assert torch.allclose(doubled.h, free.h, atol=1e-5)
    assert torch.allclose(doubled.powers, free.powers, atol=1e-6)


def test_large_batches_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SpatialGaussian(4, 2)
    monkeypatch.setattr("wichan.channels.spatial._DRAWN", 16 * 5 * model._rx.num_waves)
    draw = model.sample(100, generator=torch.Generator().manual_seed(0))
    assert draw.h.shape == (100, 4, 1)
    # the first piece of 40 starts where the conditions of all 100 end
    assert float((draw.h[:40] - draw.h[40:80]).abs().min()) > 0


# -- As a channel model. --


def test_frequency_response_is_flat_and_covariance_agrees(generator: torch.Generator) -> None:
    model = SpatialGaussian(3, 2, num_tx_ant=2)
    h = model.frequency_response(GRID, 5, generator=generator, normalize="ensemble")
    assert h.shape == (5, 3, 2, 2, 3) and h.dtype == torch.complex64
    assert torch.equal(h, h[..., :1, :1].expand_as(h))
    wide = model.frequency_response(GRID, 5, generator=torch.Generator().manual_seed(7), dtype=torch.complex128)
    narrow = model.frequency_response(GRID, 5, generator=torch.Generator().manual_seed(7))
    assert wide.dtype == torch.complex128 and torch.equal(wide.to(torch.complex64), narrow)
    flat = torch.ones(6, 6, dtype=torch.complex128)
    assert torch.allclose(model.covariance(GRID).matrix(), torch.kron(model.marginal_covariance(), flat), atol=1e-9)
    draw = model.sample(4, generator=generator)
    each = model.covariance(GRID, **draw.columns).matrix()
    space = model.conditional_covariance(**draw.columns)
    assert torch.allclose(each, torch.stack([torch.kron(matrix, flat) for matrix in space]), atol=1e-9)


def test_draw_moves_and_widens(generator: torch.Generator) -> None:
    draw = SpatialGaussian(4, num_rows=2).sample(3, generator=generator)
    assert sorted(draw.columns) == ["angles", "elevations", "powers"]
    wide = draw.double().to("cpu")
    assert wide.h.dtype == torch.complex128 and wide.angles.dtype == DOUBLE and wide.tx_angles is None
    assert torch.equal(wide.h.to(torch.complex64), draw.h)


def test_batch_axes_of_a_conditional_covariance() -> None:
    model = SpatialGaussian(4, 3)
    one = model.conditional_covariance(ANGLES[0], POWERS[0])
    many = model.conditional_covariance(ANGLES.expand(5, 2, 3), POWERS.expand(5, 2, 3))
    assert one.shape == (4, 4) and many.shape == (5, 2, 4, 4)
    assert torch.equal(many[3, 0], model.conditional_covariance(ANGLES, POWERS)[0])
    assert torch.allclose(many[0, 0], one, atol=1e-15, rtol=0)
    assert SpatialGaussian(4).conditional_covariance(torch.zeros(0, 1)).shape == (0, 4, 4)


@pytest.mark.gpu
def test_a_generator_on_a_gpu_keeps_all_of_it_there() -> None:
    """Covariances agree with those of the CPU to double precision, power to five standard errors of 4,000 channels."""
    model = SpatialGaussian(6, 2, num_rows=2, num_tx_ant=2)
    draw = model.sample(4000, generator=torch.Generator("cuda").manual_seed(0))
    assert {value.device.type for value in (draw.h, *draw.columns.values())} == {"cuda"}
    there = model.conditional_covariance(**draw.columns)
    here = model.conditional_covariance(**draw.to("cpu").columns)
    assert torch.allclose(there.cpu(), here, atol=1e-12, rtol=0)
    assert float((draw.h.abs().square().mean(0) - 1).abs().max()) < 5 / math.sqrt(4000)


BAD_MODELS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_rx_ant": 0}, InvalidValueError, "num_rx_ant=0 must be at least 1"),
    ({"num_clusters": 65}, InvalidValueError, "num_clusters=65 must be at most 64"),
    ({"num_clusters": 1.5}, InvalidTypeError, "num_clusters=1.5 must be an integer"),
    ({"num_tx_ant": -1}, InvalidValueError, "num_tx_ant=-1 must be at least 1"),
    ({"rx_spread": 0.0}, InvalidValueError, "rx_spread=0 must be greater than 0"),
    ({"rx_spread": 2e-5}, InvalidValueError, "rx_spread=2e-05 must lie between"),
    ({"tx_spread": 35.0}, InvalidValueError, "tx_spread=35 must lie between .* radians"),
    ({"tx_spread": math.nan}, InvalidValueError, "tx_spread=nan must be finite"),
    ({"num_rows": 3}, InvalidValueError, "num_rows=3 must be a divisor of num_rx_ant=4"),
    ({"max_angle": 90}, InvalidValueError, "max_angle=90 must be at most 3.14159"),
    ({"max_elevation": 0}, InvalidValueError, "max_elevation=0 must be greater than 0"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    BAD_MODELS,
    ids=[message.split("=")[0] + str(i) for i, (_, _, message) in enumerate(BAD_MODELS)],
)
def test_bad_models_are_one_clear_line(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        SpatialGaussian(**{"num_rx_ant": 4, **change})
    assert "\n" not in str(caught.value)


BAD_CONDITIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"angle": torch.zeros(2)}, UnknownNameError, "condition='angle' is unknown; did you mean 'angles'"),
    ({"tx_angles": torch.zeros(2)}, UnknownNameError, "condition='tx_angles' is unknown"),
    ({"angles": [0.0, 0.1]}, InvalidTypeError, "angles must be a torch.Tensor, got list"),
    ({"angles": torch.zeros(3)}, ShapeError, r"angles has shape \(3,\); the last axis must have 2 clusters"),
    ({"angles": torch.zeros(3, 2)}, ShapeError, r"angles has shape \(3, 2\); it must be \(4, 2\) or \(2,\)"),
    ({"angles": torch.tensor([0.0, 40.0])}, InvalidValueError, "angles holds 40; angles are in radians"),
    ({"angles": torch.tensor([0.0, math.nan])}, InvalidValueError, "angles holds 1 NaN or infinite"),
    ({"powers": torch.tensor([0.5, -0.5])}, InvalidValueError, "powers must be at least 0"),
    ({"powers": torch.zeros(2)}, InvalidValueError, "sum greater than 0"),
    ({"powers": torch.ones(2, dtype=torch.int64)}, InvalidTypeError, "powers has dtype torch.int64"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_CONDITIONS, ids=[message[:24] for _, _, message in BAD_CONDITIONS])
def test_bad_conditions_are_one_clear_line(
    given: dict[str, Any], error: type[Exception], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(error, match=message) as caught:
        SpatialGaussian(4, 2).sample(4, generator=generator, **given)
    assert "\n" not in str(caught.value)


def test_a_conditional_covariance_needs_all_conditions() -> None:
    model = SpatialGaussian(4, 2, num_tx_ant=2)
    with pytest.raises(
        InvalidValueError, match="tx_angles is missing; a conditional covariance needs angles, tx_angles, powers"
    ):
        model.conditional_covariance(torch.zeros(2), torch.ones(2))
    with pytest.raises(InvalidValueError, match="powers is missing"):
        SpatialGaussian(4, 2).conditional_covariance(torch.zeros(2))
    with pytest.raises(ShapeError, match=r"powers has shape \(2,\); angles have \(5, 2\)"):
        SpatialGaussian(4, 2).conditional_covariance(torch.zeros(5, 2), torch.ones(2))
    with pytest.raises(InvalidValueError, match="angles is missing"):
        SpatialGaussian(4, 2).covariance(GRID, powers=torch.ones(2))
