"""Sionna's channel models as wichan's: the draw, its synthesis by wichan's kernel, and what is common to all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from wichan.channels.base import ChannelModel, NoClosedFormError
from wichan.channels.conditions import refuse_unknown
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.synthesis import combine_clusters, delay_phasors
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanError, check_finite, check_generator, check_int
from wichan.grid import OFDMGrid
from wichan.integrations.sionna.require import require_sionna
from wichan.integrations.sionna.rng import isolated_rng, seed_from
from wichan.random import derive_seed
from wichan.simulate.sampler import one_thread

#: Links behind an estimated mean power; single-antenna street-canyon links give it to 0.05 dB (one standard error).
POWER_LINKS = 2048
_POWER_BATCH = 256

_PROFILES: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

#: ``(num_time_steps, sampling_frequency) -> (a, tau)`` in Sionna's axes.
Paths = Callable[[int, float], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class SionnaDraw:
    """A batch of channels drawn by Sionna, to be looked at on any grid.

    Sionna computes path coefficients at given times, so a draw holds what repeats them: asked again, at other times or on
    another grid, it shows the same channels.

    Args:
        paths: ``(num_time_steps, sampling_frequency) -> (a, tau)`` with Sionna's axes, the same channels at every call.
        columns: what else is known of each channel (line of sight, distance, ...), name -> (batch,).
        device: where coefficients go.
        dtype: complex dtype of the coefficients.
    """

    paths: Paths
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.complex64

    def to(self, device: torch.device | str) -> SionnaDraw:
        """The same draw, its coefficients on ``device``."""
        return replace(self, device=torch.device(device))

    def double(self) -> SionnaDraw:
        """The same draw in double precision; what Sionna computes in single precision keeps its values."""
        return replace(self, dtype=torch.complex128)

    def impulse_response(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Path coefficients (batch, num_rx_ant, num_tx_ant, num_paths, num_times) and delays [s] (batch, num_paths).

        Raises:
            InvalidValueError: times that do not start at 0 with equal steps: Sionna computes no others.
        """
        steps, rate = _uniform(times)
        a, tau = self.paths(steps, rate)
        a, tau = a[:, 0, :, 0].to(self.device, self.dtype), tau[:, 0, 0].to(self.device)
        check_finite("Sionna's path coefficients", a)
        # Paths that a link does not have come with no power at a delay of a second.
        silent = torch.view_as_real(a.detach()).abs().amax(dim=(1, 2, 4, 5)) == 0
        return a, tau.masked_fill(silent, 0.0)


def _uniform(times: torch.Tensor) -> tuple[int, float]:
    points = times.detach().to("cpu", torch.float64)
    if points.dim() != 1 or not points.numel():
        raise ShapeError(f"times has shape {tuple(times.shape)}; it must be one axis with at least one entry")
    count = points.numel()
    step = float(points[-1]) / (count - 1) if count > 1 else 1.0
    lattice = torch.arange(count, dtype=torch.float64) * step
    if step <= 0 or float((points - lattice).abs().max()) > 1e-9 * step * count:
        raise InvalidValueError(f"times={points.tolist()[:4]} must be 0, T, 2 T, ...: Sionna computes paths at such times only")
    return count, 1.0 / step


