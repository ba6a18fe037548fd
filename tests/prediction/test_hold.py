"""The last snapshot as a prediction, and what it knows of its error."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import InvalidValueError, ShapeError
from wichan.prediction import Hold
from wichan.random import complex_normal

NOISE = 0.05


def fading(
    generator: torch.Generator, batch: int = 300, steps: int = 20, antennas: int = 4, bins: int = 64, paths: int = 12
) -> torch.Tensor:
    """Plane waves with Doppler in a ring and delays in a tenth of the window: stationary, unit power."""
    gains = complex_normal((batch, antennas, 1, 1, 1, paths), 1 / paths, generator=generator)
    angles = 2 * math.pi * torch.rand(batch, 1, 1, 1, 1, paths, generator=generator)
    delays = 0.1 * torch.rand(batch, 1, 1, 1, 1, paths, generator=generator)
    turn = 2 * math.pi * (0.05 * angles.cos() * torch.arange(steps)[:, None, None] - delays * torch.arange(bins)[:, None])
    return (gains * torch.polar(torch.ones_like(turn), turn)).sum(-1)


def noisy(h: torch.Tensor, generator: torch.Generator, no: float = NOISE) -> torch.Tensor:
    return h + complex_normal(h.shape, no, generator=generator)


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_the_last_snapshot_is_repeated_bit_for_bit(generator: torch.Generator, duplex: str) -> None:
    y = complex_normal((2, 3, 1, 16, 5), generator=generator)
    made = Hold(duplex=duplex)(y)
    assert torch.equal(made.h_pred, y[..., -1:, :].expand(2, 3, 1, 4, 5))


@pytest.mark.parametrize("told", [True, False])
def test_the_error_of_each_step_is_the_claimed_one(generator: torch.Generator, told: bool) -> None:
    h = fading(generator)
    y = noisy(h[..., :16, :], generator)
    made = Hold()(y, NOISE if told else None)
    error = (made.h_pred - h[..., 16:, :]).abs().square().mean((0, 1, 2, 4))
    claimed = made.err_var.mean((0, 1, 2, 4))
    # 300 samples x 4 antennas of independent fading: 3 % of scatter, and 3 more from averages over a window of the same
    # length as the channel's memory.
    torch.testing.assert_close(claimed, error, rtol=0.1, atol=0)
    assert bool((claimed[1:] > claimed[:-1]).all())


def test_a_channel_that_stands_still_leaves_the_noise(generator: torch.Generator) -> None:
    h = fading(generator, batch=20, steps=1).expand(-1, -1, -1, 16, -1)
    made = Hold()(noisy(h, generator), NOISE)
    # Differences of 20 x 4 x 64 x 12 pairs scatter around 2 no; where they fall below, the error stays at no.
    assert abs(float(made.err_var.mean()) / NOISE - 1) < 0.05
    assert float(made.err_var.min()) >= NOISE * (1 - 1e-5)


def test_weak_antennas_claim_less(generator: torch.Generator) -> None:
    gains = torch.tensor([0.1, 0.5, 1.0, 2.0])[:, None, None, None]
    h = fading(generator) * gains
    made = Hold()(noisy(h[..., :16, :], generator, 1e-4), 1e-4)
    error = (made.h_pred - h[..., 16:, :]).abs().square().mean((0, 2, 3, 4))
    # 300 samples each: 6 % of scatter, and the same again for the window's own share.
    torch.testing.assert_close(made.err_var.mean((0, 2, 3, 4)), error, rtol=0.2, atol=0)


def test_in_fdd_the_error_of_independent_bands_is_claimed(generator: torch.Generator) -> None:
    h, other = fading(generator), fading(generator)
    made = Hold(duplex="fdd")(noisy(h[..., :16, :], generator))
    error = (made.h_pred - other[..., 16:, :]).abs().square().mean()
    # 600 x 4 fading powers: 3 %, three of them.
    assert abs(float(made.err_var.mean()) / float(error) - 1) < 0.09


def test_gaps_are_held_over_and_their_age_counts(generator: torch.Generator) -> None:
    h = fading(generator)
    y = noisy(h[..., :16, :], generator)
    present = torch.ones(len(y), 16, dtype=torch.bool)
    present[:, 13:] = False
    made = Hold()(y, NOISE, present=present)
    assert torch.equal(made.h_pred, y[..., 12:13, :].expand_as(made.h_pred))
    error = (made.h_pred - h[..., 16:, :]).abs().square().mean((0, 1, 2, 4))
    # As above: 10 %; ages reach 7 of 16 snapshots, of which fewer pairs are left.
    torch.testing.assert_close(made.err_var.mean((0, 1, 2, 4)), error, rtol=0.15, atol=0)


def test_one_snapshot_alone_says_nothing_about_what_follows(generator: torch.Generator) -> None:
    y = complex_normal((2, 4, 1, 16, 64), generator=generator)
    present = torch.zeros(2, 16, dtype=torch.bool)
    present[:, 3] = True
    made = Hold()(y, 0.0, present=present)
    power = y[..., 3, :].abs().square().mean((1, 2, 3))
    torch.testing.assert_close(made.err_var.mean((1, 2, 3, 4)), 2 * power, rtol=1e-5, atol=0)


def test_a_clean_constant_history_still_has_an_error(generator: torch.Generator) -> None:
    made = Hold()(torch.ones(1, 2, 1, 16, 8, dtype=torch.complex64), 0.0)
    assert 0 < float(made.err_var.min()) < 1e-5


def test_bad_input_is_named(generator: torch.Generator) -> None:
    y = complex_normal((2, 4, 1, 16, 8), generator=generator)
    with pytest.raises(ShapeError, match="history has 15 snapshots; this predictor was made for 16"):
        Hold()(y[..., :15, :])
    with pytest.raises(InvalidValueError, match="all snapshots of 2 samples were lost"):
        Hold()(y, present=torch.zeros(2, 16, dtype=torch.bool))
    with pytest.raises(InvalidValueError, match="1 samples without power"):
        Hold()(torch.stack([y[0], 0 * y[1]]))
    with pytest.raises(InvalidValueError, match="NaN"):
        Hold()(y * math.nan)
