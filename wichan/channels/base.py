"""The contract of every channel model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from wichan.channels.rays import Rays
from wichan.channels.synthesis import frequency_response
from wichan.errors import InvalidTypeError, WichanError, check_choice, check_generator, check_int
from wichan.grid import OFDMGrid, check_grid

if TYPE_CHECKING:
    from wichan.channels.covariance import ChannelCovariance
    from wichan.channels.covariance_terms import KroneckerTerm

NORMALIZE = ("ensemble", "sample")


def normalize_power(h: torch.Tensor, mode: str | None, mean_power: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Scale channels to unit power and return the factor with them.

    Args:
        h: complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers).
        mode: ``None`` (nothing happens), ``"ensemble"`` (one factor, 1/sqrt(mean_power)) or ``"sample"`` (each sample by
            its own energy, which removes fading).
        mean_power: the model's E|h|^2 for ``"ensemble"``.

    Returns:
        ``(h * scale, scale)`` with scale real, (\*batch,).
    """
    batch = h.shape[:-4]
    real = h.real.dtype
    if mode is None:
        return h, torch.ones(batch, dtype=real, device=h.device)
    check_choice("normalize", mode, NORMALIZE)
    if mode == "ensemble":
        scale = torch.full(batch, mean_power**-0.5, dtype=real, device=h.device)
    else:
        scale = torch.view_as_real(h).square().mean(dim=(-5, -4, -3, -2, -1)).mul(2).rsqrt()
    return h * scale[..., None, None, None, None], scale


class ChannelModel(ABC):
    """A random channel: draws rays, gives channels on a grid, and knows its second-order statistics."""

    num_rx_ant: int = 1
    num_tx_ant: int = 1
    #: Whether `covariance` and `mean_power` make sense; a system-level model has no closed form of the first, and with path
    #: loss none of the second.
    has_closed_form: bool = True
    has_mean_power: bool = True

    @abstractmethod
    def sample(self, batch_size: int, *, generator: torch.Generator, **conditions: Any) -> Rays:
        """Draw ``batch_size`` independent channels; ``conditions`` override parameters per sample, shape (batch_size,)."""

    @abstractmethod
    def covariance_terms(self, grid: OFDMGrid, **conditions: Any) -> list[KroneckerTerm]:
        """Second moment E[h h^H] on ``grid`` as a sum of Kronecker terms.

        Raises:
            NoClosedFormError: the model has none; estimate it with `ChannelCovariance.from_samples`.
        """

    @abstractmethod
    def mean_power(self) -> float:
        """E|h|^2 averaged over antennas."""

    def response(self, draw: Any, times: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        r"""Channels of a draw of `sample`: the synthesis of its rays; a model with draws of its own kind overrides it.

        Args:
            draw: what `sample` returned.
            times: real [s], (num_times,).
            frequencies: real [Hz], relative to the carrier, (num_frequencies,).

        Returns:
            (batch_size, num_rx_ant, num_tx_ant, num_times, num_frequencies).
        """
        return frequency_response(draw, times, frequencies)

    def frequency_response(
        self,
        grid: OFDMGrid,
        batch_size: int,
        *,
        generator: torch.Generator,
        normalize: str | None = None,
        dtype: torch.dtype = torch.complex64,
        **conditions: Any,
    ) -> torch.Tensor:
        r"""Draw channels on ``grid``.

        Args:
            grid: times and frequencies.
            batch_size: how many channels.
            generator: source of randomness; draws are made on its device.
            normalize: ``None``, ``"ensemble"`` or ``"sample"``, see `normalize_power`.
            dtype: ``torch.complex64``, or ``torch.complex128``: rays are drawn in single precision either way, so both give
                the same channels, and are synthesised in this one.
            conditions: override parameters; numbers, or tensors of shape (batch_size,).

        Returns:
            (batch_size, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
        """
        check_grid(grid)
        check_int("batch_size", batch_size, minimum=1)
        check_generator("generator", generator)
        rays = self.sample(batch_size, generator=generator, **conditions)
        if dtype not in (torch.complex64, torch.complex128):
            raise InvalidTypeError(f"dtype={dtype} must be torch.complex64 or torch.complex128")
        h = self.response(rays.double() if dtype == torch.complex128 else rays, grid.times, grid.frequencies)
        # The mean power of an array takes as long as a batch of channels: only where it is needed.
        mean_power = self.mean_power() if normalize == "ensemble" else 1.0
        return normalize_power(h, normalize, mean_power)[0]

    def covariance(self, grid: OFDMGrid, *, normalize: str | None = None, **conditions: Any) -> ChannelCovariance:
        r"""Closed-form second moment :math:`E[h h^H]` of the channels on ``grid``.

        Args:
            grid: times and frequencies.
            normalize: how the channels are scaled, as in `frequency_response`. ``"ensemble"`` divides by `mean_power`.
                ``"sample"`` does the same and marks the result: fading is gone there, so `LMMSE` refuses it.
            conditions: override parameters; tensors of shape (batch_size,) give one covariance a sample.
        """
        from wichan.channels.covariance import ChannelCovariance

        terms = self.covariance_terms(check_grid(grid), **conditions)
        if normalize is not None:
            check_choice("normalize", normalize, NORMALIZE)
            amplitude = self.mean_power() ** -0.5
            terms = [replace(term, space=term.space * amplitude) for term in terms]
        covariance = ChannelCovariance(terms, self.num_rx_ant, self.num_tx_ant, normalization=normalize)
        covariance.grid = grid
        return covariance


class NoClosedFormError(WichanError):
    """The model has no closed-form covariance for what was asked; estimate it from samples instead."""
