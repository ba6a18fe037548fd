r"""Closed-form second moments of a CDL.

Phases are independent and uniform, so rays do not correlate with each other, and random coupling makes the pair of
angles of a ray uniform over the 20 x 20 pairs at each end, the two ends independent. A cluster therefore contributes

.. math:: P_c \Big[\sum_{i,j} \kappa_{ij}\, R^{fix}_{c,i} \otimes \sum_g R^{mov}_{c,j,g} \otimes T_{c,g}\Big] \otimes f_c f_c^H,

with polarisation components i, j, weights 1 (co) and 1/XPR (cross), and groups g of rays of the moving end that share
one Doppler law. The sum over g matters: where the array sits on the moving end, angle and Doppler are tied ray by ray.
With a random direction of travel the law depends on the zenith only (20 groups); with a fixed velocity on the pair (400).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from wichan.channels.arrays import unit_vector
from wichan.channels.conditions import per_sample
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.plane_waves import Terminal
from wichan.channels.special import bessel_j0
from wichan.channels.synthesis import delay_phasors, phasors
from wichan.grid import OFDMGrid
from wichan.linalg import thin_factor, toeplitz

if TYPE_CHECKING:
    from wichan.channels.cdl import CDL


def _pair_responses(end: Terminal, theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Field times array phase of every port, (2 components, *shape, num_ant), complex128."""
    field = end.array.global_field(theta, phi, end.orientation).to(torch.complex128)
    phase = end.array.response(theta, phi, end.orientation)
    ports = field[..., :, None, :] * phase[..., None, :, None]  # (*shape, num_pol, num_positions, 2)
    return ports.flatten(-3, -2).movedim(-1, 0)


def _ends(model: CDL) -> tuple[tuple[Terminal, str, str], tuple[Terminal, str, str]]:
    """The fixed end and the moving end, each with the names of its zenith and azimuth."""
    rx, tx = (model.rx, "zoa", "aoa"), (model.tx, "zod", "aod")
    return (rx, tx) if model.moving == "tx" else (tx, rx)


