"""Rates over a reflecting surface whose phases and beams come from an estimate, beside those from the truth.

``python sims/irs_rate.py [--quick] [--num-channels N] [--set KEY=VALUE]`` prints the spectral efficiency over the transmit
power (256 elements) and over the number of elements (15 dBm), pilots counted, path gains absolute:

- perfect CSI: phases and beams from the true channel, at the price of the same pilots;
- estimated CSI: from what `KroneckerSBL` makes of 36 pilots, also with phases of 2 bits and of 1 bit;
- random phases: beams that are best for a surface that knows nothing (they are told the channel);
- no surface: the best beams of the direct link.

The terminal (6 antennas) is 20 m from the surface, that 50 m from the base station (16 antennas), exponent 2.2 each; the direct
link of 60 m lies behind obstacles, exponent 4.2; -30 dB at 1 m, noise -94 dBm. Channels are those of the published
benchmark for the estimators (``angles: block``: three neighbouring paths a hop, on a grid of 18 directions), a coherence
block lasts 500 uses. A third part checks scaling laws on line-of-sight channels: gains L^2 with the best phases, 0.9 and
3.9 dB less with 2 bits and 1 bit, L with random ones. ``--set failure_rate=0.1`` darkens elements without telling anybody,
``--set angles=uniform`` leaves the grid. CSV and PNG go to ``results/irs_rate``. Default arguments take 85 s of one core.

What is seen (default arguments):

- From 10 dBm on phases from the estimate carry 97 % to 99 % of what the true channel would; at 5 dBm 92 %, at -5 dBm, where a
  training sample lies 10 dB below the noise, half.
- At 15 dBm 256 elements bring 14.7 bit/s/Hz where the direct link alone has 7.2 and a random surface 8.0. Coarse phases cost
  0.2 (2 bits) and 0.9 bit/s/Hz (1 bit): their 0.9 and 3.9 dB.
- Doubling the elements brings 1.4 to 1.9 bit/s/Hz with the true channel; L^2 of the cascade alone, less pilots, would be 1.9.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from irs.report import Curve, curve, draw, table, write_csv
from irs.setting import Setting, parse

from wichan.beamforming import IRSBeams, align_phases, irs_beams, random_reflection, reflect, spectral_efficiency
from wichan.channels import IRSCascade
from wichan.errors import WichanError
from wichan.random import make_generator

SEED = 6
POWER_DBM = 15.0
Rates = dict[str, torch.Tensor]


def rates(setting: Setting, num_channels: int, powers_dbm: Sequence[float]) -> dict[float, Rates]:
    """Spectral efficiency of every scheme for every channel, at every power."""
    generator = make_generator(SEED, "irs-rate", setting.num_irs)
    irs = setting.irs(direct=True)
    draws = irs.sample(num_channels, generator=generator)
    truth, h = irs.element_cascade(draws), setting.training.channel(draws)
    past = truth[..., -1:, :]
    # A surface that is not there has one element, and the direct link is what it reflects.
    told = {"perfect CSI": irs_beams(truth, direct=True), "no surface": irs_beams(past)}
    blind = random_reflection(setting.num_irs, (num_channels,), generator=generator, dtype=truth.dtype)
    blind_channel = reflect(truth, blind, direct=True)
    told["random phases"] = irs_beams(blind_channel[..., None, :])

    found: dict[float, Rates] = {}
    for dbm in powers_dbm:
        power = 10 ** (dbm / 10 - 3)
        y = setting.training.observe(h, setting.no / power, generator=generator)
        estimate = setting.estimate(y, setting.no / power)
        schemes = {"perfect CSI": told["perfect CSI"]}
        for bits, name in ((None, ""), (2, ", 2 bits"), (1, ", 1 bit")):
            schemes[f"estimated CSI{name}"] = irs_beams(estimate, direct=True, num_bits=bits)

        def efficiency(channel: torch.Tensor, beams: IRSBeams, power: float = power) -> torch.Tensor:
            price = (setting.pilot_uses, setting.coherence_uses)
            return spectral_efficiency(channel, beams.combiner, beams.precoder, power, setting.no, *price)

        row = {name: efficiency(reflect(truth, b.reflection, direct=True), b) for name, b in schemes.items()}
        row["random phases"] = efficiency(blind_channel, told["random phases"])
        row["no surface"] = efficiency(past[..., 0, :], told["no surface"])
        found[dbm] = row
    return found


def curves(rows: Mapping[float, Rates]) -> list[Curve]:
    """A curve for every scheme over the points of ``rows``."""
    names = next(iter(rows.values()))
    return [curve(name, list(rows), [row[name] for row in rows.values()]) for name in names]


def scaling(elements: Sequence[int], num_channels: int) -> list[Curve]:
    """Gain over one element [dB] of single antennas, one path a hop, phases by the closed form."""
    samples: dict[str, list[torch.Tensor]] = {"continuous": [], "2 bits": [], "1 bit": [], "random": []}
    for count in elements:
        generator = make_generator(SEED, "scaling", count)
        irs = IRSCascade(1, count, 1, 1)
        z = irs.element_cascade(irs.sample(num_channels, generator=generator))
        blind = random_reflection(count, (num_channels,), generator=generator)
        thetas = [align_phases(z, num_bits=bits) for bits in (None, 2, 1)]
        for name, theta in zip(samples, [*thetas, blind], strict=True):
            gain = reflect(z, theta).abs().square() / z[..., :1, :].abs().square()[..., 0, :]
            samples[name].append(gain.flatten())
    made = [curve(name, elements, rows) for name, rows in samples.items()]
    to_db = [[[10 * torch.tensor(v).clamp_min(1e-3).log10().item() for v in c[i]] for i in (2, 3, 4)] for c in made]
    return [Curve(c.name, c.points, *rows) for c, rows in zip(made, to_db, strict=True)]


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--num-channels", type=int, default=100, help="channels a point (default 100)")
    made.add_argument("--quick", action="store_true", help="at most ten channels, few points")
    made.add_argument("--set", action="append", dest="settings", metavar="KEY=VALUE", help="a field of the setting")
    made.add_argument("--out", type=Path, default=None, help="folder (default results/irs_rate)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run all parts."""
    options = parser().parse_args(argv)
    folder = options.out or Path("results/irs_rate" + ("-quick" if options.quick else ""))
    count = min(10, options.num_channels) if options.quick else options.num_channels
    powers = (5.0, 25.0) if options.quick else (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
    sizes = (16, 64) if options.quick else (16, 32, 64, 128, 256)
    begin = time.monotonic()
    try:
        setting = Setting(**parse(options.settings))
        over_power = curves(rates(setting, count, powers))
        rows = {n: rates(replace(setting, num_irs=n), count, (POWER_DBM,))[POWER_DBM] for n in sizes}
        over_size, law = curves(rows), scaling((1, 4, 16, 64, 256), 20 if options.quick else 2000)
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    gains = ", ".join(f"{gain:.1f}" for gain in setting.gains_db)
    print(f"path gains [dB] to the surface, from it, past it: {gains}; {setting.pilot_uses} pilots of {setting.coherence_uses}")
    print(f"(an estimate without structure asks for {setting.num_ms_ant * (setting.num_irs + 1)} pilots)")
    panels = {"power": over_power, "elements": over_size}
    print("\n" + table(over_power, f"spectral efficiency [bit/s/Hz] over power [dBm], {setting.num_irs} elements"))
    achieved = [e / p for e, p in zip(over_power[1].value, over_power[0].value, strict=True)]
    print(f"{'estimated / perfect':24s}" + "".join(f"{share:>9.3f}" for share in achieved))
    print("\n" + table(over_size, f"spectral efficiency [bit/s/Hz] over elements, {POWER_DBM:g} dBm"))
    print("\n" + table(law, "gain over one element [dB] over elements, one path a hop"))
    write_csv(panels | {"scaling": law}, folder / "irs_rate.csv")
    title = f"{count} channels a point; left {setting.num_irs} elements, middle {POWER_DBM:g} dBm; bands are 95 % intervals"
    draw(panels, law, title, folder / "irs_rate.png")
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
