"""TDL, CDL and block fading against theory: power-delay profile, Jakes, Rician K, array correlation, mean power."""

from __future__ import annotations

import math

import pytest
import scipy.special
import torch

from wichan.channels import (
    CDL,
    TDL,
    ULA,
    Panel,
    RayleighBlock,
    RicianBlock,
    TapTable,
    impulse_response,
    mimo_correlation,
    normalize_power,
)
from wichan.channels.cdl_angles import circular_mean_and_spread
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.grid import OFDMGrid

DOUBLE = torch.float64
GRID = OFDMGrid(14, 120, 15e3)
SMALL = OFDMGrid(4, 6, 120e3, symbol_duration=0.5e-3)


def second_moment(h: torch.Tensor) -> torch.Tensor:
    flat = h.flatten(1).to(torch.complex128)
    return flat.T @ flat.conj() / h.shape[0]


def assert_matches_closed_form(model, generator, samples=4000, **conditions):
    """RMS and largest deviation of a sample moment in units of its standard deviation sqrt(C_ii C_jj / n).

    Entries are strongly correlated, about 5 degrees of freedom: the RMS passes 2 with probability 1e-3, the largest 7 with
    1e-5; a bias of 10 % shows as 6 units.
    """
    truth = model.covariance(SMALL).matrix()
    h = model.frequency_response(SMALL, samples, generator=generator)
    scale = truth.diagonal().real
    error = (second_moment(h) - truth).abs() / (scale[:, None] * scale[None, :]).sqrt() * math.sqrt(samples)
    assert float(error.square().mean().sqrt()) < 2.0
    assert float(error.max()) < 7.0
    assert float(scale.mean()) == pytest.approx(model.mean_power(), rel=1e-6)


@pytest.mark.parametrize("profile", ["A", "B", "C", "D", "E"])
def test_tdl_rms_delay_spread_is_one_for_scalable_tables(profile):
    """TR 38.901 tables are normalised to unit spread; rounding of the tables leaves a percent (D, E: with the LoS tap)."""
    assert TDL(profile, delay_spread=1e-7).profile.rms_delay_spread() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("profile,spread", [("A30", 30e-9), ("TDLB100", 100e-9), ("C300", 300e-9), ("D30", 30e-9)])
def test_fixed_profiles_have_their_spread(profile, spread):
    assert TDL(profile).profile.rms_delay_spread() == pytest.approx(spread, rel=0.06)


def test_tdl_power_delay_profile(generator):
    """Tap powers within 5 standard deviations of an exponential variable's mean over 20,000 draws."""
    model = TDL("A", delay_spread=100e-9, max_doppler=0.0)
    rays = model.sample(20_000, generator=generator)
    a, tau = impulse_response(rays, torch.zeros(1))
    power = a.abs().square().mean(dim=(0, 1, 2, 4)).to(DOUBLE)
    assert torch.allclose(power, model.profile.power, rtol=5 / math.sqrt(20_000))
    assert torch.equal(tau[0], model.delays())


def test_tdl_autocorrelation_is_jakes(generator):
    """Time autocorrelation against J0 for flat fading; error of a mean of 20,000 products is below 5 / sqrt(n)."""
    model = TDL(TapTable([0.0], [0.0]), max_doppler=200.0)
    grid = OFDMGrid(10, 1, 15e3, symbol_duration=1e-3)
    h = model.frequency_response(grid, 20_000, generator=generator).reshape(-1, 10)
    correlation = (h.conj()[:, :1] * h).mean(0)
    theory = torch.from_numpy(scipy.special.j0(2 * math.pi * 200.0 * grid.times.numpy()))
    assert torch.allclose(correlation.real.to(DOUBLE), theory, atol=5 / math.sqrt(20_000))
    assert float(correlation.imag.abs().max()) < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("profile,k_db", [("D", 13.3), ("E", 22.0)])
def test_rician_k_of_the_first_tap(profile, k_db, generator):
    """TR 38.901: K_1 = 13.3 dB (TDL-D) and 22 dB (TDL-E). Measured by the moment method on the tap."""
    model = TDL(profile, delay_spread=100e-9, max_doppler=10.0)
    assert 10 * math.log10(model.profile.k_factor) == pytest.approx(k_db, abs=0.01)
    a, _ = impulse_response(model.sample(40_000, generator=generator), torch.zeros(1))
    power = a[:, 0, 0, 0, 0].abs().square().to(DOUBLE)
    # for a Rician variable: var / mean^2 = (1 + 2 K) / (1 + K)^2
    ratio = float(power.var() / power.mean() ** 2)
    k = model.profile.k_factor
    assert ratio == pytest.approx((1 + 2 * k) / (1 + k) ** 2, rel=0.05)


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_tdl_mimo_correlation(level, generator):
    model = TDL("D", delay_spread=300e-9, max_doppler=150.0, num_rx_ant=2, num_tx_ant=2, correlation=level)
    assert_matches_closed_form(model, generator)


