"""The sweeps of `CMEGibbs`: chains over the analogue samples y, the channel h and the mixture's component k."""

from __future__ import annotations

from typing import NamedTuple

import torch

from wichan.estimators.bounces import Box, travel
from wichan.estimators.gibbs_tables import Tables
from wichan.estimators.hashed_random import HashedRandom, row_keys
from wichan.estimators.truncated import truncated_normal

_BOUNCES = 100  # a particle may bounce so often for each real sample before its way counts as endless


class Plan(NamedTuple):
    """How many sweeps, of which kind.

    Args:
        num_samples, burn_in, num_chains: as in `CMEGibbs`.
        bounce: whether a sweep begins with a trajectory.
        is_cone: whether every row has one bit, so that r says nothing about scale.
        reach: mean duration of a trajectory; a quarter turn forgets where it began.
    """

    num_samples: int
    burn_in: int
    num_chains: int
    bounce: bool
    is_cone: bool
    reach: float


class Sweeps:
    """Chains for T observations, all at once; row t num_chains + c is chain c of observation t.

    Args:
        tables: of the mixture's K components, or of each observation's own covariance (``log_weights=None``).
        log_weights: float64 (K,).
        y: complex128 (T, M), of which rows without converters count.
        low, high: cells of the other rows, float64 (T, 2 Q) as (re, im) pairs.
        k: int64 (T num_chains,), components to start with.
        plan: what to do.
        seed: of the chains. What an observation draws depends on it and on its own cells, not on its place in the batch.
    """

    def __init__(
        self,
        tables: Tables,
        log_weights: torch.Tensor | None,
        y: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        k: torch.Tensor,
        plan: Plan,
        seed: int,
    ) -> None:
        self.tables, self.log_weights, self.plan = tables, log_weights, plan
        self.count, chains = len(y), plan.num_chains
        known = torch.view_as_real(y[:, tables.fine]).flatten(1)
        keys = torch.stack([row_keys(torch.cat([low, known], dim=1), seed * chains + chain) for chain in range(chains)], dim=1)
        self.random = HashedRandom(keys.flatten())
        self.low, self.high = (x.repeat_interleave(chains, dim=0) for x in (low, high))
        self.outward = torch.where(self.low == 0, -1.0, 1.0).double() if plan.is_cone else None
        self.k = torch.arange(self.count, device=y.device).repeat_interleave(chains) if log_weights is None else k
        self.y = y.repeat_interleave(chains, dim=0)
        power = tables.power[:, tables.coarse].repeat_interleave(2, dim=1) / 2
        spread = power.sqrt()[self.k if len(power) > 1 else torch.zeros_like(self.k)]  # each sample by itself: far and wide
        self._set_coarse(
            spread * truncated_normal(self.low / spread, self.high / spread, self.random.uniform(self.low.shape[1]))
        )

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E[h | y, k] of all draws, complex128 (num_samples, T, num_chains, N), and their mean Var[h | y, k], (T, N)."""
        means, error = [], self.tables.error.new_zeros(())
        for sweep in range(self.plan.burn_in + self.plan.num_samples):
            mean, component = self._sweep()
            if sweep >= self.plan.burn_in:
                means.append(mean.unflatten(0, (self.count, -1)))
                error = error + self.tables.error[component].unflatten(0, (self.count, -1)).mean(dim=1)
        return torch.stack(means), error / self.plan.num_samples

    def _sweep(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One sweep; returns E[h | y, k] and k as they were when h was drawn."""
        if self.plan.bounce:
            self._bounce()
        elif self.plan.is_cone:
            self._rescale()
        component = self.k
        mean = self._times(self.tables.weight, self.y)
        h = mean + self._times(self.tables.spread, self.random.complex_normal(mean.shape[1]))
        self._draw_y(h)
        if self.log_weights is not None and len(self.log_weights) > 1:
            self._draw_k(self.log_weights)
        return mean, component

    # -- Moves. --

    def _bounce(self) -> None:
        """y given k and r, h integrated out: a trajectory in the box."""
        tables, size = self.tables, self.low.shape[1]
        position, low, high = self._coarse(), self.low, self.high
        if len(tables.fine):
            mean = torch.view_as_real(self._times(tables.mean, self.y[:, tables.fine])).flatten(1)
            position, low, high = position - mean, low - mean, high - mean
        velocity = torch.view_as_real(self._times(tables.root, self.random.complex_normal(size // 2))).flatten(1)
        duration = self.plan.reach * (0.5 + self.random.uniform(1)[:, 0])
        box = Box(low, high, self.outward)
        moved = travel(position, velocity, box, tables.columns, self.k, duration, _BOUNCES * size)
        self._set_coarse(moved + mean if len(tables.fine) else moved)

    def _rescale(self) -> None:
        """The length of (y, h) given its direction, which cells that are cones leave free: its square is a Gamma variable."""
        energy = self._times(self.tables.whitener, self.y).abs().square().sum(dim=1)
        drawn = -torch.log1p(-self.random.uniform(self.y.shape[1])).sum(dim=1)
        self.y = self.y * (drawn / energy).sqrt()[:, None]

    def _draw_y(self, h: torch.Tensor) -> None:
        """y given h and r: truncated Gaussians, each real part by itself."""
        tables = self.tables
        noise = tables.noise[self.k if len(tables.noise) > 1 else 0]
        deviation = (noise / 2).sqrt().expand(len(h))[:, None]
        centre = torch.view_as_real((h @ tables.matrix.mT)[:, tables.coarse]).flatten(1)
        uniform = self.random.uniform(centre.shape[1])
        inside = truncated_normal((self.low - centre) / deviation, (self.high - centre) / deviation, uniform)
        self._set_coarse(torch.minimum(torch.maximum(centre + deviation * inside, self.low), self.high))

    def _draw_k(self, log_weights: torch.Tensor) -> None:
        """k given y, h integrated out."""
        posterior = component_log_density(self.tables, log_weights, self.y).softmax(dim=1)
        self.k = (posterior.cumsum(dim=1) < self.random.uniform(1)).sum(dim=1).clamp_max(len(log_weights) - 1)

    # -- Small steps. --

    def _times(self, matrices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Each row's own matrix times its vector."""
        if len(matrices) == 1:
            return x @ matrices[0].mT
        if self.log_weights is None:
            return (x.unflatten(0, (self.count, -1)) @ matrices.mT).flatten(0, 1)
        return (matrices[self.k] @ x[..., None])[..., 0]

    def _coarse(self) -> torch.Tensor:
        return torch.view_as_real(self.y[:, self.tables.coarse]).flatten(1)

    def _set_coarse(self, parts: torch.Tensor) -> None:
        self.y[:, self.tables.coarse] = torch.view_as_complex(parts.unflatten(1, (-1, 2)).contiguous())


def component_log_density(tables: Tables, log_weights: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """log pi_k + log CN(y; 0, Cov_k) without the constant, (rows, K)."""
    white = (y @ tables.whitener.flatten(0, 1).mT).unflatten(1, (len(log_weights), -1))
    return log_weights - tables.log_det - torch.view_as_real(white).square().sum(dim=(-2, -1))
