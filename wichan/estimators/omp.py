"""Orthogonal matching pursuit over a Kronecker dictionary, for batches of observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import check_choice, check_int
from wichan.estimators.sbl_posterior import contract, gather_columns
from wichan.estimators.sparse import Solution, SparseEstimate, SparseEstimator
from wichan.estimators.sparse_parts import solve_in_parts
from wichan.estimators.support_ls import double_factors, fit_support

_TIE = 1e-9  # correlations closer than this, relative to the largest, count as equal
_DEPENDENT = 1e-10  # what must be left of an atom of unit norm outside the span of those before it


class OMP(SparseEstimator):
    r"""Orthogonal matching pursuit ([Pati1993]_, [Tropp2007]_): atom by atom, the one most correlated with the residual.

    .. math:: n^\star = \arg\max_n \frac{|a_n^H r|}{\|a_n\|},\qquad r = y - A_S (A_S^H A_S)^{-1} A_S^H y

    Correlations are mode products of the residual with the factors, whose columns are normalised; A is never formed. An
    orthonormal basis of the chosen atoms grows by one vector a step (Gram-Schmidt, twice), so that nothing is refitted.

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary`, or a sequence of matrices (Mk, Nk); one is an ordinary
            dense dictionary.
        max_atoms: most atoms, at least 1; default as many as measurements or atoms. An instance stops sooner when
            :math:`\|r\| \le \sqrt{\mathrm{no}\, M}`, or when no atom outside the span of the chosen ones is left.
        stop: ``"noise"``, as just said; ``"atoms"``, only after ``max_atoms`` (a fixed level).
        normalize: divide correlations by the lengths of the atoms. ``False`` is what published comparisons did: long atoms
            are then favoured, and products of random columns differ so much in length that little is found.
        no_floor: smallest ``no``, relative to the mean of |y|^2; ``no=0`` means this. Default 1e-10 in double precision and
            1e-6 in single precision.

    Of atoms that are equally correlated the first in row-major order is taken.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no dictionary, or a number out of its range.

    Cost: step k of an instance takes the mode products (for M = (6, 3, 16) and N = 18^3 about 1.5e5 multiply-adds where
    M N = 1.7e6) and 4 M k. Memory: M k numbers an instance; batches go in parts of 128 MiB.

    Note:
        ``err_var`` is that of least squares on the chosen support, :math:`\mathrm{no}\,\mathrm{diag}(C_S (A_S^H A_S)^{-1}
        C_S^H)`, as if the support had been known: it does not count atoms that were missed or wrongly taken, and it is
        optimistic. On the published IRS set-up the squared error is in the median about five times its sum at 12 dB, and
        between three and seven times from 20 to 4 dB.

    Example:
        >>> g = torch.Generator().manual_seed(7)
        >>> factors = [torch.randn(6, 9, generator=g, dtype=torch.float64) for _ in range(2)]
        >>> x = torch.zeros(9, 9, dtype=torch.float64)
        >>> x[1, 5], x[7, 2] = 1.0, -2.0
        >>> omp = OMP(factors)
        >>> y = omp.dictionary.measure(x)
        >>> bool((omp(y, no=1e-9).h_hat - x).abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        dictionary: Any,
        *,
        max_atoms: int | None = None,
        stop: str = "noise",
        normalize: bool = True,
        no_floor: float | None = None,
    ) -> None:
        super().__init__(dictionary, no_floor=no_floor)
        most = min(self.dictionary.num_measurements, self.dictionary.num_coefficients)
        self.max_atoms = most if max_atoms is None else min(check_int("max_atoms", max_atoms, minimum=1), most)
        self.stop = str(check_choice("stop", stop, ("noise", "atoms")))
        self.normalize = bool(normalize)

    def forward(self, y: torch.Tensor, no: Any) -> SparseEstimate:  # type: ignore[override]
        r"""Estimate the coefficients and the channel that they make.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.

        Returns:
            `SparseEstimate` in the precision of ``y``; ``num_iterations`` counts the atoms, ``converged`` says that the
            residual has reached the noise (for ``stop="atoms"``: that all atoms were found).

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
                support, count, reached = self._pursue(wide.detach(), no, factors)
            real = torch.arange(support.shape[1], device=y.device) < count.unsqueeze(1)
            return fit_support(wide, no, factors, synthesis, support, real).solution(y.dtype, count, reached)

        # Correlations with all atoms; the orthonormal basis twice, and the chosen atoms.
        state = 2 * self.dictionary.num_coefficients + 4 * self.dictionary.num_measurements * min(self.max_atoms, 128)
        return solve_in_parts(solve, 16.0 * state, y, no)

    def _pursue(
        self, y: torch.Tensor, no: torch.Tensor, factors: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Chosen atoms, int64 (B, K), padded; how many of them count, (B,); whether the residual reached its target, (B,)."""
        unit = [factor / torch.linalg.vector_norm(factor, dim=0) for factor in factors]
        search = [factor.mH for factor in (unit if self.normalize else factors)]
        flat, count = y.flatten(1), math.prod(y.shape[1:])
        target = no * count if self.stop == "noise" else torch.full_like(no, -math.inf)
        least = 1e-13 * contract(y, search).flatten(1).abs().amax(dim=1)  # a smaller correlation is rounding
        chosen: list[torch.Tensor] = []
        number = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        reached = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        at, residual, basis = torch.arange(len(y), device=y.device), flat, flat.new_zeros(len(y), 0, count)
        for _ in range(self.max_atoms):
            here = residual.abs().square().sum(dim=1) <= target
            reached[at[here]] = True
            correlation = contract(residual.reshape(-1, *y.shape[1:]), search).flatten(1).abs()
            best = first_largest(correlation)
            atom = gather_columns(unit, best.unsqueeze(1)).squeeze(2)
            for _ in range(2):
                atom = atom - ((basis.conj() @ atom.unsqueeze(2)).mT @ basis).squeeze(1)
            left = torch.linalg.vector_norm(atom, dim=1)
            keep = ~here & (left > _DEPENDENT) & (correlation.amax(dim=1) > least[at])
            if not bool(keep.all()):
                at, residual, target, basis, atom, left, best = (
                    t[keep] for t in (at, residual, target, basis, atom, left, best)
                )
                if not len(at):
                    break
            atom = atom / left.unsqueeze(1)
            basis = torch.cat([basis, atom.unsqueeze(1)], dim=1)
            residual = residual - (atom.conj() * residual).sum(dim=1, keepdim=True) * atom
            chosen.append(torch.zeros(len(y), dtype=torch.int64, device=y.device).index_copy(0, at, best))
            number[at] += 1
        if len(at):
            reached[at] = residual.abs().square().sum(dim=1) <= target
        if self.stop == "atoms":
            reached = number == self.max_atoms
        none = torch.zeros(len(y), 0, dtype=torch.int64, device=y.device)
        return torch.stack(chosen, dim=1) if chosen else none, number, reached

    def extra_repr(self) -> str:
        return f"max_atoms={self.max_atoms}, stop={self.stop!r}"


def first_largest(values: torch.Tensor) -> torch.Tensor:
    """Index of the first of the largest entries of each row, int64 (B,); rounding does not decide between equals."""
    peak = values.amax(dim=1, keepdim=True)
    return (values >= peak * (1 - _TIE)).to(torch.int8).argmax(dim=1)
