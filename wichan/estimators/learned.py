"""What all learned OFDM estimators share: pilots in, conditions checked, a network for the mean, a head for the error."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import nn

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_noise,
    check_shape,
    check_tensor,
)
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.error_head import ErrorHead
from wichan.grid import OFDMGrid
from wichan.observations.ofdm import OFDMPilots

#: Conditions that a network may be told: name -> (unit of the published networks, factor from SI, range of `ofdm-siso`).
CONDITIONS: dict[str, tuple[str, float, tuple[float, float]]] = {
    "snr_db": ("dB", 1.0, (0.0, 25.0)),
    "delay_spread": ("ns", 1e9, (25e-9, 300e-9)),
    "max_doppler": ("Hz", 1.0, (0.0, 1866.7)),
}
_CLEANEST = 1e-6  # noise-to-signal ratio of a pilot below which the SNR counts as 60 dB


class LearnedEstimator(Estimator):
    """Base of the learned estimators: one network, made for one grid and one set of pilot positions.

    Every receive antenna is estimated for itself. Pilots are divided by their symbols first (least squares), so a network
    does not depend on the symbols, only on where they are.

    Args:
        obs: the pilots; one transmit antenna.
        scale_input: divide the pilots of a frame by their root mean square and multiply the estimate by it, so that the
            estimate follows the scale of its input; what the network is told of the SNR does too if it is passed (see
            `forward`). ``False``: as published.
        condition_ranges: name -> (low, high) in SI units, mapped to -1 and 1 before the network sees them. ``None``: raw
            numbers in dB, ns and Hz, as published; then the SNR must be told too, in whatever convention was trained on.
        seed: of the initial weights.

    Attributes:
        obs: the pilots.
        network: computes the mean.
        error_head: computes ``err_var``, see `wichan.estimators.error_head.ErrorHead`.

    Raises:
        InvalidTypeError, InvalidValueError: an observation that is not `OFDMPilots` or has several transmit antennas.
    """

    kind: ClassVar[str]
    wanted: ClassVar[tuple[str, ...]] = ()  # conditions that the network takes, in this order
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    network: nn.Module

    def __init__(
        self,
        obs: OFDMPilots,
        *,
        scale_input: bool = True,
        condition_ranges: Mapping[str, tuple[float, float]] | None | str = "default",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        if obs.num_tx_ant != 1:
            raise InvalidValueError(f"obs has {obs.num_tx_ant} transmit antennas; {self.kind} is made for one")
        self.obs = obs
        self.scale_input = bool(scale_input)
        if isinstance(condition_ranges, str):
            condition_ranges = {name: CONDITIONS[name][2] for name in self.wanted}
        ranges = None if condition_ranges is None else {k: (float(a), float(b)) for k, (a, b) in condition_ranges.items()}
        self.condition_ranges = _checked_ranges(ranges, self.wanted)
        index = obs.pilot_index
        symbols, subcarriers = index // obs.grid.num_subcarriers, index % obs.grid.num_subcarriers
        # The networks read pilots subcarrier by subcarrier; observations hold them symbol by symbol.
        order = torch.argsort(subcarriers * obs.grid.num_ofdm_symbols + symbols)
        self.register_buffer("pilot_order", index[order], persistent=False)
        with seeded(seed):
            self.network = self._build()
            self.error_head = ErrorHead(obs.grid.shape, len(self.wanted) if self.condition_ranges else 0)
        self.to(index.device)

    pilot_order: torch.Tensor

    @abstractmethod
    def _build(self) -> nn.Module:
        """Return the network."""

    @abstractmethod
    def _mean(self, pilots: torch.Tensor, conditions: torch.Tensor | None) -> torch.Tensor:
        """Return the estimate, complex (n, num_subcarriers, num_ofdm_symbols), of pilots (n, num_pilots), subcarrier-major."""

    # -- Building. --

    @classmethod
    def preset(cls, name: str, obs: OFDMPilots | None = None, **overrides: Any) -> Self:
        """Build with settings by name: ``"paper"``, ``"paper-large"`` or ``"default"`` (the released one).

        Args:
            name: which.
            obs: pilots; default those that the setting was made for.
            **overrides: hyper-parameters to change.

        Raises:
            UnknownNameError: another name.
        """
        settings = dict(cls.presets[check_choice("preset", name, cls.presets)])
        pilots = settings.pop("pilots", {"symbols": (2, 11), "subcarrier_step": 3})
        return cls(published_pilots(**pilots) if obs is None else obs, **(settings | overrides))

    def config(self) -> dict[str, Any]:
        """Hyper-parameters that rebuild the estimator together with ``obs``, as JSON can hold them."""
        ranges = self.condition_ranges
        kept = None if ranges is None else {name: list(pair) for name, pair in ranges.items()}
        return {"scale_input": self.scale_input, "condition_ranges": kept} | self._config()

    def _config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], obs: OFDMPilots) -> Self:
        """Build from what `config` gave.

        Raises:
            InvalidValueError: a setting that this kind does not have.
        """
        try:
            return cls(obs, **config)
        except TypeError as error:
            raise InvalidValueError(f"config of {cls.kind} does not fit: {error}") from None

    @property
    def told(self) -> tuple[str, ...]:
        """Conditions that must be passed at a call. The SNR follows from ``no``, unless raw numbers are asked for."""
        return tuple(name for name in self.wanted if name != "snr_db" or self.condition_ranges is None)

    def check_observation(self, obs: OFDMPilots) -> None:
        """Check that pilots lie where the network was trained to find them.

        Raises:
            InvalidValueError: another grid or other positions; the line names both.
        """
        if not _same_grid(obs.grid, self.obs.grid):
            raise InvalidValueError(f"{self.kind} was made for {self.obs.grid}, not for {obs.grid}")
        if obs.num_tx_ant != 1 or not torch.equal(obs.mask.cpu(), self.obs.mask.cpu()):
            raise InvalidValueError(f"{self.kind} was made for {_described(self.obs)}, not for {_described(obs)}")

    def for_observation(self, obs: OFDMPilots) -> Self:
        """Return this estimator, sharing its weights, for other pilot symbols on the same positions.

        Raises:
            InvalidValueError: another grid or other positions.
        """
        self.check_observation(obs)
        other = copy.copy(self)
        other._modules = dict(self._modules) | {"obs": obs.to(self.pilot_order.device)}
        other._buffers = dict(self._buffers)
        return other

    # -- Estimating. --

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel.

        Args:
            y: complex64 or complex128, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers); the precision of the weights.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            **conditions: what the network is `told`, SI units (``snr_db`` in dB): numbers or tensors over leading batch
                axes. ``snr_db`` (per pilot) may be passed; else it follows from ``no`` as for channels of unit mean power,
                which is wrong behind a path loss that has not been normalised. Others are ignored.

        Returns:
            `Estimate`: h_hat and err_var, (\*batch, num_rx_ant, 1, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: another grid, NaN on a pilot, a condition that is missing.
        """
        symbols, subcarriers = self.obs.grid.shape
        check_shape("y", check_tensor("y", y, kind="complex"), (None, symbols, subcarriers))
        if y.real.dtype != self.error_head.scale.dtype:
            raise InvalidTypeError(f"y has dtype {y.dtype}, the weights {self.error_head.scale.dtype}; convert one of them")
        batch = y.shape[:-2]
        pilots = self.least_squares(y)
        noise = check_noise(no, batch, dtype=y.real.dtype, device=y.device).expand(batch).reshape(-1)
        noise = noise / self._pilot_values().abs().square().mean().to(noise.dtype)
        level = pilots.abs().square().mean(-1).clamp_min(torch.finfo(noise.dtype).tiny ** 0.5)
        seen = self._conditions(conditions, noise, batch)
        scale = level.sqrt()[:, None] if self.scale_input else torch.ones_like(level)[:, None]
        h_hat = self._mean(pilots / scale, seen) * scale[..., None]
        fitted = h_hat.detach().transpose(-1, -2).flatten(-2)[:, self.pilot_order]
        told = seen if self.condition_ranges is not None else None
        err_var = self.error_head(pilots, fitted, noise, level, told)
        shape = (*batch, 1, symbols, subcarriers)
        return Estimate(h_hat.transpose(-1, -2).reshape(shape), err_var.reshape(shape))

    def warm_start(self, batches: Iterable[Any]) -> bool:
        """Set weights to a good first guess from ``batches`` of a stream; returns whether this kind has one."""
        return False

    def least_squares(self, y: torch.Tensor) -> torch.Tensor:
        r"""Least squares at the pilots, (n, num_pilots), subcarrier by subcarrier; n counts batch and antennas."""
        symbols = self._pilot_values().to(y.dtype)
        return check_finite("y", y.flatten(-2)[..., self.pilot_order]).reshape(-1, symbols.numel()) / symbols

    def _pilot_values(self) -> torch.Tensor:
        """Pilot symbols, (num_pilots,), subcarrier by subcarrier."""
        return self.obs.pilots.flatten()[self.pilot_order]

    def _conditions(self, given: Mapping[str, Any], noise: torch.Tensor, batch: torch.Size) -> torch.Tensor | None:
        """What the network is told, (n, len(wanted)), scaled to -1 ... 1 or raw."""
        if not self.wanted:
            return None
        columns = []
        for name in self.wanted:
            if given.get(name) is None and name in self.told:
                missing = [n for n in self.told if given.get(n) is None]
                verb = "is" if len(missing) == 1 else "are"
                raise InvalidValueError(
                    f"{' and '.join(missing)} {verb} missing: {self.kind} must be told {', '.join(self.told)}; "
                    "wichan.estimators.WithEstimatedConditions(estimator, obs) estimates them from the pilots"
                )
            if given.get(name) is None:
                value = -10 * noise.clamp_min(_CLEANEST).log10()
            else:
                value = _checked_condition(name, given[name], batch, noise)
            if self.condition_ranges is None:
                columns.append(value * CONDITIONS[name][1])
            else:
                low, high = self.condition_ranges[name]
                columns.append((2 * value - low - high) / (high - low))
        return torch.stack(columns, dim=-1)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, told={self.told}"


