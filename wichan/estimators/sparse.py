"""What the estimators of sparse coefficients over a Kronecker dictionary share: their answer, their checks, their scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_finite, check_noise, check_real, check_shape, check_tensor
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.bussgang_base import eagerly
from wichan.observations.dictionary import KroneckerDictionary

#: Smallest ``no`` in use, relative to the mean of |y|^2 of each instance: what the precision of the input can tell from zero.
NO_FLOOR = {torch.float32: 1e-6, torch.float64: 1e-10}

Gammas = torch.Tensor | tuple[torch.Tensor, ...]


class SparseEstimate(Estimate):
    r"""A pair ``(h_hat, err_var)`` with what a sparse estimator found on the way as further attributes.

    Unpacks to exactly two. ``h_hat`` is (\*batch, \*channel_shape), complex or real as the dictionary and ``y``; ``err_var``
    is real, the same shape.

    Attributes:
        coefficients: x, (\*batch, N1, ..., NI).
        coefficient_var: real, same shape: their posterior variance.
        gammas: prior variances of x: one real (\*batch, Nk) a factor whose Kronecker product they are (in units of |x|^2, the
            scale in the last), or one (\*batch, N1, ..., NI); zero where a coefficient was switched off.
        num_iterations: int64, (\*batch,).
        converged: bool, (\*batch,).
        no_hat: noise variance that was estimated, real (\*batch,), or ``None``.
        cost: log det S + y^H S^{-1} y at the end, real (\*batch,), or ``None``.
        history: its value at every iteration, real (\*batch, iterations), NaN after an instance stopped, or ``None``.
    """

    coefficients: torch.Tensor
    coefficient_var: torch.Tensor
    gammas: Gammas | None
    num_iterations: torch.Tensor
    converged: torch.Tensor
    no_hat: torch.Tensor | None
    cost: torch.Tensor | None
    history: torch.Tensor | None

    def __new__(cls, h_hat: torch.Tensor, err_var: torch.Tensor, **found: Any) -> SparseEstimate:
        """Take the pair, and the attributes by name."""
        self = super().__new__(cls, h_hat, err_var)
        vars(self).update({name: found.pop(name, None) for name in SparseEstimate.__annotations__})
        if found:
            raise InvalidTypeError(f"SparseEstimate has no attribute {next(iter(found))!r}")
        return self


@dataclass
class Solution:
    """What a solver returns for B instances on its own scale; the attributes are those of `SparseEstimate`.

    Args:
        coefficients: (B, N1, ..., NI).
        coefficient_var: real, the same shape.
        channel_var: diag(A S A^H) of the synthesis A, real (B, C1, ..., CI) in the order of the factors.
        gammas: one (B, Nk) a factor, or (B, N1, ..., NI), or ``None``.
        num_iterations: (B,).
        converged: (B,).
        no_hat: (B,) or ``None``.
        cost: (B,) or ``None``.
        history: (B, iterations) or ``None``.
    """

    coefficients: torch.Tensor
    coefficient_var: torch.Tensor
    channel_var: torch.Tensor
    gammas: Gammas | None
    num_iterations: torch.Tensor
    converged: torch.Tensor
    no_hat: torch.Tensor | None = None
    cost: torch.Tensor | None = None
    history: torch.Tensor | None = None


class SparseEstimator(Estimator):
    r"""Base of the estimators of :math:`y = (H_1 \otimes \dots \otimes H_I) x + n` with a sparse x.

    It checks what comes in, folds batch axes into one, and divides each instance by the power of two next to its largest
    |y|, so that a solver meets numbers near 1 whatever the unit of ``y`` and no precision is lost. An all-zero ``y`` never
    reaches the solver: it is answered by zeros, with the variance that unit coefficients would have (full variance).

    Args:
        dictionary: a `wichan.observations.KroneckerDictionary`, or a sequence of matrices (Mk, Nk) that makes one whose channel
            is x itself, (N1, ..., NI).
        no_floor: smallest ``no``, relative to the mean of |y|^2 of an instance; ``no=0`` means this. Default 1e-10 in double
            and 1e-6 in single precision.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: a dictionary that is none, or a floor outside [1e-15, 1].
    """

    def __init__(self, dictionary: Any, *, no_floor: float | None = None) -> None:
        super().__init__()
        self.dictionary = as_dictionary(dictionary)
        self.no_floor = None if no_floor is None else check_real("no_floor", no_floor, minimum=1e-15, maximum=1.0)

    @abstractmethod
    def _solve(self, y: torch.Tensor, no: torch.Tensor | None, scale: torch.Tensor, **options: Any) -> Solution:
        """Solve B instances, B at least 1.

        Args:
            y: (B, M1, ..., MI), largest |y| of each instance in [1, 2), in the common dtype of observation and dictionary.
            no: noise variance on that scale, above 0, float64 (B,); ``None`` where the caller gave none.
            scale: what ``y`` was divided by, float64 (B,): for quantities that are not scale-free.
            options: what `forward` was given, restricted to the instances that are here.
        """

    @eagerly
    def forward(self, y: torch.Tensor, no: Any, **options: Any) -> SparseEstimate:
        r"""Estimate the channel.

        Args:
            y: (\*batch, M), complex, or real where the dictionary is real.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            options: what the estimator takes besides.

        Returns:
            `SparseEstimate` in the precision of ``y``.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        self._check(y)
        with torch.autocast(y.device.type, enabled=False):  # half precision would be wrong without a word
            return self._estimate(y, no, options)

    def _estimate(self, y: torch.Tensor, no: Any, options: dict[str, Any]) -> SparseEstimate:
        batch, real = tuple(y.shape[:-1]), y.real.dtype
        flat = y.reshape(-1, y.shape[-1]).to(_dtype(y, self.dictionary))
        noise = self._noise(no, batch, flat)
        peak = flat.detach().abs().amax(-1).double()
        useful = peak > 0
        scale = torch.where(useful, torch.exp2(torch.floor(torch.log2(peak.clamp_min(1e-320)))), torch.ones_like(peak))
        index = None if bool(useful.all()) else useful.nonzero()[:, 0]
        if not bool(useful.any()):
            return self._assemble(self._nothing(flat), scale, batch, real)
        if index is not None:
            options = {name: _rows(value, index, len(flat)) for name, value in options.items()}
        kept = (lambda t: t) if index is None else (lambda t: t.index_select(0, index))
        solution = self._on_scale(kept(flat), None if noise is None else kept(noise), kept(scale), options)
        if index is not None:
            solution = _scatter(self._nothing(flat), solution, index)
        return self._assemble(solution, scale, batch, real)

    def _check(self, y: Any) -> None:
        check_shape("y", check_tensor("y", y), (self.dictionary.num_measurements,))
        if not (y.is_floating_point() or y.is_complex()):
            raise InvalidTypeError(f"y has dtype {y.dtype}; allowed are single and double precision, real or complex")
        factor = self.dictionary.factors[0]
        if not y.is_complex() and any(f.is_complex() for f in self.dictionary.factors):
            raise InvalidTypeError(f"y has dtype {y.dtype}; with a complex dictionary it must be complex")
        if y.device != factor.device:
            raise InvalidValueError(f"y is on {y.device}, the dictionary on {factor.device}; use one device")
        check_finite("y", y)

    def _noise(self, no: Any, batch: tuple[int, ...], flat: torch.Tensor) -> torch.Tensor | None:
        """The noise variance of each instance, float64 (B,); ``None`` is for solvers that can do without."""
        noise = check_noise(no, batch, dtype=torch.float64, device=flat.device).detach()
        return noise.expand(batch).reshape(-1)

    def _on_scale(
        self, flat: torch.Tensor, noise: torch.Tensor | None, scale: torch.Tensor, options: dict[str, Any]
    ) -> Solution:
        """Solve on the solver's scale; what comes back is in the unit of ``y``."""
        real = flat.real.dtype
        scaled = flat / scale[:, None].to(real)
        if noise is not None:
            floor = NO_FLOOR[real] if self.no_floor is None else self.no_floor
            power = scaled.detach().abs().double().square().mean(-1)
            # Above 1e30 nothing is left of the signal, and single precision has no numbers.
            noise = torch.maximum(noise / scale.square(), floor * power).clamp_max(1e30)
        found = self._solve(scaled.reshape(-1, *self.dictionary.num_rows), noise, scale, **options)
        return _in_unit(found, scale, flat.shape[-1])

    def _nothing(self, flat: torch.Tensor) -> Solution:
        """Zeros, and the variance of unit coefficients."""
        count, real = len(flat), flat.real.dtype
        atoms = tuple(self.dictionary.num_atoms)
        options: dict[str, Any] = {"dtype": real, "device": flat.device}
        power = torch.ones((), **options)
        for row in synthesis_of(self.dictionary):
            power = power[..., None] * row.abs().square().sum(-1).to(**options)
        return Solution(
            coefficients=flat.new_zeros(count, *atoms),
            coefficient_var=torch.ones(count, *atoms, **options),
            channel_var=power.expand(count, *power.shape).clone(),
            gammas=None,
            num_iterations=torch.zeros(count, dtype=torch.int64, device=flat.device),
            converged=torch.ones(count, dtype=torch.bool, device=flat.device),
        )

    def _assemble(self, found: Solution, scale: torch.Tensor, batch: tuple[int, ...], real: torch.dtype) -> SparseEstimate:
        """Bring a solution to the axes of the channel and of the batch."""
        dictionary = self.dictionary

        def shaped(t: Any) -> Any:
            if isinstance(t, tuple):
                return tuple(shaped(item) for item in t)
            return t if t is None else t.reshape((*batch, *t.shape[1:]))

        coefficients = shaped(found.coefficients)
        h_hat = dictionary.channel(coefficients)
        err_var = dictionary.to_channel(shaped(found.channel_var)).to(real)
        names = [name for name in SparseEstimate.__annotations__ if name != "coefficients"]
        others = {name: shaped(getattr(found, name)) for name in names}
        return SparseEstimate(h_hat, err_var, coefficients=coefficients, **others)


