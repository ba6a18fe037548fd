"""Spatially correlated flat fading that is Gaussian given its angles: a covariance of its own for every channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.conditions import refuse_unknown
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.spatial_waves import ArrayEnd
from wichan.errors import InvalidValueError, ShapeError, check_finite, check_generator, check_int, check_real, check_tensor
from wichan.grid import OFDMGrid
from wichan.linalg import psd_sqrt, thin_factor
from wichan.random import complex_normal, uniform

# Innovations drawn at a time: it bounds memory, and it is part of what fixes the bits of a large batch.
_DRAWN = 1 << 22


@dataclass(frozen=True, eq=False)
class SpatialDraw:
    """Channels and the angles and powers whose covariance they were drawn from.

    Attributes:
        h: complex, (batch_size, num_rx_ant, num_tx_ant).
        angles: azimuth of the clusters at the receiver [rad], real (batch_size, num_clusters).
        powers: their powers with sum 1, (batch_size, num_clusters).
        elevations: elevation at a planar receive array [rad], else ``None``.
        tx_angles: azimuth at the transmitter [rad], ``None`` for one transmit antenna.
    """

    h: torch.Tensor
    angles: torch.Tensor
    powers: torch.Tensor
    elevations: torch.Tensor | None = None
    tx_angles: torch.Tensor | None = None

    @property
    def columns(self) -> dict[str, torch.Tensor]:
        """What the draw knows beside the channels; the keyword arguments of `SpatialGaussian.conditional_covariance`."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "h"}
        return {name: value for name, value in values.items() if value is not None}

    def to(self, device: torch.device | str) -> SpatialDraw:
        """Move every tensor to ``device``."""
        return replace(self, h=self.h.to(device), **{name: value.to(device) for name, value in self.columns.items()})

    def double(self) -> SpatialDraw:
        """The same values in double precision."""
        wide = {name: value.double() for name, value in self.columns.items()}
        return replace(self, h=self.h.to(torch.complex128), **wide)


