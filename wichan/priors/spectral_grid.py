r"""Stationary covariances by their power spectrum on a grid of spatial frequencies.

With G_d grid points along an axis of n_d entries, and i - j the difference of two positions,

.. math:: C_{ij} = c_{(i-j) \bmod G},\qquad c = \mathrm{IDFT}(s),\qquad s > 0.

G = n gives a circulant matrix :math:`F^H \mathrm{diag}(s) F` (block-circulant over several axes), G = 2n a Toeplitz matrix
:math:`\tilde Q^H \mathrm{diag}(s) \tilde Q` with the first n columns of the unitary DFT of size 2n. The mean of s is the
power of an entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wichan.errors import InvalidValueError, check_choice, check_int

STRUCTURES = ("circulant", "block-circulant", "toeplitz", "block-toeplitz")


class SpectralGrid:
    """Frequencies of a stationary covariance.

    Args:
        shape: axes of a channel.
        structure: ``"circulant"`` or ``"toeplitz"`` (one axis longer than 1), ``"block-circulant"`` or ``"block-toeplitz"``.

    Attributes:
        sizes: grid points along each axis.
        num_points: of all axes together.
        is_circulant: whether the DFT over the channel's axes diagonalises the covariance.

    Raises:
        InvalidValueError, UnknownNameError: another structure, or one of a single axis for several.
    """

    def __init__(self, shape: Sequence[int], structure: str) -> None:
        self.shape = tuple(check_int("shape", n, minimum=1) for n in shape)
        self.structure = check_choice("structure", structure, STRUCTURES)
        if not structure.startswith("block") and sum(n > 1 for n in self.shape) > 1:
            raise InvalidValueError(
                f"structure={structure!r} is for one axis, the channel has {self.shape}; use 'block-{structure}'"
            )
        self.is_circulant = structure.endswith("circulant")
        self.sizes = tuple(n if self.is_circulant or n == 1 else 2 * n for n in self.shape)
        self.num_points = math.prod(self.sizes)
        self.axes = tuple(range(-len(self.shape), 0))

    def transform(self, h: torch.Tensor) -> torch.Tensor:
        r"""DFT of channels (\*batch, \*shape), filled up with zeros to the grid, over its square root: E|.|^2 is the spectrum
        seen through a window of n entries."""
        return torch.fft.fftn(h, self.sizes, dim=self.axes) / math.sqrt(math.prod(self.shape))

    def lags(self, spectrum: torch.Tensor) -> torch.Tensor:
        r"""c, complex (\*batch, \*sizes), of real spectra of that shape."""
        return torch.fft.ifftn(spectrum, dim=self.axes)

    def multiply(self, spectrum: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        r"""C x for vectors (\*batch, \*shape), by two DFTs."""
        filtered = torch.fft.ifftn(spectrum * torch.fft.fftn(x, self.sizes, dim=self.axes), dim=self.axes)
        return filtered[(..., *(slice(n) for n in self.shape))]

    def differences(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Flat index of (i - j) mod G in the grid, int64 (N, N)."""
        index = torch.zeros(1, 1, dtype=torch.int64, device=device)
        for n, size in zip(self.shape, self.sizes, strict=True):
            at = torch.arange(n, device=device)
            step = (at[:, None] - at[None, :]) % size
            index = (index[:, None, :, None] * size + step[None, :, None, :]).flatten(2).flatten(0, 1)
        return index

    def matrix(self, lags: torch.Tensor) -> torch.Tensor:
        r"""Matrices (\*batch, N, N) whose entries depend on i - j alone, from their values on the grid (\*batch, \*sizes)."""
        return lags.flatten(-len(self.shape))[..., self.differences(lags.device)]

    def covariance(self, spectrum: torch.Tensor) -> torch.Tensor:
        r"""C, complex (\*batch, N, N)."""
        return self.matrix(self.lags(spectrum))

    def sample(self, spectrum: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        r"""Draw h ~ CN(0, C), one for each spectrum: complex (\*batch, \*shape)."""
        noise = torch.randn(*spectrum.shape, 2, generator=generator, device=generator.device, dtype=spectrum.dtype)
        waves = torch.view_as_complex(noise.to(spectrum.device)) * (spectrum / 2).sqrt()
        drawn = torch.fft.ifftn(waves, dim=self.axes, norm="ortho")
        return drawn[(..., *(slice(n) for n in self.shape))]
