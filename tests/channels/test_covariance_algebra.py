"""`ChannelCovariance` against dense matrices."""

from __future__ import annotations

import itertools

import pytest
import torch

from wichan.channels import CDL, TDL, ULA
from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.channels.covariance_factor import apply_modes, cheapest_order
from wichan.errors import InvalidTypeError, InvalidValueError, NotPositiveDefiniteError, ShapeError, UnknownNameError
from wichan.grid import OFDMGrid
from wichan.random import complex_normal

SIZES = (4, 3, 6)  # antennas (2 rx x 2 tx), times, subcarriers


def draw(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def term(generator: torch.Generator, ranks: tuple[int, int, int] = (2, 2, 3), batch: tuple[int, ...] = ()) -> KroneckerTerm:
    return KroneckerTerm(*(draw(*batch, n, r, generator=generator) for n, r in zip(SIZES, ranks, strict=True)))


def dense(one: KroneckerTerm) -> torch.Tensor:
    """Kronecker product with NumPy's own order of axes, as an oracle."""
    s, t, f = (m @ m.mH for m in one.factors)
    return torch.kron(torch.kron(s, t), f)


CASES = {
    "one term": [(2, 2, 3)],
    "wide factors": [(7, 5, 9)],
    "many terms": [(2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 3)],
    "line of sight": [(4, 3, 6), (1, 1, 1)],
}


@pytest.mark.parametrize("ranks", CASES.values(), ids=CASES.keys())
def test_matrix_diagonal_and_power(ranks: list[tuple[int, int, int]], generator: torch.Generator) -> None:
    terms = [term(generator, r) for r in ranks]
    covariance = ChannelCovariance(terms, 2, 2)
    want = sum(dense(t) for t in terms)
    torch.testing.assert_close(covariance.matrix(), want)
    torch.testing.assert_close(covariance.diagonal().flatten(), want.diagonal().real)
    torch.testing.assert_close(covariance.mean_power(), want.diagonal().real.mean())
    assert covariance.shape == (2, 2, 3, 6)
    assert covariance.is_kronecker == (len(ranks) == 1)


@pytest.mark.parametrize("ranks", CASES.values(), ids=CASES.keys())
def test_factor_is_thin_orthogonal_and_sorted(ranks: list[tuple[int, int, int]], generator: torch.Generator) -> None:
    covariance = ChannelCovariance([term(generator, r) for r in ranks], 2, 2)
    matrix = covariance.matrix()
    factor = covariance.factor()
    eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
    rank = int((eigenvalues > 1e-7 * eigenvalues[0]).sum())
    assert factor.dtype == torch.complex128
    assert factor.shape == (72, rank)
    gram = factor.mH @ factor
    # 1e-12 of the largest eigenvalue: the columns come from double-precision Gram matrices.
    torch.testing.assert_close(gram, torch.diag(eigenvalues[:rank]).to(gram), rtol=0, atol=1e-12 * float(eigenvalues[0]))
    assert bool((gram.diagonal().real.diff() <= 0).all())
    torch.testing.assert_close(factor @ factor.mH, matrix, rtol=0, atol=2e-7 * float(eigenvalues[0]))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-7, 1e-12])
@pytest.mark.parametrize("profile", ["A", "D"])
def test_truncation_of_a_channel_is_bounded_and_known(profile: str, rtol: float) -> None:
    grid = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
    covariance = TDL(profile, delay_spread=300e-9, max_doppler=500.0).covariance(grid)
    matrix, factor = covariance.matrix(), covariance.factor(rtol)
    lost = matrix - factor @ factor.mH
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    # An eigenvalue decomposition would lose rtol; cross terms with dropped directions of single axes add about as much.
    assert float(torch.linalg.matrix_norm(lost, 2)) <= 2.5 * rtol * largest
    residual = covariance.residual(rtol)
    assert bool((residual >= 0).all())
    torch.testing.assert_close(residual.flatten(), lost.diagonal().real, rtol=1e-6, atol=1e-13)
    if rtol >= 1e-4:
        assert float(residual.max()) > 0


def test_slot_has_low_rank() -> None:
    """The reason for thin factors: a slot of 1680 entries has a rank of 10 to 30."""
    grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
    assert 10 <= TDL("A", delay_spread=100e-9, max_doppler=300.0).covariance(grid).factor().shape[1] <= 30


