"""Mixtures of Bussgang filters: their limits, their fast paths, their symmetries and what they say of their error."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanError
from wichan.estimators import BLS, BussgangGMM, BussgangLMMSE, BussgangMFA, BussgangMixture
from wichan.estimators.bussgang_banks import DenseBank
from wichan.estimators.bussgang_circulant import CirculantBank
from wichan.estimators.bussgang_woodbury import WoodburyBank
from wichan.observations import QuantizedPilots, pilot_sequence
from wichan.priors import GMM, MixturePrior
from wichan.testing import calibration_by_decile

# Fast and dense paths order their sums differently; covariances of several bits are quadratures good to about 1e-10.
SAME = {"rtol": 1e-9, "atol": 1e-9}


def identity(size: int, num_bits: Any) -> QuantizedPilots:
    return QuantizedPilots(torch.eye(size, dtype=torch.complex128), num_bits)


def covariances(count: int, size: int, generator: torch.Generator, rank: int = 3, rest: float = 0.05) -> torch.Tensor:
    """Covariances of low rank plus a diagonal, with unequal powers."""
    root = torch.randn(count, size, rank, dtype=torch.complex128, generator=generator)
    return root @ root.mH / rank + rest * torch.eye(size, dtype=torch.complex128)


def weights(count: int, generator: torch.Generator) -> torch.Tensor:
    return 0.2 + torch.rand(count, dtype=torch.float64, generator=generator)


def observed(
    prior: MixturePrior, obs: QuantizedPilots, no: Any, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    h = prior.sample(count, generator=generator, dtype=torch.complex128)
    return h, obs.observe(h, no, generator=generator)


def assert_same(found: Any, want: Any, **tolerance: float) -> None:
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or SAME))


def by_the_book(prior: MixturePrior, obs: QuantizedPilots, r: torch.Tensor, no: float, method: str = "exact") -> Any:
    """Estimate, error and posterior from the formulas, one component and inverse at a time."""
    matrix, means, errors, logs = obs.matrix().to(torch.complex128), [], [], []
    for k, cov in enumerate(prior.covariances()):
        cov_y = obs.input_covariance(cov[None], no)
        gain = obs.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, no)[0]
        cov_r = obs.output_covariance(cov_y, no, method)[0]
        cross = cov @ matrix.mH * gain
        weight = cross @ torch.linalg.inv(cov_r)
        exact = obs.output_covariance(cov_y, no, "exact")[0]
        means.append(r @ weight.mT)
        errors.append((cov - weight @ cross.mH - cross @ weight.mH + weight @ exact @ weight.mH).diagonal().real)
        fit = ((r @ torch.linalg.inv(cov_r).mT) * r.conj()).sum(-1).real
        logs.append(prior.log_weights[k] - torch.linalg.slogdet(cov_r)[1] - fit)
    posterior = torch.stack(logs, -1).softmax(-1)
    mean, error = torch.stack(means, 1), torch.stack(errors)
    h_hat = (posterior[..., None] * mean).sum(1)
    spread = (posterior[..., None] * (mean - h_hat[:, None]).abs().square()).sum(1)
    return h_hat, posterior @ error + spread, posterior


# -- Against the formulas, and limits. --


@pytest.mark.parametrize("method", ["exact", "white", "scaled"])
@pytest.mark.parametrize("num_bits", [1, 2, math.inf])
def test_estimate_error_and_posterior_follow_the_formulas(
    num_bits: float, method: str, known_mixture: Any, generator: torch.Generator
) -> None:
    prior = known_mixture(covariances(4, 5, generator), weights(4, generator))
    obs = QuantizedPilots(torch.randn(7, 5, dtype=torch.complex128, generator=generator), num_bits)
    _, r = observed(prior, obs, 0.3, 50, generator)
    est = BussgangGMM(prior, obs, method=method)
    h_hat, err_var, posterior = by_the_book(prior, obs, r, 0.3, method)
    assert_same((*est(r, 0.3), est.posterior(r, 0.3)), (h_hat, err_var, posterior))


@pytest.mark.parametrize("num_bits", [1, 3, math.inf])
def test_one_component_is_blmmse(num_bits: float, known_mixture: Any, generator: torch.Generator) -> None:
    cov = covariances(1, 6, generator)
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), 6, num_bits)
    prior = known_mixture(cov)
    _, r = observed(prior, obs, 0.2, 20, generator)
    # One formula in two programs, in double precision.
    assert_same(BussgangGMM(prior, obs)(r, 0.2), BussgangLMMSE(obs, cov[0])(r, 0.2), rtol=1e-10, atol=1e-10)


def test_equal_components_are_one(known_mixture: Any, generator: torch.Generator) -> None:
    cov = covariances(1, 6, generator)
    obs = identity(6, 2)
    one, three = known_mixture(cov), known_mixture(cov.expand(3, 6, 6), weights(3, generator))
    _, r = observed(one, obs, 0.2, 20, generator)
    assert_same(BussgangGMM(three, obs)(r, 0.2), BussgangGMM(one, obs)(r, 0.2))


def test_factors_of_full_rank_are_a_full_covariance(known_mixture: Any, generator: torch.Generator) -> None:
    cov, share = covariances(3, 5, generator), weights(3, generator)
    gmm, mfa = known_mixture(cov, share), known_mixture(cov, share, num_factors=4)
    obs = identity(5, 1)
    _, r = observed(gmm, obs, 0.1, 20, generator)
    assert_same(BussgangMFA(mfa, obs)(r, 0.1), BussgangGMM(gmm, obs)(r, 0.1))


# -- Fast paths. --


@pytest.mark.parametrize("method", ["exact", "white", "scaled"])
@pytest.mark.parametrize("num_bits", [1, 2, "mixed", math.inf])
@pytest.mark.parametrize("num_pilots", [1, 3])
@pytest.mark.parametrize(("shape", "structure"), [((8,), "circulant"), ((3, 1, 1, 4), "block-circulant")], ids=["line", "grid"])
def test_circulant_path_is_the_dense_path(
    shape: tuple[int, ...],
    structure: str,
    num_pilots: int,
    num_bits: Any,
    method: str,
    known_mixture: Any,
    generator: torch.Generator,
) -> None:
    size = math.prod(shape)
    bits = [1 + p for p in range(num_pilots) for _ in range(size)] if num_bits == "mixed" else num_bits
    prior = known_mixture(covariances(4, size, generator), weights(4, generator), shape=shape, structure=structure)
    obs = QuantizedPilots.from_sequence(pilot_sequence(num_pilots), size, bits, channel_shape=shape, dither_power=0.05)
    _, r = observed(prior, obs, 0.2, 60, generator)
    fast = BussgangGMM(prior, obs, method=method)
    assert isinstance(fast._bank(0.2, torch.complex128), CirculantBank)
    dense = BussgangGMM(prior, obs, method=method, fast=False)
    assert_same(fast(r, 0.2), dense(r, 0.2))
    assert_same((fast.posterior(r, 0.2),), (dense.posterior(r, 0.2),))


@pytest.mark.parametrize("method", ["white", "scaled"])
@pytest.mark.parametrize("num_bits", [1, 2, "mixed", math.inf])
@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_woodbury_path_is_the_dense_path(
    noise: str, num_bits: Any, method: str, known_mixture: Any, generator: torch.Generator
) -> None:
    bits = [1, 2, 3, 4] * 2 if num_bits == "mixed" else num_bits
    prior = known_mixture(covariances(4, 8, generator), weights(4, generator), num_factors=2, noise=noise)
    obs = identity(8, bits)
    _, r = observed(prior, obs, 0.2, 60, generator)
    fast = BussgangMFA(prior, obs, method=method)
    assert isinstance(fast._bank(0.2, torch.complex128), WoodburyBank)
    assert_same(fast(r, 0.2), BussgangMFA(prior, obs, method=method, fast=False)(r, 0.2))


@pytest.mark.parametrize("no", [1e-6, 0.0])
def test_fast_paths_are_precise_without_noise(no: float, known_mixture: Any, generator: torch.Generator) -> None:
    cov = covariances(3, 8, generator, rank=1, rest=1e-9)
    circulant = known_mixture(cov, structure="circulant")
    pilots = QuantizedPilots.from_sequence(pilot_sequence(2), 8, math.inf)
    fast = BussgangGMM(circulant, pilots)
    assert fast._bank(no, torch.complex128).forms is None  # whitened, since forms would cancel
    thin = known_mixture(cov, num_factors=2)
    mixed = BussgangMFA(thin, identity(8, math.inf))
    assert isinstance(mixed._bank(no, torch.complex128), DenseBank)
    for est, prior in ((fast, circulant), (mixed, thin)):
        h, r = observed(prior, est.obs, no, 30, generator)
        dense = BussgangMixture(prior, est.obs, fast=False)(r, no)
        # Systems of condition 1e9 to 1e12, each solved to its rounding.
        torch.testing.assert_close(est(r, no).h_hat, dense.h_hat, rtol=0, atol=1e-6)
        assert float((est(r, no).h_hat - h).abs().square().mean()) < 1.2 * no + 1e-9


def test_fast_paths_are_not_taken_where_they_do_not_hold(known_mixture: Any, generator: torch.Generator) -> None:
    circulant = known_mixture(covariances(2, 4, generator), structure="circulant")
    thin = known_mixture(covariances(2, 4, generator), num_factors=1)
    unequal = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.complex128))
    for prior, obs in (
        (circulant, QuantizedPilots(unequal, 1)),  # antennas that are not alike
        (circulant, identity(4, [1, 2, 1, 1])),  # converters that are not alike
        (thin, identity(4, 2)),  # the exact covariance has no low rank
    ):
        _, r = observed(prior, obs, 0.2, 10, generator)
        est = BussgangMixture(prior, obs)
        assert isinstance(est._bank(0.2, torch.complex128), DenseBank)
        h_hat, err_var, _ = by_the_book(prior, obs, r, 0.2)
        assert_same(est(r, 0.2), (h_hat, err_var))


# -- Gates: what is left out. --


def test_top_takes_so_many_or_so_much(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(5, 4, generator), weights(5, generator))
    obs = identity(4, 1)
    _, r = observed(prior, obs, 1.0, 40, generator)
    _, _, posterior = by_the_book(prior, obs, r, 1.0)
    filters = torch.stack([BussgangLMMSE(obs, cov)(r, 1.0).h_hat for cov in prior.covariances()], 1)
    ranked, order = posterior.sort(-1, descending=True)
    for top in (1, 2, 0.6, 0.95, 1.0, 99):
        before = torch.arange(5).expand_as(ranked) if isinstance(top, int) else ranked.cumsum(-1) - ranked
        kept = before < top
        share = torch.zeros_like(posterior).scatter(1, order, ranked * kept)
        share = share / share.sum(-1, keepdim=True)
        found = BussgangGMM(prior, obs, top=top)(r, 1.0).h_hat
        torch.testing.assert_close(found, (share[..., None] * filters).sum(1), **SAME)
    assert_same(BussgangGMM(prior, obs, top=1.0)(r, 1.0), BussgangGMM(prior, obs)(r, 1.0))


@pytest.mark.parametrize("no", [3.0, 0.05])  # many components count, or few: they are applied in two ways
def test_single_precision_leaves_out_what_does_not_count(no: float, known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(20, 8, generator), weights(20, generator))
    obs = identity(8, 2)
    _, r = observed(prior, obs, no, 500, generator)
    est = BussgangGMM(prior, obs)
    found, want = est(r.to(torch.complex64), no), est(r, no)
    # At most 20 x 1e-5 of posterior mass is left out, and components lie about one root mean square apart; forms are
    # rounded at 1e-4 at most.
    torch.testing.assert_close(found.h_hat.to(torch.complex128), want.h_hat, rtol=0, atol=4e-4)
    torch.testing.assert_close(found.err_var.double(), want.err_var, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("num_bits", [1, 2, math.inf])
def test_single_precision_makes_the_same_error(num_bits: float, known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(8, 16, generator), weights(8, generator))
    obs = identity(16, num_bits)
    est = BussgangGMM(prior, obs)
    for snr_db in (-10, 10, 20):
        no = 10 ** (-snr_db / 10)
        h, r = observed(prior, obs, no, 200, generator)
        single, double = (float((est(x, no).h_hat - h).abs().square().mean()) for x in (r.to(torch.complex64), r))
        assert single == pytest.approx(double, rel=5e-3)  # the reference's choice


def test_nearly_noiseless_pilots_are_estimated_in_enough_precision(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(3, 6, generator, rest=1e-10), weights(3, generator))
    obs = identity(6, math.inf)
    est = BussgangGMM(prior, obs)
    for no in (1e-3, 1e-6, 1e-9, 0.0):
        h, r = observed(prior, obs, no, 50, generator)
        for dtype in (torch.complex64, torch.complex128):
            result = est(r.to(dtype), no)
            assert bool(torch.isfinite(result.h_hat).all()) and bool((result.err_var >= 0).all())
            # The pilots themselves are good to no, to its floor or to their rounding: LMMSE is never much worse.
            assert float((result.h_hat - h).abs().square().mean()) < 1.2 * no + 1e-12
    assert est._bank(0.1, torch.complex64).forms.dtype == torch.float32
    assert est._bank(1e-5, torch.complex64).forms.dtype == torch.float64
    assert est._bank(1e-9, torch.complex128).forms is None


def test_huge_observations_stay_finite(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(3, 4, generator))
    r = torch.full((2, 4), 1e25 + 1e25j, dtype=torch.complex64)
    result = BussgangGMM(prior, identity(4, math.inf))(r, 0.1)
    assert bool(torch.isfinite(result.h_hat).all())


# -- Symmetries and batches. --


def test_symmetries(known_mixture: Any, generator: torch.Generator) -> None:
    cov, share = covariances(4, 5, generator), weights(4, generator)
    matrix = torch.randn(6, 5, dtype=torch.complex128, generator=generator)
    obs, mirrored = QuantizedPilots(matrix, 1), QuantizedPilots(matrix.conj().resolve_conj(), 1)
    prior, order = known_mixture(cov, share), torch.tensor([2, 0, 3, 1])
    _, r = observed(prior, obs, 0.2, 30, generator)
    want = BussgangGMM(prior, obs)(r, 0.2)
    assert_same(BussgangGMM(known_mixture(cov[order], share[order]), obs)(r, 0.2), want)
    turned = BussgangGMM(prior, obs)(1j * r, 0.2)
    assert_same((turned.h_hat, turned.err_var), (1j * want.h_hat, want.err_var))
    other = BussgangGMM(known_mixture(cov.conj().resolve_conj(), share), mirrored)(r.conj().resolve_conj(), 0.2)
    assert_same((other.h_hat.conj().resolve_conj(), other.err_var), want)


def test_batches_and_noise_variances_mix(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(4, 5, generator), weights(4, generator))
    obs = identity(5, 2)
    no = torch.tensor([0.1, 1.0, 0.1, 0.01, 0.0], dtype=torch.float64)
    h = prior.sample(15, generator=generator, dtype=torch.complex128).reshape(5, 3, 5)
    r = obs.observe(h, no, generator=generator)
    est = BussgangGMM(prior, obs)
    together, posterior = est(r, no), est.posterior(r, no)
    assert together.h_hat.shape == (5, 3, 5) and posterior.shape == (5, 3, 4)
    for i in range(5):
        for j in range(3):
            one = est(r[i, j], float(no[i]))
            assert_same((one.h_hat, one.err_var), (together.h_hat[i, j], together.err_var[i, j]))
            torch.testing.assert_close(est.posterior(r[i, j], no[i]), posterior[i, j], **SAME)


def test_pieces_of_a_large_batch_fit_together(
    known_mixture: Any, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = known_mixture(covariances(6, 4, generator), weights(6, generator))
    obs = identity(4, 2)
    _, r = observed(prior, obs, 0.5, 333, generator)
    want = BussgangGMM(prior, obs)(r, 0.5)
    monkeypatch.setattr("wichan.estimators.bussgang_mixture._CHUNK_BYTES", 2**12)
    monkeypatch.setattr("wichan.estimators.bussgang_filters._CHUNK_BYTES", 2**12)
    monkeypatch.setattr("wichan.estimators.bussgang_mixture._COMMON", 0)
    assert_same(BussgangGMM(prior, obs)(r, 0.5), want)
    monkeypatch.setattr("wichan.estimators.bussgang_mixture._COMMON", 10**6)
    assert_same(BussgangGMM(prior, obs)(r, 0.5), want)


@pytest.mark.parametrize("path", ["dense", "circulant", "circulant-pilots", "woodbury"])
def test_gradients_follow_differences(path: str, known_mixture: Any, generator: torch.Generator) -> None:
    structure = "circulant" if path.startswith("circulant") else "full"
    options = {"num_factors": 1} if path == "woodbury" else {"structure": structure}
    prior = known_mixture(covariances(3, 4, generator), **options)
    pilots = pilot_sequence(2 if path == "circulant-pilots" else 1)
    est = BussgangMixture(prior, QuantizedPilots.from_sequence(pilots, 4, math.inf), method="white")
    r = torch.randn(3, 4 * len(pilots), dtype=torch.complex128, generator=generator).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: tuple(est(x, 0.5)), (r,), eps=1e-7, atol=1e-5, rtol=1e-4)


# -- Is the error the one that is made? --


@pytest.mark.parametrize(("num_bits", "slack"), [(math.inf, 0.07), (5, 0.07), (1, 0.2)])
def test_error_is_calibrated_by_decile(num_bits: float, slack: float, known_mixture: Any, generator: torch.Generator) -> None:
    # Exact without quantisation (the contract's 7 %). Behind one bit the posterior is that of a Gaussian surrogate.
    prior = known_mixture(covariances(5, 6, generator), weights(5, generator))
    obs = identity(6, num_bits)
    h, r = observed(prior, obs, 0.1, 20_000, generator)
    deciles = calibration_by_decile(*BussgangGMM(prior, obs)(r, 0.1), h)
    assert float((deciles - 1).abs().max()) < slack


def test_mixture_beats_one_covariance_and_least_squares(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(6, 12, generator, rank=2), weights(6, generator))
    pooled = (prior.weights[:, None, None] * prior.covariances()).sum(0)
    for num_bits in (1, 2, math.inf):
        obs = identity(12, num_bits)
        h, r = observed(prior, obs, 0.1, 2000, generator)
        ests = (BussgangGMM(prior, obs), BussgangLMMSE(obs, pooled), BLS(obs, pooled))
        errors = [float((est(r, 0.1).h_hat - h).abs().square().mean()) for est in ests]
        assert errors[0] < 0.9 * errors[1] < errors[2]  # they lie apart by tens of per cent


# -- Storage of filters. --


def test_filters_are_kept_and_forgotten(known_mixture: Any, generator: torch.Generator) -> None:
    prior = known_mixture(covariances(2, 4, generator))
    obs = identity(4, 2)
    est = BussgangGMM(prior, obs)
    _, r = observed(prior, obs, 0.1, 5, generator)
    first = est(r, 0.1)
    assert est._bank(0.1, torch.complex128) is est._bank(0.1, torch.complex128)
    est(r, 0.2)
    assert len(est._cache) == 2 and len(copy.deepcopy(est)._cache) == 0
    # A prior that is fitted again has other filters.
    prior._m_step_from_covariances(covariances(2, 4, generator), torch.ones(2, dtype=torch.float64))
    again = est(r, 0.1)
    assert not torch.allclose(again.h_hat, first.h_hat)
    assert_same(again, BussgangGMM(prior, obs)(r, 0.1))
    est._cache.limit = 1  # bytes: only the last is kept
    for no in (0.1, 0.2, 0.3):
        est(r, no)
    assert len(est._cache) == 1


# -- Bad input. --


def test_priors_that_do_not_fit_are_refused(known_mixture: Any, generator: torch.Generator) -> None:
    gmm, obs = known_mixture(covariances(2, 4, generator)), identity(4, 1)
    with pytest.raises(InvalidTypeError, match="MixturePrior"):
        BussgangGMM(torch.eye(4), obs)
    with pytest.raises(InvalidTypeError, match="QuantizedPilots"):
        BussgangGMM(gmm, torch.eye(4))
    with pytest.raises(InvalidTypeError, match="kind 'gmm'"):
        BussgangMFA(gmm, obs)
    with pytest.raises(ShapeError, match="channels of shape"):
        BussgangGMM(gmm, identity(5, 1))
    with pytest.raises(WichanError, match="not fitted"):
        BussgangGMM(GMM(2), obs)
    with pytest.raises(InvalidValueError, match="method='exakt'"):
        BussgangGMM(gmm, obs, method="exakt")


@pytest.mark.parametrize(
    ("top", "error"),
    [
        (0, InvalidValueError),
        (1.5, InvalidValueError),
        (0.0, InvalidValueError),
        ("1", InvalidTypeError),
        (True, InvalidTypeError),
    ],
    ids=["none", "above-one", "zero", "text", "bool"],
)
def test_tops_that_make_no_sense_are_refused(top: Any, error: type, known_mixture: Any, generator: torch.Generator) -> None:
    with pytest.raises(error, match="top"):
        BussgangGMM(known_mixture(covariances(2, 4, generator)), identity(4, 1), top=top)


def test_observations_that_do_not_fit_are_refused(known_mixture: Any, generator: torch.Generator) -> None:
    est = BussgangGMM(known_mixture(covariances(2, 4, generator)), identity(4, 1))
    good = torch.ones(3, 4, dtype=torch.complex64)
    for r, no, error in (
        (good[:, :3], 0.1, ShapeError),
        (good.real, 0.1, InvalidTypeError),
        (good.clone().fill_(math.nan), 0.1, InvalidValueError),
        (good, -1.0, InvalidValueError),
        (good, torch.ones(4), ShapeError),
    ):
        for call in (est, est.posterior):
            with pytest.raises(error) as caught:
                call(r, no)
            assert "\n" not in str(caught.value)


def test_empty_batches_give_empty_estimates(known_mixture: Any, generator: torch.Generator) -> None:
    est = BussgangGMM(known_mixture(covariances(2, 4, generator)), identity(4, 1))
    r = torch.zeros(2, 0, 4, dtype=torch.complex64)
    for no in (0.1, torch.zeros(2, 0)):
        assert est(r, no).h_hat.shape == (2, 0, 4)
        assert est.posterior(r, no).shape == (2, 0, 2)
