"""The corrected ``err_var`` is right in the mean and by decile, on fresh draws and with a wrong noise variance."""

from __future__ import annotations

import functools

import pytest
import torch

from wichan.channels import IRSCascade
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanError
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.kronecker_sbl import KroneckerSBL
from wichan.estimators.sbl_calibration import Calibrated
from wichan.estimators.sparse import SparseEstimate
from wichan.observations import IRSTraining
from wichan.testing.calibration import calibration_by_decile


def link() -> IRSTraining:
    return IRSTraining(IRSCascade(4, 16, 8, 2, angles="uniform"), 4, 6)


def draws(obs: IRSTraining, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels of unit mean power, and noise between 0 and 25 dB."""
    h = obs.channel(obs.irs.sample(count, generator=generator)).to(torch.complex128) / 4
    snr_db = 25 * torch.rand(count, generator=generator, dtype=torch.float64)
    return h, obs.signal_power * 10 ** (-snr_db / 10)


@functools.cache
def fitted(m_step: str, spread_db: float = 0.0) -> tuple[IRSTraining, Calibrated]:
    """Fitted on 160 draws; the noise that the estimator is told is wrong by up to ``spread_db`` either way."""
    obs, g = link(), torch.Generator().manual_seed(11)
    estimator = Calibrated(KroneckerSBL(obs.dictionary(10), m_step, max_iter=60, tol=1e-3), obs)
    h, no = draws(obs, 160, g)
    told = no * 10 ** (spread_db / 10 * (2 * torch.rand(len(no), generator=g, dtype=torch.float64) - 1))
    return obs, estimator.fit(h, no, told=told, generator=g)


def deciles(estimator: Estimator, obs: IRSTraining, mismatch: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(12)
    h, no = draws(obs, 160, g)
    found = estimator(obs.observe(h, no, generator=g), mismatch * no)
    return calibration_by_decile(found.h_hat, found.err_var, h)


@pytest.mark.slow
def test_deciles_are_near_one_on_fresh_draws() -> None:
    obs, estimator = fitted("mm")
    before, after = deciles(estimator.estimator, obs), deciles(estimator, obs)
    # Before 1.1 to 1.4, after 0.82 to 1.05 with 256 draws. A decile's mean rests on the entries of some 20 to 160 draws,
    # whose errors move together: deviation up to 0.15, three of which.
    assert float(after.log().abs().max()) < float(before.log().abs().max())
    assert bool(((after > 0.6) & (after < 1.5)).all())


@pytest.mark.slow
def test_a_wrong_noise_variance_is_seen_in_the_residual() -> None:
    obs, estimator = fitted("svd", 4.0)
    # Before: 1.5 to 23. After, with 192 draws: 0.70 to 0.96, 0.72 to 1.10 and 0.93 to 1.50 for half, true and twice the noise.
    for mismatch in (0.5, 1.0, 2.0):
        before, after = deciles(estimator.estimator, obs, mismatch), deciles(estimator, obs, mismatch)
        assert float(after.log().abs().max()) < float(before.log().abs().max())
        assert bool(((after > 0.5) & (after < 2.0)).all())


class Scaled(Estimator):
    """Knows the channel up to an error of variance 1, claims ``claim`` of it, times a pattern."""

    def __init__(self, obs: IRSTraining, claim: float) -> None:
        super().__init__()
        self.obs, self.claim, self.h = obs, claim, torch.empty(0)

    def forward(self, y: torch.Tensor, no: object, **conditions: object) -> Estimate:
        h_hat = torch.zeros(*y.shape[:-1], *self.obs.channel_shape, dtype=y.dtype)
        found = torch.full_like(h_hat.real, self.claim)
        zero = torch.zeros(y.shape[:-1], dtype=torch.int64)
        return SparseEstimate(h_hat, found, num_iterations=zero + 7)


def test_a_constant_claim_becomes_the_true_variance(generator: torch.Generator) -> None:
    obs = link()
    h = torch.randn(64, *obs.channel_shape, generator=generator, dtype=torch.complex128)
    estimator = Calibrated(Scaled(obs, 0.1), obs).fit(h, 1e-2, generator=generator)
    found = estimator(obs.observe(h, 1e-2, generator=generator), 1e-2)
    # The fit makes the mean ratio over the instances 1 (fresh noise moves the features by less than 1 %).
    assert float((h.abs().square().flatten(1).sum(1) / found.err_var.flatten(1).sum(1)).mean()) == pytest.approx(1.0, abs=0.02)
    assert isinstance(found, SparseEstimate) and found.num_iterations.tolist() == [7] * 64
    assert len(found) == 2


def test_the_state_is_saved_and_far_features_are_held(generator: torch.Generator) -> None:
    obs = link()
    h = torch.randn(32, *obs.channel_shape, generator=generator, dtype=torch.complex128)
    first = Calibrated(Scaled(obs, 0.1), obs).fit(h, 1e-2, generator=generator)
    second = Calibrated(Scaled(obs, 0.1), obs)
    second.load_state_dict(first.state_dict())
    y = obs.observe(h, 1e-2, generator=generator)
    assert torch.equal(first(y, 1e-2).err_var, second(y, 1e-2).err_var)
    loud, louder = (first(scale * y, 1e-2).err_var for scale in (1e3, 1e6))
    assert torch.allclose(loud, louder)  # both beyond what the fit has seen
    assert bool(torch.isfinite(first(0 * y, 0.0).err_var).all())


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    obs = link()
    h = torch.randn(32, *obs.channel_shape, generator=generator, dtype=torch.complex128)
    with pytest.raises(InvalidTypeError, match="estimator must be an Estimator"):
        Calibrated(object(), obs)
    with pytest.raises(InvalidTypeError, match="obs must be a linear observation"):
        Calibrated(Scaled(obs, 1.0), object())
    estimator = Calibrated(Scaled(obs, 1.0), obs)
    with pytest.raises(WichanError, match="has not been fitted"):
        estimator(obs.noiseless(h), 1.0)
    with pytest.raises(ShapeError, match="n >= 16"):
        estimator.fit(h[:8], 1.0, generator=generator)
    with pytest.raises(InvalidValueError, match="NaN"):
        estimator.fit(h * float("nan"), 1.0, generator=generator)
    with pytest.raises(InvalidTypeError, match="generator"):
        estimator.fit(h, 1.0, generator=0)
    with pytest.raises(InvalidValueError, match="claims no error"):
        Calibrated(Scaled(obs, 0.0), obs).fit(h, 1.0, generator=generator)
