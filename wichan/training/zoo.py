"""Released models: found in the wheel or in the repository, listed, and loaded by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError, WichanError, unknown_name
from wichan.observations import OFDMPilots
from wichan.prediction import LEARNED_PREDICTORS
from wichan.training.predictor_files import predictor_of, refuse_pilots
from wichan.training.prior_files import prior_of
from wichan.training.weights import load_weights
from wichan.training.weights_reader import SUFFIX, WeightsInfo, read_weights

if TYPE_CHECKING:
    from wichan.estimators import Estimator
    from wichan.observations import Observation

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
WEIGHTS, CONFIG, CARD = f"weights{SUFFIX}", "config.yaml", "card.md"
FIELDS = ("title", "kind", "trained_on", "command", "wall_time", "headline")


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """One line of ``wichan models``.

    Attributes:
        name: what `load` calls it.
        folder: where it lies.
        title: one line about it.
        kind: which learned estimator, prior or predictor.
        trained_on: the recipe.
        command: what trained it.
        wall_time: how long that took, and on what.
        headline: a measured number, as its card explains it; may be empty.
        overrides: settings of the recipe that were changed.
        weights: what the weight file says.
    """

    name: str
    folder: Path
    title: str
    kind: str
    trained_on: str
    command: str
    wall_time: str
    headline: str
    overrides: dict[str, Any]
    weights: WeightsInfo

    @property
    def card(self) -> str:
        """The text of its card."""
        try:
            return (self.folder / CARD).read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"model {self.name!r} has no card: {self.folder / CARD}: {error.strerror}") from None


def model_folder(package: Path = PACKAGE_FOLDER) -> Path:
    """Return the folder of the released models, one folder ``NAME`` each.

    A wheel carries them under ``wichan/_data/models``; an editable install has no such folder, there they are found in
    ``models/`` beside the package.

    Args:
        package: folder of the installed ``wichan`` package (an argument so that both layouts can be tested).

    Raises:
        WichanError: neither folder exists.
    """
    candidates = (package / "_data" / "models", package.parent / "models")
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = " or ".join(str(folder) for folder in candidates)
    raise WichanError(f"no models found in {places}; reinstall wichan")


def released() -> dict[str, Path]:
    """Return name -> folder of every released model, in alphabetical order."""
    return {path.parent.name: path.parent for path in sorted(model_folder().glob(f"*/{WEIGHTS}"))}


def list_models() -> list[ModelInfo]:
    """Return the released models, in alphabetical order."""
    return [model_info(name) for name in released()]


def model_info(name: str) -> ModelInfo:
    """Return what is known about a released model.

    Raises:
        UnknownNameError: no such model. StoreError: its folder is damaged.
    """
    folder = _released_folder(name)
    fields = _config(folder / CONFIG)
    info, _ = read_weights(folder / WEIGHTS)
    if fields["kind"] != info.kind:
        raise StoreError(f"{folder / CONFIG} says kind {fields['kind']!r}, its weights say {info.kind!r}")
    return ModelInfo(name=name, folder=folder, weights=info, **fields)


def load(name: str | Path, *, device: str | torch.device = "cpu", obs: Observation | None = None) -> Any:
    """Return a trained estimator or predictor, ready to run, or a prior.

    Args:
        name: a released model (``wichan models`` lists them), or the path of a weight file or its folder.
        device: ``"cpu"``, ``"cuda"``, ``"auto"``.
        obs: pilots of the link that it shall work in. For a network `OFDMPilots` of the same positions on the same grid, the
            symbols may differ; default: the pilots that it was trained with. A prior goes with any `QuantizedPilots`.
            A predictor takes no pilots.

    Returns:
        The estimator or predictor in evaluation mode. For a prior (``gmm``, ``mfa``, ``vae``) the prior itself, and with
        ``obs`` its estimator: `BussgangGMM`, `BussgangMFA` or `BussgangVAE`.

    Raises:
        UnknownNameError: no such model; the line lists what there is.
        InvalidValueError, StoreError: see `load_weights`.

    Example:
        ``wichan.load("adafortitran")``
    """
    from wichan.simulate.devices import pick_device

    if not isinstance(name, (str, Path)):
        raise InvalidTypeError(f"name must be the name of a model or a path, got {type(name).__name__}")
    place = pick_device(device)
    path = weights_path(name)
    info, tensors = read_weights(path)
    if info.obs is not None:
        if obs is not None and not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        return load_weights(path, obs).to(place)
    if info.kind in LEARNED_PREDICTORS:
        refuse_pilots(info.kind, obs)
        return predictor_of(info, tensors).to(place)
    prior = prior_of(info, tensors).to(place)
    return prior if obs is None else bussgang_estimator(prior, obs).to(place)


def bussgang_estimator(prior: Any, obs: Any) -> Estimator:
    """Return the estimator of a prior behind coarse converters.

    Args:
        prior: a fitted `GMM`, `MFA` or `VAE`.
        obs: `QuantizedPilots` whose channel has the prior's number of elements.

    Raises:
        InvalidTypeError, ShapeError: no prior, or pilots that do not fit it.
    """
    from wichan import estimators

    names = {"gmm": "BussgangGMM", "mfa": "BussgangMFA", "vae": "BussgangVAE"}
    kind = getattr(prior, "kind", None)
    if kind not in names:
        raise InvalidTypeError(f"prior must be one of {', '.join(names)}, got {type(prior).__name__}")
    made: Estimator = getattr(estimators, names[kind])(prior, obs)
    return made


def is_path(name: str | Path) -> bool:
    """Whether ``name`` means a file or folder and not a released model."""
    text = str(name)
    looks = isinstance(name, Path) or "/" in text or "\\" in text or text.endswith((SUFFIX, ".pt", ".pth", ".ckpt"))
    return looks or (text not in released() and Path(text).exists())


def weights_path(name: str | Path) -> Path:
    """Where the weights of a released model or of a path lie (a file, or a folder with one).

    Raises:
        UnknownNameError: no such model.
    """
    return Path(name) if is_path(name) else _released_folder(str(name)) / WEIGHTS


def _released_folder(name: str) -> Path:
    known = released()
    if name in known:
        return known[name]
    if not known:
        raise UnknownNameError(f"model={name!r} is unknown: no model is released with this version")
    raise unknown_name("model", name, known)


def _config(path: Path) -> dict[str, Any]:
    """The fields of a released model's ``config.yaml``."""
    from wichan.simulate.yamlio import parse_yaml

    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    if not isinstance(data, dict):
        raise StoreError(f"{path} must hold keys and values: {', '.join(FIELDS)}")
    missing = [field for field in FIELDS if field not in data]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}")
    overrides = data.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise InvalidValueError(f"{path}: overrides must hold keys and values")
    words = {field: "" if data[field] is None else str(data[field]) for field in FIELDS}
    return words | {"overrides": overrides}
