"""Kronecker-OMP: the literal loop in both forms, supports that are products, its error variance, manners."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import OMP, KroneckerOMP
from wichan.observations import IRSTraining, KroneckerDictionary
from wichan.random import complex_normal

SIZES = [(4, 6), (3, 5), (6, 8)]


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def case(
    kind: str, generator: torch.Generator, count: int = 6, sizes: list[tuple[int, int]] = SIZES
) -> tuple[KroneckerDictionary, torch.Tensor, torch.Tensor]:
    """Two atoms a mode, values free: dictionary with synthesis, x, clean measurements."""
    d = KroneckerDictionary(
        [normal(*size, generator=generator, kind=kind) for size in sizes],
        [normal(2, size[1], generator=generator, kind=kind) for size in sizes],
    )
    x = normal(count, *d.num_atoms, generator=generator, kind=kind)
    for row in x:
        for axis, size in enumerate(d.num_atoms):
            row.index_fill_(axis, torch.randperm(size, generator=generator)[2:], 0)
    return d, x, d.measure(x)


def literal(
    factors: list[np.ndarray], y: np.ndarray, level: float, most: list[int], normalize: bool
) -> tuple[list[list[int]], np.ndarray, int]:
    """The published loop with the dense product of the chosen columns: supports, coefficients, steps."""
    a = reduce(np.kron, factors)
    lengths = reduce(np.kron, [np.linalg.norm(f, axis=0) if normalize else np.ones(f.shape[1]) for f in factors])
    sizes = [f.shape[1] for f in factors]
    chosen: list[list[int]] = [[] for _ in factors]
    x, residual, steps = np.zeros(a.shape[1], dtype=a.dtype), y, 0
    while np.linalg.norm(residual) > level:
        best = np.unravel_index(np.argmax(np.abs(a.conj().T @ residual) / lengths), sizes)
        before = sum(map(len, chosen))
        for held, new, limit in zip(chosen, best, most, strict=True):
            if int(new) not in held and len(held) < limit:
                held.append(int(new))
        if sum(map(len, chosen)) == before:
            break
        columns = reduce(np.kron, [f[:, held] for f, held in zip(factors, chosen, strict=True)])
        fit = np.linalg.pinv(columns) @ y
        residual, steps = y - columns @ fit, steps + 1
        grid = np.zeros(sizes, dtype=a.dtype)
        grid[np.ix_(*chosen)] = fit.reshape([len(held) for held in chosen])
        x = grid.ravel()
    return chosen, x, steps


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("form", ["strong", "published"])
def test_equals_the_literal_loop(kind: str, form: str, generator: torch.Generator) -> None:
    d, _, clean = case(kind, generator)
    no = torch.logspace(-6, 0.7, len(clean), dtype=torch.float64)  # what is told, not what there is: they stop apart
    y = clean + 0.05 * normal(*clean.shape, generator=generator, kind=kind)
    got = KroneckerOMP(d, form)(y, no)
    factors = [factor.numpy() for factor in d.factors]
    most = [4, 3, 6] if form == "strong" else [6, 5, 8]  # the rows of a mode, or at most ten of its columns
    assert len(set(got.num_iterations.tolist())) > 1
    for i, row in enumerate(y.numpy()):
        level = math.sqrt(float(no[i]) * 72) if form == "strong" else 1e-2 * np.linalg.norm(row)
        chosen, x, steps = literal(factors, row, level, most, form == "strong")
        assert int(got.num_iterations[i]) == steps
        # Two pseudo-inverses in double precision; the fits of the published form are ill-conditioned (up to 1e4).
        np.testing.assert_allclose(got.coefficients[i].flatten().numpy(), x, rtol=0, atol=1e-8 * np.abs(x).max())
        if form == "strong":
            columns = reduce(np.kron, [f[:, sorted(held)] for f, held in zip(factors, chosen, strict=True)])
            made = [s.numpy()[:, sorted(held)] for s, held in zip(d.synthesis, chosen, strict=True)]
            inverse = np.linalg.inv(columns.conj().T @ columns)
            synthesis = reduce(np.kron, made)
            variance = float(no[i]) * np.diag(synthesis @ inverse @ synthesis.conj().T).real
            np.testing.assert_allclose(got.err_var[i].flatten().numpy(), variance, rtol=1e-8)  # conditions up to 1e4


def test_supports_are_products(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    got = KroneckerOMP(d)(clean + 0.05 * normal(*clean.shape, generator=generator), 0.05**2)
    on = got.coefficient_var > 0
    modes = [on.movedim(k + 1, 1).flatten(2).any(dim=2) for k in range(3)]
    assert torch.equal(on, torch.einsum("bi,bj,bk->bijk", *[m.double() for m in modes]) > 0)
    assert int(on.flatten(1).sum(dim=1).max()) > 1


def test_finds_products_where_the_noise_is_low(generator: torch.Generator) -> None:
    d, x, clean = case("complex", generator, count=100, sizes=[(7, 10), (8, 10), (10, 10)])
    no = clean.abs().square().mean(dim=1) / 1e3
    y = clean + no.sqrt()[:, None] * normal(*clean.shape, generator=generator)

    def score(est: Any) -> float:
        error = (est(y, no).coefficients - x).abs().square().flatten(1).sum(dim=1)
        return float((error / x.abs().square().flatten(1).sum(dim=1)).median())

    # Eight unknowns, 560 measurements, 30 dB: 1.4e-5 for a known support. Raw atoms and a target below the noise cost decades.
    assert score(KroneckerOMP(d)) < 1e-4
    assert score(KroneckerOMP(d, "published")) > 10 * score(KroneckerOMP(d))


def test_limits_on_atoms_and_residual(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    assert KroneckerOMP(d).max_atoms == (4, 3, 6)
    assert KroneckerOMP(d, "published").max_atoms == (6, 5, 8)
    assert KroneckerOMP(d, max_atoms=4).max_atoms == (4, 4, 4)
    one = KroneckerOMP(d, max_atoms=1)(clean, 0.0)
    assert (one.coefficients != 0).flatten(1).sum(dim=1).tolist() == [1] * 6
    assert not bool(one.converged.any())
    loose = KroneckerOMP(d, residual=0.9)(clean, 0.0)
    fit = d.measure(loose.coefficients) - clean
    share = torch.linalg.vector_norm(fit, dim=1) / torch.linalg.vector_norm(clean, dim=1)
    assert bool((share[loose.converged] <= 0.9 + 1e-12).all())
    assert bool(loose.converged.any())


def test_one_factor_is_omp(generator: torch.Generator) -> None:
    a = normal(10, 25, generator=generator)
    y = normal(4, 10, generator=generator)
    want, got = OMP([a])(y, 0.2), KroneckerOMP([a])(y, 0.2)
    assert got.num_iterations.tolist() == want.num_iterations.tolist()
    torch.testing.assert_close(got.h_hat, want.h_hat, rtol=1e-9, atol=1e-10)  # two ways to least squares
    torch.testing.assert_close(got.err_var, want.err_var, rtol=1e-9, atol=1e-10)


def test_error_variance_is_nearly_right(generator: torch.Generator) -> None:
    d, x, clean = case("complex", generator, count=300)
    no = clean.abs().square().mean(dim=1) / 10**1.5
    y = clean + no.sqrt()[:, None] * normal(*clean.shape, generator=generator)
    got = KroneckerOMP(d)(y, no)
    error = (got.coefficients - x).abs().square().flatten(1).sum(dim=1)
    ratio = error / got.coefficient_var.flatten(1).sum(dim=1)
    # What the class's note says: near 1 in the median, since the product of the supports covers what single atoms miss.
    assert 0.7 < float(ratio.median()) < 2.5


def test_error_variance_on_the_published_irs(generator: torch.Generator) -> None:
    irs = IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
    obs = IRSTraining(irs, num_pilots=3, num_patterns=6)
    h = obs.channel(irs.sample(40, generator=generator))
    no = obs.noiseless(h).abs().square().mean(dim=1) / 10**1.2
    got = KroneckerOMP(obs.dictionary(grid=18))(obs.observe(h, no, generator=generator), no)
    error = (got.h_hat - h).abs().square().flatten(1).sum(dim=1)
    # What the class's note says: 1.0 to 1.3 in the median; 40 draws at 12 dB.
    assert 0.9 < float((error / got.err_var.flatten(1).sum(dim=1)).median()) < 1.7


# -- Manners. --


def test_batch_equals_one_by_one(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    y = clean + 0.1 * normal(*clean.shape, generator=generator)
    no = torch.logspace(-3, 1, 6, dtype=torch.float64)
    for form in ("strong", "published"):
        together = KroneckerOMP(d, form)(y.reshape(2, 3, -1), no.reshape(2, 3))
        for i in range(6):
            alone = KroneckerOMP(d, form)(y[i], float(no[i]))
            assert int(alone.num_iterations) == int(together.num_iterations[i // 3, i % 3])
            # Products of other sizes round otherwise, and fits are ill-conditioned.
            torch.testing.assert_close(alone.h_hat, together.h_hat[i // 3, i % 3], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("form", ["strong", "published"])
def test_precision_scale_zeros_and_no_noise(form: str, generator: torch.Generator) -> None:
    d, x, clean = case("complex", generator)
    y = clean + 0.1 * normal(*clean.shape, generator=generator)
    est = KroneckerOMP(d, form, max_atoms=2)
    want, single = est(y, 0.01), est(y.to(torch.complex64), 0.01)
    assert single.h_hat.dtype == torch.complex64
    # Rounding of y to 6e-8; the choice of atoms does not change.
    torch.testing.assert_close(single.h_hat.to(torch.complex128), want.h_hat, rtol=1e-4, atol=1e-4)
    got = est(y * 1e-15, 0.01e-30)
    torch.testing.assert_close(got.h_hat * 1e15, want.h_hat, rtol=1e-9, atol=1e-10)  # rounding of the scale
    nothing = est(torch.zeros_like(y), 0.01)
    assert bool((nothing.h_hat == 0).all())
    assert bool((nothing.err_var > 0).all())  # full variance
    noiseless = est(clean, 0.0)
    assert all(bool(torch.isfinite(part).all()) for part in noiseless)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: KroneckerOMP([a], "fair"), UnknownNameError, "form='fair' is unknown"),
        (lambda a: KroneckerOMP([a], max_atoms=0), InvalidValueError, "max_atoms=0 must be at least 1"),
        (lambda a: KroneckerOMP([a], residual=2.0), InvalidValueError, "residual=2 must be at most 1"),
        (lambda a: KroneckerOMP(a), InvalidTypeError, "dictionary must be a KroneckerDictionary"),
        (lambda a: KroneckerOMP([a])(torch.zeros(7), 0.1), ShapeError, r"y has shape \(7,\); the last axes must be \(6\)"),
        (lambda a: KroneckerOMP([a])(torch.full((6,), math.nan), 0.1), InvalidValueError, "y holds 6 NaN or infinite"),
        (lambda a: KroneckerOMP([a])(torch.ones(6), -1.0), InvalidValueError, "no=-1 must be at least 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make(torch.arange(48.0).reshape(6, 8) + 1)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_gpu_equals_cpu(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    want = KroneckerOMP(d)(clean, 0.01)
    d.to("cuda")
    got = KroneckerOMP(d)(clean.cuda(), 0.01)
    # Another order of summing in double precision.
    torch.testing.assert_close(got.h_hat.cpu(), want.h_hat, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.err_var.cpu(), want.err_var, rtol=1e-9, atol=1e-9)
