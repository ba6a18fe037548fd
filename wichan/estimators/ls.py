"""Least squares at the pilots, interpolated to the grid, with an honest error variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from wichan.errors import InvalidTypeError, ShapeError, check_choice, check_finite, check_noise, check_tensor
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.ls_error import Differences, needed_differences, power_of
from wichan.estimators.pilot_points import PilotPoints, despread_weights, grid_rule, leakage, pilot_points
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

if TYPE_CHECKING:
    from wichan.channels.covariance import ChannelCovariance

INTERPOLATIONS = ("linear", "nearest")


class _Tables(NamedTuple):
    """What depends on the pilot values: despreading weights, error maps (noise first), noise in each difference and point."""

    weights: torch.Tensor
    maps: torch.Tensor
    bias: torch.Tensor


class _Antenna(nn.Module):
    """LS and interpolation for one transmit antenna."""

    index: torch.Tensor
    valid: torch.Tensor
    antennas: torch.Tensor
    offsets: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    weight: torch.Tensor
    reach: torch.Tensor
    time_weights: torch.Tensor
    time_reach: torch.Tensor
    maps: torch.Tensor
    bias: torch.Tensor
    despreading = ComplexBuffer()

    def __init__(self, points: PilotPoints, obs: OFDMPilots, interpolation: str) -> None:
        super().__init__()
        rule = grid_rule(points, *obs.grid.shape, interpolation)
        self.differences = nn.ModuleList(needed_differences(points, rule, interpolation))
        self.main_order = 2 if interpolation == "linear" else 1
        self.grid_shape = obs.grid.shape
        self.num_rows = rule.row_time.numel()
        for name in ("index", "valid", "antennas", "offsets"):
            self.register_buffer(name, getattr(points, name), persistent=False)
        for name in ("left", "right", "weight", "reach", "time_weights", "time_reach"):
            self.register_buffer(name, getattr(rule, name), persistent=False)
        self.takes_all = self.index.shape == (obs.num_pilots, 1) and bool((self.index.diff(dim=0) == 1).all())
        self.one_point = torch.equal(rule.left, rule.right)
        values = obs.pilot_values().detach().to("cpu", torch.complex128)
        tables = self.tables(values)
        self.despreading = tables.weights
        self.register_buffer("maps", tables.maps)
        self.register_buffer("bias", tables.bias)

    def _terms(self) -> list[Differences]:
        return list(self.differences)  # type: ignore[arg-type]

    def cached(self) -> _Tables:
        return _Tables(self.despreading, self.maps, self.bias)

    def tables(self, values: torch.Tensor) -> _Tables:
        """Compute everything that depends on the pilots ``values`` (num_tx_ant, num_pilots); differentiable."""
        weights = despread_weights(self, values)
        gain = power_of(weights).sum(dim=-1)
        low, high = (1 - self.weight).square() * gain[self.left], self.weight.square() * gain[self.right]
        row_gain = (low + high).unflatten(0, (self.num_rows, -1))
        leaks = leakage(self, values, weights)
        maps = [self.time_weights.square() @ row_gain]
        bias = [gain.mean()]
        for term in self._terms():
            maps.append(self._error_map(term.axis, term.order, leaks))
            bias.append(term.bias(gain if term.axis == "frequency" else row_gain[:, :: term.stride].mean(dim=-1)))
        return _Tables(weights, torch.stack(maps).flatten(1), torch.stack(bias))

    def _error_map(self, axis: str, order: int, leaks: torch.Tensor) -> torch.Tensor:
        """Squared error on the grid for a mean-square difference of 1."""
        total = self.reach.new_zeros(self.grid_shape)
        if order == self.main_order:
            along = self.time_weights @ self.reach.unflatten(0, (self.num_rows, -1))
            total = total + (along if axis == "frequency" else self.time_reach[:, None]).square()
        if order == 1 and leaks.shape[0]:
            side = leaks[:, 1 if axis == "frequency" else 0]
            total = total + power_of(self.time_weights.to(side.dtype) @ self.rows(side)).sum(dim=0)
        return total

    def estimate(self, received: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        r"""LS at the points: pilot elements (\*batch, rx, num_pilots) to (\*batch, rx, num_points)."""
        weights = weights.to(received.dtype)
        if self.takes_all:
            return received * weights[:, 0]
        taken = received.index_select(-1, self.index.flatten()).unflatten(-1, self.index.shape) * weights
        return taken.squeeze(-1) if self.index.shape[1] == 1 else taken.sum(dim=-1)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        r"""Interpolate along frequency: (\*lead, num_points) to (\*lead, num_rows, num_subcarriers)."""
        # On the real view a weight is real: half of the multiplications, and a gather beats a matrix that is mostly zero.
        low = x.index_select(-1, self.left)
        if not self.one_point:
            low, high = (torch.view_as_real(part).flatten(-2) for part in (low, x.index_select(-1, self.right)))
            mixed = torch.lerp(low, high, self.weight.to(low.dtype).repeat_interleave(2))
            low = torch.view_as_complex(mixed.unflatten(-1, (-1, 2)))
        return low.unflatten(-1, (self.num_rows, -1))

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        r"""Interpolate along time: (\*lead, num_rows, num_subcarriers) to (\*lead, num_ofdm_symbols, num_subcarriers)."""
        parts = torch.view_as_real(rows).flatten(-2)
        full = torch.matmul(self.time_weights.to(parts.dtype), parts)
        return torch.view_as_complex(full.unflatten(-1, (-1, 2)))

    def error(self, x: torch.Tensor, rows: torch.Tensor, no: torch.Tensor, tables: _Tables) -> torch.Tensor:
        r"""Noise plus interpolation error from the pilots' own differences, (\*batch, rx, T, F)."""
        batch = x.shape[:-1]
        mean_no = no.mean(dim=-1, keepdim=True) if no.dim() else no
        bias = tables.bias.to(no.dtype)
        power = power_of(x).flatten(-2).mean(dim=-1, keepdim=True) - mean_no * bias[0]
        parts = [no.expand(batch)]
        for term, noise in zip(self._terms(), bias[1:], strict=True):
            parts.append(term(x if term.axis == "frequency" else rows, mean_no, noise, power.clamp_min(0)).expand(batch))
        return (torch.stack(parts, dim=-1) @ tables.maps.to(no.dtype)).unflatten(-1, self.grid_shape)


