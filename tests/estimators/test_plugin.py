"""The plug-in receiver: plain loops agree, many looks reach the genie, and one frame comes as close as the documents say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import j0

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import LMMSE, PluginLMMSE
from wichan.grid import OFDMGrid
from wichan.metrics import nmse_db
from wichan.observations import OFDMPilots
from wichan.testing import check_estimator

GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
PILOTS = OFDMPilots(GRID, symbols=(2, 5, 8, 11), subcarrier_step=3)
SMALL = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
FEW = OFDMPilots(SMALL, symbols=(1, 4), subcarrier_step=3)


def draw(
    generator: torch.Generator, count: int, no: float, obs: OFDMPilots = PILOTS, **model: float
) -> tuple[TDL, torch.Tensor, torch.Tensor]:
    """A TDL-A model, its channels and what is received."""
    tdl = TDL("A", num_tx_ant=obs.num_tx_ant, **model)
    h = tdl.frequency_response(obs.grid, count, generator=generator)
    return tdl, h, obs.observe(h, no, generator=generator)


def dense_filter(
    est: PluginLMMSE, profile: np.ndarray, doppler: float, x: np.ndarray, no: float
) -> tuple[np.ndarray, np.ndarray]:
    """LMMSE of one frame by plain matrices: estimate and error over symbols x subcarriers."""
    grid, lattice = est.obs.grid, est.lattice
    tones = np.arange(grid.num_subcarriers) * grid.subcarrier_spacing
    times = grid.times.numpy()
    seen_tones = lattice.frequencies.numpy() + float(lattice.start_frequency[0])
    seen_times = lattice.times.numpy() + float(lattice.start_time[0])
    delays = est.delays.numpy()

    def covariance(times_a: np.ndarray, tones_a: np.ndarray, times_b: np.ndarray, tones_b: np.ndarray) -> np.ndarray:
        steer_a, steer_b = (np.exp(-2j * np.pi * np.outer(f, delays)) for f in (tones_a, tones_b))
        over_time = j0(2 * np.pi * doppler * np.subtract.outer(times_a, times_b))
        return np.kron(over_time, (steer_a * profile) @ steer_b.conj().T)

    cross = covariance(times, tones, seen_times, seen_tones)
    seen = covariance(seen_times, seen_tones, seen_times, seen_tones) + no * np.eye(x.size)
    gain = np.linalg.solve(seen, cross.conj().T).conj().T
    error = profile.sum() - (gain * cross.conj()).sum(axis=1).real
    return (gain @ x.ravel()).reshape(grid.shape), error.reshape(grid.shape)


# -- Independent implementations. --


def test_filter_against_dense_matrices(generator: torch.Generator) -> None:
    _, _, y = draw(generator, 3, 0.1, FEW, delay_spread=200e-9, max_doppler=500.0)
    y = y.to(torch.complex128)
    x = (FEW.extract(y) / FEW.pilot_values()[0])[:, 0].numpy()
    for mode in ("best", "average"):
        est = PluginLMMSE(FEW, doppler=mode)
        profile, weight = est.statistics(y, 0.1)
        assert weight.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
        h_hat, err_var = est(y, 0.1)
        for frame in range(3):
            parts = [
                dense_filter(est, profile[frame].numpy(), float(doppler), x[frame], 0.1)
                for doppler in est.dopplers[weight[frame] > 1e-9]
            ]
            shares = weight[frame][weight[frame] > 1e-9].numpy()
            want = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
            # What the delay window holds to less than 1e-5 of its amplitude is left out.
            np.testing.assert_allclose(h_hat[frame, 0, 0].numpy(), want, atol=2e-4)
            claimed = sum(share * error for share, (_, error) in zip(shares, parts, strict=True))
            scatter = sum(share * abs(part - want) ** 2 for share, (part, _) in zip(shares, parts, strict=True))
            if mode == "best":
                assert len(parts) == 1
                np.testing.assert_allclose(err_var[frame, 0, 0].numpy(), claimed, atol=1e-4)
            else:  # the scatter is taken from eight quantiles, which cut the tails
                assert float(err_var[frame].mean()) == pytest.approx((claimed + scatter).mean(), rel=0.1)
                assert float(err_var[frame].mean()) > claimed.mean()


def test_steps_raise_the_penalised_likelihood(generator: torch.Generator) -> None:
    est = PluginLMMSE(FEW, shrinkage=0.3)
    like, no = est.likelihood, torch.tensor([0.05], dtype=torch.float64)
    _, _, y = draw(generator, 1, 0.05, FEW, delay_spread=300e-9, max_doppler=500.0)
    x = est.lattice(y.to(torch.complex128))[0].flatten(1, 2)
    z, doppler = like.project(x), torch.tensor([9])
    over_time = j0(2 * np.pi * float(est.dopplers[9]) * np.subtract.outer(*[est.lattice.times.numpy()] * 2))
    steering = np.exp(-2j * np.pi * np.outer(est.lattice.frequencies.numpy(), est.delays.numpy()))
    start = like.profiles[5:6]

    def objective(profile: torch.Tensor) -> float:
        matrix = np.kron(over_time, (steering * profile[0].numpy()) @ steering.conj().T) + 0.05 * np.eye(x.numel())
        data = x.flatten().numpy()
        fit = np.linalg.slogdet(matrix)[1] + (data.conj() @ np.linalg.solve(matrix, data)).real
        return -float(fit) - 0.3 * float((profile.log() + start / profile).sum())

    profile, values = start, [objective(start)]
    for _ in range(6):
        profile = est._step(z, profile, start, doppler, *like.frequency_modes(profile), no)
        values.append(objective(profile))
    assert all(after > before for before, after in zip(values, values[1:], strict=False))
    assert values[-1] > values[0] + 1


# -- Limiting cases. --


def test_with_many_looks_it_is_the_genie(generator: torch.Generator) -> None:
    # 64 antennas that fade alone show the profile and the Doppler of their frame; one more condition than the genie's nothing.
    model = TDL("A", delay_spread=150e-9, max_doppler=700.0, num_rx_ant=64)
    h = model.frequency_response(GRID, 4, generator=generator)
    y = PILOTS.observe(h, 0.03, generator=generator)
    h_hat, err_var = PluginLMMSE(PILOTS)(y, 0.03)
    genie = LMMSE(PILOTS, model.covariance(GRID))(y, 0.03).h_hat
    error = float((h_hat - h).abs().square().mean())
    assert error < 1.05 * float((genie - h).abs().square().mean())
    assert float(err_var.mean()) == pytest.approx(error, rel=0.1)


def test_scale_and_phase_go_through(generator: torch.Generator) -> None:
    _, _, y = draw(generator, 4, 0.05, delay_spread=100e-9, max_doppler=500.0)
    est, y = PluginLMMSE(PILOTS), y.to(torch.complex128)
    h_hat, err_var = est(y, 0.05)
    scaled, scaled_error = est(y * (3 - 4j), 0.05 * 25)
    torch.testing.assert_close(scaled, h_hat * (3 - 4j), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(scaled_error, err_var * 25, rtol=1e-8, atol=1e-9)


def test_frequency_order_and_conjugate_phase(generator: torch.Generator) -> None:
    # Turning time around turns the estimate around: pilots in symbols 2, 5, 8, 11 of 14 lie alike from both ends.
    _, _, y = draw(generator, 4, 0.05, delay_spread=100e-9, max_doppler=500.0)
    y = (
        torch.zeros_like(y)
        .flatten(2)
        .index_copy(2, PILOTS.pilot_index, PILOTS.extract(y) / PILOTS.pilot_values()[0])
        .unflatten(2, GRID.shape)
    )
    plain = OFDMPilots(GRID, symbols=(2, 5, 8, 11), subcarrier_step=3, values=torch.ones(4, 40, dtype=torch.complex64))
    est = PluginLMMSE(plain)
    torch.testing.assert_close(est(y.flip(2), 0.05).h_hat, est(y, 0.05).h_hat.flip(3), rtol=0, atol=1e-5)


def test_a_late_frame_costs_little(generator: torch.Generator) -> None:
    _, h, y = draw(generator, 64, 0.03, delay_spread=100e-9, max_doppler=300.0)
    est = PluginLMMSE(PILOTS)
    gaps = []
    for late in (0.0, 0.4e-6, 1.0e-6):
        turn = torch.exp(-2j * math.pi * GRID.frequencies * late).to(y.dtype)
        gaps.append(float(nmse_db(est(y * turn, 0.03).h_hat, h * turn)))
    assert max(gaps) - min(gaps) < 0.6


def test_without_signal_or_noise() -> None:
    est = PluginLMMSE(FEW)
    nothing = est(torch.zeros(2, 1, 6, 24, dtype=torch.complex64), 0.1)
    assert float(nothing.h_hat.abs().max()) == 0.0
    h = torch.ones(1, 1, 1, 6, 24, dtype=torch.complex128)
    h_hat, err_var = est(FEW.noiseless(h), 0.0)
    torch.testing.assert_close(h_hat, h, rtol=0, atol=1e-3)
    assert float(err_var.min()) > 0 and float(err_var.max()) < 1e-2


# -- Monte Carlo: as good as the documents say. --


@pytest.fixture(scope="module")
def mixed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Channels over the conditions of ofdm-siso, the genie's estimate, what is received, and the noise."""
    generator, count = torch.Generator().manual_seed(3), 384
    u = torch.rand(3, count, generator=generator, dtype=torch.float64)
    chosen = {"delay_spread": 25e-9 + 275e-9 * u[0], "max_doppler": 1866.7 * u[1]}
    model = TDL("A", delay_spread=1e-7, max_doppler=1.0)
    h = model.frequency_response(GRID, count, generator=generator, **chosen)
    no = 10 ** (-2.5 * u[2]).float()
    y = PILOTS.observe(h, no, generator=generator)
    return h, LMMSE(PILOTS, model.covariance(GRID, **chosen))(y, no).h_hat, y, no


