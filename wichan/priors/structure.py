r"""Structures of a component's covariance: the M-step of each is the projection of the unconstrained one.

=================  ====================================================================  =====================================
structure          covariance                                                            real parameters of a component
=================  ====================================================================  =====================================
full               any Hermitian positive definite matrix                                N^2
circulant          :math:`F^H \mathrm{diag}(s) F`, one axis                              N
block-circulant    the same with the DFT over all axes                                   N
toeplitz           :math:`\tilde Q^H \mathrm{diag}(d) \tilde Q`, one axis                2 N
block-toeplitz     the same with :math:`\tilde Q = \tilde Q_1 \otimes \tilde Q_2 \dots`  N 2^(axes longer than 1)
=================  ====================================================================  =====================================

:math:`\tilde Q` holds the first n columns of the unitary DFT of size 2 n: a Toeplitz matrix is the corner of a circulant one of
twice the size. Given weights, and with S the weighted sample covariance, each M-step raises
:math:`Q(C) = -\log|C| - \mathrm{tr}(C^{-1} S)` under :math:`C \succeq \epsilon I`; full and circulant forms reach the maximum.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from wichan.errors import ShapeError

STRUCTURES = ("full", "toeplitz", "block-toeplitz", "circulant", "block-circulant")


def squared(z: torch.Tensor) -> torch.Tensor:
    """|z|^2, without the root that `abs` takes."""
    return torch.view_as_real(z.resolve_conj()).square().sum(-1)


@dataclass
class Components:
    """Covariances of K components by eigenvalues, which every step of EM needs.

    Args:
        powers: eigenvalues, float64 (K, N).
        vectors: eigenvectors in columns, complex128 (K, N, N); ``None`` for those of the DFT.
        values: what the structure stores, or ``None`` where that is the covariance itself.
    """

    powers: torch.Tensor
    vectors: torch.Tensor | None = None
    values: torch.Tensor | None = None

    def dense(self) -> torch.Tensor:
        """The matrices, complex128 (K, N, N); not for the DFT's eigenvectors."""
        assert self.vectors is not None
        return (self.vectors * self.powers.unsqueeze(-2)) @ self.vectors.mH

    def log_density(self, flat: torch.Tensor, shape: tuple[int, ...], noise: torch.Tensor | float = 0.0) -> torch.Tensor:
        """log CN(h; 0, C_k + noise I), float64 (T, K), of channels complex128 (T, N); noise a number or (T, 1)."""
        if self.vectors is None:
            grid = flat.reshape(-1, *shape)
            energy = squared(torch.fft.fftn(grid, dim=tuple(range(1, grid.dim())), norm="ortho")).flatten(1)
        columns = []
        for k, powers in enumerate(self.powers):
            seen = energy if self.vectors is None else squared(flat @ self.vectors[k].conj())
            total = powers + noise
            form = seen @ total.reciprocal() if total.dim() == 1 else (seen / total).sum(-1)
            columns.append(-form - total.log().sum(-1))
        return torch.stack(columns, dim=-1) - flat.shape[1] * math.log(math.pi)

    def take(self, index: torch.Tensor) -> Components:
        """Components of an index."""
        return Components(*(None if v is None else v[index] for v in (self.powers, self.vectors, self.values)))  # type: ignore[arg-type]

    def put(self, index: torch.Tensor, other: Components) -> None:
        """Replace components of an index."""
        for mine, new in zip(vars(self).values(), vars(other).values(), strict=True):
            if mine is not None:
                mine[index] = new


def objective(components: Components, second: torch.Tensor) -> torch.Tensor:
    """Q(C) = -log|C| - tr(C^-1 S) of each component, (K,); S complex (K, N, N), or E|F h|^2 (K, N)."""
    vectors = components.vectors
    seen = second if vectors is None else ((vectors.mH @ second) * vectors.mT).sum(-1).real
    return -(components.powers.log() + seen / components.powers).sum(-1)


class Structure(ABC):
    """How a component's covariance is parametrised over the axes of a channel.

    Args:
        shape: axes of a channel.
    """

    spectral = False  # whether E|F h|^2 is all that the M-step needs

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dim = math.prod(shape)
        self.values_shape: tuple[int, ...] = (self.dim, self.dim)

    @property
    def num_parameters(self) -> int:
        """Real numbers of one component."""
        return math.prod(self.values_shape)

    @abstractmethod
    def update(self, second: torch.Tensor, old: Components | None, floor: float) -> Components:
        """M-step: components for weighted sample covariances (K, N, N) (spectral: E|F h|^2, (K, N)), from the last ones."""

    def project(self, covs: torch.Tensor, old: Components | None, floor: float) -> Components:
        """The structure's components for covariances that are not of samples: as `update`."""
        return self.update(covs, old, floor)

    @abstractmethod
    def values(self, components: Components) -> torch.Tensor:
        r"""What is stored, float64 (K, \*values_shape)."""

    @abstractmethod
    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """Covariances of stored values, complex128 (K, N, N)."""

    def components(self, values: torch.Tensor) -> Components:
        """Stored values with their eigenvalues."""
        powers, vectors = torch.linalg.eigh(self.dense(values))
        return Components(powers, vectors, values)


