"""What all learned predictors share: a history in, scaled, a network for the mean, a head for the error."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from wichan.errors import InvalidTypeError, check_int, check_noise
from wichan.estimators.learned import seeded
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.error_head import PredictionErrorHead


class LearnedPredictor(Predictor):
    r"""Base of the learned predictors: one network, made for one grid, one length of history and one horizon.

    Every antenna pair is a sequence of its own, unless a subclass overrides `_mean`. Networks are real: a snapshot of K
    subcarriers is 2 K numbers, real and imaginary parts interleaved (re 0, im 0, re 1, ...), as published.

    Args:
        num_subcarriers: of the history and of the prediction.
        num_history, num_horizon, duplex: see `Predictor`.
        scale_input: divide a sample by the root mean square of the real numbers of its history, over all antennas, and
            multiply the prediction by it: the answer follows the scale of its input, and no sample sees another. ``False``:
            as published, a fixed z-score with the buffers ``shift`` and ``spread``, each (2,), of real and imaginary parts
            (0 and :math:`1 / \sqrt 2`: a channel of unit power; set them for other data).
        seed: of the initial weights.

    Attributes:
        network: computes the mean.
        error_head: computes ``err_var``, see `wichan.prediction.error_head.PredictionErrorHead`.
        num_ant: antenna pairs that the network was made for; None: any number.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: numbers below 1, another mode.
    """

    kind: ClassVar[str]

    network: nn.Module
    shift: torch.Tensor
    spread: torch.Tensor
    num_ant: int | None = None

    def __init__(
        self,
        *,
        num_subcarriers: int = 300,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
        scale_input: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(num_history, num_horizon, duplex)
        self.num_subcarriers = check_int("num_subcarriers", num_subcarriers, minimum=1)
        self.scale_input = bool(scale_input)
        self.register_buffer("shift", torch.zeros(2))
        self.register_buffer("spread", torch.full((2,), 0.5**0.5))
        with seeded(seed):
            self.network = self._build()
            self.error_head = PredictionErrorHead(self.num_history, self.num_horizon)

    @abstractmethod
    def _build(self) -> nn.Module:
        """Return the network: real (sequences, num_history, 2 K) to (sequences, num_horizon, 2 K)."""

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        """Predict from scaled histories.

        The hook for networks that treat a sample as a whole (standardise it, use its antennas jointly). By default every
        antenna pair goes through ``network`` by itself.

        Args:
            x: real (samples, antennas, num_history, 2 K), parts interleaved.

        Returns:
            real (samples, antennas, num_horizon, 2 K).
        """
        return self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def training_loss(self, history: torch.Tensor, future: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        r"""Loss of a way of training that is this kind's own, or None: trained like any other, on `forward`.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers), impaired.
            future: complex, the same with num_horizon snapshots, clean.
            generator: source of whatever the loss draws, on the device of ``history``.

        Returns:
            a scalar with a gradient that stands in for the loss of the mean, or None. It takes the network's weights only;
            the error head is trained beside it in either case.
        """
        return None

    # -- Building. --

    def config(self) -> dict[str, Any]:
        """Hyper-parameters that rebuild the predictor, as JSON can hold them."""
        shared = ("num_subcarriers", "num_history", "num_horizon", "duplex", "scale_input")
        return {name: getattr(self, name) for name in shared} | self._config()

    def _config(self) -> dict[str, Any]:
        """What a subclass adds to `config`."""
        return {}

    # -- Predicting. --

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict the snapshots that follow a history.

        Args:
            history: complex64 or complex128, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers); the precision
                of the weights.
            no: noise variance; checked and not used, since the network reads it off the history.
            present: bool (\*batch, num_history); checked and not used: repair gaps first (`wichan.observations.impute`).

        Returns:
            `Prediction`; ``err_var`` is the same on all subcarriers of an antenna pair and a step (an expanded view).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: another length, number of antennas or grid, NaN, no power.
        """
        check_history(history, self.num_history, num_ant=self.num_ant, num_subcarriers=self.num_subcarriers)
        check_present(present, history)
        dtype = self.error_head.scale.dtype
        if history.real.dtype != dtype:
            raise InvalidTypeError(f"history has dtype {history.dtype}, the weights {dtype}; convert one of them")
        batch, antennas = history.shape[:-4], history.shape[-4:-2]
        if no is not None:
            check_noise(no, batch, dtype=dtype, device=history.device)
        parts = interleaved(history.reshape(-1, antennas.numel(), *history.shape[-2:]))
        level = root_mean_square(parts)
        predicted = self._back(self._mean(self._scaled(parts, level)), level)
        err_var = (
            self.error_head(parts.detach() / level, predicted.detach() / level) * (2 * level.square()).flatten(1)[..., None]
        )
        h_pred = joined(predicted).reshape(*batch, *antennas, self.num_horizon, self.num_subcarriers)
        return Prediction(h_pred, err_var.reshape(*batch, *antennas, self.num_horizon, 1).expand(h_pred.shape))

    def _scaled(self, parts: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """What the network sees."""
        if self.scale_input:
            return parts / level
        pairs = parts.unflatten(-1, (-1, 2))
        return ((pairs - self.shift) / self.spread).flatten(-2)

    def _back(self, answer: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The network's answer in the units of the history."""
        if self.scale_input:
            return answer * level
        return (answer.unflatten(-1, (-1, 2)) * self.spread + self.shift).flatten(-2)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, num_subcarriers={self.num_subcarriers}, {super().extra_repr()}"


def interleaved(h: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts beside each other: complex (..., K) to real (..., 2 K), without a copy where possible."""
    return torch.view_as_real(h.resolve_conj()).flatten(-2)


def joined(parts: torch.Tensor) -> torch.Tensor:
    """The way back: real (..., 2 K) to complex (..., K)."""
    return torch.view_as_complex(parts.unflatten(-1, (-1, 2)).contiguous())


def into_bands(x: torch.Tensor, subcarriers: int) -> torch.Tensor:
    """Cut sequences into bands, each a sequence of its own: (S, L, 2 K) to (S K / subcarriers, L, 2 subcarriers)."""
    return x.unflatten(-1, (-1, 2 * subcarriers)).movedim(2, 1).flatten(0, 1)


def from_bands(x: torch.Tensor, count: int) -> torch.Tensor:
    """The way back, with ``count`` bands a sequence."""
    return x.unflatten(0, (-1, count)).movedim(1, 2).flatten(-2)


def root_mean_square(parts: torch.Tensor) -> torch.Tensor:
    """Of the real numbers of each sample: (samples, antennas, L, 2 K) to (samples, 1, 1, 1), without over- or underflow."""
    axes = (1, 2, 3)
    peak = torch.linalg.vector_norm(parts.detach(), float("inf"), dim=axes, keepdim=True).clamp_min(
        torch.finfo(parts.dtype).tiny
    )
    return torch.linalg.vector_norm(parts / peak, dim=axes, keepdim=True) * (peak / parts[0].numel() ** 0.5)
