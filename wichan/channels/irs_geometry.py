r"""Arrays of the three ends of an IRS link and the rays between them, from direction cosines.

Every array has half a wavelength between elements and answers to a wave of direction cosine u along an axis with
:math:`e^{+j\pi m u}` at element m, at departure as at arrival; element 0 is at the origin. A planar array of R rows and C
columns numbers its elements row by row, :math:`r C + c`, with phase :math:`e^{j\pi(r u_{row} + c u_{col})}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wichan.channels.near_field import spherical_response
from wichan.channels.rays import Rays
from wichan.channels.synthesis import phasors
from wichan.errors import InvalidValueError, ShapeError, check_choice, check_finite, check_tensor

#: The two ends of every link, receiver first.
LINKS = {"ms_irs": ("irs", "ms"), "irs_bs": ("bs", "irs"), "direct": ("bs", "ms")}


def num_elements(shape: tuple[int, ...]) -> int:
    """Elements of an array of this shape, (n,) or (rows, cols)."""
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]


def array_response(directions: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    r"""Plane-wave response of a linear or planar array.

    Args:
        directions: real direction cosines, (\*batch, 1) for a linear and (\*batch, 2) for a planar array (row, column).
        shape: (n,) or (rows, cols).
        dtype: complex dtype of the answer; phases are reduced in double precision.

    Returns:
        (\*batch, num_elements), modulus 1, differentiable in ``directions``.

    Raises:
        ShapeError: the last axis does not fit ``shape``.
    """
    if directions.shape[-1] != len(shape):
        raise ShapeError(f"directions has shape {tuple(directions.shape)}; the last axis must have {len(shape)} cosines")
    axes = [
        phasors(directions[..., axis] / 2, torch.arange(size, dtype=torch.float64), dtype) for axis, size in enumerate(shape)
    ]
    if len(axes) == 1:
        return axes[0]
    return (axes[0].unsqueeze(-1) * axes[1].unsqueeze(-2)).flatten(-2)


@dataclass(frozen=True)
class IRSGeometry:
    """Shapes of the three arrays; it turns paths into rays.

    Args:
        ms, irs, bs: shape of each array, (n,) for a linear and (rows, cols) for a planar one.
        wavelength: carrier wavelength [m]; needed for paths with a distance (spherical waves), else ``None``.
    """

    ms: tuple[int, ...]
    irs: tuple[int, ...]
    bs: tuple[int, ...]
    wavelength: float | None = None

    def shape(self, end: str) -> tuple[int, ...]:
        """Shape of the array at ``"ms"``, ``"irs"`` or ``"bs"``."""
        check_choice("end", end, ("ms", "irs", "bs"))
        shape: tuple[int, ...] = getattr(self, end)
        return shape

    def responses(
        self, link: str, paths: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.complex64
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Responses of the receiving and the transmitting array to the paths of a link.

        Args:
            link: ``"ms_irs"``, ``"irs_bs"`` or ``"direct"``.
            paths: ``{link}_arrival`` and ``{link}_departure``, direction cosines (\*batch, P, axes); with
                ``{link}_distance`` [m], (\*batch, P), the waves at the IRS are spherical.
            dtype: complex dtype of the answer.

        Returns:
            ``(rx, tx)``, complex (\*batch, P, num_elements).
        """
        check_choice("link", link, LINKS)
        distance = paths.get(f"{link}_distance")
        ends = []
        for end, side in zip(LINKS[link], ("arrival", "departure"), strict=True):
            name = f"{link}_{side}"
            if name not in paths:
                raise InvalidValueError(f"paths has no entry {name!r}; every link needs arrivals and departures")
            directions = check_finite(name, check_tensor(name, paths[name], kind="real"))
            if end == "irs" and distance is not None:
                if self.wavelength is None:
                    raise InvalidValueError("wavelength=None is missing; paths with a distance need the wavelength in m")
                ends.append(spherical_response(directions, distance, self.irs, wavelength=self.wavelength, dtype=dtype))
            else:
                ends.append(array_response(directions, self.shape(end), dtype))
        return ends[0], ends[1]

    def rays(
        self,
        link: str,
        paths: Mapping[str, torch.Tensor],
        gain: torch.Tensor,
        delay: torch.Tensor | None = None,
        doppler: torch.Tensor | None = None,
    ) -> Rays:
        r"""Rays of a link, one a path; precision is that of ``gain``.

        Args:
            link, paths: as in `responses`.
            gain: complex path gains, (\*batch, P).
            delay: real [s], (\*batch, P); ``None``: all zero, and all paths are rays of one cluster.
            doppler: real [Hz], (\*batch, P); ``None``: none.

        Returns:
            `Rays`, differentiable in gains, directions, distances, delays and Doppler shifts.
        """
        check_finite(f"{link}_gain", check_tensor(f"{link}_gain", gain, kind="complex"))
        rx, tx = self.responses(link, paths, gain.dtype)
        if tuple(rx.shape[:-1]) != tuple(gain.shape) or tuple(tx.shape[:-1]) != tuple(gain.shape):
            shapes = f"{tuple(rx.shape[:-1])} and {tuple(tx.shape[:-1])}"
            raise ShapeError(f"{link}_gain has shape {tuple(gain.shape)}; arrivals and departures ask for {shapes}")
        doppler = torch.zeros(gain.shape, dtype=gain.real.dtype, device=gain.device) if doppler is None else doppler
        if delay is None:
            still = torch.zeros(1, dtype=torch.float64, device=gain.device)
            return Rays(gain[..., None, :, None, None], still, doppler[..., None, :], rx[..., None, :, :], tx[..., None, :, :])
        return Rays(gain[..., None, None, None], delay, doppler[..., None], rx[..., None, :], tx[..., None, :])
