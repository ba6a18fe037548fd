"""Orthogonal matching pursuit: scikit-learn's, the literal loop, ties and dependent atoms, its error variance, manners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import OMP
from wichan.estimators.omp import first_largest
from wichan.linalg import kron
from wichan.observations import IRSTraining, KroneckerDictionary
from wichan.random import complex_normal


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def case(kind: str, generator: torch.Generator, count: int = 6) -> tuple[KroneckerDictionary, torch.Tensor, torch.Tensor]:
    """Factors of 4 x 6, 3 x 5 and 5 x 8, four nonzeros an instance: dictionary with synthesis, x, clean measurements."""
    sizes = [(4, 6), (3, 5), (5, 8)]
    d = KroneckerDictionary(
        [normal(*size, generator=generator, kind=kind) for size in sizes],
        [normal(2, size[1], generator=generator, kind=kind) for size in sizes],
    )
    x = torch.zeros(count, 240, dtype=d.factors[0].dtype)
    for row in x:
        row[torch.randperm(240, generator=generator)[:4]] = normal(4, generator=generator, kind=kind)
    x = x.reshape(count, 6, 5, 8)
    return d, x, d.measure(x)


def literal(a: np.ndarray, y: np.ndarray, level: float, most: int, normalize: bool = True) -> tuple[list[int], np.ndarray]:
    """OMP as it is written: the whole dictionary, a new least-squares fit each step."""
    lengths = np.linalg.norm(a, axis=0) if normalize else 1.0
    chosen: list[int] = []
    x, residual = np.zeros(a.shape[1], dtype=a.dtype), y
    while np.linalg.norm(residual) > level and len(chosen) < most:
        chosen.append(int(np.argmax(np.abs(a.conj().T @ residual) / lengths)))
        fit = np.linalg.lstsq(a[:, chosen], y, rcond=None)[0]
        residual = y - a[:, chosen] @ fit
        x[:] = 0
        x[chosen] = fit
    return chosen, x


# -- Other implementations. --


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_literal_loop(kind: str, normalize: bool, generator: torch.Generator) -> None:
    d, _, clean = case(kind, generator)
    no = torch.logspace(-4, 0, len(clean), dtype=torch.float64)
    y = clean + no.sqrt()[:, None] * normal(*clean.shape, generator=generator, kind=kind)
    got = OMP(d, normalize=normalize)(y, no)
    a, c = d.dense().numpy(), kron(*d.synthesis).numpy()
    assert len(set(got.num_iterations.tolist())) > 2  # instances stop at different steps
    for i in range(len(y)):
        chosen, x = literal(a, y[i].numpy(), math.sqrt(float(no[i]) * 60), 60, normalize)
        assert int(got.num_iterations[i]) == len(chosen)
        assert sorted(chosen) == got.coefficients[i].flatten().nonzero()[:, 0].tolist()
        inverse = np.linalg.inv(a[:, chosen].conj().T @ a[:, chosen])
        variance = float(no[i]) * np.diag(c[:, chosen] @ inverse @ c[:, chosen].conj().T).real
        # Two ways to least squares in double precision, condition numbers up to 1e3.
        np.testing.assert_allclose(got.coefficients[i].flatten().numpy(), x, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got.h_hat[i].flatten().numpy(), c @ x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(got.err_var[i].flatten().numpy(), variance, rtol=1e-9)


@pytest.mark.parametrize("modes", [1, 2])
def test_equals_scikit_learn(modes: int, generator: torch.Generator) -> None:
    factors = [normal(12, 30, generator=generator, kind="real"), normal(3, 4, generator=generator, kind="real")][:modes]
    factors = [factor / factor.norm(dim=0) for factor in factors]  # scikit-learn wants atoms of unit length
    a = kron(*factors).numpy()
    y = normal(5, len(a), generator=generator, kind="real")
    for atoms in (1, 4, 9):
        got = OMP(factors, max_atoms=atoms, stop="atoms")(y, 0.1)
        want = orthogonal_mp(a, y.numpy().T, n_nonzero_coefs=atoms).T
        np.testing.assert_allclose(got.h_hat.flatten(1).numpy(), want, rtol=0, atol=1e-10)  # both in double precision
        assert bool(got.converged.all())
    level = 0.2 * float(y[0].square().sum())
    got = OMP(factors)(y[0], level / len(a))
    np.testing.assert_allclose(got.h_hat.flatten().numpy(), orthogonal_mp(a, y[0].numpy(), tol=level), rtol=0, atol=1e-10)


def test_one_atom_in_closed_form(generator: torch.Generator) -> None:
    a = normal(8, 20, generator=generator)
    y = 2j * a[:, 11]
    got = OMP([a])(y, 1e-3)
    power = float(a[:, 11].abs().square().sum())
    assert int(got.num_iterations) == 1
    assert got.h_hat.nonzero()[:, 0].tolist() == [11]
    assert complex(got.h_hat[11]) == pytest.approx(2j, abs=1e-12)  # one division
    assert float(got.err_var[11]) == pytest.approx(1e-3 / power, rel=1e-12)
    assert float(got.err_var.sum()) == pytest.approx(1e-3 / power, rel=1e-12)


# -- Ties and dependent atoms. --


def test_of_equal_atoms_the_first_is_taken(generator: torch.Generator) -> None:
    a = normal(6, 5, generator=generator)
    twice = torch.cat([a, a[:, [3]] * (1 + 1e-13), a], dim=1)  # rounding must not decide
    for kept in range(1, 4):
        y = (2 * a[:, 3] + 1e-3 * a[:, 1]).expand(kept, -1)
        got = OMP([twice], max_atoms=1)(y, 1e-9)
        assert got.h_hat.nonzero()[:, 1].tolist() == [3] * kept


def test_rounding_does_not_decide_between_equals() -> None:
    values = torch.tensor([[0.5, 1.0, 1.0 + 1e-12, 1.0 - 1e-12], [0.5, 1.0, 1.0 + 1e-6, 0.0]], dtype=torch.float64)
    assert first_largest(values).tolist() == [1, 2]


def test_dependent_atoms_end_the_search(generator: torch.Generator) -> None:
    # Four columns in a space of two dimensions: whatever y is, two atoms explain what can be explained.
    basis = normal(6, 2, generator=generator)
    a = basis @ normal(2, 4, generator=generator)
    y = normal(3, 6, generator=generator)
    for stop in ("noise", "atoms"):
        got = OMP([a], stop=stop, max_atoms=4)(y, 0.0)
        assert got.num_iterations.tolist() == [2, 2, 2]
        assert not bool(got.converged.any())
        want = torch.linalg.pinv(a) @ y.mT  # not the same coefficients, but the same fit
        # Rounding of two projections.
        torch.testing.assert_close(got.h_hat @ a.mT, (a @ want).mT, rtol=1e-9, atol=1e-9)
        assert bool(torch.isfinite(got.err_var).all())


def test_noise_above_the_signal_leaves_nothing(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    got = OMP(d)(clean, 1e6)
    assert got.num_iterations.tolist() == [0] * 6
    assert bool((got.h_hat == 0).all())
    assert bool((got.err_var == 0).all())
    assert bool(got.converged.all())


def test_more_atoms_than_measurements_are_not_taken(generator: torch.Generator) -> None:
    a = normal(4, 9, generator=generator)
    est = OMP([a], max_atoms=50)
    assert est.max_atoms == 4
    y = normal(4, generator=generator)
    got = est(y, 0.0)
    assert int(got.num_iterations) == 4
    assert bool(got.converged)
    torch.testing.assert_close(a @ got.h_hat, y, rtol=0, atol=1e-10)  # four equations, four unknowns


# -- What it finds, and what its error variance is worth. --


def test_exact_without_noise(generator: torch.Generator) -> None:
    d, x, clean = case("complex", generator, count=40)
    got = OMP(d)(clean, 0.0)
    right = ((got.coefficients - x).abs().flatten(1).amax(dim=1) < 1e-3).double().mean()
    # Four of 240 by 60 measurements: a wrong first atom among products of columns that are near each other is not mended.
    # 0.825 of these 40; one standard deviation is 0.06.
    assert float(right) >= 0.7


def test_error_variance_is_optimistic_by_a_known_factor(generator: torch.Generator) -> None:
    d, x, clean = case("complex", generator, count=300)
    no = clean.abs().square().mean(dim=1) / 10**1.5
    y = clean + no.sqrt()[:, None] * normal(*clean.shape, generator=generator)
    got = OMP(d)(y, no)
    error = (got.coefficients - x).abs().square().flatten(1).sum(dim=1)
    ratio = error / got.coefficient_var.flatten(1).sum(dim=1)
    # What the class's note says: too small by 1.5 to 10 in the median at 15 dB, where a known support gives 1.
    assert 1.5 < float(ratio.median()) < 10
    right = ((got.coefficients != 0) == (x != 0)).flatten(1).all(dim=1)
    assert float(ratio[right].median()) < float(ratio[~right].median())


def test_error_variance_on_the_published_irs(generator: torch.Generator) -> None:
    irs = IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
    obs = IRSTraining(irs, num_pilots=3, num_patterns=6)
    h = obs.channel(irs.sample(40, generator=generator))
    no = obs.noiseless(h).abs().square().mean(dim=1) / 10**1.2
    got = OMP(obs.dictionary(grid=18))(obs.observe(h, no, generator=generator), no)
    error = (got.h_hat - h).abs().square().flatten(1).sum(dim=1)
    # What the class's note says: about five in the median; 40 draws at 12 dB.
    assert 3 < float((error / got.err_var.flatten(1).sum(dim=1)).median()) < 9


# -- Manners. --


def test_batch_equals_one_by_one(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    d, _, clean = case("complex", generator)
    y = clean + 0.1 * normal(*clean.shape, generator=generator)
    no = torch.logspace(-3, 1, 6, dtype=torch.float64)
    together = OMP(d)(y.reshape(2, 3, -1), no.reshape(2, 3))
    monkeypatch.setattr("wichan.estimators.sparse_parts._PART_BYTES", {"cpu": 1})
    apart = OMP(d)(y, no)  # in chunks of one
    for i in range(6):
        alone = OMP(d)(y[i], float(no[i]))
        for other in (apart.h_hat[i], together.h_hat[i // 3, i % 3]):
            # Products of other sizes round otherwise.
            torch.testing.assert_close(alone.h_hat, other, rtol=1e-9, atol=1e-10)


def test_precision_scale_and_zeros(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    y = clean + 0.1 * normal(*clean.shape, generator=generator)
    want = OMP(d)(y, 0.01)
    single = OMP(d)(y.to(torch.complex64), 0.01)
    assert single.h_hat.dtype == torch.complex64
    assert single.err_var.dtype == torch.float32
    # Rounding of y to 6e-8; the choice of atoms does not change.
    torch.testing.assert_close(single.h_hat.to(torch.complex128), want.h_hat, rtol=1e-4, atol=1e-4)
    for scale in (3.0, 1e-18):
        got = OMP(d)(y * scale, 0.01 * scale**2)
        torch.testing.assert_close(got.h_hat / scale, want.h_hat, rtol=1e-9, atol=1e-10)  # rounding of the scale
        torch.testing.assert_close(got.err_var / scale**2, want.err_var, rtol=1e-9, atol=1e-10)
    nothing = OMP(d)(torch.zeros_like(y), 0.01)
    assert bool((nothing.h_hat == 0).all())
    assert bool((nothing.err_var > 0).all())  # full variance


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: OMP([a], max_atoms=0), InvalidValueError, "max_atoms=0 must be at least 1"),
        (lambda a: OMP([a], max_atoms=1.5), InvalidTypeError, "max_atoms=1.5 must be an integer"),
        (lambda a: OMP([a], stop="nois"), UnknownNameError, "stop='nois' is unknown; did you mean 'noise'"),
        (lambda a: OMP(a), InvalidTypeError, "dictionary must be a KroneckerDictionary"),
        (lambda a: OMP([a])(torch.zeros(7), 0.1), ShapeError, r"y has shape \(7,\); the last axes must be \(6\)"),
        (lambda a: OMP([a])(torch.full((6,), math.inf), 0.1), InvalidValueError, "y holds 6 NaN or infinite"),
        (lambda a: OMP([a])(torch.ones(6), -1.0), InvalidValueError, "no=-1 must be at least 0"),
        (lambda a: OMP([a])(torch.ones(6), None), InvalidTypeError, "no=None must be a number"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make(torch.arange(48.0).reshape(6, 8) + 1)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_gpu_equals_cpu(generator: torch.Generator) -> None:
    d, _, clean = case("complex", generator)
    want = OMP(d)(clean, 0.01)
    d.to("cuda")
    got = OMP(d)(clean.cuda(), 0.01)
    # Another order of summing in double precision.
    torch.testing.assert_close(got.h_hat.cpu(), want.h_hat, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.err_var.cpu(), want.err_var, rtol=1e-9, atol=1e-9)
