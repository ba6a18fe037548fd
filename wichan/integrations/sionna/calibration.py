"""Large-scale parameters of the system-level scenarios: drawn by Sionna, and what TR 38.901 says of their distribution.

The theory is a transcription of its own (tables 7.4.1-1, 7.4.3, 7.5-6 to 7.5-9, V19.2) and evaluates none of Sionna's code:
of a draw it takes positions, states and the distance indoors. The numbers of table 7.5-6 were taken from Sionna's parameter
files of that version, so the independent part is the formulas; those of UMa and, without line of sight or indoors, of UMi were
also compared with a second public implementation. Distances, heights and states differ from link to link, so a theoretical
distribution is the mean over the links of one normal (or log-normal) distribution each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from wichan.channels.arrays import Panel, rotation, unit_vector
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import check_choice, check_int, check_real
from wichan.integrations.sionna.require import require_sionna
from wichan.integrations.sionna.rng import isolated_rng
from wichan.integrations.sionna.system_level import build_scenario
from wichan.integrations.sionna.topology import Drop
from wichan.random import derive_seed

#: Spreads: delay [s], azimuth of departure and arrival, zenith of arrival and departure [degrees], all downlink.
SPREADS = ("ds", "asd", "asa", "zsa", "zsd")
_BATCH = 1000
_LIMITS = {"ds": math.inf, "asd": 104.0, "asa": 104.0, "zsa": 52.0, "zsd": 52.0}  # section 7.5, step 4
_KIND = ("LOS", "NLOS", "O2I")

# Table 7.5-6: (a, b) of mean and of standard deviation of log10 of ds, asd, asa, zsa, each a * x + b, where x is
# log10(1 + f) in UMi, log10(f) in UMa, with f in GHz (at least 2 and 6), and 0 in RMa.
_TABLE: dict[tuple[str, str], tuple[tuple[float, float, float, float], ...]] = {
    ("UMi", "LOS"): (
        (-0.18, -7.28, 0, 0.39),
        (-0.05, 1.21, 0.08, 0.29),
        (-0.07, 1.66, 0.021, 0.26),
        (-0.11, 0.81, -0.03, 0.29),
    ),
    ("UMi", "NLOS"): (
        (-0.22, -6.87, 0.19, 0.22),
        (-0.24, 1.54, 0.1, 0.33),
        (-0.07, 1.76, 0.05, 0.27),
        (-0.03, 0.92, -0.05, 0.35),
    ),
    ("UMi", "O2I"): ((0, -6.62, 0, 0.32), (0, 1.25, 0, 0.42), (0, 1.76, 0, 0.16), (0, 1.01, 0, 0.43)),
    ("UMa", "LOS"): ((-0.0794, -7.067, 0.026, 0.57), (0, 0.92, 0, 0.31), (0, 1.76, 0, 0.19), (0, 0.96, 0, 0.15)),
    ("UMa", "NLOS"): ((-0.134, -6.47, 0, 0.39), (0, 1.09, 0, 0.44), (-0.25, 2.04, -0.03, 0.17), (-0.2856, 1.445, 0, 0.17)),
    ("UMa", "O2I"): ((0, -6.62, 0, 0.32), (0, 0.58, 0, 0.7), (0, 1.76, 0, 0.16), (0, 1.01, 0, 0.43)),
    ("RMa", "LOS"): ((0, -7.49, 0, 0.55), (0, 0.9, 0, 0.38), (0, 1.52, 0, 0.24), (0, 0.47, 0, 0.4)),
    ("RMa", "NLOS"): ((0, -7.43, 0, 0.48), (0, 0.95, 0, 0.45), (0, 1.52, 0, 0.13), (0, 0.58, 0, 0.37)),
    ("RMa", "O2I"): ((0, -7.47, 0, 0.24), (0, 0.67, 0, 0.18), (0, 1.66, 0, 0.21), (0, 0.93, 0, 0.22)),
}
# Shadowing [dB] of table 7.4.1-1, and of 7.5-6 for O2I; RMa in line of sight: before and beyond the breakpoint.
_SHADOWING = {"UMi": (4.0, 7.82, 7.0), "UMa": (4.0, 6.0, 7.0), "RMa": (4.0, 8.0, 8.0)}


@dataclass(frozen=True, eq=False)
class LargeScale:
    """What was drawn for a batch of links, each tensor (num_links,).

    Attributes:
        scenario: ``"UMi"``, ``"UMa"`` or ``"RMa"``.
        carrier_frequency: [Hz].
        drawn: the spreads as large-scale parameters, `SPREADS` -> values.
        realised: the same spreads measured on the links' rays (powers, delays and angles of all clusters).
        path_loss_db: with walls and cars.
        shadow_fading_db: positive: more power.
        antenna_gain_db: the station's element towards the terminal.
        kind: 0 line of sight, 1 none, 2 indoors.
        outdoor_los: line of sight of the outdoor part of the way.
        distance_2d, distance_3d, distance_in: [m]; the last one is the part inside a building.
        bs_height, ut_height: [m].
    """

    scenario: str
    carrier_frequency: float
    drawn: dict[str, torch.Tensor]
    realised: dict[str, torch.Tensor]
    path_loss_db: torch.Tensor
    shadow_fading_db: torch.Tensor
    antenna_gain_db: torch.Tensor
    kind: torch.Tensor
    outdoor_los: torch.Tensor
    distance_2d: torch.Tensor
    distance_3d: torch.Tensor
    distance_in: torch.Tensor
    bs_height: torch.Tensor
    ut_height: torch.Tensor

    @property
    def coupling_loss_db(self) -> torch.Tensor:
        """Path loss less shadowing and the gain of the station's element [dB]; the terminal's antenna is isotropic."""
        return self.path_loss_db - self.shadow_fading_db - self.antenna_gain_db


def large_scale_parameters(drop: str | Drop, *, carrier_frequency: float, num_links: int, seed: int = 0) -> LargeScale:
    """Drop terminals in one sector and let Sionna draw their large-scale parameters and rays; one station element.

    Args:
        drop: a scenario's name, or a `Drop`.
        carrier_frequency: [Hz].
        num_links: how many terminals.
        seed: of Sionna's generators, which are put back afterwards.

    Raises:
        MissingDependencyError: Sionna is not installed.

    Example:
        >>> import pytest; _ = pytest.importorskip("sionna")
        >>> links = large_scale_parameters("UMi", carrier_frequency=3.5e9, num_links=5)
        >>> links.drawn["ds"].shape, links.path_loss_db.shape
        (torch.Size([5]), torch.Size([5]))
    """
    chosen = drop if isinstance(drop, Drop) else Drop(drop)
    carrier = check_real("carrier_frequency", carrier_frequency, minimum=0.5e9, maximum=100e9)
    count = check_int("num_links", num_links, minimum=1)
    require_sionna("large_scale_parameters")
    parts = []
    for first in range(0, count, _BATCH):
        with isolated_rng(derive_seed(seed, "large scale", first)), torch.no_grad():
            parts.append(_draw(chosen, carrier, min(_BATCH, count - first)))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    drawn, realised = ({name: joined.pop(f"{which}_{name}") for name in SPREADS} for which in ("drawn", "realised"))
    values: dict[str, Any] = dict(joined)
    return LargeScale(chosen.scenario, carrier, drawn, realised, **values)


def _draw(drop: Drop, carrier: float, count: int) -> dict[str, torch.Tensor]:
    tr38901 = require_sionna("large_scale_parameters").phy.channel.tr38901
    station = Panel(1, 1, pattern="38.901")
    scenario = build_scenario(drop.scenario, carrier, station, Panel(1, 1), "downlink", "low")
    draw_lsp, draw_rays = tr38901.LSPGenerator(scenario), tr38901.RaysGenerator(scenario)
    scenario.set_topology(*drop.draw(count, torch.zeros(count)), los=drop.line_of_sight)
    draw_lsp.topology_updated_callback()
    draw_rays.topology_updated_callback()
    lsp = draw_lsp()
    rays = draw_rays(lsp)
    degrees = tr38901.angular_spreads_from_rays(rays, lsp, scenario)
    theta, phi = torch.deg2rad(scenario.los_zod[:, 0, 0]), torch.deg2rad(scenario.los_aod[:, 0, 0])
    x, y, z = (unit_vector(theta, phi)[:, None] @ rotation(scenario.bs_orientations[:, 0]))[:, 0].unbind(-1)  # array axes
    values = {f"drawn_{name}": getattr(lsp, name) for name in SPREADS}
    values |= {f"realised_{name}": torch.rad2deg(value) for name, value in degrees.items()}
    values["realised_ds"] = tr38901.delay_spread_from_rays(rays, lsp, scenario)
    indoor = scenario.indoor[:, None]
    values |= {
        "path_loss_db": lsp.pathloss,
        "shadow_fading_db": 10 * lsp.sf.log10(),
        "kind": torch.where(indoor, 2, torch.where(scenario.los, 0, 1)),
        "outdoor_los": scenario.outdoor_los,
        "distance_2d": scenario.distance_2d,
        "distance_3d": scenario.distance_3d,
        "distance_in": scenario.distance_2d_in,
    }
    flat = {name: value[:, 0, 0].clone() for name, value in values.items()}
    flat |= {"antenna_gain_db": 10 * station.power_pattern(z.clamp(-1, 1).acos(), torch.atan2(y, x)).log10()}
    flat |= {"bs_height": scenario.h_bs[:, 0].clone(), "ut_height": scenario.h_ut[:, 0].clone()}
    return {name: value.double() if value.is_floating_point() else value for name, value in flat.items()}


def spread_parameters(links: LargeScale, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of log10 of a spread on every link, tables 7.5-6 to 7.5-9; (num_links,) each."""
    check_choice("name", name, SPREADS)
    if name == "zsd":
        return _zenith_departure(links)
    low = {"UMi": 2.0, "UMa": 6.0, "RMa": 1.0}[links.scenario]
    ghz = max(links.carrier_frequency / 1e9, low)
    x = {"UMi": math.log10(1 + ghz), "UMa": math.log10(ghz), "RMa": 0.0}[links.scenario]
    rows = torch.tensor([_TABLE[links.scenario, kind][SPREADS.index(name)] for kind in _KIND], dtype=torch.float64)
    a, b, c, d = rows[links.kind].unbind(-1)
    return a * x + b, c * x + d


