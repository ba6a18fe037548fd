"""The Gaussian mixture prior: densities, samples, storage, sizes, what it promises of memory, bad arguments."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanError
from wichan.priors import GMM, PRIORS, MixturePrior
from wichan.priors.structure import STRUCTURES
from wichan.random import complex_normal

SHAPES = {
    "full": (4, 1, 1, 1),
    "toeplitz": (4, 1, 1, 1),
    "circulant": (4,),
    "block-toeplitz": (2, 2),
    "block-circulant": (2, 2, 1),
}


def colored(count: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Two kinds of channels with different covariances."""
    n = math.prod(shape)
    factor = torch.randn(2, n, n, generator=generator, dtype=torch.complex128)
    label = torch.randint(2, (count,), generator=generator)
    white = torch.randn(count, n, 1, generator=generator, dtype=torch.complex128)
    return (factor[label] @ white).reshape(count, *shape)


def fitted(structure: str, generator: torch.Generator, **options: Any) -> tuple[GMM, torch.Tensor]:
    h = colored(200, SHAPES[structure], generator)
    return GMM(2, structure, max_iter=5, **options).fit(h), h


# -- Densities. --


@pytest.mark.parametrize("structure", STRUCTURES)
def test_log_prob_is_the_density(structure: str, generator: torch.Generator) -> None:
    prior, h = fitted(structure, generator)
    x = h[:6].reshape(2, 3, *prior.shape)
    noise = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    for no in (0.0, 0.3, noise[:, :1].reshape(2), noise):
        per_sample = torch.as_tensor(no, dtype=torch.float64)
        per_sample = per_sample.reshape(*per_sample.shape, *([1] * (2 - per_sample.dim()))).expand(2, 3)
        covs = prior.covariances() + per_sample[..., None, None, None] * torch.eye(4)
        flat = x.flatten(2).unsqueeze(-2).unsqueeze(-1)
        form = (flat.mH @ torch.linalg.solve(covs, flat)).real.reshape(2, 3, 2)
        want = prior.weights.log() - form - torch.logdet(covs).real - 4 * math.log(math.pi)
        torch.testing.assert_close(prior.log_prob(x, no), want)
        torch.testing.assert_close(prior.responsibilities(x, no), want.softmax(-1))
        assert prior.log_likelihood(x, no) == pytest.approx(float(want.logsumexp(-1).mean()))
    assert prior.log_prob(x.to(torch.complex64)).dtype == torch.float32
    assert prior.log_prob(x[:0]).shape == (0, 3, 2)
    assert prior.log_prob(x[0, 0]).shape == (2,)


def test_a_singular_covariance_has_a_density(generator: torch.Generator) -> None:
    # Recovered from quantised pilots and projected, an eigenvalue may be anything that rounds to 0.
    prior, h = fitted("full", generator)
    prior.values.zero_()
    prior.values[:, 0, 0] = 1.0
    prior.values[:, 1, 1] = -1e-17
    assert bool(torch.isfinite(prior.log_prob(h)).all())
    assert bool(torch.isfinite(torch.view_as_real(prior.sample(5, generator=generator))).all())


def test_gradient_of_the_density(generator: torch.Generator) -> None:
    prior, h = fitted("full", generator)
    x = h[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prior.log_prob(z, 0.1), (x,))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_samples_have_the_mixture_covariance(structure: str, generator: torch.Generator) -> None:
    prior, _ = fitted(structure, generator)
    drawn = prior.sample(40000, generator=generator, dtype=torch.complex128)
    assert drawn.shape == (40000, *SHAPES[structure])
    flat = drawn.flatten(1)
    want = torch.einsum("k,kij->ij", prior.weights.to(torch.complex128), prior.covariances())
    scale = float(want.diagonal().real.max())
    # An entry of a sample covariance is known to about (power of both) / sqrt(40,000) = 0.5 %, times 5.
    assert float((flat.mT @ flat.conj() / 40000 - want).abs().max()) < 0.03 * scale
    assert float(flat.mean(0).abs().max()) < 5 * math.sqrt(scale / 40000)
    assert float((flat.mT @ flat / 40000).abs().max()) < 0.03 * scale  # circular
    assert prior.sample(3, generator=generator).dtype == torch.complex64
    assert prior.sample(0, generator=generator).shape == (0, *SHAPES[structure])


def test_samples_are_as_likely_as_training_channels(generator: torch.Generator) -> None:
    prior = GMM(4, max_iter=30).fit(colored(3000, (4,), generator))
    drawn = prior.sample(3000, generator=generator)
    # The standard deviation of log p(h) is about sqrt(N) = 2 nat, 0.04 over 3000 draws.
    assert prior.log_likelihood(drawn) == pytest.approx(prior.history[-1], abs=0.2)


# -- Structure and sizes. --


