"""Learned estimators for ``wichan evaluate``: released weights by name, or anybody's by path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wichan.errors import InvalidValueError, UnknownNameError
from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting

if TYPE_CHECKING:
    from wichan.estimators import LearnedEstimator
    from wichan.observations import OFDMPilots


def build_linear(setting: Setting) -> Built:
    """Learned linear estimator, released weights."""
    return build_learned("linear", setting)


def build_cevit(setting: Setting) -> Built:
    """CeViT, released weights; told SNR, delay spread and Doppler."""
    return build_learned("cevit", setting)


def build_cevit_blind(setting: Setting) -> Built:
    """As cevit, but told nothing: it estimates the conditions from the pilots."""
    return build_learned("cevit", setting, blind=True)


def build_fortitran(setting: Setting) -> Built:
    """FortiTran, released weights."""
    return build_learned("fortitran", setting)


def build_adafortitran(setting: Setting) -> Built:
    """AdaFortiTran, released weights; told SNR, delay spread and Doppler."""
    return build_learned("adafortitran", setting)


def build_adafortitran_blind(setting: Setting) -> Built:
    """As adafortitran, but told nothing: it estimates the conditions from the pilots."""
    return build_learned("adafortitran", setting, blind=True)


def build_learned(name: str, setting: Setting, *, blind: bool = False) -> Built:
    """Load a network for the pilots of a setting.

    Args:
        name: a released model, or the path of a weight file.
        setting: its grid and pilot positions must be those of the network; the pilot symbols may differ.
        blind: let the network's conditions be estimated from the pilots instead of telling it the true ones.

    Raises:
        InvalidValueError, StoreError: no such weights, weights for another grid or other pilots, or conditions that the
            recipe does not have.
    """
    from wichan.training.zoo import load

    try:
        est = load(name)
    except UnknownNameError as error:
        train = f"wichan train {name} --stream {setting.recipe.name}"
        raise InvalidValueError(f"estimator {name!r} has no released weights ({error}); train it: {train}") from None
    if not hasattr(est, "for_observation"):
        what, needs = ("predictor", "csi-rrg") if hasattr(est, "num_horizon") else ("prior", "quantized")
        raise InvalidValueError(f"estimator {name!r} is a {what} of kind {est.kind!r}; it needs a recipe of kind {needs!r}")
    fitted = _fitted(name, est, setting)
    note = _origin(name)
    if not blind:
        return Built(fitted, told=_told(name, fitted, setting), note=note)
    from wichan.estimators.conditions import WithEstimatedConditions

    return Built(WithEstimatedConditions(fitted, setting.observation), note=f"{note}; conditions are estimated from the pilots")


def _fitted(name: str, est: LearnedEstimator, setting: Setting) -> LearnedEstimator:
    """The network for the setting's pilot symbols."""
    try:
        return est.for_observation(setting.observation)
    except InvalidValueError as error:
        mine, theirs = _described(est.obs), _described(setting.observation)
        what = f"is trained for {mine}; recipe {setting.recipe.name!r} has {theirs}" if mine != theirs else str(error)
        train = f"wichan train {est.kind} --stream {setting.recipe.name}"
        raise InvalidValueError(f"estimator {name!r} {what}; train one for that: {train} (and the same --set)") from None


def _described(obs: OFDMPilots) -> str:
    from wichan.training.weights_reader import describe_pilots

    return f"a grid of {describe_pilots(obs)}"


def _told(name: str, est: LearnedEstimator, setting: Setting) -> tuple[str, ...]:
    """What the network wants to be told, found in the recipe before any channel is drawn."""
    known = setting.draw_conditions({})
    missing = [condition for condition in est.told if condition not in known]
    if missing:
        raise InvalidValueError(
            f"estimator {name!r} wants to be told {', '.join(missing)}, which recipe {setting.recipe.name!r} does not have "
            f"(it has {', '.join(known)}); a blind one estimates conditions itself, such as adafortitran-blind"
        )
    return est.told


def _origin(name: str) -> str:
    """Where the weights come from and how long they were trained."""
    from wichan.training.weights_reader import read_weights
    from wichan.training.zoo import is_path, model_info

    if not is_path(name):
        model = model_info(name)
        return f"released weights of {name}, trained on {model.trained_on} for {model.wall_time}"
    info, _ = read_weights(Path(name))
    return f"weights of {info.path}, {trained(info.training)}"


def trained(training: Mapping[str, Any]) -> str:
    """What a weight file notes of its training, in a few words."""
    config, seconds = training.get("config"), training.get("seconds")
    source = (config.get("data") or config.get("stream")) if isinstance(config, Mapping) else None
    parts = [
        f"on {source}" if source else "",
        f"for {training['steps']} steps" if "steps" in training else "",
        f"in {seconds / 60:.3g} min" if isinstance(seconds, (int, float)) else "",
    ]
    words = " ".join(part for part in parts if part)
    return f"trained {words}" if words else "its training is not noted"
