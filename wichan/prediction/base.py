"""The contract of every predictor: past CSI in, future CSI and its uncertainty out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_finite, check_int, check_tensor
from wichan.observations.imputation import check_mask

#: ``"tdd"``: the future of the band that was observed; ``"fdd"``: of the paired downlink band, which never was.
DUPLEX_MODES = ("tdd", "fdd")


class Prediction(NamedTuple):
    r"""A prediction of the channel.

    Attributes:
        h_pred: complex, (\*batch, num_rx_ant, num_tx_ant, num_horizon, num_subcarriers).
        err_var: real, same shape (it may be an expanded view): E|h - h_pred|^2 given the history.
    """

    h_pred: torch.Tensor
    err_var: torch.Tensor


class Predictor(nn.Module, ABC):
    """Base of all channel predictors.

    Args:
        num_history: snapshots that a call takes.
        num_horizon: snapshots that it predicts, at the same spacing.
        duplex: ``"tdd"`` or ``"fdd"``, see `DUPLEX_MODES`.

    Attributes:
        takes_gaps: whether `forward` makes use of ``present``. Where it does not, a caller repairs a history with lost
            snapshots first (`wichan.observations.impute`).
        presets: settings by name, see `preset`.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: numbers below 1, another mode.
    """

    takes_gaps: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, num_history: int = 16, num_horizon: int = 4, duplex: str = "tdd") -> None:
        super().__init__()
        self.num_history = check_int("num_history", num_history, minimum=1)
        self.num_horizon = check_int("num_horizon", num_horizon, minimum=1)
        self.duplex = check_choice("duplex", duplex, DUPLEX_MODES)

    @abstractmethod
    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict the snapshots that follow a history.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
            no: noise variance of the history, a number or a tensor over the leading batch axes; None: not known.
            present: bool, (\*batch, num_history): which snapshots arrived; None: all. Methods that do not take gaps
                ignore it.
        """

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """Build with settings by name, see ``presets``.

        Args:
            name: which.
            **overrides: settings to change.

        Raises:
            UnknownNameError: another name. InvalidValueError: a setting that this kind does not have.
        """
        return cls.from_config(dict(cls.presets[check_choice("preset", name, cls.presets)]) | overrides)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from settings, such as a ``config()`` gave.

        Raises:
            InvalidValueError: a setting that this kind does not have.
        """
        try:
            return cls(**config)
        except InvalidTypeError:
            raise
        except TypeError as error:
            name = getattr(cls, "kind", cls.__name__)
            raise InvalidValueError(f"config of {name} does not fit: {error}") from None

    def extra_repr(self) -> str:
        return f"num_history={self.num_history}, num_horizon={self.num_horizon}, duplex={self.duplex!r}"


def check_history(
    history: Any, num_history: int, *, num_ant: int | None = None, num_subcarriers: int | None = None
) -> torch.Tensor:
    r"""Return a history that a predictor can work with.

    Args:
        history: what was passed, (\*batch, num_rx_ant, num_tx_ant, num_snapshots, num_subcarriers).
        num_history: snapshots that the predictor was made for.
        num_ant: antenna pairs that it was made for; None: any number.
        num_subcarriers: subcarriers that it was made for; None: any number.

    Raises:
        InvalidTypeError, ShapeError: no complex tensor, another length, number of antennas or grid.
        InvalidValueError: NaN, or a sample without power, which no method can scale.
    """
    check_tensor("history", history, kind="complex")
    if history.dim() < 4 or not history.numel():
        axes = "(*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers)"
        raise ShapeError(f"history has shape {tuple(history.shape)}; it must be {axes}")
    rx, tx, snapshots, subcarriers = history.shape[-4:]
    if snapshots != num_history:
        raise ShapeError(f"history has {snapshots} snapshots; this predictor was made for {num_history}")
    if num_ant is not None and rx * tx != num_ant:
        raise ShapeError(f"history has {rx} x {tx} antennas; this predictor was made for {num_ant}")
    if num_subcarriers is not None and subcarriers != num_subcarriers:
        raise ShapeError(f"history has {subcarriers} subcarriers; this predictor was made for {num_subcarriers}")
    check_finite("history", history)
    if not torch.compiler.is_compiling():
        silent = int((history.detach().abs().flatten(-4).amax(-1) == 0).sum())
        if silent:
            raise InvalidValueError(f"history holds {silent} samples without power; each needs a snapshot that is not zero")
    return history


def check_present(present: Any, history: torch.Tensor) -> torch.Tensor | None:
    r"""Return which snapshots arrived, bool (\*batch, num_history); None where all did.

    Raises:
        InvalidTypeError, ShapeError: no such tensor. InvalidValueError: a sample without any snapshot.
    """
    if present is None:
        return None
    present = check_mask(present, history)
    if not torch.compiler.is_compiling():
        lost = int((~present.any(-1)).sum())
        if lost:
            raise InvalidValueError(f"present says that all snapshots of {lost} samples were lost; at least one is needed")
    return None if bool(present.all()) else present
