"""Linear filters behind coarse converters: closed forms, published limits, and whether the error is the one that is made."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import TDL, ChannelCovariance, SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators import BLS, BussgangGenie, BussgangLMMSE
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots, QuantizedPilots, Quantizer, pilot_sequence, quantized_ofdm
from wichan.random import complex_normal

EYE = torch.eye(1, dtype=torch.complex128)


def identity(size: int, num_bits: float) -> QuantizedPilots:
    return QuantizedPilots(torch.eye(size, dtype=torch.complex128), num_bits)


def noise(snr_db: list[float]) -> torch.Tensor:
    return 10 ** (-torch.tensor(snr_db, dtype=torch.float64) / 10)


def covariance(size: int, generator: torch.Generator) -> torch.Tensor:
    """A covariance with unequal powers and phases, of mean power 1."""
    root = torch.randn(size, size, dtype=torch.complex128, generator=generator)
    matrix = root @ root.mH
    return matrix * size / matrix.diagonal().real.sum()


def draw(matrix: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    white = complex_normal((count, len(matrix)), generator=generator, dtype=torch.complex128)
    return white @ torch.linalg.cholesky(matrix).mT


# -- Closed forms. --


@pytest.mark.parametrize("num_bits", [1, 2, 3, math.inf])
def test_scalar_blmmse_has_the_error_of_the_closed_form(num_bits: float) -> None:
    no = noise([-10, -5, 0, 5, 10, 15, 20])
    found = BussgangLMMSE(identity(1, num_bits), EYE).expected_error(no)[:, 0]
    # 1 - (1 - rho_B) / (1 + no); rho_B itself is good to 1e-14.
    torch.testing.assert_close(found, 1 - (1 - Quantizer(num_bits).distortion) / (1 + no), rtol=1e-11, atol=0)


def test_scalar_one_bit_blmmse_reaches_the_published_values() -> None:
    found = BussgangLMMSE(identity(1, 1), EYE).expected_error(noise([-10, -5, 0, 5, 10, 15, 20]))[:, 0]
    want = torch.tensor([0.9421, 0.8471, 0.6817, 0.5163, 0.4213, 0.3829, 0.3697], dtype=torch.float64)
    torch.testing.assert_close(found, want, rtol=0, atol=6e-5)  # four digits are given
    assert float(BussgangLMMSE(identity(1, 1), EYE).expected_error(0.0)) == pytest.approx(1 - 2 / math.pi, abs=1e-9)


@pytest.mark.parametrize(
    ("num_bits", "snr_db", "want"),
    [
        (1, [-10, -5, 0, 5, 10, 15, 20], [16.279, 5.538, 2.142, 1.0675, 0.7279, 0.6205, 0.5865]),
        (2, [10], [0.2484]),
        (3, [10], [0.1428]),
    ],
    ids=["one-bit", "two-bit", "three-bit"],
)
def test_bls_has_the_error_of_the_closed_form(num_bits: int, snr_db: list[float], want: list[float]) -> None:
    no = noise(snr_db)
    found = BLS(identity(3, num_bits)).expected_error(no)
    closed = (1 + no) / (1 - Quantizer(num_bits).distortion) - 1
    torch.testing.assert_close(found, closed[:, None].expand(-1, 3), rtol=1e-11, atol=0)
    torch.testing.assert_close(found[:, 0], torch.tensor(want, dtype=torch.float64), rtol=3e-4, atol=0)  # four digits are given


@pytest.mark.parametrize(
    ("kind", "num_pilots", "no", "want"),
    [
        ("angle", 1, [1, 0.1, 0.01, 0], [0.68169, 0.42125, 0.36968, 0.36338]),
        ("angle", 2, [1, 0.1, 0.01, 0], [0.51966, 0.28927, 0.25768, 0.25415]),
        ("angle", 4, [1, 0.1, 0.01, 0], [0.35825, 0.22175, 0.22328, 0.22464]),
        ("angle", 8, [1, 0.1, 0.01, 0], [0.22865, 0.18422, 0.21095, 0.21712]),
        ("angle", 64, [1, 0.1, 0.01, 0], [0.06311, 0.14830, 0.20109, 0.21464]),
        ("angle_amp", 2, [0.1], [0.30156]),
        ("angle_amp", 4, [0.1], [0.22313]),
        ("angle_amp", 8, [0.1], [0.18247]),
    ],
)
def test_several_pilots_of_one_bit_reach_the_published_values(
    kind: str, num_pilots: int, no: list[float], want: list[float]
) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(num_pilots, kind), num_rx_ant=1, num_bits=1)
    found = BussgangLMMSE(obs, EYE).expected_error(torch.tensor(no, dtype=torch.float64))[:, 0]
    torch.testing.assert_close(found, torch.tensor(want, dtype=torch.float64), rtol=0, atol=6e-6)  # five digits are given


def test_noise_helps_where_it_should_and_nowhere_else() -> None:
    no = noise([-10, -5, 0, 5, 10, 15, 20, 25])
    eight = pilot_sequence(8, "angle")
    curves = {
        bits: BussgangLMMSE(QuantizedPilots.from_sequence(eight, 1, bits), EYE).expected_error(no)[:, 0]
        for bits in (1, math.inf)
    }
    one_pilot = BussgangLMMSE(identity(1, 1), EYE).expected_error(no)[:, 0]
    assert 0 < int(curves[1].argmin()) < len(no) - 1  # stochastic resonance
    assert bool((curves[math.inf].diff() < 0).all())
    assert bool((one_pilot.diff() < 0).all())


# -- Is the error the one that is made? --


@pytest.mark.parametrize("num_bits", [1, 2, [1, 2, 3, 4] * 2, math.inf], ids=["1", "2", "mixed", "inf"])
@pytest.mark.parametrize("kind", [BLS, BussgangLMMSE])
def test_error_that_is_promised_is_made(kind: type, num_bits: int, generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), num_rx_ant=4, num_bits=num_bits)
    matrix = covariance(4, generator)
    h = draw(matrix, 40_000, generator)
    est = kind(obs, matrix)
    h_hat, err_var = est(obs.observe(h, 0.2, generator=generator), 0.2)
    ratio = (h_hat - h).abs().square().mean(0) / err_var[0]
    # The mean of 40 000 squared errors, each about exponential: 4 x 0.5 %. Errors of one-bit least squares have heavier tails.
    assert float((ratio - 1).abs().max()) < 0.03
    torch.testing.assert_close(err_var[0], est.expected_error(0.2))


def test_bls_is_unbiased_least_squares(generator: torch.Generator) -> None:
    matrix = torch.randn(9, 4, dtype=torch.complex128, generator=generator)
    obs = QuantizedPilots(matrix, math.inf)
    h = complex_normal((5, 4), generator=generator, dtype=torch.complex128)
    r = obs.observe(h, 0.1, generator=generator)
    want = r @ torch.linalg.pinv(matrix).mT
    torch.testing.assert_close(BLS(obs)(r, 0.1).h_hat, want, rtol=1e-10, atol=1e-12)


def test_infinite_resolution_is_plain_lmmse(generator: torch.Generator) -> None:
    matrix, cov = torch.randn(5, 4, dtype=torch.complex128, generator=generator), covariance(4, generator)
    obs = QuantizedPilots(matrix, math.inf)
    r = obs.observe(draw(cov, 7, generator), 0.3, generator=generator)
    gain = cov @ matrix.mH @ torch.linalg.inv(matrix @ cov @ matrix.mH + 0.3 * torch.eye(5, dtype=torch.float64))
    result = BussgangLMMSE(obs, cov)(r, 0.3)
    torch.testing.assert_close(result.h_hat, r @ gain.mT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.err_var[0], (cov - gain @ matrix @ cov).diagonal().real, rtol=1e-9, atol=1e-12)


def test_many_bits_approach_infinite_resolution() -> None:
    # One cluster at N = 32, 10 dB, over 60 sets of angles: 0.0152 at four bits and 0.0128 without quantisation are the
    # published means; between sets of angles the error scatters by a quarter, 3 % of the mean.
    model = SpatialGaussian(32)
    told = {"angles": model.sample(60, generator=torch.Generator().manual_seed(3)).angles}
    found = {}
    for bits in (4, 8, math.inf):
        obs = identity(32, bits)
        found[bits] = float(BussgangGenie(obs, model, told=("angles",))(_ones(60, 32), 0.1, **told).err_var.mean())
    assert found[4] == pytest.approx(0.0152, rel=0.1) and found[math.inf] == pytest.approx(0.0128, rel=0.1)
    assert found[4] / found[math.inf] == pytest.approx(0.0152 / 0.0128, rel=0.02)  # the same angles on both sides
    assert 1 < found[8] / found[math.inf] < 1.002


def _ones(count: int, size: int) -> torch.Tensor:
    return torch.ones(count, size, dtype=torch.complex128)


@pytest.mark.parametrize("num_bits", [1, 3])
def test_ofdm_behind_converters_makes_the_error_that_is_promised(num_bits: int, generator: torch.Generator) -> None:
    grid = OFDMGrid(num_ofdm_symbols=2, num_subcarriers=16, subcarrier_spacing=30e3)
    model = TDL("A", delay_spread=300e-9, max_doppler=100.0)
    obs = quantized_ofdm(OFDMPilots(grid, symbols=(0,)), num_bits)
    h = model.frequency_response(grid, 6000, generator=generator)
    result = BussgangLMMSE(obs, model.covariance(grid))(obs.observe(h, 0.1, generator=generator), 0.1)
    assert result.h_hat.shape == result.err_var.shape == h.shape
    ratio = (result.h_hat - h).abs().square().mean(0) / result.err_var[0]
    # Errors of one element in 6000 frames are exponential but for the quantiser's part: 1.3 %, five of those at 32 elements.
    assert float((ratio - 1).abs().max()) < 0.07


# -- The genie. --


@pytest.mark.parametrize(("num_bits", "lowest"), [(1, 5), (2, 15)])
def test_genie_has_its_minimum_where_it_was_published(num_bits: int, lowest: int) -> None:
    model = SpatialGaussian(32)
    angles = model.sample(40, generator=torch.Generator().manual_seed(4)).angles
    genie = BussgangGenie(identity(32, num_bits), model, told=("angles",))
    grid = [lowest - 5, lowest, lowest + 5]
    r = _ones(40, 32)[:, None].expand(-1, 3, -1)
    curve = genie(r, noise(grid).expand(40, 3), angles=angles).err_var.mean((0, 2))
    assert int(curve.argmin()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_bits", "snr_db", "want"),
    [(1, 0, 0.164), (1, 10, 0.166), (1, 20, 0.192), (2, 20, 0.0441), (3, 20, 0.0125), (4, 20, 0.0047)],
)
def test_genie_makes_the_error_that_it_promises(num_bits: int, snr_db: int, want: float, generator: torch.Generator) -> None:
    model, no = SpatialGaussian(32), 10 ** (-snr_db / 10)
    obs, samples = identity(32, num_bits), model.sample(1500, generator=generator)
    h = samples.h[..., 0]
    result = BussgangGenie(obs, model)(obs.observe(h, no, generator=generator), no, **samples.columns)
    made, promised = float((result.h_hat - h).abs().square().mean()), float(result.err_var.mean())
    # About six eigenvalues carry a channel, so that its error scatters by 40 % and the mean of 1500 by 1 %: four of those.
    assert made == pytest.approx(promised, rel=0.05)
    # Published means over 500 (one bit) and 60 sets of angles, which scatter by a quarter: 1 % and 3 %.
    assert promised == pytest.approx(want, rel=0.05 if num_bits == 1 else 0.12)


def test_genie_of_one_covariance_is_blmmse(generator: torch.Generator) -> None:
    obs = QuantizedPilots.from_sequence(pilot_sequence(2), 3, 2)
    cov = covariance(3, generator)
    r = obs.observe(draw(cov, 6, generator), 0.1, generator=generator)
    want = BussgangLMMSE(obs, cov)(r, 0.1)
    for given in (cov, cov.expand(6, 3, 3)):
        found = BussgangGenie(obs)(r, 0.1, covariance=given)
        torch.testing.assert_close(found.h_hat, want.h_hat, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.err_var, want.err_var, rtol=1e-10, atol=1e-12)


def test_genie_shares_conditions_over_the_other_axes(generator: torch.Generator) -> None:
    obs = identity(3, 2)
    given = torch.stack([covariance(3, generator) for _ in range(4)])
    h = torch.stack([draw(one, 5, generator) for one in given])
    level = torch.tensor([0.1, 0.3, 1.0, 3.0, 0.05], dtype=torch.float64)
    for no in (0.2, level[:4], level.expand(4, 5)):
        r = obs.observe(h, no, generator=generator)
        together = BussgangGenie(obs)(r, no, covariance=given)
        every = given[:, None].expand(4, 5, 3, 3)
        apart = BussgangGenie(obs)(r, no, covariance=every)
        torch.testing.assert_close(together.h_hat, apart.h_hat, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.err_var, apart.err_var, rtol=1e-10, atol=1e-12)


def test_genie_refuses_what_it_cannot_use(generator: torch.Generator) -> None:
    obs, r = identity(3, 1), _ones(4, 3)
    with pytest.raises(InvalidTypeError, match="covariance is missing"):
        BussgangGenie(obs)(r, 0.1)
    with pytest.raises(InvalidTypeError, match="powers is missing"):
        BussgangGenie(obs, SpatialGaussian(3))(r, 0.1, angles=torch.zeros(4, 1))
    with pytest.raises(InvalidTypeError, match="conditional_covariance"):
        BussgangGenie(obs, object())
    with pytest.raises(InvalidTypeError, match="told='angles'"):
        BussgangGenie(obs, SpatialGaussian(3), told="angles")
    with pytest.raises(ShapeError, match="leading axes"):
        BussgangGenie(obs)(r, 0.1, covariance=torch.eye(3).expand(5, 3, 3))
    with pytest.raises(InvalidValueError, match="channel wants N=3"):
        BussgangGenie(obs, SpatialGaussian(2), told=("angles",))(r, 0.1, angles=torch.zeros(4, 1))
    with pytest.raises(InvalidValueError, match="variance"):
        BussgangGenie(obs)(r, 0.1, covariance=torch.zeros(4, 3, 3))


# -- Symmetries, noise, other forms of input. --


@pytest.mark.parametrize("kind", [BLS, BussgangLMMSE])
def test_a_quarter_turn_and_a_mirror_pass_through(kind: type, generator: torch.Generator) -> None:
    cov, matrix = covariance(4, generator), torch.randn(6, 4, dtype=torch.complex128, generator=generator)
    obs, mirrored = QuantizedPilots(matrix, 2), QuantizedPilots(matrix.conj().resolve_conj(), 2)
    r = obs.observe(draw(cov, 5, generator), 0.1, generator=generator)
    want = kind(obs, cov)(r, 0.1).h_hat
    torch.testing.assert_close(kind(obs, cov)(1j * r, 0.1).h_hat, 1j * want, rtol=1e-12, atol=1e-14)
    other = kind(mirrored, cov.conj())(r.conj(), 0.1).h_hat
    torch.testing.assert_close(other, want.conj().resolve_conj(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [5, 40], ids=["few", "many"])  # up to 16 noise variances are kept, more are built in batches
def test_each_noise_variance_has_its_own_filter(count: int, generator: torch.Generator) -> None:
    obs, cov = identity(3, 2), covariance(3, generator)
    no = torch.logspace(-2, 1, count, dtype=torch.float64)[torch.randperm(count, generator=generator)].repeat(2)
    r = obs.observe(draw(cov, 2 * count, generator), no, generator=generator)
    est = BussgangLMMSE(obs, cov)
    together = est(r, no)
    apart = [est(r[i], float(no[i])) for i in range(2 * count)]
    # The covariance of several bits is a quadrature, whose nodes may differ between calls: good to about 1e-10.
    torch.testing.assert_close(together.h_hat, torch.stack([one.h_hat for one in apart]), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(together.err_var, torch.stack([one.err_var for one in apart]), rtol=1e-8, atol=1e-9)


def test_sample_covariance_and_channel_covariance_are_taken(generator: torch.Generator) -> None:
    h = complex_normal((50, 4, 1, 1, 1), generator=generator)
    obs = QuantizedPilots(torch.eye(4, dtype=torch.complex128), 1, channel_shape=(4, 1, 1, 1))
    r = obs.observe(h[:3], 0.1, generator=generator)
    first = BussgangLMMSE.from_samples(obs, h)(r, 0.1)
    second = BussgangLMMSE(obs, ChannelCovariance.from_samples(h))(r, 0.1)
    assert first.h_hat.shape == first.err_var.shape == (3, 4, 1, 1, 1)
    torch.testing.assert_close(first.h_hat, second.h_hat, rtol=1e-4, atol=1e-5)  # single precision


@pytest.mark.parametrize("num_bits", [1, 3, math.inf])
def test_no_noise_and_a_singular_covariance_stay_finite(num_bits: float, generator: torch.Generator) -> None:
    # One direction, seen twice by two equal pilots: without the floor C_r is singular.
    steering = torch.exp(1j * torch.arange(4, dtype=torch.float64))
    obs = QuantizedPilots.from_sequence(pilot_sequence(2, "ones"), 4, num_bits)
    h = complex_normal((20, 1), generator=generator, dtype=torch.complex128) * steering
    for dtype in (torch.complex64, torch.complex128):
        r = obs.observe(h.to(dtype), 0.0, generator=generator)
        result = BussgangLMMSE(obs, torch.outer(steering, steering.conj()))(r, 0.0)
        assert bool(torch.isfinite(result.h_hat).all()) and bool((result.err_var >= 0).all())
        assert float((result.h_hat - h).abs().square().mean()) < 0.3  # sees the one direction


# -- Bad input. --


def test_singular_pilots_are_refused_in_one_line() -> None:
    with pytest.raises(InvalidValueError, match=r"rank 4: the pilots are singular; least squares needs rank N=8") as error:
        BLS(QuantizedPilots.from_sequence(torch.ones(2, 1, dtype=torch.complex128), 4, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [BLS, BussgangLMMSE])
def test_covariances_that_are_none_are_refused(kind: type) -> None:
    obs = identity(3, 1)
    with pytest.raises(InvalidTypeError, match="QuantizedPilots"):
        kind(torch.eye(3), torch.eye(3))
    with pytest.raises(ShapeError, match="last axes must be"):
        kind(obs, torch.eye(4))
    with pytest.raises(ShapeError, match="one is wanted"):
        kind(obs, torch.eye(3).expand(2, 3, 3))
    with pytest.raises(InvalidValueError, match="not Hermitian"):
        kind(obs, torch.eye(3) + 0.1 * torch.ones(3, 3).triu(1))
    with pytest.raises(InvalidValueError, match="variance of -1"):
        kind(obs, torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    with pytest.raises(InvalidValueError, match="nor all 0"):
        kind(obs, torch.zeros(3, 3))
    with pytest.raises(InvalidValueError, match="NaN"):
        kind(obs, torch.full((3, 3), math.nan))
    with pytest.raises(InvalidTypeError, match="dtype"):
        kind(obs, torch.eye(3, dtype=torch.int64))


def test_no_channel_is_no_covariance() -> None:
    with pytest.raises(ShapeError, match="at least one channel"):
        BussgangLMMSE.from_samples(identity(3, 1), torch.zeros(0, 3, dtype=torch.complex64))


def test_empty_batches_give_empty_estimates(generator: torch.Generator) -> None:
    obs = identity(3, 1)
    r = torch.zeros(2, 0, 3, dtype=torch.complex64)
    for est, told in ((BLS(obs), {}), (BussgangGenie(obs), {"covariance": torch.eye(3)})):
        for no in (0.1, torch.zeros(2, 0)):
            result = est(r, no, **told)
            assert result.h_hat.shape == result.err_var.shape == (2, 0, 3)
