"""Scalar quantisers: optimal designs against minimisation and published tables, levels, gradients and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import Quantizer
from wichan.random import complex_normal

# Optimal steps and distortions of the uniform mid-rise quantiser at unit variance (recomputed from Max 1960), 6 digits.
UNIFORM = {
    1: (1.595769, 0.363380),
    2: (0.995687, 0.118846),
    3: (0.586019, 0.037440),
    4: (0.335201, 0.0115429),
    5: (0.188139, 0.0034952),
    6: (0.104063, 0.0010400),
    7: (0.056868, 3.0433e-4),
    8: (0.030762, 8.769e-5),
}
# Positive labels, non-negative thresholds and distortion of Lloyd-Max quantisers.
LLOYD_MAX = {
    2: ([0.452780, 1.510418], [0.0, 0.981599], 0.117482),
    3: ([0.245094, 0.756005, 1.343909, 2.151946], [0.0, 0.500550, 1.049957, 1.747927], 0.034548),
}


def distortion(thresholds: np.ndarray, labels: np.ndarray) -> float:
    """E(v - Q(v))^2 of a unit Gaussian by adaptive quadrature, cell by cell: another way than the library's sums."""
    edges = [-12.0, *thresholds, 12.0]
    density = lambda v: math.exp(-(v**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    cells = zip(edges[:-1], edges[1:], labels, strict=True)
    return sum(quad(lambda v, level=level: (v - level) ** 2 * density(v), low, high)[0] for low, high, level in cells)


@pytest.mark.parametrize("num_bits", UNIFORM)
def test_uniform_design_equals_the_table(num_bits: int) -> None:
    step, least = UNIFORM[num_bits]
    quantizer = Quantizer(num_bits)
    assert quantizer.step == pytest.approx(step, abs=6e-7)  # half a unit of the sixth digit
    assert quantizer.distortion == pytest.approx(least, rel=6e-5)  # half a unit of the last digit above


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4, 5])
def test_uniform_design_is_a_minimum_by_quadrature(num_bits: int) -> None:
    level = np.arange(2**num_bits) - 2 ** (num_bits - 1) + 0.5

    def cost(step: float) -> float:
        return distortion((np.arange(1, 2**num_bits) - 2 ** (num_bits - 1)) * step, level * step)

    found = minimize_scalar(cost, bracket=(0.5 * UNIFORM[num_bits][0], UNIFORM[num_bits][0]), tol=1e-10)
    # A minimiser sees a step no better than the root of the rounding of the cost.
    assert Quantizer(num_bits).step == pytest.approx(found.x, rel=1e-6)
    assert Quantizer(num_bits).distortion == pytest.approx(found.fun, abs=1e-10)


@pytest.mark.parametrize("kind", ["uniform", "lloyd-max"])
@pytest.mark.parametrize("num_bits", range(2, 13))
def test_power_equals_correlation_at_the_optimum(kind: str, num_bits: int) -> None:
    from scipy.special import erfc

    quantizer = Quantizer(num_bits, kind)
    tau, labels = quantizer.thresholds.numpy(), quantizer.labels.numpy()
    edges = np.concatenate([[-np.inf], tau, [np.inf]])
    upper = erfc(edges / math.sqrt(2)) / 2
    power = float(np.sum(labels**2 * (upper[:-1] - upper[1:])))
    correlation = float(np.sum(np.diff(labels) * np.exp(-(tau**2) / 2)) / math.sqrt(2 * math.pi))
    # The stationarity condition E[Q^2] = E[v Q]; sums of up to 4096 rounded terms.
    assert power == pytest.approx(correlation, abs=1e-12)
    assert 1 - quantizer.distortion == pytest.approx(correlation, abs=1e-12)


