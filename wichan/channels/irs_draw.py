"""`IRSDraw`: the two hops of an IRS link, its direct link, and the state of the surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch

from wichan.channels.irs_geometry import LINKS, IRSGeometry
from wichan.channels.rays import Rays
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_finite, check_tensor


@dataclass(frozen=True, eq=False)
class IRSDraw:
    r"""Channels of a batch of IRS links, before a reflection is chosen.

    Attributes:
        ms_irs: first hop; its receiver is the surface (L elements), its transmitter the terminal.
        irs_bs: second hop; its receiver is the base station, its transmitter the surface.
        direct: link past the surface, or ``None``.
        elements: what each element makes of its reflection, complex (\*batch, L): 0 where it failed; ``None``: all 1.
        paths: of geometric draws, float64: ``ms_irs_arrival``, ``ms_irs_departure``, ``irs_bs_arrival``,
            ``irs_bs_departure`` (and ``direct_...``), direction cosines in [-1, 1), (\*batch, P, axes) with 1 axis for a
            linear and 2 for a planar array; near field: ``ms_irs_distance``, ``irs_bs_distance`` [m], (\*batch, P). Else empty.
        geometry: the arrays behind ``paths``; with it `double` computes the responses anew instead of widening them.

    Raises:
        InvalidTypeError, ShapeError: links that are not `Rays` or do not fit together.
    """

    ms_irs: Rays
    irs_bs: Rays
    direct: Rays | None = None
    elements: torch.Tensor | None = None
    paths: dict[str, torch.Tensor] = field(default_factory=dict)
    geometry: IRSGeometry | None = None

    def __post_init__(self) -> None:
        for name, rays in self._links().items():
            if not isinstance(rays, Rays):
                raise InvalidTypeError(f"{name} must be Rays, got {type(rays).__name__}")
            if rays.batch_shape != self.ms_irs.batch_shape:
                want = tuple(self.ms_irs.batch_shape)
                raise ShapeError(f"{name} has batch shape {tuple(rays.batch_shape)}; ms_irs asks for {want}")
            if rays.gain.dtype != self.ms_irs.gain.dtype:
                raise InvalidTypeError(f"{name} has dtype {rays.gain.dtype}; ms_irs asks for {self.ms_irs.gain.dtype}")
        first, second = self.ms_irs.num_rx_ant, self.irs_bs.num_tx_ant
        if first != second:
            raise ShapeError(f"irs_bs has {second} transmit ports; ms_irs asks for {first}, the elements of the surface")
        if self.direct is not None:
            have, want = (self.direct.num_rx_ant, self.direct.num_tx_ant), (self.num_rx_ant, self.num_tx_ant)
            if have != want:
                raise ShapeError(f"direct has {have} receive and transmit ports; the hops ask for {want}")
        if self.elements is not None:
            check_tensor("elements", self.elements, kind="complex")
            if tuple(self.elements.shape) != (*self.batch_shape, first):
                want = (*self.batch_shape, first)
                raise ShapeError(f"elements has shape {tuple(self.elements.shape)}; the hops ask for {want}")

    @classmethod
    def from_rays(cls, ms_irs: Rays, irs_bs: Rays, direct: Rays | None = None, elements: torch.Tensor | None = None) -> IRSDraw:
        r"""Join hops of any source: a clustered delay line, a ray tracer, a measured set.

        Args:
            ms_irs: first hop, its receive ports are the elements of the surface.
            irs_bs: second hop, its transmit ports are the elements, in the same order.
            direct: the link past the surface, or ``None``.
            elements: state of the elements, complex (\*batch, L).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: rays that do not fit together or are not finite.
        """
        draw = cls(ms_irs, irs_bs, direct, elements)
        for link, rays in draw._links().items():
            for part in fields(rays):
                value = getattr(rays, part.name)
                if value is not None:
                    check_finite(f"{part.name} of {link}", value)
        return draw

    @classmethod
    def from_paths(
        cls,
        geometry: IRSGeometry,
        paths: dict[str, torch.Tensor],
        gains: dict[str, torch.Tensor],
        delays: dict[str, torch.Tensor] | None = None,
        dopplers: dict[str, torch.Tensor] | None = None,
        elements: torch.Tensor | None = None,
    ) -> IRSDraw:
        r"""A draw from directions and gains, differentiable in both (and in distances, delays, Doppler shifts).

        Args:
            geometry: the arrays; `IRSCascade` has one.
            paths: as the attribute, (\*batch, P, axes) and (\*batch, P).
            gains: complex (\*batch, P) for ``ms_irs``, ``irs_bs`` and, for a direct link, ``direct``; their precision is that
                of the rays.
            delays: real [s], (\*batch, P) by link; a link without one has none.
            dopplers: real [Hz], (\*batch, P) by link.
            elements: state of the elements, complex (\*batch, L).
        """
        links = {}
        for name, gain in gains.items():
            check_choice("gains", name, LINKS)
            links[name] = geometry.rays(name, paths, gain, (delays or {}).get(name), (dopplers or {}).get(name))
        for name in ("ms_irs", "irs_bs"):
            if name not in links:
                raise InvalidValueError(f"gains has no entry {name!r}; both hops need gains")
        return cls(links["ms_irs"], links["irs_bs"], links.get("direct"), elements, dict(paths), geometry)

    def _links(self) -> dict[str, Rays]:
        links = {"ms_irs": self.ms_irs, "irs_bs": self.irs_bs}
        return links if self.direct is None else {**links, "direct": self.direct}

    @property
    def batch_shape(self) -> torch.Size:
        """Leading batch axes."""
        return self.ms_irs.batch_shape

    @property
    def num_irs_elements(self) -> int:
        """Elements of the surface, L."""
        return self.ms_irs.num_rx_ant

    @property
    def num_rx_ant(self) -> int:
        """Antennas of the base station."""
        return self.irs_bs.num_rx_ant

    @property
    def num_tx_ant(self) -> int:
        """Antennas of the terminal."""
        return self.ms_irs.num_tx_ant

    @property
    def dtype(self) -> torch.dtype:
        """Complex dtype of the rays."""
        return self.ms_irs.gain.dtype

    @property
    def columns(self) -> dict[str, torch.Tensor]:
        """What a data set stores beside the channels: the paths in single precision, and the state of the elements."""
        columns = {name: value.to(torch.float32) for name, value in self.paths.items()}
        return columns if self.elements is None else {**columns, "elements": self.elements}

    def _map(self, rays: Callable[[Rays], Rays], tensor: Callable[[torch.Tensor], torch.Tensor]) -> IRSDraw:
        elements = None if self.elements is None else tensor(self.elements)
        paths = {name: tensor(value) for name, value in self.paths.items()}
        direct = None if self.direct is None else rays(self.direct)
        return IRSDraw(rays(self.ms_irs), rays(self.irs_bs), direct, elements, paths, self.geometry)

    def to(self, device: torch.device | str) -> IRSDraw:
        """Move every tensor to ``device``; dtypes are kept."""
        return self._map(lambda rays: rays.to(device), lambda tensor: tensor.to(device))

    def double(self) -> IRSDraw:
        """The same draw in double precision; responses of geometric links are computed anew from their directions."""
        wide = self._map(
            lambda rays: rays.double(), lambda value: value.to(torch.complex128 if value.is_complex() else torch.float64)
        )
        if self.geometry is None:
            return wide
        links = {name: wide._exact(name, rays) for name, rays in wide._links().items()}
        return IRSDraw(links["ms_irs"], links["irs_bs"], links.get("direct"), wide.elements, wide.paths, self.geometry)

    def _exact(self, link: str, rays: Rays) -> Rays:
        if self.geometry is None or f"{link}_arrival" not in self.paths:
            return rays
        rx, tx = self.geometry.responses(link, self.paths, torch.complex128)
        shape = rays.gain.shape[:-2]  # the paths are either the rays of one cluster or clusters of one ray
        return replace(rays, rx_response=rx.reshape(*shape, -1), tx_response=tx.reshape(*shape, -1))

    def __getitem__(self, index: int | slice | torch.Tensor) -> IRSDraw:
        """Select along the first batch axis."""
        return self._map(lambda rays: rays[index], lambda tensor: tensor[index])
