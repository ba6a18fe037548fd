"""wichan's antenna panels as Sionna's, element by element in the same order."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.channels.arrays import AntennaArray, Panel
from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.integrations.sionna.require import require_sionna

_SLANTS = {"V": (0.0,), "H": (math.pi / 2,), "VH": (0.0, math.pi / 2), "cross": (-math.pi / 4, math.pi / 4)}


def panel_array(array: AntennaArray, carrier_frequency: float, *, field: str = "array", precision: str = "single") -> Any:
    """Return Sionna's `PanelArray` with the elements of a wichan `Panel`; port n of one is port n of the other.

    Args:
        array: a `Panel` (or a single element), isotropic or with the TR 38.901 element.
        carrier_frequency: [Hz]; Sionna's panels are in metres.
        field: name in error messages.
        precision: ``"single"`` or ``"double"``.

    Raises:
        InvalidTypeError: not an antenna array.
        InvalidValueError: elements that Sionna's panel cannot have (a free arrangement, other slants).
    """
    tr38901 = require_sionna("panel_array").phy.channel.tr38901
    rows, columns, vertical, horizontal = _lattice(array, field)
    polarization = next((name for name, slants in _SLANTS.items() if _same(slants, array.slants)), None)
    if polarization is None:
        raise InvalidValueError(f"{field} has slants {array.slants}; Sionna's panel knows V, H, VH and cross")
    return tr38901.PanelArray(
        num_rows_per_panel=rows,
        num_cols_per_panel=columns,
        polarization="single" if len(array.slants) == 1 else "dual",
        polarization_type=polarization,
        antenna_pattern="omni" if array.pattern == "isotropic" else "38.901",
        carrier_frequency=carrier_frequency,
        element_vertical_spacing=vertical,
        element_horizontal_spacing=horizontal,
        precision=precision,
        device="cpu",
    )


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(one, other, strict=True))


def _lattice(array: AntennaArray, field: str) -> tuple[int, int, float, float]:
    """Rows, columns and spacings [wavelengths] of a panel, read from its element positions."""
    if not isinstance(array, AntennaArray):
        raise InvalidTypeError(f"{field} must be an AntennaArray (Panel, ULA), got {type(array).__name__}")
    positions = array.positions.detach().double()
    across, up = ((positions[:, axis] * 1e6).round().unique() / 1e6 for axis in (1, 2))
    rows, columns = up.numel(), across.numel()
    vertical = float(up[-1] - up[0]) / (rows - 1) if rows > 1 else 0.5
    horizontal = float(across[-1] - across[0]) / (columns - 1) if columns > 1 else 0.5
    if rows * columns == positions.shape[0]:
        rebuilt = Panel(rows, columns, spacing=(vertical, horizontal)).positions
        if torch.allclose(rebuilt, positions, atol=2e-6):
            return rows, columns, vertical, horizontal
    raise InvalidValueError(
        f"{field}={array.name} is no panel of rows and columns centred on the origin; Sionna knows such panels only: "
        "use wichan.channels.Panel"
    )
