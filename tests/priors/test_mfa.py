"""Mixtures of factor analysers: closed forms, other implementations, monotone EM, and the mixture with full covariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.channels.spatial import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError, WichanWarning
from wichan.estimators.bussgang_mixture import BussgangMixture
from wichan.observations import QuantizedPilots
from wichan.priors import GMM, MFA
from wichan.priors.mfa_em import FactorForm, factor_step, pack, unpack
from wichan.priors.structure import objective
from wichan.random import complex_normal


def factor_channels(
    generator: torch.Generator, num: int, dim: int, factors: int, components: int = 1, noise: float = 0.05
) -> torch.Tensor:
    """Draws of a mixture of factor analysers with random loadings and unequal noise, complex128."""
    loading = complex_normal((components, dim, factors), 1 / factors, generator=generator, dtype=torch.complex128)
    psi = noise * (0.5 + torch.rand(components, dim, generator=generator, dtype=torch.float64))
    which = torch.arange(num) % components
    z = complex_normal((num, factors, 1), generator=generator, dtype=torch.complex128)
    n = complex_normal((num, dim), generator=generator, dtype=torch.complex128)
    return (loading[which] @ z)[..., 0] + psi[which].sqrt() * n


def second_moment(h: torch.Tensor) -> torch.Tensor:
    return (h.mT @ h.conj() / len(h))[None]


def rotated(h: torch.Tensor) -> np.ndarray:
    """Real and imaginary parts of h, jh, -h, -jh: their sample covariance is that of a circular vector, their mean zero."""
    turns = torch.cat([h * 1j**n for n in range(4)])
    return torch.cat([turns.real, turns.imag], dim=1).numpy()


# -- The M-step. --


def test_isotropic_m_step_is_the_closed_form(generator: torch.Generator) -> None:
    h = factor_channels(generator, 300, 7, 2)
    second = second_moment(h)
    loading, noise = unpack(FactorForm((7,), 3, "isotropic").update(second, None, 1e-9).values)
    # Tipping and Bishop with NumPy: W = U_q (L_q - s I)^(1/2), s the mean of the other eigenvalues.
    values, vectors = np.linalg.eigh(second[0].numpy())
    s = values[:4].mean()
    u = vectors[:, 4:]
    want = u @ np.diag(values[4:] - s) @ u.conj().T + s * np.eye(7)
    got = (loading @ loading.mH)[0].numpy() + np.diag(noise[0].numpy())
    np.testing.assert_allclose(got, want, atol=1e-13)  # rounding of an eigendecomposition


@pytest.mark.parametrize("rank", [2, 6])
def test_isotropic_m_step_is_the_maximum_above_the_floor(rank: int, generator: torch.Generator) -> None:
    """No other covariance of the form with eigenvalues above the floor does better; at rank 2 < L the floor is active."""
    dim, factors, floor = 6, 3, 1e-2
    x = complex_normal((rank, dim), generator=generator, dtype=torch.complex128)
    second = x.mT @ x.conj() / rank
    form = FactorForm((dim,), factors, "isotropic")
    best = form.update(second[None], None, floor)
    assert float(best.powers.min()) >= floor * (1 - 1e-12)
    top = float(objective(best, second[None]))
    loading, noise = unpack(best.values)
    for _ in range(50):
        step = 10 ** float(torch.empty(1).uniform_(-4, -1, generator=generator))
        moved = loading + step * complex_normal(loading.shape, generator=generator, dtype=torch.complex128)
        psi = (noise * torch.exp(step * torch.randn(1, 1, generator=generator, dtype=torch.float64))).clamp_min(floor)
        assert float(objective(form.components(pack(moved, psi)), second[None])) <= top + 1e-9


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_factor_step_never_lowers_the_likelihood(rank: int, generator: torch.Generator) -> None:
    dim, factors, floor = 8, 3, 1e-4
    x = complex_normal((4, rank, dim), generator=generator, dtype=torch.complex128)
    second = x.mT @ x.conj() / rank
    form = FactorForm((dim,), factors, "diagonal")
    loading = complex_normal((4, dim, factors), generator=generator, dtype=torch.complex128)
    noise = torch.rand(4, dim, generator=generator, dtype=torch.float64) + floor
    before = objective(form.components(pack(loading, noise)), second)
    for _ in range(60):
        loading, noise = factor_step(second, loading, noise, floor)
        after = objective(form.components(pack(loading, noise)), second)
        assert bool((after >= before - 1e-8 * before.abs()).all())  # rounding with eigenvalues over four decades
        before = after
    assert float(noise.min()) >= floor


def test_factor_step_is_that_of_the_samples(generator: torch.Generator) -> None:
    """Against the update written with every sample, as papers have it."""
    h = factor_channels(generator, 50, 5, 2)
    loading = complex_normal((5, 2), generator=generator, dtype=torch.complex128)
    noise = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    cov = loading @ loading.mH + torch.diag(noise).to(torch.complex128)
    beta = loading.mH @ torch.linalg.inv(cov)
    z = h @ beta.mT
    moment = len(h) * (torch.eye(2) - beta @ loading) + z.mT @ z.conj()
    want = (h.mT @ z.conj()) @ torch.linalg.inv(moment)
    left = ((h - z @ want.mT) * h.conj()).mean(0).real
    got, psi = factor_step(second_moment(h), loading[None], noise[None], 1e-9)
    torch.testing.assert_close(got[0], want, atol=1e-11, rtol=0)  # rounding of two inverses
    torch.testing.assert_close(psi[0], left, atol=1e-11, rtol=0)


# -- One component: other people's factor analysis. --


def test_one_isotropic_component_is_scikit_learns_ppca(generator: torch.Generator) -> None:
    from sklearn.decomposition import PCA

    h = factor_channels(generator, 200, 5, 2)
    prior = MFA(1, 2, max_iter=2).fit(h)
    real = rotated(h)
    pca = PCA(n_components=4, svd_solver="full").fit(real)
    # Its covariance divides by n - 1, ours by n. Half of the complex covariance is that of a real part.
    theirs = pca.get_covariance() * (len(real) - 1) / len(real)
    c = prior.covariances()[0]
    ours = torch.cat([torch.cat([c.real, -c.imag], 1), torch.cat([c.imag, c.real], 1)]) / 2
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)  # two eigendecompositions of 10 x 10


def test_one_diagonal_component_is_scikit_learns_factor_analysis(generator: torch.Generator) -> None:
    from sklearn.decomposition import FactorAnalysis

    h = factor_channels(generator, 400, 6, 1, noise=0.3)
    prior = MFA(1, 1, noise="diagonal", max_iter=500, tol=1e-9).fit(h)
    real = rotated(h)
    theirs = FactorAnalysis(n_components=2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(real)
    # The density of [Re h, Im h] is that of h; both ascents end within about 1e-6 of the same maximum.
    assert prior.log_likelihood(h) == pytest.approx(theirs.score(real), abs=1e-5)
    np.testing.assert_allclose(np.tile(prior.factors()[1][0].numpy() / 2, 2), theirs.noise_variance_, atol=2e-4)


# -- Mixtures. --


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_likelihood_never_falls(noise: str, generator: torch.Generator) -> None:
    h = factor_channels(generator, 1500, 10, 2, components=4)
    prior = MFA(6, 3, noise=noise, max_iter=60, tol=0.0).fit(h)
    history = np.array(prior.history)
    assert len(history) == 60
    assert (np.diff(history) >= -1e-9).all()  # rounding of a mean of 1500 log-densities
    assert history[-1] > history[0] + 0.1
    assert prior.log_likelihood(h) == pytest.approx(history[-1], abs=0.05)


def test_all_but_one_factor_is_a_full_covariance(generator: torch.Generator) -> None:
    """Isotropic noise and N - 1 factors leave nothing out: the same EM as that of full covariances."""
    h = factor_channels(generator, 600, 6, 2, components=3)
    factors = MFA(3, 5, max_iter=20, tol=0.0).fit(h)
    full = GMM(3, max_iter=20, tol=0.0).fit(h)
    # The same arithmetic up to the order of sums; the floor of 1e-6 is far below the noise.
    np.testing.assert_allclose(factors.history, full.history, atol=1e-9)
    torch.testing.assert_close(factors.covariances(), full.covariances(), atol=1e-9, rtol=0)
    torch.testing.assert_close(factors.log_prob(h, 0.1), full.log_prob(h, 0.1), atol=1e-8, rtol=0)


def test_finds_the_factors_that_made_the_channels(generator: torch.Generator) -> None:
    h = factor_channels(generator, 6000, 12, 2, components=2)
    train, test = h[:4000], h[4000:]
    by_noise = {n: MFA(2, 2, noise=n, max_iter=200, tol=1e-7).fit(train) for n in ("isotropic", "diagonal")}
    # Held-out samples: the true model is diagonal, and its density is reached up to the cost of (parameters)/(2 T) nats, 0.013.
    truth = true_log_likelihood(test, train)
    assert by_noise["diagonal"].log_likelihood(test) == pytest.approx(truth, abs=0.05)
    assert by_noise["diagonal"].log_likelihood(test) > by_noise["isotropic"].log_likelihood(test)
    torch.testing.assert_close(by_noise["diagonal"].weights, torch.full((2,), 0.5, dtype=torch.float64), atol=0.01, rtol=0)


def true_log_likelihood(test: torch.Tensor, train: torch.Tensor) -> float:
    """Density of ``test`` with each half's own full covariance, from the known membership of ``train``."""
    joint = []
    for k in range(2):
        cov = second_moment(train[k::2])[0]
        solved = torch.linalg.solve(cov, test.mT).mT
        quadratic = (test.conj() * solved).sum(1).real
        joint.append(math.log(0.5) - quadratic - torch.linalg.slogdet(cov)[1] - 12 * math.log(math.pi))
    return float(torch.logsumexp(torch.stack(joint), 0).mean())


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:EM did not converge:RuntimeWarning")
@pytest.mark.parametrize("isotropic", [True, False], ids=["isotropic", "diagonal"])
def test_as_likely_as_the_public_package(isotropic: bool, generator: torch.Generator) -> None:
    from cplx_mfa import ComplexMFA

    h = factor_channels(generator, 1500, 8, 2, components=3)
    theirs = ComplexMFA(3, 2, ppca=isotropic, zero_mean=True, max_iter=300, tol=1e-8, random_state=1, verbose=False)
    theirs.fit(h.numpy())
    ours = MFA(3, 2, noise="isotropic" if isotropic else "diagonal", max_iter=300, tol=1e-7, num_restarts=2).fit(h)
    # Both climb to a local maximum of the same function: ours may be higher, and lies at most 0.01 nat below.
    gain = ours.history[-1] - theirs.lower_bound_history_[-1] / len(h)
    assert gain > -0.01
    # Their parameters in our density: the two log-likelihoods are the same function (9 significant digits).
    same = MFA(3, 2, noise="diagonal")
    same._install(
        (8,),
        torch.from_numpy(theirs.weights_).log(),
        values=pack(torch.from_numpy(theirs.loadings_), torch.from_numpy(theirs.noise_variances_)),
    )
    final = theirs._calculate_probabilities(h.numpy())[0].mean()
    assert same.log_likelihood(h) == pytest.approx(final, rel=1e-9)


