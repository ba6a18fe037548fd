"""What cannot work in a Sionna link is refused in one clear line, by wichan and not from deep inside of either."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.channels import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanError
from wichan.estimators import LMMSE, LS, Estimate
from wichan.grid import OFDMGrid
from wichan.integrations.sionna import as_channel_estimator, observation_of, resource_grid_of
from wichan.observations import OFDMPilots

pytestmark = pytest.mark.sionna

SHAPE = (2, 1, 3, 14, 24)


def grid(**options: Any) -> Any:
    from sionna.phy.ofdm import ResourceGrid

    settings = {"num_ofdm_symbols": 14, "fft_size": 24, "subcarrier_spacing": 15e3, "cyclic_prefix_length": 2}
    settings |= {"pilot_pattern": "kronecker", "pilot_ofdm_symbol_indices": [2, 11]}
    return ResourceGrid(**(settings | options))


def custom(mask: torch.Tensor, pilots: torch.Tensor, **options: Any) -> Any:
    from sionna.phy.ofdm import PilotPattern

    return grid(pilot_pattern=PilotPattern(mask, pilots), **options)


def y_like(dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.ones(SHAPE, dtype=dtype)


def refused(call: Callable[[], Any], kind: type[WichanError], *texts: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in texts), message


def model(num_rx_ant: int = 1, num_tx_ant: int = 1) -> TDL:
    return TDL("A", delay_spread=1e-7, max_doppler=10.0, num_rx_ant=num_rx_ant, num_tx_ant=num_tx_ant)


# -- The resource grid and the estimator. --


def test_a_grid_that_does_not_match_the_estimator() -> None:
    theirs = observation_of(grid())

    def made(**changes: Any) -> LS:
        settings = {"num_ofdm_symbols": 14, "num_subcarriers": 24, "subcarrier_spacing": 15e3}
        settings["symbol_duration"] = theirs.grid.symbol_duration
        pattern = {"symbols": (2, 11), "boost_db": 0.0}
        pattern |= {
            key: changes.pop(key) for key in tuple(changes) if key in ("symbols", "boost_db", "values", "subcarrier_step")
        }
        return LS(OFDMPilots(OFDMGrid(**(settings | changes)), **pattern))

    advice = "build it on observation_of(resource_grid)"
    refused(lambda: as_channel_estimator(made(num_subcarriers=12), grid()), ShapeError, "(14, 12)", "(14, 24)", advice)
    refused(lambda: as_channel_estimator(made(symbols=(2, 10)), grid()), InvalidValueError, "other elements", advice)
    refused(lambda: as_channel_estimator(made(subcarrier_step=2), grid()), InvalidValueError, "other elements", advice)
    refused(lambda: as_channel_estimator(made(), grid()), InvalidValueError, "other pilot values", advice)
    refused(
        lambda: as_channel_estimator(made(symbol_duration=None), grid(cyclic_prefix_length=6)),
        InvalidValueError,
        "symbol_duration",
    )
    spacing = made(subcarrier_spacing=30e3)
    refused(lambda: as_channel_estimator(spacing, grid()), InvalidValueError, "30000 Hz", "15000 Hz", advice)
    # The same pilots, boosted: other values too.
    rg = grid()
    scaled = LS(OFDMPilots.from_pattern(theirs.grid, 2 * theirs.pilots))
    refused(lambda: as_channel_estimator(scaled, rg), InvalidValueError, "other pilot values")


def test_several_streams_where_one_is_supported() -> None:
    rg = grid(num_tx=2, num_streams_per_tx=2)
    one = LS(OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=(2, 11)))
    refused(
        lambda: as_channel_estimator(one, rg),
        ShapeError,
        "made for 1 transmit antenna(s), resource_grid has 4 stream(s) (num_tx=2 x num_streams_per_tx=2)",
    )
    refused(lambda: as_channel_estimator(lambda p: LMMSE(p, model().covariance(p.grid)), rg), ShapeError, "(1, 1, 14, 24)", "4")
    silent = as_channel_estimator(lambda p: lambda y, no: Estimate(y[..., None, :, :], y.real[..., None, :, :]), rg)
    refused(lambda: silent(y_like(), 0.1), ShapeError, "h_hat of shape (2, 1, 3, 1, 14, 24); it must be (2, 1, 3, 4, 14, 24)")


def test_antennas_that_do_not_fit() -> None:
    rg = grid()
    four = as_channel_estimator(lambda p: LMMSE(p, model(num_rx_ant=4).covariance(p.grid)), rg)
    refused(lambda: four(y_like(), 0.1), ShapeError, "made for 4 receive antenna(s), y has 3")
    three = as_channel_estimator(lambda p: LMMSE(p, model(num_rx_ant=3).covariance(p.grid)), rg)
    three(y_like(), torch.full((2, 1, 3), 0.1))  # equal for all antennas: no matter
    unequal = torch.tensor([0.1, 0.1, 0.2]).expand(2, 1, 3)
    refused(lambda: three(y_like(), unequal), InvalidValueError, "no differs between the 3 receive antennas", "jointly")
    one = as_channel_estimator(lambda p: LMMSE(p, model().covariance(p.grid)), rg, antennas="joint")
    refused(lambda: one(y_like(), 0.1), ShapeError, "made for 1 receive antenna(s), y has 3 (antennas='joint')")
    together = as_channel_estimator(LS, rg, antennas="joint")
    refused(lambda: together(y_like(), unequal), InvalidValueError, "no differs")


def test_an_estimator_on_another_device() -> None:
    rg = grid()
    elsewhere = LS(observation_of(rg)).to("meta")
    refused(lambda: as_channel_estimator(elsewhere, rg), InvalidValueError, "estimator is on meta, device='cpu'", ".to('cpu')")


def test_what_is_no_estimator_or_no_grid() -> None:
    rg = grid()
    refused(lambda: as_channel_estimator(3, rg), InvalidTypeError, "estimator must be an Estimator or a function", "int")
    refused(lambda: as_channel_estimator(lambda y, no: y, rg), InvalidTypeError, "function of the pilots alone")
    from sionna.phy.ofdm import LSChannelEstimator

    sionna_ls = LSChannelEstimator(rg)
    refused(lambda: as_channel_estimator(sionna_ls, rg), InvalidTypeError, "LSChannelEstimator already", "no adapter")
    refused(lambda: as_channel_estimator(observation_of(rg), rg), InvalidTypeError, "got OFDMPilots")
    refused(lambda: as_channel_estimator(lambda pilots: None, rg), InvalidTypeError, "estimator(pilots) returned NoneType")
    refused(lambda: as_channel_estimator(LS, OFDMGrid(14, 24, 15e3)), InvalidTypeError, "resource_grid must be", "OFDMGrid")
    refused(lambda: as_channel_estimator(LS, rg, antennas="both"), UnknownNameError, "antennas='both'")
    refused(lambda: as_channel_estimator(LS, rg, precision="half"), UnknownNameError, "precision='half'", "single, double")
    refused(lambda: observation_of(None), InvalidTypeError, "NoneType")
    refused(lambda: observation_of(grid(pilot_pattern="empty")), InvalidValueError, "resource_grid has no pilots")


def test_patterns_that_do_not_fit() -> None:
    mask = torch.zeros(2, 1, 14, 24)
    mask[0, :, 2], mask[1, :, 3] = 1, 1
    pilots = torch.ones(2, 1, 24, dtype=torch.complex64)
    words = "stream 0 of transmitter 0 sends data where another sends pilots"
    refused(lambda: observation_of(custom(mask, pilots, num_tx=2)), InvalidValueError, words)
    mask[:, :, 2:4] = 1
    pilots = torch.ones(2, 1, 48, dtype=torch.complex64)
    pilots[1] = 0
    refused(
        lambda: observation_of(custom(mask, pilots, num_tx=2)), InvalidValueError, "stream 0 of transmitter 1 sends no pilot"
    )
    refused(lambda: observation_of(custom(mask, pilots)), ShapeError, "(1, 1, 14, 24)", "(2, 1, 14, 24)")
    # Two streams with the same pilots: no receiver can tell them apart, and least squares says so.
    pilots[1] = 1
    refused(lambda: as_channel_estimator(LS, custom(mask, pilots, num_tx=2)), InvalidValueError, "told apart")


def test_pilots_that_change_afterwards() -> None:
    rg = grid()
    adapter = as_channel_estimator(LS, rg)
    adapter(y_like(), 0.1)
    rg.pilot_pattern.pilots = rg.pilot_pattern.pilots.flip(-1)
    refused(lambda: adapter(y_like(), 0.1), InvalidValueError, "pilots of resource_grid have changed")


def test_grids_that_sionna_cannot_express() -> None:
    pilots = OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=(2, 11), num_tx_ant=3)
    refused(lambda: resource_grid_of(pilots, num_tx=2), InvalidValueError, "num_tx=2 must divide", "num_tx_ant=3")
    refused(lambda: resource_grid_of(pilots.grid), InvalidTypeError, "observation must be OFDMPilots, got OFDMGrid")
    refused(lambda: resource_grid_of(pilots, precision="half"), UnknownNameError, "precision='half'")
    slow = OFDMPilots(OFDMGrid(14, 24, 15e3, symbol_duration=3 / 15e3), symbols=(2, 11))
    refused(lambda: resource_grid_of(slow), InvalidValueError, "symbol_duration=0.0002 s", "cannot express")


# -- What is given in a call. --


def test_half_precision() -> None:
    adapter = as_channel_estimator(LS, grid())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, that complex32 is experimental
        half = y_like().to(torch.complex32)
    refused(
        lambda: adapter(half, 0.1), InvalidTypeError, "y has dtype torch.complex32; allowed are single and double precision"
    )
    for dtype in (torch.float16, torch.bfloat16):
        refused(lambda d=dtype: adapter(y_like(), torch.tensor(0.1, dtype=d)), InvalidTypeError, f"no has dtype {dtype}")


@pytest.mark.parametrize(
    ("no", "kind", "text"),
    [
        (-1, InvalidValueError, "no=-1 must be at least 0"),
        (float("nan"), InvalidValueError, "NaN or infinite"),
        (torch.tensor(1j), InvalidTypeError, "a noise variance is real"),
        (True, InvalidTypeError, "no=True"),
        ("0.1", InvalidTypeError, "no='0.1'"),
        (None, InvalidTypeError, "no=None"),
        (torch.ones(3), ShapeError, "no has shape (3,); it must fit the batch (2, 1, 3)"),
        (torch.ones(2, 1, 3, 14), ShapeError, "(2, 1, 3, 14)"),
    ],
)
def test_noise_that_is_none(no: Any, kind: type[WichanError], text: str) -> None:
    refused(lambda: as_channel_estimator(LS, grid())(y_like(), no), kind, text)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda y: y[0], ShapeError, "y has shape (1, 3, 14, 24); it must be (batch_size, num_rx, num_rx_ant, 14, 24)"),
        (lambda y: y[..., :20], ShapeError, "(2, 1, 3, 14, 20)"),
        (lambda y: y.real, InvalidTypeError, "torch.float32"),
        (lambda y: y.numpy(), InvalidTypeError, "y must be a torch.Tensor, got ndarray"),
        (lambda y: y * float("nan"), InvalidValueError, "NaN or infinite"),
    ],
)
def test_received_grids_that_do_not_fit(change: Callable[[torch.Tensor], Any], kind: type[WichanError], text: str) -> None:
    refused(lambda: as_channel_estimator(LS, grid())(change(y_like()), 0.1), kind, text)


# -- What an estimator answers. --

GOOD = (*SHAPE[:3], 1, *SHAPE[3:])


def answering(answer: Any) -> Callable[[], Any]:
    adapter = as_channel_estimator(lambda pilots: lambda y, no: answer, grid())
    return lambda: adapter(y_like(), 0.1)


def test_an_answer_as_it_should_be_passes() -> None:
    h_hat, err_var = answering((torch.ones(GOOD, dtype=torch.complex64), torch.zeros(GOOD)))()
    assert h_hat.shape == err_var.shape == (2, 1, 3, 1, 1, 14, 24)


@pytest.mark.parametrize(
    ("h_change", "v_change", "kind", "text"),
    [
        (lambda h: h[..., 0, :, :], None, ShapeError, f"h_hat of shape {SHAPE}; it must be {GOOD}"),
        (None, lambda v: v[0], ShapeError, f"err_var of shape {GOOD[1:]}; it must be {GOOD}"),
        (lambda h: h * float("nan"), None, InvalidValueError, "estimator returned h_hat, which holds 2016 NaN or infinite"),
        (None, lambda v: v / 0, InvalidValueError, "estimator returned err_var, which holds 2016 NaN or infinite"),
        (None, lambda v: v - 2, InvalidValueError, "estimator returned err_var=-1; a variance must be at least 0"),
        (
            None,
            lambda v: v + 0j,
            InvalidTypeError,
            "err_var of dtype torch.complex64; for y of torch.complex64 it must be torch.float32",
        ),
        (lambda h: h.real, None, InvalidTypeError, "h_hat of dtype torch.float32"),
        (lambda h: h.to(torch.complex128), None, InvalidTypeError, "h_hat of dtype torch.complex128"),
        (None, lambda v: 0.0, InvalidTypeError, "must return the two tensors (h_hat, err_var)"),
    ],
)
def test_wrong_answers(h_change: Any, v_change: Any, kind: type[WichanError], text: str) -> None:
    h_hat, err_var = torch.ones(GOOD, dtype=torch.complex64), torch.ones(GOOD)
    answer = (h_change(h_hat) if h_change else h_hat, v_change(err_var) if v_change else err_var)
    refused(answering(answer), kind, "estimator returned", text)


def test_a_bare_channel_and_other_forms() -> None:
    bare = torch.ones(GOOD, dtype=torch.complex64)
    refused(answering(bare), InvalidTypeError, "estimator returned Tensor; it must return the two tensors (h_hat, err_var)")
    refused(answering((bare,)), InvalidTypeError, "estimator returned a tuple of 1")
    refused(answering(None), InvalidTypeError, "estimator returned NoneType")
