"""What each part of `DelayDopplerMixture` is worth, on the profile that the LMMSE bank holds and on others.

``python sims/delay_doppler_ablation.py [--quick]`` draws channels of the recipe ``ofdm-siso`` with TDL-A to TDL-E, CDL-A and
CDL-C (3.5 GHz, up to 160 m/s: the same range of Dopplers) and estimates all of them with smaller and larger mixtures,
``lmmse-bank`` (which holds TDL-A and Jakes fading), ``lmmse-plugin``, ``lmmse-pooled`` and the genie. It prints the score, the
mean over SNRs of the gap to ``lmmse-genie`` in dB (for CDL, whose genie takes minutes: to ``lmmse-bank``), and writes
``ablation.csv`` and ``ablation.png`` into ``results/delay_doppler_ablation``.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

from wichan.estimators import DelayDopplerMixture
from wichan.evaluation import BASELINES, Evaluation, Setting, evaluate
from wichan.evaluation.figure import figure_canvas, save_png
from wichan.simulate import load_recipe

#: Variants: name -> arguments of the mixture.
VARIANTS: dict[str, dict[str, Any]] = {
    "mixture": {},
    "one power": {"scales_db": (0.0,)},
    "1 delay shape": {"num_delay_shapes": 1},
    "8 delay shapes": {"num_delay_shapes": 8},
    "24 delay shapes": {"num_delay_shapes": 24},
    "96 delay shapes": {"num_delay_shapes": 96},
    "1 Doppler shape": {"num_doppler_shapes": 1},
    "10 Doppler shapes": {"num_doppler_shapes": 10},
    "80 Doppler shapes": {"num_doppler_shapes": 80},
    "wide prior (5 ns to 2 us)": {"delay_spread": (5e-9, 2e-6)},
    "300 draws": {"num_draws": 300},
}
OTHERS = ("lmmse-bank", "lmmse-plugin", "lmmse-pooled")
CDL: dict[str, Any] = {
    "source": "cdl",
    "conditions.max_doppler": None,
    "conditions.speed": {"uniform": [0, 160]},
    "channel": {"carrier_frequency": 3.5e9},
}
CHANNELS: dict[str, dict[str, Any]] = {
    **{f"TDL-{letter}": {"profile": letter} for letter in "ABCDE"},
    **{f"CDL-{letter}": CDL | {"profile": letter} for letter in "AC"},
}
POINTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


def measure(overrides: dict[str, Any], estimators: dict[str, Any], num_channels: int) -> Evaluation:
    """Score all estimators over the SNR on one kind of channel, against the genie or (CDL) the bank of TDL-A."""
    tdl = "source" not in overrides
    chosen = dict(estimators)
    if tdl:
        chosen |= dict.fromkeys(OTHERS) | {"lmmse-genie": None}
    # The bank keeps the profile that it was made for: that is the question here.
    bank = Setting.of(load_recipe("ofdm-siso"))
    chosen["lmmse-bank"] = BASELINES["lmmse-bank"](bank).estimator
    return evaluate(
        "ofdm-siso",
        chosen,
        sweep="snr_db",
        points=POINTS,
        num_channels=num_channels,
        reference="lmmse-genie" if tdl else "lmmse-bank",
        overrides=overrides,
        detail=False,
    )


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few channels and variants")
    parser.add_argument("--num-channels", type=int, default=100, help="channels for each kind and SNR (default 100)")
    parser.add_argument("-o", "--out", type=Path, default=Path("results/delay_doppler_ablation"))
    options = parser.parse_args()
    observation = Setting.of(load_recipe("ofdm-siso")).observation
    names = list(VARIANTS)[:3] if options.quick else list(VARIANTS)
    kinds = ["TDL-A", "CDL-C"] if options.quick else list(CHANNELS)
    count = 16 if options.quick else options.num_channels
    estimators = {}
    for name in names:
        start = time.perf_counter()
        estimators[name] = DelayDopplerMixture(observation, **VARIANTS[name])
        print(f"built {name} in {time.perf_counter() - start:.1f} s", flush=True)
    scores: dict[str, dict[str, tuple[float, float, float]]] = {}
    for kind in kinds:
        result = measure(CHANNELS[kind], estimators, count)
        interval = result.statistics.score_db
        assert interval is not None
        scores[kind] = {
            name: tuple(float(part[e]) for part in interval)
            for e, name in enumerate(result.estimators)  # type: ignore[misc]
        }
        print(
            f"{kind} ({result.reference} is 0): " + ", ".join(f"{n} {s[0]:+.2f}" for n, s in scores[kind].items()), flush=True
        )
    write(scores, [*names, *OTHERS], options.out)


def write(scores: dict[str, dict[str, tuple[float, float, float]]], names: list[str], out: Path) -> None:
    """Write the table and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "ablation.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["channels", "estimator", "score_db", "low", "high"])
        for kind, found in scores.items():
            rows.writerows([kind, name, *(f"{value:.4f}" for value in triple)] for name, triple in found.items())
    width = max(len(name) for name in names) + 2
    print("\n" + " " * width + "".join(f"{kind:>9}" for kind in scores))
    for name in names:
        cells = [f"{scores[kind][name][0]:+9.2f}" if name in scores[kind] else " " * 8 + "-" for kind in scores]
        print(f"{name:<{width}}" + "".join(cells))
    with figure_canvas(1.5 * len(scores) + 1.5, 3.4, len(scores), sharey=True) as (fig, axes):
        for axis, (kind, found) in zip(axes, scores.items(), strict=True):
            shown = [name for name in names if name in found]
            colours = ["0.6" if name in OTHERS else "C0" if name == "mixture" else "C9" for name in shown]
            axis.barh([names.index(name) for name in shown], [found[name][0] for name in shown], color=colours)
            axis.set_title(kind)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        fig.supxlabel("mean gap to the genie (CDL: to the bank) [dB]")
        save_png(fig, out / "ablation.png")
    print(f"wrote {out}/ablation.csv, {out}/ablation.png")


if __name__ == "__main__":
    main()
