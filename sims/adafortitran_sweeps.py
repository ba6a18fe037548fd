"""Learned and classical OFDM estimators on the same channels: over SNR, delay spread and Doppler, and off the beaten track.

``python sims/adafortitran_sweeps.py [--quick] [--num-channels N] [--parts ...]`` runs, on the recipe ``ofdm-siso`` with
independent fading,

- ``sweeps``: least squares, LMMSE in four degrees of knowledge, `DelayDopplerMixture` and the released networks over one
  condition at a time, the others drawn from the recipe;
- ``profiles``: the same estimators, made for TDL-A, on TDL-A to E (the genie is that of each profile);
- ``densities``: pilots on every third and on every sixth subcarrier; the networks are trained for the first and refuse the
  second, which is said;
- ``mismatch``: networks and genie that are told a wrong delay spread or Doppler, beside estimators that are told nothing.

The score is the mean over points of the gap to ``lmmse-genie`` in dB, and the same relative to ``lmmse-bank``, the conditional
mean for a receiver that knows the profile and no conditions: nobody who is told nothing can be better in the mean.
``--weights adafortitran=PATH`` takes another weight file than the released one. Each part prints its table and writes CSV and
PNG into ``results/adafortitran_sweeps``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps import mismatch, report
from sweeps.lineup import BANK, ESTIMATORS, GENIE, build, weight_file

from wichan.errors import WichanError
from wichan.evaluation import Evaluation, Setting, evaluate
from wichan.simulate import load_recipe

RECIPE = "ofdm-siso"
SWEEPS: dict[str, tuple[float, ...]] = {
    "snr_db": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    "delay_spread": (25e-9, 75e-9, 125e-9, 175e-9, 225e-9, 300e-9),
    "max_doppler": (0.0, 300.0, 600.0, 1000.0, 1400.0, 1866.7),
}
PROFILES = ("A", "B", "C", "D", "E")
SPARSE = {"pilots.subcarrier_step": 6}
UNTOLD = ("adafortitran-blind", "delay-doppler-mixture", BANK)  # beside the mismatch


class Study:
    """The estimators, each built once for a pilot pattern, and the parts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick, self.folder = options.quick, options.out
        self.num_channels = 8 if options.quick else options.num_channels
        self.weights, self.names = dict(options.weights), options.estimators
        self.made = self._built({})
        self.done: dict[str, Evaluation] = {}

    def _built(self, overrides: dict[str, Any]) -> dict[str, Any]:
        begin = time.monotonic()
        made, left_out = build(Setting.of(load_recipe(RECIPE, overrides)), self.names, self.weights, lenient=self.quick)
        for name, why in left_out.items():
            print(f"left out: {name}: {why}", flush=True)
        print(f"built {', '.join(made)} in {time.monotonic() - begin:.0f} s", flush=True)
        return made

    def run(self, sweep: str, points: tuple[Any, ...], overrides: dict[str, Any] | None = None, made: Any = None) -> Evaluation:
        """Evaluate all estimators over one condition."""
        key = f"{sweep} {overrides}"  # two parts want the SNR sweep
        if key in self.done:
            return self.done[key]
        begin = time.monotonic()
        chosen = points[:: len(points) - 1] if self.quick else points
        result = evaluate(
            RECIPE,
            made or self.made,
            sweep=sweep,
            points=chosen,
            overrides=overrides,
            num_channels=self.num_channels,
            detail=False,
        )
        print(
            f"\n{sweep}, {self.num_channels} channels a point ({time.monotonic() - begin:.0f} s)\n{result.table()}", flush=True
        )
        self.done[key] = result
        return result

    def sweeps(self) -> None:
        """Three conditions."""
        results = {sweep: self.run(sweep, points) for sweep, points in SWEEPS.items()}
        rows = report.score_rows(results)
        print("\n" + report.score_table(rows, list(results), "Mean gap to the genie [dB], 95 % interval"), flush=True)
        for sweep, result in results.items():
            result.save(self.folder, f"sweep_{sweep}")
        report.write_rows(rows, self.folder / "scores.csv")
        report.draw_sweeps(results, self.folder / "sweeps.png", self.num_channels)

    def profiles(self) -> None:
        """Profiles that were not trained on."""
        result = self.run("profile", PROFILES)
        result.save(self.folder, "profiles_nmse")
        report.draw_profiles(result, self.folder / "profiles.png")
        others = {"profile": result}
        rows = report.score_rows(others)
        report.write_rows(rows, self.folder / "profiles_scores.csv")
        print("\n" + report.score_table(rows, ["profile"], "Mean gap to the genie [dB] over TDL-A to E"), flush=True)

    def densities(self) -> None:
        """Two pilot patterns."""
        points = SWEEPS["snr_db"]
        results = {"40 x 4 pilots": self.run("snr_db", points)}
        sparse = self._built(SPARSE)
        results["20 x 4 pilots"] = self.run("snr_db", points, SPARSE, sparse)
        for name, result in results.items():
            rows = report.score_rows({"snr_db": result})
            print("\n" + report.score_table(rows, ["snr_db"], f"{name}: mean gap to the genie [dB]"), flush=True)
            result.to_csv(self.folder / f"densities_{name.replace(' ', '')}.csv")
        report.draw_densities(results, self.folder / "densities.png")

    def mismatch(self) -> None:
        """Conditions that are told wrong."""
        count = self.num_channels if self.quick else max(self.num_channels // 2, 2)
        result, wrongs = mismatch.run(RECIPE, self.made, list(UNTOLD), count, self.quick)
        rows = report.mismatch_rows(result, wrongs)
        print("\n" + report.mismatch_table(rows), flush=True)
        report.write_rows(rows, self.folder / "mismatch.csv")
        report.draw_mismatch(rows, self.folder / "mismatch.png", count)


PARTS: dict[str, Callable[[Study], None]] = {
    "sweeps": Study.sweeps,
    "profiles": Study.profiles,
    "densities": Study.densities,
    "mismatch": Study.mismatch,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made.add_argument("--num-channels", type=int, default=400, help="channels a point (default 400; mismatch: half)")
    made.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS), metavar="NAME")
    made.add_argument("--weights", nargs="+", type=weight_file, default=[], metavar="MODEL=PATH", help="other weight files")
    made.add_argument("--out", type=Path, help="folder (default results/adafortitran_sweeps; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: two points, 8 channels; what is not there is left out")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the parts."""
    options = parser().parse_args(argv)
    options.out = options.out or Path("results/adafortitran_sweeps" + ("-quick" if options.quick else ""))
    if GENIE not in options.estimators:
        options.estimators.append(GENIE)
    begin = time.monotonic()
    try:
        study = Study(options)
        options.out.mkdir(parents=True, exist_ok=True)
        for part in options.parts:
            PARTS[part](study)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
