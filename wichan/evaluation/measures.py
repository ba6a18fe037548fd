"""What an evaluation can measure beside NMSE, bit errors and rate: names, units, and how tables and figures show them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.evaluation.statistics import RATIO_FLOOR, Interval, to_db


@dataclass(frozen=True)
class Measure:
    """How one number is shown.

    Attributes:
        title: heading of its table.
        axis: label of its axis in a figure.
        about: how it is measured, the last part of the caption.
        width: of a column on a terminal.
        decibel: kept as a ratio of powers, shown in dB.
        digits: behind the point; None: two digits and a power of ten.
        unit: of the interval in the caption.
        factor: from the SI unit in which it is kept to the one that is shown.
        rising: whether more is better.
        known: whether a receiver that knows the channel has such a number too.
        log: whether a figure has a logarithmic axis.
        random: whether it differs from channel to channel, so that there is an interval.
    """

    title: str
    axis: str
    about: str
    width: int = 7
    decibel: bool = False
    digits: int | None = 2
    unit: str = "dB"
    factor: float = 1.0
    rising: bool = False
    known: bool = False
    log: bool = False
    random: bool = True

    def shown(self, level: Interval) -> Interval:
        """The interval in the unit of tables and figures."""
        return Interval(*(to_db(part) if self.decibel else part * self.factor for part in level))

    def cell(self, value: float) -> str:
        """A shown value as a table prints it; a dash where there is none."""
        if math.isnan(value):
            return "-"
        if self.digits is not None:
            return f"{value:.{self.digits}f}"
        if self.log and self.factor == 1.0:
            return "0" if value == 0 else f"{value:.1e}" if value >= 1e-99 else "<1e-99"
        return f"{value:.3g}"

    def widest(self, level: Interval) -> str:
        """Half the widest interval, for the caption; ``level`` as shown."""
        half = (level.high - level.low) / 2
        if self.digits is None:
            ratio = half / level.value.clamp_min(RATIO_FLOOR)
            return f"{100 * _largest(ratio):.0f} %"
        return f"{_largest(half):.{self.digits}f} {self.unit}".rstrip()


def _largest(values: torch.Tensor) -> float:
    return float(values.nan_to_num(0.0, posinf=0.0).max())


#: Name -> how it is shown; those of recipes of kind ``irs``.
MEASURES: dict[str, Measure] = {
    "nmse-pattern": Measure(
        "NMSE, mean over patterns and channels [dB]",
        "mean NMSE of a pattern [dB]",
        "each pattern's own ratio; a few failed channels rule this mean",
        decibel=True,
    ),
    "nmse-median": Measure(
        "NMSE, mean over patterns, median over channels [dB]",
        "median NMSE of a channel [dB]",
        "half of the channels are better than that",
        decibel=True,
    ),
    "srr": Measure(
        "Support recovery rate",
        "support recovery rate",
        "found and true atoms in common over all found and true ones; true are those next to the paths",
        unit="",
        digits=3,
        rising=True,
    ),
    "ser": Measure(
        "Symbol error rate",
        "symbol error rate",
        "QPSK over the strongest beam pair of the estimate, exact given the channel; noise that leaves the known channel's "
        "beams the SNR of the training",
        width=9,
        digits=None,
        known=True,
        log=True,
    ),
    "se": Measure(
        "Spectral efficiency [bit/s/Hz]",
        "spectral efficiency [bit/s/Hz]",
        "strongest beam pair of the estimate under every training pattern (phases are not chosen), noise and power of the "
        "training, its pilots counted",
        unit="bit/s/Hz",
        rising=True,
        known=True,
    ),
    "time": Measure(
        "Run time [ms per channel]",
        "run time [ms per channel]",
        "wall time of a batch over its channels, once everything is warm; the machine may have had other work",
        width=9,
        digits=None,
        factor=1e3,
        log=True,
        random=False,
    ),
}
