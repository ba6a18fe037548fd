"""Doppler statistics: spectrum, mean and RMS Doppler, coherence time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.analysis.correlation import crossing, neighbour_correlation, time_correlation
from wichan.analysis.delays import check_level, spread_of
from wichan.analysis.lines import Lines, check_lines, doppler_lines
from wichan.analysis.sources import (
    check_channel,
    expected_power,
    grid_of,
    is_covariance,
    lattice,
    parts_of,
    rows_of,
    step_of,
    window_of,
)
from wichan.channels.covariance import ChannelCovariance
from wichan.channels.rayleigh import RayleighBlock
from wichan.channels.special import bessel_j0
from wichan.channels.tdl import LOS_COSINE, TDL
from wichan.errors import InvalidValueError, check_int, check_real, check_tensor
from wichan.grid import OFDMGrid


class DopplerSpectrum(NamedTuple):
    r"""Power over Doppler shift.

    Attributes:
        density: float64 [1/Hz], (\*kept, n); times the step of ``doppler`` it sums to E|h|^2.
        doppler: float64 [Hz], (n,), rising, from about -1/2 to 1/2 of the sampling rate.
    """

    density: torch.Tensor
    doppler: torch.Tensor


def doppler_spectrum(
    source: Any,
    *,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    window: str | None = "hann",
    oversampling: int = 4,
    batch_dims: int = 0,
) -> DopplerSpectrum:
    r"""Mean periodogram over time, as a density over Doppler shift.

    .. math:: S(\nu) = \frac{\Delta t}{T}\, E\,\Big|\sum_t w_t h_t e^{-j 2\pi \nu t \Delta t}\Big|^2, \qquad \sum_t w_t^2 = T

    The resolution is that of the observed time: a line is about 2 / (T dt) wide with a Hann window, 1 / (T dt) without.
    Shifts beyond half of the sampling rate 1/dt come back at the other side.

    Args:
        source: channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers), or a
            `ChannelCovariance` (conditions averaged): then what channels of that covariance converge to.
        grid, times: the OFDM lattice, or instants [s] in equal steps, (num_times,).
        window: ``"hann"`` or ``None`` (rectangular).
        oversampling: points for each bin of width 1 / (T dt).
        batch_dims: leading axes of a channel to keep; all others are averaged over.

    Returns:
        `DopplerSpectrum`.

    Raises:
        InvalidValueError: one instant only, or instants that are missing or uneven.

    Example:
        >>> t = torch.arange(64, dtype=torch.float64) * 1e-3
        >>> h = torch.polar(torch.ones(64, 1, dtype=torch.float64), 2 * torch.pi * 125.0 * t[:, None])
        >>> density, doppler = doppler_spectrum(h, times=t)
        >>> float(doppler[density.argmax()]), round(float(density.sum() * (doppler[1] - doppler[0])), 6)
        (125.0, 1.0)
    """
    check_int("oversampling", oversampling, minimum=1)
    count = source.sizes[1] if is_covariance(source) else check_channel(source, 2).shape[-2]
    step = step_of("times", lattice("times", times, grid_of(source, grid), count))
    size = oversampling * count
    weight = window_of(window, count) * math.sqrt(step / count)

    def spectrum(x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fftshift(torch.fft.fft(x * weight.to(x.device), n=size, dim=-1), dim=-1)

    doppler = torch.fft.fftshift(torch.fft.fftfreq(size, d=step, dtype=torch.float64))
    if is_covariance(source):
        return DopplerSpectrum(expected_power(source, time=spectrum).flatten(), doppler)
    rows = rows_of(source.transpose(-1, -2), batch_dims)
    total: Any = 0.0
    for part in parts_of(rows, size):
        total = total + torch.view_as_real(spectrum(part.to(torch.complex128))).square().sum(dim=(1, -1))
    return DopplerSpectrum((total / rows.shape[1]).reshape(*source.shape[:batch_dims], size), doppler)


def jakes_spectrum(doppler: torch.Tensor, max_doppler: Any) -> torch.Tensor:
    r"""Doppler density of Jakes fading, :math:`S(\nu) = 1 / (\pi f_D \sqrt{1 - (\nu/f_D)^2})` for :math:`|\nu| < f_D`, else 0.

    Args:
        doppler: Doppler shifts [Hz], real, any shape.
        max_doppler: :math:`f_D` [Hz], greater than 0, a number or a tensor that broadcasts.

    Returns:
        float64 [1/Hz]; it integrates to 1. Source: [Clarke1968]_.
    """
    check_tensor("doppler", doppler, kind="real")
    top = torch.as_tensor(max_doppler, dtype=torch.float64, device=doppler.device)
    if not bool((torch.isfinite(top) & (top > 0)).all()):
        raise InvalidValueError("max_doppler must be finite and greater than 0")
    inside = 1 - (doppler.to(torch.float64) / top).square()
    safe = torch.where(inside > 0, inside, torch.ones_like(inside))
    return torch.where(inside > 0, 1 / (math.pi * top * safe.sqrt()), torch.zeros_like(inside))


def mean_doppler(
    source: Any,
    dopplers: torch.Tensor | None = None,
    *,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> torch.Tensor:
    """Power-weighted mean Doppler shift [Hz]; arguments as in `rms_doppler_spread`."""
    return _moments(source, dopplers, grid, times, batch_dims, no)[0]


def rms_doppler_spread(
    source: Any,
    dopplers: torch.Tensor | None = None,
    *,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> torch.Tensor:
    r"""RMS Doppler spread [Hz], :math:`\sqrt{\sum P (\nu - \bar\nu)^2 / \sum P}`; for Jakes fading :math:`f_D / \sqrt 2`.

    From channels and covariances it is the curvature of the time correlation at lag 0, from neighbouring instants,
    :math:`\sqrt{-2 \ln|\rho(\Delta t)|} / (2\pi \Delta t)`, which is right to relative order
    :math:`(2\pi \Delta t\, f_D)^2` and needs ``no``, the noise variance of every element, where there is noise.

    Args:
        source: powers with ``dopplers``; `Rays`; a `TDL` or `RayleighBlock`; channels with a grid; or a `ChannelCovariance`.
        dopplers: Doppler shifts [Hz] of the powers, (num_paths,) or (\*batch, num_paths).
        grid, times: the OFDM lattice, or instants [s] in equal steps, for channels.
        batch_dims: leading axes of a channel to keep; all others are averaged over.
        no: noise variance of every element.

    Returns:
        float64, () or (\*kept,).

    Example:
        >>> from wichan.channels import TDL
        >>> round(float(rms_doppler_spread(TDL("A", delay_spread=100e-9, max_doppler=300.0))), 3)
        212.132
    """
    return _moments(source, dopplers, grid, times, batch_dims, no)[1]


def _moments(
    source: Any,
    dopplers: torch.Tensor | None,
    grid: OFDMGrid | None,
    times: torch.Tensor | None,
    batch_dims: int,
    no: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(source, TDL):
        los, top = source.profile.los_power, torch.tensor(source.max_doppler, dtype=torch.float64)
        mean = los * LOS_COSINE * top
        return mean, ((1 - los) * top.square() / 2 + los * (LOS_COSINE * top).square() - mean.square()).sqrt()
    lines = _lines(source, dopplers)
    if lines is not None:
        return lines.moments()
    count = source.sizes[1] if isinstance(source, ChannelCovariance) else check_channel(source, 2).shape[-2]
    points = lattice("times", times, grid_of(source, grid), count)
    rho, step = neighbour_correlation(source, "time", points, batch_dims, check_real("no", no, minimum=0.0))
    return rho.angle() / (2 * math.pi * step), spread_of(rho, step)


def _lines(source: Any, dopplers: torch.Tensor | None) -> Lines | None:
    if dopplers is not None:
        return check_lines(source, dopplers, "dopplers")
    if isinstance(source, ChannelCovariance) or (isinstance(source, torch.Tensor) and source.is_complex()):
        return None
    if isinstance(source, torch.Tensor):
        raise InvalidValueError("dopplers is missing; powers need the Doppler shifts of their paths (a channel is complex)")
    if isinstance(source, RayleighBlock):
        return Lines(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    return doppler_lines(source)


def coherence_time(
    source: Any,
    dopplers: torch.Tensor | None = None,
    *,
    level: float = 0.5,
    grid: OFDMGrid | None = None,
    times: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> torch.Tensor:
    r"""Coherence time [s]: the first time lag at which :math:`|\rho(\Delta t)|` falls to ``level``.

    Args:
        source, dopplers, grid, times, batch_dims, no: as in `rms_doppler_spread`.
        level: between 0 and 1.

    Returns:
        float64, () or (\*kept,). Exact for paths and for a `TDL`; for channels and covariances a straight line between
        instants. Infinity where the correlation never falls so low.

    Example:
        >>> from wichan.channels import TDL
        >>> model = TDL("A", delay_spread=100e-9, max_doppler=300.0)
        >>> round(float(coherence_time(model)) * 300.0, 4)  # J0(2 pi 0.2421) = 1/2
        0.2421
    """
    check_level(level)
    if isinstance(source, TDL):
        return torch.tensor(_tdl_crossing(source, level), dtype=torch.float64)
    lines = _lines(source, dopplers)
    if lines is not None:
        return lines.crossing(level)
    value, lag = time_correlation(source, grid=grid, times=times, batch_dims=batch_dims, no=no)
    step_of("times", lag)
    return crossing(value, lag, level)


def _tdl_crossing(model: TDL, level: float) -> float:
    if model.max_doppler == 0:
        return math.inf
    los = model.profile.los_power

    def size(turns: torch.Tensor) -> torch.Tensor:
        wave = torch.polar(torch.full_like(turns, los), 2 * math.pi * LOS_COSINE * turns)
        return (wave + (1 - los) * bessel_j0(2 * math.pi * turns)).abs()

    scan = torch.linspace(0, 64, 16384, dtype=torch.float64)
    below = torch.nonzero(size(scan) <= level).flatten()
    if not below.numel():
        return math.inf
    low, high = scan[below[0] - 1].reshape(1), scan[below[0]].reshape(1)
    for _ in range(45):
        middle = (low + high) / 2
        under = size(middle) <= level
        low, high = torch.where(under, low, middle), torch.where(under, middle, high)
    return float(high) / model.max_doppler
