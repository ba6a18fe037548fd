r"""The synthesis kernel: rays to channels, at any times and frequencies.

Two contractions do the work. First the rays of a cluster are summed at every time, then the clusters, which differ in
delay only, are summed at every frequency:

.. math::
    c_{k}[u, t] = \sum_r g_{k,r,u}\, e^{j 2\pi \nu_{k,r} t}, \qquad
    h[u, t, f] = \sum_k c_k[u, t]\, e^{-j 2\pi f \tau_k} .

Both are batched matrix products, so an array of paths x times x subcarriers never exists. Where phases turn often they are
reduced to one turn in float64 before the cast, so accuracy does not fall with time or bandwidth; on uniform lattices such a
phasor comes from two short tables (coarse and fine steps) and one product.

Cost per link with A antenna pairs, K clusters of R rays, T times, F subcarriers: 8 A K T (R + F) FLOP;
bytes: the answer once, plus 8 K (A R + R T + A T + F).
"""

from __future__ import annotations

import math

import torch

from wichan.channels.rays import Rays
from wichan.errors import ShapeError, check_tensor

_TWO_PI = 2 * math.pi
_FEW_TURNS = 16  # below, the rounding of a float32 phase stays under 1e-5 rad and a vectorised cosine is the fastest way


def _turn(cycles: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return e^{j 2 pi cycles} in the complex ``dtype``; ``cycles`` is float64."""
    angle = (cycles - cycles.detach().round()).mul(_TWO_PI)
    angle = angle.to(torch.float64 if dtype == torch.complex128 else torch.float32)
    return torch.complex(angle.cos(), angle.sin())


def phasors(rate: torch.Tensor, lattice: torch.Tensor, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    r"""Return :math:`e^{j 2\pi\, \mathrm{rate} \cdot \mathrm{lattice}}`.

    Args:
        rate: real, any shape (a Doppler in Hz, or a negated delay in s).
        lattice: real (n,), points in the conjugate unit (s, or Hz); uniform spacing takes the fast path.
        dtype: complex dtype of the answer.

    Returns:
        (\*rate.shape, n), differentiable in ``rate``.
    """
    points = lattice.to(device=rate.device, dtype=torch.float64)
    if dtype == torch.complex64 and _turns(rate, points) < _FEW_TURNS:
        angle = rate.to(torch.float32).unsqueeze(-1) * (points * _TWO_PI).to(torch.float32)
        return torch.complex(angle.cos(), angle.sin())
    rate = rate.to(torch.float64).unsqueeze(-1)
    n = points.numel()
    if n < 6 or not _is_uniform(points):
        return _turn(rate * points, dtype)
    fine = math.isqrt(n - 1) + 1
    coarse = -(-n // fine)
    steps = torch.cat([points[: coarse * fine : fine], points[:fine] - points[0]])
    table = _turn(rate * steps, dtype)
    grid = table[..., :coarse].unsqueeze(-1) * table[..., coarse:].unsqueeze(-2)
    return grid.flatten(-2)[..., :n]


def _turns(rate: torch.Tensor, points: torch.Tensor) -> float:
    """Largest number of turns; infinite where looking at values costs more than it saves (GPU, compiled code)."""
    if torch.compiler.is_compiling() or rate.device.type != "cpu" or not rate.numel():
        return math.inf
    return float(rate.detach().abs().max()) * float(points.abs().max())


def _is_uniform(points: torch.Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    gaps = points[1:] - points[:-1]
    span = float((points[-1] - points[0]).abs())
    return float((gaps - gaps[0]).abs().max()) <= 1e-12 * span


def delay_phasors(delay: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    """Return e^{-j 2 pi f tau}, (*delay.shape, num_frequencies); delays in s, frequencies in Hz from the carrier."""
    return phasors(-delay.to(torch.float64), frequencies, dtype)


def _ray_amplitudes(rays: Rays) -> torch.Tensor:
    """Amplitude of every ray at every antenna pair, (*batch, num_clusters, num_rays, num_rx_ant * num_tx_ant)."""
    gain, rx, tx = rays.gain, rays.rx_response, rays.tx_response
    if tx is not None:  # (..., P, Q, M) -> (..., P, Q * M): at a transmitter, polarisation before position
        gain = (gain.unsqueeze(-1) * tx[..., None, None, :]).flatten(-2)
    if rx is not None:  # (..., P, N, Q * M) -> (..., P * N, Q * M)
        gain = (gain.unsqueeze(-2) * rx[..., None, :, None]).flatten(-3, -2)
    return gain.flatten(-2)


def cluster_coefficients(rays: Rays, times: torch.Tensor) -> torch.Tensor:
    r"""Sum the rays of each cluster at every time.

    Args:
        rays: rays of a batch of links.
        times: real [s], (num_times,).

    Returns:
        complex, (\*batch, num_clusters, num_rx_ant * num_tx_ant, num_times).
    """
    amplitude = _ray_amplitudes(rays)
    if _is_eager(rays) and not rays.doppler.any():
        still = amplitude.sum(-2).unsqueeze(-1)
        return still.expand(*still.shape[:-1], times.numel())
    if amplitude.shape[-1] == 1 and amplitude.dtype == torch.complex64 and _is_eager(rays):
        return _sum_sinusoids(amplitude.squeeze(-1), rays.doppler, times).unsqueeze(-2)
    rotation = phasors(rays.doppler, times, amplitude.dtype)
    return amplitude.transpose(-1, -2) @ rotation


def _is_eager(rays: Rays) -> bool:
    """Whether the path without gradients may be taken."""
    if torch.compiler.is_compiling():
        return False
    responses = (rays.gain, rays.doppler, rays.rx_response, rays.tx_response)
    return not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in responses))


def _sum_sinusoids(amplitude: torch.Tensor, doppler: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Sum the rays of one antenna pair, (*batch, num_clusters, num_rays) -> (*batch, num_clusters, num_times).

    Products of 1 x R by R x T matrices are all overhead, and a vectorised cosine is cheaper than a complex product. So the
    rays are summed in polar form, |g| cos(arg g + 2 pi nu t), in slices that stay in the cache.
    """
    shape = amplitude.shape
    real, imaginary = (part.contiguous() for part in torch.view_as_real(amplitude.reshape(-1, shape[-1])).unbind(-1))
    size, phase = torch.hypot(real, imaginary), torch.atan2(imaginary, real)
    rate = doppler.reshape(-1, shape[-1]).to(size.dtype)
    # Times lead, so that every broadcast runs along contiguous rays.
    points = times.to(device=rate.device, dtype=torch.float64)[:, None, None]
    few = _turns(rate, points) < _FEW_TURNS
    ones = size.new_ones(shape[-1])
    answer = size.new_empty(2, points.shape[0], rate.shape[0])
    step = min(max(1, 2**17 // (shape[-1] * points.shape[0])), rate.shape[0])
    for first in range(0, rate.shape[0], step):
        part = slice(first, min(first + step, rate.shape[0]))
        if few:
            angle = torch.addcmul(phase[part], rate[part], (points * _TWO_PI).to(rate.dtype))
        else:
            cycles = rate[part].to(torch.float64) * points
            angle = cycles.sub_(cycles.round()).mul_(_TWO_PI).to(rate.dtype).add_(phase[part])
        wave = angle.cos().mul_(size[part])
        answer[0, :, part] = wave @ ones
        answer[1, :, part] = torch.sin(angle, out=wave).mul_(size[part]) @ ones
    return torch.complex(answer[0].T, answer[1].T).reshape(*shape[:-1], points.shape[0])


def combine_clusters(coefficients: torch.Tensor, phasor: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    r"""Sum clusters at every frequency: the large matrix product of the synthesis.

    Args:
        coefficients: complex, (\*batch, num_clusters, num_links, num_times).
        phasor: complex, (num_clusters, num_frequencies) or (\*batch, num_clusters, num_frequencies).
        out: optional buffer of the answer's shape (no gradients then).

    Returns:
        (\*batch, num_links, num_times, num_frequencies).
    """
    batch = coefficients.shape[:-3]
    clusters, links, times = coefficients.shape[-3:]
    left = coefficients.reshape(-1, clusters, links * times).transpose(-1, -2)
    right = phasor.reshape(-1, clusters, phasor.shape[-1]).expand(left.shape[0], -1, -1)
    shape = (*batch, links, times, phasor.shape[-1])
    if out is None:
        return torch.bmm(left, right).reshape(shape)
    if tuple(out.shape) != shape or not out.is_contiguous():
        raise ShapeError(f"out has shape {tuple(out.shape)}; it must be contiguous with shape {shape}")
    torch.bmm(left, right, out=out.view(left.shape[0], links * times, -1))
    return out


def frequency_response(
    rays: Rays, times: torch.Tensor, frequencies: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Channel of every antenna pair at ``times`` and ``frequencies``.

    Args:
        rays: rays of a batch of links.
        times: real [s], (num_times,).
        frequencies: real [Hz], relative to the carrier, (num_frequencies,).
        out: optional contiguous buffer of the answer's shape, written in place: the path without gradients for hot
            loops, which neither allocates nor touches fresh pages.

    Returns:
        complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_frequencies); differentiable in gains, delays, Dopplers
        and array responses.

    Raises:
        ShapeError: times, frequencies or ``out`` of the wrong shape.
    """
    for name, value in (("times", times), ("frequencies", frequencies)):
        if check_tensor(name, value, kind="real").dim() != 1 or not value.numel():
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must be one axis with at least one entry")
    coefficients = cluster_coefficients(rays, times)
    phasor = delay_phasors(rays.delay, frequencies, coefficients.dtype)
    shape = (*rays.batch_shape, rays.num_rx_ant, rays.num_tx_ant, times.numel(), frequencies.numel())
    if out is not None:
        if tuple(out.shape) != shape or not out.is_contiguous():
            raise ShapeError(f"out has shape {tuple(out.shape)}; it must be contiguous with shape {shape}")
        flat = out.view(*rays.batch_shape, -1, times.numel(), frequencies.numel())
        with torch.no_grad():
            combine_clusters(coefficients, phasor, out=flat)
        return out
    return combine_clusters(coefficients, phasor).reshape(shape)


def impulse_response(rays: Rays, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Channel impulse response at the clusters' delays.

    Returns:
        ``(a, tau)``: complex coefficients (\*batch, num_rx_ant, num_tx_ant, num_clusters, num_times) and delays [s],
        (\*batch, num_clusters), so that h(t, f) is the sum of ``a * exp(-2j pi f tau)`` over clusters.
    """
    coefficients = cluster_coefficients(rays, times).movedim(-3, -2)
    shape = (*rays.batch_shape, rays.num_rx_ant, rays.num_tx_ant, rays.num_clusters, times.numel())
    return coefficients.reshape(shape), rays.delay.expand(*rays.batch_shape, rays.num_clusters)


def filter_taps(rays: Rays, times: torch.Tensor, bandwidth: float, num_taps: int, first_tap: int = 0) -> torch.Tensor:
    r"""Discrete-time channel taps of an ideal band-limited receiver.

    Tap ``l`` is the sum over clusters of ``a * sinc(l - tau * bandwidth)``, l = first_tap, ..., first_tap + num_taps - 1
    (samples of the impulse response after a brick-wall filter of two-sided ``bandwidth`` [Hz]).

    Returns:
        complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_taps).
    """
    coefficients = cluster_coefficients(rays, times)
    taps = torch.arange(first_tap, first_tap + num_taps, dtype=torch.float64, device=rays.delay.device)
    kernel = torch.sinc(taps - rays.delay.to(torch.float64).unsqueeze(-1) * bandwidth).to(coefficients.dtype)
    h = combine_clusters(coefficients, kernel)
    return h.reshape(*rays.batch_shape, rays.num_rx_ant, rays.num_tx_ant, times.numel(), num_taps)
