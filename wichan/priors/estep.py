r"""The E-step: log-likelihood and weighted second moments of a chunk of channels, given the components.

Circulant components need :math:`|Fh|^2` only, and one real GEMM. For others, :math:`h^H C_k^{-1} h` costs 8 N^2 FLOP a channel
and component, but channels are far from nearly all components, so most of it is never computed:

* A sample's most likely component of the iteration before is evaluated first. A component whose log-density lies more than
  `MARGIN` below cannot change the sum of the densities in double precision.
* :math:`h^H C_k^{-1} h` from earlier iterations stays a lower bound after division by the largest eigenvalue of
  :math:`C_{k,\mathrm{old}}^{-1/2} C_k C_{k,\mathrm{old}}^{-1/2}`. Near convergence that is about 1 and rules nearly all pairs
  out.
* What is left is screened in single precision, with a bound on its rounding error; only survivors are evaluated in double.

Every bound is rigorous, so the result is that of the dense computation up to ``exp(-MARGIN)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from wichan.priors.structure import Components, squared

MARGIN = 36.0  # exp(-36) is below the rounding of a sum in double precision
_LEAST = -60.0  # smallest logarithm of a ratio of densities
_UNIT32 = 2.0**-24  # unit roundoff of single precision
_DOWN = 1.0 - 2.0**-21  # makes a number in single precision a lower bound after a few operations on it


@dataclass
class Moments:
    """What the M-step needs: sums over samples, which add up over chunks.

    Args:
        total: sum of log p(h).
        num: number of samples.
        counts: responsibilities, float64 (K,).
        sums: responsibilities times h h^H, complex128 (K, N, N), or times |F h|^2, float64 (K, N).
    """

    total: float
    num: int
    counts: torch.Tensor
    sums: torch.Tensor

    def add(self, other: Moments, share: float = 1.0, keep: float = 1.0) -> Moments:
        """``keep`` times this plus ``share`` times the other."""
        self.total = keep * self.total + share * other.total
        self.num += other.num
        self.counts = keep * self.counts + share * other.counts
        self.sums = self.sums.mul_(keep).add_(other.sums, alpha=share)
        return self

    def second(self) -> torch.Tensor:
        """Weighted second moment of each component; 0 for one without weight."""
        counts = self.counts.clamp_min(1e-300)
        return self.sums / counts.reshape(-1, *([1] * (self.sums.dim() - 1)))


class EStep(ABC):
    """Moments of chunks under one set of components after another.

    Args:
        shape: axes of a channel.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dim = math.prod(shape)

    @abstractmethod
    def digest(self, flat: torch.Tensor) -> Any:
        """What the steps need of a chunk, complex128 (T, N), whatever the components."""

    @abstractmethod
    def update(self, components: Components, log_weights: torch.Tensor) -> None:
        """Take over the components for the chunks that follow."""

    @abstractmethod
    def moments(self, digest: Any, memory: dict[str, torch.Tensor] | None = None) -> Moments:
        """Moments of a chunk; ``memory`` is kept by the caller from one iteration to the next for the same chunk."""

    @abstractmethod
    def labelled(self, flat: torch.Tensor, labels: torch.Tensor, num_components: int) -> Moments:
        """Moments of samples, complex128 (T, N), that belong to one component each; their likelihood is left out."""


class SpectralEStep(EStep):
    """E-step of circulant components: 4 T N K FLOP."""

    def digest(self, flat: torch.Tensor) -> torch.Tensor:
        grid = flat.reshape(-1, *self.shape)
        return squared(torch.fft.fftn(grid, dim=tuple(range(1, grid.dim())), norm="ortho")).flatten(1)

    def update(self, components: Components, log_weights: torch.Tensor) -> None:
        self.inverse = 1.0 / components.powers
        self.offset = log_weights - components.powers.log().sum(1) - self.dim * math.log(math.pi)

    def moments(self, digest: torch.Tensor, memory: dict[str, torch.Tensor] | None = None) -> Moments:
        joint = torch.addmm(self.offset, digest, self.inverse.T, alpha=-1.0)
        top = joint.amax(dim=1, keepdim=True)
        # One exponential serves density and weights. Denormal numbers would make it and the product below several times slower.
        weights = joint.sub_(top).clamp_min_(_LEAST).exp_()
        total = weights.sum(1, keepdim=True)
        weights.div_(total)
        return Moments(float(top.add_(total.log_()).sum()), len(digest), weights.sum(0), weights.T @ digest)

    def labelled(self, flat: torch.Tensor, labels: torch.Tensor, num_components: int) -> Moments:
        energy = self.digest(flat)
        sums = energy.new_zeros(num_components, self.dim).index_add_(0, labels, energy)
        return Moments(0.0, len(flat), torch.bincount(labels, minlength=num_components).double(), sums)


@dataclass
class _Chunk:
    """Channels in both precisions, and their norms."""

    double: torch.Tensor
    single: torch.Tensor
    norm: torch.Tensor


