"""Antenna arrays: element positions, polarisation slants, the TR 38.901 element pattern, and orientation.

Geometry follows TR 38.901 section 7.1: zenith theta from the z axis, azimuth phi from the x axis in the x-y plane; a
panel lies in the y-z plane of its own coordinates and looks along x. Positions are in wavelengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_int, check_real

PATTERNS = ("isotropic", "38.901")


@dataclass(frozen=True, eq=False)
class AntennaArray:
    """Antenna elements that share one pattern, each position with one or two polarisations.

    Ports are numbered polarisation first: port ``p * num_positions + n``.

    Args:
        positions: real (num_positions, 3) in wavelengths, array coordinates.
        slants: polarisation slant angles [rad]; 0 is vertical, pi/2 horizontal, (-pi/4, pi/4) a cross-polarised pair.
        pattern: ``"isotropic"`` or ``"38.901"`` (8 dBi, 65 degrees, 30 dB, table 7.3-1).
    """

    positions: torch.Tensor
    slants: tuple[float, ...] = (0.0,)
    pattern: str = "isotropic"
    name: str = "array"

    def __post_init__(self) -> None:
        positions = torch.as_tensor(self.positions)
        if positions.dim() != 2 or positions.shape[-1] != 3 or not positions.shape[0]:
            raise ShapeError(f"positions has shape {tuple(positions.shape)}; it must be (num_positions, 3)")
        if not positions.is_floating_point():
            positions = positions.to(torch.float64)
        object.__setattr__(self, "positions", positions)
        if not self.slants:
            raise InvalidValueError("slants=() is empty; an array has at least one polarisation")
        check_choice("pattern", self.pattern, PATTERNS)

    @property
    def num_positions(self) -> int:
        """Number of element positions."""
        return self.positions.shape[0]

    @property
    def is_point(self) -> bool:
        """Whether the array is one fixed position at the origin: its phase response is 1 in every direction."""
        return self.num_positions == 1 and not self.positions.requires_grad and not bool(self.positions.any())

    @property
    def num_pol(self) -> int:
        """Polarisations at each position."""
        return len(self.slants)

    @property
    def num_ant(self) -> int:
        """Number of ports."""
        return self.num_positions * self.num_pol

    def power_pattern(self, theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Power gain (linear) towards zenith ``theta`` and azimuth ``phi`` [rad] in array coordinates."""
        if self.pattern == "isotropic":
            return torch.ones_like(theta)
        return element_pattern_38901(theta, phi)

    def field(self, theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Field (F_theta, F_phi) of each polarisation, (*shape, num_pol, 2), polarisation model 2 of section 7.3.2."""
        slants = torch.tensor(self.slants, dtype=theta.dtype, device=theta.device)
        amplitude = self.power_pattern(theta, phi).sqrt().unsqueeze(-1)
        return torch.stack([amplitude * slants.cos(), amplitude * slants.sin()], dim=-1)

    def global_field(self, theta: torch.Tensor, phi: torch.Tensor, orientation: torch.Tensor) -> torch.Tensor:
        """Field in global coordinates of the array turned by ``orientation``, (*shape, num_pol, 2)  (7.1-11, 7.1-15)."""
        local_theta, local_phi, psi = to_local(theta, phi, orientation)
        f = self.field(local_theta, local_phi)
        cos, sin = psi.cos().unsqueeze(-1), psi.sin().unsqueeze(-1)
        return torch.stack([cos * f[..., 0] - sin * f[..., 1], sin * f[..., 0] + cos * f[..., 1]], dim=-1)

    def response(self, theta: torch.Tensor, phi: torch.Tensor, orientation: torch.Tensor | None = None) -> torch.Tensor:
        r"""Phase response :math:`e^{j 2\pi\, \hat r^T d_n}` of every position, (\*shape, num_positions).

        Differentiable in angles, positions and orientation. For a ULA along y it is e^{j pi n sin(phi)} in the horizon.
        """
        positions = self.positions.to(device=theta.device, dtype=theta.dtype)
        if orientation is not None:
            positions = positions @ rotation(orientation.to(theta)).transpose(-1, -2)
        turns = unit_vector(theta, phi) @ positions.transpose(-1, -2)
        angle = 2 * math.pi * (turns - turns.detach().round())
        return torch.complex(angle.cos(), angle.sin())


def unit_vector(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Unit vector towards (theta, phi), (*shape, 3)  (7.1-6)."""
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def rotation(orientation: torch.Tensor) -> torch.Tensor:
    """Rotation matrix of (bearing, downtilt, slant) [rad]: R_z(alpha) R_y(beta) R_x(gamma), (*shape, 3, 3)  (7.1-2)."""
    a, b, c = orientation.unbind(-1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)

    def stack(*entries: torch.Tensor) -> torch.Tensor:
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    about_z = stack(a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero, zero, zero, one)
    about_y = stack(b.cos(), zero, b.sin(), zero, one, zero, -b.sin(), zero, b.cos())
    about_x = stack(one, zero, zero, zero, c.cos(), -c.sin(), zero, c.sin(), c.cos())
    return about_z @ about_y @ about_x


def to_local(
    theta: torch.Tensor, phi: torch.Tensor, orientation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Angles in array coordinates and the polarisation turn psi  (7.1-7, 7.1-8, 7.1-15)."""
    orientation = orientation.to(theta)
    local = unit_vector(theta, phi) @ rotation(orientation)  # row vector times R equals R^T times the vector
    a, b, c = orientation.unbind(-1)
    along = c.sin() * theta.cos() * (phi - a).sin()
    along = along + c.cos() * (b.cos() * theta.sin() - b.sin() * theta.cos() * (phi - a).cos())
    across = c.sin() * (phi - a).cos() + b.sin() * c.cos() * (phi - a).sin()
    return local[..., 2].clamp(-1.0, 1.0).acos(), torch.atan2(local[..., 1], local[..., 0]), torch.atan2(across, along)


def element_pattern_38901(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Power pattern of the TR 38.901 element (table 7.3-1): 65 degree beams, 30 dB floor, 8 dBi."""
    width, floor_db, gain_db = math.radians(65.0), 30.0, 8.0
    vertical = (12 * ((theta - math.pi / 2) / width) ** 2).clamp(max=floor_db)
    horizontal = (12 * (phi / width) ** 2).clamp(max=floor_db)
    return 10 ** ((gain_db - (vertical + horizontal).clamp(max=floor_db)) / 10)


def _slants(polarization: str) -> tuple[float, ...]:
    table = {"V": (0.0,), "H": (math.pi / 2,), "VH": (0.0, math.pi / 2), "cross": (-math.pi / 4, math.pi / 4)}
    return table[check_choice("polarization", polarization, table)]


def ULA(
    num_ant: int, *, spacing: float = 0.5, polarization: str = "V", pattern: str = "isotropic", axis: str = "y"
) -> AntennaArray:
    """Uniform linear array along ``axis``, first element at the origin, so that port n has phase e^{j 2 pi n spacing u}.

    Args:
        num_ant: positions, at least 1.
        spacing: element distance [wavelengths].
        polarization: ``"V"``, ``"H"``, ``"VH"`` or ``"cross"`` (two ports a position).
        pattern: ``"isotropic"`` or ``"38.901"``.
        axis: ``"x"``, ``"y"`` or ``"z"``.
    """
    check_int("num_ant", num_ant, minimum=1)
    check_real("spacing", spacing, positive=True)
    column = ("x", "y", "z").index(check_choice("axis", axis, ("x", "y", "z")))
    positions = torch.zeros(num_ant, 3, dtype=torch.float64)
    positions[:, column] = torch.arange(num_ant, dtype=torch.float64) * spacing
    return AntennaArray(positions, _slants(polarization), pattern, name=f"ULA-{num_ant}")


def Panel(
    num_rows: int,
    num_cols: int,
    *,
    spacing: float | Sequence[float] = 0.5,
    polarization: str = "V",
    pattern: str = "isotropic",
) -> AntennaArray:
    """Planar array in the y-z plane, centred on the origin; the row runs fastest (top to bottom), then the column.

    A dual-polarised panel has ``2 * num_rows * num_cols`` ports: all positions of the first polarisation, then all of
    the second, as in the Release-16 benchmark panels and Sionna's ``PanelArray``.

    Args:
        num_rows: rows (vertical), at least 1.
        num_cols: columns (horizontal), at least 1.
        spacing: vertical and horizontal element distance [wavelengths], one number or a pair.
        polarization: ``"V"``, ``"H"``, ``"VH"`` or ``"cross"``.
        pattern: ``"isotropic"`` or ``"38.901"``.
    """
    check_int("num_rows", num_rows, minimum=1)
    check_int("num_cols", num_cols, minimum=1)
    vertical, horizontal = (spacing, spacing) if isinstance(spacing, (int, float)) else spacing
    check_real("spacing", vertical, positive=True)
    check_real("spacing", horizontal, positive=True)
    row = torch.arange(num_rows, dtype=torch.float64).repeat(num_cols)
    col = torch.arange(num_cols, dtype=torch.float64).repeat_interleave(num_rows)
    y = (col - (num_cols - 1) / 2) * horizontal
    z = ((num_rows - 1) / 2 - row) * vertical
    positions = torch.stack([torch.zeros_like(y), y, z], dim=-1)
    return AntennaArray(positions, _slants(polarization), pattern, name=f"panel-{num_rows}x{num_cols}-{polarization}")


def UPA(num_rows: int, num_cols: int, *, spacing: float | Sequence[float] = 0.5) -> AntennaArray:
    """Uniform planar array of isotropic, vertically polarised elements (a `Panel` with those defaults)."""
    return Panel(num_rows, num_cols, spacing=spacing)
