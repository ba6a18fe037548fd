r"""Correlation over frequency, time and antennas, of channels and of covariances.

.. math:: \rho(\Delta) = \frac{E[h_{k+\Delta}\, h_k^*]}{\sqrt{E|h_{k+\Delta}|^2\; E|h_k|^2}}

The mean runs over all pairs at that distance and over all axes that are not kept. The energies are those of the same pairs,
so that \|rho\| is at most 1 for every sample (Cauchy and Schwarz). All sums run in double precision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.analysis.sources import axis_columns, check_channel, grid_of, is_covariance, lattice, parts_of, rows_of, step_of
from wichan.errors import InvalidValueError, check_choice, check_int, check_real
from wichan.grid import OFDMGrid


class Correlation(NamedTuple):
    r"""A correlation function.

    Attributes:
        value: complex128, (\*kept, num_lags), 1 at lag 0.
        lag: float64 [Hz] or [s], (num_lags,), from 0 upwards.
    """

    value: torch.Tensor
    lag: torch.Tensor


class LagProducts(NamedTuple):
    """Sums over all pairs at a distance: products and the energies of both ends, each (..., num_lags)."""

    product: torch.Tensor
    upper: torch.Tensor
    lower: torch.Tensor

    def correlation(self, no: float = 0.0) -> torch.Tensor:
        """Normalise; ``no`` is noise power in every element, as a share of which the energies are lowered."""
        count = torch.arange(self.product.shape[-1], 0, -1, dtype=torch.float64, device=self.product.device)
        upper, lower = (energy - no * count for energy in (self.upper, self.lower))
        # Noise is white: it is in lag 0 only, where the product is the energy itself.
        product = torch.cat([lower[..., :1].to(self.product.dtype), self.product[..., 1:]], dim=-1)
        energy = upper * lower
        return product / torch.where(energy > 0, energy, torch.ones_like(energy)).sqrt()

    def mean(self, dim: int = 0) -> LagProducts:
        """Average over an axis before normalising."""
        return LagProducts(*(part.mean(dim) for part in self))


def lag_products(source: Any, axis: str, batch_dims: int = 0) -> LagProducts:
    r"""Products of all pairs along ``"time"`` or ``"frequency"``.

    Args:
        source: channels, complex, (\*, num_times, num_subcarriers), or a `ChannelCovariance` (its batch axis is kept).
        axis: which of the two.
        batch_dims: leading axes of a channel to keep; all others are averaged over.

    Cost: one FFT of twice the length a row.
    """
    if is_covariance(source):
        batch = source.batch_shape
        parts = [
            _products(c.mT.expand(*batch, -1, -1).reshape(math.prod(batch), -1, c.shape[-2])) for c in _columns(source, axis)
        ]
        totals = (torch.stack(group).sum(0) for group in zip(*parts, strict=True))
        return LagProducts(*(t.reshape(*batch, -1) for t in totals))
    h = check_channel(source, 2 if axis == "time" else 1)
    kept = h.shape[:batch_dims]
    rows = rows_of(h.transpose(-1, -2) if axis == "time" else h, batch_dims)
    sums: Any = (0.0, 0.0, 0.0)
    for part in parts_of(rows, 2 * rows.shape[-1]):
        sums = tuple(total + new for total, new in zip(sums, _products(part), strict=True))
    return LagProducts(*((total / rows.shape[1]).reshape(*kept, -1) for total in sums))


def _columns(covariance: Any, axis: str) -> list[torch.Tensor]:
    return axis_columns(covariance, check_choice("axis", axis, ("time", "frequency")))


def _products(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over rows, (kept, rows, n) -> three times (kept, n)."""
    n = rows.shape[-1]
    spectrum = torch.fft.fft(rows.to(torch.complex128), n=2 * n, dim=-1)
    product = torch.fft.ifft(torch.view_as_real(spectrum).square().sum(-1).sum(1), dim=-1)[..., :n]
    power = torch.view_as_real(rows.to(torch.complex128).resolve_conj()).square().sum(-1).sum(1)
    lower = power.cumsum(-1).flip(-1)  # all but the last D elements
    upper = power.flip(-1).cumsum(-1).flip(-1)  # all but the first D
    return product, upper, lower