def _zenith_departure(links: LargeScale) -> tuple[torch.Tensor, torch.Tensor]:
    km, h_ut, h_bs = links.distance_2d / 1e3, links.ut_height, links.bs_height
    if links.scenario == "UMi":
        seen = (-14.8 * km + 0.01 * (h_ut - h_bs).abs() + 0.83).clamp(min=-0.21)
        hidden = (-3.1 * km + 0.01 * (h_ut - h_bs).clamp(min=0) + 0.2).clamp(min=-0.5)
        deviation = torch.full_like(km, 0.35)
    elif links.scenario == "UMa":
        seen = (-2.1 * km - 0.01 * (h_ut - 1.5) + 0.75).clamp(min=-0.5)
        hidden = (-2.1 * km - 0.01 * (h_ut - 1.5) + 0.9).clamp(min=-0.5)
        deviation = torch.where(links.outdoor_los, 0.40, 0.49).double()
    else:
        seen = (-0.17 * km - 0.01 * (h_ut - 1.5) + 0.22).clamp(min=-1.0)
        hidden = (-0.19 * km - 0.01 * (h_ut - 1.5) + 0.28).clamp(min=-1.0)
        deviation = torch.where(links.kind == 0, 0.34, 0.30).double()
        return torch.where(links.kind == 0, seen, hidden), deviation
    return torch.where(links.outdoor_los, seen, hidden), deviation


