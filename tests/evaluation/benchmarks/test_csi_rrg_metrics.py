"""Scores of a prediction: limit cases, invariance, two definitions of NMSE, ranks and their resamples."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import ShapeError
from wichan.evaluation.benchmarks.metrics import step_scores, target_sums
from wichan.evaluation.benchmarks.ranking import ranks, resample, setting_scores, standing
from wichan.evaluation.benchmarks.scoring import JobScores
from wichan.random import complex_normal

SHAPE = (3, 4, 1, 2, 10)  # samples, receive and transmit antennas, steps, bins


@pytest.fixture
def h(generator: torch.Generator) -> torch.Tensor:
    return complex_normal(SHAPE, generator=generator)


def test_perfect_prediction(h: torch.Tensor) -> None:
    ratio, error, se, claimed = step_scores(h, h).unbind(-1)
    assert torch.equal(ratio, torch.zeros(3, 2))
    assert torch.equal(error, torch.zeros(3, 2))
    assert torch.allclose(se, target_sums(h).se, rtol=1e-6)  # two orders of summation in single precision
    assert bool(claimed.isnan().all())


def test_zero_prediction(h: torch.Tensor) -> None:
    ratio, error, se, _ = step_scores(torch.zeros_like(h), h).unbind(-1)
    assert torch.allclose(ratio, torch.ones(3, 2), rtol=1e-6)
    assert torch.allclose(error, target_sums(h).energy, rtol=1e-6)
    assert torch.equal(se, torch.zeros(3, 2))


def test_spectral_efficiency_ignores_a_factor_common_to_all_antennas(h: torch.Tensor, generator: torch.Generator) -> None:
    guess = h + complex_normal(SHAPE, generator=generator)
    factor = complex_normal((3, 1, 1, 2, 10), generator=generator) * 3
    plain, turned = (step_scores(value, h)[..., 2] for value in (guess, guess * factor))
    assert torch.allclose(plain, turned, rtol=1e-5)  # single precision
    assert bool((plain < target_sums(h).se).all())  # Cauchy and Schwarz


@pytest.mark.parametrize("factor", [1e-25, 1e-15, 1e15, 1e25])
def test_spectral_efficiency_holds_beyond_the_range_of_squares(h: torch.Tensor, factor: float) -> None:
    h_pred = h.roll(1, 1) + h  # some channel; its gain is of order 1 to 10
    want, found = (step_scores(p, h)[..., 2] for p in (h_pred, h_pred * factor))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=0)  # rounding of sums of 4 in single precision


def test_spectral_efficiency_of_one_known_channel() -> None:
    h = torch.ones(1, 4, 1, 1, 5, dtype=torch.complex64)
    half = h.clone()
    half[:, 2:] = 0  # beamforming with half of the antennas: |2|^2 / 2 of 4
    assert float(target_sums(h, snr_db=0.0).se) == pytest.approx(math.log2(5), rel=1e-6)
    assert float(step_scores(half, h, snr_db=0.0)[..., 2]) == pytest.approx(math.log2(3), rel=1e-6)
    assert float(target_sums(h).se) == pytest.approx(math.log2(41), rel=1e-6)  # 10 dB is the default


def test_both_definitions_of_nmse_agree_for_equal_antenna_powers_only(h: torch.Tensor, generator: torch.Generator) -> None:
    equal = h / h.abs().square().sum(-1, keepdim=True).sqrt()
    noise = complex_normal(SHAPE, 0.1, generator=generator)
    for target, same in ((equal, True), (h * torch.tensor([1.0, 3.0, 1.0, 0.1])[:, None, None, None], False)):
        scores = step_scores(target + noise, target)
        pooled = scores[..., 1] / target_sums(target).energy
        assert torch.allclose(scores[..., 0], pooled, rtol=1e-5) == same


def test_claimed_error_is_summed(h: torch.Tensor) -> None:
    claimed = step_scores(h, h, torch.full((), 0.5).expand(h.shape))[..., 3]
    assert torch.allclose(claimed, torch.full((3, 2), 0.5 * 4 * 10))


def test_silent_antenna_counts_nothing_where_nothing_was_predicted(h: torch.Tensor) -> None:
    h[:, 0] = 0
    assert torch.allclose(step_scores(h * 0.5, h)[..., 0], torch.full((3, 2), 0.25 * 3 / 4), rtol=1e-6)


def test_shapes_must_agree(h: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="h_pred has shape"):
        step_scores(h[:, :2], h)


def scores_of(ratio: torch.Tensor) -> JobScores:
    """A job whose ratio is given, (settings, predictors, samples); one step, energy 1."""
    settings, predictors, samples = ratio.shape
    values = torch.stack([ratio, ratio, 8 - ratio, torch.full_like(ratio, 2.0)], dim=-1)[:, :, :, None]
    ones = torch.ones(samples, 1)
    return JobScores(values.float(), ones, 8 * ones, torch.zeros(predictors, dtype=torch.float64))


def test_setting_scores_and_calibration() -> None:
    ratio = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])
    scores = setting_scores([scores_of(ratio)], num_ant=4)
    assert scores.nmse.flatten().tolist() == [2.0, 2.0]
    assert scores.nmse_pooled.flatten().tolist() == [2.0, 2.0]
    assert scores.mse.flatten().tolist() == [0.5, 0.5]
    assert scores.se.flatten().tolist() == [6.0, 6.0]
    assert scores.calibration.flatten().tolist() == [1.0, 1.0]


def test_ranks_share_the_better_place() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.1 * (1 + 1e-9), 0.2]], dtype=torch.float64)
    assert ranks(scores, rising=False).tolist() == [[4, 1, 1, 3]]
    assert ranks(scores, rising=True).tolist() == [[1, 3, 3, 2]]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_ranks_last(bad: float) -> None:
    assert ranks(torch.tensor([0.5, bad, 0.1]), rising=False).tolist() == [2, 3, 1]
    assert ranks(torch.tensor([7.0, math.nan, 8.0]), rising=True).tolist() == [2, 3, 1]
    copies = torch.tensor([0.5, math.nan, 0.1]).expand(100, 4, 3)
    place = standing(torch.tensor([0.5, bad, 0.1]).expand(4, 3), copies, rising=False)
    assert place.first.value.tolist() == [0, 0, 1]
    assert place.rank.high.tolist() == [2, 3, 1]  # one predictor does not hide the intervals of the others


def test_intervals_are_paired(generator: torch.Generator) -> None:
    # Two predictors with one large common part: their means are uncertain, who is better is not.
    common = torch.rand(5, 1, 40, generator=generator) * 10
    jobs = [scores_of(torch.cat([common, common + 0.01], dim=1))]
    copies = resample(jobs, generator=generator)["nmse"]
    places = standing(setting_scores(jobs, 1).nmse.mean(-1), copies, rising=False)
    assert places.first.value.tolist() == [1.0, 0.0]
    assert places.first.low.tolist() == [1.0, 0.0]
    assert places.rank.high.tolist() == [1.0, 2.0]
    spread = copies.mean(1).std(0)
    assert bool((spread > 0.05).all())  # 10 / sqrt(12 * 40 * 5) = 0.2 is expected


def test_resamples_have_the_right_spread(generator: torch.Generator) -> None:
    jobs = [scores_of(torch.randn(1, 1, 400, generator=generator).abs() + 1)]
    copies = resample(jobs, generator=generator)["nmse"].flatten()
    expected = float(jobs[0].values[..., 0].std()) / 20
    assert float(copies.std()) == pytest.approx(expected, rel=0.1)  # 1,000 copies: 2.2 % standard deviation


def test_one_sample_has_no_interval(generator: torch.Generator) -> None:
    jobs = [scores_of(torch.tensor([[[1.0], [2.0]]]))]
    copies = resample(jobs, generator=generator)["nmse"]
    assert bool(copies.isnan().all())
    places = standing(setting_scores(jobs, 1).nmse.mean(-1), copies, rising=False)
    assert places.first.value.tolist() == [1.0, 0.0]
    assert bool(places.first.low.isnan().all())
