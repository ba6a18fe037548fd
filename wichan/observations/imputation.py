"""Filling the gaps that lost snapshots leave in past CSI."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice
from wichan.observations.impairment import check_snapshots

METHODS = ("hold", "linear", "published")
#: Real and imaginary parts up to this size on all antennas and bins mark a snapshot as lost.
SILENCE = 1e-6


def impute(history: torch.Tensor, present: torch.Tensor | None = None, *, method: str = "hold") -> torch.Tensor:
    r"""Fill lost snapshots from those that arrived.

    Args:
        history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers); not changed. What stands in
            lost snapshots has no influence.
        present: bool, (\*batch, num_history): which snapshots arrived. ``None``: all but those whose real and imaginary
            parts are at most 1e-6 everywhere (for channels of about unit power).
        method: ``"hold"`` repeats the last snapshot that arrived, and the first one backwards over a gap at the start;
            ``"linear"`` interpolates between its neighbours in time and holds at both ends; ``"published"`` is the
            benchmark's own code, whose backward fill does nothing: a gap at the start stays zero, and every antenna
            looks for its own silent snapshots.

    Returns:
        The whole history, of the same shape and dtype; ``history`` itself where nothing was lost.

    Raises:
        InvalidTypeError, ShapeError: tensors of another kind or shape. UnknownNameError: another method.
        InvalidValueError: NaN, or samples of which no snapshot arrived.

    Source: [CSI4CAST2025]_.

    Example:
        >>> csi = torch.arange(4.0).reshape(1, 1, 4, 1) + 1j
        >>> lost = torch.tensor([True, False, False, True])
        >>> impute(csi, lost).real.flatten().tolist(), impute(csi, lost, method="linear").real.flatten().tolist()
        ([0.0, 0.0, 0.0, 3.0], [0.0, 1.0, 2.0, 3.0])
    """
    check_snapshots(history)
    check_choice("method", method, METHODS)
    heard = _heard(history) if present is None else check_mask(present, history)[..., None, None, :]
    arrived = heard.any(-2).any(-2)
    lost = int((~arrived.any(-1)).sum())
    if lost:
        raise InvalidValueError(f"history has {lost} samples without any snapshot that arrived; at least one is needed")
    if method != "published":
        heard = arrived[..., None, None, :]
    if bool(heard.all()):
        return history
    return _fill(history, heard, method)


def _heard(history: torch.Tensor) -> torch.Tensor:
    """Which snapshots hold anything, antenna by antenna: bool (\\*batch, num_rx_ant, num_tx_ant, num_history)."""
    low, high = torch.aminmax(torch.view_as_real(history.resolve_conj()).flatten(-2), dim=-1)
    return (low < -SILENCE) | (high > SILENCE)


def check_mask(present: Any, history: torch.Tensor) -> torch.Tensor:
    r"""Return which snapshots of a history arrived, bool (\*batch, num_history), on its device.

    Raises:
        InvalidTypeError, ShapeError: no such tensor.
    """
    if not isinstance(present, torch.Tensor) or present.dtype != torch.bool:
        kind = present.dtype if isinstance(present, torch.Tensor) else type(present).__name__
        raise InvalidTypeError(f"present must be a bool tensor, got {kind}")
    want = (*history.shape[:-4], history.shape[-2])
    if tuple(present.shape) != want:
        raise ShapeError(f"present has shape {tuple(present.shape)}; it must be (*batch, num_history) = {want}")
    return present.to(history.device)


def _fill(history: torch.Tensor, heard: torch.Tensor, method: str) -> torch.Tensor:
    """Fill the gaps of sequences that have at least one snapshot; only lost rows are read and written."""
    slots, subcarriers = history.shape[-2:]
    groups = heard.numel() // slots  # one a sample, or one an antenna
    filled = history.clone(memory_format=torch.contiguous_format)
    rows = filled.reshape(groups, -1, slots, subcarriers).transpose(1, 2)  # a view of `filled`
    heard = heard.reshape(groups, slots)
    group, slot = (~heard).nonzero(as_tuple=True)
    before, after = _neighbours(heard)
    before, after = before[group, slot], after[group, slot]
    if method == "published":
        found = (before >= 0)[:, None, None]
        rows[group, slot] = torch.where(found, rows[group, before.clamp(min=0)], 0)
        return filled
    first, last = torch.where(before < 0, after, before), torch.where(after == slots, before, after)
    value = rows[group, first]
    if method == "linear":
        weight = (slot - first) / (last - first).clamp(min=1)
        value = torch.lerp(value, rows[group, last], weight.to(value.dtype)[:, None, None])
    rows[group, slot] = value
    return filled


def _neighbours(heard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Last snapshot that arrived up to each slot (-1: none) and next one (num_history: none), int64 (groups, slots)."""
    slots = heard.shape[-1]
    index = torch.arange(slots, device=heard.device)
    before = torch.where(heard, index, -1).cummax(-1).values
    after = torch.where(heard, index, slots).flip(-1).cummin(-1).values.flip(-1)
    return before, after
