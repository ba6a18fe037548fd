"""Mean squared error behind coarse converters: over SNR, bits, pilots, size of the training set and components.

``python sims/quantized_mse.py [--quick] [--num-channels N] [--parts ...] [--set KEY=VALUE]`` runs, on the recipe
``quantized-simo`` with 32 antennas and 32 components (``--set num_rx_ant=64`` and so on take others),

- ``snr``: every estimator over the SNR, for 1, 2, 3 and infinitely many bits and one and three clusters of angles, beside
  values of an independent implementation where there are some (`quantized.known`);
- ``bits``, ``pilots``: over the resolution and over the number of pilots at 10 dB, one cluster;
- ``training``, ``components``: over the size of the training set and the number of components, one bit, 10 dB;
- ``dither``: Gaussian dither before one-bit converters at 20 dB, which see too little noise there;
- ``cme``: the true conditional mean by Gibbs sampling, given each channel's own covariance, beside Bussgang's, 16 antennas.

Priors are learned from channels; "from pilots" means from pilots behind the same converters at 10 dB alone. All estimators see
the same channels. Each part prints its table; CSV and two pictures go to ``results/quantized_mse``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantized import known, report
from quantized.study import GENIE, SMALL, Curve, Study

from wichan.errors import WichanError
from wichan.simulate import parse_overrides

BITS = (1, 2, 3, math.inf)
FULL = ("bls", "blmmse", "bussgang-gmm circulant", "bussgang-gmm from pilots", "bussgang-gmm", "bussgang-mfa", GENIE)
SHORT = ("blmmse", "bussgang-gmm circulant", "bussgang-gmm", "bussgang-mfa", GENIE)
AT = {"snr_db": 10.0}
Y_LABEL = "MSE per antenna"
Panels = dict[str, tuple[Sequence[Curve], Mapping[str, Any]]]


def snr(study: Study) -> Panels:
    """Over the SNR."""
    panels: Panels = {}
    for clusters in (1, 3):
        for bits in BITS:
            title = f"{report.shown(bits)} bit{'s' if bits != 1 else ''}, {clusters} cluster{'s' if clusters > 1 else ''}"
            names = SHORT if math.isinf(bits) else FULL
            curves = study.run(names, settings={"num_clusters": clusters, "num_bits": bits})
            beside = known.MSE.get((clusters, bits)) if study.comparable else None
            print("\n" + report.table(curves, f"{title}: MSE over SNR [dB]", beside), flush=True)
            panels[title] = (curves, {"x_label": "SNR [dB]"})
    return panels


def bits(study: Study) -> Panels:
    """Over the resolution."""
    curves = study.run(SHORT, sweep="num_bits", points=BITS, settings=AT)
    return _told({"resolution, 10 dB": (curves, {"x_label": "bits", "even": True})})


def pilots(study: Study) -> Panels:
    """Over the number of pilots."""
    panels: Panels = {}
    for num_bits in (1, 2):
        curves = study.run(SHORT, sweep="num_pilots", points=(1, 2, 4, 8), settings=AT | {"num_bits": num_bits})
        title = f"pilots, {num_bits} bit{'s' if num_bits > 1 else ''}, 10 dB"
        panels[title] = (curves, {"x_label": "pilots", "log_x": True})
    return _told(panels)


def training(study: Study) -> Panels:
    """Over the size of the training set."""
    names = ("blmmse", "bussgang-gmm circulant", "bussgang-gmm toeplitz", "bussgang-gmm", "bussgang-mfa")
    curves = study.run(names, sweep="num_train", points=(300, 1000, 3000, 10_000, 30_000), settings=AT)
    return _told({"training channels, 1 bit, 10 dB": (curves, {"x_label": "channels", "log_x": True})})


def components(study: Study) -> Panels:
    """Over the number of components."""
    names = ("bussgang-gmm circulant", "bussgang-gmm", "bussgang-mfa")
    curves = study.run(names, sweep="num_components", points=(1, 4, 16, 32, 64, 128), settings=AT)
    return _told({"components, 1 bit, 10 dB": (curves, {"x_label": "components", "log_x": True})})


def dither(study: Study) -> Panels:
    """Over the power of the dither."""
    points = (0.0, 0.03, 0.1, 0.3, 1.0)
    curves = study.run(SHORT, sweep="quantizer.dither_power", points=points, settings={"snr_db": 20.0})
    return _told({"dither, 1 bit, 20 dB": (curves, {"x_label": "dither power", "log_y": False})})


def cme(study: Study) -> Panels:
    """The true conditional mean of each channel's own covariance."""
    small = Study(min(study.num_channels, 1000), study.settings | {"num_rx_ant": 16}, study.quick)
    curves = small.run(("cme-gibbs", GENIE), points=(-10.0, 0.0, 10.0, 20.0))
    return _told({"16 antennas, 1 bit, told": (curves, {"x_label": "SNR [dB]"})})


def _told(panels: Panels) -> Panels:
    for title, (curves, options) in panels.items():
        print("\n" + report.table(curves, f"{title}: MSE over {options['x_label']}"), flush=True)
    return panels


PARTS: dict[str, Callable[[Study], Panels]] = {
    "snr": snr,
    "bits": bits,
    "pilots": pilots,
    "training": training,
    "components": components,
    "dither": dither,
    "cme": cme,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made.add_argument("--num-channels", type=int, default=10_000, help="test channels at each point (default 10,000)")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="settings of the recipe")
    made.add_argument("--out", type=Path, help="folder (default results/quantized_mse; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: two points, 64 channels, small priors")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the parts."""
    options = parser().parse_args(argv)
    folder = options.out or Path("results/quantized_mse" + ("-quick" if options.quick else ""))
    begin = time.monotonic()
    try:
        study = Study.of(options, SMALL | parse_overrides(options.settings))
        others: Panels = {}
        for part in options.parts:
            print(f"\n{part}", flush=True)
            panels = PARTS[part](study)
            report.write_csv({title: curves for title, (curves, _) in panels.items()}, folder / f"{part}.csv")
            if part == "snr":
                report.draw(panels, Y_LABEL, folder / "snr.png", columns=4)
            else:
                others |= panels
        if others:
            report.draw(others, Y_LABEL, folder / "others.png", columns=4)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
