"""Posterior of coefficients under a Kronecker prior and a Kronecker dictionary, from eigenvalues of small matrices only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tables:
    """A dictionary's factors in the forms that the E-step multiplies by.

    Args:
        double: the factors H, (Mk, Nk), double precision.
        adjoint: their H^H, (Nk, Mk), double precision.
        conjugate: conj(H), (Mk, Nk), working precision.
        dtype: of the observations.
    """

    double: tuple[torch.Tensor, ...]
    adjoint: tuple[torch.Tensor, ...]
    conjugate: tuple[torch.Tensor, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, factors: Sequence[torch.Tensor], dtype: torch.dtype) -> Tables:
        """Prepare factors (Mk, Nk) for observations of ``dtype``."""
        wide = torch.complex128 if dtype.is_complex else torch.float64
        double = tuple(factor.detach().to(wide) for factor in factors)
        conjugate = tuple(factor.conj().resolve_conj() for factor in double)
        adjoint = tuple(factor.mT.contiguous() for factor in conjugate)
        return cls(double, adjoint, tuple(factor.to(dtype) for factor in conjugate), dtype)


@dataclass
class Spectrum:
    """The observations in the eigenbasis of their covariance.

    Args:
        eigenvalues: of H G H^H, real (B, M1, ..., MI), at least 0.
        total: noise plus eigenvalues, same shape.
        rotated: y times the eigenvectors' adjoints, (B, M1, ..., MI).
        vectors: conj(U)^T H* of each factor, that is (H^H U)^T, (B, Mk, Nk).
        bases: U^H of each factor, (B, Mk, Mk).
    """

    eigenvalues: torch.Tensor
    total: torch.Tensor
    rotated: torch.Tensor
    vectors: list[torch.Tensor]
    bases: list[torch.Tensor]

    def cost(self) -> torch.Tensor:
        """log det S + y^H S^{-1} y, (B,), summed in double precision."""
        total = self.total.flatten(1).double()
        return total.log().sum(-1) + (squared(self.rotated).flatten(1).double() / total).sum(-1)


@dataclass
class Moments:
    """Posterior moments in parts: mean ``prior * weight``, variance ``prior - prior^2 * shrink``.

    Args:
        prior: G = g1 x ... x gI as an array, real (B, N1, ..., NI).
        weight: H^H S^{-1} y, (B, N1, ..., NI).
        shrink: diag(H^H S^{-1} H), real, at least 0.
    """

    prior: torch.Tensor
    weight: torch.Tensor
    shrink: torch.Tensor

    def mean(self) -> torch.Tensor:
        """The posterior mean, (B, N1, ..., NI)."""
        return self.prior * self.weight

    def variance(self) -> torch.Tensor:
        """The posterior variance, real, at least 0."""
        return (1 - self.prior * self.shrink).clamp_min_(0).mul_(self.prior)


def squared(x: torch.Tensor) -> torch.Tensor:
    """|x|^2, real."""
    if not x.is_complex():
        return x * x
    parts = torch.view_as_real(x)
    square = parts * parts
    return square[..., 0] + square[..., 1]


def outer(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Outer product of vectors (B, nk): (B, n1, ..., nI)."""
    result = vectors[0]
    for vector in vectors[1:]:
        result = result.unsqueeze(-1) * vector.reshape(len(vector), *[1] * (result.dim() - 1), -1)
    return result


