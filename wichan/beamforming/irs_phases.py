r"""Phases of an intelligent reflecting surface from its element cascade, beams at both ends, and what they bring.

The cascade Z holds what every element contributes, so that the channel under the reflection :math:`\theta` is

.. math:: G_f(\theta) = \sum_{l=1}^{L} \theta_l Z_{l,f} + D_f, \qquad |\theta_l| = 1,

with the same phases on every subcarrier f. Z comes from the truth (`IRSCascade.element_cascade`) or from an estimate
(`IRSDictionary.element_cascade`); the phases that are best for it are chosen here:

- fixed beams or single antennas, one stream: closed form, `align_phases`, and exact for phases of few bits;
- the best pair of beams and phases for one stream: `irs_beams`;
- the rate of several streams with water-filling: `maximise_rate`. Like `irs_beams`, it climbs from several starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from wichan.beamforming.irs_ascent import Core, compress, race, starts, unit_modulus
from wichan.beamforming.irs_discrete import align_to_levels, discrete_beams, nearest_levels, round_and_refine
from wichan.beamforming.irs_objectives import BeamGain, WaterFilledRate, water_filling
from wichan.errors import (
    InvalidValueError,
    ShapeError,
    check_finite,
    check_generator,
    check_int,
    check_noise,
    check_real,
    check_tensor,
)

_CHUNK_BYTES = 2**28
_MAX_BITS = 12


class IRSBeams(NamedTuple):
    r"""Phases, beams, and what they bring.

    Attributes:
        reflection: :math:`\theta`, complex, (\*batch, L), unit modulus.
        combiner: u of every stream, complex, (\*batch, num_bs_ant, num_streams, num_subcarriers), unit columns.
        precoder: v, complex, (\*batch, num_ms_ant, num_streams, num_subcarriers); its squared norm is the share of power.
        gain: power gain :math:`\frac1F \sum_f \sum_s |u_s^H G_f v_s|^2`, real, (\*batch).
        rate: [bit/s/Hz], real, (\*batch), for the power and noise that were given, or None where none were.
    """

    reflection: torch.Tensor
    combiner: torch.Tensor
    precoder: torch.Tensor
    gain: torch.Tensor
    rate: torch.Tensor | None


def reflect(cascade: torch.Tensor, reflection: torch.Tensor, *, direct: bool = False) -> torch.Tensor:
    r"""Channel of a cascade under a reflection, :math:`G = \sum_l \theta_l Z_l` (+ D).

    Args:
        cascade: Z, complex, (\*batch, num_bs_ant, num_ms_ant, L, num_subcarriers), or L + 1 with the direct link last.
        reflection: complex of the same dtype, (L,) or (\*batch, L); any modulus.
        direct: whether the last entry is the direct link.

    Returns:
        (\*batch, num_bs_ant, num_ms_ant, num_subcarriers), differentiable in both.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: tensors that do not fit or are not finite.
    """
    num_elements = _checked_cascade(cascade, direct)
    check_finite("reflection", check_tensor("reflection", reflection, kind="complex"))
    if reflection.shape not in ((num_elements,), (*cascade.shape[:-4], num_elements)):
        want = f"({num_elements},) or {(*cascade.shape[:-4], num_elements)}"
        raise ShapeError(f"reflection has shape {tuple(reflection.shape)}; it must be {want}")
    channel = (reflection.to(cascade.dtype)[..., None, None, None, :] @ cascade[..., :num_elements, :])[..., 0, :]
    return channel + cascade[..., -1, :] if direct else channel


def random_reflection(
    num_elements: int,
    batch_shape: Sequence[int] = (),
    *,
    num_bits: int | None = None,
    generator: torch.Generator,
    dtype: torch.dtype = torch.complex64,
) -> torch.Tensor:
    r"""Phases drawn from the circle, or from its 2^B levels: what a surface does that knows nothing.

    Args:
        num_elements: L.
        batch_shape: leading axes.
        num_bits: B, or None for continuous phases.
        generator: source of randomness.
        dtype: complex dtype.

    Returns:
        (\*batch_shape, L), unit modulus, on the generator's device.

    Example:
        >>> random_reflection(4, (2,), num_bits=1, generator=torch.Generator().manual_seed(1)).abs().tolist()
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    check_int("num_elements", num_elements, minimum=1)
    check_generator("generator", generator)
    turns = torch.rand(*batch_shape, num_elements, generator=generator, device=generator.device, dtype=torch.float64)
    theta = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    return (theta if num_bits is None else nearest_levels(theta, _bits(num_bits))).to(dtype)


