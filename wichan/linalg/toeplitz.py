"""Toeplitz and circulant matrices: dense, as operators through the FFT, and as nearest matrices."""

from __future__ import annotations

import torch

from wichan.errors import InvalidValueError
from wichan.linalg._checks import as_columns, broadcast_batch, check_numeric, check_same_precision, check_square
from wichan.linalg.operators import LinearOperator
from wichan.linalg.solve import hermitian_part, hermitian_solve


def _real_corner(column: torch.Tensor) -> torch.Tensor:
    """Make the diagonal entry of a Hermitian Toeplitz column exactly real; more than rounding there is an error."""
    if not column.is_complex():
        return column
    corner = column[..., :1]
    if not torch.compiler.is_compiling():
        stray = (corner.imag.abs() > 1e-4 * corner.abs()).detach()
        if bool(stray.any()):
            raise InvalidValueError(
                f"column[0] is not real in {int(stray.sum())} of {stray.numel()} items; the diagonal of a Hermitian matrix is"
            )
    return torch.cat([corner.real.to(column.dtype), column[..., 1:]], dim=-1)


def toeplitz(column: torch.Tensor, row: torch.Tensor | None = None) -> torch.Tensor:
    r"""Return the dense Toeplitz matrix :math:`T_{ij} = c_{i-j}` (:math:`i \ge j`), :math:`r_{j-i}` above the diagonal.

    Args:
        column: first column, (\*batch, m).
        row: first row, (\*batch, n), whose element 0 is not used; ``None`` gives the Hermitian matrix, row = conj(column).

    Returns:
        (\*batch, m, n).

    Raises:
        ShapeError: batches that do not broadcast.
        InvalidTypeError: mixed precisions.
        InvalidValueError: a Hermitian matrix whose ``column[0]`` is not real.
    """
    check_numeric("column", column, min_dim=1)
    if row is None:
        column = _real_corner(column)
        row = column.conj()
    check_numeric("row", row, min_dim=1)
    dtype = check_same_precision("column", column.dtype, "row", row.dtype)
    batch = broadcast_batch("column", column.shape[:-1], "row", row.shape[:-1])
    down, across = column.to(dtype).expand(*batch, -1), row.to(dtype).expand(*batch, -1)
    # From the last element of the column up to the first, then along the row: every row of T is a window of this.
    values = torch.cat([down.flip(-1), across[..., 1:]], dim=-1)
    return values.unfold(-1, across.shape[-1], 1).flip(-2)


def _diagonal_sums(matrix: torch.Tensor) -> torch.Tensor:
    """Sums along all diagonals i - j = -(n-1) .. n-1 of (..., n, n), by a skewed view instead of a loop."""
    size = matrix.shape[-1]
    padded = torch.nn.functional.pad(matrix.flip(-1), (0, size))
    skewed = padded.flatten(-2)[..., : size * (2 * size - 1)]
    return skewed.reshape(*matrix.shape[:-2], size, 2 * size - 1).sum(-2)