class DenseEStep(EStep):
    """E-step of components with eigenvectors of their own; see the module for what it leaves out.

    Args:
        shape: axes of a channel.
        remember: whether `moments` will be given a memory.
    """

    def __init__(self, shape: tuple[int, ...], remember: bool = False) -> None:
        super().__init__(shape)
        self.remember = remember
        self.last: Components | None = None

    def digest(self, flat: torch.Tensor) -> _Chunk:
        return _Chunk(flat, flat.to(torch.complex64), _energy(flat).sqrt_().float())

    def update(self, components: Components, log_weights: torch.Tensor) -> None:
        assert components.vectors is not None
        root = components.powers.sqrt()
        self.whitening = components.vectors.conj() / root.unsqueeze(-2)
        self.whitening_single = self.whitening.to(torch.complex64)
        self.offset = log_weights - components.powers.log().sum(1) - self.dim * math.log(math.pi)
        # |error of a whitened channel| <= slack |h|: rounded inputs and N products, each with an error of a few units.
        self.slack = (2 * (self.dim + 4) * _UNIT32) * (1.0 / components.powers).sum(1).sqrt().float()
        self.shrink = None
        if self.remember and self.last is not None:
            assert self.last.vectors is not None
            change = (self.last.vectors.mH @ components.vectors) * root.unsqueeze(-2)
            change = change / self.last.powers.sqrt().unsqueeze(-1)
            largest = torch.linalg.eigvalsh(change @ change.mH)[:, -1]
            self.shrink = ((1 - 1e-9) / largest).float() * _DOWN
        self.last = components

    def moments(self, digest: _Chunk, memory: dict[str, torch.Tensor] | None = None) -> Moments:
        memory = {} if memory is None else memory
        if memory and self.shrink is not None:
            memory["bounds"].mul_(self.shrink.unsqueeze(1))
            screened = False
        else:
            self._screen_all(digest, memory)
            screened = True
        index, score, lengths = self._survivors(digest, memory, screened)
        density, weight = _normalised(index, score, len(digest.double))
        return self._weighted(digest, memory, index.split(lengths), weight.split(lengths), density)

    def _screen(self, k: int, single: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Lower bound of the quadratic form, from single precision."""
        root = _energy(single @ self.whitening_single[k]).sqrt_()
        return (root - self.slack[k] * norm).clamp_min_(0.0).square_().mul_(1 - 8 * self.dim * _UNIT32)

    def _exact(self, k: int, double: torch.Tensor) -> torch.Tensor:
        return _energy(double @ self.whitening[k])

    def _screen_all(self, digest: _Chunk, memory: dict[str, torch.Tensor]) -> None:
        rows = [self._screen(k, digest.single, digest.norm) for k in range(len(self.offset))]
        memory["bounds"] = torch.stack(rows)
        memory["best"] = (self.offset.float().unsqueeze(1) - memory["bounds"]).argmax(0)

    def _survivors(
        self, digest: _Chunk, memory: dict[str, torch.Tensor], screened: bool
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Pairs that count, by component: index of the sample, log pi_k CN(h; C_k), and the number of pairs of each."""
        bounds, best = memory["bounds"], memory["best"]
        num = len(self.offset)
        own = torch.argsort(best).split(torch.bincount(best, minlength=num).tolist())
        reference = torch.empty(len(best), dtype=torch.float64, device=best.device)
        offset = self.offset.tolist()
        scores = []
        for k in range(num):
            form = self._exact(k, digest.double.index_select(0, own[k]))
            scores.append(offset[k] - form)
            reference[own[k]] = scores[k]
        limit = _below(reference - MARGIN)
        single_offset = _above(self.offset)
        open_pairs = single_offset.unsqueeze(1) - bounds >= limit
        open_pairs.scatter_(0, best.unsqueeze(0), False)
        pairs = []
        for k in range(num):
            index = open_pairs[k].nonzero()[:, 0]
            if not screened and len(index):
                bound = self._screen(k, digest.single.index_select(0, index), digest.norm[index])
                bounds[k, index] = bound
                index = index[single_offset[k] - bound >= limit[index]]
            form = self._exact(k, digest.double.index_select(0, index))
            bounds[k, index] = form.float() * _DOWN
            bounds[k, own[k]] = (offset[k] - scores[k]).float() * _DOWN
            pairs.append(torch.cat([own[k], index]))
            scores[k] = torch.cat([scores[k], offset[k] - form])
        return torch.cat(pairs), torch.cat(scores), [len(p) for p in pairs]

    def _weighted(
        self,
        digest: _Chunk,
        memory: dict[str, torch.Tensor],
        index: tuple[torch.Tensor, ...],
        weight: tuple[torch.Tensor, ...],
        density: torch.Tensor,
    ) -> Moments:
        largest = torch.full_like(density, -1.0)
        sums = []
        for k, (rows, w) in enumerate(zip(index, weight, strict=True)):
            h = digest.double.index_select(0, rows)
            sums.append((h * w.unsqueeze(1)).mT @ h.conj())
            up = w > largest[rows]
            memory["best"][rows[up]] = k
            largest[rows[up]] = w[up]
        counts = torch.stack([w.sum() for w in weight])
        return Moments(float(density.sum()), len(density), counts, torch.stack(sums))

    def labelled(self, flat: torch.Tensor, labels: torch.Tensor, num_components: int) -> Moments:
        groups = [flat[labels == k] for k in range(num_components)]
        counts = torch.bincount(labels, minlength=num_components).double()
        return Moments(0.0, len(flat), counts, torch.stack([g.mT @ g.conj() for g in groups]))


def _energy(z: torch.Tensor) -> torch.Tensor:
    """Squared norm of each row."""
    return torch.linalg.vector_norm(torch.view_as_real(z).flatten(1), dim=1).square_()


def _below(x: torch.Tensor) -> torch.Tensor:
    """A number in single precision that is surely less."""
    return x.float() - (x.abs() * 2.0**-21 + 1e-4).float()


def _above(x: torch.Tensor) -> torch.Tensor:
    return x.float() + (x.abs() * 2.0**-21 + 1e-4).float()


def _normalised(index: torch.Tensor, score: torch.Tensor, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exp over the pairs of each sample (num,), and each pair's responsibility."""
    top = score.new_full((num,), -math.inf).scatter_reduce(0, index, score, "amax")
    total = score.new_zeros(num).index_add_(0, index, (score - top[index]).exp_())
    density = top + total.log_()
    return density, (score - density[index]).exp_()