@pytest.mark.parametrize(("mode", "gap", "ratio"), [("average", 0.80, 1.08), ("best", 0.87, 1.28)])
def test_gap_to_the_genie_and_calibration(mode: str, gap: float, ratio: float, mixed: tuple[torch.Tensor, ...]) -> None:
    h, genie, y, no = mixed
    h_hat, err_var = PluginLMMSE(PILOTS, doppler=mode)(y, no)
    error, best = ((guess - h).abs().square().mean(dim=(1, 2, 3, 4)) for guess in (h_hat, genie))
    # The mean over frames of the gap in dB, whose spread of 2 dB leaves 0.1 dB over 384 frames.
    assert float(10 * (error / best).log10().mean()) == pytest.approx(gap, abs=0.25)
    assert float(error.sum() / err_var.mean(dim=(1, 2, 3, 4)).sum()) == pytest.approx(ratio, abs=0.12)


def test_free_profile_helps(mixed: tuple[torch.Tensor, ...]) -> None:
    h, _, y, no = (part[:128] for part in mixed)
    error = [(PluginLMMSE(PILOTS, iterations=n)(y, no).h_hat - h).abs().square().mean() for n in (0, 4)]
    assert float(error[1]) < float(error[0])


def test_profile_lies_where_the_taps_are(generator: torch.Generator) -> None:
    model, _, y = draw(generator, 64, 0.003, delay_spread=300e-9, max_doppler=800.0)
    est = PluginLMMSE(PILOTS)
    profile, weight = est.statistics(y, 0.003)
    assert profile.shape == (64, len(est.delays)) and weight.shape == (64, len(est.dopplers))
    mean = profile.mean(dim=0) / profile.mean(dim=0).sum()
    centre = float((mean * est.delays).sum())
    spread = float((mean * (est.delays - centre) ** 2).sum().sqrt())
    truth = float((model.delays() * model.profile.power).sum())
    assert centre == pytest.approx(truth, rel=0.15)  # 64 frames of few taps: 10 %
    assert spread == pytest.approx(300e-9, rel=0.15)
    assert float((weight @ est.dopplers).mean()) == pytest.approx(800.0, abs=40.0)