def test_mimo_correlation_matrices_of_38104():
    rx, tx = mimo_correlation("medium", 4, 2)
    assert rx[0].real.tolist() == pytest.approx([1.0, 0.9 ** (1 / 9), 0.9 ** (4 / 9), 0.9])
    assert tx[0].real.tolist() == pytest.approx([1.0, 0.3])
    assert torch.equal(mimo_correlation("medium", 2, 2, "downlink")[0], mimo_correlation("medium", 2, 2)[1])


def test_tdl_conditions_per_sample(generator):
    """A sample with its own spread and Doppler equals the model built with them, up to the draw (same generator state)."""
    spreads, dopplers = torch.tensor([30e-9, 300e-9], dtype=DOUBLE), torch.tensor([0.0, 500.0], dtype=DOUBLE)
    both = TDL("A", delay_spread=1e-7).frequency_response(
        GRID, 2, generator=torch.Generator().manual_seed(5), delay_spread=spreads, max_doppler=dopplers
    )
    for index in range(2):
        alone = TDL("A", delay_spread=float(spreads[index]), max_doppler=float(dopplers[index])).frequency_response(
            GRID, 2, generator=torch.Generator().manual_seed(5)
        )
        assert torch.allclose(alone[index], both[index], atol=1e-5)


def test_batched_covariance_equals_single_ones():
    model = TDL("D", delay_spread=1e-7, max_doppler=100.0)
    spreads, dopplers = torch.tensor([30e-9, 300e-9], dtype=DOUBLE), torch.tensor([10.0, 500.0], dtype=DOUBLE)
    batch = model.covariance(SMALL, delay_spread=spreads, max_doppler=dopplers).matrix()
    for index in range(2):
        alone = TDL("D", delay_spread=float(spreads[index]), max_doppler=float(dopplers[index])).covariance(SMALL).matrix()
        assert torch.allclose(batch[index], alone, atol=1e-9)


PAIR = Panel(1, 2, polarization="cross", pattern="38.901")
VELOCITY = (10.0, 3.0, -2.0)
CDL_CASES = {
    "station receives": {"speed": 20.0, "rx_array": PAIR},
    "array on the moving end": {
        "speed": 20.0,
        "tx_array": Panel(1, 2, polarization="cross", pattern="38.901"),
        "rx_array": ULA(2),
    },
    "range of speeds": {"speed": (5.0, 20.0), "rx_array": ULA(2)},
    "fixed velocity, moving array": {
        "velocity": (10.0, 3.0, -2.0),
        "rx_array": ULA(2),
        "tx_array": ULA(2),
        "direction": "downlink",
    },
    "fixed velocity, one element": {"velocity": VELOCITY, "rx_array": ULA(2)},
    "the station moves": {"speed": 20.0, "rx_array": ULA(2), "moving": "rx"},
    "tilted terminal": {"speed": 20.0, "rx_array": ULA(2), "tx_array": ULA(1), "tx_orientation": (0.3, 0.4, 0.5)},
}


@pytest.mark.parametrize("case", CDL_CASES)
@pytest.mark.parametrize("profile", ["B", "D"])
def test_cdl_closed_form(case, profile, generator):
    model = CDL(profile, delay_spread=300e-9, carrier_frequency=2.4e9, **CDL_CASES[case])
    assert_matches_closed_form(model, generator)


def test_cdl_power_delay_profile_and_mean_power(generator):
    model = CDL("A", delay_spread=100e-9, carrier_frequency=2.4e9, speed=3.0)
    a, tau = impulse_response(model.sample(8000, generator=generator), torch.zeros(1))
    power = a.abs().square().mean(dim=(0, 1, 2, 4)).to(DOUBLE)
    # a vertical pair of isotropic antennas keeps the co-polarised part: cluster powers themselves
    assert torch.allclose(power, model.profile.power, rtol=6 / math.sqrt(8000))
    assert model.mean_power() == pytest.approx(1.0)
    assert torch.equal(tau[0], model.delays())


