"""Comb, block and Kronecker patterns against plain loops; every bad argument gets one clear line."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.observations import (
    OFDMGrid,
    PilotPattern,
    block_pattern,
    comb_pattern,
    gold_sequence,
    kronecker_pattern,
    qpsk_sequence,
)

GRID = OFDMGrid(14, 24, 15e3)


def gold_by_loop(c_init: int, length: int) -> list[int]:
    """TS 38.211 clause 5.2.1, bit by bit."""
    x1 = [1] + [0] * 30
    x2 = [(c_init >> i) & 1 for i in range(31)]
    for n in range(1600 + length):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    return [(x1[n + 1600] + x2[n + 1600]) % 2 for n in range(length)]


@pytest.mark.parametrize("c_init", [0, 1, 2**17, 123456789, 2**31 - 1])
@pytest.mark.parametrize("length", [1, 7, 28, 300])
def test_gold_sequence_equals_bitwise_loop(c_init: int, length: int) -> None:
    assert gold_sequence(c_init, length).tolist() == gold_by_loop(c_init, length)


def test_gold_sequence_result_is_the_callers_own() -> None:
    gold_sequence(5, 10).zero_()
    assert gold_sequence(5, 10).tolist() == gold_by_loop(5, 10)


def test_qpsk_symbols() -> None:
    bits = np.array(gold_by_loop(77, 40))
    want = ((1 - 2 * bits[::2]) + 1j * (1 - 2 * bits[1::2])) / np.sqrt(2)
    np.testing.assert_allclose(qpsk_sequence(77, 20).numpy(), want, rtol=1e-6)


@given(st.integers(1, 24), st.data())
def test_comb_equals_loop(step: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, step - 1))
    symbols = data.draw(st.lists(st.integers(0, 13), min_size=1, max_size=5, unique=True))
    pattern = comb_pattern(GRID, symbols, step, subcarrier_offset=offset)
    for t in range(14):
        for k in range(24):
            sent = t in symbols and k >= offset and (k - offset) % step == 0
            assert (abs(pattern.pilots[0, t, k].item()) > 0) == sent


def test_default_values_have_modulus_one_and_do_not_depend_on_the_pattern() -> None:
    sparse, full = comb_pattern(GRID, (2, 11), 3).values, comb_pattern(GRID).values
    sent = sparse != 0
    assert torch.equal(sparse[sent], full[sent])
    # The fixed sequence is documented: symbol t uses the seed 2^17 (t + 1).
    assert torch.equal(full[0, 11], qpsk_sequence(12 * 2**17, 24))
    torch.testing.assert_close(full.abs(), torch.ones(1, 14, 24))


def test_boost_is_power() -> None:
    pattern = comb_pattern(GRID, (0,), 2, boost_db=3.0)
    torch.testing.assert_close(pattern.values.abs().square().max().item(), 10**0.3, rtol=1e-6, atol=0)
    assert pattern.boost == pytest.approx(10**0.3)


def test_block_antennas_take_turns_in_time() -> None:
    pattern = block_pattern(GRID, (1, 4, 8, 12), num_tx_ant=2)
    sending = (pattern.pilots != 0).all(dim=-1)
    assert [row.nonzero().flatten().tolist() for row in sending] == [[1, 8], [4, 12]]


def test_kronecker_antennas_share_the_comb_in_frequency() -> None:
    pattern = kronecker_pattern(GRID, (2, 11), 3, 2, subcarrier_offset=1)
    active = pattern.pilots != 0
    assert int(active.sum(dim=0).max()) == 1, "no element carries two antennas"
    for antenna in range(3):
        teeth = [k for i, k in enumerate(range(1, 24, 2)) if i % 3 == antenna]
        assert active[antenna, 2].nonzero().flatten().tolist() == teeth
    torch.testing.assert_close(pattern.pilots[active].abs(), torch.ones(int(active.sum())))


def test_own_values() -> None:
    values = torch.arange(1.0, 17.0).reshape(2, 8) + 1j
    pattern = comb_pattern(GRID, (3, 9), 3, values=values)
    assert torch.equal(pattern.pilots[0, [3, 9]][:, ::3], values)
    assert torch.equal(comb_pattern(GRID, (3,), 3, values=1j).pilots[0, 3, ::3], torch.full((8,), 1j))


def test_pattern_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        comb_pattern(GRID).name = "other"  # type: ignore[misc]


BAD = [
    (lambda: comb_pattern(GRID, ()), InvalidValueError, "symbols is empty"),
    (lambda: comb_pattern(GRID, (2, 14)), InvalidValueError, "symbols holds 14, outside the grid"),
    (lambda: comb_pattern(GRID, (-1,)), InvalidValueError, "symbols holds -1, outside the grid"),
    (lambda: comb_pattern(GRID, (2, 2)), InvalidValueError, "symbols holds 2 more than once"),
    (lambda: comb_pattern(GRID, (2.5,)), InvalidTypeError, "symbols=2.5 must be an integer"),
    (lambda: comb_pattern(GRID, 3), InvalidTypeError, "symbols must be a sequence"),
    (lambda: comb_pattern(GRID, (1,), 25), InvalidValueError, "subcarrier_step=25 is larger than the grid"),
    (lambda: comb_pattern(GRID, (1,), 0), InvalidValueError, "subcarrier_step=0 must be at least 1"),
    (lambda: comb_pattern(GRID, (1,), 3, subcarrier_offset=3), InvalidValueError, "subcarrier_offset=3 must be below"),
    (lambda: comb_pattern(GRID, (1,), boost_db=float("nan")), InvalidValueError, "boost_db=nan must be finite"),
    (lambda: comb_pattern(GRID, (1,), 3, values=torch.ones(2, 2)), ShapeError, r"values has shape \(2, 2\)"),
    (lambda: comb_pattern(GRID, (1,), values=0), InvalidValueError, "values holds a zero"),
    (lambda: comb_pattern(GRID, (1,), values="x"), InvalidTypeError, "values must be complex numbers"),
    (lambda: comb_pattern((14, 24), (1,)), InvalidTypeError, "grid must be an OFDMGrid"),  # type: ignore[arg-type]
    (lambda: block_pattern(GRID, (1,), num_tx_ant=2), InvalidValueError, "num_tx_ant=2 needs as many pilot symbols"),
    (lambda: kronecker_pattern(GRID, (1,), 9, 3), InvalidValueError, "num_tx_ant=9 needs as many pilot subcarriers"),
    (lambda: PilotPattern("x", torch.ones(1, 2, 3)), InvalidTypeError, "pilots has dtype torch.float32"),
    (lambda: PilotPattern("x", torch.ones(2, 3) + 0j), ShapeError, r"pilots has shape \(2, 3\)"),
    (lambda: PilotPattern("x", torch.zeros(1, 2, 3) + 0j), InvalidValueError, "pilots of transmit antenna 0 are all zero"),
    (lambda: PilotPattern("x", torch.full((1, 2, 3), torch.nan) + 0j), InvalidValueError, "pilots holds 6 NaN"),
    (lambda: PilotPattern("x", torch.ones(1, 2, 3) + 0j, boost=0.0), InvalidValueError, "boost=0 must be greater than 0"),
    (lambda: PilotPattern("x", torch.ones(1, 2, 3) + 0j, boost=-2.0), InvalidValueError, "boost=-2 must be greater than 0"),
    (lambda: PilotPattern("x", torch.ones(1, 2, 3) + 0j, groups=torch.ones(2, 3)), InvalidTypeError, "groups must be an int64"),
    (lambda: PilotPattern("x", torch.ones(1, 2, 3) + 0j, groups=torch.ones(2, 2).long()), ShapeError, "groups has shape"),
    (
        lambda: PilotPattern("x", torch.ones(1, 2, 3) + 0j, groups=torch.full((2, 3), -1)),
        InvalidValueError,
        "groups must be at least 0 exactly where",
    ),
    (lambda: gold_sequence(2**31, 4), InvalidValueError, "c_init=2147483648 must be at most"),
    (lambda: gold_sequence(1, 0), InvalidValueError, "length=0 must be at least 1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.sionna
def test_kronecker_has_sionnas_places_and_energy() -> None:
    """Sionna's normalised Kronecker pattern is ours with 10 log10(num_tx_ant) dB of boost."""
    pytest.importorskip("sionna")
    from sionna.phy.ofdm import ResourceGrid

    streams = 4
    theirs = ResourceGrid(
        14, 24, 15e3, num_tx=1, num_streams_per_tx=streams, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11]
    ).pilot_pattern
    power = theirs.pilots.abs().square().reshape(streams, 2, 24).cpu()
    ours = kronecker_pattern(GRID, (2, 11), streams, boost_db=10 * np.log10(streams)).values[:, [2, 11]].abs().square()
    torch.testing.assert_close(ours, power, rtol=1e-5, atol=1e-6)