# -- Patterns and antennas. --


def test_antennas_share_statistics(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=200e-9, max_doppler=600.0, num_rx_ant=4)
    h = model.frequency_response(GRID, 48, generator=generator)
    y = PILOTS.observe(h, 0.1, generator=generator)
    est = PluginLMMSE(PILOTS)
    alone = torch.cat([est(y[:, [i]], 0.1).h_hat for i in range(4)], dim=1)
    assert float(nmse_db(est(y, 0.1).h_hat, h)) < float(nmse_db(alone, h)) - 0.2


@pytest.mark.parametrize("pattern", ["kronecker", "dmrs"])
def test_transmit_antennas(pattern: str, generator: torch.Generator) -> None:
    if pattern == "kronecker":  # antennas take turns in frequency: each has its own first subcarrier
        obs = OFDMPilots(GRID, symbols=(2, 5, 8, 11), num_tx_ant=2, subcarrier_step=2)
    else:
        obs = OFDMPilots.dmrs(GRID, ports=(0, 1), additional_position=3)
    model, h, y = draw(generator, 32, 0.03, obs, delay_spread=150e-9, max_doppler=300.0)
    h_hat, err_var = PluginLMMSE(obs)(y, 0.03)
    genie = LMMSE(obs, model.covariance(GRID))(y, 0.03).h_hat
    assert h_hat.shape == err_var.shape == h.shape
    assert float(nmse_db(h_hat, h)) < float(nmse_db(genie, h)) + 1.5  # of which 0.3 dB is antennas that leak within a group
    ratio = (h_hat - h).abs().square().mean(dim=(0, 1, 3, 4)) / err_var.mean(dim=(0, 1, 3, 4))
    assert bool(((ratio > 0.75) & (ratio < 1.4)).all())  # each antenna is interpolated from its own pilots


