"""What the estimators behind coarse converters share: their checks, one filter for each noise variance, and its storage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from wichan.errors import InvalidValueError, check_finite, check_noise, check_real, check_shape, check_tensor
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.bussgang_filters import NO_FLOOR, check_pilots

_CACHE_BYTES = 2**28
_Method = TypeVar("_Method", bound=Callable[..., Any])


def eagerly(method: _Method) -> _Method:
    """Leave a method out of ``torch.compile``: which filters are wanted, and for which rows, depends on values."""

    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        # Asked in the call: what torch.compiler.disable imports would double the time that this module takes to load.
        if torch.compiler.is_compiling():
            return torch.compiler.disable(method)(*args, **options)
        return method(*args, **options)

    return cast(_Method, call)


class FilterCache:
    """The filters that were used last, at most so many bytes; a copy starts empty.

    They are forgotten when a tensor that they were made of is written or replaced.
    """

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self.limit = limit
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._sources: list[tuple[torch.Tensor, int]] = []

    def __reduce__(self) -> tuple:
        return FilterCache, (self.limit,)

    def __len__(self) -> int:
        return len(self._held)

    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Forget everything unless these are the tensors of the last call, unchanged."""
        now = [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        same = len(now) == len(self._sources) and all(
            a is b and i == j for (a, i), (b, j) in zip(now, self._sources, strict=True)
        )
        if not same:
            self._held.clear()
            self._sources = now

    def get(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Return ``make()``, from the cache where it is held; ``size`` gives its bytes."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        made = make()
        self._held[key] = (made, size(made))
        while len(self._held) > 1 and sum(held for _, held in self._held.values()) > self.limit:
            self._held.popitem(last=False)
        return made


@dataclass(frozen=True)
class Entered:
    """Checked observations.

    Args:
        flat: complex (T, M).
        batch: their batch axes.
        levels: distinct noise variances, ascending.
        index: which of them each observation has, int64 (T,), or ``None`` for one of all.
    """

    flat: torch.Tensor
    batch: tuple[int, ...]
    levels: list[float]
    index: torch.Tensor | None


class QuantizedEstimator(Estimator):
    """Base of the estimators behind coarse converters: each noise variance has filters of its own.

    Args:
        obs: a `wichan.observations.QuantizedPilots`.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.
    """

    def __init__(self, obs: Any, *, no_floor: float = NO_FLOOR) -> None:
        super().__init__()
        self.obs = check_pilots(obs)
        self.no_floor = check_real("no_floor", no_floor, minimum=1e-15, maximum=1.0)
        self.shape = self.obs.channel_shape
        self._cache = FilterCache()

    def _check(self, r: Any) -> torch.Tensor:
        check_shape("r", check_tensor("r", r, kind="complex"), (self.obs.num_measurements,))
        device = self.obs.matrix().device
        if r.device != device:
            raise InvalidValueError(f"r is on {r.device}, the estimator on {device}; use one device")
        return check_finite("r", r)

    def _enter(self, r: Any, no: Any) -> Entered:
        self._check(r)
        batch = tuple(r.shape[:-1])
        noise = check_noise(no, batch, dtype=torch.float64, device=r.device).detach()
        flat = r.reshape(-1, r.shape[-1])
        if not noise.dim() or not flat.shape[0]:
            return Entered(flat, batch, [float(noise)] if not noise.dim() else [], None)
        levels, index = torch.unique(noise.expand(batch).reshape(-1), return_inverse=True)
        return Entered(flat, batch, levels.tolist(), index if len(levels) > 1 else None)

    def _leave(self, entered: Entered, h_hat: torch.Tensor, err_var: torch.Tensor) -> Estimate:
        """Bring (T, N) and (T or 1, N) to the axes of the channel."""
        batch = entered.batch
        lead = batch if err_var.shape[0] == entered.flat.shape[0] else (1,) * len(batch)
        err_var = err_var.reshape(*lead, *self.shape).expand(*batch, *self.shape)
        return Estimate(h_hat.reshape(*batch, *self.shape), err_var)

    def _nothing(self, entered: Entered) -> Estimate:
        h_hat = entered.flat.new_zeros(*entered.batch, *self.shape)
        return Estimate(h_hat, h_hat.real.clone())

    def _sources(self) -> list[torch.Tensor]:
        """Tensors that filters are made of."""
        return [tensor for tensor in (*self.buffers(), *self.parameters()) if tensor is not None]
