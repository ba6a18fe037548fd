"""SNR, delay spread and Doppler from pilots: exact statistics give exact answers, plain loops agree, errors are as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import j0

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import (
    LS,
    ConditionEstimator,
    Estimate,
    Estimator,
    WithEstimatedConditions,
    estimate_conditions,
    estimate_delay_spread,
    estimate_max_doppler,
    estimate_noise,
    estimate_snr_db,
)
from wichan.estimators.pilot_correlation import lag_correlation
from wichan.estimators.pilot_lattice import PilotLattice, PilotTables
from wichan.estimators.pilot_likelihood import PilotLikelihood, exponential_profile
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.testing import check_estimator

GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
PILOTS = OFDMPilots(GRID, symbols=(2, 5, 8, 11), subcarrier_step=3)
RANGES = {"snr_db": (0.0, 25.0), "delay_spread": (25e-9, 300e-9), "max_doppler": (0.0, 1866.7)}


def observed(generator: torch.Generator, count: int, no: float, obs: OFDMPilots = PILOTS, **model: float) -> torch.Tensor:
    """Received grids of TDL-A."""
    h = TDL("A", num_tx_ant=obs.num_tx_ant, **model).frequency_response(obs.grid, count, generator=generator)
    return obs.observe(h, no, generator=generator)


def exact_frame(doppler: float, spread: float, onset: float = 0.0) -> torch.Tensor:
    """One frame whose receive antennas average to the exact covariance of Jakes fading and an exponential delay profile.

    They are the columns of a square root of J0 x F, F(df) = exp(-j 2 pi df onset) / (1 + j 2 pi df spread).
    """
    times = GRID.times[PILOTS.pilot_symbols].numpy()
    tones = GRID.frequencies[PILOTS.pilot_subcarriers].numpy()
    over_time = j0(2 * np.pi * doppler * np.subtract.outer(times, times))
    gap = 2j * np.pi * np.subtract.outer(tones, tones)
    root = np.kron(sqrtm(over_time), sqrtm(np.exp(-gap * onset) / (1 + gap * spread)))
    # Older versions of SciPy give an extended precision that torch does not know.
    signal = torch.from_numpy((root.T * math.sqrt(len(root))).astype(np.complex128))
    y = torch.zeros(len(root), GRID.num_resource_elements, dtype=torch.complex128)
    return y.index_copy(1, PILOTS.pilot_index, signal * PILOTS.pilot_values()[0]).unflatten(1, GRID.shape)


# -- Closed forms: exact statistics in, exact condition out. --


@pytest.mark.parametrize("method", ["likelihood", "correlation"])
@pytest.mark.parametrize(("doppler", "spread"), [(300.0, 60e-9), (900.0, 150e-9), (1500.0, 290e-9)])
def test_exact_statistics_give_the_exact_conditions(method: str, doppler: float, spread: float) -> None:
    # 160 antennas are as many looks: the likelihood is a spike, and what remains is the candidates' spacing (a factor of 1.4
    # in the spread, 60 Hz near 900 Hz) and for correlations the Doppler's 1867 / 127 = 15 Hz.
    found = estimate_conditions(PILOTS, exact_frame(doppler, spread), 1e-6, limits=RANGES, method=method)
    assert float(found.max_doppler) == pytest.approx(doppler, abs=35.0 if method == "likelihood" else 8.0)
    assert float(found.delay_spread) == pytest.approx(spread, rel=0.2 if method == "likelihood" else 0.02)
    assert float(found.snr_db) == 25.0  # the upper limit


def test_likelihood_finds_a_candidate_exactly() -> None:
    est = ConditionEstimator(PILOTS, limits=RANGES)
    assert est.likelihood is not None
    doppler, spread = est.likelihood.dopplers[17], est.likelihood.spreads[4]
    found = est(exact_frame(float(doppler), float(spread)), 1e-4)
    assert float(found["max_doppler"]) == pytest.approx(float(doppler), rel=2e-3)
    assert float(found["delay_spread"]) == pytest.approx(float(spread), rel=2e-2)  # the profile ends where the prefix does


def test_timing_does_not_change_the_delay_spread(generator: torch.Generator) -> None:
    y = observed(generator, 16, 0.01, delay_spread=150e-9, max_doppler=300.0)
    late = y * torch.exp(-2j * math.pi * GRID.frequencies * 0.57e-6).to(y.dtype)
    by_lags = [estimate_delay_spread(PILOTS, value, 0.01, method="correlation") for value in (y, late)]
    torch.testing.assert_close(*by_lags, rtol=1e-5, atol=0)  # |correlation| is the same number
    likely = [estimate_delay_spread(PILOTS, value, 0.01) for value in (y, late)]
    torch.testing.assert_close(*likely, rtol=0.1, atol=0)  # 0.57 us is two candidates on


def test_conditions_do_not_depend_on_scale_and_phase(generator: torch.Generator) -> None:
    y = observed(generator, 8, 0.05, delay_spread=100e-9, max_doppler=500.0).to(torch.complex128)
    for method in ("likelihood", "correlation"):
        first = estimate_conditions(PILOTS, y, 0.05, method=method)
        second = estimate_conditions(PILOTS, y * (3 - 4j), 0.05 * 25, method=method)
        for a, b in zip(first, second, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


# -- SNR and noise. --


def test_snr_of_a_frame_and_of_a_link() -> None:
    pilots = OFDMPilots(GRID, symbols=(2, 11), subcarrier_step=3, boost_db=3.0)
    y = pilots.noiseless(torch.full((2, 1, 1, 14, 120), 2.0, dtype=torch.complex64))  # |y|^2 = 4 x 2 on every pilot
    assert estimate_snr_db(pilots, y, 0.8).tolist() == pytest.approx([10 * math.log10(10**0.3 * 4 / 0.8 - 1)] * 2, abs=1e-4)
    link = estimate_snr_db(pilots, y, 0.1, mean_power=1.0)
    assert link.tolist() == pytest.approx([pilots.snr_db_from_no(0.1)] * 2, abs=1e-4)
    assert float(estimate_snr_db(pilots, y, 0.0)[0]) == 60.0
    assert float(estimate_snr_db(pilots, y, 1e3, limits=(-7.0, 30.0))[0]) == -7.0


def test_noise_from_differences_is_unbiased_up_to_40_db(generator: torch.Generator) -> None:
    # Third differences of a row of 40 leave 37 numbers with about 37 x 20^2 / (20^2 + 2 (15^2 + 6^2 + 1)) = 16 independent
    # ones: 4 rows of 400 frames give a mean to 1 / sqrt(25600) = 0.6 %. At 40 dB the channel itself leaks in by up to 15 %.
    for no, tolerance in ((1.0, 0.025), (1e-2, 0.025), (1e-4, 0.2)):
        y = observed(generator, 400, no, delay_spread=200e-9, max_doppler=200.0)
        assert float(estimate_noise(PILOTS, y).mean()) == pytest.approx(no, rel=tolerance)


def test_noise_from_differences_against_a_cubic() -> None:
    # A cubic along frequency has no fourth difference, a quadratic no third: no noise is seen in it.
    k = torch.linspace(-1, 1, 120, dtype=torch.float64)
    h = (1 + 0.5 * k - 0.8 * k**2).to(torch.complex128).expand(1, 1, 1, 14, 120)
    assert float(estimate_noise(PILOTS, PILOTS.noiseless(h)[0])) < 1e-12


def test_noise_from_silent_elements(generator: torch.Generator) -> None:
    y = observed(generator, 3, 0.25, delay_spread=100e-9, max_doppler=100.0)
    silent = torch.zeros(GRID.shape, dtype=torch.bool)
    silent[0] = True
    want = y[:, :, 0].abs().square().mean(dim=(1, 2))
    torch.testing.assert_close(estimate_noise(PILOTS, y, silent=silent), want)
    with pytest.raises(ShapeError, match="silent must be a bool tensor"):
        estimate_noise(PILOTS, y, silent=silent[:3])
    with pytest.raises(InvalidValueError, match="none that carries a pilot"):
        estimate_noise(PILOTS, y, silent=~silent)


# -- Independent implementations. --


def test_lag_correlation_against_plain_loops(generator: torch.Generator) -> None:
    y = observed(generator, 2, 0.2, delay_spread=200e-9, max_doppler=700.0).to(torch.complex128)
    x = (PILOTS.extract(y) / PILOTS.pilot_values()[0]).unflatten(-1, (4, 40))[:, 0].numpy()
    tables, no = PilotTables(PILOTS), torch.tensor([0.2, 0.1], dtype=torch.float64)
    for axis, lags, step in (("time", 3, 3), ("frequency", 13, 3)):
        found, rho, count = lag_correlation(tables, y, no, axis)
        assert found.tolist() == [step * lag for lag in range(1, lags + 1)]
        values = x if axis == "time" else x.transpose(0, 2, 1)
        for frame in range(2):
            for lag in range(1, lags + 1):
                cross, power, pairs = 0, 0.0, 0
                for i in range(values.shape[1] - lag):
                    for k in range(values.shape[2]):
                        a, b = values[frame, i, k], values[frame, i + lag, k]
                        cross, pairs = cross + b * a.conj(), pairs + 1
                        power += (abs(a) ** 2 + abs(b) ** 2) / 2 - float(no[frame])
                assert complex(rho[frame, lag - 1]) == pytest.approx(cross / power, rel=1e-7)  # pilots have 24 bits
                assert float(count[lag - 1]) == pairs


def test_likelihood_against_dense_matrices(generator: torch.Generator) -> None:
    lattice = PilotLattice(PILOTS)
    dopplers = torch.tensor([0.0, 400.0, 1300.0], dtype=torch.float64)
    like = PilotLikelihood(
        lattice, (-0.3e-6, 4e-6), torch.tensor([50e-9, 400e-9]).double(), torch.tensor([0.0, 0.5e-6]).double(), dopplers
    )
    y = observed(generator, 1, 0.3, delay_spread=200e-9, max_doppler=400.0).to(torch.complex128)
    x, gain = lattice(torch.cat([y, 1j * y.flip(-1)], dim=1))  # two looks
    x, no = x.flatten(1, 2), torch.tensor([0.3], dtype=torch.float64)
    assert float(gain) == pytest.approx(1.0, rel=1e-6)
    steering = np.exp(-2j * np.pi * np.outer(lattice.frequencies.numpy(), like.delays.numpy()))
    times = lattice.times.numpy()

    def dense(doppler: float, profile: np.ndarray) -> float:
        over_time = j0(2 * np.pi * doppler * np.subtract.outer(times, times))
        matrix = np.kron(over_time, (steering * profile) @ steering.conj().T) + 0.3 * np.eye(160)
        looks = x[0].flatten(1).numpy()
        form = sum(float((look.conj() @ np.linalg.solve(matrix, look)).real) for look in looks)
        return -len(looks) * float(np.linalg.slogdet(matrix)[1]) - form

    z, power = like.project(x), torch.tensor([0.8], dtype=torch.float64)
    shape = like.shape(z, power, torch.tensor([1]), no)[0]
    doppler = like.doppler(z, power[:, None] * like.shape_power[2:3], like.shape_modes[2:3], no)[0]
    profiles = like.profiles.numpy()
    want_shape = np.array([dense(400.0, 0.8 * profile) for profile in profiles])
    want_doppler = np.array([dense(float(f), 0.8 * profiles[2]) for f in dopplers])
    # What lies outside the window's span is noise for all candidates alike: differences must agree, up to directions of the
    # window that hold less than 1e-10 of the power and are left out.
    np.testing.assert_allclose(shape - shape[0], want_shape - want_shape[0], atol=1e-4)
    np.testing.assert_allclose(doppler - doppler[0], want_doppler - want_doppler[0], atol=1e-4)


def test_exponential_profile_keeps_mean_and_spread() -> None:
    delays = torch.arange(-5, 400, dtype=torch.float64) * 10e-9
    for onset, spread in ((0.0, 3e-9), (12e-9, 50e-9), (100e-9, 200e-9)):
        profile = exponential_profile(delays, onset, spread)
        mean = float((profile * delays).sum())
        assert float(profile.sum()) == pytest.approx(1.0, abs=1e-12)
        assert mean == pytest.approx(onset + spread, abs=0.3e-9)  # a floor of 1e-4 over 4 us moves it by 0.2 ns
        width = float((profile * (delays - mean) ** 2).sum()) ** 0.5
        assert spread - 1e-9 < width < math.hypot(spread, 25e-9)  # the step of 10 ns and the floor widen it


# -- Monte Carlo: as good as the documents say. --


def test_errors_are_as_documented(generator: torch.Generator) -> None:
    count = 512
    u = torch.rand(3, count, generator=generator, dtype=torch.float64)
    spread, doppler, no = 25e-9 + 275e-9 * u[0], 1866.7 * u[1], 10 ** -(0.5 + 1.5 * u[2])  # 5 to 20 dB
    model = TDL("A", delay_spread=1e-7, max_doppler=1.0)
    h = model.frequency_response(GRID, count, generator=generator, delay_spread=spread, max_doppler=doppler)
    y = PILOTS.observe(h, no, generator=generator)
    # The table of `wichan.estimators.conditions` over these SNRs, and 15 %: five standard errors of a root of 512 squares.
    for method, ns, hertz in (("likelihood", 36.0, 117.0), ("correlation", 62.0, 263.0)):
        found = estimate_conditions(PILOTS, y, no, limits=RANGES, method=method)
        rms_spread = float((found.delay_spread - spread).square().mean().sqrt()) * 1e9
        rms_doppler = float((found.max_doppler - doppler).square().mean().sqrt())
        assert rms_spread == pytest.approx(ns, rel=0.15)
        assert rms_doppler == pytest.approx(hertz, rel=0.15)
    blind = estimate_conditions(PILOTS, y, limits=RANGES)  # without no: hardly worse
    assert float((blind.max_doppler - doppler).square().mean().sqrt()) < 140


def test_more_antennas_know_more(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=150e-9, max_doppler=600.0, num_rx_ant=8)
    y = PILOTS.observe(model.frequency_response(GRID, 48, generator=generator), 0.05, generator=generator)
    for method in ("likelihood", "correlation"):
        together = estimate_max_doppler(PILOTS, y, 0.05, method=method) - 600
        alone = estimate_max_doppler(PILOTS, y[:, :1], 0.05, method=method) - 600
        # Eight looks instead of one: a third of the error; half is asked for.
        assert float(together.square().mean()) < 0.25 * float(alone.square().mean())


@pytest.mark.parametrize("pattern", ["kronecker", "dmrs", "staggered"])
def test_other_patterns(pattern: str, generator: torch.Generator) -> None:
    if pattern == "kronecker":
        obs = OFDMPilots(GRID, symbols=(2, 5, 8, 11), num_tx_ant=3)
    elif pattern == "dmrs":
        obs = OFDMPilots.dmrs(GRID, ports=(0, 1), additional_position=3)
    else:
        values = torch.zeros(1, 14, 120, dtype=torch.complex64)
        for number, symbol in enumerate((1, 3, 5, 7, 9, 11)):
            values[0, symbol, 2 * (number % 2) :: 4] = 1.0
        obs = OFDMPilots.from_pattern(GRID, values)
    est = ConditionEstimator(obs)
    assert est.method == ("correlation" if pattern == "staggered" else "likelihood")
    y = observed(generator, 64, 0.01, obs, delay_spread=200e-9, max_doppler=500.0)
    found = est(y, 0.01)
    # Single frames scatter by 30 ns or 60 ns and 100 Hz or 260 Hz; the median over 64 by a sixth of that, plus the bias.
    assert float(found["delay_spread"].median()) == pytest.approx(200e-9, abs=60e-9)
    assert float(found["max_doppler"].median()) == pytest.approx(500.0, abs=120.0)
    if pattern == "staggered":
        with pytest.raises(InvalidValueError, match="no product of symbols and subcarriers"):
            ConditionEstimator(obs, method="likelihood")


# -- Edges. --


def test_frames_without_anything_give_documented_values() -> None:
    y = torch.zeros(2, 1, 14, 120, dtype=torch.complex64)
    for method in ("likelihood", "correlation"):
        est = ConditionEstimator(PILOTS, limits=RANGES, method=method)
        for no in (0.0, 0.1, None):
            found = est(y, no)
            assert found["snr_db"].tolist() == [0.0, 0.0]
            if method == "likelihood":
                assert est.likelihood is not None
                mean = [float(est.likelihood.spreads.mean()), 933.35]
                assert [float(found[name][0]) for name in ("delay_spread", "max_doppler")] == pytest.approx(mean, rel=0.05)
            else:
                assert bool(torch.isfinite(found["delay_spread"] + found["max_doppler"]).all())


def test_what_pilots_do_not_show() -> None:
    one_symbol = OFDMPilots(GRID, symbols=(2,), subcarrier_step=3)
    y = torch.ones(2, 1, 14, 120, dtype=torch.complex64)
    with pytest.raises(InvalidValueError, match="one symbol, which do not show max_doppler; give fallback"):
        estimate_max_doppler(one_symbol, y, 0.1)
    assert estimate_max_doppler(one_symbol, y, 0.1, fallback=70.0).tolist() == [70.0, 70.0]
    assert estimate_delay_spread(one_symbol, y, 0.1).shape == (2,)
    one_tone = OFDMPilots(OFDMGrid(14, 12, 15e3), symbols=(2, 11), subcarrier_step=12)
    with pytest.raises(InvalidValueError, match="do not show delay_spread"):
        estimate_delay_spread(one_tone, y[..., :12], 0.1)
    assert estimate_max_doppler(one_tone, y[..., :12], 0.1).shape == (2,)
    with pytest.raises(InvalidValueError, match="no=None needs 4 pilots"):
        estimate_noise(one_tone, y[..., :12])


def test_shapes_and_precision(generator: torch.Generator) -> None:
    y = observed(generator, 6, 0.1, delay_spread=100e-9, max_doppler=100.0)
    flat = estimate_conditions(PILOTS, y, 0.1)
    split = estimate_conditions(PILOTS, y.unflatten(0, (2, 3)), torch.tensor([0.1, 0.1]))
    for a, b in zip(flat, split, strict=True):
        assert a.dtype == torch.float32 and b.shape == (2, 3)
        torch.testing.assert_close(a, b.flatten())
    single = estimate_conditions(PILOTS, y[0].to(torch.complex128), 0.1)
    assert single.snr_db.shape == () and single.snr_db.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "guess"}, UnknownNameError, "method='guess'"),
        ({"wanted": ("speed",)}, UnknownNameError, "wanted='speed'"),
        ({"limits": {"speed": (0, 1)}}, UnknownNameError, "limits='speed'"),
        ({"limits": {"max_doppler": (5.0, 5.0)}}, InvalidValueError, "must rise"),
        ({"limits": {"delay_spread": (-1.0, 5.0)}}, InvalidValueError, "must rise"),
        ({"limits": {"delay_spread": 3.0}}, InvalidValueError, "two numbers"),
        ({"mean_power": 0.0}, InvalidValueError, "mean_power=0"),
    ],
)
def test_bad_options_are_refused(options: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        ConditionEstimator(PILOTS, **options)
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused() -> None:
    y = torch.ones(2, 1, 14, 120, dtype=torch.complex64)
    with pytest.raises(InvalidTypeError, match="obs must be OFDMPilots"):
        estimate_snr_db(GRID, y, 0.1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="no=-1"):
        estimate_snr_db(PILOTS, y, -1.0)
    with pytest.raises(ShapeError, match="y has shape"):
        estimate_conditions(PILOTS, y[..., :-1], 0.1)
    y[1, 0, 2, 0] = math.nan
    with pytest.raises(InvalidValueError, match="NaN"):
        estimate_conditions(PILOTS, y, 0.1)


# -- The wrapper. --


class Recorder(Estimator):
    """LS that notes what it is told."""

    def __init__(self, told: tuple[str, ...], ranges: dict[str, tuple[float, float]] | None = None) -> None:
        super().__init__()
        self.told, self.condition_ranges = told, ranges
        self.ls = LS(PILOTS)
        self.heard: dict[str, torch.Tensor] = {}

    def forward(self, y: torch.Tensor, no: object, **conditions: torch.Tensor) -> Estimate:
        self.heard = {name: value.detach().clone() for name, value in conditions.items()}
        return self.ls(y, no)


def test_wrapper_tells_what_is_wanted_within_its_ranges(generator: torch.Generator) -> None:
    inner = Recorder(("delay_spread", "max_doppler"), {"delay_spread": (100e-9, 120e-9), "max_doppler": (0.0, 400.0)})
    est = WithEstimatedConditions(inner, PILOTS)
    assert est.told == ()
    y = observed(generator, 8, 0.01, delay_spread=300e-9, max_doppler=900.0)
    est(y, 0.01)
    assert set(inner.heard) == {"delay_spread", "max_doppler"}
    assert float(inner.heard["delay_spread"].min()) > 117e-9 and float(inner.heard["delay_spread"].max()) <= 120e-9
    assert float(inner.heard["max_doppler"].min()) > 380 and float(inner.heard["max_doppler"].max()) <= 400
    est(y, 0.01, max_doppler=torch.full((8,), 7.0))
    assert inner.heard["max_doppler"].tolist() == [7.0] * 8
    wide = WithEstimatedConditions(inner, PILOTS, ranges=RANGES)
    wide(y)  # even the noise is estimated
    assert float(inner.heard["max_doppler"].mean()) == pytest.approx(900.0, abs=150.0)


def test_wrapper_speaks_the_convention_of_the_inner_estimator(generator: torch.Generator) -> None:
    y = observed(generator, 8, 0.01, delay_spread=300e-9, max_doppler=900.0)
    inner = Recorder(("snr_db",), {"snr_db": (-10.0, 25.0)})
    WithEstimatedConditions(inner, PILOTS)(y, 0.01)
    assert inner.heard["snr_db"].tolist() == pytest.approx([20.0] * 8, abs=1e-4)  # mean power 1: no alone says it
    WithEstimatedConditions(inner, PILOTS, snr_convention="grid-measured")(y, 0.01)
    assert inner.heard["snr_db"].tolist() == pytest.approx([20.0 - 10 * math.log10(1680 / 160)] * 8, abs=1e-4)
    WithEstimatedConditions(inner, PILOTS, mean_power=None)(y, 0.01)
    torch.testing.assert_close(inner.heard["snr_db"], estimate_snr_db(PILOTS, y, 0.01, limits=(-10.0, 25.0)))


def test_wrapper_with_what_pilots_do_not_show() -> None:
    obs = OFDMPilots(GRID, symbols=(5,), subcarrier_step=3)
    inner = Recorder(("max_doppler",), {"max_doppler": (0.0, 400.0)})
    inner.ls = LS(obs)
    WithEstimatedConditions(inner, obs)(torch.ones(2, 1, 14, 120, dtype=torch.complex64), 0.1)
    assert inner.heard["max_doppler"].tolist() == [200.0, 200.0]
    with pytest.raises(InvalidValueError, match="wants to be told 'speed'"):
        WithEstimatedConditions(Recorder(("speed",)), PILOTS)
    with pytest.raises(InvalidTypeError, match="estimator must be"):
        WithEstimatedConditions("ls", PILOTS)  # type: ignore[arg-type]


def test_wrapper_keeps_the_contract(generator: torch.Generator) -> None:
    grid = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
    obs = OFDMPilots(grid, symbols=(1, 4), subcarrier_step=3)
    ls = LS(obs)

    class Scaled(Recorder):
        """What it is told reaches the estimate, so that checks see it."""

        def forward(self, y: torch.Tensor, no: object, **conditions: torch.Tensor) -> Estimate:
            weight = 1 / (1 + conditions["max_doppler"] / 1e4 + conditions["delay_spread"] * 1e5)
            h_hat, err_var = ls(y, no)
            return Estimate(h_hat * weight[..., None, None, None, None], err_var)

    model = TDL("A", delay_spread=100e-9, max_doppler=300.0)
    est = WithEstimatedConditions(Scaled(("delay_spread", "max_doppler")), obs)
    report = check_estimator(
        est,
        obs,
        generator=generator,
        channel=lambda count, g: model.frequency_response(grid, count, generator=g),
        calibrated=False,
        compiled=True,
    )
    assert "compile" in report.passed
