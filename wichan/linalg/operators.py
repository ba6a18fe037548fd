"""The base of matrices that are known by a rule and multiply without being formed, and their sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.linalg._checks import as_columns, broadcast_batch, check_numeric, check_same_precision


class LinearOperator(ABC):
    r"""A batch of matrices (\*batch, m, n) with structure.

    A subclass states `shape`, `dtype`, `device`, ``_matmul`` (on columns that are already checked), `matrix`, `diagonal`,
    `mT` and `conj`. Everything is differentiable in the tensors that define the operator. ``operator @ x`` is short for
    `matmul`; under ``torch.compile`` write `matmul`, since Dynamo (2.13) cannot trace ``@`` of an object and a tensor.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        r"""(\*batch, m, n)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of the entries."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the defining tensors live."""

    @abstractmethod
    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        r"""Product with columns (\*batch, n, k) of the same precision; real columns may meet a complex operator."""

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        r"""Dense (\*batch, m, n)."""

    @abstractmethod
    def diagonal(self) -> torch.Tensor:
        r"""Diagonal (\*batch, n) of a square operator."""

    @property
    @abstractmethod
    def mT(self) -> LinearOperator:
        """Transpose of the last two axes."""

    @abstractmethod
    def conj(self) -> LinearOperator:
        """Complex conjugate."""

    @property
    def mH(self) -> LinearOperator:
        """Conjugate transpose."""
        return self.mT.conj()

    @property
    def batch_shape(self) -> torch.Size:
        """Leading batch axes."""
        return self.shape[:-2]

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        r"""Multiply without forming the matrix.

        Args:
            x: (\*batch, n, k) with a batch that broadcasts, or one vector (n,); use `matvec` for a batch of vectors.

        Returns:
            (\*batch, m, k), or (\*batch, m) for one vector.

        Raises:
            ShapeError: shapes that do not fit.
            InvalidTypeError: single precision meets double.
        """
        columns, vector = as_columns(x, self.shape[-1], "x")
        check_same_precision("the operator", self.dtype, "x", x.dtype)
        broadcast_batch("the operator", self.batch_shape, "x", columns.shape[:-2])
        result = self._matmul(columns)
        return result.squeeze(-1) if vector else result

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        r"""Multiply a batch of vectors (\*batch, n); returns (\*batch, m)."""
        return self.matmul(check_numeric("x", x, min_dim=1).unsqueeze(-1)).squeeze(-1)

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        return self.matmul(x)

    def __add__(self, other: LinearOperator) -> SumOperator:
        return SumOperator([self, other]) if isinstance(other, LinearOperator) else NotImplemented

    def _require_square(self, what: str) -> None:
        if self.shape[-1] != self.shape[-2]:
            raise ShapeError(f"{what} needs a square operator; this one has shape {tuple(self.shape)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={tuple(self.shape)}, dtype={self.dtype})"


class SumOperator(LinearOperator):
    r"""Sum of operators, :math:`\sum_c A_c`; for instance a covariance with one Kronecker product a cluster.

    Args:
        operators: operators with equal (m, n), one precision and batches that broadcast; sums inside are taken apart.

    Raises:
        ShapeError: operators of unequal shapes.
        InvalidTypeError: something that is no operator, or mixed precisions.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        flat: list[LinearOperator] = []
        for index, operator in enumerate(operators):
            if not isinstance(operator, LinearOperator):
                raise InvalidTypeError(f"operators[{index}] must be a LinearOperator, got {type(operator).__name__}")
            flat.extend(operator.operators if isinstance(operator, SumOperator) else [operator])
        if not flat:
            raise InvalidValueError("operators=[] must hold at least one operator")
        size, batch, dtype = flat[0].shape[-2:], flat[0].batch_shape, flat[0].dtype
        for operator in flat[1:]:
            if operator.shape[-2:] != size:
                raise ShapeError(f"operators of sizes {tuple(size)} and {tuple(operator.shape[-2:])} cannot be added")
            batch = broadcast_batch("the operators before it", batch, "an operator", operator.batch_shape)
            dtype = check_same_precision("the first operator", dtype, "an operator", operator.dtype)
        self.operators: tuple[LinearOperator, ...] = tuple(flat)
        self._shape, self._dtype = torch.Size((*batch, *size)), dtype

    @property
    def shape(self) -> torch.Size:
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self.operators[0].device

    def _total(self, parts: list[torch.Tensor]) -> torch.Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self._total([operator._matmul(x) for operator in self.operators])

    def matrix(self) -> torch.Tensor:
        return self._total([operator.matrix() for operator in self.operators])

    def diagonal(self) -> torch.Tensor:
        return self._total([operator.diagonal() for operator in self.operators])

    @property
    def mT(self) -> SumOperator:
        return SumOperator([operator.mT for operator in self.operators])

    def conj(self) -> SumOperator:
        return SumOperator([operator.conj() for operator in self.operators])
