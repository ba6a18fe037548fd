"""The Kronecker dictionary of a link through an IRS, on a grid of directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_finite,
    check_int,
    check_shape,
    check_tensor,
    unknown_name,
)
from wichan.linalg.kronecker import mode_product
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.dictionary import ZERO_COLUMN, KroneckerDictionary, mode_products

if TYPE_CHECKING:
    from wichan.observations.irs import IRSTraining

_ENDS = ("irs", "ms", "bs")


class IRSDictionary(KroneckerDictionary):
    r"""Atoms of the cascade: one factor for the surface, one for each end, and one for delays over a wide band.

    A reflection pattern weighs the sum of arriving and departing direction cosine only, so that the two hops' directions at
    the surface are one axis:

    .. math:: H_b \operatorname{diag}(\theta) H_a = \sum_{v,u,w} x_{vuw}\, \big(\theta^{\mathsf T} a_L(v)\big)\,
        a_{bs}(w)\, a_{ms}(u)^{\mathsf T},\qquad v = u_{in} + u_{out} \bmod 2

    The factors are ``"irs"`` (K, R) with entries :math:`\theta_k^{\mathsf T} a_L(v)`, ``"ms"`` with :math:`X^{\mathsf T}
    a_{ms}(u)`, ``"bs"`` with :math:`a_{bs}(w)`, and over several subcarriers ``"delay"`` with
    :math:`e^{-j2\pi f\tau}`. Responses have modulus 1, and a grid is :math:`-1 + 2g/R` (`direction_grid`). A planar array
    is one factor whose columns run over its grid row by row. A direct link is one more column of "irs", at its end: ones,
    for no pattern changes it.

    Args:
        observation: the training.
        grid: points along every axis, or a mapping with ``"irs"``, ``"ms"``, ``"bs"``: a number, or (rows, columns) for a
            planar array. At the terminal and the base station there must be as many points as antennas along the axis.
        direct: whether there is the column of the direct link; default whether the link has one.
        delays: over several subcarriers the delays of the cascade, real [s], (n,); or n of them, equally spaced over
            what the subcarriers can tell apart (one over their spacing); default as many as subcarriers.

    Attributes:
        observation: the training.
        has_direct: whether there is the column of the direct link.

    Raises:
        InvalidTypeError, InvalidValueError: a grid smaller than the array, an unknown axis, patterns that do not see a
            direction of the grid (a zero column), delays without subcarriers.

    Source: [He2024]_.

    Example:
        >>> from wichan.channels import IRSCascade
        >>> from wichan.observations import IRSTraining
        >>> IRSTraining(IRSCascade(2, 16, 4), num_pilots=2, num_patterns=8).dictionary(grid=6).num_atoms
        (6, 6, 6)
    """

    _elements = ComplexBuffer()  # responses of the surface on its grid, (L + direct, N1)

    def __init__(
        self,
        observation: IRSTraining,
        grid: int | Mapping[str, Any] = 18,
        *,
        direct: bool | None = None,
        delays: int | torch.Tensor | None = None,
    ) -> None:
        sizes = check_grid_points(grid, observation.irs)
        device = observation.pilots.device
        points = [direction_grid(sizes[end], sums=end == "irs").to(device) for end in _ENDS]
        periodic = [True] * len(_ENDS)
        if len(observation.axes) == 4:
            taps, is_cyclic = _check_delays(delays, observation.frequencies)
            points.append(taps.to(device))
            periodic.append(is_cyclic)
        elif delays is not None:
            raise InvalidValueError("delays does not apply: the training has one subcarrier")
        pairs = [observation.atoms(axis, u) for axis, u in zip(observation.axes, points, strict=True)]
        for axis, u, (measured, _) in zip(observation.axes, points, pairs, strict=True):
            _check_seen(axis, u, measured)
        surface = observation.response("irs", points[0])
        has_direct = observation.has_direct if direct is None else bool(direct)
        if has_direct:
            patterns = pairs[0][0]
            constant = torch.cat([patterns, torch.ones_like(patterns[:, :1])], dim=1)
            pairs[0] = (constant, constant)
            surface = torch.block_diag(surface, torch.ones(1, 1, dtype=surface.dtype, device=device))
        super().__init__(
            [measured for measured, _ in pairs],
            [made for _, made in pairs],
            names=observation.axes,
            grids=[*(sizes[end] for end in _ENDS), *((u.numel(),) for u in points[3:])],
            periodic=periodic,
            channel_order=(2, 1, 0, 3)[: len(pairs)],
        )
        self.observation = observation
        for index, values in enumerate(points):
            self.register_buffer(f"coordinates{index}", values, persistent=False)
        self.has_direct = has_direct
        self._elements = surface
        self.channel_shape = observation.channel_shape

    @property
    def coordinates(self) -> tuple[torch.Tensor, ...]:
        """For every factor the coordinates of its grid, (n,), or (n, 2) of a planar array: what `IRSTraining.atoms` takes."""
        return tuple(getattr(self, f"coordinates{index}") for index in range(len(self.names)))

    def to_channel(self, array: torch.Tensor) -> torch.Tensor:
        r"""Axes (\*batch, K, Nms, Nbs[, F]) to (\*batch, Nbs, Nms, K, F); no arithmetic."""
        channel = super().to_channel(array)
        return channel if len(self.names) == 4 else channel.unsqueeze(-1)

    def element_cascade(self, x: torch.Tensor) -> torch.Tensor:
        r"""The cascade element by element, which gives it under any reflection: :math:`G(\theta) = \sum_l \theta_l Z_l`.

        Args:
            x: coefficients, complex (\*batch, N1, N2, N3[, N4]).

        Returns:
            complex, (\*batch, Nbs, Nms, L, F); with a direct link L + 1, the direct link last.
        """
        self._check("x", x, self.num_atoms)
        synthesis = self._cast(self.synthesis or (), x)
        return self.to_channel(mode_products(x, [self._elements.to(x.dtype), *synthesis[1:]]))

    def cascade(self, x: torch.Tensor, reflection: torch.Tensor) -> torch.Tensor:
        r"""The cascade under given reflections, the direct link included.

        Args:
            x: coefficients, complex (\*batch, N1, N2, N3[, N4]).
            reflection: complex, (L,) or (K', L), or with the batch axes of ``x`` in front (\*batch, K', L).

        Returns:
            complex, (\*batch, Nbs, Nms, K', F); differentiable in both.

        Cost: the elements enter through K' L N1 multiply-adds, then everything is of size K'.
        """
        self._check("x", x, self.num_atoms)
        check_shape("reflection", check_tensor("reflection", reflection, kind="complex"), (self.observation.num_irs_elements,))
        weights = reflection.to(x.dtype).reshape(1, -1) if reflection.dim() == 1 else reflection.to(x.dtype)
        lead = x.dim() - len(self.num_atoms)
        if tuple(weights.shape[:-2]) not in ((), tuple(x.shape[:lead])):
            want = (*x.shape[:lead], "K", self.observation.num_irs_elements)
            raise ShapeError(f"reflection has shape {tuple(reflection.shape)}; it must be (L,), (K, L) or {want}")
        if self.has_direct:
            weights = torch.cat([weights, torch.ones_like(weights[..., :1])], dim=-1)
        surface = weights @ self._elements.to(x.dtype)
        # The ends first: they shrink the array, and only the surface's factor differs between samples.
        ends = self._cast((self.synthesis or ())[1:], x)
        order = sorted(range(len(ends)), key=lambda k: ends[k].shape[0] / ends[k].shape[1])
        for k in order:
            x = mode_product(x, ends[k], lead + 1 + k)
        return self.to_channel(mode_product(x, surface, lead))

    # -- The true support. --

    def mode_support(self, draw: Any) -> tuple[torch.Tensor, ...]:
        r"""Which atoms of every factor a draw's paths fall on (the nearest grid point where they lie between).

        Args:
            draw: a geometric draw of the link, or a mapping of its columns, ``ms_irs_arrival`` and so on.

        Returns:
            One bool tensor a factor, (\*batch, Nk).

        Raises:
            InvalidValueError: no directions (hops of a clustered delay line, a ray tracer), or no delays where needed.
        """
        triples = self._places(draw)
        return tuple(_marked(places, (size,)) for places, size in zip(triples, self.num_atoms, strict=True))

    def support(self, draw: Any) -> torch.Tensor:
        r"""Which coefficients a draw's paths fall on: bool (\*batch, N1, N2, N3[, N4]); arguments as for `mode_support`.

        On the grid these are all coefficients that are not zero, but for element failures and spherical waves. Memory: a
        byte a coefficient and link, which planar arrays make many; `mode_support` is small.
        """
        flat = torch.zeros((), dtype=torch.int64)
        for places, size in zip(self._places(draw), self.num_atoms, strict=True):
            flat = flat.to(places.device) * size + places
        return _marked(flat, self.num_atoms)

    def _places(self, draw: Any) -> list[torch.Tensor]:
        """For every factor the atom of every pair of paths, int64 (*batch, pairs); the direct link's paths last."""
        paths = _paths(draw)
        first, second = _entry(paths, "ms_irs_arrival"), _entry(paths, "irs_bs_departure")
        through = first.unsqueeze(-2) + second.unsqueeze(-3)  # (*batch, P, Q, axes)
        batch, grid = through.shape[:-3], through.shape[-3:-1]
        places = [
            self._nearest(0, through),
            self._nearest(1, _entry(paths, "ms_irs_departure")).unsqueeze(-1).expand(*batch, *grid),
            self._nearest(2, _entry(paths, "irs_bs_arrival")).unsqueeze(-2).expand(*batch, *grid),
        ]
        if len(self.names) == 4:
            delay = _entry(paths, "ms_irs_delay").unsqueeze(-1) + _entry(paths, "irs_bs_delay").unsqueeze(-2)
            places.append(self._nearest_delay(delay).expand(*batch, *grid))
        places = [place.flatten(-2) for place in places]
        return self._with_direct(paths, places) if self.has_direct else places

    def _with_direct(self, paths: Mapping[str, torch.Tensor], places: list[torch.Tensor]) -> list[torch.Tensor]:
        ms = self._nearest(1, _entry(paths, "direct_departure"))
        more = [torch.full_like(ms, self.num_atoms[0] - 1), ms, self._nearest(2, _entry(paths, "direct_arrival"))]
        if len(self.names) == 4:
            more.append(self._nearest_delay(_entry(paths, "direct_delay")).expand_as(ms))
        return [torch.cat([old, new], dim=-1) for old, new in zip(places, more, strict=True)]

    def _nearest(self, factor: int, cosines: torch.Tensor) -> torch.Tensor:
        shape = self.grids[factor] or ()
        if cosines.shape[-1] != len(shape):
            raise ShapeError(
                f"directions have {cosines.shape[-1]} cosines a path; factor {self.names[factor]!r} has {len(shape)} axes"
            )
        place = torch.zeros((), dtype=torch.int64, device=cosines.device)
        for axis, size in enumerate(shape):
            above = cosines[..., axis].double() - _first_point(size, sums=factor == 0)
            point = torch.round(above * (size / 2)).to(torch.int64) % size
            place = place * size + point
        return place

    def _nearest_delay(self, delay: torch.Tensor) -> torch.Tensor:
        taps = self.coordinates[3].to(delay.device)
        gap = (delay.double().unsqueeze(-1) - taps).abs()
        if self.periodic[3]:  # a delay and the same delay one period on look alike
            period = 1 / _spacing(self.observation.frequencies)
            gap = gap % period
            gap = torch.minimum(gap, period - gap)
        return gap.argmin(dim=-1)


def direction_grid(shape: tuple[int, ...], *, sums: bool = False) -> torch.Tensor:
    """Direction cosines -1 + 2 g / R: float64 (R,), or (rows x columns, 2) for two axes, row by row.

    ``sums``: the grid that sums of two such cosines fall on, modulo 2. It is the same for even R, and half a step further
    for odd R.
    """
    axes = [_first_point(size, sums) + 2 * torch.arange(size, dtype=torch.float64) / size for size in shape]
    if len(axes) == 1:
        return axes[0]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def _first_point(size: int, sums: bool) -> float:
    return -1 + (1 / size if sums and size % 2 else 0.0)


def check_grid_points(grid: Any, irs: Any) -> dict[str, tuple[int, ...]]:
    """Points along every axis of each end; refuses fewer than antennas at the terminal and the base station."""
    given: dict[str, Any] = dict(grid) if isinstance(grid, Mapping) else dict.fromkeys(_ENDS, grid)
    for name in given:
        if name not in _ENDS:
            raise unknown_name("grid", name, _ENDS)
    found = {}
    for end in _ENDS:
        if end not in given:
            raise InvalidValueError(f"grid[{end!r}] is missing; a mapping must give irs, ms and bs")
        arrays: tuple[int, ...] = getattr(irs, f"{end}_shape")
        value, label = given[end], f"grid[{end!r}]" if isinstance(grid, Mapping) else "grid"
        sizes = tuple(value) if isinstance(value, (tuple, list, torch.Size)) else (value,) * len(arrays)
        if len(sizes) != len(arrays):
            raise InvalidValueError(f"{label}={sizes} must have one number for each of {len(arrays)} axes")
        for size, antennas in zip(sizes, arrays, strict=True):
            check_int(label, size, minimum=1)
            # The surface may have far more elements than the grid has points: a few patterns tell no more apart.
            if end != "irs" and size < antennas:
                raise InvalidValueError(
                    f"{label}={size} must be at least {antennas}, the number of {end.upper()} antennas along the axis"
                )
        found[end] = tuple(int(size) for size in sizes)
    return found


def _check_seen(axis: str, u: torch.Tensor, measured: torch.Tensor) -> None:
    norms = torch.linalg.vector_norm(measured.detach(), dim=0)
    weak = torch.nonzero(norms <= ZERO_COLUMN * norms.max()).flatten()
    if weak.numel():
        blind = "patterns" if axis == "irs" else "pilots"
        raise InvalidValueError(
            f"grid has {weak.numel()} of {norms.numel()} directions on the axis {axis!r} that the {blind} do not see (a zero "
            f"column), the first is {u[int(weak[0])].tolist()}; take other {blind} or another grid"
        )


def _spacing(frequencies: torch.Tensor) -> float:
    return float(frequencies.sort().values.diff().min())


def _check_delays(delays: Any, frequencies: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Delays and whether their ends are neighbours."""
    if isinstance(delays, torch.Tensor):
        check_finite("delays", check_tensor("delays", delays, kind="real"))
        if delays.dim() != 1 or not delays.numel():
            raise ShapeError(f"delays has shape {tuple(delays.shape)}; it must be (n,) with n at least 1")
        if float(delays.min()) < 0:
            raise InvalidValueError(f"delays={float(delays.min()):g} must be at least 0")
        return delays.to("cpu", torch.float64), False
    if delays is not None and isinstance(delays, (float, str)):
        raise InvalidTypeError(f"delays={delays!r} must be a number of points or a tensor of delays in s")
    count = frequencies.numel() if delays is None else check_int("delays", delays, minimum=1)
    steps = frequencies.sort().values.diff()
    uniform = math.isclose(float(steps.max()), float(steps.min()), rel_tol=1e-9)
    return torch.arange(count, dtype=torch.float64) / (count * _spacing(frequencies)), uniform


def _paths(draw: Any) -> Mapping[str, torch.Tensor]:
    if isinstance(draw, Mapping):
        return draw
    if not hasattr(draw, "paths"):
        raise InvalidTypeError(f"draw must be an IRSDraw or a mapping of its columns, got {type(draw).__name__}")
    delays = {
        f"{link}_delay": getattr(draw, link).delay for link in ("ms_irs", "irs_bs", "direct") if getattr(draw, link) is not None
    }
    return {**draw.paths, **delays}


def _entry(paths: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in paths:
        raise InvalidValueError(f"draw has no {name!r}; the support needs the directions (and delays) of geometric paths")
    return paths[name]


def _marked(places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """True at the places: int64 (*batch, n) to bool (*batch, *shape)."""
    flat = torch.zeros(*places.shape[:-1], math.prod(shape), dtype=torch.bool, device=places.device)
    return flat.scatter_(-1, places, True).unflatten(-1, shape)