def align_phases(
    cascade: torch.Tensor,
    combiner: torch.Tensor | None = None,
    precoder: torch.Tensor | None = None,
    *,
    direct: bool = False,
    num_bits: int | None = None,
) -> torch.Tensor:
    r"""Best phases for one stream between single antennas or fixed beams, in closed form.

    With :math:`z_l = u^H Z_l v` and :math:`d = u^H D v` the triangle inequality bounds :math:`|d + \sum_l \theta_l z_l|` by
    :math:`|d| + \sum_l |z_l|`, and :math:`\theta_l = e^{j(\arg d - \arg z_l)}` reaches the bound. With ``num_bits`` the best
    of all 2^(BL) discrete choices is found exactly (`align_to_levels`). On several subcarriers, where all share the phases,
    no closed form is known; the mean of :math:`|g_f|^2` is climbed as in `irs_beams`.

    Args:
        cascade: Z, complex, (\*batch, num_bs_ant, num_ms_ant, L, num_subcarriers), or L + 1 with the direct link last.
        combiner: u, complex, (num_bs_ant,) or (\*batch, num_bs_ant, 1, num_subcarriers or 1); None: a single antenna.
        precoder: v, complex, (num_ms_ant,) or (\*batch, num_ms_ant, 1, num_subcarriers or 1); None: a single antenna.
        direct: whether the last entry is the direct link.
        num_bits: B; None: continuous.

    Returns:
        :math:`\theta`, (\*batch, L), unit modulus; 1 where an element contributes nothing. Differentiable on one subcarrier
        without ``num_bits``.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: tensors that do not fit or are not finite.

    Cost: 8 L (num_bs_ant num_ms_ant + num_ms_ant) FLOP.

    Example:
        >>> z = torch.tensor([1j, -2.0, 0.0]).reshape(1, 1, 3, 1)
        >>> abs(reflect(z, align_phases(z))).item()
        3.0
    """
    _checked_cascade(cascade, direct)
    u = _checked_beam("combiner", combiner, cascade, cascade.dim() - 4)
    v = _checked_beam("precoder", precoder, cascade, cascade.dim() - 3)
    z = ((u.conj()[..., None, None, :] * cascade).sum(dim=-4) * v[..., None, :]).sum(dim=-3)
    if cascade.shape[-1] > 1:
        return irs_beams(z[..., None, None, :, :], direct=direct, num_bits=num_bits).reflection
    z = z[..., 0]
    z, d = (z[..., :-1], z[..., -1]) if direct else (z, None)
    if num_bits is not None:
        wide = None if d is None else d.detach().to(torch.complex128)
        return align_to_levels(z.detach().to(torch.complex128), wide, _bits(num_bits)).to(z.dtype)
    theta = unit_modulus(z).conj()
    return (theta if d is None else theta * unit_modulus(d)[..., None]).resolve_conj()


def irs_beams(
    cascade: torch.Tensor,
    *,
    direct: bool = False,
    num_bits: int | None = None,
    num_starts: int = 3,
    max_iter: int = 100,
    tol: float = 1e-5,
) -> IRSBeams:
    r"""Phases and one beam at either end that maximise the mean power gain :math:`\frac1F \sum_f \sigma_{\max}^2(G_f(\theta))`.

    Alternates between the dominant singular pair of G and the alignment of all elements with it; the gain never falls. The
    starts are the phases of the leading singular vectors of all matrices Z_l side by side.

    Args:
        cascade: Z, complex, (\*batch, num_bs_ant, num_ms_ant, L, num_subcarriers), or L + 1 with the direct link last.
        direct: whether the last entry is the direct link.
        num_bits: phases of 2^B levels: exact ones for the beams, and beams again, in turn (on one subcarrier), or rounding
            (on several), and refinement element by element where there are few.
        num_starts: starts, at least 1.
        max_iter: steps at most, at least 1.
        tol: relative gain of a step below which a start rests.

    Returns:
        `IRSBeams` with one stream, without a rate. A cascade of zeros yields gain 0 and unit beams. Nothing is differentiable:
        at an optimum the derivative through phases and beams vanishes; for learning use `reflect` and `spectral_efficiency`.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: a cascade that does not fit or is not finite, parameters out of range.

    Cost: a step takes 16 r_b r_a L F FLOP a start, r_b and r_a being the ranks at the two ends (the numbers of paths, where
        these are few), once (4 (Nbs + Nms) + 8) Nbs Nms L F for finding them.
    """

    def solve(core: Core, rows: slice) -> torch.Tensor:
        objective = BeamGain()
        theta = race(core, starts(core, num_starts), objective, max_iter=max_iter, tol=tol)
        return theta if num_bits is None else discrete_beams(core, theta, objective, num_bits)

    num_bits = None if num_bits is None else _bits(num_bits)
    z, batch = _prepared(cascade, direct, num_starts, max_iter, tol)
    theta = _in_chunks(z, direct, solve)
    u, s, v = _singular(z, theta, direct)
    gain = s[..., 0].square().mean(dim=-1)
    return _result(cascade, batch, theta, u[..., :1], v[..., :1], gain)


