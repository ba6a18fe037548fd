"""The kernel of Gaussian mixtures: against loops over dense matrices, against SciPy's density, and in its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators import SeparableMixture, mixture_products
from wichan.estimators.mixture_axes import sampling
from wichan.grid import OFDMGrid
from wichan.random import complex_normal

SYMBOLS, SUBCARRIERS = torch.tensor([0, 3]), torch.tensor([1, 4, 7])
DOUBLE = torch.complex128


def draw(generator: torch.Generator, *shape: int, real: bool = False) -> torch.Tensor:
    x = complex_normal(shape, 2.0, generator=generator, dtype=DOUBLE)
    return x.real.to(DOUBLE) if real else x


def oracle(
    time: torch.Tensor,
    frequency: torch.Tensor,
    log_weights: torch.Tensor,
    scales: torch.Tensor,
    x: torch.Tensor,
    no: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, variance, ln p(c | x) and ln p(x) from dense matrices: slogdet and solve, one component and frame at a time."""
    batch, antennas = x.shape[:2]
    num_times, num_subcarriers = time.shape[1], frequency.shape[1]
    index = (SYMBOLS[:, None] * num_subcarriers + SUBCARRIERS).flatten()
    means, errors, joint = [], [], []
    for a, factor in enumerate(time):
        for b, other in enumerate(frequency):
            for s, scale in enumerate(scales):
                r = scale * torch.kron(factor @ factor.mH, other @ other.mH)
                for i in range(batch):
                    seen = r[index][:, index] + no[i] * torch.eye(len(index), dtype=DOUBLE)
                    w = torch.linalg.solve(seen, r[index]).mH
                    y = x[i].reshape(antennas, -1)
                    means.append(y @ w.mT)
                    errors.append((r.diagonal() - (w * r[:, index].conj()).sum(1)).real.expand(antennas, -1))
                    fit = (y.conj() * torch.linalg.solve(seen, y.mT).mT).sum().real
                    constant = antennas * (torch.linalg.slogdet(seen)[1] + len(index) * math.log(math.pi))
                    joint.append(log_weights[a, b, s] - fit - constant)
    mean, error = (torch.stack(part).unflatten(0, (-1, batch)) for part in (means, errors))
    log_joint = torch.stack(joint).unflatten(0, (-1, batch))
    p = log_joint.softmax(0)[:, :, None, None]
    total = (p * mean).sum(0)
    variance = (p * (error + (mean - total).abs().square())).sum(0)
    shape = (batch, antennas, num_times, num_subcarriers)
    log_posterior = log_joint.log_softmax(0).T.reshape(batch, len(time), len(frequency), len(scales))
    return total.reshape(shape), variance.reshape(shape), log_posterior, log_joint.logsumexp(0)