def _pairs(model: CDL, zenith: str, azimuth: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Zenith and azimuth of all pairs, each (num_clusters, num_rays, num_rays): zenith on the second axis."""
    theta, phi = model.angles.angle[zenith], model.angles.angle[azimuth]
    rays = model.angles.num_rays
    return theta[:, :, None].expand(-1, -1, rays), phi[:, None, :].expand(-1, rays, -1)


def _polarization_weights(model: CDL) -> torch.Tensor:
    """Mean powers of a ray's polarisation matrix: 1 co-polarised, 1/XPR crossed, float64 (2, 2)."""
    cross = 1 / model.profile.xpr
    return torch.tensor([[1.0, cross], [cross, 1.0]], dtype=torch.float64)


def cluster_power(model: CDL) -> tuple[torch.Tensor, float]:
    """Mean power of a channel coefficient from each cluster, float64 (num_clusters,), and from the specular ray.

    From the ends' mean port powers in each polarisation component.
    """
    powers = []
    for end, zenith, azimuth in _ends(model):
        ports = _pair_responses(end, *_pairs(model, zenith, azimuth))
        powers.append(ports.abs().square().mean(dim=(-3, -2, -1)))  # (2, num_clusters)
    weight = _polarization_weights(model)
    scattered = torch.einsum("ij,ic,jc->c", weight, *powers) * model.profile.power
    if not model.profile.los_power:
        return scattered, 0.0
    gain, _, _, _ = model.angles.specular(model.rx, model.tx, model.moving)
    return scattered, model.profile.los_power * float(gain.abs().square().mean())


def response_power(model: CDL) -> float:
    """Mean power of a channel coefficient."""
    scattered, specular = cluster_power(model)
    return float(scattered.sum()) + specular


def _doppler_laws(model: CDL, grid: OFDMGrid, speed: torch.Tensor, tied: bool) -> torch.Tensor:
    """Time correlation of every ray group, complex128 (*cond, num_clusters, num_groups, num_times, num_times).

    Groups are the zeniths of the moving end (random direction), all pairs (fixed velocity), or, where angle and Doppler
    are not tied, one group: the mean.
    """
    zenith, azimuth = ("zod", "aod") if model.moving == "tx" else ("zoa", "aoa")
    scale = 2 * math.pi / model.wavelength
    if model.velocity is not None:
        theta, phi = _pairs(model, zenith, azimuth)
        direction = unit_vector(theta, phi).flatten(1, 2)
        along = direction @ model.velocity / max(model.speed[0], 1e-300)
        phase = scale * speed[..., None, None] * along
        wave = torch.polar(torch.ones((), dtype=torch.float64), phase[..., None] * grid.times)
        if not tied:
            return (torch.einsum("...gt,...gs->...ts", wave, wave.conj()) / wave.shape[-2]).unsqueeze(-3)
        return wave[..., :, None] * wave.conj()[..., None, :]
    rays = model.angles.angle[zenith]
    column = _random_heading_law(rays, scale * speed, grid.times)  # (*cond, clusters, rays, times)
    if not tied:
        column = column.mean(-2, keepdim=True)
    return toeplitz(column).to(torch.complex128)


def _random_heading_law(theta: torch.Tensor, wavenumber_speed: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    r"""E over headings of :math:`e^{j k v \hat r \cdot \hat v \Delta t}`, real, (*cond, *theta.shape, num_lags).

    The mean over the azimuth of travel is a Bessel function; the mean over its zenith, uniform in (0, pi), is a midpoint
    rule on a smooth periodic function, so it converges faster than any power.
    """
    # A midpoint rule is exact to double precision once it has a few points for each turn of the fastest phase.
    points = 64 + 4 * math.ceil(float((wavenumber_speed.max() * lags.abs().max()) / (2 * math.pi)))
    heading = (torch.arange(points, dtype=torch.float64) + 0.5) * (math.pi / points)
    phase = wavenumber_speed.reshape(*wavenumber_speed.shape, *([1] * (theta.dim() + 1))) * lags
    across, along = theta.sin()[..., None], theta.cos()[..., None]
    total = torch.zeros(torch.broadcast_shapes(phase.shape, across.shape), dtype=torch.float64)
    for sin, cos in zip(heading.sin().tolist(), heading.cos().tolist(), strict=True):
        total += bessel_j0(phase * across * sin) * torch.cos(phase * along * cos)
    return total / points


def _speed_points(model: CDL, speed: Any, duration: float) -> list[tuple[torch.Tensor, float]]:
    """Speeds and weights to average over: one for an exact speed, Gauss-Legendre points for a range.

    The integrand oscillates with the turns of Doppler phase within ``duration`` [s]: pi points a turn and a margin.
    """
    low, high = model.speed
    if speed is not None or low == high:
        return [(per_sample("speed", low if speed is None else speed), 1.0)]
    import numpy as np

    turns = (high - low) * duration / model.wavelength
    nodes, weights = np.polynomial.legendre.leggauss(24 + math.ceil(math.pi * turns))
    return [
        (torch.tensor(low + (high - low) * (x + 1) / 2, dtype=torch.float64), w / 2)
        for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]


def _space_groups(model: CDL, tied: bool) -> torch.Tensor:
    """Spatial covariance of every cluster and Doppler group, complex128 (num_clusters, num_groups, A, A).

    Groups have weights included (they sum to the cluster's covariance); the antenna index is rx-major.
    """
    (fixed, fixed_zenith, fixed_azimuth), (moving, zenith, azimuth) = _ends(model)
    still = _pair_responses(fixed, *_pairs(model, fixed_zenith, fixed_azimuth)).flatten(2, 3)
    still = torch.einsum("icpa,icpb->icab", still, still.conj()) / still.shape[2]
    ports = _pair_responses(moving, *_pairs(model, zenith, azimuth))  # (2, C, zeniths, azimuths, ant)
    if tied:
        grouped = ports if model.velocity is None else ports.flatten(2, 3).unsqueeze(3)
    else:
        grouped = ports.flatten(2, 3).unsqueeze(2)
    total = ports.shape[2] * ports.shape[3]
    moved = torch.einsum("jcgpa,jcgpb->jcgab", grouped, grouped.conj()) / total
    weight = _polarization_weights(model).to(torch.complex128)
    pattern = "ij,icab,jcgde->cgadbe" if model.moving == "tx" else "ij,icab,jcgde->cgdaeb"
    joint = torch.einsum(pattern, weight, still, moved)
    return joint.flatten(4, 5).flatten(2, 3)


def _is_tied(model: CDL) -> bool:
    """Whether the moving end's response depends on the direction (then angle and Doppler must be summed together)."""
    (_, _, _), (moving, zenith, azimuth) = _ends(model)
    ports = _pair_responses(moving, *_pairs(model, zenith, azimuth))
    return bool((ports - ports[:, :1, :1, :1]).abs().max() > 1e-9)


def cdl_covariance(model: CDL, grid: OFDMGrid, *, delay_spread: Any, speed: Any) -> list[KroneckerTerm]:
    """Second moment of ``model`` on ``grid`` as a sum of Kronecker terms."""
    tied = _is_tied(model)
    speeds = _speed_points(model, speed, float(grid.times[-1]))
    time = sum(weight * _doppler_laws(model, grid, value, tied) for value, weight in speeds)
    assert isinstance(time, torch.Tensor)
    space = _space_groups(model, tied) * model.profile.power[:, None, None, None]
    steering = delay_phasors(model.delays(delay_spread), grid.frequencies, torch.complex128)  # (*cond, C, F)
    terms = []
    for cluster in range(model.angles.num_clusters):
        for group in range(space.shape[1]):
            terms.append(
                KroneckerTerm(
                    space=thin_factor(space[cluster, group], 1e-10),
                    time=thin_factor(time[..., cluster, group, :, :], 1e-12),
                    frequency=steering[..., cluster, :].unsqueeze(-1),
                )
            )
    if model.profile.los_power:
        terms.extend(_specular_terms(model, grid, steering[..., :1, :].mT, speed))
    return terms


def _specular_terms(model: CDL, grid: OFDMGrid, steering: torch.Tensor, speed: Any) -> list[KroneckerTerm]:
    gain, direction, rx, tx = model.angles.specular(model.rx, model.tx, model.moving)
    wave = (gain[:, None, :, None] * rx[None, :, None, None] * tx[None, None, None, :]).reshape(-1, 1)
    theta = direction[2].clamp(-1, 1).acos()
    law: Any = 0.0
    for value, weight in _speed_points(model, speed, float(grid.times[-1])):
        if model.velocity is not None:
            rate = value * (direction @ model.velocity) / max(model.speed[0], 1e-300) / model.wavelength
            tone = phasors(rate, grid.times, torch.complex128)
            law = law + weight * tone[..., :, None] * tone.conj()[..., None, :]
            continue
        column = _random_heading_law(theta, 2 * math.pi / model.wavelength * value, grid.times)
        law = law + weight * toeplitz(column).to(torch.complex128)
    return [KroneckerTerm(space=wave * math.sqrt(model.profile.los_power), time=thin_factor(law, 1e-12), frequency=steering)]
