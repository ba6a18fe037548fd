"""Classical sparse Bayesian learning: the literal dense formulas, closed forms, manners, the worth of its error variance."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import OMP, SBL, KroneckerSBL
from wichan.estimators.sbl_posterior import GaussianPosterior
from wichan.observations import IRSTraining, KroneckerDictionary
from wichan.random import complex_normal

SHAPES = {1: [(6, 9)], 2: [(3, 5), (4, 6)], 3: [(3, 5), (2, 4), (4, 6)]}


def normal(*shape: int, generator: torch.Generator, kind: str = "complex") -> torch.Tensor:
    """Gaussian numbers of unit power in double precision."""
    if kind == "real":
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def dictionary(modes: int, kind: str, generator: torch.Generator, synthesis: bool = True) -> KroneckerDictionary:
    factors = [normal(*shape, generator=generator, kind=kind) for shape in SHAPES[modes]]
    made = [normal(3, shape[1], generator=generator, kind=kind) for shape in SHAPES[modes]] if synthesis else None
    return KroneckerDictionary(factors, made)


def literal(a: np.ndarray, c: np.ndarray, y: np.ndarray, no: float, gamma: np.ndarray) -> dict[str, Any]:
    """Posterior, cost and noise update as the textbook writes them, with an inverse and the whole covariance."""
    s = no * np.eye(len(a)) + (a * gamma) @ a.conj().T
    inverse = np.linalg.inv(s)
    g = np.diag(gamma)
    covariance = g - g @ a.conj().T @ inverse @ a @ g
    mean = g @ a.conj().T @ inverse @ y
    variance = np.diag(covariance).real
    on = gamma > 0
    residual = np.linalg.norm(y - a @ mean) ** 2
    return {
        "mean": mean,
        "variance": variance,
        "cost": np.linalg.slogdet(s)[1] + (y.conj() @ inverse @ y).real,
        "noise": (residual + no * (1 - variance[on] / gamma[on]).sum()) / len(a),
        "channel": np.diag(c @ covariance @ c.conj().T).real,
    }


def sparse_case(seed: int, rows: tuple[int, ...], size: int, active: int, snr_db: float) -> tuple[Any, ...]:
    """A real case with Gaussian factors, a product support with product values, and exact SNR: dictionary, x, y, no."""
    g = torch.Generator().manual_seed(seed)
    factors = [torch.randn(m, size, generator=g, dtype=torch.float64) for m in rows]
    parts = []
    for _ in rows:
        part = torch.zeros(size, dtype=torch.float64)
        part[torch.randperm(size, generator=g)[:active]] = torch.randn(active, generator=g, dtype=torch.float64)
        parts.append(part)
    x = reduce(lambda a, b: a.unsqueeze(-1) * b, parts)
    made = KroneckerDictionary(factors)
    clean = made.measure(x)
    no = float(clean.square().mean()) / 10 ** (snr_db / 10)
    return made, x, clean + math.sqrt(no) * torch.randn(len(clean), generator=g, dtype=torch.float64), no


def nmse(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().square().sum() / want.abs().square().sum())


# -- Expectation maximisation. --


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("method", ["auto", "modes", "dense"])
def test_iterations_equal_a_literal_loop(kind: str, method: str, generator: torch.Generator) -> None:
    d = dictionary(2, kind, generator, synthesis=False)
    y = normal(d.num_measurements, generator=generator, kind=kind)
    a, no, prune, tol = d.dense().numpy(), 0.05, 1e-2, 1e-3
    gamma, steps = np.full(a.shape[1], 0.7), 0
    while steps < 300:
        old, steps = gamma, steps + 1
        kept = np.where(gamma >= prune * gamma.max(), gamma, 0)
        found = literal(a, a, y.numpy(), no, kept)
        gamma = np.abs(found["mean"]) ** 2 + np.maximum(found["variance"], 0)
        if np.linalg.norm(gamma - old) <= tol * np.linalg.norm(old):
            break
    want = literal(a, a, y.numpy(), no, gamma)
    got = SBL(d, max_iter=300, tol=tol, prune=prune, start=0.7, method=method)(y, no)
    assert steps < 300  # it has stopped, and so must the other
    assert int(got.num_iterations) == steps
    assert bool(got.converged)
    # Up to 300 steps repeat the rounding of the two ways, 1e-12 each.
    np.testing.assert_allclose(got.gammas.flatten().numpy(), gamma, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got.h_hat.flatten().numpy(), want["mean"], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got.err_var.flatten().numpy(), want["variance"], rtol=1e-8, atol=1e-9)
    assert (gamma == 0).sum() > 0  # atoms were pruned on the way


def test_cost_never_rises_without_pruning(generator: torch.Generator) -> None:
    d = dictionary(3, "complex", generator, synthesis=False)
    y = normal(4, d.num_measurements, generator=generator)
    history = SBL(d, max_iter=150, tol=0, prune=0)(y, 0.1).history
    assert history.shape == (4, 150)
    # Rounding of a sum of 24 logarithms.
    assert bool((history.diff(dim=1) <= 1e-9 * history[:, 1:].abs()).all())
    assert bool((history[:, -1] < history[:, 0] - 1).all())


def test_fixed_point_with_orthonormal_columns_is_known(generator: torch.Generator) -> None:
    # A = I: each gamma goes to max(|y|^2 - no, 0) and the mean to y (1 - no / |y|^2).
    y = torch.tensor([3.0, -2.0, 1.5, 0.3, 0.0, -0.9], dtype=torch.float64)
    no = 1.0
    got = SBL([torch.eye(6, dtype=torch.float64)], max_iter=400, tol=0, prune=0)(y, no)
    strong = y.abs() > 1.2
    # Linear convergence at rate <= (no / y^2)(2 - no / y^2) = 0.7 where y is strong.
    torch.testing.assert_close(got.gammas[strong], (y.square() - no)[strong], rtol=1e-9, atol=0)
    torch.testing.assert_close(got.h_hat[strong], (y * (1 - no / y.square()))[strong], rtol=1e-9, atol=0)
    torch.testing.assert_close(got.err_var[strong], no * (1 - no / y.square())[strong], rtol=1e-9, atol=0)
    # Below the noise gamma falls like no / steps.
    assert float(got.gammas[~strong].max()) < 2e-2


def test_single_factor_is_kronecker_sbl() -> None:
    # With one factor every M-step of Kronecker SBL is the free one; so it is with factors of one row and column added.
    made, _, y, no = sparse_case(3, (20,), 30, 4, 20)
    one = torch.ones(1, 1, dtype=torch.float64)
    options: dict[str, Any] = {"max_iter": 30, "tol": 0.0, "prune": 0.0, "start": 1.0}
    want = SBL(made, **options)(y, no)
    for factors in ([*made.factors], [one, *made.factors, one]):
        for m_step in ("svd", "am"):
            got = KroneckerSBL(KroneckerDictionary(factors), m_step, **options)(y, no)
            gammas = reduce(lambda a, b: a.unsqueeze(-1) * b, got.gammas).flatten()
            # 30 steps of two ways to compute one posterior; 1e-12 in a prototype.
            torch.testing.assert_close(gammas, want.gammas, rtol=0, atol=1e-10 * float(want.gammas.max()))


def test_noise_variance_is_found() -> None:
    errors, ratios = [], []
    for seed in range(5):
        made, x, y, no = sparse_case(seed, (6, 8, 9), 10, 2, 25)
        got = SBL(made, learn_noise=True)(y)
        told = SBL(made, learn_noise=True)(y, 3 * no)
        known = SBL(made)(y, no)
        errors.append(nmse(got.h_hat, x) / nmse(known.h_hat, x))
        ratios.append(float(got.no_hat) / no)
        # Two starts of one iteration, which stops at a change of 1e-4 of the variances.
        assert float(told.no_hat) == pytest.approx(float(got.no_hat), rel=0.2)
        assert known.no_hat is None
    # 432 real samples determine their noise to 7 %; what is pruned of the signal adds to it.
    assert 0.8 < float(np.median(ratios)) < 1.4
    assert float(np.median(errors)) < 2


@pytest.mark.slow
def test_order_of_the_estimators_on_small_synthetic_cases() -> None:
    # N = 10, K = 2, 25 dB, 15 seeds. A prototype had medians of 8e-5 (Kronecker SBL), 3e-3 (SBL) and 1 (OMP with raw atoms);
    # OMP with normalised atoms is better than SBL here.
    scores: dict[str, list[float]] = {}
    for seed in range(15):
        made, x, y, no = sparse_case(seed, (5, 8, 10), 10, 2, 25)
        found = {"svd": KroneckerSBL(made, "svd"), "sbl": SBL(made), "raw": OMP(made, normalize=False), "omp": OMP(made)}
        for name, est in found.items():
            scores.setdefault(name, []).append(nmse(est(y, no).h_hat, x))
    median = {name: float(np.median(values)) for name, values in scores.items()}
    assert median["svd"] < median["sbl"] < median["raw"]
    assert median["svd"] < median["omp"] < median["raw"]
    assert median["svd"] < 3e-4  # four times the prototype's: other draws
    assert median["sbl"] < 1e-2


def test_error_variance_is_optimistic_by_a_known_factor() -> None:
    # What the class's note says: about four. 12 cases with 8 of 1000 coefficients at 15 dB.
    ratios = []
    for seed in range(12):
        made, x, y, no = sparse_case(seed, (7, 8, 10), 10, 2, 15)
        got = SBL(made)(y, no)
        ratios.append(float((got.h_hat - x).square().sum() / got.err_var.sum()))
    assert 2.5 < float(np.median(ratios)) < 6


@pytest.mark.slow
def test_error_variance_on_the_published_irs(generator: torch.Generator) -> None:
    irs = IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
    obs = IRSTraining(irs, num_pilots=3, num_patterns=6)
    h = obs.channel(irs.sample(6, generator=generator))
    no = obs.noiseless(h).abs().square().mean(dim=1) / 10**1.2
    got = SBL(obs.dictionary(grid=18))(obs.observe(h, no, generator=generator), no)
    error = (got.h_hat - h).abs().square().flatten(1).sum(dim=1)
    # What the class's note says: about two in the median; six draws.
    assert 1.2 < float((error / got.err_var.flatten(1).sum(dim=1)).median()) < 4


# -- Manners. --


def test_batch_equals_one_by_one(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    d = dictionary(3, "complex", generator)
    y = normal(2, 3, d.num_measurements, generator=generator)
    no = torch.tensor([[0.5, 0.1, 0.02], [1e-3, 0.3, 2.0]], dtype=torch.float64)
    est = SBL(d, max_iter=60, tol=1e-2)
    together = est(y, no)
    assert together.h_hat.shape == (2, 3, *d.channel_shape)
    assert len(set(together.num_iterations.flatten().tolist())) > 1  # they leave the batch at different steps
    for i in range(2):
        for j in range(3):
            alone = est(y[i, j], float(no[i, j]))
            assert int(alone.num_iterations) == int(together.num_iterations[i, j])
            # Products of other sizes round otherwise, and 60 steps repeat it.
            torch.testing.assert_close(alone.h_hat, together.h_hat[i, j], rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(alone.err_var, together.err_var[i, j], rtol=1e-8, atol=1e-9)

    monkeypatch.setattr("wichan.estimators.sparse_parts._PART_BYTES", {"cpu": 1})
    apart = est(y, no)  # one instance at a time, each with a history of its own length
    torch.testing.assert_close(apart.h_hat, together.h_hat, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(apart.history, together.history, rtol=1e-8, atol=1e-8, equal_nan=True)
    assert torch.equal(apart.num_iterations, together.num_iterations)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_single_precision_in_and_out(kind: str, generator: torch.Generator) -> None:
    d = dictionary(2, kind, generator)
    y = normal(4, d.num_measurements, generator=generator, kind=kind)
    double = SBL(d, max_iter=20, tol=0)(y, 0.1)
    single = SBL(d, max_iter=20, tol=0)(y.to(torch.float32 if kind == "real" else torch.complex64), 0.1)
    assert single.h_hat.dtype == (torch.float32 if kind == "real" else torch.complex64)
    assert single.err_var.dtype == single.gammas.dtype == torch.float32
    # Only what goes in and comes out is rounded to 6e-8; twenty steps amplify it.
    torch.testing.assert_close(single.h_hat.to(double.h_hat.dtype), double.h_hat, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single.err_var.double(), double.err_var, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [3.0, 1e-18, 1e15])
def test_scale_of_the_observation(scale: float, generator: torch.Generator) -> None:
    d = dictionary(2, "complex", generator)
    y = normal(d.num_measurements, generator=generator)
    want, got = SBL(d, max_iter=40)(y, 0.1), SBL(d, max_iter=40)(y * scale, 0.1 * scale**2)
    # Rounding of the scale, repeated by forty steps.
    torch.testing.assert_close(got.h_hat / scale, want.h_hat, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got.err_var / scale**2, want.err_var, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got.gammas / scale**2, want.gammas, rtol=1e-9, atol=1e-10)


def test_published_start_is_in_the_unit_of_the_coefficients(generator: torch.Generator) -> None:
    d = dictionary(1, "complex", generator, synthesis=False)
    y = 1000 * normal(d.num_measurements, generator=generator)
    got = SBL(d, max_iter=1, start=1.0, prune=0)(y, 10.0)
    want = literal(d.dense().numpy(), d.dense().numpy(), y.numpy(), 10.0, np.ones(d.num_coefficients))
    expected = np.abs(want["mean"]) ** 2 + want["variance"]
    np.testing.assert_allclose(got.gammas.numpy(), expected, rtol=1e-9)  # one step, double precision


def test_without_noise_the_floor_stands_in() -> None:
    made, x, y, _ = sparse_case(1, (6, 8, 9), 10, 2, 300)
    got = SBL(made)(y, 0.0)
    want = SBL(made)(y, 1e-10 * float(y.square().mean()))
    assert bool(torch.isfinite(got.err_var).all())
    torch.testing.assert_close(got.h_hat, want.h_hat, rtol=1e-12, atol=0)  # the same call
    assert nmse(got.h_hat, x) < 1e-4  # atoms below 3 % of the largest amplitude may be pruned


def test_zeros_give_zeros_and_full_variance(generator: torch.Generator) -> None:
    d = dictionary(2, "complex", generator)
    y = normal(3, d.num_measurements, generator=generator)
    y[1] = 0
    got = SBL(d, max_iter=5)(y, 0.1)
    power = torch.einsum("a,b->ab", *[s.abs().square().sum(dim=1) for s in d.synthesis])
    assert bool((got.h_hat[1] == 0).all())
    torch.testing.assert_close(got.err_var[1], power, rtol=1e-12, atol=0)  # unit coefficients
    torch.testing.assert_close(got.h_hat[2], SBL(d, max_iter=5)(y[2], 0.1).h_hat, rtol=1e-9, atol=1e-10)


def test_nothing_of_the_size_of_the_dense_dictionary_is_made(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> torch.Tensor:
        raise AssertionError("the dense dictionary was made")

    monkeypatch.setattr(GaussianPosterior, "dense", property(refuse))
    monkeypatch.setattr(KroneckerDictionary, "dense", refuse)
    factors = [normal(3, 32, generator=generator) for _ in range(3)]  # A would have 27 x 32768 entries
    got = SBL(factors, max_iter=3)(normal(27, generator=generator), 0.1)
    assert got.h_hat.shape == (32, 32, 32)
    with pytest.raises(AssertionError, match="dense dictionary"):
        SBL(factors, max_iter=3, method="dense")(normal(27, generator=generator), 0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: SBL(torch.eye(3)), InvalidTypeError, "dictionary must be a KroneckerDictionary"),
        (lambda d: SBL(d, max_iter=0), InvalidValueError, "max_iter=0 must be at least 1"),
        (lambda d: SBL(d, tol=-1.0), InvalidValueError, "tol=-1 must be at least 0"),
        (lambda d: SBL(d, prune=2.0), InvalidValueError, "prune=2 must be at most 1"),
        (lambda d: SBL(d, start=0.0), InvalidValueError, "start=0 must be greater than 0"),
        (lambda d: SBL(d, start="enrgy"), UnknownNameError, "start='enrgy' is unknown; did you mean 'energy'"),
        (lambda d: SBL(d, method="fast"), UnknownNameError, "method='fast' is unknown"),
        (lambda d: SBL(d)(torch.zeros(13, dtype=torch.complex128), 0.1), ShapeError, r"y has shape \(13,\)"),
        (lambda d: SBL(d)(torch.full((12,), math.nan, dtype=torch.complex128), 0.1), InvalidValueError, "y holds 12 NaN"),
        (lambda d: SBL(d)(torch.zeros(12, dtype=torch.float64), 0.1), InvalidTypeError, "with a complex dictionary"),
        (lambda d: SBL(d)(torch.ones(12, dtype=torch.complex128), -0.1), InvalidValueError, "no=-0.1 must be at least 0"),
        (lambda d: SBL(d)(torch.ones(12, dtype=torch.complex128)), InvalidTypeError, "no=None must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Any, error: type, message: str, generator: torch.Generator) -> None:
    with pytest.raises(error, match=message) as caught:
        make(dictionary(2, "complex", generator))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_gpu_equals_cpu(generator: torch.Generator) -> None:
    d = dictionary(3, "complex", generator)
    y = normal(16, d.num_measurements, generator=generator)
    want, got = SBL(d, max_iter=30)(y, 0.1), SBL(d.to("cuda"), max_iter=30)(y.cuda(), 0.1)
    # Another order of summing in double precision, repeated by thirty steps.
    torch.testing.assert_close(got.h_hat.cpu(), want.h_hat, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.err_var.cpu(), want.err_var, rtol=1e-8, atol=1e-9)
