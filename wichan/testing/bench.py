"""What a contract check works with: the estimator under test, its inputs, and the comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, check_noise
from wichan.estimators.base import Estimate, Estimator
from wichan.grid import OFDMGrid
from wichan.random import complex_normal
from wichan.testing.tolerances import relative_tolerance

BATCH = 8


class Skipped(Exception):
    """A check that does not apply to this estimator."""


@dataclass
class Bench:
    """The estimator under test with everything that makes its inputs."""

    est: Estimator
    obs: Any
    generator: torch.Generator
    num_rx_ant: int
    mean_power: float
    no: float
    channel: Callable[[int, torch.Generator], torch.Tensor] | None
    conditions: Callable[[tuple[int, ...]], dict[str, Any]] | None

    def channels(self, batch: tuple[int, ...] = (BATCH,), dtype: torch.dtype = torch.complex64) -> torch.Tensor:
        """Draw channels of shape (*batch, ...)."""
        count = math.prod(batch)
        if self.channel is not None:
            h = self.channel(count, self.generator)
        else:
            h = complex_normal((count, *self._channel_shape()), self.mean_power, generator=self.generator)
        return h.reshape(*batch, *h.shape[1:]).to(dtype)

    def _channel_shape(self) -> tuple[int, ...]:
        if isinstance(self.obs, OFDMGrid):
            return (self.num_rx_ant, 1, *self.obs.shape)
        if hasattr(self.obs, "grid"):
            return (self.num_rx_ant, self.obs.num_tx_ant, *self.obs.grid.shape)
        if hasattr(self.obs, "channel_shape"):
            return tuple(self.obs.channel_shape)
        raise InvalidTypeError(f"obs of type {type(self.obs).__name__} does not tell the channel's shape; give channel=")

    def observe(self, h: torch.Tensor, no: Any) -> torch.Tensor:
        """Noisy observation of ``h``."""
        if not isinstance(self.obs, OFDMGrid):
            return self.obs.observe(h, no, generator=self.generator)
        signal = h.sum(dim=-3)
        level = check_noise(no, signal.shape[:-2], dtype=h.real.dtype, device=h.device).sqrt()
        noise = complex_normal(signal.shape, generator=self.generator, dtype=h.dtype)
        return signal + noise * (level[..., None, None] if level.dim() else level)

    def run(self, y: Any, no: Any, batch: tuple[int, ...] = (BATCH,), est: Any = None) -> Estimate:
        """Estimate from ``y``, with a gradient only where ``y`` asks for one."""
        extra = {} if self.conditions is None else self.conditions(batch)
        with torch.set_grad_enabled(getattr(y, "requires_grad", False)):
            return (self.est if est is None else est)(y, no, **extra)

    def pair(self, dtype: torch.dtype = torch.complex64) -> tuple[torch.Tensor, torch.Tensor]:
        """Channels and their observation, one batch."""
        h = self.channels(dtype=dtype)
        return h, self.observe(h, self.no)

    def seen(self, y: torch.Tensor) -> tuple[int, ...]:
        """Index of an element that the estimator must read: a pilot of the last frame."""
        last = [size - 1 for size in y.shape]
        if hasattr(self.obs, "mask"):
            last[-2:] = [int(i) for i in self.obs.mask.nonzero()[0]]
        return tuple(last)


def close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype, what: str) -> None:
    """Assert that two results agree to the precision of ``dtype``."""
    scale = float(b.abs().square().mean().sqrt()) or 1.0
    worst = float((a - b).abs().max()) / scale
    assert worst <= relative_tolerance(dtype), f"{what} differ by {worst:.2e} of the root mean square"


def same_result(first: Estimate, second: Estimate, what: str) -> None:
    """Assert that two estimates are bit-identical."""
    assert torch.equal(first.h_hat, second.h_hat) and torch.equal(first.err_var, second.err_var), f"{what} gives another result"


def refuses(bench: Bench, y: Any, no: Any, kind: type[Exception], what: str) -> None:
    """Assert that the estimator raises a one-line error of this kind."""
    try:
        bench.run(y, no)
    except kind as error:
        assert "\n" not in str(error), f"the error for {what} has more than one line"
        return
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__} instead of {kind.__name__}") from error
    raise AssertionError(f"{what} is accepted; {kind.__name__} expected")
