"""Benchmarks of wichan's kernels against their peers: ``python sims/bench [KERNEL ...] [--repeats N]``.

Prints a Markdown table and writes ``results/bench.json``. Run it on an idle machine; quote ratios, not times. The page of
the documentation site is made from ``python sims/bench --json docs/benchmarks.json``.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path

from harness import Row, machine, print_table, save

KERNELS = {
    "cdl": "channels:cdl",
    "tdl": "channels:tdl",
    "lmmse": "lmmse:lmmse",
    "learned": "learned:learned",
    "gmm-fit": "gmm_fit:gmm_fit",
    "bussgang": "bussgang:bussgang",
    "kronecker-sbl": "kronecker_sbl:kronecker_sbl",
    "csi-rrg": "datasets:csi_rrg",
    "prediction": "prediction:prediction",
    "write": "datasets:write",
}


def main() -> None:
    """Run the chosen kernels one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"any of {', '.join(KERNELS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs a kernel (default 9)")
    parser.add_argument("-o", "--output", "--json", type=Path, default=Path("results/bench.json"), help="JSON file to write")
    arguments = parser.parse_args()
    unknown = set(arguments.kernels) - set(KERNELS)
    if unknown or arguments.repeats < 1:
        parser.error(f"unknown kernel {sorted(unknown)}" if unknown else f"--repeats={arguments.repeats} must be at least 1")
    print(machine(), flush=True)
    rows: list[Row] = []
    for name in arguments.kernels or KERNELS:
        module, _, function = KERNELS[name].partition(":")
        found = getattr(importlib.import_module(module), function)(arguments.repeats)
        rows += found
        print_table(rows[-len(found) :])
    print()
    print_table(rows)
    nmse: list[str] = []
    if "lmmse" in (arguments.kernels or KERNELS):
        from lmmse import lmmse_nmse

        nmse = lmmse_nmse()
        print("\n" + "\n".join(nmse))
    command = shlex.join(["python", "sims/bench", *sys.argv[1:]])
    save(rows, arguments.output, command=command, repeats=arguments.repeats, nmse=nmse)
    print(f"\nwrote {arguments.output}")


if __name__ == "__main__":
    main()