def test_benchmark_panel_has_3_to_5_db():
    panel = Panel(4, 4, polarization="cross", pattern="38.901")
    for profile in "ABCDE":
        model = CDL(profile, delay_spread=1e-7, carrier_frequency=2.4e9, speed=1.0, rx_array=panel)
        assert 2.0 < 10 * math.log10(model.mean_power()) < 5.0


def test_exact_speed_and_random_direction(generator):
    """Doppler of the LoS ray of CDL-D stays below v / lambda and comes close to it: the speed is exact."""
    model = CDL("D", delay_spread=1e-7, carrier_frequency=3e9, speed=30.0)
    rays = model.sample(4000, generator=generator)
    largest = 30.0 / model.wavelength
    shifts = rays.doppler[:, 0, -1].abs()
    assert float(rays.doppler.abs().max()) <= largest * (1 + 1e-5)
    assert float(shifts.max()) > 0.97 * largest
    slow = model.sample(10, generator=generator, speed=torch.zeros(10))
    assert not bool(slow.doppler.any())


@pytest.mark.parametrize("max_doppler", [50.0, 933.0, 2000.0])
def test_jakes_covariance_is_positive_semidefinite(max_doppler):
    """PyTorch's own J0 is off by 4e-7 and makes these matrices indefinite."""
    covariance = TDL("A", delay_spread=1e-7, max_doppler=max_doppler).covariance(GRID)
    lag = (GRID.times[:, None] - GRID.times[None, :]).numpy()
    (term,) = covariance.terms
    theory = torch.from_numpy(scipy.special.j0(2 * math.pi * max_doppler * lag))
    assert torch.allclose((term.time @ term.time.mH).real, theory, atol=1e-10)


def test_uplink_is_the_transpose_of_downlink(generator):
    """Channel reciprocity in the statistics: covariance of the uplink is that of the downlink with antennas swapped."""
    station, terminal = ULA(2), ULA(1)
    up = CDL("C", delay_spread=3e-7, carrier_frequency=2.4e9, speed=9.0, rx_array=station, tx_array=terminal)
    down = CDL(
        "C", delay_spread=3e-7, carrier_frequency=2.4e9, speed=9.0, rx_array=terminal, tx_array=station, direction="downlink"
    )
    assert torch.allclose(up.covariance(SMALL).matrix(), down.covariance(SMALL).matrix(), atol=1e-9)


def test_angle_scaling_reaches_the_target():
    mean, spread = math.radians(20), math.radians(15)
    model = CDL(
        "A",
        delay_spread=1e-7,
        carrier_frequency=2.4e9,
        speed=1.0,
        direction="downlink",
        angle_mean={"aoa": mean},
        angle_spread={"aoa": spread},
    )
    angles = model.angles.angle["aoa"]
    power = (model.profile.power / 20)[:, None].expand_as(angles)
    got_mean, got_spread = circular_mean_and_spread(angles.flatten(), power.flatten())
    # the scaling is linear in angle while the spread is circular: a few percent remain (TR 38.901 note in 7.7.5.1)
    assert float(got_mean) == pytest.approx(mean, abs=math.radians(2))
    assert float(got_spread) == pytest.approx(spread, rel=0.25)


def test_block_fading(generator):
    assert_matches_closed_form(RayleighBlock(2, 2, correlation="high"), generator)
    steering = torch.exp(1j * math.pi * 0.3 * torch.arange(2)).to(torch.complex128)
    assert_matches_closed_form(RicianBlock(2, 2, k_factor_db=3.0, rx_steering=steering, correlation="medium"), generator)


def test_normalisation_factors_are_returned(generator):
    h = 3 * RayleighBlock(2, 2).frequency_response(SMALL, 5, generator=generator)
    scaled, factor = normalize_power(h, "sample")
    assert torch.allclose(scaled.abs().square().mean(dim=(1, 2, 3, 4)), torch.ones(5), atol=1e-5)
    assert torch.allclose(h * factor[:, None, None, None, None], scaled)
    _, ensemble = normalize_power(h, "ensemble", mean_power=9.0)
    assert torch.allclose(ensemble, torch.full((5,), 1 / 3))
    same, ones = normalize_power(h, None)
    assert same is h and torch.equal(ones, torch.ones(5))


