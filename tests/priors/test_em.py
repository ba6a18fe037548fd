"""EM: likelihood that never falls, restarts, progress, streams and mini-batches, lost components, degenerate channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import wichan.priors.em as em_module
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanWarning
from wichan.priors import GMM, MFA
from wichan.priors.samples import Samples
from wichan.priors.structure import STRUCTURES

CLOUDS = 3


def channels(count: int, n: int, generator: torch.Generator, rank: int | None = None) -> torch.Tensor:
    """Three groups of channels, each with a few directions of its own, and noise of 1e-3."""
    factor = torch.randn(CLOUDS, n, rank or n // 2, generator=generator, dtype=torch.complex128)
    label = torch.randint(CLOUDS, (count,), generator=generator)
    white = torch.randn(count, factor.shape[-1], 1, generator=generator, dtype=torch.complex128)
    noise = torch.randn(count, n, generator=generator, dtype=torch.complex128)
    return (factor[label] @ white).squeeze(-1) + 0.03 * noise


def assert_rises(history: list[float]) -> None:
    steps = torch.tensor(history).diff()
    # A sum of quadratic forms as large as N / floor is known to about 1e-9 of itself.
    assert float(steps.min()) > -1e-9 * max(abs(v) for v in history), history


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("floor", [1e-6, 0.05])
def test_likelihood_never_falls(structure: str, floor: float, generator: torch.Generator) -> None:
    h = channels(300, 6, generator)
    for seed in range(4):
        prior = GMM(5, structure, floor=floor, seed=seed, max_iter=40, tol=0.0).fit(h)
        assert_rises(prior.history)
        assert len(prior.history) == 40
        assert prior.log_likelihood(h) >= prior.history[-1] - 1e-9 * abs(prior.history[-1])


@pytest.mark.parametrize("rank", [1, 2])
def test_likelihood_never_falls_on_the_floor(rank: int, generator: torch.Generator) -> None:
    # Channels without noise and fewer channels than antennas a component: most eigenvalues lie on the floor.
    h = channels(60, 8, generator, rank) * (1 - 0.5 * torch.rand(60, 1, generator=generator, dtype=torch.float64))
    for seed in range(4):
        prior = GMM(8, seed=seed, max_iter=40, tol=0.0).fit(h)
        assert_rises(prior.history)
        least = torch.linalg.eigvalsh(prior.covariances()).min()
        power = float(h.abs().square().mean())
        assert float(least) > (1 - 1e-6) * 1e-6 * power  # rounding of 1e-16 N in eigenvalues 1e6 times larger


def test_one_component_is_the_sample_covariance(generator: torch.Generator) -> None:
    h = channels(200, 4, generator)
    prior = GMM(1).fit(h)
    torch.testing.assert_close(prior.covariances()[0], h.mT @ h.conj() / 200)
    assert float(prior.weights) == 1.0
    assert len(prior.history) == 2 and prior.converged  # the second step changes nothing
    lags = GMM(1, "circulant").fit(h).spectra()
    torch.testing.assert_close(lags[0], torch.fft.fft(h, norm="ortho").abs().square().mean(0))


def test_components_apart_are_found(generator: torch.Generator) -> None:
    factor = torch.randn(CLOUDS, 8, 2, generator=generator, dtype=torch.complex128)
    label = torch.randint(CLOUDS, (3000,), generator=generator)
    h = (factor[label] @ torch.randn(3000, 2, 1, generator=generator, dtype=torch.complex128)).squeeze(-1)
    h = h + 0.1 * torch.randn(3000, 8, generator=generator, dtype=torch.complex128)
    prior = GMM(CLOUDS, num_restarts=4).fit(h)
    truth = factor @ factor.mH + 0.01 * torch.eye(8)
    error = torch.linalg.matrix_norm(prior.covariances().unsqueeze(1) - truth) / torch.linalg.matrix_norm(truth)
    assert sorted(error.argmin(1).tolist()) == [0, 1, 2]
    # 1000 channels a component: an error of about sqrt(N_eff / 1000) = 0.05 with 2 directions of power.
    assert float(error.min(1).values.max()) < 0.1
    found = prior.responsibilities(h).argmax(1)
    assert float((error.argmin(1)[found] == label).double().mean()) > 0.99


@pytest.mark.parametrize("structure", ["full", "circulant"])
def test_restarts_keep_the_best(structure: str, generator: torch.Generator) -> None:
    h = channels(200, 6, generator)
    best = [[GMM(6, structure, seed=s, num_restarts=n, max_iter=20).fit(h).history[-1] for n in (1, 2, 3)] for s in range(4)]
    assert all(row == sorted(row) for row in best)  # the first starts are the same
    assert any(row[2] > row[0] for row in best)


def test_same_seed_same_prior(generator: torch.Generator) -> None:
    h = channels(100, 4, generator)
    one, two, other = (GMM(3, seed=s, max_iter=5).fit(h) for s in (1, 1, 2))
    assert torch.equal(one.covariances(), two.covariances())
    assert not torch.equal(one.covariances(), other.covariances())


def test_progress_is_told_and_can_stop(generator: torch.Generator) -> None:
    h = channels(100, 4, generator)
    told: list[tuple[int, int, float]] = []
    prior = GMM(3, max_iter=7, tol=0.0).fit(h, progress=lambda *args: told.append(args))
    assert [t[:2] for t in told] == [(n, 7) for n in range(1, 8)]
    assert [t[2] for t in told] == prior.history
    calls: list[int] = []
    stopped = GMM(3, max_iter=7, num_restarts=3).fit(
        h, progress=lambda iteration, *_: calls.append(iteration) or iteration == 2
    )
    assert calls == [1, 2]  # no other start follows
    assert len(stopped.history) == 2 and not stopped.converged and stopped.is_fitted


def test_tolerance_ends_em(generator: torch.Generator) -> None:
    h = channels(200, 4, generator)
    prior = GMM(3, tol=0.1).fit(h)
    steps = torch.tensor(prior.history).diff()
    assert prior.converged
    assert bool((steps[:-1] >= 0.1).all()) and float(steps[-1]) < 0.1
    assert not GMM(3, tol=0.0, max_iter=3).fit(h).converged


# -- Larger than memory. --


@pytest.mark.parametrize("structure", ["full", "block-circulant", "toeplitz"])
def test_a_stream_gives_what_a_tensor_gives(structure: str, generator: torch.Generator) -> None:
    h = channels(120, 6, generator).to(torch.complex64)

    def pieces() -> Iterator[torch.Tensor]:
        yield from (h[:50], h[50:50], h[50:57], h[57:])

    whole, stream = GMM(3, structure, max_iter=8).fit(h), GMM(3, structure, max_iter=8).fit(pieces)
    # Sums in another order; differences grow by a small factor an iteration.
    torch.testing.assert_close(torch.tensor(stream.history), torch.tensor(whole.history), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stream.covariances(), whole.covariances(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("limit", ["_CACHE_BYTES", "_START_SAMPLES", "_CHUNK_BYTES"])
def test_memory_limits_change_no_result(limit: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    h = channels(150, 6, generator)
    before = GMM(3, max_iter=8).fit(h)
    if limit == "_CHUNK_BYTES":
        monkeypatch.setattr("wichan.priors.samples._CHUNK_BYTES", 16 * 6 * 40)
    else:
        monkeypatch.setattr(em_module, limit, 150 if limit == "_START_SAMPLES" else 0)
    after = GMM(3, max_iter=8).fit(h)
    torch.testing.assert_close(torch.tensor(after.history), torch.tensor(before.history), rtol=1e-9, atol=1e-9)


def test_the_subset_is_a_random_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wichan.priors.samples._CHUNK_BYTES", 16 * 7)
    h = torch.arange(1.0, 401.0).to(torch.complex64).unsqueeze(1)
    for source in (h, lambda: h.split(90)):
        rows = Samples(source, 100, torch.Generator().manual_seed(0)).subset[:, 0].real
        assert len(rows.unique()) == 100 and torch.equal(rows, rows.sort().values)
        # Mean of 100 of 400 numbers: 200.5 with a standard deviation of 10.
        assert abs(float(rows.mean()) - 200.5) < 40
    samples = Samples(h, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(samples.subset, h.to(torch.complex128))
    assert samples.power == pytest.approx(float((h.real.double() ** 2).mean()))


def test_the_start_looks_at_a_subset(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(em_module, "_START_SAMPLES", 40)
    monkeypatch.setattr("wichan.priors.samples._CHUNK_BYTES", 16 * 6 * 7)  # the subset is drawn over many chunks
    h = channels(400, 6, generator)
    prior = GMM(1, max_iter=3).fit(h)
    torch.testing.assert_close(prior.covariances()[0], h.mT @ h.conj() / 400)


@pytest.mark.parametrize("structure", ["full", "circulant"])
def test_mini_batches_come_near_the_exact_fit(structure: str, generator: torch.Generator) -> None:
    h = channels(1200, 6, generator)
    exact = GMM(3, structure, seed=1).fit(h)
    small = GMM(3, structure, seed=1, batch_size=200, max_iter=30).fit(h)
    # A running mean forgets, so the last of it weighs single mini-batches: a loss of about parameters / (2 * 1000) nat.
    assert small.log_likelihood(h) > exact.log_likelihood(h) - 0.15
    stream = GMM(3, structure, seed=1, batch_size=200, max_iter=30).fit(lambda: h.split(500))
    assert stream.log_likelihood(h) > exact.log_likelihood(h) - 0.15


def test_a_batch_larger_than_the_data_is_all_of_it(generator: torch.Generator) -> None:
    h = channels(100, 4, generator)
    prior = GMM(1, batch_size=1000, max_iter=3).fit(h)
    torch.testing.assert_close(prior.covariances()[0], h.mT @ h.conj() / 100)


@pytest.mark.gpu
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_gpu_gives_what_a_cpu_gives(structure: str, generator: torch.Generator) -> None:
    h = channels(300, 6, generator)
    for options in ({}, {"batch_size": 100}):
        here = GMM(4, structure, max_iter=6, **options).fit(h)
        there = GMM(4, structure, max_iter=6, **options).fit(h.cuda())
        assert there.values.is_cuda and there.log_prob(h.cuda()).is_cuda
        # Sums in another order; k-means in single precision may give a channel on a border to the other side.
        assert there.history[-1] == pytest.approx(here.history[-1], abs=0.1)
        assert there.sample(3, generator=torch.Generator("cuda").manual_seed(0)).is_cuda
        torch.testing.assert_close(there.cpu().log_prob(h), there.cuda().log_prob(h.cuda()).cpu())


# -- Lost components. --


@pytest.mark.parametrize("structure", ["full", "toeplitz", "circulant"])
def test_lost_components_are_seeded_again(structure: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    h = channels(300, 6, generator)
    start = torch.zeros(300, dtype=torch.int64)

    def one_cluster(features: torch.Tensor, num: int, gen: torch.Generator) -> torch.Tensor:
        return start

    monkeypatch.setattr(em_module, "kmeans_labels", one_cluster)
    prior = GMM(3, structure, max_iter=60, tol=1e-6).fit(h)
    assert_rises(prior.history)
    assert float(prior.weights.min()) > 0.1
    one = GMM(1, structure).fit(h).history[-1]
    assert prior.history[2] > prior.history[1] > one - 0.5  # they were right at once
    assert prior.history[-1] > one + 0.1


def test_seeded_components_forget_what_they_were(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    # A factor analyser without a loading stays without one, if it goes on from where it was lost.
    h = channels(300, 6, generator)
    monkeypatch.setattr(em_module, "kmeans_labels", lambda features, num, gen: torch.zeros(300, dtype=torch.int64))
    prior = MFA(3, 2, noise="diagonal", max_iter=20).fit(h)
    assert_rises(prior.history)
    assert float(prior.weights.min()) > 0.1
    loading, noise = prior.factors()
    assert bool((loading.abs().square().sum((1, 2)) > noise.sum(1)).all())


def test_seeding_that_does_not_pay_is_taken_back(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    # White channels of one kind: a second component with another covariance can only do harm at first.
    h = torch.randn(4000, 3, generator=generator, dtype=torch.complex128)

    def spoil(estep: Any, moments: Any, lost: list[int], *_: Any) -> torch.Tensor:
        moments.counts[lost] = 2000.0
        moments.counts[0] = 2000.0
        moments.sums[lost] = moments.sums[:1] * 5
        return torch.tensor([0, *lost])

    monkeypatch.setattr(em_module, "split_heaviest", spoil)
    monkeypatch.setattr(em_module, "kmeans_labels", lambda f, k, g: torch.zeros(len(f), dtype=torch.int64))
    with pytest.warns(WichanWarning, match="1 of 2 components have no weight left"):
        prior = GMM(2, max_iter=10, tol=0.0).fit(h)
    assert_rises(prior.history)
    torch.testing.assert_close(prior.weights, torch.tensor([1.0, 0.0], dtype=torch.float64))


# -- Degenerate channels. --


def assert_usable(prior: GMM, h: torch.Tensor) -> None:
    assert all(torch.isfinite(torch.tensor(prior.history)))
    assert bool(torch.isfinite(torch.view_as_real(prior.covariances())).all())
    assert bool(torch.isfinite(prior.log_prob(h)).all())
    assert bool(torch.isfinite(prior.log_weights).all())
    torch.testing.assert_close(prior.weights.sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_equal_channels_end_on_the_floor_with_a_warning(structure: str, generator: torch.Generator) -> None:
    h = torch.randn(1, 4, generator=generator, dtype=torch.complex128).repeat(20, 1)
    for num in (1, 3):
        with pytest.warns(WichanWarning, match=r"h holds 20 equal channel\(s\)"):
            prior = GMM(num, structure).fit(h)
        assert_usable(prior, h)
    if structure == "full":
        cov = prior.covariances()[int(prior.weights.argmax())]
        values = torch.linalg.eigvalsh(cov)
        torch.testing.assert_close(values[-1], h[0].abs().square().sum())
        torch.testing.assert_close(values[:-1], torch.full_like(values[:-1], 1e-6 * float(h[0].abs().square().mean())))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_channel(structure: str, generator: torch.Generator) -> None:
    h = torch.randn(1, 4, generator=generator, dtype=torch.complex128)
    with pytest.warns(WichanWarning, match=r"h holds 1 equal channel\(s\)"):
        assert_usable(GMM(1, structure).fit(h), h)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_duplicated_channels(structure: str, generator: torch.Generator) -> None:
    h = torch.randn(3, 4, generator=generator, dtype=torch.complex128).repeat(10, 1)
    assert_usable(GMM(3, structure).fit(h), h)
    with pytest.warns(WichanWarning, match="2 of 5 components have no weight left"):
        prior = GMM(5, structure).fit(h)
    assert_usable(prior, h)
    assert_rises(prior.history)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_as_many_components_as_channels(structure: str, generator: torch.Generator) -> None:
    h = torch.randn(12, 4, generator=generator, dtype=torch.complex128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WichanWarning)  # two channels may share a component
        assert_usable(GMM(12, structure).fit(h), h)


def test_a_silent_antenna_and_silent_channels(generator: torch.Generator) -> None:
    h = torch.randn(50, 4, generator=generator, dtype=torch.complex128)
    h[:, 2] = 0
    h[:5] = 0
    for structure in STRUCTURES:
        assert_usable(GMM(3, structure).fit(h), h)


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_scale_does_not_matter(scale: float, generator: torch.Generator) -> None:
    h = channels(100, 4, generator)
    one, other = GMM(3).fit(h), GMM(3).fit(h * scale)
    torch.testing.assert_close(other.covariances() / scale**2, one.covariances(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("h", "error", "message"),
    [
        (torch.randn(5, 4), InvalidTypeError, "h has dtype torch.float32; allowed are torch.complex64 and torch.complex128"),
        ([[1j]], InvalidTypeError, "h must be a torch.Tensor or a function that returns an iterable of them, got list"),
        (lambda: 3, InvalidTypeError, r"h\(\) must return an iterable of tensors, got int"),
        (lambda: [[1j]], InvalidTypeError, "h must be a torch.Tensor, got list"),
        (lambda: [], InvalidValueError, "h holds no channels; at least one is needed"),
        (torch.zeros(0, 4, dtype=torch.complex64), InvalidValueError, "h holds no channels; at least one is needed"),
        (torch.ones(4, dtype=torch.complex64), ShapeError, r"h has shape \(4,\); it must be \(samples, \*axes of a channel\)"),
        (torch.ones(4, 0, dtype=torch.complex64), ShapeError, r"h has shape \(4, 0\); a channel needs at least one element"),
        (torch.zeros(4, 3, dtype=torch.complex64), InvalidValueError, "h has mean power 0: a covariance of zeros has no"),
        (torch.full((4, 3), 1e-20 + 0j), InvalidValueError, "h has mean power 1e-40; it must lie between 1e-30 and 1e30"),
        (torch.full((4, 3), complex("nan")), InvalidValueError, "h holds 12 NaN or infinite of 12 values; all must be finite"),
        (
            lambda: [torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, 4, dtype=torch.complex64)],
            ShapeError,
            r"h has a piece of shape \(2, 4\); the first one had channels of shape \(3,\)",
        ),
        (
            lambda: [torch.ones(2, 3, dtype=torch.complex64), torch.full((1, 3), complex("inf"))],
            InvalidValueError,
            "h holds 3 NaN or infinite of 3 values",
        ),
        (
            torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)),
            InvalidValueError,
            "num_components=4 must be at most the number of channels, 3",
        ),
    ],
    ids=range(14),
)
def test_bad_channels(h: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        GMM(4).fit(h)
    assert "\n" not in str(caught.value)
