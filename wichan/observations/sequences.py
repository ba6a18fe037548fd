"""Pseudo-random pilot symbols: the Gold sequence of 5G NR and the QPSK symbols made from it."""

from __future__ import annotations

import functools
import math

import torch

from wichan.errors import check_int

_WORD = 28  # the feedback taps of both registers lie in the lowest 4 of 31 bits, so 28 new bits depend on old bits only
_MASK = (1 << _WORD) - 1
_OFFSET = 1600  # N_C of TS 38.211 clause 5.2.1


@functools.lru_cache(maxsize=512)
def _gold_bits(c_init: int, length: int) -> torch.Tensor:
    first, second, bits, have = 1, c_init, 0, 0
    while have < _OFFSET + length:
        bits |= ((first ^ second) & _MASK) << have
        have += _WORD
        new_first = (first ^ (first >> 3)) & _MASK
        new_second = (second ^ (second >> 1) ^ (second >> 2) ^ (second >> 3)) & _MASK
        first = (first >> _WORD) | (new_first << (31 - _WORD))
        second = (second >> _WORD) | (new_second << (31 - _WORD))
    raw = ((bits >> _OFFSET) & ((1 << length) - 1)).to_bytes((length + 7) // 8, "little")
    packed = torch.tensor(list(raw), dtype=torch.uint8)
    return ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:length]


def gold_sequence(c_init: int, length: int) -> torch.Tensor:
    r"""Return the length-31 Gold sequence of 5G NR.

    .. math:: c(n) = x_1(n + 1600) + x_2(n + 1600) \bmod 2

    Args:
        c_init: initial state of the second register, 0 to 2^31 - 1.
        length: number of bits, at least 1.

    Returns:
        uint8 of zeros and ones, (length,).

    Raises:
        InvalidValueError: a state or length outside its range.

    Source: 3GPP TS 38.211 clause 5.2.1.
    """
    check_int("c_init", c_init, minimum=0, maximum=2**31 - 1)
    check_int("length", length, minimum=1)
    return _gold_bits(int(c_init), int(length)).clone()


def qpsk_sequence(c_init: int, length: int) -> torch.Tensor:
    r"""Return unit-modulus QPSK symbols :math:`r(m) = \big(1 - 2c(2m) + j(1 - 2c(2m+1))\big)/\sqrt 2`.

    Args:
        c_init: initial state of the Gold sequence, 0 to 2^31 - 1.
        length: number of symbols, at least 1.

    Returns:
        complex64, (length,).

    Source: 3GPP TS 38.211 clauses 5.2.1 and 6.4.1.1.1.1.
    """
    check_int("length", length, minimum=1)
    signs = (1 - 2 * gold_sequence(c_init, 2 * int(length)).to(torch.float32)) * math.sqrt(0.5)
    return torch.view_as_complex(signs.reshape(-1, 2))


def dmrs_seed(symbol: int, *, slot: int = 0, identity: int = 0, scid: int = 0, symbols_per_slot: int = 14) -> int:
    """Initial state of the NR demodulation reference signal of one OFDM symbol (TS 38.211 clause 6.4.1.1.1.1)."""
    return ((symbols_per_slot * slot + symbol + 1) * (2 * identity + 1) * 2**17 + 2 * identity + scid) % 2**31


def default_values(num_ofdm_symbols: int, num_subcarriers: int) -> torch.Tensor:
    """Return the fixed pilot symbols of comb, block and Kronecker patterns.

    Element (t, k) is symbol k of the QPSK sequence with seed ``2^17 (t + 1) mod 2^31``: the NR reference signal of slot 0 and
    identity 0. The value of a resource element therefore does not depend on which others carry pilots.

    Returns:
        complex64 of modulus 1, (num_ofdm_symbols, num_subcarriers).
    """
    return torch.stack([qpsk_sequence(dmrs_seed(t), num_subcarriers) for t in range(num_ofdm_symbols)])
