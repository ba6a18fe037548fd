"""One network, two ways to draw its channels, and the bound for honest fading.

``python sims/honest_fading.py [--quick] [--model cevit] [--runs DIR] [--max-time 20m]`` trains AdaFortiTran (or CeViT), told
SNR, delay spread and Doppler, twice with the same layers, optimiser, seed and budget: on ``ofdm-siso-legacy``, as published
numbers were most likely made (one fading realisation for each delay spread and Doppler, so that training, validation and
test share 240 channels), and on the same recipe with ``independent_fading=true``. Runs that lie in ``--runs`` as
``MODEL-frozen`` and ``MODEL-independent`` (or ``frozen`` and ``independent``) are used as they are, so they may come from
``wichan train`` (``--commands`` prints how); what is missing is trained.

``lmmse-genie`` knows the covariance of honest fading at each frame's own conditions, and the noise. Channels are Gaussian
given their conditions, so nothing has a smaller mean squared error, unless it has seen the channels before. The figure shows
the NMSE on validation frames while training, and after it both networks on both kinds of channels over the SNR. That SNR is
the recipe's: noise is set from the power over the whole grid, most of which is silent, and a pilot sees 13.2 dB more.

Writes MODEL.csv, MODEL_training.csv and MODEL.png into ``--out``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from honest.report import draw, table, write_tests, write_training
from honest.runs import KINDS, MODELS, RECIPE, SEED, Run, check_equal, command, get_run, place_of

from wichan.errors import WichanError
from wichan.evaluation import Evaluation, Setting, evaluate, nmse_interval
from wichan.evaluation.baselines import Built, build_lmmse_genie
from wichan.metrics import error_and_energy

SNR_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


def genie_on_validation(run: Run) -> tuple[float, float, float]:
    """NMSE of the genie on the very frames that the run was validated on, with its 95 % interval [dB]."""
    from wichan.simulate import load_recipe
    from wichan.training.data import Share, cut, open_source

    source = open_source(run.config)
    genie = build_lmmse_genie(Setting.of(load_recipe(RECIPE, run.config.overrides)))
    names = tuple(name for name in genie.told if name != "profile")
    frames = source.fixed(("h", "y", "no", *names), run.config.val_frames)
    errors, energies = [], []
    for batch in cut(frames, 64, Share()):
        told = {name: batch[name] for name in names} | {"profile": ["A"] * len(batch["h"])}
        error, energy = error_and_energy(genie.estimator(batch["y"], batch["no"], **told).h_hat, batch["h"])
        errors.append(error)
        energies.append(energy)
    interval = nmse_interval(torch.cat(errors), torch.cat(energies), generator=torch.Generator().manual_seed(SEED))
    value, low, high = (float(10 * part.log10()) for part in interval)
    return value, low, high


def after_training(runs: dict[str, Run], kind: str, num_channels: int, quick: bool) -> Evaluation:
    """Both networks and the genie on channels of one kind, over the SNR."""
    estimators: dict[str, Any] = {name: Built(run.estimator, told=run.estimator.told) for name, run in runs.items()}
    return evaluate(
        RECIPE,
        estimators | {"lmmse-genie": None},
        sweep="snr_db",
        points=SNR_DB[::5] if quick else SNR_DB,
        overrides=KINDS[kind],
        num_channels=num_channels,
        detail=False,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", choices=list(MODELS), default="adafortitran", help="which network (default adafortitran)")
    made.add_argument("--runs", type=Path, help="folder of the runs MODEL-frozen and MODEL-independent (default: --out)")
    made.add_argument("--max-time", default="20m", help="training time of each run that is missing (default 20m)")
    made.add_argument("--num-channels", type=int, default=480, help="test frames a point (default 480)")
    made.add_argument("--out", type=Path, help="folder (default results/honest_fading; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: 20 s of training each, few frames")
    made.add_argument("--commands", action="store_true", help="print the two training commands and stop")
    return made


def main(argv: list[str] | None = None) -> int:
    """Train or read, test, print and draw."""
    from wichan.training.config import parse_duration

    options = parser().parse_args(argv)
    out = options.out or Path("results/honest_fading" + ("-quick" if options.quick else ""))
    folder = options.runs or out
    if options.commands:
        print("\n".join(command(options.model, kind, folder, options.max_time) for kind in KINDS))
        return 0
    begin = time.monotonic()
    try:
        seconds = 20.0 if options.quick else float(parse_duration(options.max_time, "max_time"))
        num_channels = 8 if options.quick else options.num_channels
        places = {kind: place_of(folder, options.model, kind) for kind in KINDS}
        runs = {kind: get_run(options.model, kind, place, seconds, options.quick) for kind, place in places.items()}
        check_equal(runs)
        with torch.no_grad():
            bounds = {kind: genie_on_validation(run) for kind, run in runs.items()}
        found = {kind: after_training(runs, kind, num_channels, options.quick) for kind in KINDS}
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    write_training(runs, bounds, out / f"{options.model}_training.csv")
    write_tests(found, out / f"{options.model}.csv")
    table(found, bounds, runs)
    draw(runs, bounds, found, out / f"{options.model}.png")
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {out}/{options.model}{{.csv,_training.csv,.png}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
