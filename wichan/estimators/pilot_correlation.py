r"""The textbook way to channel conditions: correlations of least-squares pilots over lags, for any pattern of pilots.

Two pilots a lag apart have :math:`E[x_1 x_2^*] = P \rho` and powers :math:`P + \mathrm{no}`: noise is taken off the powers
only. :math:`\rho` is :math:`J_0(2\pi f_D \Delta t)` over time and, in magnitude,
:math:`1/\sqrt{1 + (2\pi\Delta f\,\sigma)^2} \approx 1 - (2\pi\Delta f\,\sigma)^2/2` over frequency for an exponential delay
profile; the magnitude does not depend on the mean delay, that is, on the receiver's timing. The correlations of many lags are
combined by Fisher's :math:`\operatorname{artanh}\rho`, whose variance is one over the number of pairs whatever :math:`\rho` is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.errors import InvalidValueError
from wichan.estimators.pilot_lattice import PilotTables
from wichan.estimators.pilot_likelihood import jakes_correlation, power_of
from wichan.estimators.pilot_points import divided_differences

_ORDER = 3  # of the differences that show the noise
_MOST_LAGS = 64  # neighbours that a pilot is compared with
_CLEAREST = 0.99  # correlations above are not told apart: Fisher's variable runs to infinity at 1
_CANDIDATES = 128


@dataclass
class _Pairs:
    """Pairs of positions on an axis, and which of the distinct lags each has."""

    first: torch.Tensor
    second: torch.Tensor
    lag: torch.Tensor


def _pairs_of(positions: list[torch.Tensor], reach: float) -> tuple[list[_Pairs], torch.Tensor]:
    """All pairs at most a share ``reach`` of the positions apart, one `_Pairs` per antenna, and the distinct lags."""
    pairs, gaps = [], []
    for known in positions:
        most = min(max(1, int(reach * known.numel())), _MOST_LAGS)
        index = torch.arange(known.numel(), device=known.device)
        first, second = torch.nonzero((index[None] > index[:, None]) & (index[None] <= index[:, None] + most)).unbind(1)
        pairs.append(_Pairs(first, second, first))
        gaps.append(known[second] - known[first])
    lags, number = torch.cat(gaps).mul(1e6).round().unique(return_inverse=True)
    for pair, mine in zip(pairs, number.split([len(gap) for gap in gaps]), strict=True):
        pair.lag = mine
    return pairs, lags / 1e6


def lag_correlation(tables: PilotTables, y: torch.Tensor, no: torch.Tensor, axis: str) -> tuple[torch.Tensor, ...]:
    """Correlation of the pilots over lags along ``axis``, averaged over antennas and along the other axis.

    Args:
        tables: the pilots.
        y: received grids, complex, (B, num_rx_ant, T, F).
        no: float64, (B,).
        axis: "time" (all lags) or "frequency" (up to a third of the comb).

    Returns:
        lags (L,) in symbols or subcarriers; correlation coefficient, complex (B, L), and the number of pairs (L,).
    """
    along = -2 if axis == "time" else -1
    antennas = tables.antennas()
    pairs, lags = _pairs_of([getattr(table, axis) for table in antennas], 1.0 if axis == "time" else 1 / 3)
    total = torch.zeros(y.shape[0], len(lags), dtype=torch.complex128, device=y.device)
    power, count = total.real.clone(), torch.zeros(len(lags), dtype=torch.float64, device=y.device)
    for table, pair, (x, gain) in zip(antennas, pairs, tables(y.to(torch.complex128)), strict=True):
        both = table.filled.index_select(along, pair.first) & table.filled.index_select(along, pair.second)
        first, second = (x.index_select(along, index) * both for index in (pair.first, pair.second))
        over = (1, 2 if axis == "frequency" else 3)
        number = both.sum(dim=0 if axis == "frequency" else 1).double()
        noise = no[:, None] * gain.mean() * number * x.shape[1]
        total.index_add_(1, pair.lag, (second * first.conj()).sum(dim=over))
        power.index_add_(1, pair.lag, (power_of(first) + power_of(second)).sum(dim=over) / 2 - noise)
        count.index_add_(0, pair.lag, number * x.shape[1])
    seen = count > 0
    floor = 0.05 * no[:, None] * count[seen] + 1e-300
    return lags[seen], total[:, seen] / torch.maximum(power[:, seen], floor), count[seen]


def _nearest(rho: torch.Tensor, model: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Index (B,) of the model (M, L) nearest to correlations (B, L) in Fisher's variable."""
    seen, expected = (value.clamp(-_CLEAREST, _CLEAREST).atanh() for value in (rho, model))
    # |a - b|^2 without a, which is common to all models.
    return ((expected.square() * count).sum(dim=1) - 2 * (seen * count) @ expected.mT).argmin(dim=1)


