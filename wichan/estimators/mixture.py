r"""Conditional mean of a channel that is Gaussian given unknown conditions: a mixture whose components factor over axes.

.. math:: \hat h = \sum_c p(c \mid x)\, \hat h_c, \qquad p(c \mid x) \propto w_c\, \mathcal{CN}(x; 0, R_c + \mathrm{no} I),
    \qquad \mathrm{var} = \sum_c p(c \mid x) \big( \mathrm{err}_c + |\hat h_c - \hat h|^2 \big)

with :math:`\hat h_c` and :math:`\mathrm{err}_c` of the LMMSE filter of component c = (time factor a, frequency factor b,
scale s), :math:`R_c = s\, T_a \otimes F_b`. Pilots on symbols x subcarriers see :math:`R_c` through a unitary matrix for each
axis, with eigenvalues :math:`s \lambda_a \mu_b`. The batch is the last axis of everything here, so that what depends on a
mode only is a number to the innermost loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from wichan.errors import ShapeError, check_noise, check_tensor
from wichan.estimators.mixture_products import (
    apply_rows,
    combine_symbols,
    combine_times,
    frame_chunks,
    positive,
    step_bytes,
    times_j,
    total_of,
)
from wichan.estimators.mixture_tables import FrequencyTables, MixtureTables, TimeTables

# Components with a smaller posterior are left out of the spread between means, in each precision.
_UNLIKELY = {torch.float32: 1e-7, torch.float64: 1e-15}
_IMPOSSIBLE = -60.0  # ln p
_MOST = 1e30  # where single precision ends, with a margin


class MixtureEstimate(NamedTuple):
    """What a mixture says of a batch.

    Args:
        mean: complex (batch, num_ant, T, F).
        variance: real (batch, num_ant, T, F), E|h - mean|^2 given the pilots.
        log_posterior: real (batch, C_t, C_f) or (batch, C_t, C_f, C_s), ln p(c | x).
    """

    mean: torch.Tensor
    variance: torch.Tensor
    log_posterior: torch.Tensor


class SeparableMixture(MixtureTables):
    r"""Mixture over time factors x frequency factors x scales, for pilots on symbols x subcarriers.

    Antennas share the component: their log-likelihoods add, and each has a mean of its own.

    Args:
        time_factors: C_t thin factors, complex (C_t, T, r_t) or a list of (T, r): :math:`T_a = A A^H`.
        frequency_factors: C_f thin factors, complex (C_f, F, r_f) or a list of (F, r).
        log_weights: prior ln w, real (C_t, C_f), with scales (C_t, C_f, C_s); -inf leaves a component out. The weights are
            normalised to sum to 1.
        pilot_symbols, pilot_subcarriers: int64 (S,) and (K,), positions of the pilots.
        scales: powers s > 0, (C_s,); default one of 1.
        no_floor: smallest ``no`` in use, relative to the largest eigenvalue that the pilots see; ``no=0`` means this.

    Raises:
        ShapeError, InvalidValueError: factors, weights or scales that do not fit, or have no power.

    Components with a posterior below 1e-7 for a frame (1e-15 in double precision) are left out of the spread between means,
    an error of at most that share of their squared deviation. Eigenvalues below 1e-13 (1e-22) of a factor's largest count as
    zero.

    Cost: once, singular value decompositions of each factor. A frame and antenna, with S symbols and a frequency factor of
    rank r: about 40 C_t C_f C_s S r FLOP for the posterior, 4 C_t C_f S r (S + T) for mean and error, and for each component
    with a posterior worth it 4 S J (2 r + T) for the spread, at J points (about 3 r). Bytes: a few MiB at once, besides
    input and output and 8 T J num_ant a frame.
    """

    def __init__(
        self,
        time_factors: torch.Tensor | Sequence[torch.Tensor],
        frequency_factors: torch.Tensor | Sequence[torch.Tensor],
        log_weights: torch.Tensor,
        pilot_symbols: torch.Tensor,
        pilot_subcarriers: torch.Tensor,
        scales: torch.Tensor | None = None,
        *,
        no_floor: float = 1e-12,
    ) -> None:
        args = (time_factors, frequency_factors, log_weights, pilot_symbols, pilot_subcarriers, scales, no_floor)
        super().__init__(*args)

    @property
    def num_components(self) -> int:
        """C_t C_f C_s."""
        return self.log_weights.numel()

    def forward(self, x: torch.Tensor, no: Any) -> MixtureEstimate:
        """Return mean, variance and posterior.

        Args:
            x: complex64 or complex128 (batch, num_ant, S, K), LS at the pilots, y / p.
            no: noise variance of ``x``, a number or a tensor (batch,).

        Raises:
            ShapeError, InvalidTypeError, InvalidValueError: shapes that do not fit, a negative ``no``, NaN in it.
        """
        pilots, noise = self._enter(x, no)
        posterior = self._log_joint(pilots, noise).flatten(0, 2).log_softmax(0).reshape(*self._order, len(x))
        # What is impossible anyway becomes zero: denormal numbers would slow every product down.
        weight = torch.where(posterior > _IMPOSSIBLE, posterior.exp(), torch.zeros_like(posterior))
        mean, variance = self._moments(pilots, noise, weight)
        root = self.power.sqrt().to(variance.dtype)
        return MixtureEstimate(mean * root, variance * root.square(), self._as_given(posterior))

    def posterior(self, x: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ln p(c | x), (batch, C_t, C_f[, C_s]), and the evidence ln p(x), (batch,); arguments as in `forward`."""
        pilots, noise = self._enter(x, no)
        joint = self._log_joint(pilots, noise)
        evidence = joint.flatten(0, 2).logsumexp(0)
        posterior = self._as_given(joint - evidence)
        # What no component can show the pilots is noise to all of them.
        span = self.pilot_span.to(x.dtype)
        outside = x - (x @ span.conj()) @ span.mT
        energy = torch.view_as_real(outside).square().sum((1, 2, 3, 4)) / self.power.to(noise.dtype)
        dims = math.prod(x.shape[1:])
        return posterior, evidence - energy / noise - dims * (noise * self.power.to(noise.dtype) * math.pi).log()

    # -- Into the layout of the products, and out of it. --

    @property
    def _order(self) -> tuple[int, int, int]:
        """Sizes of the components in the order in which they are handled: frequency factors, time factors, scales."""
        times, frequencies, scales = self.log_weights.shape
        return frequencies, times, scales

    def _enter(self, x: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Check; return pilots in coordinates of their span, (S, 2 R, A, batch), and noise (batch,) or (1,), of unit power."""
        check_tensor("x", x, kind="complex")
        sizes = (self.lam_time.shape[1], self.pilot_span.shape[0])
        if x.dim() != 4 or tuple(x.shape[2:]) != sizes:
            raise ShapeError(f"x has shape {tuple(x.shape)}; it must be (batch, antennas, {sizes[0]}, {sizes[1]})")
        real = x.real.dtype
        noise = check_noise(no, x.shape[:1], dtype=torch.float64, device=x.device).reshape(-1)
        peak = self.scales.amax() * self.lam_time.amax() * self.lam_frequency.amax()
        noise = torch.maximum(noise / self.power, (self.no_floor * peak).to(noise.dtype)).clamp_max(_MOST).to(real)
        span = (self.pilot_span.conj() / self.power.sqrt()).to(x.dtype)
        inner = torch.view_as_real(x @ span)
        return inner.permute(2, 4, 3, 1, 0).flatten(1, 2).contiguous(), noise

    def _as_given(self, found: torch.Tensor) -> torch.Tensor:
        """Bring (C_f, C_t, C_s, batch) to (batch, C_t, C_f[, C_s])."""
        found = found.permute(3, 1, 0, 2)
        return found if self.has_scales else found.squeeze(-1)

    @property
    def _widest(self) -> int:
        """Real numbers that all time factors' modes take for one frame and antenna."""
        return 2 * self.lam_time.numel() * max(max(ranks) for ranks in self.ranks.values())

    # -- Likelihood. --

    def _log_joint(self, pilots: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """ln w_c p(x | c) up to a constant of each frame, (C_f, C_t, C_s, batch)."""
        time, frequency = self._time_tables(noise.dtype), self._frequency_tables(noise.dtype)
        prior = self.log_weights.transpose(0, 1).to(noise.dtype).unsqueeze(-1)
        each = noise.element_size() * self._widest * max(pilots.shape[2], len(self.scales))
        parts = []
        for frames in frame_chunks(pilots.shape[-1], each, pilots.device):
            some, level = pilots[..., frames], noise[frames] if len(noise) > 1 else noise
            parts.append(torch.stack([self._likelihood(some, level, time, table) for table in frequency]))
        return torch.cat(parts, dim=-1) + prior

    def _likelihood(self, pilots: torch.Tensor, noise: torch.Tensor, time: TimeTables, table: FrequencyTables) -> torch.Tensor:
        """ln p(x | c) of all components with one frequency factor, (C_t, C_s, B), plus ln(pi no) for each dimension."""
        modes, rest = self._modes(pilots, time, table)
        energy = torch.addcmul(modes[:, :, 0].square(), modes[:, :, 1], modes[:, :, 1]).sum(3)  # (C_t, S, r, B)
        share = self._noise_share(noise, time, table)
        fit = (energy.unsqueeze(3) * share).sum((1, 2))
        fit = (fit + rest.square().sum((0, 1, 2))) / noise
        return pilots.shape[2] * share.log().sum((1, 2)) - fit.clamp_max(_MOST)

    def _modes(self, pilots: torch.Tensor, time: TimeTables, table: FrequencyTables) -> tuple[torch.Tensor, torch.Tensor]:
        """Pilots in the eigenmodes, (C_t, S, 2, r, A, B), and what only noise fills, (S, 2 (R - r), A, B)."""
        rank = table.lam.numel()
        rows = apply_rows(table.see, pilots)
        modes = combine_symbols(time.see.flatten(0, 1), rows[:, : 2 * rank])
        return modes.reshape(*time.lam.shape, 2, rank, *pilots.shape[2:]), rows[:, 2 * rank :]

    def _noise_share(self, noise: torch.Tensor, time: TimeTables, table: FrequencyTables) -> torch.Tensor:
        """no / (no + s lambda mu), (C_t, S, r, C_s, B or 1)."""
        signal = time.lam[:, :, None, None] * table.lam[:, None] * self.scales.to(noise.dtype)
        return noise / (noise + signal.unsqueeze(-1))

    # -- Mean and variance. --

    def _moments(self, pilots: torch.Tensor, noise: torch.Tensor, posterior: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, (batch, A, T, F), from the posterior (C_f, C_t, C_s, batch)."""
        each = noise.element_size() * self._widest * max(pilots.shape[2], len(self.scales))
        parts = []
        for frames in frame_chunks(pilots.shape[-1], each, pilots.device):
            level = noise[frames] if len(noise) > 1 else noise
            parts.append(self._mean_and_error(pilots[..., frames], level, posterior[..., frames]))
        mean, error = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
        mean = mean.permute(3, 0, 2, 1).contiguous()  # (batch, T, A, 2 R_F)
        variance = self._spread(pilots, noise, posterior, mean) + error.permute(2, 0, 1).unsqueeze(2)
        variance = variance.transpose(1, 2) @ self.spreading.to(noise.dtype).mT
        grid = mean.transpose(1, 2) @ self._from_span(noise.dtype)
        # Between the points rounding may leave a value below zero where the true one is tiny.
        floor = torch.finfo(noise.dtype).eps * variance.detach().amax(-1, keepdim=True).clamp_min(0)
        return torch.view_as_complex(grid.unflatten(-1, (-1, 2))), torch.maximum(variance, floor)

    def _mean_and_error(
        self, pilots: torch.Tensor, noise: torch.Tensor, posterior: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean in coordinates of the span, (T, 2 R_F, A, B), and the components' own mean error at the points, (T, J, B)."""
        time = self._time_tables(noise.dtype)
        scales = self.scales.to(noise.dtype)[:, None]
        whole_time = time.energy.sum(-1) + time.unseen
        means, errors = [], []
        for weight, table in zip(posterior, self._frequency_tables(noise.dtype), strict=True):
            share = self._noise_share(noise, time, table)
            power = weight * scales  # (C_t, C_s, B)
            gain = (share * power[:, None, None]).sum(3)  # (C_t, S, r, B)
            modes, _ = self._modes(pilots, time, table)
            weighted = (modes * (gain / noise)[:, :, None, :, None]).flatten(2, 3)
            means.append(apply_rows(table.cross, combine_times(time.cross, weighted)))
            total = power.sum(1)
            left = torch.einsum("cts,csrb->trb", time.energy, gain) + torch.einsum("ct,cb->tb", time.unseen, total)[:, None]
            unseen = torch.einsum("ct,cb->tb", whole_time, total)[:, None] * table.unseen[:, None]
            errors.append(table.energy @ left + unseen)
        return total_of(means), total_of(errors)

    def _spread(self, pilots: torch.Tensor, noise: torch.Tensor, posterior: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Sum of p |h_c - mean|^2 at the points over the components worth it for a frame, (batch, T, A, J).

        ``mean`` is (batch, T, A, 2 R_F), in coordinates of the span.
        """
        mean = mean @ self._to_points(mean.dtype)
        rows = pilots.permute(3, 0, 2, 1).contiguous()  # (batch, S, A, 2 R)
        width = math.prod(mean.shape[1:])
        total = mean.new_zeros(len(mean), width // 2)
        weights = torch.where(posterior > _UNLIKELY[mean.dtype], posterior, torch.zeros_like(posterior))
        step = max(1, step_bytes(mean.device) // (4 * mean.element_size() * width))
        for weight, table in zip(weights.unbind(0), self._frequency_tables(noise.dtype), strict=True):
            inner = rows @ table.see[: 2 * table.lam.numel()].mT  # (batch, S, A, 2 r)
            for picked in positive(weight).split(step, dim=1):
                deviation = self._deviation(inner, noise, mean, table, picked)
                total.index_add_(0, picked[2], deviation.mul_(weight[tuple(picked)][:, None]))
        return total.view(*mean.shape[:-1], len(self.points))

    def _deviation(
        self, inner: torch.Tensor, noise: torch.Tensor, mean: torch.Tensor, table: FrequencyTables, picked: torch.Tensor
    ) -> torch.Tensor:
        """|h_c - mean|^2 at the points for (time factor, scale, frame) in the columns of ``picked``, (n, T A J)."""
        factor, scale, frame = picked
        time, rank = self._time_tables(mean.dtype).pick(factor), table.lam.numel()
        level = (noise[frame] if len(noise) > 1 else noise)[:, None, None]
        power = self.scales.to(mean.dtype)[scale][:, None, None]
        gain = power / (level + power * time.lam[:, :, None] * table.lam)  # (n, S, r)
        modes = combine_symbols(time.see, inner.index_select(0, frame), halves=3)  # (n, S, A, 2 r)
        weighted = modes.unflatten(-1, (2, rank)) * gain[:, :, None, None]
        lifted = weighted.flatten(-2) @ table.lift.mT  # (n, S, A, 2 J)
        if time.cross.shape[-1] != lifted.shape[1]:
            lifted = torch.cat([lifted, times_j(lifted, 3)], dim=1)
        # The deviation is formed before it is squared: nothing cancels.
        away = mean.index_select(0, frame).flatten(2).baddbmm_(time.cross, lifted.flatten(2), beta=-1)
        real, imag = away.unflatten(2, (-1, mean.shape[-1])).chunk(2, -1)
        return real.square().addcmul_(imag, imag).flatten(1)
