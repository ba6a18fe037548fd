r"""How many bits a second and hertz does an estimate carry through coarse converters? Rates of linear combiners.

In the data phase the users send symbols :math:`s \sim \mathcal{CN}(0, I)` over the channel that was estimated, and the
receiver, whose converters are those of the pilot phase, combines their outputs with :math:`g(\hat h)`:

.. math:: r = Q(H s + n),\qquad \hat s_u = g_u^H r,\qquad g_u = \hat h_u / \max(\|\hat h_u\|^2, \mathrm{floor}) .

A decoder that knows no more than the mean of the effective channel reaches, by the use-and-then-forget bound
[Marzetta2016]_ on the quantised link,

.. math:: R = \sum_u \log_2\Bigl(1 + \frac{|\bar a_u|^2}{\bar q_u - |\bar a_u|^2}\Bigr),\qquad
    a_u = g_u^H B_h h_u,\quad q_u = g_u^H C_{r|h} g_u ,

bars being means over channels. The converters' input is Gaussian only *given* the channel, so the gain B_h and the covariance
C_{r|h} are those of :math:`C_{y|h} = H H^H + \mathrm{no}\, I`, channel by channel. Everything is a function of the two means,
so terms are summed batch by batch, and a bootstrap over channels resamples them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.observations.quantized import QuantizedPilots

COMBINERS = ("mrc",)
_CHUNK_BYTES = 2**28
_COPIES = 24  # matrices of a chunk that are alive at once while its covariances are made


class RateTerms(NamedTuple):
    r"""What one channel adds to the two means of a rate.

    Attributes:
        gain: complex128, (\*estimates, n, num_streams): effective channel g^H B h of each user's symbol.
        power: float64, same shape: E|g^H r|^2 given the channel.
    """

    gain: torch.Tensor
    power: torch.Tensor


def data_observation(obs: QuantizedPilots) -> QuantizedPilots:
    """The data phase of pilots: one use of the channel by one user of unit power, seen through the same converters.

    Args:
        obs: pilots of a channel that is one matrix (num_rx_ant, num_tx_ant): made by `QuantizedPilots.from_sequence`, or with
            the identity as matrix (then every element of the channel is a receive antenna).

    Returns:
        Pilots with the identity as matrix, one measurement a receive antenna. Their gain control is set for the sum of all
        users, by the rule of ``obs``: the assumed power over that of its own pilots is kept.

    Raises:
        InvalidTypeError, InvalidValueError: other pilots; converters that change from one pilot to the next.
    """
    if not isinstance(obs, QuantizedPilots):
        raise InvalidTypeError(f"obs must be QuantizedPilots, got {type(obs).__name__}")
    num_tx_ant, num_rx_ant = _antennas(obs)
    bits = _antenna_bits(obs.num_bits, num_rx_ant)
    assumed = obs.input_power / obs.linear.signal_power
    identity = torch.eye(num_rx_ant, dtype=torch.complex128, device=obs.matrix().device)
    return QuantizedPilots(identity, bits, kind=obs.kind, input_power=assumed * num_tx_ant, dither_power=obs.dither_power)


def rate_terms(
    h: torch.Tensor,
    h_hat: torch.Tensor,
    no: Any,
    obs: QuantizedPilots,
    *,
    combiner: str = "mrc",
    floor: float = 0.1,
    method: str = "exact",
) -> RateTerms:
    r"""Terms of `rate_uatf`, channel by channel.

    Args:
        h: channels, complex, (n, \*channel_shape).
        h_hat: their estimates, complex, (\*estimates, n, \*channel_shape), where the first axes count estimators, which then
            share the costly part; ``h`` itself gives the reference of perfect channel knowledge.
        no: noise variance of the data phase, a number or real (n,).
        obs: the pilots, whose converters the data phase keeps; see `data_observation`.
        combiner: "mrc", which is h_hat over its energy.
        floor: least energy that the combiner divides by.
        method: how C_{r|h} is computed, see `QuantizedPilots.output_covariance`.

    Returns:
        `RateTerms`; tensors lie where ``h`` lies.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: tensors that do not fit or are not finite, pilots without a data phase.

    Cost: one covariance of the converters' outputs a channel, num_rx_ant^2 entries, whatever the number of estimators; channels
        come in chunks that take about 256 MiB.
    """
    data, channels, combiners, noise = _checked(h, h_hat, no, obs, combiner, floor)
    gain = torch.zeros(*combiners.shape[:-2], combiners.shape[-1], dtype=channels.dtype, device=channels.device)
    power = torch.zeros_like(gain.real)
    for part in _chunks(len(channels), channels.shape[-2]):
        matrix, weights, level = channels[part], combiners[..., part, :, :], noise[part]
        cov_y = matrix @ matrix.mH
        cov_y.diagonal(dim1=-2, dim2=-1).add_(data.noise_power(level)[:, None])
        b = data.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, level)
        gain[..., part, :] = (weights.conj() * (b[..., None] * matrix)).sum(dim=-2)
        power[..., part, :] = _quadratic(weights, data.output_covariance(cov_y, level, method=method))
    return RateTerms(gain, power)


def rate_legacy_terms(
    h: torch.Tensor,
    h_hat: torch.Tensor,
    no: float,
    obs: QuantizedPilots,
    *,
    covariance: torch.Tensor | None = None,
    combiner: str = "mrc",
    floor: float = 0.1,
    method: str = "exact",
) -> RateTerms:
    """Terms of `rate_legacy`, channel by channel.

    Args:
        h, h_hat, obs, combiner, floor, method: as in `rate_terms`.
        no: noise variance, one number.
        covariance: covariance of the flattened channel, complex, (N, N); default: that of the sample ``h``. Give it when
            terms are computed batch by batch.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `rate_terms`; a channel with several transmit antennas.
    """
    data, channels, combiners, noise = _checked(h, h_hat, check_real("no", no, minimum=0.0), obs, combiner, floor)
    if channels.shape[-1] != 1:
        raise InvalidValueError(f"obs has {channels.shape[-1]} transmit antennas; the legacy rate is defined for one")
    flat = channels[..., 0]
    cov_h = flat.mT @ flat.conj() / len(flat) if covariance is None else _checked_covariance(covariance, flat)
    level = noise[:1]
    cov_y = data.input_covariance(cov_h[None], level)
    b = data.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, level)[0]
    distortion = data.output_covariance(cov_y, level, method=method)[0] - b[:, None] * cov_h * b
    gain = (combiners.conj() * b[:, None] * channels).sum(dim=-2)
    return RateTerms(gain, gain.abs().square() + _quadratic(combiners, distortion))


def rate_from_means(gain: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    r"""Rate of two means, :math:`\sum_u \log_2(1 + |\bar a_u|^2 / (\bar q_u - |\bar a_u|^2))`.

    Args:
        gain: mean of the gains, complex, (\*batch, num_streams).
        power: mean of the powers, real, same shape.

    Returns:
        float64 [bit/s/Hz], (\*batch). A mean power of 0 gives 0.
    """
    signal = gain.abs().square().double()
    # By Cauchy-Schwarz E|a|^2 <= E q; what rounding takes away below that is given back.
    rest = (power.double() - signal).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.log2(1 + signal / rest).sum(dim=-1)


def rate_from_terms(terms: RateTerms) -> torch.Tensor:
    r"""Rate of the terms of n channels, float64 [bit/s/Hz], (\*estimates); see `rate_from_means`.

    Raises:
        ShapeError: no channel at all.
    """
    if not terms.gain.shape[-2]:
        raise ShapeError("terms are those of 0 channels; a rate needs at least 1")
    return rate_from_means(terms.gain.mean(dim=-2), terms.power.mean(dim=-2))


def rate_uatf(h: torch.Tensor, h_hat: torch.Tensor, no: Any, obs: QuantizedPilots, **options: Any) -> torch.Tensor:
    r"""Achievable rate [bit/s/Hz] of estimates on a quantised link, by use-and-then-forget [Marzetta2016]_.

    .. math:: R = \log_2\Bigl(1 + \frac{|a|^2}{E[g^H C_{r|h}\, g] - |a|^2}\Bigr),\qquad a = E[g^H B_h h]

    with gain and covariance of the converters given each channel; the sum over users where the channel has several transmit
    antennas. Simulated links of the same combiner reach the same rate.

    Args:
        h, h_hat, no, obs: as in `rate_terms`.
        **options: ``combiner``, ``floor``, ``method`` of `rate_terms`.

    Returns:
        float64, a number, or (\*estimates) where ``h_hat`` has such axes.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `rate_terms`; no channel at all.
    """
    return rate_from_terms(rate_terms(h, h_hat, no, obs, **options))


def rate_legacy(h: torch.Tensor, h_hat: torch.Tensor, no: float, obs: QuantizedPilots, **options: Any) -> torch.Tensor:
    r"""The figure of merit of earlier code for these estimators [bit/s/Hz]; **not** an achievable rate.

    .. math:: R = \log_2\Bigl(1 + \frac{|E[g^H B h]|^2}{\mathrm{Var}[g^H B h] + E[g^H C_q\, g]}\Bigr),\qquad C_q = C_r - B C_h B

    with gain and distortion of the *average* channel's covariance. Given a channel the distortion lines up with it, which this
    average hides: with one bit, 32 antennas and perfect channel knowledge at 20 dB it says 4.6 where the link carries 1.5. Use
    it to compare with published curves only.

    Args:
        h, h_hat, no, obs: as in `rate_legacy_terms`.
        **options: ``covariance``, ``combiner``, ``floor``, ``method`` of `rate_legacy_terms`.

    Returns:
        float64, a number, or (\*estimates) where ``h_hat`` has such axes.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `rate_legacy_terms`; no channel at all.
    """
    return rate_from_terms(rate_legacy_terms(h, h_hat, no, obs, **options))


# -- Small steps. --


def _checked(
    h: torch.Tensor, h_hat: torch.Tensor, no: Any, obs: QuantizedPilots, combiner: str, floor: float
) -> tuple[QuantizedPilots, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The data phase, channels and combiners (n, num_rx_ant, num_tx_ant) in double precision, and the noise (n,)."""
    check_choice("combiner", combiner, COMBINERS)
    floor = check_real("floor", floor, positive=True)
    data = data_observation(obs)
    check_finite("h", check_shape("h", check_tensor("h", h, kind="complex"), obs.channel_shape))
    check_finite("h_hat", check_tensor("h_hat", h_hat, kind="complex"))
    axes = len(obs.channel_shape)
    if h.dim() != axes + 1 or h_hat.shape[-axes - 1 :] != h.shape:
        want = f"(n, {', '.join(map(str, obs.channel_shape))})"
        raise ShapeError(f"h and h_hat have shapes {tuple(h.shape)} and {tuple(h_hat.shape)}; both must end in {want}")
    noise = check_noise(no, h.shape[:1], dtype=torch.float64, device=h.device).expand(h.shape[:1])
    pair = (data.num_measurements, -1)
    matrix, estimate = (x.flatten(-axes).to(torch.complex128).unflatten(-1, pair) for x in (h, h_hat))
    energy = estimate.abs().square().sum(dim=-2, keepdim=True).clamp_min(floor)
    return data, matrix, estimate / energy, noise


