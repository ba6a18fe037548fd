"""CeViT against a second implementation in NumPy, and its interpolation against least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from wichan.errors import InvalidValueError
from wichan.estimators import LS, CeViT
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal

Weights = dict[str, np.ndarray]
TOLD = {"snr_db": [3.0, 20.0], "delay_spread": [50e-9, 300e-9], "max_doppler": [200.0, 1000.0]}


def linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def normalise(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Four heads of 32 features."""
    query, key, value = np.split(x @ weights[f"{name}.in_weight"].T + weights[f"{name}.in_bias"], 3, axis=1)
    mixed = np.zeros_like(x)
    for first in range(0, 128, 32):
        part = slice(first, first + 32)
        share = np.exp(query[:, part] @ key[:, part].T / math.sqrt(32))
        mixed[:, part] = share / share.sum(1, keepdims=True) @ value[:, part]
    return linear(weights, f"{name}.out", mixed)


def written_again(weights: Weights, dense: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Interpolated estimate (120, 14) and conditions as the network sees them to the estimate (120, 14)."""
    image = np.hstack([dense.real, dense.imag])
    tokens = np.array([image[r : r + 10, c : c + 4].ravel() for r in range(0, 120, 10) for c in range(0, 28, 4)])
    for i, value in enumerate(conditions):
        tokens = np.hstack([tokens, linear(weights, f"adapters.{i}", np.array([value])).reshape(84, 2)])
    x = linear(weights, "embedding", tokens) + weights["positions"][0]
    at = "encoder.0"
    x = x + attend(weights, f"{at}.attention", normalise(weights, f"{at}.attention_norm", x))
    hidden = linear(weights, f"{at}.feed_forward.0", normalise(weights, f"{at}.feed_forward_norm", x))
    x = x + linear(weights, f"{at}.feed_forward.2", hidden * (1 + erf(hidden / math.sqrt(2))) / 2)
    out = np.zeros((120, 28))
    for token, patch in enumerate(linear(weights, "projection", x)):
        row, column = 10 * (token // 7), 4 * (token % 7)
        out[row : row + 10, column : column + 4] = patch.reshape(10, 4)
    return out[:, :14] + 1j * out[:, 14:]


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_estimates_equal_those_of_a_second_implementation(preset: str, generator: torch.Generator) -> None:
    est = CeViT.preset(preset).double().eval()
    h = complex_normal((2, 1, 1, 14, 120), generator=generator, dtype=torch.complex128)
    y = est.obs.observe(h, 0.1, generator=generator)
    got = est(y, 0.1, **{name: torch.tensor(value, dtype=torch.float64) for name, value in TOLD.items()}).h_hat
    dense = LS(est.obs, interpolation="linear")(y, 0.0).h_hat[:, 0, 0]
    weights = {name: value.detach().numpy() for name, value in est.network.state_dict().items()}
    for b in range(2):
        snr, spread, doppler = (value[b] for value in TOLD.values())
        seen, scale = np.array([snr, 1e9 * spread, doppler]), 1.0
        if preset == "default":  # conditions between -1 and 1, pilots of unit power
            seen = np.array([snr / 12.5 - 1, (spread - 162.5e-9) / 137.5e-9, doppler / 933.35 - 1])
            scale = float((y[b, 0] / est.obs.pilots[0])[est.obs.mask].abs().square().mean().sqrt())
        want = scale * written_again(weights, dense[b].numpy().T / scale, seen)
        assert np.abs(got[b, 0, 0].detach().numpy().T - want).max() < 1e-11


@pytest.mark.parametrize(
    ("symbols", "step", "offset"), [((2, 11), 3, 0), ((0, 13), 4, 1), ((5,), 12, 3), ((0, 1, 2, 3, 4), 1, 0)], ids=str
)
def test_interpolation_is_that_of_least_squares(symbols: tuple[int, ...], step: int, offset: int) -> None:
    g = torch.Generator().manual_seed(7)
    obs = OFDMPilots(OFDMGrid(14, 24, 15e3), symbols=symbols, subcarrier_step=step, subcarrier_offset=offset, boost_db=3)
    est = CeViT(obs, patch=(6, 4), width=8, heads=2, scale_input=False)
    y = complex_normal((5, 1, 14, 24), generator=g, dtype=torch.complex128)
    want = LS(obs, interpolation="linear")(y, 0.0).h_hat[:, 0, 0].transpose(-1, -2).flatten(1)
    got = est.least_squares(y) @ est.interpolation.cdouble()
    assert float((got - want).abs().max()) < 1e-12 * float(want.abs().max())


def test_pilot_symbols_do_not_enter_the_interpolation() -> None:
    values = torch.polar(torch.linspace(0.5, 2, 8), torch.linspace(0, 3, 8))[None]
    grid = OFDMGrid(4, 24, 15e3)
    obs = [OFDMPilots(grid, symbols=(1,), subcarrier_step=3, values=v) for v in (None, values)]
    first, second = (CeViT(o, patch=(6, 4), width=8, heads=2).interpolation for o in obs)
    assert torch.allclose(first, second, atol=1e-6)  # pilots are complex64


def test_patch_must_divide_the_image_of_both_parts() -> None:
    obs = OFDMPilots(OFDMGrid(7, 24, 15e3), symbols=(1, 5), subcarrier_step=3)
    assert CeViT(obs, patch=(6, 14), width=8, heads=2).network.num_tokens == 4  # 24 x 14: seven symbols, two parts
    with pytest.raises(InvalidValueError, match=r"^patch=\(10, 4\) does not divide the grid of 24 x 14 elements"):
        CeViT(obs)
