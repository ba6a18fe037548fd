"""What a predictor's training does to histories: noise, other impairments, how many antennas of a sample a step uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from wichan.errors import InvalidValueError, check_int, check_real, unknown_name
from wichan.random import complex_normal, uniform

Interval = tuple[float, float]
#: Impairments beside noise that a step may draw: name -> range of degrees, as in the published robustness tests.
DEGREES: dict[str, Interval] = {"drop": (0.01, 0.1), "phase": (0.056, 0.32), "burst": (0.054, 0.29)}


@dataclass(frozen=True)
class HistoryOptions:
    """Settings of the task (``task_options``).

    Args:
        snr_db: of the white noise on a history [dB], a number or (low, high), between which every sample draws its own;
            None: no noise. Default: as published.
        antennas: antenna pairs of a sample that a training step uses, one random pair of each of as many groups of
            neighbours; 0 uses all. Networks that take every antenna for itself see about the same in each of them. Networks
            that use antennas jointly are always given all.
        impaired: share of training batches that lose packets, or get phase noise or a burst, of a random degree
            (`DEGREES`), instead of white noise. Default 0, as published.

    Raises:
        InvalidTypeError, InvalidValueError: a value that is not allowed.
    """

    snr_db: Interval | None = (0.0, 25.0)
    antennas: int = 4
    impaired: float = 0.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> HistoryOptions:
        """Build from plain data.

        Raises:
            UnknownNameError: a setting that does not exist.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown_name("task option", name, known)
        checked: dict[str, Any] = {}
        if "snr_db" in given:
            checked["snr_db"] = _interval("snr_db", given["snr_db"])
        if "antennas" in given:
            checked["antennas"] = check_int("antennas", given["antennas"] or 0, minimum=0)
        if "impaired" in given:
            checked["impaired"] = check_real("impaired", given["impaired"], minimum=0.0, maximum=1.0)
        return cls(**checked)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"snr_db": None if self.snr_db is None else list(self.snr_db)}


def _interval(name: str, value: Any) -> Interval | None:
    if value is None:
        return None
    ends = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(ends) != 2:
        raise InvalidValueError(f"{name}={value!r:.60} must be a number or [low, high]")
    low, high = (check_real(name, end, minimum=-100.0, maximum=300.0) for end in ends)
    if low > high:
        raise InvalidValueError(f"{name}={value!r:.60} must hold the lower number first")
    return low, high


def chosen_antennas(shape: tuple[int, int], wanted: int, generator: torch.Generator) -> torch.Tensor | None:
    """Draw antenna pairs of samples: one of each of ``wanted`` groups of neighbours.

    Args:
        shape: (samples, antenna pairs).
        wanted: pairs of a sample; 0, or as many as there are: all.
        generator: on the CPU.

    Returns:
        int64 (samples, wanted), ascending along a row; None: all.
    """
    samples, total = shape
    if not 0 < wanted < total:
        return None
    edges = torch.linspace(0, total, wanted + 1, dtype=torch.float64).round().long()
    draw = torch.rand(samples, wanted, generator=generator, dtype=torch.float64)
    return edges[:-1] + (draw * (edges[1:] - edges[:-1])).long()


def with_noise(history: torch.Tensor, power: torch.Tensor, snr_db: Interval | None, generator: torch.Generator) -> torch.Tensor:
    """Add white noise, its SNR drawn for every sample.

    Args:
        history: complex (samples, ...).
        power: (samples,), mean power of a sample over all of its antennas, to which the SNR refers.
        snr_db: (low, high); None adds nothing.
        generator: on the device of ``history``.
    """
    if snr_db is None:
        return history
    drawn = uniform((len(history),), *snr_db, generator=generator)
    deviation = (power * 10 ** (-drawn / 10)).sqrt().reshape(-1, *[1] * (history.dim() - 1))
    return complex_normal(history.shape, generator=generator).mul_(deviation).add_(history)


def impaired_batch(history: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Do one of `DEGREES` to a batch; lost snapshots are filled by their neighbours.

    Args:
        history: complex (samples, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
        generator: on the device of ``history``.
    """
    from wichan.observations import history_impairment, impute
    from wichan.observations.history import Burst, PhaseNoise

    pick, share = torch.rand(2, generator=generator, device=generator.device).tolist()
    name = list(DEGREES)[int(pick * len(DEGREES))]
    low, high = DEGREES[name]
    degree = low + share * (high - low)
    made = {"phase": PhaseNoise, "burst": Burst}
    impairment = made[name](degree) if name in made else history_impairment(name, degree)
    changed, present = impairment(history, generator=generator)
    return impute(changed, present) if name == "drop" else changed