def test_array_of_clusters_needs_no_dense_matrix() -> None:
    """16 antennas x 14 x 60 would be 2.9 GB dense."""
    grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=60, subcarrier_spacing=30e3)
    model = CDL("D", delay_spread=100e-9, carrier_frequency=3.5e9, speed=10.0, rx_array=ULA(16))
    covariance = model.covariance(grid)
    with pytest.raises(InvalidValueError, match="use factor"):
        covariance.matrix()
    factor = covariance.tucker(1e-7)
    energy = factor.energy(torch.ones(factor.rank, dtype=torch.float64)) + factor.residual
    torch.testing.assert_close(energy, covariance.diagonal().flatten())
    # R x for a random x, through the terms and through the factor.
    x = draw(*covariance.sizes, generator=torch.Generator().manual_seed(3))
    through_terms = sum(apply_modes(apply_modes(x, [m.mH for m in t.factors]), t.factors) for t in covariance.terms)
    columns = factor.columns(0, factor.rank).flatten(1)
    through_factor = columns.T @ (columns.conj() @ x.flatten())
    largest = float(columns[0].abs().square().sum())
    assert (
        float((through_factor - through_terms.flatten()).abs().max()) <= 1e-7 * largest * float(x.abs().square().sum()) ** 0.5
    )