def maximise_rate(
    cascade: torch.Tensor,
    power: Any,
    no: Any,
    *,
    direct: bool = False,
    num_streams: int | None = None,
    num_bits: int | None = None,
    num_starts: int = 12,
    max_iter: int = 100,
    tol: float = 1e-5,
) -> IRSBeams:
    r"""Phases, beams and powers that maximise the rate, with water-filling over streams and subcarriers.

    .. math:: \max_{\theta, Q_f \succeq 0} \frac1F \sum_f \log_2 \det\bigl(I + G_f Q_f G_f^H / \mathrm{no}\bigr),
        \qquad \frac1F \sum_f \operatorname{tr} Q_f = P .

    For given phases the optimum is known: singular vectors and water-filling. Its derivative along the phases is that with
    :math:`Q_f` held fixed, and all phases follow it at once (`irs_ascent`); the rate never falls. Gradients on the product of
    circles are used by [Perovic2021]_, alternation element by element by [Zhang2020]_.

    Args:
        cascade, direct, max_iter, tol: as in `irs_beams`.
        power: P, mean transmit power a subcarrier, at least 0, a number or real (\*batch) [unit of ``no``].
        no: noise variance at a receive antenna and subcarrier, greater than 0, a number or real (\*batch).
        num_streams: most streams a subcarrier; None: as many as antennas allow.
        num_bits: phases of 2^B levels, by rounding and refinement element by element.
        num_starts: starts, two thirds from sums of leading singular vectors, the others chirps.

    Returns:
        `IRSBeams` with as many streams as antennas or ``num_streams`` allow; those without power have a precoder of zeros.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `irs_beams`; ``no`` of 0.

    Cost: as `irs_beams`, with all eigenvalues instead of one; discrete phases 3 L eigenvalue problems a pass.
    """
    z, batch = _prepared(cascade, direct, num_starts, max_iter, tol)
    num_bits = None if num_bits is None else _bits(num_bits)
    most = min(z.shape[1:3])
    streams = most if num_streams is None else check_int("num_streams", num_streams, minimum=1, maximum=most)
    snr = _over(power, no, batch, z.device)

    def solve(core: Core, rows: slice) -> torch.Tensor:
        objective = WaterFilledRate(snr[rows], streams)
        theta = race(core, starts(core, num_starts, sums=True), objective, max_iter=max_iter, tol=tol)
        return theta if num_bits is None else round_and_refine(core, theta, objective, num_bits)

    theta = _in_chunks(z, direct, solve)
    u, s, v = (x[..., :streams] for x in _singular(z, theta, direct))
    gains = s.square()
    received = gains * snr[:, None, None]  # for all of the power
    powers = water_filling(received.flatten(1), torch.full_like(snr, s.shape[1])).view_as(s)
    rate = torch.log2(1 + powers * received).sum(dim=-1).mean(dim=-1)
    return _result(cascade, batch, theta, u, v * powers.sqrt()[..., None, :], (powers * gains).sum(dim=-1).mean(dim=-1), rate)


# -- Small steps. --


