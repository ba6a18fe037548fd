"""Filled gaps: every pattern of lost snapshots, three methods, and what the published code leaves out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import PacketDrop, impute
from wichan.random import complex_normal

SLOTS = 5
# All patterns of five snapshots with at least one that arrived, (31, 5).
PATTERNS = torch.tensor([bits for bits in itertools.product([False, True], repeat=SLOTS) if any(bits)])


def lossy(generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    """One sample a pattern, (31, 2, 3, 5, 4), zero where a snapshot was lost."""
    h = complex_normal((len(PATTERNS), 2, 3, SLOTS, 4), generator=generator, dtype=dtype)
    return h * PATTERNS[:, None, None, :, None]


def held(present: list[bool], slot: int) -> int:
    """Index of the snapshot that holding puts in ``slot``: the last that arrived, or else the first."""
    before = [t for t in range(slot + 1) if present[t]]
    return before[-1] if before else present.index(True)


def test_holding_repeats_the_last_snapshot_and_fills_a_gap_at_the_start(generator: torch.Generator) -> None:
    h = lossy(generator)
    filled = impute(h, PATTERNS)
    for sample, present in enumerate(PATTERNS.tolist()):
        order = [held(present, slot) for slot in range(SLOTS)]
        assert torch.equal(filled[sample], h[sample][:, :, order])


@pytest.mark.parametrize("method", ["hold", "linear"])
@pytest.mark.parametrize("told", [True, False])
def test_one_snapshot_is_enough_to_leave_no_zero_row(method: str, told: bool, generator: torch.Generator) -> None:
    filled = impute(lossy(generator), PATTERNS if told else None, method=method)
    assert (filled.abs().amax(dim=(1, 2, 4)) > 0.1).all()


def test_interpolation_is_exact_where_time_is_linear(generator: torch.Generator) -> None:
    start, slope = (complex_normal((31, 2, 3, 1, 4), generator=generator, dtype=torch.complex128) for _ in range(2))
    line = start + slope * torch.arange(SLOTS).double()[:, None]
    filled = impute(line * PATTERNS[:, None, None, :, None], PATTERNS, method="linear")
    for sample, present in enumerate(PATTERNS.tolist()):
        first, last = present.index(True), SLOTS - 1 - present[::-1].index(True)
        time = [min(max(slot, first), last) for slot in range(SLOTS)]  # held at both ends
        assert torch.allclose(filled[sample], line[sample][:, :, time], atol=1e-12)  # doubles of size 1


def test_the_published_code_leaves_a_gap_at_the_start(generator: torch.Generator) -> None:
    h = lossy(generator)
    filled = impute(h, PATTERNS, method="published")
    mended = impute(h, PATTERNS)
    for sample, present in enumerate(PATTERNS.tolist()):
        first = present.index(True)
        assert not filled[sample, :, :, :first].any()
        assert torch.equal(filled[sample, :, :, first:], mended[sample, :, :, first:])
    assert torch.equal(impute(h, method="published"), filled)  # zeros say the same as the mask


def test_the_published_code_looks_at_every_antenna_alone(generator: torch.Generator) -> None:
    h = complex_normal((2, 3, 1, 4, 6), generator=generator)
    h[0, 1, 0, 2] = 1e-6  # one antenna is silent for one snapshot
    filled = impute(h, method="published")
    assert torch.equal(filled[0, 1, 0, 2], h[0, 1, 0, 1])
    filled[0, 1, 0, 2] = h[0, 1, 0, 2]
    assert torch.equal(filled, h)
    assert impute(h) is h  # the other antennas heard that snapshot


def test_a_snapshot_is_heard_if_any_part_of_it_is_above_a_millionth() -> None:
    h = torch.zeros(1, 1, 1, 2, 3, dtype=torch.complex128)
    h[..., 0, :] = 1.0
    for value, filled_with in ((1e-6, 1.0), (-1e-6j, 1.0), (1.1e-6, 1.1e-6), (-1.1e-6j, -1.1e-6j)):
        h[..., 1, :] = 0
        h[..., 1, 2] = torch.tensor(value, dtype=h.dtype)
        assert complex(impute(h)[0, 0, 0, 1, 2]) == filled_with


def test_what_stands_in_a_lost_snapshot_has_no_influence(generator: torch.Generator) -> None:
    clean = lossy(generator)
    dirty = torch.where(PATTERNS[:, None, None, :, None], clean, complex_normal(clean.shape, 100.0, generator=generator))
    before = dirty.clone()
    for method in ("hold", "linear", "published"):
        assert torch.equal(impute(dirty, PATTERNS, method=method), impute(clean, PATTERNS, method=method))
    assert torch.equal(dirty, before)


@pytest.mark.parametrize("method", ["hold", "linear", "published"])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_any_leading_axes_layout_and_precision(method: str, lead: tuple[int, ...], generator: torch.Generator) -> None:
    clean = complex_normal((*lead, 3, 2, 16, 5), generator=generator, dtype=torch.complex128)
    h, present = PacketDrop(0.5)(clean, generator=generator)
    present[..., 7] = True
    h[..., 7, :] = clean[..., 7, :]
    filled = impute(h, present, method=method)
    assert filled.dtype == h.dtype and filled.shape == h.shape
    assert torch.equal(impute(h.mT.contiguous().mT, present, method=method), filled)
    assert torch.equal(impute(h.conj(), present, method=method), filled.conj())
    kept = present[..., None, None, :, None].expand_as(h)
    assert torch.equal(filled[kept], h[kept])


def test_a_history_without_gaps_is_returned_as_it_is(generator: torch.Generator) -> None:
    h = complex_normal((2, 3, 1, 4, 6), generator=generator)
    assert impute(h) is h
    assert impute(h, torch.ones(2, 4, dtype=torch.bool), method="linear") is h


def test_gradients_pass_through_what_was_repeated() -> None:
    h = torch.ones(1, 1, 1, 3, 2, dtype=torch.complex128, requires_grad=True)
    impute(h, torch.tensor([[True, False, False]])).real.sum().backward()
    assert h.grad is not None
    assert h.grad[0, 0, 0, :, 0].real.tolist() == [3.0, 0.0, 0.0]


def test_bad_input(generator: torch.Generator) -> None:
    h = complex_normal((3, 2, 1, 4, 5), generator=generator)
    gone, _ = PacketDrop(1.0)(h, generator=generator)
    gone[0] = h[0]
    for method in ("hold", "linear", "published"):
        for present in (None, gone.abs().amax(dim=(1, 2, 4)) > 0):
            with pytest.raises(InvalidValueError, match="history has 2 samples without any snapshot that arrived"):
                impute(gone, present, method=method)
    with pytest.raises(UnknownNameError, match="method='holt' is unknown; did you mean 'hold'"):
        impute(h, method="holt")
    with pytest.raises(ShapeError, match=r"present has shape \(4,\); it must be \(\*batch, num_history\) = \(3, 4\)"):
        impute(h, torch.ones(4, dtype=torch.bool))
    with pytest.raises(InvalidTypeError, match="present must be a bool tensor, got torch.float32"):
        impute(h, torch.ones(3, 4))
    with pytest.raises(InvalidTypeError, match="present must be a bool tensor, got list"):
        impute(h, [True] * 4)
    with pytest.raises(ShapeError, match="history has shape"):
        impute(h[0, 0, 0])
    h[0, 0, 0, 0, 0] = math.inf
    with pytest.raises(InvalidValueError, match="history holds 1 NaN or infinite"):
        impute(h)
