"""Running many instances of an iterative solver: a pool that refills as they converge, and a thread for each part of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

#: ``step(y, gammas, no) -> gammas, no, cost, change``: one iteration of all instances of a pool.
Step = Callable[
    [torch.Tensor, list[torch.Tensor], torch.Tensor],
    tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None, torch.Tensor],
]

Result = TypeVar("Result")


@dataclass
class Run:
    """Where the instances ended.

    Args:
        gammas: real (B, Nk) a factor.
        no: (B,).
        iterations: int64 (B,).
        converged: bool (B,).
        history: (B, max_iter) or ``None``.
    """

    gammas: list[torch.Tensor]
    no: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    history: torch.Tensor | None


def iterate(
    step: Step,
    y: torch.Tensor,
    gammas: Sequence[torch.Tensor],
    no: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
    pool: int,
    check: int,
    history: bool,
) -> Run:
    """Iterate every instance until its change is below ``tol``, or ``max_iter`` times.

    Args:
        step: see `Step`.
        y: (B, ...), the observations.
        gammas: start, (B, Nk) a factor.
        no: start, (B,).
        max_iter: at most so many iterations an instance.
        tol: on the change that ``step`` returns.
        pool: instances that are iterated together; those that are done make room for the next.
        check: iterations between two looks at what is done (a look waits for the device).
        history: keep the cost at every iteration.
    """
    count = len(y)
    run = Run(
        [g.clone() for g in gammas],
        no.clone(),
        torch.zeros(count, dtype=torch.int64, device=y.device),
        torch.zeros(count, dtype=torch.bool, device=y.device),
        torch.full((count, max_iter), torch.nan, dtype=torch.float64, device=y.device) if history else None,
    )
    with torch.no_grad():
        slots = torch.arange(count, device=y.device)
        _pool(step, y, run, slots, max_iter=max_iter, tol=tol, size=pool, check=check)
    return run


def in_threads(work: Callable[[slice], Result], count: int, threads: int) -> list[Result]:
    """``work(rows)`` for contiguous parts of ``count`` instances, each in a thread that keeps to one processor.

    Products of small matrices gain nothing from threads of their own and wait for them on a busy machine, so that even a
    single part leaves them aside.

    Args:
        work: computes instances ``rows``; it sees the caller's gradient mode.
        count: instances.
        threads: at most so many parts; 1 calls ``work`` right here.

    Returns:
        What the calls returned, in order.
    """
    if threads == 1:
        return [work(slice(0, count))]
    parts = max(1, min(threads, count // 2))
    edges = [count * i // parts for i in range(parts + 1)]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def call(rows: slice) -> Result:
        torch.set_num_threads(1)  # of this thread, and of those that start later
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(rows)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(parts) as executor:
            return list(executor.map(call, [slice(a, b) for a, b in itertools.pairwise(edges)]))
    finally:
        torch.set_num_threads(before)  # threads that start later begin with it again


def _pool(
    step: Step, y: torch.Tensor, run: Run, queue: torch.Tensor, *, max_iter: int, tol: float, size: int, check: int
) -> None:
    slots, queue = queue[:size], queue[size:]
    data, gammas, no = y[slots], [g[slots] for g in run.gammas], run.no[slots]
    age = torch.zeros_like(slots)
    done = torch.zeros_like(slots, dtype=torch.bool)
    rounds = 0
    while len(slots):
        new, new_no, cost, change = step(data, gammas, no)
        if run.history is not None and cost is not None:
            _record(run.history, slots, age, cost, done)
        age = age + ~done
        arrived = change < tol
        # An instance that is done keeps its values, so that they do not depend on its company.
        gammas = [torch.where(done[:, None], g, n) for g, n in zip(gammas, new, strict=True)]
        no = torch.where(done, no, new_no)
        run.converged[slots] |= arrived & ~done
        done = done | arrived | (age >= max_iter)
        rounds += 1
        if rounds % check:
            continue
        finished = int(done.sum())
        if not finished or (finished < len(slots) and 4 * finished < min(len(slots), size)):
            continue
        ended = done.nonzero()[:, 0]
        where = slots[ended]
        for target, g in zip(run.gammas, gammas, strict=True):
            target[where] = g[ended]
        run.no[where], run.iterations[where] = no[ended], age[ended]
        kept = (~done).nonzero()[:, 0]
        fresh, queue = queue[: size - len(kept)], queue[size - len(kept) :]
        slots = torch.cat([slots[kept], fresh])
        data = torch.cat([data[kept], y[fresh]])
        gammas = [torch.cat([g[kept], r[fresh]]) for g, r in zip(gammas, run.gammas, strict=True)]
        no = torch.cat([no[kept], run.no[fresh]])
        age = torch.cat([age[kept], torch.zeros_like(fresh)])
        done = torch.zeros_like(slots, dtype=torch.bool)


def _record(history: torch.Tensor, slots: torch.Tensor, age: torch.Tensor, cost: torch.Tensor, done: torch.Tensor) -> None:
    column = age.clamp_max(history.shape[1] - 1)
    history[slots, column] = torch.where(done, history[slots, column], cost.to(history.dtype))
