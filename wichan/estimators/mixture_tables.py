"""What a separable mixture computes once: modes of all factors in double precision, and their real matrices for products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.channels.covariance_factor import squared
from wichan.errors import InvalidValueError, ShapeError, check_real
from wichan.estimators.filter_module import RankBuffers
from wichan.estimators.mixture_axes import axis_modes, common_span, real_form, sampling, split_energy, stack_factors
from wichan.nn.buffers import ComplexBuffer

# Modes below this share of the largest eigenvalue see noise only, in each precision.
_WORTH = {torch.float32: 1e-13, torch.float64: 1e-22}


class TimeTables(NamedTuple):
    """Real matrices of all time factors: those that act on (S, 2 r, ...) or, where a factor is complex, on (2 S, 2 r, ...)."""

    see: torch.Tensor  # (C_t, S, S or 2 S): pilot symbols to modes
    cross: torch.Tensor  # (C_t, T, S or 2 S): weighted modes to all symbols
    energy: torch.Tensor  # (C_t, T, S): |V|^2 of the seen modes
    unseen: torch.Tensor  # (C_t, T): energy of all others
    lam: torch.Tensor  # (C_t, S)

    def pick(self, index: torch.Tensor | None) -> TimeTables:
        """Return the tables of some factors."""
        return self if index is None else TimeTables(*(table.index_select(0, index) for table in self))


class FrequencyTables(NamedTuple):
    """Real matrices of one frequency factor of rank r; real parts of vectors stand above imaginary ones."""

    see: torch.Tensor  # (2 R, 2 R): first the modes of this factor (2 r rows), then what only noise can fill
    cross: torch.Tensor  # (2 R_F, 2 r): weighted modes to coordinates of the span
    lift: torch.Tensor  # (2 J, 2 r): weighted modes to the points
    energy: torch.Tensor  # (J, r): |V|^2 of the seen modes at the points
    unseen: torch.Tensor  # (J,): energy of all others
    lam: torch.Tensor  # (r,)


class MixtureTables(RankBuffers):
    """Buffers of `SeparableMixture`, which says what they mean, and the casts of them that products use."""

    see_time = ComplexBuffer()  # U_a, (C_t, S, S)
    cross_time = ComplexBuffer()  # (C_t, T, S)
    see_frequency = ComplexBuffer()  # (C_f, R, R), in coordinates of pilot_span
    cross_frequency = ComplexBuffer()  # (C_f, R_F, m), in coordinates of span
    pilot_span = ComplexBuffer()  # (K, R), what any factor can show the pilots
    span = ComplexBuffer()  # (F, R_F), likewise on all subcarriers
    lam_time: torch.Tensor  # (C_t, S)
    lam_frequency: torch.Tensor  # (C_f, R)
    energy_time: torch.Tensor  # (C_t, T, S + 1), of the seen modes and of all others
    energy_frequency: torch.Tensor  # (C_f, J, m + 1), likewise at the points
    points: torch.Tensor  # (J,)
    spreading: torch.Tensor  # (F, J)
    log_weights: torch.Tensor  # (C_t, C_f, C_s)
    scales: torch.Tensor  # (C_s,)
    power: torch.Tensor  # (), taken out of the factors so that single precision holds for any path loss

    def __init__(
        self,
        time_factors: torch.Tensor | Sequence[torch.Tensor],
        frequency_factors: torch.Tensor | Sequence[torch.Tensor],
        log_weights: torch.Tensor,
        pilot_symbols: torch.Tensor,
        pilot_subcarriers: torch.Tensor,
        scales: torch.Tensor | None,
        no_floor: float,
    ) -> None:
        super().__init__()
        self.no_floor = check_real("no_floor", no_floor, minimum=1e-15, maximum=1.0)
        with torch.no_grad():
            time = stack_factors("time_factors", time_factors)
            frequency = stack_factors("frequency_factors", frequency_factors)
            self._set_weights(log_weights, len(time), len(frequency), scales, time.device)
            power = self._mean_power(time, frequency)
            self._set_time(time / power.sqrt(), pilot_symbols)
            self._set_frequency(frequency, pilot_subcarriers)
        self.register_buffer("power", power)
        self.refresh()

    def _set_weights(
        self, log_weights: torch.Tensor, num_times: int, num_frequencies: int, scales: torch.Tensor | None, device: torch.device
    ) -> None:
        self.has_scales = scales is not None
        powers = torch.as_tensor([1.0] if scales is None else scales, dtype=torch.float64, device=device)
        if powers.dim() != 1 or not powers.numel() or not bool((powers > 0).all() & powers.isfinite().all()):
            raise InvalidValueError("scales must be a vector of positive finite numbers")
        weights = torch.as_tensor(log_weights, dtype=torch.float64, device=device)
        want = (num_times, num_frequencies, *(powers.shape if self.has_scales else ()))
        if tuple(weights.shape) != want:
            raise ShapeError(f"log_weights has shape {tuple(weights.shape)}; it must be {want}")
        if not bool((weights < math.inf).all() & (weights > -math.inf).any()):
            raise InvalidValueError("log_weights must be below infinity, not NaN, and not all -inf")
        weights = weights.reshape(num_times, num_frequencies, -1)
        self.register_buffer("log_weights", weights - weights.flatten().logsumexp(0))
        self.register_buffer("scales", powers)

    def _mean_power(self, time: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
        t, f = (squared(m).sum((-2, -1)) / m.shape[-2] for m in (time, frequency))
        power = (t[:, None, None] * f[:, None] * self.scales * self.log_weights.exp()).sum()
        if not bool(power > 0) or not bool(power.isfinite()):
            raise InvalidValueError(f"time_factors and frequency_factors have mean power {float(power):g}; it must be positive")
        return power

    def _set_time(self, factor: torch.Tensor, symbols: torch.Tensor) -> None:
        found = axis_modes(factor, factor.index_select(1, symbols.to(factor.device)))
        self.see_time, self.cross_time = found.see, found.cross()
        self.register_buffer("lam_time", found.lam)
        self.register_buffer("energy_time", split_energy(found.modes, found.lam.shape[-1]))

    def _set_frequency(self, factor: torch.Tensor, subcarriers: torch.Tensor) -> None:
        seen = factor.index_select(1, subcarriers.to(factor.device))
        self.pilot_span, _ = common_span(seen)
        self.span, weights = common_span(factor)
        found = axis_modes(self.span.mH @ factor, self.pilot_span.mH @ seen)
        rank = min(found.lam.shape[-1], factor.shape[-1])
        self.see_frequency, self.cross_frequency = found.see, found.cross()[..., :rank].contiguous()
        points, spreading = sampling(self.span, weights)
        self.register_buffer("lam_frequency", found.lam)
        self.register_buffer("energy_frequency", split_energy(self.span[points] @ found.modes, rank))
        self.register_buffer("points", points)
        self.register_buffer("spreading", spreading)

    def refresh(self) -> None:
        peak, most = self.lam_frequency[:, :1], self.cross_frequency.shape[-1]
        self.ranks = {
            dtype: [max(1, min(most, count)) for count in (self.lam_frequency > worth * peak).sum(-1).tolist()]
            for dtype, worth in _WORTH.items()
        }
        self.real_time = not bool(self.see_time.imag.any()) and not bool(self.cross_time.imag.any())

    # -- Casts. --

    def _time_tables(self, dtype: torch.dtype) -> TimeTables:
        def make() -> TimeTables:
            # (Re U^H) z + (Im U^H) j z: j z is a copy of z with its halves swapped.
            parts = [self.see_time.mH, self.cross_time]
            see, cross = (m.real if self.real_time else torch.cat([m.real, m.imag], -1) for m in parts)
            energy, unseen = self.energy_time[..., :-1], self.energy_time[..., -1]
            return TimeTables(*(m.to(dtype).contiguous() for m in (see, cross, energy, unseen, self.lam_time)))

        return self.cached(("time", dtype), make)

    def _frequency_tables(self, dtype: torch.dtype) -> list[FrequencyTables]:
        def make() -> list[FrequencyTables]:
            return [self._one_frequency(b, rank, dtype) for b, rank in enumerate(self.ranks[dtype])]

        return self.cached(("frequency", dtype), make)

    def _one_frequency(self, b: int, rank: int, dtype: torch.dtype) -> FrequencyTables:
        see = self.see_frequency[b].mH
        cross = self.cross_frequency[b, :, :rank]
        energy = self.energy_frequency[b]
        made = (
            torch.cat([real_form(see[:rank]), real_form(see[rank:])]),
            real_form(cross),
            real_form(self.span[self.points] @ cross),
            energy[:, :rank],
            energy[:, rank:].sum(-1),
            self.lam_frequency[b, :rank],
        )
        return FrequencyTables(*(m.to(dtype).contiguous() for m in made))

    def _from_span(self, dtype: torch.dtype) -> torch.Tensor:
        """Right factor from coordinates of the span to subcarriers, real and imaginary parts in turn, (2 R_F, 2 F)."""

        def make() -> torch.Tensor:
            form = real_form(self.span).unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            return form.mT.to(dtype).contiguous()

        return self.cached(("span", dtype), make)

    def _to_points(self, dtype: torch.dtype) -> torch.Tensor:
        """Right factor from coordinates of the span to the points, real parts before imaginary ones, (2 R_F, 2 J)."""
        return self.cached(("points", dtype), lambda: real_form(self.span[self.points]).mT.to(dtype).contiguous())
