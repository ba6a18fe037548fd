"""Batched linear algebra for real and complex tensors: Hermitian solves, thin factors, structured operators."""

from wichan.linalg.factor import compress_factor, concatenate_factors, thin_factor
from wichan.linalg.kronecker import KroneckerEigh, KroneckerOperator, khatri_rao, kron, mode_product
from wichan.linalg.operators import LinearOperator, SumOperator
from wichan.linalg.roots import hermitian_inverse_sqrt, psd_sqrt
from wichan.linalg.solve import hermitian_cholesky, hermitian_part, hermitian_solve
from wichan.linalg.toeplitz import CirculantOperator, ToeplitzOperator, toeplitz, toeplitz_projection

__all__ = [
    "CirculantOperator",
    "KroneckerEigh",
    "KroneckerOperator",
    "LinearOperator",
    "SumOperator",
    "ToeplitzOperator",
    "compress_factor",
    "concatenate_factors",
    "hermitian_cholesky",
    "hermitian_inverse_sqrt",
    "hermitian_part",
    "hermitian_solve",
    "khatri_rao",
    "kron",
    "mode_product",
    "psd_sqrt",
    "thin_factor",
    "toeplitz",
    "toeplitz_projection",
]
