"""The conditions of frames from their pilots, as an object: what is searched, within which limits, and what stands in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_finite, check_noise, check_real, check_tensor
from wichan.estimators.pilot_correlation import correlation_doppler, correlation_spread, difference_noise
from wichan.estimators.pilot_lattice import PilotLattice, PilotTables
from wichan.estimators.pilot_likelihood import (
    PilotLikelihood,
    default_window,
    doppler_grid,
    onset_grid,
    power_of,
    share,
    spread_grid,
)
from wichan.observations.ofdm import OFDMPilots

METHODS = ("auto", "likelihood", "correlation")
NAMES = ("snr_db", "delay_spread", "max_doppler")
SNR_LIMITS = (-20.0, 60.0)
_CHUNK_BYTES = 2**26
_QUIETEST = 1e-10  # least noise, as a share of the mean power of the pilots

Limits = tuple[float, float]


class Conditions(NamedTuple):
    r"""Estimated conditions, each real, (\*batch,): SNR per pilot [dB], RMS delay spread [s], maximum Doppler [Hz]."""

    snr_db: torch.Tensor
    delay_spread: torch.Tensor
    max_doppler: torch.Tensor


class ConditionEstimator(nn.Module):
    r"""Conditions of frames, from their pilots; `estimate_conditions` as an object that is built once.

    Args:
        obs: the pilots.
        wanted: which conditions, names of `Conditions`.
        limits: name -> (low, high) in dB, s, Hz: candidates come from there and results stay there. Default: -20 to 60 dB;
            a fiftieth of the pilots' resolution to a sixth of the cyclic prefix; 0 to 0.4 / (spacing of the pilot symbols),
            where the Doppler spectrum begins to fold.
        method: "likelihood", "correlation", or "auto": the first where pilots are a lattice, else the second.
        mean_power: E|h|^2 where it is known, so that the SNR follows from ``no`` alone; ``None``: the power of each frame,
            which fades with its channel.
        fallback: name -> value for what the pilots do not show (delay spread with one pilot in a symbol, Doppler with one
            pilot symbol).

    Raises:
        InvalidTypeError, UnknownNameError: no `OFDMPilots`, another method or condition.
        InvalidValueError: limits that are none; a condition that the pilots do not show and no fallback.
    """

    def __init__(
        self,
        obs: OFDMPilots,
        wanted: tuple[str, ...] = NAMES,
        *,
        limits: Mapping[str, Limits] | None = None,
        method: str = "auto",
        mean_power: float | None = None,
        fallback: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.tables = tables = PilotTables(obs)
        self.wanted = tuple(check_choice("wanted", name, NAMES) for name in wanted)
        self.mean_power = None if mean_power is None else check_real("mean_power", mean_power, positive=True)
        reason = "pilots on one subcarrier" if not _spans(tables, "frequency") else tables.why_no_lattice()
        if check_choice("method", method, METHODS) == "likelihood" and reason is not None:
            raise InvalidValueError(f"method='likelihood' does not fit obs: {reason}; use method='correlation'")
        self.method = method if method != "auto" else "correlation" if reason else "likelihood"
        self.fallback = _fallbacks(tables, self.wanted, fallback or {})
        self.limits = _default_limits(tables) | _checked_limits(limits or {})
        self.likelihood = self._build() if self.method == "likelihood" else None
        self.to(obs.pilot_index.device)

    def _build(self) -> PilotLikelihood | None:
        if not set(self.wanted) - {"snr_db", *self.fallback}:
            return None
        lattice = PilotLattice(self.tables.obs)
        span = float(lattice.frequencies[-1])
        low, high = self.limits["delay_spread"]
        window = default_window(lattice)
        spreads = spread_grid(max(low, min(0.02 / span, high / 2)), high)
        slow, fast = self.limits["max_doppler"]
        dopplers = doppler_grid(lattice, slow, fast if len(lattice.times) > 1 else slow)
        return PilotLikelihood(lattice, window, spreads, onset_grid(window, span), dopplers)

    def noise(self, y: torch.Tensor, silent: torch.Tensor | None = None) -> torch.Tensor:
        """Noise variance of each frame, see `estimate_noise`."""
        frames = self._frames(y)
        obs = self.tables.obs
        if silent is None:
            return difference_noise(self.tables, frames).to(y.real.dtype).reshape(y.shape[:-3])
        if not isinstance(silent, torch.Tensor) or silent.dtype != torch.bool or tuple(silent.shape) != obs.grid.shape:
            raise ShapeError(f"silent must be a bool tensor of shape {obs.grid.shape}, True where nothing is sent")
        if bool((silent & obs.mask).any()) or not bool(silent.any()):
            raise InvalidValueError("silent must name at least one element, and none that carries a pilot")
        return power_of(check_finite("y", frames[..., silent])).mean(dim=(1, 2)).to(y.real.dtype).reshape(y.shape[:-3])

    @torch.compiler.disable  # a search, which is not worth tracing
    def forward(self, y: torch.Tensor, no: Any = None, *, silent: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        r"""Return the wanted conditions by name, real tensors (\*batch,), without gradients. See `estimate_conditions`."""
        with torch.no_grad():
            frames, batch = self._frames(y), y.shape[:-3]
            no = self.noise(y, silent) if no is None else no
            noise = check_noise(no, batch, dtype=torch.float64, device=y.device).expand(batch).reshape(-1)
            found = {"snr_db": self._snr_db(frames, noise)} if "snr_db" in self.wanted else {}
            found |= {name: torch.full_like(noise, value) for name, value in self.fallback.items()}
            missing = [name for name in self.wanted if name not in found]
            if missing and self.likelihood is not None:
                found |= self._by_likelihood(self.likelihood, frames, noise)
            elif missing:
                inverse = {"delay_spread": correlation_spread, "max_doppler": correlation_doppler}
                found |= {name: inverse[name](self.tables, frames, noise, self.limits[name]) for name in missing}
            clamped = {name: found[name].clamp(*self._bounds(name)) for name in self.wanted}
            return {name: value.to(y.real.dtype).reshape(batch) for name, value in clamped.items()}

    def _bounds(self, name: str) -> Limits:
        return (-math.inf, math.inf) if name in self.fallback else self.limits[name]

    def _frames(self, y: torch.Tensor) -> torch.Tensor:
        self.tables.obs.extract(check_tensor("y", y, kind="complex"))  # the shape is checked there
        return y.detach().reshape(-1, *y.shape[-3:])

    def _snr_db(self, y: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        obs = self.tables.obs
        received = power_of(check_finite("y", obs.extract(y))).mean(dim=(1, 2), dtype=torch.float64)
        known = self.mean_power
        signal = (received - no).clamp_min(0) if known is None else torch.full_like(no, known * obs.signal_power)
        ratio = torch.where(no > 0, signal / no, torch.where(signal > 0, math.inf, 0.0))
        return (10 * ratio.log10()).clamp(*self.limits["snr_db"])

    def _by_likelihood(self, like: PilotLikelihood, y: torch.Tensor, no: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self.tables(y.to(torch.complex128))
        x = torch.stack([x for x, _ in values], dim=2).flatten(1, 2)
        gain = torch.cat([gain for _, gain in values]).mean().double()
        noise = torch.maximum(no * gain, _QUIETEST * power_of(x).mean(dim=(1, 2, 3))).clamp_min(1e-30)
        step = max(1, _CHUNK_BYTES // like.frame_bytes(x.shape[1]))
        spreads, dopplers = [x.real.new_zeros(0)], [x.real.new_zeros(0)]
        for start in range(0, len(x), step):
            part, level = x[start : start + step], noise[start : start + step]
            fit = like.fit(like.project(part), like.power(part, level), level)
            shape = fit.shape.unflatten(1, (-1, len(like.spreads))).logsumexp(dim=1).softmax(dim=1)
            spreads.append(shape @ like.spreads)
            dopplers.append((fit.doppler + share(like.dopplers).log()).softmax(dim=1) @ like.dopplers)
        found = {"delay_spread": torch.cat(spreads), "max_doppler": torch.cat(dopplers)}
        return {name: value for name, value in found.items() if name not in self.fallback}


# -- Small steps. --


def _spans(tables: PilotTables, axis: str) -> bool:
    return any(getattr(table, axis).numel() > 1 for table in tables.antennas())


def _fallbacks(tables: PilotTables, wanted: tuple[str, ...], given: Mapping[str, float]) -> dict[str, float]:
    """What stands in for conditions that the pilots do not show."""
    found = {}
    for name, axis, where in (("delay_spread", "frequency", "subcarrier"), ("max_doppler", "time", "symbol")):
        if name in wanted and not _spans(tables, axis):
            if name not in given:
                raise InvalidValueError(
                    f"obs has pilots on one {where}, which do not show {name}; give fallback={{{name!r}: value}}"
                )
            found[name] = check_real(f"fallback[{name!r}]", given[name])
    return found


def _default_limits(tables: PilotTables) -> dict[str, Limits]:
    grid, antennas = tables.obs.grid, tables.antennas()
    span = max(float(table.frequency[-1] - table.frequency[0]) for table in antennas) * grid.subcarrier_spacing
    gaps = [float(table.time.diff().min()) for table in antennas if table.time.numel() > 1]
    span = span or grid.bandwidth
    longest = (grid.cyclic_prefix or 0.125 / grid.subcarrier_spacing) / 6
    fastest = 0.4 / (min(gaps, default=1.0) * grid.symbol_duration)
    return {"snr_db": SNR_LIMITS, "delay_spread": (0.02 / span, max(longest, 0.04 / span)), "max_doppler": (0.0, fastest)}


def _checked_limits(limits: Mapping[str, Any]) -> dict[str, Limits]:
    found = {}
    for name, pair in limits.items():
        check_choice("limits", name, NAMES)
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise InvalidValueError(f"limits[{name!r}]={pair!r} must be two numbers, (low, high)")
        low, high = (check_real(f"limits[{name!r}]", value) for value in pair)
        if low >= high or (name != "snr_db" and low < 0):
            raise InvalidValueError(f"limits[{name!r}]={pair!r} must rise, from 0 or more where they are seconds or hertz")
        found[name] = (low, high)
    return found
