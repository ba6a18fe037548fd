"""Least squares on the true support: what sparse estimators are measured against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice
from wichan.estimators.sbl_posterior import support_indices
from wichan.estimators.sparse import Solution, SparseEstimate, SparseEstimator
from wichan.estimators.sparse_parts import solve_in_parts
from wichan.estimators.support_ls import double_factors, fit_modes, fit_support

FORMS = ("modes", "full")


class OracleLS(SparseEstimator):
    r"""Least squares on a support that the caller tells: a reference, not an estimator.

    .. math:: \hat x_S = A_S^+ y,\qquad
        \mathrm{err\_var} = \mathrm{no}\,\mathrm{diag}\bigl(C_S (A_S^H A_S)^+ C_S^H\bigr)

    ``err_var`` is exact where the support is right and its columns are independent. Where they are not, the solution is the
    one of least norm; then ``err_var`` is the variance of the estimate alone, and what the measurements do not see is missing
    in it.

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary`, or a sequence of matrices (Mk, Nk).
        form: ``"modes"``, on the product of one support a mode, with one small pseudo-inverse each, as Kronecker-OMP refits
            ([Caiafa2013]_); ``"full"``, on the joint support, which may be smaller than that product and then gives less error.
        no_floor: smallest ``no``, relative to the mean of |y|^2; ``no=0`` means this. Default 1e-10 in double precision and
            1e-6 in single precision.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no dictionary, or an unknown form.

    Cost: modes: sum M_k s_k^2 and the mode products; full: M s^2 and prod C_k s^2 for s atoms.

    Example:
        >>> g = torch.Generator().manual_seed(7)
        >>> factors = [torch.randn(4, 9, generator=g, dtype=torch.float64) for _ in range(2)]
        >>> x = torch.zeros(9, 9, dtype=torch.float64)
        >>> x[1, 5], x[7, 2] = 1.0, -2.0
        >>> oracle = OracleLS(factors)
        >>> y = oracle.dictionary.measure(x)
        >>> bool((oracle(y, no=0.0, support=x != 0).h_hat - x).abs().max() < 1e-9)
        True
    """

    def __init__(self, dictionary: Any, form: str = "modes", *, no_floor: float | None = None) -> None:
        super().__init__(dictionary, no_floor=no_floor)
        self.form = str(check_choice("form", form, FORMS))

    def forward(self, y: torch.Tensor, no: Any, *, support: Any = None) -> SparseEstimate:  # type: ignore[override]
        r"""Estimate the coefficients and the channel that they make.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            support: where x is not zero: bool (\*batch, N1, ..., NI); or one bool (\*batch, Nk) a mode, whose product is
                meant; batch axes may be left out or 1. Or the draw that made the channels, where the dictionary knows its
                support (`wichan.observations.IRSDictionary`).

        Returns:
            `SparseEstimate` in the precision of ``y``.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit, no support, or an
                empty one.
        """
        self._check(y)
        told = self._told(support, tuple(y.shape[:-1]))
        return super().forward(y, no, support=told)

    def _told(self, support: Any, batch: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """The support as the form wants it: one (B, Nk) a mode, or one (B, N1..NI)."""
        sizes = tuple(self.dictionary.num_atoms)
        finder = getattr(self.dictionary, "mode_support" if self.form == "modes" else "support", None)
        if finder is not None and not isinstance(support, (torch.Tensor, Sequence)) and support is not None:
            support = finder(support)
        if isinstance(support, torch.Tensor):
            joint = _mask("support", support, batch, sizes)
            found = (joint,) if self.form == "full" else _marginals(joint)
        elif isinstance(support, (tuple, list)):
            if len(support) != len(sizes):
                raise ShapeError(f"support has {len(support)} masks; the dictionary has {len(sizes)} factors")
            modes = [_mask(f"support[{k}]", mask, batch, (sizes[k],)) for k, mask in enumerate(support)]
            found = (_product(modes),) if self.form == "full" else tuple(modes)
        else:
            raise InvalidTypeError(f"support must be a bool tensor or one a mode, got {type(support).__name__}")
        empty = ~torch.stack([mask.flatten(1).any(dim=1) for mask in found]).all(dim=0)
        if bool(empty.any()):
            raise InvalidValueError(f"support is empty for {int(empty.sum())} of {len(empty)} instances; each needs an atom")
        return found

    def _solve(self, y: torch.Tensor, no: torch.Tensor | None, scale: torch.Tensor, **options: Any) -> Solution:
        assert no is not None
        masks = options["support"]
        double, factors, synthesis = double_factors(self.dictionary, y)

        def solve(y: torch.Tensor, no: torch.Tensor, *masks: torch.Tensor) -> Solution:
            wide = y.to(double)
            if self.form == "modes":
                fit = fit_modes(wide, no, factors, synthesis, masks)
            else:
                fit = fit_support(wide, no, factors, synthesis, *support_indices(masks[0].flatten(1)))
            once = torch.ones(len(y), dtype=torch.int64, device=y.device)
            return fit.solution(y.dtype, once, once.bool())

        widest = int(masks[0].flatten(1).sum(dim=1).max()) if self.form == "full" else 0
        each = 64.0 * (self.dictionary.num_coefficients + widest * self.dictionary.num_measurements)
        return solve_in_parts(solve, each, y, no, *masks)

    def extra_repr(self) -> str:
        return f"form={self.form!r}"


def _mask(name: str, mask: Any, batch: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    """A bool mask over the flattened batch, (B, *sizes)."""
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise InvalidTypeError(f"{name} must be a bool tensor, got {kind}")
    want = (*batch, *sizes)
    lead = tuple(mask.shape[: max(mask.dim() - len(sizes), 0)])
    fits = len(lead) <= len(batch) and all(a in (1, b) for a, b in zip(reversed(lead), reversed(batch), strict=False))
    if tuple(mask.shape[len(lead) :]) != sizes or not fits:
        raise ShapeError(f"{name} has shape {tuple(mask.shape)}; it must be {want}, batch axes may be left out or 1")
    return mask.expand(want).reshape(math.prod(batch), *sizes)


def _marginals(joint: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The support of each mode, the smallest whose product holds the joint one."""
    axes = range(1, joint.dim())
    return tuple(joint.movedim(k, 1).flatten(2).any(dim=2) if joint.dim() > 2 else joint for k in axes)


def _product(modes: Sequence[torch.Tensor]) -> torch.Tensor:
    joint = modes[0]
    for mask in modes[1:]:
        joint = joint.unsqueeze(-1) & mask.reshape(len(mask), *[1] * (joint.dim() - 1), -1)
    return joint
