"""Time-domain converters: the matrix against an FFT, the statistics against simulation, sizes and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.observations import OFDMGrid, OFDMPilots, quantized_ofdm
from wichan.random import complex_normal

INF = math.inf
GRID = OFDMGrid(num_ofdm_symbols=3, num_subcarriers=12, subcarrier_spacing=15e3)


@pytest.mark.parametrize("fft_size", [None, 12, 16, 31])
def test_matrix_is_a_unitary_transform_of_the_pilot_symbols(fft_size: int | None, generator: torch.Generator) -> None:
    pilots = OFDMPilots.kronecker(GRID, (0, 2), 2)
    obs = quantized_ofdm(pilots, INF, 2, fft_size=fft_size)
    h = complex_normal((5, 2, 2, 3, 12), generator=generator)
    size = fft_size or 12
    sent = pilots.noiseless(h)[:, :, [0, 2]]
    spectrum = torch.zeros(5, 2, 2, size, dtype=h.dtype)
    spectrum[..., (torch.arange(12) - 6) % size] = sent  # subcarrier 6 of 12 lies at frequency 0
    want = torch.fft.ifft(spectrum, norm="ortho")
    torch.testing.assert_close(obs.noiseless(h), want.flatten(1), atol=2e-6, rtol=0)
    assert obs.channel_shape == (2, 2, 3, 12)
    # Energy is kept, so that noise of a sample and of a resource element are the same.
    torch.testing.assert_close(obs.project(h).abs().square().sum(), pilots.project(h).abs().square().sum())


def test_gain_control_knows_the_share_of_pilots() -> None:
    dense = quantized_ofdm(OFDMPilots(GRID, (1,)), 2)
    comb = quantized_ofdm(OFDMPilots(GRID, (1,), 3), 2)
    assert dense.input_power == pytest.approx(1.0) and comb.input_power == pytest.approx(1 / 3)
    assert quantized_ofdm(OFDMPilots(GRID, (1,)), 2, fft_size=24).input_power == pytest.approx(0.5)
    assert quantized_ofdm(OFDMPilots(GRID, (1,)), 2, input_power=2.0).input_power == 2.0


def test_antennas_of_different_resolution() -> None:
    obs = quantized_ofdm(OFDMPilots(GRID, (0, 1)), [1, 3], 2)
    assert obs.num_bits == (1,) * 24 + (3,) * 24
    assert quantized_ofdm(OFDMPilots(GRID, (0,)), 1, kind="lloyd-max", dither_power=0.3).dither_power == 0.3


@pytest.mark.parametrize("num_bits", [1, 2])
def test_statistics_equal_simulation(num_bits: int, generator: torch.Generator) -> None:
    """Correlated subcarriers give time samples of unequal power: the series, and E|r|^2 of each sample."""
    grid = OFDMGrid(num_ofdm_symbols=1, num_subcarriers=6, subcarrier_spacing=15e3)
    obs = quantized_ofdm(OFDMPilots(grid, (0,), values=torch.ones(1, 6)), num_bits)
    lag = torch.arange(6)[:, None] - torch.arange(6)
    cov = (0.7 ** lag.abs() * torch.exp(-0.4j * lag)).to(torch.complex128)
    root = torch.linalg.cholesky(cov)
    count, no = 400_000, 0.2
    h = (complex_normal((count, 6), generator=generator, dtype=torch.complex128) @ root.mT).reshape(count, 1, 1, 1, 6)
    r = obs.observe(h, no, generator=generator)
    cov_y = obs.input_covariance(cov, no)
    variance = cov_y.diagonal().real
    assert float(variance.max() / variance.min()) > 2
    bound = 4 * float(variance.max()) / math.sqrt(count)  # 36 entries whose products have a deviation below the power
    assert float((r.mT @ r.conj() / count - obs.output_covariance(cov_y, no)).abs().max()) < bound
    gain = obs.bussgang_gain(variance, no)[:, None] * (obs.matrix().to(torch.complex128) @ cov)
    assert float((r.mT @ h.flatten(1).conj() / count - gain).abs().max()) < bound


def test_pilots_are_taken_as_they_are() -> None:
    pilots = OFDMPilots(GRID, (0,), learnable=True)
    assert not quantized_ofdm(pilots, 1).matrix().requires_grad


PILOTS = OFDMPilots(GRID, (0, 2))
LARGE = OFDMPilots(OFDMGrid(14, 600, 15e3), (2, 11))
BAD = [
    (
        lambda: quantized_ofdm(LARGE, 1, 8),
        InvalidValueError,
        r"num_rx_ant=8 on a grid of 14 x 600 asks .* 4\.8 GiB",
    ),
    (lambda: quantized_ofdm(PILOTS, 0), InvalidValueError, "num_bits=0 must be at least 1"),
    (lambda: quantized_ofdm(PILOTS, [1, 2, 3], 2), ShapeError, "num_bits has 3 entries"),
    (lambda: quantized_ofdm(PILOTS, 1, 0), InvalidValueError, "num_rx_ant=0 must be at least 1"),
    (lambda: quantized_ofdm(PILOTS, 1, fft_size=11), InvalidValueError, "fft_size=11 must be at least 12"),
    (
        lambda: quantized_ofdm(PILOTS.matrix(), 1),
        InvalidTypeError,
        "pilots must be OFDMPilots in the frequency domain, got Tensor",
    ),
    (lambda: quantized_ofdm(PILOTS, 1, channel_shape=(12,)), InvalidTypeError, "channel_shape is not an argument here"),
    (
        lambda: quantized_ofdm(OFDMPilots(GRID, (0,), domain="time"), 1),
        InvalidTypeError,
        "pilots must be OFDMPilots .*, got TimeDomainPilots",
    ),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_time_domain_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
