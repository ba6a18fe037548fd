"""Pilots behind coarse converters: what is observed, matrices, pilots, and the errors that closed forms predict from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import DensePilots, QuantizedPilots, Quantizer, pilot_sequence
from wichan.random import complex_normal

INF = math.inf
DOUBLE = torch.complex128


def linear_error(obs: QuantizedPilots, cov: torch.Tensor, no: float, method: str = "exact") -> float:
    """Predicted squared error of the linear estimator for CN(0, cov), per element: tr(C - W B A C) / N."""
    cov_y = obs.input_covariance(cov, no)
    gain = obs.bussgang_gain(cov_y.diagonal().real, no)
    cross = gain[:, None] * (obs.matrix().to(DOUBLE) @ cov)  # E[r h^H]
    left = cov - cross.mH @ torch.linalg.solve(obs.output_covariance(cov_y, no, method), cross)
    return float(left.diagonal().real.mean())


def scalar(num_pilots: int, num_bits: float = 1, kind: str = "angle", **options: object) -> QuantizedPilots:
    return QuantizedPilots.from_sequence(pilot_sequence(num_pilots, kind), 1, num_bits, **options)


ONE = torch.ones(1, 1, dtype=DOUBLE)


def no_at(snr_db: float) -> float:
    return 10 ** (-snr_db / 10)


# -- What closed forms say of the statistics. --


@pytest.mark.parametrize("num_bits", [1, 2, 3, 8, INF])
def test_scalar_error(num_bits: float) -> None:
    for snr_db in (-10, 0, 20):
        want = 1 - (1 - Quantizer(num_bits).distortion) / (1 + no_at(snr_db))
        assert linear_error(scalar(1, num_bits), ONE, no_at(snr_db)) == pytest.approx(want, abs=1e-12)
    assert linear_error(scalar(1, num_bits), ONE, 0.0) == pytest.approx(Quantizer(num_bits).distortion, abs=1e-12)


def test_scalar_error_of_one_bit_equals_published_values() -> None:
    got = [linear_error(scalar(1), ONE, no_at(snr)) for snr in range(-10, 21, 5)]
    np.testing.assert_allclose(got, [0.9421, 0.8471, 0.6817, 0.5163, 0.4213, 0.3829, 0.3697], atol=5.1e-5)  # four digits


def test_error_of_the_unbiased_inverse() -> None:
    """h_hat = r / b has the error E|r|^2/b^2 - 1 for unit variance."""
    got = {}
    for num_bits in (1, 2, 3):
        obs = scalar(1, num_bits)
        for snr in (-10, -5, 0, 5, 10, 15, 20):
            variance = torch.full((1,), 1 + no_at(snr), dtype=torch.float64)
            b, power = obs.bussgang_gain(variance, no_at(snr)), obs.output_power(variance, no_at(snr))
            got[num_bits, snr] = float(power / b.square()) - 1
            want = (1 + no_at(snr)) / (1 - Quantizer(num_bits).distortion) - 1
            assert got[num_bits, snr] == pytest.approx(want, abs=1e-12)
    published = [16.279, 5.538, 2.142, 1.0675, 0.7279, 0.6205, 0.5865]
    np.testing.assert_allclose([got[1, s] for s in (-10, -5, 0, 5, 10, 15, 20)], published, rtol=2.5e-4)  # four to five digits
    assert got[2, 10] == pytest.approx(0.2484, abs=5e-5) and got[3, 10] == pytest.approx(0.1428, abs=5e-5)


PILOTS = {
    1: (0.68169, 0.42125, 0.36968, 0.36338),
    2: (0.51966, 0.28927, 0.25768, 0.25415),
    4: (0.35825, 0.22175, 0.22328, 0.22464),
    8: (0.22865, 0.18422, 0.21095, 0.21712),
    64: (0.06311, 0.14830, 0.20109, 0.21464),
}


@pytest.mark.parametrize("num_pilots", PILOTS)
def test_many_pilots_of_one_bit_equal_published_values(num_pilots: int) -> None:
    got = [linear_error(scalar(num_pilots), ONE, no) for no in (1.0, 0.1, 0.01, 0.0)]
    np.testing.assert_allclose(got, PILOTS[num_pilots], atol=5.1e-6)  # five digits


def test_many_pilots_with_amplitudes_and_the_limit() -> None:
    for num_pilots, want in ((2, 0.30156), (4, 0.22313), (8, 0.18247)):
        assert linear_error(scalar(num_pilots, kind="angle_amp"), ONE, 0.1) == pytest.approx(want, abs=5.1e-6)  # five digits
    # Without noise the error tends to 1 - pi/4, with a remainder of O(1/P^2).
    assert linear_error(scalar(512), ONE, 0.0) == pytest.approx(1 - math.pi / 4, abs=1e-5)


def test_noise_helps_one_bit_and_hurts_linear_pilots() -> None:
    grid = range(-10, 41, 5)
    one_bit = [linear_error(scalar(8), ONE, no_at(snr)) for snr in grid]
    least = int(np.argmin(one_bit))
    assert 0 < least < len(one_bit) - 1  # not monotone
    for curve in (
        [linear_error(scalar(8, INF), ONE, no_at(snr)) for snr in grid],
        [linear_error(scalar(1), ONE, no_at(snr)) for snr in grid],
    ):
        assert bool((np.diff(curve) < 0).all())


def one_cluster(size: int, angle: float, spread: float) -> torch.Tensor:
    """Toeplitz covariance of a half-wavelength array under a Laplace spectrum of angles, by a midpoint rule."""
    offset = np.linspace(-12 * spread, 12 * spread, 4001)
    weight = np.exp(-np.abs(offset) * math.sqrt(2) / spread)
    steering = np.exp(1j * np.pi * np.arange(size)[:, None] * np.sin(angle + offset))
    return torch.from_numpy((steering * (weight / weight.sum())) @ steering.conj().T)


def test_eight_bits_are_close_to_linear() -> None:
    """Mean errors over 40 angles at N = 32 relative to infinite resolution: 1.0001, 1.0008, 1.008 at 0, 10, 20 dB (white)."""
    angles = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * math.pi - math.pi / 2
    covariances = [one_cluster(32, float(angle), math.radians(2)) for angle in angles]
    eye = torch.eye(32, dtype=DOUBLE)
    fine, ideal = QuantizedPilots(eye, 8), QuantizedPilots(eye, INF)
    for snr, excess, digit in ((0, 1e-4, 1e-4), (10, 8e-4, 1e-4), (20, 8e-3, 1e-3)):
        white = [linear_error(fine, cov, no_at(snr), "white") for cov in covariances]
        linear = [linear_error(ideal, cov, no_at(snr)) for cov in covariances]
        assert sum(white) / sum(linear) - 1 == pytest.approx(excess, abs=0.51 * digit)  # half of the last digit
        # White distortion leaves a little out (a quarter of the excess at 20 dB), and never promises too much error.
        exact = sum(linear_error(fine, cov, no_at(snr)) for cov in covariances[:8]) / sum(linear[:8]) - 1
        assert 1 < exact / (sum(white[:8]) / sum(linear[:8]) - 1) < 1.4


# -- Dither. --


def test_dither_improves_one_bit_at_high_snr() -> None:
    no = no_at(40)
    plain = linear_error(scalar(16), ONE, no)
    errors = {power: linear_error(scalar(16, dither_power=power), ONE, no) for power in (0.01, 0.1, 0.3, 3.0)}
    assert errors[0.1] < 0.8 * plain  # by more than 1 dB
    assert errors[3.0] > errors[0.3]  # too much is noise and nothing else
    # Dither is noise that the receiver added: the same statistics as noise of that variance.
    assert errors[0.1] == pytest.approx(linear_error(scalar(16), ONE, no + 0.1), abs=1e-12)
    # What one pilot can tell is not improved by more noise.
    assert linear_error(scalar(1, dither_power=0.1), ONE, no) > linear_error(scalar(1), ONE, no)


def test_simulated_error_with_dither_equals_the_prediction(generator: torch.Generator) -> None:
    no, count = no_at(40), 200_000
    for dither in (0.0, 0.1):
        obs = scalar(8, dither_power=dither)
        h = complex_normal((count, 1), generator=generator, dtype=DOUBLE)
        r = obs.observe(h, no, generator=generator)
        cov_y = obs.input_covariance(ONE, no)
        cross = obs.bussgang_gain(cov_y.diagonal().real, no)[:, None] * obs.matrix()
        weights = torch.linalg.solve(obs.output_covariance(cov_y, no), cross).mH
        error = (h - r @ weights.mT).abs().square()
        # Squared errors have a standard deviation below 0.5: three standard errors are 0.0034.
        assert float(error.mean()) == pytest.approx(linear_error(obs, ONE, no), abs=0.0034)


# -- The observation. --


@pytest.mark.parametrize("num_bits", [1, 3, INF, [1, 2, INF, 3, 1]], ids=["1", "3", "inf", "mixed"])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_observation_is_a_quantised_dense_one(num_bits: object, lead: tuple, generator: torch.Generator) -> None:
    matrix = complex_normal((5, 12), generator=generator)
    obs = QuantizedPilots(matrix, num_bits, channel_shape=(3, 2, 2))
    h = complex_normal((*lead, 3, 2, 2), generator=generator)
    no = 0.1 + torch.rand(lead[:1], generator=generator)
    got = obs.observe(h, no, generator=torch.Generator().manual_seed(1))
    y = DensePilots(matrix, (3, 2, 2)).observe(h, no, generator=torch.Generator().manual_seed(1))
    assert torch.equal(got, obs.quantize(y, no))
    assert (got.shape, got.dtype) == ((*lead, 5), torch.complex64)
    bits = num_bits if isinstance(num_bits, list) else [num_bits] * 5
    scale = obs.scale(no).reshape((*no.shape, *([1] * (len(lead) - no.dim()))))
    for m, resolution in enumerate(bits):
        assert torch.equal(got[..., m], Quantizer(resolution)(y[..., m], scale))
    assert torch.equal(obs.noiseless(h), obs.quantize(obs.project(h), 0.0))
    assert torch.equal(obs.extract(got), got)
    inner = (obs.project(h).conj() * got).sum(-1)
    torch.testing.assert_close(inner, (h.conj() * obs.adjoint(got)).flatten(len(lead)).sum(-1), atol=1e-4, rtol=1e-4)


def test_double_precision_and_gradients(generator: torch.Generator) -> None:
    obs = QuantizedPilots(complex_normal((3, 4), generator=generator), [1, 2, 3])
    h = complex_normal((2, 4), generator=generator, dtype=DOUBLE).requires_grad_()
    out = obs.observe(h, 0.1, generator=generator)
    assert out.dtype == DOUBLE
    weight = complex_normal((2, 3), generator=generator, dtype=DOUBLE)
    (grad,) = torch.autograd.grad((out * weight.conj()).real.sum(), h)
    torch.testing.assert_close(grad, obs.adjoint(weight))  # straight through the converters


def test_pilots_stack_pilot_by_pilot(generator: torch.Generator) -> None:
    pilots = complex_normal((2, 3), generator=generator, dtype=DOUBLE)
    obs = QuantizedPilots.from_sequence(pilots, 4, INF)
    h = complex_normal((5, 4, 2), generator=generator, dtype=DOUBLE)
    assert obs.channel_shape == (4, 2) and obs.num_measurements == 12
    want = torch.einsum("brt,tp->bpr", h, pilots).flatten(1)
    torch.testing.assert_close(obs.noiseless(h), want)
    assert torch.equal(obs.pilots, pilots)
    x = pilot_sequence(3)
    simo = QuantizedPilots.from_sequence(x, 4, 2, channel_shape=(4, 1, 1, 1))
    assert simo.channel_shape == (4, 1, 1, 1)
    torch.testing.assert_close(simo.matrix(), torch.kron(x[:, None].contiguous(), torch.eye(4)))
    assert torch.equal(simo.pilots, x[None])


def test_descriptions() -> None:
    eye = torch.eye(4, dtype=DOUBLE)
    obs = QuantizedPilots(eye, [1, 2, INF, 1], dither_power=0.2)
    assert (obs.num_bits, obs.is_identity, obs.is_linear, obs.pilots) == ((1, 2, INF, 1), True, False, None)
    assert (obs.snr_convention, obs.signal_power, obs.input_power) == ("quantised", 1.0, 1.0)
    assert obs.noise_power(0.3) == 0.5
    assert obs.scale(0.3) == pytest.approx(math.sqrt(1.5 / 2))
    assert obs.scale(torch.tensor([0.3, 1.3])).tolist() == pytest.approx([math.sqrt(0.75), math.sqrt(1.25)])
    assert obs.scale(torch.tensor([0.3])).shape == (1,)
    assert QuantizedPilots(eye, [3, 3, 3, 3]).num_bits == 3
    assert QuantizedPilots(eye, torch.tensor([1, 2, 1, 2])).num_bits == (1, 2, 1, 2)
    assert QuantizedPilots(eye, INF).is_linear and not QuantizedPilots(eye[:2], 1).is_identity
    assert QuantizedPilots(2 * eye, 1).input_power == 4.0 and QuantizedPilots(2 * eye, 1, input_power=1.5).input_power == 1.5
    assert "num_bits=mixed" in repr(obs) and isinstance(obs.linear, DensePilots) and not isinstance(obs, DensePilots)


def test_snr_counts_the_channel_alone() -> None:
    obs = QuantizedPilots(3 * torch.eye(2, dtype=DOUBLE), 1, dither_power=1.0)
    assert obs.no_from_snr_db(10.0) == pytest.approx(0.1)
    assert obs.snr_db_from_no(0.1, mean_power=2.0) == pytest.approx(10 + 10 * math.log10(2))


def test_pilot_sequences() -> None:
    for kind in ("angle_amp", "angle", "ones"):
        for count in (1, 2, 7):
            x = pilot_sequence(count, kind)
            assert x.dtype == DOUBLE and float(x.abs().square().sum()) == pytest.approx(count)
    x = pilot_sequence(3)
    np.testing.assert_allclose(x.angle(), np.arange(3) * math.pi / 6, atol=1e-15)
    np.testing.assert_allclose(x.abs() / x.abs()[0], [1, 1.5, 2])
    assert pilot_sequence(1).item() == pilot_sequence(1, "angle").item() == 1


def test_saving_and_moving() -> None:
    obs = QuantizedPilots(torch.eye(2, dtype=torch.complex64) * 2, [1, 3])
    other = QuantizedPilots(torch.eye(2, dtype=torch.complex64), [1, 3])
    other.load_state_dict(obs.state_dict())
    assert torch.equal(other.matrix(), obs.matrix())
    assert obs.double().matrix().dtype == DOUBLE
    y = torch.tensor([0.3 - 2j, 0.7 + 0.1j], dtype=DOUBLE)
    assert torch.equal(obs.quantize(y, 0.1), QuantizedPilots(torch.eye(2, dtype=DOUBLE) * 2, [1, 3]).quantize(y, 0.1))


@pytest.mark.gpu
@pytest.mark.parametrize("num_bits", [1, 3, [1, 2, INF, 3]], ids=["1", "3", "mixed"])
def test_statistics_on_a_gpu_equal_the_cpu(num_bits: object, generator: torch.Generator) -> None:
    obs = QuantizedPilots(torch.eye(4, dtype=DOUBLE), num_bits)
    root = complex_normal((3, 4, 4), generator=generator, dtype=DOUBLE)
    cov, h = root @ root.mH, complex_normal((5, 4), generator=generator, dtype=DOUBLE)
    want = [obs.output_covariance(cov, 0.1, method) for method in ("exact", "white", "scaled")] + [obs.quantize(h, 0.1)]
    obs = obs.to("cuda")
    got = [obs.output_covariance(cov.cuda(), 0.1, method) for method in ("exact", "white", "scaled")] + [
        obs.quantize(h.cuda(), 0.1)
    ]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=1e-9, rtol=0)


E = torch.eye(3, dtype=DOUBLE)
OBS = QuantizedPilots(E)
G = torch.Generator()
BAD = [
    (lambda: QuantizedPilots(E, 0), InvalidValueError, "num_bits=0 must be at least 1"),
    (
        lambda: QuantizedPilots(E, [1, 2]),
        ShapeError,
        "num_bits has 2 entries; give one number, or one for each of the M=3 rows",
    ),
    (lambda: QuantizedPilots(E, [1, 2, 0.5]), InvalidTypeError, "num_bits=0.5 must be an integer"),
    (lambda: QuantizedPilots(E, "1"), InvalidTypeError, "num_bits='1' must be an integer"),
    (lambda: QuantizedPilots(E, 1, kind="lloyd"), UnknownNameError, "kind='lloyd' is unknown"),
    (lambda: QuantizedPilots(E.real), InvalidTypeError, "matrix has dtype torch.float64"),
    (lambda: QuantizedPilots(E * math.nan), InvalidValueError, "matrix holds"),
    (lambda: QuantizedPilots(E * 0), InvalidValueError, "input_power=0 must be greater than 0"),
    (lambda: QuantizedPilots(E, input_power=-1.0), InvalidValueError, "input_power=-1 must be greater than 0"),
    (lambda: QuantizedPilots(E, dither_power=-0.1), InvalidValueError, "dither_power=-0.1 must be at least 0"),
    (lambda: QuantizedPilots(E, dither_power=math.nan), InvalidValueError, "dither_power=nan must be finite"),
    (lambda: QuantizedPilots(E, channel_shape=(2, 2)), ShapeError, r"channel_shape=\(2, 2\) has 4 elements"),
    (lambda: QuantizedPilots.from_sequence(torch.ones(2), 2), InvalidTypeError, "pilots has dtype torch.float32"),
    (lambda: QuantizedPilots.from_sequence(E[None], 2), ShapeError, r"pilots has shape \(1, 3, 3\)"),
    (lambda: QuantizedPilots.from_sequence(E[0], 0), InvalidValueError, "num_rx_ant=0 must be at least 1"),
    (lambda: QuantizedPilots.from_sequence(E[0] * 0, 2), InvalidValueError, "input_power=0 must be greater than 0"),
    (lambda: OBS.observe(E[:, :2], 1.0, generator=G), ShapeError, r"h has shape \(3, 2\); the last axes must be \(3\)"),
    (lambda: OBS.observe(E.real, 1.0, generator=G), InvalidTypeError, "h has dtype torch.float64"),
    (lambda: OBS.observe(E * math.nan, 1.0, generator=G), InvalidValueError, "h holds"),
    (lambda: OBS.observe(E, -1.0, generator=G), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: OBS.observe(E, math.nan, generator=G), InvalidValueError, "no holds NaN"),
    (lambda: OBS.observe(E, torch.ones(2), generator=G), ShapeError, r"no has shape \(2,\)"),
    (lambda: OBS.observe(E, 1.0, generator=3), InvalidTypeError, "generator must be a torch.Generator"),
    (lambda: OBS.quantize(E[:, :2], 1.0), ShapeError, r"y has shape \(3, 2\)"),
    (lambda: OBS.quantize(E * math.inf, 1.0), InvalidValueError, "y holds"),
    (lambda: OBS.noiseless(E * math.nan), InvalidValueError, "y holds"),
    (lambda: pilot_sequence(0), InvalidValueError, "num_pilots=0 must be at least 1"),
    (lambda: pilot_sequence(2, "angles"), UnknownNameError, "kind='angles' is unknown; did you mean 'angle'"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_observation_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
