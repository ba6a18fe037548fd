"""What a recipe's frequency-domain model leaves out, for its card and for a warning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.channels.base import ChannelModel
from wichan.grid import OFDMGrid
from wichan.observations.distortion import model_distortion

MARGIN_DB = 10.0


@dataclass(frozen=True)
class Interference:
    """Interference at the worst conditions of one split, in dB relative to the received signal.

    Attributes:
        split: split name.
        cell: the cell with the worst conditions.
        profile: its profile.
        max_doppler: largest Doppler shift there [Hz].
        delay_spread: largest RMS delay spread there [s], ``nan`` for a channel without one.
        doppler_db: inter-carrier interference of channels that change during a symbol.
        late_paths_db: inter-symbol and inter-carrier interference of paths beyond the cyclic prefix.
        noise_db: lowest noise there, ``None`` for data without noise.
    """

    split: str
    cell: str
    profile: str
    max_doppler: float
    delay_spread: float
    doppler_db: float
    late_paths_db: float
    noise_db: float | None

    @property
    def total_db(self) -> float:
        """Both powers together [dB]."""
        return to_db(10 ** (self.doppler_db / 10) + 10 ** (self.late_paths_db / 10))

    @property
    def matters(self) -> bool:
        """Whether it comes within 10 dB of the noise."""
        return self.noise_db is not None and self.total_db > self.noise_db - MARGIN_DB

    def line(self) -> str:
        """One line of a card: where, and the two powers."""
        spread = "" if math.isnan(self.delay_spread) else f", delay spread {self.delay_spread * 1e9:.0f} ns"
        profile = f"profile {self.profile}, " if self.profile else ""
        where = f"{self.split}: {profile}Doppler {self.max_doppler:.0f} Hz{spread}"
        return f"{where}: inter-carrier {db_text(self.doppler_db)}, beyond the cyclic prefix {db_text(self.late_paths_db)}"

    def warning(self) -> str:
        """The line that a simulation prints when the interference matters."""
        assert self.noise_db is not None
        return (
            f"the frequency-domain model leaves out interference of {self.total_db:.1f} dB relative to the signal "
            f"({self.line()}), within {MARGIN_DB:.0f} dB of the noise ({self.noise_db:.1f} dB): "
            "a real receiver does worse there"
        )


def to_db(power: float) -> float:
    """10 log10, minus infinity for 0."""
    return 10 * math.log10(power) if power > 0 else -math.inf


def db_text(value: float) -> str:
    """A level for people: ``-15.9 dB`` or ``none``."""
    return "none" if value == -math.inf else f"{value:.1f} dB"


def delay_profile(model: ChannelModel, delay_spread: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers and delays [s] of a delay-line model, or of many links of a model that knows no better; flat: one path."""
    estimate = getattr(model, "power_delay_profile", None)
    if estimate is not None and not model.has_closed_form:
        powers, delays = estimate()
        return powers, delays
    table = getattr(model, "profile", None)
    if table is None:
        return torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    powers = table.power.clone()
    powers[0] += table.los_power
    return powers, model.delays(delay_spread)  # type: ignore[attr-defined]


def interference_at(
    grid: OFDMGrid,
    paths: tuple[torch.Tensor, torch.Tensor],
    *,
    split: str,
    cell: str,
    profile: str,
    max_doppler: float,
    delay_spread: float | None,
    noise_db: float | None,
) -> Interference:
    """Compute the interference that a model with ``paths`` (powers, delays) on ``grid`` leaves out."""
    powers, delays = paths
    distortion = model_distortion(grid, max_doppler=max_doppler, powers=powers, delays=delays)
    return Interference(
        split=split,
        cell=cell,
        profile=profile,
        max_doppler=max_doppler,
        delay_spread=math.nan if delay_spread is None else delay_spread,
        doppler_db=to_db(distortion.doppler),
        late_paths_db=to_db(distortion.late_paths),
        noise_db=noise_db,
    )


def worst_of(candidates: list[Interference]) -> Interference:
    """The candidate whose interference stands highest above its noise (above the signal, where there is no noise)."""
    return max(candidates, key=lambda c: c.total_db - (c.noise_db or 0.0))
