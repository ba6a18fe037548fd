"""Hermitian forms as real products, and the cache that keeps filters."""

from __future__ import annotations

import copy

import pytest
import torch

from wichan.estimators.bussgang_base import FilterCache
from wichan.estimators.bussgang_forms import form_features, pack_forms, quadratic_forms, row_blocks, unpack_forms


def hermitian(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    matrix = torch.randn(count, size, size, dtype=torch.complex128, generator=generator)
    return matrix + matrix.mH


@pytest.mark.parametrize(("count", "size", "vectors"), [(1, 1, 1), (3, 2, 5), (4, 40, 1500), (2, 7, 0)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_forms_are_what_they_are_by_definition(
    count: int, size: int, vectors: int, kind: torch.dtype, generator: torch.Generator
) -> None:
    matrices = hermitian(count, size, generator)
    x = torch.randn(vectors, size, dtype=torch.complex128, generator=generator)
    want = torch.einsum("ti,kij,tj->kt", x.conj(), matrices, x).real
    found = quadratic_forms(pack_forms(matrices).to(kind), x)
    # Sums of M^2 terms of size M at most, rounded once each.
    torch.testing.assert_close(found.double(), want, rtol=0, atol=4 * size**2 * torch.finfo(kind).eps)


def test_packing_is_undone(generator: torch.Generator) -> None:
    matrices = hermitian(3, 6, generator)
    torch.testing.assert_close(unpack_forms(pack_forms(matrices), 6), matrices, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_blocks_cover_every_row_once(size: int) -> None:
    for limit in (1, 100, 10**6):
        blocks = row_blocks(size, limit)
        assert [i for first, last in blocks for i in range(first, last)] == list(range(size))
        counts = [sum(2 * (size - i) - 1 for i in range(first, last)) for first, last in blocks]
        assert all(count <= limit or last - first == 1 for count, (first, last) in zip(counts, blocks, strict=True))
        assert sum(counts) == size**2


def test_features_write_into_the_buffer_they_are_given() -> None:
    rows, out = torch.arange(6.0).reshape(2, 3), torch.full((9, 3), -1.0)
    written = form_features(rows, torch.zeros_like(rows), 0, 2, out)
    assert written.shape == (4, 3) and written.data_ptr() == out.data_ptr() and bool((out[4:] == -1).all())
    torch.testing.assert_close(written, torch.stack([rows[0] ** 2, rows[0] * rows[1], torch.zeros(3), rows[1] ** 2]))


def test_cache_keeps_what_was_used_last_and_forgets_with_its_sources() -> None:
    cache, made = FilterCache(limit=2), []

    def get(key: int) -> int:
        return cache.get(key, lambda: made.append(key) or key, lambda _: 1)

    source = torch.zeros(2)
    cache.follow([source])
    for key in (1, 2, 1, 3, 1, 2):  # 3 pushes out 2, which was used longer ago than 1
        assert get(key) == key
    assert made == [1, 2, 3, 2] and len(cache) == 2
    cache.follow([source])
    assert len(cache) == 2
    source += 1
    cache.follow([source])
    assert len(cache) == 0
    get(1)
    cache.follow([source.clone()])
    assert len(cache) == 0 and len(copy.deepcopy(cache)) == 0
