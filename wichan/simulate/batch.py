"""`Batch`: the frozen record that a live stream yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from wichan.errors import unknown_name


class Batch:
    """Named tensors of a batch of samples; nothing can be assigned.

    Args:
        values: column name -> tensor, first axis the batch.
        categories: column name -> words that its integer codes stand for.

    Example:
        >>> batch = Batch({"no": torch.tensor([0.1, 0.2]), "snr_db": torch.tensor([10.0, 7.0])})
        >>> len(batch), batch.columns, sorted(batch.conditions)
        (2, ('no', 'snr_db'), ['snr_db'])
    """

    __slots__ = ("_values", "categories")

    _values: dict[str, torch.Tensor]
    categories: dict[str, tuple[str, ...]]

    def __init__(self, values: Mapping[str, torch.Tensor], categories: Mapping[str, tuple[str, ...]] | None = None) -> None:
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "categories", dict(categories or {}))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: a Batch is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be deleted: a Batch is frozen")

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"batch has no column {name!r} (it has {', '.join(self._values)})") from None

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._values:
            raise unknown_name("column", name, self._values)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return next(iter(self._values.values())).shape[0] if self._values else 0

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(value.shape)}" for name, value in self._values.items())
        return f"Batch({shapes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self._values, self.categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self._values)

    @property
    def conditions(self) -> dict[str, torch.Tensor]:
        """Columns with one number a sample (SNR, delay spread, profile code, ...), except the noise variance ``no``."""
        return {name: value for name, value in self._values.items() if value.dim() == 1 and name != "no"}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Move every tensor to ``device``."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in self._values.items()}
        return Batch(moved, self.categories)

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory (what a `DataLoader` calls for ``pin_memory=True``)."""
        return Batch({name: value.pin_memory() for name, value in self._values.items()}, self.categories)
