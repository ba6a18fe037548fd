"""Put tables and figures of runs into ``docs/results.md``: ``python sims/fill_results.py``.

The page has pairs of comments, ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; what stands between them is written anew from
the CSV files in ``results/``, and the figures are copied to ``docs/figures``. A block whose run is not there stays as it is,
and that is said. No number on the page is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from blocks import Row, gap, markdown, picture, pivot, read
from kronecker import page
from prediction import page as prediction_page

PAGE = Path("docs/results.md")
TOLD = {"delay_spread": "delay spread", "max_doppler": "Doppler"}
HONEST = {"frozen": "240 frozen channels", "independent": "a fresh channel each frame"}


# -- Blocks. --


def scores(folder: Path) -> str:
    """Scores over three sweeps."""
    rows = read(folder / "adafortitran_sweeps" / "scores.csv")
    sweeps = [name.removesuffix("_low") for name in rows[0] if name.endswith("_low")]
    labels = {"snr_db": "SNR", "delay_spread": "delay spread", "max_doppler": "Doppler"}
    header = ["estimator", "told", *(f"over {labels[s]}" for s in sweeps), "mean gap to genie [dB]", "to bank [dB]"]
    shown = [row for row in rows if row["estimator"] != "lmmse-genie"]
    lines = [
        [
            row["estimator"],
            ", ".join(TOLD.get(word, word) for word in row["told"].split()) or "nothing",
            *(f"{gap(row[s])} [{gap(row[f'{s}_low'])}, {gap(row[f'{s}_high'])}]" for s in sweeps),
            gap(row["mean_to_genie_db"]),
            gap(row["mean_to_bank_db"]),
        ]
        for row in shown
    ]
    figure = picture(
        folder / "adafortitran_sweeps" / "sweeps.png", "learned_sweeps.png", "NMSE over SNR, delay spread, Doppler"
    )
    return f"{markdown(header, lines)}\n\n{figure}"


def profiles(folder: Path) -> str:
    """Gap to the genie of each profile."""
    rows = read(folder / "adafortitran_sweeps" / "profiles_nmse.csv")
    rows = [row for row in rows if row["estimator"] != "lmmse-genie"]
    for row in rows:
        row["point"] = f"TDL-{row['point']}"
    table = pivot(rows, "estimator", "point", lambda row: gap(row["gap_db"]), "gap to genie [dB]")
    figure = picture(folder / "adafortitran_sweeps" / "profiles.png", "learned_profiles.png", "Gap to the genie, TDL-A to E")
    return f"{table}\n\n{figure}"


def densities(folder: Path) -> str:
    """Scores for two pilot patterns."""
    rows = []
    for name in ("40x4pilots", "20x4pilots"):
        found = read(folder / "adafortitran_sweeps" / f"densities_{name}.csv")
        rows += [
            row | {"pattern": name.removesuffix("pilots") + " pilots"} for row in found if row["estimator"] != "lmmse-genie"
        ]
    table = pivot(rows, "estimator", "pattern", lambda row: gap(row["score_db"]), "mean gap to genie over SNR [dB]")
    figure = picture(folder / "adafortitran_sweeps" / "densities.png", "learned_densities.png", "NMSE over SNR, two patterns")
    return f"{table}\n\n{figure}"


def mismatch(folder: Path) -> str:
    """Gap to the genie over the error of what is told."""
    rows = read(folder / "adafortitran_sweeps" / "mismatch.csv")
    names = TOLD | {"": "the truth, or nothing"}
    for row in rows:
        size = f"±{row['percent']} %" if row["random"] == "1" else f"{int(row['percent']):+d} %"
        row["error"] = f"{names[row['condition']]} {size}" if row["condition"] else names[""]
    table = pivot(rows, "error", "method", lambda row: gap(row["gap_db"]), "gap to genie [dB], told wrong")
    figure = picture(
        folder / "adafortitran_sweeps" / "mismatch.png", "learned_mismatch.png", "Gap over the error of conditions"
    )
    return f"{table}\n\n{figure}"


def honest(folder: Path) -> str:
    """Both trainings of every network that was run."""
    parts = []
    for model, label in (("adafortitran", "AdaFortiTran"), ("cevit", "CeViT")):
        path = folder / "honest_fading" / f"{model}_training.csv"
        if not path.exists():
            continue
        training = read(path)
        lines = []
        for kind in HONEST:
            mine = [row for row in training if row["channels"] == kind]
            best = min(float(row["nmse_db"]) for row in mine)
            genie = mine[0]
            bound = f"{float(genie['genie_db']):.2f} [{float(genie['genie_low_db']):.2f}, {float(genie['genie_high_db']):.2f}]"
            spent = f"{int(mine[-1]['frames']):,} in {float(mine[-1]['seconds']) / 60:.0f} min"
            lines.append([HONEST[kind], spent, f"{best:.2f}", bound, f"{best - float(genie['genie_db']):+.2f}"])
        header = [f"{label} trained and validated on", "frames", "NMSE [dB]", "genie [dB]", "difference"]
        parts.append(markdown(header, lines))
        tests = read(folder / "honest_fading" / f"{model}.csv")
        known = {"frozen": "trained on frozen channels", "independent": "trained on fresh channels", "lmmse-genie": "genie"}
        for kind, title in HONEST.items():
            rows = [row | {"estimator": known[row["estimator"]]} for row in tests if row["tested_on"] == kind]
            first = f"tested on {title}; NMSE [dB] at grid SNR"
            parts.append(pivot(rows, "estimator", "grid_snr_db", lambda row: f"{float(row['nmse_db']):.2f}", first, " dB"))
        parts.append(
            picture(path.with_name(f"{model}.png"), f"honest_fading_{model}.png", f"{label} on frozen and fresh channels")
        )
    if not parts:
        raise FileNotFoundError(folder / "honest_fading")
    return "\n\n".join(parts)


def link(folder: Path) -> str:
    """Block error rates."""
    rows = read(folder / "learned_link" / "learned_link.csv")

    def cell(row: Row) -> str:
        return f"{float(row['bler']):.3f} [{float(row['bler_low']):.3f}, {float(row['bler_high']):.3f}]"

    table = pivot(rows, "receiver", "snr_db", cell, "BLER at SNR", " dB")
    figure = picture(folder / "learned_link" / "learned_link.png", "learned_link.png", "BLER and NMSE over SNR")
    return f"{table}\n\n{rows[0]['blocks']} blocks a point, 95 % intervals.\n\n{figure}"


BLOCKS: dict[str, Callable[[Path], str]] = {
    "learned-scores": scores,
    "learned-profiles": profiles,
    "learned-densities": densities,
    "learned-mismatch": mismatch,
    "honest-fading": honest,
    "learned-link": link,
    **page.BLOCKS,
    **prediction_page.BLOCKS,
}


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the comments of a block."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE} has no block {name!r}")
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)


def main() -> int:
    """Fill all blocks whose runs are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="default results")
    options = parser.parse_args()
    text, missing = PAGE.read_text(encoding="utf-8"), 0
    for name, block in BLOCKS.items():
        try:
            text = fill(text, name, block(options.results))
            print(f"{name}: filled")
        except FileNotFoundError as error:
            missing += 1
            print(f"{name}: no run ({error.filename or error})")
    PAGE.write_text(text, encoding="utf-8")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
