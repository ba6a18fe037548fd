"""Classical sparse Bayesian learning: one prior variance for every coefficient, found by expectation maximisation."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import InvalidTypeError, check_choice, check_int, check_real
from wichan.estimators.sbl_posterior import METHODS, GaussianPosterior, Moments
from wichan.estimators.sparse import Solution, SparseEstimate, SparseEstimator, synthesis_of
from wichan.estimators.sparse_parts import solve_in_parts

_LEAST_ENERGY = 0.1  # the least share of |y|^2 that the start takes for signal


class SBL(SparseEstimator):
    r"""Sparse Bayesian learning with free variances, by expectation maximisation ([Tipping2001]_, [Wipf2004]_).

    With :math:`y = A x + n`, :math:`A = H_1 \otimes \dots \otimes H_I` and :math:`x_n \sim \mathcal{CN}(0, \gamma_n)`
    independent, each step computes the posterior mean :math:`\mu` and variances :math:`\Sigma_{nn}` of x and sets

    .. math:: \gamma_n \leftarrow |\mu_n|^2 + \Sigma_{nn},

    which never raises :math:`\log\det S + y^H S^{-1} y`, :math:`S = \mathrm{no}\,I + A\,\mathrm{diag}(\gamma) A^H`, while no
    atom is pruned. The structure of the dictionary serves the arithmetic only (`GaussianPosterior`): the answer is that of
    the dense A, whose M x N array is never made. Real data follow the same equations with real Gaussians.

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary`, or a sequence of matrices (Mk, Nk); one is an ordinary
            dense dictionary.
        max_iter: most steps, at least 1.
        tol: an instance stops where :math:`\|\gamma_{new} - \gamma\| \le tol\,\|\gamma\|`; 0: never early.
        prune: before each step atoms with :math:`\gamma_n <` prune x the largest are switched off for good; 0 for none.
            Published: 1e-3 for synthetic dictionaries, 1e-4 for IRS.
        start: ``"energy"``, one variance for all, which explains what power of ``y`` exceeds ``no`` (so that a multiple of
            ``y`` gives the same multiple of the estimate); or that variance, in the unit of |x|^2. Published: 1.0.
        learn_noise: find the noise variance, too: :math:`\mathrm{no} \leftarrow (\|y - A\mu\|^2 + \mathrm{no}\sum_n (1 -
            \Sigma_{nn}/\gamma_n))/M` after each step. ``no`` is then where it starts; ``None``: at a tenth of the mean |y|^2.
        method: see `GaussianPosterior`; all give the same answer.
        no_floor: smallest ``no``, relative to the mean of |y|^2; ``no=0`` means this. Default 1e-10 in double precision and
            1e-6 in single precision.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no dictionary, or a number out of its range.

    Cost: an instance and step M^3 multiply-adds plus the mode products of `GaussianPosterior`, or n^3 2/3 when n atoms are
    left. Everything is computed in double precision. Instances that have stopped leave the batch. Gradients reach ``y``
    through the mean at fixed variances.

    Note:
        Type-II posteriors are overconfident: the variances are taken for known, and atoms that were switched off for never
        there. On the published IRS set-up at 12 dB the squared error is in the median about twice the sum of ``err_var``, on
        small synthetic cases (15 dB) about four times. `wichan.estimators.sbl_calibration` measures and corrects this.

    Example:
        >>> g = torch.Generator().manual_seed(7)
        >>> a = torch.randn(12, 30, generator=g, dtype=torch.float64)
        >>> sbl = SBL([a])
        >>> x_hat, err_var = sbl(2.0 * a[:, 4], no=1e-6)
        >>> int(x_hat.argmax()), round(float(x_hat[4]), 3)
        (4, 2.0)
    """

    def __init__(
        self,
        dictionary: Any,
        *,
        max_iter: int = 150,
        tol: float = 1e-4,
        prune: float = 1e-3,
        start: str | float = "energy",
        learn_noise: bool = False,
        method: str = "auto",
        no_floor: float | None = None,
    ) -> None:
        super().__init__(dictionary, no_floor=no_floor)
        self.max_iter = check_int("max_iter", max_iter, minimum=1)
        self.tol = check_real("tol", tol, minimum=0.0)
        self.prune = check_real("prune", prune, minimum=0.0, maximum=1.0)
        self.start: str | float
        if isinstance(start, str):
            self.start = str(check_choice("start", start, ["energy"]))
        else:
            self.start = check_real("start", start, positive=True)
        self.learn_noise = bool(learn_noise)
        self.method = str(check_choice("method", method, METHODS))

    def forward(self, y: torch.Tensor, no: Any = None) -> SparseEstimate:  # type: ignore[override]
        r"""Estimate the coefficients and the channel that they make.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes; may be left out with
                ``learn_noise=True``.

        Returns:
            `SparseEstimate` in the precision of ``y``; ``gammas`` is one tensor (\*batch, N1, ..., NI), 0 where an atom was
            switched off.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, no ``no``, shapes that do not fit.
        """
        return super().forward(y, no)

    def _noise(self, no: Any, batch: tuple[int, ...], flat: torch.Tensor) -> torch.Tensor | None:
        if no is None and self.learn_noise:
            return None
        if no is None:
            raise InvalidTypeError("no=None must be a number or a real tensor unless learn_noise=True")
        return super()._noise(no, batch, flat)

    def _solve(self, y: torch.Tensor, no: torch.Tensor | None, scale: torch.Tensor, **options: Any) -> Solution:
        double = torch.complex128 if y.is_complex() else torch.float64
        kernel = GaussianPosterior([factor.to(double) for factor in self.dictionary.factors], self.method)
        # Some ten arrays over all coefficients; what the posterior takes besides goes in chunks of its own.
        each = 100.0 * self.dictionary.num_coefficients
        return solve_in_parts(lambda *rows: self._solve_part(kernel, *rows), each, y, scale, no)

    def _solve_part(self, kernel: GaussianPosterior, y: torch.Tensor, scale: torch.Tensor, no: torch.Tensor | None) -> Solution:
        wide, real = y.to(kernel.factors[0].dtype), y.real.dtype
        power = wide.detach().abs().square().flatten(1).mean(dim=1)
        with torch.no_grad():
            noise = 0.1 * power if no is None else no
            unit = self._start(wide, noise, scale, kernel)
            gamma, noise, steps, converged, history = self._iterate(kernel, wide.detach(), noise, unit)
        moments = kernel.moments(wide, noise, gamma, kernel.correlate(wide))
        with torch.no_grad():
            found = moments.variance
            if self.dictionary.has_synthesis:
                synthesis = [factor.to(wide.dtype) for factor in synthesis_of(self.dictionary)]
                found = kernel.channel_variance(synthesis, noise, gamma)
        return Solution(
            coefficients=moments.mean.to(y.dtype),
            coefficient_var=moments.variance.to(real),
            channel_var=found.to(real),
            gammas=gamma.to(real),
            num_iterations=steps,
            converged=converged,
            no_hat=noise.to(real) if self.learn_noise else None,
            cost=moments.cost.detach(),
            history=history,
        )

    def _start(self, y: torch.Tensor, no: torch.Tensor, scale: torch.Tensor, kernel: GaussianPosterior) -> torch.Tensor:
        """The first variance of all coefficients, (B,)."""
        if isinstance(self.start, float):
            return self.start / scale.square()
        power = y.abs().square().flatten(1).mean(dim=1)
        gain = math.prod(float(factor.abs().square().sum()) for factor in kernel.factors) / kernel.measurements
        return torch.maximum(power - no, _LEAST_ENERGY * power) / gain

    def _iterate(
        self, kernel: GaussianPosterior, y: torch.Tensor, no: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Expectation maximisation; instances leave as they stop.

        Returns:
            Variances (B, N1..NI), noise variances (B,), steps (B,), converged (B,), cost at each step (B, steps).
        """
        floor = y.abs().square().flatten(1).mean(dim=1) * 1e-15
        gamma_out = unit.reshape(-1, *[1] * len(kernel.sizes)).expand(-1, *kernel.sizes).clone()
        noise_out, steps = no.clone(), torch.full_like(no, self.max_iter, dtype=torch.int64)
        converged, costs = torch.zeros_like(no, dtype=torch.bool), []
        at = torch.arange(len(y), device=y.device)  # who is still here
        gamma, noise, correlation = gamma_out, no, kernel.correlate(y)
        mean = torch.zeros_like(correlation)
        for step in range(1, self.max_iter + 1):
            gamma = self._kept(gamma)
            moments = kernel.moments(y, noise, gamma, correlation)
            costs.append(torch.full_like(no, math.nan).index_copy(0, at, moments.cost))
            new, change = self._reweigh(moments, gamma, mean, unit)
            gamma, mean = new, moments.mean
            noise = torch.maximum(moments.noise, floor) if self.learn_noise else noise
            gamma_out[at], noise_out[at] = gamma, noise
            stopped = change <= self.tol if self.tol > 0 else torch.zeros_like(change, dtype=torch.bool)
            if not bool(stopped.any()):
                continue
            steps[at[stopped]], converged[at[stopped]] = step, True
            keep = ~stopped
            at, y, noise, gamma, mean, correlation = (t[keep] for t in (at, y, noise, gamma, mean, correlation))
            unit, floor = unit[keep], floor[keep]
            if not len(at):
                break
        return gamma_out, noise_out, steps, converged, torch.stack(costs, dim=1)

    def _kept(self, gamma: torch.Tensor) -> torch.Tensor:
        """The variances with those of pruned atoms at 0; the largest always stays."""
        peak = gamma.flatten(1).amax(dim=1).reshape(-1, *[1] * (gamma.dim() - 1))
        return torch.where(gamma >= self.prune * peak, gamma, torch.zeros_like(gamma))

    def _reweigh(
        self, moments: Moments, gamma: torch.Tensor, mean: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New variances and how much they changed, relative to the old ones, (B,)."""
        new = moments.mean.abs().square() + moments.variance
        return new, relative_change(new, gamma)

    def extra_repr(self) -> str:
        return f"max_iter={self.max_iter}, tol={self.tol:g}, prune={self.prune:g}, method={self.method!r}"


def relative_change(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """||new - old|| / ||old|| of each instance; infinite where the old one is zero."""
    size = torch.linalg.vector_norm(old.flatten(1), dim=1)
    change = torch.linalg.vector_norm((new - old).flatten(1), dim=1)
    return torch.where(size > 0, change / size.clamp_min(1e-300), torch.full_like(size, math.inf))
