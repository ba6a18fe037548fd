"""The recurrent baseline: it reads the history, then runs on by itself, fed with its own predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidValueError, check_int
from wichan.prediction.learned import from_bands, into_bands
from wichan.prediction.learned_official import OfficialBaseline


class RNNNetwork(nn.Module):
    """Linear layer, plain tanh RNN, linear layer; free running after the history.

    The first step is what the network says after the last snapshot; it is fed back to get the second, and so on.

    Args:
        num_subcarriers: K. num_horizon: steps.
        hidden, layers: of the RNN.
        residual: the network gives the change from one snapshot to the next. ``False``: the snapshot, as published.
        band: subcarriers that the RNN sees at a time, a divisor of K; None: all, as published.
    """

    def __init__(
        self, num_subcarriers: int, num_horizon: int, hidden: int, layers: int, residual: bool, band: int | None
    ) -> None:
        super().__init__()
        self.num_horizon, self.residual, self.band = num_horizon, residual, band or num_subcarriers
        if num_subcarriers % self.band:
            raise InvalidValueError(f"band={band} does not divide num_subcarriers={num_subcarriers}")
        self.num_bands, features = num_subcarriers // self.band, 2 * self.band
        self.embedding = nn.Linear(features, features)
        self.rnn = nn.RNN(features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Real (sequences, num_history, 2 K) to (sequences, num_horizon, 2 K)."""
        x = into_bands(x, self.band)
        states, memory = self.rnn(self.embedding(x))
        steps = [self._step(x[:, -1:], states[:, -1:])]
        while len(steps) < self.num_horizon:
            states, memory = self.rnn(self.embedding(steps[-1]), memory)
            steps.append(self._step(steps[-1], states))
        return from_bands(torch.cat(steps, dim=1), self.num_bands)

    def _step(self, before: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return before + self.head(state) if self.residual else self.head(state)


class RNNPredictor(OfficialBaseline):
    """The plain recurrent network that predictors are compared with.

    Args:
        hidden: width of the RNN. layers: how many.
        residual, band: see `RNNNetwork`; the presets ``paper-...`` predict snapshots of all subcarriers.
        **options: see `LearnedPredictor`.

    Presets: ``paper-tdd`` (4096 x 5, 156,312,304 parameters) and ``paper-fdd`` (2048 x 6, 48,980,720), both with the fixed
    z-score; ``small`` (96 x 1 on bands of 10 subcarriers, which learns from few samples) and ``small-fdd`` (256 x 2 on all of
    them), ``tiny`` (for tests).

    Raises:
        InvalidTypeError, InvalidValueError: see `LearnedPredictor`.

    Cost: paper 190 and 59 GFLOP a sample of 32 antennas, small 0.5 and 0.9.

    Source: the baseline RNN of [CSI4CAST2025]_, layers as in the authors' code.
    """

    kind = "rnn"
    presets = {
        "paper-tdd": {"hidden": 4096, "layers": 5, "scale_input": False},
        "paper-fdd": {"hidden": 2048, "layers": 6, "scale_input": False, "duplex": "fdd"},
        "small": {"hidden": 96, "layers": 1, "band": 10},
        "small-fdd": {"hidden": 256, "layers": 2, "duplex": "fdd"},
        "tiny": {"hidden": 32, "layers": 1, "residual": True},
    }

    def __init__(
        self, *, hidden: int = 256, layers: int = 2, residual: bool = False, band: int | None = None, **options: Any
    ) -> None:
        self.hyper: dict[str, Any] = {
            "hidden": check_int("hidden", hidden, minimum=1),
            "layers": check_int("layers", layers, minimum=1),
            "residual": bool(residual),
            "band": None if band is None else check_int("band", band, minimum=1),
        }
        super().__init__(**options)

    def _build(self) -> nn.Module:
        return RNNNetwork(self.num_subcarriers, self.num_horizon, **self.hyper)

    def _config(self) -> dict[str, Any]:
        return dict(self.hyper)
