"""Achievable rate of a data phase through the same coarse converters, with the channel estimate as combiner.

``python sims/quantized_rate.py [--quick] [--num-channels N] [--set KEY=VALUE]`` prints, for 1, 2 and 3 bits and one and three
clusters of angles (32 antennas, 32 components), the use-and-then-forget rate of matched-filter combining with every estimate,
and with the channel itself. CSV and PNG go to ``results/quantized_rate``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from quantized import report
from quantized.study import GENIE, SMALL, Study
from quantized_mse import Panels, parser

from wichan.errors import WichanError
from wichan.simulate import parse_overrides

NAMES = ("bls", "blmmse", "bussgang-gmm circulant", "bussgang-gmm", "bussgang-mfa", GENIE)


def rates(study: Study) -> Panels:
    """Over the SNR."""
    panels: Panels = {}
    for clusters in (1, 3):
        for bits in (1, 2, 3):
            title = f"{bits} bit{'s' if bits > 1 else ''}, {clusters} cluster{'s' if clusters > 1 else ''}"
            curves = study.run(NAMES, settings={"num_clusters": clusters, "num_bits": bits}, metric="rate")
            print("\n" + report.table(curves, f"{title}: rate [bit/s/Hz] over SNR [dB]"), flush=True)
            panels[title] = (curves, {"x_label": "SNR [dB]", "log_y": False})
    return panels


def main(argv: list[str] | None = None) -> int:
    """Run them."""
    made = parser()
    made.description = __doc__
    made.set_defaults(num_channels=4000)
    options = made.parse_args(argv)
    folder = options.out or Path("results/quantized_rate" + ("-quick" if options.quick else ""))
    begin = time.monotonic()
    try:
        panels = rates(Study.of(options, SMALL | parse_overrides(options.settings)))
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report.write_csv({title: curves for title, (curves, _) in panels.items()}, folder / "rate.csv")
    report.draw(panels, "rate [bit/s/Hz]", folder / "rate.png")
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
