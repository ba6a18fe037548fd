"""What learned predictors share: scaling, layout, settings, the error head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.prediction import LEARNED_PREDICTORS
from wichan.prediction.error_head import PredictionErrorHead, count_features, prediction_features
from wichan.prediction.learned import LearnedPredictor, from_bands, interleaved, into_bands, joined, root_mean_square
from wichan.random import complex_normal


class Copies(nn.Module):
    """The last snapshot, once for each step; it has a weight, so that there is something to train."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.weight = steps, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x[:, -1:].expand(-1, self.steps, -1)


class Copier(LearnedPredictor):
    """The smallest learned predictor."""

    kind = "copier"
    presets = {"plain": {"num_subcarriers": 12}}

    def _build(self) -> nn.Module:
        return Copies(self.num_horizon)


def histories(generator: torch.Generator, batch: tuple[int, ...] = (3,), bins: int = 12) -> torch.Tensor:
    return complex_normal((*batch, 4, 1, 16, bins), generator=generator)


@pytest.mark.parametrize("scale_input", [True, False])
def test_what_goes_through_the_scaling_comes_back(generator: torch.Generator, scale_input: bool) -> None:
    predictor = Copier(num_subcarriers=12, scale_input=scale_input)
    if not scale_input:
        predictor.shift.copy_(torch.tensor([0.3, -0.2]))
        predictor.spread.copy_(torch.tensor([0.5, 2.0]))
    y = histories(generator)
    h = predictor(y).h_pred
    # A copy is exact but for one division and one multiplication in single precision, 1e-7 each.
    torch.testing.assert_close(h, y[..., -1:, :].expand_as(h), rtol=1e-6, atol=1e-6)


def test_the_network_sees_unit_numbers_in_antenna_order_with_parts_interleaved(generator: torch.Generator) -> None:
    seen = []
    predictor = Copier(num_subcarriers=12)
    predictor.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y = 37.0 * histories(generator, (2,))
    predictor(y)
    x = seen[0]
    assert x.shape == (8, 16, 24)
    for sample in (0, 1):
        own = x[4 * sample : 4 * sample + 4]
        level = y[sample].abs().square().mean().div(2).sqrt()
        # Sums over 768 numbers in single precision.
        assert abs(float(own.square().mean()) - 1) < 1e-5
        torch.testing.assert_close(own[2, 5, 6:8] * level, torch.view_as_real(y[sample, 2, 0, 5, 3]), rtol=1e-5, atol=1e-5)


def test_fixed_z_score_makes_a_channel_of_unit_power_unit_numbers(generator: torch.Generator) -> None:
    seen = []
    predictor = Copier(num_subcarriers=12, scale_input=False)
    predictor.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    predictor(histories(generator, (20,)))
    # 15,360 complex numbers: a mean square scatters by 1 / sqrt(15360) = 0.8 %, four of them.
    assert abs(float(seen[0].square().mean()) - 1) < 0.032


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_root_mean_square_neither_over_nor_underflows(generator: torch.Generator, factor: float) -> None:
    parts = interleaved(histories(generator).flatten(1, 2))
    want = parts.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(root_mean_square(parts * factor) / factor, want, rtol=1e-5, atol=0)


def test_layouts_are_undone(generator: torch.Generator) -> None:
    h = histories(generator).flatten(0, 2)
    assert torch.equal(joined(interleaved(h)), h)
    assert torch.equal(joined(interleaved(h.conj())), h.conj())
    cut = into_bands(interleaved(h), 3)
    assert cut.shape == (12 * 4, 16, 6)
    assert torch.equal(cut[5], interleaved(h[1, :, 3:6]))  # sequence 1, band 1
    assert torch.equal(from_bands(cut, 4), interleaved(h))


def test_double_weights_take_double_input_and_nothing_else(generator: torch.Generator) -> None:
    predictor, y = Copier(num_subcarriers=12).double(), histories(generator).to(torch.complex128)
    made = predictor(y)
    assert made.h_pred.dtype == torch.complex128
    assert made.err_var.dtype == torch.float64
    with pytest.raises(InvalidTypeError, match="history has dtype torch.complex64, the weights torch.float64"):
        predictor(y.to(torch.complex64))


def test_bad_histories_are_named(generator: torch.Generator) -> None:
    predictor, y = Copier(num_subcarriers=12), histories(generator)
    with pytest.raises(ShapeError, match="history has 15 snapshots; this predictor was made for 16"):
        predictor(y[..., 1:, :])
    with pytest.raises(ShapeError, match="history has 11 subcarriers; this predictor was made for 12"):
        predictor(y[..., 1:])
    predictor.num_ant = 5
    with pytest.raises(ShapeError, match="history has 4 x 1 antennas; this predictor was made for 5"):
        predictor(y)


