"""What the linear filters behind LMMSE share: cached casts, buffers whose rank may change on loading, one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from wichan.channels.covariance_factor import ThinFactor
from wichan.nn.buffers import ComplexBuffer


class RankBuffers(nn.Module):
    """A module with a cache of casts, whose buffers may change rank when a state is loaded."""

    # Axes of buffers that follow the rank of a covariance: `load_state_dict` may change them, and no other.
    rank_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[Any, Any] = {}

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return ``make()`` from the cache; under ``torch.compile`` it is traced each time instead."""
        if torch.compiler.is_compiling():
            return make()
        if key not in self._cache:
            # Outside inference mode, since a tensor made inside cannot take part in autograd later.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = make()
        return self._cache[key]

    def latest(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return ``make()``, remembered for the last ``key`` only."""
        held = self._cache.get("latest")
        if held is None or held[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                held = self._cache["latest"] = (key, make())
        return held[1]

    def _apply(self, *args: Any, **kwargs: Any) -> RankBuffers:
        self._cache.clear()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, axes in self.rank_axes.items():
            have, new = self._buffers.get(name), state_dict.get(prefix + name)
            if isinstance(have, torch.Tensor) and isinstance(new, torch.Tensor) and have.dim() == new.dim():
                fixed = all(i in axes or new.shape[i] == have.shape[i] for i in range(have.dim()))
                if fixed and new.shape != have.shape:
                    self._buffers[name] = have.new_empty(new.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._cache.clear()
        self.refresh()

    def refresh(self) -> None:
        """Derive plain attributes from the buffers, after construction and loading."""


class StoredFactor(RankBuffers):
    """A `ThinFactor` as buffers of a module."""

    rank_axes = {"core_ri": (0, 1), "basis0_ri": (1,), "basis1_ri": (1,), "basis2_ri": (1,)}
    core = ComplexBuffer()  # (a t f, r)
    basis0 = ComplexBuffer()  # (num_ant, a); a = 0 stands for the identity; likewise times and subcarriers
    basis1 = ComplexBuffer()
    basis2 = ComplexBuffer()
    residual: torch.Tensor

    def __init__(self, factor: ThinFactor) -> None:
        super().__init__()
        self.sizes = factor.sizes
        self.core = factor.core
        for name, basis, n in zip(("basis0", "basis1", "basis2"), factor.bases, factor.sizes, strict=True):
            setattr(self, name, factor.core.new_zeros(n, 0) if basis is None else basis)
        self.register_buffer("residual", factor.residual.clone())

    def factor(self, dtype: torch.dtype | None = None, rank: int | None = None) -> ThinFactor:
        """Return the factor with its core and bases in ``dtype``, cut to the first ``rank`` columns."""

        def make() -> ThinFactor:
            core = self.core if rank is None else self.core[:, :rank]
            kind = core.dtype if dtype is None else dtype
            bases = [b.to(kind) if b.shape[1] else None for b in (self.basis0, self.basis1, self.basis2)]
            return ThinFactor(core.to(kind).contiguous(), (bases[0], bases[1], bases[2]), self.sizes, self.residual)

        return self.cached((dtype, rank), make)


class FilterModule(RankBuffers, ABC):
    """A linear estimator of the channel for any noise variance, factorised once in double precision.

    ``prepare`` makes what depends on the noise variance only, ``estimate`` applies it to pilots, ``error`` knows the error.
    Casts to the precision of the data are made once for each dtype and dropped when the module moves.
    """

    @property
    @abstractmethod
    def largest(self) -> torch.Tensor:
        """Largest eigenvalue of the noiseless pilots' covariance, to which a floor of the noise is relative."""

    @abstractmethod
    def prepare(self, no: torch.Tensor, dtype: torch.dtype) -> Any:
        """Return what `estimate` needs for noise variances ``no``, () for all frames or (batch,), in complex ``dtype``."""

    @abstractmethod
    def estimate(self, pilots: torch.Tensor, prepared: Any) -> torch.Tensor:
        """Return h_hat, (batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers), from (batch, num_rx_ant, P)."""

    @abstractmethod
    def error(self, no: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Return E|h - h_hat|^2 for noise variances ``no`` (K,), (K, rx or 1, tx, symbols, subcarriers) in real ``dtype``.

        A receive axis of length 1 stands for antennas with equal errors.
        """
