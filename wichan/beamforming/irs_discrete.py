r"""Phases that take 2^B values only: the exact optimum of one sum, rounding, and refinement element by element.

For one sum :math:`|d + \sum_l \theta_l z_l|` the best discrete phases are found exactly: turned by the phase of the best sum,
every term must point as far forward as its values allow. So only the rounding of one angle differs between candidates, and
while that angle turns, the elements step one after the other; sorting their turning points visits all candidates.
"""

from __future__ import annotations

import math

import torch

from wichan.beamforming.irs_ascent import Core, Objective, starts, values_at

_REFINED = 64  # elements


def align_to_levels(z: torch.Tensor, direct: torch.Tensor | None, num_bits: int) -> torch.Tensor:
    r"""Phases :math:`\theta_l \in \{e^{j 2\pi k / 2^B}\}` that maximise :math:`|d + \sum_l \theta_l z_l|`, exactly.

    Args:
        z: gain of every element, complex128, (\*batch, L).
        direct: d, complex128, (\*batch), or None.
        num_bits: B.

    Returns:
        complex128, (\*batch, L).

    Cost: one sort, O(L log L), whatever the number of levels.
    """
    step = 2 * math.pi / 2**num_bits
    # Levels nearest to phase -arg z, and how far the common angle may turn before each of them has to step on.
    wanted = -z.angle() / step
    level = wanted.round()
    room = (0.5 + level - wanted).clamp(0.0, 1.0)
    order = room.argsort(dim=-1)
    start = z * _unit(level * step)
    steps = (start * (complex(math.cos(step), math.sin(step)) - 1)).gather(-1, order)
    sums = torch.cat([start.sum(dim=-1, keepdim=True), start.sum(dim=-1, keepdim=True) + steps.cumsum(dim=-1)], dim=-1)
    if direct is None:
        turns = torch.zeros_like(sums.real)
        best = sums.abs().argmax(dim=-1, keepdim=True)
    else:  # all elements together may turn by any number of levels towards the direct link
        turns = ((direct[..., None].angle() - sums.angle()) / step).round()
        best = (direct[..., None] + sums * _unit(turns * step)).abs().argmax(dim=-1, keepdim=True)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(z.shape[-1], device=z.device).expand_as(order).contiguous())
    level = level + (rank < best) + turns.gather(-1, best)
    return _unit(torch.remainder(level, 2**num_bits) * step)


def nearest_levels(reflection: torch.Tensor, num_bits: int) -> torch.Tensor:
    """The nearest of 2^B unit-modulus values."""
    step = 2 * math.pi / 2**num_bits
    return _unit((reflection.angle() / step).round() * step).to(reflection.dtype)


def round_and_refine(
    core: Core, reflection: torch.Tensor, objective: Objective, num_bits: int, *, sweeps: int = 3
) -> torch.Tensor:
    r"""Round continuous phases to 2^B values, then step element after element to a neighbouring value while that helps.

    Without a direct link the common phase is free before rounding: eight offsets are tried and the best is kept.

    Args:
        core: the channel.
        reflection: complex128, (B, L), unit modulus.
        objective: what to maximise.
        num_bits: B.
        sweeps: passes over all elements at most; a pass that changes nothing is the last.

    Returns:
        (B, L); its value is never below that of plain rounding.

    Cost: 3 L objectives a pass (2 L with one bit).
    """
    step = 2 * math.pi / 2**num_bits
    offsets = torch.arange(8, device=reflection.device, dtype=torch.float64) * (step / 8)
    offsets = offsets[: 1 if core.has_direct else 8]
    rounded = nearest_levels(reflection[:, None] * _unit(offsets)[:, None], num_bits)
    values = values_at(core, rounded, objective)
    best = values.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    theta, value = rounded[rows, best], values[rows, best]
    moves = torch.tensor([1, -1] if num_bits > 1 else [1], device=theta.device, dtype=torch.float64)
    turn = _unit(moves * step) - 1
    channel = core.channel(theta[:, None])[:, 0]
    for _ in range(sweeps):
        before = value
        for element in range(core.elements.shape[1]):
            delta = theta[:, element, None] * turn  # (B, moves)
            moved = channel[:, None] + delta[..., None] * core.elements[:, element, None]
            tried = objective.value(core.fold(moved))
            gain, pick = tried.max(dim=1)
            better = gain > value * (1 + 1e-12)
            channel = torch.where(better[:, None], moved[rows, pick], channel)
            theta[:, element] += torch.where(better, delta[rows, pick], torch.zeros_like(delta[rows, pick]))
            value = torch.where(better, gain, value)
        if not bool((value > before * (1 + 1e-9)).any()):
            break
    return nearest_levels(theta, num_bits)


def discrete_beams(
    core: Core, reflection: torch.Tensor, objective: Objective, num_bits: int, *, num_starts: int = 12, rounds: int = 20
) -> torch.Tensor:
    r"""Discrete phases for the best pair of beams.

    On one subcarrier the beams that are best for the phases and the phases that are best for the beams (`align_to_levels`)
    take turns, which never loses, from the continuous optimum and from `starts`. Then, on surfaces of up to 64 elements, and
    on several subcarriers at once, `round_and_refine`; on 64 elements it gains a few thousandths of a dB.

    Args:
        core, reflection, objective, num_bits: as in `round_and_refine`; ``objective`` is the gain of the best beams.
        num_starts: further starts.
        rounds: turns at most.

    Returns:
        (B, L).
    """
    if core.shape[0] > 1:
        return round_and_refine(core, reflection, objective, num_bits)
    theta = torch.cat([reflection[:, None], starts(core, num_starts)], dim=1)
    best = torch.full_like(theta[..., 0].real, -1.0)  # no discrete phases yet: the first turn always counts
    for _ in range(rounds):
        m = objective.value_and_gradient(core.fold(core.channel(theta)))[1].flatten(-3).conj()
        direct = (m @ core.direct[..., None])[..., 0] if core.has_direct else None
        tried = align_to_levels(m @ core.elements.mT, direct, num_bits)
        value = values_at(core, tried, objective)
        better = value > best
        if not bool(better.any()):
            break
        theta = torch.where(better[..., None], tried, theta)
        best = torch.maximum(best, value)
    rows = torch.arange(len(theta), device=theta.device)
    theta = theta[rows, best.argmax(dim=1)]
    return round_and_refine(core, theta, objective, num_bits) if theta.shape[1] <= _REFINED else theta


def _unit(angle: torch.Tensor) -> torch.Tensor:
    return torch.polar(torch.ones_like(angle), angle)