def _checked_cascade(cascade: torch.Tensor, direct: bool) -> int:
    """Number of elements of a cascade that is fit to use."""
    check_finite("cascade", check_tensor("cascade", cascade, kind="complex"))
    least = 2 if direct else 1
    if cascade.dim() < 4 or cascade.shape[-2] < least or not all(cascade.shape[-4:]):
        want = f"(*batch, num_bs_ant, num_ms_ant, {'L + 1' if direct else 'L'}, num_subcarriers)"
        raise ShapeError(f"cascade has shape {tuple(cascade.shape)}; it must be {want}")
    return cascade.shape[-2] - direct


def _checked_beam(name: str, beam: torch.Tensor | None, cascade: torch.Tensor, axis: int) -> torch.Tensor:
    """A beam as (*batch or nothing, antennas, num_subcarriers or 1)."""
    antennas = cascade.shape[axis]
    if beam is None:
        if antennas > 1:
            raise InvalidValueError(f"{name}=None stands for a single antenna, but the cascade has {antennas}; give a beam")
        return torch.ones(1, 1, dtype=cascade.dtype, device=cascade.device)
    check_finite(name, check_tensor(name, beam, kind="complex"))
    if tuple(beam.shape) == (antennas,):
        return beam.to(cascade.dtype)[:, None]
    want = (*cascade.shape[:-4], antennas, 1, cascade.shape[-1])
    if beam.shape not in (want, (*want[:-1], 1)):
        raise ShapeError(f"{name} has shape {tuple(beam.shape)}; it must be ({antennas},) or {want}: one stream")
    return beam.to(cascade.dtype)[..., 0, :]


def _bits(num_bits: Any) -> int:
    return check_int("num_bits", num_bits, minimum=1, maximum=_MAX_BITS)


def _prepared(
    cascade: torch.Tensor, direct: bool, num_starts: int, max_iter: int, tol: float
) -> tuple[torch.Tensor, torch.Size]:
    """The cascade with one batch axis, and the shape of the batch."""
    _checked_cascade(cascade, direct)
    check_int("num_starts", num_starts, minimum=1)
    check_int("max_iter", max_iter, minimum=1)
    check_real("tol", tol, minimum=0.0)
    return cascade.detach().reshape(-1, *cascade.shape[-4:]), cascade.shape[:-4]


def _over(power: Any, no: Any, batch: torch.Size, device: torch.device) -> torch.Tensor:
    """P / no of every channel, float64 (B,)."""
    level = check_noise(no, batch, dtype=torch.float64, device=device)
    if level.numel() and float(level.min()) <= 0:
        raise InvalidValueError(f"no={float(level.min()):g} must be greater than 0: without noise no rate is finite")
    sent = check_noise(power, batch, dtype=torch.float64, device=device, field="power")
    return (sent / level).expand(batch).reshape(-1)


def _in_chunks(z: torch.Tensor, direct: bool, solve: Callable[[Core, slice], torch.Tensor]) -> torch.Tensor:
    """Reflections (B, L) of all channels, in double precision, so many at once as fit the memory that is meant for it."""
    size = max(1, _CHUNK_BYTES // (16 * 4 * z[0].numel())) if len(z) else 1
    parts = [slice(begin, begin + size) for begin in range(0, len(z), size)]
    with torch.no_grad():
        found = [solve(compress(z[part], direct), part) for part in parts]
    return torch.cat(found) if found else z.new_zeros(0, z.shape[-2] - direct, dtype=torch.complex128)


def _singular(z: torch.Tensor, theta: torch.Tensor, direct: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors and values of G at theta, with subcarriers as second axis: (B, F, antennas, modes), (B, F, modes)."""
    channel = reflect(z, theta.to(z.dtype), direct=direct).to(torch.complex128).movedim(-1, 1)
    u, s, vh = torch.linalg.svd(channel, full_matrices=False)
    return u, s, vh.mH


def _result(
    like: torch.Tensor,
    batch: torch.Size,
    theta: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    gain: torch.Tensor,
    rate: torch.Tensor | None = None,
) -> IRSBeams:
    """Everything in the batch shape and dtype of the cascade."""
    beams = (theta, u.movedim(1, -1), v.movedim(1, -1))
    theta, u, v = (x.resolve_conj().to(like.dtype).reshape(*batch, *x.shape[1:]) for x in beams)
    gain = gain.to(like.real.dtype).reshape(batch)
    return IRSBeams(theta, u, v, gain, None if rate is None else rate.to(gain.dtype).reshape(batch))
