"""What a picture of channels is drawn from: the channels, their axes, and what theory expects of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from wichan.channels.arrays import AntennaArray
from wichan.channels.base import ChannelModel
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidValueError, ShapeError, check_int, check_shape, check_tensor

if TYPE_CHECKING:
    from wichan.observations import OFDMPilots


class Expected(NamedTuple):
    """Theory for a share of the samples.

    Attributes:
        covariance: second moment; a batch axis holds one covariance a sample or condition, all of equal weight.
        weight: share of the samples.
        model: the channel model, where one is known.
    """

    covariance: ChannelCovariance
    weight: float = 1.0
    model: ChannelModel | None = None


@dataclass(frozen=True, eq=False)
class ChannelView:
    r"""Channels to look at.

    Args:
        h: complex, (num_samples, num_rx_ant, num_tx_ant, num_times, num_subcarriers).
        times: instants [s], evenly spaced, (num_times,); ``None``: snapshots are counted.
        frequencies: offsets from the carrier [Hz], rising evenly, (num_subcarriers,); ``None``: subcarriers are counted.
        theory: what to expect of these very samples; empty where nothing is known.
        sample: which sample to show where one is shown.
        label: what that sample is called; default its number within ``h``.
        title: one line above the picture.
        rx_array, tx_array: antenna arrays, for angles.
        y: received pilots, complex, (num_samples, num_rx_ant, num_times, num_subcarriers), with ``pilots`` and ``no``.
        pilots: what was sent.
        no: noise variance of each sample, (num_samples,).
        conditions: column name -> (num_samples,).
    """

    h: torch.Tensor
    times: torch.Tensor | None = None
    frequencies: torch.Tensor | None = None
    theory: tuple[Expected, ...] = ()
    sample: int = 0
    label: str | None = None
    title: str = ""
    rx_array: AntennaArray | None = None
    tx_array: AntennaArray | None = None
    y: torch.Tensor | None = None
    pilots: OFDMPilots | None = None
    no: torch.Tensor | None = None
    conditions: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tensor("h", self.h, kind="complex")
        if self.h.dim() != 5 or 0 in self.h.shape:
            raise ShapeError(f"h has shape {tuple(self.h.shape)}; it must be (samples, rx, tx, times, subcarriers), none empty")
        check_int("sample", self.sample, minimum=0, maximum=self.h.shape[0] - 1)
        for name, points, axis in (("times", self.times, -2), ("frequencies", self.frequencies, -1)):
            if points is not None:
                check_shape(name, points, (self.h.shape[axis],))
        for part in self.theory:
            if part.covariance.shape != tuple(self.h.shape[1:]):
                raise ShapeError(
                    f"covariance has shape {part.covariance.shape}; the channels ask for {tuple(self.h.shape[1:])}"
                )

    @property
    def t(self) -> torch.Tensor:
        """Instants [s], or counted."""
        return torch.arange(self.h.shape[-2], dtype=torch.float64) if self.times is None else self.times

    @property
    def f(self) -> torch.Tensor:
        """Frequencies [Hz], or counted."""
        return torch.arange(self.h.shape[-1], dtype=torch.float64) if self.frequencies is None else self.frequencies

    @property
    def sample_label(self) -> str:
        """What the sample is called."""
        return f"sample {self.sample}" if self.label is None else self.label

    def expect(self, function: Callable[[ChannelCovariance], torch.Tensor]) -> torch.Tensor | None:
        """Average a function that is linear in the covariance over the theory, or ``None`` where there is none.

        ``function`` answers with the mean over conditions itself.
        """
        if not self.theory:
            return None
        total = torch.zeros(())
        for part in self.theory:
            total = total + part.weight * function(part.covariance)
        return total

    def need(self, kind: str, *, times: int = 1, subcarriers: int = 1) -> None:
        """Refuse a kind of picture that the channels are too small for."""
        have_times, have_subcarriers = self.h.shape[-2:]
        if have_times < times:
            raise InvalidValueError(f"kind={kind!r} needs at least {times} instants; the channels have {have_times}")
        if have_subcarriers < subcarriers:
            raise InvalidValueError(
                f"kind={kind!r} needs at least {subcarriers} subcarriers; the channels have {have_subcarriers}"
            )
