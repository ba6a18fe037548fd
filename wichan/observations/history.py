"""What happens to past CSI before it reaches a predictor: noise, phase errors, lost snapshots, bursts."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_noise,
    check_real,
    check_tensor,
)
from wichan.observations.impairment import HistoryImpairment, all_present, check_snapshots, normal_like

#: Target SNR [dB] to the degree that the benchmark uses for it.
PHASE_PRESETS = {10: 0.32, 15: 0.18, 20: 0.10, 25: 0.056}
BURST_PRESETS = {10: 0.29, 15: 0.16, 20: 0.09, 25: 0.054}
#: Snapshots of the longest burst, and the complex power of the z-scored data that its amplitude is published for.
BURST_LENGTH = 10
PUBLISHED_POWER = 2.0
_SNR_DB = (-100.0, 300.0)


class AWGN(HistoryImpairment):
    r"""White noise at an SNR that holds for every sample's own power.

    .. math:: \hat h = h + n,\qquad n \sim \mathcal{CN}(0, P\, 10^{-\mathrm{SNR}/10}),\qquad P = \overline{|h|^2}

    with the mean over the sample's antennas, snapshots and subcarriers.

    Args:
        snr_db: a number [dB], a tensor over the leading batch axes, or a pair (low, high): each sample draws its own,
            uniformly between the two.

    Raises:
        InvalidTypeError, InvalidValueError: not finite, outside -100 to 300 dB, no pair with low <= high.

    Source: [CSI4CAST2025]_.

    Example:
        >>> damaged, present = AWGN(20.0)(torch.ones(2, 4, 1, 16, 8) + 0j, generator=torch.Generator().manual_seed(1))
        >>> damaged.shape, bool(present.all())
        (torch.Size([2, 4, 1, 16, 8]), True)
    """

    name = "awgn"

    def __init__(self, snr_db: Any) -> None:
        self.degree = _check_snr_db(snr_db)

    @property
    def snr_db(self) -> Any:
        """The SNR as it was given: a float, a tensor or a pair of floats [dB]."""
        return self.degree

    def no(self, history: torch.Tensor, snr_db: Any = None) -> torch.Tensor:
        r"""Noise variance of every sample, real (\*batch).

        Args:
            history: the clean history.
            snr_db: SNR [dB] in place of the impairment's own, which has to be one that is not drawn.

        Raises:
            InvalidValueError: the SNR is a pair and no ``snr_db`` says what was drawn.
            ShapeError: an SNR that does not fit the batch.
        """
        check_snapshots(history)
        snr = self.degree if snr_db is None else _check_snr_db(snr_db)
        if isinstance(snr, tuple):
            raise InvalidValueError(f"snr_db={snr} is drawn for every sample; give snr_db to say what was drawn")
        return self._variance(history, snr)

    def _variance(self, history: torch.Tensor, snr_db: Any) -> torch.Tensor:
        # A norm reads the numbers once, where a sum of squares would write them all; good to 1e-5 in single precision.
        norm = torch.linalg.vector_norm(torch.view_as_real(history.resolve_conj()), dim=(-5, -4, -3, -2, -1))
        power = norm.square() / math.prod(history.shape[-4:])
        db = torch.as_tensor(snr_db, dtype=torch.float64, device=history.device)
        share = check_noise(torch.pow(10.0, -db / 10), power.shape, dtype=power.dtype, device=power.device, field="snr_db")
        return power * share

    def _damage(self, history: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        snr: Any = self.degree
        if isinstance(snr, tuple):
            drawn = torch.rand(history.shape[:-4], generator=generator, device=generator.device, dtype=torch.float64)
            snr = drawn.mul_(snr[1] - snr[0]).add_(snr[0]).to(history.device)
        deviation = (self._variance(history, snr) / 2).sqrt()
        noise = normal_like((*history.shape, 2), history, generator)
        noise.mul_(deviation[(...,) + (None,) * 5])
        return torch.view_as_complex(noise).add_(history), all_present(history)


class PhaseNoise(HistoryImpairment):
    r"""Phase errors that are independent from antenna to antenna, snapshot to snapshot and bin to bin.

    .. math:: \hat h = h\, e^{j \sigma g},\qquad g \sim \mathcal{N}(0, 1),\qquad
              \mathrm{SNR} = \frac{1}{2 (1 - e^{-\sigma^2 / 2})}

    This is the benchmark's definition; an oscillator would turn all bins of a snapshot together.

    Args:
        std: standard deviation :math:`\sigma` [rad], at least 0.

    Source: [CSI4CAST2025]_; the closed form follows from :math:`E|e^{j \sigma g} - 1|^2`.

    Example:
        >>> round(PhaseNoise.preset(20).expected_snr_db(), 2), round(PhaseNoise.from_snr_db(20).std, 4)
        (20.01, 0.1001)
    """

    name = "phase"

    def __init__(self, std: float) -> None:
        self.degree = check_real("std", std, minimum=0.0, maximum=1e3)

    @property
    def std(self) -> float:
        """Standard deviation of the phase [rad]."""
        return float(self.degree)

    @classmethod
    def preset(cls, snr_db: float) -> PhaseNoise:
        """The benchmark's degree for 10, 15, 20 or 25 dB."""
        return cls(PHASE_PRESETS[_preset(snr_db, PHASE_PRESETS)])

    @classmethod
    def from_snr_db(cls, snr_db: float) -> PhaseNoise:
        """Phase noise of any SNR above -3.01 dB, where the phase is uniform."""
        lowest = -10 * math.log10(2)
        db = check_real("snr_db", snr_db, maximum=_SNR_DB[1])
        if db <= lowest:
            raise InvalidValueError(f"snr_db={db:g} must be greater than {lowest:.2f}, which a random phase has")
        return cls(math.sqrt(-2 * math.log1p(-(10 ** (-db / 10)) / 2)))

    def expected_snr_db(self) -> float:
        """Power of the channel over that of the error, in expectation [dB]; infinite without phase noise."""
        error = -2 * math.expm1(-(self.std**2) / 2)
        return -10 * math.log10(error) if error else math.inf

    def _damage(self, history: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        phase = normal_like(history.shape, history, generator).mul_(self.std)
        turn = torch.empty(*history.shape, 2, dtype=phase.dtype, device=history.device)
        torch.cos(phase, out=turn[..., 0])
        torch.sin(phase, out=turn[..., 1])
        return torch.view_as_complex(turn).mul_(history), all_present(history)


class PacketDrop(HistoryImpairment):
    """Snapshots that never arrive: each is lost with probability ``rate``, on all antennas and bins, and reads as zeros.

    `wichan.observations.impute` fills the gaps for predictors that need all snapshots. At a high rate a sample may lose
    all of its snapshots; it is returned as drawn.

    Args:
        rate: probability of a loss, 0 to 1.

    Source: [CSI4CAST2025]_.
    """

    name = "drop"

    def __init__(self, rate: float) -> None:
        self.degree = check_real("rate", rate, minimum=0.0, maximum=1.0)

    @property
    def rate(self) -> float:
        """Probability that a snapshot is lost."""
        return float(self.degree)

    def expected_snr_db(self) -> float:
        """Power of the channel over that of the error before gaps are filled [dB]: a share ``rate`` of it is lost."""
        return -10 * math.log10(self.rate) if self.rate else math.inf

    def _damage(self, history: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*history.shape[:-4], history.shape[-2])
        drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        present = (drawn >= self.rate).to(history.device)
        return history.masked_fill(~present[..., None, None, :, None], 0), present


class Burst(HistoryImpairment):
    r"""A burst of interference in some samples, on consecutive snapshots of all antennas and bins.

    .. math:: \hat h_{s+i} = h_{s+i} + e_i (g + j g'),\qquad e_i = 2 d \sqrt{P_{\mathrm{ref}} / 2}\; e^{-x_i^2 / 2},
              \qquad x_i = -1, \dots, 1

    The start s is uniform over the T snapshots, the length min(10, T - s), and x runs linearly from -1 to 1 (a burst of
    one snapshot has x = -1). The published draw is a geometric number of failures before a success of probability 2d, and
    there is a burst if that number is at most T: with probability :math:`1 - (1 - 2d)^{T + 1}`, which is what is drawn here.

    Args:
        degree: d, greater than 0 and at most 0.5.
        reference_power: power E|h|^2 that the degree is relative to. The published amplitude belongs to z-scored data,
            whose complex power is 2; with 1 the same d gives unit-power channels the same SNR.

    Raises:
        InvalidTypeError, InvalidValueError: numbers out of range.

    Source: [CSI4CAST2025]_.

    Example:
        >>> round(Burst.preset(15).expected_snr_db(), 2), round(Burst.from_snr_db(15).degree, 4)
        (15.02, 0.1603)
    """

    name = "burst"

    def __init__(self, degree: float, reference_power: float = 1.0) -> None:
        self.degree = check_real("degree", degree, positive=True, maximum=0.5)
        self.reference_power = check_real("reference_power", reference_power, positive=True, maximum=1e20)

    @classmethod
    def preset(cls, snr_db: float, reference_power: float = 1.0) -> Burst:
        """The benchmark's degree for 10, 15, 20 or 25 dB."""
        return cls(BURST_PRESETS[_preset(snr_db, BURST_PRESETS)], reference_power)

    @classmethod
    def from_snr_db(cls, snr_db: float, reference_power: float = 1.0, *, num_history: int = 16) -> Burst:
        """Bursts of any expected SNR that a degree up to 0.5 reaches (5.1 dB and above for 16 snapshots)."""
        lowest = cls(0.5).expected_snr_db(num_history=num_history)
        db = check_real("snr_db", snr_db, maximum=_SNR_DB[1])
        if db < lowest:
            raise InvalidValueError(f"snr_db={db:g} must be at least {lowest:.2f}, which the largest degree 0.5 gives")
        low, high = math.log(1e-12), math.log(0.5)
        for _ in range(60):  # the SNR falls steadily with the degree
            middle = (low + high) / 2
            above = _burst_snr_db(math.exp(middle), num_history) > db
            low, high = (middle, high) if above else (low, middle)
        return cls(min(math.exp(high), 0.5), reference_power)

    def expected_snr_db(self, *, num_history: int = 16) -> float:
        """Reference power over the expected power of bursts, the mean over samples with and without one [dB]."""
        return _burst_snr_db(self.degree, check_int("num_history", num_history, minimum=1, maximum=4096))

    def __repr__(self) -> str:
        return f"Burst({self.degree}, reference_power={self.reference_power})"

    def _damage(self, history: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        envelope = self._envelopes(math.prod(history.shape[:-4]), history.shape[-2], generator).to(history.device)
        sample, slot = envelope.nonzero(as_tuple=True)
        damaged = history.clone(memory_format=torch.contiguous_format)
        rx, tx, _, subcarriers = history.shape[-4:]
        noise = normal_like((len(sample), rx, tx, subcarriers, 2), history, generator)
        noise.mul_(envelope[sample, slot].to(noise.dtype)[:, None, None, None, None])
        rows = damaged.reshape(-1, *history.shape[-4:]).movedim(-2, 1)  # a view: what is written there is in `damaged`
        rows[sample, slot] += torch.view_as_complex(noise)
        return damaged, all_present(history)

    def _envelopes(self, count: int, slots: int, generator: torch.Generator) -> torch.Tensor:
        """Amplitude of each real part, float64 (count, slots), zero outside bursts."""
        device = generator.device
        draw = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        start = torch.randint(slots, (count,), generator=generator, device=device)
        hit = draw < _burst_probability(self.degree, slots)
        peak = 2 * self.degree * math.sqrt(self.reference_power / PUBLISHED_POWER)
        return _bells(slots).to(device)[start].mul_(hit[:, None]).mul_(peak)


#: Name -> class of every impairment of the benchmark.
HISTORY_IMPAIRMENTS: dict[str, type[HistoryImpairment]] = {kind.name: kind for kind in (AWGN, PhaseNoise, PacketDrop, Burst)}


def history_impairment(name: str, degree: Any) -> HistoryImpairment:
    """An impairment as the benchmark names it.

    Args:
        name: ``"awgn"``, ``"phase"``, ``"drop"`` or ``"burst"``.
        degree: the SNR [dB]; for ``"drop"`` the rate. The SNR of phase noise and bursts is a target: 10, 15, 20 and 25 dB
            give the published degrees (which miss it by up to 0.25 dB), any other number the closed form.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidValueError: another name, a degree out of range.

    Source: [CSI4CAST2025]_.
    """
    kind = HISTORY_IMPAIRMENTS[check_choice("name", name, HISTORY_IMPAIRMENTS)]
    if kind is PhaseNoise or kind is Burst:
        target = check_real("degree", degree)
        return kind.preset(target) if target in PHASE_PRESETS else kind.from_snr_db(target)
    return kind(degree)  # type: ignore[call-arg]


def _preset(snr_db: Any, presets: dict[int, float]) -> int:
    number = check_real("snr_db", snr_db)
    if number not in presets:
        raise InvalidValueError(f"snr_db={number:g} has no preset; published are {', '.join(map(str, presets))}")
    return int(number)


def _check_snr_db(snr_db: Any) -> Any:
    low, high = _SNR_DB
    if isinstance(snr_db, torch.Tensor) and snr_db.dim():
        values = check_finite("snr_db", check_tensor("snr_db", snr_db, kind="real")).detach()
        if not values.numel():
            raise ShapeError("snr_db is an empty tensor; it must hold one SNR for every sample")
        for bound in (values.min(), values.max()):
            check_real("snr_db", bound, minimum=low, maximum=high)
        return values
    if isinstance(snr_db, (tuple, list)):
        if len(snr_db) != 2:
            raise InvalidTypeError(f"snr_db={snr_db!r:.60} must be a number, a tensor or a pair (low, high)")
        first, last = (check_real("snr_db", value, minimum=low, maximum=high) for value in snr_db)
        if first > last:
            raise InvalidValueError(f"snr_db={(first, last)} must be a pair with low <= high")
        return (first, last)
    return check_real("snr_db", snr_db, minimum=low, maximum=high)


def _bells(slots: int) -> torch.Tensor:
    """Envelope of a burst of unit peak by its start, float64 (slots, slots): row s is zero before s and after its end."""
    start, slot = torch.arange(slots)[:, None], torch.arange(slots)[None]
    length = (slots - start).clamp(max=BURST_LENGTH)
    x = (slot - start).double() * 2 / (length - 1).clamp(min=1) - 1
    return torch.exp(-x.square() / 2) * ((slot >= start) & (slot < start + length))


def _burst_probability(degree: float, slots: int) -> float:
    return 1 - (1 - 2 * degree) ** (slots + 1)


def _burst_snr_db(degree: float, slots: int) -> float:
    energy = float(_bells(slots).square().sum()) / slots  # mean over the starts
    return -10 * math.log10(_burst_probability(degree, slots) * (2 * degree) ** 2 * energy / slots)
