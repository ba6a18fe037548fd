"""Channels for training, in memory or in a stream larger than it: checked, surveyed once, and handed out in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_tensor

Channels: TypeAlias = torch.Tensor | Callable[[], Iterable[torch.Tensor]]

_CHUNK_BYTES = 1 << 25  # of one chunk in complex128
_POWERS = (1e-30, 1e30)  # mean power of an element with which single precision screens safely


class Samples:
    r"""Training channels, flat and in double precision.

    Args:
        h: complex (T, \*shape), or a function that returns an iterable of such pieces, anew on each call.
        subset_size: most channels of the random subset that start and re-seeding look at.
        generator: of the subset and of mini-batches.

    Attributes:
        shape: axes of a channel. num: T. power: mean of |h|^2 over all elements.
        subset: complex128, (at most subset_size, N), in the order of the channels.
        is_stream: whether the channels come from a function; a second pass may then come in another order.

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: no complex tensor, no axis for a batch, no channels, unequal shapes,
            NaN, or no power.
    """

    def __init__(self, h: Channels, subset_size: int, generator: torch.Generator) -> None:
        self.is_stream = callable(h) and not isinstance(h, torch.Tensor)
        if not self.is_stream and not isinstance(h, torch.Tensor):
            raise InvalidTypeError(
                f"h must be a torch.Tensor or a function that returns an iterable of them, got {type(h).__name__}"
            )
        self._source = h
        self._generator = generator
        self.shape: tuple[int, ...] = ()
        self._survey(subset_size)

    def _pieces(self) -> Iterator[torch.Tensor]:
        source = self._source
        if isinstance(source, torch.Tensor):
            yield source
            return
        pieces = source()
        if not isinstance(pieces, Iterable) or isinstance(pieces, (str, bytes)):
            raise InvalidTypeError(f"h() must return an iterable of tensors, got {type(pieces).__name__}")
        yield from pieces

    def chunks(self) -> Iterator[torch.Tensor]:
        """All channels once, complex128 (n, N)."""
        for piece in self._pieces():
            self._check(piece)
            if not len(piece):
                continue
            rows = max(1, _CHUNK_BYTES // (16 * max(1, piece[:1].numel())))
            for part in piece.split(rows):
                yield part.flatten(1).to(torch.complex128)

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All channels once in mini-batches, complex128 (at most size, N); shuffled where they are in memory."""
        for piece in self._pieces():
            self._check(piece)
            if not len(piece):
                continue
            if self.is_stream:
                parts: Iterable[torch.Tensor] = piece.split(size)
            else:
                order = torch.randperm(len(piece), generator=self._generator).to(piece.device)
                parts = (piece[index] for index in order.split(size))
            for part in parts:
                yield part.flatten(1).to(torch.complex128)

    def _check(self, piece: torch.Tensor) -> None:
        check_tensor("h", piece, kind="complex")
        if piece.dim() < 2:
            raise ShapeError(f"h has shape {tuple(piece.shape)}; it must be (samples, *axes of a channel)")
        if self.shape and tuple(piece.shape[1:]) != self.shape:
            raise ShapeError(f"h has a piece of shape {tuple(piece.shape)}; the first one had channels of shape {self.shape}")
        if self.is_stream or not self.shape:
            if 0 in piece.shape[1:]:
                raise ShapeError(f"h has shape {tuple(piece.shape)}; a channel needs at least one element")
            check_finite("h", piece)
        self.shape = tuple(piece.shape[1:])

    def _survey(self, subset_size: int) -> None:
        """Count, mean power, and a random subset: those with the smallest of independent random keys."""
        self.num, energy = 0, 0.0
        keys, rows, order = [], [], []
        for chunk in self.chunks():
            energy += float(torch.linalg.vector_norm(torch.view_as_real(chunk)).square())
            key = torch.rand(len(chunk), generator=self._generator, dtype=torch.float64)
            keys.append(key)
            rows.append(chunk)
            order.append(torch.arange(self.num, self.num + len(chunk)))
            self.num += len(chunk)
            if sum(map(len, rows)) > subset_size:
                all_keys = torch.cat(keys)
                kept = all_keys.topk(subset_size, largest=False).indices.sort().values
                keys = [all_keys[kept]]
                rows = [torch.cat(rows)[kept.to(chunk.device)]]
                order = [torch.cat(order)[kept]]
        if not self.num:
            raise InvalidValueError("h holds no channels; at least one is needed")
        self.subset = torch.cat(rows)
        self.power = energy / (self.num * self.subset.shape[1])
        if self.power == 0:
            raise InvalidValueError("h has mean power 0: a covariance of zeros has no density")
        if not _POWERS[0] <= self.power <= _POWERS[1]:
            raise InvalidValueError(f"h has mean power {self.power:.3g}; it must lie between 1e-30 and 1e30: rescale it")
