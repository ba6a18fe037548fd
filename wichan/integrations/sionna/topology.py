"""One terminal dropped at random into a sector of a 3GPP cell, for each channel anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidValueError, check_choice, check_real
from wichan.integrations.sionna.require import require_sionna

#: The scenarios, with the terminal heights [m] for which TR 38.901 table 7.4.1-1 gives path losses.
SCENARIOS: dict[str, tuple[float, float]] = {"UMi": (1.5, 22.5), "UMa": (1.5, 22.5), "RMa": (1.0, 10.0)}

#: What a link may be: as the drop gives it, or always of one kind.
STATES = ("drop", "LOS", "NLOS", "O2I")


@dataclass(frozen=True)
class Drop:
    """A drop of one terminal into a sector; ``None`` stands for the scenario's own value (Sionna's, after TR 38.901).

    Args:
        scenario: ``"UMi"``, ``"UMa"`` or ``"RMa"``.
        state: ``"drop"``: indoors with ``indoor_probability``, and outdoors in line of sight with the probability of TR
            38.901 section 7.4.2. ``"LOS"``, ``"NLOS"``: always outdoors and in that state. ``"O2I"``: always indoors.
        min_bs_ut_dist: smallest horizontal distance [m].
        isd: distance between sites [m]; the sector reaches to the hexagon's edge.
        bs_height: [m].
        min_ut_height, max_ut_height: [m]; uniform between them.
        indoor_probability: 0 to 1.

    Raises:
        InvalidValueError, UnknownNameError: a value out of range, or distances and heights that leave no room.
    """

    scenario: str
    state: str = "drop"
    min_bs_ut_dist: float | None = None
    isd: float | None = None
    bs_height: float | None = None
    min_ut_height: float | None = None
    max_ut_height: float | None = None
    indoor_probability: float | None = None

    def __post_init__(self) -> None:
        low, high = SCENARIOS[check_choice("scenario", self.scenario, SCENARIOS)]
        check_choice("state", self.state, STATES)
        limits: dict[str, dict[str, Any]] = {
            "min_bs_ut_dist": {"minimum": 1.0, "maximum": 1e5},
            "isd": {"minimum": 1.0, "maximum": 1e5},
            "bs_height": {"minimum": 2.0, "maximum": 150.0},
            "min_ut_height": {"minimum": low, "maximum": high},
            "max_ut_height": {"minimum": low, "maximum": high},
            "indoor_probability": {"minimum": 0.0, "maximum": 1.0},
        }
        for name, bounds in limits.items():
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), **bounds)
        self._check_pairs()

    def _check_pairs(self) -> None:
        # Sionna's defaults: distances of table 7.8-1 and sites of table 7.2-1 to 7.2-3, terminals at 1.5 m.
        near, sites = {"UMi": (10.0, 200.0), "UMa": (35.0, 500.0), "RMa": (35.0, 5000.0)}[self.scenario]
        nearest = near if self.min_bs_ut_dist is None else self.min_bs_ut_dist
        reach = (sites if self.isd is None else self.isd) / 2
        if nearest >= reach:
            raise InvalidValueError(f"min_bs_ut_dist={nearest:g} must be less than half of isd={2 * reach:g}")
        lowest = 1.5 if self.min_ut_height is None else self.min_ut_height
        highest = 1.5 if self.max_ut_height is None else self.max_ut_height
        if lowest > highest:
            raise InvalidValueError(f"min_ut_height={lowest:g} must be at most max_ut_height={highest:g}")

    @property
    def line_of_sight(self) -> bool | str:
        """Sionna's argument ``los``."""
        return {"LOS": True, "NLOS": False}.get(self.state, "random")

    def draw(self, batch_size: int, speed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Draw a topology of ``batch_size`` sectors with one terminal each; Sionna's generators must be seeded.

        Args:
            batch_size: how many.
            speed: [m/s], (batch_size,); the direction is horizontal and uniform.

        Returns:
            What `set_topology` of Sionna's models takes: terminal and station locations [m], terminal and station
            orientations [rad], terminal velocities [m/s], indoor states.
        """
        channel = require_sionna("Drop").phy.channel
        indoor = {"LOS": 0.0, "NLOS": 0.0, "O2I": 1.0}.get(self.state, self.indoor_probability)
        ut, bs, ut_turn, bs_turn, heading, inside = channel.gen_single_sector_topology(
            batch_size,
            1,
            self.scenario.lower(),
            min_bs_ut_dist=self.min_bs_ut_dist,
            isd=self.isd,
            bs_height=self.bs_height,
            min_ut_height=self.min_ut_height,
            max_ut_height=self.max_ut_height,
            indoor_probability=indoor,
            min_ut_velocity=1.0,
            max_ut_velocity=1.0,
            precision="single",
            device="cpu",
        )
        return ut, bs, ut_turn, bs_turn, heading * speed.to(heading)[:, None, None], inside
