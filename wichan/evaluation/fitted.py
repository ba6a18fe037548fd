"""Priors for an evaluation: released ones where they fit the recipe, else fitted to its training channels on the spot."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import WichanError
from wichan.evaluation.setting import Setting
from wichan.priors import PRIORS
from wichan.training.build import parameters_of
from wichan.training.prior_data import prior_section, training_channels

if TYPE_CHECKING:
    from wichan.priors import VAE, MixturePrior

_MOST = 16  # priors that are kept
# Parts of a recipe that say nothing of its channels.
_NO_CHANNEL = ("aliases", "title", "seed", "split", "cell", "splits", "prior", "quantizer", "pilots", "snr_convention")

_fitted: OrderedDict[str, tuple[MixturePrior, str]] = OrderedDict()
_channels: dict[str, torch.Tensor] = {}


def training_set(setting: Setting) -> torch.Tensor:
    """Training channels of the recipe, ``prior.num_train`` of them, (n, \\*shape); the last ones drawn are kept."""
    number = int(prior_section(setting.recipe)["num_train"])
    key = _key(setting)
    if key not in _channels or len(_channels[key]) < number:
        _channels.clear()
        _channels[key] = training_channels(setting.recipe, number, setting.seed)
    return _channels[key][:number]


def _channel_law(recipe: Any) -> dict[str, Any]:
    """What decides a recipe's channels, without what the receiver makes of them."""
    plain = {name: value for name, value in recipe.plain().items() if name not in _NO_CHANNEL}
    plain["conditions"] = {name: law for name, law in plain["conditions"].items() if name != "snr_db"}
    return plain


def _key(setting: Setting, *more: Any) -> str:
    """Text that is equal where the training channels are."""
    return json.dumps([_channel_law(setting.recipe), setting.seed, *more], sort_keys=True, default=str)


def fitted_prior(setting: Setting, kind: str, *, from_observations: bool = False) -> tuple[MixturePrior, str]:
    """A prior of the recipe's channels and how it was made.

    Released weights serve where recipe, channels and the recipe's ``prior:`` section are those that they were trained with;
    else the prior is fitted, once in a process: a sweep over bits or pilots shares it.

    Args:
        setting: the link.
        kind: ``"gmm"`` or ``"mfa"``.
        from_observations: learn from quantised pilots at ``prior.train_snr_db``, not from channels.

    Raises:
        WichanError: the recipe has no training split, or its ``prior:`` section does not fit the channels.
    """
    if not from_observations:
        found = released_prior(setting, kind)
        if found is not None:
            return found
    seen = [setting.recipe.plain()[part] for part in ("quantizer", "pilots")] if from_observations else []
    key = _key(setting, kind, _fit_options(setting.recipe, kind), seen)
    if key not in _fitted:
        _fitted[key] = _fit(setting, kind, from_observations)
        while len(_fitted) > _MOST:
            _fitted.popitem(last=False)
    _fitted.move_to_end(key)
    return _fitted[key]


def _fit(setting: Setting, kind: str, from_observations: bool) -> tuple[MixturePrior, str]:
    from wichan.training.prior_data import training_observations
    from wichan.training.priors import PriorConfig, build_prior

    section = prior_section(setting.recipe)
    number = int(section["num_train"])
    prior = build_prior(PriorConfig(kind, stream=setting.recipe.name, from_observations=from_observations), setting.recipe)
    size = f"{prior.num_components} components"
    if from_observations:
        snr_db = float(section["train_snr_db"])
        _note(setting, f"fitting {kind} ({size}) to {number:,} quantised observations at {snr_db:g} dB")
        obs, r, no = training_observations(setting.recipe, number, snr_db, setting.seed)
        prior.fit_observations(obs, r, no)
        return prior, f"{kind} of {size} fitted to {number:,} quantised observations at {snr_db:g} dB, no channel seen"
    _note(setting, f"fitting {kind} ({size}) to {number:,} training channels")
    prior.fit(training_set(setting))
    return prior, f"{kind} of {prior.num_components} components fitted to {number:,} training channels"


def _note(setting: Setting, text: str) -> None:
    if setting.on_note is not None:
        setting.on_note(text)


def released_prior(setting: Setting, kind: str) -> tuple[MixturePrior | VAE, str] | None:
    """The released prior of a kind that was trained for this recipe with these settings; None: there is none.

    A network reads pilots, so pilots and converters must agree too; a mixture is one of channels.
    """
    from wichan.simulate import load_recipe
    from wichan.training.prior_files import load_prior
    from wichan.training.zoo import list_models

    want = _channel_law(setting.recipe)
    for model in list_models():
        if model.kind != kind or model.trained_on != setting.recipe.name:
            continue
        try:
            recipe = load_recipe(model.trained_on, model.overrides)
        except WichanError:  # the recipe has changed since
            continue
        if _channel_law(recipe) != want or not _alike(recipe, setting.recipe, kind):
            continue
        return load_prior(model.weights.path), f"released weights of {model.name}, trained on {model.trained_on}"
    return None


def _alike(trained: Any, wanted: Any, kind: str) -> bool:
    """Whether weights for one recipe serve the other, whose channels follow the same law."""
    if kind == "vae":
        return all(trained.plain().get(part) == wanted.plain().get(part) for part in ("quantizer", "pilots"))
    return _fit_options(trained, kind) == _fit_options(wanted, kind)


def _fit_options(recipe: Any, kind: str) -> dict[str, Any]:
    """What of a recipe's ``prior:`` section matters to a kind of prior."""
    known = ("num_train", "train_snr_db", *parameters_of(PRIORS[kind]))
    return {name: value for name, value in prior_section(recipe).items() if name in known}