def path_loss(links: LargeScale) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [dB] of every link's path loss without shadowing: tables 7.4.1-1, 7.4.3-2 and -3.

    The deviation is that of walls (RMa) and cars (RMa, outdoors), else 0. Terminals below 13 m (UMa) only.
    """
    hz = links.carrier_frequency
    ghz, d3, h_bs, h_ut = hz / 1e9, links.distance_3d, links.bs_height, links.ut_height
    if links.scenario == "RMa":
        return _rural_path_loss(links)
    corner = 4 * (h_bs - 1) * (h_ut - 1) * hz / SPEED_OF_LIGHT
    far = links.distance_2d >= corner
    twenty = 20 * math.log10(ghz)
    if links.scenario == "UMi":
        beyond = 40 * d3.log10() - 9.5 * (corner**2 + (h_bs - h_ut) ** 2).log10()
        seen = 32.4 + twenty + torch.where(far, beyond, 21 * d3.log10())
        hidden = 35.3 * d3.log10() + 22.4 + 21.3 * math.log10(ghz) - 0.3 * (h_ut - 1.5)
    else:
        beyond = 40 * d3.log10() - 9 * (corner**2 + (h_bs - h_ut) ** 2).log10()
        seen = 28.0 + twenty + torch.where(far, beyond, 22 * d3.log10())
        hidden = 13.54 + 39.08 * d3.log10() + twenty - 0.6 * (h_ut - 1.5)
    loss = torch.where(links.outdoor_los, seen, torch.maximum(seen, hidden))
    if ghz < 6:  # table 7.4.3-3
        wall, deviation = 20.0, 0.0
    else:
        wall, deviation = _low_loss_wall(ghz), 4.4
    inside = links.kind == 2
    return loss + inside * wall + 0.5 * links.distance_in, inside * deviation


def _low_loss_wall(ghz: float) -> float:
    glass, concrete = 2 + 0.2 * ghz, 5 + 4 * ghz
    return 5 - 10 * math.log10(0.3 * 10 ** (-glass / 10) + 0.7 * 10 ** (-concrete / 10))


def _rural_path_loss(links: LargeScale) -> tuple[torch.Tensor, torch.Tensor]:
    """RMa with buildings of 5 m, streets of 20 m, ordinary car windows (9 dB, 5 dB)."""
    ghz, d3, h_bs, h_ut = links.carrier_frequency / 1e9, links.distance_3d, links.bs_height, links.ut_height
    height, width = 5.0, 20.0

    def near(d: torch.Tensor) -> torch.Tensor:
        slope = min(0.03 * height**1.72, 10) * d.log10() - min(0.044 * height**1.72, 14.77)
        return 20 * (40 * math.pi * d * ghz / 3).log10() + slope + 0.002 * math.log10(height) * d

    corner = 2 * math.pi * h_bs * h_ut * links.carrier_frequency / SPEED_OF_LIGHT
    seen = torch.where(links.distance_2d < corner, near(d3), near(corner) + 40 * (d3 / corner).log10())
    fixed = 161.04 - 7.1 * math.log10(width) + 7.5 * math.log10(height) + 20 * math.log10(ghz)
    hidden = fixed - (24.37 - 3.7 * (height / h_bs) ** 2) * h_bs.log10()
    hidden = hidden + (43.42 - 3.1 * h_bs.log10()) * (d3.log10() - 3) - (3.2 * (11.75 * h_ut).log10() ** 2 - 4.97)
    loss = torch.where(links.outdoor_los, seen, torch.maximum(seen, hidden))
    inside = links.kind == 2
    walls = _low_loss_wall(ghz) + 0.5 * links.distance_in
    return loss + torch.where(inside, walls, 9.0), torch.where(inside, 4.4, 5.0).double()


def shadowing_deviation(links: LargeScale) -> torch.Tensor:
    """Standard deviation of the shadowing [dB] on every link."""
    values = torch.tensor(_SHADOWING[links.scenario], dtype=torch.float64)[links.kind]
    if links.scenario == "RMa":
        corner = 2 * math.pi * links.bs_height * links.ut_height * links.carrier_frequency / SPEED_OF_LIGHT
        values = torch.where((links.kind == 0) & (links.distance_2d >= corner), 6.0, values)
    return values


def theory_cdf(links: LargeScale, name: str, points: torch.Tensor) -> torch.Tensor:
    """Distribution function of a spread (`SPREADS`), ``"path_loss_db"`` or ``"coupling_loss_db"`` over the links' places.

    Args:
        links: positions and states; their drawn values are not looked at.
        name: which quantity.
        points: real, (n,), in the quantity's unit.

    Returns:
        float64 (n,): the mean over links of one normal distribution function each.
    """
    check_choice("name", name, (*SPREADS, "path_loss_db", "coupling_loss_db"))
    values = points.double()
    if name in SPREADS:
        mean, deviation = spread_parameters(links, name)
        cdf = _mean_normal_cdf(values.log10(), mean, deviation)
        return torch.where(values >= _LIMITS[name], 1.0, cdf)
    mean, deviation = path_loss(links)
    if name == "coupling_loss_db":
        mean, deviation = mean - links.antenna_gain_db, (deviation**2 + shadowing_deviation(links) ** 2).sqrt()
    return _mean_normal_cdf(values, mean, deviation)


def _mean_normal_cdf(points: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    width = deviation.clamp(min=1e-4) * math.sqrt(2)  # 1e-4: a step, wider than the rounding of a drawn value
    # In slices: all points times all links would be hundreds of megabytes.
    parts = [torch.erfc((mean - some[:, None]) / width).mean(dim=1) / 2 for some in points.split(128)]
    return torch.cat(parts) if parts else points.new_zeros(0)


def ks_distance(links: LargeScale, name: str) -> float:
    """Largest distance between the distribution of what was drawn and `theory_cdf`."""
    drawn = links.drawn[name] if name in SPREADS else getattr(links, name)
    ordered = drawn.sort().values
    if name in SPREADS:  # values at the limit are one step, which the theory has too
        ordered = ordered[ordered < _LIMITS[name] * (1 - 1e-6)]
    cdf, total = theory_cdf(links, name, ordered), drawn.numel()
    rank = torch.arange(ordered.numel(), dtype=torch.float64)
    return float(torch.maximum((rank + 1) / total - cdf, cdf - rank / total).max())