class LS(Estimator):
    r"""Least squares at the pilots, then interpolation along frequency and along time.

    .. math:: \hat h = W D y,\qquad D y = y/p \text{ at a pilot}

    Where antennas share elements (code-division groups of DMRS), D inverts the group's pilots and the estimate sits at the
    group's centre. ``"linear"`` draws a line through the two neighbouring pilots of a row, then through the two
    neighbouring rows, and goes on along it outside the pilots; ``"nearest"`` takes the nearest pilot of the nearest row.

    ``err_var`` holds the noise, no ||row of W D||^2, and the interpolation error:

    - with ``covariance``, exactly: the diagonal of (I - W D P) R (I - W D P)^H, so it is the true mean square error;
    - without, from the pilots of each frame: mean-square first and second divided differences of neighbouring pilots, minus
      their noise, times the geometry (`wichan.estimators.ls_error`). It holds while the channel is smooth over a pilot
      spacing. An axis with two pilots takes its curvature from the slope as in Jakes fading; an axis with a single pilot
      tells nothing, and the change along it is not counted.

    Learnable pilots are followed in every call; an exact interpolation error holds for the pilots at construction.

    Args:
        obs: OFDM pilots.
        interpolation: "linear" or "nearest".
        covariance: `wichan.channels.ChannelCovariance` on the same grid, or ``None``. With a batch of conditions the first
            batch axis of ``y`` must match.

    Raises:
        InvalidTypeError, UnknownNameError, ShapeError: no OFDM pilots, another interpolation, a covariance of another grid.
        InvalidValueError: antennas that share elements and cannot be told apart.

    Cost: about 8 FLOP and 16 bytes written a resource element.

    Example:
        >>> from wichan.observations import OFDMGrid, OFDMPilots
        >>> pilots = OFDMPilots(OFDMGrid(14, 120, 15e3), symbols=(2, 11), subcarrier_step=3)
        >>> h = torch.ones(1, 1, 1, 14, 120, dtype=torch.complex64)
        >>> bool((LS(pilots)(pilots.noiseless(h), no=0.0).h_hat - h).abs().max() < 1e-6)
        True
    """

    is_linear = True
    interpolation_error: torch.Tensor | None

    def __init__(self, obs: OFDMPilots, interpolation: str = "linear", covariance: ChannelCovariance | None = None) -> None:
        super().__init__()
        if not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        self.interpolation = check_choice("interpolation", interpolation, INTERPOLATIONS)
        self.obs = obs
        with torch.no_grad():
            self.layers = nn.ModuleList(_Antenna(points, obs, interpolation) for points in pilot_points(obs))
            error = None if covariance is None else self._exact_error(covariance)
        self.register_buffer("interpolation_error", error)
        self.num_rx_ant = None if covariance is None else covariance.shape[0]
        self.to(obs.pilot_index.device)

    def _layers(self) -> list[_Antenna]:
        return list(self.layers)  # type: ignore[arg-type]

    def _tables(self) -> list[_Tables]:
        if not self.obs.pilots.requires_grad:
            return [antenna.cached() for antenna in self._layers()]
        values = self.obs.pilot_values()
        return [antenna.tables(values) for antenna in self._layers()]

    def _exact_error(self, covariance: ChannelCovariance) -> torch.Tensor:
        """Diagonal of (I - W D P) R (I - W D P)^H in complex128, from the columns of R's thin factor."""
        if not hasattr(covariance, "tucker"):
            raise InvalidTypeError(f"covariance must be a ChannelCovariance, got {type(covariance).__name__}")
        shape, want = tuple(covariance.shape), (self.obs.num_tx_ant, *self.obs.grid.shape)
        if shape[1:] != want:
            raise ShapeError(f"covariance has shape {shape}; the last axes must be {want}")
        if covariance.batch_shape:
            return torch.stack([self._exact_error(covariance[i]) for i in range(covariance.batch_shape[0])])
        factor = covariance.to("cpu").tucker(1e-12)
        error = torch.zeros(shape, dtype=torch.float64)
        values = self.obs.pilot_values().detach().cpu().to(torch.complex128)
        where = self.obs.pilot_index.cpu()
        for start, stop in factor.chunks():
            columns = factor.columns(start, stop).unflatten(1, shape[:2])
            received = (columns.flatten(-2).index_select(-1, where) * values).sum(dim=-2)
            for number, antenna in enumerate(self._layers()):
                guess = antenna.spread(antenna.rows(antenna.estimate(received, antenna.despreading)))
                error[:, number] += power_of(columns[:, :, number] - guess).sum(dim=0)
        return error

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel.

        Args:
            y: complex, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers). Only pilot elements are read.
            no: noise variance, a number or a tensor over the leading batch axes (not the antennas).
            conditions: not used.

        Returns:
            `Estimate` with ``h_hat`` and ``err_var`` (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: half precision or real ``y``, NaN at a pilot, another grid,
                a negative or complex ``no``.
        """
        received = check_finite("y", self.obs.extract(check_tensor("y", y, kind="complex")))
        if self.num_rx_ant is not None and received.shape[-2] != self.num_rx_ant:
            raise ShapeError(f"y has {received.shape[-2]} receive antennas; the covariance asks for {self.num_rx_ant}")
        noise = check_noise(no, received.shape[:-2], dtype=y.real.dtype, device=y.device)
        noise = noise.unsqueeze(-1) if noise.dim() else noise  # one value for all receive antennas
        channels, errors = [], []
        for antenna, tables in zip(self._layers(), self._tables(), strict=True):
            x = antenna.estimate(received, tables.weights)
            rows = antenna.rows(x)
            channels.append(antenna.spread(rows))
            if self.interpolation_error is None:
                errors.append(antenna.error(x, rows, noise, tables))
            else:
                errors.append(tables.maps[0].to(noise.dtype).unflatten(0, antenna.grid_shape))
        h_hat = channels[0].unsqueeze(-3) if len(channels) == 1 else torch.stack(channels, dim=-3)
        err_var = errors[0].unsqueeze(-3) if len(errors) == 1 else torch.stack(errors, dim=-3)
        if self.interpolation_error is not None:
            scale = noise[..., None, None, None] if noise.dim() else noise
            err_var = self._with_exact(scale * err_var, h_hat)
        return Estimate(h_hat, err_var)

    def _with_exact(self, noise: torch.Tensor, h_hat: torch.Tensor) -> torch.Tensor:
        """Add the interpolation error; one condition a sample lines up with the first batch axis."""
        error = self.interpolation_error
        assert error is not None
        if error.dim() == 5:
            if h_hat.dim() < 5 or error.shape[0] not in (1, h_hat.shape[0]):
                raise ShapeError(f"y has batch {tuple(h_hat.shape[:-4])}; the covariance has {error.shape[0]} conditions")
            error = error.reshape(error.shape[0], *(1,) * (h_hat.dim() - 5), *error.shape[1:])
        return (noise + error.to(noise.dtype)).expand(h_hat.shape)
