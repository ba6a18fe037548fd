"""Arguments of `IRSCascade`: the shapes of arrays, grids, ranges and links, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wichan.channels.base import ChannelModel
from wichan.channels.irs_geometry import LINKS
from wichan.channels.irs_paths import check_grid_size
from wichan.channels.path_loss import SPEED_OF_LIGHT
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_int, check_real


def check_array(field: str, value: Any) -> tuple[int, ...]:
    """Shape of an array: (n,) from a number, (rows, cols) from a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ShapeError(f"{field}={tuple(value)} must be a number or a pair (rows, cols)")
        rows, cols = (check_int(field, size, minimum=1) for size in value)
        return rows, cols
    return (check_int(field, value, minimum=1),)


def check_pair(field: str, value: Any) -> tuple[float, float]:
    """Two finite numbers, one for each hop."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ShapeError(f"{field}={value!r} must be a pair: one number for the first and one for the second hop")
    return check_real(field, value[0]), check_real(field, value[1])


def check_range(field: str, value: Any) -> tuple[float, float] | None:
    """Lowest and highest distance [m] from a number or a pair; ``None`` stays ``None``."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ShapeError(f"{field}={tuple(value)} must be a number or a pair (low, high)")
        low, high = (check_real(field, bound, positive=True) for bound in value)
        if high < low:
            raise InvalidValueError(f"{field}=({low:g}, {high:g}) must be a pair (low, high) with low <= high")
        return low, high
    exact = check_real(field, value, positive=True)
    return exact, exact


def check_law_grid(
    law: str, grid_size: Any, num_paths: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]] | None:
    """Grid points of every end's axes for a law on a grid, else ``None``."""
    if law not in ("grid", "block"):
        if grid_size is not None:
            raise InvalidValueError(f"grid_size={grid_size!r} is for angles='grid' and 'block', not {law!r}")
        return None
    sizes = check_grid_size(grid_size, shapes)
    narrow = min(sizes["irs"][-1], sizes["bs"][-1])
    if law == "block" and num_paths > narrow:
        raise InvalidValueError(f"num_paths={num_paths} must be at most {narrow}, the grid points of a block's axis")
    return sizes


def check_link_models(models: Mapping[str, Any], antennas: Mapping[str, int]) -> None:
    """Refuse a link's model that is none, or has other antennas than its two ends."""
    for name, model in models.items():
        field = "direct_link" if name == "direct" else name
        if model is None:
            continue
        if not isinstance(model, ChannelModel):
            raise InvalidTypeError(f"{field} must be a ChannelModel, got {type(model).__name__}")
        have, want = (model.num_rx_ant, model.num_tx_ant), tuple(antennas[end] for end in LINKS[name])
        if have != want:
            raise ShapeError(f"{field} has {have} receive and transmit antennas; this link asks for {want}")


def check_carrier(carrier_frequency: Any, distances: Mapping[str, Any], law: str, models: Mapping[str, Any]) -> float | None:
    """Wavelength [m] of a model with distances, else ``None``."""
    if not distances:
        if carrier_frequency is not None:
            raise InvalidValueError(f"carrier_frequency={carrier_frequency!r} is for spherical waves; give a distance too")
        return None
    if law in ("grid", "block"):
        raise InvalidValueError(f"angles={law!r} has directions on a grid; a distance asks for 'uniform' or 'cluster'")
    if carrier_frequency is None:
        raise InvalidValueError("carrier_frequency=None is missing; a distance in m needs the carrier in Hz")
    for name in distances:
        if models[name] is not None:
            raise InvalidValueError(f"{name} has a model of its own; a distance is for geometric hops")
    return SPEED_OF_LIGHT / check_real("carrier_frequency", carrier_frequency, positive=True)
