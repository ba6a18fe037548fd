"""What the models of one kind of task have in common, and what a family must say about them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from wichan.errors import InvalidValueError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wichan.training.config import TrainConfig
    from wichan.training.data import FrameSource
    from wichan.training.module import Task


class Family(ABC):
    """What the models of one kind of task have in common.

    Attributes:
        recipe_kind: kind of the recipes that their frames come from.
        stream: default recipe.
        monitors: validation metrics that may say which weights are best.
    """

    recipe_kind: ClassVar[str]
    stream: ClassVar[str]
    monitors: ClassVar[tuple[str, ...]] = ("nmse_db", "score_db", "loss")

    @abstractmethod
    def models(self) -> Mapping[str, Any]:
        """Name -> class."""

    @abstractmethod
    def defaults(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that suit a model where ``settings`` do not say otherwise."""

    @abstractmethod
    def parse_loss(self, name: str) -> tuple[str, ...]:
        """Names of the terms of a loss.

        Raises:
            UnknownNameError, InvalidTypeError, InvalidValueError: no loss of this family.
        """

    @abstractmethod
    def monitor(self, terms: Iterable[str], options: Mapping[str, Any]) -> str:
        """The validation metric that says which weights are best, for a loss and the options of a model."""

    @abstractmethod
    def task(self, network: nn.Module, config: TrainConfig) -> Task:
        """The Lightning module."""

    @abstractmethod
    def estimator(self, network: nn.Module) -> Any:
        """What a run gives back for trained weights."""

    # -- What most families leave as it is. --

    def target(self, model: str, options: Mapping[str, Any], given: str) -> str:
        """The column that is learned, for the options of a model and the column that the user names."""
        return given

    def check_task_options(self, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the task as they will be kept.

        Raises:
            InvalidValueError: a setting that the task does not have.
        """
        if options:
            raise InvalidValueError(f"task_options={list(options)} do not apply to {model}: its task has no settings")
        return {}

    def source(self, config: TrainConfig, device: torch.device | str) -> FrameSource:
        """Where the frames of a run come from.

        Raises:
            InvalidValueError: a recipe of another kind, no split to train on or to validate on. StoreError: no data set.
        """
        from wichan.training.data import DiskSource, StreamSource

        if config.data is not None:
            return DiskSource(config.data, config.seed, device, self.recipe_kind)
        assert config.stream is not None  # the configuration sees to it
        return StreamSource(config.stream, config.overrides, config.seed, device, self.recipe_kind)

    def build(self, cls: Any, preset: str | None, observation: Any, options: dict[str, Any]) -> Any:
        """A fresh network, see `wichan.training.build.build_network`; ``observation`` is that of the source."""
        pilots = copy.deepcopy(observation).cpu()
        return cls(pilots, **options) if preset is None else cls.preset(preset, pilots, **options)