@pytest.mark.parametrize("limit", [4, 16, 64])
def test_many_terms_are_merged_in_rounds(limit: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of columns is put into one eigendecomposition, the factor is the same up to its tolerance."""
    terms = [term(generator, (1, 1, 2)) for _ in range(9)]
    covariance = ChannelCovariance([*terms, *terms[:2]], 2, 2)
    want = covariance.matrix()
    monkeypatch.setattr("wichan.channels.covariance_factor._FEW_COLUMNS", limit)
    factor = covariance.factor(1e-10)
    assert factor.shape[1] == 18  # repeated terms add energy, no rank
    torch.testing.assert_close(factor @ factor.mH, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [1, 3])
def test_batch_equals_each_condition(count: int, generator: torch.Generator) -> None:
    shared = term(generator, (2, 1, 1))
    batched = KroneckerTerm(
        draw(4, 2, generator=generator), draw(count, 3, 2, generator=generator), draw(count, 6, 3, generator=generator)
    )
    covariance = ChannelCovariance([batched, shared], 2, 2)
    assert covariance.batch_shape == (count,)
    each = [covariance[i] for i in range(count)]
    torch.testing.assert_close(covariance.matrix(), torch.stack([c.matrix() for c in each]))
    torch.testing.assert_close(covariance.diagonal(), torch.stack([c.diagonal() for c in each]))
    torch.testing.assert_close(covariance.mean_power(), torch.stack([c.mean_power() for c in each]))
    torch.testing.assert_close(covariance.residual(1e-2), torch.stack([c.residual(1e-2) for c in each]))
    factor = covariance.factor()
    torch.testing.assert_close(factor @ factor.mH, covariance.matrix(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(covariance.kronecker().matrix(), torch.stack([c.kronecker().matrix() for c in each]))
    part = covariance[1:] if count > 1 else covariance[:1]
    assert part.batch_shape == (max(count - 1, 1),)
    torch.testing.assert_close(part.matrix()[-1], each[-1].matrix())


def test_batch_of_a_model_pads_with_zeros() -> None:
    grid = OFDMGrid(num_ofdm_symbols=4, num_subcarriers=12, subcarrier_spacing=30e3)
    model = TDL("A", delay_spread=100e-9, max_doppler=0.0)
    doppler = torch.tensor([0.0, 2000.0])
    batched = model.covariance(grid, max_doppler=doppler)
    for i, value in enumerate(doppler):
        torch.testing.assert_close(batched[i].matrix(), model.covariance(grid, max_doppler=float(value)).matrix())
    factor = batched.factor()
    assert float(factor[0, :, -1].abs().max()) == 0.0
    assert float(factor[1, :, -1].abs().max()) > 0.0


def marginal(matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Partial trace over the other two axes, by brute force."""
    full = matrix.unflatten(-1, SIZES).unflatten(0, SIZES)
    return torch.einsum(("abcdbc->ad", "abcadc->bd", "abcabd->cd")[axis], full)


def test_kronecker_has_the_right_marginals(generator: torch.Generator) -> None:
    covariance = ChannelCovariance([term(generator, (2, 1, 1)), term(generator, (1, 2, 1)), term(generator, (1, 1, 4))], 2, 2)
    approximation = covariance.kronecker()
    assert approximation.is_kronecker
    for axis in range(3):
        torch.testing.assert_close(marginal(approximation.matrix(), axis), marginal(covariance.matrix(), axis))
    assert float((approximation.matrix() - covariance.matrix()).abs().max()) > 0.1


def test_kronecker_of_one_term_is_itself(generator: torch.Generator) -> None:
    covariance = ChannelCovariance([term(generator)], 2, 2)
    assert covariance.kronecker() is covariance


@pytest.mark.parametrize("count", [5, 200], ids=["fewer samples than entries", "more"])
def test_from_samples_is_the_second_moment(count: int, generator: torch.Generator) -> None:
    h = complex_normal((count, 2, 2, 3, 6), generator=generator)
    covariance = ChannelCovariance.from_samples(h)
    flat = h.flatten(1).to(torch.complex128)
    want = flat.mT @ flat.conj() / count
    # Eigenvalues of the Gram matrix are right to 1e-15 of the largest; h itself is single precision.
    torch.testing.assert_close(covariance.matrix(), want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(covariance.mean_power(), want.diagonal().real.mean())
    assert covariance.factor().shape[1] == min(count, 72)


def test_from_samples_with_limited_rank_knows_what_is_missing(generator: torch.Generator) -> None:
    h = complex_normal((50, 2, 2, 3, 6), generator=generator)
    full, cut = ChannelCovariance.from_samples(h), ChannelCovariance.from_samples(h, rank=7)
    assert cut.factor().shape[1] == 7
    torch.testing.assert_close(cut.diagonal() + cut.residual(), full.diagonal())
    eigenvalues = torch.linalg.eigvalsh(full.matrix()).flip(0)
    torch.testing.assert_close(torch.linalg.eigvalsh(cut.matrix()).flip(0)[:7], eigenvalues[:7])


def test_from_matrix_round_trip(generator: torch.Generator) -> None:
    want = ChannelCovariance([term(generator), term(generator)], 2, 2).matrix()
    covariance = ChannelCovariance.from_matrix(want, (2, 2, 3, 6))
    torch.testing.assert_close(covariance.matrix(), want)
    batched = ChannelCovariance.from_matrix(torch.stack([want, 2 * want]), (2, 2, 3, 6))
    torch.testing.assert_close(batched[1].matrix(), 2 * want)
    torch.testing.assert_close(batched[:1].residual(1e-2), covariance.residual(1e-2)[None])
    torch.testing.assert_close(covariance.kronecker().mean_power(), covariance.mean_power())


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (1, 1, 5, 1), (1, 1, 1, 6), (1, 1, 1, 1)])
def test_from_matrix_of_one_axis_is_a_kronecker_product(shape: tuple[int, ...], generator: torch.Generator) -> None:
    root = draw(max(shape), max(shape), generator=generator)
    covariance = ChannelCovariance.from_matrix(root @ root.mH, shape)
    assert covariance.is_kronecker
    torch.testing.assert_close(covariance.matrix(), root @ root.mH)


def test_zero_covariance_has_a_zero_factor() -> None:
    zeros = [torch.zeros(n, 2, dtype=torch.complex128) for n in SIZES]
    for terms in ([KroneckerTerm(*zeros)], [KroneckerTerm(*zeros)] * 2):
        covariance = ChannelCovariance(terms, 2, 2)
        assert float(covariance.factor().abs().max()) == 0.0
        assert float(covariance.residual().max()) == 0.0
        assert bool(torch.isfinite(torch.view_as_real(covariance.kronecker().matrix())).all())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_apply_modes_equals_a_kronecker_product(order: tuple[int, ...], generator: torch.Generator) -> None:
    """Each permutation of sizes makes another order the cheapest one."""
    rows, columns = (2, 5, 9), (3, 4, 7)
    matrices = [draw(rows[i], columns[i], generator=generator) for i in order]
    x = draw(2, *(columns[i] for i in order), generator=generator)
    want = x.flatten(1) @ torch.kron(torch.kron(matrices[0], matrices[1]), matrices[2]).T
    torch.testing.assert_close(apply_modes(x, matrices).flatten(1), want)
    partial = apply_modes(x, [None, matrices[1], None])
    torch.testing.assert_close(partial, torch.einsum("ij,bajc->baic", matrices[1], x))


