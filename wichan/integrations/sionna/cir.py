"""wichan's channel models in Sionna's `OFDMChannel`, `TimeChannel` and everything else that asks for paths."""

from __future__ import annotations

from typing import Any

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.rays import Rays
from wichan.channels.synthesis import impulse_response
from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_generator, check_int, check_real
from wichan.integrations.sionna.channels import SionnaDraw
from wichan.integrations.sionna.require import require_sionna


def as_sionna_channel(
    model: ChannelModel,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "single",
) -> PathSampler:
    """Return a channel model of wichan in the form that Sionna calls.

    The result stands where Sionna wants a channel model: `OFDMChannel`, `GenerateOFDMChannel`, `TimeChannel`,
    `GenerateTimeChannel`. One transmitter and one receiver, with all antennas of the model.

    Randomness comes from a generator of its own, so ``sionna.phy.config.seed`` does not change these channels, and drawing
    them does not change what Sionna draws. Each call goes on where the last one ended.

    Args:
        model: a channel model whose draws have paths: `TDL`, `CDL`, `RayleighBlock`, `RicianBlock`, ...
        generator: source of randomness, on the CPU; or
        seed: the seed of a fresh one (default 0).
        device: where the answer goes; default Sionna's ``config.device``.
        precision: ``"single"`` or ``"double"``, as in Sionna.

    Returns:
        A callable ``(batch_size, num_time_steps, sampling_frequency) -> (a, tau)``: complex
        ``[batch_size, 1, num_rx_ant, 1, num_tx_ant, num_paths, num_time_steps]``, real ``[batch_size, 1, 1, num_paths]`` [s].

    Raises:
        MissingDependencyError: Sionna is not installed.
        InvalidTypeError: not a channel model of wichan.
        InvalidValueError: both a generator and a seed.

    Example:
        >>> import pytest; channel = pytest.importorskip("sionna.phy.channel")
        >>> from wichan.channels import TDL
        >>> paths = as_sionna_channel(TDL("A", delay_spread=100e-9, max_doppler=50.0, num_rx_ant=2), seed=3, device="cpu")
        >>> a, tau = paths(4, 14, 14e3)
        >>> tuple(a.shape), tuple(tau.shape)
        ((4, 1, 2, 1, 1, 23, 14), (4, 1, 1, 23))
    """
    sionna = require_sionna("as_sionna_channel")
    if not isinstance(model, ChannelModel):
        raise InvalidTypeError(f"model must be a wichan ChannelModel, got {type(model).__name__}")
    if generator is not None and seed is not None:
        raise InvalidValueError(f"seed={seed} excludes generator; give one of them")
    if generator is None:
        number = check_int("seed", 0 if seed is None else seed, minimum=0, maximum=2**63 - 1)
        generator = torch.Generator().manual_seed(number)
    check_generator("generator", generator)
    check_choice("precision", precision, ("single", "double"))
    where = torch.device(sionna.phy.config.device if device is None else device)
    return PathSampler(model, generator, where, double=precision == "double")


class PathSampler:
    """What `as_sionna_channel` returns: draws channels of a wichan model as Sionna's ``(a, tau)``."""

    def __init__(self, model: ChannelModel, generator: torch.Generator, device: torch.device, *, double: bool) -> None:
        self.model = model
        self.generator = generator
        self.device = device
        self._double = double

    def __call__(
        self, batch_size: int, num_time_steps: int, sampling_frequency: float, *unused: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw ``batch_size`` channels at times 0, 1/sampling_frequency, ... [s]; Sionna passes further arguments to some."""
        steps = check_int("num_time_steps", num_time_steps, minimum=1)
        rate = check_real("sampling_frequency", sampling_frequency, positive=True)
        draw: Any = self.model.sample(check_int("batch_size", batch_size, minimum=1), generator=self.generator)
        draw = (draw.double() if self._double else draw).to(self.device)
        times = torch.arange(steps, dtype=torch.float64) / rate
        if isinstance(draw, Rays):
            a, tau = impulse_response(draw, times)
        elif isinstance(draw, SionnaDraw):
            a, tau = draw.impulse_response(times)
        else:
            raise InvalidTypeError(f"model={type(self.model).__name__} draws {type(draw).__name__}; Sionna needs paths (Rays)")
        return a[:, None, :, None], tau[:, None, None].to(a.real.dtype)
