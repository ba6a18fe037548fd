"""wichan's channels beside Sionna's: the same rays give the same channel; the models have the same statistics."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import CDL, TDL, ULA, Panel, Terminal, frequency_response, plane_wave_rays, polarization_matrix
from wichan.channels.profiles import cdl_profile, load_table, tdl_profile
from wichan.grid import OFDMGrid

try:
    from sionna.phy.channel import tr38901
except ModuleNotFoundError:  # then these tests are deselected, and counted
    tr38901 = None

pytestmark = pytest.mark.sionna
DOUBLE = torch.float64
CARRIER = 3.5e9


@pytest.fixture(autouse=True)
def _seed_sionna():
    import sionna.phy

    state = torch.get_rng_state()
    sionna.phy.config.seed = 11
    yield
    torch.set_rng_state(state)


def angles_and_phases(generator, batch=2, clusters=3, rays=20):
    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=DOUBLE)

    lead = (batch, clusters, rays)
    angles = {key: (uniform(*lead) * 2 - 1) * math.pi for key in ("aoa", "aod")}
    angles |= {key: uniform(*lead) * math.pi for key in ("zoa", "zod")}
    return angles, (uniform(*lead, 4) * 2 - 1) * math.pi, uniform(batch, clusters), uniform(batch, clusters).sort(-1)[0] * 1e-6


@pytest.mark.parametrize("moving", ["rx", "tx"])
def test_same_rays_same_channel(generator, moving):
    """Exact: equal angles, phases, delays, orientations and velocity give equal H through both, to double precision."""
    from sionna.phy.channel import cir_to_ofdm_channel
    from sionna.phy.channel.tr38901.channel_coefficients import ChannelCoefficientsGenerator, Topology
    from sionna.phy.channel.tr38901.rays import Rays as SionnaRays

    angles, phases, powers, delays = angles_and_phases(generator)
    batch, xpr = powers.shape[0], 7.0
    tx_orientation = torch.tensor([0.3, -0.2, 0.1], dtype=DOUBLE)
    rx_orientation = torch.tensor([2.8, 0.15, -0.25], dtype=DOUBLE)
    velocity = torch.randn(batch, 3, generator=generator, dtype=DOUBLE) * 10
    tx = tr38901.PanelArray(2, 3, "dual", "VH", "38.901", CARRIER, precision="double")
    rx = tr38901.PanelArray(2, 2, "dual", "cross", "38.901", CARRIER, precision="double")

    def link(tensor):
        return tensor[:, None, None]

    sionna_rays = SionnaRays(
        delays=link(delays),
        powers=link(powers),
        xpr=torch.full_like(link(angles["aoa"]), xpr),
        **{k: link(v) for k, v in angles.items()},
    )
    sionna_rays.phases = link(phases)
    zero = torch.zeros(batch, 1, 1, dtype=DOUBLE)
    topology = Topology(
        velocities=velocity[:, None],
        moving_end=moving,
        los_aoa=zero,
        los_aod=zero,
        los_zoa=zero,
        los_zod=zero,
        los=torch.zeros(batch, 1, 1, dtype=torch.bool),
        distance_3d=zero,
        tx_orientations=tx_orientation.expand(batch, 1, 3),
        rx_orientations=rx_orientation.expand(batch, 1, 3),
    )
    a, tau = ChannelCoefficientsGenerator(CARRIER, tx, rx, False, precision="double")(14, 14e3, zero, sionna_rays, topology)
    frequencies = (torch.arange(64, dtype=DOUBLE) - 32) * 30e3
    theirs = cir_to_ofdm_channel(frequencies, a.permute(0, 2, 4, 1, 5, 3, 6), tau.permute(0, 2, 1, 3))[:, 0, :, 0]

    rays = plane_wave_rays(
        angles,
        polarization_matrix(phases, xpr),
        (powers / 20).sqrt()[..., None],
        delays,
        Terminal(Panel(2, 2, polarization="cross", pattern="38.901"), rx_orientation),
        Terminal(Panel(2, 3, polarization="VH", pattern="38.901"), tx_orientation),
        wavelength=299_792_458.0 / CARRIER,
        velocity=velocity,
        moving=moving,
    )
    ours = frequency_response(rays, torch.arange(14, dtype=DOUBLE) / 14e3, frequencies)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-12 * float(theirs.abs().max()))


def test_tables_equal_sionnas_transcription():
    from sionna.phy.channel.tr38901 import models

    for letter in "ABCDE":
        theirs = models.load_json(models.parameter_file(f"CDL-{letter}.json", "19.2"))
        row = load_table("tr38901_cdl")["profiles"][letter]
        rows = ([row["los"]] if row["los"] else []) + row["clusters"]
        for index, key in enumerate(("delays", "powers", "aod", "aoa", "zod", "zoa")):
            assert [r[index] for r in rows] == theirs[key]
        assert [row[k] for k in ("c_asd", "c_asa", "c_zsd", "c_zsa", "xpr_db")] == [
            theirs[k] for k in ("cASD", "cASA", "cZSD", "cZSA", "xpr")
        ]
        theirs = models.load_json(models.parameter_file(f"TDL-{letter}.json", "19.2"))
        row = load_table("tr38901_tdl")["profiles"][letter]
        assert [t[1] for t in row["taps"]] == theirs["powers"][bool(theirs["los"]) :]
        assert [t[0] for t in row["taps"]] == theirs["delays"][bool(theirs["los"]) :]
    for name, row in load_table("ts38101_tdl")["profiles"].items():
        theirs = models.load_json(models.fixed_tdl_parameter_file(f"TDL-{name}.json"))
        assert [t[0] for t in row["taps"]] == theirs["delays"][bool(theirs["los"]) :]
        assert [t[1] for t in row["taps"]] == theirs["powers"][bool(theirs["los"]) :]


def second_moment(h: torch.Tensor) -> torch.Tensor:
    flat = h.flatten(1).to(torch.complex128)
    return flat.T @ flat.conj() / h.shape[0]


def assert_same_moments(ours: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor) -> None:
    """Both sample moments lie within Monte-Carlo error of the closed form.

    An entry of a sample moment of n Gaussian vectors has standard deviation sqrt(C_ii C_jj / n), the unit here. The entries
    are strongly correlated: the mean square over them behaves like a chi-square of about 5 degrees of freedom over 5, which
    passes 4 with probability 1e-3; the largest entry passes 7 with probability below 1e-5. A bias of 10 % shows as 5 units.
    """
    scale = truth.diagonal().real
    scale = (scale[:, None] * scale[None, :]).sqrt()
    for h in (ours, theirs):
        error = (second_moment(h) - truth).abs() / scale * math.sqrt(h.shape[0])
        assert float(error.square().mean().sqrt()) < 2.0
        assert float(error.max()) < 7.0


GRID = OFDMGrid(4, 6, 120e3, symbol_duration=0.5e-3)


@pytest.mark.parametrize("direction", ["uplink", "downlink"])
@pytest.mark.parametrize("profile", ["A", "B", "C", "D", "E"])
def test_cdl_statistics(generator, profile, direction):
    """Space, time and frequency correlation and power of a cross-polarised 1 x 2 station panel and a vertical terminal."""
    from sionna.phy.channel import cir_to_ofdm_channel

    speed, spread, carrier, samples = 15.0, 200e-9, 2.4e9, 3000
    station = Panel(1, 2, polarization="cross", pattern="38.901")
    uplink = direction == "uplink"
    model = CDL(
        profile,
        delay_spread=spread,
        carrier_frequency=carrier,
        speed=speed,
        direction=direction,
        rx_array=station if uplink else ULA(1),
        tx_array=ULA(1) if uplink else station,
        los_phase=0.0,
    )
    ours = model.frequency_response(GRID, samples, generator=generator)
    panel = tr38901.PanelArray(1, 2, "dual", "cross", "38.901", carrier)
    mobile = tr38901.PanelArray(1, 1, "single", "V", "omni", carrier)
    peer = tr38901.CDL(profile, spread, carrier, mobile, panel, direction, min_speed=speed, max_speed=speed)
    a, tau = peer(samples, GRID.num_ofdm_symbols, 1 / GRID.symbol_duration)
    theirs = cir_to_ofdm_channel(GRID.frequencies.float(), a, tau)[:, 0, :, 0]
    assert_same_moments(ours, theirs, model.covariance(GRID).matrix())


@pytest.mark.parametrize("profile", ["A", "B", "C", "D", "E", "A30", "B100", "C300", "A10", "C60", "D10", "D30"])
def test_tdl_statistics(generator, profile):
    from sionna.phy.channel import cir_to_ofdm_channel

    samples, carrier, speed = 3000, 3e9, 30.0
    spread = 300e-9 if len(profile) == 1 else None
    model = TDL(profile, delay_spread=spread, carrier_frequency=carrier, speed=speed)
    ours = model.frequency_response(GRID, samples, generator=generator)
    peer = tr38901.TDL(profile, spread, carrier, min_speed=speed, max_speed=speed)
    a, tau = peer(samples, GRID.num_ofdm_symbols, 1 / GRID.symbol_duration)
    theirs = cir_to_ofdm_channel(GRID.frequencies.float(), a, tau)[:, 0, :, 0]
    assert_same_moments(ours, theirs, model.covariance(GRID).matrix())


def test_tdl_covariance_equals_sionnas_closed_form():
    from sionna.phy.ofdm import tdl_freq_cov_mat, tdl_time_cov_mat

    for profile in ("A", "D"):
        model = TDL(profile, delay_spread=100e-9, carrier_frequency=3e9, speed=30.0)
        grid = OFDMGrid(14, 24, 30e3)
        matrix = model.covariance(grid).matrix().reshape(14, 24, 14, 24)
        frequency = tdl_freq_cov_mat(profile, 30e3, 24, 100e-9, precision="double")
        time = tdl_time_cov_mat(profile, 30.0, 3e9, grid.symbol_duration, 14, precision="double")
        assert torch.allclose(matrix[0, :, 0, :], frequency, atol=1e-9)
        assert torch.allclose(matrix[:, 0, :, 0], time, atol=1e-6)


def test_profiles_have_unit_power():
    for letter in "ABCDE":
        for power, los in (
            (cdl_profile(letter).power, cdl_profile(letter).los_power),
            (tdl_profile(letter)[0].power, tdl_profile(letter)[0].los_power),
        ):
            assert float(power.sum()) + los == pytest.approx(1.0, abs=1e-12)
