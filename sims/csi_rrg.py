"""CSI prediction in the CSI-RRG benchmark, with the published numbers beside ours.

``python sims/csi_rrg.py [--duplex tdd,fdd] [--budget quick|full] [-n N] [--categories regular,...] [--only-20db]``: every
predictor that has a form or released weights for the duplex mode. Same channels and noise for all; nobody is told the noise.
Writes ``results/csi_rrg/DUPLEX/`` (scores of every setting with intervals, tables, figures); a second run goes on where the
first one stopped.

``--departure`` gives Doppler shifts the angles of the end that moves, which the published data do not, and scores the regular
settings at 20 dB: ``results/csi_rrg/DUPLEX_departure/``. ``--references`` scores what is told more than any receiver, there
too: ``wiener-genie-geometry`` every ray but its phase; ``DUPLEX_references/``. (``wiener-genie-cell``, told the channel model
and the speed, is the best fixed filter; ``--predictors`` names it. It takes up to a minute a cell.)
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from wichan.errors import WichanError, check_choice
from wichan.evaluation import BenchmarkResult, CSIRRGBenchmark

RESULTS = Path("results") / "csi_rrg"
PREDICTORS = {
    "tdd": "hold,ar,wiener,pad,dad,dadnet,cnn,rnn,csibert2,csi4cast",
    "fdd": "hold,wiener,cnn,rnn,csibert2,csi4cast",
}
REFERENCES = "wiener-genie-geometry"


def run(duplex: str, options: argparse.Namespace) -> BenchmarkResult:
    """Score all predictors of a duplex mode and write what was found."""
    short = options.departure or options.references or options.only_20db
    categories = "regular" if short else options.categories
    benchmark = CSIRRGBenchmark(
        duplex,
        options.budget,
        categories=categories.split(",") if categories else None,
        noises={"awgn": [20.0]} if short else None,
        num_samples=options.num_samples,
        overrides={"doppler_angles": "departure"} if options.departure else None,
        workers=options.workers,
    )
    endings = [name for name in ("departure", "references") if getattr(options, name)]
    folder = options.results / "_".join([duplex, *endings])
    print(f"{duplex}: {benchmark.num_settings:,} settings, {benchmark.num_views:,} views", flush=True)
    started = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"{done:,} of {total:,} views after {last - started:.0f} s", flush=True)

    names = (options.predictors or (REFERENCES if options.references else PREDICTORS[duplex])).split(",")
    result = benchmark.run(names, folder, progress, on_note=lambda text: print(f"note: {text}"))
    result.save(folder)
    print(result.table())
    return result


def main() -> int:
    """Run the modes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duplex", default="tdd,fdd", help="default both")
    parser.add_argument("--budget", default="quick", help="quick or full")
    parser.add_argument("--predictors", help="names with commas between them; default all but wiener-genie-cell")
    parser.add_argument("--categories", help="regular, robustness, generalization; default all")
    parser.add_argument("-n", "--num-samples", type=int, help="samples a setting; default by budget")
    parser.add_argument("--departure", action="store_true", help="Doppler by the angles of the end that moves")
    parser.add_argument("--references", action="store_true", help="what is told more than a receiver, at 20 dB")
    parser.add_argument("--only-20db", action="store_true", help="the regular settings at 20 dB only")
    parser.add_argument("--workers", type=int, help="cells side by side")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    try:
        for duplex in options.duplex.split(","):
            run(check_choice("duplex", duplex.strip(), PREDICTORS), options)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
