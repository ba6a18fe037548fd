"""CSI-BERT2: the network's sizes and parts, masked windows, and the predictor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators.learned import seeded
from wichan.prediction import CSIBERT2Predictor
from wichan.prediction.csibert2 import mask_lengths
from wichan.prediction.csibert2_network import (
    AdaptiveReweighting,
    CSIBERT2Backbone,
    CSIBERT2Network,
    SequenceHead,
    time_sinusoids,
)
from wichan.random import complex_normal


def made(kind: Callable[..., Any], *sizes: int, **options: Any) -> Any:
    """A network whose weights come from a seed; layers draw them from torch's global generator, which is put back."""
    with seeded(5):
        return kind(*sizes, **options).eval()


@pytest.mark.parametrize(
    ("num_classes", "unused_tables", "count"),
    [
        (None, True, 5_312_179),
        (None, False, 1_273_035),
        (6, True, 5_450_309),
        (6, False, 1_411_165),
        (2, True, 5_449_281),
    ],
)
def test_published_sizes_to_the_digit(num_classes: int | None, unused_tables: bool, count: int) -> None:
    with torch.device("meta"):
        network = CSIBERT2Network(52, 100, num_classes, unused_tables=unused_tables)
    assert sum(weight.numel() for weight in network.parameters()) == count


def test_reweighting_has_its_published_size_and_scales_whole_series(generator: torch.Generator) -> None:
    layer = made(AdaptiveReweighting, 100)
    assert sum(weight.numel() for weight in layer.parameters()) == 6_351
    x = torch.randn(2, 100, 5, generator=generator)
    factor = layer(x) / x
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-4, atol=1e-5)
    # Features do not mix: another fifth series leaves the first four alone.
    other = x.clone()
    other[..., 4] += 1
    torch.testing.assert_close(layer(other)[..., :4], layer(x)[..., :4])


def test_times_become_sinusoids() -> None:
    """0, 10, 20 and 990 ms, by hand: s = 10 / 990 x 100 = 1.0101, then sin(s), cos(s), sin and cos of s / 10000^(2/52)."""
    table = time_sinusoids(torch.tensor([0.0, 10.0, 20.0, 990.0]), 52)
    assert table.shape == (4, 52)
    want = torch.tensor([0.8469, 0.5318, 0.6509, 0.7591], dtype=torch.float64)
    torch.testing.assert_close(table[1, :4], want, rtol=0, atol=5e-5)  # four digits
    # Neither unit nor origin count, also of 32-bit microseconds.
    stamps = torch.tensor([0, 10_000, 20_000, 990_000]) + 4_000_000_000
    torch.testing.assert_close(time_sinusoids(stamps, 52), table)
    # No duration: s = 0, not NaN.
    assert time_sinusoids(torch.full((3,), 7.0), 3).tolist() == [[0.0, 1.0, 0.0]] * 3


def test_steps_that_were_not_received_are_not_attended_to(generator: torch.Generator) -> None:
    network = made(CSIBERT2Backbone, 6, 10, width=16, layers=2, heads=2, feed_forward=32, reweighting=False)
    x = torch.randn(2, 10, 6, generator=generator)
    received = torch.ones(2, 10, dtype=torch.bool)
    received[:, 4] = False
    other = x.clone()
    other[:, 4] += 5.0
    keep = [i for i in range(10) if i != 4]
    torch.testing.assert_close(network(x, received=received)[:, keep], network(other, received=received)[:, keep])
    assert not torch.allclose(network(x)[:, keep], network(other)[:, keep])
    # All received is the same as no mask: two kernels of attention, in single precision.
    everything = torch.ones_like(received)
    torch.testing.assert_close(network(x, received=everything), network(x), rtol=1e-4, atol=1e-5)


def test_encoder_equals_torchs_own(generator: torch.Generator) -> None:
    """The same weights in torch's post-norm encoder layer with exact GELU."""
    layer = made(CSIBERT2Backbone, 6, 10, width=16, layers=1, heads=2, feed_forward=32).encoder[0]
    peer = made(torch.nn.TransformerEncoderLayer, 16, 2, 32, activation="gelu", batch_first=True, layer_norm_eps=1e-12)
    pairs = {
        "self_attn.in_proj_": layer.mixing,
        "self_attn.out_proj.": layer.out,
        "linear1.": layer.feed_forward[0],
        "linear2.": layer.feed_forward[2],
        "norm1.": layer.first_norm,
        "norm2.": layer.second_norm,
    }
    peer.load_state_dict({name + part: getattr(own, part) for name, own in pairs.items() for part in ("weight", "bias")})
    tokens = torch.randn(3, 10, 16, generator=generator)
    torch.testing.assert_close(layer(tokens), peer(tokens), rtol=1e-4, atol=1e-5)


