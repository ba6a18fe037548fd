"""Delay profiles: 3GPP tables as data files, and a user's own tap table."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from wichan.errors import InvalidValueError, ShapeError, check_real, unknown_name


@functools.cache
def load_table(name: str) -> dict[str, Any]:
    """Read ``tables/NAME.json``; the file names its 3GPP source and version."""
    with resources.files("wichan.channels").joinpath("tables", f"{name}.json").open(encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    return table


@dataclass(frozen=True, eq=False)
class TapTable:
    """A tapped delay line: what a power-delay profile says.

    Args:
        delays: tap delays, in s, or in units of the RMS delay spread if ``scalable``.
        powers_db: mean power of the scattered part of each tap [dB], any reference: the sum is normalised to 1.
        los_power_db: power of the specular part of the first tap [dB], same reference, or ``None`` (Rayleigh).
        scalable: delays are normalised and get multiplied by a delay spread.
        name: how the profile is called in tables and figures.
    """

    delays: Sequence[float]
    powers_db: Sequence[float]
    los_power_db: float | None = None
    scalable: bool = False
    name: str = "taps"

    def __post_init__(self) -> None:
        if len(self.delays) != len(self.powers_db) or not len(self.delays):
            raise ShapeError(
                f"delays has {len(self.delays)} taps, powers_db {len(self.powers_db)}; both need the same, at least 1"
            )
        for delay in self.delays:
            if check_real("delays", delay, minimum=0.0) > 1e-3 and not self.scalable:
                raise InvalidValueError(f"delays holds {delay:g}; at most 0.001 (in seconds), unless scalable=True")
        for power in self.powers_db:
            check_real("powers_db", power)

    @functools.cached_property
    def delay(self) -> torch.Tensor:
        """Tap delays, float64, (num_taps,)."""
        return torch.tensor(self.delays, dtype=torch.float64)

    @functools.cached_property
    def _linear(self) -> tuple[torch.Tensor, float]:
        scattered = 10 ** (torch.tensor(self.powers_db, dtype=torch.float64) / 10)
        specular = 0.0 if self.los_power_db is None else 10 ** (self.los_power_db / 10)
        total = float(scattered.sum()) + specular
        return scattered / total, specular / total

    @property
    def power(self) -> torch.Tensor:
        """Scattered power of each tap, float64; with ``los_power`` it sums to 1."""
        return self._linear[0]

    @property
    def los_power(self) -> float:
        """Specular power in the first tap (0 for Rayleigh profiles)."""
        return self._linear[1]

    @property
    def k_factor(self) -> float:
        """Rician K of the first tap, specular over scattered power (0 for Rayleigh profiles)."""
        return self.los_power / float(self.power[0])

    def rms_delay_spread(self) -> float:
        """RMS delay spread in the unit of ``delays``."""
        power = self.power.clone()
        power[0] += self.los_power
        mean = float((power * self.delay).sum())
        return math.sqrt(max(float((power * self.delay.square()).sum()) - mean**2, 0.0))


@functools.cache
def tdl_profile(name: str) -> tuple[TapTable, float | None]:
    """Return a TDL table by name ("A".."E", "A30", "TDLA30", ...) and its fixed delay spread (``None`` if scalable)."""
    short = name.upper().removeprefix("TDL").lstrip("-")
    scalable, fixed = load_table("tr38901_tdl")["profiles"], load_table("ts38101_tdl")["profiles"]
    if short in scalable:
        row = scalable[short]
        delays, powers = zip(*row["taps"], strict=True)
        return TapTable(delays, powers, row["los_power_db"], scalable=True, name=f"TDL-{short}"), None
    if short in fixed:
        row = fixed[short]
        delays, powers = zip(*row["taps"], strict=True)
        table = TapTable([d * 1e-9 for d in delays], powers, row["los_power_db"], name=f"TDL{short}")
        return table, row["delay_spread"]
    raise unknown_name("profile", name, [*scalable, *fixed])


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """A CDL profile: normalised delays, linear powers (with ``los_power`` they sum to 1), angles [rad]."""

    name: str
    delay: torch.Tensor
    power: torch.Tensor
    angles: dict[str, torch.Tensor]
    spreads: dict[str, float]
    xpr: float
    los_power: float
    los_angles: dict[str, float] | None

    @property
    def k_factor(self) -> float:
        """Rician K of the first cluster, specular over scattered power (0 where there is no specular ray)."""
        return self.los_power / float(self.power[0])


ANGLES = ("aod", "aoa", "zod", "zoa")


@functools.cache
def cdl_profile(name: str) -> ClusterTable:
    """Return a CDL table by letter ("A".."E", also "CDL-A")."""
    table = load_table("tr38901_cdl")
    short = str(name).upper().removeprefix("CDL").lstrip("-")
    if short not in table["profiles"]:
        raise unknown_name("profile", name, table["profiles"])
    row = table["profiles"][short]
    columns = torch.tensor(row["clusters"], dtype=torch.float64).T
    power, los_power = 10 ** (columns[1] / 10), 0.0 if row["los"] is None else 10 ** (row["los"][1] / 10)
    total = float(power.sum()) + los_power
    spreads = {"aod": "c_asd", "aoa": "c_asa", "zod": "c_zsd", "zoa": "c_zsa"}
    return ClusterTable(
        name=f"CDL-{short}",
        delay=columns[0],
        power=power / total,
        angles={key: torch.deg2rad(columns[2 + i]) for i, key in enumerate(ANGLES)},
        spreads={key: math.radians(row[source]) for key, source in spreads.items()},
        xpr=10 ** (row["xpr_db"] / 10),
        los_power=los_power / total,
        los_angles=None if row["los"] is None else {key: math.radians(row["los"][2 + i]) for i, key in enumerate(ANGLES)},
    )


def check_profile_value(value: TapTable) -> TapTable:
    """Return a user's tap table after checking its type."""
    if not isinstance(value, TapTable):
        raise InvalidValueError(f"profile must be a profile name or a TapTable, got {type(value).__name__}")
    return value
