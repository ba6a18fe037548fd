"""DFT beams of antenna arrays whose elements lie on a regular lattice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.channels.arrays import AntennaArray
from wichan.errors import InvalidTypeError, InvalidValueError, check_int


@dataclass(frozen=True, eq=False)
class Beams:
    """Unitary map between the ports of an array and its beams.

    Args:
        order: int64 (num_positions,): position at each lattice point, x slowest, z fastest.
        sizes: lattice points along x, y and z.
        num_pol: polarisations.
        direction: float64 (num_ant, 3): direction cosines of each beam.
    """

    order: torch.Tensor
    sizes: tuple[int, int, int]
    num_pol: int
    direction: torch.Tensor

    @property
    def num_ant(self) -> int:
        """Ports, and beams."""
        return self.num_pol * math.prod(self.sizes)

    @property
    def polarization(self) -> torch.Tensor:
        """Polarisation of each beam, int64 (num_ant,)."""
        return torch.arange(self.num_pol).repeat_interleave(math.prod(self.sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ports to beams along the last axis."""
        lattice = x.unflatten(-1, (self.num_pol, -1)).index_select(-1, self.order.to(x.device)).unflatten(-1, self.sizes)
        beams = torch.fft.fftn(lattice, dim=(-3, -2, -1), norm="ortho")
        return torch.fft.fftshift(beams, dim=(-3, -2, -1)).flatten(-4)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Beams to ports along the last axis."""
        beams = torch.fft.ifftshift(x.unflatten(-1, (self.num_pol, *self.sizes)), dim=(-3, -2, -1))
        lattice = torch.fft.ifftn(beams, dim=(-3, -2, -1), norm="ortho").flatten(-3)
        return lattice.index_select(-1, self.order.argsort().to(x.device)).flatten(-2)


def beams_of(array: AntennaArray | None, num_ant: int) -> Beams:
    """Beams of an array; without one, of ``num_ant`` antennas in a row, in cycles an element.

    Raises:
        InvalidValueError: positions that do not fill a regular lattice.
    """
    if array is None:
        count = check_int("num_ant", num_ant, minimum=1)
        direction = torch.full((count, 3), math.nan, dtype=torch.float64)
        direction[:, 1] = torch.fft.fftshift(torch.fft.fftfreq(count, dtype=torch.float64))
        return Beams(torch.arange(count), (1, count, 1), 1, direction)
    if not isinstance(array, AntennaArray):
        raise InvalidTypeError(f"array must be an AntennaArray (ULA, UPA, Panel) or None, got {type(array).__name__}")
    positions = array.positions.detach().to(torch.float64).cpu()
    found = [_lattice_axis(positions[:, axis], array.name) for axis in range(3)]
    sizes = tuple(size for _, size, _ in found)
    place = (found[0][0] * sizes[1] + found[1][0]) * sizes[2] + found[2][0]
    if math.prod(sizes) != array.num_positions or place.unique().numel() != array.num_positions:
        raise InvalidValueError(f"positions of {array.name} fill no regular lattice; DFT beams need one")
    cosines = torch.meshgrid(*(_cosines(size, step) for _, size, step in found), indexing="ij")
    direction = torch.stack(cosines, dim=-1).reshape(-1, 3).repeat(array.num_pol, 1)
    return Beams(place.argsort(), (sizes[0], sizes[1], sizes[2]), array.num_pol, direction)


def _lattice_axis(values: torch.Tensor, name: str) -> tuple[torch.Tensor, int, float]:
    """Index of each position along one axis, number of points, and their distance [wavelengths]."""
    levels = torch.unique((values * 1e6).round()) / 1e6
    if levels.numel() == 1:
        return torch.zeros_like(values, dtype=torch.int64), 1, 0.0
    gaps = levels.diff()
    if float(gaps.max() - gaps.min()) > 1e-3 * float(gaps.mean()):
        raise InvalidValueError(f"positions of {name} are not evenly spaced; DFT beams need a regular lattice")
    return ((values - levels[0]) / gaps.mean()).round().to(torch.int64), levels.numel(), float(gaps.mean())


def _cosines(size: int, step: float) -> torch.Tensor:
    if size == 1:
        return torch.full((1,), math.nan, dtype=torch.float64)
    return torch.fft.fftshift(torch.fft.fftfreq(size, d=step, dtype=torch.float64))
