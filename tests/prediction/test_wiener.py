"""The learned linear predictor, and the second moments that it is learned from."""

from __future__ import annotations

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.prediction.streaming import SecondMoments
from wichan.prediction.wiener import RIDGES, WienerPredictor
from wichan.random import complex_normal

SMALL = {"num_history": 3, "num_horizon": 2}


def data(samples: int, generator: torch.Generator, *, bins: int = 5, mean: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two antennas that follow two hidden waves: (samples, 2, 1, 3, bins) and (samples, 2, 1, 2, bins), complex128."""
    mixing = complex_normal((2, 2, 5), generator=torch.Generator().manual_seed(3), dtype=torch.complex128)
    hidden = complex_normal((samples, 2, bins), generator=generator, dtype=torch.complex128)
    h = torch.einsum("ahs,bhk->bask", mixing, hidden).unsqueeze(2) + mean
    h = h + complex_normal(h.shape, variance=0.01, generator=generator, dtype=torch.complex128)
    return h[..., :3, :], h[..., 3:, :]


def direct(x: torch.Tensor, y: torch.Tensor, ridge: float, *, center: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Map and offset from all equations at once; the last axis of both arguments holds equations."""
    mean_x, mean_y = (t.mean(-1, keepdim=True) if center else torch.zeros_like(t[:, :1]) for t in (x, y))
    x, y = x - mean_x, y - mean_y
    gram = x @ x.mH
    loaded = gram + ridge * gram.diagonal().real.mean() * torch.eye(len(gram))
    weight = y @ x.mH @ torch.linalg.inv(loaded)
    return weight, (mean_y - weight @ mean_x).squeeze(-1)


def rows(part: torch.Tensor) -> torch.Tensor:
    return part.flatten(1, 3).movedim(0, 1)  # (antennas * snapshots, samples, bins)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("per_bin", [False, True])
def test_streaming_equals_regression_on_all_data(generator: torch.Generator, per_bin: bool, center: bool) -> None:
    history, future = data(60, generator, mean=0.5)
    wiener = WienerPredictor(0.02, per_bin=per_bin, center=center, **SMALL)
    wiener.fit((history[i : i + 7], future[i : i + 7]) for i in range(0, 60, 7))
    groups = range(5) if per_bin else [slice(None)]
    for index, group in enumerate(groups):
        x, y = (rows(part)[..., group].flatten(1) for part in (history, future))
        weight, offset = direct(x, y, 0.02, center=center)
        # Weights are kept in single precision.
        assert torch.allclose(wiener.weight[index], weight.to(torch.complex64), atol=1e-5)
        assert torch.allclose(wiener.offset[index], offset.to(torch.complex64), atol=1e-5)
        residual = (y - weight @ x - offset[:, None]).abs().square().mean(1) / rows(history).abs().square().mean()
        assert torch.allclose(wiener.error[index], residual.float(), rtol=1e-4)
        if per_bin:
            want = weight @ rows(history)[..., group] + offset[:, None]
            assert torch.allclose(rows(wiener(history).h_pred)[..., group], want, atol=1e-5)


def test_batches_of_any_size_give_the_same_map(generator: torch.Generator) -> None:
    history, future = data(40, generator)
    one = WienerPredictor(**SMALL).fit([(history, future)])
    many = WienerPredictor(**SMALL).fit((history[i : i + n], future[i : i + n]) for i, n in ((0, 1), (1, 30), (31, 9)))
    assert one.chosen_ridge == many.chosen_ridge
    assert torch.allclose(one.weight, many.weight, atol=1e-6)
    single = WienerPredictor(**SMALL).fit([(history.to(torch.complex64), future.to(torch.complex64))])
    assert torch.allclose(one.weight, single.weight, atol=1e-3)  # products in single precision, a condition of about 1e2


def test_one_map_for_all_bins_needs_fewer_samples(generator: torch.Generator) -> None:
    history, future = data(8, generator, bins=40)
    fresh, truth = data(200, generator, bins=40)
    errors = [(WienerPredictor(1e-4, per_bin=p, **SMALL).fit([(history, future)])(fresh).h_pred - truth) for p in (False, True)]
    pooled, alone = (float(e.abs().square().mean()) for e in errors)
    # 8 equations for 6 unknowns leave an error of 1 + 6 / (8 - 6) = 4 times the noise; 320 equations 1.02 times.
    assert pooled < 0.5 * alone


def test_ridge_is_chosen_by_what_was_held_out(generator: torch.Generator) -> None:
    few = WienerPredictor(per_bin=True, **SMALL).fit([data(12, generator, bins=2)])
    many = WienerPredictor(per_bin=True, **SMALL).fit([data(3000, generator, bins=2)])
    assert {few.chosen_ridge, many.chosen_ridge} <= set(RIDGES)
    assert many.chosen_ridge < few.chosen_ridge


def test_err_var_is_the_error_on_fresh_data(generator: torch.Generator) -> None:
    wiener = WienerPredictor(**SMALL).fit([data(2000, generator)])
    history, future = data(2000, generator)
    h_pred, err_var = wiener(history)
    ratio = (h_pred - future).abs().square().mean((0, 4)) / err_var.mean((0, 4))
    # 10,000 errors an entry (1 %), against 2,000 that were held out (2.2 %).
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.08)
    assert torch.allclose(wiener(2 * history).err_var, 4 * err_var, rtol=1e-5)


