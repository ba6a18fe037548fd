"""The OFDM waveform beside Sionna's modulator, time-domain channel and demodulator, on the same paths and symbols."""

from __future__ import annotations

import pytest
import torch

from wichan.channels import Rays, impulse_response
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots, TimeDomainPilots, kronecker_pattern
from wichan.random import complex_normal, uniform

try:
    from sionna.phy import channel, ofdm
except ModuleNotFoundError:  # then these tests are deselected, and counted
    channel = ofdm = None

pytestmark = pytest.mark.sionna

SPACING = 15e3
WIDE = OFDMGrid(2, 64, SPACING, symbol_duration=72 / 64 / SPACING)  # the prefix is 8 samples of 64


@pytest.mark.parametrize("late", [0, 3, -4])
def test_equals_sionnas_modulator_channel_and_demodulator(late: int, generator: torch.Generator) -> None:
    rate, prefix, size = 64 * SPACING, 8, 64
    obs = OFDMPilots(WIDE, pattern=kronecker_pattern(WIDE, (1,), 2, 4), domain="time", fft_size=size)
    assert isinstance(obs, TimeDomainPilots)
    # Whole samples, where Sionna's sinc filter is exact: one path after the prefix, and all of them moving.
    gain = complex_normal((2, 5, 3, 2, 2), 1 / 15, generator=generator, dtype=torch.complex128)
    delay = torch.tensor([0, 2, 5, 8, 14], dtype=torch.float64) / rate
    rays = Rays(gain, delay, uniform((2, 5, 3), -800, 800, generator=generator).double())
    sent = obs.sent((2,), generator=generator, dtype=torch.complex128)
    samples, taps = 4 * (size + prefix), 15
    # Sionna starts at the symbol before the frame.
    times = torch.arange(samples + taps - 1, dtype=torch.float64) / rate - WIDE.symbol_duration
    a, tau = impulse_response(rays, times)
    h_time = channel.cir_to_time_channel(rate, a[:, None, :, None], tau[:, None, None], 0, taps - 1)
    x = ofdm.OFDMModulator(prefix, precision="double", device="cpu")(sent)[:, None]
    heard = channel.ApplyTimeChannel(samples, taps, precision="double", device="cpu")(x, h_time)
    heard = heard[..., late:] if late >= 0 else torch.nn.functional.pad(heard, (-late, 0))
    # Sionna keeps the order of subcarriers by shifts of its own; windows before and after the frame are left out.
    y = ofdm.OFDMDemodulator(size, 0, prefix, precision="double", device="cpu")(heard[..., :samples])[:, 0, :, 1:-1]
    got = obs.noiseless(rays, sent, timing_offset=late / rate)
    torch.testing.assert_close(got, y, rtol=0, atol=1e-11)
