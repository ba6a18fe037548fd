"""From second moments of the coefficients to one vector of prior variances a factor: the M-steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

from wichan.estimators.kronecker_estep import outer

#: How a coupled prior turns the uncoupled solution of factor k into one that it can have; identity without coupling.
Project = Callable[[int, torch.Tensor], torch.Tensor]

#: Squarings of a Gram matrix: so many doublings of the power iteration.
SQUARINGS = 4
LONG = 64  # longest vector that is found from powers of a matrix


def sweep(
    arrays: Sequence[torch.Tensor],
    weights: list[tuple[torch.Tensor, ...]],
    update: Callable[[int, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]],
) -> None:
    """One Gauss-Seidel sweep over the factors: each is updated from arrays contracted with the newest of the others.

    Args:
        arrays: real (B, n1, ..., nI) each.
        weights: for each factor, a vector (B, nk) for each array; replaced in place.
        update: ``update(k, contracted)`` with a (B, nk) for each array gives the new weights of factor k.

    Cost: two passes over each array.
    """
    count, last = len(arrays[0]), len(weights) - 1
    if not last:
        weights[0] = update(0, tuple(arrays))
        return
    flat = [a.reshape(count, -1, a.shape[-1]) for a in arrays]
    inner = [torch.bmm(a, w.unsqueeze(-1)).reshape(x.shape[:-1]) for a, w, x in zip(flat, weights[last], arrays, strict=True)]
    head = weights[:last]
    sweep(inner, head, update)
    weights[:last] = head
    rows = [outer([w[i] for w in head]).reshape(count, 1, -1) for i in range(len(arrays))]
    weights[last] = update(last, tuple(torch.bmm(r, a)[:, 0] for r, a in zip(rows, flat, strict=True)))


def inverse(gamma: torch.Tensor) -> torch.Tensor:
    """1 / gamma where it is above 0, else 0."""
    return torch.where(gamma > 0, gamma, torch.inf).reciprocal_()


def normalize(gammas: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Unit norm for all factors but the last, which takes their scale."""
    result, scale = [], None
    for gamma in gammas[:-1]:
        norm = torch.linalg.vector_norm(gamma, dim=-1, keepdim=True)
        result.append(gamma / norm)
        scale = norm if scale is None else scale * norm
    return [*result, gammas[-1] if scale is None else gammas[-1] * scale]