def test_sequence_head_sums_over_time_with_weights_that_add_up_to_one(generator: torch.Generator) -> None:
    head = made(SequenceHead, 3, width=8, rows=2, hidden=5)
    constant = torch.randn(2, 1, 8, generator=generator).expand(2, 10, 8)
    want = head.layers(torch.cat([constant[:, 0], constant[:, 0]], dim=-1))
    torch.testing.assert_close(head(constant), want)


def test_windows_of_another_size_are_refused() -> None:
    network = made(CSIBERT2Network, 6, 10, width=16, layers=1, heads=2, feed_forward=8)
    with pytest.raises(InvalidValueError, match=r"x has shape \(2, 9, 6\); it must be \(batch, 10, 6\)"):
        network(torch.zeros(2, 9, 6))
    with pytest.raises(InvalidValueError, match="width=16 is not divisible by heads=3"):
        made(CSIBERT2Network, 6, 10, width=16, heads=3)


# -- Masks. --


def test_masks_are_uniform_in_the_interval(generator: torch.Generator) -> None:
    lengths = mask_lengths(20_000, 1000, generator=generator).double().sort().values / 1000
    uniform = 0.15 + 0.25 * (torch.arange(20_000) + 0.5) / 20_000
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is exceeded once in a hundred seeds; steps of 1/1000 add 0.002 of the interval.
    assert float((lengths - uniform).abs().max()) / 0.25 < 1.63 / math.sqrt(20_000) + 0.002


def test_published_masks_are_those_of_the_largest_draw_with_replacement(generator: torch.Generator) -> None:
    lengths = torch.cat([mask_lengths(64, 100, generator=generator, compat=True) for _ in range(200)]).double()
    # The largest of 64 draws is near 40, and 1 - (1 - 1/100)^40 = 33 % are distinct.
    assert abs(float(lengths.mean()) - 33) < 1
    assert int(lengths.min()) >= 22
    assert int(lengths.max()) <= 40


def test_ratios_that_are_none_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(InvalidValueError, match=r"ratio=\(0.4, 0.2\) must be two shares"):
        mask_lengths(2, 10, (0.4, 0.2), generator=generator)


# -- The predictor. --


def tiny(**options: object) -> CSIBERT2Predictor:
    return CSIBERT2Predictor.preset("tiny", num_subcarriers=8, **options)


def test_the_loss_does_not_see_what_is_masked(generator: torch.Generator) -> None:
    """Statistics and input come from unmasked steps: an outlier in the future changes the loss, not the network's answer."""
    predictor, answers = tiny(duplex="fdd", statistics="feature"), []
    predictor.network.register_forward_hook(lambda _, args, out: answers.append((args[0], out)))
    y = complex_normal((2, 3, 1, 16, 8), generator=generator)
    future = complex_normal((2, 3, 1, 4, 8), generator=generator)
    for scale in (1.0, 100.0):
        predictor.training_loss(y, scale * future, torch.Generator().manual_seed(3))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_what_is_not_masked_is_standardised(generator: torch.Generator, duplex: str) -> None:
    predictor, seen = tiny(duplex=duplex), []
    predictor.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y = 7.0 * complex_normal((2, 3, 1, 16, 8), generator=generator) + 3.0
    predictor(y)
    history = seen[0][:, :16]
    if duplex == "tdd":
        assert float(history.mean(1).abs().max()) < 1e-4
        torch.testing.assert_close(history.square().mean(1), torch.ones(6, 16), rtol=1e-4, atol=0)
    else:
        torch.testing.assert_close(history.square().mean((1, 2)), torch.ones(6), rtol=1e-4, atol=0)
    assert torch.equal(seen[0][:, 16:], predictor.fill.expand(6, -1, -1))