@pytest.mark.slow
def test_errors_of_the_reference_setting(generator: torch.Generator) -> None:
    """Set-up A, one cluster: 32 antennas, 32 components of 8 factors, 30000 channels, 60 iterations, one bit."""
    published = {-10: 0.832, 0: 0.218, 10: 0.183, 20: 0.217}
    h = SpatialGaussian(32).sample(40000, generator=generator).h[..., 0].to(torch.complex128)
    prior = MFA(32, 8, max_iter=60).fit(h[:30000])
    obs = QuantizedPilots(torch.eye(32, dtype=torch.complex128), 1)
    estimator = BussgangMixture(prior, obs)
    for snr_db, want in published.items():
        no = 10 ** (-snr_db / 10)
        r = obs.observe(h[30000:], no, generator=generator)
        error = float((estimator(r, no).h_hat - h[30000:]).abs().square().mean())
        # 6 %: acceptance check 12, for another draw of channels and another start.
        assert error == pytest.approx(want, rel=0.06)


# -- What it holds. --


def test_parts_fit_together(generator: torch.Generator) -> None:
    h = factor_channels(generator, 300, 6, 2).reshape(-1, 2, 3).to(torch.complex64)
    prior = MFA(2, 2, noise="diagonal", max_iter=10).fit(h)
    loading, noise = prior.factors()
    assert loading.shape == (2, 6, 2)
    assert noise.shape == (2, 6)
    assert prior.shape == (2, 3)
    torch.testing.assert_close(prior.covariances(), loading @ loading.mH + torch.diag_embed(noise).to(loading.dtype))
    drawn = prior.sample(20000, generator=generator, dtype=torch.complex128).flatten(1)
    mean = torch.einsum("k,kij->ij", prior.weights.to(torch.complex128), prior.covariances())
    # Standard error of an element of a sample covariance: power 1 over sqrt(20000), 0.007; five of them.
    torch.testing.assert_close(second_moment(drawn)[0], mean, atol=0.035, rtol=0)
    assert prior.spectra() is None


