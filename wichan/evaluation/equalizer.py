r"""The linear MMSE equaliser of a receiver that has a channel estimate and knows how far to trust it.

Unit-power streams x go through the channel H, of which the receiver knows the estimate and a variance of each element's error.
To the receiver, error times unknown symbols is noise: it is added, per receive antenna, to the noise variance.

.. math::

    y = H x + n, \qquad d_r = \mathrm{no} + \sum_k \mathrm{err\_var}_{rk}, \qquad
    G = \hat H^H (\hat H \hat H^H + \mathrm{diag}(d))^{-1}, \qquad
    \hat x = W y, \quad W = \mathrm{diag}(G \hat H)^{-1} G

This is the receiver of Sionna's ``LMMSEEqualizer`` [Hoydis2022]_; a test compares the two. G is computed in the form
:math:`(\hat H^H D^{-1} \hat H + I)^{-1} \hat H^H D^{-1}`, a scalar division for one stream.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.errors import InvalidValueError, ShapeError, check_finite, check_noise, check_shape, check_tensor

#: Noise below this share of the received signal power counts as this share: noiseless is the zero-forcing limit.
NOISE_FLOOR = 1e-10


class Equalized(NamedTuple):
    r"""What an equaliser gives.

    Attributes:
        x_hat: complex, (\*batch, num_tx_ant, num_ofdm_symbols, num_subcarriers): symbols, unbiased if h_hat were true.
        no_eff: real, same shape: variance of x_hat - x if h_hat and err_var were true; infinite where nothing is received.
    """

    x_hat: torch.Tensor
    no_eff: torch.Tensor


def unbiased_weights(h_hat: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W of the module's equation, and the variance of the error that the receiver expects.

    Args:
        h_hat: complex, (n, num_rx_ant, num_streams, elements).
        variance: noise and summed error variance, real, (n, num_rx_ant, elements) or broadcasting to it.

    Returns:
        W: complex as ``h_hat``, (n, num_streams, num_rx_ant, elements); 0 for a stream without power.
        no_eff: real, (n, num_streams, elements); infinite for a stream without power.
    """
    power = torch.view_as_real(h_hat).square().sum(dim=(1, 2, -1))
    variance = torch.maximum(variance, (NOISE_FLOOR * power).clamp_min(1e-30)[:, None])
    if h_hat.shape[2] == 1:
        scaled = h_hat[:, :, 0].conj() / variance
        gain = (scaled * h_hat[:, :, 0]).real.sum(dim=1)[:, None]
        residual = torch.ones_like(gain)
        filters = scaled[:, None]
    else:
        # Elements first and double precision: the floor makes matrices with a condition number of up to 1e10.
        wide = h_hat.movedim(-1, 1).to(torch.complex128)
        scaled = (wide / variance.expand(h_hat.shape[0], h_hat.shape[1], h_hat.shape[3]).mT[..., None]).mH
        gram = scaled @ wide
        gram.diagonal(dim1=-2, dim2=-1).add_(1.0)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(gram)[0])
        filters = inverse @ scaled
        gain = (filters * wide.mT).real.sum(dim=-1).mT
        residual = inverse.diagonal(dim1=-2, dim2=-1).real.mT
        filters = filters.movedim(1, -1)
    heard = gain > 0
    divisor = torch.where(heard, gain, torch.ones_like(gain))
    weights = filters * (heard / divisor)[:, :, None]
    no_eff = torch.where(heard, residual / divisor, math.inf)
    return weights.to(h_hat.dtype), no_eff.to(h_hat.real.dtype)