def distance(new: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> torch.Tensor:
    """||G_new - G_old|| / ||G_old|| of the Kronecker products, float64 (B,), without forming them; 0 below about 1e-8."""
    sizes = [g.shape[-1] for g in new]
    a, b = torch.cat(list(new), -1).double(), torch.cat(list(old), -1).double()
    square = [part.sum(-1) for part in torch.stack([a * a, b * b, a * b]).split(sizes, -1)]
    new_square, old_square, both = functools.reduce(torch.mul, square)
    return ((new_square + old_square - 2 * both).clamp_min_(0) / old_square).sqrt_()


def alternating(
    second: torch.Tensor,
    gammas: Sequence[torch.Tensor],
    *,
    sweeps: int,
    tol: float,
    check: int = 1,
    project: Project | None = None,
) -> list[torch.Tensor]:
    r"""Minimise :math:`\sum_{ijk} \log G_{ijk} + d_{ijk} / G_{ijk}` over Kronecker G by blocks in closed form.

    Args:
        second: d, real (B, N1, ..., NI), 0 where a gamma is.
        gammas: start, real (B, Nk) a factor; zeros stay zero.
        sweeps: at most so many.
        tol: until G changes by less, relatively.
        check: sweeps between two looks at the change (a look waits for the device).
        project: see `Project`.

    Returns:
        gammas, unit norm but for the last.
    """
    current = list(gammas)
    counts = [(g > 0).sum(-1, keepdim=True).to(second.dtype) for g in current]
    everything = functools.reduce(torch.mul, counts)
    shares = [n / everything for n in counts]

    def update(k: int, contracted: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        value = contracted[0] * shares[k]
        current[k] = value if project is None else project(k, value)
        return (inverse(current[k]),)

    weights: list[tuple[torch.Tensor, ...]] = [(inverse(g),) for g in current]
    before, done = list(current), torch.zeros(len(second), dtype=torch.bool, device=second.device)
    result = current
    for index in range(1, sweeps + 1):
        sweep([second], weights, update)
        if project is not None:  # the floor of a fit lets the factors' scales drift apart
            current[:] = normalize(current)
            weights[:] = [(inverse(g),) for g in current]
        if index % check and index < sweeps:
            continue
        # What an instance ends with is what it had when its own change was small: company must not count.
        result = list(current) if index == check else _where(done, result, current)
        if index == sweeps:
            break
        done = done | (distance(current, before) < tol)
        if bool(done.all()):
            break
        before = list(current)
    return normalize([keep_active(g, old) for g, old in zip(result, gammas, strict=True)])


def _where(done: torch.Tensor, kept: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.where(done[:, None], k, n) for k, n in zip(kept, new, strict=True)]


def keep_active(value: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Keep active variances above 1e-12 of the largest: what is divided by must not vanish."""
    floor = value.amax(-1, keepdim=True) * 1e-12
    return torch.where(before > 0, torch.maximum(value, floor), 0)


def rank_one(second: torch.Tensor, *, exact: bool = False, project: Project | None = None) -> list[torch.Tensor]:
    """Leading singular vectors, factor after factor.

    Args:
        second: d, real (B, N1, ..., NI), at least 0.
        exact: by singular value decompositions instead of powers of the Gram matrix.
        project: see `Project`.
    """
    result, rest, index = [], second, 0
    while rest.dim() > 2:
        folded = rest.flatten(2)
        vector = _leading_exact(folded) if exact else _leading(folded)
        result.append(vector if project is None else project(index, vector))
        rest = torch.bmm(vector.unsqueeze(1), folded).reshape(len(rest), *rest.shape[2:])
        index += 1
    return [*result, rest if project is None else project(index, rest)]


def _leading_exact(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(matrix, full_matrices=False)[0][..., 0].abs()


def _leading(matrix: torch.Tensor) -> torch.Tensor:
    """Leading left singular vector of nonnegative matrices (B, n, m): 2^SQUARINGS steps of power iteration.

    Steps are taken with the Gram matrix in double precision, squared again and again: of unit trace its largest eigenvalue is
    at least 1/n, so that nothing underflows. That costs n^3; long vectors are multiplied step by step instead.
    """
    if matrix.shape[-2] > LONG:
        vector = torch.bmm(matrix, matrix.sum(-2).unsqueeze(-1))
        for _ in range(2**SQUARINGS - 1):
            vector = torch.bmm(matrix, torch.bmm(matrix.mT, vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True)))
        return (vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True)).squeeze(-1)
    gram = torch.bmm(matrix, matrix.mT).double()
    gram /= gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    for _ in range(SQUARINGS):
        gram = torch.bmm(gram, gram)
    vector = gram.sum(-1)
    return (vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)).to(matrix.dtype)


def majorize(
    power: torch.Tensor,
    shrink: torch.Tensor,
    gammas: Sequence[torch.Tensor],
    *,
    sweeps: int = 1,
    project: Project | None = None,
) -> list[torch.Tensor]:
    r"""Minimise the majoriser :math:`\sum_{ijk} e_{ijk} / G_{ijk} + z_{ijk} G_{ijk}` by blocks in closed form.

    Args:
        power: e = \|mean\|^2, real (B, N1, ..., NI).
        shrink: z = diag(H^H S^{-1} H).
        gammas: start; zeros stay zero.
        sweeps: how many.
        project: see `Project`.
    """
    current = list(gammas)

    def update(k: int, contracted: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        value = (contracted[0] * inverse(contracted[1])).sqrt()
        current[k] = value = value if project is None else project(k, value)
        return inverse(value), value

    weights: list[tuple[torch.Tensor, ...]] = [(inverse(g), g) for g in current]
    for _ in range(sweeps):
        sweep([power, shrink], weights, update)
    return normalize([keep_active(g, old) for g, old in zip(current, gammas, strict=True)])