def test_settings_rebuild_it_and_foreign_ones_are_refused() -> None:
    predictor = Copier(num_subcarriers=12, num_horizon=2, duplex="fdd", scale_input=False)
    again = Copier.from_config(predictor.config())
    assert again.config() == predictor.config()
    assert Copier.preset("plain", duplex="fdd").duplex == "fdd"
    with pytest.raises(UnknownNameError, match="preset='plane' is unknown; did you mean 'plain'"):
        Copier.preset("plane")
    with pytest.raises(InvalidValueError, match="config of copier does not fit"):
        Copier.from_config({"depth": 3})
    with pytest.raises(InvalidTypeError, match="num_subcarriers='12' must be an integer"):
        Copier(num_subcarriers="12")


@pytest.mark.parametrize("name", [name for name in LEARNED_PREDICTORS if name != "dadnet"])
def test_weights_come_from_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    kind = LEARNED_PREDICTORS[name]
    first, same, other = (kind.preset("tiny", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    weights = [torch.cat([w.detach().flatten() for w in p.network.parameters()]) for p in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# -- The error head. --


def test_a_fresh_head_claims_the_power_of_the_history(generator: torch.Generator) -> None:
    y = histories(generator) * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None, None]
    err_var = Copier(num_subcarriers=12)(y).err_var
    torch.testing.assert_close(err_var[:, 0, 0, 0, 0], y.abs().square().mean((1, 2, 3, 4)), rtol=1e-5, atol=0)


def test_the_head_sends_no_gradient_into_the_mean(generator: torch.Generator) -> None:
    predictor = Copier(num_subcarriers=12)
    nn.init.normal_(predictor.error_head.layers[-1].weight, generator=generator)
    made = predictor(histories(generator))
    made.err_var.sum().backward()
    assert predictor.network.weight.grad is None
    assert predictor.error_head.layers[-1].bias.grad is not None


def test_features_do_not_see_phase_and_their_number_is_told(generator: torch.Generator) -> None:
    y = histories(generator).flatten(1, 2)
    y = y / y.abs().square().mean((1, 2, 3), keepdim=True).div(2).sqrt()
    ahead = y[:, :, -4:]
    turn = torch.polar(torch.ones(3, 4, 1, 1), 6.0 * torch.rand(3, 4, 1, 1, generator=generator))
    plain = prediction_features(interleaved(y), interleaved(ahead))
    turned = prediction_features(interleaved(y * turn), interleaved(ahead * turn))
    assert plain.shape == (3, 4, count_features(4))
    # Differences of single precision numbers, a third of a logarithm.
    torch.testing.assert_close(plain, turned, rtol=1e-4, atol=1e-4)


def test_features_are_what_they_say(generator: torch.Generator) -> None:
    """A channel that turns by a fixed phase a snapshot, noise of a known level: closed forms."""
    turn, no, bins = 0.4, 0.02, 400
    gains = complex_normal((1, 8, 1, 1), generator=generator)
    steps = torch.polar(torch.ones(16), turn * torch.arange(16.0))[:, None]
    y = gains * steps + complex_normal((1, 8, 16, bins), no, generator=generator)
    level = y.abs().square().mean().div(2).sqrt()
    y = y / level
    ahead = y[:, :, -1:]
    features = (3 * prediction_features(interleaved(y), interleaved(ahead))).exp()[0]
    power, own, noise = gains.abs().square().mean(), gains.abs().square().flatten(), no / 2 / level**2
    power, own = power / 2 / level**2, own / 2 / level**2
    want = [4 * power * torch.sin(torch.tensor(turn * lag / 2)) ** 2 + 2 * noise for lag in (1, 2, 3, 4)]
    # 8 antennas x 400 bins x 12 pairs or more: noise terms scatter by less than 1 %, five of them.
    torch.testing.assert_close(features[:, :4], torch.stack(want).expand(8, 4), rtol=0.05, atol=0)
    # One path: n snapshots predict the next but for the noise, theirs averaged down: (1 + 1 / n) no.
    orders = torch.tensor([1.0, 3.0, 7.0, 15.0])
    torch.testing.assert_close(features[:, 4:8], (noise * (1 + 1 / orders)).expand(8, 4), rtol=0.06, atol=0)
    torch.testing.assert_close(features[:, 8], noise.expand(8), rtol=0.05, atol=0)
    torch.testing.assert_close(features[:, 10], own + noise, rtol=0.05, atol=0)
    # The prediction is the last snapshot: no distance, but for the floor of 1e-6.
    assert float(features[:, -1].max()) < 2e-6


@pytest.mark.parametrize(("length", "bins"), [(1, 1), (2, 2), (3, 40)])
def test_short_histories_and_narrow_grids_give_finite_features(generator: torch.Generator, length: int, bins: int) -> None:
    y = interleaved(complex_normal((2, 3, length, bins), generator=generator))
    assert bool(torch.isfinite(prediction_features(y, y[:, :, -1:])).all())


def test_the_scale_multiplies_what_the_head_claims(generator: torch.Generator) -> None:
    predictor, y = Copier(num_subcarriers=12), histories(generator)
    before = predictor(y).err_var
    predictor.error_head.scale.mul_(3.0)
    torch.testing.assert_close(predictor(y).err_var, 3 * before)
    assert "error_head.scale" in predictor.state_dict()
    assert isinstance(predictor.error_head, PredictionErrorHead)
