"""Vector autoregression: fits of every order from one set of second moments."""

from __future__ import annotations

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.prediction.ar import VectorAR
from wichan.random import complex_normal

SMALL = {"num_history": 6, "num_horizon": 3}


def matrices() -> torch.Tensor:
    """A stable process of order 2 on two antennas, complex128 (2, 2, 2)."""
    turn = torch.polar(torch.tensor([[0.9], [0.85]], dtype=torch.float64), torch.tensor([[0.5], [-1.1]], dtype=torch.float64))
    mixing = torch.tensor([[1, 0.4], [-0.3j, 1]], dtype=torch.complex128)

    def mixed(values: torch.Tensor) -> torch.Tensor:
        return mixing @ torch.diag(values.squeeze(-1)) @ torch.linalg.inv(mixing)

    other = turn.conj() * 0.6
    return torch.stack([mixed(turn + other), -mixed(turn * other)])


def data(samples: int, generator: torch.Generator, bins: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """The process after it has settled: (samples, 2, 1, 6, bins) and (samples, 2, 1, 3, bins)."""
    first, second = matrices()
    y = [torch.zeros(samples, bins, 2, dtype=torch.complex128)] * 2
    for _ in range(60):
        drive = complex_normal((samples, bins, 2), generator=generator, dtype=torch.complex128)
        y.append(y[-1] @ first.mT + y[-2] @ second.mT + drive)
    h = torch.stack(y[-9:], dim=1).permute(0, 3, 1, 2).unsqueeze(2)
    return h[..., :6, :], h[..., 6:, :]


def windows(series: torch.Tensor, order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Regressors (order * A, equations), lag 1 first, and targets (A, equations) of all windows of (B, A, T, K)."""
    past, targets = [], []
    for t in range(order, series.shape[2]):
        lags = torch.cat([series[:, :, t - lag] for lag in range(1, order + 1)], dim=1)
        past.append(lags.movedim(1, 0).flatten(1))
        targets.append(series[:, :, t].movedim(1, 0).flatten(1))
    return torch.cat(past, dim=1), torch.cat(targets, dim=1)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_every_order_equals_a_fit_on_its_windows(generator: torch.Generator, order: int) -> None:
    history, future = data(30, generator)
    ar = VectorAR(order, 0.01, **SMALL).fit((history[i : i + 8], future[i : i + 8]) for i in range(0, 30, 8))
    x, y = windows(torch.cat([history, future[..., :1, :]], dim=-2).squeeze(2), order)
    gram = x @ x.mH
    weight = y @ x.mH @ torch.linalg.inv(gram + 0.01 * gram.diagonal().real.mean() * torch.eye(len(gram)))
    series = list(history.squeeze(2).unbind(2))
    for _ in range(3):
        lags = torch.cat([series[-lag] for lag in range(1, order + 1)], dim=1)
        series.append(torch.einsum("oi,bik->bok", weight, lags))
    # The composed map is kept in single precision.
    assert torch.allclose(ar(history).h_pred.squeeze(2), torch.stack(series[6:], dim=2), atol=1e-4)


def test_the_process_is_found(generator: torch.Generator) -> None:
    ar = VectorAR(2, ridge=0.0, **SMALL).fit([data(600, generator)])
    first, second = matrices()
    step = ar.weight[0].to(torch.complex128).reshape(2, 3, 2, 6)[:, 0]  # of the first step: (A, A, T)
    # 12,000 equations: coefficients to about one per cent of the drive.
    assert torch.allclose(step[..., 5], first, atol=0.05)
    assert torch.allclose(step[..., 4], second, atol=0.05)
    assert step[..., :4].abs().max() == 0


def test_the_order_with_the_least_error_on_other_data_is_chosen(generator: torch.Generator) -> None:
    fit, other = data(15, generator, bins=1), data(600, generator)
    chosen = VectorAR(ridge=0.0, **SMALL).fit([fit], validation=[other])
    errors = []
    for order in range(1, 7):
        ar = VectorAR(order, ridge=0.0, **SMALL).fit([fit])
        errors.append(float((ar(other[0]).h_pred - other[1]).abs().square().mean()))
    # Order 1 cannot describe the process; 12 coefficients a row from 15 equations (order 6) describe their noise.
    assert errors[0] > 1.1 * min(errors)
    assert errors[5] > 1.1 * min(errors)
    assert chosen.chosen_order == 1 + errors.index(min(errors))


def test_err_var_is_the_error_of_every_step(generator: torch.Generator) -> None:
    ar = VectorAR(**SMALL).fit([data(4000, generator)])
    history, future = data(4000, generator)
    h_pred, err_var = ar(history)
    ratio = (h_pred - future).abs().square().mean((0, 2, 4)) / err_var.mean((0, 2, 4))
    # 16,000 errors an entry (0.8 %), against 3,200 that were held out (1.8 %): four deviations.
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.08)
    assert (err_var[0, 0, 0, 1:, 0] > err_var[0, 0, 0, :-1, 0]).all()


def test_per_bin_centred_and_saved(generator: torch.Generator) -> None:
    history, future = data(200, generator)
    shift = torch.arange(1, 5)
    ar = VectorAR.preset("published", order=2, **SMALL).fit([(history + shift, future + shift)])
    # Means of 200 correlated samples are off by up to a fifth of the process; the prediction follows the shift.
    error = (ar(history + shift).h_pred - future - shift).abs().square().mean()
    plain = (VectorAR(2, per_bin=True, **SMALL).fit([(history, future)])(history).h_pred - future).abs().square().mean()
    assert error < 1.1 * plain
    again = VectorAR.from_config(ar.config())
    again.load_state_dict(ar.state_dict())
    assert torch.equal(again(history).h_pred, ar(history).h_pred)
    assert ar(history.to(torch.complex64)).h_pred.dtype == torch.complex64


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(InvalidValueError, match="duplex='fdd' is not possible for VectorAR"):
        VectorAR(duplex="fdd")
    with pytest.raises(InvalidValueError, match="order=17 must be at most 16"):
        VectorAR(17)
    history, future = data(10, generator)
    ar = VectorAR(**SMALL)
    with pytest.raises(InvalidValueError, match="VectorAR has no weights yet"):
        ar(history)
    with pytest.raises(InvalidTypeError, match="batches must be an iterable"):
        ar.fit(3)
    with pytest.raises(InvalidValueError, match="batches hold 3 samples; at least 5"):
        ar.fit([(history[:3], future[:3])])
    with pytest.raises(InvalidValueError, match="validation has another number of antennas or subcarriers"):
        ar.fit([(history, future)], validation=[(history[:, :1], future[:, :1])])
    ar.fit([(history, future)])
    with pytest.raises(ShapeError, match="history has 1 x 1 antennas"):
        ar(history[:, :1])
    with pytest.raises(ShapeError, match="history has 5 snapshots"):
        ar(history[..., :5, :])
    with pytest.raises(InvalidValueError, match="NaN"):
        ar(history * torch.nan)
    with pytest.raises(InvalidValueError, match="without power"):
        ar(history * 0)
