"""FortiTran, AdaFortiTran and the linear estimator against numbers that the authors' code gave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from wichan.estimators import AdaFortiTran, CeViT, FortiTran, LearnedEstimator, Linear

# Estimates of the authors' code (float64, weights and inputs by formula): H[0,0,0], H[0,60,7], H[1,119,13], mean |H|^2.
GOLDEN = {
    ("linear", "paper"): (1.139281731 + 0.226931789j, 0.121392395 - 0.088457611j, -0.150648688 - 0.153401114j, 1.025928170),
    ("fortitran", "paper"): (0.271253500 + 0.349761580j, 0.333293151 + 0.348374817j, 0.001354764 - 0.058069121j, 0.146356273),
    ("adafortitran", "paper"): (
        -0.117152978 - 0.125372297j,
        -0.687889617 - 0.864779286j,
        -0.037412449 - 0.030082954j,
        0.818854545,
    ),
    ("fortitran", "paper-large"): (
        0.286418895 + 0.303203270j,
        0.304313370 + 0.238979299j,
        0.026036797 + 0.011784383j,
        0.145468368,
    ),
    ("adafortitran", "paper-large"): (
        -0.162249274 - 0.171199731j,
        -0.317396220 - 0.260991643j,
        -0.115847639 - 0.110848827j,
        0.307687845,
    ),
}
CLASSES = {"linear": Linear, "fortitran": FortiTran, "adafortitran": AdaFortiTran, "cevit": CeViT}
PARAMETERS = {
    ("linear", "paper"): 136_080,
    ("linear", "paper-large"): 42_000,
    ("fortitran", "paper"): 213_752,
    ("adafortitran", "paper"): 287_234,
    ("fortitran", "paper-large"): 913_688,
    ("adafortitran", "paper-large"): 987_746,
    ("cevit", "paper"): 155_416,
}


def formula(k: int, shape: torch.Size, layer_norm: bool) -> torch.Tensor:
    """Weights of tensor ``k`` from a hash of their position."""
    j = torch.arange(shape.numel(), dtype=torch.int64)
    a = (2654435761 * j + 97531 * k + 12345) % 2**32
    a = ((a ^ (a >> 15)) * 1103515245) % 2**32
    a = a ^ (a >> 13)
    r = a.double() / 2**32 - 0.5
    if layer_norm:
        value = 1 + 0.2 * r
    elif len(shape) == 1 or len(shape) == 3:  # vectors, and the table of positions
        value = 0.2 * r
    else:
        value = 2 * r * math.sqrt(3 / (shape.numel() / shape[0]))
    return value.reshape(shape)


def fill(estimator: torch.nn.Module) -> None:
    parameters = dict(estimator.network.named_parameters())
    names = [name for name in parameters if name != "positions"]
    if "positions" in parameters:  # the authors' table belongs to the encoder and comes after its first layer
        names.insert(names.index("embedding.bias") + 1, "positions")
    with torch.no_grad():
        for k, name in enumerate(names):
            parameter = parameters[name]
            parameter.copy_(formula(k, parameter.shape, name.endswith("norm.weight")))


def golden_input(estimator: torch.nn.Module) -> torch.Tensor:
    """Received grid whose least-squares pilots are those of the published vectors."""
    obs = estimator.obs
    symbols, subcarriers = obs.pilot_symbols, obs.pilot_subcarriers
    rows, columns = torch.arange(len(subcarriers), dtype=torch.float64), torch.arange(len(symbols), dtype=torch.float64)
    i, s = torch.meshgrid(rows, columns, indexing="ij")
    y = torch.zeros(2, 1, *obs.grid.shape, dtype=torch.complex128)
    for b in range(2):
        x = torch.complex((0.1 * i + 0.5 * s + b).cos(), (0.07 * i - 0.3 * s + b).sin())
        y[b, 0, symbols[:, None], subcarriers] = x.T
    return y * obs.pilots[0].to(y.dtype)


@pytest.mark.parametrize(("kind", "preset"), GOLDEN)
def test_estimates_equal_those_of_the_authors_code(kind: str, preset: str) -> None:
    options = {"condition_ranges": None} if kind == "linear" else {}
    estimator = CLASSES[kind].preset(preset, **options).double().eval()
    fill(estimator)
    told = {"snr_db": [0.0, 20.0], "delay_spread": [50e-9, 300e-9], "max_doppler": [200.0, 1000.0]}
    conditions = {name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
    h = estimator(golden_input(estimator), 0.1, **conditions).h_hat.detach()[:, 0, 0].transpose(-1, -2)
    found = (h[0, 0, 0], h[0, 60, 7], h[1, 119, 13], h.abs().square().mean())
    for have, want in zip(found, GOLDEN[kind, preset], strict=True):
        assert abs(complex(have) - want) < 1e-9  # as many digits as were printed


@pytest.mark.parametrize(("kind", "preset"), PARAMETERS)
def test_parameter_counts_are_those_of_the_authors_code(kind: str, preset: str) -> None:
    estimator = CLASSES[kind].preset(preset)
    assert sum(p.numel() for p in estimator.network.parameters()) == PARAMETERS[kind, preset]


def test_parameter_counts_of_the_wide_network_on_many_pilots() -> None:
    counts = [sum(p.numel() for p in cls.preset("paper", width=128).network.parameters()) for cls in (FortiTran, AdaFortiTran)]
    assert counts == [1_007_768, 1_081_826]


# -- The same layers, written again in NumPy from their description: real and imaginary parts one after the other. --

Weights = dict[str, np.ndarray]


def linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def enhance(weights: Weights, name: str, image: np.ndarray) -> np.ndarray:
    """Four convolutions 3 x 3 over (rows, columns), zeros around the edge, ReLU between them."""
    maps = image[None]
    for i in (0, 2, 4, 6):
        kernel, bias = weights[f"{name}.layers.{i}.weight"], weights[f"{name}.layers.{i}.bias"]
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
        out = np.zeros((kernel.shape[0], *image.shape)) + bias[:, None, None]
        for row in range(3):
            for column in range(3):
                seen = padded[:, row : row + image.shape[0], column : column + image.shape[1]]
                out += np.einsum("oi,irc->orc", kernel[:, :, row, column], seen)
        maps = np.maximum(out, 0) if i < 6 else out
    return maps[0]


def normalise(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(weights: Weights, name: str, x: np.ndarray, heads: int) -> np.ndarray:
    width = x.shape[1] // heads
    query, key, value = np.split(x @ weights[f"{name}.in_weight"].T + weights[f"{name}.in_bias"], 3, axis=1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        score = query[:, part] @ key[:, part].T / math.sqrt(width)
        share = np.exp(score - score.max(1, keepdims=True))
        mixed.append(share / share.sum(1, keepdims=True) @ value[:, part])
    return linear(weights, f"{name}.out", np.concatenate(mixed, axis=1))


def feed_forward(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    hidden = linear(weights, f"{name}.0", x)
    return linear(weights, f"{name}.2", hidden * (1 + erf(hidden / math.sqrt(2))) / 2)


def written_again(weights: Weights, pilots: np.ndarray, conditions: np.ndarray | None) -> np.ndarray:
    """Real pilots (P,) to (120, 14); conditions (3,) as the network sees them."""
    coarse = enhance(weights, "first_enhancer", linear(weights, "upsampler", pilots).reshape(120, 14))
    patches = [coarse[r : r + 3, c : c + 2].ravel() for r in range(0, 120, 3) for c in range(0, 14, 2)]
    tokens = np.array(patches)
    for name, value in zip(("snr_db", "delay_spread", "max_doppler"), [] if conditions is None else conditions, strict=False):
        hidden = np.array([value])
        for i in (0, 2):
            hidden = np.maximum(linear(weights, f"adapter.{name}.{i}", hidden), 0)
        tokens = np.hstack([tokens, linear(weights, f"adapter.{name}.4", hidden).reshape(280, 2)])
    x = linear(weights, "embedding", tokens) + weights["positions"][0, :280]
    for layer in range(6):
        at = f"encoder.{layer}"
        x = normalise(weights, f"{at}.attention_norm", x + attend(weights, f"{at}.attention", x, heads=4))
        x = normalise(weights, f"{at}.feed_forward_norm", x + feed_forward(weights, f"{at}.feed_forward", x))
    correction = np.zeros((120, 14))
    for token, patch in enumerate(linear(weights, "projection", x)):
        row, column = 3 * (token // 7), 2 * (token % 7)
        correction[row : row + 3, column : column + 2] = patch.reshape(3, 2)
    return enhance(weights, "second_enhancer", coarse + correction)


def as_numpy(estimator: LearnedEstimator) -> Weights:
    return {name: value.detach().numpy() for name, value in estimator.network.state_dict().items()}


@pytest.mark.parametrize("kind", ["fortitran", "adafortitran"])
@pytest.mark.parametrize("preset", ["paper", "default"])
def test_estimates_equal_those_of_a_second_implementation(kind: str, preset: str) -> None:
    estimator = CLASSES[kind].preset(preset).double().eval()
    fill(estimator)
    told = {"snr_db": [3.0, 20.0], "delay_spread": [50e-9, 300e-9], "max_doppler": [200.0, 1000.0]}
    y = golden_input(estimator)
    h = estimator(y, 0.1, **{name: torch.tensor(value, dtype=torch.float64) for name, value in told.items()}).h_hat
    weights, obs = as_numpy(estimator), estimator.obs
    for b in range(2):
        symbols, subcarriers = obs.pilot_symbols.tolist(), obs.pilot_subcarriers.tolist()
        x = np.array([complex(y[b, 0, t, k] / obs.pilots[0, t, k]) for k in subcarriers for t in symbols])
        snr, spread, doppler = (value[b] for value in told.values())
        seen = np.array([snr, 1e9 * spread, doppler])
        scale = 1.0
        if preset == "default":  # conditions between -1 and 1, pilots of unit power
            seen = np.array([snr / 12.5 - 1, (spread - 162.5e-9) / 137.5e-9, doppler / 933.35 - 1])
            scale = math.sqrt(np.mean(np.abs(x) ** 2))
        args = (None if kind == "fortitran" else seen,)
        want = scale * (written_again(weights, x.real / scale, *args) + 1j * written_again(weights, x.imag / scale, *args))
        assert np.abs(h[b, 0, 0].detach().numpy().T - want).max() < 1e-11
