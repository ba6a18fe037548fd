"""Parameters of a mixture as buffers: in double precision for good, and of a size that fitting or loading decides."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from wichan.errors import WichanError

_LEAST_LOG_WEIGHT = -80.0  # a component without weight keeps a finite logarithm


class NotFittedError(WichanError, RuntimeError):
    """A prior is asked for what it only knows after `fit`."""


class MixtureStorage(nn.Module, ABC):
    """Buffers of a mixture: ``log_weights`` (K,), ``axes`` of a channel, and what the kind of prior names.

    Casts of the module are ignored and moves are followed: channels without noise have covariances whose eigenvalues span six
    decades and more, and single precision would lose the small ones.
    """

    values_names: ClassVar[tuple[str, ...]] = ("values",)  # float64 buffers that hold the covariances

    num_components: int | str
    shape: tuple[int, ...]
    log_weights: torch.Tensor
    axes: torch.Tensor
    values: torch.Tensor
    _where: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shape = ()
        self._fitted = False
        self._cache: dict[str, Any] = {}
        for name in ("log_weights", "axes", *self.values_names):
            self.register_buffer(name, None)
        self.register_buffer("_where", torch.zeros(0), persistent=False)  # the device, before there are parameters

    @property
    def is_fitted(self) -> bool:
        """Whether the parameters come from data or from a file."""
        return self._fitted

    def _require_fit(self) -> None:
        if not self._fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit, fit_observations or load_state_dict first")

    def _install(self, shape: tuple[int, ...], log_weights: torch.Tensor, **values: torch.Tensor) -> None:
        """Take over fitted parameters."""
        self.shape = tuple(shape)
        weights = log_weights.detach().to(torch.float64).clamp_min(_LEAST_LOG_WEIGHT)
        self._buffers["log_weights"] = weights - torch.logsumexp(weights, dim=0)
        self._buffers["axes"] = torch.tensor(self.shape, dtype=torch.int64, device=weights.device)
        for name, value in values.items():
            self._buffers[name] = value.detach().to(torch.float64).contiguous()
        self._buffers["_where"] = torch.zeros(0, device=weights.device)
        self.num_components = len(weights)
        self._fitted = True
        self._cache.clear()

    def _make_room(self, num_components: int, shape: tuple[int, ...], sizes: Mapping[str, tuple[int, ...]]) -> None:
        """Empty parameters of known size, for `load_state_dict` to fill."""
        self.shape = shape
        for name, size in {"log_weights": (num_components,), **sizes}.items():
            self._buffers[name] = torch.zeros(size, dtype=torch.float64)
        self._buffers["axes"] = torch.tensor(shape, dtype=torch.int64)

    def _apply(self, fn: Any, recurse: bool = True) -> MixtureStorage:
        before = {name: b for name, b in self._buffers.items() if b is not None and b.dtype == torch.float64}
        super()._apply(fn, recurse)
        for name, old in before.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != old.dtype:
                self._buffers[name] = old.to(moved.device)
        self._cache.clear()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        names = ("log_weights", "axes", *self.values_names)
        new = {name: state_dict[prefix + name] for name in names if isinstance(state_dict.get(prefix + name), torch.Tensor)}
        errors = args[-1]
        complete = len(new) == len(names)
        if complete and not self.shape and self.num_components in ("auto", len(new["log_weights"])):
            for name, value in new.items():  # a fresh prior does not know the channel's axes
                self._buffers[name] = torch.empty_like(value, device=self._where.device)
        before = len(errors)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if complete and len(errors) == before and self.log_weights is not None:
            self.num_components = len(self.log_weights)
            self.shape = tuple(int(n) for n in self.axes)
            self._fitted = True
        self._cache.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}
