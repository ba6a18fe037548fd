"""Bootstrap statistics against closed forms and brute force."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.evaluation.statistics import compare, nmse_interval, percentile_interval, resampled_sums, to_db


def _draw(num_estimators: int, num_channels: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors that share the fading of the channel, and the energies; both positive."""
    energy = -torch.rand(num_channels, generator=generator, dtype=torch.float64).clamp_min(1e-9).log()
    common = -torch.rand(num_channels, generator=generator, dtype=torch.float64).clamp_min(1e-9).log()
    own = 1 + 0.05 * torch.rand(num_estimators, num_channels, generator=generator, dtype=torch.float64)
    level = torch.arange(1, num_estimators + 1, dtype=torch.float64)[:, None]
    return 0.1 * level * common * own, energy


def test_resampled_sums_have_multinomial_moments(generator: torch.Generator) -> None:
    values, _ = _draw(2, 50, generator)
    sums = resampled_sums(values, 20_000, generator=generator)
    # E s = sum v; Var s = C var(v). 20000 resamples: standard error of the mean sd/141, of the variance about 1 %.
    standard_error = sums.std(dim=1) / math.sqrt(20_000)
    assert bool(((sums.mean(dim=1) - values.sum(dim=1)).abs() < 4 * standard_error).all())
    expected = values.shape[1] * values.var(dim=1, correction=0)
    torch.testing.assert_close(sums.var(dim=1), expected, rtol=0.05, atol=0)


def test_rows_share_their_resamples(generator: torch.Generator) -> None:
    values = torch.rand(1, 30, generator=generator, dtype=torch.float64)
    sums = resampled_sums(torch.cat([values, 3 * values]), 100, generator=generator)
    torch.testing.assert_close(sums[1], 3 * sums[0])
    assert float(sums[0].std()) > 0


