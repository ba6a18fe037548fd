"""The head that says how wrong a learned estimate is: a variance in every case, free of scale and phase, and it learns."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.estimators import Estimate, Linear
from wichan.estimators.error_head import ErrorHead
from wichan.estimators.learned import seeded
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.testing import calibration_by_decile
from wichan.training import make_loss

GRID = OFDMGrid(num_ofdm_symbols=4, num_subcarriers=6, subcarrier_spacing=15e3)
PILOTS = OFDMPilots(GRID, symbols=(1, 3), subcarrier_step=2)


def fresh(num_conditions: int = 0) -> ErrorHead:
    with seeded(0):
        return ErrorHead(GRID.shape, num_conditions)


def awake(head: ErrorHead) -> ErrorHead:
    """A head whose last layer is not zero."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.layers[-1].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return head


def inputs(generator: torch.Generator, count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    pilots = complex_normal((count, 6), generator=generator)
    fitted = pilots + complex_normal((count, 6), 0.1, generator=generator)
    return pilots, fitted, torch.linspace(0.01, 1, count), pilots.abs().square().mean(-1)


def test_fresh_head_claims_the_power_of_the_frame(generator: torch.Generator) -> None:
    pilots, fitted, noise, level = inputs(generator)
    head = fresh()
    got = head(pilots, fitted, noise, level, None)
    assert torch.equal(got, level[:, None, None].expand(5, 4, 6))
    head.scale.fill_(0.25)
    assert torch.equal(head(pilots, fitted, noise, level, None), 0.25 * got)


def test_scale_and_phase_of_the_frame_do_not_matter(generator: torch.Generator) -> None:
    pilots, fitted, noise, level = inputs(generator)
    told = torch.randn(5, 3, generator=generator)
    head = awake(fresh(3))
    want = head(pilots, fitted, noise, level, told)
    turn = 1e-3 * torch.exp(torch.tensor(0.7j))
    got = head(turn * pilots, turn * fitted, 1e-6 * noise, 1e-6 * level, told)
    assert torch.allclose(1e6 * got, want, rtol=1e-4)  # float32 through three layers and an exponential
    assert not torch.allclose(head(pilots, fitted, 2 * noise, level, told), want, rtol=1e-3)
    assert not torch.allclose(head(pilots, fitted, noise, level, told + 0.1), want, rtol=1e-3)
    assert not torch.allclose(head(pilots, pilots, noise, level, told), want, rtol=1e-3)


def test_exponent_is_a_sum_over_symbols_and_subcarriers(generator: torch.Generator) -> None:
    pilots, fitted, noise, level = inputs(generator)
    log = awake(fresh()).double()(pilots.cdouble(), fitted.cdouble(), noise.double(), level.double(), None).log()
    mixed = log - log.mean(1, keepdim=True) - log.mean(2, keepdim=True) + log.mean((1, 2), keepdim=True)
    assert log.std() > 0.1
    assert float(mixed.detach().abs().max()) < 1e-6  # nothing but a_t + b_k + c; the level is a float32 number


@pytest.mark.parametrize("kind", ["zero", "faint", "loud", "one element", "constant"])
@pytest.mark.parametrize("no", [0.0, 1e-12, 1.0, 9e29])
def test_always_a_positive_number(kind: str, no: float, generator: torch.Generator) -> None:
    est = Linear(PILOTS)
    awake(est.error_head)
    y = complex_normal((3, 1, *GRID.shape), generator=generator)
    y = {"zero": 0 * y, "faint": 1e-15 * y, "loud": 1e15 * y, "one element": y, "constant": y * 0 + PILOTS.pilots[0]}[kind]
    if kind == "one element":
        y[..., 0:3, :] = 0
        y[..., 1:] = 0
    y.requires_grad_()
    result = est(y, no)
    assert bool(result.err_var.isfinite().all()) and float(result.err_var.detach().min()) > 0
    if kind in ("zero", "constant"):
        result.err_var.sum().backward()
        assert bool(torch.view_as_real(y.grad).isfinite().all())


def test_one_pilot_alone_is_enough() -> None:
    est = Linear(OFDMPilots(OFDMGrid(1, 1, 15e3), symbols=(0,)))
    awake(est.error_head)
    assert float(est(torch.ones(1, 1, 1, dtype=torch.complex64), 0.1).err_var.detach()) > 0


def test_learns_how_wrong_an_estimate_is(generator: torch.Generator) -> None:
    # Least squares at the pilots of a flat channel, repeated everywhere: the error is the noise over six pilots.
    est = Linear(PILOTS)
    with torch.no_grad():
        est.network.weight.fill_(1 / 6)
        est.network.bias.zero_()

    def frames(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = complex_normal((count, 1, 1, 1, 1), generator=generator).expand(-1, -1, -1, *GRID.shape).contiguous()
        no = 10 ** (-2 * torch.rand(count, generator=generator))
        return h, no, PILOTS.observe(h, no, generator=generator)

    def score(h: torch.Tensor, no: torch.Tensor, y: torch.Tensor) -> tuple[Estimate, float]:
        with torch.no_grad():
            result = est(y, no)
            return result, float(make_loss("nll")(result, h))

    test = frames(2000)
    before = score(*test)[1]
    optimiser = torch.optim.Adam(est.error_head.parameters(), lr=1e-2)
    for _ in range(150):
        h, no, y = frames(64)
        optimiser.zero_grad()
        make_loss("nll")(est(y, no), h).backward()
        optimiser.step()
    result, after = score(*test)
    ideal = float((test[1] / 6).log().mean()) + 1  # of a head that knows the error exactly
    assert before > ideal + 2
    assert after < ideal + 0.15
    # 48000 errors in 2000 frames: a decile holds 200 exponential variables, whose mean scatters by 7 %; the head adds its own.
    deciles = calibration_by_decile(result.h_hat, result.err_var, test[0])
    assert float((deciles - 1).abs().max()) < 0.4
    assert math.isclose(float(deciles.mean()), 1, abs_tol=0.1)