def test_parameters_of_the_reference_setting() -> None:
    prior = MFA.from_config({"num_components": 64, "num_factors": 16, "shape": [64]})
    prior.load_state_dict({**prior.state_dict(), "log_weights": torch.zeros(64, dtype=torch.float64)})
    assert prior.num_parameters == 131199  # K (2 N L + 1) + K - 1
    diagonal = MFA.from_config({"num_components": 2, "num_factors": 1, "noise": "diagonal", "shape": [4]})
    diagonal.load_state_dict(diagonal.state_dict())
    assert diagonal.num_parameters == 2 * (8 + 4) + 1


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_saved_and_loaded(noise: str, generator: torch.Generator) -> None:
    h = factor_channels(generator, 200, 5, 2)
    prior = MFA(2, 2, noise=noise, max_iter=5, seed=3).fit(h)
    other = MFA.from_config(prior.config())
    other.load_state_dict(prior.state_dict())
    assert other.is_fitted
    assert other.config() == prior.config()
    torch.testing.assert_close(other.log_prob(h), prior.log_prob(h), atol=0, rtol=0)


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_mini_batches_come_close(noise: str, generator: torch.Generator) -> None:
    h = factor_channels(generator, 3000, 8, 2, components=3)
    exact = MFA(3, 2, noise=noise, max_iter=40).fit(h)
    stepwise = MFA(3, 2, noise=noise, max_iter=15, batch_size=500).fit(h)
    # Stepwise EM hovers about a maximum; another local one may be 0.3 nat away, chance is several.
    assert stepwise.log_likelihood(h) > exact.log_likelihood(h) - 0.5


