"""Dense linear pilots: y = A h + n with any known matrix A."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import ShapeError, check_finite, check_int, check_shape, check_tensor
from wichan.nn.buffers import ComplexBuffer
from wichan.observations import snr
from wichan.observations.base import Observation, noisy


class DensePilots(Observation):
    r"""Linear measurements of a flattened channel.

    .. math:: y = A h + n,\qquad n \sim \mathcal{CN}(0, \mathrm{no}\, I_M)

    The SNR convention is "dense": E||A h||^2 / (M no).

    Args:
        matrix: complex, (M, N). A matrix that requires a gradient keeps it.
        channel_shape: trailing axes of ``h`` that are flattened into N (row-major); default (N,). Give
            (num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers) for channels with the library's axes.

    Raises:
        ShapeError: a matrix that is not (M, N), or a channel shape that does not have N elements.
        InvalidTypeError, InvalidValueError: a matrix that is not complex or not finite.
    """

    snr_convention = "dense"
    dense = ComplexBuffer()

    def __init__(self, matrix: torch.Tensor, channel_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        check_finite("matrix", check_tensor("matrix", matrix, kind="complex"))
        if matrix.dim() != 2 or 0 in matrix.shape:
            raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; it must be (M, N) with M and N at least 1")
        rows, columns = matrix.shape
        shape = (columns,) if channel_shape is None else tuple(check_int("channel_shape", n, minimum=1) for n in channel_shape)
        if math.prod(shape) != columns:
            raise ShapeError(f"channel_shape={shape} has {math.prod(shape)} elements; the matrix has N={columns} columns")
        self.channel_shape = shape
        self.num_measurements = int(rows)
        self.dense = matrix

    def matrix(self) -> torch.Tensor:
        """The matrix A, (M, N)."""
        return self.dense

    def extract(self, y: torch.Tensor) -> torch.Tensor:
        r"""Everything is observed: returns ``y`` (\*batch, M) after a shape check."""
        return check_shape("y", y, (self.num_measurements,))

    def project(self, h: torch.Tensor) -> torch.Tensor:
        r"""A h: (\*batch, \*channel_shape) to (\*batch, M). Cost: 8 M N FLOP a channel."""
        check_shape("h", h, self.channel_shape)
        flat = h.flatten(-len(self.channel_shape))
        return flat @ self.dense.to(h.dtype).mT

    def apply(self, h: Any) -> Any:
        """`project` for a tensor; for a function `torch.nn.Module.apply`, so that weight initialisers still pass through."""
        return self.project(h) if isinstance(h, torch.Tensor) else super().apply(h)

    def adjoint(self, x: torch.Tensor) -> torch.Tensor:
        r"""A^H x: (\*batch, M) to (\*batch, \*channel_shape)."""
        check_shape("x", x, (self.num_measurements,))
        return (x @ self.dense.to(x.dtype).conj()).unflatten(-1, self.channel_shape)

    def noiseless(self, h: torch.Tensor) -> torch.Tensor:
        r"""Measurements without noise, (\*batch, M); differentiable in ``h`` and the matrix."""
        return self.project(check_tensor("h", h, kind="complex"))

    def observe(self, h: torch.Tensor, no: Any, *, generator: torch.Generator) -> torch.Tensor:
        r"""Noisy measurements.

        Args:
            h: complex, (\*batch, \*channel_shape).
            no: noise variance per measurement, a number or a tensor over the leading batch axes.
            generator: source of the noise, drawn on its device.

        Returns:
            y: complex as ``h``, (\*batch, M).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: real or half-precision ``h``, NaN, wrong shape, negative ``no``.
        """
        signal = check_finite("h", self.noiseless(h))
        return noisy(signal, no, generator)

    @property
    def signal_power(self) -> float:
        """||A||_F^2 / M: E||A h||^2 / M for uncorrelated channel elements of unit power."""
        return float(self.dense.detach().abs().square().sum(dtype=torch.float64)) / self.num_measurements

    def no_from_snr_db(self, snr_db: Any, *, mean_power: float = 1.0) -> Any:
        """Noise variance for E||A h||^2/(M no) [dB] with uncorrelated elements of power ``mean_power``."""
        return snr.no_from_snr_db(snr_db, "dense", self, mean_power=mean_power)

    def snr_db_from_no(self, no: Any, *, mean_power: float = 1.0) -> Any:
        """SNR [dB] of a noise variance under the convention "dense"."""
        return snr.snr_db_from_no(no, "dense", self, mean_power=mean_power)

    def extra_repr(self) -> str:
        return f"num_measurements={self.num_measurements}, channel_shape={self.channel_shape}"
