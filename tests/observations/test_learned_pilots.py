"""Pilots learned by gradient through the channel, against the optimum in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import TDL, ChannelCovariance, RayleighBlock, Rays, exponential_correlation, frequency_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators import LMMSE, lmmse_error, lmmse_estimate, optimal_pilots
from wichan.grid import OFDMGrid
from wichan.observations import DensePilots, OFDMPilots
from wichan.random import complex_normal

GRID = OFDMGrid(1, 4, 15e3)  # four pilot elements on a channel that is the same on all of them
R = exponential_correlation(4, 0.9)
ENERGY, NO = 4.0, 0.1


def learnable(generator: torch.Generator, **options) -> OFDMPilots:
    """Four antennas that start with random pilots on every element."""
    start = complex_normal((4, 1, 4), 0.25, generator=generator)
    return OFDMPilots.from_pattern(GRID, start, learnable=True, **options)


def as_matrix(obs: OFDMPilots) -> torch.Tensor:
    """What the antennas send on each element, scaled to the energy: (M, N)."""
    sent = obs.pilot_values().mT
    return sent * (ENERGY / sent.abs().square().sum()).sqrt()


def mean_error(pilots: torch.Tensor, no: float = NO, covariance: torch.Tensor = R) -> float:
    return float(lmmse_error(pilots, covariance, no).sum())


# -- The closed-form error and the estimate that makes it. --


def test_equals_the_lmmse_that_factorises_once(generator: torch.Generator) -> None:
    grid = OFDMGrid(3, 12, 15e3)
    model = TDL("A", delay_spread=300e-9, max_doppler=200.0, num_rx_ant=2, num_tx_ant=2, correlation="medium")
    obs = OFDMPilots(grid, (0, 2), 2, num_tx_ant=2)
    covariance = model.covariance(grid)
    lmmse = LMMSE(obs, covariance)
    h = model.frequency_response(grid, 3, generator=generator, dtype=torch.complex128)
    y = obs.observe(h, 0.01, generator=generator)
    want = lmmse(y, 0.01)
    got = lmmse_estimate(obs.extract(y).flatten(-2), obs, covariance, 0.01)
    # The pilots are stored in single precision and exact; two factorisations in double precision at 20 dB.
    torch.testing.assert_close(got.h_hat, want.h_hat.flatten(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(got.err_var, want.err_var[0].flatten(), rtol=0, atol=1e-11)
    torch.testing.assert_close(lmmse_error(obs, covariance, 0.01), got.err_var)


def test_the_error_is_made(generator: torch.Generator) -> None:
    pilots = DensePilots(optimal_pilots(R, ENERGY, NO))
    h = complex_normal((20_000, 4), generator=generator, dtype=torch.complex128) @ torch.linalg.cholesky(R).mT
    h_hat, err_var = lmmse_estimate(pilots.observe(h, NO, generator=generator), pilots, R, NO)
    made = (h_hat - h).abs().square().mean(0)
    torch.testing.assert_close(made, err_var, rtol=0.06, atol=0)  # standard error 0.7 % to 1 % (some modes dominate)


# -- The optimum. --


@pytest.mark.parametrize("no", [10.0, 0.5, 0.1, 1e-3])
@pytest.mark.parametrize("num_pilots", [1, 2, 4, 6])
def test_optimum_satisfies_its_conditions_and_no_other_pilots_are_better(no: float, num_pilots: int) -> None:
    pilots = optimal_pilots(R, ENERGY, no, num_pilots)
    assert float(pilots.abs().square().sum()) == pytest.approx(ENERGY)
    values, vectors = torch.linalg.eigh(R)
    share = (pilots @ vectors).abs().square().sum(0)
    # Karush, Kuhn and Tucker: the modes with power have one error 1/(1/lambda + q/no), the others would gain less.
    each = 1 / (1 / values + share / no)
    used = share > 1e-9
    assert each[used].std(correction=0) < 1e-9 * each[used].mean()
    if num_pilots >= 4:
        assert bool((each[~used] <= each[used].mean() * (1 + 1e-9)).all())
    assert mean_error(pilots, no) == pytest.approx(float(each.sum()))
    rivals = complex_normal((300, num_pilots, 4), generator=torch.Generator().manual_seed(4), dtype=torch.complex128)
    rivals[:100] = pilots + 0.05 * rivals[:100]  # far away and close by
    for rival in rivals * (ENERGY / rivals.abs().square().sum((1, 2), keepdim=True)).sqrt():
        assert mean_error(rival, no) >= mean_error(pilots, no) * (1 - 1e-12)


def test_limits_of_the_optimum() -> None:
    strongest = torch.linalg.eigh(R).eigenvectors[:, -1]
    weak = optimal_pilots(R, ENERGY, 1e3)
    torch.testing.assert_close((weak[0] @ strongest).abs(), torch.tensor(2.0).double())  # one beam of all the energy
    assert not weak[1:].any()
    strong = optimal_pilots(R, ENERGY, 1e-9)
    # The smallest eigenvalue is 1e-5 or so, and powers differ by no over it.
    torch.testing.assert_close(strong.abs().square().sum(1), torch.ones(4).double(), rtol=1e-3, atol=0)
    # Without correlation the orthogonal pilots are optimal: 4 no / (no + 1).
    assert mean_error(optimal_pilots(torch.eye(4), ENERGY, NO), covariance=torch.eye(4)) == pytest.approx(4 * NO / (NO + 1))
    assert mean_error(torch.eye(4) + 0j, covariance=torch.eye(4)) == pytest.approx(4 * NO / (NO + 1), rel=1e-6)


# -- Gradients through the channel. --


def test_gradient_through_synthesis_observation_and_estimate(generator: torch.Generator) -> None:
    """Sampled loss: rays, channel on the grid, pilots and noise, estimate; and the closed form beside it."""
    grid = OFDMGrid(2, 3, 15e3)
    model = TDL("A", delay_spread=300e-9, max_doppler=300.0, num_tx_ant=2)
    covariance = ChannelCovariance(model.covariance_terms(grid), 1, 2)
    rays = model.sample(3, generator=generator).double()
    pilots = complex_normal((2, 2, 3), generator=generator, dtype=torch.complex128).requires_grad_()
    gain = rays.gain.clone().requires_grad_()
    no = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def losses(pilots: torch.Tensor, gain: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        obs = OFDMPilots.from_pattern(grid, pilots)
        h = frequency_response(Rays(gain, rays.delay, rays.doppler), grid.times, grid.frequencies)
        y = obs.observe(h, no, generator=torch.Generator().manual_seed(5))
        h_hat, err_var = lmmse_estimate(obs.extract(y).flatten(-2), obs, covariance, no)
        return (h_hat - h.flatten(1)).abs().square().mean(), err_var.mean()

    # Rays of one tap are summed in double precision only; fast mode checks a random direction of the 400 gains.
    assert torch.autograd.gradcheck(losses, (pilots, gain, no), fast_mode=True)


def test_gradient_through_the_waveform(generator: torch.Generator) -> None:
    grid = OFDMGrid(1, 4, 15e3)
    model = RayleighBlock(num_tx_ant=2, tx_correlation=exponential_correlation(2, 0.7))
    covariance = model.covariance(grid)
    rays = model.sample(2, generator=generator).double()
    pilots = complex_normal((2, 1, 4), generator=generator, dtype=torch.complex128).requires_grad_()

    def loss(pilots: torch.Tensor) -> torch.Tensor:
        obs = OFDMPilots.from_pattern(grid, pilots, domain="time")
        y = obs.observe(rays, 0.1, generator=torch.Generator().manual_seed(5), timing_offset=-1e-6, carrier_offset=200.0)
        h = obs.channel(rays, timing_offset=-1e-6, carrier_offset=200.0)
        return (lmmse_estimate(obs.extract(y).flatten(-2), obs, covariance, 0.1).h_hat - h.flatten(1)).abs().square().mean()

    assert torch.autograd.gradcheck(loss, (pilots,))


# -- Learning. --


def learn(loss, obs: OFDMPilots, steps: int, rate: float) -> list[float]:
    """Adam on the pilots under the constraint of energy; the closed-form error after every step."""
    optimizer = torch.optim.Adam(obs.parameters(), lr=rate)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(as_matrix(obs)).backward()
        optimizer.step()
        history.append(mean_error(as_matrix(obs).detach()))
    return history


@pytest.mark.parametrize("no", [1.0, 0.1, 0.01])
def test_pilots_learned_on_the_closed_form_reach_the_optimum(no: float, generator: torch.Generator) -> None:
    obs = learnable(generator)
    before = mean_error(as_matrix(obs).detach(), no)
    learn(lambda pilots: lmmse_error(pilots, R, no).sum(), obs, 100, 0.1)
    best, after = mean_error(optimal_pilots(R, ENERGY, no), no), mean_error(as_matrix(obs).detach(), no)
    orthogonal = mean_error(torch.eye(4) + 0j, no)
    # 100 steps of Adam from a random start come within 0.05 dB; single-precision pilots leave 1e-6.
    assert best * (1 - 1e-6) <= after < best * 10**0.005
    assert after < orthogonal < before or after < before < orthogonal
    assert 10 * math.log10(orthogonal / after) > 0.8


def test_pilots_learned_from_samples_come_close(generator: torch.Generator) -> None:
    """Loss of a batch of channels through synthesis, observation and estimate; no closed form is used for learning."""
    model = RayleighBlock(num_tx_ant=4, tx_correlation=R)
    obs = learnable(generator)

    def loss(pilots: torch.Tensor) -> torch.Tensor:
        scaled = OFDMPilots.from_pattern(GRID, pilots.mT[:, None])
        h = model.frequency_response(GRID, 128, generator=generator)
        y = scaled.observe(h, NO, generator=generator)
        flat = h[:, 0, :, 0, 0]
        return (lmmse_estimate(scaled.extract(y).flatten(-2), pilots, R, NO).h_hat - flat).abs().square().sum(-1).mean()

    history = learn(loss, obs, 100, 0.1)
    best = mean_error(optimal_pilots(R, ENERGY, NO))
    # Gradients of 128 channels are noisy to some 10 %, so pilots hover around the optimum: 0.3 dB is allowed.
    assert min(history) >= best * (1 - 1e-6)
    assert sum(history[-10:]) / 10 < best * 10**0.03


# -- Bad input. --

EYE = torch.eye(4, dtype=torch.complex128)
Y = torch.zeros(3, 4, dtype=torch.complex128)
BAD = [
    (lambda: lmmse_error(EYE[:, :3], R, NO), ShapeError, r"covariance has shape \(4, 4\); the pilots ask for \(3, 3\)"),
    (lambda: lmmse_error(EYE.real, R, NO), InvalidTypeError, "pilots has dtype torch.float64"),
    (lambda: lmmse_error([1], R, NO), InvalidTypeError, "pilots must be a matrix, OFDMPilots or DensePilots, got list"),
    (lambda: lmmse_error(EYE[0], R, NO), ShapeError, r"pilots has shape \(4,\)"),
    (lambda: lmmse_error(EYE * math.nan, R, NO), InvalidValueError, "pilots holds 16 NaN"),
    (lambda: lmmse_error(EYE, R * math.inf, NO), InvalidValueError, "covariance holds 16 NaN"),
    (lambda: lmmse_error(EYE, R, 0.0), InvalidValueError, "no=0 must be greater than 0"),
    (lambda: lmmse_error(EYE, R, torch.tensor(-1.0)), InvalidValueError, "no=-1 must be greater than 0"),
    (lambda: lmmse_error(EYE, R, torch.ones(2)), ShapeError, r"no has shape \(2,\)"),
    (lambda: lmmse_error(EYE, R, 1j), InvalidTypeError, "no=1j must be a real number"),
    (lambda: lmmse_estimate(Y[:, :3], EYE, R, NO), ShapeError, r"y has shape \(3, 3\); the last axes must be \(4\)"),
    (lambda: lmmse_estimate(Y.real, EYE, R, NO), InvalidTypeError, "y has dtype torch.float64"),
    (lambda: optimal_pilots(R, 0.0, NO), InvalidValueError, "energy=0 must be greater than 0"),
    (lambda: optimal_pilots(R, ENERGY, -1.0), InvalidValueError, "no=-1 must be greater than 0"),
    (lambda: optimal_pilots(R, ENERGY, NO, 0), InvalidValueError, "num_pilots=0 must be at least 1"),
    (lambda: optimal_pilots(R[:3], ENERGY, NO), ShapeError, r"covariance has shape \(3, 4\); it must be \(N, N\)"),
    (lambda: optimal_pilots(0 * R, ENERGY, NO), InvalidValueError, "covariance has no positive eigenvalue"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