@pytest.mark.parametrize("num_bits", LLOYD_MAX)
def test_lloyd_max_equals_the_table(num_bits: int) -> None:
    labels, thresholds, least = LLOYD_MAX[num_bits]
    quantizer = Quantizer(num_bits, "lloyd-max")
    half = 2 ** (num_bits - 1)
    np.testing.assert_allclose(quantizer.labels[half:], labels, atol=6e-7)  # half a unit of the sixth digit
    np.testing.assert_allclose(quantizer.thresholds[half - 1 :], thresholds, atol=6e-7)
    assert quantizer.distortion == pytest.approx(least, abs=6e-7)
    assert quantizer.distortion < Quantizer(num_bits).distortion


@pytest.mark.parametrize("num_bits", [2, 5, 8, 12])
def test_lloyd_max_is_a_fixed_point(num_bits: int) -> None:
    quantizer = Quantizer(num_bits, "lloyd-max")
    tau, labels = quantizer.thresholds.numpy(), quantizer.labels.numpy()
    np.testing.assert_allclose(tau, (labels[1:] + labels[:-1]) / 2, atol=1e-15)
    np.testing.assert_allclose(labels, -labels[::-1])
    density = lambda v: math.exp(-(v**2) / 2)  # noqa: E731
    edges = [-12.0, *tau, 12.0]
    for i in range(0, 2**num_bits, max(1, 2**num_bits // 16)):
        centroid = quad(lambda v: v * density(v), edges[i], edges[i + 1])[0] / quad(density, edges[i], edges[i + 1])[0]
        assert labels[i] == pytest.approx(centroid, abs=1e-10)


def test_distortion_falls_by_almost_six_db_a_bit() -> None:
    for kind in ("uniform", "lloyd-max"):
        values = [Quantizer(b, kind).distortion for b in range(1, 13)]
        ratios = [a / b for a, b in zip(values[:-1], values[1:], strict=True)]
        assert all(2.5 < ratio < 4 for ratio in ratios)
    # High resolution (Panter and Dite): pi sqrt(3) / 2 / 4^B for the best quantiser; the next order is O(2^-B).
    assert Quantizer(12, "lloyd-max").distortion == pytest.approx(math.pi * math.sqrt(3) / 2 / 4**12, rel=2e-3)


# -- What comes out. --


def test_one_bit_is_a_sign_of_modulus_one_at_any_scale() -> None:
    x = torch.tensor([0.0 + 0.0j, -0.0 - 3.0j, 1e-30 - 1e-30j], dtype=torch.complex128)
    want = torch.tensor([1 + 1j, 1 - 1j, 1 - 1j], dtype=torch.complex128) / math.sqrt(2)
    for scale in (1e-3, 1.0, torch.tensor(7.0)):
        assert torch.equal(Quantizer(1)(x, scale), want)
        assert torch.equal(Quantizer(1, "lloyd-max")(x, scale), want)


@pytest.mark.parametrize("kind", ["uniform", "lloyd-max"])
@pytest.mark.parametrize("num_bits", [2, 3, 6])
def test_levels_equal_a_search(kind: str, num_bits: int, generator: torch.Generator) -> None:
    quantizer = Quantizer(num_bits, kind)
    x = complex_normal((50, 3), generator=generator, dtype=torch.complex128)
    scale = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    got = quantizer(x, scale)
    labels, tau = quantizer.labels.numpy(), quantizer.thresholds.numpy()
    for part, of in ((got.real, x.real), (got.imag, x.imag)):
        want = scale.numpy() * labels[np.searchsorted(tau, (of / scale).numpy(), side="right")]
        np.testing.assert_array_equal(part.numpy(), want)
    assert quantizer(x.real, scale).equal(got.real)
    assert len(got.real[:, 0].unique()) <= 2**num_bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("num_bits", [1, 3, math.inf])
def test_dtype_shape_and_layout_are_kept(num_bits: float, dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 12).reshape(3, 4).to(dtype)
    for view in (x, x.mT, x[:, ::2], x.conj(), x[0, 0], x[:0]):
        out = Quantizer(num_bits)(view)
        assert (out.dtype, out.shape) == (dtype, view.shape)
        assert torch.equal(out, Quantizer(num_bits)(view.clone().resolve_conj()))


def test_infinite_resolution_is_the_identity() -> None:
    quantizer = Quantizer(math.inf)
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert quantizer(x, 3.0) is x
    assert (quantizer.distortion, quantizer.step, quantizer.thresholds.numel(), quantizer.labels.numel()) == (0.0, 0.0, 0, 0)


@pytest.mark.parametrize("num_bits", [1, 2, math.inf])
def test_gradient_is_straight_through(num_bits: float, generator: torch.Generator) -> None:
    x = complex_normal((20,), generator=generator).requires_grad_()
    quantizer = Quantizer(num_bits)
    out = quantizer(x, 0.5)
    assert torch.equal(out.detach(), quantizer(x.detach(), 0.5))  # the value is not touched
    weight = complex_normal((20,), generator=generator)
    (grad,) = torch.autograd.grad((out * weight.conj()).real.sum(), x)
    assert torch.equal(grad, weight)


@given(st.integers(1, 12), st.sampled_from(["uniform", "lloyd-max"]), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_odd_monotone_and_idempotent(num_bits: int, kind: str, scale: float, seed: int) -> None:
    quantizer = Quantizer(num_bits, kind)
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    out = quantizer(x, scale)
    assert torch.equal(quantizer(-x, scale), -out)  # no draw hits a threshold
    assert bool((out[x.argsort()].diff() >= 0).all())
    if num_bits > 1:
        assert torch.equal(quantizer(out, scale), out)
        # A sample beyond the outermost threshold takes the outermost label, every other one the nearest.
        nearest = (quantizer.labels * scale)[(x[:, None] - quantizer.labels * scale).abs().argmin(-1)]
        assert torch.equal(out, nearest)


X = torch.ones(2, 3)
BAD = [
    (lambda: Quantizer(0), InvalidValueError, "num_bits=0 must be at least 1"),
    (lambda: Quantizer(13), InvalidValueError, "num_bits=13 must be at most 12"),
    (lambda: Quantizer(2.0), InvalidTypeError, "num_bits=2.0 must be an integer"),
    (lambda: Quantizer(math.nan), InvalidTypeError, "num_bits=nan must be an integer"),
    (lambda: Quantizer(-math.inf), InvalidTypeError, "num_bits=-inf must be an integer"),
    (lambda: Quantizer(True), InvalidTypeError, "num_bits=True must be an integer"),
    (lambda: Quantizer(2, "lloyd"), UnknownNameError, "kind='lloyd' is unknown; did you mean 'lloyd-max'"),
    (lambda: Quantizer(2)(X.long()), InvalidTypeError, "x has dtype torch.int64"),
    (lambda: Quantizer(2)(X.half()), InvalidTypeError, "x has dtype torch.float16"),
    (lambda: Quantizer(2)(X * math.nan), InvalidValueError, "x holds 6 NaN or infinite of 6 values"),
    (lambda: Quantizer(2)(X * math.inf), InvalidValueError, "x holds 6 NaN or infinite of 6 values"),
    (lambda: Quantizer(2)([1.0]), InvalidTypeError, "x must be a torch.Tensor, got list"),
    (lambda: Quantizer(2)(X, 0.0), InvalidValueError, "scale=0 must be greater than 0"),
    (lambda: Quantizer(2)(X, torch.tensor([1.0, -1.0, 1.0])), InvalidValueError, "scale=-1 must be greater than 0"),
    (lambda: Quantizer(2)(X, math.nan), InvalidValueError, "scale holds 1 NaN"),
    (lambda: Quantizer(2)(X, torch.ones(2)), ShapeError, r"scale has shape \(2,\); it must broadcast to x of shape \(2, 3\)"),
    (lambda: Quantizer(2)(X, torch.ones(4, 2, 3)), ShapeError, r"scale has shape \(4, 2, 3\)"),
    (lambda: Quantizer(2)(X, "1"), InvalidTypeError, "scale must be a number or a real tensor, got str"),
    (lambda: Quantizer(2)(X, torch.ones(3) * 1j), InvalidTypeError, "scale must be a number or a real tensor"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_tables_cannot_be_spoilt() -> None:
    Quantizer(2).labels.zero_()
    assert float(Quantizer(2).labels[-1]) > 1