# Ranks below, at and above the numbers of symbols (5, of which 2 carry pilots) and subcarriers (10, 3 with pilots).
@pytest.mark.parametrize(("rank_t", "rank_f"), [(1, 1), (2, 3), (4, 6), (7, 12)])
@pytest.mark.parametrize("real", [True, False], ids=["real time", "complex time"])
@pytest.mark.parametrize("antennas", [1, 3])
@pytest.mark.parametrize("with_scales", [False, True], ids=["one scale", "scales"])
def test_equals_dense_matrices(
    rank_t: int, rank_f: int, real: bool, antennas: int, with_scales: bool, generator: torch.Generator
) -> None:
    time, frequency = draw(generator, 3, 5, rank_t, real=real), draw(generator, 2, 10, rank_f)
    scales = torch.tensor([0.3, 1.0, 4.0]) if with_scales else torch.ones(1)
    weights = torch.randn(3, 2, len(scales), generator=generator, dtype=torch.float64)
    weights = weights - weights.flatten().logsumexp(0)
    x = draw(generator, 4, antennas, 2, 3)
    no = 0.05 + torch.rand(4, generator=generator, dtype=torch.float64)
    given = weights if with_scales else weights[..., 0]
    mixture = SeparableMixture(time, frequency, given, SYMBOLS, SUBCARRIERS, scales if with_scales else None)
    mean, variance, log_posterior = mixture(x, no)
    want = oracle(time, frequency, weights, scales.double(), x, no)
    assert mean.dtype == DOUBLE and variance.dtype == torch.float64
    assert log_posterior.shape == (4, 3, 2, 3) if with_scales else log_posterior.shape == (4, 3, 2)
    torch.testing.assert_close(mean, want[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(variance, want[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_posterior.reshape(want[2].shape), want[2], rtol=1e-10, atol=1e-9)
    found, evidence = mixture.posterior(x, no)
    torch.testing.assert_close(found, log_posterior, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(evidence, want[3], rtol=1e-10, atol=1e-10)


def test_the_evidence_is_a_density_as_scipy_computes_it(generator: torch.Generator) -> None:
    """CN(0, C) on real and imaginary parts is N(0, K / 2) with K the real form of C."""
    time, frequency = draw(generator, 1, 5, 2), draw(generator, 2, 10, 4)
    mixture = SeparableMixture(time, frequency, torch.tensor([[0.0, 1.0]]), SYMBOLS, SUBCARRIERS)
    x, no = draw(generator, 1, 1, 2, 3), 0.2
    y = x.flatten().numpy()
    density = 0.0
    for b, weight in enumerate(np.array([1.0, math.e]) / (1 + math.e)):
        t, f = time[0][SYMBOLS].numpy(), frequency[b][SUBCARRIERS].numpy()
        c = np.kron(t @ t.conj().T, f @ f.conj().T) + no * np.eye(6)
        k = np.block([[c.real, -c.imag], [c.imag, c.real]]) / 2
        density += weight * multivariate_normal(np.zeros(12), k).pdf(np.concatenate([y.real, y.imag]))
    assert float(mixture.posterior(x, no)[1]) == pytest.approx(math.log(density), abs=1e-10)


def test_a_component_without_weight_does_not_exist(generator: torch.Generator) -> None:
    time, frequency = draw(generator, 3, 5, 2), draw(generator, 2, 10, 3)
    x = draw(generator, 6, 1, 2, 3)
    weights = torch.tensor([[0.0, -math.inf], [0.0, -math.inf], [-math.inf, -math.inf]])
    full = SeparableMixture(time, frequency, weights, SYMBOLS, SUBCARRIERS)(x, 0.3)
    part = SeparableMixture(time[:2], frequency[:1], torch.zeros(2, 1), SYMBOLS, SUBCARRIERS)(x, 0.3)
    torch.testing.assert_close(full.mean, part.mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(full.variance, part.variance, rtol=1e-11, atol=1e-11)
    assert bool((full.log_posterior[:, 2] == -math.inf).all())


def tdl_mixture(grid: OFDMGrid, scale: float = 1.0) -> tuple[SeparableMixture, torch.Tensor, torch.Tensor]:
    model = TDL("A", delay_spread=100e-9, max_doppler=1.0)
    spreads = torch.tensor([30e-9, 100e-9, 250e-9], dtype=torch.float64)
    dopplers = torch.tensor([0.0, 50.0, 400.0, 1200.0], dtype=torch.float64)
    frequency = model.covariance_terms(grid, delay_spread=spreads)[0].frequency * scale
    time = model.covariance_terms(grid, max_doppler=dopplers)[0].time
    where = (torch.tensor([2, 5, 8, 11]), torch.arange(0, grid.num_subcarriers, 3))
    return SeparableMixture(time, frequency, torch.zeros(4, 3), *where), time, frequency


def observe(
    time: torch.Tensor, frequency: torch.Tensor, no: float, generator: torch.Generator, count: int = 30
) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels of all components in turn and their noisy pilots, in double precision."""
    a, b = torch.arange(count) % len(time), torch.arange(count) % len(frequency)
    white = complex_normal((count, time.shape[-1], frequency.shape[-1]), generator=generator, dtype=DOUBLE)
    h = time[a] @ white @ frequency[b].mT
    seen = h[:, 2:12:3, ::3]
    return h[:, None], (seen + complex_normal(seen.shape, no, generator=generator, dtype=DOUBLE))[:, None]


GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=60, subcarrier_spacing=15e3)


def test_few_points_carry_the_variance_of_all_subcarriers(generator: torch.Generator) -> None:
    """A band-limited spread is evaluated at a third of the subcarriers; dense filters give the same everywhere."""
    mixture, time, frequency = tdl_mixture(GRID)
    assert len(mixture.points) < 25
    _, x = observe(time, frequency, 1e-3, generator, 2)
    _, variance, log_posterior = mixture(x, 1e-3)
    flat = torch.arange(14 * 60).reshape(14, 60)[2:12:3, ::3].flatten()
    means, errors = [], []
    for factor in time:
        for other in frequency:
            r = torch.kron(factor @ factor.mH, other @ other.mH)
            w = torch.linalg.solve(r[flat][:, flat] + 1e-3 * torch.eye(len(flat)), r[flat]).mH
            means.append(x.flatten(1) @ w.mT)
            errors.append((r.diagonal() - (w * r[:, flat].conj()).sum(1)).real)
    p = log_posterior.exp().flatten(1).T[:, :, None]
    mean, error = torch.stack(means), torch.stack(errors)[:, None]
    want = (p * (error + (mean - (p * mean).sum(0)).abs().square())).sum(0)
    # The dense error is a difference of numbers near 1 in double precision, hence 1e-9 absolute on 1e-3.
    torch.testing.assert_close(variance.reshape(want.shape), want, rtol=1e-6, atol=1e-9)


def test_points_determine_squared_magnitudes(generator: torch.Generator) -> None:
    tones = torch.outer(torch.arange(60, dtype=torch.float64), torch.arange(5, dtype=torch.float64) / 60)
    basis = torch.exp(-2j * math.pi * tones) / math.sqrt(60)
    points, spreading = sampling(basis, torch.ones(5, dtype=torch.float64))
    assert len(points) == 9  # five neighbouring tones: differences from -4 to 4
    power = (basis @ draw(generator, 5, 7)).abs().square()
    torch.testing.assert_close(spreading @ power[points], power, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("snr_db", [0.0, 40.0, 70.0])
def test_single_precision_holds(snr_db: float, generator: torch.Generator) -> None:
    """At high SNR likelihoods are sums of squares of small modes; nothing is subtracted, so single precision will do."""
    mixture, time, frequency = tdl_mixture(GRID)
    no = 10 ** (-snr_db / 10)
    _, x = observe(time, frequency, no, generator)
    fine, coarse = mixture(x, no), mixture(x.to(torch.complex64), no)
    assert coarse.mean.dtype == torch.complex64 and coarse.variance.dtype == torch.float32
    # Rounding y to single precision is noise of 1e-15: at 70 dB an error of 1e-8 in |y|^2 / no for each of 80 pilots.
    torch.testing.assert_close(coarse.log_posterior.exp().double(), fine.log_posterior.exp(), rtol=0, atol=2e-3)
    error = (coarse.mean - fine.mean).abs().square().mean() / fine.variance.mean()
    assert float(error) < 1e-5
    torch.testing.assert_close(coarse.variance.double(), fine.variance, rtol=2e-2, atol=0)


@pytest.mark.parametrize("amplitude", [1e-8, 1e6])
def test_path_loss_changes_nothing(amplitude: float, generator: torch.Generator) -> None:
    mixture, time, frequency = tdl_mixture(GRID)
    scaled, _, _ = tdl_mixture(GRID, amplitude)
    _, x = observe(time, frequency, 1e-2, generator)
    x = x.to(torch.complex64)
    want, got = mixture(x, 1e-2), scaled(x * amplitude, 1e-2 * amplitude**2)
    torch.testing.assert_close(got.mean / amplitude, want.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got.variance / amplitude**2, want.variance, rtol=1e-3, atol=0)


def test_chunks_do_not_change_the_result(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, time, frequency = tdl_mixture(GRID)
    _, x = observe(time, frequency, 1e-2, generator)
    no = torch.logspace(-3, 0, len(x), dtype=torch.float64)
    want = mixture(x, no)
    monkeypatch.setattr(mixture_products, "_BYTES", {"cpu": 2**17, "cuda": 2**17})
    for got, expected in zip(mixture(x, no), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_limits_of_noise(generator: torch.Generator) -> None:
    mixture, time, frequency = tdl_mixture(GRID)
    h, x = observe(time, frequency, 0.0, generator)
    exact = mixture(x, 0.0)
    assert float((exact.mean - h)[..., 2:12:3, ::3].abs().square().mean()) < 1e-9
    assert float(exact.variance.min()) > 0
    nothing = mixture(x, 1e12)
    assert float(nothing.mean.abs().max()) < 1e-9
    torch.testing.assert_close(nothing.log_posterior.exp(), torch.full((30, 4, 3), 1 / 12, dtype=torch.float64))
    torch.testing.assert_close(nothing.variance, torch.ones_like(nothing.variance), rtol=1e-6, atol=0)  # TDL has unit power


def test_gradients(generator: torch.Generator) -> None:
    time, frequency = draw(generator, 2, 5, 2), draw(generator, 2, 10, 3)
    mixture = SeparableMixture(time, frequency, torch.zeros(2, 2), SYMBOLS, SUBCARRIERS)
    x = draw(generator, 2, 1, 2, 3).requires_grad_(True)
    no = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, no: mixture(x, no)[:2], (x, no), fast_mode=True)


def test_bad_input(generator: torch.Generator) -> None:
    time, frequency = draw(generator, 2, 5, 2), draw(generator, 3, 10, 3)
    good = {"time_factors": time, "frequency_factors": frequency, "log_weights": torch.zeros(2, 3)}
    where = {"pilot_symbols": SYMBOLS, "pilot_subcarriers": SUBCARRIERS}
    for change, kind in (
        ({"log_weights": torch.zeros(3, 2)}, ShapeError),
        ({"log_weights": torch.full((2, 3), -math.inf)}, InvalidValueError),
        ({"log_weights": torch.full((2, 3), math.nan)}, InvalidValueError),
        ({"scales": torch.tensor([1.0, 0.0])}, InvalidValueError),
        ({"scales": torch.tensor([1.0])}, ShapeError),  # the weights lack an axis for it
        ({"time_factors": [time[0], time[1, :4]]}, ShapeError),
        ({"time_factors": time * math.nan}, InvalidValueError),
        ({"frequency_factors": frequency * 0}, InvalidValueError),
        ({"frequency_factors": []}, ShapeError),
    ):
        with pytest.raises(kind) as caught:
            SeparableMixture(**(good | where | change))
        assert "\n" not in str(caught.value)
    mixture = SeparableMixture(**good, **where)
    x = draw(generator, 4, 1, 2, 3)
    for bad, no, kind in (
        (x[0], 0.1, ShapeError),
        (x[..., :2], 0.1, ShapeError),
        (x.real, 0.1, InvalidTypeError),
        (x, -0.1, InvalidValueError),
        (x, torch.ones(3), ShapeError),
    ):
        with pytest.raises(kind):
            mixture(bad, no)
