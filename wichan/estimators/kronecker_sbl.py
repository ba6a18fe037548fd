"""Sparse Bayesian learning with Kronecker structure in dictionary and support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_real,
    check_tensor,
)
from wichan.estimators.kronecker_batch import Run, Step, in_threads, iterate
from wichan.estimators.kronecker_coupling import Coupling, coupling_matrix
from wichan.estimators.kronecker_estep import (
    Spectrum,
    Tables,
    channel_variance,
    moments,
    outer,
    second_moments,
    spectrum,
    squared,
)
from wichan.estimators.kronecker_mstep import alternating, distance, majorize, normalize, rank_one
from wichan.estimators.kronecker_noise import start_noise, update_noise
from wichan.estimators.kronecker_pruning import switch_off, thresholds
from wichan.estimators.sparse import NO_FLOOR, Solution, SparseEstimate, SparseEstimator, join, synthesis_of

M_STEPS = ("svd", "am", "single", "mm")

#: Starting prior variances over those that the energy of y would give, by M-step and with coupling. Rank-one fits end in worse
#: minima from a small start; block descents creep down from a large one, and more so with coupling.
START = {"svd": 10.0, "mm": 1.0, "am": 1e-2, "single": 1e-2}
COUPLED_START = {"svd": 10.0, "mm": 1.0, "am": 3e-3, "single": 3e-3}

#: Inner iterations of "am": at most so many, without and with coupling, until so small a relative change (published: 1e-4 for
#: channels over a surface, and 1e-5 without unit, which is no measure for data of another scale).
SWEEPS, COUPLED_SWEEPS, SWEEP_TOL = 50, 9, 1e-4

_POOL_BYTES = {"cpu": 2**22, "cuda": 2**30}  # one array of a pool
_LARGE = 2**18


class KroneckerSBL(SparseEstimator):
    r"""Sparse Bayesian learning under a Kronecker prior: never a matrix of size N or M.

    .. math:: y = (H_1 \otimes \dots \otimes H_I)\, x + n, \qquad
        x \sim \mathcal{CN}\big(0, \mathrm{diag}(\gamma_1 \otimes \dots \otimes \gamma_I)\big)

    Expectation maximisation over the :math:`\gamma_k`. The E-step is exact, from eigendecompositions of the Mk x Mk matrices
    :math:`H_k \mathrm{diag}(\gamma_k) H_k^H`. The M-steps:

    * ``"svd"``: leading singular vectors of the array of second moments, factor after factor. The fastest to a sparse answer
      and the most accurate in most cases; not a proven descent of the likelihood; slow on planar surfaces and on
      grids much finer than the arrays, where ``max_iter`` may stop it early.
    * ``"am"``: the exact M-step, by closed-form blocks in turn until they settle. The cost never rises.
    * ``"single"``: one round of these blocks (the earlier KSBL). The cost never rises.
    * ``"mm"``: majorisation of the log determinant instead of EM, in closed-form blocks. The cost never rises.

    With ``couple``, the variances of those factors are sums over neighbours, :math:`C g` with g >= 0, so that coefficients
    come in blocks; every M-step then ends with a nonnegative fit of g, and ``"am"`` is the published pattern-coupled form.

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary` (its channel is what is estimated), or a sequence of I >= 1
            matrices (Mk, Nk), real or complex (x itself is estimated, as an array (N1, ..., NI)).
        m_step: see above.
        couple: names or positions of the factors to couple; neighbours are those on the factor's grid (one- or
            two-dimensional, around its ends where the dictionary says so).
        coupling: weight of a neighbour, 0 to 1 (published: 0.8 and 0.5).
        max_iter: iterations at most.
        tol: an instance stops when its prior variances change by less, :math:`\|G - G'\| / \|G'\|`; 0: never (smallest: 1e-8).
        prune: prior variances below this share of the largest of their factor are switched off for good: one number, one a
            factor, ``None`` for the default (1e-3 for ``"svd"`` and ``"mm"`` without coupling, else 1e-2), or a published set:
            ``"published"``, ``"published-unknown-noise"``, ``"published-irs"``. 0 keeps everything.
        start: ``"energy"``, equal variances in proportion to the energy of ``y``, so that c y at c^2 no gives c times the
            answer; or the variance of every coefficient at the start (published: 1, for coefficients of that order), at most
            1e8 times what the energy says.
        learn_noise: estimate the noise variance too, from ``no`` or, with ``no=None``, a tenth of the mean of |y|^2.
        batch: instances that are iterated together; default by size.
        history: keep the cost of every iteration.
        exact_svd: for ``"svd"``, singular value decompositions instead of 16 steps of power iteration.
        no_floor: smallest ``no``, relative to the mean of |y|^2 of an instance; ``no=0`` means this. Default 1e-10 in double
            and 1e-6 in single precision.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError: arguments that make no sense.

    Cost: an iteration of an instance, with a = 2 FLOP a multiply-add (8 where complex): :math:`\sum_k (2 a M_k^2 N_k +
    12.5 a M_k^3 + a M M_k)` for the eigenbasis, a + 2 FLOP an element and row for each mode product back, and about 20 N for
    the M-step. Memory: some ten arrays of N numbers for each of ``batch`` instances. Eigendecompositions are in double
    precision, the rest is in that of ``y``, which is safe to 30 dB in single precision. The answer is computed in double.
    Instances are spread over ``torch.get_num_threads()`` threads.

    Gradients: of mean and variance with respect to ``y`` at the prior variances that were found.

    ``err_var`` is diag(A Sigma A^H) of the posterior at these variances. As they were fitted to the same ``y``, it may be too
    small, by far where wrong atoms were switched off (`Calibrated` corrects it). Coefficients that were switched off count as
    known to be zero.

    Sources: [He2024]_ for ``"am"``, ``"svd"`` and coupling; the EM of [Wipf2004]_.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = [torch.randn(m, 10, generator=generator, dtype=torch.float64) for m in (7, 8, 10)]
        >>> x = torch.zeros(10, 10, 10, dtype=torch.float64)
        >>> x[2:4, 5:7, 1:3] = 1.0
        >>> est = KroneckerSBL(factors)
        >>> x_hat, err_var = est(est.dictionary.measure(x), no=1e-6)
        >>> bool((x_hat - x).norm() < 1e-3 * x.norm())
        True
    """

    def __init__(
        self,
        dictionary: Any,
        m_step: str = "svd",
        *,
        couple: Sequence[str | int] | str | int = (),
        coupling: float = 0.8,
        max_iter: int = 150,
        tol: float = 1e-4,
        prune: Any = None,
        start: str | float = "energy",
        learn_noise: bool = False,
        batch: int | None = None,
        history: bool = False,
        exact_svd: bool = False,
        no_floor: float | None = None,
    ) -> None:
        super().__init__(dictionary, no_floor=no_floor)
        self.m_step = str(check_choice("m_step", m_step, M_STEPS))
        named = (couple,) if isinstance(couple, (str, int)) else couple
        self.couple = tuple(sorted({self.dictionary.index(name) for name in named}))
        self.coupling = check_real("coupling", coupling, minimum=0.0, maximum=1.0)
        self.max_iter = check_int("max_iter", max_iter, minimum=1)
        self.tol = check_real("tol", tol, minimum=0.0)
        self.prune = thresholds(prune, self.m_step, bool(self.couple), len(self.dictionary.num_atoms))
        if isinstance(start, str):
            check_choice("start", start, ("energy",))
        self.start = start if isinstance(start, str) else check_real("start", start, positive=True)
        self.learn_noise = bool(learn_noise)
        self.batch = None if batch is None else check_int("batch", batch, minimum=1)
        self.history = bool(history)
        self.exact_svd = bool(exact_svd)

    def forward(self, y: torch.Tensor, no: Any = None, *, start: Any = None, **conditions: Any) -> SparseEstimate:
        r"""Estimate the channel.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes. ``None`` with ``learn_noise``.
            start: prior variances to start from, one (\*batch, Nk) a factor: `SparseEstimate.gammas` of an estimate of the
                same batch. What is zero there stays zero.
            conditions: not used.

        Returns:
            `SparseEstimate` in the precision of ``y``.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        if start is not None:
            self._check(y)
            start = self._flat_start(start, tuple(y.shape[:-1]), y.device)
        return super().forward(y, no, start=start)

    def _flat_start(self, start: Any, batch: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
        atoms = self.dictionary.num_atoms
        if not isinstance(start, (tuple, list)) or len(start) != len(atoms):
            raise InvalidTypeError(f"start must be a tuple of {len(atoms)} tensors (*batch, Nk), got {type(start).__name__}")
        result = []
        for k, (gamma, size) in enumerate(zip(start, atoms, strict=True)):
            check_finite(f"start[{k}]", check_tensor(f"start[{k}]", gamma, kind="real"))
            if tuple(gamma.shape) != (*batch, size):
                raise ShapeError(f"start[{k}] has shape {tuple(gamma.shape)}; it must be {(*batch, size)}")
            gamma = gamma.detach().to(device).reshape(math.prod(batch), size)
            if gamma.numel() and (bool((gamma < 0).any()) or not bool((gamma.amax(-1) > 0).all())):
                raise InvalidValueError(f"start[{k}] must be at least 0 and hold something above 0 for every instance")
            result.append(gamma)
        return tuple(result)

    def _noise(self, no: Any, batch: tuple[int, ...], flat: torch.Tensor) -> torch.Tensor | None:
        return None if no is None and self.learn_noise else super()._noise(no, batch, flat)

    def _nothing(self, flat: torch.Tensor) -> Solution:
        blank = super()._nothing(flat)
        real = flat.real
        blank.gammas = tuple(real.new_ones(len(flat), size) for size in self.dictionary.num_atoms)
        blank.no_hat = real.new_zeros(len(flat)) if self.learn_noise else None
        return blank

    # -- Iterations --

    def _solve(self, y: torch.Tensor, no: torch.Tensor | None, scale: torch.Tensor, *, start: Any = None, **_: Any) -> Solution:
        tables = Tables.of(self.dictionary.factors, y.dtype)
        coupling = self._coupling(y)

        def part(rows: slice) -> Solution:
            given = None if start is None else [g[rows] for g in start]
            return self._solve_part(y[rows], None if no is None else no[rows], scale[rows], given, tables, coupling)

        # Few instances of large arrays leave the threads to the products instead.
        large = len(y) < torch.get_num_threads() and self.dictionary.num_coefficients >= _LARGE
        return join(in_threads(part, len(y), 1 if y.is_cuda or large else torch.get_num_threads()))

    def _solve_part(
        self,
        y: torch.Tensor,
        no: torch.Tensor | None,
        scale: torch.Tensor,
        start: list[torch.Tensor] | None,
        tables: Tables,
        coupling: Coupling | None,
    ) -> Solution:
        data = y.detach()
        noise = start_noise(data) if no is None else no
        if start is None:
            gammas = self._equal(data, noise, scale, coupling)
        else:
            gammas = [g.to(y.real.dtype) for g in start]
            gammas[-1] = (start[-1].double() / scale.square()[:, None]).to(y.real.dtype)
        run = iterate(
            self._step(tables, coupling),
            data,
            gammas,
            noise,
            max_iter=self.max_iter,
            tol=self.tol,
            pool=self.batch or self._pool_size(y),
            check=4 if y.is_cuda else 1,
            history=self.history,
        )
        return self._posterior(y, switch_off(run.gammas, self.prune), run, tables)

    def _pool_size(self, y: torch.Tensor) -> int:
        """Instances whose arrays stay near the processor and yet share the cost of a call."""
        fitting = _POOL_BYTES["cuda" if y.is_cuda else "cpu"] // (self.dictionary.num_coefficients * y.element_size())
        return max(8, min(fitting, 4096 if y.is_cuda else 48))

    def _step(self, tables: Tables, coupling: Coupling | None) -> Step:
        floor = NO_FLOOR[tables.dtype.to_real()] if self.no_floor is None else self.no_floor

        def step(y: torch.Tensor, gammas: list[torch.Tensor], no: torch.Tensor) -> Any:
            gammas = switch_off(gammas, self.prune)
            found = spectrum(tables, y, gammas, no)
            cost = found.cost() if self.history else None
            # start_noise is a tenth of the power, which the floor is relative to.
            new_no = torch.maximum(update_noise(found, no), 10 * floor * start_noise(y)) if self.learn_noise else no
            new = self._maximize(found, gammas, coupling)
            return new, new_no, cost, distance(new, gammas)

        return step

    def _maximize(self, found: Spectrum, gammas: list[torch.Tensor], coupling: Coupling | None) -> list[torch.Tensor]:
        project = None if coupling is None else coupling.projection(gammas)
        if self.m_step == "mm":
            at = moments(found, gammas)
            return majorize(squared(at.mean()), at.shrink, gammas, project=project)
        second = second_moments(found, gammas)
        if self.m_step == "svd":
            return normalize(rank_one(second, exact=self.exact_svd, project=project))
        sweeps = 1 if self.m_step == "single" else SWEEPS if coupling is None else COUPLED_SWEEPS
        return alternating(second, gammas, sweeps=sweeps, tol=SWEEP_TOL, check=4 if second.is_cuda else 2, project=project)

    # -- Start and end --

    def _coupling(self, y: torch.Tensor) -> Coupling | None:
        d, matrices = self.dictionary, {}
        for k in self.couple:
            matrix = coupling_matrix(d.num_atoms[k], d.grids[k], self.coupling, periodic=d.periodic[k])
            matrices[k] = matrix.to(y.device, y.real.dtype)
        return Coupling(matrices) if matrices else None

    def _equal(self, y: torch.Tensor, no: torch.Tensor, scale: torch.Tensor, coupling: Coupling | None) -> list[torch.Tensor]:
        """Prior variances from equal g."""
        power = squared(y.flatten(1)).double().mean(-1)
        gain = math.prod(float(f.detach().abs().square().sum()) / f.shape[0] for f in self.dictionary.factors)
        level = torch.maximum(power - no, 0.1 * power) / gain
        if self.start == "energy":
            level = (START if coupling is None else COUPLED_START)[self.m_step] * level
        else:  # within what single precision can square
            level = torch.minimum(float(self.start) / scale.square(), 1e8 * level)
        real = y.real.dtype
        gammas = [torch.ones(len(y), n, dtype=real, device=y.device) for n in self.dictionary.num_atoms]
        for k, matrix in ({} if coupling is None else coupling.matrices).items():
            gammas[k] = gammas[k] @ matrix
        gammas = normalize(gammas)
        middle = outer([g.mean(-1, keepdim=True) for g in gammas]).reshape(-1)
        gammas[-1] = gammas[-1] * (level / middle.double()).to(real)[:, None]
        return gammas

    def _posterior(self, y: torch.Tensor, gammas: list[torch.Tensor], run: Run, tables: Tables) -> Solution:
        """Posterior at fixed prior variances, in double precision and differentiable in ``y``."""
        wide, real = torch.complex128 if y.is_complex() else torch.float64, y.real.dtype
        tables = Tables.of(tables.double, wide)
        synthesis = synthesis_of(self.dictionary)
        size = max(self.dictionary.num_coefficients, math.prod(m.shape[0] for m in synthesis))
        most = _POOL_BYTES["cuda" if y.is_cuda else "cpu"] // (16 * size)
        parts = []
        for rows in torch.arange(len(y), device=y.device).split(max(1, most)):
            g = [gamma[rows].double() for gamma in gammas]
            found = spectrum(tables, y[rows].to(wide), g, run.no[rows])
            at = moments(found, g)
            variance = at.variance()
            channel = channel_variance(found, g, synthesis, tables) if self.dictionary.has_synthesis else variance
            parts.append((at.mean().to(y.dtype), variance.to(real), channel.to(real), found.cost()))
        mean, variance, channel, cost = (torch.cat(part) for part in zip(*parts, strict=True))
        return Solution(
            mean,
            variance,
            channel,
            tuple(gammas),
            run.iterations,
            run.converged,
            run.no.to(real) if self.learn_noise else None,
            cost.detach(),
            run.history,
        )

    def extra_repr(self) -> str:
        coupled = f", couple={[self.dictionary.names[k] for k in self.couple]}" if self.couple else ""
        return f"m_step={self.m_step!r}, max_iter={self.max_iter}, tol={self.tol:g}, prune={self.prune}{coupled}"
