"""Bit and block error rates of a coded OFDM link for four channel estimators on the same frames: ``python sims/link_level.py``.

The link is Sionna's: LDPC code of rate 1/2, 16-QAM, one codeword a stream and frame of 14 symbols x 48 subcarriers at 30 kHz,
sparse pilots in two symbols, LMMSE equaliser, belief propagation. Channels are TDL-C and CDL-C with 300 ns at 120 km/h, to four
antennas from one (simo) or from two with a stream each (mimo). Receivers: perfect channel knowledge; Sionna's LS with its
best interpolation; Sionna's LMMSE in its best order of passes; wichan's LMMSE. Both LMMSEs are told the same true covariance,
of which Sionna's can use the factors along time, frequency and space. Bits, channels and noise are common to all receivers.

A point runs until every receiver has ``--min-errors`` wrong blocks or ``--max-frames`` is reached (then it is marked ``*``).
Counts are saved after every chunk: run the command again to go on, also after a kill. Writes link_level.{json,csv,png} and
counts.json into ``--out``.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import WichanError

if TYPE_CHECKING:
    from link.run import Plan

LINKS = ("tdl-simo", "tdl-mimo", "cdl-simo", "cdl-mimo")
RECEIVERS = ("perfect", "ls", "sionna-lmmse", "wichan-lmmse")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``30m`` or ``2h``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS), metavar="LINK", help=", ".join(LINKS))
    made.add_argument(
        "--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS), metavar="NAME", help=", ".join(RECEIVERS)
    )
    made.add_argument("--points", nargs="+", type=float, metavar="DB", help="SNRs [dB] instead of each link's own")
    made.add_argument(
        "--min-errors", type=positive, default=200, help="wrong blocks of every receiver at a point (default 200)"
    )
    made.add_argument("--min-frames", type=positive, default=512, help="frames of a point in any case (default 512)")
    made.add_argument("--max-frames", type=positive, default=16384, help="frames of a point at most (default 16384)")
    made.add_argument(
        "--max-time", type=duration, metavar="TIME", help="stop after this time (90s, 30m, 2h); run again to go on"
    )
    made.add_argument(
        "--channel", choices=("wichan", "sionna"), default="wichan", help="who draws the channels (default wichan)"
    )
    made.add_argument("--seed", type=int, default=1, help="default 1")
    made.add_argument("--out", type=Path, help="folder (default results/link_level, with --quick results/link_level_quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: two points a link, few frames")
    made.add_argument("--plot-only", action="store_true", help="table, CSV and picture of what is there; nothing is simulated")
    return made


def plan(arguments: argparse.Namespace) -> Plan:
    """What to run, from the command line."""
    from link.run import Plan
    from link.setting import LINKS as OWN
    from link.setting import Setting

    setting = Setting(seed=arguments.seed, channel=arguments.channel)
    points = {name: tuple(sorted(arguments.points or OWN[name][2])) for name in LINKS if name in arguments.links}
    limits = {"min_errors": arguments.min_errors, "min_frames": arguments.min_frames, "max_frames": arguments.max_frames}
    out = arguments.out or Path("results/link_level_quick" if arguments.quick else "results/link_level")
    if arguments.quick:
        setting = replace(setting, frames_per_chunk=8, num_iter=10)
        limits = {"min_errors": 1, "min_frames": 8, "max_frames": 8}
        points = {name: found if arguments.points else found[1:4:2] for name, found in points.items()}
    receivers = [name for name in RECEIVERS if name in arguments.receivers]
    return Plan(setting, points, receivers, out, max_time=arguments.max_time, search=not arguments.quick, **limits)


def main(argv: list[str] | None = None) -> int:
    """Run, print and draw."""
    made = parser()
    arguments = made.parse_args(argv)
    if arguments.seed < 0:
        made.error(f"--seed={arguments.seed} must be at least 0")
    try:
        from wichan.integrations.sionna import require_sionna

        require_sionna("sims/link_level.py")
        from link.run import finish, simulate

        chosen = plan(arguments)
        started = time.perf_counter()
        with torch.no_grad():
            state: dict[str, Any] = simulate(chosen, dry=arguments.plot_only)
        finish(chosen, state)
        print(f"\n{time.perf_counter() - started:.0f} s; wrote {chosen.out}/link_level.{{csv,json,png}}")
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