def _fft_length(minimum: int) -> int:
    """Smallest 2^a 3^b 5^c that is at least ``minimum``: lengths with large prime factors are many times slower."""
    best = 1 << (minimum - 1).bit_length()
    power5 = 1
    while power5 < best:
        power3 = power5
        while power3 < best:
            length = power3 << max(-(-minimum // power3) - 1, 0).bit_length()
            best = min(best, length)
            power3 *= 3
        power5 *= 5
    return best


def _filter(spectrum: torch.Tensor, x: torch.Tensor, length: int, is_real: bool) -> torch.Tensor:
    """Circular convolution over axis -2; ``spectrum`` is the FFT of the (real, if ``is_real``) impulse response."""
    gain = spectrum.unsqueeze(-1)
    if is_real and not x.is_complex():
        return torch.fft.irfft(gain[..., : length // 2 + 1, :] * torch.fft.rfft(x, n=length, dim=-2), n=length, dim=-2)
    return torch.fft.ifft(gain * torch.fft.fft(x, n=length, dim=-2), dim=-2)


class ToeplitzOperator(LinearOperator):
    r"""A Hermitian Toeplitz matrix, :math:`T_{ij} = c_{i-j}` and :math:`T_{ji} = c_{i-j}^*`, known by its first column.

    Args:
        column: real or complex, (\*batch, n); ``column[0]`` must be real.

    Raises:
        InvalidValueError: ``column[0]`` is not real.

    Cost: a product with k columns is 2 k FFTs of about 2 n points; `solve` goes through dense Cholesky.
    """

    def __init__(self, column: torch.Tensor) -> None:
        self.column = _real_corner(check_numeric("column", column, min_dim=1))

    @classmethod
    def nearest(cls, matrix: torch.Tensor) -> ToeplitzOperator:
        r"""Return the Hermitian Toeplitz matrix nearest in the Frobenius norm: means along the diagonals.

        The result need not be positive semi-definite where ``matrix`` is.

        Args:
            matrix: real or complex, (\*batch, n, n).
        """
        size = check_square("matrix", matrix).shape[-1]
        sums = _diagonal_sums(hermitian_part(matrix))[..., size - 1 :]
        counts = torch.arange(size, 0, -1, device=matrix.device)
        return cls(sums / counts)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.column.shape, self.column.shape[-1]))

    @property
    def dtype(self) -> torch.dtype:
        return self.column.dtype

    @property
    def device(self) -> torch.device:
        return self.column.device

    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        size = self.column.shape[-1]
        length = _fft_length(2 * size - 1)
        gap = self.column.new_zeros(*self.column.shape[:-1], length - 2 * size + 1)
        wrapped = torch.cat([self.column, gap, self.column[..., 1:].flip(-1).conj()], dim=-1)
        # The embedding circulant is Hermitian, so its eigenvalues are real.
        spectrum = torch.fft.fft(wrapped).real
        return _filter(spectrum, x, length, not self.column.is_complex())[..., :size, :]

    def matrix(self) -> torch.Tensor:
        return toeplitz(self.column)

    def diagonal(self) -> torch.Tensor:
        return self.column[..., :1].expand(self.column.shape)

    def solve(self, rhs: torch.Tensor, *, jitter: float | None = None, max_tries: int = 3) -> torch.Tensor:
        r"""Solve for a positive-definite matrix through the dense Cholesky factor (`hermitian_solve`).

        Levinson's recursion needs n^2 work but n dependent steps; batched, up to some thousand rows, dense Cholesky is
        faster and more stable.

        Args:
            rhs: (\*batch, n, k) with a batch that broadcasts, or one vector (n,).
            jitter: as in `hermitian_cholesky`.
            max_tries: as in `hermitian_cholesky`.

        Raises:
            NotPositiveDefiniteError: an item is not positive definite.
        """
        return hermitian_solve(self.matrix(), rhs, jitter=jitter, max_tries=max_tries, name="the Toeplitz matrix")

    @property
    def mT(self) -> ToeplitzOperator:
        return self.conj()

    @property
    def mH(self) -> ToeplitzOperator:
        return self

    def conj(self) -> ToeplitzOperator:
        return ToeplitzOperator(self.column.conj())


def toeplitz_projection(matrix: torch.Tensor) -> torch.Tensor:
    r"""Return the nearest Hermitian Toeplitz matrix, dense (see `ToeplitzOperator.nearest`).

    Args:
        matrix: real or complex, (\*batch, n, n).

    Returns:
        Same shape and dtype.
    """
    return ToeplitzOperator.nearest(matrix).matrix()


class CirculantOperator(LinearOperator):
    r"""A circulant matrix, :math:`C_{ij} = c_{(i-j) \bmod n}`, diagonal in the Fourier basis.

    Args:
        column: first column, real or complex, (\*batch, n).

    Cost: every product and solve with k columns is 2 k FFTs of n points.
    """

    def __init__(self, column: torch.Tensor) -> None:
        self.column = check_numeric("column", column, min_dim=1)

    @classmethod
    def from_eigenvalues(cls, eigenvalues: torch.Tensor) -> CirculantOperator:
        r"""Return the circulant with these eigenvalues, (\*batch, n), in FFT order; its column is complex."""
        return cls(torch.fft.ifft(check_numeric("eigenvalues", eigenvalues, min_dim=1)))

    @classmethod
    def nearest(cls, matrix: torch.Tensor) -> CirculantOperator:
        r"""Return the circulant nearest in the Frobenius norm: means along the wrapped diagonals.

        It is Hermitian, and positive (semi-)definite, wherever ``matrix`` is: its eigenvalues are the diagonal of
        ``matrix`` in the Fourier basis. T. Chan, "An optimal circulant preconditioner for Toeplitz systems", SIAM J. Sci.
        Stat. Comput. 9(4), 1988.

        Args:
            matrix: real or complex, (\*batch, n, n), Toeplitz or not.
        """
        size = check_square("matrix", matrix).shape[-1]
        sums = _diagonal_sums(matrix)
        above = torch.nn.functional.pad(sums[..., : size - 1], (1, 0))
        return cls((sums[..., size - 1 :] + above) / size)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.column.shape, self.column.shape[-1]))

    @property
    def dtype(self) -> torch.dtype:
        return self.column.dtype

    @property
    def device(self) -> torch.device:
        return self.column.device

    def eigenvalues(self) -> torch.Tensor:
        r"""Eigenvalues in FFT order, complex, (\*batch, n); eigenvector k is :math:`e^{+j 2\pi k i / n}` over i.

        Those of a Hermitian circulant are real up to rounding.
        """
        return torch.fft.fft(self.column)

    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        return _filter(self.eigenvalues(), x, self.column.shape[-1], not self.column.is_complex())

    def _inverse_eigenvalues(self) -> torch.Tensor:
        eigenvalues = self.eigenvalues()
        if not torch.compiler.is_compiling():
            size = eigenvalues.detach().abs()
            floor = size.shape[-1] * torch.finfo(self.dtype).eps * size.amax(-1)
            singular = ~(size.amin(-1) > floor)
            if bool(singular.any()):
                raise InvalidValueError(
                    f"the circulant is singular to rounding or not finite in {int(singular.sum())} of {singular.numel()} items"
                )
        return 1 / eigenvalues

    def solve(self, rhs: torch.Tensor) -> torch.Tensor:
        r"""Solve :math:`C X = B` in the Fourier basis.

        Args:
            rhs: (\*batch, n, k) with a batch that broadcasts, or one vector (n,).

        Raises:
            InvalidValueError: an eigenvalue is zero to rounding.
            ShapeError: shapes that do not fit.
        """
        columns, vector = as_columns(rhs, self.shape[-1], "rhs")
        check_same_precision("the operator", self.dtype, "rhs", rhs.dtype)
        broadcast_batch("the operator", self.batch_shape, "rhs", columns.shape[:-2])
        result = _filter(self._inverse_eigenvalues(), columns, self.shape[-1], not self.column.is_complex())
        return result.squeeze(-1) if vector else result

    def inverse(self) -> CirculantOperator:
        """Return the inverse, which is circulant, too.

        Raises:
            InvalidValueError: an eigenvalue is zero to rounding.
        """
        column = torch.fft.ifft(self._inverse_eigenvalues())
        return CirculantOperator(column if self.column.is_complex() else column.real)

    def matrix(self) -> torch.Tensor:
        return toeplitz(self.column, self.mT.column)

    def diagonal(self) -> torch.Tensor:
        return self.column[..., :1].expand(self.column.shape)

    @property
    def mT(self) -> CirculantOperator:
        return CirculantOperator(self.column.flip(-1).roll(1, -1))

    def conj(self) -> CirculantOperator:
        return CirculantOperator(self.column.conj())
