"""Checkpoints of the authors of CSI-4CAST: read without running them, against a plain re-write of the published network."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wichan.errors import InvalidValueError, StoreError
from wichan.nn.encoder import sinusoidal_positions
from wichan.prediction import CSI4CAST
from wichan.prediction.csi4cast_official import official_name

State = dict[str, torch.Tensor]
BINS, WIDTH, HIDDEN, CHANNELS, BLOCKS, LAYERS = 10, 16, 24, 16, 4, 2
MAPS = {"tdd": (2, 4, 8, 4, 2), "fdd": (2, 4, 8, 16, 32, 16, 8, 4, 2)}
GROUPS = {"tdd": 4, "fdd": 8}
HEADS = {"tdd": 8, "fdd": 4}


def dense(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    parts = {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
    return parts | {f"{name}.num_batches_tracked": ()}


def official_shapes(duplex: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published network, with small sizes."""
    maps, groups = MAPS[duplex], GROUPS[duplex]
    half = len(maps) // 2
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (before, after) in enumerate(zip(maps, maps[1:], strict=False)):
        name = f"denoiser.encoder.{i}" if i < half else f"denoiser.decoder.{i - half}"
        shapes |= {f"{name}.0.weight": (after, before, 3, 3), f"{name}.0.bias": (after,)} | norm(f"{name}.1", after)
    for branch in ("freq", "delay"):
        sizes = (16, 12, 12, 12, 16)
        for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            shapes |= dense(f"arl.temporal_proj_{branch}.mlp.mlp.{3 * i}", out, into)
        shapes |= {f"arl.temporal_proj_{branch}.layernorm.{part}": (16,) for part in ("weight", "bias")}
        if duplex == "fdd":
            sizes = (2 * BINS, 14, 14, 2 * BINS)
            for i, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
                shapes |= dense(f"arl.subcarrier_proj_{branch}.mlp.mlp.{3 * i}", out, into)
            shapes |= {f"arl.subcarrier_proj_{branch}.layernorm.{part}": (2 * BINS,) for part in ("weight", "bias")}
        name = f"embedding.RB_{branch}"
        shapes |= {f"{name}.0.weight": (CHANNELS, 2, 3, 3), f"{name}.0.bias": (CHANNELS,)}
        shapes |= {f"{name}.{BLOCKS + 1}.weight": (2, CHANNELS, 3, 3), f"{name}.{BLOCKS + 1}.bias": (2,)}
        for i in range(1, BLOCKS + 1):
            shapes |= {f"{name}.{i}.g_pw_conv_{end}.weight": (CHANNELS, CHANNELS // groups, 1, 1) for end in ("in", "out")}
            shapes[f"{name}.{i}.dw_conv.weight"] = (CHANNELS, 1, 3, 3)
            for part in ("g_pw_conv_in_bn", "dw_conv_bn", "g_pw_conv_out_bn"):
                shapes |= norm(f"{name}.{i}.{part}", CHANNELS)
            if duplex == "tdd":
                shapes[f"{name}.{i}.ca.se.1.weight"] = (CHANNELS // 2, CHANNELS, 1, 1)
                shapes[f"{name}.{i}.ca.se.3.weight"] = (CHANNELS, CHANNELS // 2, 1, 1)
            else:
                shapes |= {f"{name}.{i}.ca.fc{j}.weight": (CHANNELS, CHANNELS, 1, 1) for j in (1, 2)}
    token = "embedding.embedding.value_embedding.tokenConv"
    shapes |= {f"{token}.weight": (WIDTH, 2 * BINS, 3), f"{token}.bias": (WIDTH,)}
    shapes |= {"embedding.embedding.temporal_embedding.embed.weight": (WIDTH, 4)} | dense(
        "embedding.predict_linear_pre", 16, 16
    )
    for i in range(LAYERS):
        name = f"transformer.transformer.layers.{i}"
        shapes |= {f"{name}.self_attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.self_attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= dense(f"{name}.self_attn.out_proj", WIDTH, WIDTH)
        shapes |= dense(f"{name}.linear1", HIDDEN, WIDTH) | dense(f"{name}.linear2", WIDTH, HIDDEN)
        shapes |= {f"{name}.norm{j}.{part}": (WIDTH,) for j in (1, 2) for part in ("weight", "bias")}
    return shapes | dense("mlp.pred_to_data", 2 * BINS, WIDTH) | dense("mlp.hist_to_pred", 4, 16)


def random_state(duplex: str, dtype: torch.dtype = torch.float64) -> State:
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in official_shapes(duplex).items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = (0.5 + value.abs()).to(dtype)
        else:
            state[name] = (value / math.sqrt(max(1, math.prod(shape[1:])))).to(dtype)
    table = sinusoidal_positions(5000, WIDTH).to(dtype)
    return state | {"embedding.embedding.position_embedding.pe": table}


# -- The published network, written plainly from modules and functions of torch. --


class Published:
    """It reads tensors by the authors' names."""

    def __init__(self, state: State, duplex: str) -> None:
        self.state, self.duplex = state, duplex

    def dense(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def conv(self, name: str, x: torch.Tensor, **options: Any) -> torch.Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def batch_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def perceptron(self, name: str, x: torch.Tensor, count: int) -> torch.Tensor:
        for i in range(count):
            x = self.dense(f"{name}.mlp.mlp.{3 * i}", x)
            x = x.relu() if i + 1 < count else x
        return x

    def temporal(self, branch: str, x: torch.Tensor) -> torch.Tensor:
        name = f"arl.temporal_proj_{branch}"
        return self.layer_norm(f"{name}.layernorm", self.perceptron(name, x.transpose(1, 2), 4)).transpose(1, 2)

    def subcarrier(self, branch: str, x: torch.Tensor) -> torch.Tensor:
        name = f"arl.subcarrier_proj_{branch}"
        change = self.perceptron(name, x, 3).relu()
        return self.layer_norm(f"{name}.layernorm", x * change if branch == "delay" else x + change)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        groups = GROUPS[self.duplex]
        out = self.batch_norm(f"{name}.g_pw_conv_in_bn", self.conv(f"{name}.g_pw_conv_in", x, groups=groups)).relu()
        # Map j of group i goes to place j * groups + i.
        order = [i * (CHANNELS // groups) + j for j in range(CHANNELS // groups) for i in range(groups)]
        out = self.batch_norm(f"{name}.dw_conv_bn", self.conv(f"{name}.dw_conv", out[:, order], padding=1, groups=CHANNELS))
        out = self.batch_norm(f"{name}.g_pw_conv_out_bn", self.conv(f"{name}.g_pw_conv_out", out, groups=groups))
        if self.duplex == "tdd":
            pooled = F.adaptive_avg_pool2d(out, 1)
            gate = self.conv(f"{name}.ca.se.3", self.conv(f"{name}.ca.se.1", pooled).relu())
        else:
            both = (F.adaptive_avg_pool2d(out, 1), F.adaptive_max_pool2d(out, 1))
            gate = sum(self.conv(f"{name}.ca.fc2", self.conv(f"{name}.ca.fc1", pooled).relu()) for pooled in both)
        return (torch.sigmoid(torch.as_tensor(gate)) * out + x).relu()

    def stack(self, branch: str, x: torch.Tensor) -> torch.Tensor:
        name = f"embedding.RB_{branch}"
        maps = self.conv(f"{name}.0", image(x), padding=1)
        for i in range(1, BLOCKS + 1):
            maps = self.block(f"{name}.{i}", maps)
        return flat(self.conv(f"{name}.{BLOCKS + 1}", maps, padding=1))

    def transformer(self, x: torch.Tensor) -> torch.Tensor:
        prefix = "transformer.transformer.layers."
        with torch.random.fork_rng(devices=[]):  # new layers draw their weights from the global generator
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS[self.duplex], HIDDEN, 0.1, batch_first=True)
            encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).double().eval()
        own = {f"layers.{name.removeprefix(prefix)}": value for name, value in self.state.items() if name.startswith(prefix)}
        encoder.load_state_dict(own)
        return encoder(x)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        maps = MAPS[self.duplex]
        noise, half = image(x), len(maps) // 2
        for i in range(len(maps) - 1):
            name = f"denoiser.encoder.{i}" if i < half else f"denoiser.decoder.{i - half}"
            noise = self.batch_norm(f"{name}.1", self.conv(f"{name}.0", noise, padding=1)).relu()
        x = x - flat(noise)
        mean, spread = x.mean(), x.std(correction=0)
        x = (x - mean) / spread
        taps = torch.fft.ifft(torch.complex(x[..., 0::2], x[..., 1::2]), dim=-1)
        delays = torch.stack([taps.real, taps.imag], -1).flatten(-2)
        branches = []
        for branch, value in (("delay", delays), ("freq", x)):
            value = self.temporal(branch, value)
            value = self.subcarrier(branch, value) if self.duplex == "fdd" else value
            branches.append(self.stack(branch, value))
        name = "embedding.embedding.value_embedding.tokenConv"
        features = sum(branches)
        around = torch.cat([features[:, -1:], features, features[:, :1]], 1)  # circular
        weight = self.state[f"{name}.weight"]
        tokens = sum(around[:, i : i + 16] @ weight[:, :, i].T for i in range(3)) + self.state[f"{name}.bias"]
        tokens = tokens + self.state["embedding.embedding.position_embedding.pe"][:, :16]
        tokens = self.dense("embedding.predict_linear_pre", tokens.transpose(1, 2)).transpose(1, 2)
        features = self.dense("mlp.pred_to_data", self.transformer(tokens))
        return self.dense("mlp.hist_to_pred", features.transpose(1, 2)).transpose(1, 2) * spread + mean


def image(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[..., 0::2], x[..., 1::2]], 1)


def flat(maps: torch.Tensor) -> torch.Tensor:
    return torch.stack([maps[:, 0], maps[:, 1]], -1).flatten(-2)


# -- Files. --


def save(path: Path, state: State, *, wrap: str = "model.") -> Path:
    """A checkpoint as a trainer leaves it, with pickled objects of a module that is gone when the file is read."""
    module = types.ModuleType("code_of_the_authors")
    sys.modules[module.__name__] = module
    kind = type("Config", (), {"__module__": module.__name__})
    module.Config = kind  # type: ignore[attr-defined]
    config = kind()
    config.__dict__.update(dim=768, lr=1e-3, folder=Path("runs"))
    content = {
        "epoch": 85,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {wrap + name: value for name, value in state.items()},
        "hyper_parameters": {"config": config},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}],
    }
    torch.save(content, path)
    del sys.modules[module.__name__]
    return path


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_predictions_equal_the_published_network(tmp_path: Path, generator: torch.Generator, duplex: str) -> None:
    state = random_state(duplex)
    predictor = CSI4CAST.from_official_checkpoint(save(tmp_path / "last.ckpt", state))
    assert "code_of_the_authors" not in sys.modules
    assert (predictor.duplex, predictor.num_subcarriers, predictor.training) == (duplex, BINS, False)
    assert predictor.settings.delay_operation == "multiply" and predictor.settings.rectified and not predictor.scale_input

    history = torch.randn(1, 6, 1, 16, BINS, generator=generator, dtype=torch.complex128)
    scored = torch.view_as_real(history[0, :, 0]).flatten(-2) / predictor.spread.repeat(BINS)
    want = Published(state, duplex)(scored) * predictor.spread.repeat(BINS)
    have = torch.view_as_real(predictor(history).h_pred[0, :, 0]).flatten(-2)
    assert want.std() > 0.05
    # Sums in another order; positions are rounded to single precision in both.
    assert (have - want).abs().max() < 1e-10 * want.abs().max()


def test_options_single_precision_and_a_bare_state_dict(tmp_path: Path) -> None:
    state = random_state("tdd", torch.float32)
    torch.save(state, tmp_path / "bare.pt")
    predictor = CSI4CAST.from_official_checkpoint(tmp_path / "bare.pt", heads=4, standardise="batch", dropout=0.3)
    assert (predictor.settings.heads, predictor.settings.standardise, predictor.settings.dropout) == (4, "batch", 0.3)
    assert all(value.dtype == torch.float32 for value in predictor.network.parameters())
    again = CSI4CAST.from_config(predictor.config())
    assert again.settings == predictor.settings
    again.network.load_state_dict(predictor.network.state_dict())


@pytest.mark.parametrize("preset", ["paper-tdd", "paper-fdd"])
def test_every_tensor_has_an_official_name(preset: str) -> None:
    with torch.device("meta"):
        settings = CSI4CAST.preset(preset, num_subcarriers=BINS, width=WIDTH, hidden=HIDDEN, channels=CHANNELS, layers=LAYERS)
    s = settings.settings
    names = {official_name(name, len(s.denoiser), s.blocks, s.attention) for name in settings.network.state_dict()}
    assert names == official_shapes(preset[-3:]).keys()


def changed(state: State, change: str) -> State:
    state = dict(state)
    word, _, name = change.partition(" ")
    if word == "without":
        del state[name]
    elif word == "extra":
        state["denoiser.post_bn.evil\nname"] = torch.ones(1)
    elif word == "shape":
        state["mlp.pred_to_data.bias"] = torch.ones(3)
    elif word == "integers":
        state["mlp.pred_to_data.bias"] = torch.ones(2 * BINS, dtype=torch.int64)
    elif word == "nan":
        state["mlp.pred_to_data.bias"] = torch.full((2 * BINS,), math.nan)
    elif word == "variance":
        state["denoiser.encoder.0.1.running_var"] = -torch.ones(4, dtype=torch.float64)
    elif word == "positions":
        state["embedding.embedding.position_embedding.pe"] = torch.zeros(1, 5000, WIDTH)
    elif word == "layers":
        state |= {f"transformer.transformer.layers.{i}.linear1.weight": torch.ones(1) for i in range(500)}
    elif word == "wide":  # a network of this width would take 48 GB
        state["embedding.embedding.value_embedding.tokenConv.weight"] = torch.ones(100_000, 2, 3)
        del state["embedding.embedding.position_embedding.pe"]
    elif word == "odd":
        state["embedding.embedding.value_embedding.tokenConv.weight"] = torch.ones(WIDTH, 7, 3)
    elif word == "foreign":
        return {"conv1.weight": torch.ones(3)}
    elif word == "empty":
        return {}
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("without mlp.pred_to_data.bias", "lacks 1 tensors: 'mlp.pred_to_data.bias'"),
        ("without embedding.predict_linear_pre.weight", "lacks the tensor embedding.predict_linear_pre.weight"),
        ("extra", "unknown 1 tensors"),
        ("shape", r"mlp.pred_to_data.bias is \(3,\) torch.float32, it must be \(20,\)"),
        ("integers", "torch.int64, it must be"),
        ("nan", "holds NaN or infinite"),
        ("variance", "holds negative values"),
        ("positions", "not the sinusoidal one"),
        ("layers", "more than 100 layers"),
        ("wide", "it must be"),
        ("odd", "must be pairs"),
        ("foreign", "no network of CSI-4CAST's authors: its tensors are 'conv1.weight'"),
        ("empty", "holds no state dict"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, change: str, message: str) -> None:
    path = save(tmp_path / "x.ckpt", changed(random_state("tdd", torch.float32), change))
    with pytest.raises(StoreError, match=message) as error:
        CSI4CAST.from_official_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_other_files_and_options(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", random_state("tdd", torch.float32))
    with pytest.raises(InvalidValueError, match=r"width=32 cannot be chosen: the weights in .* show it"):
        CSI4CAST.from_official_checkpoint(path, width=32)
    with pytest.raises(InvalidValueError, match="design='weights' cannot be chosen"):
        CSI4CAST.from_official_checkpoint(path, design="weights")
    with pytest.raises(InvalidValueError, match="depth"):
        CSI4CAST.from_official_checkpoint(path, depth=3)
    with pytest.raises(InvalidValueError, match="not divisible"):
        CSI4CAST.from_official_checkpoint(path, heads=5)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(StoreError, match="list stands where state_dict must be"):
        CSI4CAST.from_official_checkpoint(tmp_path / "list.pt")
    torch.save({"state_dict": {"a": [1]}}, tmp_path / "lists.pt")
    with pytest.raises(StoreError, match="a list stands where a tensor must be"):
        CSI4CAST.from_official_checkpoint(tmp_path / "lists.pt")
    with pytest.raises(StoreError, match="does not exist"):
        CSI4CAST.from_official_checkpoint(tmp_path / "absent.pt")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreError, match="cut short"):
        CSI4CAST.from_official_checkpoint(path)
