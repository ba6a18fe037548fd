"""The two trainings: their settings, the same as command lines, and what they left."""

from __future__ import annotations

import csv
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wichan.errors import InvalidValueError
from wichan.training import TrainConfig, TrainProgress, fit, load_weights

if TYPE_CHECKING:
    from wichan.estimators import LearnedEstimator

RECIPE, SEED = "ofdm-siso-legacy", 73
MODELS = {"adafortitran": "AdaFortiTran", "cevit": "CeViT"}
KINDS: dict[str, dict[str, Any]] = {"frozen": {}, "independent": {"independent_fading": True}}
LABELS = {"frozen": "240 frozen channels", "independent": "a fresh channel each frame"}
#: What the adapter maps to -1 ... 1: the recipe's conditions, the SNR as a pilot sees it.
RANGES = {"snr_db": [13.0, 38.2], "delay_spread": [25e-9, 300e-9], "max_doppler": [50.0, 1000.0]}


def settings(model: str, kind: str, max_time: float, quick: bool) -> TrainConfig:
    """The training run of one kind; the two differ in ``overrides`` alone.

    The stream's seed is the recipe's, on which the frozen channels depend: training and test then share them, as in the
    original. Small batches: learning channels by heart takes steps.
    """
    return TrainConfig.of(
        model,
        stream=RECIPE,
        overrides=KINDS[kind],
        model_options={"condition_ranges": RANGES},
        loss="mse",
        optimiser="adam",
        lr=2e-3,
        batch_size=8 if model == "adafortitran" else 16,
        ema=0.99,
        max_time=max_time,
        val_every=5 if quick else (200 if model == "adafortitran" else 400),
        val_frames=16 if quick else 320,
        warm_start=512 if quick else 20_000,
        seed=SEED,
    )


def command(model: str, kind: str, runs: Path, max_time: str) -> str:
    """The same run as a command line."""
    config = settings(model, kind, 60.0, quick=False)
    low_high = ", ".join(f"{name}: [{low:.9g}, {high:.9g}]" for name, (low, high) in RANGES.items())
    words = ["wichan", "train", config.model, "--stream", RECIPE]
    words += [word for name in config.overrides for word in ("--set", f"{name}=true")]
    words += ["--max-time", max_time, "--batch-size", str(config.batch_size), "--lr", str(config.lr), "--loss", config.loss]
    words += ["--optimiser", config.optimiser, "--model-set", f"condition_ranges={{{low_high}}}", "--ema", str(config.ema)]
    words += ["--val-every", str(config.val_every), "--val-frames", str(config.val_frames), "--seed", str(SEED)]
    return shlex.join([*words, "--device", "cpu", "--threads", "1", "-o", str(runs / f"{model}-{kind}")])


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        kind: on which channels.
        config: its settings.
        estimator: with its best weights.
        curve: rows of its metrics.csv: step, frames, seconds, val_nmse_db, ...
    """

    kind: str
    config: TrainConfig
    estimator: LearnedEstimator
    curve: list[dict[str, float]]


def place_of(runs: Path, model: str, kind: str) -> Path:
    """Folder of a run: ``MODEL-KIND``, or ``KIND`` alone if only that is there."""
    place = runs / f"{model}-{kind}"
    return runs / kind if not place.exists() and (runs / kind).exists() else place


def get_run(model: str, kind: str, folder: Path, max_time: float, quick: bool) -> Run:
    """Read a run, or train it if it is not there."""
    from wichan.training.folder import RunFolder

    if not RunFolder(folder).holds_run:
        print(f"training on {LABELS[kind]} for {max_time:.0f} s ...", flush=True)
        fit(settings(model, kind, max_time, quick), out=folder, device="cpu", threads=1, progress=_tell)
    config = RunFolder(folder).read_config()
    with RunFolder(folder).metrics.open(newline="", encoding="utf-8") as file:
        curve = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    if config.model != model or config.stream != RECIPE or config.overrides != KINDS[kind]:
        found = f"{config.model} on {config.stream} with {config.overrides}"
        raise InvalidValueError(f"{folder} holds {found}; it must be {model} on {RECIPE} with {KINDS[kind]}")
    if not curve:
        raise InvalidValueError(f"{folder} holds a run without a validation; give it more time")
    return Run(kind, config, load_weights(folder).eval(), curve)


def _tell(state: TrainProgress) -> None:
    if state.metrics:
        print(f"  step {state.steps:,}, {state.seconds:.0f} s: NMSE {state.metrics['nmse_db']:.2f} dB", flush=True)


def check_equal(runs: dict[str, Run]) -> None:
    """Raise unless the two runs differ in nothing but their channels."""
    first, second = (run.config.changed(overrides={}).to_dict() for run in runs.values())
    for name, value in first.items():
        if value != second[name]:
            raise InvalidValueError(f"the runs differ in {name}: {value!r} and {second[name]!r}; the comparison must be fair")
