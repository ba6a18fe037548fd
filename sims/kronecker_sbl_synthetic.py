"""Kronecker-structured sparse Bayesian learning on the published synthetic problem, with the published numbers beside.

``python sims/kronecker_sbl_synthetic.py [--quick] [--parts ...] [--dictionaries D] [--trials T]`` draws D dictionaries of
three 15-atom factors with 12 and 15 rows and M1 more, T sparse vectors each (their values are a Kronecker product, too), and
tells mean and median NMSE, share of successes (NMSE < 1e-2), support recovery rate, iterations and CPU time a trial:

- ``snr``, ``rows``, ``nonzeros``: over the SNR, over M1 (noise power set once, at M1 = 14) and over the non-zeros of a
  factor;
- ``free``: over the SNR with values that are drawn one by one on the support;
- ``noise``: noise variance unknown, over the SNR, and ``noise-full``, the published 14 x 12 x 15 rows with 4 non-zeros;
- ``published``, ``published-rows``: hyper-parameters that start at one and the published thresholds, and the published KSBL
  with the general eigenvalue routine of its code;
- ``small``, ``small-15``: 10 atoms a factor, where classical SBL, which needs the full matrix, is quick; ``dense``: a few
  trials of it at full size.

Values of every instance stay in ``results/kronecker_sbl_synthetic/raw``; what is there with the same settings is not computed
again (``--fresh``: it is). CSV and a picture beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from kronecker import metrics, published
from kronecker.lineup import GENERAL_EIG, solve
from kronecker.runs import Panel, Row, Runs, Values, draw, gather, table, write_csv
from kronecker.synthetic import MOST_ROWS, Problems
from kronecker.synthetic import draw as draw_problems

from wichan.errors import WichanError
from wichan.observations import KroneckerDictionary

MAIN = (
    "kron-sbl-svd",
    "kron-sbl-am",
    "kron-sbl-single",
    "kron-sbl-mm",
    "kron-omp",
    "kron-omp-published",
    "omp",
    "oracle-ls",
)
TITLES = {"nmse": "mean NMSE", "median": "median NMSE", "success": "share of NMSE < 1e-2", "srr": "support recovery rate"}
FULL = {"rows": (MOST_ROWS, 12, 15), "nonzeros": (4,), "snr_db": (30.0,), "values": "free"}
SMALL = {"size": 10, "nonzeros": (2,)}


@dataclass(frozen=True)
class Study:
    """Names and the law of the problems (arguments of `kronecker.synthetic.draw`); ``most`` limits the dictionaries."""

    names: Sequence[str]
    law: Mapping[str, Any] = field(default_factory=dict)
    label: str = "SNR [dB]"
    most: int | None = None


_KRON = ("kron-sbl-svd", "kron-sbl-am", "kron-sbl-single")
_BOTH = tuple(name + told for name in _KRON for told in ("", " unknown noise"))
STUDIES = {
    "snr": Study(MAIN, {"snr_db": published.SNR_DB}),
    "rows": Study(MAIN, {"rows": (MOST_ROWS, 12, 15), "first_rows": published.ROWS}, "M1"),
    "nonzeros": Study(
        tuple(name for name in MAIN if name != "omp"),  # hundreds of atoms, one by one, where it fails
        {"nonzeros": published.NONZEROS},
        "non-zeros a factor",
    ),
    "free": Study(MAIN, {"snr_db": (5.0, 15.0, 25.0), "values": "free"}),
    "noise-full": Study(_BOTH, FULL),
    "published-rows": Study(
        ("kron-sbl-single published", GENERAL_EIG), {"rows": (MOST_ROWS, 12, 15), "first_rows": published.ROWS}, "M1"
    ),
    "published": Study((*(f"{name} published" for name in _KRON), GENERAL_EIG), {"snr_db": (5.0, 15.0, 25.0)}, most=20),
    "noise": Study(_BOTH, {"snr_db": (5.0, 15.0, 25.0)}, most=20),
    "small": Study((*MAIN, "sbl"), {"rows": (5, 8, 10), "snr_db": (25.0,), **SMALL}, most=20),
    "small-15": Study((*MAIN, "sbl"), {"rows": (7, 8, 10), "snr_db": (15.0,), **SMALL}, most=20),
    "dense": Study((*_KRON, "sbl"), {"snr_db": (25.0,)}, most=20),
}


def measured(name: str, problems: Problems, values: Values) -> None:
    """Run one estimator on a batch and add its values."""
    answer, seconds = solve(name, KroneckerDictionary(problems.factors), problems.y, problems.no, problems.support)
    found = answer.coefficients
    support = torch.einsum("ni,nj,nk->nijk", *(mask.double() for mask in problems.support)) > 0
    more = {} if answer.no_hat is None else {"no_ratio": answer.no_hat / problems.no}
    gather(
        values,
        problems.points,
        nmse=metrics.nmse(found, problems.x),
        srr=metrics.recovery(found, support, metrics.SYNTHETIC_LEVEL),
        iterations=answer.num_iterations.double(),
        ms=torch.full_like(problems.no, 1e3 * seconds / len(problems.no)),
        **more,
    )


def rows_of(part: str, runs: Runs, options: argparse.Namespace) -> list[Row]:
    """All estimators of a study."""
    study = STUDIES[part]
    dictionaries = min(options.dictionaries, study.most or options.dictionaries)
    law = dict(study.law)
    if options.quick and "first_rows" not in law:
        key = "nonzeros" if len(law.get("nonzeros", ())) > 1 else "snr_db"
        law[key] = law[key][:1]
    elif options.quick:
        law["first_rows"] = law["first_rows"][:1]
    settings = {"dictionaries": dictionaries, "trials": options.trials, "law": law}
    found: list[Row] = []
    for name in study.names:
        if options.quick and name == "sbl" and part == "dense":
            continue

        def compute(name: str = name) -> Values:
            values: Values = {}
            for number in range(dictionaries):
                for problems in draw_problems(number, options.trials, **law):
                    measured(name, problems, values)
            return values

        begin = time.monotonic()
        found += runs.rows(part, name, settings, compute)
        print(f"  {part}: {name}: {time.monotonic() - begin:.1f} s", flush=True)
    return found


def known(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], float]:
    """Published numbers of the rows, where there are some."""
    found: dict[tuple[str, str, str, str], float] = {}
    points: Mapping[str, Sequence[float]] = {
        "snr": published.SNR_DB,
        "rows": published.ROWS,
        "nonzeros": published.NONZEROS,
    }
    for row in rows:
        if row.study == "noise-full":
            base, _, told = row.estimator.partition(" ")
            value = published.NOISE["unknown" if told else "known"].get(base)
            if value is not None:
                found["published nmse", row.study, row.estimator, row.point] = value
        for column, curves in published.SYNTHETIC.get(row.study, {}).items():
            curve = dict(zip([f"{p:g}" for p in points[row.study]], curves.get(row.estimator, ()), strict=False))
            value = curve.get(row.point)
            if value is not None:
                found[f"published {column}", row.study, row.estimator, row.point] = value
    return found


def show(part: str, rows: Sequence[Row]) -> None:
    """The tables of a study."""
    sizes = sorted({row.trials for row in rows})
    print(f"\n{part}: {sizes[-1]} trials a point")
    for column, title in TITLES.items():
        beside: dict[str, Any] = {}
        if column in published.SYNTHETIC.get(part, {}):
            beside["published"] = published.SYNTHETIC[part][column]
        if part == "snr" and column in published.PROTOTYPE:
            beside["prototype"] = published.PROTOTYPE[column]
        print(table(f"{title} over {STUDIES[part].label}", rows, column, beside))
    for column, title in (
        ("iterations", "mean iterations"),
        ("ms", "CPU ms a trial, in a batch"),
        ("no_ratio", "noise found / true, median"),
    ):
        if any(column in row.told for row in rows):
            beside = {"prototype": published.PROTOTYPE[column]} if part == "snr" and column in published.PROTOTYPE else {}
            print(table(title, rows, column, beside), flush=True)


def panels(rows: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Median and mean NMSE and recovery of the three studies."""
    made: list[Panel] = []
    at = {"snr": published.SNR_DB, "rows": published.ROWS, "nonzeros": published.NONZEROS}
    for column in ("nmse", "median", "srr"):
        for part in [part for part in at if part in rows]:
            curves = published.SYNTHETIC[part].get(column, {})
            beside = {name: (at[part], values) for name, values in curves.items() if name != "sbl"}
            title = {"snr": "M1 = 8, K = 3", "rows": "25 dB, K = 3", "nonzeros": "25 dB, M1 = 8"}[part]
            options: dict[str, Any] = {"log_y": column != "srr", "beside": beside or None}
            made.append(Panel(title, rows[part], column, STUDIES[part].label, TITLES[column], **options))
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--parts", nargs="+", choices=list(STUDIES), default=list(STUDIES), metavar="PART", help=", ".join(STUDIES)
    )
    made.add_argument("--dictionaries", type=int, default=40, help="default 40; with 5 trials each the published 200")
    made.add_argument("--trials", type=int, default=5, help="a dictionary and point (default 5)")
    made.add_argument("--fresh", action="store_true", help="compute again what is there")
    made.add_argument("--out", type=Path, help="folder (default results/kronecker_sbl_synthetic; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: one dictionary, two trials, one point a study")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the parts."""
    options = parser().parse_args(argv)
    if options.quick:
        options.dictionaries, options.trials = 1, 2
    folder = options.out or Path("results/kronecker_sbl_synthetic" + ("-quick" if options.quick else ""))
    begin = time.monotonic()
    runs, rows = Runs(folder, options.fresh), {}
    try:
        for part in options.parts:
            rows[part] = rows_of(part, runs, options)
            show(part, rows[part])
            flat = [row for found in rows.values() for row in found]
            write_csv(flat, folder / "synthetic.csv", known(flat))
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = panels(rows)
    if shown:
        draw(shown, folder / "synthetic.png", columns=len(shown) // 3)
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
