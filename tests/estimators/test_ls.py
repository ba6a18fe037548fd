"""Least squares: values against plain loops, error variance against dense algebra, exact polynomials and Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import ESTIMATORS, LS, Estimate
from wichan.observations import OFDMGrid, OFDMPilots, PilotPattern
from wichan.random import complex_normal
from wichan.testing import check_estimator

GRID = OFDMGrid(14, 24, 15e3)


def staggered() -> OFDMPilots:
    """A comb that moves from symbol to symbol, with one row of a single pilot."""
    pilots = torch.zeros(14, 24, dtype=torch.complex64)
    pilots[1, ::4], pilots[6, 2::4], pilots[12, 5] = 1, 1j, 2
    return OFDMPilots.from_pattern(GRID, pilots)


OBSERVATIONS = {
    "comb": lambda: OFDMPilots(GRID, (2, 11), 3, boost_db=3.0),
    "four symbols": lambda: OFDMPilots(GRID, (2, 5, 8, 11), 3, subcarrier_offset=1),
    "one symbol": lambda: OFDMPilots(GRID, (4,), 5),
    "staggered": staggered,
    "kronecker": lambda: OFDMPilots.kronecker(GRID, (2, 11), 3, 2),
    "block": lambda: OFDMPilots.block(GRID, (1, 5, 9, 12), num_tx_ant=2),
    "dmrs": lambda: OFDMPilots.dmrs(GRID, ports=(0, 1, 2), additional_position=2),
    "double dmrs": lambda: OFDMPilots.dmrs(GRID, config_type=2, ports=(0, 1, 6, 7), num_front_symbols=2, additional_position=1),
}


def line(known: list[float], values: list[complex], x: float, kind: str) -> complex:
    """Interpolate at ``x`` from samples at ``known``, one point after the other."""
    if len(known) == 1:
        return values[0]
    if kind == "nearest":
        return values[min(range(len(known)), key=lambda i: (abs(known[i] - x), i))]
    i = 0
    while i < len(known) - 2 and x >= known[i + 1]:
        i += 1
    share = (x - known[i]) / (known[i + 1] - known[i])
    return values[i] * (1 - share) + values[i + 1] * share


def ls_by_loop(obs: OFDMPilots, y: np.ndarray, antenna: int, kind: str) -> np.ndarray:
    """LS of one antenna from one received grid (T, F), from the definition."""
    p = obs.pilots.numpy().astype(complex)
    labels = np.arange(14 * 24).reshape(14, 24) if obs.groups is None else obs.groups.numpy()
    points: dict[float, dict[float, complex]] = {}
    for label in np.unique(labels[p[antenna] != 0]):
        places = np.argwhere((labels == label) & (np.abs(p).sum(axis=0) > 0))
        values = p[:, places[:, 0], places[:, 1]]
        sharing = [a for a in range(len(p)) if np.any(values[a] != 0)]
        solution = np.linalg.lstsq(values[sharing].T, y[places[:, 0], places[:, 1]], rcond=None)[0]
        t, f = places.mean(axis=0)
        points.setdefault(float(t), {})[float(f)] = solution[sharing.index(antenna)]
    times = sorted(points)
    rows = []
    for t in times:
        known = sorted(points[t])
        rows.append([line(known, [points[t][f] for f in known], x, kind) for x in range(24)])
    return np.array([[line(times, [row[f] for row in rows], t, kind) for f in range(24)] for t in range(14)])


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_estimate_equals_loop(name: str, kind: str, generator: torch.Generator) -> None:
    obs = OBSERVATIONS[name]()
    y = complex_normal((2, 2, 14, 24), generator=generator, dtype=torch.complex128)
    h_hat = LS(obs, kind)(y, 0.1).h_hat
    for b, r, a in itertools.product(range(2), range(2), range(obs.num_tx_ant)):
        # Pilots are stored in single precision, both sides use the same; what differs is rounding.
        np.testing.assert_allclose(h_hat[b, r, a].numpy(), ls_by_loop(obs, y[b, r].numpy(), a, kind), atol=1e-6)


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_error_variance_with_covariance_is_the_mse_of_the_linear_map(name: str, kind: str) -> None:
    """Dense twin: diag((I - L P) R (I - L P)^H) + no diag(L L^H), with L measured column by column."""
    obs = OBSERVATIONS[name]()
    model = TDL("B", delay_spread=300e-9, max_doppler=200.0, num_rx_ant=2, num_tx_ant=obs.num_tx_ant, correlation=None)
    covariance = model.covariance(GRID)
    ls = LS(obs, kind, covariance=covariance)
    unit = torch.eye(14 * 24, dtype=torch.complex128).reshape(-1, 1, 14, 24)
    columns = ls(unit.expand(-1, 2, -1, -1), 0.0).h_hat[:, 0].reshape(336, -1).mT  # (tx T F, T F)
    projection = torch.zeros(336, obs.num_tx_ant * 336, dtype=torch.complex128)
    projection[obs.pilot_index] = obs.matrix().to(torch.complex128)
    miss = torch.eye(obs.num_tx_ant * 336, dtype=torch.complex128) - columns @ projection
    one_rx = covariance.matrix().reshape(2, obs.num_tx_ant * 336, 2, -1)[1, :, 1]
    want = (miss @ one_rx * miss.conj()).sum(dim=-1).real + 0.07 * columns.abs().square().sum(dim=-1)
    y = torch.zeros(1, 2, 14, 24, dtype=torch.complex128)
    got = ls(y, 0.07).err_var[0, 1].flatten()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_noise_part_alone(name: str) -> None:
    """A channel of zero has no interpolation error; the rest is no ||L||^2, elementwise."""
    obs = OBSERVATIONS[name]()
    ls = LS(obs).double()
    unit = torch.eye(14 * 24, dtype=torch.complex128).reshape(-1, 1, 14, 24)
    want = 0.3 * ls(unit, 0.0).h_hat.abs().square().sum(dim=0)
    got = ls(torch.zeros(1, 14, 24, dtype=torch.complex128), 0.3).err_var
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def axes() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(14, dtype=torch.float64)[:, None], torch.arange(24, dtype=torch.float64)[None, :]


@pytest.mark.parametrize("name", ["comb", "four symbols", "kronecker", "block"])
def test_linear_channel_is_exact_everywhere(name: str) -> None:
    """A bilinear function is met inside and outside of the pilots, and the error variance knows that it is."""
    t, f = axes()
    h = ((1 + 2j) + (0.3 - 0.1j) * t + 0.2j * f + 0.05 * t * f).expand(14, 24)
    obs = OBSERVATIONS[name]()
    h = h.expand(1, obs.num_tx_ant, 14, 24).contiguous()
    result = LS(obs)(obs.noiseless(h), 0.0)
    torch.testing.assert_close(result.h_hat, h, rtol=0, atol=1e-5)
    if name == "four symbols":  # with two pilot symbols a slope is taken for a sign of curvature
        assert float(result.err_var.max()) < 1e-9


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_error_variance_of_a_parabola_is_its_squared_error(axis: str) -> None:
    """Second differences see a parabola exactly, so the error is known in every element, outside the pilots too."""
    t, f = axes()
    h = ((0.4 + 0.3j) * (t if axis == "time" else f).square()).expand(1, 1, 14, 24).contiguous()
    obs = OFDMPilots(GRID, (1, 5, 8, 12), 3, subcarrier_offset=1)
    result = LS(obs).double()(obs.double().noiseless(h), 0.0)
    torch.testing.assert_close(result.err_var, (result.h_hat - h).abs().square(), rtol=1e-6, atol=1e-9)
    assert float(result.err_var.max()) > 0.01


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_error_variance_of_a_line_is_its_squared_error_with_nearest(axis: str) -> None:
    t, f = axes()
    h = ((0.4 + 0.3j) * (t if axis == "time" else f)).expand(1, 1, 14, 24).contiguous()
    obs = OFDMPilots(GRID, (1, 5, 8, 12), 3)
    result = LS(obs, "nearest").double()(obs.double().noiseless(h), 0.0)
    torch.testing.assert_close(result.err_var, (result.h_hat - h).abs().square(), rtol=1e-6, atol=1e-9)


def test_leakage_between_ports_of_a_group_is_counted() -> None:
    """Port 1 has a slope, port 0 none: what leaks into port 0 has the size that its error variance would give it."""
    obs = OFDMPilots.dmrs(GRID, ports=(0, 1), additional_position=2).double()
    _, f = axes()
    slope = 0.01 + 0.02j
    h = torch.stack([torch.ones(14, 24) + 0j * f, slope * f.expand(14, 24)])[None]
    result = LS(obs).double()(obs.noiseless(h), 0.0)
    error = (result.h_hat - h).abs().square()
    inside = slice(2, 22)
    # Elements of a group are two apart: half their distance times the slope leaks.
    torch.testing.assert_close(
        error[0, 0, 2, inside], torch.full((20,), abs(slope) ** 2, dtype=torch.float64), rtol=1e-5, atol=0
    )
    # Each port's error is read off its own slope, and that of port 1 is what leaked.
    expected = torch.full((20,), abs(slope) ** 2, dtype=torch.float64)
    torch.testing.assert_close(result.err_var[0, 1, 2, inside], expected, rtol=1e-5, atol=0)


CASES = [
    ("four symbols", "linear", 0.1),
    ("four symbols", "linear", 0.001),
    ("four symbols", "nearest", 0.01),
    ("dmrs", "linear", 0.001),
    ("kronecker", "nearest", 0.001),
]


@pytest.mark.parametrize(("name", "kind", "no"), CASES)
def test_error_variance_without_statistics_on_a_fading_channel(name: str, kind: str, no: float) -> None:
    """The mean of err_var meets the mean square error although nothing but the pilots is known."""
    obs = OBSERVATIONS[name]()
    generator = torch.Generator().manual_seed(3)
    model = TDL("A", delay_spread=100e-9, max_doppler=200.0, num_rx_ant=2, num_tx_ant=obs.num_tx_ant)
    h = model.frequency_response(GRID, 800, generator=generator)
    result = LS(obs, kind)(obs.observe(h, no, generator=generator), no)
    truth = (result.h_hat - h).abs().square().mean()
    # 800 frames of little frequency diversity: 2 to 3 % of scatter; the statistic is clipped at 0, which adds up to 3 %;
    # nearest-neighbour errors over five symbols bend away from the straight line by 3 %.
    assert float(result.err_var.mean() / truth) == pytest.approx(1.0, abs=0.08)


def test_two_pilot_symbols_err_on_the_safe_side() -> None:
    """Two symbols cannot show curvature: the error variance assumes Jakes fading and comes out too large, not too small."""
    obs = OBSERVATIONS["comb"]()
    generator = torch.Generator().manual_seed(3)
    h = TDL("A", delay_spread=300e-9, max_doppler=200.0).frequency_response(GRID, 1000, generator=generator)
    for no in (0.1, 0.01, 0.001):
        result = LS(obs)(obs.observe(h, no, generator=generator), no)
        ratio = float(result.err_var.mean() / (result.h_hat - h).abs().square().mean())
        assert 0.97 < ratio < 3.0


@pytest.mark.parametrize(("kind", "no"), [("linear", 0.05), ("linear", 0.001), ("nearest", 0.01)])
def test_calibrated_with_covariance(kind: str, no: float, generator: torch.Generator) -> None:
    obs = OBSERVATIONS["comb"]()
    model = TDL("A", delay_spread=100e-9, max_doppler=200.0)
    report = check_estimator(
        LS(obs, kind, covariance=model.covariance(GRID)),
        obs,
        generator=generator,
        no=no,
        channel=lambda count, g: model.frequency_response(GRID, count, generator=g),
    )
    assert "calibration" in report.passed


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_contract(name: str, kind: str, generator: torch.Generator) -> None:
    obs = OBSERVATIONS[name]()
    report = check_estimator(LS(obs, kind), obs, generator=generator, num_rx_ant=2, compiled=name in ("comb", "dmrs"))
    assert "linear" in report.passed
    assert set(report.skipped) <= {"calibration", "compile"}


def test_one_covariance_a_sample(generator: torch.Generator) -> None:
    """Conditions of a batch line up with its first axis, with further batch axes behind."""
    obs = OBSERVATIONS["comb"]()
    model = TDL("A", delay_spread=100e-9, max_doppler=100.0)
    spread = torch.tensor([50e-9, 300e-9, 100e-9], dtype=torch.float64)
    many = LS(obs, covariance=model.covariance(GRID, delay_spread=spread))
    y = complex_normal((3, 2, 1, 14, 24), generator=generator)
    err_var = many(y, 0.02).err_var
    for i in range(3):
        one = LS(obs, covariance=model.covariance(GRID, delay_spread=spread[i]))
        torch.testing.assert_close(err_var[i], one(y[i], 0.02).err_var)
    with pytest.raises(ShapeError, match="the covariance has 3 conditions"):
        many(y[:2], 0.02)


def test_gradients_reach_y_and_learnable_pilots() -> None:
    small = OFDMGrid(4, 12, 15e3)
    y = complex_normal((2, 1, 4, 12), generator=torch.Generator().manual_seed(1), dtype=torch.complex128).requires_grad_()
    obs = OFDMPilots(small, (0, 1, 3), 3).double()
    ls = LS(obs)
    assert torch.autograd.gradcheck(lambda y: ls(y, 0.1), (y,))
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def through_pilots(scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pattern = torch.zeros(2, 4, 12, dtype=torch.complex128)
        pattern[0, ::3, ::2], pattern[1, ::3, 1::2] = 1, 1j
        return LS(OFDMPilots.from_pattern(small, pattern * scale))(y.detach(), 0.1)

    assert torch.autograd.gradcheck(through_pilots, (scale,))


def test_learnable_pilots_are_followed(generator: torch.Generator) -> None:
    """After a step of training LS divides by the new pilots."""
    obs = OFDMPilots.dmrs(GRID, ports=(0, 1), additional_position=1, learnable=True)
    ls = LS(obs)
    with torch.no_grad():
        obs.pilots_ri.mul_(torch.rand(obs.pilots_ri.shape, generator=generator) + 0.5)
    y = complex_normal((2, 1, 14, 24), generator=generator)
    got = ls(y, 0.1)
    fixed = LS(OFDMPilots.from_pattern(GRID, PilotPattern("now", obs.pilots.detach(), groups=obs.groups)))(y, 0.1)
    torch.testing.assert_close(got.h_hat, fixed.h_hat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.err_var, fixed.err_var, rtol=1e-4, atol=1e-6)
    got.h_hat.abs().square().sum().backward()
    assert obs.pilots_ri.grad is not None and bool(torch.isfinite(obs.pilots_ri.grad).all())


def test_shared_elements_without_labels_are_paired() -> None:
    """Two antennas with codes (1, 1) and (1, -1) on neighbours are told apart without being told how."""
    pilots = torch.zeros(2, 14, 24, dtype=torch.complex64)
    pilots[0, [2, 11]] = 1
    pilots[1, 2], pilots[1, 11] = torch.tensor([1.0, -1.0]).repeat(12) + 0j, torch.tensor([1.0, -1.0]).repeat(12) + 0j
    obs = OFDMPilots.from_pattern(GRID, pilots)
    h = torch.stack([torch.full((14, 24), 1 + 2j), torch.full((14, 24), -3j)])[None]
    torch.testing.assert_close(LS(obs)(obs.noiseless(h), 0.0).h_hat, h, rtol=0, atol=1e-5)


def test_mean_square_error_at_the_pilots_is_no_over_pilot_power(generator: torch.Generator) -> None:
    obs = OBSERVATIONS["comb"]()
    h = torch.ones(3000, 1, 1, 14, 24, dtype=torch.complex64)
    result = LS(obs)(obs.observe(h, 0.5, generator=generator), 0.5)
    at = obs.mask
    want = 0.5 / 10**0.3
    # 3000 x 16 samples: 0.5 %.
    assert (result.h_hat - h).abs().square()[..., at].mean().item() == pytest.approx(want, rel=0.02)


def test_registry_and_result_type() -> None:
    obs = OBSERVATIONS["comb"]()
    est = ESTIMATORS["ls"](obs)
    assert isinstance(est, LS)
    assert isinstance(est(torch.zeros(1, 14, 24, dtype=torch.complex64), 0.0), Estimate)
    with pytest.raises(UnknownNameError, match="did you mean 'lmmse'"):
        ESTIMATORS["lmse"]


def same_codes() -> LS:
    return LS(OFDMPilots.from_pattern(GRID, torch.ones(2, 14, 24, dtype=torch.complex64)))


def lonely_overlap() -> LS:
    pilots = torch.zeros(2, 14, 24, dtype=torch.complex64)
    pilots[:, 3, 3] = 1
    return LS(OFDMPilots.from_pattern(GRID, pilots))


def same_centre() -> LS:
    pilots = torch.ones(1, 14, 24, dtype=torch.complex64)
    groups = torch.arange(336).reshape(14, 24)
    groups[0, :4] = torch.tensor([1000, 1001, 1001, 1000])
    return LS(OFDMPilots.from_pattern(GRID, PilotPattern("x", pilots, groups=groups)))


COMB = OFDMPilots(GRID, (2, 11), 3)
Y = torch.zeros(4, 1, 14, 24, dtype=torch.complex64)
BAD = [
    (lambda: LS(GRID), InvalidTypeError, "obs must be OFDMPilots"),  # type: ignore[arg-type]
    (lambda: LS(COMB, "linaer"), UnknownNameError, "did you mean 'linear'"),
    (lambda: LS(COMB, covariance=torch.eye(3)), InvalidTypeError, "covariance must be a ChannelCovariance"),  # type: ignore[arg-type]
    (
        lambda: LS(COMB, covariance=TDL("A", delay_spread=1e-7).covariance(OFDMGrid(14, 12, 15e3))),
        ShapeError,
        r"covariance has shape \(1, 1, 14, 12\)",
    ),
    (same_codes, InvalidValueError, "cannot be told apart"),
    (lonely_overlap, InvalidValueError, "2 antennas share 1 element"),
    (same_centre, InvalidValueError, "have the same centre"),
    (lambda: LS(COMB)(Y[..., :-1], 0.1), ShapeError, r"y has shape \(4, 1, 14, 23\)"),
    (lambda: LS(COMB)(Y[0, 0], 0.1), ShapeError, r"y has shape \(14, 24\)"),
    (lambda: LS(COMB)(Y.real, 0.1), InvalidTypeError, "y has dtype torch.float32"),
    (lambda: LS(COMB)(Y * math.nan, 0.1), InvalidValueError, "y holds 64 NaN"),
    (lambda: LS(COMB)(Y, -0.1), InvalidValueError, "no=-0.1 must be at least 0"),
    (lambda: LS(COMB)(Y, torch.ones(4) + 0j), InvalidTypeError, "a noise variance is real"),
    (lambda: LS(COMB)(Y, torch.ones(3)), ShapeError, r"no has shape \(3,\)"),
    (
        lambda: LS(COMB, covariance=TDL("A", delay_spread=1e-7).covariance(GRID))(Y.expand(4, 2, 14, 24), 0.1),
        ShapeError,
        "y has 2 receive antennas",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
