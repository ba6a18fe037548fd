"""Sionna's estimators in wichan's evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.estimators import LMMSE, LS
from wichan.evaluation import evaluate
from wichan.grid import OFDMGrid
from wichan.integrations.sionna import as_baseline, baseline, resource_grid_of
from wichan.integrations.sionna.baseline import axis_covariances
from wichan.observations import OFDMPilots
from wichan.testing import check_estimator

pytestmark = pytest.mark.sionna

GRID = OFDMGrid(14, 36, 15e3)


def ls(resource_grid: Any) -> Any:
    from sionna.phy.ofdm import LSChannelEstimator

    return LSChannelEstimator(resource_grid, interpolation_type="lin", precision=resource_grid.precision)


def test_a_sionna_estimator_keeps_wichans_axes(generator: torch.Generator) -> None:
    pilots = OFDMPilots(GRID, symbols=(2, 11), num_tx_ant=2)
    y = torch.randn(4, 3, 2, 14, 36, dtype=torch.complex64, generator=generator)  # batch (4, 3), two receive antennas
    no = torch.tensor([0.1, 0.2, 0.3, 0.4])
    h_hat, err_var = as_baseline(ls, pilots)(y, no)
    assert h_hat.shape == (4, 3, 2, 2, 14, 36) == err_var.shape
    assert err_var.dtype == torch.float32
    want, variance = ls(resource_grid_of(pilots))(y, no)  # num_rx = 3
    torch.testing.assert_close(h_hat, want[:, :, :, 0])
    torch.testing.assert_close(err_var, variance[:, :, :, 0])
    mine = LS(pilots)(y, no)
    torch.testing.assert_close(h_hat, mine.h_hat, rtol=1e-4, atol=2e-5)  # single precision, lines drawn beyond the pilots


def test_pilots_that_have_changed_are_refused(generator: torch.Generator) -> None:
    pilots = OFDMPilots(GRID, symbols=(2, 11), learnable=True)
    least_squares = as_baseline(ls, pilots)
    y = pilots.noiseless(torch.ones(2, 1, 1, 14, 36, dtype=torch.complex64)).detach()
    assert least_squares(y, 0.0).h_hat.shape == (2, 1, 1, 14, 36)
    with torch.no_grad():
        pilots.pilots_ri.mul_(-1)
    with pytest.raises(InvalidValueError, match="pilots have changed"):
        least_squares(y, 0.0)


def test_it_keeps_the_contract(generator: torch.Generator) -> None:
    pilots = OFDMPilots(GRID, symbols=(2, 11), subcarrier_step=3)
    skip = dict.fromkeys(("output_dtype", "batch_independence"), "it asks for double precision; a Sionna block has one")
    check_estimator(as_baseline(ls, pilots), pilots, generator=generator, num_rx_ant=2, skip=skip)


def test_an_estimator_with_guard_carriers_takes_the_effective_subcarriers(generator: torch.Generator) -> None:
    from sionna.phy.ofdm import ResourceGrid

    rg = ResourceGrid(
        14, 32, 15e3, num_guard_carriers=(2, 3), dc_null=True, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11]
    )
    y = torch.randn(5, 1, 14, 26, dtype=torch.complex64, generator=generator)
    full = torch.randn(5, 1, 1, 14, 32, dtype=torch.complex64, generator=generator)
    full[..., torch.from_numpy(rg.effective_subcarrier_ind)] = y[:, None]
    torch.testing.assert_close(as_baseline(ls(rg))(y, 0.1).h_hat[:, None], ls(rg)(full, 0.1)[0][:, :, :, 0])


def test_frames_in_chunks_give_the_same(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = as_baseline(ls, OFDMPilots(GRID, symbols=(2, 11)))
    y, no = torch.randn(7, 1, 14, 36, dtype=torch.complex64, generator=generator), torch.linspace(0.1, 0.7, 7)
    whole = estimator(y, no)
    monkeypatch.setattr(baseline, "_CHUNK_BYTES", 4 * 8 * 14 * 36 * 36 * 2)
    assert estimator._step(y) == 2
    for have, want in zip(estimator(y, no), whole, strict=True):
        assert torch.equal(have, want)
    assert estimator(y[:0], no[:0]).h_hat.shape == (0, 1, 1, 14, 36)


def test_double_precision_follows_the_pilots(generator: torch.Generator) -> None:
    comb = OFDMPilots(GRID, symbols=(2, 11))
    double = as_baseline(ls, OFDMPilots.from_pattern(GRID, comb.pilots.to(torch.complex128)))
    y = torch.randn(2, 1, 14, 36, dtype=torch.complex128, generator=generator)
    assert double(y, 0.1).h_hat.dtype == torch.complex128
    with pytest.raises(InvalidTypeError, match=r"y has dtype torch.complex64, .*build it with precision='single'"):
        double(y.to(torch.complex64), 0.1)


# -- By name. --


def test_named_baselines_run_and_stand_where_theory_puts_them() -> None:
    names = ["ls", "lmmse-pooled", "lmmse-separable", "sionna-ls", "sionna-lmmse"]
    overrides = {"grid.num_subcarriers": 48}
    state = torch.get_rng_state()
    result = evaluate("ofdm-siso", names, points=[0.0, 10.0], num_channels=60, reference=None, overrides=overrides)
    assert torch.equal(state, torch.get_rng_state())
    nmse = dict(zip(names, result.nmse_db.value.T, strict=True))
    # The same lines through the same pilots: equal to single precision.
    torch.testing.assert_close(nmse["sionna-ls"], nmse["ls"], rtol=0, atol=1e-3)
    # Two writings of one-dimensional filters in turn; Sionna's rescales in between (measured: 0.003 dB).
    torch.testing.assert_close(nmse["sionna-lmmse"], nmse["lmmse-separable"], rtol=0, atol=0.03)
    # The joint filter has the least mean error (measured: 0.16 and 0.08 dB below).
    assert bool((nmse["lmmse-pooled"] < nmse["sionna-lmmse"]).all())
    assert "Sionna 2." in result.notes["sionna-lmmse"]
    assert "frequency, time" in result.notes["sionna-lmmse"]


def test_axis_covariances_are_the_partial_traces(generator: torch.Generator) -> None:
    model = TDL("A", delay_spread=200e-9, max_doppler=200.0, num_rx_ant=3, num_tx_ant=2, correlation="medium")
    covariance = model.covariance(OFDMGrid(4, 5, 15e3))
    full = covariance.matrix().reshape(3, 2, 4, 5, 3, 2, 4, 5)
    space, time, frequency = axis_covariances(covariance)
    torch.testing.assert_close(space, torch.einsum("atnfbtnf->ab", full) / 40)
    torch.testing.assert_close(time, torch.einsum("atnfatmf->nm", full) / 30)
    torch.testing.assert_close(frequency, torch.einsum("atnfatng->fg", full) / 24)


@pytest.mark.parametrize("num_rx_ant", [1, 2])
def test_lmmse_follows_the_power_of_the_channel(generator: torch.Generator, num_rx_ant: int) -> None:
    """Channels twice as strong under noise twice as strong are the same problem: every estimate is twice as large."""
    from wichan.channels import ChannelCovariance, KroneckerTerm

    pilots = OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=(2, 11), subcarrier_step=3)
    model = TDL("A", delay_spread=200e-9, max_doppler=200.0, num_rx_ant=num_rx_ant)
    one = model.covariance(pilots.grid)
    strong = ChannelCovariance([KroneckerTerm(2 * t.space, t.time, t.frequency) for t in one.terms], num_rx_ant, 1)
    y = torch.randn(3, num_rx_ant, 14, 24, dtype=torch.complex64, generator=generator)
    weak_answer = baseline.build_lmmse(setting(pilots, one)).estimator(y, 0.1)
    strong_answer = baseline.build_lmmse(setting(pilots, strong)).estimator(2 * y, 0.4)
    torch.testing.assert_close(strong_answer.h_hat, 2 * weak_answer.h_hat, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(strong_answer.err_var, 4 * weak_answer.err_var, rtol=1e-2, atol=1e-4)


def test_lmmse_with_several_antennas_uses_their_correlation(generator: torch.Generator) -> None:
    pilots = OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=(2, 11), subcarrier_step=3)
    root = 0.95 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
    model = TDL("A", delay_spread=200e-9, max_doppler=200.0, num_rx_ant=4, rx_correlation=root)
    covariance = model.covariance(pilots.grid)
    h = model.frequency_response(pilots.grid, 40, generator=generator)
    y = pilots.observe(h, 1.0, generator=generator)

    def error(estimator: Any) -> float:
        return float((estimator(y, 1.0).h_hat - h).abs().square().mean())

    built = baseline.build_lmmse(setting(pilots, covariance))
    assert "frequency, time, space" in built.note
    alone = error(
        baseline.build_lmmse(
            setting(pilots, TDL("A", delay_spread=200e-9, max_doppler=200.0, num_rx_ant=4).covariance(pilots.grid))
        ).estimator
    )
    # Measured with 400 channels: 0.72 of the error without it, and 1.18 of the joint filter's.
    assert error(built.estimator) < 0.85 * alone
    assert error(LMMSE(pilots, covariance)) <= error(built.estimator)


def setting(observation: OFDMPilots, covariance: Any) -> Any:
    """The two things that the builders look at."""
    return SimpleNamespace(observation=observation, pooled=SimpleNamespace(covariance=covariance, note="exact"))


# -- Bad input. --


def test_bad_input_is_one_line() -> None:
    from sionna.phy.ofdm import ResourceGrid

    pilots = OFDMPilots(GRID, symbols=(2, 11))
    shared = OFDMPilots.dmrs(GRID, ports=(0, 1))
    y = torch.zeros(1, 1, 14, 36, dtype=torch.complex64)
    rg = ResourceGrid(14, 36, 15e3, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2])
    cases = [
        (lambda: as_baseline(3), InvalidTypeError, "sionna must be a Sionna channel estimator or a function"),
        (lambda: as_baseline(LS(pilots)), InvalidTypeError, "got LS"),
        (lambda: as_baseline(ls), InvalidValueError, "observation is missing"),
        (lambda: as_baseline(ls, GRID), InvalidTypeError, "observation must be OFDMPilots"),
        (lambda: as_baseline(lambda rg: rg, pilots), InvalidTypeError, "returned ResourceGrid"),
        (
            lambda: as_baseline(ls(rg), shared),
            ShapeError,
            "(antennas, symbols, subcarriers) = (2, 14, 36), the Sionna estimator's grid (1, 14, 36)",
        ),
        (lambda: as_baseline(ls, pilots)(y[..., :35], 0.1), ShapeError, "the last axes must be (any, 14, 36)"),
        (lambda: as_baseline(ls, pilots)(y.real.half(), 0.1), InvalidTypeError, "torch.float16"),
        (lambda: as_baseline(ls, pilots)(y * float("nan"), 0.1), InvalidValueError, "NaN or infinite"),
        (lambda: as_baseline(ls, pilots)(y, -0.1), InvalidValueError, "no=-0.1 must be at least 0"),
        (lambda: baseline.build_ls(setting(shared, None)), InvalidValueError, "shared by several antennas"),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        assert text in message
