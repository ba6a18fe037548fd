r"""How many bits a second and hertz do beams and phases carry, pilots counted and the absolute path gain kept?

.. math:: R = \Bigl(1 - \frac{\tau_p}{\tau_c}\Bigr) \log_2\Bigl(1 + \frac{P\, |u^H G v|^2}{\mathrm{no}\, \|u\|^2}\Bigr)

G is the channel as it is, u and v are what somebody believes to be good beams, from an estimate or from the truth. Dividing
G by its norm would take away the gain that a reflecting surface brings, so nothing is normalised here.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_finite,
    check_noise,
    check_real,
    check_tensor,
)

_LOG2 = math.log(2.0)


def spectral_efficiency(
    channel: torch.Tensor,
    combiner: torch.Tensor,
    precoder: torch.Tensor,
    power: Any,
    no: Any,
    pilot_uses: float = 0.0,
    coherence_uses: float | None = None,
) -> torch.Tensor:
    r"""Spectral efficiency of given beams over a given channel [bit/s/Hz].

    Several streams are decoded one by one behind their combiners, and what leaks from one into another is noise:

    .. math:: \mathrm{SE} = \Bigl(1 - \frac{\tau_p}{\tau_c}\Bigr) \frac1F \sum_{f,s} \log_2\Bigl(1 +
        \frac{P |u_s^H G v_s|^2}{\mathrm{no} \|u_s\|^2 + P \sum_{t \ne s} |u_s^H G v_t|^2}\Bigr) .

    With beams from the singular vectors of G nothing leaks, and this is :math:`\log_2 \det(I + P\, G V V^H G^H / \mathrm{no})`.

    Args:
        channel: G, complex, (\*batch, num_bs_ant, num_ms_ant, num_subcarriers); absolute, path gain included.
        combiner: u, complex, (\*batch, num_bs_ant, num_streams, num_subcarriers or 1), of any norm: noise passes it, too.
        precoder: v, complex, (\*batch, num_ms_ant, num_streams, num_subcarriers or 1). Its squared norm, summed over streams,
            is the share of ``power`` that is sent, 1 where all is.
        power: P, mean transmit power a subcarrier, a number or real (\*batch) [the unit of ``no``].
        no: noise variance at a receive antenna and subcarrier, greater than 0, a number or real (\*batch).
        pilot_uses: channel uses of a coherence block that go into pilots, :math:`\tau_p`; for a training of K patterns with P
            pilots each these are K P, see `IRSTraining.pilot_uses`.
        coherence_uses: channel uses in a coherence block, :math:`\tau_c`; None counts no pilots (and takes no ``pilot_uses``).

    Returns:
        Real, (\*batch). Differentiable in everything, so that phases and beams can be learned.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: tensors that do not fit or are not finite, ``no`` of 0, pilots that
            fill the coherence block.

    Example:
        >>> one = torch.ones(1, 1, 1, dtype=torch.complex64)
        >>> float(spectral_efficiency(3 * one, one, one, power=7.0, no=1.0, pilot_uses=50, coherence_uses=200))
        4.5
    """
    share = data_share(pilot_uses, coherence_uses)
    g, u, v = _checked(channel, combiner, precoder)
    batch = g.shape[:-3]
    real = g.real.dtype
    level = _positive("no", check_noise(no, batch, dtype=real, device=g.device))
    p = check_noise(power, batch, dtype=real, device=g.device, field="power")
    # Subcarriers first, then u^H G v of every pair of streams.
    g, u, v = (x.movedim(-1, -3) for x in (g, u, v))
    gains = (u.mH @ g @ v).abs().square() * _last(p, 3)
    signal = gains.diagonal(dim1=-2, dim2=-1)
    noise = _last(level, 2) * u.abs().square().sum(dim=-2) + (gains.sum(dim=-1) - signal).clamp_min(0.0)
    silent = noise <= 0  # a combiner of zeros hears nothing, and neither signal
    sinr = signal / torch.where(silent, torch.ones_like(noise), noise)
    return share * torch.log1p(sinr).sum(dim=-1).mean(dim=-1) / _LOG2


def data_share(pilot_uses: float, coherence_uses: float | None) -> float:
    r"""Share of a coherence block that is left for data, :math:`1 - \tau_p / \tau_c`.

    Args:
        pilot_uses: channel uses of the pilots, at least 0.
        coherence_uses: channel uses of the block, more than ``pilot_uses``; None, with no pilots: a block without end.

    Raises:
        InvalidValueError: pilots that fill the block or more, or that have no block.

    Example:
        >>> data_share(18, 200)
        0.91
    """
    pilots = check_real("pilot_uses", pilot_uses, minimum=0.0)
    if coherence_uses is None:
        if pilots:
            raise InvalidValueError(f"coherence_uses=None with pilot_uses={pilots:g}: state how long the coherence block is")
        return 1.0
    block = check_real("coherence_uses", coherence_uses, positive=True)
    if pilots >= block:
        raise InvalidValueError(f"pilot_uses={pilots:g} must be less than coherence_uses={block:g}: no use is left for data")
    return 1.0 - pilots / block


# -- Small steps. --


def _checked(
    channel: torch.Tensor, combiner: torch.Tensor, precoder: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = check_finite("channel", check_tensor("channel", channel, kind="complex"))
    if g.dim() < 3:
        raise ShapeError(f"channel has shape {tuple(g.shape)}; it must be (*batch, num_bs_ant, num_ms_ant, num_subcarriers)")
    beams = []
    for name, beam, antennas in (("combiner", combiner, g.shape[-3]), ("precoder", precoder, g.shape[-2])):
        check_finite(name, check_tensor(name, beam, kind="complex"))
        if beam.dtype != g.dtype:
            raise InvalidTypeError(f"{name} has dtype {beam.dtype}; the channel has {g.dtype}")
        fits = beam.dim() == g.dim() and beam.shape[-3] == antennas and beam.shape[-1] in (1, g.shape[-1])
        if not fits or any(have not in (1, want) for have, want in zip(beam.shape[:-3], g.shape[:-3], strict=True)):
            want = f"({', '.join([*map(str, g.shape[:-3]), str(antennas), 'num_streams', str(g.shape[-1])])})"
            raise ShapeError(f"{name} has shape {tuple(beam.shape)}; it must be {want} for a channel {tuple(g.shape)}")
        beams.append(beam)
    if beams[0].shape[-2] != beams[1].shape[-2]:
        raise ShapeError(f"combiner has {beams[0].shape[-2]} streams, precoder {beams[1].shape[-2]}; they must be as many")
    return g, beams[0], beams[1]


def _positive(name: str, level: torch.Tensor) -> torch.Tensor:
    """A noise variance above 0: a rate without noise is infinite."""
    if not torch.compiler.is_compiling() and level.numel():
        least = float(level.detach().min())
        if least <= 0:
            raise InvalidValueError(f"{name}={least:g} must be greater than 0: without noise no rate is finite")
    return level


def _last(value: torch.Tensor, axes: int) -> torch.Tensor:
    """A number, or (*batch) with ``axes`` further axes of length 1."""
    return value.reshape(*value.shape, *([1] * axes)) if value.dim() else value
