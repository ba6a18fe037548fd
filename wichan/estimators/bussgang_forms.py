r"""Hermitian forms of many vectors at once: q_k(x) = x^H P_k x as one product of real matrices.

Written out in real numbers a Hermitian form is linear in the M^2 products of two entries of x,

.. math:: x^H P x = \sum_i P_{ii} |x_i|^2 + \sum_{i<j} 2\,\Re P_{ij}\, \Re(x_i^* x_j) - 2\,\Im P_{ij}\, \Im(x_i^* x_j),

so that K forms of T vectors are a real product of 2 T K M^2 FLOP, a quarter of what whitening (x times stacked Cholesky
factors) takes. The sum cancels where the form is small beside ||P|| ||x||^2: its error is about eps ||P||_F ||x||^2.
"""

from __future__ import annotations

import torch

_COLUMNS = 1024  # vectors at once
_ROWS = 1024  # products of entries at once: with as many columns they stay in a core's cache


def pack_forms(matrices: torch.Tensor) -> torch.Tensor:
    """Coefficients of Hermitian forms, real (K, M^2), from complex (K, M, M), in the order of `form_features`."""
    rows = []
    for i in range(matrices.shape[-1]):
        line = matrices[..., i, i:]
        scale = torch.full((line.shape[-1],), 2.0, dtype=line.real.dtype, device=line.device)
        scale[0] = 1.0
        rows += [line.real * scale, -2 * line[..., 1:].imag]
    return torch.cat(rows, dim=-1)


def unpack_forms(packed: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices, complex (K, M, M), of `pack_forms`."""
    matrices = torch.zeros(len(packed), size, size, 2, dtype=packed.dtype, device=packed.device)
    start = 0
    for i in range(size):
        n = size - i
        matrices[:, i, i:, 0] = packed[:, start : start + n] / 2
        matrices[:, i, i + 1 :, 1] = -packed[:, start + n : start + 2 * n - 1] / 2
        start += 2 * n - 1
    upper = torch.view_as_complex(matrices)
    return upper + upper.mH


def form_features(real: torch.Tensor, imag: torch.Tensor, first: int, last: int, out: torch.Tensor) -> torch.Tensor:
    r"""Write the features of rows ``first`` to ``last`` (excluded) of x = real + j imag into ``out``.

    Args:
        real, imag: (M, \*sizes), entries in rows.
        out: buffer, (at least as many features, \*sizes).

    Returns:
        The part of ``out`` that was written: for each row i the products with rows i, ..., M - 1, real parts and then, without
        the first, imaginary ones.
    """
    start = 0
    for i in range(first, last):
        n = real.shape[0] - i
        part = out[start : start + n]
        torch.mul(real[i:], real[i], out=part)
        part.addcmul_(imag[i:], imag[i])
        start += n
        if n > 1:
            part = out[start : start + n - 1]
            torch.mul(imag[i + 1 :], real[i], out=part)
            part.addcmul_(real[i + 1 :], imag[i], value=-1)
            start += n - 1
    return out[:start]


def row_blocks(size: int, limit: int) -> list[tuple[int, int]]:
    """Cut M rows so that each block has at most ``limit`` features, or one row."""
    blocks, first = [], 0
    while first < size:
        last, count = first + 1, 2 * (size - first) - 1
        while last < size and count + 2 * (size - last) - 1 <= limit:
            count += 2 * (size - last) - 1
            last += 1
        blocks.append((first, last))
        first = last
    return blocks


def quadratic_forms(packed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return q_k(x_t), real (K, T) in the dtype of ``packed`` (K, M^2), for complex ``x`` (T, M); no gradient.

    Cost: 2 T K M^2 FLOP and 3 T M^2 for the features. Bytes: a few MiB of features at once.
    """
    size = x.shape[1]
    blocks = row_blocks(size, _ROWS)
    forms = packed.new_empty(len(packed), len(x))
    buffer = packed.new_empty(max(_ROWS, 2 * size), min(_COLUMNS, len(x)))
    for start in range(0, len(x), _COLUMNS):
        part = x[start : start + _COLUMNS]
        real = part.real.to(packed.dtype).mT.contiguous()
        imag = part.imag.to(packed.dtype).mT.contiguous()
        out = forms[:, start : start + len(part)]
        offset = 0
        for first, last in blocks:
            features = form_features(real, imag, first, last, buffer[:, : len(part)])
            weights = packed[:, offset : offset + len(features)]
            if offset:
                out.addmm_(weights, features)
            else:
                out.copy_(weights @ features)
            offset += len(features)
    return forms
