"""The published IRS-aided uplink with block-sparse angles: all estimators, with the published numbers beside.

``python sims/kronecker_sbl_irs.py [--quick] [--no-dense] [--trainings D] [--trials T]``: 6 antennas at the terminal, 256
elements, 16 antennas at the station, a common grid of 18 points, 3 QPSK pilots under 6 random patterns (288 measurements of
5,832 coefficients), three neighbouring arrivals a hop; SNR 4 to 20 dB, set in every realisation; D draws of pilots and
patterns with T channels each (default 25 x 2, the published 50 trials). Tells the mean over patterns of |G_hat - G|^2 / |G|^2
(mean and median over trials), the support recovery rate, the symbol error rate of QPSK that is beamformed with the dominant
singular pair of the estimate (closed form), iterations and CPU time a trial, and whether pattern coupling is the best at every
SNR.

``--no-dense`` leaves out the estimators that need the full matrix, classical SBL and PC-SBL; ``--dense-trainings`` sets how
many of the trainings they see. ``--more`` adds pattern coupling with other M-steps, and the published start and thresholds.
Values of every instance stay in ``results/kronecker_sbl_irs/raw`` (``--fresh`` computes them again).
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from kronecker import metrics, published
from kronecker.irs_case import Trials, draw_trials
from kronecker.lineup import DENSE, solve
from kronecker.runs import Panel, Row, Runs, Values, draw, gather, table, write_csv

from wichan.errors import WichanError

NAMES = (
    "kron-sbl-pc 0.8",
    "kron-sbl-pc 0.5",
    "kron-sbl-am",
    "kron-sbl-svd",
    "kron-sbl-single",
    "kron-sbl-mm",
    "kron-omp",
    "kron-omp-published",
    "omp",
    "oracle-ls",
)
#: Pattern coupling with the other M-steps, and start and thresholds as published.
MORE = (
    "kron-sbl-svd pc 0.8",
    "kron-sbl-mm pc 0.8",
    "irs-pc 0.8 published",
    "irs-pc 0.5 published",
    "irs-am published",
    "irs-svd published",
)
#: In the picture.
DRAWN = ("kron-sbl-svd", "kron-sbl-am", "kron-sbl-pc 0.8", "kron-sbl-mm", "kron-omp", "omp", "oracle-ls", "sbl", "pc-sbl")
PERFECT = "perfect CSI"
TITLES = {
    "nmse": "NMSE, mean over patterns and trials",
    "median": "median NMSE",
    "srr": "support recovery rate",
    "ser": "symbol error rate",
    "iterations": "mean iterations",
    "ms": "CPU ms a trial, in a batch",
}


def measured(name: str, trials: Trials, values: Values) -> None:
    """Run one estimator on a batch and add its values."""
    h, no = trials.h, trials.no
    if name == PERFECT:
        gather(values, trials.points, nmse=torch.zeros_like(no), ser=metrics.qpsk_ser(h, h, no))
        return
    answer, seconds = solve(name, trials.dictionary, trials.y, no, trials.support)
    support = torch.einsum("ni,nj,nk->nijk", *(mask.double() for mask in trials.support)) > 0
    gather(
        values,
        trials.points,
        nmse=metrics.pattern_nmse(answer.h_hat, h),
        srr=metrics.recovery(answer.coefficients, support, metrics.IRS_LEVEL),
        ser=metrics.qpsk_ser(answer.h_hat, h, no),
        iterations=answer.num_iterations.double(),
        ms=torch.full_like(no, 1e3 * seconds / len(no)),
    )


def rows_of(names: Sequence[str], runs: Runs, trainings: int, trials: int, snr_db: Sequence[float]) -> list[Row]:
    """All estimators on the same trials."""
    drawn = functools.cache(lambda number: draw_trials(number, trials, snr_db))
    found: list[Row] = []
    for name in names:

        def compute(name: str = name) -> Values:
            values: Values = {}
            for number in range(trainings):
                measured(name, drawn(number), values)
            return values

        begin = time.monotonic()
        settings = {"trainings": trainings, "trials": trials, "snr_db": snr_db}
        found += runs.rows("irs", name, settings, compute)
        print(f"  {name}: {time.monotonic() - begin:.1f} s", flush=True)
    return found


def known(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], float]:
    """Published and prototype numbers of the rows."""
    found: dict[tuple[str, str, str, str], float] = {}
    sources: dict[str, Mapping[str, Any]] = {
        "published nmse": published.IRS["nmse"],
        "prototype nmse": published.PROTOTYPE_IRS,
        "published ser": published.IRS["ser"],
    }
    points = [f"{level:g}" for level in published.IRS_SNR_DB]
    for row in rows:
        for label, curves in sources.items():
            value = dict(zip(points, curves.get(row.estimator, ()), strict=False)).get(row.point)
            if value is not None:
                found[label, row.study, row.estimator, row.point] = value
    return found


def show(rows: Sequence[Row]) -> None:
    """Tables, and the ranking that is asked for."""
    trials = sorted({row.trials for row in rows})
    print(f"\n{trials[-1]} trials a point" + (f" ({trials[0]} of them for the dense ones)" if len(trials) > 1 else ""))
    sources: dict[str, dict[str, Any]] = {
        "nmse": {"published": published.IRS["nmse"], "prototype": published.PROTOTYPE_IRS},
        "ser": {"published": published.IRS["ser"]},
        "ms": {
            "published": {name: [1e3 * value for value in v if value] for name, v in published.IRS["seconds"].items()},
        },
    }
    for column, title in TITLES.items():
        shown = [row for row in rows if row.estimator != PERFECT or column == "ser"]
        print(table(f"{title} over SNR [dB]", shown, column, sources.get(column)), flush=True)
    value = {(row.estimator, row.point): row.told["nmse"] for row in rows}
    for coupled in ("kron-sbl-pc 0.8", "kron-sbl-pc 0.5"):
        for other in ("kron-sbl-am", "kron-sbl-svd"):
            _compare(value, coupled, other)
    for coupled in ("irs-pc 0.8 published", "irs-pc 0.5 published"):
        for other in ("irs-am published", "irs-svd published"):
            _compare(value, coupled, other)


def _compare(value: Mapping[tuple[str, str], float], one: str, other: str) -> None:
    points = [point for name, point in value if name == one]
    below = [point for point in points if value[one, point] < value[other, point]]
    if points:
        print(f"{one} below {other} at {len(below)} of {len(points)} SNRs")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--trainings", type=int, default=25, help="draws of pilots and patterns (default 25)")
    made.add_argument("--trials", type=int, default=2, help="channels of each (default 2)")
    made.add_argument("--no-dense", action="store_true", help="without classical SBL and PC-SBL")
    made.add_argument("--more", action="store_true", help="other coupled M-steps, published start and thresholds")
    made.add_argument("--dense-trainings", type=int, default=25, help="trainings for the dense ones (default 25: all)")
    made.add_argument("--fresh", action="store_true", help="compute again what is there")
    made.add_argument("--out", type=Path, help="folder (default results/kronecker_sbl_irs; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: one trial, two SNRs, nothing dense")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run all."""
    options = parser().parse_args(argv)
    snr_db: tuple[float, ...] = published.IRS_SNR_DB
    if options.quick:
        options.trainings, options.trials, options.no_dense, snr_db = 1, 1, True, snr_db[::4]
    folder = options.out or Path("results/kronecker_sbl_irs" + ("-quick" if options.quick else ""))
    begin, spent = time.monotonic(), time.process_time()
    runs = Runs(folder, options.fresh)
    try:
        rows = rows_of((*NAMES, PERFECT), runs, options.trainings, options.trials, snr_db)
        quick, quick_cpu = time.monotonic() - begin, time.process_time() - spent
        if options.more:
            rows += rows_of(MORE, runs, options.trainings, options.trials, snr_db)
        if not options.no_dense:
            rows += rows_of(DENSE, runs, min(options.dense_trainings, options.trainings), options.trials, snr_db)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(rows)
    write_csv(rows, folder / "irs.csv", known(rows))
    shown = {name: [row for row in rows if row.estimator == name] for name in DRAWN}
    estimated = [row for found in shown.values() for row in found]
    beside = {
        column: {name: (published.IRS_SNR_DB, values) for name, values in published.IRS[column].items() if name in DRAWN}
        for column in ("nmse", "ser")
    }
    label = "SNR [dB]"
    panels = [
        Panel("channel", estimated, "nmse", label, "mean NMSE", beside=beside["nmse"]),
        Panel("support", estimated, "srr", label, TITLES["srr"], log_y=False),
        Panel("QPSK over the beamformed link", estimated, "ser", label, TITLES["ser"], floor=1e-7),
    ]
    draw(panels, folder / "irs.png")
    print(
        f"\n{quick:.0f} s ({quick_cpu:.0f} s of CPU) for the {len(NAMES)} estimators; {time.monotonic() - begin:.0f} s in all"
    )
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
