"""Clustered delay lines of TR 38.901: 20 rays a cluster, two arrays, polarisation, motion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from wichan.channels.arrays import ULA, AntennaArray
from wichan.channels.base import ChannelModel
from wichan.channels.cdl_angles import RayTable, ray_angles
from wichan.channels.cdl_covariance import cdl_covariance, response_power
from wichan.channels.conditions import check_delay_spread, per_sample, refuse_unknown
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.plane_waves import Terminal, polarization_matrix, port_gains
from wichan.channels.profiles import cdl_profile
from wichan.channels.rays import Rays
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int, check_real
from wichan.grid import OFDMGrid
from wichan.random import uniform

_CONDITIONS = ("delay_spread", "speed")


class CDL(ChannelModel):
    r"""Clustered delay line: fixed cluster delays and mean angles, random coupling, phases and direction of travel.

    A sample couples the 20 departure and arrival angles of each cluster at random, draws four phases a ray, and gives
    the terminal a velocity of exact ``speed`` in a random direction (azimuth U(0, 2 pi), zenith U(0, pi)). The channel
    is equation (7.5-28) of TR 38.901, plus for CDL-D and -E the specular ray (7.5-29) with a random common phase.

    Args:
        profile: ``"A"`` to ``"E"``.
        delay_spread: RMS delay spread [s] that scales the delays.
        carrier_frequency: carrier [Hz].
        speed: speed of the terminal [m/s], exactly; or a pair (low, high): uniform. (In Sionna 2.2 a single
            ``min_speed`` means uniform in (0, min_speed].)
        tx_array, rx_array: antenna arrays; default one isotropic vertical element.
        direction: ``"uplink"`` (the transmitter is the terminal and moves; angles of the tables are swapped) or
            ``"downlink"`` (the receiver is the terminal and moves).
        tx_orientation, rx_orientation: bearing, downtilt, slant [rad]. Default: base station (0, 0, 0), terminal
            (pi, 0, 0), facing each other.
        velocity: velocity vector of the terminal [m/s], (3,); then ``speed`` is its length and must not be given.
        moving: which end moves, ``"tx"`` or ``"rx"``; default the terminal. Doppler shifts belong to the angles of that end.
            (Sionna 1.x took the arrival angles whichever end moved; ``moving="rx"`` reproduces its uplinks.)
        los_phase: phase of the specular ray [rad], or ``"random"``: uniform, so that the channel has zero mean.
        angle_mean, angle_spread: desired power-weighted means and RMS spreads [rad] of ``aod, aoa, zod, zoa`` (downlink
            sense), by the scaling of TR 38.901 section 7.7.5.1.

    Raises:
        InvalidValueError: an unknown profile, negative spread, speed or carrier, both ``speed`` and ``velocity``.

    Cost of a sample: about 60 FLOP a ray and antenna; the synthesis dominates.
    Sources: TR 38.901 sections 7.5 (steps 8 to 11) and 7.7.1.
    """

    def __init__(
        self,
        profile: str,
        *,
        delay_spread: float,
        carrier_frequency: float,
        speed: float | Sequence[float] | None = None,
        tx_array: AntennaArray | None = None,
        rx_array: AntennaArray | None = None,
        direction: str = "uplink",
        tx_orientation: Sequence[float] | torch.Tensor | None = None,
        rx_orientation: Sequence[float] | torch.Tensor | None = None,
        velocity: Sequence[float] | None = None,
        moving: str | None = None,
        los_phase: float | str = "random",
        angle_mean: Mapping[str, float] | None = None,
        angle_spread: Mapping[str, float] | None = None,
    ) -> None:
        self.profile = cdl_profile(profile)
        self.delay_spread = check_delay_spread(delay_spread)
        self.carrier_frequency = check_real("carrier_frequency", carrier_frequency, positive=True)
        self.wavelength = SPEED_OF_LIGHT / self.carrier_frequency
        self.direction = check_choice("direction", direction, ("uplink", "downlink"))
        self.velocity = None if velocity is None else _vector("velocity", velocity)
        self.speed = self._check_speed(speed)
        terminal_end = "tx" if direction == "uplink" else "rx"
        self.moving = check_choice("moving", terminal_end if moving is None else moving, ("tx", "rx"))
        terminal, station = (math.pi, 0.0, 0.0), (0.0, 0.0, 0.0)
        rx_default, tx_default = (station, terminal) if direction == "uplink" else (terminal, station)
        turned_rx = rx_default if rx_orientation is None else rx_orientation
        turned_tx = tx_default if tx_orientation is None else tx_orientation
        self.rx = Terminal(_array("rx_array", rx_array), _vector("rx_orientation", turned_rx))
        self.tx = Terminal(_array("tx_array", tx_array), _vector("tx_orientation", turned_tx))
        self.num_rx_ant, self.num_tx_ant = self.rx.array.num_ant, self.tx.array.num_ant
        self.los_phase = los_phase if los_phase == "random" else check_real("los_phase", los_phase)
        self.angles = ray_angles(self.profile, direction, angle_mean or {}, angle_spread or {})
        self._rx_table = RayTable.build(self.rx, self.angles, "zoa", "aoa")
        self._tx_table = RayTable.build(self.tx, self.angles, "zod", "aod")
        self._amplitude = (self.profile.power / self.angles.num_rays).sqrt()

    def _check_speed(self, speed: float | Sequence[float] | None) -> tuple[float, float]:
        if self.velocity is not None:
            if speed is not None:
                raise InvalidValueError(f"speed={speed} excludes velocity; the velocity vector has a speed of its own")
            length = float(self.velocity.norm())
            return length, length
        if speed is None:
            raise InvalidValueError("speed=None is missing; give a speed in m/s, a pair (low, high), or a velocity vector")
        if isinstance(speed, Sequence) and not isinstance(speed, str):
            if len(speed) != 2:
                raise ShapeError(f"speed={tuple(speed)} must be one number or a pair (low, high)")
            low, high = check_real("speed", speed[0], minimum=0.0), check_real("speed", speed[1], minimum=0.0)
            if high < low:
                raise InvalidValueError(f"speed=({low:g}, {high:g}) must be a pair (low, high) with low <= high")
            return low, high
        exact = check_real("speed", speed, minimum=0.0)
        return exact, exact

    def delays(self, delay_spread: Any = None) -> torch.Tensor:
        """Cluster delays [s], float64, (num_clusters,) or (batch_size, num_clusters)."""
        spread = per_sample("delay_spread", self.delay_spread if delay_spread is None else delay_spread)
        return self.profile.delay * spread.unsqueeze(-1)

    @property
    def k_factor(self) -> float:
        """Rician K of the first cluster (linear), without antenna patterns; `wichan.analysis.k_factor` has them in."""
        return self.profile.k_factor

    def mean_power(self) -> float:
        """E|h|^2 averaged over antenna pairs; the 38.901 element pattern puts 3 to 5 dB into it."""
        return response_power(self)

    def sample(
        self, batch_size: int, *, generator: torch.Generator, delay_spread: Any = None, speed: Any = None, **unknown: Any
    ) -> Rays:
        """Draw channels; ``delay_spread`` and ``speed`` may be tensors (batch_size,) that override the model's."""
        refuse_unknown(unknown, _CONDITIONS)
        check_int("batch_size", batch_size, minimum=1)
        clusters, rays = self.angles.num_clusters, self.angles.num_rays
        velocity = self._draw_velocity(batch_size, speed, generator)
        order = uniform((3, batch_size, clusters, rays), generator=generator).argsort(-1)
        phases = uniform((batch_size, clusters, rays, 4), -math.pi, math.pi, generator=generator)
        # azimuth of departure keeps its order; the three other angles are coupled to it at random
        first = torch.arange(rays, device=order.device).expand_as(order[0])
        rx, tx = self._rx_table.pick(order[0], order[1]), self._tx_table.pick(order[2], first)
        matrix = polarization_matrix(phases, self.profile.xpr)
        gain = port_gains(rx.field, matrix, tx.field) * self._amplitude.to(phases)[:, None, None, None]
        moving = tx if self.moving == "tx" else rx
        doppler = (moving.direction @ velocity[:, None, :, None].to(moving.direction)).squeeze(-1) / self.wavelength
        delay = self.delays(delay_spread).to(gain.device)
        drawn = Rays(gain=gain, delay=delay, doppler=doppler, rx_response=rx.response, tx_response=tx.response)
        return self._add_specular(drawn, velocity, generator) if self.profile.los_power else drawn

    def _draw_velocity(self, batch_size: int, speed: Any, generator: torch.Generator) -> torch.Tensor:
        """Velocity of the terminal, float64, (batch_size, 3)."""
        low, high = self.speed
        azimuth, zenith, length = uniform((3, batch_size), generator=generator, dtype=torch.float64)
        if speed is None:
            exact = low + (high - low) * length
        else:
            exact = per_sample("speed", speed, batch_size).to(length.device).expand(batch_size)
        if self.velocity is not None:
            scale = exact / low if low > 0 else torch.ones_like(exact)
            return self.velocity.to(length.device) * scale.unsqueeze(-1)
        azimuth, zenith = 2 * math.pi * azimuth, math.pi * zenith
        heading = torch.stack([zenith.sin() * azimuth.cos(), zenith.sin() * azimuth.sin(), zenith.cos()], dim=-1)
        return exact.unsqueeze(-1) * heading

    def _add_specular(self, rays: Rays, velocity: torch.Tensor, generator: torch.Generator) -> Rays:
        """Append the line-of-sight ray to the first cluster (and silent rays to the others)."""
        batch = rays.gain.shape[0]
        phase = uniform((batch,), -math.pi, math.pi, generator=generator)
        if self.los_phase != "random":
            phase = torch.full_like(phase, float(self.los_phase))
        gain, direction, rx, tx = self.angles.specular(self.rx, self.tx, self.moving)
        rotation = torch.polar(torch.full_like(phase, math.sqrt(self.profile.los_power)), phase)
        rate = (velocity @ direction.to(velocity)) / self.wavelength

        def extend(tensor: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            extra = torch.zeros_like(tensor[:, :, :1])
            extra[:, 0, 0] = last.to(extra)
            return torch.cat([tensor, extra], dim=2)

        return Rays(
            gain=extend(rays.gain, rotation[:, None, None] * gain.to(rotation)),
            delay=rays.delay,
            doppler=extend(rays.doppler, rate),
            rx_response=None if rays.rx_response is None else extend(rays.rx_response, rx),
            tx_response=None if rays.tx_response is None else extend(rays.tx_response, tx),
        )

    def covariance_terms(
        self, grid: OFDMGrid, *, delay_spread: Any = None, speed: Any = None, **unknown: Any
    ) -> list[KroneckerTerm]:
        """One Kronecker term a cluster (more where angle and Doppler are tied), see `wichan.channels.cdl_covariance`."""
        refuse_unknown(unknown, _CONDITIONS)
        return cdl_covariance(self, grid, delay_spread=delay_spread, speed=speed)


def _array(field: str, value: AntennaArray | None) -> AntennaArray:
    if value is None:
        return ULA(1)
    if not isinstance(value, AntennaArray):
        raise InvalidTypeError(f"{field} must be an AntennaArray (ULA, UPA, Panel), got {type(value).__name__}")
    return value


def _vector(field: str, value: Sequence[float] | torch.Tensor) -> torch.Tensor:
    vector = torch.as_tensor(value, dtype=torch.float64)
    if tuple(vector.shape) != (3,):
        raise ShapeError(f"{field} has shape {tuple(vector.shape)}; it must be (3,)")
    if not bool(torch.isfinite(vector).all()):
        raise InvalidValueError(f"{field}={vector.tolist()} must be finite")
    return vector
