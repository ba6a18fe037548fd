"""`DelayDopplerMixture`: closed forms, equivariance, its own prior by Monte Carlo, any pilots, and its gap to a genie."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from wichan.channels import TDL
from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators import LMMSE, LS, DelayDopplerMixture, Estimate, PluginLMMSE, delay_doppler, delay_doppler_axes
from wichan.estimators.codebook import cell_means
from wichan.estimators.delay_doppler_axes import (
    Axis,
    _correlation,
    _from_correlations,
    _from_profiles,
    delay_factors,
    doppler_factors,
)
from wichan.estimators.scattering import delay_profiles, doppler_correlations
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal, make_generator
from wichan.testing import calibration_by_decile, check_estimator

GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=48, subcarrier_spacing=30e3)
PILOTS = OFDMPilots(GRID, symbols=(2, 5, 8, 11), subcarrier_step=3)
SMALL: dict[str, Any] = {"num_delay_shapes": 8, "num_doppler_shapes": 6, "num_draws": 200}


@pytest.fixture(scope="module")
def small() -> DelayDopplerMixture:
    return DelayDopplerMixture(PILOTS, **SMALL)


def tdl(obs: OFDMPilots, num_rx_ant: int = 1, **options: Any) -> TDL:
    settings = {"delay_spread": 150e-9, "max_doppler": 300.0} | options
    return TDL("A", num_rx_ant=num_rx_ant, num_tx_ant=obs.num_tx_ant, **settings)


def error_db(result: Estimate, h: torch.Tensor) -> float:
    return 10 * math.log10(float((result.h_hat - h).abs().square().mean()))


def claimed(result: Estimate, h: torch.Tensor) -> float:
    """Mean error in units of the variance that is claimed."""
    return float(((result.h_hat - h).abs().square() / result.err_var).mean())


# -- Closed form. --


@pytest.mark.parametrize("num_rx_ant", [1, 3])
def test_one_shape_of_each_kind_is_the_textbook_filter(
    num_rx_ant: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delay_doppler_axes, "_RTOL", 1e-15)  # factors leave out 1e-10 of the energy otherwise
    signs = 1 - 2 * (torch.arange(64).reshape(4, 16) % 3 == 0).to(torch.complex64)  # QPSK is rounded to 1e-7
    obs = OFDMPilots(GRID, symbols=(2, 5, 8, 11), subcarrier_step=3, values=signs)
    est = DelayDopplerMixture(obs, num_delay_shapes=1, num_doppler_shapes=1, num_draws=20, scales_db=(0.0,), seed=4)
    # The one shape is the mean over all draws, which are drawn here again.
    draws = make_generator(4, "delay-doppler-mixture")
    delay, power = delay_profiles(20, (20e-9, 500e-9), generator=draws)
    torch.randint(20, (1,), generator=draws)  # the first centre of the codebook
    lags = torch.arange(48, dtype=torch.float64) * 30e3
    over_frequency = torch.stack([(power * torch.exp(-2j * math.pi * delay * f)).sum(1).mean() for f in lags])
    top = 0.43 / (3 * GRID.symbol_duration)
    over_time = doppler_correlations(20, top, torch.arange(14, dtype=torch.float64) * GRID.symbol_duration, generator=draws)
    dense = torch.kron(hermitian(over_time.mean(0)), hermitian(over_frequency))  # (T F, T F)

    h = complex_normal((4, num_rx_ant, 1, *GRID.shape), generator=generator, dtype=torch.complex128)
    no = torch.tensor([0.001, 0.01, 0.1, 1.0], dtype=torch.float64)
    y = obs.observe(h, no, generator=generator)
    got = est(y, no)
    x = (y / obs.pilots[0].to(y.dtype))[..., obs.mask]  # (4, rx, P)
    seen = obs.mask.flatten()
    for frame in range(4):
        noise = no[frame]
        scale = x[frame].abs().square().mean() - noise
        assert scale > 0.02 * x[frame].abs().square().mean()
        covariance = scale * dense
        gain = torch.linalg.solve(covariance[seen][:, seen] + noise * torch.eye(64), covariance[seen]).mH
        want = (x[frame] @ gain.mT).reshape(num_rx_ant, 1, *GRID.shape)
        error = (covariance - gain @ covariance[seen]).diagonal().real.reshape(GRID.shape)
        assert float((got.h_hat[frame] - want).abs().max()) < 3e-8  # the common span leaves out amplitudes below 3e-9
        assert float((got.err_var[frame] - error).abs().max()) < 1e-8 * float(scale)


def hermitian(column: torch.Tensor) -> torch.Tensor:
    """Toeplitz matrix of a correlation at lags 0, 1, ..."""
    n = len(column)
    return torch.stack([torch.stack([column[i - j] if i >= j else column[j - i].conj() for j in range(n)]) for i in range(n)])


def test_filters_over_the_whole_grid_say_the_same_as_one_for_each_axis(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"num_delay_shapes": 3, "num_doppler_shapes": 3, "num_draws": 50, "scales_db": (0.0,)}
    obs = OFDMPilots(OFDMGrid(6, 24, 30e3), symbols=(1, 4), subcarrier_step=3)
    by_axis = DelayDopplerMixture(obs, **options)
    monkeypatch.setattr(delay_doppler, "_lattice", lambda _: None)
    whole = DelayDopplerMixture(obs, **options)
    assert by_axis.lattice is not None and whole.lattice is None
    h = tdl(obs).frequency_response(obs.grid, 20, generator=generator).to(torch.complex128)
    y = obs.observe(h, 0.05, generator=generator)
    first, second = by_axis(y, 0.05), whole(y, 0.05)
    assert float((first.h_hat - second.h_hat).abs().max()) < 1e-5  # what the factors leave out, once along both axes
    assert torch.allclose(first.err_var, second.err_var, rtol=1e-4)


def test_long_axes_have_nearly_the_exact_covariance() -> None:
    axis = Axis.of(torch.arange(0, 280, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 280)
    delay, power = delay_profiles(40, (20e-9, 500e-9), generator=torch.Generator().manual_seed(2))
    member = torch.arange(40) % 3
    lags = torch.arange(280, dtype=torch.float64) * 30e3
    exact = _from_correlations(axis.rows, cell_means(_correlation(delay, power, lags), member))
    for approximate, factor in zip(_from_profiles(axis.rows * 30e3, delay, power, member), exact, strict=True):
        have, want = approximate @ approximate.mH, factor @ factor.mH
        assert have.diagonal().real.mean() == pytest.approx(1, abs=1e-3)
        # Delays fall into bins of a fifth of the resolution.
        assert float(torch.linalg.matrix_norm(have - want) / torch.linalg.matrix_norm(want)) < 0.03


# -- What it follows exactly. --


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_scale_and_phase_of_the_input(small: DelayDopplerMixture, dtype: torch.dtype, generator: torch.Generator) -> None:
    h = tdl(PILOTS, 2).frequency_response(GRID, 6, generator=generator).to(dtype)
    no = torch.logspace(-3, 0, 6, dtype=h.real.dtype)
    y = PILOTS.observe(h, no, generator=generator)
    want = small(y, no)
    exact = small(2.0**-12 * y, 2.0**-24 * no)
    assert torch.equal(exact.h_hat, 2.0**-12 * want.h_hat) and torch.equal(exact.err_var, 2.0**-24 * want.err_var)
    turn = 1e-4 * torch.exp(torch.tensor(2.1j, dtype=torch.complex128)).to(dtype)
    turned = small(turn * y, 1e-8 * no)
    rtol = 2e-4 if dtype == torch.complex64 else 1e-10
    size = float(want.h_hat.abs().max())
    assert float((turned.h_hat / turn - want.h_hat).abs().max()) < rtol * size
    assert torch.allclose(1e8 * turned.err_var, want.err_var, rtol=20 * rtol)  # likelihoods are exponentials of large numbers


def test_posterior_follows_neither(small: DelayDopplerMixture, generator: torch.Generator) -> None:
    h = tdl(PILOTS).frequency_response(GRID, 4, generator=generator).to(torch.complex128)
    y = PILOTS.observe(h, 0.05, generator=generator)
    seen: list[torch.Tensor] = []
    handle = small.mixture.register_forward_hook(lambda module, args, out: seen.append(out.log_posterior))
    small(y, 0.05)
    small(1e3j * y, 0.05e6)
    handle.remove()
    assert torch.allclose(seen[0].exp(), seen[1].exp(), atol=1e-9)
    assert torch.allclose(seen[0].exp().sum((1, 2, 3)), torch.ones((), dtype=torch.float64))


def test_antennas_vote_together_and_their_order_does_not_matter(small: DelayDopplerMixture, generator: torch.Generator) -> None:
    h = tdl(PILOTS, 4).frequency_response(GRID, 60, generator=generator).to(torch.complex128)
    y = PILOTS.observe(h, 0.1, generator=generator)
    order = torch.tensor([2, 0, 3, 1])
    result, permuted = small(y, 0.1), small(y[:, order], 0.1)
    assert torch.allclose(permuted.h_hat, result.h_hat[:, order], atol=1e-12)
    assert torch.allclose(permuted.err_var, result.err_var[:, order], atol=1e-12)
    alone = small(y.flatten(0, 1)[:, None], 0.1)
    assert error_db(result, h) < error_db(alone, h.flatten(0, 1)[:, None])  # four looks at one set of statistics


def test_frames_do_not_know_of_each_other(small: DelayDopplerMixture, generator: torch.Generator) -> None:
    h = tdl(PILOTS, 2).frequency_response(GRID, 6, generator=generator).to(torch.complex128)
    no = torch.logspace(-3, 0, 6, dtype=torch.float64)
    y = PILOTS.observe(h, no, generator=generator)
    together = small(y.unflatten(0, (2, 3)), no.view(2, 3))
    assert together.h_hat.shape == together.err_var.shape == (2, 3, 2, 1, *GRID.shape)
    for i in range(6):
        alone = small(y[i], float(no[i]))
        assert torch.allclose(alone.h_hat, together.h_hat[i // 3, i % 3], atol=1e-12)
        assert torch.allclose(alone.err_var, together.err_var[i // 3, i % 3], rtol=1e-9)


# -- Its own prior, and channels that it does not hold. --


def draw_from_prior(est: DelayDopplerMixture, count: int, generator: torch.Generator, **size: int) -> tuple[torch.Tensor, Any]:
    """Channels of unit power of the shapes that ``est`` holds, (count, 1, 1, T, F), and their covariance."""
    grid, draws = est.obs.grid, make_generator(0, "delay-doppler-mixture")
    count_draws, delays, dopplers = size["num_draws"], size["num_delay_shapes"], size["num_doppler_shapes"]
    f, often = delay_factors(est.frequency, grid.subcarrier_spacing, (20e-9, 500e-9), count_draws, delays, draws)
    t, frequent = doppler_factors(
        est.time, grid.symbol_duration, 0.43 / (3 * grid.symbol_duration), count_draws, dopplers, draws
    )
    f, t = ([factor[axis.wanted[0]] for factor in factors] for axis, factors in ((est.frequency, f), (est.time, t)))
    a, b = (torch.multinomial(p, count, replacement=True, generator=generator).tolist() for p in (frequent, often))
    h = []
    for i, j in zip(a, b, strict=True):
        white = complex_normal((t[i].shape[1], f[j].shape[1]), generator=generator, dtype=torch.complex128)
        h.append(t[i] @ white @ f[j].mT)
    terms = [
        KroneckerTerm((frequent[i] * often[j]).sqrt().reshape(1, 1), t[i], f[j]) for i in range(len(t)) for j in range(len(f))
    ]
    return torch.stack(h)[:, None, None].to(torch.complex64), ChannelCovariance(terms, 1, 1)


@pytest.mark.slow
def test_knows_its_error_on_its_own_prior(generator: torch.Generator) -> None:
    grid = OFDMGrid(14, 120, 15e3)
    obs = OFDMPilots(grid, symbols=(2, 5, 8, 11), subcarrier_step=3)
    size = {"num_delay_shapes": 16, "num_doppler_shapes": 12, "num_draws": 500}
    est = DelayDopplerMixture(obs, scales_db=(-4.0, 0.0, 4.0, 8.0), **size)
    h, _ = draw_from_prior(est, 3000, generator, **size)
    # It takes any power for equally likely, so the powers are spread: else frames that fade would seem weak to it, not faded.
    h = h * 10 ** ((30 * torch.rand(3000, 1, 1, 1, 1, generator=generator) - 10) / 20)
    results = [est(obs.observe(part, 0.05, generator=generator), 0.05) for part in h.split(250)]
    h_hat, err_var = (torch.cat(part) for part in zip(*results, strict=True))
    deciles = calibration_by_decile(h_hat, err_var, h)
    # 300 frames in a decile, each a few independent errors: 3 to 4 %.
    assert float((deciles - 1).abs().max()) < 0.07


def test_no_estimator_that_is_told_nothing_does_better_on_its_prior(generator: torch.Generator) -> None:
    obs = OFDMPilots(OFDMGrid(14, 36, 30e3), symbols=(2, 5, 8, 11), subcarrier_step=3)
    est = DelayDopplerMixture(obs, **SMALL)
    h, covariance = draw_from_prior(est, 200, generator, **SMALL)
    no = 10 ** (-0.5 - 2 * torch.rand(200, generator=generator))
    y = obs.observe(h, no, generator=generator)
    others = {"ls": LS(obs), "pooled": LMMSE(obs, covariance), "plugin": PluginLMMSE(obs)}
    errors = {name: error_db(other(y, no), h) for name, other in others.items()}
    mine = error_db(est(y, no), h)
    assert all(mine < error for error in errors.values()), errors
    assert mine < errors["pooled"] - 1.5 and mine < errors["ls"] - 5  # the best linear one, and the usual one


@pytest.mark.slow
def test_gap_to_the_genie_on_channels_that_it_does_not_hold() -> None:
    from wichan.evaluation import BASELINES, Setting
    from wichan.simulate import load_recipe, stream

    setting = Setting.of(load_recipe("ofdm-siso"))
    batch = next(stream("ofdm-siso", batch_size=128, split="test", seed=11))
    known: dict[str, Any] = {name: batch.conditions[name] for name in ("delay_spread", "max_doppler")}
    known["profile"] = ["A"] * 128
    built = {name: BASELINES[name](setting) for name in ("delay-doppler-mixture", "lmmse-pooled", "lmmse-genie")}
    assert built["delay-doppler-mixture"].told == ()
    assert "fitted to no recipe" in built["delay-doppler-mixture"].note
    decibels, ratio = {}, {}
    for name, entry in built.items():
        told = known if name == "lmmse-genie" else {}
        with torch.no_grad():
            result = entry.estimator(batch.y, batch.no, **told)
        error = (result.h_hat - batch.h).abs().square().flatten(1).mean(1)
        decibels[name] = float((10 * error.log10()).mean())
        ratio[name] = claimed(result, batch.h)
    mine = decibels["delay-doppler-mixture"]
    assert 0 < mine - decibels["lmmse-genie"] < 1.3
    assert mine < decibels["lmmse-pooled"] - 1.5
    assert abs(ratio["delay-doppler-mixture"] - 1) < 0.12  # 128 frames with some tens of independent errors each: 4 %


# -- Any pilots, any grid. --

PATTERNS = {
    "2 antennas in turn": (OFDMPilots.kronecker(GRID, (2, 5, 8, 11), 2, 1), 1),
    "4 antennas in turn": (OFDMPilots.kronecker(GRID, (2, 5, 8, 11), 4, 1), 2),
    "blocks": (OFDMPilots.block(GRID, (2, 5, 8, 11), num_tx_ant=2), 1),
    "DM-RS, 1 port": (OFDMPilots.dmrs(GRID, ports=(0,), additional_position=3), 1),
    "DM-RS, 2 ports": (OFDMPilots.dmrs(GRID, ports=(0, 1), additional_position=3), 1),
    "DM-RS, 4 ports": (OFDMPilots.dmrs(GRID, ports=(0, 1, 2, 3), additional_position=2), 2),
    "DM-RS, type 2": (OFDMPilots.dmrs(GRID, config_type=2, ports=(0, 1, 2, 3, 4, 5), additional_position=3), 1),
    "DM-RS, double": (OFDMPilots.dmrs(GRID, ports=range(8), num_front_symbols=2, additional_position=1), 1),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_several_transmit_antennas(name: str, generator: torch.Generator) -> None:
    obs, num_rx_ant = PATTERNS[name]
    est = DelayDopplerMixture(obs, max_doppler=1200.0, **SMALL)
    model = tdl(obs, num_rx_ant)
    h = model.frequency_response(GRID, 120, generator=generator)
    genie = LMMSE(obs, model.covariance(GRID))
    for no in (0.1, 0.003):
        y = obs.observe(h, no, generator=generator)
        result = est(y, no)
        assert result.h_hat.shape == h.shape
        mine, simple, best = (error_db(e, h) for e in (result, LS(obs)(y, no), genie(y, no)))
        assert mine < simple - 3
        # Eight ports that share six elements over two symbols each: their slope in time is only partly seen.
        # A coarse codebook; antennas that take turns are seen half as often, and double symbols twice in a slot.
        assert mine < best + (2 if name not in ("blocks", "DM-RS, double") or no == 0.1 else 6)
        # 120 frames of one condition, which no prior is calibrated for; without taking off what leaks it is 1.2 to 7.
        assert (0.6 if name == "DM-RS, double" else 0.75) < claimed(result, h) < 1.25


def test_leak_of_despreading_is_taken_off(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = PATTERNS["DM-RS, 2 ports"][0]
    est = DelayDopplerMixture(obs, **SMALL)
    assert est.lattice is not None and est.lattice.is_despread
    h = tdl(obs).frequency_response(GRID, 60, generator=generator)
    y = obs.observe(h, 0.003, generator=generator)
    errors = []
    for rounds in (0, 1, 2, 6):
        monkeypatch.setattr(delay_doppler, "_CLEANINGS", rounds)
        errors.append(error_db(est(y, 0.003), h))
    assert errors[1] < errors[0] - 4
    assert abs(errors[2] - errors[3]) < 0.1


def test_default_doppler_is_what_an_antenna_can_show() -> None:
    symbol = GRID.symbol_duration
    tops = {
        (2, 11): OFDMPilots(GRID, symbols=(2, 11), subcarrier_step=3),
        (2, 8): OFDMPilots.block(GRID, (2, 5, 8, 11), num_tx_ant=2),  # the other antenna has 5 and 11
        (2.5, 10.5): PATTERNS["DM-RS, double"][0],
    }
    for (first, second), obs in tops.items():
        est = DelayDopplerMixture(obs, num_delay_shapes=1, num_doppler_shapes=1, num_draws=2)
        assert est._prior[2] == pytest.approx(0.43 / ((second - first) * symbol))
    with pytest.raises(InvalidValueError, match="^max_doppler=None needs pilots of an antenna at 2 times"):
        DelayDopplerMixture(OFDMPilots.block(GRID, (2, 5), num_tx_ant=2), **SMALL)


GRIDS = [
    (1, 24, 15e3, (0,), 2, {"max_doppler": 100.0}),
    (2, 25, 30e3, (0, 1), 1, {}),
    (7, 60, 60e3, (1, 4), 5, {}),
    (14, 300, 15e3, (2, 11), 6, {}),
    (14, 24, 120e3, (3,), 1, {"max_doppler": 200.0}),
    (12, 132, 30e3, (0, 3, 6, 9), 4, {"delay_spread": (5e-9, 1e-6)}),
]


@pytest.mark.parametrize(("symbols", "subcarriers", "spacing", "pilots", "step", "options"), GRIDS, ids=str)
def test_any_grid(
    symbols: int, subcarriers: int, spacing: float, pilots: tuple[int, ...], step: int, options: Any, generator: torch.Generator
) -> None:
    grid = OFDMGrid(symbols, subcarriers, spacing)
    obs = OFDMPilots(grid, symbols=pilots, subcarrier_step=step, subcarrier_offset=step - 1)
    est = DelayDopplerMixture(obs, **(SMALL | options))
    h = tdl(obs, 2, delay_spread=100e-9, max_doppler=80.0).frequency_response(grid, 100, generator=generator)
    y = obs.observe(h, 0.1, generator=generator)
    result = est(y, 0.1)
    assert result.h_hat.shape == h.shape and bool(result.err_var.isfinite().all())
    assert error_db(result, h) < error_db(LS(obs)(y, 0.1), h) - 2
    assert 0.6 < claimed(result, h) < 1.5  # one condition of many; coarse shapes


def test_one_pilot(generator: torch.Generator) -> None:
    obs = OFDMPilots(OFDMGrid(2, 12, 15e3), symbols=(1,), subcarrier_step=12)
    est = DelayDopplerMixture(obs, max_doppler=0.0, **SMALL)
    h = torch.ones(3, 1, 1, 2, 12, dtype=torch.complex64)
    result = est(obs.observe(h, 1e-4, generator=generator), 1e-4)
    assert float((result.h_hat[..., 0] - 1).abs().max()) < 0.1  # next to the pilot, and nothing moves


def test_pilots_that_are_no_lattice(generator: torch.Generator) -> None:
    full = torch.zeros(6, 24, dtype=torch.complex64)
    for k in range(24):
        full[k % 6, k] = 1 + 0.02j * k
    obs = OFDMPilots.from_pattern(OFDMGrid(6, 24, 30e3), full)
    est = DelayDopplerMixture(obs, num_delay_shapes=5, num_doppler_shapes=4, num_draws=50)
    assert est.lattice is None and "pilots anywhere" in repr(est)
    model = tdl(obs, 2)
    h = model.frequency_response(obs.grid, 100, generator=generator)
    y = obs.observe(h, 0.1, generator=generator)
    result = est(y, 0.1)
    assert result.h_hat.shape == h.shape
    assert error_db(result, h) < error_db(LMMSE(obs, model.covariance(obs.grid))(y, 0.1), h) + 3.5  # 5 x 4 shapes
    assert 0.7 < claimed(result, h) < 1.4
    # Received antennas vote for themselves here.
    assert torch.allclose(est(y[:, :1], 0.1).h_hat, result.h_hat[:, :1], atol=1e-4)
    turned = est(2j * y, 0.4)
    assert torch.allclose(turned.h_hat, 2j * result.h_hat, atol=1e-4)


# -- Odd input, and what is refused. --


@pytest.mark.parametrize("no", [0.0, 1e-12, 0.05, 1e6])
def test_silence_and_no_noise(small: DelayDopplerMixture, no: float, generator: torch.Generator) -> None:
    h = tdl(PILOTS).frequency_response(GRID, 3, generator=generator)
    for y in (
        torch.zeros(3, 1, *GRID.shape, dtype=torch.complex64),
        PILOTS.noiseless(h),
        PILOTS.observe(h, no, generator=generator),
    ):
        result = small(y, no)
        assert bool(result.err_var.isfinite().all()) and float(result.err_var.min()) >= 0
        assert bool(torch.view_as_real(result.h_hat).isfinite().all())
    silent = small(torch.zeros(1, 1, *GRID.shape, dtype=torch.complex64), 0.05)
    assert float(silent.h_hat.abs().max()) == 0 and float(silent.err_var.min()) > 0


def test_without_noise_the_pilots_are_met(small: DelayDopplerMixture, generator: torch.Generator) -> None:
    h = tdl(PILOTS).frequency_response(GRID, 5, generator=generator).to(torch.complex128)
    got = small(PILOTS.noiseless(h), 0.0).h_hat
    assert float((got - h)[..., PILOTS.mask].abs().max()) < 1e-3


def test_nan_is_refused_on_pilots_only(small: DelayDopplerMixture) -> None:
    y = torch.ones(2, 1, *GRID.shape, dtype=torch.complex64)
    y[..., 0, :] = float("nan")
    assert bool(small(y, 0.1).err_var.isfinite().all())
    y[1, 0, 2, 3] = float("nan")
    with pytest.raises(InvalidValueError, match="^y holds 1 NaN"):
        small(y, 0.1)


@pytest.mark.parametrize(
    ("options", "kind", "line"),
    [
        ({"num_delay_shapes": 0}, InvalidValueError, "^num_delay_shapes=0 must be at least 1$"),
        ({"num_doppler_shapes": 2.5}, InvalidTypeError, "^num_doppler_shapes=2.5 must be an integer"),
        ({"num_draws": 0}, InvalidValueError, "^num_draws=0 must be at least 1$"),
        ({"delay_spread": (2e-7, 1e-7)}, InvalidValueError, r"^delay_spread=\(2e-07, 1e-07\) must be \(least, largest\)$"),
        ({"delay_spread": (0.0, 1e-7)}, InvalidValueError, "^delay_spread=0 must be at least 1e-12$"),
        ({"max_doppler": -1.0}, InvalidValueError, "^max_doppler=-1 must be at least 0$"),
        ({"scales_db": (math.inf,)}, InvalidValueError, "^scales_db=inf must be finite$"),
        ({"scales_db": ()}, InvalidValueError, "scales"),
        ({"obs": GRID}, InvalidTypeError, "^obs must be OFDMPilots, got OFDMGrid$"),
        (
            {"obs": OFDMPilots(GRID, symbols=(3,), subcarrier_step=3)},
            InvalidValueError,
            "^max_doppler=None needs pilots of an antenna at 2 times at least; with one, say the largest Doppler",
        ),
    ],
    ids=str,
)
def test_wrong_settings(options: dict[str, Any], kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line) as caught:
        DelayDopplerMixture(options.pop("obs", PILOTS), **(SMALL | options))
    assert "\n" not in str(caught.value)


def test_seed_decides_and_the_global_generator_is_left_alone(small: DelayDopplerMixture, generator: torch.Generator) -> None:
    before = torch.get_rng_state()
    same, other = DelayDopplerMixture(PILOTS, **SMALL), DelayDopplerMixture(PILOTS, **SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    y = PILOTS.observe(tdl(PILOTS).frequency_response(GRID, 3, generator=generator), 0.1, generator=generator)
    assert torch.equal(same(y, 0.1).h_hat, small(y, 0.1).h_hat)
    assert not torch.equal(other(y, 0.1).h_hat, small(y, 0.1).h_hat)


def test_contract_with_two_antennas(generator: torch.Generator) -> None:
    obs = OFDMPilots(OFDMGrid(6, 24, 30e3), symbols=(1, 4), subcarrier_step=3)
    model = TDL("A", delay_spread=300e-9, max_doppler=500.0)

    def draw(count: int, g: torch.Generator) -> torch.Tensor:
        return model.frequency_response(obs.grid, count, generator=g)

    # Not calibrated for one condition alone: see the tests with its own prior and with a recipe.
    est = DelayDopplerMixture(obs, num_delay_shapes=4, num_doppler_shapes=3, num_draws=100)
    report = check_estimator(est, obs, generator=generator, channel=draw, calibrated=False, num_rx_ant=2)
    assert set(report.skipped) == {"linear", "calibration", "compile"}