def test_cheapest_order_shrinks_first() -> None:
    assert cheapest_order((10, 10, 10), (100, 1, 10))[0] == 1
    assert cheapest_order((10, 10, 10), (100, 1, 10))[-1] == 0


def test_to_keeps_everything(generator: torch.Generator) -> None:
    covariance = ChannelCovariance([term(generator)], 2, 2, normalization="ensemble").to("cpu")
    assert covariance.device == torch.device("cpu")
    assert covariance.normalization == "ensemble"


def test_real_and_single_precision_factors_are_converted() -> None:
    covariance = ChannelCovariance([KroneckerTerm(torch.ones(1, 1), torch.ones(2, 1), torch.eye(3, dtype=torch.float64))], 1, 1)
    assert all(m.dtype == torch.complex128 for m in covariance.terms[0].factors)  # type: ignore[union-attr]


ONE = torch.ones(1, 1)
BAD = [
    (lambda: KroneckerTerm(ONE, ONE, torch.full((3, 1), float("nan"))), InvalidValueError, "frequency"),
    (lambda: KroneckerTerm(ONE, torch.ones(3), ONE), ShapeError, "time"),
    (lambda: KroneckerTerm(ONE, torch.ones(0, 1), ONE), ShapeError, "time"),
    (lambda: KroneckerTerm([[1.0]], ONE, ONE), InvalidTypeError, "space"),  # type: ignore[arg-type]
    (lambda: KroneckerTerm(ONE, torch.ones(2, 3, 1), torch.ones(4, 3, 1)), ShapeError, "broadcast"),
    (lambda: ChannelCovariance([], 1, 1), InvalidValueError, "terms"),
    (lambda: ChannelCovariance([ONE], 1, 1), InvalidTypeError, r"terms\[0\]"),  # type: ignore[list-item]
    (lambda: ChannelCovariance([KroneckerTerm(ONE, ONE, ONE)], 2, 1), ShapeError, r"terms\[0\]"),
    (lambda: ChannelCovariance([KroneckerTerm(ONE, ONE, ONE)], 0, 1), InvalidValueError, "num_rx_ant"),
    (lambda: ChannelCovariance([KroneckerTerm(ONE, ONE, ONE)], 1, 1, normalization="samples"), UnknownNameError, "sample"),
    (lambda: ChannelCovariance([KroneckerTerm(ONE, ONE, ONE)], 1, 1)[0], ShapeError, "batch"),
    (lambda: ChannelCovariance([KroneckerTerm(ONE, ONE, ONE)], 1, 1).factor(-1.0), InvalidValueError, "rtol"),
    (lambda: ChannelCovariance([KroneckerTerm(ONE[None], ONE, ONE)], 1, 1).tucker(), ShapeError, "batch_shape"),
    (lambda: ChannelCovariance.from_samples(torch.ones(3, 1, 1, 2, 2)), InvalidTypeError, "h"),
    (lambda: ChannelCovariance.from_samples(torch.ones(1, 2, 2, 2) + 0j), ShapeError, "h"),
    (lambda: ChannelCovariance.from_samples(torch.full((3, 1, 1, 2, 2), float("nan")) + 0j), InvalidValueError, "h"),
    (lambda: ChannelCovariance.from_samples(torch.ones(3, 1, 1, 2, 2) + 0j, rank=0), InvalidValueError, "rank"),
    (lambda: ChannelCovariance.from_matrix(torch.eye(4), (1, 1, 2, 3)), ShapeError, "matrix"),
    (lambda: ChannelCovariance.from_matrix(torch.eye(4), (2, 2)), ShapeError, "shape"),
    (lambda: ChannelCovariance.from_matrix(-torch.eye(4), (1, 1, 2, 2)), NotPositiveDefiniteError, "matrix"),
]


@pytest.mark.parametrize(("call", "error", "word"), BAD)
def test_bad_input_gets_one_line(call: object, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
