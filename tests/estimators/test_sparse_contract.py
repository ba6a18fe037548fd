"""What every estimator of sparse coefficients promises, on Kronecker sparse Bayesian learning: the pair, bad input, zeros."""

from __future__ import annotations

import copy

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanError
from wichan.estimators import Estimate, KroneckerSBL, SparseEstimate
from wichan.observations import KroneckerDictionary
from wichan.random import complex_normal

ROWS, ATOMS, CHANNEL = (4, 3, 5), (6, 5, 4), (3, 7, 2)


@pytest.fixture
def dictionary(generator: torch.Generator) -> KroneckerDictionary:
    """Complex, with a synthesis of its own and the channel's axes in another order."""

    def matrices(rows: tuple[int, ...]) -> list[torch.Tensor]:
        pairs = zip(rows, ATOMS, strict=True)
        return [complex_normal((m, n), generator=generator, dtype=torch.complex128) for m, n in pairs]

    return KroneckerDictionary(matrices(ROWS), matrices(CHANNEL), names=("irs", "ms", "bs"), channel_order=(2, 1, 0))


@pytest.fixture
def y(generator: torch.Generator) -> torch.Tensor:
    return complex_normal((2, 3, 60), generator=generator, dtype=torch.complex128)


def test_answer_is_a_pair_with_attributes(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    est = KroneckerSBL(dictionary, couple=("irs", "bs"), max_iter=5, history=True)
    found = est(y, torch.tensor([0.1, 0.2]))
    h_hat, err_var = found
    assert isinstance(found, SparseEstimate) and isinstance(found, Estimate) and len(found) == 2
    assert h_hat.shape == err_var.shape == (2, 3, 2, 7, 3) and not err_var.is_complex()
    assert found.coefficients.shape == found.coefficient_var.shape == (2, 3, *ATOMS)
    assert [g.shape for g in found.gammas] == [(2, 3, n) for n in ATOMS]
    assert found.num_iterations.shape == found.converged.shape == found.cost.shape == (2, 3)
    assert found.no_hat is None and found.history.shape == (2, 3, 5)
    assert torch.equal(dictionary.channel(found.coefficients), h_hat)
    single = est(y.to(torch.complex64), 0.1)
    assert single.h_hat.dtype == torch.complex64 and single.err_var.dtype == torch.float32


def test_error_is_of_the_channel(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    """diag(A Sigma A^H) from dense matrices, at the variances that were found."""
    found = KroneckerSBL(dictionary, max_iter=4)(y[0], 0.1)
    matrix = dictionary.dense()
    wide = torch.linalg.multi_dot  # nothing of it below is shared with the estimator
    synthesis = torch.kron(torch.kron(*dictionary.synthesis[:2]), dictionary.synthesis[2])
    for b in range(3):
        prior = torch.kron(torch.kron(found.gammas[0][b], found.gammas[1][b]), found.gammas[2][b]).to(torch.complex128)
        middle = 0.1 * torch.eye(60, dtype=torch.float64) + wide([matrix, torch.diag(prior), matrix.mH])
        sigma = torch.diag(prior) - prior[:, None] * wide([matrix.mH, torch.linalg.inv(middle), matrix]) * prior
        error = wide([synthesis, sigma, synthesis.mH]).diagonal().real.reshape(CHANNEL).permute(2, 1, 0)
        # Double precision, both ways from the same numbers.
        assert float((error - found.err_var[b]).abs().max()) < 1e-10 * float(error.max())


def test_all_zero_observation_has_full_variance(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    est = KroneckerSBL(dictionary, max_iter=3)
    mixed = y.clone()
    mixed[0, 1] = 0
    found, others = est(mixed, 0.1), est(y, 0.1)
    assert bool((found.h_hat[0, 1] == 0).all()) and bool((found.coefficient_var[0, 1] == 1).all())
    rows = [a.abs().square().sum(1) for a in dictionary.synthesis]
    full = torch.einsum("i,j,k->kji", *rows)
    assert torch.allclose(found.err_var[0, 1], full, rtol=1e-12)  # of unit coefficients
    keep = torch.ones(2, 3, dtype=torch.bool)
    keep[0, 1] = False
    assert torch.allclose(found.h_hat[keep], others.h_hat[keep], rtol=1e-9, atol=1e-12)  # other products, other rounding
    nothing = est(torch.zeros_like(y), 0.0)
    assert bool((nothing.h_hat == 0).all()) and bool((nothing.err_var > 0).all()) and bool(nothing.converged.all())
    assert [g.shape for g in nothing.gammas] == [(2, 3, n) for n in ATOMS]


def test_empty_batch(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    found = KroneckerSBL(dictionary)(y[:0], 0.1)
    assert found.h_hat.shape == (0, 3, 2, 7, 3) and found.num_iterations.shape == (0, 3)


def test_extremes_stay_finite(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    single = y.to(torch.complex64)
    for scale, no in ((1e-30, 0.0), (1e15, 1.0), (1.0, 1e30), (1e-12, 1e20)):
        for m_step in ("svd", "am", "mm"):
            found = KroneckerSBL(dictionary, m_step, max_iter=3)(scale * single, no)
            parts = (found.coefficients.abs(), found.err_var, found.cost, *found.gammas)
            assert all(bool(torch.isfinite(part).all()) for part in parts)


def test_copies_and_state(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    est = KroneckerSBL(dictionary, max_iter=3)
    other = copy.deepcopy(est)
    other.load_state_dict(est.state_dict())
    assert torch.equal(est(y, 0.1).h_hat, other(y, 0.1).h_hat)
    assert "m_step='svd'" in repr(est)


def nan(y: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(60) == 3, torch.nan, y)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda y: (y[..., :59], 0.1), ShapeError, "y has shape .*60"),
        (lambda y: (nan(y), 0.1), InvalidValueError, "y holds .* NaN"),
        (lambda y: (y.real, 0.1), InvalidTypeError, "y has dtype torch.float64; with a complex dictionary"),
        (lambda y: (y.numpy(), 0.1), InvalidTypeError, "y must be a torch.Tensor"),
        (lambda y: (y, -0.1), InvalidValueError, "no=-0.1 must be at least 0"),
        (lambda y: (y, None), InvalidTypeError, "no=None must be"),
        (lambda y: (y, torch.ones(3)), ShapeError, "no has shape"),
        (lambda y: (y, float("nan")), InvalidValueError, "no holds NaN"),
    ],
    ids=["rows", "nan", "real", "numpy", "negative", "none", "noise-shape", "noise-nan"],
)
def test_bad_observations(change, error: type, words: str, dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    with pytest.raises(error, match=words) as caught:
        KroneckerSBL(dictionary)(*change(y))
    assert "\n" not in str(caught.value) and isinstance(caught.value, WichanError)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"m_step": "svdd"}, UnknownNameError, "m_step='svdd'.*did you mean 'svd'"),
        ({"couple": ("irs", "bss")}, UnknownNameError, "'bss'"),
        ({"couple": 3}, InvalidValueError, "at most 2"),
        ({"coupling": 1.5}, InvalidValueError, "coupling=1.5"),
        ({"max_iter": 0}, InvalidValueError, "max_iter=0"),
        ({"tol": -1.0}, InvalidValueError, "tol=-1"),
        ({"prune": 1.0}, InvalidValueError, "prune=1 must be below 1"),
        ({"prune": (0.1, 0.1)}, ShapeError, "prune has 2 thresholds.* 3 factors"),
        ({"prune": "publish"}, UnknownNameError, "prune='publish'"),
        ({"start": 0.0}, InvalidValueError, "start=0"),
        ({"start": "power"}, UnknownNameError, "start='power'"),
        ({"batch": 0}, InvalidValueError, "batch=0"),
        ({"no_floor": 2.0}, InvalidValueError, "no_floor=2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_options(options: dict, error: type, words: str, dictionary: KroneckerDictionary) -> None:
    with pytest.raises(error, match=words) as caught:
        KroneckerSBL(dictionary, **options)
    assert "\n" not in str(caught.value)


def test_bad_dictionary_and_start(dictionary: KroneckerDictionary, y: torch.Tensor) -> None:
    with pytest.raises(InvalidTypeError, match="dictionary must be a KroneckerDictionary or a sequence"):
        KroneckerSBL(torch.ones(3, 4))
    with pytest.raises(InvalidValueError, match="at least one"):
        KroneckerSBL([])
    with pytest.raises(InvalidValueError, match="zero of 4 columns"):
        KroneckerSBL([torch.tensor([[1.0, 0.0, 1.0, 1.0]]), torch.ones(2, 2)])
    est, good = KroneckerSBL(dictionary), [torch.ones(2, 3, n) for n in ATOMS]
    with pytest.raises(InvalidTypeError, match="start must be a tuple of 3"):
        est(y, 0.1, start=good[:2])
    with pytest.raises(ShapeError, match=r"start\[1\] has shape"):
        est(y, 0.1, start=(good[0], good[0], good[2]))
    with pytest.raises(InvalidValueError, match=r"start\[2\] must be at least 0"):
        est(y, 0.1, start=(good[0], good[1], 0 * good[2]))


@pytest.mark.parametrize("name", ["published", "published-unknown-noise", "published-irs"])
def test_published_thresholds(name: str, dictionary: KroneckerDictionary) -> None:
    found = {m_step: KroneckerSBL(dictionary, m_step, prune=name).prune for m_step in ("svd", "am")}
    expected = {
        "published": {"svd": (1e-3,) * 3, "am": (1e-2,) * 3},
        "published-unknown-noise": {"svd": (5e-4,) * 3, "am": (5e-3,) * 3},
        "published-irs": {"svd": (1e-4,) * 3, "am": (1e-2, 1e-1, 1e-3)},
    }
    assert found == expected[name]
    assert KroneckerSBL(dictionary, "am", couple=("irs",), prune="published-irs").prune == (1e-2, 1e-1, 1e-2)
