"""Structured covariances: projections of the full case, steps that never lower the likelihood, storage, sizes."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import ShapeError
from wichan.linalg import toeplitz
from wichan.priors.structure import STRUCTURES, Components, make_structure, objective

SHAPES = {"full": (6,), "toeplitz": (6, 1), "circulant": (6,), "block-toeplitz": (2, 3), "block-circulant": (2, 3)}


def gaussians(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, n, generator=generator, dtype=torch.complex128)


def moments(count: int, n: int, generator: torch.Generator) -> torch.Tensor:
    """Sample covariances (count, n, n) of full rank and unequal powers."""
    h = torch.randn(count, 4 * n, n, generator=generator, dtype=torch.complex128)
    h = h * (1 + torch.arange(n, dtype=torch.float64))
    return h.mT @ h.conj() / (4 * n)


def dft(shape: tuple[int, ...]) -> torch.Tensor:
    """Unitary DFT over all axes, as one matrix."""
    n = math.prod(shape)
    axes = tuple(range(1, 1 + len(shape)))
    return torch.fft.fftn(torch.eye(n, dtype=torch.complex128).reshape(n, *shape), dim=axes, norm="ortho").reshape(n, n).mT


def second_of(structure: str, shape: tuple[int, ...], covs: torch.Tensor) -> torch.Tensor:
    """What the M-step of a structure is given."""
    if not structure.endswith("circulant"):
        return covs
    f = dft(shape)
    return (f @ covs @ f.mH).diagonal(dim1=-2, dim2=-1).real


def offsets(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    return grid.unsqueeze(1) - grid, torch.tensor(shape)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_covariance_has_its_structure(structure: str, generator: torch.Generator) -> None:
    shape = SHAPES[structure]
    covs = moments(3, 6, generator)
    form = make_structure(structure, shape)
    new = form.update(second_of(structure, shape, covs), None, 1e-9)
    dense = form.dense(form.values(new))
    torch.testing.assert_close(dense, dense.mH)
    assert float(torch.linalg.eigvalsh(dense).min()) > 0
    if structure != "full":
        # Entries depend on the difference of positions alone; modulo the size for the circulant forms.
        difference, sizes = offsets(shape)
        if structure.endswith("circulant"):
            difference = difference % sizes
        for i in range(6):
            for j in range(6):
                same = (difference == difference[i, j]).all(-1)
                spread = (dense[:, same] - dense[:, i, j].unsqueeze(1)).abs().max()
                assert float(spread) < 1e-12 * float(dense.abs().max())  # rounding
    torch.testing.assert_close(form.components(form.values(new)).powers.sort(-1).values, new.powers.sort(-1).values)
    assert form.values(new).shape == (3, *form.values_shape)


def test_the_full_m_step_is_the_sample_covariance_above_the_floor(generator: torch.Generator) -> None:
    covs = moments(2, 6, generator)
    form = make_structure("full", (6,))
    torch.testing.assert_close(form.dense(form.values(form.update(covs, None, 1e-9))), covs)
    # With a floor: eigenvalues below it are raised to it, and no other covariance above the floor has a larger Q.
    floor = float(torch.linalg.eigvalsh(covs).median())
    best = form.update(covs, None, floor)
    assert float(best.powers.min()) == floor
    for _ in range(20):
        step = moments(2, 6, generator)
        other = form.update(0.9 * best.dense() + 0.1 * step, None, floor)
        assert bool((objective(other, covs) <= objective(best, covs)).all())


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1), (2, 1, 3)])
def test_the_circulant_m_step_is_the_diagonal_of_the_full_one(shape: tuple[int, ...], generator: torch.Generator) -> None:
    covs = moments(2, 6, generator)
    f = dft(shape)
    full = make_structure("full", shape).update(covs, None, 1e-9).dense()
    form = make_structure("block-circulant", shape)
    diagonal = (f @ full @ f.mH).diagonal(dim1=-2, dim2=-1).real
    torch.testing.assert_close(form.update(second_of("circulant", shape, covs), None, 1e-9).powers, diagonal)
    torch.testing.assert_close(form.project(covs, None, 1e-9).powers, diagonal)
    # It is the nearest circulant matrix in the Frobenius norm: what is left over is orthogonal to all of them.
    dense = form.dense(form.values(form.project(covs, None, 1e-9)))
    left = f @ (covs - dense) @ f.mH
    assert float(left.diagonal(dim1=-2, dim2=-1).abs().max()) < 1e-12 * float(covs.abs().max())  # rounding


@pytest.mark.parametrize(("structure", "shape"), [("toeplitz", (6,)), ("block-toeplitz", (2, 3)), ("toeplitz", (1, 6, 1))])
def test_toeplitz_steps_never_lower_q(structure: str, shape: tuple[int, ...], generator: torch.Generator) -> None:
    covs = moments(4, 6, generator)
    covs[0] = covs[0][:, :1] @ covs[0][:, :1].mH  # of rank one: the floor takes part
    form = make_structure(structure, shape)
    now = form.update(covs, None, 1e-3)
    start = now
    for _ in range(40):
        new = form.update(covs, now, 1e-3)
        assert bool((objective(new, covs) >= objective(now, covs)).all())
        now = new
    assert bool((objective(now, covs) > objective(start, covs)).all())
    # No Toeplitz matrix is better than the best of all matrices.
    full = make_structure("full", shape).update(covs, None, 1e-3)
    assert bool((objective(now, covs) < objective(full, covs)).all())


def test_a_toeplitz_step_that_would_lower_q_is_not_taken(generator: torch.Generator) -> None:
    covs = moments(2, 6, generator)
    form = make_structure("toeplitz", (6,))
    best = form.update(covs, None, 1e-9)
    # The first component claims a spectrum that is not its own, so its step leads away.
    best.values[0] = torch.rand(12, generator=generator, dtype=torch.float64)
    new = form._step(form._embedding(covs.device), covs, best, 1e-9)
    torch.testing.assert_close(new.powers[0], best.powers[0])
    torch.testing.assert_close(new.values[0], best.values[0])
    assert float((new.powers[1] - best.powers[1]).abs().max()) > 0


def test_toeplitz_fit_of_toeplitz_data_approaches_the_truth(generator: torch.Generator) -> None:
    lag = torch.arange(6)
    truth = toeplitz((0.8**lag) * torch.exp(0.7j * lag)).to(torch.complex128)
    factor = torch.linalg.cholesky(truth)
    form = make_structure("toeplitz", (6,))
    errors, full_errors = [], []
    for count in (100, 1000, 10000):
        h = gaussians(6, count, generator) @ factor.mT
        cov = (h.mT @ h.conj() / count).unsqueeze(0)
        now = form.update(cov, None, 1e-9)
        for _ in range(50):
            now = form.update(cov, now, 1e-9)
        errors.append(float(torch.linalg.matrix_norm(now.dense()[0] - truth)))
        full_errors.append(float(torch.linalg.matrix_norm(cov[0] - truth)))
    # Errors fall as 1 / sqrt(count), a factor of 3.2 a step; structure leaves fewer numbers to be found.
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05 * float(torch.linalg.matrix_norm(truth))  # 4 / sqrt(10,000), with N numbers of unit power
    assert sum(errors) < sum(full_errors)


def test_exact_toeplitz_moments_are_recovered(generator: torch.Generator) -> None:
    form = make_structure("block-toeplitz", (2, 3))
    d = torch.rand(1, *form.values_shape, generator=generator, dtype=torch.float64) + 0.1
    truth = form.dense(d)
    now = form.update(truth, None, 1e-9)
    for _ in range(200):
        now = form.update(truth, now, 1e-9)
    # d is not unique, C is; the iteration converges linearly and stops improving near the root of rounding.
    torch.testing.assert_close(now.dense(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("structure", "shape", "numbers"),
    [
        ("full", (8,), 64),
        ("circulant", (8, 1), 8),
        ("toeplitz", (1, 8), 16),
        ("block-circulant", (2, 4), 8),
        ("block-toeplitz", (2, 4), 32),
        ("block-toeplitz", (8, 1, 1), 16),
    ],
)
def test_numbers_of_a_component(structure: str, shape: tuple[int, ...], numbers: int) -> None:
    form = make_structure(structure, shape)
    assert form.num_parameters == numbers == math.prod(form.values_shape)


@pytest.mark.parametrize("structure", ["circulant", "toeplitz"])
def test_plain_forms_are_for_one_axis(structure: str) -> None:
    make_structure(structure, (1, 4, 1))
    with pytest.raises(ShapeError, match=rf"structure='{structure}' is for one axis, .*use 'block-{structure}'"):
        make_structure(structure, (2, 4))


def test_q_and_density_agree_with_their_definitions(generator: torch.Generator) -> None:
    covs = moments(2, 4, generator)
    form = make_structure("full", (4,))
    made = form.update(covs, None, 1e-9)
    other = moments(2, 4, generator)
    direct = -torch.logdet(covs).real - torch.einsum("kij,kji->k", torch.linalg.inv(covs), other).real
    torch.testing.assert_close(objective(made, other), direct)
    h = gaussians(4, 5, generator)
    noise = torch.rand(5, 1, generator=generator, dtype=torch.float64)
    for no in (0.0, 0.3, noise):
        loaded = covs + torch.as_tensor(no, dtype=torch.float64).reshape(-1, 1, 1, 1) * torch.eye(4)
        form_of = torch.einsum("ti,tkij,tj->tk", h.conj(), torch.linalg.inv(loaded).expand(5, 2, 4, 4), h).real
        density = -form_of - torch.logdet(loaded).real - 4 * math.log(math.pi)
        torch.testing.assert_close(made.log_density(h, (4,), no), density)


def test_components_are_taken_and_put(generator: torch.Generator) -> None:
    made = make_structure("toeplitz", (4,)).update(moments(3, 4, generator), None, 1e-9)
    index = torch.tensor([2, 0])
    part = made.take(index)
    torch.testing.assert_close(part.dense(), made.dense()[index])
    target = Components(made.powers.clone(), made.vectors.clone(), made.values.clone())
    target.put(torch.tensor([0, 2]), part)
    torch.testing.assert_close(target.dense()[0], made.dense()[2])
    torch.testing.assert_close(target.dense()[1], made.dense()[1])
