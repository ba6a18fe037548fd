"""Ray angles of a CDL profile and the tables that turn a random coupling into array responses by look-up.

Within a cluster there are 20 azimuths and 20 zeniths at each end; random coupling picks pairs of them. So everything
that depends on a direction (field, array phase, unit vector) is computed once for the 20 x 20 pairs of each cluster, and
a sample is a gather: no sine or cosine for each antenna and ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from wichan.channels.arrays import unit_vector
from wichan.channels.plane_waves import Terminal, port_gains
from wichan.channels.profiles import ANGLES, ClusterTable, load_table
from wichan.errors import check_real, unknown_name


@dataclass(frozen=True, eq=False)
class RayAngles:
    """Angles [rad] of all rays before coupling, in the sense of the link (arrival at its receiver).

    Args:
        angle: ``aod, aoa, zod, zoa``, float64 (num_clusters, num_rays).
        los: the specular ray's angles, or ``None``.
        power: cluster powers, float64 (num_clusters,).
    """

    angle: dict[str, torch.Tensor]
    los: dict[str, torch.Tensor] | None
    power: torch.Tensor

    @property
    def num_clusters(self) -> int:
        """Scattering clusters."""
        return self.angle["aoa"].shape[0]

    @property
    def num_rays(self) -> int:
        """Rays a cluster."""
        return self.angle["aoa"].shape[1]

    def specular(
        self, rx: Terminal, tx: Terminal, moving: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Port gains (num_rx_pol, num_tx_pol), direction (3,) at the moving end, and both responses of the LoS ray (7.5-29)."""
        assert self.los is not None
        matrix = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.complex128))
        rx_field = rx.array.global_field(self.los["zoa"], self.los["aoa"], rx.orientation)
        tx_field = tx.array.global_field(self.los["zod"], self.los["aod"], tx.orientation)
        gain = port_gains(rx_field, matrix, tx_field)
        zenith, azimuth = ("zoa", "aoa") if moving == "rx" else ("zod", "aod")
        return (
            gain,
            unit_vector(self.los[zenith], self.los[azimuth]),
            rx.array.response(self.los["zoa"], self.los["aoa"], rx.orientation),
            tx.array.response(self.los["zod"], self.los["aod"], tx.orientation),
        )


def ray_angles(
    profile: ClusterTable, direction: str, angle_mean: Mapping[str, float], angle_spread: Mapping[str, float]
) -> RayAngles:
    """Angles of every ray (7.7-0a), scaled where asked for (7.7-5), swapped for the uplink."""
    for field, given in (("angle_mean", angle_mean), ("angle_spread", angle_spread)):
        for key, value in given.items():
            if key not in ANGLES:
                raise unknown_name(field, key, ANGLES)
            check_real(f"{field}[{key}]", value, minimum=0.0 if field == "angle_spread" else None)
    offsets = torch.tensor(load_table("tr38901_cdl")["ray_offsets"], dtype=torch.float64)
    rays, los = {}, {}
    for key in ANGLES:
        ray = profile.angles[key][:, None] + profile.spreads[key] * offsets
        one = torch.tensor(math.nan if profile.los_angles is None else profile.los_angles[key], dtype=torch.float64)
        if key in angle_mean or key in angle_spread:
            ray, one = _rescale(ray, one, profile, angle_mean.get(key), angle_spread.get(key))
        rays[key], los[key] = (_fold(ray), _fold(one)) if key.startswith("z") else (ray, one)
    if direction == "uplink":
        swap = {"aod": "aoa", "aoa": "aod", "zod": "zoa", "zoa": "zod"}
        rays, los = {key: rays[swap[key]] for key in ANGLES}, {key: los[swap[key]] for key in ANGLES}
    return RayAngles(rays, None if profile.los_angles is None else los, profile.power)


def circular_mean_and_spread(angle: torch.Tensor, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power-weighted circular mean and RMS spread [rad] of TR 38.901 annex A."""
    moment = (torch.polar(power, angle)).sum() / power.sum()
    return moment.angle(), (-2 * moment.abs().clamp(max=1.0).log()).clamp(min=0.0).sqrt()


def _rescale(
    ray: torch.Tensor, los: torch.Tensor, profile: ClusterTable, mean: float | None, spread: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    power = (profile.power / ray.shape[1])[:, None].expand_as(ray).flatten()
    flat = ray.flatten()
    if profile.los_power:
        power = torch.cat([power, torch.tensor([profile.los_power], dtype=power.dtype)])
        flat = torch.cat([flat, los.reshape(1)])
    own_mean, own_spread = circular_mean_and_spread(flat, power)
    factor = 1.0 if spread is None else float(spread / own_spread)
    centre = own_mean if mean is None else torch.tensor(mean, dtype=own_mean.dtype)

    def move(angle: torch.Tensor) -> torch.Tensor:
        return centre + factor * torch.remainder(angle - own_mean + math.pi, 2 * math.pi) - factor * math.pi

    return move(ray), move(los)


def _fold(zenith: torch.Tensor) -> torch.Tensor:
    """Bring zeniths into [0, pi] (TR 38.901 step 7: theta > pi becomes 2 pi - theta)."""
    turned = torch.remainder(zenith, 2 * math.pi)
    return torch.where(turned > math.pi, 2 * math.pi - turned, turned)


class Picked(NamedTuple):
    """What a coupling picked at one end: fields, array responses, directions of every ray."""

    field: torch.Tensor
    response: torch.Tensor | None
    direction: torch.Tensor


@dataclass(frozen=True, eq=False)
class RayTable:
    """Field, response and direction of all (zenith, azimuth) pairs of every cluster at one end, first axis flattened."""

    field: torch.Tensor
    response: torch.Tensor | None
    direction: torch.Tensor
    num_rays: int

    @classmethod
    def build(cls, end: Terminal, angles: RayAngles, zenith: str, azimuth: str) -> RayTable:
        """Tabulate one end; memory is 400 entries a cluster and position."""
        rays = angles.num_rays
        theta = angles.angle[zenith][:, :, None].expand(-1, rays, rays).reshape(-1)
        phi = angles.angle[azimuth][:, None, :].expand(-1, rays, rays).reshape(-1)
        return cls(
            field=end.array.global_field(theta, phi, end.orientation).to(torch.float32),
            response=None if end.array.is_point else end.array.response(theta, phi, end.orientation).to(torch.complex64),
            direction=unit_vector(theta, phi).to(torch.float32),
            num_rays=rays,
        )

    def pick(self, zenith: torch.Tensor, azimuth: torch.Tensor) -> Picked:
        """Gather the pairs of ray indices (batch, num_clusters, num_rays)."""
        base = torch.arange(zenith.shape[1], device=zenith.device)[:, None] * self.num_rays**2
        index = (base + zenith * self.num_rays + azimuth).flatten()

        def gather(table: torch.Tensor) -> torch.Tensor:
            return table.to(index.device).index_select(0, index).unflatten(0, zenith.shape)

        return Picked(gather(self.field), None if self.response is None else gather(self.response), gather(self.direction))