def test_chunks_do_not_change_the_resamples(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    whole = resampled_sums(values, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("wichan.evaluation.statistics._CHUNK_BYTES", 8 * 40 * 5)
    torch.testing.assert_close(resampled_sums(values, 64, generator=torch.Generator().manual_seed(1)), whole)


def test_values_equal_a_loop(generator: torch.Generator) -> None:
    errors, energies = zip(*(_draw(3, n, generator) for n in (20, 31)), strict=True)
    result = compare(errors, energies, generator=generator, reference=0, num_resamples=20)
    for p in range(2):
        for e in range(3):
            ratio = sum(errors[p][e].tolist()) / sum(energies[p].tolist())
            mean = sum((errors[p][e] / energies[p]).tolist()) / energies[p].numel()
            assert result.nmse.value[p, e] == pytest.approx(ratio)
            assert result.nmse_mean_of_ratios.value[p, e] == pytest.approx(mean)
            reference = sum(errors[p][0].tolist()) / sum(energies[p].tolist())
            assert result.gap_db.value[p, e] == pytest.approx(10 * math.log10(ratio / reference))
    torch.testing.assert_close(result.score_db.value, result.gap_db.value.mean(dim=0))
    linear = result.nmse.value.mean(dim=0)
    torch.testing.assert_close(result.linear_gap_db.value, 10 * torch.log10(linear / linear[0]))


@pytest.mark.parametrize("common", [False, True])
def test_intervals_equal_brute_force_resampling(common: bool) -> None:
    draws = [_draw(2, 25, torch.Generator().manual_seed(s)) for s in (1, 2)]
    errors, energies = zip(*draws, strict=True)
    result = compare(
        errors, energies, generator=torch.Generator().manual_seed(5), reference=0, common=common, num_resamples=200
    )
    replay = torch.Generator().manual_seed(5)
    indices = [torch.randint(25, (200, 25), generator=replay) for _ in range(1 if common else 2)]
    gaps = []
    for p in range(2):
        index = indices[0 if common else p]
        sums = torch.stack([errors[p][:, index[r]].sum(dim=1) for r in range(200)])  # (200, 2)
        gaps.append(10 * torch.log10(sums[:, 1] / sums[:, 0]))
    low, high = torch.quantile(torch.stack(gaps).mean(dim=0), torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert result.score_db.low[1] == pytest.approx(float(low))
    assert result.score_db.high[1] == pytest.approx(float(high))


def test_ninety_five_percent_interval_covers(generator: torch.Generator) -> None:
    # Errors and energies are exponential, so the true ratio of sums is 0.1. 400 experiments with coverage near 0.95 have a
    # standard error of 1.1 %; the percentile interval at 150 channels is known to be a point or so short.
    hits = 0
    for _ in range(400):
        errors = -0.1 * torch.rand(150, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
        energies = -torch.rand(150, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
        interval = nmse_interval(errors, energies, generator=generator, num_resamples=300)
        hits += bool(interval.low <= 0.1 <= interval.high)
    assert 0.90 < hits / 400 < 0.98


def test_pairing_makes_the_gap_far_more_certain_than_the_levels(generator: torch.Generator) -> None:
    errors, energies = _draw(2, 200, generator)
    result = compare([errors], [energies], generator=generator, reference=0)
    level = to_db(result.nmse.high[0, 1]) - to_db(result.nmse.low[0, 1])
    gap = result.gap_db.high[0, 1] - result.gap_db.low[0, 1]
    # The channel's own fading (several dB) is common to both estimators; what differs is at most 5 %, 0.2 dB.
    assert float(gap) < 0.05 * float(level)
    assert result.gap_db.low[0, 1] <= 10 * math.log10(2) + 0.05
    assert result.gap_db.high[0, 1] >= 10 * math.log10(2) - 0.05


def test_reference_gap_is_exactly_zero(generator: torch.Generator) -> None:
    errors, energies = _draw(3, 12, generator)
    result = compare([errors], [energies], generator=generator, reference=2)
    assert result.gap_db.value[0, 2] == result.gap_db.low[0, 2] == result.gap_db.high[0, 2] == 0


def test_same_seed_same_intervals() -> None:
    errors, energies = _draw(2, 40, torch.Generator().manual_seed(3))
    runs = [compare([errors], [energies], generator=torch.Generator().manual_seed(4)).nmse for _ in range(2)]
    assert torch.equal(runs[0].low, runs[1].low)
    other = compare([errors], [energies], generator=torch.Generator().manual_seed(5)).nmse
    assert not torch.equal(runs[0].low, other.low)


def test_one_channel_has_a_value_but_no_interval(generator: torch.Generator) -> None:
    errors, energies = _draw(2, 1, generator)
    nmse = compare([errors], [energies], generator=generator).nmse
    assert bool(torch.isfinite(nmse.value).all())
    assert bool(nmse.low.isnan().all())


def test_perfect_estimate_reads_the_floor(generator: torch.Generator) -> None:
    result = compare([torch.zeros(1, 8)], [torch.ones(8)], generator=generator, reference=0)
    assert float(to_db(result.nmse.value)) == pytest.approx(-300)
    assert float(result.gap_db.value) == 0


@pytest.mark.parametrize(
    ("errors", "energies", "options", "kind", "text"),
    [
        ([], [], {}, ShapeError, "at least 1"),
        ([torch.ones(2, 3)], [torch.ones(4)], {}, ShapeError, "must fit"),
        ([torch.ones(2, 3), torch.ones(1, 3)], [torch.ones(3)] * 2, {}, ShapeError, "must fit"),
        ([torch.ones(2, 3), torch.ones(2, 4)], [torch.ones(3), torch.ones(4)], {"common": True}, ShapeError, "common"),
        ([torch.ones(2, 0)], [torch.ones(0)], {}, InvalidValueError, "without channels"),
        ([torch.full((1, 3), torch.nan)], [torch.ones(3)], {}, InvalidValueError, "errors"),
        ([-torch.ones(1, 3)], [torch.ones(3)], {}, InvalidValueError, "errors"),
        ([torch.ones(1, 3)], [torch.tensor([1.0, 0.0, 1.0])], {}, InvalidValueError, "energies"),
        ([torch.ones(1, 3)], [torch.ones(3)], {"reference": 1}, InvalidValueError, "reference"),
        ([torch.ones(1, 3)], [torch.ones(3)], {"num_resamples": 0}, InvalidValueError, "num_resamples"),
        ([torch.ones(1, 3)], [torch.ones(3)], {"confidence": 1.0}, InvalidValueError, "confidence"),
    ],
)
def test_bad_input(errors, energies, options, kind, text, generator) -> None:
    with pytest.raises(kind, match=text) as caught:
        compare(errors, energies, generator=generator, **options)
    assert "\n" not in str(caught.value)


def test_generator_is_needed() -> None:
    with pytest.raises(InvalidTypeError, match="generator"):
        resampled_sums(torch.ones(1, 3), 5, generator=7)  # type: ignore[arg-type]


def test_percentiles_of_known_replicates() -> None:
    interval = percentile_interval(torch.tensor(50.0), torch.arange(101, dtype=torch.float64), confidence=0.9)
    assert (float(interval.low), float(interval.high)) == pytest.approx((5.0, 95.0))
