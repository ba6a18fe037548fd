"""DADNet: delay-angle-Doppler prediction whose steps of spectral estimation a small network corrects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from wichan.errors import InvalidValueError, check_int, check_real
from wichan.prediction.base import Prediction, check_history, check_present
from wichan.prediction.dad_net_network import DADNetwork
from wichan.prediction.dad_transform import check_panel
from wichan.prediction.learned import LearnedPredictor, interleaved, joined

_SIZES = ("num_cells", "num_dopplers", "width", "stages")


class DADNet(LearnedPredictor):
    """Learned prediction in delay, angle and Doppler, joint over the antennas of a panel, see `DADNetwork` for the method.

    The network has thousands of weights, not millions: it only corrects the estimation of spectra, and the same convolutions
    serve every cell, angle and Doppler shift, so that it does not learn a scenario by heart. Without training it is a few steps
    of what `DelayAngleDoppler` does.

    Args:
        panel: (rows, columns, polarizations); antenna ``pol * columns * rows + column * rows + row``. A link has as many
            antenna pairs.
        max_delay: end of the delays that are kept, as a fraction of 1 / subcarrier spacing (0.15: 5 us at 30 kHz).
        num_cells: pairs (row of the panel, delay) with a spectrum of their own, strongest first; the others share one.
        num_dopplers: lines of a Doppler spectrum.
        width: channels of the network.
        stages: steps, each with weights of its own.
        slot_loss: largest share of snapshots that a sample loses in training mode, where a third of the samples lose some, so
            that the network meets gaps. 0: none.
        **shared: see `LearnedPredictor`; ``duplex`` is ``"tdd"``.

    Attributes:
        joint_antennas: training must keep the antennas of a sample together.

    Raises:
        InvalidTypeError, InvalidValueError: numbers out of range, or ``duplex="fdd"``: what moves a channel to another
            band is not in a Doppler spectrum.

    Cost: 0.53 GFLOP a sample of 32 antennas, 16 + 4 snapshots and 300 subcarriers (``small``), see `flops`.
    """

    kind = "dadnet"
    joint_antennas: ClassVar[bool] = True
    takes_gaps = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {"num_cells": 8, "num_dopplers": 24, "width": 4, "stages": 2},
        "small": {},
    }

    network: DADNetwork

    def __init__(
        self,
        *,
        panel: tuple[int, int, int] = (4, 4, 2),
        max_delay: float = 0.15,
        num_cells: int = 48,
        num_dopplers: int = 48,
        width: int = 12,
        stages: int = 3,
        slot_loss: float = 0.2,
        **shared: Any,
    ) -> None:
        if shared.get("duplex", "tdd") == "fdd":
            raise InvalidValueError("duplex='fdd': dadnet predicts the band that it observed; it is made for 'tdd'")
        rows, columns, polarizations = check_panel(panel)
        self._settings: dict[str, Any] = {
            "panel": (rows, columns, polarizations),
            "max_delay": check_real("max_delay", max_delay, positive=True, maximum=1),
        }
        given = zip(_SIZES, (num_cells, num_dopplers, width, stages), strict=True)
        self._settings |= {name: check_int(name, value, minimum=1) for name, value in given}
        self.slot_loss = check_real("slot_loss", slot_loss, minimum=0, maximum=0.9)
        super().__init__(**shared)
        self.num_ant = rows * columns * polarizations

    def _build(self) -> nn.Module:
        sizes = self._settings
        span = self.num_history + self.num_horizon
        if sizes["num_dopplers"] < span:
            raise InvalidValueError(f"num_dopplers={sizes['num_dopplers']} must be at least num_history + num_horizon = {span}")
        return DADNetwork(self.num_history, self.num_horizon, self.num_subcarriers, **sizes)

    def _config(self) -> dict[str, Any]:
        return dict(self._settings) | {"panel": list(self._settings["panel"]), "slot_loss": self.slot_loss}

    def flops(self) -> int:
        """Floating-point operations for the mean of one sample, see `DADNetwork.flops`; the error head adds 5 %."""
        return self.network.flops()

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        h = joined(x)
        if self.training and self.slot_loss:
            h = h * _survivors(len(h), self.num_history, self.slot_loss, h.device)[:, None, :, None]
        return interleaved(self.network(h))

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict the snapshots that follow a history.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
            no: checked and not used, see `LearnedPredictor.forward`.
            present: bool (\*batch, num_history); a lost snapshot is left out of every sum. A snapshot of zeros counts as lost.

        Returns:
            `Prediction`.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: as `LearnedPredictor.forward`.
        """
        check_history(history, self.num_history, num_ant=self.num_ant, num_subcarriers=self.num_subcarriers)
        kept = check_present(present, history)
        if kept is not None:
            history = torch.where(kept[..., None, None, :, None], history, 0)
        return super().forward(history, no)


def _survivors(samples: int, slots: int, most: float, device: torch.device) -> torch.Tensor:
    """Which snapshots a training step keeps, bool (samples, slots); at least one of each sample.

    Drawn as dropout draws, from torch's own generator.
    """
    rate = (torch.rand(samples, 1, device=device) * 3 - 2).clamp_min(0) * most
    kept = torch.rand(samples, slots, device=device) >= rate
    return kept | ~kept.any(1, keepdim=True)
