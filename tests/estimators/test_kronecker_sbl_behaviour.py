"""What Kronecker sparse Bayesian learning promises of its answers: recovery, units, batches, precisions, coupling, noise."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.estimators import KroneckerSBL
from wichan.estimators.kronecker_coupling import coupling_matrix, nonnegative_steps
from wichan.observations import KroneckerDictionary
from wichan.random import complex_normal


def draw(
    count: int,
    generator: torch.Generator,
    *,
    rows: tuple[int, ...] = (7, 8, 10),
    atoms: int = 10,
    active: int = 2,
    snr_db: float = 25.0,
    block: bool = False,
    is_complex: bool = False,
):
    """Random dictionaries, x with a Kronecker support and rank-one values, y at an exact SNR."""

    def normal(*shape: int) -> torch.Tensor:
        if is_complex:
            return complex_normal(shape, generator=generator, dtype=torch.complex128)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = [normal(m, atoms) for m in rows]
    vectors = []
    for _ in rows:
        vector = torch.zeros_like(normal(count, atoms))
        first = torch.randint(atoms, (count, 1), generator=generator)
        order = torch.rand(count, atoms, generator=generator).argsort(-1)
        places = (first + torch.arange(active)) % atoms if block else order[:, :active]
        vectors.append(vector.scatter(1, places, normal(count, active)))
    x = torch.einsum("bi,bj,bk->bijk", *vectors)
    clean = KroneckerDictionary(factors).measure(x)
    no = clean.abs().square().mean(-1) * 10 ** (-snr_db / 10)
    return factors, x, clean + normal(*clean.shape) * no.sqrt()[:, None], no


def nmse(x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return ((x_hat - x).abs().square().flatten(1).sum(-1) / x.abs().square().flatten(1).sum(-1)).double()


# -- Recovery --


@pytest.mark.parametrize("m_step", ["svd", "am", "mm"])
def test_noise_free_recovery(m_step: str, generator: torch.Generator) -> None:
    factors, x, y, _ = draw(20, generator, rows=(9, 8, 10), active=2, snr_db=300.0)
    no = 1e-8 * y.square().mean(-1)
    found = nmse(KroneckerSBL(factors, m_step, prune=1e-6, max_iter=400)(y, no).h_hat, x)
    assert float(found.max()) < 1e-6  # published check: below 1e-6 in every one of 40 trials; here of 20


def test_small_case_of_the_publication(generator: torch.Generator) -> None:
    parts = [draw(5, generator, rows=(5, 8, 10)) for _ in range(8)]
    for m_step in ("svd", "am", "mm"):
        found = torch.cat([nmse(KroneckerSBL(f, m_step)(y, no).h_hat, x) for f, x, y, no in parts])
        # An independent NumPy version: median 8e-5, success 0.9 of 15 trials; of 40, 0.75 is 3 standard deviations below.
        assert float(found.median()) < 5e-4
        assert float((found < 1e-2).double().mean()) >= 0.75


def test_complex_data_and_variance(generator: torch.Generator) -> None:
    factors, x, y, no = draw(40, generator, rows=(8, 8, 10), snr_db=20.0, is_complex=True)
    found = KroneckerSBL(factors)(y, no)
    error = nmse(found.h_hat, x)
    assert float(error.median()) < 2e-3 and bool((found.err_var >= 0).all())
    good = error < 1e-2
    ratio = found.err_var[good].sum() / (found.h_hat - x)[good].abs().square().sum()
    assert 0.4 < float(ratio) < 1.5  # of the right size: a fitted prior makes it somewhat too small


# -- Units, order, batches, precisions --


@pytest.mark.parametrize("m_step", ["svd", "am", "mm"])
@pytest.mark.parametrize("factor", [1024.0, 3e-7], ids=["power-of-two", "tiny"])
def test_scale_equivariance(m_step: str, factor: float, generator: torch.Generator) -> None:
    factors, _, y, no = draw(6, generator)
    est = KroneckerSBL(factors, m_step, couple=(0,) if m_step == "am" else ())
    one, other = est(y, no), est(factor * y, factor**2 * no)
    if factor == 1024.0:  # nothing but exponents differ
        assert torch.equal(other.h_hat, factor * one.h_hat) and torch.equal(other.err_var, factor**2 * one.err_var)
    # Rounding, magnified by at most 150 iterations that contract.
    assert float((other.h_hat / factor - one.h_hat).abs().max()) < 1e-8 * float(one.h_hat.abs().max())
    assert float((other.gammas[-1] / factor**2 - one.gammas[-1]).abs().max()) < 1e-8 * float(one.gammas[-1].max())
    expected = one.cost + 2 * y.shape[-1] * math.log(factor)
    assert torch.allclose(other.cost, expected, rtol=1e-8)


def test_order_of_factors_does_not_matter(generator: torch.Generator) -> None:
    factors, _, y, no = draw(4, generator)
    order = (2, 0, 1)
    turned = y.unflatten(-1, (7, 8, 10)).permute(0, *(1 + k for k in order)).flatten(1)
    for m_step in ("am", "mm"):  # rank-one fits take the factors in turn
        one = KroneckerSBL(factors, m_step, tol=1e-6, max_iter=400)(y, no)
        other = KroneckerSBL([factors[k] for k in order], m_step, tol=1e-6, max_iter=400)(turned, no)
        # The iterations meet in the same fixed point; they were stopped at a change of 1e-6.
        same = nmse(other.h_hat, one.h_hat.permute(0, *(1 + k for k in order)))
        assert float(same.median()) < 1e-8


@pytest.mark.parametrize("options", [{}, {"m_step": "am"}, {"m_step": "mm"}, {"m_step": "am", "couple": (0, 2)}], ids=str)
def test_batch_is_one_by_one(options: dict, generator: torch.Generator) -> None:
    factors, _, y, no = draw(6, generator, snr_db=15.0)
    est = KroneckerSBL(factors, batch=4, max_iter=30, **options)
    found = est(y.reshape(2, 3, -1), no.reshape(2, 3))
    assert found.h_hat.shape == (2, 3, 10, 10, 10) and found.num_iterations.shape == (2, 3)
    singles = [est(y[i], no[i]) for i in range(6)]
    alone = torch.stack([one.h_hat for one in singles])
    # Matrix products of other sizes round differently; the rest is the same arithmetic.
    assert float((found.h_hat.reshape(alone.shape) - alone).abs().max()) < 1e-7 * float(alone.abs().max())
    assert torch.equal(found.num_iterations.flatten(), torch.stack([one.num_iterations for one in singles]))
    if not options:
        assert len(set(found.num_iterations.flatten().tolist())) > 1  # they did stop on their own


def test_threads_change_nothing(generator: torch.Generator) -> None:
    factors, _, y, no = draw(9, generator)
    est = KroneckerSBL(factors, batch=4)
    one = est(y.requires_grad_(True), no)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = est(y, no)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    slopes = [torch.autograd.grad(found.h_hat.sum(), y)[0] for found in (one, two)]
    for a, b in ((one.h_hat, two.h_hat), slopes):
        assert float((a - b).detach().abs().max()) < 1e-8 * float(a.detach().abs().max())  # rounding, as above


@pytest.mark.parametrize("m_step", ["svd", "am"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_single_precision_follows_double(m_step: str, is_complex: bool, generator: torch.Generator) -> None:
    factors, x, y, no = draw(20, generator, snr_db=30.0, is_complex=is_complex)
    est = KroneckerSBL(factors, m_step)
    double, single = est(y, no), est(y.to(torch.complex64 if is_complex else torch.float32), no)
    assert single.h_hat.dtype == (torch.complex64 if is_complex else torch.float32)
    assert single.err_var.dtype == torch.float32
    assert double.err_var.dtype == torch.float64
    wide = nmse(double.h_hat, x)
    solved = wide < 1e-2
    assert int(solved.sum()) >= 15  # else the test says nothing
    assert float(nmse(single.h_hat, x)[solved].max()) < 2 * float(wide[solved].max())
    # Stopped at a change of 1e-4, which is squared here.
    assert float(nmse(single.h_hat.to(y.dtype), double.h_hat)[solved].median()) < 1e-7


def test_warm_start_needs_fewer_iterations(generator: torch.Generator) -> None:
    factors, _, y, no = draw(8, generator)
    est = KroneckerSBL(factors)
    first = est(y, no)
    again = est(y, no, start=first.gammas)
    assert bool((again.num_iterations <= 3).all()) and bool((first.num_iterations > 3).all())
    assert float(nmse(again.h_hat, first.h_hat).max()) < 1e-6  # both within the tolerance of 1e-4, squared


def test_exact_svd_gives_the_same_answer(generator: torch.Generator) -> None:
    factors, _, y, no = draw(8, generator)
    one, other = KroneckerSBL(factors)(y, no), KroneckerSBL(factors, exact_svd=True)(y, no)
    assert float((one.h_hat - other.h_hat).abs().max()) < 1e-8 * float(one.h_hat.abs().max())


def test_gradient_is_that_of_the_posterior_mean(generator: torch.Generator) -> None:
    factors, _, y, no = draw(1, generator)
    est = KroneckerSBL(factors, max_iter=3)
    y.requires_grad_(True)
    found = est(y, no)
    direction = torch.randn(found.h_hat.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found.h_hat * direction).sum(), y)
    # At fixed variances the mean is linear in y, so its inner product with y gives the value back.
    value = float((found.h_hat.detach() * direction).sum())
    assert float((gradient * y.detach()).sum()) == pytest.approx(value, rel=1e-9)


# -- Coupling --


def blocks(count: int, generator: torch.Generator, snr_db: float):
    """A surface of 256 elements in 6 random patterns, 3 pilots, 16 antennas; blocks of 3 at surface and antennas."""
    sines = -1 + 2 * torch.arange(18, dtype=torch.float64) / 18

    def array(size: int) -> torch.Tensor:
        return torch.exp(1j * torch.pi * torch.arange(size, dtype=torch.float64)[:, None] * sines)

    signs = 2.0 * torch.randint(2, (6, 256), generator=generator).to(torch.complex128) - 1
    pilots = complex_normal((3, 6), generator=generator, dtype=torch.complex128)
    factors = [signs @ array(256) / 16, pilots @ array(6), array(16)]
    first = torch.randint(18, (3, count, 1), generator=generator)
    x = torch.zeros(count, 18, 18, 18, dtype=torch.complex128)
    near, far = (first[0] + torch.arange(3)) % 18, (first[2] + torch.arange(3)) % 18
    gains = [complex_normal((count, 3), generator=generator, dtype=torch.complex128) for _ in range(2)]
    rows = torch.arange(count)[:, None, None]
    x[rows, near[:, :, None], first[1][:, :, None], far[:, None, :]] = gains[0][:, :, None] * gains[1][:, None, :]
    clean = KroneckerDictionary(factors).measure(x)
    no = clean.abs().square().mean(-1) * 10 ** (-snr_db / 10)
    noise = complex_normal(clean.shape, generator=generator, dtype=torch.complex128) * no.sqrt()[:, None]
    return KroneckerDictionary(factors, periodic=[True] * 3), x, clean + noise, no


def test_coupling_helps_blocks(generator: torch.Generator) -> None:
    # The published case with its thresholds, from starts of equal size.
    coupled, alone = [], []
    for _ in range(3):
        dictionary, x, y, no = blocks(8, generator, snr_db=17.0)
        options = {"m_step": "am", "start": 1e-5, "prune": "published-irs", "max_iter": 60}
        coupled.append(nmse(KroneckerSBL(dictionary, couple=(0, 2), **options)(y, no).h_hat, x))
        alone.append(nmse(KroneckerSBL(dictionary, **options)(y, no).h_hat, x))
    assert float(torch.cat(coupled).median()) < 0.7 * float(torch.cat(alone).median())  # measured with 40: 0.011 and 0.19


def test_coupling_matrix_knows_its_grid() -> None:
    line = coupling_matrix(4, None, 0.5)
    assert line.tolist() == [[1, 0.5, 0, 0], [0.5, 1, 0.5, 0], [0, 0.5, 1, 0.5], [0, 0, 0.5, 1]]
    ring = coupling_matrix(5, (4,), 0.5, periodic=True)  # the fifth column stands alone
    assert ring[0].tolist() == [1, 0.5, 0, 0.5, 0] and ring[4].tolist() == [0, 0, 0, 0, 1]
    plane = coupling_matrix(6, (2, 3), 0.8)
    assert plane[1].tolist() == pytest.approx([0.8, 1, 0.8, 0, 0.8, 0])
    assert torch.equal(plane, plane.mT)


@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_nonnegative_fit_is_near_the_least_residual(weight: float, generator: torch.Generator) -> None:
    from scipy.optimize import nnls

    matrix = coupling_matrix(18, None, weight)
    target = 0.02 * torch.rand(40, 18, generator=generator, dtype=torch.float64)
    target[:, 5:8] += torch.rand(40, 3, generator=generator, dtype=torch.float64)
    active = (torch.rand(40, 18, generator=generator) < 0.8).double()
    bound = float(torch.linalg.eigvalsh(matrix).abs().max()) ** 2
    ours = nonnegative_steps(matrix, bound, target, active, target * active, 20)
    assert bool((ours >= 0).all()) and bool((ours[active == 0] == 0).all())
    excess = []
    for r, mask, g in zip(target, active > 0, ours, strict=True):
        inner = matrix[mask][:, mask]
        best = nnls(inner.numpy(), r[mask].numpy())[1]
        excess.append(float((inner @ g[mask] - r[mask]).norm()) - best)
    # 20 steps: 0.2 % of the residual in the median, measured; never beaten by more than rounding.
    assert min(excess) > -1e-12
    assert sorted(excess)[20] < 0.01 * float(target.norm(dim=1).mean())


# -- Noise --


@pytest.mark.parametrize("snr_db", [15.0, 25.0])
def test_unknown_noise(snr_db: float, generator: torch.Generator) -> None:
    factors, x, y, no = draw(60, generator, rows=(8, 9, 10), snr_db=snr_db)
    known = nmse(KroneckerSBL(factors)(y, no).h_hat, x)
    found = KroneckerSBL(factors, learn_noise=True)(y, None)
    good = nmse(found.h_hat, x) < 0.05
    ratio = (found.no_hat / no)[good]
    assert int(good.sum()) >= 50
    assert float(nmse(found.h_hat, x).median()) < 1.5 * float(known.median())  # published check
    # 720 measurements give a standard deviation of sqrt(2/720) = 5 %, of the median 0.9 %; bounds are 3 of them, 0.15 outwards.
    assert 0.97 < float(ratio.median()) < 1.03
    assert float(ratio.quantile(0.05)) > 0.85 and float(ratio.quantile(0.95)) < 1.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_noiseless_limit(dtype: torch.dtype, generator: torch.Generator) -> None:
    factors, x, y, _ = draw(10, generator, rows=(9, 9, 10), snr_db=300.0)
    found = KroneckerSBL(factors)(y.to(dtype), 0.0)
    floor = {torch.float32: 1e-6, torch.float64: 1e-10}[dtype]
    same = KroneckerSBL(factors)(y.to(dtype), floor * y.to(dtype).double().square().mean(-1))
    assert torch.allclose(found.h_hat, same.h_hat, rtol=1e-3, atol=1e-5)
    assert bool(torch.isfinite(found.h_hat).all()) and bool(torch.isfinite(found.err_var).all())
    assert float(nmse(found.h_hat.double(), x).median()) < 1e-5
