"""What the pictures share: the finished picture, scales, units and heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.evaluation.figure import PALETTE, edges_of, png_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA: dict[str, Any] = {"color": PALETTE[0], "label": "data"}
THEORY: dict[str, Any] = {"color": PALETTE[1], "linestyle": "--", "label": "theory"}
LIMIT: dict[str, Any] = {"color": PALETTE[6], "linestyle": ":", "linewidth": 1.2}


@dataclass(frozen=True)
class Picture:
    """A finished picture; in a notebook it shows itself.

    Attributes:
        png: the file's bytes.
        numbers: the key numbers, measured and in theory, SI units; ``None`` where there is no answer.
    """

    png: bytes = field(repr=False)
    numbers: Mapping[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write the PNG; the name must end in ``.png``."""
        target = png_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.png)
        return target

    def _repr_png_(self) -> bytes:
        return self.png


def decibels(power: torch.Tensor) -> torch.Tensor:
    """10 log10, with a floor far below anything drawn."""
    return 10 * torch.log10(power.double().clamp_min(1e-30))


def number(value: Any) -> float | None:
    """A plain number; ``None`` stays."""
    return None if value is None else float(value)


def last_delay(level_db: torch.Tensor, floor_db: float, least: int) -> int:
    """How many delays to show: up to the last of the first half that stands above the floor."""
    half = level_db.numel() // 2
    above = torch.nonzero(level_db[:half] > floor_db).flatten()
    last = int(above[-1]) + 1 if above.numel() else 1
    return max(1, min(half, max(last, least)))


def heat(
    figure: Figure,
    axes: Axes,
    level: torch.Tensor,
    x: tuple[torch.Tensor, float],
    y: tuple[torch.Tensor, float],
    *,
    limits: tuple[float, float],
    label: str | None = None,
    cmap: str = "viridis",
) -> None:
    """Draw (x, y) levels; each axis is its points and the unit they are divided by. ``label`` asks for a colour bar."""
    image = axes.imshow(
        level.T.cpu().numpy(),
        aspect="auto",
        origin="lower",
        extent=(*edges_of(x[0], level.shape[0], x[1]), *edges_of(y[0], level.shape[1], y[1])),
        interpolation="nearest",
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
    )
    axes.grid(visible=False)
    if label is not None:
        figure.colorbar(image, ax=axes, label=label)


def span(level: torch.Tensor, depth: float = 40.0) -> tuple[float, float]:
    """Colour limits: from the largest level downwards."""
    top = float(level.max())
    return max(float(level.min()), top - depth), top


def quantity(value: Any, scale: float, unit: str) -> str:
    """A number with its unit, or a dash; infinity says that the range was too short."""
    if value is None:
        return "–"
    shown = float(value)
    return f"{shown / scale:.3g} {unit}" if shown < 1e30 else "beyond the range"


def title(figure: Figure, text: str) -> None:
    """A line above everything, if there is one."""
    if text:
        figure.suptitle(text, fontsize=9.5)
