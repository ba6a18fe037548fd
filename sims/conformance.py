"""PUSCH conformance: SNR at 70 % of the maximum throughput beside TS 38.104 clause 8.2.1.

``python sims/conformance.py [--quick] [--cases NAME ...] [--slots N] [--max-time SECONDS]`` prints a table and writes
``conformance.json`` (all counts), ``.csv`` and ``.png`` into ``results/conformance``. Points that are already in the JSON
file are not computed again, so a run can be stopped at any time and continued. What is compared, and how the numbers are to
be read, is in ``docs/conformance.md``. Needs Sionna.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from pusch.cases import CASES
from pusch.crossing import missing_offsets
from pusch.receivers import NAMES
from pusch.report import Store, draw, summarize, table, write_csv

from wichan.errors import MissingDependencyError
from wichan.integrations.sionna import require_sionna

OPPORTUNITIES, START, SEED = 6, -2, 20261


class Budget:
    """Seconds that are left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def spent(self) -> bool:
        """Whether time is up."""
        return time.monotonic() >= self.end


def measure(store: Store, name: str, num_runs: int, batch: int, budget: Budget) -> bool:
    """Measure points of one case until every receiver's curve encloses the target; False if time ran out before."""
    from pusch.link import Link

    case, link = CASES[name], None
    while True:
        wanted: dict[int, list[str]] = {}
        for receiver in NAMES:
            row = store.row(name, receiver)
            begun = [k for k, v in row.items() if len(v) < num_runs]
            for offset in begun or missing_offsets(store.throughput(name, receiver, num_runs), START):
                wanted.setdefault(offset, []).append(receiver)
        if not wanted:
            return True
        link = link or Link(case)
        # Where most receivers are missing a point first: they share its channels.
        offset = max(sorted(wanted), key=lambda k: len(wanted[k]))
        if not _point(store, link, offset, wanted[offset], num_runs, batch, budget):
            return False


def _point(store: Store, link, offset: int, names: list[str], num_runs: int, batch: int, budget: Budget) -> bool:
    """Bring one point of some receivers to ``num_runs`` runs, batch by batch."""
    case = link.case
    index = list(CASES).index(case.name)
    begin = time.monotonic()
    for start in range(0, num_runs, batch):
        missing = [name for name in names if len(store.row(case.name, name).get(offset, [])) <= start]
        if not missing:
            continue
        if budget.spent():
            return False
        seed = SEED + 100_000 * index + start // batch  # the same channels at every SNR and for every receiver
        generator = torch.Generator().manual_seed(seed)
        snr_db = case.requirement_db + offset
        found = link.run(snr_db, batch, generator=generator, names=missing, opportunities=OPPORTUNITIES)
        for name, share in found.items():
            counts = (share * OPPORTUNITIES).round().to(torch.int64).tolist()
            store.row(case.name, name).setdefault(offset, []).extend(counts)
        store.save()
    reached = ", ".join(f"{n} {store.throughput(case.name, n)[offset]:.3f}" for n in names)
    seconds = time.monotonic() - begin
    print(f"{case.name:10s} {case.requirement_db + offset:6.1f} dB  {reached}  ({seconds:.0f} s)", flush=True)
    return True


def main() -> None:
    """Measure what is missing, then write table, CSV and picture of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument(
        "--slots", type=int, default=960, help="slots a point (default 960; slow flat fading gets twice as many)"
    )
    parser.add_argument("--batch", type=int, default=40, help="HARQ processes computed at once (default 40)")
    parser.add_argument("--max-time", type=float, default=float("inf"), help="stop after so many seconds and report")
    parser.add_argument("--quick", action="store_true", help="one case with few slots, into results/conformance-quick")
    parser.add_argument("-o", "--output", type=Path, help="folder (default results/conformance)")
    arguments = parser.parse_args()
    if arguments.slots < 1 or arguments.batch < 2:
        parser.error("--slots must be at least 1, --batch at least 2")
    if arguments.quick:
        arguments.cases, arguments.slots, arguments.batch = arguments.cases[:1], 60, 10
    folder = arguments.output or Path("results") / ("conformance-quick" if arguments.quick else "conformance")
    settings = {"opportunities": OPPORTUNITIES, "batch": arguments.batch, "seed": SEED}
    try:
        require_sionna("sims/conformance.py")
        store = Store(folder / "conformance.json", settings)
    except (ValueError, MissingDependencyError) as problem:
        parser.error(str(problem))
    budget, complete = Budget(arguments.max_time), True
    with torch.no_grad():
        for name in arguments.cases:
            effort = 2 if CASES[name].max_doppler < 50 and not arguments.quick else 1
            num_runs = -(-effort * arguments.slots // (OPPORTUNITIES * arguments.batch)) * arguments.batch
            complete = measure(store, name, num_runs, arguments.batch, budget) and complete
    rows = summarize(store)
    store.save(table=rows)
    write_csv(store, folder / "conformance.csv")
    draw(store, folder / "conformance.png")
    print(table(rows))
    print(f"{folder}: conformance.json, conformance.csv, conformance.png" + ("" if complete else "; not complete: time was up"))


if __name__ == "__main__":
    main()