def _checked_covariance(covariance: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    check_finite("covariance", check_tensor("covariance", covariance))
    if covariance.shape != (flat.shape[-1],) * 2:
        raise ShapeError(f"covariance has shape {tuple(covariance.shape)}; it must be {(flat.shape[-1],) * 2}")
    return covariance.to(flat)


def _antennas(obs: QuantizedPilots) -> tuple[int, int]:
    """Transmit and receive antennas."""
    elements = math.prod(obs.channel_shape)
    if obs.pilots is not None:
        return obs.pilots.shape[0], elements // obs.pilots.shape[0]
    if obs.is_identity:
        return 1, elements
    raise InvalidValueError("obs has a matrix without a data phase; a rate needs pilots of from_sequence, or the identity")


def _antenna_bits(num_bits: Any, num_rx_ant: int) -> Any:
    """Resolution of each antenna's converters, which must be the same for every pilot."""
    if not isinstance(num_bits, (tuple, list)):
        return num_bits
    rows = [tuple(num_bits[start : start + num_rx_ant]) for start in range(0, len(num_bits), num_rx_ant)]
    if any(row != rows[0] for row in rows):
        raise InvalidValueError("obs.num_bits changes from one pilot to the next; a rate needs one resolution for each antenna")
    return rows[0]


def _quadratic(weights: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """g^H C g of every user, (n, num_streams)."""
    return (weights.conj() * (matrix @ weights)).sum(dim=-2).real


def _chunks(count: int, size: int) -> list[slice]:
    step = max(1, _CHUNK_BYTES // (16 * _COPIES * size**2))
    return [slice(start, start + step) for start in range(0, count, step)]