class Full(Structure):
    """Any covariance; stored as one real matrix, real parts on and below the diagonal, imaginary parts above it."""

    def update(self, second: torch.Tensor, old: Components | None, floor: float) -> Components:
        """The maximum of Q under C >= floor I: eigenvalues of S below the floor are raised to it."""
        powers, vectors = torch.linalg.eigh(second)
        return Components(powers.clamp_min(floor), vectors)

    def values(self, components: Components) -> torch.Tensor:
        dense = components.dense()
        return dense.real.tril() + dense.mT.imag.triu(1)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        lower = torch.complex(values.tril(), values.mT.tril(-1))
        return lower + lower.tril(-1).mH

    def components(self, values: torch.Tensor) -> Components:
        powers, vectors = torch.linalg.eigh(self.dense(values))
        return Components(powers, vectors)


def _dft(shape: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """DFT over axes padded from ``shape`` to ``sizes``, orthonormal: complex128 (prod sizes, prod shape)."""
    matrix = torch.ones(1, 1, dtype=torch.complex128, device=device)
    for n, size in zip(shape, sizes, strict=True):
        unit = torch.eye(size, dtype=torch.complex128, device=device)
        matrix = torch.kron(matrix, torch.fft.fft(unit, norm="ortho")[:, :n])
    return matrix


def _spectral_diagonal(dft: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Diagonal of F M F^H for Hermitian M (K, N, N): real (K, rows of F)."""
    return ((dft @ matrices) * dft.conj()).sum(-1).real


class Circulant(Structure):
    """(Block-)circulant covariances by their eigenvalues over the DFT of all axes."""

    spectral = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.values_shape = shape

    def update(self, second: torch.Tensor, old: Components | None, floor: float) -> Components:
        """The maximum of Q: s = E|F h|^2, the diagonal of F S F^H, at least the floor."""
        return Components(second.clamp_min(floor))

    def project(self, covs: torch.Tensor, old: Components | None, floor: float) -> Components:
        return Components(_spectral_diagonal(_dft(self.shape, self.shape, covs.device), covs).clamp_min(floor))

    def values(self, components: Components) -> torch.Tensor:
        return components.powers.reshape(-1, *self.shape)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        dft = _dft(self.shape, self.shape, values.device)
        return (dft.mH * values.double().flatten(1).unsqueeze(1)) @ dft

    def components(self, values: torch.Tensor) -> Components:
        return Components(values.flatten(1))


class Toeplitz(Structure):
    r"""(Block-)Toeplitz covariances by the spectrum d of a periodic process of twice the size, of which the channel is a part.

    The parametrisation is that of [Barton1993]_. Its EM update is slow, so d moves by the ratio of [Stoica2012]_ instead:

    .. math:: d_m \leftarrow \max\Big(d_m \frac{q_m^H C^{-1} S C^{-1} q_m}{q_m^H C^{-1} q_m}, \epsilon\Big),
        \qquad q_m^H = \text{row } m \text{ of } \tilde Q .

    The square root of the ratio provably raises Q: a bound of Q falls apart into one function of each element of d, with its
    maximum there or at the floor. The ratio itself takes half as many steps. Beyond rounding no random trial has seen it lower
    Q, and a component that it would lower keeps its value.

    Args:
        shape: axes of a channel.
        steps: of d in an M-step; first_steps: the same from the start, the periodogram.
    """

    def __init__(self, shape: tuple[int, ...], steps: int = 2, first_steps: int = 8) -> None:
        super().__init__(shape)
        self.values_shape = tuple(2 * n if n > 1 else 1 for n in shape)
        self.steps = steps
        self.first_steps = first_steps

    def update(self, second: torch.Tensor, old: Components | None, floor: float) -> Components:
        embedding = self._embedding(second.device)
        steps = self.steps
        if old is None:
            old, steps = self._of(embedding, _spectral_diagonal(embedding, second).clamp_min(floor)), self.first_steps
        for _ in range(steps):
            old = self._step(embedding, second, old, floor)
        return old

    def _step(self, embedding: torch.Tensor, second: torch.Tensor, old: Components, floor: float) -> Components:
        assert old.vectors is not None and old.values is not None
        inverse = (old.vectors / old.powers.unsqueeze(-2)) @ old.vectors.mH
        ratio = _spectral_diagonal(embedding, inverse @ second @ inverse) / _spectral_diagonal(embedding, inverse)
        d, ratio, before = old.values.flatten(1), ratio.clamp_min(0.0), objective(old, second)
        new = self._of(embedding, (d * ratio).clamp_min(floor))
        worse = (objective(new, second) < before).nonzero()[:, 0]
        new.put(worse, old.take(worse))
        return new

    def _embedding(self, device: torch.device) -> torch.Tensor:
        return _dft(self.shape, self.values_shape, device)

    def _of(self, embedding: torch.Tensor, d: torch.Tensor) -> Components:
        powers, vectors = torch.linalg.eigh((embedding.mH * d.unsqueeze(1)) @ embedding)
        return Components(powers, vectors, d.reshape(-1, *self.values_shape))

    def values(self, components: Components) -> torch.Tensor:
        assert components.values is not None
        return components.values

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        embedding = self._embedding(values.device)
        return (embedding.mH * values.double().flatten(1).unsqueeze(1)) @ embedding


def make_structure(name: str, shape: tuple[int, ...]) -> Structure:
    """The structure ``name`` over the axes ``shape``; the plain forms demand one axis longer than 1."""
    long = sum(n > 1 for n in shape)
    if name in ("circulant", "toeplitz") and long > 1:
        raise ShapeError(f"structure={name!r} is for one axis, but h has axes {shape}; use 'block-{name}'")
    kind = {"full": Full, "circulant": Circulant, "toeplitz": Toeplitz}[name.removeprefix("block-")]
    return kind(shape)
