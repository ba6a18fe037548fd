"""Bussgang gain, power and covariance behind converters: closed forms, Monte Carlo, structure, limits, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import QuantizedPilots, Quantizer, arcsine_law
from wichan.random import complex_normal

INF = math.inf


def identity(size: int, num_bits: object = 1, **options: object) -> QuantizedPilots:
    return QuantizedPilots(torch.eye(size, dtype=torch.complex128), num_bits, **options)


def random_covariance(
    size: int, generator: torch.Generator, lead: tuple[int, ...] = (), rank: int | None = None
) -> torch.Tensor:
    """Wishart: variances that differ."""
    root = complex_normal((*lead, size, rank or size), generator=generator, dtype=torch.complex128)
    return root @ root.mH / (rank or size)


def correlation_of(cov: torch.Tensor) -> torch.Tensor:
    root = cov.diagonal(dim1=-2, dim2=-1).real.sqrt()
    return cov / (root[..., :, None] * root[..., None, :])


# -- Closed forms. --


def test_arcsine_law_of_two() -> None:
    x = torch.tensor([0.5, 0.5j, -0.5, -1.0, 1j, 0.3 - 0.7j], dtype=torch.complex128)
    want = torch.tensor([1 / 3, 1j / 3, -1 / 3, -1, 1j, 0], dtype=torch.complex128)
    want[-1] = complex(math.asin(0.3), -math.asin(0.7)) * 2 / math.pi
    torch.testing.assert_close(arcsine_law(x), want, atol=1e-15, rtol=0)
    assert arcsine_law(torch.tensor(1.0000001 + 0j, dtype=torch.complex64)) == 1  # what rounding left beyond 1


def test_one_bit_covariance_is_the_arcsine_law_with_unit_diagonal(generator: torch.Generator) -> None:
    cov = random_covariance(7, generator, (3,))
    got = identity(7).output_covariance(cov, 0.1)
    # asin turns the last bit of a diagonal of 1 into 1e-8: there the law is set, not computed.
    want = arcsine_law(correlation_of(cov)).diagonal_scatter(torch.ones(3, 7, dtype=torch.complex128), dim1=-2, dim2=-1)
    torch.testing.assert_close(got, want, atol=1e-14, rtol=0)
    assert torch.equal(got.diagonal(dim1=-2, dim2=-1), torch.ones(3, 7, dtype=torch.complex128))


@pytest.mark.parametrize("kind", ["uniform", "lloyd-max"])
@pytest.mark.parametrize("num_bits", [1, 2, 3, 6, 12])
def test_gain_and_power_at_the_matched_input(kind: str, num_bits: int) -> None:
    obs = identity(2, num_bits, kind=kind)
    no = 0.25
    variance = torch.full((2,), 1 + no, dtype=torch.float64)
    left = 1 - Quantizer(num_bits, kind).distortion
    gain, power = obs.bussgang_gain(variance, no), obs.output_power(variance, no)
    if num_bits == 1:
        torch.testing.assert_close(gain, (2 / math.pi / variance).sqrt(), atol=1e-14, rtol=0)
        assert torch.equal(power, torch.ones(2, dtype=torch.float64))
    else:
        torch.testing.assert_close(gain, torch.full_like(gain, left), atol=1e-12, rtol=0)
        torch.testing.assert_close(power, left * variance, atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_gain_is_the_regression_of_output_on_input(num_bits: int) -> None:
    """b = E[Q(v) v] / E[v^2] and E|r|^2 = 2 E[Q(v)^2], by a fine midpoint rule over a real part, at unmatched variances."""
    obs = identity(3, num_bits, input_power=2.0)
    variance, no = torch.tensor([0.1, 2.3, 40.0], dtype=torch.float64), 0.3
    v = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    weight = torch.exp(-v.square() / 2) * (v[1] - v[0]) / math.sqrt(2 * math.pi)
    quantizer, scale = Quantizer(num_bits), obs.scale(no)
    assert scale == pytest.approx(math.sqrt(2.3 / 2))
    for i, c in enumerate(variance.tolist()):
        real = v * math.sqrt(c / 2)
        out = quantizer(real, scale)
        # A midpoint rule sees a jump to within half a step, 6e-6 of a standard deviation.
        assert float(obs.bussgang_gain(variance, no)[i]) == pytest.approx(
            float((out * real * weight).sum() / (c / 2)), rel=2e-5
        )
        assert float(obs.output_power(variance, no)[i]) == pytest.approx(2 * float((out.square() * weight).sum()), rel=2e-5)


# -- Monte Carlo. --


@pytest.mark.slow
@pytest.mark.parametrize("num_bits", [1, 2, 3, [1, 2, 3, INF, 2, 1]], ids=["1", "2", "3", "mixed"])
def test_covariances_equal_two_million_samples(num_bits: object, generator: torch.Generator) -> None:
    cov = 0.5 * random_covariance(6, generator) + 0.1 * torch.eye(6)
    obs, no, count, rounds = identity(6, num_bits), 0.1, 100_000, 20
    cov_y = obs.input_covariance(cov, no)
    variance = cov_y.diagonal().real
    assert float(variance.max() / variance.min()) > 2  # they differ
    root = torch.linalg.cholesky(cov)
    second, cross = torch.zeros_like(cov), torch.zeros_like(cov)
    for _ in range(rounds):
        h = complex_normal((count, 6), generator=generator, dtype=torch.complex128) @ root.mT
        r = obs.observe(h, no, generator=generator)
        second += r.mT @ r.conj() / (count * rounds)
        cross += r.mT @ h.conj() / (count * rounds)
    # Products have a standard deviation of at most 1, entries of 36 are compared: 3 / sqrt(2e6).
    bound = 3 / math.sqrt(count * rounds)
    assert float((second - obs.output_covariance(cov_y, no)).abs().max()) < bound
    assert float((cross - obs.bussgang_gain(variance, no)[:, None] * cov).abs().max()) < bound


# -- Limits, structure, methods. --


@pytest.mark.parametrize("equal", [True, False])
def test_many_bits_become_linear(equal: bool, generator: torch.Generator) -> None:
    cov = random_covariance(5, generator) + 0.2 * torch.eye(5)
    cov = correlation_of(cov) if equal else cov / cov.diagonal().real.mean()
    before = 1.0
    for num_bits in (2, 4, 6, 8):
        gap = float((identity(5, num_bits).output_covariance(cov, 0.0) - cov).abs().max())
        # Two bits more take 12 dB off granular distortion; overload, which rules above the assumed power, falls more slowly.
        assert gap < before / (4 if equal else 1.5)
        before = gap
    assert torch.equal(identity(5, INF).output_covariance(cov, 0.0), cov)


@pytest.mark.parametrize("kind", ["uniform", "lloyd-max"])
def test_mixed_rows_equal_uniform_ones_where_both_are_alike(kind: str, generator: torch.Generator) -> None:
    cov = random_covariance(6, generator) + 0.1 * torch.eye(6)
    mixed = identity(6, [1, 3, 1, 3, INF, INF], kind=kind).output_covariance(cov, 0.2)
    for num_bits, rows in ((1, [0, 2]), (3, [1, 3]), (INF, [4, 5])):
        alike = identity(6, num_bits, kind=kind).output_covariance(cov, 0.2)
        at = torch.tensor(rows)
        torch.testing.assert_close(mixed[at[:, None], at], alike[at[:, None], at], atol=1e-9, rtol=0)
    # A quantised and an unquantised measurement: E[r y*] = b E[y y*].
    gain = identity(6, 3, kind=kind).bussgang_gain(cov.diagonal().real, 0.2)
    torch.testing.assert_close(mixed[1, 4:], gain[1] * cov[1, 4:], atol=1e-12, rtol=0)


def test_circulant_and_toeplitz_stay_so(generator: torch.Generator) -> None:
    spectrum = torch.rand(12, generator=generator, dtype=torch.float64) + 0.05
    column = torch.fft.ifft(spectrum / spectrum.mean())
    index = (torch.arange(12)[:, None] - torch.arange(12)) % 12
    for num_bits in (1, 2, 4):
        out = identity(12, num_bits).output_covariance(column[index], 0.0)
        assert float((out - out[:, 0][index]).abs().max()) < 1e-12
        assert float(torch.fft.fft(out[:, 0]).real.min()) > 0


def test_repeated_pilots_take_the_path_of_few_variances(generator: torch.Generator) -> None:
    """Variances that take two values (two pilots) against the same entries one item at a time."""
    pilots = torch.tensor([0.6, 1.3j], dtype=torch.complex128)
    cov = correlation_of(random_covariance(40, generator, rank=4))
    obs = QuantizedPilots.from_sequence(pilots, 40, 3)
    cov_y = obs.input_covariance(cov, 0.05)
    whole = obs.output_covariance(cov_y, 0.05)
    pick = torch.tensor([0, 5, 39, 40, 62, 79])  # few entries: the series
    small = identity(6, 3, input_power=obs.input_power).output_covariance(cov_y[pick[:, None], pick], 0.05)
    torch.testing.assert_close(whole[pick[:, None], pick], small, atol=1e-9, rtol=0)


def test_white_and_scaled(generator: torch.Generator) -> None:
    cov = random_covariance(5, generator, (2,)) + 0.1 * torch.eye(5)
    variance = cov.diagonal(dim1=-2, dim2=-1).real
    for num_bits in (1, 2, 4):
        obs = identity(5, num_bits)
        gain, power = obs.bussgang_gain(variance, 0.1), obs.output_power(variance, 0.1)
        white = gain[..., :, None] * cov * gain[..., None, :]
        white = white - torch.diag_embed(white.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(power)
        torch.testing.assert_close(obs.output_covariance(cov, 0.1, "white"), white)
        beta = gain.mean(-1).clamp(0, 1)[:, None, None]
        scaled = beta**2 * cov + (1 - beta**2) * torch.diag_embed(variance)
        torch.testing.assert_close(obs.output_covariance(cov, 0.1, "scaled"), scaled)
    # At 8 bits the distortion is all but white: they differ by no more than its power.
    obs = identity(5, 8)
    gap = (obs.output_covariance(cov, 0.1) - obs.output_covariance(cov, 0.1, "white")).abs().max()
    assert float(gap) < 0.1 * Quantizer(8).distortion * float(variance.max())


BITS = st.lists(st.sampled_from([1, 2, 3, 5, INF]), min_size=4, max_size=4)


@given(
    st.one_of(st.sampled_from([1, 2, 3, 4]), BITS), st.sampled_from(["uniform", "lloyd-max"]), st.integers(0, 10**6), st.data()
)
def test_hermitian_and_positive(num_bits: object, kind: str, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = data.draw(st.integers(1, 4))
    no = data.draw(st.sampled_from([0.0, 1e-6, 0.01, 1.0, 100.0]))
    obs = identity(4, num_bits, kind=kind)
    power = data.draw(st.sampled_from([1e-3, 1.0, 50.0]))  # also far from what the gain control assumes
    cov_y = obs.input_covariance(power * random_covariance(4, generator, (2,), rank), no)
    for method in ("exact", "white"):
        out = obs.output_covariance(cov_y, no, method)
        level = float(out.abs().max())
        assert bool(torch.isfinite(out.abs()).all())
        assert torch.equal(out, out.mH.resolve_conj()) or float((out - out.mH).abs().max()) < 1e-12 * level
        # Entries are exact to 1e-9 of the power that the gain control assumes.
        assert float(torch.linalg.eigvalsh(out).min()) > -1e-8 * max(level, 1 + no)
        # Distortion is what a linear function of y does not explain: it too has a covariance.
        gain = obs.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, no)
        distortion = out - gain[..., :, None] * cov_y * gain[..., None, :]
        assert float(torch.linalg.eigvalsh(distortion).min()) > -1e-8 * max(level, 1 + no)


# -- Batches, precision, degenerate input. --


@pytest.mark.parametrize("num_bits", [1, 3, [1, 2, 3, INF]], ids=["1", "3", "mixed"])
@pytest.mark.parametrize("method", ["exact", "white", "scaled"])
def test_leading_axes_and_noise_per_sample(num_bits: object, method: str, generator: torch.Generator) -> None:
    obs = identity(4, num_bits, dither_power=0.05)
    cov = random_covariance(4, generator, (3, 2))
    no = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    cov_y = obs.input_covariance(cov, no)
    whole = obs.output_covariance(cov_y, no, method)
    for i in range(3):
        for j in range(2):
            alone = obs.output_covariance(obs.input_covariance(cov[i, j], float(no[i])), float(no[i]), method)
            torch.testing.assert_close(whole[i, j], alone, atol=1e-9, rtol=0)
    # One covariance, many noise levels.
    wide = obs.output_covariance(obs.input_covariance(cov[0, 0], no), no, method)
    assert wide.shape == (3, 4, 4)
    assert obs.output_covariance(cov_y[0, 0], no, method).shape == (3, 4, 4)
    assert obs.bussgang_gain(torch.ones(4), no.float()).shape == obs.output_power(torch.ones(4), no.float()).shape == (3, 4)
    assert obs.output_covariance(cov_y[:0], no[:0], method).shape == (0, 2, 4, 4)


@pytest.mark.parametrize("num_bits", [1, 3])
def test_single_precision(num_bits: int, generator: torch.Generator) -> None:
    obs = identity(6, num_bits)
    cov = random_covariance(6, generator) + 0.1 * torch.eye(6)
    for one in (cov, correlation_of(cov)):
        low = obs.output_covariance(one.to(torch.complex64), 0.1)
        assert low.dtype == torch.complex64
        torch.testing.assert_close(low.to(torch.complex128), obs.output_covariance(one, 0.1), atol=2e-6, rtol=0)
    assert obs.bussgang_gain(torch.ones(6), 0.1).dtype == torch.float32


def test_large_batches_in_passes_equal_small_ones(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = identity(5, 3)
    cov = random_covariance(5, generator, (9,)) + 0.1 * torch.eye(5)
    no = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    whole = obs.output_covariance(cov, no)
    monkeypatch.setattr("wichan.observations.quantizer_bank._CHUNK", 60)
    torch.testing.assert_close(obs.output_covariance(cov, no), whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("num_bits", [1, 2, 3])
def test_silent_antennas_and_twins_without_noise_stay_finite(num_bits: int) -> None:
    obs = identity(3, num_bits)
    cov = torch.zeros(3, 3, dtype=torch.complex128)
    cov[:2, :2] = 1.0  # two copies of one antenna, and one that hears nothing
    out = obs.output_covariance(cov, 0.0)
    assert bool(torch.isfinite(out.abs()).all())
    torch.testing.assert_close(out[0, 1], out[0, 0], atol=1e-9, rtol=0)
    assert out[0, 2] == 0
    assert bool(torch.isfinite(obs.bussgang_gain(torch.zeros(3), 0.0)).all())
    everything = obs.output_covariance(torch.zeros(3, 3, dtype=torch.complex128), 0.0)
    assert bool(torch.isfinite(everything.abs()).all())


@pytest.mark.parametrize("method", ["exact", "white", "scaled"])
@pytest.mark.parametrize("num_bits", [1, 2, [1, 3, INF]], ids=["1", "2", "mixed"])
@pytest.mark.parametrize("equal", [True, False])
def test_gradients(num_bits: object, method: str, equal: bool, generator: torch.Generator) -> None:
    obs = identity(3, num_bits)
    cov = random_covariance(3, generator) + 0.2 * torch.eye(3)
    cov = (correlation_of(cov) if equal else cov).requires_grad_()
    no = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # A step breaks equal variances and so changes from table to series: 1e-10 / 1e-5, and as much for the curvature.
    assert torch.autograd.gradcheck(lambda c, n: obs.output_covariance(c, n, method), (cov, no), eps=1e-5, atol=1e-4)


@pytest.mark.parametrize("num_bits", [1, 2])
def test_gradients_of_twins_are_finite(num_bits: int) -> None:
    cov = torch.ones(2, 2, dtype=torch.complex128, requires_grad=True)
    identity(2, num_bits).output_covariance(cov, 0.0).real.sum().backward()
    assert cov.grad is not None and bool(torch.isfinite(cov.grad.abs()).all())


C = torch.eye(3, dtype=torch.complex128)
V = torch.ones(3)
OBS = identity(3, 2)
BAD = [
    (lambda: OBS.output_covariance(C, 0.1, "exakt"), UnknownNameError, "method='exakt' is unknown; did you mean 'exact'"),
    (lambda: OBS.output_covariance(C[:2], 0.1), ShapeError, r"cov_y has shape \(2, 3\); the last axes must be \(3, 3\)"),
    (lambda: OBS.output_covariance(C.real, 0.1), InvalidTypeError, "cov_y has dtype torch.float64"),
    (lambda: OBS.output_covariance(C * math.nan, 0.1), InvalidValueError, "cov_y holds"),
    (lambda: OBS.output_covariance(-C, 0.1), InvalidValueError, "cov_y has the variance -1; a variance must be at least 0"),
    (lambda: OBS.output_covariance(C, -0.1), InvalidValueError, "no=-0.1 must be at least 0"),
    (lambda: OBS.output_covariance(C.expand(4, 3, 3), torch.ones(5)), ShapeError, r"no has shape \(5,\)"),
    (lambda: OBS.bussgang_gain(V[:2], 0.1), ShapeError, r"variance has shape \(2,\)"),
    (lambda: OBS.bussgang_gain(-V, 0.1), InvalidValueError, "variance has the variance -1"),
    (lambda: OBS.bussgang_gain(V * math.nan, 0.1), InvalidValueError, "variance holds 3 NaN"),
    (lambda: OBS.output_power(V * 1j, 0.1), InvalidTypeError, "variance has dtype torch.complex64"),
    (lambda: OBS.output_power(V, "0.1"), InvalidTypeError, "no='0.1' must be a number"),
    (lambda: OBS.input_covariance(C[:2, :2], 0.1), ShapeError, r"cov_h has shape \(2, 2\)"),
    (lambda: OBS.input_covariance(C.real, 0.1), InvalidTypeError, "cov_h has dtype torch.float64"),
    (lambda: OBS.scale(-1.0), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: OBS.noise_power(torch.tensor([-1.0])), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: arcsine_law(V), InvalidTypeError, "correlation has dtype torch.float32"),
    (lambda: arcsine_law(C * math.nan), InvalidValueError, "correlation holds"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_statistics_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