def correlation_doppler(tables: PilotTables, y: torch.Tensor, no: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """Maximum Doppler [Hz], float64 (B,): J0 inverted over all lags of the pilot symbols.

    Within limits below 0.61 / (smallest lag) it is the first branch of J0, and unambiguous.
    """
    lags, rho, count = lag_correlation(tables, y, no, "time")
    if not len(lags):
        raise InvalidValueError("obs has no subcarrier with pilots in two symbols; give fallback, or method='likelihood'")
    grid = torch.linspace(*limits, _CANDIDATES, dtype=torch.float64, device=y.device)
    return grid[_nearest(rho.real, jakes_correlation(grid, lags * tables.obs.grid.symbol_duration), count)]


def spread_candidates(limits: tuple[float, float]) -> torch.Tensor:
    """Delay spreads to compare with [s], float64, geometric where the lower limit is above 0."""
    low, high = max(limits[0], 1e-3 * limits[1]), limits[1]
    return torch.logspace(math.log10(low), math.log10(high), _CANDIDATES, dtype=torch.float64)


def correlation_spread(tables: PilotTables, y: torch.Tensor, no: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """RMS delay spread [s], float64 (B,): correlation magnitudes over frequency against those of exponential profiles."""
    lags, rho, count = lag_correlation(tables, y, no, "frequency")
    grid = spread_candidates(limits).to(y.device)
    width = 2 * math.pi * lags * tables.obs.grid.subcarrier_spacing
    return grid[_nearest(rho.abs(), (1 + (grid[:, None] * width).square()).rsqrt(), count)]


def difference_noise(tables: PilotTables, y: torch.Tensor) -> torch.Tensor:
    """Noise variance of a received element, float64 (B,), from third differences of pilots that are neighbours in frequency.

    Extrapolating the correlation from lags 1, 2 and 3 to lag 0, with a cubic, gives the channel's power without the noise; what
    is missing there to the measured power is the mean square of the third difference over 20. A path at delay tau leaks
    (2 sin(pi step spacing tau))^6 / 20 of its power into it: -48 dB for a delay spread of 300 ns and pilots 45 kHz apart.

    Raises:
        InvalidValueError: fewer than 4 pilots in every symbol.
    """
    energy = torch.zeros(y.shape[0], dtype=torch.float64, device=y.device)
    weight = energy.new_zeros(())
    for table, (x, gain) in zip(tables.antennas(), tables(y.to(torch.complex128)), strict=True):
        gains = gain.new_zeros(table.filled.numel()).index_copy(0, table.slot, gain).view(table.filled.shape)
        for row, filled in enumerate(table.filled):
            coefficients = divided_differences(table.frequency[filled].cpu(), _ORDER).to(y.device)
            if not len(coefficients):
                continue
            coefficients = coefficients / torch.linalg.vector_norm(coefficients, dim=1, keepdim=True)
            windows = x[:, :, row, filled].unfold(-1, _ORDER + 1, 1)
            energy += power_of((windows * coefficients).sum(dim=-1)).sum(dim=(1, 2))
            weight += x.shape[1] * (gains[row, filled].unfold(0, _ORDER + 1, 1) * coefficients.square()).sum()
    if not float(weight):
        raise InvalidValueError(f"no=None needs {_ORDER + 1} pilots in a symbol to see the noise; obs has fewer, so give no")
    return energy / weight