def test_one_pilot_symbol(generator: torch.Generator) -> None:
    obs = OFDMPilots(GRID, symbols=(6,), subcarrier_step=3)
    with pytest.raises(InvalidValueError, match="max_doppler=None needs pilots in at least 2 symbols"):
        PluginLMMSE(obs)
    est = PluginLMMSE(obs, max_doppler=500.0)
    _, h, y = draw(generator, 64, 0.01, obs, delay_spread=100e-9, max_doppler=250.0)
    profile, weight = est.statistics(y, 0.01)
    torch.testing.assert_close(weight, torch.full_like(weight, 1 / weight.shape[1]))  # nothing is known of the Doppler
    h_hat, err_var = est(y, 0.01)
    assert float(err_var[..., 0, :].mean()) > 3 * float(err_var[..., 6, :].mean())
    still = PluginLMMSE(obs, max_doppler=0.0)(y, 0.01)
    torch.testing.assert_close(still.h_hat[..., 0, :], still.h_hat[..., 13, :])


def test_no_frames_and_single_frames(generator: torch.Generator) -> None:
    est = PluginLMMSE(FEW)
    empty = est(torch.zeros(0, 2, 6, 24, dtype=torch.complex64), 0.1)
    assert empty.h_hat.shape == empty.err_var.shape == (0, 2, 1, 6, 24)
    assert est.statistics(torch.zeros(0, 2, 6, 24, dtype=torch.complex64), 0.1).profile.shape == (0, len(est.delays))
    _, _, y = draw(generator, 1, 0.1, FEW, delay_spread=200e-9, max_doppler=500.0)
    assert est.statistics(y[0], 0.1).profile.shape == (len(est.delays),)


def test_half_of_the_module_in_single_precision_changes_nothing(generator: torch.Generator) -> None:
    _, _, y = draw(generator, 2, 0.1, FEW, delay_spread=200e-9, max_doppler=500.0)
    want = PluginLMMSE(FEW)(y, 0.1)
    got = PluginLMMSE(FEW).float()(y, 0.1)
    torch.testing.assert_close(got.h_hat, want.h_hat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.err_var, want.err_var, rtol=1e-3, atol=1e-5)


def test_it_keeps_the_contract(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=300e-9, max_doppler=500.0)
    report = check_estimator(
        PluginLMMSE(FEW),
        FEW,
        generator=generator,
        channel=lambda count, g: model.frequency_response(SMALL, count, generator=g),
        calibrated=False,  # two pilot symbols say too little of the Doppler; its own test says how far it is off
        compiled=True,
    )
    assert "compile" in report.passed


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"doppler": "worst"}, UnknownNameError, "doppler='worst'"),
        ({"iterations": -1}, InvalidValueError, "iterations=-1"),
        ({"shrinkage": -0.1}, InvalidValueError, "shrinkage=-0.1"),
        ({"max_doppler": -1.0}, InvalidValueError, "max_doppler=-1"),
        ({"max_delay": 1e-3}, InvalidValueError, "the pilot spacing tells apart"),
        ({"max_delay": -1e-6}, InvalidValueError, "max_delay=-1e-06"),
    ],
)
def test_bad_options_are_refused(options: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        PluginLMMSE(PILOTS, **options)
    assert "\n" not in str(caught.value)


def test_bad_patterns_are_refused() -> None:
    values = torch.zeros(1, 14, 120, dtype=torch.complex64)
    values[0, 2, ::4] = values[0, 8, 2::4] = 1.0
    with pytest.raises(InvalidValueError, match="no product of symbols and subcarriers"):
        PluginLMMSE(OFDMPilots.from_pattern(GRID, values))
    values = torch.zeros(1, 14, 120, dtype=torch.complex64)
    values[0, 2, ::4], values[0, 8, ::4] = 1.0, 2.0
    with pytest.raises(InvalidValueError, match="different powers"):
        PluginLMMSE(OFDMPilots.from_pattern(GRID, values))
    with pytest.raises(InvalidValueError, match="one subcarrier"):
        PluginLMMSE(OFDMPilots(OFDMGrid(14, 12, 15e3), symbols=(2, 11), subcarrier_step=12))
    with pytest.raises(InvalidTypeError, match="obs must be OFDMPilots"):
        PluginLMMSE(GRID)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="y has shape"):
        PluginLMMSE(FEW)(torch.zeros(2, 1, 6, 23, dtype=torch.complex64), 0.1)


# -- In ``wichan evaluate``. --


def test_evaluate_ranks_it_between_pooled_and_genie() -> None:
    from wichan.evaluation import evaluate

    result = evaluate(
        "ofdm-siso", ["lmmse-pooled", "lmmse-plugin", "lmmse-genie"], sweep="max_doppler", points=[200.0], num_channels=64
    )
    pooled, plugin, genie = result.nmse_db.value[0].tolist()
    assert pooled > plugin + 2 > genie + 2
    assert "Doppler up to 1867 Hz" in result.to_json()
