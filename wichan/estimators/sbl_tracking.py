"""Frame after frame: sparse Bayesian learning that starts from what the last frame found."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_real
from wichan.estimators.base import Estimator
from wichan.estimators.kronecker_sbl import KroneckerSBL
from wichan.estimators.sparse import SparseEstimate

_FLOOR = 1e-3  # the lift where nothing is pruned


class SBLTracker(Estimator):
    r"""`KroneckerSBL` over the frames of a link whose directions move slowly.

    Every frame starts from the prior variances of the last one. Expectation maximisation never revives an atom whose
    variance is zero, so they are first lifted,

    .. math:: \gamma_k \leftarrow \gamma_k + \text{floor} \cdot \max_i \gamma_{k,i}

    for every factor k: paths can appear anywhere, and those that are still there need few steps. The state is one set of
    variances for every link of the batch; frames of one call are independent links, frames of one link are calls.

    Args:
        estimator: the `KroneckerSBL` that solves a frame.
        floor: the lift, in (0, 1]; it must exceed the estimator's pruning, which would undo it. The smaller, the fewer
            iterations; default twice the pruning.

    Measured (10 links of 3 paths off the grid, 6 x 32 x 16 antennas, 20 dB, grid 18, gains with correlation 0.98 from frame to
    frame, ``"mm"`` with ``tol=1e-2``): directions that move by 0.003 a frame take 15 iterations instead of 35, by 0.01 24, at
    the same NMSE (0.011 and 0.010). With ``tol=1e-3`` 54 instead of 75: most of the iterations polish the end and no start
    saves them. ``"svd"`` gains little and can end in a worse minimum, since rank-one fits want a large start.

    Raises:
        InvalidTypeError, InvalidValueError: another estimator, a floor outside (0, 1] or not above the pruning.
    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a = [torch.randn(m, 8, generator=g, dtype=torch.float64) for m in (5, 6)]
        >>> tracker = SBLTracker(KroneckerSBL(a, "mm", tol=1e-2))
        >>> x = torch.zeros(8, 8, dtype=torch.float64)
        >>> x[2, 3] = 1.0
        >>> y = tracker.estimator.dictionary.measure(x)
        >>> first, second = (tracker(y, 1e-3).num_iterations for _ in range(2))
        >>> bool(second < first)
        True
    """

    def __init__(self, estimator: KroneckerSBL, *, floor: float | None = None) -> None:
        super().__init__()
        if not isinstance(estimator, KroneckerSBL):
            raise InvalidTypeError(f"estimator must be a KroneckerSBL, got {type(estimator).__name__}")
        self.estimator = estimator
        least = max(estimator.prune)
        self.floor = max(2 * least, _FLOOR) if floor is None else check_real("floor", floor, positive=True, maximum=1.0)
        if self.floor <= least:
            raise InvalidValueError(f"floor={self.floor:g} must be above the estimator's pruning {least:g}")
        self._gammas: tuple[torch.Tensor, ...] | None = None

    @property
    def gammas(self) -> tuple[torch.Tensor, ...] | None:
        r"""Prior variances of the last frame, (\*batch, Nk) a factor, before they are lifted; ``None`` at first."""
        return self._gammas

    def reset(self) -> None:
        """Forget all frames; the next one starts afresh."""
        self._gammas = None

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> SparseEstimate:
        r"""Estimate the next frame.

        Args:
            y: (\*batch, M), the same batch in every call.
            no: noise variance, a number or a tensor over the leading batch axes.
            conditions: not used.

        Returns:
            `SparseEstimate`.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: as `KroneckerSBL`; another batch than in the last frame.
        """
        before = self._gammas
        if before is None:
            found = self.estimator(y, no)
        else:
            batch = tuple(before[0].shape[:-1])
            if isinstance(y, torch.Tensor) and tuple(y.shape[:-1]) != batch:
                raise ShapeError(f"y has batch {tuple(y.shape[:-1])}, the frames before {batch}; call reset() for other links")
            found = self.estimator(y, no, start=tuple(self._lifted(g, y) for g in before))
        self._remember(found, y)
        return found

    def _lifted(self, gamma: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        gamma = gamma.to(y.device)
        return gamma + self.floor * gamma.amax(-1, keepdim=True)

    def _remember(self, found: SparseEstimate, y: torch.Tensor) -> None:
        """Keep the variances of this frame; a silent link (all zero) keeps what it had."""
        if not isinstance(found.gammas, tuple):
            return
        fresh = tuple(g.detach() for g in found.gammas)
        if self._gammas is not None:
            heard = (y.detach().abs().amax(-1) > 0)[..., None]
            fresh = tuple(torch.where(heard, new, old.to(new)) for new, old in zip(fresh, self._gammas, strict=True))
        self._gammas = fresh