@pytest.mark.parametrize("normalize", ["ensemble", "sample"])
def test_covariance_of_normalised_channels(normalize, generator):
    """Unit power in both; per-sample scaling is marked, since it removes fading."""
    panel = Panel(1, 2, pattern="38.901")
    model = CDL("A", delay_spread=1e-7, carrier_frequency=2e9, speed=1.0, rx_array=panel)
    covariance = model.covariance(SMALL, normalize=normalize)
    assert model.mean_power() > 2
    assert float(covariance.mean_power()) == pytest.approx(1.0)
    assert covariance.normalization == normalize
    h = model.frequency_response(SMALL, 500, generator=generator, normalize=normalize)
    # 500 channels, each at least as variable as an exponential variable
    assert float(h.abs().square().mean()) == pytest.approx(1.0, abs=4 / math.sqrt(500))


def test_double_precision_end_to_end():
    """The same draws, synthesised in double: single precision is within its rounding, 1e-5 of a unit-power channel."""
    model = TDL("D", delay_spread=1e-7, max_doppler=100.0)
    single, double = (
        model.frequency_response(GRID, 3, generator=torch.Generator().manual_seed(3), dtype=dtype)
        for dtype in (torch.complex64, torch.complex128)
    )
    assert double.dtype == torch.complex128
    assert torch.allclose(single.to(torch.complex128), double, atol=1e-5)


def test_global_rng_is_untouched(generator):
    before = torch.get_rng_state()
    CDL("D", delay_spread=1e-7, carrier_frequency=2.4e9, speed=1.0).frequency_response(SMALL, 3, generator=generator)
    TDL("E", delay_spread=1e-7).frequency_response(SMALL, 3, generator=generator)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_models_are_named(generator):
    with pytest.raises(UnknownNameError, match="profile='F' is unknown"):
        TDL("F", delay_spread=1e-7)
    with pytest.raises(InvalidValueError, match="delay_spread=-1"):
        TDL("A", delay_spread=-1.0)
    with pytest.raises(InvalidValueError, match="delay_spread=None is missing"):
        TDL("A")
    with pytest.raises(InvalidValueError, match="delay_spread=300 must be at most 0.001 .in seconds"):
        TDL("A", delay_spread=300)
    with pytest.raises(InvalidValueError, match="RMS delay spread of 0.6.*must be 1"):
        TDL(TapTable([0.0, 1.0, 2.0], [0.0, -3.0, -10.0], scalable=True), delay_spread=1e-7)
    with pytest.raises(InvalidValueError, match="delays holds 300; at most 0.001"):
        TapTable([0.0, 300.0], [0.0, -3.0])
    with pytest.raises(InvalidTypeError, match="dtype=torch.float32 must be torch.complex64"):
        TDL("A", delay_spread=1e-7).frequency_response(GRID, 2, generator=generator, dtype=torch.float32)
    with pytest.raises(InvalidValueError, match="has fixed delays"):
        TDL("A30", delay_spread=100e-9)
    with pytest.raises(InvalidValueError, match="excludes carrier_frequency"):
        TDL("A", delay_spread=1e-7, max_doppler=1.0, speed=3.0)
    with pytest.raises(InvalidValueError, match="speed=None is missing"):
        CDL("A", delay_spread=1e-7, carrier_frequency=1e9)
    with pytest.raises(InvalidValueError, match="excludes velocity"):
        CDL("A", delay_spread=1e-7, carrier_frequency=1e9, speed=1.0, velocity=(1, 0, 0))
    with pytest.raises(UnknownNameError, match="direction='up'"):
        CDL("A", delay_spread=1e-7, carrier_frequency=1e9, speed=1.0, direction="up")
    with pytest.raises(InvalidTypeError, match="generator must be a torch.Generator"):
        TDL("A", delay_spread=1e-7).frequency_response(GRID, 2, generator=3)
    with pytest.raises(InvalidValueError, match="batch_size=0"):
        TDL("A", delay_spread=1e-7).frequency_response(GRID, 0, generator=generator)
    with pytest.raises(ShapeError, match=r"delay_spread has shape \(3,\)"):
        TDL("A", delay_spread=1e-7).sample(2, generator=generator, delay_spread=torch.ones(3))
    with pytest.raises(UnknownNameError, match="condition='doppler'"):
        TDL("A", delay_spread=1e-7).sample(2, generator=generator, doppler=3.0)
    with pytest.raises(InvalidValueError, match="rx_correlation is not Hermitian"):
        TDL("A", delay_spread=1e-7, num_rx_ant=2, rx_correlation=torch.tensor([[1.0, 0.5], [0.1, 1.0]]))
    with pytest.raises(ShapeError, match="delays has 2 taps"):
        TapTable([0.0, 1.0], [0.0])
