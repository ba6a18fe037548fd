"""The convolutional baseline: an autoencoder over time x subcarriers, then a mix of snapshots into steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidValueError, check_int
from wichan.prediction.learned_official import OfficialBaseline


class CNNNetwork(nn.Module):
    """Autoencoder of 3 x 3 convolutions on the image snapshots x subcarriers, a convolution over features after it.

    Args:
        num_history: snapshots. num_horizon: steps.
        levels: channels of the encoder after the two of the input (real and imaginary part); the decoder mirrors them.
        skip: add the input to what the autoencoder gives, whose last convolution then has no tanh: numbers beyond 1 get
            through. ``False``: as published.
    """

    def __init__(self, num_history: int, num_horizon: int, levels: tuple[int, ...], skip: bool) -> None:
        super().__init__()
        self.skip = skip
        sizes = (2, *levels, *levels[-2::-1], 2)
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            conv = nn.Conv2d(before, after, 3, padding=1)
            nn.init.uniform_(conv.weight, -(before**-0.5), before**-0.5)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.Tanh()]
        self.autoencoder = nn.Sequential(*(layers[:-1] if skip else layers))
        self.head = nn.Conv1d(num_history, num_horizon, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Real (sequences, num_history, 2 K) to (sequences, num_horizon, 2 K), parts interleaved."""
        image = x.unflatten(-1, (-1, 2)).movedim(-1, 1)
        coded = self.autoencoder(image).movedim(1, -1).flatten(-2)
        return self.head(x + coded if self.skip else coded)


class CNNPredictor(OfficialBaseline):
    """The convolutional autoencoder that predictors are compared with.

    Args:
        levels: channels of the encoder, see `CNNNetwork`.
        skip: see `CNNNetwork`; the presets ``paper-...`` have none.
        **options: see `LearnedPredictor`.

    Presets: ``paper-tdd`` and ``paper-fdd`` (197,134 parameters, fixed z-score), ``small`` (fewer channels, with the skip
    connection), ``tiny`` (for tests).

    Raises:
        InvalidTypeError, InvalidValueError: levels that are no channel numbers; see `LearnedPredictor`.

    Cost: paper 60 GFLOP a sample of 32 antennas, small 0.9.

    Source: the baseline CNN of [CSI4CAST2025]_, layers as in the authors' code.
    """

    kind = "cnn"
    presets = {
        "paper-tdd": {"scale_input": False},
        "paper-fdd": {"scale_input": False, "duplex": "fdd"},
        "small": {"levels": (4, 8, 16), "skip": True},
        "tiny": {"levels": (4,), "skip": True},
    }

    def __init__(self, *, levels: tuple[int, ...] = (4, 8, 16, 32, 64, 128), skip: bool = False, **options: Any) -> None:
        self.hyper: dict[str, Any] = {
            "levels": [check_int("levels", channels, minimum=1) for channels in levels],
            "skip": bool(skip),
        }
        if not self.hyper["levels"]:
            raise InvalidValueError("levels is empty; the encoder needs one convolution or more")
        super().__init__(**options)

    def _build(self) -> nn.Module:
        return CNNNetwork(self.num_history, self.num_horizon, tuple(self.hyper["levels"]), self.hyper["skip"])

    def _config(self) -> dict[str, Any]:
        return dict(self.hyper)
