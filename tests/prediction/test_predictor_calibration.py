"""`CalibratedPredictor`: the mean stays, the claimed error becomes the true one."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.prediction import CalibratedPredictor, Hold, Prediction, Predictor, WienerPredictor
from wichan.random import complex_normal
from wichan.simulate import stream
from wichan.testing import calibration_by_decile

CELLS = ("cm_A_ds_100_ms_010", "cm_C_ds_300_ms_001", "cm_D_ds_030_ms_030")
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@cache
def pairs(split: str, count: int, seed: int) -> Pairs:
    """Training cells at 0 to 25 dB on every fourth antenna and third subcarrier: batches of 20 samples."""
    g, batches = torch.Generator().manual_seed(seed), []
    for cell in CELLS:
        for batch in stream("csi-rrg", batch_size=20, num_batches=count // 20, split=split, cell=cell, seed=seed):
            past, future = (part[:, ::4, :, :, ::3].clone() for part in (batch.h_u_hist, batch.h_u_pred))
            no = 10 ** (-2.5 * torch.rand(20, 1, 1, 1, 1, generator=g))
            batches.append((past + no.sqrt() * complex_normal(past.shape, generator=g), future))
    return batches


def deciles(predictor: Predictor, batches: Pairs) -> torch.Tensor:
    with torch.no_grad():
        made = [predictor(history) for history, _ in batches]
    h_pred, err_var = (torch.cat([m[i][..., ::4] for m in made]) for i in (0, 1))
    return calibration_by_decile(h_pred, err_var, torch.cat([future[..., ::4] for _, future in batches]))


def likelihood(predictor: Predictor, batches: Pairs) -> float:
    """Mean log of the Gaussian density of the errors, but for a constant."""
    total = 0.0
    with torch.no_grad():
        for history, future in batches:
            made = predictor(history)
            total -= float((made.err_var.log() + (future - made.h_pred).abs().square() / made.err_var).mean())
    return total / len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hold", "wiener"])
def test_claimed_errors_are_true_in_every_decile(name: str) -> None:
    learn, fit, held = pairs("train", 60, 3), pairs("train", 200, 1), pairs("regular", 100, 2)
    inner = Hold() if name == "hold" else WienerPredictor(ridge=1e-2).fit(learn)
    calibrated = CalibratedPredictor(inner).fit(fit, steps=300)
    # A decile holds the errors of about 30 of 300 samples, with 8 antennas and 4 steps that err for a good part together:
    # as 4 of their own, their mean scatters by 1 / sqrt(120) = 9 %; two and a half of these for the worst of ten.
    assert float((deciles(calibrated, held) - 1).abs().max()) < 0.23
    assert likelihood(calibrated, held) > likelihood(inner, held)


class Boastful(Hold):
    """Claims a thousandth of its error on the first step and ten times on the last."""

    def forward(self, history, no=None, *, present=None):  # type: ignore[no-untyped-def]
        """See `Hold`."""
        made = super().forward(history, no, present=present)
        return Prediction(made.h_pred, made.err_var * torch.tensor([1e-3, 1.0, 1.0, 10.0])[:, None])


def drawn(generator: torch.Generator, count: int = 200) -> Pairs:
    """Paths that turn by up to half a radian a snapshot, small enough to fit in a blink."""
    gains = complex_normal((count, 4, 1, 1, 1, 6), 1 / 6, generator=generator)
    turn = torch.rand(count, 1, 1, 1, 1, 6, generator=generator) - 0.5
    phase = turn * torch.arange(20.0)[:, None, None] + 0.1 * torch.arange(6.0) * torch.arange(16.0)[:, None]
    h = (gains * torch.polar(torch.ones_like(phase), phase)).sum(-1)
    return [(h[..., :16, :] + complex_normal((count, 4, 1, 16, 16), 0.01, generator=generator), h[..., 16:, :])]


def test_steps_alone_repair_a_wrong_scale(generator: torch.Generator) -> None:
    batches = drawn(generator)
    calibrated = CalibratedPredictor(Boastful()).fit(batches, steps=0)
    history, future = batches[0]
    made = calibrated(history)
    ratio = ((made.h_pred - future).abs().square() / made.err_var).mean((0, 1, 2, 4))
    # On the data of the fit the mean is 1 by construction, but for sums in single precision.
    torch.testing.assert_close(ratio, torch.ones(4), rtol=1e-4, atol=0)


def test_the_fit_repairs_a_wrong_scale_on_other_samples(generator: torch.Generator) -> None:
    calibrated = CalibratedPredictor(Boastful()).fit(drawn(generator), steps=150)
    history, future = drawn(generator)[0]
    made = calibrated(history)
    ratio = ((made.h_pred - future).abs().square() / made.err_var).mean((0, 1, 2, 4))
    # 200 samples of 4 antennas with 6 paths each: 5 to 10 % of scatter on both sides.
    torch.testing.assert_close(ratio, torch.ones(4), rtol=0.3, atol=0)


def test_the_prediction_stays_bit_for_bit_and_a_fresh_one_changes_nothing(generator: torch.Generator) -> None:
    batches = drawn(generator)
    history = batches[0][0]
    want = Hold()(history)
    fresh = CalibratedPredictor(Hold())(history)
    assert torch.equal(fresh.h_pred, want.h_pred)
    assert torch.equal(fresh.err_var, want.err_var)
    fitted = CalibratedPredictor(Hold()).fit(batches, steps=20)(history)
    assert torch.equal(fitted.h_pred, want.h_pred)
    assert not torch.equal(fitted.err_var, want.err_var)


def test_shapes_of_the_claimed_error_over_subcarriers_are_kept(generator: torch.Generator) -> None:
    class Sloped(Hold):
        """Claims more at the end of the band."""

        def forward(self, history, no=None, *, present=None):  # type: ignore[no-untyped-def]
            """See `Hold`."""
            made = super().forward(history, no, present=present)
            return Prediction(made.h_pred, made.err_var * torch.linspace(1, 3, made.err_var.shape[-1]))

    batches = drawn(generator)
    err_var = CalibratedPredictor(Sloped()).fit(batches, steps=10)(batches[0][0]).err_var
    torch.testing.assert_close(err_var / err_var[..., :1], torch.linspace(1, 3, 16).expand_as(err_var))


def test_the_same_seed_gives_the_same_fit(generator: torch.Generator) -> None:
    batches, before = drawn(generator), torch.get_rng_state()
    first, second = (CalibratedPredictor(Hold(), seed=4).fit(batches, steps=10) for _ in range(2))
    assert torch.equal(first(batches[0][0]).err_var, second(batches[0][0]).err_var)
    assert torch.equal(before, torch.get_rng_state())


def test_gaps_are_passed_on_and_their_content_does_not_count(generator: torch.Generator) -> None:
    batches = drawn(generator)
    calibrated = CalibratedPredictor(Hold()).fit(batches, steps=10)
    assert calibrated.takes_gaps
    history = batches[0][0][:5]
    present = torch.ones(5, 16, dtype=torch.bool)
    present[:, 14:] = False
    other = history.clone()
    other[..., 14:, :] = 30.0
    first, second = calibrated(history, present=present), calibrated(other, present=present)
    assert torch.equal(first.h_pred, history[..., 13:14, :].expand_as(first.h_pred))
    torch.testing.assert_close(first.err_var, second.err_var)


def test_it_is_saved_with_the_predictor_inside(generator: torch.Generator) -> None:
    batches = drawn(generator)
    calibrated = CalibratedPredictor(WienerPredictor(ridge=1e-2).fit(batches)).fit(batches, steps=10)
    other = copy.deepcopy(calibrated)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(calibrated.state_dict())
    assert torch.equal(other(batches[0][0]).err_var, calibrated(batches[0][0]).err_var)


def test_bad_input_is_named(generator: torch.Generator) -> None:
    with pytest.raises(InvalidTypeError, match="predictor must be a Predictor, got str"):
        CalibratedPredictor("hold")
    with pytest.raises(InvalidValueError, match="batches is empty"):
        CalibratedPredictor(Hold()).fit([])
    history, future = drawn(generator)[0]
    with pytest.raises(ShapeError, match="the prediction has"):
        CalibratedPredictor(Hold()).fit([(history, future[..., :3, :])])
    with pytest.raises(InvalidValueError, match="steps=-1 must be at least 0"):
        CalibratedPredictor(Hold()).fit([(history, future)], steps=-1)


class _Certain(Hold):
    """Claims to be never wrong."""

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        made = super().forward(history, no, present=present)
        return Prediction(made.h_pred, torch.zeros_like(made.err_var))


def test_a_claim_of_no_error_does_not_spoil_the_fit(generator: torch.Generator) -> None:
    h = complex_normal((8, 2, 1, 20, 4), generator=generator)
    calibrated = CalibratedPredictor(_Certain()).fit([(h[..., :16, :], h[..., 16:, :])], steps=5)
    assert all(bool(value.isfinite().all()) for value in calibrated.state_dict().values())
    assert bool(calibrated(h[..., :16, :]).err_var.isfinite().all())
