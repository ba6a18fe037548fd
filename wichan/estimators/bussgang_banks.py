"""One Bussgang filter for each component of a mixture, at one noise variance: what any covariances and pilots need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from wichan.estimators.bussgang_filters import bussgang_filter, chunks, squared
from wichan.estimators.bussgang_forms import pack_forms, quadratic_forms, unpack_forms
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.base import MixturePrior

# Largest rounding error of a log-likelihood that is accepted for speed, for observations in single and double precision.
_ROUNDING = {torch.complex64: 1e-3, torch.complex128: 1e-10}
_SQUARES = 2**19  # whitened entries at once


class Bank(ABC):
    """Filters of K components and their log-likelihoods, in the precision of the observations.

    Attributes:
        error: E|h - h_hat|^2 of each component, real (K, N).
    """

    error: torch.Tensor

    def enter(self, r: torch.Tensor) -> torch.Tensor:
        """Bring observations (T, M) to the coordinates of the filters."""
        return r

    @abstractmethod
    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        """ln pi_k + ln CN(r; 0, C_r,k) without M ln(pi), real (K, T), from what `enter` gave."""

    @abstractmethod
    def estimates(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Estimates (n, N) of rows sorted by component: component k filters the next ``counts[k]``."""

    @property
    def num_bytes(self) -> int:
        """What the bank takes."""
        tensors = [value for value in vars(self).values() if isinstance(value, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class DenseBank(Bank):
    r"""Filters as matrices, for any covariances and pilots.

    Log-likelihoods are Hermitian forms in :math:`C_{r,k}^{-1}`: a real product of 2 T K M^2 FLOP, in single precision where
    its rounding stays below 1e-3 (1e-10 for observations in double precision), else in double, and by whitening where that
    is not enough either (nearly noiseless pilots without quantisation).
    """

    def __init__(
        self, prior: MixturePrior, obs: QuantizedPilots, no: float, method: str, floor: float, dtype: torch.dtype
    ) -> None:
        covariances = prior.covariances()
        weights, errors, log_dets, inverses, whiteners, needs = [], [], [], [], [], []
        for some in chunks(len(covariances), obs):
            made = bussgang_filter(obs, covariances[some], no, method, floor)
            whitener = made.whitener()
            inverse = whitener.mH @ whitener
            needs.append(precision_needed(inverse, made.root))
            weights.append(made.weight().mT.to(dtype))
            errors.append(made.error)
            log_dets.append(made.log_det())
            inverses.append(pack_forms(inverse))
            whiteners.append(whitener.mT)
        self.size = obs.num_measurements
        self.weight = torch.cat(weights).contiguous()  # (K, M, N)
        self.error = torch.cat(errors).to(self.weight.real.dtype)
        self.offset = prior.log_weights - torch.cat(log_dets)
        kind = form_dtype(max(needs), dtype)
        self.forms = torch.cat(inverses).to(kind) if kind else None
        self.whitener = None if kind else torch.cat(whiteners).contiguous()  # (K, M, M)

    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        if self.whitener is not None:
            return finish(self.offset, _whitened(self.whitener, x))
        assert self.forms is not None
        if x.requires_grad and torch.is_grad_enabled():
            forms = _differentiable(unpack_forms(self.forms, self.size), x)
        else:
            forms = quadratic_forms(self.forms, x)
        return finish(self.offset, forms)

    def estimates(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        return product_by_component(x, self.weight, counts)


def precision_needed(inverse: torch.Tensor, root: torch.Tensor) -> float:
    """What the rounding of forms in P = C_r^-1 is proportional to, ||P|| E||r||^2, the largest of all matrices (..., M, M)."""
    return float((squared(inverse).sum((-2, -1)).sqrt() * squared(root).sum((-2, -1))).max())


def form_dtype(need: float, dtype: torch.dtype) -> torch.dtype | None:
    """Real precision in which forms of rounding eps ``need`` are good enough; ``None`` where none is."""
    kinds = (torch.float32, torch.float64) if dtype == torch.complex64 else (torch.float64,)
    return next((kind for kind in kinds if torch.finfo(kind).eps * need <= _ROUNDING[dtype]), None)


def finish(offset: torch.Tensor, forms: torch.Tensor) -> torch.Tensor:
    """Log-likelihoods (K, T) from forms: rounding below zero and overflow of huge observations are cut off."""
    forms = forms.nan_to_num(nan=1e30, posinf=1e30).clamp(0, 1e30)
    return offset.to(forms.dtype)[:, None] - forms


def product_by_component(x: torch.Tensor, weight: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """x_t @ weight_k(t) for rows (n, M) sorted by component and weights (K, M, N)."""
    if x.requires_grad and torch.is_grad_enabled():
        return torch.cat([some @ one for some, one in zip(x.split(list(counts)), weight, strict=True)])
    out = x.new_empty(len(x), weight.shape[2])
    start = 0
    for k, count in enumerate(counts):
        if count:
            torch.mm(x[start : start + count], weight[k], out=out[start : start + count])
            start += count
    return out


def _whitened(whitener: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """|L_k^-1 x_t|^2, real double (K, T)."""
    step = max(1, _SQUARES // x.shape[1])
    parts = [torch.stack([squared(part.to(torch.complex128) @ one).sum(-1) for one in whitener]) for part in x.split(step)]
    return torch.cat(parts, dim=-1)


def _differentiable(matrices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x_t^H P_k x_t, real (K, T), by products that autograd can follow."""
    wide = x.to(matrices.dtype)
    return torch.stack([((wide @ one.mT) * wide.conj()).real.sum(-1) for one in matrices])
