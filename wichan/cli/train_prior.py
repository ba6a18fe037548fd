"""``wichan train gmm`` and ``mfa``: EM with a progress bar, and a folder as any run has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from wichan.training.priors import PriorConfig, PriorProgress, PriorResult

_PLAIN_PERIOD = 10.0  # s between two lines of progress where there is no terminal
_PLAIN = ("stream", "num_samples", "snr_db", "max_time", "seed")
_TAKEN = {*_PLAIN, "model", "data", "out", "settings", "model_settings", "from_observations", "dry_run", "json"}
_ONLY_EM = ("num_samples", "from_observations", "snr_db")


def is_prior(model: str) -> bool:
    """Whether a model is fitted by EM and not by gradients."""
    from wichan.training.priors import EM_MODELS

    return model in EM_MODELS


def check_options(context: typer.Context, model: str) -> None:
    """Raise `InvalidValueError` for an option on the command line that the model has no use for."""
    from wichan.errors import InvalidValueError
    from wichan.training.priors import EM_MODELS

    em = model in EM_MODELS
    for parameter in context.command.params:
        name = str(parameter.name)
        fits = name in _TAKEN if em else name not in _ONLY_EM
        source = context.get_parameter_source(name)
        if fits or source is None or source.name != "COMMANDLINE":
            continue
        option = parameter.opts[0]
        if em:
            raise InvalidValueError(f"{option} does not apply to {model}, which is fitted by EM: see wichan train --help")
        raise InvalidValueError(f"{option} does not apply to {model}; it is for {' and '.join(EM_MODELS)}")


def train_prior(model: str, options: dict[str, Any], folder: Path, dry_run: bool, as_json: bool) -> None:
    """Fit a prior and say how it went; `typer.Exit` 130 after Ctrl-C."""
    from wichan.cli.console import emit_json, message, say, stderr
    from wichan.cli.progress import ProgressReport
    from wichan.training.priors import DEFAULT_STREAM, fit_prior

    config = _config(model, options)
    if dry_run:
        _dry_run(config, as_json)
        return
    with ProgressReport(f"fit {model}", unit="iterations") as bar:
        follow = _Follower(bar)
        result = fit_prior(config, out=folder, progress=follow, on_note=lambda text: message("note", text))
    stopped = result.stopped == "interrupted"
    text = f"{folder} holds the prior after {result.iterations} iterations; use it with:"
    if as_json:
        error = {"error": f"interrupted: {text}"} if stopped else {}
        emit_json(error | result.to_dict() | {"config": config.to_dict()})
    else:
        say(_summary(result))
    if stopped:
        message("interrupted", text)
        command = f"wichan evaluate --recipe {config.stream or DEFAULT_STREAM} --estimators bls,{model}={folder}"
        stderr().print(f"  {command}", soft_wrap=True)
        raise typer.Exit(130)


def _config(model: str, options: dict[str, Any]) -> PriorConfig:
    from wichan.simulate import parse_overrides
    from wichan.training.priors import PriorConfig

    given = {name: options[name] for name in _PLAIN if options[name] is not None}
    if options["data"] is not None:
        given["data"] = str(options["data"])
    if options["settings"]:
        given["overrides"] = parse_overrides(options["settings"])
    if options["model_settings"]:
        from wichan.cli.train import parsed

        given["model_options"] = parsed(options["model_settings"])
    return PriorConfig(model, from_observations=options["from_observations"], **given)


def _dry_run(config: PriorConfig, as_json: bool) -> None:
    from wichan.cli.console import emit_json, key_values, say
    from wichan.training.priors import build_prior, source_recipe

    prior = build_prior(config, source_recipe(config))
    settings = {"prior": prior.config(), "config": config.to_dict()}
    if as_json:
        emit_json(settings)
        return
    rows = {f"{part}.{name}": value for part, values in settings.items() for name, value in values.items()}
    say(key_values({name: value for name, value in rows.items() if value not in (None, {})}))


class _Follower:
    """Turns EM's reports into a bar, or a line now and then."""

    def __init__(self, bar: Any) -> None:
        from wichan.cli.console import stderr

        self._bar, self._terminal, self._last = bar, stderr().is_terminal, time.monotonic()

    def __call__(self, state: PriorProgress) -> None:
        from wichan.cli.console import human_seconds, stderr

        if self._terminal:
            self._bar.label_now(f"log-likelihood {state.objective:.4f}")
            self._bar.update(state.iteration, state.max_iter)
        elif time.monotonic() - self._last >= _PLAIN_PERIOD:
            self._last = time.monotonic()
            where = f"iteration {state.iteration} of at most {state.max_iter} after {human_seconds(state.seconds)}"
            stderr().print(f"{where}: log-likelihood {state.objective:.4f}", soft_wrap=True)


_ENDS = {
    "converged": "converged",
    "max_iter": "all iterations done",
    "max_time": "time is up",
    "interrupted": "interrupted",
}


def _summary(result: PriorResult) -> str:
    from wichan.cli.console import human_seconds

    prior = result.prior
    size = f"{prior.kind} of {prior.num_components} components, {prior.num_parameters:,} parameters"
    head = f"{result.folder}: {size}, {result.num_samples:,} samples, {result.iterations} iterations"
    held = "" if result.held_out is None else f", {result.held_out:.4f} held out"
    return (
        f"{head} in {human_seconds(result.seconds)}; {_ENDS[result.stopped]}\n"
        f"log-likelihood of a sample: {result.objective:.4f} nat in training{held}"
    )