def test_what_each_structure_offers(generator: torch.Generator) -> None:
    sizes = {"full": 2 * 16 + 1, "toeplitz": 2 * 8 + 1, "circulant": 2 * 4 + 1, "block-toeplitz": 2 * 16 + 1}
    for structure in STRUCTURES:
        prior, _ = fitted(structure, generator)
        assert prior.num_parameters == sizes.get(structure, 2 * 4 + 1)
        assert prior.dim == 4 and prior.shape == SHAPES[structure] and prior.num_components == 2
        assert prior.factors() is None
        spectra = prior.spectra()
        if structure.endswith("circulant"):
            assert spectra is not None and spectra.shape == (2, *SHAPES[structure])
            axes = tuple(range(1, 1 + len(prior.shape)))
            unit = torch.eye(4, dtype=torch.complex128).reshape(4, *prior.shape)
            f = torch.fft.fftn(unit, dim=axes, norm="ortho").reshape(4, 4)
            want = f.mH @ torch.diag_embed(spectra.flatten(1)).to(f.dtype) @ f
            torch.testing.assert_close(prior.covariances(), want)
        else:
            assert spectra is None


def test_the_sizes_of_the_reference() -> None:
    # N = K = 64 of one axis; the table of real parameters, K - 1 of which are weights.
    want = {"full": 262_207, "toeplitz": 8_255, "circulant": 4_159, "block-circulant": 4_159}
    for structure, number in want.items():
        prior = GMM.from_config({"num_components": 64, "shape": [64], "structure": structure})
        prior.load_state_dict(prior.state_dict())
        assert prior.num_parameters == number
        assert prior.values.numel() == number - 63
    prior = GMM.from_config({"num_components": 64, "shape": [8, 8], "structure": "block-toeplitz"})
    assert prior.values.numel() == 16_447 - 63


def test_memory_of_a_large_circulant_prior(generator: torch.Generator) -> None:
    h = complex_normal((2000, 16, 16), generator=generator)
    prior = GMM(128, "block-circulant", max_iter=2).fit(h)
    held = sum(b.numel() * b.element_size() for b in prior.buffers())
    assert held < 8 * (128 * 256 + 128) + 100  # the spectra, the weights and two axes: no dense covariance anywhere
    prior.log_likelihood(h[:10])
    cached = sum(t.numel() * t.element_size() for t in prior.eigen() if t is not None)
    assert cached == 8 * 128 * 256


# -- Storage. --


@pytest.mark.parametrize("structure", STRUCTURES)
def test_storage_round_trip(structure: str, generator: torch.Generator) -> None:
    prior, h = fitted(structure, generator, floor=1e-5, seed=3)
    config = json.loads(json.dumps(prior.config()))
    assert config["shape"] == list(SHAPES[structure]) and config["structure"] == structure and config["floor"] == 1e-5
    roomy = GMM.from_config(config)
    assert not roomy.is_fitted
    assert {n: t.shape for n, t in roomy.state_dict().items()} == {n: t.shape for n, t in prior.state_dict().items()}
    fresh = GMM(2, structure)  # it does not know the axes of a channel
    for other in (roomy, fresh):
        other.load_state_dict(prior.state_dict())
        assert other.is_fitted and other.shape == prior.shape and other.num_components == 2
        assert torch.equal(other.log_prob(h), prior.log_prob(h))
        assert torch.equal(other.covariances(), prior.covariances())
    assert PRIORS["gmm"] is GMM and prior.kind == "gmm" and isinstance(prior, MixturePrior)


def test_a_state_that_does_not_fit(generator: torch.Generator) -> None:
    prior, _ = fitted("full", generator)
    for other in (GMM(3), GMM(3, "full").fit(colored(50, (4,), generator)), GMM.from_config(prior.config() | {"shape": [5]})):
        with pytest.raises(RuntimeError, match="size mismatch|Unexpected key"):
            other.load_state_dict(prior.state_dict())
    nested = torch.nn.ModuleDict({"prior": GMM(2)})
    nested.load_state_dict({f"prior.{name}": value for name, value in prior.state_dict().items()})
    assert nested["prior"].is_fitted
    auto = GMM("auto")
    auto.load_state_dict(prior.state_dict())
    assert auto.num_components == 2
    empty = GMM(2)
    empty.load_state_dict(GMM(2).state_dict())
    assert not empty.is_fitted


def test_parameters_stay_in_double(generator: torch.Generator) -> None:
    prior, h = fitted("full", generator)
    before = prior.log_prob(h)
    for cast in (prior.float(), prior.to(torch.float32), prior.half(), prior.double(), prior.to("cpu")):
        assert cast.values.dtype == cast.log_weights.dtype == torch.float64
        assert cast.axes.dtype == torch.int64
        assert torch.equal(cast.log_prob(h), before)
    single = prior.log_prob(h.to(torch.complex64))
    torch.testing.assert_close(single, before.float(), rtol=1e-4, atol=1e-3)  # rounding of h


