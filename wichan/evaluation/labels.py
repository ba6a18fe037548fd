"""How tables and figures name what is swept: label, unit, and the text of a point."""

from __future__ import annotations

#: How a swept condition is shown: label, unit, factor from SI.
UNITS: dict[str, tuple[str, str, float]] = {
    "snr_db": ("SNR", "dB", 1.0),
    "delay_spread": ("RMS delay spread", "ns", 1e9),
    "max_doppler": ("maximum Doppler", "Hz", 1.0),
    "speed": ("speed", "m/s", 1.0),
    "carrier_frequency": ("carrier frequency", "GHz", 1e-9),
    "num_bits": ("bits of a converter", "", 1.0),
    "num_irs": ("elements of the IRS", "", 1.0),
    "num_train": ("training channels", "", 1.0),
}


def _unit(sweep: str) -> tuple[str, str, float]:
    """Label, unit and factor from SI of a condition, or of a setting by the last part of its key."""
    name = sweep.rpartition(".")[2]
    return UNITS.get(name, (name.replace("_", " ").removeprefix("num "), "", 1.0))


def axis_label(sweep: str) -> str:
    """Name of a swept condition with its unit, as tables and figures print it."""
    label, unit, _ = _unit(sweep)
    return f"{label} [{unit}]" if unit else label


def shown_point(sweep: str, point: float | str) -> float | str:
    """A point in the unit that tables and figures print."""
    return point if isinstance(point, str) else point * _unit(sweep)[2]


def point_text(shown: float | str) -> str:
    """A point as tables and axes print it."""
    return shown if isinstance(shown, str) else f"{shown:.4g}" if shown < 1e4 else f"{shown:.7g}"
