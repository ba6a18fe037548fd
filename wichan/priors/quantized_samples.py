"""Quantised observations as EM sees them: pair products, amplitude counts and noise levels, prepared once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_finite,
    check_noise,
    check_shape,
    check_tensor,
)
from wichan.observations.quantized import QuantizedPilots
from wichan.observations.quantizer import Quantizer
from wichan.priors.correlation import Bank

MOMENTS = ("labels", "signs")
_CHUNK_BYTES = 1 << 25
_CACHE_BYTES = 1 << 29  # features beyond this are made anew in each pass
_MAX_LEVELS = 16
_MAX_THRESHOLDS = 7  # of those of a fine converter: all 127 of eight bits lower the variance of its power by 4 % more
_CHECKED = 4096  # samples whose values are compared with the labels
_SINGLE_BITS = 4  # up to here noise and distortion keep quadratic forms within reach of single precision


def pair_products(x: torch.Tensor) -> torch.Tensor:
    r"""Real features of complex samples (n, M): :math:`|x_i|^2`, and for i < j :math:`\sqrt2` Re and Im of :math:`x_i x_j^*`.

    A quadratic form in x is one real product with them, and so is a weighted second moment.

    Returns:
        Real, (M^2, n), pairs in the order of `torch.triu_indices`.
    """
    count, size = x.shape
    # Rows of one feature lie together in memory, so that every product below is one pass over them.
    a, b = (part.T.contiguous() for part in (x.real, x.imag))
    root = math.sqrt(2)
    out = a.new_empty(size * size, count)
    torch.mul(a, a, out=out[:size]).addcmul_(b, b)
    pairs = size * (size - 1) // 2
    start = size
    for i in range(size - 1):
        stop = start + size - 1 - i
        left, right = root * a[i], root * b[i]
        torch.mul(left, a[i + 1 :], out=out[start:stop]).addcmul_(right, b[i + 1 :])
        torch.mul(right, a[i + 1 :], out=out[start + pairs : stop + pairs]).addcmul_(left, b[i + 1 :], value=-1.0)
        start = stop
    return out


def form_features(matrix: torch.Tensor) -> torch.Tensor:
    """Coefficients (..., M^2) of x^H P x over `pair_products` of x, for Hermitian P (..., M, M)."""
    size = matrix.shape[-1]
    i, j = torch.triu_indices(size, size, 1, device=matrix.device)
    upper = matrix[..., i, j] * math.sqrt(2)
    return torch.cat([matrix.diagonal(dim1=-2, dim2=-1).real, upper.real, upper.imag], dim=-1)


@dataclass
class Level:
    """Observations of one noise level.

    Args:
        start, stop: their rows, in the order of the levels.
        no: noise variance without dither (mean of the level).
        noise: noise and dither.
        scale: standard deviation of a real part that the converters are set to.
    """

    start: int
    stop: int
    no: float
    noise: float
    scale: float


@dataclass
class Tally:
    """Weighted sums over samples, float64, for G levels and K components.

    Args:
        count: sum of weights, (G, K).
        sums: of the features, (G, K, features).
    """

    count: torch.Tensor
    sums: torch.Tensor


class QuantizedSamples:
    """What covariance recovery and EM need of quantised observations.

    Args:
        r: complex, (T, M).
        obs: what made them.
        no: noise variance, a number or a tensor (T,). Up to 16 distinct values are kept apart; more are binned to 16 levels.
        moments: "labels" for products of labels, "signs" for products of signs.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: see `wichan.priors.recover_covariance`.
    """

    def __init__(self, r: torch.Tensor, obs: QuantizedPilots, no: Any, moments: str) -> None:
        flat, noise = _checked(r, obs, no)
        self.obs = obs
        self.num = len(flat)
        self.dim = obs.num_measurements
        bits = obs.num_bits if isinstance(obs.num_bits, tuple) else (obs.num_bits,) * self.dim
        distinct = sorted(set(bits))
        which = torch.tensor([distinct.index(b) for b in bits], device=flat.device)
        self.bank = Bank([Quantizer(b, obs.kind) for b in distinct], which)
        self.order, self.levels = _levels(noise, obs)
        fine = max(bits) > _SINGLE_BITS
        self.dtype = torch.float64 if fine else torch.float32
        self.complex = torch.complex128 if fine else torch.complex64
        flat, scale = flat[self.order].to(self.complex), obs.scale(noise)[self.order].to(self.dtype)
        self.unit = flat if bool(self.bank.signs.all()) else torch.where(self.bank.signs, flat, flat / scale[:, None])
        _check_labels(self.unit[:: max(1, self.num // _CHECKED)], self.bank)
        self.by_sign = moments == "signs" and any(b != 1 for b in bits)
        self.thresholds = _chosen_thresholds(self.bank)
        counted = sum(len(tau) * int((self.bank.which == n).sum()) for n, tau in enumerate(self.thresholds))
        self.width = self.dim**2 * (2 if self.by_sign else 1) + counted
        self._step = max(64, _CHUNK_BYTES // (self.dtype.itemsize * self.width))
        self._kept: dict[int, torch.Tensor] = {}
        self._keeps = self.num * self.width * self.dtype.itemsize <= _CACHE_BYTES

    def chunks(self) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Pieces of all samples: level, rows, and features (width, rows)."""
        for g, rows in self._pieces():
            block = self._kept.get(rows.start)
            if block is None:
                x = self.unit[rows]
                products = [pair_products(p) for p in self._factors(x)]
                block = torch.cat([*products, self._inside(x)])
                if self._keeps:
                    self._kept[rows.start] = block
            yield g, rows, block

    def _pieces(self) -> Iterator[tuple[int, slice]]:
        for g, level in enumerate(self.levels):
            for start in range(level.start, level.stop, self._step):
                yield g, slice(start, min(start + self._step, level.stop))

    def _factors(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What products are made of: the samples, and their signs where asked for."""
        if not self.by_sign:
            return [x]
        root = math.sqrt(0.5)
        signs = torch.complex(*(torch.where(p >= 0, root, -root).to(self.dtype) for p in (x.real, x.imag)))
        return [x, signs]

    def _inside(self, x: torch.Tensor) -> torch.Tensor:
        """How many real parts, 0, 1 or 2, lie inside each threshold; (thresholds of all measurements, rows)."""
        found = [torch.zeros(0, len(x), dtype=self.dtype, device=x.device)]
        for index, tau in enumerate(self.thresholds):
            if len(tau):
                mine = x[:, self.bank.which == index].T.unsqueeze(1)
                limit = tau[:, None]
                inside = (mine.real.abs() < limit).to(self.dtype) + (mine.imag.abs() < limit).to(self.dtype)
                found.append(inside.flatten(0, 1))
        return torch.cat(found)

    def tally(self, weights: torch.Tensor) -> Tally:
        """Weighted sums for a few components, weights (T, K) in the order of the observations.

        Cost: 8 M^2 FLOP a sample and component with a weight.
        """
        tally = self.empty_tally(weights.shape[1])
        ordered = weights[self.order].T
        i, j = torch.triu_indices(self.dim, self.dim, 1, device=ordered.device)
        for g, rows in self._pieces():
            tally.count[g] += ordered[:, rows].sum(1)
            for k, w in enumerate(ordered[:, rows]):
                used = w.nonzero()[:, 0]
                if not len(used):
                    continue
                x, w = self.unit[rows][used], w[used].to(self.dtype)
                moments = [(p.mH * w) @ p for p in self._factors(x)]
                parts = [t for m in moments for t in (m.diagonal().real, m[i, j].real, -m[i, j].imag)]
                root = [1.0, math.sqrt(2), math.sqrt(2)] * len(moments)
                tally.sums[g, k] += torch.cat([t * f for t, f in zip(parts, root, strict=True)] + [self._inside(x) @ w])
        return tally

    def empty_tally(self, num_components: int) -> Tally:
        """Sums before the first sample."""
        count = torch.zeros(len(self.levels), num_components, dtype=torch.float64, device=self.unit.device)
        return Tally(count, count.new_zeros(*count.shape, self.width))


def _checked(r: torch.Tensor, obs: QuantizedPilots, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations (T, M) and noise variances (T,), float64."""
    if not isinstance(obs, QuantizedPilots):
        raise InvalidTypeError(f"obs must be a QuantizedPilots, got {type(obs).__name__}")
    if obs.is_linear:
        raise InvalidValueError("obs has num_bits=inf: nothing is quantised; use fit with channels or estimates of them")
    check_finite("r", check_shape("r", check_tensor("r", r, kind="complex"), (obs.num_measurements,)))
    batch = r.shape[:-1]
    if not math.prod(batch):
        raise ShapeError(f"r has shape {tuple(r.shape)}; at least one observation is needed")
    noise = check_noise(no, batch, dtype=torch.float64, device=r.device).expand(batch).reshape(-1)
    return r.detach().reshape(-1, obs.num_measurements), noise


def _levels(noise: torch.Tensor, obs: QuantizedPilots) -> tuple[torch.Tensor, list[Level]]:
    """Order of the samples by noise level, and the levels."""
    values, group = torch.unique(noise, return_inverse=True)
    if len(values) > _MAX_LEVELS:
        # What counts is the power of a sample, so bins are equal in its logarithm.
        log_power = (obs.input_power + obs.dither_power + noise).log()
        low, high = log_power.aminmax()
        group = ((log_power - low) / (high - low) * _MAX_LEVELS).long().clamp_max(_MAX_LEVELS - 1)
        values, group = torch.unique(group, return_inverse=True)
    order = torch.argsort(group, stable=True)
    levels, start = [], 0
    for g in range(len(values)):
        members = noise[group == g]
        no = float(members.mean())
        levels.append(Level(start, start + len(members), no, float(obs.noise_power(no)), float(obs.scale(no))))
        start += len(members)
    return order, levels


def _chosen_thresholds(bank: Bank) -> list[torch.Tensor]:
    """Positive thresholds of each converter whose counts tell the amplitude, at most seven."""
    found = []
    for quantizer in bank.quantizers:
        tau = quantizer.thresholds.to(bank.which.device)
        tau = tau[tau > 0.25 * float(tau[-1]) / max(len(tau), 1)] if len(tau) > 1 else tau[:0]
        if len(tau) > _MAX_THRESHOLDS:
            tau = tau[torch.linspace(0, len(tau) - 1, _MAX_THRESHOLDS + 2)[1:-1].round().long()]
        found.append(tau)
    return found


def _check_labels(unit: torch.Tensor, bank: Bank) -> None:
    """Refuse what no converter of this kind puts out: a wrong ``no`` would shift all amplitudes unnoticed."""
    if torch.compiler.is_compiling():
        return
    for index, quantizer in enumerate(bank.quantizers):
        if quantizer.is_identity:
            continue
        parts = torch.view_as_real(unit[:, bank.which == index].contiguous())
        labels = quantizer.labels.to(parts.device, parts.dtype)
        nearest = labels[torch.bucketize(parts, (labels[1:] + labels[:-1]) / 2)]
        worst = float((parts - nearest).abs().max())
        if worst > 1e-3 * float(labels.diff().min()):
            raise InvalidValueError(
                f"r holds values that are no labels of the {quantizer.num_bits}-bit converter at this no; "
                "give the no and the observation that r was made with"
            )