def test_the_cache_follows_the_parameters(generator: torch.Generator) -> None:
    prior, h = fitted("full", generator)
    before = prior.log_likelihood(h)
    prior.values.mul_(4.0)
    # Densities of channels with twice the amplitude.
    assert prior.log_likelihood(2 * h) == pytest.approx(before - 4 * math.log(4.0))
    again = GMM(2).fit(h)
    prior.load_state_dict(again.state_dict())
    assert prior.log_likelihood(h) == again.log_likelihood(h)


def test_channels_with_the_axes_of_the_library(generator: torch.Generator) -> None:
    h = colored(100, (2, 3, 1, 1), generator)
    for structure in ("full", "block-circulant", "block-toeplitz"):
        prior = GMM(2, structure, max_iter=3).fit(h)
        flat = GMM(2, structure, max_iter=3).fit(h.reshape(100, 2, 3))
        assert prior.shape == (2, 3, 1, 1)
        torch.testing.assert_close(prior.covariances(), flat.covariances())


# -- From covariances: the hook of training on quantised pilots. --


@pytest.mark.parametrize("structure", STRUCTURES)
def test_covariances_are_projected(structure: str, generator: torch.Generator) -> None:
    prior, _ = fitted(structure, generator)
    other = GMM(2, structure)
    other.shape = prior.shape
    other._m_step_from_covariances(prior.covariances(), 5 * prior.weights)
    torch.testing.assert_close(other.weights, prior.weights)
    assert other.is_fitted
    error = torch.linalg.matrix_norm(other.covariances() - prior.covariances())
    # Toeplitz forms iterate from the periodogram a few times, the others are exact.
    allowed = 0.2 if structure.endswith("toeplitz") else 1e-9
    assert float((error / torch.linalg.matrix_norm(prior.covariances())).max()) < allowed


# -- Bad arguments. --


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_components": 0}, InvalidValueError, "num_components=0 must be at least 1"),
        ({"num_components": 2.5}, InvalidTypeError, "num_components=2.5 must be an integer, got float"),
        ({"num_components": "many"}, InvalidTypeError, "num_components='many' must be an integer or \"auto\""),
        ({"structure": "diagonal"}, UnknownNameError, r"structure='diagonal' is unknown .*known: full, toeplitz"),
        ({"floor": 0.0}, InvalidValueError, "floor=0 must be greater than 0"),
        ({"floor": float("nan")}, InvalidValueError, "floor=nan must be finite"),
        ({"max_iter": 0}, InvalidValueError, "max_iter=0 must be at least 1"),
        ({"tol": -1.0}, InvalidValueError, "tol=-1 must be at least 0"),
        ({"num_restarts": 0}, InvalidValueError, "num_restarts=0 must be at least 1"),
        ({"batch_size": 0}, InvalidValueError, "batch_size=0 must be at least 1"),
        ({"seed": 0.5}, InvalidTypeError, "seed=0.5 must be an integer, got float"),
    ],
    ids=range(11),
)
def test_bad_options(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        GMM(**({"num_components": 2} | arguments))
    assert "\n" not in str(caught.value)


def test_bad_channels_of_densities(generator: torch.Generator) -> None:
    prior, h = fitted("full", generator)
    cases: list[tuple[torch.Tensor, Any, type[Exception], str]] = [
        (h.real, 0.0, InvalidTypeError, "h has dtype torch.float64"),
        (h[..., 0], 0.0, ShapeError, r"h has shape .*the last axes must be \(4, 1, 1, 1\)"),
        (h * float("nan"), 0.0, InvalidValueError, "h holds .* NaN or infinite"),
        (h, -1.0, InvalidValueError, "no=-1 must be at least 0"),
        (h, torch.ones(3), ShapeError, r"no has shape \(3,\); it must fit the batch \(200,\)"),
    ]
    for x, no, error, message in cases:
        with pytest.raises(error, match=message):
            prior.log_prob(x, no)
    with pytest.raises(InvalidValueError, match="a mean needs at least one channel"):
        prior.log_likelihood(h[:0])
    with pytest.raises(InvalidTypeError, match=r"generator must be a torch.Generator, got NoneType"):
        prior.sample(3, generator=None)
    with pytest.raises(ShapeError, match="structure='circulant' is for one axis"):
        GMM(2, "circulant").fit(colored(10, (2, 2), generator))


def test_before_a_fit() -> None:
    prior = GMM(2)
    assert not prior.is_fitted and prior.shape == () and prior.dim == 0 and prior.config()["shape"] is None
    h = torch.ones(1, 4, dtype=torch.complex64)
    uses = (
        lambda: prior.covariances(),
        lambda: prior.weights,
        lambda: prior.log_prob(h),
        lambda: prior.spectra(),
        lambda: prior.num_parameters,
        lambda: prior.sample(1, generator=torch.Generator()),
    )
    for use in uses:
        with pytest.raises(WichanError, match="GMM is not fitted; call fit, fit_observations or load_state_dict first"):
            use()
