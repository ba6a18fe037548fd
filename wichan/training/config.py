"""What a training run is: model, data, loss, optimiser, schedule, budget. Plain data that a YAML file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int, check_real, unknown_name
from wichan.store.records import as_json
from wichan.training.families import family_of
from wichan.training.family import Family

OPTIMISERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "exponential")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEFAULT_TIME = 1800.0  # s, where no budget is given
#: Settings that a resumed run may change: how long, how often it is looked at, how it is computed.
FREE = ("max_time", "max_steps", "max_epochs", "patience", "val_every", "precision", "compile")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns; where it runs (device, threads, folder) is said to `fit`.

    Args:
        model: name of a learned estimator, see ``wichan.estimators.LEARNED``, of a learned predictor, see
            ``wichan.prediction.LEARNED_PREDICTORS``, or ``"vae"``, see `wichan.priors.VAE`.
        model_options: its hyper-parameters; ``{"preset": "paper"}`` starts from a preset.
        stream: recipe to draw frames from while training; default ``ofdm-siso``, ``quantized-simo`` for ``"vae"``, and
            ``csi-rrg`` for a predictor.
        overrides: settings of that recipe, dotted key -> value.
        data: data set folder to read frames from instead.
        task_options: what is done to the histories of a predictor, see `wichan.training.history_options.HistoryOptions`.
        loss: see `wichan.training.losses`, `wichan.training.prior_losses` for ``"vae"``, and
            `wichan.training.prediction_losses` for a predictor.
        target: column of a batch that is learned; for a predictor it follows from ``duplex`` in ``model_options``.
        monitor: validation metric that says which weights are best: ``nmse_db`` (ratio of sums), ``score_db`` (mean over
            frames of a frame's NMSE in dB) or ``loss``; default ``score_db`` for a loss with log-mse, else ``nmse_db``; for
            ``"vae"`` ``nmse_db``, or ``loss`` where it learns without channels; predictors also have ``nmse_ratio`` (mean
            over antennas and steps of ratios), the default for a loss with ratio-nmse.
        optimiser: ``adam`` or ``adamw``.
        lr: largest learning rate.
        weight_decay: of the optimiser.
        schedule: ``constant``, ``cosine`` or ``exponential``; it follows the budget, whichever part of it is used up most.
        lr_final: learning rate at the end of the budget, as a share of ``lr``.
        warmup: share of the budget in which the rate rises to ``lr``.
        warm_start: frames from which a network that can works out its first weights in closed form (see
            `wichan.estimators.LearnedEstimator.warm_start`); 0 starts from random ones.
        batch_size: frames in a step, on each device.
        max_time: seconds of training, validation included, over all resumed parts.
        max_steps: optimiser steps.
        max_epochs: passes over the data set (for a stream: over the size of the recipe's train split).
        val_every: steps between two validations.
        val_frames: frames of the validation set, the same in every run.
        patience: validations without improvement after which to stop; 0 never stops early.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights themselves.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed`` (the forward pass runs in half precision).
        compile: run the network through ``torch.compile``.
        seed: of initial weights, dropout, order and the stream's frames.

    Raises:
        InvalidValueError, InvalidTypeError, UnknownNameError: a setting that is not allowed, in one line.
    """

    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    stream: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    task_options: dict[str, Any] = field(default_factory=dict)
    loss: str = "log-mse+nll"
    target: str = "h"
    monitor: str | None = None
    optimiser: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    lr_final: float = 0.01
    warmup: float = 0.02
    warm_start: int = 20_000
    batch_size: int = 64
    max_time: float | None = None
    max_steps: int | None = None
    max_epochs: int | None = None
    val_every: int = 200
    val_frames: int = 1024
    patience: int = 0
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "32-true"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_sources()
        terms = self.family.parse_loss(self.loss)
        for name, allowed in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            check_choice(name, getattr(self, name), allowed)
        if self.monitor is None:
            self._set("monitor", self.family.monitor(terms, self.model_options))
        check_choice("monitor", self.monitor, self.family.monitors)
        self._set("lr", check_real("lr", self.lr, positive=True, maximum=10.0))
        for name, high in (("weight_decay", 10.0), ("lr_final", 1.0), ("warmup", 1.0), ("clip", 1e9), ("ema", 0.999999)):
            self._set(name, check_real(name, getattr(self, name), minimum=0.0, maximum=high))
        for name in ("batch_size", "val_every", "val_frames"):
            self._set(name, check_int(name, getattr(self, name), minimum=1))
        for name in ("patience", "warm_start"):
            self._set(name, check_int(name, getattr(self, name), minimum=0))
        self._set("seed", check_int("seed", self.seed, minimum=0, maximum=2**63 - 1))
        if not isinstance(self.compile, bool):
            raise InvalidTypeError(f"compile={self.compile!r} must be true or false")
        self._check_budget()

    def _check_sources(self) -> None:
        family = self.family
        if self.stream is not None and self.data is not None:
            raise InvalidValueError(f"stream={self.stream!r} and data={self.data!r} exclude each other; give one")
        if self.data is not None and self.overrides:
            raise InvalidValueError(f"overrides={list(self.overrides)} change a recipe; with data there is none to change")
        for name in ("stream", "data"):
            if isinstance(getattr(self, name), Path):
                self._set(name, str(getattr(self, name)))
            if not isinstance(getattr(self, name), str | None):
                raise InvalidTypeError(f"{name} must be text, got {type(getattr(self, name)).__name__}")
        if self.data is None and self.stream is None:
            self._set("stream", family.stream)
        for name in ("model_options", "overrides", "task_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidTypeError(f"{name} must be a mapping of keys to values, got {type(getattr(self, name)).__name__}")
            self._set(name, as_json(name, dict(getattr(self, name))))
        self._set("task_options", family.check_task_options(self.model, self.task_options))
        self._set("target", family.target(self.model, self.model_options, self.target))

    def _check_budget(self) -> None:
        if self.max_time is not None:
            self._set("max_time", parse_duration(self.max_time, "max_time"))
        for name in ("max_steps", "max_epochs"):
            if getattr(self, name) is not None:
                self._set(name, check_int(name, getattr(self, name), minimum=1))
        if self.max_time is None and self.max_steps is None and self.max_epochs is None:
            self._set("max_time", DEFAULT_TIME)

    @property
    def family(self) -> Family:
        """What the model has in common with others of its kind."""
        return family_of(self.model)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, model: str, **settings: Any) -> TrainConfig:
        """Build with the defaults that suit ``model``; unknown settings are refused by name."""
        known = [item.name for item in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown_name("setting", name, known)
        return cls(model, **(family_of(model).defaults(model, settings) | settings))

    @classmethod
    def from_dict(cls, values: Any, where: str = "config") -> TrainConfig:
        """Build from plain data, as `to_dict` gives it."""
        if not isinstance(values, Mapping) or "model" not in values:
            raise InvalidValueError(f"{where} must be a mapping with the key model")
        return cls.of(**{str(key): value for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)

    def changed(self, **settings: Any) -> TrainConfig:
        """Return a copy with other settings."""
        return replace(self, **settings)


def parse_duration(value: Any, name: str) -> float:
    """Read a time: seconds as a number, or text such as ``"30m"``, ``"1h30m"``, ``"90s"``.

    Returns:
        Seconds, above 0.

    Raises:
        InvalidValueError: no duration, or not above 0.

    Example:
        >>> parse_duration("1h30m", "max_time")
        5400.0
    """
    if not isinstance(value, str):
        return check_real(name, value, positive=True)
    text = value.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidValueError(f"{name}={value!r} is no time; write 90s, 30m or 1h30m")
    return check_real(name, sum(float(number) * _UNITS[unit] for number, unit in parts), positive=True)
