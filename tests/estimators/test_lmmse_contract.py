"""LMMSE as a module: batches, noise, dtype, saving, gradients, compilation, and what it refuses."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch

from wichan.channels import CDL, TDL, ULA, ChannelModel
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import ESTIMATORS
from wichan.estimators.lmmse import LMMSE, lmmse_kronecker, lmmse_separable
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.testing import check_estimator

GRID = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
OBS = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3)
OBS2 = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=2, num_tx_ant=2)
RX2 = torch.tensor([[1, 0.7], [0.7, 1]], dtype=torch.complex128)
TDL_A = TDL("A", delay_spread=300e-9, max_doppler=500.0)
TDL_D = TDL("D", delay_spread=300e-9, max_doppler=500.0)
TDL_RX = TDL("A", delay_spread=300e-9, max_doppler=500.0, num_rx_ant=2, rx_correlation=RX2)
TDL_MIMO = TDL("A", delay_spread=300e-9, max_doppler=500.0, num_rx_ant=2, num_tx_ant=2)
CDL_A = CDL("A", delay_spread=300e-9, carrier_frequency=3.5e9, speed=30.0, rx_array=ULA(2))
KINDS: dict[str, tuple[OFDMPilots, ChannelModel, str]] = {
    "one product": (OBS, TDL_A, "joint"),
    "antennas": (OBS, TDL_RX, "joint"),
    "line of sight": (OBS, TDL_D, "joint"),
    "two transmit antennas": (OBS2, TDL_MIMO, "joint"),
    "clusters": (OBS, CDL_A, "joint"),
    "clusters, kronecker": (OBS, CDL_A, "kronecker"),
    "clusters, separable": (OBS, CDL_A, "separable"),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> tuple[LMMSE, OFDMPilots, ChannelModel]:
    obs, model, structure = request.param
    return LMMSE(obs, model.covariance(GRID), structure), obs, model


def observed(obs: OFDMPilots, model: ChannelModel, *batch: int, no: float = 0.05) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    h = model.frequency_response(GRID, math.prod(batch), generator=generator)
    return obs.observe(h, no, generator=generator).reshape(*batch, model.num_rx_ant, *GRID.shape)


def test_keeps_the_contract(kind: tuple[LMMSE, OFDMPilots, ChannelModel], generator: torch.Generator) -> None:
    lmmse, obs, model = kind

    def channel(count: int, stream: torch.Generator) -> torch.Tensor:
        return model.frequency_response(GRID, count, generator=stream)

    # Calibration is tested with Gaussian channels elsewhere: approximations need not be calibrated entry by entry.
    report = check_estimator(
        lmmse, obs, generator=generator, num_rx_ant=model.num_rx_ant, channel=channel, calibrated=False, compiled=True
    )
    assert set(report.skipped) == {"calibration"}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_two_batch_axes_and_noise_for_each_frame(
    kind: tuple[LMMSE, OFDMPilots, ChannelModel], dtype: torch.dtype, generator: torch.Generator
) -> None:
    lmmse, obs, model = kind
    y = observed(obs, model, 3, 2).to(dtype)
    no = torch.rand(3, 2, generator=generator) + 0.01
    found = lmmse(y, no)
    leading = lmmse(y, no[:, 0])  # one value for each entry of the first axis
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(found.h_hat[i, j], lmmse(y[i, j], float(no[i, j])).h_hat, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.err_var[i, j], lmmse(y[i, j], float(no[i, j])).err_var, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(leading.h_hat[i, j], lmmse(y[i, j], float(no[i, 0])).h_hat, rtol=1e-4, atol=1e-5)


def test_equal_noise_gives_a_view_and_many_frames_few_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID))
    y = observed(OBS, TDL_A, 8)
    assert lmmse(y, 0.1).err_var.stride(0) == 0
    asked: list[int] = []
    original = lmmse.filter.error  # type: ignore[union-attr]
    monkeypatch.setattr(lmmse.filter, "error", lambda no, *rest: (asked.append(len(no)), original(no, *rest))[1])
    lmmse(y, torch.tensor([0.1, 0.2] * 4))
    lmmse(y, torch.full((8,), 0.3))
    lmmse(y, 0.4)
    lmmse(y, 0.4)  # the same again: nothing is computed
    assert asked == [2, 1, 1]


def test_result_may_be_written_into() -> None:
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID))
    y = observed(OBS, TDL_A, 1)
    first = lmmse(y, 0.1)
    kept = first.err_var.clone()
    first.err_var.mul_(0)
    torch.testing.assert_close(lmmse(y, 0.1).err_var, kept)


def test_no_frames(kind: tuple[LMMSE, OFDMPilots, ChannelModel]) -> None:
    lmmse, obs, model = kind
    y = torch.zeros(0, model.num_rx_ant, *GRID.shape, dtype=torch.complex64)
    for no in (0.1, torch.zeros(0)):
        assert all(part.shape == (0, model.num_rx_ant, obs.num_tx_ant, *GRID.shape) for part in lmmse(y, no))


def test_noise_may_be_a_tensor_without_axes_or_an_integer() -> None:
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID))
    y = observed(OBS, TDL_A, 2)
    want = lmmse(y, 1.0)
    for no in (1, torch.tensor(1.0), torch.tensor([1.0])):
        torch.testing.assert_close(lmmse(y, no).h_hat, want.h_hat)
        torch.testing.assert_close(lmmse(y, no).err_var, want.err_var)


def test_strided_and_conjugated_input() -> None:
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID))
    y = observed(OBS, TDL_A, 4)
    want = lmmse(y, 0.1).h_hat
    wide = torch.stack([y, y], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(lmmse(wide, 0.1).h_hat, want)
    torch.testing.assert_close(lmmse(y.conj().resolve_conj().conj(), 0.1).h_hat, want)


def test_state_moves_to_an_estimator_of_another_rank(kind: tuple[LMMSE, OFDMPilots, ChannelModel]) -> None:
    """A state made for one covariance loads into an estimator made for another one, of other rank."""
    lmmse, obs, model = kind
    other: dict[str, Any] = {"delay_spread": 30e-9, "max_doppler": 5.0} if isinstance(model, TDL) else {"delay_spread": 30e-9}
    second = LMMSE(obs, model.covariance(GRID, **other), lmmse.structure)
    file = io.BytesIO()
    torch.save(lmmse.state_dict(), file)
    file.seek(0)
    y = observed(obs, model, 3)
    assert not torch.allclose(second(y, 0.1).h_hat, lmmse(y, 0.1).h_hat, atol=1e-3)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(second(y, 0.1).h_hat, lmmse(y, 0.1).h_hat)
    torch.testing.assert_close(second(y, 0.1).err_var, lmmse(y, 0.1).err_var)


def test_state_of_another_grid_is_refused() -> None:
    grid = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=30, subcarrier_spacing=30e3)
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID))
    other = LMMSE(OFDMPilots(grid, (1, 4), 3), TDL_A.covariance(grid))
    with pytest.raises(RuntimeError, match="size mismatch"):
        lmmse.load_state_dict(other.state_dict())


def test_batch_of_conditions_is_saved_and_moved(generator: torch.Generator) -> None:
    spread = torch.tensor([30e-9, 300e-9])
    for model in (TDL_A, TDL_D):
        lmmse = LMMSE(OBS, model.covariance(GRID, delay_spread=spread))
        other = LMMSE(OBS, model.covariance(GRID, delay_spread=spread.flip(0)))
        y = complex_normal((2, 1, *GRID.shape), generator=generator)
        assert not torch.allclose(other(y, 0.1).h_hat, lmmse(y, 0.1).h_hat, atol=1e-3)
        other.load_state_dict(lmmse.to("cpu").state_dict())
        torch.testing.assert_close(other(y, 0.1).h_hat, lmmse(y, 0.1).h_hat)


def test_conversion_of_the_module_and_copies(kind: tuple[LMMSE, OFDMPilots, ChannelModel]) -> None:
    lmmse, obs, model = kind
    y = observed(obs, model, 2)
    want = lmmse(y, 0.1)
    for other in (copy.deepcopy(lmmse), copy.deepcopy(lmmse).double(), copy.deepcopy(lmmse).to(torch.float32)):
        found = other(y, 0.1)
        assert found.h_hat.dtype == torch.complex64
        torch.testing.assert_close(found.h_hat, want.h_hat, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.err_var, want.err_var, rtol=1e-3, atol=1e-5)


def test_gradients_reach_the_observation_and_the_noise(generator: torch.Generator) -> None:
    y = complex_normal((2, 1, *GRID.shape), generator=generator, dtype=torch.complex128).requires_grad_()
    no = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    for model in (TDL_A, TDL_D):
        lmmse = LMMSE(OBS, model.covariance(GRID))

        def loss(y: torch.Tensor, no: torch.Tensor, lmmse: LMMSE = lmmse) -> torch.Tensor:
            h_hat, err_var = lmmse(y, no)
            return h_hat.abs().square().mean() + err_var.sqrt().mean()

        loss(y, no).backward()
        assert float(y.grad.abs().max()) > 0  # type: ignore[union-attr]
        step = torch.tensor([1e-6, 0.0], dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(y, no + step) - loss(y, no - step)) / 2e-6
        # Central difference: error of order step^2 and of rounding over step.
        assert float(no.grad[0]) == pytest.approx(float(slope), rel=1e-6)  # type: ignore[index]
        scalar = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        loss(y, scalar).backward()
        assert float(scalar.grad.abs()) > 0  # type: ignore[union-attr]
        y.grad = no.grad = None


def test_first_call_in_inference_mode_does_not_spoil_training(kind: tuple[LMMSE, OFDMPilots, ChannelModel]) -> None:
    lmmse, obs, model = kind
    y = observed(obs, model, 2)
    with torch.inference_mode():
        lmmse(y, 0.1)
    leaf = y.clone().requires_grad_()
    lmmse(leaf, 0.1).h_hat.abs().sum().backward()
    assert bool(torch.isfinite(torch.view_as_real(leaf.grad)).all())  # type: ignore[arg-type]


@pytest.mark.parametrize("no", [0.1, torch.tensor([0.1, 0.2])], ids=["one", "each"])
def test_compiled_equals_eager_in_one_graph(kind: tuple[LMMSE, OFDMPilots, ChannelModel], no: Any) -> None:
    lmmse, obs, model = kind
    y = observed(obs, model, 2)
    torch.compiler.reset()
    found = torch.compile(lmmse, backend="eager", fullgraph=True)(y, no)
    want = lmmse(y, no)
    torch.testing.assert_close(found.h_hat, want.h_hat)
    torch.testing.assert_close(found.err_var, want.err_var)


def test_registry() -> None:
    assert ESTIMATORS["lmmse"] is LMMSE
    covariance = TDL_D.covariance(GRID)
    assert ESTIMATORS["lmmse-kronecker"] is lmmse_kronecker
    assert lmmse_kronecker(OBS, covariance).structure == "kronecker"
    assert lmmse_separable(OBS, covariance, no_floor=1e-9).structure == "separable"
    assert "structure='joint'" in repr(LMMSE(OBS, covariance))


def sampled(normalization: str | None) -> ChannelCovariance:
    h = complex_normal((9, 1, 1, *GRID.shape), generator=torch.Generator().manual_seed(1))
    return ChannelCovariance.from_samples(h, normalization=normalization)


def test_sample_normalized_channels_need_consent() -> None:
    with pytest.raises(InvalidValueError, match="allow_sample_normalized=True"):
        LMMSE(OBS, sampled("sample"))
    LMMSE(OBS, sampled("sample"), allow_sample_normalized=True)
    LMMSE(OBS, sampled("ensemble"))


WIDER = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=25, subcarrier_spacing=30e3)
ZERO = ChannelCovariance.from_matrix(torch.zeros(144, 144), (1, 1, *GRID.shape))
BAD_BUILD: list[tuple[Any, type[Exception], str]] = [
    (lambda: LMMSE(GRID, TDL_A.covariance(GRID)), InvalidTypeError, "obs"),
    (lambda: LMMSE(OBS, TDL_A.covariance(GRID).matrix()), InvalidTypeError, "covariance"),
    (lambda: LMMSE(OBS, TDL_A.covariance(WIDER)), ShapeError, "covariance"),
    (lambda: LMMSE(OBS, TDL_MIMO.covariance(GRID)), ShapeError, "covariance"),
    (lambda: LMMSE(OBS, TDL_A.covariance(GRID), "kroneker"), UnknownNameError, "kronecker"),
    (lambda: LMMSE(OBS, TDL_A.covariance(GRID), no_floor=0.0), InvalidValueError, "no_floor"),
    (lambda: LMMSE(OBS, TDL_A.covariance(GRID), rtol=2.0), InvalidValueError, "rtol"),
    (lambda: LMMSE(OBS, ZERO), InvalidValueError, "power"),
    (lambda: LMMSE(OBS2, TDL_MIMO.covariance(GRID), "separable"), InvalidValueError, "separable"),
]


@pytest.mark.parametrize(("call", "error", "word"), BAD_BUILD)
def test_refuses_what_does_not_fit(call: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


Y = torch.zeros(2, 1, *GRID.shape, dtype=torch.complex64)
BAD_CALL: list[tuple[torch.Tensor, Any, type[Exception], str]] = [
    (Y.expand(2, 2, -1, -1), 0.1, ShapeError, "y"),
    (Y[..., :-1], 0.1, ShapeError, "y"),
    (Y[0, 0], 0.1, ShapeError, "y"),
    (Y.real, 0.1, InvalidTypeError, "y"),
    (Y + math.nan, 0.1, InvalidValueError, "y"),
    (Y, -0.1, InvalidValueError, "no"),
    (Y, math.nan, InvalidValueError, "no"),
    (Y, math.inf, InvalidValueError, "no"),
    (Y, True, InvalidTypeError, "no"),
    (Y, None, InvalidTypeError, "no"),
    (Y, torch.tensor([0.1, math.nan]), InvalidValueError, "no"),
    (Y, torch.tensor([0.1, -1.0]), InvalidValueError, "no"),
    (Y, torch.ones(3), ShapeError, "no"),
    (Y, torch.ones(2, 1), ShapeError, "no"),
    (Y.to("meta"), 0.1, InvalidValueError, "device"),
]


@pytest.mark.parametrize(("y", "no", "error", "word"), BAD_CALL)
def test_refuses_bad_calls(y: torch.Tensor, no: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word) as caught:
        LMMSE(OBS, TDL_A.covariance(GRID))(y, no)
    assert "\n" not in str(caught.value)


def test_refuses_another_number_of_conditions() -> None:
    lmmse = LMMSE(OBS, TDL_A.covariance(GRID, delay_spread=torch.tensor([1e-7, 2e-7, 3e-7])))
    for y in (Y, Y[0]):
        with pytest.raises(ShapeError, match="3 conditions"):
            lmmse(y, 0.1)
    with pytest.raises(ShapeError, match="one condition"):
        lmmse.expected_error(0.1)
