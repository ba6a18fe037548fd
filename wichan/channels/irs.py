"""`IRSCascade`: terminal, intelligent reflecting surface and base station."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch

from wichan.channels.base import ChannelModel, NoClosedFormError, normalize_power
from wichan.channels.conditions import per_sample, refuse_unknown
from wichan.channels.irs_arguments import (
    check_array,
    check_carrier,
    check_law_grid,
    check_link_models,
    check_pair,
    check_range,
)
from wichan.channels.irs_draw import IRSDraw
from wichan.channels.irs_elements import draw_elements
from wichan.channels.irs_geometry import LINKS, IRSGeometry, num_elements
from wichan.channels.irs_paths import ANGLE_LAWS, draw_directions
from wichan.channels.irs_synthesis import cascade_response, element_channels
from wichan.channels.rays import Rays
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_generator,
    check_int,
    check_real,
)
from wichan.grid import OFDMGrid, check_grid
from wichan.random import complex_normal, uniform

_GAINS = {"ms_irs": "ms_irs_gain_db", "irs_bs": "irs_bs_gain_db", "direct": "direct_gain_db"}
_CONDITIONS = (*_GAINS.values(), "max_delay", "max_doppler")


class IRSCascade(ChannelModel):
    r"""Uplink over a reflecting surface: :math:`G(\theta) = H_b\,\mathrm{diag}(\theta)\,H_a + D`.

    The terminal (MS) reaches the L elements of the surface over :math:`H_a`, the surface the base station (BS) over
    :math:`H_b`; D is the direct link. Each geometric link is a sum of P paths with gains CN(0, g/P) for a link of gain g,

    .. math:: H = \sum_p g_p\, a_{rx}(u_p)\, a_{tx}(w_p)^T\, e^{j 2\pi(\nu_p t - f\tau_p)},\qquad a_m(u) = e^{+j\pi m u},

    so :math:`E|H_{nm}|^2 = g`. The surface sees the sum of arrival and departure cosine, modulo 2. Elements of a planar
    array are numbered row by row. The published benchmark of [He2024]_ is
    ``IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)`` (there: patterns of modulus :math:`1/\sqrt L`, and conjugated
    departures, which has the same law).

    Args:
        num_ms_ant, num_irs, num_bs_ant: elements of each array: a number (linear) or (rows, cols) (planar).
        num_paths: paths P of every geometric link.
        direct: whether there is a direct link.
        angles: law of the directions, see `wichan.channels.irs_paths`: ``"uniform"``, ``"cluster"``, ``"grid"``, ``"block"``.
        grid_size: points of the grid on every axis: a number, or a dict with keys ``"ms"``, ``"irs"``, ``"bs"`` of numbers or
            pairs; for the laws on a grid only.
        angle_spread: standard deviation of a cluster's arrival angles [rad].
        ms_irs, irs_bs, direct_link: instead of the geometric link, any model whose draws are `Rays` and whose antennas fit; its
            elements of the surface must be in one order at both hops (`wichan.channels.irs_elements.surface_array`).
            ``direct_link`` switches ``direct`` on.
        hop_gain_db: gains of the first and the second hop [dB], absolute if wanted (`wichan.channels.log_distance_gain_db`);
            a hop of its own is scaled by it.
        direct_gain_db: the same of the direct link.
        max_delay: delays of the geometric paths are U(0, max_delay) [s]; 0: narrowband.
        max_doppler: Doppler of the terminal at its full speed [Hz]; it travels in a random direction of the plane of its last
            array axis and broadside, and every departure has the Doppler of its cosine with it.
        failure_rate: probability that an element is dark.
        ms_distance, bs_distance: distance [m] from the surface's element 0 at which the paths of the first (second) hop leave
            (meet) a point: a number, or a pair (low, high), uniform; the surface then answers with spherical waves of unit
            modulus. ``None``: plane waves. At the terminals waves are plane.
        carrier_frequency: carrier [Hz]; only and always with a distance.
        max_amplitude: largest modulus of a reflection that `response` takes; above 1 for an active surface.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError: an argument that is not allowed.

    Cost: see `wichan.channels.irs_synthesis`; the published set-up with 6 patterns takes 0.2 MFLOP a link.

    Example:
        >>> irs = IRSCascade(6, (16, 16), 16, direct=True)
        >>> draw = irs.sample(4, generator=torch.Generator().manual_seed(0))
        >>> theta = torch.ones(3, 256, dtype=torch.complex64)
        >>> irs.response(draw, torch.zeros(3), torch.zeros(1), theta).shape, irs.element_cascade(draw).shape
        (torch.Size([4, 16, 6, 3, 1]), torch.Size([4, 16, 6, 257, 1]))
    """

    has_closed_form = False

    def __init__(
        self,
        num_ms_ant: int | Sequence[int],
        num_irs: int | Sequence[int],
        num_bs_ant: int | Sequence[int],
        num_paths: int = 3,
        *,
        direct: bool = False,
        angles: str = "uniform",
        grid_size: Any = None,
        angle_spread: float = math.radians(5),
        ms_irs: ChannelModel | None = None,
        irs_bs: ChannelModel | None = None,
        direct_link: ChannelModel | None = None,
        hop_gain_db: Sequence[float] = (0.0, 0.0),
        direct_gain_db: float = 0.0,
        max_delay: float = 0.0,
        max_doppler: float = 0.0,
        failure_rate: float = 0.0,
        ms_distance: float | Sequence[float] | None = None,
        bs_distance: float | Sequence[float] | None = None,
        carrier_frequency: float | None = None,
        max_amplitude: float = 1.0,
    ) -> None:
        shapes = {"num_ms_ant": num_ms_ant, "num_irs": num_irs, "num_bs_ant": num_bs_ant}
        self.ms_shape, self.irs_shape, self.bs_shape = (check_array(name, value) for name, value in shapes.items())
        self.num_tx_ant, self.num_rx_ant = num_elements(self.ms_shape), num_elements(self.bs_shape)
        self.num_irs_elements = num_elements(self.irs_shape)
        self.num_paths = check_int("num_paths", num_paths, minimum=1)
        if not isinstance(direct, bool):
            raise InvalidTypeError(f"direct={direct!r} must be True or False, got {type(direct).__name__}")
        self.direct = direct or direct_link is not None
        self.angles = check_choice("angles", angles, ANGLE_LAWS)
        self.angle_spread = check_real("angle_spread", angle_spread, minimum=0.0, maximum=math.pi)
        self.grid_size = check_law_grid(self.angles, grid_size, self.num_paths, self._end_shapes())
        self.models = {"ms_irs": ms_irs, "irs_bs": irs_bs, "direct": direct_link}
        check_link_models(self.models, {"ms": self.num_tx_ant, "irs": self.num_irs_elements, "bs": self.num_rx_ant})
        first, second = check_pair("hop_gain_db", hop_gain_db)
        self.gain_db = {"ms_irs": first, "irs_bs": second, "direct": check_real("direct_gain_db", direct_gain_db)}
        self.max_delay = check_real("max_delay", max_delay, minimum=0.0, maximum=1e-3)
        self.max_doppler = check_real("max_doppler", max_doppler, minimum=0.0, maximum=1e7)
        self.failure_rate = check_real("failure_rate", failure_rate, minimum=0.0, maximum=1.0)
        self.max_amplitude = check_real("max_amplitude", max_amplitude, positive=True)
        distances = {"ms_irs": check_range("ms_distance", ms_distance), "irs_bs": check_range("bs_distance", bs_distance)}
        self.distances = {name: value for name, value in distances.items() if value is not None}
        wavelength = check_carrier(carrier_frequency, self.distances, self.angles, self.models)
        self.geometry = IRSGeometry(self.ms_shape, self.irs_shape, self.bs_shape, wavelength)

    def __repr__(self) -> str:
        sizes = f"num_ms_ant={self.ms_shape}, num_irs={self.irs_shape}, num_bs_ant={self.bs_shape}"
        return f"IRSCascade({sizes}, num_paths={self.num_paths}, angles={self.angles!r}, direct={self.direct})"

    def _end_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"ms": self.ms_shape, "irs": self.irs_shape, "bs": self.bs_shape}

    @property
    def has_mean_power(self) -> bool:  # type: ignore[override]
        """Whether every link has a mean power."""
        return all(model is None or model.has_mean_power for model in self.models.values())

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the links that there are."""
        return tuple(LINKS) if self.direct else ("ms_irs", "irs_bs")

    def mean_power(self) -> float:
        r"""E|G|^2 of an entry for unit-modulus reflections with independent, uniformly random phases.

        :math:`L (1 - r)\, g_a g_b + g_d` with the mean powers of the links and the failure rate r: random phases put the
        elements' powers together, whatever the correlation over the surface. A chosen reflection has more or less.

        Raises:
            NoClosedFormError: a link's model has no mean power.
        """
        if not self.has_mean_power:
            raise NoClosedFormError("IRSCascade has a link without a mean power; estimate it from samples")
        power = {
            name: 10 ** (self.gain_db[name] / 10) * (1.0 if (model := self.models[name]) is None else model.mean_power())
            for name in self.links
        }
        return self.num_irs_elements * (1 - self.failure_rate) * power["ms_irs"] * power["irs_bs"] + power.get("direct", 0.0)

    def sample(self, batch_size: int, *, generator: torch.Generator, **conditions: Any) -> IRSDraw:  # type: ignore[override]
        """Draw links.

        Args:
            batch_size: how many.
            generator: source of randomness; everything is drawn on its device. Gains are drawn in single precision, directions
                in double; a direction does not depend on gains, delays, Doppler or failures that are switched on.
            conditions: ``ms_irs_gain_db``, ``irs_bs_gain_db``, ``direct_gain_db`` [dB], ``max_delay`` [s], ``max_doppler``
                [Hz]: numbers or tensors (batch_size,) that override the model's.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: a condition that is unknown or not allowed, a model whose draw does
                not fit.
        """
        refuse_unknown({name: value for name, value in conditions.items() if name not in _CONDITIONS}, _CONDITIONS)
        check_int("batch_size", batch_size, minimum=1)
        check_generator("generator", generator)
        given = self._conditions(conditions, batch_size, generator.device)
        heading = 2 * math.pi * uniform((batch_size, 1), generator=generator, dtype=torch.float64)
        paths: dict[str, torch.Tensor] = {}
        rays: dict[str, Rays] = {}
        for name in self.links:
            model = self.models[name]
            if model is None:
                drawn: Any = self._geometric(name, batch_size, given, heading, paths, generator)
            else:
                drawn = model.sample(batch_size, generator=generator)
                if not isinstance(drawn, Rays):
                    raise InvalidTypeError(f"{name} draws {type(drawn).__name__}; a link of an IRS asks for a model of Rays")
            amplitude = (10 ** (given[_GAINS[name]] / 20)).to(drawn.gain.real.dtype)
            rays[name] = replace(drawn, gain=drawn.gain * amplitude[:, None, None, None, None])
        elements = None
        if self.failure_rate:
            elements = draw_elements((batch_size, self.num_irs_elements), self.failure_rate, generator=generator)
        return IRSDraw(rays["ms_irs"], rays["irs_bs"], rays.get("direct"), elements, paths, self.geometry if paths else None)

    def _conditions(self, given: dict[str, Any], batch_size: int, device: torch.device) -> dict[str, torch.Tensor]:
        defaults = {_GAINS[name]: value for name, value in self.gain_db.items()}
        defaults |= {"max_delay": self.max_delay, "max_doppler": self.max_doppler}
        values = {}
        for name, default in defaults.items():
            value = default if given.get(name) is None else given[name]
            low = -math.inf if name.endswith("_db") else 0.0
            values[name] = per_sample(name, value, batch_size, minimum=low).expand(batch_size).to(device)
        return values

    def _geometric(
        self,
        link: str,
        batch_size: int,
        given: dict[str, torch.Tensor],
        heading: torch.Tensor,
        paths: dict[str, torch.Tensor],
        generator: torch.Generator,
    ) -> Rays:
        """Rays of a geometric link of unit gain; its paths are entered into ``paths``."""
        size, (rx, tx) = (batch_size, self.num_paths), LINKS[link]
        axes = len(self.geometry.shape(rx)), len(self.geometry.shape(tx))
        grid = None if self.grid_size is None else (self.grid_size[rx], self.grid_size[tx])
        arrival, departure = draw_directions(
            self.angles, batch_size, self.num_paths, axes, generator=generator, grid=grid, spread=self.angle_spread
        )
        paths[f"{link}_arrival"], paths[f"{link}_departure"] = arrival, departure
        gain = complex_normal(size, 1 / self.num_paths, generator=generator)
        # Drawn even where they are not wanted, so that switching one on leaves the others as they are.
        late, near = uniform((2, *size), generator=generator, dtype=torch.float64)
        if link in self.distances:
            low, high = self.distances[link]
            paths[f"{link}_distance"] = low + (high - low) * near
        delay = late * given["max_delay"].unsqueeze(-1) if bool(given["max_delay"].any()) else None
        doppler = None
        if tx == "ms" and bool(given["max_doppler"].any()):
            across = departure[..., -1]
            depth = (1 - departure.square().sum(-1)).clamp(min=0.0).sqrt()
            turn = across * heading.sin() + depth * heading.cos()
            doppler = (given["max_doppler"].unsqueeze(-1) * turn).to(gain.real.dtype)
        return self.geometry.rays(link, paths, gain, delay, doppler)

    def response(
        self, draw: IRSDraw, times: torch.Tensor, frequencies: torch.Tensor, reflection: torch.Tensor | None = None
    ) -> torch.Tensor:
        r"""Channels of a draw under a reflection.

        Args:
            draw: what `sample` returned, or hops of another source, `IRSDraw.from_rays`.
            times: real [s], (num_times,).
            frequencies: real [Hz], relative to the carrier, (num_frequencies,).
            reflection: complex, (L,), (T, L) or (n, T, L) with T = num_times or 1, modulus at most ``max_amplitude``; with one
                time T may be any number of patterns, all at that time. ``None``: all ones. The answer has the precision of
                the draw.

        Returns:
            (n, num_bs_ant, num_ms_ant, max(num_times, T), num_frequencies), differentiable in the reflection and the rays.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: a reflection that does not fit, is not finite, or too strong.
        """
        return cascade_response(self._check_draw(draw), times, frequencies, self._check_reflection(reflection))

    def element_cascade(self, draw: IRSDraw, frequencies: torch.Tensor | None = None, *, time: float = 0.0) -> torch.Tensor:
        r"""Channel through every element alone: :math:`G(\theta) = \sum_\ell \theta_\ell Z_\ell` (+ direct).

        Args:
            draw: what `sample` returned.
            frequencies: real [Hz], (num_frequencies,); ``None``: the carrier alone.
            time: the moment [s].

        Returns:
            (n, num_bs_ant, num_ms_ant, L, num_frequencies), with a direct link L + 1 where the last is the direct channel.
        """
        frequencies = torch.zeros(1, dtype=torch.float64) if frequencies is None else frequencies
        return element_channels(self._check_draw(draw), frequencies, check_real("time", time))

    def frequency_response(
        self,
        grid: OFDMGrid,
        batch_size: int,
        *,
        generator: torch.Generator,
        normalize: str | None = None,
        dtype: torch.dtype = torch.complex64,
        reflection: torch.Tensor | None = None,
        **conditions: Any,
    ) -> torch.Tensor:
        r"""Draw channels on ``grid`` under a ``reflection`` (as in `response`; one a symbol, or one for all).

        The rest is as in `ChannelModel.frequency_response`; ``normalize="ensemble"`` divides by the root of `mean_power`.

        Returns:
            (batch_size, num_bs_ant, num_ms_ant, num_ofdm_symbols, num_subcarriers).
        """
        check_grid(grid)
        if dtype not in (torch.complex64, torch.complex128):
            raise InvalidTypeError(f"dtype={dtype} must be torch.complex64 or torch.complex128")
        draw = self.sample(batch_size, generator=generator, **conditions)
        h = self.response(draw.double() if dtype == torch.complex128 else draw, grid.times, grid.frequencies, reflection)
        h = h.expand(-1, -1, -1, grid.num_ofdm_symbols, -1)
        return normalize_power(h, normalize, self.mean_power() if normalize == "ensemble" else 1.0)[0]

    def covariance_terms(self, grid: OFDMGrid, **conditions: Any) -> NoReturn:
        """Raise: the product of two hops has no Kronecker form; use `ChannelCovariance.from_samples`."""
        raise NoClosedFormError("IRSCascade has no closed-form covariance; estimate it with ChannelCovariance.from_samples")

    def _check_draw(self, draw: Any) -> IRSDraw:
        if not isinstance(draw, IRSDraw):
            raise InvalidTypeError(f"draw must be an IRSDraw, got {type(draw).__name__}")
        have = draw.num_rx_ant, draw.num_irs_elements, draw.num_tx_ant
        want = self.num_rx_ant, self.num_irs_elements, self.num_tx_ant
        if have != want:
            raise ShapeError(f"draw has {have} BS antennas, elements and MS antennas; the model has {want}")
        return draw

    def _check_reflection(self, reflection: torch.Tensor | None) -> torch.Tensor | None:
        if not isinstance(reflection, torch.Tensor) or torch.compiler.is_compiling():
            return reflection
        check_finite("reflection", reflection)
        largest = float(reflection.detach().abs().max()) if reflection.numel() else 0.0
        if largest > self.max_amplitude * (1 + 1e-4):
            raise InvalidValueError(
                f"reflection holds a modulus of {largest:g}; it must be at most max_amplitude={self.max_amplitude:g}"
            )
        return reflection
