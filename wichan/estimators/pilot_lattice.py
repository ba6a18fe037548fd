"""Least-squares estimates at the pilots, laid out as symbols x subcarriers for every transmit antenna."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, check_finite, check_tensor
from wichan.estimators.ls_error import power_of
from wichan.estimators.pilot_points import PilotPoints, despread_weights, pilot_points
from wichan.observations.ofdm import OFDMPilots

_EQUAL = 1e-3  # relative spread of noise over the points up to which it counts as white


class AntennaTable(nn.Module):
    """The points of one transmit antenna: where they lie, and how they are despread.

    Attributes:
        time, frequency: float64, (S,) and (K,), distinct positions in symbols and subcarriers, ascending.
        filled: bool, (S, K), where there is a point.
    """

    index: torch.Tensor
    valid: torch.Tensor
    antennas: torch.Tensor
    offsets: torch.Tensor
    time: torch.Tensor
    frequency: torch.Tensor
    filled: torch.Tensor
    slot: torch.Tensor

    def __init__(self, points: PilotPoints) -> None:
        super().__init__()
        time, row = points.time.unique(return_inverse=True)
        frequency, column = points.frequency.unique(return_inverse=True)
        slot = row * len(frequency) + column
        filled = torch.zeros(len(time) * len(frequency), dtype=torch.bool)
        filled[slot] = True
        tensors = {"time": time, "frequency": frequency, "slot": slot, "filled": filled.view(len(time), len(frequency))}
        for name in ("index", "valid", "antennas", "offsets"):
            tensors[name] = getattr(points, name)
        self.is_full = bool(filled.all())
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, received: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Estimate at the points, zero elsewhere.

        Args:
            received: pilot elements, complex, (\*batch, num_rx_ant, num_pilots).
            values: pilots, complex, (num_tx_ant, num_pilots).

        Returns:
            complex (\*batch, num_rx_ant, S, K), and the noise in each point for ``no = 1``, real (num_points,).
        """
        weights = despread_weights(self, values)
        taken = received.index_select(-1, self.index.flatten()).unflatten(-1, self.index.shape)
        x = (taken * weights.to(received.dtype)).sum(dim=-1)
        if not self.is_full:
            x = x.new_zeros(*x.shape[:-1], self.filled.numel()).index_copy(-1, self.slot, x)
        return x.unflatten(-1, self.filled.shape), power_of(weights).sum(dim=-1)


class PilotTables(nn.Module):
    """One `AntennaTable` for each transmit antenna.

    Args:
        obs: the pilots.

    Raises:
        InvalidTypeError, InvalidValueError: no `OFDMPilots`, or antennas that the pattern does not tell apart.
    """

    def __init__(self, obs: OFDMPilots) -> None:
        super().__init__()
        if not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        self.obs = obs
        self.tables = nn.ModuleList(AntennaTable(points) for points in pilot_points(obs)).to(obs.pilot_index.device)

    def antennas(self) -> list[AntennaTable]:
        """The tables."""
        return list(self.tables)  # type: ignore[arg-type]

    def forward(self, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Estimates and noise gains of every transmit antenna, see `AntennaTable`; ``y`` is checked."""
        received = check_finite("y", self.obs.extract(check_tensor("y", y, kind="complex")))
        values = self.obs.pilot_values()
        return [table(received, values) for table in self.antennas()]

    def why_no_lattice(self) -> str | None:
        """What keeps the points from being a lattice, or ``None``: equal symbols x subcarriers, white noise."""
        first = self.antennas()[0]
        gains = []
        for number, table in enumerate(self.antennas()):
            if not table.is_full:
                return f"pilots of antenna {number} are no product of symbols and subcarriers"
            for mine, theirs in ((table.time, first.time), (table.frequency, first.frequency)):
                if mine.shape != theirs.shape or float(((mine - mine[0]) - (theirs - theirs[0])).abs().max()) > 1e-9:
                    return f"antennas 0 and {number} have combs of different form"
            gains.append(power_of(despread_weights(table, self.obs.pilot_values().detach())).sum(dim=-1))
        gain = torch.cat(gains)
        if float(gain.max() - gain.min()) > _EQUAL * float(gain.max()):
            return "pilots have different powers"
        return None


class PilotLattice(nn.Module):
    r"""Least squares at pilots that are a lattice: S symbols x K subcarriers, the same for every antenna up to a shift.

    Args:
        obs: the pilots.

    Attributes:
        times, frequencies: float64, (S,) and (K,), from the first point [s] and [Hz].
        start_time, start_frequency: float64, (num_tx_ant,), of the first point, from symbol 0 and subcarrier 0.

    Raises:
        InvalidTypeError, InvalidValueError: pilots that are no lattice, with the reason.
    """

    times: torch.Tensor
    frequencies: torch.Tensor
    start_time: torch.Tensor
    start_frequency: torch.Tensor

    def __init__(self, obs: OFDMPilots) -> None:
        super().__init__()
        self.tables = PilotTables(obs)
        reason = self.tables.why_no_lattice()
        if reason is not None:
            raise InvalidValueError(f"obs: {reason}; a delay profile and a Doppler are fitted to symbols x subcarriers only")
        tables, symbol, spacing = self.tables.antennas(), obs.grid.symbol_duration, obs.grid.subcarrier_spacing
        first = tables[0]
        self.register_buffer("times", (first.time - first.time[0]) * symbol, persistent=False)
        self.register_buffer("frequencies", (first.frequency - first.frequency[0]) * spacing, persistent=False)
        self.register_buffer("start_time", torch.stack([t.time[0] for t in tables]) * symbol, persistent=False)
        self.register_buffer("start_frequency", torch.stack([t.frequency[0] for t in tables]) * spacing, persistent=False)

    @property
    def obs(self) -> OFDMPilots:
        """The pilots."""
        return self.tables.obs

    @property
    def is_despread(self) -> bool:
        """Whether a point is made of several elements, so that antennas leak into each other where a channel varies."""
        return any(table.index.shape[1] > 1 for table in self.tables.antennas())

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Estimate at the lattice.

        Returns:
            complex (\*batch, num_rx_ant, num_tx_ant, S, K), and the noise in it for ``no = 1``, real ().
        """
        parts: list[Any] = self.tables(y)
        return torch.stack([x for x, _ in parts], dim=-3), torch.cat([gain for _, gain in parts]).mean()