def test_loss_is_finite_for_constant_windows_and_follows_its_generator(generator: torch.Generator) -> None:
    predictor = tiny()
    constant = torch.ones(2, 3, 1, 16, 8, dtype=torch.complex64)
    loss = predictor.training_loss(constant, constant[..., :4, :], generator)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(w.grad).all()) for w in predictor.network.parameters() if w.grad is not None)
    y = complex_normal((2, 3, 1, 20, 8), generator=generator)
    losses = [
        float(predictor.training_loss(y[..., :16, :], y[..., 16:, :], torch.Generator().manual_seed(seed)).detach())
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_does_not_depend_on_the_scale(generator: torch.Generator) -> None:
    predictor, y = tiny(), complex_normal((2, 3, 1, 20, 8), generator=generator)
    losses = [
        float(predictor.training_loss(f * y[..., :16, :], f * y[..., 16:, :], torch.Generator().manual_seed(1)).detach())
        for f in (1.0, 1000.0)
    ]
    assert abs(losses[0] / losses[1] - 1) < 1e-5  # one division by the root mean square


def test_without_masks_there_is_no_loss_of_its_own(generator: torch.Generator) -> None:
    y = complex_normal((2, 3, 1, 20, 8), generator=generator)
    assert tiny(masked=False).training_loss(y[..., :16, :], y[..., 16:, :], generator) is None
    with pytest.raises(InvalidTypeError, match="generator must be a torch.Generator"):
        tiny().training_loss(y[..., :16, :], y[..., 16:, :], None)


def test_with_residual_a_silent_head_holds_the_last_received_step(generator: torch.Generator) -> None:
    predictor = tiny(residual=True).eval()
    with torch.no_grad():
        for weight in predictor.network.head.parameters():
            weight.zero_()
    h = complex_normal((2, 3, 1, 1, 8), generator=generator).expand(2, 3, 1, 20, 8)
    y = h[..., :16, :]
    # Standardising and back, in single precision.
    torch.testing.assert_close(predictor(y).h_pred, h[..., 16:, :], rtol=1e-4, atol=1e-4)
    assert float(predictor.training_loss(y, h[..., 16:, :], generator).detach()) < 1e-6


def test_settings_come_back(generator: torch.Generator) -> None:
    predictor = tiny(duplex="fdd", compat=True, masked=False, residual=True, band=4)
    again = CSIBERT2Predictor.from_config(predictor.config())
    assert again.config() == predictor.config()
    assert again.statistics == "window"
    y = complex_normal((1, 2, 1, 16, 8), generator=generator)
    assert torch.equal(again.eval()(y).h_pred, predictor.eval()(y).h_pred)


def test_windows_of_a_band_see_no_other(generator: torch.Generator) -> None:
    predictor = tiny(band=2).eval()
    y = complex_normal((1, 2, 1, 16, 8), generator=generator)
    other = y.clone()
    # Of the same power, so that the scale of the sample stays.
    other[..., 2:4] = y[..., 2:4].flip(-1)
    with torch.no_grad():
        first, second = predictor(y).h_pred, predictor(other).h_pred
    keep = [0, 1, 4, 5, 6, 7]
    torch.testing.assert_close(first[..., keep], second[..., keep])
    assert float((first - second)[..., 2:4].abs().min()) > 0
    with pytest.raises(InvalidValueError, match="band=3 does not divide num_subcarriers=8"):
        tiny(band=3)


@pytest.mark.slow
def test_masked_packets_teach_prediction(generator: torch.Generator) -> None:
    """A path that turns by 0.4 rad a snapshot: the masked end becomes better than the last snapshot."""
    predictor = CSIBERT2Predictor.preset("tiny", num_subcarriers=8, band=2)

    def draw(count: int) -> torch.Tensor:
        turned = torch.polar(torch.ones(20), 0.4 * torch.arange(20.0))[:, None]
        return complex_normal((count, 4, 1, 1, 1), generator=generator) * turned.expand(20, 8)

    optimizer = torch.optim.Adam(predictor.network.parameters(), lr=5e-3)
    for _ in range(150):
        h = draw(8)
        optimizer.zero_grad()
        loss = predictor.training_loss(h[..., :16, :], h[..., 16:, :], generator)
        loss.backward()
        optimizer.step()
    h = draw(64)
    with torch.no_grad():
        error = (predictor.eval()(h[..., :16, :]).h_pred - h[..., 16:, :]).abs().square().mean()
    held = (h[..., 15:16, :] - h[..., 16:, :]).abs().square().mean()
    # The task has one answer; a quarter leaves room for a network of 16 features and 150 steps.
    assert float(error) < 0.25 * float(held)
