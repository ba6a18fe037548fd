"""The system-level scenarios of TR 38.901 (UMi, UMa, RMa) through Sionna: a terminal dropped anew for every channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wichan.channels.arrays import AntennaArray, Panel
from wichan.channels.conditions import per_sample
from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_real
from wichan.integrations.sionna.channels import SionnaDraw, SionnaModel
from wichan.integrations.sionna.panels import panel_array
from wichan.integrations.sionna.require import require_sionna
from wichan.integrations.sionna.rng import isolated_rng
from wichan.integrations.sionna.topology import Drop


class SystemLevel(SionnaModel):
    """Channels of one terminal in one sector of an urban street canyon, an urban or a rural macro cell.

    Every channel has a terminal, large-scale parameters and rays of its own: steps 1 to 12 of TR 38.901 section 7.5, by
    Sionna. Path loss and shadowing are drawn in any case and reported; whether they are in ``h`` is an option.

    A draw's ``columns`` (each (batch_size,), float32): ``los`` and ``indoor`` (0 or 1), ``distance`` (horizontal, m),
    ``path_loss_db`` (with walls and cars), ``shadow_fading_db`` (positive: more power), ``delay_spread`` (the drawn large-scale
    parameter, s).

    Args:
        scenario: ``"UMi"``, ``"UMa"``, ``"RMa"``, or a `Drop` with distances, heights and the kind of link.
        carrier_frequency: [Hz], 0.5 to 100 GHz.
        speed: of the terminal [m/s], in a random horizontal direction; also a condition of every sample.
        direction: ``"uplink"`` (the terminal transmits) or ``"downlink"``.
        bs_array: the station's `Panel`; default one vertical element with the TR 38.901 pattern.
        ut_array: the terminal's `Panel`; default one isotropic vertical element.
        o2i_model: ``"low"`` or ``"high"`` penetration loss (RMa: low).
        enable_pathloss: leave the path loss in ``h``.
        enable_shadow_fading: leave shadowing in ``h``.

    Raises:
        MissingDependencyError: when channels are drawn without Sionna.
        InvalidValueError, UnknownNameError: a value that is not allowed.

    Cost: a street-canyon block of 256 channels, 14 symbols, takes some 0.25 s on one core, nearly all of it in Sionna.

    Sources: TR 38.901 sections 7.4 and 7.5.

    Example:
        >>> import pytest; _ = pytest.importorskip("sionna")
        >>> from wichan.grid import OFDMGrid
        >>> model = SystemLevel("UMi", carrier_frequency=3.5e9, speed=3.0, bs_array=Panel(1, 2, polarization="cross"))
        >>> draw = model.sample(8, generator=torch.Generator().manual_seed(1))
        >>> grid = OFDMGrid(14, 24, 30e3)
        >>> tuple(model.response(draw, grid.times, grid.frequencies).shape), tuple(draw.columns["path_loss_db"].shape)
        ((8, 4, 1, 14, 24), (8,))
    """

    known_conditions = ("speed",)

    def __init__(
        self,
        scenario: str | Drop,
        *,
        carrier_frequency: float,
        speed: float = 0.0,
        direction: str = "uplink",
        bs_array: AntennaArray | None = None,
        ut_array: AntennaArray | None = None,
        o2i_model: str = "low",
        enable_pathloss: bool = False,
        enable_shadow_fading: bool = False,
    ) -> None:
        self.drop = scenario if isinstance(scenario, Drop) else Drop(scenario)
        self.carrier_frequency = check_real("carrier_frequency", carrier_frequency, minimum=0.5e9, maximum=100e9)
        self.speed = check_real("speed", speed, minimum=0.0)
        self.direction = check_choice("direction", direction, ("uplink", "downlink"))
        self.o2i_model = check_choice("o2i_model", o2i_model, ("low", "high"))
        for name, value in (("enable_pathloss", enable_pathloss), ("enable_shadow_fading", enable_shadow_fading)):
            if not isinstance(value, bool):
                raise InvalidTypeError(f"{name}={value!r} must be true or false")
        self.enable_pathloss, self.enable_shadow_fading = enable_pathloss, enable_shadow_fading
        self.has_mean_power = not (enable_pathloss or enable_shadow_fading)
        self.bs_array = Panel(1, 1, pattern="38.901") if bs_array is None else bs_array
        self.ut_array = Panel(1, 1) if ut_array is None else ut_array
        ends = (self.bs_array, self.ut_array)
        for name, array in zip(("bs_array", "ut_array"), ends, strict=True):
            if not isinstance(array, AntennaArray):
                raise InvalidTypeError(f"{name} must be an AntennaArray (Panel, ULA), got {type(array).__name__}")
        rx, tx = ends if direction == "uplink" else ends[::-1]
        self.num_rx_ant, self.num_tx_ant = rx.num_ant, tx.num_ant
        self._channel: Any = None
        self._scenario: Any = None

    def _build(self) -> Any:
        if self._channel is None:
            self._scenario = build_scenario(
                self.drop.scenario, self.carrier_frequency, self.bs_array, self.ut_array, self.direction, self.o2i_model
            )
            tr38901 = require_sionna("SystemLevel").phy.channel.tr38901
            self._channel = tr38901.SystemLevelChannel(self._scenario)
        return self._channel

    def _place(self, batch_size: int, speed: torch.Tensor) -> Any:
        """Drop terminals and draw large-scale parameters; Sionna keeps what it drew before unless it is told to forget."""
        channel = self._build()
        channel.reset_topology()
        channel.set_topology(*self.drop.draw(batch_size, speed), los=self.drop.line_of_sight)
        return channel._lsp

    def draw(self, seed: int, batch_size: int, conditions: Mapping[str, Any]) -> SionnaDraw:
        """Return the draw of ``seed``."""
        speed = per_sample("speed", conditions.get("speed", self.speed), batch_size).expand(batch_size)
        columns = self._columns(self._place(batch_size, speed))

        def paths(steps: int, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
            with isolated_rng(seed), torch.no_grad():
                lsp = self._place(batch_size, speed)  # the same terminals: another draw may have come in between
                a, tau = self._channel(steps, rate)
                return a * self._gain(lsp)[:, None, None, None, None, None, None], tau

        return SionnaDraw(paths, columns)

    def _columns(self, lsp: Any) -> dict[str, torch.Tensor]:
        values = {
            "los": self._scenario.los,
            "indoor": self._scenario.indoor[:, None],
            "distance": self._scenario.distance_2d,
            "path_loss_db": lsp.pathloss,
            "shadow_fading_db": 10 * torch.log10(lsp.sf),
            "delay_spread": lsp.ds,
        }
        return {name: value[:, 0, 0].to(torch.float32).clone() for name, value in values.items()}

    def _gain(self, lsp: Any) -> torch.Tensor:
        """What undoes the large-scale gains that are not wanted in ``h``, (batch,)."""
        gain = torch.ones_like(lsp.sf)
        if not self.enable_pathloss:
            gain = gain * 10 ** (lsp.pathloss / 20)
        if not self.enable_shadow_fading:
            gain = gain / lsp.sf.sqrt()
        return gain[:, 0, 0]

    def power_key(self) -> Any:
        """All that the mean power depends on."""
        arrays = [(tuple(a.positions.flatten().tolist()), a.slants, a.pattern) for a in (self.bs_array, self.ut_array)]
        return ("SystemLevel", self.drop, self.carrier_frequency, self.direction, self.o2i_model, self.has_mean_power, *arrays)

    def mean_power(self) -> float:
        """E|h|^2 averaged over antennas, an estimate (`SionnaModel.mean_power`): element gains are in it, so it is not 1.

        Raises:
            InvalidValueError: path loss or shadowing is on: a few near terminals would carry the mean.
        """
        if not self.has_mean_power:
            raise InvalidValueError(
                "mean_power means nothing with path loss or shadow fading in the channel (a few near terminals carry it); "
                "switch both off, or define the SNR per realisation"
            )
        return super().mean_power()


def build_scenario(
    name: str,
    carrier_frequency: float,
    bs_array: AntennaArray,
    ut_array: AntennaArray,
    direction: str,
    o2i_model: str,
) -> Any:
    """Return Sionna's scenario object, path loss and shadowing on."""
    tr38901 = require_sionna("SystemLevel").phy.channel.tr38901
    walls = {} if name == "RMa" else {"o2i_model": o2i_model}  # RMa always has low penetration loss
    return getattr(tr38901, f"{name}Scenario")(
        carrier_frequency=carrier_frequency,
        **walls,
        ut_array=panel_array(ut_array, carrier_frequency, field="ut_array"),
        bs_array=panel_array(bs_array, carrier_frequency, field="bs_array"),
        direction=direction,
        enable_pathloss=True,
        enable_shadow_fading=True,
        precision="single",
        device="cpu",
    )
