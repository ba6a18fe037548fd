"""Golden values of every shipped recipe: a change here changes everyone's data and asks for a new ``recipe_version``.

Uniform draws are exact on every machine, so conditions are compared by hash; channels and noise by value, to the float
tolerance that the README promises between machines.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from wichan.simulate import KINDS, BlockSampler, load_recipe

SEED = 2024
GOLDEN: dict[str, Any] = {
    "ofdm-siso": (
        1,
        "3a2472611b1589de",
        [
            -1.191304 + 1.045881j,
            -0.854514 + 1.738743j,
            -0.374281 - 0.965497j,
            -0.077708 - 0.163622j,
            0.157423 - 0.520652j,
            -0.171933 - 0.427315j,
        ],
    ),
    "ofdm-siso-legacy": (
        1,
        "c993b2a81bcdb65b",
        [
            -1.078631 + 1.606373j,
            0.560602 + 0.705094j,
            -0.384842 - 0.103704j,
            0.014435 + 0.001356j,
            -0.000642 + 0.018032j,
            -0.017249 - 0.004276j,
        ],
    ),
    "mimo-ofdm": (
        1,
        "57c484d2977c3c00",
        [
            -0.995782 + 0.029296j,
            0.727041 - 0.415487j,
            -0.169252 - 0.004764j,
            -0.104539 - 0.691062j,
            0.076206 - 0.259006j,
            0.110688 + 0.206669j,
        ],
    ),
    "umi-ofdm": (
        1,
        "ea0fb3ecb344a5be",
        [
            0.159961 + 0.351608j,
            0.333205 + 0.933863j,
            0.840035 + 0.171265j,
            0.867762 + 0.100587j,
            -0.202233 + 0.003393j,
            -0.039191 + 0.110233j,
        ],
    ),
    "quantized-simo": (
        1,
        "78f8dbfaecd84fb8",
        [
            -0.216237 - 1.095917j,
            -0.077242 - 0.382734j,
            1.504950 - 0.261579j,
            -0.707107 - 0.707107j,
            -0.707107 + 0.707107j,
            0.707107 - 0.707107j,
        ],
    ),
    "irs-mimo": (
        1,
        "139ef108e81f2c86",
        [
            10.615660 + 1.171178j,
            -9.419250 + 13.231189j,
            0.836126 + 4.170784j,
            16.404242 + 9.397346j,
            7.727275 - 10.737055j,
            -1.955489 - 0.124296j,
        ],
    ),
    "csi-rrg": (
        1,
        "232deed1c72ce66c",
        [
            1.195780 + 0.256110j,
            -0.090233 - 0.676600j,
            -0.142186 + 1.074514j,
            0.431845 - 0.328599j,
            0.574403 - 0.671575j,
            -0.743316 - 0.732799j,
        ],
    ),
}


def block(name: str, split: str, cell: str, index: int) -> tuple[BlockSampler, dict[str, torch.Tensor]]:
    recipe = load_recipe(name)
    sampler: BlockSampler = KINDS[recipe.kind](recipe)
    return sampler, sampler.sample(sampler.key(SEED, split, cell, index))


def digest(sampler: BlockSampler, values: dict[str, torch.Tensor]) -> str:
    """Hash of the drawn conditions, in float32; what a draw of Sionna's finds out (a distance) is no condition."""
    found = sampler.link.source.draw_columns if hasattr(sampler, "link") else ()
    drawn = [c.name for c in sampler.columns if not c.shape and c.name not in ("no", "scale", *found)]
    return hashlib.sha256(b"".join(values[name].to(torch.float32).numpy().tobytes() for name in drawn)).hexdigest()[:16]


def picked(name: str, values: dict[str, torch.Tensor]) -> list[complex]:
    """A few entries of the large columns, spread over the block."""
    columns = ("h_u_hist", "h_d_pred") if name == "csi-rrg" else ("h", "y")
    flat = [values[column].flatten() for column in columns]
    return [complex(f[i]) for f in flat for i in (0, f.numel() // 3, f.numel() - 1)]


PLACES = {
    "ofdm-siso": ("train", "main", 3),
    "ofdm-siso-legacy": ("test", "ds_150", 0),
    "mimo-ofdm": ("val", "main", 1),
    "csi-rrg": ("generalization", "cm_E_ds_050_ms_045", 2),
    "umi-ofdm": ("val", "main", 1),
    "quantized-simo": ("test", "main", 1),
    "irs-mimo": ("test", "main", 1),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.sionna] if n == "umi-ofdm" else []) for n in PLACES])
def test_golden(name: str) -> None:
    if name == "umi-ofdm":
        pytest.importorskip("sionna.phy")
    version, hashed, expected = GOLDEN[name]
    sampler, values = block(name, *PLACES[name])
    assert sampler.recipe.recipe_version == version
    assert digest(sampler, values) == hashed
    # vectorised sines and logarithms differ by some 1e-7 between processors; sums over rays and clusters stay below 1e-4
    assert torch.allclose(torch.tensor(picked(name, values)), torch.tensor(expected), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":  # print the table again after a deliberate change
    for recipe_name, place in PLACES.items():
        made, made_values = block(recipe_name, *place)
        print(recipe_name, made.recipe.recipe_version, digest(made, made_values))
        for number in picked(recipe_name, made_values):
            print(f"            {number.real:.6f}{number.imag:+.6f}j,")
