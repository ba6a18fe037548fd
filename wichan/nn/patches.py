"""A grid cut into patches and put together again."""

from __future__ import annotations

import torch

from wichan.errors import InvalidValueError


def check_patches(grid: tuple[int, int], patch: tuple[int, int]) -> int:
    """Return how many patches (rows, columns) cover a grid (rows, columns).

    Raises:
        InvalidValueError: a grid that is not divisible; nothing is ever dropped at the edge.
    """
    if min(patch) < 1 or grid[0] % patch[0] or grid[1] % patch[1]:
        raise InvalidValueError(
            f"patch={tuple(patch)} does not divide the grid of {grid[0]} x {grid[1]} elements (subcarriers x symbols); "
            "choose one that does"
        )
    return (grid[0] // patch[0]) * (grid[1] // patch[1])


def to_patches(image: torch.Tensor, patch: tuple[int, int]) -> torch.Tensor:
    """Cut (batch, rows, columns) into (batch, patches, elements); patches and their elements row by row."""
    (rows, columns), (height, width) = image.shape[-2:], patch
    blocks = image.reshape(-1, rows // height, height, columns // width, width)
    return blocks.transpose(2, 3).reshape(image.shape[0], (rows // height) * (columns // width), height * width)


def from_patches(tokens: torch.Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> torch.Tensor:
    """Put (batch, patches, elements) together to (batch, rows, columns): the inverse of `to_patches`."""
    (rows, columns), (height, width) = grid, patch
    blocks = tokens.reshape(-1, rows // height, columns // width, height, width)
    return blocks.transpose(2, 3).reshape(-1, rows, columns)
