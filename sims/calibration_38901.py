"""Calibration of the TR 38.901 scenarios behind ``source: sionna:UMi``, ``sionna:UMa`` and ``sionna:RMa``.

Draws links of every scenario and state through wichan's adapter and puts the distribution of delay spread, angular spreads
and coupling loss beside theory after the tables of TR 38.901 (`wichan.integrations.sionna.calibration` says where its numbers
come from). Three curves a quantity: what was drawn as large-scale parameter, the theory, and what the rays of the link really
have, which differs from both by design of the model (finite clusters, the line-of-sight ray, capped angles).

    python sims/calibration_38901.py            # 6000 links a curve, about a minute
    python sims/calibration_38901.py --quick    # 300 links, in seconds

Writes ``calibration_38901.csv`` (KS distances and medians), ``.json`` (everything; finished links are not drawn again) and one
picture a scenario.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch

from wichan.integrations.sionna import Drop, large_scale_parameters
from wichan.integrations.sionna.calibration import SPREADS, LargeScale, ks_distance, theory_cdf

SCENARIOS, STATES = ("UMi", "UMa", "RMa"), ("LOS", "NLOS", "O2I")
QUANTITIES = {
    "ds": "delay spread [ns]",
    "asd": "azimuth spread, station [deg]",
    "asa": "azimuth spread, terminal [deg]",
    "zsd": "zenith spread, station [deg]",
    "zsa": "zenith spread, terminal [deg]",
    "coupling_loss_db": "coupling loss [dB]",
}
QUANTILES = torch.cat(
    [torch.tensor([0.0005, 0.002]), torch.linspace(0.005, 0.995, 199), torch.tensor([0.998, 0.9995])]
).double()


def curves(links: LargeScale) -> dict[str, Any]:
    """Quantiles of what was drawn and realised, the theoretical distribution there, and the distance between them."""
    answer = {}
    for name in (*QUANTITIES, "path_loss_db"):
        drawn = links.drawn[name] if name in SPREADS else getattr(links, name)
        x = torch.quantile(drawn, QUANTILES)
        entry = {"x": x.tolist(), "theory": theory_cdf(links, name, x).tolist(), "ks": ks_distance(links, name)}
        if name in SPREADS:
            entry["realised"] = torch.quantile(links.realised[name], QUANTILES).tolist()
        answer[name] = entry
    return answer


def table(results: dict[str, Any], count: int) -> list[list[Any]]:
    """One row a scenario, state and quantity."""
    middle = int((QUANTILES - 0.5).abs().argmin())
    rows = [["scenario", "state", "quantity", "links", "median drawn", "median realised", "KS to theory", "KS at 5 % level"]]
    for place, found in results.items():
        for name, entry in found.items():
            realised = entry["realised"][middle] if "realised" in entry else ""
            row = [*place.split("/"), name, count, entry["x"][middle], realised, entry["ks"], 1.358 / count**0.5]
            rows.append([f"{value:.4g}" if isinstance(value, float) else value for value in row])
    return rows


def draw(scenario: str, results: dict[str, Any], path: Path, carrier: float) -> None:
    """Six panels of one scenario."""
    from wichan.evaluation.figure import PALETTE, figure_canvas, save_png

    with figure_canvas(10.5, 5.6, 3, 2) as (figure, panels):
        for axes, (name, label) in zip(panels, QUANTITIES.items(), strict=True):
            scale = 1e9 if name == "ds" else 1.0
            for state, color in zip(STATES, PALETTE, strict=False):
                entry = results[f"{scenario}/{state}"][name]
                x = torch.tensor(entry["x"]) * scale
                axes.plot(x, QUANTILES, color=color, linewidth=3.2, alpha=0.45, label=f"{state}, drawn")
                axes.plot(x, entry["theory"], color="black", linewidth=0.9, label="theory" if state == STATES[-1] else None)
                if "realised" in entry:
                    realised = torch.tensor(entry["realised"]) * scale
                    axes.plot(realised, QUANTILES, color=color, linestyle=":", linewidth=1.2, label=f"{state}, in the rays")
            if name != "coupling_loss_db":
                axes.set_xscale("log")
                low = min(torch.tensor(results[f"{scenario}/{s}"][name]["x"])[2] for s in STATES) * scale
                axes.set_xlim(left=float(low) / 2)
            axes.set_xlabel(label)
            axes.set_ylim(0, 1)
            axes.set_ylabel("share of links")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(f"TR 38.901 {scenario} at {carrier / 1e9:g} GHz, one sector", fontsize=9.5)
        save_png(figure, path)


def main() -> None:
    """Draw, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="300 links a curve")
    parser.add_argument("--num-links", type=int, default=6000)
    parser.add_argument("--carrier-frequency", type=float, default=3.5e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    count = 300 if options.quick else options.num_links
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "calibration_38901.json"
    setting = {"num_links": count, "carrier_frequency": options.carrier_frequency, "seed": options.seed}
    known = json.loads(store.read_text()) if store.exists() else {}
    results = known.get("results", {}) if known.get("setting") == setting else {}
    for scenario in SCENARIOS:
        for state in STATES:
            place, started = f"{scenario}/{state}", time.perf_counter()
            if place in results:
                continue
            numbers = {"carrier_frequency": options.carrier_frequency, "num_links": count, "seed": options.seed}
            results[place] = curves(large_scale_parameters(Drop(scenario, state), **numbers))
            store.write_text(json.dumps({"setting": setting, "results": results}))
            worst = max(results[place], key=lambda name: results[place][name]["ks"])
            took = time.perf_counter() - started
            print(f"{place}: {took:.1f} s, largest KS distance {results[place][worst]['ks']:.4f} ({worst})", flush=True)
        draw(scenario, results, options.out / f"calibration_38901_{scenario}.png", options.carrier_frequency)
    with (options.out / "calibration_38901.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table(results, count))
    print(f"wrote {options.out}/calibration_38901.csv, .json and a picture a scenario")


if __name__ == "__main__":
    main()
