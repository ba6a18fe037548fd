"""A training run that takes a second: 8 x 12 resource elements, 8 pilots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wichan.training import TrainConfig

TINY = {
    "grid.num_ofdm_symbols": 8,
    "grid.num_subcarriers": 12,
    "pilots.symbols": [1, 6],
    "max_doppler": 100.0,
}
NETWORK = {"width": 8, "layers": 1, "heads": 2, "dropout": 0.2}


@pytest.fixture
def tiny_recipe() -> dict[str, Any]:
    """Settings that make ``ofdm-siso`` small."""
    return dict(TINY)


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """``tiny("fortitran", lr=...)``: settings of a small run; networks have dropout, so that its randomness is tested too."""

    def make(model: str = "linear", **settings: Any) -> TrainConfig:
        options = {} if model == "linear" else NETWORK
        small = {
            "overrides": TINY,
            "model_options": options,
            "batch_size": 16,
            "val_frames": 32,
            "val_every": 4,
            "warm_start": 0,
        }
        small |= {} if {"max_time", "max_epochs"} & set(settings) else {"max_steps": 12}
        return TrainConfig.of(model, **(small | settings))

    return make