def combine(weights: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """W y: (n, num_streams, num_rx_ant, elements) with (n, num_rx_ant, elements)."""
    return (weights * y[:, None]).sum(dim=2)


def sinr_after(weights: torch.Tensor, h: torch.Tensor, no: torch.Tensor, *, known_gain: bool = False) -> torch.Tensor:
    """SINR of each stream, (n, num_streams, elements), see `post_equalization_sinr`.

    Args:
        weights: W, complex, (n, num_streams, num_rx_ant, elements).
        h: true channel, complex, (n, num_rx_ant, num_streams, elements).
        no: noise variance, real, broadcasts to (n, num_rx_ant, elements).
        known_gain: as there.
    """
    total = (torch.view_as_real(weights).square().sum(dim=-1) * no[:, None]).sum(dim=2)
    own = torch.zeros_like(total)
    # One product a stream: a (streams x streams) matrix for each element would be the largest array of all.
    for stream in range(h.shape[2]):
        gains = (weights * h[:, None, :, stream]).sum(dim=2)
        own[:, stream] = torch.view_as_real(gains[:, stream]).square().sum(dim=-1)
        if known_gain:
            gains[:, stream] = 0
        else:
            gains[:, stream] -= 1
        total += torch.view_as_real(gains).square().sum(dim=-1)
    return own / total.clamp_min(1e-30)


def lmmse_equalize(y: torch.Tensor, h_hat: torch.Tensor, err_var: torch.Tensor | None = None, no: Any = 0.0) -> Equalized:
    r"""Equalise a received grid with an estimated channel, see the module's equation.

    Args:
        y: complex, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers).
        h_hat: complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers); one unit-power stream an antenna.
        err_var: E|h - h_hat|^2, real, broadcasts to ``h_hat``; None for an estimate that is trusted fully.
        no: noise variance per sample, a number or a tensor over the leading axes of ``y`` (batch, or batch and antennas).
            Noise below 1e-10 of the received power counts as that, so 0 gives the zero-forcing limit.

    Returns:
        `Equalized`. Costs about 8 (num_rx_ant num_tx_ant^2 + num_tx_ant^3) FLOP an element, in double precision where there
        are several streams.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: real or half-precision input, NaN, negative variances, shapes that do
            not fit.

    Source: [Hoydis2022]_, ``LMMSEEqualizer``.

    Example:
        >>> h = torch.tensor([2.0 + 0j, 1j])[:, None, None, None]     # one stream, two antennas
        >>> x_hat, no_eff = lmmse_equalize(h[:, 0] * (1 + 1j), h, no=0.5)
        >>> x_hat.flatten().tolist(), round(float(no_eff), 3)         # |h|^2 / no = 10
        ([(1+1j)], 0.1)
    """
    check_finite("h_hat", check_tensor("h_hat", h_hat, kind="complex"))
    check_finite("y", check_tensor("y", y, kind="complex"))
    check_shape("h_hat", h_hat, (None, None, None, None))
    expected = (*h_hat.shape[:-3], *h_hat.shape[-2:])
    if tuple(y.shape) != expected:
        raise ShapeError(f"y has shape {tuple(y.shape)}; with h_hat of shape {tuple(h_hat.shape)} it must be {expected}")
    flat, variance = _flattened(h_hat), _variance(h_hat, err_var, no)[0]
    weights, no_eff = unbiased_weights(flat, variance)
    x_hat = combine(weights, y.to(h_hat.dtype).reshape(flat.shape[0], flat.shape[1], flat.shape[3]))
    shape = (*h_hat.shape[:-4], *h_hat.shape[-3:])
    return Equalized(x_hat.reshape(shape), no_eff.reshape(shape))


def post_equalization_sinr(
    h: torch.Tensor, h_hat: torch.Tensor, err_var: torch.Tensor | None = None, no: Any = 0.0, *, known_gain: bool = False
) -> torch.Tensor:
    r"""SINR that `lmmse_equalize` really leaves, given the true channel.

    .. math::

        \mathrm{SINR}_k = \frac{|(WH)_{kk}|^2}{|(WH)_{kk} - 1|^2 + \sum_{j \ne k} |(WH)_{kj}|^2 + \mathrm{no}\,\|w_k\|^2}

    The denominator is E|x_hat_k - x_k|^2 over data and noise: wrong gain and phase, other streams, noise. On one antenna this
    is :math:`|h|^2 / (|h - \hat h|^2 + \mathrm{no})`; with true channel knowledge it is the textbook value
    :math:`1 / [(I + H^H H / \mathrm{no})^{-1}]_{kk} - 1`, the most that any linear receiver reaches.

    Args:
        h: true channel, complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
        h_hat: its estimate, same shape.
        err_var: E|h - h_hat|^2, real, broadcasts to ``h_hat``, or None.
        no: noise variance as in `lmmse_equalize`.
        known_gain: leave the first term out, as if somebody told the receiver (WH)_kk after the equaliser. On one antenna the
            result does not depend on the estimate then.

    Returns:
        Real, (\*batch, num_tx_ant, num_ofdm_symbols, num_subcarriers), linear; 0 for a stream whose estimate is 0.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `lmmse_equalize`.

    Example:
        >>> h = torch.full((1, 1, 1, 1), 2.0 + 0j)
        >>> float(post_equalization_sinr(h, h, no=0.5))
        8.0
        >>> round(float(post_equalization_sinr(h, 1.1 * h, no=0.5)), 2)    # 4 / (0.2^2 + 0.5)
        7.41
    """
    for name, value in (("h", h), ("h_hat", h_hat)):
        check_finite(name, check_tensor(name, value, kind="complex"))
    check_shape("h_hat", h_hat, (None, None, None, None))
    if h.shape != h_hat.shape:
        raise ShapeError(f"h_hat has shape {tuple(h_hat.shape)} but h has shape {tuple(h.shape)}; they must be equal")
    variance, noise = _variance(h_hat, err_var, no)
    weights, _ = unbiased_weights(_flattened(h_hat), variance)
    sinr = sinr_after(weights, _flattened(h).to(weights.dtype), noise, known_gain=known_gain)
    return sinr.reshape(*h_hat.shape[:-4], *h_hat.shape[-3:])


def _flattened(h: torch.Tensor) -> torch.Tensor:
    """(n, num_rx_ant, num_tx_ant, elements), without lazy conjugation, which has no view as real numbers."""
    return h.resolve_conj().reshape(-1, *h.shape[-4:-2], h.shape[-2] * h.shape[-1])


def _variance(h_hat: torch.Tensor, err_var: torch.Tensor | None, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with summed error variance, and noise alone; (n, num_rx_ant, elements) and (n, num_rx_ant, 1)."""
    real, leading = h_hat.real.dtype, h_hat.shape[:-3]
    noise = check_noise(no, leading, dtype=real, device=h_hat.device).expand(leading)
    noise = noise.reshape(-1, h_hat.shape[-4], 1)
    if err_var is None:
        return noise, noise
    check_finite("err_var", check_tensor("err_var", err_var, kind="real"))
    try:
        full = err_var.to(real).expand(h_hat.shape)
    except RuntimeError:
        raise ShapeError(f"err_var has shape {tuple(err_var.shape)}; it must broadcast to {tuple(h_hat.shape)}") from None
    if err_var.numel() and float(err_var.min()) < 0:
        raise InvalidValueError(f"err_var={float(err_var.min()):g} must be at least 0")
    return noise + _flattened(full).sum(dim=2), noise