def both_parts(network: nn.Module, pilots: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
    """Run a real network on real and imaginary parts in one pass, stacked along the batch, and join its answers."""
    parts = torch.cat([pilots.real, pilots.imag])
    real, imaginary = network(parts, *(torch.cat([c, c]) for c in conditions)).to(parts.dtype).chunk(2)
    return torch.complex(real, imaginary)


def published_pilots(symbols: tuple[int, ...], subcarrier_step: int) -> OFDMPilots:
    """Pilots on the grid of the published networks: 14 symbols x 120 subcarriers of 15 kHz."""
    return OFDMPilots(OFDMGrid(14, 120, 15e3), symbols=symbols, subcarrier_step=subcarrier_step)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights from ``seed``: layers draw from the global generator, which is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _checked_ranges(ranges: dict[str, tuple[float, float]] | None, wanted: tuple[str, ...]) -> Any:
    if ranges is None:
        return None
    if set(ranges) != set(wanted):
        raise InvalidValueError(f"condition_ranges names {sorted(ranges)}; it must name {sorted(wanted)}")
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InvalidValueError(f"condition_ranges[{name!r}]={(low, high)} must be two finite numbers, the lower first")
    return {name: ranges[name] for name in wanted}


def _checked_condition(name: str, value: Any, batch: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """A condition over the leading axes of ``batch``, spread to (n,)."""
    try:
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise TypeError
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"{name} must be a number or a real tensor, got {type(value).__name__}") from None
    check_finite(name, tensor)
    if tuple(tensor.shape) != tuple(batch[: tensor.dim()]):
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; it must fit the batch {tuple(batch)}")
    return tensor.reshape(*tensor.shape, *[1] * (len(batch) - tensor.dim())).expand(batch).reshape(-1)


def _same_grid(one: OFDMGrid, other: OFDMGrid) -> bool:
    """Whether two grids are equal but for a cyclic prefix that a link counts in whole samples (half a sample apart at most)."""
    close = math.isclose(one.subcarrier_spacing, other.subcarrier_spacing, rel_tol=1e-9)
    half_sample = 0.5 / one.bandwidth * (1 + 1e-6)
    return one.shape == other.shape and close and abs(one.symbol_duration - other.symbol_duration) <= half_sample


def _described(obs: OFDMPilots) -> str:
    symbols, subcarriers = obs.pilot_symbols.tolist(), obs.pilot_subcarriers.tolist()
    return f"{obs.num_pilots} pilots in symbols {symbols}, subcarriers {subcarriers[0]} to {subcarriers[-1]}"
