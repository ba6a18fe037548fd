"""Pattern-coupled sparse Bayesian learning: the published loop, neighbours on grids, what coupling gains, manners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.estimators import PCSBL, SBL
from wichan.estimators.pc_sbl import grid_neighbours
from wichan.observations import IRSTraining, KroneckerDictionary
from wichan.random import complex_normal


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def published(a: np.ndarray, y: np.ndarray, no: float, steps: int, tol: float, eta: float = 0.9) -> tuple[np.ndarray, int]:
    """Fang's iteration with the dense covariance and 1e10 for what is switched off: the mean and the number of updates."""

    def posterior(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = np.diag(1 / precision)
        covariance = g - g @ a.conj().T @ np.linalg.inv(no * np.eye(len(a)) + a @ g @ a.conj().T) @ a @ g
        return covariance @ a.conj().T @ y / no, np.diag(covariance).real

    def both(v: np.ndarray) -> np.ndarray:
        return np.append(v[1:], 0) + np.append(0, v[:-1])

    mean, variance = posterior(np.ones(a.shape[1]))
    done = 0
    while done < steps:
        old = mean
        energy = np.abs(mean) ** 2 + variance
        alpha = 1.0 / (0.5 * (energy + eta * both(energy)) + 1e-4)
        alpha[alpha > 1e3 * alpha.min()] = 1e10
        mean, variance = posterior(alpha + eta * both(alpha))
        done += 1
        if np.linalg.norm(mean - old) <= tol * np.linalg.norm(old):
            break
    return mean, done


def block_case(seed: int, kind: str = "complex") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """A dense dictionary of 40 x 100, a block of six strong coefficients, 20 dB: dictionary, x, y, no."""
    g = torch.Generator().manual_seed(seed)
    a = normal(40, 100, generator=g, kind=kind)
    x = torch.zeros(100, dtype=a.dtype)
    start = int(torch.randint(0, 94, (1,), generator=g))
    x[start : start + 6] = normal(6, generator=g, kind=kind)
    clean = a @ x
    no = float(clean.abs().square().mean()) / 100
    return a, x, clean + math.sqrt(no) * normal(40, generator=g, kind=kind), no


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(("steps", "tol"), [(7, 0.0), (200, 1e-4)])
def test_vector_coupling_is_the_published_loop(kind: str, steps: int, tol: float) -> None:
    a, _, y, no = block_case(4, kind)
    want, done = published(a.numpy(), y.numpy(), no, steps, tol)
    got = PCSBL([a], max_iter=steps, tol=tol, start=1.0)(y, no)
    # The published code writes a precision of 1e10 where this one is infinite: 1e-10 of a coefficient of about 1; the
    # literal covariance loses about six digits.
    np.testing.assert_allclose(got.h_hat.numpy(), want, rtol=0, atol=1e-7)
    if tol:
        assert done < steps
        assert int(got.num_iterations) == done + 1  # the step that finds nothing has changed counts here
        assert bool(got.converged)


def test_switched_off_coefficients_leave_the_equations() -> None:
    a, x, y, no = block_case(4)
    got = PCSBL([a])(y, no)
    # A block of six and, at most, a few beside it or alone.
    assert 6 <= int((got.gammas > 0).sum()) <= 20
    assert bool(got.gammas[x != 0].min() > 0)


def test_neighbours_on_grids() -> None:
    factors = [torch.ones(2, 7), torch.ones(2, 4), torch.ones(2, 3)]
    d = KroneckerDictionary(factors, grids=[(2, 3), (4,), None], periodic=[False, True, False])
    plane, ring, line = grid_neighbours(d)
    # 0 1 2 above 3 4 5, and one column (6) that stands alone.
    edges = {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}
    assert {(i, j) for i, j in plane.nonzero().tolist() if i < j} == edges
    assert {(i, j) for i, j in ring.nonzero().tolist() if i < j} == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert {(i, j) for i, j in line.nonzero().tolist() if i < j} == {(0, 1), (1, 2)}
    for matrix in (plane, ring, line):
        assert torch.equal(matrix, matrix.mT)


def test_sums_over_neighbours(generator: torch.Generator) -> None:
    d = KroneckerDictionary([torch.ones(2, 3), torch.ones(2, 4)], periodic=[False, True])
    v = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    ring = v.roll(1, dims=2) + v.roll(-1, dims=2)
    line = torch.zeros_like(v)
    line[:, 1:] += v[:, :-1]
    line[:, :-1] += v[:, 1:]
    flat = v.flatten(1)
    vector = torch.zeros_like(flat)
    vector[:, 1:] += flat[:, :-1]
    vector[:, :-1] += flat[:, 1:]
    for coupling, want in {"grid": ring + line, (1,): ring, ("mode0",): line, "vector": vector.reshape(v.shape)}.items():
        got = PCSBL(d, coupling=coupling)._neighbours(v)
        torch.testing.assert_close(got, want, rtol=1e-14, atol=0)  # the same two or four additions


def test_coupling_on_a_grid_finds_a_block_across_modes() -> None:
    # A 2 x 3 block in a 12 x 12 grid, 20 dB: neighbours lie along both axes, of which the flattened x knows one.
    scores: dict[str, list[float]] = {"grid": [], "none": []}
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        d = KroneckerDictionary([normal(5, 12, generator=g), normal(6, 12, generator=g)])
        x = torch.zeros(12, 12, dtype=torch.complex128)
        x[4:6, 7:10] = normal(2, 3, generator=g)
        clean = d.measure(x)
        no = float(clean.abs().square().mean()) / 100
        y = clean + math.sqrt(no) * normal(30, generator=g)
        for name, est in {"grid": PCSBL(d, coupling="grid"), "none": SBL(d)}.items():
            scores[name].append(float((est(y, no).h_hat - x).abs().square().sum() / x.abs().square().sum()))
    assert float(np.median(scores["grid"])) < 0.7 * float(np.median(scores["none"]))


def test_without_coupling_neighbours_do_not_matter(generator: torch.Generator) -> None:
    a, _, y, no = block_case(2)
    order = torch.randperm(100, generator=generator)
    want, got = PCSBL([a], eta=0.0)(y, no), PCSBL([a[:, order]], eta=0.0)(y, no)
    torch.testing.assert_close(got.h_hat, want.h_hat[order], rtol=1e-8, atol=1e-9)  # rounding, repeated by the steps
    coupled = PCSBL([a[:, order]])(y, no)
    assert not torch.allclose(coupled.h_hat, PCSBL([a])(y, no).h_hat[order], atol=1e-3)


def test_error_variance_on_the_published_irs(generator: torch.Generator) -> None:
    irs = IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
    obs = IRSTraining(irs, num_pilots=3, num_patterns=6)
    h = obs.channel(irs.sample(16, generator=generator))
    no = obs.noiseless(h).abs().square().mean(dim=1) / 10**1.2
    got = PCSBL(obs.dictionary(grid=18))(obs.observe(h, no, generator=generator), no)
    error = (got.h_hat - h).abs().square().flatten(1).sum(dim=1)
    # What the class's note says: ten to sixty in the median; 16 draws at 12 dB.
    assert 8 < float((error / got.err_var.flatten(1).sum(dim=1)).median()) < 80


# -- Manners. --


def test_batch_equals_one_by_one() -> None:
    cases = [block_case(seed) for seed in range(5)]
    a = cases[0][0]
    y = torch.stack([a @ x for _, x, _, _ in cases]) + 0.1 * torch.stack([y for _, _, y, _ in cases])
    no = torch.tensor([0.1, 0.3, 0.02, 1.0, 5.0], dtype=torch.float64)
    est = PCSBL([a])
    together = est(y, no)
    assert len(set(together.num_iterations.tolist())) > 1
    for i in range(5):
        alone = est(y[i], float(no[i]))
        assert int(alone.num_iterations) == int(together.num_iterations[i])
        # Products of other sizes round otherwise, and the steps repeat it.
        torch.testing.assert_close(alone.h_hat, together.h_hat[i], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(alone.err_var, together.err_var[i], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [3.0, 1e-15])
def test_scale_of_the_observation(scale: float) -> None:
    a, _, y, no = block_case(1)
    want, got = PCSBL([a])(y, no), PCSBL([a])(y * scale, no * scale**2)
    # Rounding of the scale, repeated by the steps.
    torch.testing.assert_close(got.h_hat / scale, want.h_hat, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.err_var / scale**2, want.err_var, rtol=1e-8, atol=1e-9)


def test_precision_noise_and_zeros() -> None:
    a, x, y, no = block_case(1)
    double, single = PCSBL([a], max_iter=10)(y, no), PCSBL([a], max_iter=10)(y.to(torch.complex64), no)
    assert single.h_hat.dtype == torch.complex64
    # Rounding of the input to 6e-8, amplified by ten steps.
    torch.testing.assert_close(single.h_hat.to(torch.complex128), double.h_hat, rtol=1e-3, atol=1e-3)
    clean = PCSBL([a])(a @ x, 0.0)
    assert bool(torch.isfinite(clean.err_var).all())
    assert float((clean.h_hat - x).abs().max()) < 1e-3  # the floor of 1e-10 |y|^2 is 1e-5 of an amplitude
    nothing = PCSBL([a])(torch.zeros_like(y), no)
    assert bool((nothing.h_hat == 0).all())
    assert bool((nothing.err_var == 1).all())


def test_noise_variance_is_found() -> None:
    ratios = []
    for seed in range(6):
        a, _, y, no = block_case(seed)
        ratios.append(float(PCSBL([a], learn_noise=True)(y).no_hat) / no)
    # 40 complex samples less 6 unknowns determine their noise to 17 %; atoms that fit noise take of it.
    assert 0.4 < float(np.median(ratios)) < 1.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"coupling": "grids"}, UnknownNameError, "coupling='grids' is unknown; did you mean 'grid'"),
        ({"coupling": ("mode7",)}, UnknownNameError, "factor='mode7' is unknown"),
        ({"coupling": 3}, InvalidTypeError, "coupling must be a word or a list of factors"),
        ({"eta": 1.5}, InvalidValueError, "eta=1.5 must be at most 1"),
        ({"eta": 1e-4}, InvalidValueError, "eta=0.0001 must be 0 or above prune=0.001"),
        ({"rate": -1.0}, InvalidValueError, "rate=-1 must be at least 0"),
        ({"shape": math.nan}, InvalidValueError, "shape=nan must be finite"),
        ({"max_iter": 0}, InvalidValueError, "max_iter=0 must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        PCSBL([torch.ones(3, 4)], **options)
    assert "\n" not in str(caught.value)
