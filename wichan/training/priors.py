"""`fit_prior`: learn a mixture prior by EM, from a recipe, from a data set, or from quantised pilots alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    WichanError,
    check_choice,
    check_int,
    check_real,
    unknown_name,
)
from wichan.priors import PRIORS
from wichan.store.files import write_atomic
from wichan.store.records import as_json
from wichan.training.build import parameters_of
from wichan.training.config import parse_duration
from wichan.training.folder import CONFIG, RunFolder
from wichan.training.prior_data import open_samples, prior_section
from wichan.training.prior_files import save_prior
from wichan.training.surroundings import interruptible

if TYPE_CHECKING:
    from wichan.priors import MixturePrior

#: Priors that EM fits; the others are networks.
EM_MODELS = ("gmm", "mfa")
#: Where neither the recipe nor the caller says it.
DEFAULTS: dict[str, Any] = {"num_components": 64, "num_factors": 16}
DEFAULT_STREAM = "quantized-simo"


@dataclass(frozen=True)
class PriorConfig:
    """Everything that decides what a prior learns.

    Args:
        model: ``gmm`` or ``mfa``.
        model_options: arguments of `wichan.priors.GMM` or `MFA`; they go before those of the recipe's ``prior:`` section.
        stream: recipe to draw training channels from; default ``quantized-simo``.
        overrides: settings of that recipe, dotted key -> value.
        data: data set folder to read channels (its column ``h``) from instead.
        num_samples: training channels; default ``prior.num_train`` of the recipe, or 30,000; of a data set all.
        from_observations: learn from quantised pilots alone and see no channel.
        snr_db: SNR of these pilots [dB]; default ``prior.train_snr_db`` of the recipe.
        max_time: seconds of EM; None: until it has converged.
        seed: of EM's start and of the stream's channels; 0 leaves these to the recipe's own seed.

    Raises:
        InvalidValueError, InvalidTypeError, UnknownNameError: a setting that is not allowed, in one line.
    """

    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    stream: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    num_samples: int | None = None
    from_observations: bool = False
    snr_db: float | None = None
    max_time: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("model", self.model, EM_MODELS)
        if self.stream is not None and self.data is not None:
            raise InvalidValueError(f"stream={self.stream!r} and data={self.data!r} exclude each other; give one")
        if self.data is not None and self.overrides:
            raise InvalidValueError(f"overrides={list(self.overrides)} change a recipe; with data there is none to change")
        for name in ("stream", "data"):
            if isinstance(getattr(self, name), Path):
                self._set(name, str(getattr(self, name)))
        if self.data is None and self.stream is None:
            self._set("stream", DEFAULT_STREAM)
        for name in ("model_options", "overrides"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidTypeError(f"{name} must be a mapping of keys to values, got {type(getattr(self, name)).__name__}")
            self._set(name, as_json(name, dict(getattr(self, name))))
        if not isinstance(self.from_observations, bool):
            raise InvalidTypeError(f"from_observations={self.from_observations!r} must be true or false")
        if self.snr_db is not None:
            if not self.from_observations:
                raise InvalidValueError(f"snr_db={self.snr_db!r} is that of pilots to learn from; give from_observations too")
            self._set("snr_db", check_real("snr_db", self.snr_db, minimum=-100.0, maximum=200.0))
        if self.num_samples is not None:
            self._set("num_samples", check_int("num_samples", self.num_samples, minimum=1))
        if self.max_time is not None:
            self._set("max_time", parse_duration(self.max_time, "max_time"))
        self._set("seed", check_int("seed", self.seed, minimum=0, maximum=2**63 - 1))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)


class PriorProgress(NamedTuple):
    """How far EM is: iterations done, the most there will be, its objective (mean log-likelihood of a sample), seconds."""

    iteration: int
    max_iter: int
    objective: float
    seconds: float


@dataclass(frozen=True, eq=False)
class PriorResult:
    """What EM gave.

    Attributes:
        prior: the fitted prior.
        folder: where the run lies; None if nothing was written.
        num_samples: training channels, or observations.
        iterations: of EM.
        objective: mean log-likelihood of a training sample [nat] at the end.
        held_out: that of channels which it did not see; None where there are none, or only pilots were learned from.
        seconds: time spent in EM.
        stopped: ``converged``, ``max_iter``, ``max_time`` or ``interrupted``.
    """

    prior: MixturePrior
    folder: Path | None
    num_samples: int
    iterations: int
    objective: float
    held_out: float | None
    seconds: float
    stopped: str

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain data."""
        names = ("num_samples", "iterations", "objective", "held_out", "seconds", "stopped")
        return {"folder": None if self.folder is None else str(self.folder)} | {name: getattr(self, name) for name in names}


