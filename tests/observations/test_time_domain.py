"""The OFDM waveform: equal to the frequency domain where it must be, to a slow loop elsewhere, and to closed forms."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wichan.channels import CDL, TDL, ULA, Rays, frequency_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import LMMSE, LS
from wichan.observations import (
    OFDMGrid,
    OFDMPilots,
    TimeDomainPilots,
    doppler_distortion,
    kronecker_pattern,
    late_path_distortion,
    waveform,
)
from wichan.random import complex_normal, uniform

SPACING = 15e3
GRID = OFDMGrid(4, 24, SPACING)  # the cyclic prefix is 1/14 of a symbol: no whole number of samples
PREFIX = GRID.cyclic_prefix
RECEIVER = {"fft_size": 32, "data": "qpsk"}


def some_rays(
    generator: torch.Generator,
    *,
    batch: tuple[int, ...] = (3,),
    antennas: tuple[int, int] = (2, 2),
    latest: float = PREFIX,
    doppler: float = 0.0,
    dtype: torch.dtype = torch.complex128,
) -> Rays:
    """Five clusters of three rays, at any delays up to ``latest`` and Dopplers up to ``doppler``."""
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    delay = uniform((*batch, 5), 0, latest, generator=generator).to(real)
    delay[..., 0], delay[..., -1] = 0.0, latest
    gain = complex_normal((*batch, 5, 3, *antennas), 1 / 15, generator=generator, dtype=dtype)
    return Rays(gain, delay, uniform((*batch, 5, 3), -doppler, doppler, generator=generator).to(real))


def observation(antennas: int = 2, grid: OFDMGrid = GRID, **options) -> TimeDomainPilots:
    pattern = kronecker_pattern(grid, (1,), antennas, 2)
    obs = OFDMPilots(grid, pattern=pattern, domain="time", **{**RECEIVER, **options})
    assert isinstance(obs, TimeDomainPilots)
    return obs


def on_grid(obs: TimeDomainPilots, h: torch.Tensor, sent: torch.Tensor) -> torch.Tensor:
    """What the frequency domain says: every element by itself."""
    return (h * sent[..., 1:-1, :].unsqueeze(-4)).sum(-3)


# -- Where nothing interferes it is the frequency domain. --


@pytest.mark.parametrize("fft_size", [24, 32, 37, 64])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_equals_the_frequency_domain_for_still_paths_within_the_prefix(
    fft_size: int, lead: tuple[int, ...], generator: torch.Generator
) -> None:
    obs = observation(fft_size=fft_size)
    rays = some_rays(generator, batch=lead)
    h = frequency_response(rays, GRID.times, GRID.frequencies)
    sent = obs.sent(lead, generator=generator, dtype=torch.complex128)
    # Any fractional delay up to the very end of the prefix; double precision leaves some 1e-15 of unit power.
    torch.testing.assert_close(obs.noiseless(rays, sent), on_grid(obs, h, sent), rtol=0, atol=1e-13)
    torch.testing.assert_close(obs.channel(rays), h, rtol=0, atol=1e-13)
    assert obs.interference(rays, sent).abs().max() < 1e-13


def test_equals_the_frequency_domain_observation_with_its_noise() -> None:
    grid = OFDMGrid(14, 120, SPACING)
    rays = TDL("A", delay_spread=300e-9, max_doppler=0.0).sample(20, generator=torch.Generator().manual_seed(1))
    plain, sent = OFDMPilots(grid, (2, 11), 3), OFDMPilots(grid, (2, 11), 3, domain="time", data="none")
    h = frequency_response(rays, grid.times, grid.frequencies)
    want, got = (
        obs.observe(source, 0.1, generator=torch.Generator().manual_seed(2)) for obs, source in ((plain, h), (sent, rays))
    )
    # Single precision: two ways to the same numbers, a few roundings of 6e-8 in sums of 23 terms and an FFT.
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
    assert got.dtype == want.dtype == torch.complex64


def test_an_early_window_costs_nothing_within_the_prefix(generator: torch.Generator) -> None:
    obs = observation()
    early, latest = -0.3 * PREFIX, 0.7 * PREFIX
    rays = some_rays(generator, latest=latest)
    ramp = torch.exp(2j * math.pi * GRID.frequencies * early)
    h = frequency_response(rays, GRID.times, GRID.frequencies) * ramp
    sent = obs.sent((3,), generator=generator, dtype=torch.complex128)
    torch.testing.assert_close(obs.noiseless(rays, sent, timing_offset=early), on_grid(obs, h, sent), rtol=0, atol=1e-13)
    torch.testing.assert_close(obs.channel(rays, timing_offset=early), h, rtol=0, atol=1e-13)
    assert obs.interference(rays, sent, timing_offset=1.2 * early).abs().max() > 1e-3  # the last path now comes too late


def test_estimators_run_unchanged(generator: torch.Generator) -> None:
    grid = OFDMGrid(14, 48, SPACING)
    model = TDL("A", delay_spread=100e-9, max_doppler=50.0)
    obs = OFDMPilots(grid, (2, 11), 3, domain="time")
    rays = model.sample(100, generator=generator)
    y, h = obs.observe(rays, 0.01, generator=generator), obs.channel(rays)
    h_hat, err_var = LMMSE(obs, model.covariance(grid))(y, 0.01)
    error = (h_hat - h).abs().square().mean()
    # 100 channels of about 4 strong degrees of freedom: 5 % standard error. 50 Hz leave -47 dB of interference.
    assert error.item() == pytest.approx(err_var.mean().item(), rel=0.2)
    assert (LS(obs)(y, 0.01).h_hat - h).abs().square().mean() > error


# -- Elsewhere it is what a slow loop says. --


def loop(obs: TimeDomainPilots, rays: Rays, sent: torch.Tensor, late: float, off: float) -> np.ndarray:
    """One link: every sample of the continuous-time waveform from its definition, and a plain DFT."""
    grid, size = obs.grid, obs.waveform.fft_size
    gain, delay, doppler = (part.numpy() for part in (rays.gain, rays.delay, rays.doppler))
    symbols, frequencies = sent.numpy(), grid.frequencies.numpy()
    y = np.zeros((gain.shape[-2], grid.num_ofdm_symbols, grid.num_subcarriers), dtype=complex)
    for s in range(grid.num_ofdm_symbols):
        for n in range(size):
            t = s * grid.symbol_duration + grid.cyclic_prefix + late + n / (grid.subcarrier_spacing * size)
            heard = np.zeros(gain.shape[-2], dtype=complex)
            for c in range(len(delay)):
                owner = math.floor((t - delay[c]) / grid.symbol_duration)
                since = t - delay[c] - owner * grid.symbol_duration - grid.cyclic_prefix
                x = symbols[:, owner + 1] @ np.exp(2j * np.pi * frequencies * since)
                for r in range(gain.shape[1]):
                    heard += gain[c, r] @ x * np.exp(2j * np.pi * doppler[c, r] * t)
            turn = np.exp(2j * np.pi * off * t)
            y[:, s] += np.outer(heard * turn, np.exp(-2j * np.pi * frequencies * n / (grid.subcarrier_spacing * size))) / size
    return y


@pytest.mark.parametrize(
    ("late", "off", "latest", "doppler"),
    [
        (0.0, 0.0, 2.3 * PREFIX, 0.0),  # paths after the prefix
        (0.0, 0.0, 0.9 * PREFIX, 0.2 * SPACING),  # fast fading
        (0.4 * PREFIX, 0.1 * SPACING, 0.9 * PREFIX, 0.0),  # a window that reaches into the next symbol, and CFO
        (-0.7 * PREFIX, -0.3 * SPACING, 1.1 * PREFIX, 0.1 * SPACING),
        (-0.6 / SPACING, 2.5 * SPACING, 0.4 / SPACING, 0.7 * SPACING),  # nearly a symbol off, and everything else wrong too
    ],
)
def test_equals_a_slow_loop(late: float, off: float, latest: float, doppler: float, generator: torch.Generator) -> None:
    obs = observation(timing_offset=late, carrier_offset=off)
    rays = some_rays(generator, batch=(2,), latest=latest, doppler=doppler)
    sent = obs.sent((2,), generator=generator, dtype=torch.complex128)
    got = obs.noiseless(rays, sent).numpy()
    for i in range(2):
        np.testing.assert_allclose(got[i], loop(obs, rays[i], sent[i], late, off), rtol=0, atol=1e-12)


def test_channel_is_the_diagonal_of_the_system(generator: torch.Generator) -> None:
    obs = observation(timing_offset=0.3 * PREFIX, carrier_offset=700.0)
    rays = some_rays(generator, batch=(), latest=1.5 * PREFIX, doppler=1e3)
    sent = torch.zeros(2, 4, 24, 2, 6, 24, dtype=torch.complex128)  # one symbol on one element of one antenna at a time
    for a, s, k in np.ndindex(2, 4, 24):
        sent[a, s, k, a, s + 1, k] = 1
    everywhere = Rays(
        rays.gain.expand(2, 4, 24, *rays.gain.shape), rays.delay.expand(2, 4, 24, 5), rays.doppler.expand(2, 4, 24, 5, 3)
    )
    y = obs.noiseless(everywhere, sent)  # (a, s, k, rx, s', k')
    diagonal = y.diagonal(dim1=1, dim2=4).diagonal(dim1=1, dim2=3)  # (a, rx, s, k)
    torch.testing.assert_close(diagonal.transpose(0, 1), obs.channel(rays), rtol=0, atol=1e-13)


def test_offsets_of_each_sample(generator: torch.Generator) -> None:
    obs = observation()
    rays = some_rays(generator, doppler=100.0)
    shared = replace(rays, delay=rays.delay[0])  # delays in common, yet not after the offsets
    sent = obs.sent((3,), generator=generator, dtype=torch.complex128)
    late, off = torch.tensor([-1e-6, 0.0, 2e-6]), torch.tensor([0.0, 300.0, -50.0])
    for source in (rays, shared):
        together = obs.noiseless(source, sent, timing_offset=late, carrier_offset=off)
        channels = obs.channel(source, timing_offset=late, carrier_offset=off)
        for i in range(3):
            options = {"timing_offset": float(late[i]), "carrier_offset": float(off[i])}
            torch.testing.assert_close(together[i], obs.noiseless(source[i], sent[i], **options), rtol=0, atol=1e-12)
            torch.testing.assert_close(channels[i], obs.channel(source[i], **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_no_links(lead: tuple[int, ...], generator: torch.Generator) -> None:
    obs = observation()
    rays = some_rays(generator, batch=lead)
    assert obs.observe(rays, 0.1, generator=generator).shape == (*lead, 2, *GRID.shape)
    assert obs.channel(rays).shape == (*lead, 2, 2, *GRID.shape)


def test_array_responses_and_shared_delays(generator: torch.Generator) -> None:
    model = CDL("C", delay_spread=100e-9, carrier_frequency=3e9, speed=0.0, tx_array=ULA(2), rx_array=ULA(3, polarization="VH"))
    rays = model.sample(3, generator=generator).double()
    obs = observation(antennas=rays.num_tx_ant)
    want = frequency_response(rays, GRID.times, GRID.frequencies)
    torch.testing.assert_close(obs.channel(rays), want, rtol=0, atol=1e-12)
    sent = obs.sent((3,), generator=generator, dtype=torch.complex128)
    torch.testing.assert_close(obs.noiseless(rays, sent), on_grid(obs, want, sent), rtol=0, atol=1e-12)


def test_parts_make_the_whole(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = observation()
    rays = some_rays(generator, latest=2 * PREFIX, doppler=500.0)
    sent = obs.sent((3,), generator=generator, dtype=torch.complex128)
    whole, channel = obs.noiseless(rays, sent), obs.channel(rays)
    for limit in (1, 120_000):  # a frame and a symbol at a time; two frames at a time
        monkeypatch.setattr(waveform, "_CHUNK_BYTES", limit)
        torch.testing.assert_close(obs.noiseless(rays, sent), whole, rtol=0, atol=1e-13)
        torch.testing.assert_close(obs.channel(rays), channel, rtol=0, atol=1e-13)


# -- Interference has the power that theory says, for a fully loaded grid. --

WIDE = OFDMGrid(2, 64, SPACING, symbol_duration=72 / 64 / SPACING)  # the prefix is 8 samples of 64


def loaded(**options) -> TimeDomainPilots:
    """Every element but two carries data; as many samples as subcarriers, so that all interference falls into the band."""
    obs = OFDMPilots(WIDE, (0,), 32, domain="time", fft_size=64, **options)
    assert isinstance(obs, TimeDomainPilots)
    return obs


def mean_interference(rays: Rays, generator: torch.Generator, **options) -> tuple[float, float]:
    """Mean power of the interference, and of the part of the signal that is not."""
    obs = loaded(**options)
    left = obs.interference(rays, obs.sent(rays.batch_shape, generator=generator, dtype=rays.gain.dtype))
    return float(left.abs().square().mean()), float(obs.channel(rays).abs().square().mean())


@pytest.mark.parametrize("normalized", [0.02, 0.3])
def test_fast_fading_leaves_the_power_of_doppler_distortion(normalized: float, generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=100e-9, max_doppler=normalized * SPACING)
    lost, kept = mean_interference(model.sample(800, generator=generator), generator)
    want = doppler_distortion(normalized * SPACING, SPACING)
    # 800 channels: 2.5 % standard error (interference follows |dh/dt|^2, exponential variables, of some 2 strong taps);
    # 64 samples instead of an integral change it by 1/64^2.
    assert lost == pytest.approx(want, rel=0.1)
    assert lost + kept == pytest.approx(1.0, abs=0.1)


def test_edges_of_the_band_hear_half_where_there_are_guard_bins(generator: torch.Generator) -> None:
    rays = TDL("A", delay_spread=100e-9, max_doppler=300.0).sample(400, generator=generator)
    edge_to_middle = []
    for size in (64, 256):
        obs = OFDMPilots(WIDE, (0,), 32, domain="time", fft_size=size)
        assert isinstance(obs, TimeDomainPilots)
        sent = obs.sent((400,), generator=torch.Generator().manual_seed(1))
        power = obs.interference(rays, sent).abs().square().mean((0, 1, 2))
        edge_to_middle.append(float((power[0] + power[-1]) / 2 / power[16:48].mean()))
    # Slow fading leaves 1/d^2 at a distance of d subcarriers: both sides, or one (1600 elements at the edges: 4 %).
    assert edge_to_middle == pytest.approx([1.0, 0.5], abs=0.15)


@pytest.mark.parametrize("samples", [4, 8, 9, 20, 50, 71])
def test_a_late_path_leaves_the_power_of_late_path_distortion(samples: int, generator: torch.Generator) -> None:
    gain = torch.ones(200, 1, 1, 1, 1, dtype=torch.complex128)
    delay = torch.tensor([samples / 64 / SPACING], dtype=torch.float64)
    lost, kept = mean_interference(Rays(gain, delay, torch.zeros(200, 1, 1)), generator)
    want = late_path_distortion([1.0], delay, cyclic_prefix=WIDE.cyclic_prefix, useful_duration=1 / SPACING)
    # 200 x 128 elements: their interference is independent enough for 2 % standard error at one late sample.
    assert lost == pytest.approx(want, rel=0.08, abs=1e-12)
    assert kept + want == pytest.approx(1.0, abs=1e-12)  # the gain is deterministic


@pytest.mark.parametrize("samples", [1, 5, 30])
def test_a_late_window_hears_the_next_symbol(samples: int, generator: torch.Generator) -> None:
    rays = Rays(torch.ones(200, 1, 1, 1, 1, dtype=torch.complex128), torch.zeros(1), torch.zeros(200, 1, 1))
    late = samples / 64
    lost, kept = mean_interference(rays, generator, timing_offset=late / SPACING)
    assert lost == pytest.approx(late * (2 - late), rel=0.08)  # as for a path that is late by as much
    assert kept == pytest.approx((1 - late) ** 2, abs=1e-12)


@pytest.mark.parametrize("normalized", [0.01, -0.05, 0.4])
def test_carrier_offset_leaves_one_minus_the_dirichlet_kernel(normalized: float, generator: torch.Generator) -> None:
    rays = Rays(torch.ones(300, 1, 1, 1, 1, dtype=torch.complex128), torch.zeros(1), torch.zeros(300, 1, 1))
    lost, kept = mean_interference(rays, generator, carrier_offset=normalized * SPACING)
    kernel = math.sin(math.pi * normalized) / (64 * math.sin(math.pi * normalized / 64))
    assert kept == pytest.approx(kernel**2, abs=1e-12)
    assert lost == pytest.approx(1 - kernel**2, rel=0.05)  # 300 x 128 elements, 1 % standard error


def test_carrier_offset_turns_the_channel_from_symbol_to_symbol() -> None:
    rays = Rays(torch.ones(1, 1, 1, 1, dtype=torch.complex128), torch.zeros(1), torch.zeros(1, 1))
    h = loaded(carrier_offset=300.0).channel(rays)[0, 0]
    turn = h[1] / h[0]
    torch.testing.assert_close(turn, torch.exp(2j * math.pi * 300.0 * torch.full_like(turn, WIDE.symbol_duration)))


def test_silence_around_the_frame(generator: torch.Generator) -> None:
    rays = some_rays(generator, latest=3 * PREFIX)
    quiet, loud = observation(neighbours="silence"), observation()
    sent = loud.sent((3,), generator=generator, dtype=torch.complex128)
    hushed = sent.clone()
    hushed[..., 0, :] = hushed[..., -1, :] = 0
    torch.testing.assert_close(quiet.noiseless(rays, hushed), loud.noiseless(rays, hushed))
    difference = (quiet.noiseless(rays, hushed) - loud.noiseless(rays, sent)).abs().amax((0, 1, 3))
    assert difference[0] > 0.1  # late paths bring the symbol before the frame into its first symbol only
    assert difference[1:].max() < 1e-12
    assert not quiet.sent((2,), generator=generator)[..., [0, -1], :].any()


# -- What is sent. --


@pytest.mark.parametrize("antennas", [1, 2])
def test_sent_symbols(antennas: int, generator: torch.Generator) -> None:
    obs = observation(antennas)
    sent = obs.sent((5,), generator=generator)
    assert sent.shape == (5, antennas, 6, 24)
    assert sent.dtype == torch.complex64
    torch.testing.assert_close(sent[:, :, 1:-1][..., obs.mask], obs.pilots[:, obs.mask].expand(5, -1, -1))
    data = sent[:, :, 1:-1][..., ~obs.mask]
    torch.testing.assert_close(data.abs().square().sum(1), torch.ones(5, data.shape[-1]))
    assert data[0].ne(data[1]).any()  # fresh for every link
    # 5 x 84 symbols or more: the mean of QPSK has a standard error of 5 % of its amplitude.
    assert data.mean().abs() < 0.2
    alone = observation(antennas, data="none").sent((5,))
    assert not alone[:, :, 1:-1][..., ~obs.mask].any()
    assert not alone[:, :, [0, -1]].any()
    around = observation(antennas, data="none", neighbours="data").sent((5,), generator=generator)
    assert around[:, :, [0, -1]].abs().min() > 0
    torch.testing.assert_close(around[:, :, 1:-1], alone[:, :, 1:-1])


def test_seeds_and_the_global_generator(generator: torch.Generator) -> None:
    obs, rays = observation(), some_rays(generator, dtype=torch.complex64)
    before = torch.get_rng_state()
    first, again, other = (obs.observe(rays, 0.1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.complex64
    assert torch.equal(before, torch.get_rng_state())


def test_copies_and_states() -> None:
    obs = observation(timing_offset=1e-6)
    twin = copy.deepcopy(obs)
    assert isinstance(twin, TimeDomainPilots)
    assert twin.timing_offset == 1e-6
    OFDMPilots(GRID, pattern=kronecker_pattern(GRID, (1,), 2, 2)).load_state_dict(obs.state_dict())  # same state
    assert OFDMPilots.from_pattern(GRID, obs.pilots, domain="time", data="none").domain == "time"
    assert OFDMPilots(GRID, (1,)).domain == "frequency"
    assert observation(fft_size=None).waveform.fft_size == 32


# -- Gradients. --


def test_differentiable_in_rays_pilots_offsets_and_noise_level(generator: torch.Generator) -> None:
    small = OFDMGrid(2, 3, SPACING)
    rays = some_rays(generator, batch=(2,), antennas=(1, 2), latest=0.8 * small.cyclic_prefix, doppler=500.0)
    pilots = complex_normal((2, 2, 3), generator=generator, dtype=torch.complex128)
    # Delays in microseconds, so that finite differences of 1e-6 stay small beside them; three clusters of two rays.
    inputs = (
        rays.gain[:, ::2, :2],
        rays.delay[:, ::2] * 1e6,
        rays.doppler[:, ::2, :2],
        pilots,
        torch.tensor([-0.1, 0.2]).double(),
        torch.ones(2).double(),
    )
    late_path = torch.tensor([0.0, 0, 9.3])  # one cluster comes after the prefix

    def run(gain, delay, doppler, pilots, late, no):
        obs = OFDMPilots.from_pattern(small, pilots, domain="time", neighbours="data")
        moved = Rays(gain, (delay + late_path) * 1e-6, doppler)
        options = {"timing_offset": late * 1e-6, "carrier_offset": late * 1e3}
        y = obs.observe(moved, no, generator=torch.Generator().manual_seed(3), **options)
        return y, obs.channel(moved, **options)

    assert torch.autograd.gradcheck(run, tuple(value.clone().requires_grad_() for value in inputs))


# -- Bad input. --

OBS = observation()
RAYS = some_rays(torch.Generator().manual_seed(3))


def noiseless(rays: object = RAYS, sent: object = None, **options) -> torch.Tensor:
    return OBS.noiseless(rays, sent, generator=torch.Generator(), **options)  # type: ignore[arg-type]


BAD = [
    (lambda: noiseless(torch.zeros(3, 2, 2, 4, 24) + 0j), InvalidTypeError, "rays must be wichan.channels.Rays, got Tensor"),
    (lambda: OBS.channel(torch.zeros(3, 2, 2, 4, 24) + 0j), InvalidTypeError, "rays must be wichan.channels.Rays"),  # type: ignore[arg-type]
    (lambda: OBS.observe(RAYS, -1.0, generator=torch.Generator()), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: OBS.observe(RAYS, 1.0, generator=7), InvalidTypeError, "generator must be a torch.Generator"),  # type: ignore[arg-type]
    (lambda: OBS.noiseless(RAYS), InvalidTypeError, "generator must be a torch.Generator, got NoneType"),
    (lambda: noiseless(replace(RAYS, gain=RAYS.gain * math.nan)), InvalidValueError, "rays.gain holds 180 NaN"),
    (lambda: noiseless(replace(RAYS, delay=RAYS.delay + math.inf)), InvalidValueError, "rays.delay holds 15 NaN"),
    (lambda: noiseless(replace(RAYS, delay=RAYS.delay + 8e-5)), InvalidValueError, "only the symbols next to one's own"),
    (lambda: noiseless(replace(RAYS, delay=RAYS.delay - 8e-5)), InvalidValueError, "only the symbols next to one's own"),
    (lambda: noiseless(some_rays(torch.Generator(), antennas=(2, 1))), ShapeError, "rays have num_tx_ant=1; the pilots ask"),
    (lambda: noiseless(timing_offset=8e-5), InvalidValueError, "timing_offset reaches 8e-05 s; it must stay below one OFDM"),
    (lambda: observation(timing_offset=-8e-5), InvalidValueError, "timing_offset reaches 8e-05 s"),
    (lambda: noiseless(timing_offset=math.nan), InvalidValueError, "timing_offset=nan must be finite"),
    (lambda: noiseless(timing_offset=torch.tensor([math.nan])), InvalidValueError, "timing_offset holds 1 NaN"),
    (lambda: noiseless(timing_offset=torch.zeros(2)), ShapeError, r"timing_offset has shape \(2,\); it must fit the batch"),
    (lambda: noiseless(timing_offset=1j), InvalidTypeError, "timing_offset=1j must be a real number"),
    (lambda: noiseless(carrier_offset=torch.ones(3).int()), InvalidTypeError, "carrier_offset has dtype torch.int32"),
    (lambda: noiseless(carrier_offset=1e6), InvalidValueError, "carrier_offset reaches 1e.06 Hz; it must stay below half"),
    (lambda: noiseless(sent=torch.zeros(2, 4, 24) + 0j), ShapeError, r"sent has shape \(2, 4, 24\)"),
    (lambda: noiseless(sent=torch.zeros(4, 2, 6, 24) + 0j), ShapeError, r"sent has batch axes \(4,\)"),
    (lambda: noiseless(sent=torch.zeros(2, 6, 24)), InvalidTypeError, "sent has dtype torch.float32"),
    (lambda: observation(fft_size=23), InvalidValueError, "fft_size=23 must be at least 24"),
    (lambda: observation(fft_size=32.0), InvalidTypeError, "fft_size=32.0 must be an integer"),
    (lambda: observation(data="qam"), UnknownNameError, "data='qam' is unknown"),
    (lambda: observation(neighbours="none"), UnknownNameError, "neighbours='none' is unknown"),
    (lambda: OFDMPilots(GRID, (1,), domain="tme"), UnknownNameError, "domain='tme' is unknown; did you mean 'time'"),
    (lambda: OFDMPilots(GRID, (1,), fft_size=32), InvalidTypeError, "fft_size is not an argument of pilots in the frequency"),
    (lambda: OFDMPilots(GRID, (1,), domain="time", size=3), InvalidTypeError, "size is not an argument of pilots in the time"),
    (lambda: TimeDomainPilots(GRID, (1,), domain="frequency"), UnknownNameError, "domain='frequency' is unknown"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