def join(parts: Sequence[Solution]) -> Solution:
    """One solution of the instances of several, in order."""
    if len(parts) == 1:
        return parts[0]

    def together(values: Sequence[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], tuple):
            return tuple(together(items) for items in zip(*values, strict=True))
        return torch.cat(list(values))

    return Solution(**{f.name: together([getattr(part, f.name) for part in parts]) for f in fields(Solution)})


def as_dictionary(value: Any) -> KroneckerDictionary:
    """Return a `KroneckerDictionary`, made of a sequence of matrices where it is none."""
    if isinstance(value, KroneckerDictionary):
        return value
    if isinstance(value, torch.Tensor) or not isinstance(value, Sequence):
        raise InvalidTypeError(
            f"dictionary must be a KroneckerDictionary or a sequence of matrices (Mk, Nk), got {type(value).__name__}"
        )
    return KroneckerDictionary(value)


def synthesis_of(dictionary: KroneckerDictionary) -> list[torch.Tensor]:
    """The factors (Ck, Nk) from coefficients to channel; identities where the channel is x itself."""
    if dictionary.synthesis is not None:
        return list(dictionary.synthesis)
    return [torch.eye(f.shape[1], dtype=f.dtype, device=f.device) for f in dictionary.factors]


def _dtype(y: torch.Tensor, dictionary: KroneckerDictionary) -> torch.dtype:
    """Precision of the observation; complex where the observation is (a real one has met a real dictionary)."""
    single = y.real.dtype == torch.float32
    if y.is_complex():
        return torch.complex64 if single else torch.complex128
    return y.dtype


