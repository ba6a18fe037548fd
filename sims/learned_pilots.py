"""Pilots learned by gradient through the channel, beside orthogonal pilots and the optimum in closed form.

``python sims/learned_pilots.py [--quick]`` trains the pilots of four correlated transmit antennas (one OFDM symbol, block
fading, the energy of one unit an element) with Adam at several SNRs: ``learnable=True`` makes them a parameter, and the loss is
either the closed-form error of the LMMSE estimate (`wichan.estimators.lmmse_error`) or the squared error on fresh channels
through synthesis, observation and estimate (`lmmse_estimate`). Both are compared with orthogonal pilots and with the optimum,
water-filling over the eigenvectors of the correlation (`optimal_pilots`), in the closed form and on 20 000 channels. It prints
a table and writes ``learned_pilots.json``, ``.csv`` and ``.png`` into ``results/learned_pilots``. Trainings that are in the
JSON file are not repeated.

What is seen (default arguments; NMSE in closed form):

- Learned on the closed form, pilots come within 2e-5 dB of the optimum at every SNR, as close as single precision lets them;
  learned on 256 fresh channels a step within 0.001 dB (the learning rate falls to a hundredth over 300 steps).
- They find the beams of water-filling: all energy on the strongest eigenvector up to 0 dB for the 3GPP correlation, on two of
  four even at 20 dB. Orthogonal pilots lose 2.5 to 4.1 dB there.
- CDL-C at half a wavelength is nearly uncorrelated: with four pilots the gain is at most 0.4 dB and gone from 10 dB on. With
  two pilots for four antennas it is 2.9 dB at 20 dB, since orthogonal pilots then look into directions that carry less.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wichan.channels import CDL, ULA, RayleighBlock, exponential_correlation
from wichan.estimators import lmmse_error, lmmse_estimate, optimal_pilots
from wichan.evaluation import figure, nmse_interval
from wichan.metrics import error_and_energy
from wichan.observations import OFDMGrid, OFDMPilots

NUM_ANT, RATE, SEED = 4, 0.1, 20263
LABELS = {"exponential": "high correlation", "cdl-c": "CDL-C", "cdl-c, 2 pilots": "CDL-C, 2 pilots"}
CASES = {"exponential": 4, "cdl-c": 4, "cdl-c, 2 pilots": 2}  # pilot elements
CURVE_SNR_DB = 10.0


def correlation(name: str) -> torch.Tensor:
    """Correlation of the transmit antennas, unit diagonal, complex128 (4, 4)."""
    if name == "exponential":
        return exponential_correlation(NUM_ANT, 0.9)
    model = CDL("C", delay_spread=100e-9, carrier_frequency=3e9, speed=0.0, tx_array=ULA(NUM_ANT), rx_array=ULA(1))
    moment = model.covariance(OFDMGrid(1, 1, 15e3), normalize="ensemble").matrix()
    scale = moment.diagonal().real.rsqrt()
    return moment * scale[:, None] * scale


def scaled(pilots: torch.Tensor) -> torch.Tensor:
    """The same directions with the energy of one unit an element; (M, 4)."""
    return pilots * (pilots.shape[0] / pilots.abs().square().sum()).sqrt()


def train(loss: Callable[[torch.Tensor], torch.Tensor], error: Callable[[torch.Tensor], float], rows: int, steps: int) -> Any:
    """Adam on pilots from a random start; returns the learned (M, 4) and the closed-form error after every step."""
    generator = torch.Generator().manual_seed(SEED)
    start = torch.view_as_complex(torch.randn(NUM_ANT, 1, rows, 2, generator=generator))
    obs = OFDMPilots.from_pattern(OFDMGrid(1, rows, 15e3), start, learnable=True)
    optimizer = torch.optim.Adam(obs.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=RATE / 100)
    history = [error(scaled(obs.pilot_values().mT.detach()))]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(scaled(obs.pilot_values().mT)).backward()
        optimizer.step()
        schedule.step()
        history.append(error(scaled(obs.pilot_values().mT.detach())))
    return scaled(obs.pilot_values().mT.detach()), history


def sampled_loss(model: RayleighBlock, moment: torch.Tensor, no: float, batch: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Squared error on fresh channels: rays, channel on the grid, pilots and noise, estimate."""
    generator = torch.Generator().manual_seed(SEED + 1)

    def loss(pilots: torch.Tensor) -> torch.Tensor:
        h_hat, h = through_the_channel(model, moment, pilots, no, batch, generator)
        return (h_hat - h).abs().square().sum(-1).mean()

    return loss