def fit_prior(
    config: PriorConfig,
    *,
    out: str | Path | None = None,
    progress: Callable[[PriorProgress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> PriorResult:
    """Fit a prior.

    The same settings give the same prior, unless time ends it. Ctrl-C ends after the iteration in progress and keeps what is
    there.

    Args:
        config: what to fit, to what.
        out: folder for settings, the prior (``best.safetensors``) and a row of metrics an iteration; None writes nothing.
        progress: called after every iteration.
        on_note: told what takes long before EM begins.

    Returns:
        `PriorResult`.

    Raises:
        WichanError: wrong settings, a folder that holds another run, a data set without channels. One line each.

    Example:
        >>> small = {"channel.num_rx_ant": 8, "prior.num_train": 200, "prior.num_components": 2}
        >>> fit_prior(PriorConfig("gmm", overrides=small)).prior.shape
        (8, 1, 1, 1)
    """
    if not isinstance(config, PriorConfig):
        raise InvalidTypeError(f"config must be a PriorConfig, got {type(config).__name__}")
    recipe = source_recipe(config)
    prior = build_prior(config, recipe)
    folder = None if out is None else RunFolder(out)
    if folder is not None and folder.holds_run:
        raise InvalidValueError(f"out={str(out)!r} holds a training run; choose another folder")
    samples = open_samples(config, recipe, on_note or (lambda text: None))
    if folder is not None:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.path / CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).encode())
    run = _Run(config, folder, progress)
    with interruptible(run.ask_to_stop):
        if samples.h is not None:
            prior.fit(samples.h, progress=run)
        else:
            prior.fit_observations(samples.obs, samples.r, samples.no, progress=run)
    seconds = time.monotonic() - run.started
    # What was learned from pilots alone has no likelihood of clean channels that would say anything.
    known = samples.h is not None and samples.held_out is not None
    held_out = prior.log_likelihood(samples.held_out) if known else None
    stopped = run.stopped or ("converged" if prior.converged else "max_iter")
    result = PriorResult(
        prior, None if folder is None else folder.path, samples.number, run.rows, run.objective, held_out, seconds, stopped
    )
    if folder is not None:
        save_prior(prior, folder.best, training_notes(config, result))
    return result


def training_notes(config: PriorConfig, result: PriorResult) -> dict[str, Any]:
    """What the file of a prior says of its training."""
    numbers = {name: value for name, value in result.to_dict().items() if name != "folder"}
    return {"config": config.to_dict(), "steps": result.iterations} | numbers


class _Run:
    """Follows EM: writes a row an iteration, and asks it to stop when time is up or the user wants it."""

    def __init__(self, config: PriorConfig, folder: RunFolder | None, progress: Callable[[PriorProgress], None] | None) -> None:
        self._max_time, self._folder, self._progress = config.max_time, folder, progress
        self.started, self.rows, self.objective, self.stopped = time.monotonic(), 0, float("nan"), ""

    def ask_to_stop(self) -> None:
        """End after the iteration in progress."""
        self.stopped = "interrupted"

    def __call__(self, iteration: int, max_iter: int, objective: float) -> bool:
        """Take a report of EM; returns whether it shall stop."""
        self.rows, self.objective = self.rows + 1, float(objective)
        seconds = time.monotonic() - self.started
        if self._folder is not None:
            row = {"step": self.rows, "iteration": iteration, "seconds": round(seconds, 3), "log_likelihood": objective}
            self._folder.add_metrics(row)
        if self._progress is not None:
            self._progress(PriorProgress(iteration, max_iter, float(objective), seconds))
        if not self.stopped and self._max_time is not None and seconds >= self._max_time:
            self.stopped = "max_time"
        return bool(self.stopped)


# -- What to fit. --


def source_recipe(config: PriorConfig) -> Any:
    """The recipe of the stream or of the data set; None for a data set that was not made from one."""
    from wichan.simulate import load_recipe, recipe_from_dict
    from wichan.store import load_manifest

    if config.data is None:
        assert config.stream is not None  # the configuration sees to it
        return load_recipe(config.stream, config.overrides)
    header = load_manifest(config.data).header
    return recipe_from_dict(header.recipe) if "kind" in header.recipe else None


def build_prior(config: PriorConfig, recipe: Any) -> MixturePrior:
    """An unfitted prior: options of the run, then those of the recipe's ``prior:`` section, then the defaults.

    Raises:
        UnknownNameError: an option that the model does not have. InvalidValueError: a value that does not fit.
    """
    cls: type[MixturePrior] = PRIORS[config.model]
    known = parameters_of(cls)
    for name in config.model_options:
        if name not in known:
            raise unknown_name("model option", name, known)
    given = {"seed": config.seed} | {k: v for k, v in prior_section(recipe).items() if k in known and v is not None}
    options = {k: v for k, v in DEFAULTS.items() if k in known} | given | config.model_options
    try:
        return cls(**options)
    except WichanError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"model_options of {config.model} do not fit: {' '.join(str(error).split())}") from None
