"""The same prior and observations in other people's packages: gmm-estimator without quantisation, qce with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wichan.channels import SpatialGaussian
from wichan.estimators import BussgangGMM, BussgangLMMSE
from wichan.observations import QuantizedPilots, pilot_sequence

pytestmark = pytest.mark.peers
SIZE, NO = 8, 0.1


@pytest.fixture
def prior(known_mixture: Any) -> Any:
    angles = torch.tensor([[-1.0], [-0.4], [0.1], [0.5], [1.2]], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=torch.float64)
    loaded = SpatialGaussian(SIZE).conditional_covariance(angles) + 1e-3 * torch.eye(SIZE, dtype=torch.complex128)
    return known_mixture(loaded, weights)


def handed_over(prior: Any, kind: type) -> Any:
    """The fitted prior as an object of the peer."""
    peer = kind(n_components=len(prior.weights), zero_mean=True)
    peer.weights_ = prior.weights.numpy()
    peer.means_ = np.zeros((len(prior.weights), SIZE), complex)
    peer.covariances_ = prior.covariances().numpy()
    peer.n_features_in_ = SIZE
    return peer


@pytest.mark.parametrize("top", [None, 1, 2, 0.9])
def test_unquantised_mixture_is_that_of_gmm_estimator(top: Any, prior: Any, generator: torch.Generator) -> None:
    from gmm_estimator import GmmEstimator

    obs = QuantizedPilots.from_sequence(pilot_sequence(2), SIZE, math.inf)
    r = obs.observe(prior.sample(40, generator=generator, dtype=torch.complex128), NO, generator=generator)
    want = handed_over(prior, GmmEstimator).estimate(
        r.numpy(), NO * np.eye(2 * SIZE), obs.matrix().numpy(), n_components_or_probability=1.0 if top is None else top
    )
    found = BussgangGMM(prior, obs, top=top)(r, NO).h_hat
    # Its pseudo-inverse drops singular values below 1e-15; both are double precision.
    torch.testing.assert_close(found, torch.from_numpy(want), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_quantised_mixture_is_that_of_qce(num_bits: int, prior: Any, generator: torch.Generator) -> None:
    from qce.estimators import BussgangGmmEstimator
    from qce.quantizers import uniform_midrise_quantizer, uniform_quantization_step

    obs = QuantizedPilots(torch.eye(SIZE, dtype=torch.complex128), num_bits)
    h = prior.sample(400, generator=generator, dtype=torch.complex128)
    r = obs.observe(h, NO, generator=generator)
    step = float(uniform_quantization_step(10.0, num_bits))
    want = handed_over(prior, BussgangGmmEstimator).estimate_quantized(
        r.numpy(),
        NO * np.eye(SIZE),
        n_bits=num_bits,
        quantizer=uniform_midrise_quantizer(step, num_bits) if num_bits > 1 else None,
        snr_db=10.0,
    )
    # One bit: the arcsine law. More: distortion that is white over the converters.
    est = BussgangGMM(prior, obs, method="exact" if num_bits == 1 else "white")
    found = est(r, NO).h_hat
    # Its steps are tables of four digits.
    torch.testing.assert_close(found, torch.from_numpy(want), rtol=0, atol=5e-3)
    made, theirs = (float((x - h).abs().square().mean()) for x in (found, torch.from_numpy(want)))
    assert made == pytest.approx(theirs, rel=1e-3)


def test_one_bit_blmmse_is_that_of_qce(prior: Any, generator: torch.Generator) -> None:
    from qce.estimators import BussgangLMMSEEstimator
    from qce.quantizers import bussgang_matrix, quantized_covariance

    pooled = (prior.weights[:, None, None] * prior.covariances()).sum(0)
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), SIZE, 1)
    r = obs.observe(prior.sample(40, generator=generator, dtype=torch.complex128), NO, generator=generator)
    cov_y = obs.input_covariance(pooled, NO).numpy()
    peer = BussgangLMMSEEstimator.from_bussgang(
        obs.matrix().numpy(), pooled.numpy(), bussgang_matrix(cov_y, n_bits=1), quantized_covariance(cov_y, n_bits=1)
    )
    found = BussgangLMMSE(obs, pooled)(r, NO).h_hat
    torch.testing.assert_close(found, torch.from_numpy(peer.estimate(r.numpy())), rtol=1e-8, atol=1e-9)
