"""The convolutional and the recurrent baseline: sizes to the digit, layers as published, and that they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from wichan.errors import InvalidValueError, StoreError
from wichan.prediction import CNNPredictor, LearnedPredictor, RNNPredictor
from wichan.random import complex_normal


def size(predictor: LearnedPredictor) -> int:
    return sum(weight.numel() for weight in predictor.network.parameters())


@pytest.mark.parametrize(
    ("kind", "preset", "count", "duplex"),
    [
        (CNNPredictor, "paper-tdd", 197_134, "tdd"),
        (CNNPredictor, "paper-fdd", 197_134, "fdd"),
        (RNNPredictor, "paper-tdd", 156_312_304, "tdd"),
        (RNNPredictor, "paper-fdd", 48_980_720, "fdd"),
    ],
)
def test_published_sizes_to_the_digit(kind: type[LearnedPredictor], preset: str, count: int, duplex: str) -> None:
    with torch.device("meta"):
        predictor = kind.preset(preset)
    assert size(predictor) == count
    assert (predictor.duplex, predictor.scale_input) == (duplex, False)


# -- CNN. --


def test_cnn_is_the_published_chain(generator: torch.Generator) -> None:
    """Written out by hand: image of snapshots x subcarriers, tanh after every convolution, a mix of snapshots."""
    network = CNNPredictor(levels=(4, 8), num_subcarriers=10).network
    x = torch.randn(3, 16, 20, generator=generator)
    image = torch.stack([x[..., 0::2], x[..., 1::2]], dim=1)
    convs = [layer for layer in network.autoencoder if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(2, 4), (4, 8), (8, 4), (4, 2)]
    for conv in convs:
        image = functional.conv2d(image, conv.weight, conv.bias, padding=1).tanh()
    back = torch.empty_like(x)
    back[..., 0::2], back[..., 1::2] = image[:, 0], image[:, 1]
    want = functional.conv1d(back, network.head.weight, network.head.bias, padding=1)
    torch.testing.assert_close(network(x), want)


def test_cnn_starts_within_the_published_bounds() -> None:
    network = CNNPredictor(levels=(4, 8, 16)).network
    for conv in (layer for layer in network.autoencoder if isinstance(layer, torch.nn.Conv2d)):
        bound = conv.in_channels**-0.5
        assert float(conv.weight.detach().abs().max()) <= bound
        # 72 uniform draws or more: their largest is within a tenth of the bound but with a probability of 5e-4.
        assert float(conv.weight.detach().abs().max()) > 0.9 * bound
        assert not conv.bias.detach().any()


def test_cnn_with_skip_starts_from_what_it_saw_and_lets_large_numbers_through(generator: torch.Generator) -> None:
    network = CNNPredictor(levels=(4,), skip=True, num_subcarriers=10).network
    with torch.no_grad():
        for weight in network.autoencoder.parameters():
            weight.zero_()
    x = 50.0 * torch.randn(3, 16, 20, generator=generator)
    torch.testing.assert_close(network(x), network.head(x))


def test_cnn_without_levels_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="levels is empty"):
        CNNPredictor(levels=())
    with pytest.raises(InvalidValueError, match="levels=0 must be at least 1"):
        CNNPredictor(levels=(4, 0))


# -- RNN. --


def test_rnn_reads_the_history_and_then_runs_on_what_it_said(generator: torch.Generator) -> None:
    """Written out by hand, one cell at a time."""
    network = RNNPredictor(hidden=7, layers=2, num_subcarriers=3).network
    x = torch.randn(2, 16, 6, generator=generator)
    rnn, states = network.rnn, [torch.zeros(2, 7), torch.zeros(2, 7)]
    inputs, said = list(x.unbind(1)), []
    for step in range(19):
        seen = network.embedding(inputs[step])
        for layer in (0, 1):
            into, along = (getattr(rnn, f"weight_{kind}_l{layer}") for kind in ("ih", "hh"))
            offset = getattr(rnn, f"bias_ih_l{layer}") + getattr(rnn, f"bias_hh_l{layer}")
            states[layer] = seen = (seen @ into.T + states[layer] @ along.T + offset).tanh()
        if step >= 15:
            said.append(network.head(seen))
            inputs.append(said[-1])
    torch.testing.assert_close(network(x), torch.stack(said, dim=1))


def test_rnn_with_residual_and_silent_head_repeats_the_last_snapshot(generator: torch.Generator) -> None:
    predictor = RNNPredictor(hidden=7, layers=1, residual=True, num_subcarriers=6)
    with torch.no_grad():
        predictor.network.head.weight.zero_()
        predictor.network.head.bias.zero_()
    y = complex_normal((2, 3, 1, 16, 6), generator=generator)
    # One division and one multiplication by the root mean square.
    torch.testing.assert_close(predictor(y).h_pred, y[..., -1:, :].expand(2, 3, 1, 4, 6), rtol=1e-6, atol=1e-6)


def test_rnn_in_bands_sees_no_other_band(generator: torch.Generator) -> None:
    predictor = RNNPredictor(hidden=7, layers=1, band=2, num_subcarriers=6, scale_input=False)
    y = complex_normal((1, 2, 1, 16, 6), generator=generator)
    other = y.clone()
    other[..., 2:4] = complex_normal((1, 2, 1, 16, 2), generator=generator)
    with torch.no_grad():
        first, second = predictor(y).h_pred, predictor(other).h_pred
    torch.testing.assert_close(first[..., [0, 1, 4, 5]], second[..., [0, 1, 4, 5]])
    assert float((first - second)[..., 2:4].abs().min()) > 0
    with pytest.raises(InvalidValueError, match="band=4 does not divide num_subcarriers=6"):
        RNNPredictor(band=4, num_subcarriers=6)


# -- Checkpoints of the authors. --


def official(predictor: LearnedPredictor, prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The weights under the names of the authors' code."""
    state = {}
    for name, value in predictor.network.state_dict().items():
        if isinstance(predictor, RNNPredictor):
            name = "model." + name.replace("embedding.", "encoder.0.").replace("head.", "decoder.0.")
        elif name.startswith("autoencoder."):
            _, index, rest = name.split(".", 2)
            half, own = divmod(int(index) // 2, len(predictor.hyper["levels"]))
            name = f"{('encoder', 'decoder')[half]}.{own}.{rest}"
        else:
            name = name.replace("head.", "postprocess.")
        state[prefix + name] = value.clone()
    return state


PUBLISHED = {
    "cnn": lambda: CNNPredictor(levels=(4, 8), num_subcarriers=10, scale_input=False, seed=3),
    "rnn": lambda: RNNPredictor(hidden=7, layers=2, num_subcarriers=10, scale_input=False, seed=3),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("wrapped", [True, False])
def test_official_checkpoints_give_the_same_prediction(
    name: str, wrapped: bool, tmp_path: Path, generator: torch.Generator
) -> None:
    predictor = PUBLISHED[name]()
    state = official(predictor)
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "best.ckpt")
    options = {"num_subcarriers": 10} if name == "cnn" else {}
    loaded = type(predictor).from_official_checkpoint(tmp_path / "best.ckpt", duplex="fdd", **options)
    assert loaded.config() == predictor.config() | {"duplex": "fdd"}
    y = complex_normal((2, 3, 1, 16, 10), generator=generator)
    assert torch.equal(loaded(y).h_pred, predictor(y).h_pred)


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_checkpoints_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    predictor, path = PUBLISHED[name](), tmp_path / "best.ckpt"
    good = official(predictor)
    load = type(predictor).from_official_checkpoint
    first = next(key for key in good if key.endswith("weight"))
    last = list(good)[-1]
    spoilt = {
        "does not fit .* it lacks 1 tensors": {key: value for key, value in good.items() if key != last},
        "does not fit .* it holds unknown 1 tensors: 'surplus'": good | {"model.surplus": torch.zeros(2)},
        "does not fit .* it holds unknown 1 tensors: 'encoder.x'": good | {"encoder.x": torch.zeros(2)},
        "is damaged: .* holds NaN": good | {first: good[first] * float("nan")},
        "holds no state dict": {"state_dict": [1, 2]},
        "lacks the tensor": {"weight": torch.zeros(2)},
    }
    for message, content in spoilt.items():
        torch.save(content, path)
        with pytest.raises(StoreError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    torch.save(good, path)
    shown = {"cnn": {"num_history": 16}, "rnn": {"hidden": 7}}[name]
    with pytest.raises(InvalidValueError, match="cannot be chosen: the weights in"):
        load(path, **shown)


# -- Both learn. --


@pytest.mark.parametrize("kind", [CNNPredictor, RNNPredictor])
def test_small_networks_learn_a_channel_that_turns(kind: type[LearnedPredictor], generator: torch.Generator) -> None:
    """One path whose phase turns by 0.5 rad a snapshot: holding errs by |e^{0.5 j s} - 1|^2, steps 1 to 4."""
    predictor = kind.preset("small", num_subcarriers=6, **({"hidden": 24, "band": 3} if kind is RNNPredictor else {}))

    def draw(count: int) -> torch.Tensor:
        turned = torch.polar(torch.ones(20), 0.5 * torch.arange(20.0))[:, None]
        return complex_normal((count, 4, 1, 1, 1), generator=generator) * turned.expand(20, 6)

    def error(h: torch.Tensor) -> torch.Tensor:
        return (predictor(h[..., :16, :]).h_pred - h[..., 16:, :]).abs().square().mean() / h.abs().square().mean()

    optimizer = torch.optim.Adam(predictor.network.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = error(draw(8))
        loss.backward()
        optimizer.step()
    held = sum(abs(torch.polar(torch.ones(()), torch.tensor(0.5 * s)) - 1) ** 2 for s in (1, 2, 3, 4)) / 4
    with torch.no_grad():
        # A tenth of holding: the map is linear, and 80 steps leave far less.
        assert float(error(draw(32))) < 0.1 * float(held)
