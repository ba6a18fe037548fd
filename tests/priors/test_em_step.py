"""The E-step against its definition: what is left out must not matter; start and re-seeding."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.priors.estep import DenseEStep, Moments, SpectralEStep
from wichan.priors.start import kmeans_labels, log_periodogram, split_heaviest
from wichan.priors.structure import Components, make_structure


def mixture(num: int, n: int, generator: torch.Generator, rank: int | None = None) -> tuple[Components, torch.Tensor]:
    """Covariances of a few directions on a floor of 1e-6, which makes most components impossible for most channels."""
    factor = torch.randn(num, n, rank or n, generator=generator, dtype=torch.complex128)
    components = make_structure("full", (n,)).update(factor @ factor.mH, None, 1e-6)
    weights = torch.rand(num, generator=generator, dtype=torch.float64) + 0.1
    return components, (weights / weights.sum()).log()


def draw(components: Components, count: int, generator: torch.Generator) -> torch.Tensor:
    label = torch.randint(len(components.powers), (count,), generator=generator)
    white = torch.randn(count, components.powers.shape[1], generator=generator, dtype=torch.complex128)
    return ((components.vectors * components.powers.sqrt().unsqueeze(-2))[label] @ white.unsqueeze(-1)).squeeze(-1)


def direct(components: Components, log_weights: torch.Tensor, h: torch.Tensor) -> Moments:
    joint = components.log_density(h, h.shape[1:]) + log_weights
    weights = torch.softmax(joint, dim=1)
    sums = torch.einsum("tk,ti,tj->kij", weights.to(h.dtype), h, h.conj())
    return Moments(float(torch.logsumexp(joint, 1).sum()), len(h), weights.sum(0), sums)


def assert_same(got: Moments, want: Moments) -> None:
    assert got.num == want.num
    # Quadratic forms reach 1e7 for channels that fit a component badly, and are known to 1e-9 of that.
    assert got.total == pytest.approx(want.total, rel=1e-9)
    torch.testing.assert_close(got.counts, want.counts, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("rank", "num"), [(2, 7), (5, 3), (5, 1)])
def test_dense_moments_over_iterations(rank: int, num: int, generator: torch.Generator) -> None:
    components, log_weights = mixture(num, 5, generator, rank)
    h = draw(components, 300, generator)
    step, memory = DenseEStep((5,), remember=True), {}
    digest = step.digest(h)
    for _ in range(6):  # bounds of earlier iterations serve the later ones
        step.update(components, log_weights)
        got = step.moments(digest, memory)
        assert_same(got, direct(components, log_weights, h))
        likeliest = (components.log_density(h, (5,)) + log_weights).argmax(1)
        assert torch.equal(memory["best"], likeliest)  # where the next iteration begins
        assert_same(step.moments(digest), direct(components, log_weights, h))  # and without a memory
        second = got.second() + 1e-3 * torch.eye(5) * torch.rand(1, generator=generator, dtype=torch.float64)
        components = make_structure("full", (5,)).update(second, None, 1e-6)
        log_weights = (got.counts / got.num).log()


def test_bounds_survive_components_that_jump(generator: torch.Generator) -> None:
    # Unrelated components one after the other: bounds become useless, but must stay bounds.
    components, log_weights = mixture(6, 5, generator, 2)
    h = draw(components, 200, generator)
    step, memory = DenseEStep((5,), remember=True), {}
    digest = step.digest(h)
    for _ in range(5):
        step.update(components, log_weights)
        assert_same(step.moments(digest, memory), direct(components, log_weights, h))
        true_form = -(components.log_density(h, (5,)) + components.powers.log().sum(1) + 5 * math.log(math.pi)).T
        assert bool((memory["bounds"] <= true_form * (1 + 1e-12) + 1e-12).all())
        components, log_weights = mixture(6, 5, generator, 2)


def test_screening_stays_below_in_single_precision(generator: torch.Generator) -> None:
    # Channels in the few strong directions of a component with a floor of 1e-12: what single precision gets is mostly rounding.
    factor = torch.randn(3, 24, 4, generator=generator, dtype=torch.complex128)
    components = make_structure("full", (24,)).update(factor @ factor.mH, None, 1e-12)
    h = draw(components, 300, generator)
    step = DenseEStep((24,))
    step.update(components, torch.zeros(3, dtype=torch.float64))
    digest = step.digest(h)
    excess = 0
    for k in range(3):
        exact = step._exact(k, digest.double)
        assert bool((step._screen(k, digest.single, digest.norm) <= exact).all())
        rough = (digest.single @ step.whitening_single[k]).abs().square().sum(1)
        excess += int((rough > exact).sum())
    assert excess > 0  # without the bound on rounding it would be no bound


def test_most_pairs_are_left_out(generator: torch.Generator) -> None:
    components, log_weights = mixture(16, 12, generator, 2)
    h = draw(components, 400, generator)
    step, memory = DenseEStep((12,), remember=True), {}
    evaluated = []
    exact = step._exact
    step._exact = lambda k, double: evaluated.append(len(double)) or exact(k, double)  # type: ignore[method-assign]
    step.update(components, log_weights)
    step.moments(step.digest(h), memory)
    # 400 channels with their own component, and hardly another: planes of 2 of 12 dimensions do not meet.
    assert 400 <= sum(evaluated) < 1.1 * 400


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1)])
def test_spectral_moments(shape: tuple[int, ...], generator: torch.Generator) -> None:
    form = make_structure("block-circulant", shape)
    values = torch.rand(4, *shape, generator=generator, dtype=torch.float64) + 0.1
    log_weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    h = torch.randn(50, 6, generator=generator, dtype=torch.complex128)
    step = SpectralEStep(shape)
    step.update(form.components(values), log_weights)
    got = step.moments(step.digest(h))
    powers, vectors = torch.linalg.eigh(form.dense(values))
    want = direct(Components(powers, vectors), log_weights, h)
    energy = torch.fft.fftn(h.reshape(-1, *shape), dim=tuple(range(1, 1 + len(shape))), norm="ortho").abs().square()
    assert got.total == pytest.approx(want.total, rel=1e-12)
    torch.testing.assert_close(got.counts, want.counts)
    weights = torch.softmax(Components(powers, vectors).log_density(h, (6,)) + log_weights, dim=1)
    torch.testing.assert_close(got.sums, weights.T @ energy.flatten(1))


def test_moments_add_up(generator: torch.Generator) -> None:
    components, log_weights = mixture(3, 4, generator)
    h = draw(components, 60, generator)
    whole = direct(components, log_weights, h)
    parts = direct(components, log_weights, h[:25]).add(direct(components, log_weights, h[25:]))
    assert_same(parts, whole)


# -- Start. --


def test_kmeans_finds_clusters_apart(generator: torch.Generator) -> None:
    centers = 10 * torch.randn(5, 3, generator=generator)
    truth = torch.randint(5, (400,), generator=generator)
    labels = kmeans_labels(centers[truth] + 0.1 * torch.randn(400, 3, generator=generator), 5, generator)
    # A cluster of one and only one centre each.
    assert len({(int(a), int(b)) for a, b in zip(labels, truth, strict=True)}) == 5


@pytest.mark.parametrize("count", [1, 3])
def test_kmeans_with_fewer_distinct_rows_than_clusters(count: int, generator: torch.Generator) -> None:
    rows = torch.arange(count).float().repeat(4).unsqueeze(1)
    labels = kmeans_labels(rows, 4, generator)
    assert len(labels.unique()) == count
    assert bool((labels.reshape(4, count) == labels[:count]).all())


def test_log_periodogram_sees_no_phase(generator: torch.Generator) -> None:
    h = torch.randn(3, 4, 1, 5, generator=generator, dtype=torch.complex128)
    features = log_periodogram(h)
    assert features.shape == (3, 8 * 1 * 10 + 1)
    torch.testing.assert_close(log_periodogram(h * (1e-9 * torch.exp(torch.tensor(0.3j)))), features, rtol=1e-4, atol=1e-5)
    louder = log_periodogram(h * torch.tensor([1.0, 1.0, 9.0]).reshape(3, 1, 1, 1))
    torch.testing.assert_close(louder[:, :-1], features[:, :-1], rtol=1e-4, atol=1e-5)
    assert float(louder[2, -1] - louder[1, -1]) > float(features[2, -1] - features[1, -1]) + 2.0
    h[1] = 0  # a constant, without NaN
    assert bool((log_periodogram(h)[1] == math.log(0.03)).all())


@pytest.mark.parametrize("spectral", [False, True])
def test_a_lost_component_takes_half_of_the_heaviest(spectral: bool, generator: torch.Generator) -> None:
    tone = torch.exp(2j * math.pi * torch.arange(8) * torch.tensor([[0], [3]]) / 8).to(torch.complex128)
    truth = torch.arange(90) % 2
    truth[80:] = 0
    h = tone[truth] * torch.randn(90, 1, generator=generator, dtype=torch.complex128)
    h[85:] = torch.randn(5, 8, generator=generator, dtype=torch.complex128)
    labels = torch.zeros(90, dtype=torch.int64)
    labels[85:] = 1
    step = SpectralEStep((8,)) if spectral else DenseEStep((8,))
    moments = step.labelled(h, labels, 3)
    before = moments.sums.sum(0)
    changed = split_heaviest(step, moments, [2], labels, h, log_periodogram(h), generator)
    assert sorted(changed.tolist()) == [0, 2]
    assert sorted(moments.counts.tolist()) == [5.0, 40.0, 45.0]  # the two tones are told apart
    torch.testing.assert_close(moments.sums.sum(0), before)


def test_equal_channels_cannot_be_split(generator: torch.Generator) -> None:
    h = torch.ones(9, 4, dtype=torch.complex128)
    step = DenseEStep((4,))
    labels = torch.zeros(9, dtype=torch.int64)
    moments = step.labelled(h, labels, 2)
    assert len(split_heaviest(step, moments, [1], labels, h, log_periodogram(h), generator)) == 0
    assert moments.counts.tolist() == [9.0, 0.0]