class SionnaModel(ChannelModel):
    """A channel model whose draws come from Sionna and whose channels from wichan's synthesis.

    Sionna's generators are seeded for each draw from ``generator`` and put back afterwards (`isolated_rng`), so equal
    generators give equal channels. Sionna runs on the CPU in single precision; coefficients go where they are wanted.
    """

    has_closed_form = False
    known_conditions: tuple[str, ...] = ()

    @abstractmethod
    def draw(self, seed: int, batch_size: int, conditions: Mapping[str, Any]) -> SionnaDraw:
        """Return the draw of ``seed``; called with Sionna's generators isolated."""

    def sample(self, batch_size: int, *, generator: torch.Generator, **conditions: Any) -> SionnaDraw:  # type: ignore[override]
        """Draw channels; conditions are numbers or tensors (batch_size,)."""
        size = check_int("batch_size", batch_size, minimum=1)
        refuse_unknown({k: v for k, v in conditions.items() if k not in self.known_conditions}, self.known_conditions)
        seed = seed_from(check_generator("generator", generator))
        require_sionna(type(self).__name__)
        with isolated_rng(seed), torch.no_grad():
            return self.draw(seed, size, conditions)

    def response(self, draw: Any, times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        """Sum the paths at every time and frequency, (batch, num_rx_ant, num_tx_ant, num_times, num_frequencies)."""
        a, tau = draw.impulse_response(times)
        phasor = delay_phasors(tau, frequencies, a.dtype)
        h = combine_clusters(a.permute(0, 3, 1, 2, 4).flatten(2, 3), phasor)
        return h.reshape(*a.shape[:3], a.shape[4], -1)

    def covariance_terms(self, grid: OFDMGrid, **conditions: Any) -> list[KroneckerTerm]:
        """No closed form is known.

        Raises:
            NoClosedFormError: always; estimate it with `ChannelCovariance.from_samples`.
        """
        raise NoClosedFormError(f"{type(self).__name__} has no closed-form covariance; estimate it from samples instead")

    def mean_power(self) -> float:
        """E|h|^2 averaged over antennas: an estimate from `POWER_LINKS` links of a fixed seed, the same on every call."""
        powers, _ = self.power_delay_profile()
        return float(powers.sum())

    def power_delay_profile(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Power and delay [s] of every path of `POWER_LINKS` links of a fixed seed, averaged over antennas.

        Returns:
            ``(powers, delays)``, float64 (num_links * num_paths,); the powers sum to the mean power.
        """
        key = self.power_key()
        if key not in _PROFILES:
            if len(_PROFILES) >= 16:
                _PROFILES.clear()
            _PROFILES[key] = self._estimate_profile()
        return _PROFILES[key]

    def power_key(self) -> Any:
        """What estimates of the power are kept by; a sweep builds the same model for each of its points."""
        return self

    def power_batch(self) -> int:
        """Links drawn at once to estimate the power."""
        return _POWER_BATCH

    def _estimate_profile(self) -> tuple[torch.Tensor, torch.Tensor]:
        powers, delays, size = [], [], self.power_batch()
        count = -(-POWER_LINKS // size)
        generator = torch.Generator().manual_seed(derive_seed(0, "mean power"))
        # The estimate becomes part of the noise variance, whose bits must not depend on the number of threads.
        with one_thread(), torch.no_grad():
            for _ in range(count):
                a, tau = self.sample(size, generator=generator).impulse_response(torch.zeros(1, dtype=torch.float64))
                powers.append(a.to(torch.complex128).abs().square().mean(dim=(1, 2, 4)).flatten())
                delays.append(tau.double().flatten())
        return torch.cat(powers) / (count * size), torch.cat(delays)


class SionnaChannel(SionnaModel):
    r"""A channel model of Sionna, used as one of wichan's.

    .. math:: h(t, f) = \sum_p a_p(t)\, e^{-j 2\pi f \tau_p}

    Args:
        model: a Sionna channel model with one transmitter and one receiver, called as ``(batch_size, num_time_steps,
            sampling_frequency)``. A system-level model (UMi, UMa, RMa) brings its topology, set before, and its batch size;
            `SystemLevel` draws a new topology for each sample.

    Raises:
        InvalidTypeError: ``model`` cannot be called.
        InvalidValueError: a call fails (a system-level model without a topology), or there are several links.
        ShapeError: ``batch_size`` differs from a topology's, when channels are drawn.

    Example:
        >>> import pytest; tr38901 = pytest.importorskip("sionna.phy.channel.tr38901")
        >>> channel = SionnaChannel(tr38901.TDL("A", 100e-9, 3.5e9, max_speed=3.0, num_rx_ant=2))
        >>> grid = OFDMGrid(14, 24, 30e3)
        >>> channel.frequency_response(grid, 8, generator=torch.Generator().manual_seed(1)).shape
        torch.Size([8, 2, 1, 14, 24])
    """

    def __init__(self, model: Any) -> None:
        require_sionna("SionnaChannel")
        if not callable(model):
            raise InvalidTypeError(f"model must be a Sionna channel model, got {type(model).__name__}")
        self.model = model
        a = self._call(1, 1, 1.0, seed=0)[0]
        if a.dim() != 7 or a.shape[1] != 1 or a.shape[3] != 1:
            raise InvalidValueError(
                f"model gives paths of shape {tuple(a.shape)}; one transmitter and one receiver are supported"
            )
        self.num_rx_ant, self.num_tx_ant = a.shape[2], a.shape[4]

    def _call(self, batch_size: int, steps: int, rate: float, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        with isolated_rng(seed), torch.no_grad():
            try:
                a, tau = self.model(batch_size, steps, rate)
            except WichanError:
                raise
            except Exception as error:
                reason = str(error).split("\n")[0]
                raise InvalidValueError(
                    f"model={type(self.model).__name__} cannot be called as (batch_size, num_time_steps, sampling_frequency): "
                    f"{reason} (a system-level model needs set_topology first)"
                ) from None
        return a, tau

    def draw(self, seed: int, batch_size: int, conditions: Mapping[str, Any]) -> SionnaDraw:
        """Return the draw of ``seed``."""

        def paths(steps: int, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
            a, tau = self._call(batch_size, steps, rate, seed=seed)
            if a.shape[0] != batch_size:
                raise ShapeError(f"batch_size={batch_size} must be {a.shape[0]}, the batch size of the model's topology")
            return a, tau

        return SionnaDraw(paths)

    def power_batch(self) -> int:
        """A topology's own batch size, where there is one."""
        return int(self._call(super().power_batch(), 1, 1.0, seed=0)[0].shape[0])