def test_projects_recovered_covariances(generator: torch.Generator) -> None:
    second = second_moment(factor_channels(generator, 400, 5, 2))
    quality = []
    for noise in ("isotropic", "diagonal"):
        prior = MFA(1, 2, noise=noise)
        prior.shape = (5,)
        prior._m_step_from_covariances(second, torch.ones(1, dtype=torch.float64))
        form = prior._form()
        quality.append(float(objective(form.components(prior.values), second)))
        assert prior.is_fitted
    want = FactorForm((5,), 2, "isotropic").update(second, None, 1e-9)
    assert quality[0] == pytest.approx(float(objective(want, second)), abs=1e-10)  # rounding
    assert quality[1] > quality[0]  # diagonal noise starts from there


# -- Degenerate and bad input. --


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_equal_channels_meet_the_floor(noise: str) -> None:
    h = torch.full((20, 4), 1 + 1j, dtype=torch.complex64)
    with pytest.warns(WichanWarning, match="equal channel"):
        prior = MFA(2, 1, noise=noise, max_iter=5).fit(h)
    assert bool(torch.isfinite(torch.view_as_real(prior.covariances())).all())
    assert float(prior.factors()[1].min()) >= 2e-6 * (1 - 1e-9)  # floor 1e-6 times the mean power 2
    assert math.isfinite(prior.log_likelihood(h))


def test_one_channel_is_enough_for_one_component() -> None:
    with pytest.warns(WichanWarning, match="1 equal channel"):
        prior = MFA(1, 1, max_iter=3).fit(torch.ones(1, 3, dtype=torch.complex128))
    assert bool(torch.isfinite(torch.view_as_real(prior.covariances())).all())


def test_bad_arguments() -> None:
    h = torch.ones(10, 4, dtype=torch.complex64)
    with pytest.raises(InvalidValueError, match="num_factors=4 must be less than the N=4 elements"):
        MFA(2, 4).fit(h)
    with pytest.raises(InvalidValueError, match="num_factors=0 must be at least 1"):
        MFA(2, 0)
    with pytest.raises(UnknownNameError, match="noise='isotropc' is unknown; did you mean 'isotropic'"):
        MFA(2, 1, noise="isotropc")
    with pytest.raises(InvalidTypeError, match="num_components='auto' must be an integer"):
        MFA("auto", 1)
    with pytest.raises(InvalidValueError, match="num_components=11 must be at most the number of channels, 10"):
        MFA(11, 1).fit(h)
    with pytest.raises(InvalidValueError, match="h holds 1 NaN"):
        broken = h.clone()
        broken[0, 0] = math.nan
        MFA(2, 1).fit(broken)
    with pytest.raises(InvalidValueError, match="mean power 0"):
        MFA(2, 1).fit(torch.zeros(10, 4, dtype=torch.complex64))
