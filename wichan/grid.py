"""The OFDM lattice: which times and frequencies a channel is sampled at."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_int, check_real


@dataclass(frozen=True)
class OFDMGrid:
    """A grid of OFDM symbols x subcarriers.

    Args:
        num_ofdm_symbols: OFDM symbols in a frame, at least 1.
        num_subcarriers: subcarriers, at least 1. Subcarrier 0 has the lowest frequency.
        subcarrier_spacing: spacing [Hz], greater than 0.
        symbol_duration: duration of one OFDM symbol with its cyclic prefix [s]. Default: ``15/14`` of the useful part,
            the mean over a 3GPP slot with normal cyclic prefix (14 symbols in 1 ms at 15 kHz).

    Raises:
        InvalidValueError: a count below 1, a spacing not above 0, or a symbol shorter than its useful part.

    Example:
        >>> grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
        >>> grid.shape, round(grid.symbol_duration * 1e6, 2)
        ((14, 120), 71.43)
    """

    num_ofdm_symbols: int
    num_subcarriers: int
    subcarrier_spacing: float
    symbol_duration: float = None  # type: ignore[assignment]  # replaced by its default below

    def __post_init__(self) -> None:
        check_int("num_ofdm_symbols", self.num_ofdm_symbols, minimum=1)
        check_int("num_subcarriers", self.num_subcarriers, minimum=1)
        spacing = check_real("subcarrier_spacing", self.subcarrier_spacing, positive=True)
        object.__setattr__(self, "subcarrier_spacing", spacing)
        if self.symbol_duration is None:
            object.__setattr__(self, "symbol_duration", 15 / 14 / spacing)
        duration = check_real("symbol_duration", self.symbol_duration, positive=True)
        if duration < (1 - 1e-9) / spacing:
            raise InvalidValueError(
                f"symbol_duration={duration:g} s is shorter than the useful part 1/subcarrier_spacing={1 / spacing:g} s"
            )
        object.__setattr__(self, "symbol_duration", duration)

    @property
    def shape(self) -> tuple[int, int]:
        """``(num_ofdm_symbols, num_subcarriers)``."""
        return (self.num_ofdm_symbols, self.num_subcarriers)

    @property
    def num_resource_elements(self) -> int:
        """Number of resource elements in the grid."""
        return self.num_ofdm_symbols * self.num_subcarriers

    @property
    def bandwidth(self) -> float:
        """Occupied bandwidth, subcarriers times spacing [Hz]."""
        return self.num_subcarriers * self.subcarrier_spacing

    @property
    def cyclic_prefix(self) -> float:
        """Duration of the cyclic prefix [s]."""
        return max(self.symbol_duration - 1 / self.subcarrier_spacing, 0.0)

    @functools.cached_property
    def times(self) -> torch.Tensor:
        """Start time of each OFDM symbol [s], float64, shape (num_ofdm_symbols,)."""
        return torch.arange(self.num_ofdm_symbols, dtype=torch.float64) * self.symbol_duration

    @functools.cached_property
    def frequencies(self) -> torch.Tensor:
        """Frequency of each subcarrier relative to the carrier [Hz], float64, ascending, shape (num_subcarriers,)."""
        index = torch.arange(self.num_subcarriers, dtype=torch.float64) - self.num_subcarriers // 2
        return index * self.subcarrier_spacing


def check_grid(grid: Any) -> OFDMGrid:
    """Return ``grid`` if it is an `OFDMGrid`."""
    if not isinstance(grid, OFDMGrid):
        raise InvalidTypeError(f"grid must be an OFDMGrid, got {type(grid).__name__}")
    return grid
