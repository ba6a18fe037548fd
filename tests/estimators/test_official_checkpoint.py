"""Checkpoints of the authors of AdaFortiTran: read without running them, against a plain re-write of the published network."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, WichanError
from wichan.estimators import AdaFortiTran, FortiTran, LearnedEstimator, Linear
from wichan.estimators.official import load_official, official_name
from wichan.grid import OFDMGrid
from wichan.nn.encoder import sinusoidal_positions
from wichan.observations import OFDMPilots

State = dict[str, torch.Tensor]
CLASSES: dict[str, type[LearnedEstimator]] = {"linear": Linear, "fortitran": FortiTran, "adafortitran": AdaFortiTran}


def official_shapes(kind: str, pilots: int, width: int, layers: int = 6) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published networks, in the order of their state dict."""
    if kind == "linear":
        return {"linear.weight": (1680, pilots), "linear.bias": (1680,)}

    def dense(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def enhancer(name: str) -> dict[str, tuple[int, ...]]:
        sizes = [(0, 8, 1), (2, 32, 8), (4, 8, 32), (6, 1, 8)]
        parts = [{f"{name}.conv_block.{i}.weight": (o, c, 3, 3), f"{name}.conv_block.{i}.bias": (o,)} for i, o, c in sizes]
        return {key: value for part in parts for key, value in part.items()}

    shapes = dense("pilot_upsampler", 1680, pilots) | enhancer("initial_enhancer")
    if kind == "adafortitran":
        for name in ("snr", "ds", "dop"):
            mlp = f"channel_adapter.{name}_encoder"
            shapes |= dense(f"{mlp}.0", 7, 1) | dense(f"{mlp}.2", 42, 7) | dense(f"{mlp}.4", 560, 42)
    shapes |= dense("transformer_encoder.linear_1", width, 12 if kind == "adafortitran" else 6)
    shapes["transformer_encoder.positional_encoding.position_embeddings"] = (1, 512, width)
    for layer in range(layers):
        prefix = f"transformer_encoder.transformer.layers.{layer}."
        shapes |= {f"{prefix}self_attn.in_proj_weight": (3 * width, width), f"{prefix}self_attn.in_proj_bias": (3 * width,)}
        shapes |= dense(f"{prefix}self_attn.out_proj", width, width)
        shapes |= dense(f"{prefix}linear1", 2 * width, width) | dense(f"{prefix}linear2", width, 2 * width)
        shapes |= {f"{prefix}norm{i}.{part}": (width,) for i in (1, 2) for part in ("weight", "bias")}
    return shapes | dense("transformer_encoder.linear_2", 6, width) | enhancer("final_refiner")


def random_state(kind: str, pilots: int = 80, width: int = 32, layers: int = 6, dtype: torch.dtype = torch.float64) -> State:
    generator = torch.Generator().manual_seed(11)
    state = {}
    for name, shape in official_shapes(kind, pilots, width, layers).items():
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 and "position" not in name else 0.3
        value = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        state[name] = (1 + value if name.endswith(("norm1.weight", "norm2.weight")) else value).to(dtype)
    return state


# -- The published network, written plainly. --


def enhance(state: State, name: str, image: torch.Tensor) -> torch.Tensor:
    image = image[:, None]
    for i in (0, 2, 4, 6):
        image = F.conv2d(image, state[f"{name}.conv_block.{i}.weight"], state[f"{name}.conv_block.{i}.bias"], padding=1)
        image = image.relu() if i < 6 else image
    return image[:, 0]


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def encode(state: State, layer: int, x: torch.Tensor, heads: int) -> torch.Tensor:
    def get(name: str) -> torch.Tensor:
        return state[f"transformer_encoder.transformer.layers.{layer}.{name}"]

    def dense(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ get(f"{name}.weight").T + get(f"{name}.bias")

    width = x.shape[-1]
    outputs = []
    for head in range(heads):  # one head, one matrix at a time
        size = width // heads
        rows = [slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3)]
        q, k, v = (x @ get("self_attn.in_proj_weight")[r].T + get("self_attn.in_proj_bias")[r] for r in rows)
        outputs.append(((q @ k.transpose(1, 2)) / math.sqrt(size)).softmax(-1) @ v)
    x = layer_norm(x + dense("self_attn.out_proj", torch.cat(outputs, -1)), get("norm1.weight"), get("norm1.bias"))
    hidden = dense("linear1", x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return layer_norm(x + dense("linear2", hidden), get("norm2.weight"), get("norm2.bias"))


def published(kind: str, state: State, pilots: torch.Tensor, conditions: list[torch.Tensor], heads: int = 4) -> torch.Tensor:
    """(B, subcarriers, symbols) complex pilots to (B, 120, 14); real and imaginary parts in two passes."""
    if not pilots.is_complex():
        flat = pilots.reshape(len(pilots), -1)
        if kind == "linear":
            return (flat @ state["linear.weight"].T + state["linear.bias"]).reshape(-1, 120, 14)
        coarse = (flat @ state["pilot_upsampler.weight"].T + state["pilot_upsampler.bias"]).reshape(-1, 120, 14)
        coarse = enhance(state, "initial_enhancer", coarse)
        places = [(3 * row, 2 * column) for row in range(40) for column in range(7)]
        tokens = torch.stack([coarse[:, a : a + 3, b : b + 2].reshape(-1, 6) for a, b in places], 1)
        if kind == "adafortitran":
            for name, value in zip(("snr", "ds", "dop"), conditions, strict=True):
                for i in (0, 2, 4):
                    prefix = f"channel_adapter.{name}_encoder.{i}"
                    value = value @ state[f"{prefix}.weight"].T + state[f"{prefix}.bias"]
                    value = value.relu() if i < 4 else value
                tokens = torch.cat([tokens, value.reshape(-1, 280, 2)], -1)
        x = tokens @ state["transformer_encoder.linear_1.weight"].T + state["transformer_encoder.linear_1.bias"]
        x = x + state["transformer_encoder.positional_encoding.position_embeddings"][:, :280]
        layer = 0
        while f"transformer_encoder.transformer.layers.{layer}.norm1.weight" in state:
            x = encode(state, layer, x, heads)
            layer += 1
        x = x @ state["transformer_encoder.linear_2.weight"].T + state["transformer_encoder.linear_2.bias"]
        rest = torch.zeros_like(coarse)
        for token, (a, b) in enumerate(places):
            rest[:, a : a + 3, b : b + 2] = x[:, token].reshape(-1, 3, 2)
        return enhance(state, "final_refiner", coarse + rest)
    return torch.complex(*(published(kind, state, part, conditions, heads) for part in (pilots.real, pilots.imag)))


# -- Files. --


def save(path: Path, state: State, *, config: dict[str, Any] | None = None, wrap: str = "") -> Path:
    """A checkpoint with pickled objects of a module that is gone when the file is read."""
    module = types.ModuleType("src_of_the_authors")
    sys.modules[module.__name__] = module
    for name in ("SystemConfig", "ModelConfig", "TrainingArguments"):
        kind = type(name, (), {"__module__": module.__name__})
        setattr(module, name, kind)
    objects = [module.SystemConfig(), module.ModelConfig(), module.TrainingArguments()]
    # As pydantic pickles a model: its fields lie one level down.
    objects[1].__dict__.update({"__dict__": config or {}, "__pydantic_fields_set__": {"num_head"}})
    objects[2].__dict__.update(log_dir=Path("runs"), lr=1e-3)
    content = {
        "epoch": 85,
        "model_state_dict": {wrap + name: value for name, value in state.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "val_loss": 2.2e-3,
        **dict(zip(("system_config", "model_config", "args"), objects, strict=True)),
    }
    torch.save(content, path)
    del sys.modules[module.__name__]
    return path


def draw(subcarriers: int, symbols: int = 2, batch: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    pilots = torch.randn(batch, subcarriers, symbols, generator=generator, dtype=torch.complex128)
    told = {"snr_db": [0.0, 20.0, 10.0], "delay_spread": [50e-9, 300e-9, 125e-9], "max_doppler": [200.0, 1000.0, 50.0]}
    return pilots, {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}


def received(obs: OFDMPilots, pilots: torch.Tensor) -> torch.Tensor:
    """Received grid whose least squares are ``pilots`` (B, subcarriers, symbols)."""
    y = torch.zeros(len(pilots), 1, *obs.grid.shape, dtype=pilots.dtype)
    y[:, 0, obs.pilot_symbols[:, None], obs.pilot_subcarriers] = pilots.transpose(1, 2)
    return y * obs.pilots[0].to(y.dtype)


@pytest.mark.parametrize(
    ("kind", "count", "width", "options"),
    [
        ("linear", 80, 32, {}),
        ("fortitran", 80, 32, {"subcarrier_offset": 1}),
        ("adafortitran", 80, 32, {}),
        ("adafortitran", 24, 64, {}),
    ],
)
def test_estimates_equal_the_published_network(
    tmp_path: Path, kind: str, count: int, width: int, options: dict[str, int]
) -> None:
    state = random_state(kind, count, width)
    path = save(tmp_path / "checkpoint_epoch_85.pt", state, wrap="module." if kind == "fortitran" else "")
    est = load_official(CLASSES[kind], path, **options)
    assert "src_of_the_authors" not in sys.modules
    assert not est.training and est.obs.num_pilots == count and est.obs.pilot_symbols.tolist() == [2, 11]
    step = 240 // count
    assert est.obs.pilot_subcarriers.tolist() == list(range(options.get("subcarrier_offset", 0), 120, step))

    pilots, told = draw(count // 2)
    raw = [told["snr_db"], told["delay_spread"] * 1e9, told["max_doppler"]]
    want = published(kind, state, pilots, [value[:, None] for value in raw])
    have = est(received(est.obs, pilots), 0.1, **told).h_hat.detach()[:, 0, 0].transpose(1, 2)
    assert want.abs().square().mean() > 0.01
    # Sums in another order; conditions up to 1000 amplify the rounding of AdaFortiTran.
    assert (have - want).abs().max() < 1e-11


def test_classmethods_read_checkpoints(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", random_state("adafortitran", dtype=torch.float32))
    est = AdaFortiTran.from_official_checkpoint(path)
    assert isinstance(est, AdaFortiTran) and est.told == ("snr_db", "delay_spread", "max_doppler")
    assert est.network.upsampler.weight.dtype == torch.float32
    plain = FortiTran.from_official_checkpoint(save(tmp_path / "y.pt", random_state("fortitran", layers=2)), heads=8)
    assert plain.hyper["heads"] == 8 and plain.hyper["layers"] == 2


def test_a_bare_state_dict_and_own_pilots(tmp_path: Path) -> None:
    state = random_state("fortitran", 80, layers=1)
    torch.save(state, tmp_path / "x.pt")
    obs = OFDMPilots(OFDMGrid(14, 120, 15e3), symbols=(0, 3, 6, 9), subcarrier_step=6)
    est = load_official(FortiTran, tmp_path / "x.pt", obs)
    pilots, _ = draw(20, 4)
    want = published("fortitran", state, pilots, [])
    have = est(received(obs, pilots), 0.1).h_hat.detach()[:, 0, 0].transpose(1, 2)
    assert (have - want).abs().max() < 1e-11


def test_the_configuration_tells_what_the_weights_do_not(tmp_path: Path) -> None:
    state = random_state("fortitran", layers=1)
    config = {"num_head": 8, "patch_size": (3, 2), "dropout": 0.2, "activation": "gelu", "model_dim": 32}
    est = load_official(FortiTran, save(tmp_path / "x.pt", state, config=config))
    assert (est.hyper["heads"], est.hyper["patch"], est.hyper["dropout"]) == (8, [3, 2], 0.2)
    pilots, _ = draw(40)
    have = est(received(est.obs, pilots), 0.1).h_hat.detach()[:, 0, 0].transpose(1, 2)
    assert (have - published("fortitran", state, pilots, [], heads=8)).abs().max() < 1e-11
    assert (have - published("fortitran", state, pilots, [], heads=4)).abs().max() > 1e-3
    with pytest.raises(StoreError, match="activation 'relu'; only 'gelu'"):
        load_official(FortiTran, save(tmp_path / "y.pt", state, config={"activation": "relu"}))


def test_sinusoidal_positions_are_recognised(tmp_path: Path) -> None:
    state = random_state("fortitran", layers=1)
    del state["transformer_encoder.positional_encoding.position_embeddings"]
    table = sinusoidal_positions(400, 32)
    est = load_official(FortiTran, save(tmp_path / "x.pt", state | {"transformer_encoder.positional_encoding.pe": table}))
    assert est.hyper["positions"] == "sinusoidal"
    with pytest.raises(StoreError, match="not the sinusoidal one"):
        load_official(FortiTran, save(tmp_path / "y.pt", state | {"transformer_encoder.positional_encoding.pe": 2 * table}))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_parameter_has_an_official_name(kind: str) -> None:
    options = {} if kind == "linear" else {"condition_ranges": None}
    est = CLASSES[kind](OFDMPilots(OFDMGrid(14, 120, 15e3), symbols=(2, 11), subcarrier_step=3), **options)
    names = {official_name(kind, name): tuple(value.shape) for name, value in est.network.named_parameters()}
    assert names == official_shapes(kind, 80, 32)


# -- What does not fit. --


def changed(state: State, change: str) -> State:
    first, table = "transformer_encoder.linear_1.weight", "transformer_encoder.positional_encoding.position_embeddings"
    state = dict(state)
    if change.startswith("without "):
        del state[change.removeprefix("without ")]
    elif change == "extra":
        state["transformer_encoder.evil\nname"] = torch.ones(1)
    elif change == "shape":
        state["transformer_encoder.linear_2.weight"] = torch.ones(6, 33)
    elif change == "integers":
        state["final_refiner.conv_block.6.bias"] = torch.ones(1, dtype=torch.int64)
    elif change == "nan":
        state["final_refiner.conv_block.6.bias"] = torch.full((1,), math.nan)
    elif change == "wide":  # a network of this width would take 12 TB
        state[first], state[table] = torch.ones(1_000_000, 1).expand(-1, 6).clone(), torch.zeros(1, 1, 1_000_000)
    elif change == "vector":
        state["pilot_upsampler.weight"] = torch.ones(80)
    elif change == "layers":
        state |= {f"transformer_encoder.transformer.layers.{i}.norm1.weight": torch.ones(1) for i in range(500)}
    elif change == "empty":
        return {}
    elif change == "foreign":
        return {"conv1.weight": torch.ones(3)}
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("without final_refiner.conv_block.0.bias", "lacks 1 tensors: 'final_refiner.conv_block.0.bias'"),
        ("without transformer_encoder.linear_1.weight", "lacks the matrix transformer_encoder.linear_1.weight"),
        ("without transformer_encoder.positional_encoding.position_embeddings", "lacks the table"),
        ("extra", "unknown 1 tensors"),
        ("shape", r"linear_2.weight is \(6, 33\) torch.float32, it must be \(6, 32\)"),
        ("integers", "torch.int64, it must be"),
        ("nan", "NaN or infinite"),
        ("wide", "self_attn.in_proj_weight must have shape"),
        ("vector", r"its first layer has shape \(80,\)"),
        ("layers", "more than 100 layers"),
        ("empty", "holds no state dict"),
        ("foreign", "no network of AdaFortiTran's authors: its tensors are 'conv1.weight'"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, change: str, message: str) -> None:
    path = save(tmp_path / "x.pt", changed(random_state("fortitran", layers=1), change))
    with pytest.raises(StoreError, match=message) as error:
        load_official(FortiTran, path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_another_grid_or_kind(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", random_state("fortitran", layers=1))
    grid = OFDMGrid(14, 120, 15e3)
    other = OFDMPilots(OFDMGrid(14, 48, 15e3), symbols=(2, 11), subcarrier_step=3)
    fewer = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=4)
    same = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
    small = {"linear.weight": torch.ones(600, 80), "linear.bias": torch.ones(600)}
    odd = {"linear.weight": torch.ones(1680, 81), "linear.bias": torch.ones(1680)}
    torch.save(small, tmp_path / "small.pt")
    torch.save(odd, tmp_path / "odd.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": [1]}, tmp_path / "lists.pt")
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[WichanError], str]] = [
        (
            FortiTran,
            (path, other),
            {},
            InvalidValueError,
            "made for 80 pilots on 1680 resource elements, obs has 32 pilots on 672",
        ),
        (FortiTran, (path, fewer), {}, InvalidValueError, "obs has 60 pilots on 1680"),
        (FortiTran, (path, same), {"subcarrier_offset": 1}, InvalidValueError, "both given"),
        (FortiTran, (path,), {"subcarrier_offset": 3}, InvalidValueError, "cannot share evenly"),
        (FortiTran, (path, grid), {}, InvalidTypeError, "obs must be OFDMPilots"),
        (FortiTran, (path,), {"depth": 3}, InvalidTypeError, "an option does not fit"),
        (FortiTran, (path,), {"heads": 5}, InvalidValueError, "not divisible"),
        (AdaFortiTran, (path,), {}, InvalidValueError, "of kind 'fortitran', not 'adafortitran'"),
        (Linear, (tmp_path / "small.pt",), {}, InvalidValueError, "made for 600 resource elements, not for 120 x 14"),
        (Linear, (tmp_path / "odd.pt",), {}, InvalidValueError, "cannot share evenly"),
        (Linear, (tmp_path / "list.pt",), {}, StoreError, "holds no state dict"),
        (Linear, (tmp_path / "lists.pt",), {}, StoreError, "a list stands where a tensor must be"),
        (Linear, (tmp_path / "absent.pt",), {}, StoreError, "does not exist"),
    ]
    for cls, arguments, options, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            load_official(cls, *arguments, **options)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreError, match="cut short"):
        load_official(FortiTran, path)
