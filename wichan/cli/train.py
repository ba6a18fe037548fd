"""``wichan train``: a learned estimator, prior or predictor, from the live simulator or from a data set."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wichan.training import TrainConfig, TrainProgress, TrainResult

_PLAIN_PERIOD = 30.0  # s between two lines of progress where there is no terminal

_Words = list[str] | None
_Model = Annotated[
    str,
    typer.Argument(
        help="linear, cevit, fortitran, adafortitran; of quantised links gmm, mfa, vae; "
        "predictors csi4cast, rnn, cnn, csibert2, dadnet."
    ),
]
_Stream = Annotated[
    str | None, typer.Option("--stream", help="Recipe; default: ofdm-siso, of priors quantized-simo, of predictors csi-rrg.")
]
_Settings = Annotated[_Words, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")]
_ModelSettings = Annotated[
    _Words, typer.Option("--model-set", metavar="KEY=VALUE", help="Hyper-parameter, or preset=NAME; of predictors duplex=fdd.")
]
_TaskSettings = Annotated[
    _Words, typer.Option("--task-set", metavar="KEY=VALUE", help="Of predictors: snr_db=[0,25], antennas=8, impaired=0.2.")
]
_Loss = Annotated[
    str | None,
    typer.Option("--loss", help="mse, nmse, log-mse, nll; of predictors ratio-nmse, log-nmse; or a sum such as mse+nll."),
]
_Monitor = Annotated[
    str | None, typer.Option("--monitor", help="What makes weights best: nmse_db, score_db, loss; of predictors nmse_ratio.")
]


def train(
    context: typer.Context,
    model: _Model,
    stream: _Stream = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data set to read frames from instead.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; default: runs/MODEL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    max_time: Annotated[str | None, typer.Option("--max-time", help="90s, 30m, 1h30m; default 30m if nothing limits.")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps.")] = None,
    max_epochs: Annotated[int | None, typer.Option("--max-epochs", help="Passes over the training split.")] = None,
    settings: _Settings = None,
    model_settings: _ModelSettings = None,
    task_settings: _TaskSettings = None,
    loss: _Loss = None,
    monitor: _Monitor = None,
    optimiser: Annotated[str | None, typer.Option("--optimiser", help="adam or adamw.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Largest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="Of the optimiser.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="constant, cosine or exponential.")] = None,
    warm_start: Annotated[int | None, typer.Option("--warm-start", help="Frames for a closed-form start; 0: random.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Frames in a step, on each device.")] = None,
    val_every: Annotated[int | None, typer.Option("--val-every", help="Steps between validations.")] = None,
    val_frames: Annotated[int | None, typer.Option("--val-frames", help="Frames of the validation set.")] = None,
    patience: Annotated[int | None, typer.Option("--patience", help="Validations without gain; 0: any number.")] = None,
    clip: Annotated[float | None, typer.Option("--clip", help="Largest norm of the gradient; 0: any.")] = None,
    ema: Annotated[float | None, typer.Option("--ema", help="Decay of the average of weights; 0: none.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed; default 0.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "auto",
    devices: Annotated[int, typer.Option("--devices", help="Devices that share every step.")] = 1,
    precision: Annotated[str | None, typer.Option("--precision", help="32-true, bf16-mixed or 16-mixed.")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Intra-op threads on the CPU.")] = None,
    num_samples: Annotated[int | None, typer.Option("--num-samples", help="Of gmm, mfa: training channels.")] = None,
    from_observations: Annotated[
        bool, typer.Option("--from-observations", help="Of gmm, mfa: learn from pilots alone.")
    ] = False,
    snr_db: Annotated[float | None, typer.Option("--snr-db", help="SNR of these pilots; default: the recipe's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and size of the model; train nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a learned estimator or predictor, or fit a prior.

    Ctrl-C keeps the best weights; --resume goes on. The folder holds best.safetensors, metrics.csv and the settings.
    gmm and mfa are fitted by EM, which takes --stream, --data, --set, --model-set, --num-samples, --from-observations,
    --snr-db, --max-time and --seed.
    """
    from wichan.cli.train_prior import check_options, is_prior, train_prior

    folder = out if out is not None else Path("runs") / model
    check_options(context, model)
    if is_prior(model):
        train_prior(model, context.params, folder, dry_run, json)
        return
    config = _config(model, _given(context.params), folder, resume)
    where = {"device": device, "devices": devices, "threads": threads}
    if dry_run:
        _dry_run(config, device, json)
    else:
        _run(config, folder, resume, where, json)


