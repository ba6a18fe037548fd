"""Mixture of Gaussian channels for any covariances and any linear pilots: one LMMSE filter a component."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from wichan.channels.covariance import ChannelCovariance
from wichan.channels.covariance_factor import squared
from wichan.estimators.filter_module import FilterModule, RankBuffers
from wichan.estimators.joint_filter import JointFilter, observe_columns
from wichan.estimators.mismatched import exact_filter
from wichan.estimators.mixture_axes import common_span, pad_last
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

_UNLIKELY = {torch.float32: 1e-7, torch.float64: 1e-15}  # components with a smaller posterior are left out
_MOST = 1e30  # where single precision ends, with a margin
_BYTES = 2**24  # what the modes of one chunk of frames may take


class JointMixture(RankBuffers):
    r"""Conditional mean under a mixture of Gaussian channels, each with its own filter over the whole grid.

    The likelihood of a component needs all eigenmodes of its covariance at the pilots of all antennas; they are kept in
    coordinates of what the components span together.

    Args:
        obs: linear pilots on the grid.
        covariances: one each, unbatched.
        log_weights: prior ln w, float64 (C,), sums to 1.
        rtol: smallest eigenvalue of a covariance to keep, relative to its largest.
        no_floor: smallest ``no`` in use, relative to the largest eigenvalue that the pilots see.

    Cost: a frame, 8 R^2 C FLOP for the posterior (R at most num_rx_ant P), and one LMMSE for each component with a posterior
    above 1e-7 (single precision; 1e-15 in double). Bytes: the filters of all components, and 16 C R^2.
    """

    span = ComplexBuffer()  # (num_rx_ant P, R)
    see = ComplexBuffer()  # (C, R, R), unitary
    lam: torch.Tensor  # (C, R)
    log_weights: torch.Tensor  # (C,)

    def __init__(
        self,
        obs: OFDMPilots,
        covariances: Sequence[ChannelCovariance],
        log_weights: torch.Tensor,
        *,
        rtol: float,
        no_floor: float,
    ) -> None:
        super().__init__()
        self.no_floor = no_floor
        self.shape = covariances[0].shape
        with torch.no_grad():
            filters = [exact_filter(obs, covariance, rtol) for covariance in covariances]
            self.filters = nn.ModuleList(filters)
            views = [_views(obs, made, covariance, rtol) for made, covariance in zip(filters, covariances, strict=True)]
            width = max(view.shape[1] for view in views)
            stacked = torch.stack([pad_last(view, width) for view in views])
            self.span, _ = common_span(stacked)
            self.see, sigma, _ = torch.linalg.svd(self.span.mH @ stacked, full_matrices=True)
        self.register_buffer("lam", pad_last(sigma.square(), self.span.shape[1]))
        self.register_buffer("log_weights", log_weights.clone())

    def _all(self) -> list[FilterModule]:
        return list(self.filters)  # type: ignore[arg-type]

    def forward(self, pilots: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean and variance, (batch, num_rx_ant, num_tx_ant, T, F), and ln p(c | y), (batch, C).

        Args:
            pilots: complex (batch, num_rx_ant, P), pilot elements as received.
            no: float64 noise variances, (batch,) or (1,).
        """
        noise = self._floored(no)
        joint = self._log_joint(pilots, noise.to(pilots.real.dtype))
        posterior = joint - joint.logsumexp(-1, keepdim=True)
        mean = pilots.new_zeros(len(pilots), *self.shape)
        spread = pilots.real.new_zeros(mean.shape)
        mass = pilots.real.new_zeros(len(pilots))
        for chosen, weight in zip(self._all(), posterior.exp().unbind(-1), strict=True):
            frames = _worth(weight)
            if not len(frames):
                continue
            level = noise[frames] if len(noise) > 1 else noise
            h = chosen.estimate(pilots[frames], chosen.prepare(level if len(level) > 1 else level[0], pilots.dtype))
            self._enter_one(frames, weight[frames], h, chosen.error(level, spread.dtype), (mass, mean, spread))
        return mean, spread / _column(mass), posterior

    def posterior(self, pilots: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ln p(c | y), (batch, C), and ln p(y), (batch,); arguments of `forward`."""
        noise = self._floored(no).to(pilots.real.dtype)
        joint = self._log_joint(pilots, noise)
        evidence = joint.logsumexp(-1)
        flat, span = pilots.flatten(1), self.span.to(pilots.dtype)
        outside = flat - (flat @ span.conj()) @ span.mT
        known = squared(outside).sum(-1) / noise + flat.shape[1] * (math.pi * noise).log()
        return joint - evidence[:, None], evidence - known

    def _floored(self, no: torch.Tensor) -> torch.Tensor:
        return torch.maximum(no, (self.no_floor * self.lam.amax()).clamp_min(1e-300).to(no.dtype))

    def _log_joint(self, pilots: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """ln w_c p(y | c) up to a constant of each frame, (batch, C)."""
        made = self.cached(("see", pilots.dtype), lambda: self.see.conj().to(pilots.dtype).contiguous())
        lam, inner = self.lam.to(noise.dtype), pilots.flatten(1) @ self.span.conj().to(pilots.dtype)
        parts = []
        for frames in range(0, len(inner), step := max(1, _BYTES // (lam.numel() * inner.element_size()))):
            modes = torch.matmul(inner[frames : frames + step], made)  # (C, b, R)
            level = (noise[frames : frames + step] if len(noise) > 1 else noise)[:, None]
            share = level / (level + lam[:, None])
            parts.append(share.log().sum(-1) - (squared(modes) * share / level).sum(-1).clamp_max(_MOST))
        found = torch.cat(parts, dim=-1) if parts else noise.new_zeros(len(lam), 0)
        return found.mT + self.log_weights.to(noise.dtype)

    def _enter_one(
        self,
        frames: torch.Tensor,
        weight: torch.Tensor,
        h: torch.Tensor,
        error: torch.Tensor,
        sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Add one component to the running mass, mean and mass x variance of some frames: no large numbers are subtracted."""
        mass, mean, spread = sums
        before = mass[frames]
        share = weight / (before + weight).clamp_min(torch.finfo(weight.dtype).tiny)
        step = h - mean[frames]
        mean.index_add_(0, frames, step * _column(share).to(h.dtype))
        spread.index_add_(0, frames, squared(step) * _column(before * share) + _column(weight) * error)
        mass.index_add_(0, frames, weight)


def _views(obs: OFDMPilots, made: FilterModule, covariance: ChannelCovariance, rtol: float) -> torch.Tensor:
    """A factor of the noiseless pilots' covariance over all antennas, (num_rx_ant P, r)."""
    if not isinstance(made, JointFilter):
        return observe_columns(obs, covariance.tucker(rtol), covariance.shape[:2]).T
    inner, antennas = made.see.mH.contiguous(), covariance.shape[0]
    if inner.shape[0] == antennas * obs.num_pilots:
        return inner
    space = made.space if made.space.shape[-1] else torch.eye(antennas, dtype=inner.dtype, device=inner.device)
    return torch.kron(space * made.sigma.sqrt(), inner)


def _worth(weight: torch.Tensor) -> torch.Tensor:
    """Frames whose posterior is worth it; all where their number must not depend on values."""
    if torch.compiler.is_compiling():
        return torch.arange(len(weight), device=weight.device)
    return (weight.detach() > _UNLIKELY[weight.dtype]).nonzero().flatten()


def _column(x: torch.Tensor) -> torch.Tensor:
    return x[:, None, None, None, None]
