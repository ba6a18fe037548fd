"""The contract of everything that damages past CSI before a predictor sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from wichan.errors import ShapeError, check_finite, check_generator, check_tensor


def check_snapshots(history: Any) -> torch.Tensor:
    r"""Return past CSI, complex (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers).

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: no complex tensor, too few axes or an empty one, NaN.
    """
    check_tensor("history", history, kind="complex")
    if history.dim() < 4 or not history.numel():
        axes = "(*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers)"
        raise ShapeError(f"history has shape {tuple(history.shape)}; it must be {axes}")
    # The parts of a complex tensor add up in a third of the time that its moduli take.
    check_finite("history", torch.view_as_real(history.resolve_conj()))
    return history


class HistoryImpairment(ABC):
    """One way in which past CSI is damaged; targets stay clean.

    Attributes:
        name: key of `wichan.observations.HISTORY_IMPAIRMENTS`.
        degree: how strong, in the impairment's own unit.
    """

    name: ClassVar[str]
    degree: Any

    def __call__(self, history: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Damage a batch of histories.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers); not changed.
            generator: the only source of randomness, used in a fixed order: same state and shape, same result.

        Returns:
            The damaged history, of the same shape and dtype, and ``present``, bool (\*batch, num_history): which
            snapshots arrived.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: another kind of tensor, too few axes, NaN, no generator.
        """
        check_snapshots(history)
        check_generator("generator", generator)
        return self._damage(history, generator)

    @abstractmethod
    def _damage(self, history: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """`__call__` after the checks."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.degree})"


def normal_like(shape: tuple[int, ...], like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers in the precision of ``like``."""
    drawn = torch.randn(*shape, generator=generator, device=generator.device, dtype=like.real.dtype)
    return drawn.to(like.device)


def all_present(history: torch.Tensor) -> torch.Tensor:
    r"""The mask of a history that lost nothing, bool (\*batch, num_history)."""
    return torch.ones(*history.shape[:-4], history.shape[-2], dtype=torch.bool, device=history.device)