def multiply(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply mode k of x (B, n1, ..., nI) by its own matrices (B, mk, nk): (B, m1, ..., mI).

    Each step works on the axis at the end and leaves its result in front, so no step copies.
    """
    count = len(x)
    for matrix in reversed(matrices):
        x = torch.bmm(matrix, x.reshape(count, -1, matrix.shape[-1]).mT)
    return x.reshape(count, *(matrix.shape[-2] for matrix in matrices))


def spectrum(tables: Tables, y: torch.Tensor, gammas: Sequence[torch.Tensor], no: torch.Tensor) -> Spectrum:
    """Eigendecompositions of the covariance's factors, and the observations in that basis.

    Args:
        tables: the dictionary.
        y: (B, M1, ..., MI).
        gammas: prior variances, real (B, Nk) a factor.
        no: (B,), above 0.

    Small Gram matrices and their eigenvectors are made in double precision whatever that of ``y``: null eigenvalues of one
    factor are multiplied by the others' largest, and single precision would lift them above the noise.
    """
    values, vectors, bases = [], [], []
    for factor, adjoint, conjugate, gamma in zip(tables.double, tables.adjoint, tables.conjugate, gammas, strict=True):
        count, rows = len(gamma), factor.shape[0]
        scaled = factor * gamma.to(torch.float64)[:, None]
        gram = (scaled.reshape(-1, factor.shape[1]) @ adjoint).reshape(count, rows, rows)
        found, basis = torch.linalg.eigh(gram)
        # Eigenvectors come column-major, so this transpose is contiguous and what follows is one product for all instances.
        turned = basis.mT.to(tables.dtype).reshape(-1, rows)
        values.append(found.clamp_min_(0).to(y.real.dtype))
        vectors.append((turned @ conjugate).reshape(count, rows, -1))
        bases.append(turned.conj().resolve_conj().reshape(count, rows, rows))
    eigenvalues = outer(values)
    total = eigenvalues + no.to(eigenvalues.dtype).reshape(-1, *[1] * (y.dim() - 1))
    return Spectrum(eigenvalues, total, multiply(y, bases), vectors, bases)


def moments(found: Spectrum, gammas: Sequence[torch.Tensor]) -> Moments:
    """Posterior moments of the coefficients; cost 2 (8 for complex) FLOP per element and row of each mode product."""
    shrinking = found.total.reciprocal()
    weight = multiply(found.rotated * shrinking, [v.mT for v in found.vectors])
    shrink = multiply(shrinking, [squared(v).mT for v in found.vectors])
    return Moments(outer(gammas), weight, shrink)


def second_moments(found: Spectrum, gammas: Sequence[torch.Tensor]) -> torch.Tensor:
    """|mean|^2 + variance of `moments`, with the prior in the matrices, so that few passes over N numbers are left."""
    inverse = found.total.reciprocal()
    scaled = [v * g.unsqueeze(1) for v, g in zip(found.vectors, gammas, strict=True)]
    mean = multiply(found.rotated * inverse, [v.mT for v in scaled])
    result = multiply(inverse.neg_(), [squared(v).mT for v in scaled])
    if len(gammas) == 1:
        result.add_(gammas[0])
    else:
        result.addcmul_(outer(gammas[:-1]).unsqueeze(-1), gammas[-1].reshape(len(result), *[1] * (len(gammas) - 1), -1))
    result.clamp_min_(0)
    return result.add_(squared(mean)) if mean.is_complex() else result.addcmul_(mean, mean)


def channel_variance(
    found: Spectrum, gammas: Sequence[torch.Tensor], synthesis: Sequence[torch.Tensor], tables: Tables
) -> torch.Tensor:
    r"""diag(A Sigma A^H) of the channel :math:`A x`, :math:`A = A_1 \otimes \dots \otimes A_I`.

    .. math:: \prod_k (|A_k|^2 g_k) - D \times_k |A_k \mathrm{diag}(g_k) H_k^H U_k|^2

    Args:
        found: of `spectrum`.
        gammas: real (B, Nk) a factor.
        synthesis: A_k, (Ck, Nk).
        tables: the dictionary.

    Returns:
        real (B, C1, ..., CI), at least 0.
    """
    prior, explained = [], []
    for matrix, gamma, vectors in zip(synthesis, gammas, found.vectors, strict=True):
        matrix = matrix.detach().to(tables.dtype)
        prior.append(gamma @ squared(matrix).mT)
        explained.append(squared((vectors * gamma[:, None]) @ matrix.mT).mT)
    return (outer(prior) - multiply(found.total.reciprocal(), explained)).clamp_min_(0)


def flops(num_rows: Sequence[int], num_atoms: Sequence[int], *, complex_valued: bool = False) -> float:
    """Real FLOP of one E-step of one instance (a complex multiply-add counts 8)."""
    unit = 8 if complex_valued else 2
    rows, total = math.prod(num_rows), 0.0
    for m, n in zip(num_rows, num_atoms, strict=True):
        total += 2 * unit * m * m * n + 12.5 * unit * m**3 + unit * rows * m
    sizes = list(num_rows)
    for k in reversed(range(len(sizes))):
        total += (unit + 2) * math.prod(sizes) * num_atoms[k]
        sizes[k] = num_atoms[k]
    return total + 8 * math.prod(num_atoms)
