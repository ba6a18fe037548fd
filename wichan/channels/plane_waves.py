"""Plane waves between two arrays: angles, phases and polarisation to `Rays` (TR 38.901 equations 7.5-22 and 7.5-29)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wichan.channels.arrays import AntennaArray, unit_vector
from wichan.channels.rays import Rays


@dataclass(frozen=True, eq=False)
class Terminal:
    """One end of a link: an antenna array with its orientation.

    Args:
        array: the antenna array.
        orientation: bearing, downtilt, slant [rad], (3,).
    """

    array: AntennaArray
    orientation: torch.Tensor


def polarization_matrix(phases: torch.Tensor, xpr: torch.Tensor | float) -> torch.Tensor:
    r"""Random 2 x 2 polarisation matrices of scattered rays, (\*shape, 2, 2), from phases (\*shape, 4) [rad]  (7.5-22).

    Order of the phases: theta-theta, theta-phi, phi-theta, phi-phi; cross terms have power 1/xpr.
    """
    cross = torch.as_tensor(xpr, dtype=phases.dtype, device=phases.device).rsqrt()
    one = torch.ones_like(cross)
    weight = torch.stack([one, cross, cross, one], dim=-1)
    return torch.complex(phases.cos() * weight, phases.sin() * weight).unflatten(-1, (2, 2))


def port_gains(rx_field: torch.Tensor, matrix: torch.Tensor, tx_field: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`F_{rx}^T M F_{tx}` of every polarisation pair, (\*shape, num_rx_pol, num_tx_pol).

    Fields are real (\*shape, num_pol, 2), matrices complex (\*shape, 2, 2). Written out: a batched product of 2 x 2
    matrices would spend its time in overhead.
    """
    sent = matrix[..., None, :, 0] * tx_field[..., 0].unsqueeze(-1) + matrix[..., None, :, 1] * tx_field[..., 1].unsqueeze(-1)
    # sent: (*shape, num_tx_pol, 2)
    return rx_field[..., 0].unsqueeze(-1) * sent[..., None, :, 0] + rx_field[..., 1].unsqueeze(-1) * sent[..., None, :, 1]


def plane_wave_rays(
    angles: dict[str, torch.Tensor],
    matrix: torch.Tensor,
    amplitude: torch.Tensor,
    delay: torch.Tensor,
    rx: Terminal,
    tx: Terminal,
    *,
    wavelength: float,
    velocity: torch.Tensor,
    moving: str = "rx",
) -> Rays:
    r"""Rays of plane waves with given angles.

    Args:
        angles: ``aoa, zoa, aod, zod`` [rad] in global coordinates, each (\*batch, num_clusters, num_rays).
        matrix: complex polarisation matrices, (\*batch, num_clusters, num_rays, 2, 2).
        amplitude: real, broadcastable to (\*batch, num_clusters, num_rays).
        delay: real [s], (\*batch, num_clusters) or (num_clusters,).
        rx, tx: the two ends.
        wavelength: carrier wavelength [m].
        velocity: real [m/s], (\*batch, 3), of the ``moving`` end.
        moving: ``"rx"`` or ``"tx"``.

    Returns:
        `Rays`, differentiable in angles, delays, positions, velocity, orientation, polarisation.
    """
    rx_field = rx.array.global_field(angles["zoa"], angles["aoa"], rx.orientation)
    tx_field = tx.array.global_field(angles["zod"], angles["aod"], tx.orientation)
    gain = port_gains(rx_field, matrix, tx_field) * amplitude[..., None, None]
    zenith, azimuth = ("zoa", "aoa") if moving == "rx" else ("zod", "aod")
    direction = unit_vector(angles[zenith], angles[azimuth])
    doppler = (direction * velocity[..., None, None, :]).sum(-1) / wavelength
    return Rays(
        gain=gain,
        delay=delay,
        doppler=doppler,
        rx_response=_response(rx, angles["zoa"], angles["aoa"], gain.dtype),
        tx_response=_response(tx, angles["zod"], angles["aod"], gain.dtype),
    )


def _response(end: Terminal, theta: torch.Tensor, phi: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    return None if end.array.is_point else end.array.response(theta, phi, end.orientation).to(dtype)