class SpatialGaussian(ChannelModel):
    r"""Flat channels :math:`h \mid \delta \sim \mathcal{CN}(0, C_\delta)` with Laplacian angular spectra around few clusters.

    .. math:: C_\delta = \sum_p g_p \int \ell(\theta - \theta_p)\, a(\theta) a(\theta)^H\, d\theta,\qquad
        a_n(\theta) = e^{+j\pi n \sin\theta},\qquad \ell(\Delta) \propto e^{-\sqrt 2 |\Delta| / s},\ |\Delta| \le \pi.

    Every channel has a :math:`\delta` of its own: angles :math:`\theta_p \sim U(-\text{max\_angle}, \text{max\_angle})` and
    powers :math:`g_p` from U(0, 1), divided by their sum. :math:`C_\delta` has unit diagonal, is Toeplitz for a linear and
    block-Toeplitz for a planar array. The integral is a fixed rule of plane waves for covariances and samples alike, so
    `conditional_covariance` is exactly the covariance of `sample`, and within 3e-7 that of the continuous spectrum.

    With several transmit antennas (a linear array) :math:`C_\delta = C_{rx} \otimes C_{tx}`, antenna index
    ``rx * num_tx_ant + tx``: clusters have the same powers and independent angles at the two ends. With ``num_rows`` the
    receive array is planar, `UPA`; its spectrum is the product of an azimuth and an elevation density around each cluster.

    Args:
        num_rx_ant: receive antennas, half a wavelength apart.
        num_clusters: clusters, 1 to 64.
        num_tx_ant: transmit antennas.
        rx_spread: standard deviation of a cluster's azimuth at the receiver [rad], greater than 0.
        tx_spread: the same at the transmitter [rad].
        num_rows: rows of a planar receive array, a divisor of ``num_rx_ant``; ``None`` for a linear one.
        elevation_spread: standard deviation of a cluster's elevation at a planar array [rad].
        max_angle: largest azimuth of a cluster [rad], at most pi.
        max_elevation: largest elevation of a cluster [rad], at most pi/2: uniform between it and its negative.

    Raises:
        InvalidTypeError, InvalidValueError: an argument that is not allowed.

    Cost: 8 N L FLOP a channel for N antennas and L waves (74 a cluster for N = 64 at 2 degrees).

    Source: the spatial model of [Fesl2024]_, after TR 38.901; its public code has :math:`h` times :math:`(-1)^n` and a small
    phase ramp, and caps a Jacobian (see `wichan.channels.spatial_spectrum`).

    Example:
        >>> model = SpatialGaussian(16)
        >>> draw = model.sample(5, generator=torch.Generator().manual_seed(0))
        >>> draw.h.shape, draw.angles.shape, model.conditional_covariance(draw.angles).shape
        (torch.Size([5, 16, 1]), torch.Size([5, 1]), torch.Size([5, 16, 16]))
    """

    def __init__(
        self,
        num_rx_ant: int,
        num_clusters: int = 1,
        *,
        num_tx_ant: int = 1,
        rx_spread: float = math.radians(2),
        tx_spread: float = math.radians(35),
        num_rows: int | None = None,
        elevation_spread: float = math.radians(1),
        max_angle: float = math.pi / 2,
        max_elevation: float = math.radians(30),
    ) -> None:
        self.num_rx_ant = check_int("num_rx_ant", num_rx_ant, minimum=1)
        self.num_clusters = check_int("num_clusters", num_clusters, minimum=1, maximum=64)
        self.num_tx_ant = check_int("num_tx_ant", num_tx_ant, minimum=1)
        if num_rows is not None and num_rx_ant % check_int("num_rows", num_rows, minimum=1):
            raise InvalidValueError(f"num_rows={num_rows} must be a divisor of num_rx_ant={num_rx_ant}")
        self.max_angle = check_real("max_angle", max_angle, positive=True, maximum=math.pi)
        self.max_elevation = check_real("max_elevation", max_elevation, positive=True, maximum=math.pi / 2)
        lift = _check_spread("elevation_spread", elevation_spread)
        self._rx = ArrayEnd(self.num_rx_ant, _check_spread("rx_spread", rx_spread), num_rows, lift)
        self._tx = ArrayEnd(self.num_tx_ant, _check_spread("tx_spread", tx_spread))
        limits = {"angles": math.pi}
        limits |= {"elevations": math.pi / 2} if self._rx.is_planar else {}
        self._limits = limits | ({"tx_angles": math.pi} if self.num_tx_ant > 1 else {})

    def mean_power(self) -> float:
        """E|h|^2 = 1."""
        return 1.0

    def sample(self, batch_size: int, *, generator: torch.Generator, **conditions: Any) -> SpatialDraw:  # type: ignore[override]
        """Draw ``batch_size`` independent channels.

        Args:
            batch_size: how many.
            generator: source of randomness; everything is computed on its device.
            conditions: ``angles``, ``powers``, ``elevations`` (planar array), ``tx_angles`` (several transmit antennas): fix
                them, real (num_clusters,) or (batch_size, num_clusters); powers count relative to their sum. They are rounded
                to single precision, as the draw holds them; what is fixed leaves the draws of the rest as they are.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: a condition that is unknown, not finite, of a wrong shape, or an
                angle in degrees.
        """
        check_int("batch_size", batch_size, minimum=1)
        check_generator("generator", generator)
        fixed = self._checked(conditions, batch_size)
        size = (batch_size, self.num_clusters)
        drawn = {"angles": uniform(size, -self.max_angle, self.max_angle, generator=generator)}
        drawn["powers"] = 1 - uniform(size, generator=generator)  # in (0, 1]: the sum is never zero
        if self._rx.is_planar:
            drawn["elevations"] = uniform(size, -self.max_elevation, self.max_elevation, generator=generator)
        if self.num_tx_ant > 1:
            drawn["tx_angles"] = uniform(size, -self.max_angle, self.max_angle, generator=generator)
        drawn |= {name: value.to(generator.device, torch.float32).expand(size) for name, value in fixed.items()}
        drawn["powers"] = _shares(drawn["powers"].double()).float()
        h = torch.cat([self._channels(part, generator) for part in self._parts(drawn)])
        return SpatialDraw(h, **drawn)

    def _parts(self, drawn: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """The conditions in double precision, as many samples at a time as fit `_DRAWN` innovations."""
        size = max(1, _DRAWN // (self.num_tx_ant * self.num_clusters * self._rx.num_waves))
        for start in range(0, len(drawn["angles"]), size):
            yield {name: value[start : start + size].double() for name, value in drawn.items()}

    def _channels(self, given: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        azimuth, power = given["angles"], _shares(given["powers"])
        waves = self.num_clusters * self._rx.num_waves
        innovation = complex_normal((len(azimuth), self.num_tx_ant, waves), generator=generator)
        if self.num_tx_ant > 1:
            root = psd_sqrt(self._tx.covariance(given["tx_angles"], None, power))
            innovation = root.to(innovation) @ innovation
        return self._rx.synthesise(innovation, azimuth, given.get("elevations"), power).mT

    def response(self, draw: SpatialDraw, times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        """The drawn channels at every time and frequency: they are flat."""
        return draw.h[..., None, None].repeat(1, 1, 1, times.numel(), frequencies.numel())

    def conditional_covariance(
        self, angles: torch.Tensor, powers: torch.Tensor | None = None, **others: torch.Tensor | None
    ) -> torch.Tensor:
        r"""Covariance :math:`C_\delta` of channels with these angles and powers.

        Args:
            angles: azimuth of the clusters [rad], real (\*batch, num_clusters).
            powers: their powers, relative to the sum, the same shape; ``None`` for a single cluster.
            others: ``elevations`` (planar array) and ``tx_angles`` (several transmit antennas), the same shape.

        Returns:
            complex128, (\*batch, N, N) with N = num_rx_ant * num_tx_ant, unit diagonal. 16 N^2 bytes an item.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: a missing, unknown or wrong argument.
        """
        given = {name: value for name, value in {"angles": angles, "powers": powers, **others}.items() if value is not None}
        values = self._complete(self._checked(given, None))
        batch = values["angles"].shape[:-1]
        flat = {name: value.reshape(-1, self.num_clusters) for name, value in values.items()}
        covariance = self._rx.covariance(flat["angles"], flat.get("elevations"), flat["powers"])
        if self.num_tx_ant > 1:
            other = self._tx.covariance(flat["tx_angles"], None, flat["powers"])
            covariance = torch.einsum("nab,ncd->nacbd", covariance, other).flatten(3).flatten(1, 2)
        return covariance.unflatten(0, batch) if batch else covariance[0]

    def marginal_covariance(self) -> torch.Tensor:
        r"""Covariance over all angles and powers, complex128 (N, N); :math:`J_0(\pi(n-m))` for a linear array and all angles.

        Powers have sum 1 and the angles of the two ends are independent, so neither the number of clusters nor the law of
        the powers matters. For a linear array and ``max_angle`` = pi/2 the spread does not matter either.
        """
        covariance = self._rx.mean_covariance(self.max_angle, self.max_elevation)
        if self.num_tx_ant == 1:
            return covariance
        return torch.kron(covariance, self._tx.mean_covariance(self.max_angle, self.max_elevation))

    def covariance_terms(self, grid: OFDMGrid, **conditions: Any) -> list[KroneckerTerm]:
        """Correlation in space, all ones in time and frequency: given the conditions of `sample`, or over all of them."""
        given = {name: value for name, value in conditions.items() if value is not None}
        if given:
            values = self._complete(self._checked(given, None))
            space = self.conditional_covariance(**values)
        else:
            space = self.marginal_covariance()
        flat_time = torch.ones(grid.num_ofdm_symbols, 1, dtype=torch.complex128)
        flat_frequency = torch.ones(grid.num_subcarriers, 1, dtype=torch.complex128)
        return [KroneckerTerm(space=thin_factor(space, 1e-12), time=flat_time, frequency=flat_frequency)]

    def _checked(self, conditions: dict[str, Any], batch_size: int | None) -> dict[str, torch.Tensor]:
        """Conditions as float64 tensors (*batch, num_clusters), finite and within their limits."""
        known = (*self._limits, "powers")
        refuse_unknown({name: value for name, value in conditions.items() if name not in known}, known)
        values = {}
        for name, value in conditions.items():
            if value is None:
                continue
            tensor = check_finite(name, check_tensor(name, value, kind="real")).detach().double()
            want = (self.num_clusters,) if batch_size is None else (batch_size, self.num_clusters)
            if tensor.dim() < 1 or tuple(tensor.shape[-1:]) != want[-1:]:
                raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; the last axis must have {want[-1]} clusters")
            if batch_size is not None and tuple(tensor.shape) not in (want, want[1:]):
                raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; it must be {want} or {want[1:]}")
            if name == "powers":
                _check_powers(tensor)
            elif tensor.numel() and float(tensor.abs().max()) > self._limits[name] * (1 + 1e-6):
                worst, limit = float(tensor.abs().max()), self._limits[name]
                raise InvalidValueError(f"{name} holds {worst:g}; angles are in radians, at most {limit:.4f} in magnitude")
            values[name] = tensor
        return values

    def _complete(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All conditions of a covariance, of one shape, powers with sum 1."""
        if self.num_clusters == 1 and "powers" not in values and "angles" in values:
            values = {**values, "powers": torch.ones_like(values["angles"])}
        for name in (*self._limits, "powers"):
            if name not in values:
                raise InvalidValueError(f"{name} is missing; a conditional covariance needs {', '.join(self._limits)}, powers")
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        for name, shape in shapes.items():
            if shape != shapes["angles"]:
                raise ShapeError(f"{name} has shape {shape}; angles have {shapes['angles']}")
        return {**values, "powers": _shares(values["powers"])}


def _shares(powers: torch.Tensor) -> torch.Tensor:
    return powers / powers.sum(-1, keepdim=True)


def _check_powers(powers: torch.Tensor) -> None:
    if powers.numel() and (float(powers.min()) < 0 or float(powers.sum(-1).min()) <= 0):
        raise InvalidValueError("powers must be at least 0 and have a sum greater than 0 in every sample")


def _check_spread(field: str, value: Any) -> float:
    spread = check_real(field, value, positive=True)
    if not math.radians(0.01) <= spread <= math.pi:
        raise InvalidValueError(f"{field}={spread:g} must lie between 0.000175 (0.01 degrees) and pi radians")
    return spread
