"""The family of learned predictors: from past CSI to future CSI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from wichan.errors import InvalidValueError, check_choice
from wichan.training.family import Family
from wichan.training.history_options import HistoryOptions
from wichan.training.prediction_losses import parse_prediction_loss

if TYPE_CHECKING:
    import torch

    from wichan.prediction import LearnedPredictor
    from wichan.training.config import TrainConfig
    from wichan.training.data import FrameSource
    from wichan.training.module import Task

#: Duplex mode -> the column that is its future.
TARGETS = {"tdd": "h_u_pred", "fdd": "h_d_pred"}


class Predictors(Family):
    """Networks that predict a channel from its past."""

    recipe_kind, stream = "csi-rrg", "csi-rrg"
    monitors = ("nmse_db", "score_db", "loss", "nmse_ratio")
    _common: ClassVar[dict[str, Any]] = {
        # Against the published ratio-nmse: three decibels better per sample, as good in the pooled error, 3 % worse in the
        # mean of ratios, which samples that nobody can predict dominate.
        "loss": "log-nmse+nll",
        "optimiser": "adam",
        "lr": 1e-3,
        "batch_size": 16,
        "warm_start": 0,
        "val_frames": 108,
    }

    def models(self) -> Mapping[str, Any]:
        from wichan.prediction import LEARNED_PREDICTORS

        return LEARNED_PREDICTORS

    def defaults(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return self._common

    def parse_loss(self, name: str) -> tuple[str, ...]:
        return parse_prediction_loss(name)

    def monitor(self, terms: Iterable[str], options: Mapping[str, Any]) -> str:
        if "ratio-nmse" in terms:
            return "nmse_ratio"
        return "score_db" if "log-nmse" in terms else "nmse_db"

    def target(self, model: str, options: Mapping[str, Any], given: str) -> str:
        """The future of the band that ``duplex`` names, in the options or in their preset."""
        presets, preset = self.models()[model].presets, options.get("preset")
        settings = dict(presets[preset] if isinstance(preset, str) and preset in presets else {}) | dict(options)
        duplex = check_choice("duplex", settings.get("duplex", "tdd"), TARGETS)
        if given not in ("h", TARGETS[duplex]):
            raise InvalidValueError(f"target={given!r}: a predictor with duplex={duplex!r} learns the column {TARGETS[duplex]}")
        return TARGETS[duplex]

    def check_task_options(self, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return HistoryOptions.of(options).plain()

    def source(self, config: TrainConfig, device: torch.device | str) -> FrameSource:
        from dataclasses import replace

        from wichan.training.history_data import HistoryFolder, HistoryStream

        options = HistoryOptions.of(config.task_options)
        if getattr(self.models()[config.model], "joint_antennas", False):
            options = replace(options, antennas=0)
        if config.data is not None:
            return HistoryFolder(config.data, config.seed, options, device)
        return HistoryStream(config.stream, config.overrides, config.seed, options, device)

    def build(self, cls: Any, preset: str | None, observation: Any, options: dict[str, Any]) -> Any:
        sizes = asdict(observation)
        for name, size in sizes.items():
            if options.get(name, size) != size:
                raise InvalidValueError(f"model option {name}={options[name]!r} does not fit the data, which has {size}")
        merged = sizes | options
        return cls(**merged) if preset is None else cls.preset(preset, **merged)

    def task(self, network: Any, config: TrainConfig) -> Task:
        from wichan.training.prediction_task import PredictionTraining

        return PredictionTraining(network, config)

    def estimator(self, network: Any) -> LearnedPredictor:
        found: LearnedPredictor = network
        return found
