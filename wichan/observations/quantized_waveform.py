"""OFDM pilots behind coarse converters: what a receiver with few bits sees of a pilot symbol, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_int
from wichan.observations.ofdm import OFDMPilots
from wichan.observations.quantized import QuantizedPilots

MAX_BYTES = 2**30


def quantized_ofdm(
    pilots: OFDMPilots, num_bits: Any, num_rx_ant: int = 1, *, fft_size: int | None = None, **options: Any
) -> QuantizedPilots:
    r"""Converters that see the time signal of the pilot symbols.

    A converter comes before the receiver's FFT, so it is a time sample that is quantised, and every pilot of the symbol goes
    into every sample:

    .. math:: r_{t,n} = Q\Big(\frac1{\sqrt S}\sum_k e^{+j2\pi (k - \lfloor F/2\rfloor) n/S}
        \sum_a p_a(t,k)\,h_a(t,k) + n_{t,n}\Big),\qquad n = 0\dots S-1

    for each receive antenna and each OFDM symbol t that carries pilots. Its other elements are silent, the cyclic prefix is
    dropped, and the channel stands still during a symbol and is shorter than the prefix (one coefficient a resource
    element). The transform is unitary: ``no`` is the noise variance of a sample and of a resource element alike.

    Args:
        pilots: `OFDMPilots` in the frequency domain; taken as they are now, without a gradient.
        num_bits: as for `QuantizedPilots`; a sequence of ``num_rx_ant`` gives each antenna its resolution.
        num_rx_ant: receive antennas.
        fft_size: samples S in a symbol, at least the number F of subcarriers (the default); more is oversampling.
        options: further arguments of `QuantizedPilots`. ``input_power`` defaults to the power of a sample for uncorrelated
            channel elements, which is the share of elements with pilots times their power.

    Returns:
        `QuantizedPilots` with channels (num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers) and measurements in the
        order antenna, pilot symbol, sample. Its matrix is dense: memory 8 num_rx_ant^2 (pilot symbols) S num_tx_ant T F bytes.

    Raises:
        InvalidTypeError: anything else than `OFDMPilots` in the frequency domain.
        InvalidValueError: an ``fft_size`` below F; a matrix of more than 1 GiB.

    Example:
        >>> from wichan.observations import OFDMGrid
        >>> pilots = OFDMPilots(OFDMGrid(num_ofdm_symbols=2, num_subcarriers=12, subcarrier_spacing=15e3), symbols=(0,))
        >>> quantized_ofdm(pilots, num_bits=1, num_rx_ant=2).matrix().shape
        torch.Size([24, 48])
    """
    if not isinstance(pilots, OFDMPilots) or pilots.domain != "frequency":
        raise InvalidTypeError(f"pilots must be OFDMPilots in the frequency domain, got {type(pilots).__name__}")
    if "channel_shape" in options:
        raise InvalidTypeError("channel_shape is not an argument here: it follows from the grid and the antennas")
    rx = check_int("num_rx_ant", num_rx_ant, minimum=1)
    symbols, subcarriers = pilots.grid.shape
    size = subcarriers if fft_size is None else check_int("fft_size", fft_size, minimum=subcarriers)
    sent = pilots.pilots.detach()
    rows = pilots.pilot_symbols.numel() * size
    shape = (rx, pilots.num_tx_ant, symbols, subcarriers)
    needed = rx * rows * math.prod(shape) * sent.element_size()
    if needed > MAX_BYTES:
        raise InvalidValueError(
            f"num_rx_ant={rx} on a grid of {symbols} x {subcarriers} asks for a matrix of {needed / 2**30:.1f} GiB; "
            f"at most {MAX_BYTES // 2**30} GiB is allowed: take fewer antennas, symbols or subcarriers"
        )
    one = _antenna_matrix(sent, pilots.pilot_symbols, size)
    matrix = torch.block_diag(*[one] * rx)
    if isinstance(num_bits, (list, tuple)) and len(num_bits) == rx:
        num_bits = [bits for bits in num_bits for _ in range(rows)]
    return QuantizedPilots(matrix, num_bits, channel_shape=shape, **options)


def _antenna_matrix(sent: torch.Tensor, pilot_symbols: torch.Tensor, size: int) -> torch.Tensor:
    """Map of one receive antenna, (pilot symbols x samples, num_tx_ant T F)."""
    antennas, symbols, subcarriers = sent.shape
    sample = torch.arange(size, dtype=torch.float64, device=sent.device)
    index = torch.arange(subcarriers, dtype=torch.float64, device=sent.device) - subcarriers // 2
    turn = torch.polar(torch.full((size, subcarriers), size**-0.5, dtype=torch.float64, device=sent.device),
                       2 * math.pi / size * sample[:, None] * index)  # fmt: skip
    matrix = sent.new_zeros(pilot_symbols.numel(), size, antennas, symbols, subcarriers)
    place = torch.arange(pilot_symbols.numel(), device=sent.device)
    # For pilot symbol i: sample n, antenna a, subcarrier k.
    picked = sent[:, pilot_symbols].transpose(0, 1)  # (pilot symbols, num_tx_ant, F)
    matrix[place, :, :, pilot_symbols] = (turn[:, None] * picked[:, None]).to(sent.dtype)
    return matrix.reshape(-1, antennas * symbols * subcarriers)
