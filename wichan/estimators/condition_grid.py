"""Conditions whose covariances are the products of a few time factors and a few frequency factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.estimators.mixture_axes import pad_last
from wichan.estimators.spectral import space_modes
from wichan.random import complex_normal, make_generator

_ALIKE = 1e-9  # two factors whose products with random vectors differ by less than this share are one


@dataclass(frozen=True, eq=False)
class ConditionGrid:
    """C conditions as places in a grid of time factors x frequency factors.

    Args:
        time: complex128 (C_t, T, r_t), distinct.
        frequency: complex128 (C_f, F, r_f), distinct.
        place: int64 (C,), a C_f + b of each condition.
    """

    time: torch.Tensor
    frequency: torch.Tensor
    place: torch.Tensor

    def log_weights(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Bring ln w of the conditions, (C,), to the grid, (C_t, C_f); empty places get -inf, shared ones the sum."""
        flat = log_weights.new_zeros(len(self.time) * len(self.frequency))
        return flat.index_add(0, self.place, log_weights.exp()).log().unflatten(0, (len(self.time), -1))


def condition_grid(covariances: Sequence[ChannelCovariance]) -> ConditionGrid | None:
    """Find the grid in which conditions lie, or ``None`` where R is no single product that is white over antennas.

    Args:
        covariances: each of one condition or a batch of them.
    """
    parts = [_white_factors(covariance) for covariance in covariances]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    times, frequencies = (_stack([part[axis] for part in found]) for axis in (0, 1))
    t, f = _distinct(times), _distinct(frequencies)
    return ConditionGrid(times[t[0]], frequencies[f[0]], t[1] * len(f[0]) + f[1])


def _white_factors(covariance: ChannelCovariance) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Time and frequency factors of all conditions; what antennas share in power goes to the frequency factor."""
    if not covariance.is_kronecker:
        return None
    term = covariance.terms[0]
    assert isinstance(term, KroneckerTerm)
    rotation, sigma = space_modes(term.space)
    if rotation.shape[-1] or sigma.shape[-1] > 1:
        return None
    count = (covariance.batch_shape or (1,))[0]
    time, frequency = (m.expand(count, *m.shape[-2:]) for m in (term.time, term.frequency))
    return time, frequency * sigma.sqrt().reshape(-1, 1, 1)


def _stack(parts: list[torch.Tensor]) -> torch.Tensor:
    width = max(part.shape[-1] for part in parts)
    return torch.cat([pad_last(part, width) for part in parts])


def _distinct(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First index of every distinct A A^H among (C, n, r), and for each item which of those it is."""
    # A A^H times two random vectors tells matrices apart, whatever the columns of A.
    probe = complex_normal((factor.shape[-2], 2), generator=make_generator(0, "probe"), dtype=torch.complex128)
    seen = torch.view_as_real(factor @ (factor.mH @ probe.to(factor.device))).flatten(1)
    limit = _ALIKE * torch.linalg.vector_norm(seen, dim=1)
    owner = torch.full((len(seen),), -1, device=seen.device)
    first: list[int] = []
    for i in range(len(seen)):
        if int(owner[i]) < 0:
            alike = (owner < 0) & (torch.linalg.vector_norm(seen - seen[i], dim=1) <= limit)
            alike[i] = True
            owner[alike] = len(first)
            first.append(i)
    return torch.tensor(first, device=seen.device), owner