def frequency_correlation(
    source: Any,
    *,
    grid: OFDMGrid | None = None,
    frequencies: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> Correlation:
    r"""Correlation over frequency, :math:`\rho(\Delta f)`: for paths of power P at delays tau,
    :math:`\sum P e^{-j 2\pi \Delta f \tau} / \sum P`.

    Args:
        source: channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers) (any leading axes), or a
            `ChannelCovariance`; the conditions of a batched one are kept.
        grid: the OFDM lattice (a covariance that a model computed knows its own).
        frequencies: [Hz], evenly spaced, (num_subcarriers,), instead of a grid.
        batch_dims: leading axes of a channel to keep; all others are averaged over.
        no: noise variance of every element, taken off the energies (for estimated channels).

    Returns:
        `Correlation` with lags in Hz.

    Raises:
        InvalidValueError, ShapeError: frequencies that are missing, uneven, or of another number.

    Example:
        >>> grid = OFDMGrid(1, 64, 15e3)
        >>> h = torch.polar(torch.ones(1, 64), (-2 * torch.pi * grid.frequencies * 1e-6).float()[None])  # one path at 1 us
        >>> value, lag = frequency_correlation(h, grid=grid)
        >>> delay = -value[1].angle() / (2 * torch.pi * lag[1])
        >>> [round(float(v), 4) for v in (lag[1], value[1].abs(), delay * 1e6)]
        [15000.0, 1.0, 1.0]
    """
    points = lattice("frequencies", frequencies, grid_of(source, grid), _size(source, -1))
    value = lag_products(source, "frequency", batch_dims).correlation(check_real("no", no, minimum=0.0))
    return Correlation(value, points - points[0])


def time_correlation(
    source: Any,
    *,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> Correlation:
    r"""Correlation over time, :math:`\rho(\Delta t)`: for paths of power P and Doppler shift nu,
    :math:`\sum P e^{+j 2\pi \nu \Delta t} / \sum P`; for Jakes fading :math:`J_0(2\pi f_D \Delta t)` [Clarke1968]_.

    Args and Returns as in `frequency_correlation`, with ``times`` [s], (num_times,), and lags in s.
    """
    points = lattice("times", times, grid_of(source, grid), _size(source, -2))
    value = lag_products(source, "time", batch_dims).correlation(check_real("no", no, minimum=0.0))
    return Correlation(value, points - points[0])


def _size(source: Any, axis: int) -> int:
    if is_covariance(source):
        return int(source.sizes[axis])
    return int(check_channel(source, -axis).shape[axis])


def neighbour_correlation(
    source: Any, axis: str, points: torch.Tensor, batch_dims: int, no: float
) -> tuple[torch.Tensor, float]:
    """Correlation at the smallest lag, complex128 (*kept,), and that lag."""
    step = step_of("frequencies" if axis == "frequency" else "times", points)
    return lag_products(source, axis, batch_dims).correlation(no)[..., 1], step


def spatial_correlation(source: Any, *, side: str = "rx", batch_dims: int = 0, normalize: bool = True) -> torch.Tensor:
    r"""Correlation between antennas, :math:`R_{ab} = E[h_a h_b^*] / \sqrt{E|h_a|^2 E|h_b|^2}`.

    Args:
        source: channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers), or a
            `ChannelCovariance`; conditions of a batched one are kept.
        side: ``"rx"``, ``"tx"`` (the other end's antennas are averaged over), or ``"both"``: all pairs, index
            ``rx * num_tx_ant + tx``.
        batch_dims: leading batch axes of a channel to keep; all others are averaged over.
        normalize: make the diagonal 1; else return the covariance.

    Returns:
        complex128, (\*kept, n, n), Hermitian.

    Cost: 8 n^2 FLOP for each element of the other axes.
    """
    check_choice("side", side, ("rx", "tx", "both"))
    if is_covariance(source):
        matrix = sum(c @ c.mH for c in axis_columns(source, "space"))
        matrix = torch.as_tensor(matrix).expand(*source.batch_shape, -1, -1)
        rx, tx = source.num_rx_ant, source.num_tx_ant
        matrix = matrix.reshape(*matrix.shape[:-2], rx, tx, rx, tx)
        if side == "both":
            matrix = matrix.flatten(-4, -3).flatten(-2, -1)
        else:
            matrix = torch.einsum("...atbt->...ab" if side == "rx" else "...rarb->...ab", matrix) / (tx if side == "rx" else rx)
    else:
        matrix = _sample_space(source, side, batch_dims)
    if not normalize:
        return matrix
    power = matrix.diagonal(dim1=-2, dim2=-1).real
    scale = torch.where(power > 0, power, torch.ones_like(power)).rsqrt()
    return matrix * scale[..., :, None] * scale[..., None, :]


def _sample_space(source: Any, side: str, batch_dims: int) -> torch.Tensor:
    h = check_channel(source, 4)
    check_int("batch_dims", batch_dims, minimum=0, maximum=h.dim() - 4)
    kept, pairs = h.shape[:batch_dims], h.flatten(-4, -3)
    if side == "rx":
        pairs = h
    elif side == "tx":
        pairs = h.transpose(-3, -4)
    axis = -3 if side == "both" else -4
    columns = pairs.movedim(axis, batch_dims).reshape(math.prod(kept), pairs.shape[axis], -1)
    total: Any = 0.0
    for part in columns.split(max((32 << 20) // (16 * columns.shape[0] * columns.shape[1]), 1), dim=-1):
        wide = part.to(torch.complex128)
        total = total + wide @ wide.mH
    return (total / columns.shape[-1]).reshape(*kept, *total.shape[-2:])


def crossing(value: torch.Tensor, lag: torch.Tensor, level: float) -> torch.Tensor:
    r"""First lag at which \|value\| falls to ``level``, straight line between lags; infinity where it never does."""
    if not 0 < check_real("level", level) < 1:
        raise InvalidValueError(f"level={level:g} must lie between 0 and 1")
    size = value.abs()
    below = size <= level
    first = below.to(torch.int8).argmax(-1).clamp(min=1)
    high = size.gather(-1, first.unsqueeze(-1) - 1).squeeze(-1)
    low = size.gather(-1, first.unsqueeze(-1)).squeeze(-1)
    share = ((high - level) / (high - low).clamp(min=1e-300)).clamp(0.0, 1.0)
    lag = lag.to(value.device)
    found = lag[first - 1] + share * (lag[first] - lag[first - 1])
    return torch.where(below.any(-1), found, torch.full_like(found, math.inf))