def _rows(value: Any, index: torch.Tensor, count: int) -> Any:
    """Rows of a tensor over all instances, or of a tuple of them; anything else as it is."""
    if isinstance(value, (tuple, list)):
        return type(value)(_rows(item, index, count) for item in value)
    is_batched = isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == count
    return value.index_select(0, index) if is_batched else value


def _in_unit(found: Solution, scale: torch.Tensor, num_measurements: int) -> Solution:
    """Multiply by the scale what has a unit."""

    def times(t: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return t * factor.to(t.real.dtype).reshape(-1, *[1] * (t.dim() - 1))

    power = scale.square()
    found.coefficients = times(found.coefficients, scale)
    found.coefficient_var = times(found.coefficient_var, power)
    found.channel_var = times(found.channel_var, power)
    if isinstance(found.gammas, tuple):
        found.gammas = (*found.gammas[:-1], times(found.gammas[-1], power))
    elif found.gammas is not None:
        found.gammas = times(found.gammas, power)
    if found.no_hat is not None:
        found.no_hat = times(found.no_hat, power)
    shift = num_measurements * power.log()
    if found.cost is not None:
        found.cost = found.cost + shift.to(found.cost.dtype)
    if found.history is not None:
        found.history = found.history + shift[:, None].to(found.history.dtype)
    return found


def _scatter(blank: Solution, found: Solution, index: torch.Tensor) -> Solution:
    """Put the instances that were solved at their places among those that were zero."""
    count = len(blank.converged)

    def put(into: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return into.to(rows.dtype).index_copy(0, index, rows)

    def wide(rows: Any, fill: float) -> Any:
        if isinstance(rows, tuple):
            return tuple(wide(item, fill) for item in rows)
        return None if rows is None else put(rows.new_full((count, *rows.shape[1:]), fill), rows)

    return Solution(
        coefficients=put(blank.coefficients, found.coefficients),
        coefficient_var=put(blank.coefficient_var, found.coefficient_var),
        channel_var=put(blank.channel_var, found.channel_var),
        gammas=wide(found.gammas, 1.0),
        num_iterations=put(blank.num_iterations, found.num_iterations),
        converged=put(blank.converged, found.converged),
        no_hat=wide(found.no_hat, 0.0),
        cost=wide(found.cost, 0.0),
        history=wide(found.history, float("nan")),
    )
