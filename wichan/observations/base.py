"""The contract of every observation: what a receiver sees of a channel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from wichan.errors import check_generator, check_noise


def noise_amplitude(no: torch.Tensor, trailing: int) -> torch.Tensor:
    """Standard deviation of each real part of CN(0, no), with ``trailing`` axes appended; its gradient at no = 0 is 0."""
    half = no / 2
    if no.requires_grad:  # the root has an infinite slope at 0
        positive = half > 0
        half = torch.where(positive, half, torch.ones_like(half)).sqrt() * positive
    else:
        half = half.sqrt()
    return half[(...,) + (None,) * (trailing if no.dim() else 0)]


def noisy(signal: torch.Tensor, no: Any, generator: torch.Generator) -> torch.Tensor:
    r"""Measurements (\*batch, M) with noise CN(0, no) added; ``no`` over the leading batch axes, the generator checked."""
    check_generator("generator", generator)
    real = signal.real.dtype
    noise_power = check_noise(no, signal.shape[:-1], dtype=real, device=signal.device)
    noise = torch.randn(*signal.shape, 2, generator=generator, device=generator.device, dtype=real).to(signal.device)
    noise.mul_(noise_amplitude(noise_power, 2))
    return torch.view_as_complex(noise).add_(signal)


class Observation(nn.Module, ABC):
    """A (possibly non-linear) map from a channel to what the receiver sees, with noise of variance ``no``.

    ``no`` is the noise variance per complex sample, a number or a tensor over the leading batch axes; 0 is noiseless.
    Every observation states its SNR convention in ``snr_convention`` (a key of `wichan.observations.SNR_CONVENTIONS`).
    """

    snr_convention: str

    @abstractmethod
    def observe(self, h: torch.Tensor, no: Any, *, generator: torch.Generator) -> torch.Tensor:
        """Return the noisy observation of channels ``h``."""

    @abstractmethod
    def noiseless(self, h: torch.Tensor) -> torch.Tensor:
        """Return the observation without noise; differentiable in ``h``."""

    @abstractmethod
    def no_from_snr_db(self, snr_db: Any) -> Any:
        """Noise variance that gives ``snr_db`` under this observation's convention for unit-power channels."""
