r"""Unitary views of a channel: delay and Doppler, angle and delay.

Signs follow the rest of the library, :math:`h(t, f) = \sum g\, e^{+j2\pi\nu t} e^{-j2\pi f\tau} e^{+j2\pi n d u}`, and so do
these transforms: a path whose delay, Doppler shift and direction lie on the axes is one element of value
:math:`g \sqrt{N}`, with N the number of transformed elements.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.analysis.beams import Beams, beams_of
from wichan.analysis.sources import (
    CHUNK_BYTES,
    check_channel,
    expected_power,
    grid_of,
    is_covariance,
    lattice,
    step_of,
    window_of,
)
from wichan.channels.arrays import AntennaArray
from wichan.errors import ShapeError, check_choice, check_int
from wichan.grid import OFDMGrid


class DelayDoppler(NamedTuple):
    r"""A channel over Doppler shift and delay.

    Attributes:
        value: as the channel, (\*batch, num_dopplers, num_delays).
        doppler: float64 [Hz], (num_dopplers,), rising.
        delay: float64 [s], (num_delays,), from 0 to just below 1 / subcarrier_spacing.
    """

    value: torch.Tensor
    doppler: torch.Tensor
    delay: torch.Tensor


class AngleDelay(NamedTuple):
    r"""A channel over beams and delay.

    Attributes:
        value: as the channel, with beams in place of the antennas of one end and delays in place of subcarriers.
        direction: float64, (num_ant, 3): direction cosines of each beam along the array's x, y and z axes; beyond 1 there
            is no such direction (elements closer than half a wavelength), nan along an axis without elements, and none of
            this is scaled where no array is given: then the columns hold cycles an element in the second place.
        delay: float64 [s], (num_delays,).
        polarization: int64, (num_ant,): polarisation of each beam.
    """

    value: torch.Tensor
    direction: torch.Tensor
    delay: torch.Tensor
    polarization: torch.Tensor


def _padded(x: torch.Tensor, window: str | None, oversampling: int, inverse: bool) -> torch.Tensor:
    """DFT with more points than samples; powers only, so phases do not matter."""
    weight = window_of(window, x.shape[-1]).to(x.device, x.real.dtype)
    size = check_int("oversampling", oversampling, minimum=1) * x.shape[-1]
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return transform(x * weight, n=size, dim=-1, norm="ortho") * math.sqrt(oversampling)


def _to_delay(x: torch.Tensor, start: float, step: float, window: str | None) -> torch.Tensor:
    """Last axis, subcarriers to delays; the phase of a path counts from the carrier, not from the lowest subcarrier."""
    weight = window_of(window, x.shape[-1]).to(x.device, x.real.dtype)
    return torch.fft.ifft(x * weight, dim=-1, norm="ortho") * _carrier(x, start, step)


def _from_delay(x: torch.Tensor, start: float, step: float, window: str | None) -> torch.Tensor:
    weight = window_of(window, x.shape[-1]).to(x.device, x.real.dtype)
    return torch.fft.fft(x * _carrier(x, start, step).conj(), dim=-1, norm="ortho") / weight


def _carrier(x: torch.Tensor, start: float, step: float) -> torch.Tensor:
    turns = torch.arange(x.shape[-1], dtype=torch.float64, device=x.device) * (start / step / x.shape[-1])
    angle = 2 * math.pi * (turns - turns.round())
    return torch.polar(torch.ones_like(angle), angle).to(x.dtype)


def _to_doppler(x: torch.Tensor, start: float, step: float, window: str | None) -> torch.Tensor:
    """Last axis, times to Doppler shifts; phases count from time 0."""
    weight = window_of(window, x.shape[-1]).to(x.device, x.real.dtype)
    y = torch.fft.fft(x * weight, dim=-1, norm="ortho") * _carrier(x, start, step).conj()
    return torch.fft.fftshift(y, dim=-1)


def _from_doppler(x: torch.Tensor, start: float, step: float, window: str | None) -> torch.Tensor:
    weight = window_of(window, x.shape[-1]).to(x.device, x.real.dtype)
    y = torch.fft.ifftshift(x, dim=-1) * _carrier(x, start, step)
    return torch.fft.ifft(y, dim=-1, norm="ortho") / weight


class _Axes(NamedTuple):
    time: tuple[float, float]
    frequency: tuple[float, float]
    doppler: torch.Tensor
    delay: torch.Tensor


def _axes(sizes: tuple[int, int], grid: OFDMGrid | None, times: torch.Tensor | None, frequencies: torch.Tensor | None) -> _Axes:
    t = lattice("times", times, grid, sizes[0])
    f = lattice("frequencies", frequencies, grid, sizes[1])
    dt, df = step_of("times", t), step_of("frequencies", f)
    doppler = torch.fft.fftshift(torch.fft.fftfreq(sizes[0], d=dt, dtype=torch.float64))
    return _Axes((float(t[0]), dt), (float(f[0]), df), doppler, delay_axis(sizes[1], df))


def delay_axis(count: int, step: float) -> torch.Tensor:
    """Delays [s] of an inverse DFT over ``count`` subcarriers ``step`` Hz apart."""
    return torch.arange(count, dtype=torch.float64) / (count * step)


def to_delay_doppler(
    h: torch.Tensor,
    grid: OFDMGrid | None = None,
    *,
    times: torch.Tensor | None = None,
    frequencies: torch.Tensor | None = None,
    window: str | None = None,
) -> DelayDoppler:
    r"""Symplectic Fourier transform: a channel over time and frequency becomes one over Doppler shift and delay.

    .. math:: X(\nu, \tau) = \frac{1}{\sqrt{TF}} \sum_{t,f} w_t w_f\, h(t, f)\, e^{-j2\pi\nu t}\, e^{+j2\pi f\tau}

    Without a window it is unitary: energy is kept, and a path on the axes is one element, :math:`g\sqrt{TF}`. Other paths
    leak along both axes; a Hann window keeps their leakage local, at twice the width.

    Args:
        h: complex, (\*batch, num_times, num_subcarriers), any leading axes.
        grid: the OFDM lattice.
        times, frequencies: [s] and [Hz], in equal steps, where there is no grid.
        window: ``None``, or ``"hann"`` over both axes (of mean power 1, never zero).

    Returns:
        `DelayDoppler`; dtype as ``h``, differentiable.

    Raises:
        InvalidValueError: a lattice that is missing, uneven, or has one point.

    Cost: one FFT of each axis.

    Example:
        >>> grid = OFDMGrid(4, 8, 15e3, symbol_duration=1e-4)
        >>> delay, doppler = 2 / (8 * 15e3), 2500.0
        >>> phase = 2 * torch.pi * (doppler * grid.times[:, None] - grid.frequencies * delay)
        >>> view = to_delay_doppler(torch.polar(torch.ones_like(phase), phase), grid)
        >>> [round(float(v), 6) for v in (view.value[3, 2].real, view.doppler[3], view.delay[2] / delay)]
        [5.656854, 2500.0, 1.0]
    """
    h = check_channel(h, 2)
    axes = _axes((h.shape[-2], h.shape[-1]), grid, times, frequencies)
    value = _to_delay(h, *axes.frequency, window)
    value = _to_doppler(value.transpose(-1, -2), *axes.time, window).transpose(-1, -2)
    return DelayDoppler(value, axes.doppler, axes.delay)


def from_delay_doppler(
    value: torch.Tensor,
    grid: OFDMGrid | None = None,
    *,
    times: torch.Tensor | None = None,
    frequencies: torch.Tensor | None = None,
    window: str | None = None,
) -> torch.Tensor:
    r"""Inverse of `to_delay_doppler`, exact with the same window (a Hann window is divided out again).

    Args:
        value: complex, (\*batch, num_dopplers, num_delays).
        grid, times, frequencies, window: as there.

    Returns:
        (\*batch, num_times, num_subcarriers).
    """
    value = check_channel(value, 2)
    axes = _axes((value.shape[-2], value.shape[-1]), grid, times, frequencies)
    h = _from_doppler(value.transpose(-1, -2), *axes.time, window).transpose(-1, -2)
    return _from_delay(h, *axes.frequency, window)


def delay_doppler_power(
    source: Any,
    grid: OFDMGrid | None = None,
    *,
    times: torch.Tensor | None = None,
    frequencies: torch.Tensor | None = None,
    window: str | None = "hann",
    oversampling: int = 1,
) -> DelayDoppler:
    r"""Mean power over Doppler shift and delay, :math:`E|X(\nu, \tau)|^2`.

    Args:
        source: channels, complex, (\*, num_times, num_subcarriers), all leading axes averaged; or a `ChannelCovariance`,
            antennas and conditions averaged: then what the mean of channels converges to.
        grid, times, frequencies, window: as in `to_delay_doppler`.
        oversampling: points for each bin, along both axes.

    Returns:
        `DelayDoppler` with real float64 values, (o num_times, o num_subcarriers); they sum to o^2 T F E|h|^2.
    """
    sizes = source.sizes[1:] if is_covariance(source) else check_channel(source, 2).shape[-2:]
    axes = _axes((sizes[0], sizes[1]), grid_of(source, grid), times, frequencies)

    def over_time(x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fftshift(_padded(x, window, oversampling, inverse=False), dim=-1)

    def over_frequency(x: torch.Tensor) -> torch.Tensor:
        return _padded(x, window, oversampling, inverse=True)

    doppler = torch.fft.fftshift(torch.fft.fftfreq(oversampling * sizes[0], d=axes.time[1], dtype=torch.float64))
    delay = delay_axis(oversampling * sizes[1], axes.frequency[1])
    if is_covariance(source):
        return DelayDoppler(expected_power(source, time=over_time, frequency=over_frequency)[0], doppler, delay)
    rows = source.reshape(-1, *sizes)
    total: Any = 0.0
    for part in rows.split(max(CHUNK_BYTES // (16 * delay.numel() * doppler.numel()), 1)):
        value = over_time(over_frequency(part.to(torch.complex128)).transpose(-1, -2)).transpose(-1, -2)
        total = total + torch.view_as_real(value.resolve_conj()).square().sum((0, -1))
    return DelayDoppler(total / rows.shape[0], doppler, delay)


def to_angle_delay(
    h: torch.Tensor,
    array: AntennaArray | None = None,
    grid: OFDMGrid | None = None,
    *,
    side: str = "rx",
    frequencies: torch.Tensor | None = None,
    window: str | None = None,
) -> AngleDelay:
    r"""Antennas to DFT beams and subcarriers to delays: where the energy of a MIMO channel is concentrated.

    .. math:: X(b, \tau) = \frac{1}{\sqrt{N F}} \sum_{n, f} w_f\, h_n(f)\, e^{-j2\pi b n / N}\, e^{+j2\pi f\tau}

    A planar array gets one DFT an axis; polarisations stay apart. Without a window the transform is unitary. It is the sparse
    view that CSI compression starts from.

    Args:
        h: complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers).
        array: a `ULA`, `UPA` or `Panel`, or any `AntennaArray` whose positions fill a regular lattice; ``None``: antennas in a
            row, beams counted in cycles an element.
        grid: the OFDM lattice.
        side: the end that the array stands at, ``"rx"`` or ``"tx"``.
        frequencies: [Hz], in equal steps, where there is no grid.
        window: ``None``, or ``"hann"`` over frequency.

    Returns:
        `AngleDelay`; beams are ordered polarisation first, then by direction cosine along x, y and z (z fastest). A beam at
        the transmitter points where the transmitter sends to.

    Raises:
        ShapeError: the array has another number of ports than ``h``. InvalidValueError: positions without a lattice.
    """
    h, axis, beams = _angle_setting(h, array, side)
    delay, start, step = _delays(h.shape[-1], grid, frequencies)
    value = beams.forward(_to_delay(h, start, step, window).movedim(axis, -1)).movedim(-1, axis)
    return AngleDelay(value, beams.direction, delay, beams.polarization)


def from_angle_delay(
    value: torch.Tensor,
    array: AntennaArray | None = None,
    grid: OFDMGrid | None = None,
    *,
    side: str = "rx",
    frequencies: torch.Tensor | None = None,
    window: str | None = None,
) -> torch.Tensor:
    r"""Inverse of `to_angle_delay`, exact with the same window; (\*batch, num_rx_ant, num_tx_ant, times, subcarriers)."""
    value, axis, beams = _angle_setting(value, array, side)
    _, start, step = _delays(value.shape[-1], grid, frequencies)
    return _from_delay(beams.inverse(value.movedim(axis, -1)).movedim(-1, axis), start, step, window)


def angle_delay_power(
    source: Any,
    array: AntennaArray | None = None,
    grid: OFDMGrid | None = None,
    *,
    side: str = "rx",
    frequencies: torch.Tensor | None = None,
    window: str | None = "hann",
    oversampling: int = 1,
) -> AngleDelay:
    r"""Mean power over beams and delay, :math:`E|X(b, \tau)|^2`, averaged over the other end and over time.

    Args:
        source: channels as in `to_angle_delay`, or a `ChannelCovariance` (conditions averaged): what their mean converges to.
        array, grid, side, frequencies, window: as there.
        oversampling: points for each delay bin.

    Returns:
        `AngleDelay` with real float64 values, (num_ant, o num_subcarriers); they sum to o num_ant num_subcarriers E|h|^2.
    """
    axis = -4 if check_choice("side", side, ("rx", "tx")) == "rx" else -3
    size = source.shape[axis] if is_covariance(source) else check_channel(source, 4).shape[axis]
    count = source.sizes[2] if is_covariance(source) else source.shape[-1]
    beams = _beams(array, size)
    _, _, step = _delays(count, grid_of(source, grid), frequencies)
    delay = delay_axis(oversampling * count, step)

    def over_frequency(x: torch.Tensor) -> torch.Tensor:
        return _padded(x, window, oversampling, inverse=True)

    def to_beams(x: torch.Tensor) -> torch.Tensor:
        pairs = x.unflatten(-1, source.shape[:2])
        return beams.forward(pairs.movedim(axis + 2, -1)).movedim(-1, axis + 2).flatten(-2)

    if is_covariance(source):
        power = expected_power(source, space=to_beams, frequency=over_frequency)[:, 0].unflatten(0, source.shape[:2])
        power = power.mean(1 if side == "rx" else 0)
        return AngleDelay(power, beams.direction, delay, beams.polarization)
    rows = source.movedim(axis, -1).reshape(-1, count, size)
    total: Any = 0.0
    for part in rows.split(max(CHUNK_BYTES // (16 * size * delay.numel()), 1)):
        value = over_frequency(beams.forward(part.to(torch.complex128)).transpose(-1, -2))
        total = total + torch.view_as_real(value.resolve_conj()).square().sum((0, -1))
    return AngleDelay(total / rows.shape[0], beams.direction, delay, beams.polarization)


def _angle_setting(h: torch.Tensor, array: AntennaArray | None, side: str) -> tuple[torch.Tensor, int, Beams]:
    axis = -4 if check_choice("side", side, ("rx", "tx")) == "rx" else -3
    h = check_channel(h, 4)
    return h, axis, _beams(array, h.shape[axis])


def _beams(array: AntennaArray | None, num_ant: int) -> Beams:
    beams = beams_of(array, num_ant)
    if beams.num_ant != num_ant:
        raise ShapeError(f"array has {beams.num_ant} ports; the channel has {num_ant} antennas at that end")
    return beams


def _delays(count: int, grid: OFDMGrid | None, frequencies: torch.Tensor | None) -> tuple[torch.Tensor, float, float]:
    points = lattice("frequencies", frequencies, grid, count)
    step = step_of("frequencies", points)
    return delay_axis(count, step), float(points[0]), step
