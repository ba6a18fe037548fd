"""Families of models that gradient descent trains: each has one task, its own losses, and recipes that it learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from wichan.errors import unknown_name
from wichan.training.family import Family
from wichan.training.losses import parse_loss
from wichan.training.predictors import Predictors

if TYPE_CHECKING:
    from torch import nn

    from wichan.estimators import Estimator
    from wichan.training.config import TrainConfig
    from wichan.training.module import Task


class ChannelEstimators(Family):
    """Networks that estimate a channel from a received grid."""

    recipe_kind, stream = "ofdm", "ofdm-siso"
    # The closed-form start is close to the best there is: larger steps move away from it.
    _defaults: ClassVar[Mapping[str, dict[str, Any]]] = {"linear": {"batch_size": 256, "lr": 2e-4, "clip": 0.0}}

    def models(self) -> Mapping[str, Any]:
        from wichan.estimators import LEARNED

        return LEARNED

    def defaults(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return self._defaults.get(model, {})

    def parse_loss(self, name: str) -> tuple[str, ...]:
        return parse_loss(name)

    def monitor(self, terms: Iterable[str], options: Mapping[str, Any]) -> str:
        return "score_db" if "log-mse" in terms else "nmse_db"

    def task(self, network: nn.Module, config: TrainConfig) -> Task:
        from wichan.training.module import ChannelEstimation

        return ChannelEstimation(network, config)

    def estimator(self, network: Any) -> Estimator:
        found: Estimator = network
        return found


class LatentPriors(Family):
    """Priors with an encoder: variational autoencoders of channels behind coarse converters."""

    recipe_kind, stream = "quantized", "quantized-simo"
    _common: ClassVar[dict[str, Any]] = {"optimiser": "adam", "batch_size": 256, "warm_start": 0}

    def models(self) -> Mapping[str, Any]:
        from wichan.priors import PRIORS

        return {"vae": PRIORS["vae"]}

    def defaults(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        options = settings.get("model_options")
        options = options if isinstance(options, Mapping) else {}
        if options.get("preset") == "paper":
            return self._common | {"loss": "elbo", "lr": 5e-4, "ema": 0.0}
        # From observations alone: the Gaussian that stands for the law of quantised samples rewards latent points that
        # describe single samples, and with the plain bound the estimate gets worse again after a while.
        loss = "nll+2*kl" if options.get("variant") == "real" else "mse+0.01*kl"
        return self._common | {"loss": loss, "lr": 1e-3}

    def parse_loss(self, name: str) -> tuple[str, ...]:
        from wichan.training.prior_losses import parse_prior_loss

        return tuple(parse_prior_loss(name))

    def monitor(self, terms: Iterable[str], options: Mapping[str, Any]) -> str:
        # Who has no channels to learn from has none to validate on.
        return "loss" if options.get("variant") == "real" else "nmse_db"

    def task(self, network: Any, config: TrainConfig) -> Task:
        from wichan.training.prior_task import PriorTraining

        return PriorTraining(network, config)

    def estimator(self, network: Any) -> Estimator:
        from wichan.estimators import BussgangVAE

        found: Estimator = BussgangVAE(network).eval()
        return found


FAMILIES: tuple[Family, ...] = (ChannelEstimators(), LatentPriors(), Predictors())


def family_of(model: Any) -> Family:
    """The family of a model.

    Raises:
        UnknownNameError: no such model.
    """
    for family in FAMILIES:
        if isinstance(model, str) and model in family.models():
            return family
    raise unknown_name("model", model, [name for family in FAMILIES for name in family.models()])


def model_class(model: str) -> Any:
    """The class of a model."""
    return family_of(model).models()[model]