def test_the_other_band_is_predicted_too(generator: torch.Generator) -> None:
    history, future = data(300, generator)
    turned = future * torch.exp(torch.tensor(0.7j))  # a fixed distance in frequency turns each path's phase
    wiener = WienerPredictor(duplex="fdd", **SMALL).fit([(history, turned)])
    assert (wiener(history).h_pred - turned).abs().square().mean() < 0.1 * turned.abs().square().mean()


def test_saved_and_loaded(generator: torch.Generator) -> None:
    history, future = data(30, generator)
    wiener = WienerPredictor(per_bin=True, **SMALL).fit([(history, future)])
    again = WienerPredictor.from_config(wiener.config())
    again.load_state_dict(wiener.state_dict())
    for before, after in zip(wiener(history), again(history), strict=True):
        assert torch.equal(before, after)
    assert again.double()(history).h_pred.dtype == torch.complex128
    assert wiener(history.to(torch.complex64)).h_pred.dtype == torch.complex64
    published = WienerPredictor.preset("published")
    assert (published.per_bin, published.center, published.ridge) == (True, True, 1e-4)


def test_moments_add_up_and_give_errors(generator: torch.Generator) -> None:
    history, future = data(20, generator)
    x, y = history.flatten(1, 3), future.flatten(1, 3)
    whole, first, second = (SecondMoments(6, 4, 5) for _ in range(3))
    whole.add(x, y)
    first.add(x[:11], y[:11])
    second.add(x[11:], y[11:])
    assert torch.allclose((first + second).gram, whole.gram)
    weight = complex_normal((5, 4, 6), generator=generator, dtype=torch.complex128)
    want = (y.movedim(-1, 0) - x.movedim(-1, 0) @ weight.mT).abs().square().mean(1)
    assert torch.allclose(whole.error(weight), want)


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    history, future = data(10, generator)
    wiener = WienerPredictor(**SMALL)
    with pytest.raises(InvalidValueError, match="WienerPredictor has no weights yet"):
        wiener(history)
    with pytest.raises(InvalidTypeError, match="batches must be an iterable"):
        wiener.fit(history)
    with pytest.raises(InvalidTypeError, match=r"batches\[0\] must be a pair"):
        wiener.fit([history])
    with pytest.raises(InvalidValueError, match="batches is empty"):
        wiener.fit([])
    with pytest.raises(ShapeError, match=r"batches\[0\]: future has shape"):
        wiener.fit([(history, future[..., :1, :])])
    with pytest.raises(ShapeError, match=r"batches\[1\] has \(2, 4\) antennas and subcarriers"):
        wiener.fit([(history, future), (history[..., :4], future[..., :4])])
    with pytest.raises(InvalidValueError, match="future holds"):
        wiener.fit([(history, future * torch.nan)])
    with pytest.raises(InvalidValueError, match="batches hold 4 samples; at least 5"):
        wiener.fit([(history[:4], future[:4])])
    wiener.fit([(history, future)])
    with pytest.raises(ShapeError, match="history has 1 x 1 antennas"):
        wiener(history[:, :1])
    with pytest.raises(ShapeError, match="history has 2 snapshots"):
        wiener(history[..., :2, :])
    with pytest.raises(InvalidValueError, match="NaN"):
        wiener(history * torch.nan)
    with pytest.raises(InvalidValueError, match="without power"):
        wiener(history * 0)
    with pytest.raises(ShapeError, match="history has 4 subcarriers"):
        WienerPredictor(1e-3, per_bin=True, **SMALL).fit([(history, future)])(history[..., :4])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="ridge=-1 must be at least 0"):
        WienerPredictor(-1)
    with pytest.raises(UnknownNameError, match="duplex='both'"):
        WienerPredictor(duplex="both")
    with pytest.raises(InvalidValueError, match="config of WienerPredictor does not fit"):
        WienerPredictor.from_config({"order": 3})


def test_fewer_equations_than_unknowns_per_bin(generator: torch.Generator) -> None:
    # Single-precision sums of 3 samples for 64 unknowns: eigenvalues that are zero come out on either side of it.
    h = torch.randn(3, 4, 1, 20, 200, dtype=torch.complex64, generator=generator) * 1e3
    found = WienerPredictor(1e-12, per_bin=True).fit([(h[..., :16, :], h[..., 16:, :])])(h[..., :16, :]).h_pred
    # What was fitted to 3 samples with 64 weights is matched but for the ridge.
    assert float((found - h[..., 16:, :]).abs().square().sum() / h[..., 16:, :].abs().square().sum()) < 1e-3
