"""FortiTran, AdaFortiTran and the linear estimator against numbers that the authors' code gave."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.estimators import AdaFortiTran, CeViT, FortiTran, Linear
from wichan.estimators.learned import published_pilots

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
