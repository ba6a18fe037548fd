r"""The kernel of an IRS link: hops, surface and reflection to channels.

With the paths q of the second and p of the first hop, :math:`s` the responses of the terminals with the gains in them and
:math:`e` the responses of the surface,

.. math:: G[t, f] = \sum_{q,p} s_q s_p^T\; \phi_q[t, f]\, \phi_p[t, f]\; k_{qp}[t],\qquad
    k_{qp}[t] = \sum_\ell e_{q\ell}\, \theta_\ell[t]\, e_{p\ell},\qquad \phi_p[t, f] = e^{j 2\pi(\nu_p t - f \tau_p)} .

This path-level product never makes a hop of L x antennas. It ends in one long product over all *pairs* of paths, or, with
more paths, in a *chain* of small products at every time and frequency. The *element* form makes both hops and multiplies
:math:`H_b\,\mathrm{diag}(\theta) H_a`. `cascade_costs` counts all three, and the cheapest one runs: few paths against many
elements take the first, a clustered delay line with hundreds of rays takes the last.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from wichan.channels.irs_draw import IRSDraw
from wichan.channels.rays import Rays
from wichan.channels.synthesis import delay_phasors, frequency_response, phasors
from wichan.errors import ShapeError, check_choice, check_finite, check_tensor

FORMS = ("auto", "pair", "chain", "element")
# Complex numbers that a pass holds at a time: 64 MiB in single precision.
_HELD = 1 << 23
# Starting the two small products of a link at one time and frequency costs as much as so many multiply-adds of a long product.
_START = 6000
# Writing a number costs as much as so many multiply-adds of a long product.
_PASS = 4


class PathFactors(NamedTuple):
    """Paths of one hop: response of the surface, response of the other end with the gain in it, delay, Doppler."""

    surface: torch.Tensor  # (B, P, L)
    terminal: torch.Tensor  # (B, P, N)
    delay: torch.Tensor  # (B, P)
    doppler: torch.Tensor  # (B, P)
    num_clusters: int  # groups of successive paths with one delay


def path_factors(hop: Rays) -> PathFactors:
    """Flatten a hop whose receiver is the surface; ports of the surface with gains of their own become paths."""
    batch, clusters, rays, ports = hop.gain.shape[:-4].numel(), hop.num_clusters, hop.num_rays, hop.gain.shape[-2]
    gain = hop.gain.reshape(batch, clusters * rays, ports, -1)
    terminal, surface = gain, torch.eye(ports, dtype=gain.dtype, device=gain.device)
    if hop.tx_response is not None:  # polarisation before position
        tx = hop.tx_response.reshape(batch, clusters * rays, 1, 1, -1)
        terminal = (gain.unsqueeze(-1) * tx).flatten(-2)
    if hop.rx_response is not None:
        rx = hop.rx_response.reshape(batch, clusters * rays, 1, 1, -1)
        surface = (surface.unsqueeze(-1) * rx).flatten(-2)
    surface = surface.expand(batch, clusters * rays, ports, -1).flatten(1, 2)
    delay = hop.delay.expand(*hop.batch_shape, clusters).reshape(batch, clusters, 1).expand(-1, -1, rays * ports)
    doppler = hop.doppler.reshape(batch, clusters * rays, 1).expand(-1, -1, ports)
    return PathFactors(surface, terminal.flatten(1, 2), delay.flatten(1), doppler.flatten(1), clusters)


class Sizes(NamedTuple):
    """Numbers that decide the cost of a link; ``moments`` counts the times at which the hops differ: 1 without motion."""

    paths: tuple[int, int]  # of the first and the second hop: rays times ports of the surface
    ports: tuple[int, int]  # of the surface, with gains of their own (polarisations)
    clusters: tuple[int, int]
    elements: int
    antennas: tuple[int, int]  # terminal and base station
    steps: int
    patterns: int
    moments: int
    frequencies: int


def cascade_sizes(draw: IRSDraw, times: int, patterns: int, frequencies: int) -> Sizes:
    """Sizes of a draw with so many times, patterns and frequencies."""
    hops = draw.ms_irs, draw.irs_bs.reciprocal()
    paths = tuple(hop.num_clusters * hop.num_rays * hop.gain.shape[-2] for hop in hops)
    moving = not all(_all_zero(hop.doppler) for hop in hops)
    return Sizes(
        paths=(paths[0], paths[1]),
        ports=(hops[0].gain.shape[-2], hops[1].gain.shape[-2]),
        clusters=(hops[0].num_clusters, hops[1].num_clusters),
        elements=draw.num_irs_elements,
        antennas=(draw.num_tx_ant, draw.num_rx_ant),
        steps=max(times, patterns),
        patterns=patterns,
        moments=times if moving else 1,
        frequencies=frequencies,
    )


def cascade_costs(size: Sizes) -> dict[str, float]:
    """Complex multiply-adds of a link: ``pair`` and ``chain`` (the two ways to end the path form) and ``element``."""
    (first, second), (tx, rx) = size.paths, size.antennas
    resource = size.steps * size.frequencies
    core = size.patterns * first * second * size.elements
    pair = (resource * (rx * tx + _PASS) + rx * tx * _PASS) * first * second
    chain = resource * (_START + first * second * rx + first * rx * tx)
    element = resource * rx * size.elements * (tx + 1)
    for paths, ports, clusters, antennas in zip(size.paths, size.ports, size.clusters, size.antennas, strict=True):
        element += antennas * size.elements * size.moments * (paths // ports + clusters * size.frequencies)
    return {"pair": core + pair, "chain": core + chain, "element": element}


def cascade_response(
    draw: IRSDraw, times: torch.Tensor, frequencies: torch.Tensor, reflection: torch.Tensor | None = None, *, form: str = "auto"
) -> torch.Tensor:
    r"""Channels of IRS links under a reflection.

    Args:
        draw: the links, batch shape (\*batch,).
        times: real [s], (num_times,).
        frequencies: real [Hz], relative to the carrier, (num_frequencies,).
        reflection: complex (L,), (T, L) or (\*batch, T, L) with T = num_times or 1; with one time, T may be any number of
            patterns, all at that time. ``None``: all ones. Cast to the precision of the draw.
        form: ``"auto"``: the cheapest by `cascade_costs`; or the name of one.

    Returns:
        (\*batch, num_rx_ant, num_tx_ant, max(num_times, T), num_frequencies), differentiable in the reflection and the rays.

    Raises:
        ShapeError, InvalidTypeError, UnknownNameError: an argument of a wrong shape, type or name.

    Cost: see `cascade_costs`; a large batch is done in parts that hold at most 64 MiB each.
    """
    for name, value in (("times", times), ("frequencies", frequencies)):
        if check_finite(name, check_tensor(name, value, kind="real")).dim() != 1 or not value.numel():
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must be one axis with at least one entry")
    check_choice("form", form, FORMS)
    theta = effective_reflection(draw, reflection, times.numel())
    size = cascade_sizes(draw, times.numel(), theta.shape[1], frequencies.numel())
    costs = cascade_costs(size)
    way = min(costs, key=costs.__getitem__) if form == "auto" else form
    parts = _parts(draw, theta, size, way)
    run = _element_form if way == "element" else _path_form
    answer = torch.cat([run(part, pattern, times, frequencies, way) for part, pattern in parts])
    answer = answer.reshape(*draw.batch_shape, *answer.shape[1:])
    if draw.direct is None:
        return answer
    # The direct link does not see the surface: one time serves all patterns.
    return answer + frequency_response(draw.direct, times, frequencies)


def effective_reflection(draw: IRSDraw, reflection: torch.Tensor | None, num_times: int) -> torch.Tensor:
    """Reflection times the state of the elements, (B or 1, T, L), in the precision of the draw."""
    elements = draw.num_irs_elements
    if reflection is None:
        theta = torch.ones(1, 1, elements, dtype=draw.dtype, device=draw.ms_irs.gain.device)
    else:
        check_tensor("reflection", reflection, kind="complex")
        shape, batch = tuple(reflection.shape), draw.batch_shape
        own = reflection.dim() == 2 + len(batch) and shape[:-2] == tuple(batch)
        if not shape or shape[-1] != elements or not (own or reflection.dim() <= 2):
            allowed = f"({elements},), (T, {elements}) or ({', '.join(str(n) for n in (*batch, 'T', elements))})"
            raise ShapeError(f"reflection has shape {shape}; it must be {allowed}")
        if reflection.dim() > 1 and num_times > 1 and shape[-2] not in (1, num_times):
            raise ShapeError(f"reflection has {shape[-2]} patterns; {num_times} times ask for 1 or {num_times}")
        theta = reflection.to(device=draw.ms_irs.gain.device, dtype=draw.dtype)
        theta = theta.reshape(-1, shape[-2] if reflection.dim() > 1 else 1, elements)
    if draw.elements is not None:
        theta = theta * draw.elements.to(theta).reshape(-1, 1, elements)
    return theta


def _parts(draw: IRSDraw, theta: torch.Tensor, size: Sizes, way: str) -> list[tuple[IRSDraw, torch.Tensor]]:
    """The draw with one batch axis, in parts that bound the memory of the way."""
    flat = IRSDraw(flatten_batch(draw.ms_irs), flatten_batch(draw.irs_bs))
    (first, second), (tx, rx), resource = size.paths, size.antennas, size.steps * size.frequencies
    held = {
        "pair": (resource + rx * tx) * first * second,
        "chain": resource * (first * (rx + second) + rx * tx),
        "element": size.elements * ((rx + tx) * size.moments * size.frequencies + min(rx, tx) * resource),
    }[way]
    if way != "element":
        held += (size.patterns * min(first, second) + first + second) * size.elements
    else:
        held += (
            sum(n * paths // ports for n, paths, ports in zip((tx, rx), size.paths, size.ports, strict=True)) * size.elements
        )
    count, step = flat.batch_shape.numel(), max(1, _HELD // held)
    if count <= step:
        return [(flat, theta)]
    slices = [slice(start, start + step) for start in range(0, count, step)]
    return [(flat[part], theta if theta.shape[0] == 1 else theta[part]) for part in slices]


def flatten_batch(rays: Rays) -> Rays:
    """The same rays with one batch axis and delays of their own."""
    shape = rays.batch_shape
    lead = len(shape)

    def flat(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.reshape(shape.numel(), *tensor.shape[lead:])

    delay = rays.delay.expand(*shape, rays.num_clusters)
    gain, doppler = rays.gain, rays.doppler
    return Rays(flat(gain), flat(delay), flat(doppler), flat(rays.rx_response), flat(rays.tx_response))  # type: ignore[arg-type]


def _path_form(draw: IRSDraw, theta: torch.Tensor, times: torch.Tensor, frequencies: torch.Tensor, way: str) -> torch.Tensor:
    first, second = path_factors(draw.ms_irs), path_factors(draw.irs_bs.reciprocal())
    core = _core(first, second, theta)  # (B, T', Q, P)
    phase_p, phase_q = (_path_phase(hop, times, frequencies, core.dtype) for hop in (first, second))  # (B, T or 1, F or 1, P)
    if way == "pair":
        weight = core.unsqueeze(2) * phase_q.unsqueeze(-1) * phase_p.unsqueeze(-2)
        steps, tones = max(times.numel(), theta.shape[1]), frequencies.numel()
        weight = weight.expand(-1, steps, tones, -1, -1).reshape(len(core), steps * tones, -1)
        ends = second.terminal[:, :, None, :, None] * first.terminal[:, None, :, None, :]  # (B, Q, P, rx, tx)
        links = ends.flatten(3).flatten(1, 2).mT @ weight.mT
        return links.reshape(len(core), ends.shape[-2], ends.shape[-1], steps, tones)
    left = (phase_q.unsqueeze(-2) * second.terminal.mT[:, None, None]) @ core.unsqueeze(2)  # (B, T, F, rx, P)
    answer = (left * phase_p.unsqueeze(-2)) @ first.terminal[:, None, None]
    answer = answer.expand(-1, max(times.numel(), theta.shape[1]), frequencies.numel(), -1, -1)
    return answer.permute(0, 3, 4, 1, 2).contiguous()


def _core(first: PathFactors, second: PathFactors, theta: torch.Tensor) -> torch.Tensor:
    """What the surface makes of every pair of paths, (B, T', Q, P): one product, the pattern on the side with fewer paths."""
    narrow, wide = (first, second) if first.surface.shape[1] <= second.surface.shape[1] else (second, first)
    lit = narrow.surface.unsqueeze(1) * theta.unsqueeze(2)  # (B, T', narrow, L)
    core = (lit.flatten(1, 2) @ wide.surface.mT).unflatten(1, lit.shape[1:3])
    return core.mT if narrow is first else core


def _path_phase(hop: PathFactors, times: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Phase of every path at every time and frequency, (B, T or 1, F or 1, P)."""
    phase = torch.ones(1, 1, 1, 1, dtype=dtype, device=hop.delay.device)
    if not _all_zero(hop.delay):
        phase = delay_phasors(hop.delay, frequencies, dtype).mT.unsqueeze(1)
    if not _all_zero(hop.doppler):
        phase = phase * phasors(hop.doppler, times, dtype).mT.unsqueeze(2)
    return phase


def _all_zero(value: torch.Tensor) -> bool:
    return not (torch.compiler.is_compiling() or value.requires_grad) and not bool(value.any())


def _element_form(draw: IRSDraw, theta: torch.Tensor, times: torch.Tensor, frequencies: torch.Tensor, way: str) -> torch.Tensor:
    steps, tones = max(times.numel(), theta.shape[1]), frequencies.numel()
    first, second = (_hop(hop, times, frequencies) for hop in (draw.ms_irs, draw.irs_bs.reciprocal()))
    pattern = theta.mT[:, None, :, :, None]  # (B or 1, 1, L, T', 1)
    # The patterns go as more columns to one hop; the other one stands still in one product, if it does not move.
    if second.shape[3] == 1 and (first.shape[3] > 1 or first.shape[-1] <= second.shape[-1]):
        lit = first * pattern  # (B, F, L, T, tx)
        answer = (second.squeeze(3).mT @ lit.flatten(3)).unflatten(3, lit.shape[3:]).permute(0, 2, 4, 3, 1)
    elif first.shape[3] == 1:
        lit = second * pattern
        answer = (first.squeeze(3).mT @ lit.flatten(3)).unflatten(3, lit.shape[3:]).permute(0, 4, 2, 3, 1)
    else:
        lit = (first * pattern).transpose(2, 3)  # (B, F, T, L, tx)
        answer = (second.permute(0, 1, 3, 4, 2) @ lit).permute(0, 3, 4, 2, 1)
    return answer.expand(-1, -1, -1, steps, tones).contiguous()


def _hop(rays: Rays, times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """A whole hop whose receiver is the surface, (B, F or 1, L, T or 1, N): rays of a cluster in one product, then clusters."""
    if rays.gain.shape[-2] > 1:  # ports with gains of their own: there is no response to factor out
        moments = times[:1] if _all_zero(rays.doppler) else times
        return frequency_response(rays, moments, frequencies).permute(0, 4, 1, 3, 2)
    hop = path_factors(rays)
    surface, terminal = (side.unflatten(1, (hop.num_clusters, -1)) for side in (hop.surface, hop.terminal))
    lit = terminal.unsqueeze(3)  # (B, C, R, 1, N)
    if not _all_zero(hop.doppler):
        lit = lit * phasors(hop.doppler, times, terminal.dtype).unflatten(1, (hop.num_clusters, -1)).unsqueeze(-1)
    if _all_zero(hop.delay):
        return (hop.surface.mT @ lit.flatten(1, 2).flatten(2)).unflatten(-1, lit.shape[3:]).unsqueeze(1)
    coefficients = (surface.mT @ lit.flatten(3)).flatten(2)  # (B, C, L * T * N)
    delay = hop.delay.unflatten(1, (hop.num_clusters, -1))[:, :, 0]
    phase = delay_phasors(delay, frequencies, terminal.dtype)  # (B, C, F)
    return (phase.mT @ coefficients).unflatten(2, (surface.shape[-1], *lit.shape[3:]))


def element_channels(draw: IRSDraw, frequencies: torch.Tensor, time: float = 0.0) -> torch.Tensor:
    r"""Channel through every element alone, under the reflection 1, and past the surface.

    Args:
        draw: the links, batch shape (\*batch,).
        frequencies: real [Hz], relative to the carrier, (num_frequencies,).
        time: the moment [s].

    Returns:
        (\*batch, num_rx_ant, num_tx_ant, L, num_frequencies), L + 1 with a direct link, which is last;
        :math:`G(\theta) = \sum_\ell \theta_\ell Z_\ell` (+ direct). 6 FLOP an entry beside the two hops.
    """
    moment = torch.tensor([time], dtype=torch.float64)
    first = frequency_response(draw.ms_irs, moment, frequencies).squeeze(-2)  # (*batch, L, tx, F)
    second = frequency_response(draw.irs_bs, moment, frequencies).squeeze(-2)  # (*batch, rx, L, F)
    if draw.elements is not None:
        second = second * draw.elements.unsqueeze(-2).unsqueeze(-1)
    cascade = second.unsqueeze(-3) * first.transpose(-3, -2).unsqueeze(-4)
    if draw.direct is None:
        return cascade
    return torch.cat([cascade, frequency_response(draw.direct, moment, frequencies)], dim=-2)
