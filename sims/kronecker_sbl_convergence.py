"""Cost and error of Kronecker-structured sparse Bayesian learning against iterations, nothing pruned.

``python sims/kronecker_sbl_convergence.py [--quick] [--trials T]``: the published setting (14 x 12 x 15 rows of 15 atoms
each, 4 non-zeros a factor, 30 dB), all hyper-parameters one at the start. Every M-step runs to the last iteration; the cost
is log det S + y' S^-1 y, and how often it rose is told: alternating minimisation, the single sweep and the majoriser never
may, the rank-one fit by singular vectors has no such proof. Classical SBL, which takes about a second an iteration there,
runs on fewer trials and iterations (``--dense-trials``, ``--dense-iterations``; 0: not at all). Published numbers are those
of one run, of which the problem is not known: only their order compares.

CSV and a picture go to ``results/kronecker_sbl_convergence``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from kronecker import metrics, published
from kronecker.runs import Panel, Row, Runs, Values, draw, line, write_csv
from kronecker.synthetic import MOST_ROWS, Problems
from kronecker.synthetic import draw as draw_problems
from torch import Tensor

from wichan.errors import WichanError
from wichan.estimators import SBL, KroneckerSBL
from wichan.observations import KroneckerDictionary

M_STEPS = ("svd", "am", "single", "mm")
CHECKPOINTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
#: A rise of the cost by less than this share of its size is rounding.
ROUNDING = 1e-9


def kronecker(m_step: str, problems: Problems, points: Sequence[int]) -> tuple[Values, Tensor]:
    """Values after each number of iterations, and how many iterations raised the cost, (B,)."""
    dictionary = KroneckerDictionary(problems.factors)
    values: Values = {}
    gammas, done, costs = None, 0, []
    for point in points:
        estimator = KroneckerSBL(dictionary, m_step, max_iter=point - done, tol=0.0, prune=0.0, start=1.0, history=True)
        answer = estimator(problems.y, problems.no, start=gammas)
        gammas, done = answer.gammas, point
        costs.append(answer.history)
        _note(values, point, problems, answer.coefficients, answer.cost)
    return values, rises(torch.cat([*costs, answer.cost[:, None]], dim=1))


def classical(problems: Problems, points: Sequence[int]) -> tuple[Values, Tensor]:
    """The same of classical SBL, which starts anew for each number of iterations."""
    dictionary = KroneckerDictionary(problems.factors)
    values: Values = {}
    history = torch.empty(0)
    for point in points:
        answer = SBL(dictionary, max_iter=point, tol=0.0, prune=0.0, start=1.0)(problems.y, problems.no)
        history = torch.cat([answer.history, answer.cost[:, None]], dim=1)
        _note(values, point, problems, answer.coefficients, answer.cost)
    return values, rises(history)


def rises(costs: Tensor) -> Tensor:
    """How many steps of (B, T) go up by more than rounding."""
    return (costs.diff(dim=1) > ROUNDING * costs[:, 1:].abs()).sum(1)


def _note(values: Values, point: int, problems: Problems, found: Tensor, cost: Tensor) -> None:
    nmse = metrics.nmse(found, problems.x)
    values[str(point)] = {"nmse": nmse.tolist(), "cost": (cost / problems.y.shape[1]).tolist()}


def rows_of(runs: Runs, options: argparse.Namespace) -> list[Row]:
    """All M-steps, and classical SBL where it is wanted."""
    law: dict[str, Any] = {"rows": (MOST_ROWS, 12, 15), "nonzeros": (4,), "snr_db": (30.0,), "size": 15}
    if options.quick:
        law |= {"rows": (6, 7, 8), "nonzeros": (2,), "size": 8}
    problems = draw_problems(0, options.trials, **law)[0]
    points = [p for p in CHECKPOINTS if p <= options.iterations]
    found: list[Row] = []
    for m_step in M_STEPS:
        name = f"kron-sbl-{m_step}"

        def compute(m_step: str = m_step) -> Values:
            values, up = kronecker(m_step, problems, points)
            values[str(points[-1])]["rises"] = up.double().tolist()
            return values

        begin = time.monotonic()
        found += runs.rows("convergence", name, {"law": law, "trials": options.trials, "points": points}, compute)
        print(f"  {name}: {time.monotonic() - begin:.1f} s", flush=True)
    few = [p for p in points if p <= options.dense_iterations]
    if few and options.dense_trials:
        part = draw_problems(0, options.trials, **law)[0]
        kept = slice(0, options.dense_trials)
        part = Problems(part.factors, part.x[kept], part.support, part.y[kept], part.no[kept], part.points[kept])

        def dense() -> Values:
            values, up = classical(part, few)
            values[str(few[-1])]["rises"] = up.double().tolist()
            return values

        begin = time.monotonic()
        found += runs.rows("convergence", "sbl", {"law": law, "trials": options.dense_trials, "points": few}, dense)
        print(f"  sbl: {time.monotonic() - begin:.1f} s", flush=True)
    return found


def show(rows: Sequence[Row]) -> None:
    """NMSE and cost at some iterations, rises of the cost, and what was published."""
    points = list(dict.fromkeys(row.point for row in rows))
    names = list(dict.fromkeys(row.estimator for row in rows))
    value = {(row.estimator, row.point): row.told for row in rows}
    for column, title in (("median", "median NMSE"), ("cost", "mean cost / M")):
        print(f"\n{title} over iterations\n" + line("", [float(point) for point in points]))
        for name in names:
            print(line(name, [value.get((name, point), {}).get(column) for point in points]))
    print("\nsteps that raised the cost, mean over trials:")
    for name in names:
        count = [row.told["rises"] for row in rows if row.estimator == name and "rises" in row.told]
        print(line(name, count))
    print("\npublished, one run, NMSE after 10, 50, 150 iterations and at the end (alternating: 2000, svd: 500):")
    for name, numbers in published.CONVERGENCE.items():
        print(line(name, numbers), flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--trials", type=int, default=20, help="default 20")
    made.add_argument("--iterations", type=int, default=500, help="default 500")
    made.add_argument("--dense-trials", type=int, default=1, help="trials of classical SBL (default 1)")
    made.add_argument("--dense-iterations", type=int, default=50, help="its iterations (default 50)")
    made.add_argument("--fresh", action="store_true", help="compute again what is there")
    made.add_argument("--out", type=Path, help="folder (default results/kronecker_sbl_convergence; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: a small problem, two trials, 20 iterations")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run all."""
    options = parser().parse_args(argv)
    if options.quick:
        options.trials, options.iterations, options.dense_iterations = 2, 20, 20
    folder = options.out or Path("results/kronecker_sbl_convergence" + ("-quick" if options.quick else ""))
    begin = time.monotonic()
    try:
        rows = rows_of(Runs(folder, options.fresh), options)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(rows)
    write_csv(rows, folder / "convergence.csv")
    label = "iterations"
    panels = [
        Panel("error", rows, "median", label, "median NMSE", log_x=True),
        Panel("cost", rows, "cost", label, "mean cost / M", log_x=True, log_y=False),
    ]
    draw(panels, folder / "convergence.png", columns=2)
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
