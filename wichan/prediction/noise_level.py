"""How noisy a history is, from delays at which no channel arrives."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from wichan.errors import ShapeError, check_finite, check_tensor

_FIRST = 0.4  # of the delay window; multipath of a well designed grid ends before it
_MAX_TAPS = 32


def noise_variance(history: Any) -> torch.Tensor:
    r"""Estimate the variance of white noise on a history.

    Subcarriers :math:`\Delta f` apart see delays in a window of :math:`1 / \Delta f`, of which multipath fills the beginning
    only (with 30 kHz: up to 9 of 33.3 us). With a window w of low side lobes, :math:`\sum w_k^2 = 1`, the taps

    .. math:: z_m = \sum_k w_k h_k e^{j 2 \pi k m / K}, \qquad 0.4 K \le m < K - g ,

    hold noise alone (g guards the main lobe of a channel without delay), and :math:`|z_m|^2` has the noise variance as its
    mean. Per snapshot the energies are averaged over antennas and the median over taps, corrected for its bias (a Gamma law),
    is taken; then the median over the snapshots that are not silent. Medians make single strong taps, a burst on a minority of
    the slots, and slots that were filled in by interpolation harmless; slots that repeat others count as what they are.

    Args:
        history: complex, (\*batch, num_rx_ant, num_tx_ant, num_snapshots, num_subcarriers).

    Returns:
        real, (\*batch,), at least 0. Within 3 % for 512 rows of 300 subcarriers at 0 to 25 dB; a clean history gives the
        side lobes of the window, below 1e-8 of its power in single precision. With fewer than 64 subcarriers the window is a
        Hann window, and what leaks from the channel makes the answer too large (by -50 dB of the channel's power or less; more
        below 16 subcarriers).

    Raises:
        InvalidTypeError, ShapeError: no complex tensor, or fewer than 4 subcarriers. InvalidValueError: NaN.

    Cost: 8 K min(32, K / 2) FLOP a row of K subcarriers: 0.04 GFLOP for 32 antennas, 16 snapshots, 300 subcarriers.
    """
    check_tensor("history", history, kind="complex")
    if history.dim() < 4 or not history.numel():
        want = "(*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers)"
        raise ShapeError(f"history has shape {tuple(history.shape)}; it must be {want}")
    subcarriers = history.shape[-1]
    if subcarriers < 4:
        raise ShapeError(f"history has {subcarriers} subcarriers; the noise level shows in the delays of at least 4")
    check_finite("history", history)
    taps = history.detach() @ _late_taps(subcarriers).to(history)
    antennas = history.shape[-4] * history.shape[-3]
    energy = torch.view_as_real(taps).square().sum(-1).mean((-4, -3))  # (*batch, snapshots, taps)
    level = energy.quantile(0.5, dim=-1) / _gamma_median(antennas)
    silent = level == 0
    # A silent slot was lost, unless all are: then the history is clean.
    return level.masked_fill(silent, math.nan).nanquantile(0.5, dim=-1).nan_to_num(0.0)


@functools.lru_cache(maxsize=16)
def _late_taps(subcarriers: int) -> torch.Tensor:
    """Windowed inverse DFT to at most 32 late delays, complex128 (num_subcarriers, num_taps)."""
    if subcarriers >= 64:  # Blackman-Harris: side lobes 92 dB below, main lobe 4 taps to either side
        weights, guard = [0.35875, -0.48829, 0.14128, -0.01168], 5
    else:
        weights, guard = [0.5, -0.5], 2
    index = torch.arange(subcarriers, dtype=torch.float64)
    centred = (index + 0.5) / subcarriers
    window = sum(weight * torch.cos(2 * math.pi * order * centred) for order, weight in enumerate(weights))
    assert isinstance(window, torch.Tensor)
    window = window / window.square().sum().sqrt()
    first = math.ceil(_FIRST * subcarriers)
    last = max(subcarriers - guard - 1, first)
    # A main lobe apart, taps are as good as independent, so a stride loses next to nothing.
    taps = torch.linspace(first, last, min(_MAX_TAPS, last - first + 1), dtype=torch.float64).round()
    return window.unsqueeze(-1) * torch.polar(
        torch.ones(1, dtype=torch.float64), 2 * math.pi * torch.outer(index, taps) / subcarriers
    )


def _gamma_median(shape: int) -> float:
    """Median over mean of a Gamma law of that shape, to 0.1 % (the expansion of Ramanujan's theta function)."""
    return 1 - 1 / (3 * shape) + 8 / (405 * shape**2) + 184 / (25515 * shape**3)
