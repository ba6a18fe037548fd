"""scikit-learn's GaussianMixture as an independent implementation: a circular complex Gaussian is a real one of twice the size.

With C = A + jB, the stacked [Re h, Im h] has covariance [[A, -B], [B, A]] / 2. Channels rotated by 0, 90, 180 and 270 degrees
have means of zero and such a covariance in every weighted sample, so one EM iteration of scikit-learn, which knows neither of
circularity nor of zero means, must agree with ours.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from wichan.priors import GMM
from wichan.priors.estep import DenseEStep
from wichan.priors.structure import make_structure

K = 4


def stacked(h: torch.Tensor) -> np.ndarray:
    return torch.cat([h.real, h.imag], dim=-1).numpy()


def stacked_covariance(cov: torch.Tensor) -> np.ndarray:
    a, b = cov.real, cov.imag
    return (torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2) / 2).numpy()


def reference(prior: GMM) -> GaussianMixture:
    """scikit-learn's mixture with the parameters of a prior."""
    covs = stacked_covariance(prior.covariances())
    mixture = GaussianMixture(K, covariance_type="full", reg_covar=0.0)
    mixture.weights_ = prior.weights.numpy()
    mixture.means_ = np.zeros((K, 2 * prior.dim))
    mixture.covariances_ = covs
    mixture.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covs))
    return mixture


@pytest.fixture
def channels(generator: torch.Generator) -> torch.Tensor:
    factor = torch.randn(K, 3, 3, generator=generator, dtype=torch.complex128)
    label = torch.randint(K, (300,), generator=generator)
    return (factor[label] @ torch.randn(300, 3, 1, generator=generator, dtype=torch.complex128)).squeeze(-1)


@pytest.mark.parametrize("structure", ["full", "circulant", "toeplitz"])
def test_densities_and_responsibilities(structure: str, channels: torch.Tensor) -> None:
    prior = GMM(K, structure, max_iter=4).fit(channels)
    mixture = reference(prior)
    np.testing.assert_allclose(prior.responsibilities(channels).numpy(), mixture.predict_proba(stacked(channels)), atol=1e-9)
    assert prior.log_likelihood(channels) == pytest.approx(mixture.score(stacked(channels)), abs=1e-9)
    joint = prior.log_prob(channels).logsumexp(-1).numpy()
    np.testing.assert_allclose(joint, mixture.score_samples(stacked(channels)), atol=1e-9)  # conditions below 1e4


def test_one_iteration(channels: torch.Tensor) -> None:
    prior = GMM(K, max_iter=2).fit(channels)
    start = reference(prior)
    rotated = np.concatenate([stacked(channels * 1j**n) for n in range(4)])
    mixture = GaussianMixture(
        K,
        reg_covar=0.0,
        max_iter=1,
        tol=0.0,
        weights_init=start.weights_,
        means_init=start.means_,
        precisions_init=np.linalg.inv(start.covariances_),
    )
    with pytest.warns(UserWarning, match="did not converge"):
        mixture.fit(rotated)
    step = DenseEStep((3,))
    step.update(prior._form().components(prior.values), prior.log_weights)
    moments = step.moments(step.digest(channels))
    components = make_structure("full", (3,)).update(moments.second(), None, 1e-12)
    np.testing.assert_allclose(moments.counts / moments.num, mixture.weights_, atol=1e-9)
    np.testing.assert_allclose(mixture.means_, 0.0, atol=1e-12)
    # scikit-learn inverts precisions on the way in and has its own constant of 10 eps in the weights.
    np.testing.assert_allclose(stacked_covariance(components.dense()), mixture.covariances_, rtol=1e-7, atol=1e-9)
    assert moments.total / moments.num == pytest.approx(mixture.lower_bound_, abs=1e-9)


def test_many_iterations_from_one_start(channels: torch.Tensor) -> None:
    # Seeds and starts differ, so start both from the parameters of a short fit and let them run.
    prior = GMM(K, max_iter=1, tol=0.0).fit(channels)
    start = reference(prior)
    rotated = np.concatenate([stacked(channels * 1j**n) for n in range(4)])
    mixture = GaussianMixture(
        K,
        reg_covar=0.0,
        max_iter=10,
        tol=0.0,
        weights_init=start.weights_,
        means_init=start.means_,
        precisions_init=np.linalg.inv(start.covariances_),
    )
    with pytest.warns(UserWarning, match="did not converge"):
        mixture.fit(rotated)
    # Our EM from its own start: the same parameters after one more iteration each.
    longer = GMM(K, max_iter=11, tol=0.0).fit(channels)
    assert longer.history[-1] == pytest.approx(mixture.lower_bound_, abs=1e-6)
    np.testing.assert_allclose(stacked_covariance(longer.covariances()), mixture.covariances_, rtol=1e-5, atol=1e-6)


def test_one_antenna_is_a_spherical_mixture(generator: torch.Generator) -> None:
    h = torch.randn(500, 1, generator=generator, dtype=torch.complex128)
    h = h * torch.tensor([0.1, 3.0], dtype=torch.float64)[torch.randint(2, (500, 1), generator=generator)]
    prior = GMM(2, tol=1e-9, max_iter=500).fit(h)
    mixture = GaussianMixture(2, covariance_type="spherical", reg_covar=0.0, tol=1e-9, max_iter=500)
    rotated = np.concatenate([stacked(h * 1j**n) for n in range(4)])
    mixture = GaussianMixture(
        2, covariance_type="spherical", tol=1e-9, max_iter=500, reg_covar=0.0,
        means_init=np.zeros((2, 2)), precisions_init=np.array([100.0, 0.1]), weights_init=np.array([0.5, 0.5]),
    ).fit(rotated)  # fmt: skip
    powers = prior.covariances().real.flatten().sort().values.numpy()
    # Both stop 1e-9 nat short of the same maximum, where the likelihood is flat to second order.
    np.testing.assert_allclose(powers, np.sort(2 * mixture.covariances_), rtol=1e-3)
    assert prior.history[-1] == pytest.approx(mixture.lower_bound_, abs=1e-6)
