"""CSI-4CAST: sizes and cost of the published network, what the defaults mend, every switch, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanError
from wichan.prediction import CSI4CAST
from wichan.prediction.csi4cast_denoiser import ConvDenoiser, from_image, to_image
from wichan.prediction.csi4cast_network import CSI4CASTNetwork, to_delay

SMALL_GRID = {"num_subcarriers": 24, "num_history": 8, "num_horizon": 3}


def tiny(**options: Any) -> CSI4CAST:
    return CSI4CAST.preset("tiny", **(SMALL_GRID | options))


def draw(generator: torch.Generator, *batch: int, antennas: int = 4, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.randn(*batch, antennas, 1, 8, 24, generator=generator, dtype=dtype)


def trained(predictor: CSI4CAST, generator: torch.Generator) -> CSI4CAST:
    """As after some training: batch normalisation has seen data, nothing is zero any more."""
    with torch.no_grad():
        for value in predictor.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
        predictor.train()(draw(generator, 5, dtype=torch.promote_types(predictor.error_head.scale.dtype, torch.complex64)))
    return predictor.eval()


def count(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


@pytest.mark.parametrize(
    ("preset", "parts", "flops"),
    [
        ("paper-tdd", (774, 1_084_512, 1_448_084, 18_918_912, 461_468), 71.0e9),
        ("paper-fdd", (12_510, 14_400_112, 1_706_260, 22_055_936, 461_468), 99.2e9),
    ],
)
def test_size_and_cost_are_those_published(preset: str, parts: tuple[int, ...], flops: float) -> None:
    with torch.device("meta"):
        network = CSI4CAST.preset(preset).network.eval()
        x = torch.empty(32, 16, 600)
    assert isinstance(network, CSI4CASTNetwork)
    branches = (network.delay, network.frequency)
    have = (
        count(network.denoiser),
        count(*(layer for branch in branches for layer in (branch.temporal, branch.subcarrier))),
        count(*(branch.features for branch in branches), network.embedding, network.time_stamp),
        count(network.predictor),
        count(network.to_features, network.to_future),
    )
    assert have == parts
    assert count(network) == sum(parts) == {"paper-tdd": 21_913_750, "paper-fdd": 38_636_286}[preset]
    with FlopCounterMode(display=False) as counter:
        assert network(x).shape == (32, 4, 600)
    assert counter.get_total_flops() == pytest.approx(flops, rel=0.001)  # the published figures are rounded to three digits


def test_own_presets_are_cheaper() -> None:
    # 2 FLOP a real multiply-add; complex products, of which `small` mostly consists, are counted as 2 and cost 8.
    limits = {"small": 0.25e9, "lean": 23e9}
    for preset, limit in limits.items():
        for duplex in ("tdd", "fdd"):
            network = CSI4CAST.preset(preset, duplex=duplex).network.eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                if preset == "lean":
                    network(torch.zeros(1, 16, 600), 1)
                    assert 32 * counter.get_total_flops() < limit
                else:
                    network(torch.randn(32, 16, 600, generator=torch.Generator().manual_seed(1)), 32)
                    assert 4 * counter.get_total_flops() < limit


@pytest.mark.parametrize("preset", ["tiny", "lean", "small"])
@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_shapes_and_configuration(generator: torch.Generator, preset: str, duplex: str) -> None:
    small = {"width": 32, "layers": 1, "heads": 4, "hidden": 32}
    predictor = CSI4CAST.preset(preset, duplex=duplex, **small, **SMALL_GRID).eval()
    history = draw(generator, 2, 3)
    h_pred, err_var = predictor(history)
    assert h_pred.shape == err_var.shape == (2, 3, 4, 1, 3, 24) and h_pred.dtype == torch.complex64
    again = CSI4CAST.from_config(predictor.config()).eval()
    again.load_state_dict(predictor.state_dict())
    assert torch.equal(again(history).h_pred, h_pred) and again.config() == predictor.config()
    assert not any("time_stamp" in name for name in predictor.state_dict())


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_answers_do_not_depend_on_the_rest_of_the_batch(generator: torch.Generator, preset: str) -> None:
    predictor = trained(CSI4CAST.preset(preset, **SMALL_GRID).double(), generator)
    history = draw(generator, 4, dtype=torch.complex128) * torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None, None, None]
    together = predictor(history).h_pred
    for sample, have in zip(history, together, strict=True):
        # Sums in another order.
        assert (predictor(sample).h_pred - have).abs().max() < 1e-12 * have.abs().max()


def test_published_standardisation_couples_a_batch(generator: torch.Generator) -> None:
    predictor = trained(tiny(compat=True, scale_input=False), generator)
    history = draw(generator, 4) * torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None, None, None]
    have, alone = predictor(history).h_pred[0], predictor(history[0]).h_pred
    assert (have - alone).abs().max() > 0.1 * alone.abs().max()
    # With one sample a batch, as the published tests have it, the default is the same thing.
    mended = CSI4CAST.from_config(predictor.config() | {"standardise": "sample"}).eval()
    mended.load_state_dict(predictor.state_dict())
    assert (mended(history).h_pred[0] - alone).abs().max() < 1e-5 * alone.abs().max()


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_answers_follow_the_scale_of_the_input(generator: torch.Generator, preset: str) -> None:
    predictor = trained(CSI4CAST.preset(preset, **SMALL_GRID).double(), generator)
    history = draw(generator, 2, dtype=torch.complex128)
    want, claimed = predictor(history)
    for scale in (1e-12, 1e-3, 40.0, 1e9):
        h_pred, err_var = predictor(scale * history)
        # Rounding of one product and one quotient, amplified by the layers.
        assert (h_pred / scale - want).abs().max() < 1e-11 * want.abs().max()
        assert (err_var / scale**2 - claimed).abs().max() < 1e-9 * claimed.max()
    published = trained(tiny(compat=True, scale_input=False).double(), generator)
    assert (published(1e-3 * history).h_pred / 1e-3 - published(history).h_pred).abs().max() > 0.1


def test_the_noise_estimate_has_both_signs_by_default(generator: torch.Generator) -> None:
    x = torch.randn(3, 8, 48, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        open_end, rectified = ConvDenoiser((4,)), ConvDenoiser((4,), rectified=True)
    rectified.load_state_dict(open_end.state_dict())
    noise, lowered = x - open_end(x), x - rectified(x)
    assert noise.min() < -0.1 and noise.max() > 0.1
    assert lowered.min() >= -1e-6 and torch.allclose(lowered, noise.relu(), atol=1e-6)
    assert ConvDenoiser(())(x) is x


def test_the_delay_branch_adds_by_default_and_multiplies_as_published(generator: torch.Generator) -> None:
    settings = {"subcarrier_hidden": 16, "num_subcarriers": 24}
    assert CSI4CAST(**settings, layers=1).settings.delay_operation == "add"
    network = tiny(subcarrier_hidden=16).network.eval()
    published = tiny(subcarrier_hidden=16, compat=True).network.eval()
    x = torch.randn(2, 8, 48, generator=generator)
    for branch, layer, operation in (
        ("delay", network.delay.subcarrier, torch.add),
        ("delay", published.delay.subcarrier, torch.mul),
        ("frequency", published.frequency.subcarrier, torch.add),
    ):
        first, _, _, second, _, _, third, _ = layer.mlp
        change = third(second(first(x).relu()).relu()).relu()
        want = nn.functional.layer_norm(operation(x, change), (48,))
        assert torch.allclose(layer(x), want, atol=1e-5), branch


def test_images_and_delays(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 8, generator=generator)
    assert torch.equal(to_image(x)[:, 0], x[..., 0::2]) and torch.equal(to_image(x)[:, 1], x[..., 1::2])
    assert torch.equal(from_image(to_image(x)), x)
    bins = torch.arange(8)
    path = torch.polar(torch.ones(8), -2 * math.pi * 3 * bins / 8)  # a delay of three taps
    taps = to_delay(torch.view_as_real(path).flatten()[None])
    want = torch.zeros(1, 16)
    want[0, 6] = 1
    assert (taps - want).abs().max() < 1e-6


@pytest.mark.parametrize(
    "switch",
    [
        {"denoiser": []},
        {"arl": "none"},
        {"arl": "norm"},
        {"subcarrier_hidden": 16},
        {"delay_transform": False},
        {"features": "mobile"},
        {"features": "mlp"},
        {"attention": "average-max"},
        {"predictor": "lstm"},
        {"predictor": "mlp"},
        {"skip": True},
        {"time_stamp": True},
        {"standardise": "batch"},
        {"rectified": True},
    ],
    ids=lambda switch: "-".join(f"{name}={value}" for name, value in switch.items()),
)
def test_every_switch_changes_the_network_and_trains(generator: torch.Generator, switch: dict[str, Any]) -> None:
    plain, changed = tiny(), tiny(**switch)
    history = draw(generator, 3) * torch.tensor([0.3, 1.0, 3.0])[:, None, None, None, None]
    history = history if "standardise" not in switch else history
    same_size = plain.network.state_dict().keys() == changed.network.state_dict().keys()
    if same_size and switch != {"attention": "average-max"}:
        changed.load_state_dict(plain.state_dict())
        changed.scale_input = plain.scale_input = False
        assert not torch.allclose(plain(history).h_pred, changed(history).h_pred, rtol=1e-3, atol=1e-3)
    else:
        assert count(plain.network) != count(changed.network)
    loss = (changed(history).h_pred - history[..., :3, :]).abs().square().mean()
    loss.backward()
    unused = {name for name, value in changed.network.named_parameters() if value.grad is None}
    assert unused == ({"time_stamp.weight"} if "time_stamp" in switch else set())
    assert all(bool(torch.isfinite(value.grad).all()) for value in changed.network.parameters() if value.grad is not None)


def test_the_published_design_learns(generator: torch.Generator) -> None:
    # Single rotations, the same eight sequences again and again: every part has to pass what it is given.
    times, bins = torch.arange(11), torch.arange(24)
    shift, delay = 0.2 * torch.rand(8, 1, 1, 1, 1, generator=generator), torch.rand(8, 1, 1, 1, 1, generator=generator)
    h = torch.polar(torch.ones(8, 1, 1, 11, 24), 2 * math.pi * (shift * times[:, None] - delay / 6 * bins))
    history, future = h[..., :8, :], h[..., 8:, :]
    hold = (history[..., -1:, :] - future).abs().square().mean()
    predictor = tiny()
    optimizer = torch.optim.Adam(predictor.network.parameters(), 3e-3)
    for _ in range(80):
        loss = (predictor(history).h_pred - future).abs().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 < hold  # of a power of 1


def test_bad_settings() -> None:
    cases: list[tuple[dict[str, Any], type[WichanError], str]] = [
        ({"depth": 3}, UnknownNameError, "setting.*'depth'"),
        ({"design": "fast"}, UnknownNameError, "design='fast'"),
        ({"arl": "mpl"}, UnknownNameError, "arl='mpl'"),
        ({"channels": 10}, InvalidValueError, "channels=10 is not divisible by groups=4"),
        ({"width": 30}, InvalidValueError, "width=30 is not divisible by heads=4"),
        ({"dropout": 1.0}, InvalidValueError, "dropout=1 must be at most 0.9"),
        ({"layers": -1}, InvalidValueError, "layers=-1"),
        ({"blocks": 1.5}, InvalidTypeError, "blocks"),
        ({"denoiser": 4}, InvalidTypeError, "denoiser"),
        ({"denoiser": [4, 0]}, InvalidValueError, "denoiser=0"),
        ({"num_history": 0}, InvalidValueError, "num_history=0"),
    ]
    for settings, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            tiny(**settings)
        assert "\n" not in str(error.value)
    with pytest.raises(UnknownNameError, match="preset='large'"):
        CSI4CAST.preset("large")


def test_bad_histories(generator: torch.Generator) -> None:
    for predictor in (tiny(), CSI4CAST.preset("small", **SMALL_GRID)):
        history = draw(generator, 2)
        with pytest.raises(ShapeError, match="7 snapshots"):
            predictor(history[..., :7, :])
        with pytest.raises(ShapeError, match="20 subcarriers"):
            predictor(history[..., :20])
        with pytest.raises(InvalidValueError, match="without power"):
            predictor(history * 0)
        history[0, 0] = math.nan
        with pytest.raises(InvalidValueError, match="history"):
            predictor(history)