_PLAIN = (
    *("stream", "loss", "monitor", "optimiser", "lr", "weight_decay", "schedule", "warm_start", "batch_size", "seed"),
    *("max_time", "max_steps", "max_epochs", "val_every", "val_frames", "patience", "clip", "ema", "precision"),
)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Settings of the run that the command line names."""
    from wichan.simulate import parse_overrides

    given = {name: options[name] for name in _PLAIN} | {"data": options["data"], "compile": options["compile_"]}
    given["overrides"] = parse_overrides(options["settings"]) if options["settings"] else None
    given["model_options"] = parsed(options["model_settings"]) if options["model_settings"] else None
    given["task_options"] = parsed(options["task_settings"], "--task-set") if options["task_settings"] else None
    return {name: value for name, value in given.items() if value is not None}


def parsed(settings: list[str], option: str = "--model-set") -> dict[str, Any]:
    """Read ``key=value`` texts of an option; errors name it."""
    from wichan.errors import InvalidValueError
    from wichan.simulate import parse_overrides

    try:
        return parse_overrides(settings)
    except InvalidValueError as error:
        raise InvalidValueError(str(error).replace("--set", option)) from None


def _config(model: str, given: dict[str, Any], folder: Path, resume: bool) -> TrainConfig:
    """Settings of a new run, or those of the one that is resumed with what is given now."""
    from wichan.training import TrainConfig
    from wichan.training.folder import RunFolder

    if not resume:
        return TrainConfig.of(model, **given)
    return RunFolder(folder).read_config().changed(model=model, **given)


def _dry_run(config: TrainConfig, device: str, as_json: bool) -> None:
    from wichan.cli.console import emit_json, key_values, say
    from wichan.simulate.devices import pick_device
    from wichan.training.fitting import Place, open_run

    source, task = open_run(config, Place(pick_device(device)))
    count = sum(parameter.numel() for parameter in task.network.parameters() if parameter.requires_grad)
    if as_json:
        emit_json({"parameters": count, "frames": source.name, "told": list(task.conditions), "config": config.to_dict()})
        return
    rows = {"parameters": f"{count:,}", "frames": source.name, "told": ", ".join(task.conditions) or "nothing"}
    say(key_values(rows | {name: value for name, value in config.to_dict().items() if value not in (None, {})}))


def _run(config: TrainConfig, folder: Path, resume: bool, where: dict[str, Any], as_json: bool) -> None:
    from wichan.cli.console import emit_json, message, say
    from wichan.cli.progress import ProgressReport
    from wichan.training import fit

    with ProgressReport(f"train {config.model}", unit="frames") as bar:
        follow = _Follower(bar)
        result = fit(config, out=folder, resume=resume, progress=follow, on_note=lambda text: message("note", text), **where)
    if not as_json:
        say(_summary(result))
    elif result.stopped != "interrupted":
        emit_json(result.to_dict() | {"config": config.to_dict()})
    if result.stopped == "interrupted":
        _explain_interrupt(config.model, folder, where, result, as_json)
        raise typer.Exit(130)


class _Follower:
    """Turns the run's reports into a bar, and a line for every validation."""

    def __init__(self, bar: Any) -> None:
        from wichan.cli.console import stderr

        self._bar, self._last = bar, 0.0
        self._period = 0.25 if stderr().is_terminal else _PLAIN_PERIOD

    def __call__(self, state: TrainProgress) -> None:
        from wichan.cli.console import human_seconds, stderr

        if state.metrics:
            values = _scores(state.metrics)
            extra = f", error ratio {state.metrics['error_ratio']:.2f}, loss {state.loss:.4g}, lr {state.rate:.2g}"
            mark = " (best)" if state.improved else ""
            stderr().print(f"step {state.steps:,} after {human_seconds(state.seconds)}: {values}{extra}{mark}", soft_wrap=True)
        if time.monotonic() - self._last < self._period:
            return
        self._last = time.monotonic()
        total = round(state.frames / state.used) if state.used > 0 else state.frames
        left = max(total - state.frames, 0) / state.frames_per_second if state.frames_per_second > 0 else None
        self._bar.update(state.frames, max(total, 1), state.frames_per_second, 0.0, left)


_ENDS = {"max_steps": "all steps done", "max_time": "time is up", "patience": "no further gain", "interrupted": "interrupted"}


def _summary(result: TrainResult) -> str:
    from wichan.cli.console import human_seconds

    text = f"{result.folder}: {result.steps:,} steps, {result.frames:,} frames in {human_seconds(result.seconds)}"
    speed = f"{result.frames_per_second:,.0f} frames/s, device busy {100 * result.busy:.0f} %"
    lines = [f"{text} ({speed}); {_ENDS.get(result.stopped, result.stopped)}"]
    if result.best:
        lines.append(f"best at step {result.best_step:,}: {_scores(result.best)}")
    return "\n".join(lines)


def _scores(metrics: dict[str, float]) -> str:
    """What a validation found; of predictors the published mean of ratios too."""
    text = f"NMSE {metrics['nmse_db']:.2f} dB, per frame {metrics['score_db']:.2f} dB"
    return text + (f", mean ratio {metrics['nmse_ratio']:.4f}" if "nmse_ratio" in metrics else "")


def _explain_interrupt(model: str, folder: Path, where: dict[str, Any], result: TrainResult, as_json: bool) -> None:
    from wichan.cli.console import emit_json, message, stderr

    words = ["wichan", "train", model, "-o", str(folder), "--resume"]
    for option, value, default in (
        ("--device", where["device"], "auto"),
        ("--devices", where["devices"], 1),
        ("--threads", where["threads"], None),
    ):
        if value != default:
            words += [option, str(value)]
    command = shlex.join(words)
    text = f"{folder} holds the best weights so far; continue with:"
    message("interrupted", text)
    stderr().print(f"  {command}", soft_wrap=True)
    if as_json:
        emit_json({"error": f"interrupted: {text} {command}"} | result.to_dict())
