"""Kronecker orthogonal matching pursuit: a greedy search for one support a mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import check_choice, check_int, check_real
from wichan.estimators.omp import first_largest
from wichan.estimators.sbl_posterior import contract, mode_indices
from wichan.estimators.sparse import Solution, SparseEstimate, SparseEstimator
from wichan.estimators.sparse_parts import solve_in_parts
from wichan.estimators.support_ls import apply_modes, double_factors, fit_modes, invert_modes

FORMS = ("strong", "published")
_PUBLISHED_ATOMS = 10
_PUBLISHED_RESIDUAL = 1e-2


class KroneckerOMP(SparseEstimator):
    r"""Kronecker-OMP ([Caiafa2013]_): the support of x is taken for a product of one support a mode.

    A step finds the largest entry of :math:`|R \times_1 H_1^H \cdots \times_I H_I^H|` for the residual R, adds each of its
    coordinates to the support of that mode unless it is there already or the mode is full, and fits all coefficients on the
    product of the supports by least squares, one small pseudo-inverse a mode.

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary`, or a sequence of matrices (Mk, Nk).
        form: ``"strong"``, normalised atoms, stop where :math:`\|R\| \le \sqrt{\mathrm{no}\,M}`, at most as many atoms a mode
            as it has rows; ``"published"``, the form in which it was compared with Kronecker SBL ([He2024]_): raw atoms, at
            most ten a mode, stop at 1% of :math:`\|y\|` whatever the noise. Raw atoms favour long columns, and 1% lies far
            below the noise, so that noise is fitted: report the strong form.
        max_atoms: most atoms of each mode, at least 1; default as just said.
        residual: stop where :math:`\|R\|` is at most this share of :math:`\|y\|`, too; default 0 (strong) and 1e-2.
        no_floor: smallest ``no``, relative to the mean of |y|^2; ``no=0`` means this. Default 1e-10 in double precision and
            1e-6 in single precision.

    An instance also stops when a step adds nothing. More atoms than rows in a mode are fitted with the least norm.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no dictionary, or a number out of its range.

    Cost: a step takes the mode products and sum M_k s_k^2 for s_k atoms a mode.

    Note:
        ``err_var`` is that of least squares on the supports that were found, as if they had been known. In the strong form
        that is nearly so, since a product of supports covers what single atoms miss: on the published IRS set-up the squared
        error is in the median 1.0 to 1.3 times its sum (4 to 20 dB). In the published form it is two to a hundred times.

    Example:
        >>> g = torch.Generator().manual_seed(7)
        >>> factors = [torch.randn(6, 9, generator=g, dtype=torch.float64) for _ in range(2)]
        >>> x = torch.zeros(9, 9, dtype=torch.float64)
        >>> x[1, 5], x[1, 2] = 1.0, -2.0
        >>> komp = KroneckerOMP(factors)
        >>> y = komp.dictionary.measure(x)
        >>> bool((komp(y, no=1e-9).h_hat - x).abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        dictionary: Any,
        form: str = "strong",
        *,
        max_atoms: int | None = None,
        residual: float | None = None,
        no_floor: float | None = None,
    ) -> None:
        super().__init__(dictionary, no_floor=no_floor)
        self.form = str(check_choice("form", form, FORMS))
        published = self.form == "published"
        if residual is None:
            residual = _PUBLISHED_RESIDUAL if published else 0.0
        self.residual = check_real("residual", residual, minimum=0.0, maximum=1.0)
        sizes = zip(self.dictionary.num_rows, self.dictionary.num_atoms, strict=True)
        default = [min(_PUBLISHED_ATOMS, atoms) if published else min(rows, atoms) for rows, atoms in sizes]
        if max_atoms is not None:
            most = check_int("max_atoms", max_atoms, minimum=1)
            default = [min(most, atoms) for atoms in self.dictionary.num_atoms]
        self.max_atoms = tuple(default)

    def forward(self, y: torch.Tensor, no: Any) -> SparseEstimate:  # type: ignore[override]
        r"""Estimate the coefficients and the channel that they make.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes. In the published form it
                enters ``err_var`` only.

        Returns:
            `SparseEstimate` in the precision of ``y``; ``num_iterations`` counts the steps, ``converged`` says that the
            residual has reached its target.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        return super().forward(y, no)

    def _solve(self, y: torch.Tensor, no: torch.Tensor | None, scale: torch.Tensor, **options: Any) -> Solution:
        assert no is not None
        double, factors, synthesis = double_factors(self.dictionary, y)

        def solve(y: torch.Tensor, no: torch.Tensor) -> Solution:
            wide = y.to(double)
            with torch.no_grad():
                masks, steps, reached = self._pursue(wide.detach(), no, factors)
            return fit_modes(wide, no, factors, synthesis, masks).solution(y.dtype, steps, reached)

        return solve_in_parts(solve, 64.0 * self.dictionary.num_coefficients, y, no)

    def _pursue(
        self, y: torch.Tensor, no: torch.Tensor, factors: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Supports, bool (B, N_k) each; steps (B,); whether the residual reached its target (B,)."""
        published, sizes = self.form == "published", [factor.shape[1] for factor in factors]
        search = [f.mH if published else (f / torch.linalg.vector_norm(f, dim=0)).mH for f in factors]
        energy = y.abs().square().flatten(1).sum(dim=1)
        target = self.residual**2 * energy
        if not published:
            target = torch.maximum(target, no * self.dictionary.num_measurements)
        masks = [torch.zeros(len(y), size, dtype=torch.bool, device=y.device) for size in sizes]
        steps = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        reached, at, residual = energy <= target, torch.arange(len(y), device=y.device), y
        at, residual = at[~reached], residual[~reached]
        while len(at):  # each step adds to every instance that is here
            best = first_largest(contract(residual, search).flatten(1).abs())
            added = torch.zeros_like(at, dtype=torch.bool)
            for mask, coordinate, most in zip(masks, mode_indices(best, sizes), self.max_atoms, strict=True):
                new = ~mask[at, coordinate] & (mask[at].sum(dim=1) < most)
                mask[at[new], coordinate[new]] = True
                added |= new
            at = at[added]
            if not len(at):
                break
            steps[at] += 1
            found = invert_modes(factors, [mask[at] for mask in masks])
            residual = y[at] - apply_modes(y[at], found.projections)
            done = residual.abs().square().flatten(1).sum(dim=1) <= target[at]
            reached[at[done]] = True
            at, residual = at[~done], residual[~done]
        return masks, steps, reached

    def extra_repr(self) -> str:
        return f"form={self.form!r}, max_atoms={self.max_atoms}, residual={self.residual:g}"