def through_the_channel(
    model: RayleighBlock, moment: torch.Tensor, pilots: torch.Tensor, no: float, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimates and channels, both (count, 4)."""
    grid = OFDMGrid(1, pilots.shape[0], 15e3)
    obs = OFDMPilots.from_pattern(grid, pilots.mT[:, None])
    h = model.frequency_response(grid, count, generator=generator)
    y = obs.extract(obs.observe(h, no, generator=generator)).flatten(-2)
    # Elements without a pilot are not observed; the estimate takes those that are.
    sent = pilots[obs.pilot_index]
    return lmmse_estimate(y, sent, moment, no).h_hat, h[:, 0, :, 0, 0]


def orthogonal(rows: int) -> torch.Tensor:
    """Rows of the Fourier matrix, one unit of energy an element."""
    index = torch.arange(NUM_ANT, dtype=torch.float64)
    return torch.exp(-2j * torch.pi * index[:rows, None] * index / NUM_ANT) / NUM_ANT**0.5


def point(case: str, snr_db: float, steps: int, batch: int, num_channels: int) -> dict[str, Any]:
    """Train at one SNR; NMSE of all pilots in closed form and measured, and the learning curves."""
    moment, rows, no = correlation(case.partition(",")[0]), CASES[case], 10 ** (-snr_db / 10)
    model = RayleighBlock(num_tx_ant=NUM_ANT, tx_correlation=moment)

    def error(pilots: torch.Tensor) -> float:
        return float(lmmse_error(pilots, moment, no).sum()) / NUM_ANT

    learned, history = train(lambda pilots: lmmse_error(pilots, moment, no).sum(), error, rows, steps)
    sampled, noisy_history = train(sampled_loss(model, moment, no, batch), error, rows, steps)
    found: dict[str, Any] = {"history": history, "sampled history": noisy_history, "pilots": {}}
    best = optimal_pilots(moment, rows, no, rows)
    choices = {"orthogonal": orthogonal(rows), "learned": learned, "learned on samples": sampled, "optimum": best}
    for name, pilots in choices.items():
        h_hat, h = through_the_channel(
            model, moment, pilots.to(torch.complex64), no, num_channels, torch.Generator().manual_seed(SEED + 2)
        )
        sums = error_and_energy(h_hat[:, None, :, None, None], h[:, None, :, None, None])
        interval = nmse_interval(sums.error, sums.energy, generator=torch.Generator().manual_seed(SEED + 3))
        measured = [float(part) for part in interval]
        modes = (pilots.to(torch.complex128) @ torch.linalg.eigh(moment).eigenvectors.flip(1)).abs().square().sum(0)
        found["pilots"][name] = {"nmse": error(pilots), "measured": measured, "energy of modes": modes.tolist()}
    return found


def in_db(power: float) -> float:
    """Decibels."""
    return float(10 * torch.log10(torch.tensor(power, dtype=torch.float64)))


def gap(found: dict[str, Any], name: str) -> float:
    """NMSE over that of the optimum [dB]."""
    return in_db(found["pilots"][name]["nmse"] / found["pilots"]["optimum"]["nmse"])


def report(points: dict[str, dict[str, Any]], path: Path) -> None:
    """Print the table and write it as CSV."""
    columns = ["case", "snr_db", "pilots", "nmse_db", "gap_db", "measured_db", "low_db", "high_db", "energy_of_modes"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        print(f"{'case':18s}{'SNR':>6s}  NMSE [dB]: orthogonal  optimum   gaps [dB]: orthogonal   learned   on samples")
        for key, found in points.items():
            case, _, snr = key.rpartition(" @ ")
            for name, row in found["pilots"].items():
                values = [row["nmse"], *row["measured"]]
                nmse, *measured = (f"{in_db(value):.4f}" for value in values)
                modes = " ".join(f"{energy:.4g}" for energy in row["energy of modes"])
                writer.writerow([case, snr, name, nmse, f"{gap(found, name):.6f}", *measured, modes])
            levels = [in_db(found["pilots"][name]["nmse"]) for name in ("orthogonal", "optimum")]
            gaps = [gap(found, name) for name in ("orthogonal", "learned", "learned on samples")]
            print(f"{case:18s}{snr:>6s}{levels[0]:23.2f}{levels[1]:9.2f}{gaps[0]:24.3f}{gaps[1]:10.2e}{gaps[2]:13.3f}")


def draw(points: dict[str, dict[str, Any]], path: Path) -> None:
    """NMSE over SNR, and the gap to the optimum while learning."""
    with figure.figure_canvas(9.6, 4.4, 2) as (picture, axes):
        for c, case in enumerate(CASES):
            colour = figure.PALETTE[c]
            label = LABELS[case]
            rows = [(float(key.rpartition(" @ ")[2]), v) for key, v in points.items() if key.rpartition(" @ ")[0] == case]
            snr = [x for x, _ in rows]
            for name, style in (("orthogonal", "--"), ("optimum", "-"), ("learned", "o")):
                level = [in_db(found["pilots"][name]["nmse"]) for _, found in rows]
                axes[0].plot(snr, level, style, color=colour, label=f"{label}: {name}", markersize=6)
            low, high = ([in_db(v["pilots"]["learned"]["measured"][i]) for _, v in rows] for i in (1, 2))
            axes[0].fill_between(snr, low, high, color=colour, alpha=0.25, linewidth=0)
            curve = points.get(f"{case} @ {CURVE_SNR_DB:g}")
            for name, style in (("history", "-"), ("sampled history", ":")):
                if curve:
                    best = curve["pilots"]["optimum"]["nmse"]
                    axes[1].semilogy([max(in_db(e / best), 1e-6) for e in curve[name]], style, color=colour)
        axes[0].set_xlabel("SNR of a pilot element [dB]")
        axes[0].set_ylabel("NMSE [dB]")
        axes[1].plot([], [], "-", color="black", label="loss: closed form")
        axes[1].plot([], [], ":", color="black", label="loss: squared error on 256 channels a step")
        axes[1].legend(loc="upper right")
        axes[1].set_ylim(7e-7, 30)  # what is closer than 1e-6 dB is rounding
        axes[1].set_xlabel(f"step of Adam, {CURVE_SNR_DB:g} dB SNR")
        axes[1].set_ylabel("gap to the optimum [dB]")
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=3)
        picture.suptitle("Pilots of 4 correlated transmit antennas (band: 20 000 channels, 95 %)", fontsize=9.5)
        figure.save_png(picture, path)


def main() -> None:
    """Train what is missing, then write table, CSV and picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="steps of Adam (default 300)")
    parser.add_argument("--quick", action="store_true", help="two SNRs, 30 steps")
    parser.add_argument("--output", type=Path, default=None, help="folder (default results/learned_pilots)")
    options = parser.parse_args()
    folder = options.output or Path("results/learned_pilots" + ("-quick" if options.quick else ""))
    steps, batch, count = (30, 64, 2000) if options.quick else (options.steps, 256, 20_000)
    path = folder / "learned_pilots.json"
    settings = {"steps": steps, "batch": batch, "channels": count, "rate": RATE, "seed": SEED}
    points: dict[str, dict[str, Any]] = {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise SystemExit(f"{path} was made with {kept['settings']}, now {settings}; choose another --output")
        points = kept["points"]
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        for snr_db in (0.0, 10.0) if options.quick else (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0):
            key = f"{case} @ {snr_db:g}"
            if key not in points:
                begin = time.monotonic()
                points[key] = point(case, snr_db, steps, batch, count)
                draft = path.with_suffix(".tmp")
                draft.write_text(json.dumps({"settings": settings, "points": points}), encoding="utf-8")
                os.replace(draft, path)
                print(f"{key} dB ({time.monotonic() - begin:.1f} s)", flush=True)
    report(points, folder / "learned_pilots.csv")
    draw(points, folder / "learned_pilots.png")
    print(f"written: {folder}")


if __name__ == "__main__":
    main()
