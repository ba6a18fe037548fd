r"""Spherical waves: array responses to points at a finite distance, and exact line-of-sight rays between two arrays.

A point at distance d from element 0 in direction u is :math:`d_l = |d\,u - p_l|` away from the element at :math:`p_l`, so
the element sees the phase :math:`e^{+j 2\pi (d - d_l)/\lambda}` relative to element 0. For d far beyond the Rayleigh distance
:math:`2 D^2/\lambda` this is the plane wave :math:`e^{+j 2\pi u^T p_l/\lambda}` [Cui2022]_.
"""

from __future__ import annotations

import math

import torch

from wichan.channels.rays import Rays
from wichan.errors import InvalidValueError, ShapeError, check_finite, check_real, check_tensor


def element_offsets(shape: tuple[int, ...], wavelength: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """Positions of the elements of an array with half a wavelength between them [m], float64 (num_elements, axes)."""
    axes = [torch.arange(size, dtype=torch.float64, device=device) * (wavelength / 2) for size in shape]
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], dim=-1)


def rayleigh_distance(shape: tuple[int, ...], wavelength: float) -> float:
    r"""Distance :math:`2 D^2/\lambda` [m] from which on waves count as plane; D is the array's diagonal."""
    check_real("wavelength", wavelength, positive=True)
    return sum(((size - 1) * wavelength / 2) ** 2 for size in shape) * 2 / wavelength


def spherical_response(
    directions: torch.Tensor,
    distance: torch.Tensor,
    shape: tuple[int, ...],
    *,
    wavelength: float,
    amplitude: bool = False,
    dtype: torch.dtype = torch.complex64,
) -> torch.Tensor:
    r"""Response of a linear or planar array to points at a finite distance.

    Args:
        directions: real direction cosines seen from element 0, (\*batch, 1) or (\*batch, 2) (row, column), at most 1 in norm.
        distance: real [m] from element 0, (\*batch,), greater than 0.
        shape: (n,) or (rows, cols), half a wavelength between elements.
        wavelength: carrier wavelength [m].
        amplitude: whether the response also has the amplitude d / d_l of a spherical wave; else its modulus is 1.
        dtype: complex dtype of the answer; phases are computed in double precision.

    Returns:
        (\*batch, num_elements), differentiable in directions and distance; 1 at element 0.

    Raises:
        InvalidValueError: a distance that is not above 0, a direction of norm above 1.
        ShapeError: shapes that do not fit together.
    """
    wavelength = check_real("wavelength", wavelength, positive=True)
    _check_points(directions, distance, len(shape))
    offset = element_offsets(shape, wavelength, directions.device)
    far = distance.to(torch.float64).unsqueeze(-1)
    along, square = directions.to(torch.float64) @ offset.T, offset.square().sum(-1)
    # The difference of path lengths without the cancellation of a difference of two large numbers.
    numerator = 2 * far * along - square
    length = (far.square() - numerator).clamp(min=(1e-9 * wavelength) ** 2).sqrt()
    cycles = numerator / (far + length) / wavelength
    angle = 2 * math.pi * (cycles - cycles.detach().round())
    size = far / length if amplitude else torch.ones_like(angle)
    return torch.polar(size, angle).to(dtype)


def _check_points(directions: torch.Tensor, distance: torch.Tensor, axes: int) -> None:
    check_finite("directions", check_tensor("directions", directions, kind="real"))
    check_finite("distance", check_tensor("distance", distance, kind="real"))
    if directions.shape[-1] != axes:
        raise ShapeError(f"directions has shape {tuple(directions.shape)}; the last axis must have {axes} cosines")
    if tuple(distance.shape) != tuple(directions.shape[:-1]):
        raise ShapeError(f"distance has shape {tuple(distance.shape)}; directions ask for {tuple(directions.shape[:-1])}")
    if torch.compiler.is_compiling() or not distance.numel():
        return
    if float(distance.detach().min()) <= 0:
        raise InvalidValueError(f"distance={float(distance.detach().min()):g} must be greater than 0")
    norm = float(directions.detach().square().sum(-1).max())
    if norm > 1 + 1e-5:
        raise InvalidValueError(f"directions hold a norm of {math.sqrt(norm):g}; spherical waves have at most 1")


def line_of_sight_rays(
    rx_positions: torch.Tensor,
    tx_positions: torch.Tensor,
    *,
    wavelength: float,
    amplitude: torch.Tensor | float | None = None,
    dtype: torch.dtype = torch.complex64,
) -> Rays:
    r"""Exact line of sight between two arrays, :math:`h_{nm} = \alpha_{nm} e^{-j 2\pi d_{nm}/\lambda}`, as rays.

    Between arrays that are near to each other the line of sight has a rank above one, so every transmit antenna is a ray of
    its own: a spherical wave at the receiver from one antenna. The phase of :math:`d_{00}` is in it, the delay is not: the
    signal is taken as narrowband over the arrays, and the common delay is that of the frame.

    Args:
        rx_positions: real [m], (\*batch, N, 3).
        tx_positions: real [m], (\*batch, M, 3).
        wavelength: carrier wavelength [m].
        amplitude: the amplitude of every pair, a number or a tensor that broadcasts to (\*batch, N, M); ``None``: free space,
            :math:`\lambda/(4\pi d_{nm})`.
        dtype: complex dtype of the answer; distances are computed in double precision.

    Returns:
        `Rays` of one cluster at delay 0 with M rays, batch shape (\*batch,), differentiable in the positions.

    Raises:
        InvalidValueError: two antennas at the same place, positions that are not finite.
        ShapeError: positions of a wrong shape.
    """
    wavelength = check_real("wavelength", wavelength, positive=True)
    for name, value in (("rx_positions", rx_positions), ("tx_positions", tx_positions)):
        check_finite(name, check_tensor(name, value, kind="real"))
        if value.dim() < 2 or value.shape[-1] != 3:
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must be (*batch, num_antennas, 3)")
    gaps = rx_positions.to(torch.float64).unsqueeze(-2) - tx_positions.to(torch.float64).unsqueeze(-3)
    length = gaps.square().sum(-1).clamp(min=1e-300).sqrt()
    if not torch.compiler.is_compiling() and float(length.detach().min()) < 1e-9 * wavelength:
        raise InvalidValueError("rx_positions and tx_positions share a point; antennas must be apart")
    cycles = -length / wavelength
    angle = 2 * math.pi * (cycles - cycles.detach().round())
    size = wavelength / (4 * math.pi * length) if amplitude is None else torch.as_tensor(amplitude, dtype=torch.float64)
    wave = torch.polar(size.to(angle.device).expand_as(angle), angle).mT.to(dtype)  # (*batch, M, N): rays first
    batch, count = wave.shape[:-2], wave.shape[-2]
    own = torch.eye(count, dtype=dtype, device=wave.device).expand(*batch, 1, count, count)
    return Rays(
        gain=torch.ones(*batch, 1, count, 1, 1, dtype=dtype, device=wave.device),
        delay=torch.zeros(1, dtype=torch.float64, device=wave.device),
        doppler=torch.zeros(*batch, 1, count, dtype=angle.to(wave.real.dtype).dtype, device=wave.device),
        rx_response=wave.unsqueeze(-3),
        tx_response=own,
    )
