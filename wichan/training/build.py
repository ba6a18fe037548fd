"""The network of a run."""

from __future__ import annotations

import inspect
from typing import Any

from wichan.errors import InvalidValueError, WichanError, unknown_name
from wichan.training.config import TrainConfig
from wichan.training.families import model_class


def build_network(config: TrainConfig, observation: Any) -> Any:
    """Build the learned estimator, prior or predictor of a configuration, its initial weights drawn from the run's seed.

    Args:
        config: the run; ``model_options`` are hyper-parameters, or ``preset`` and changes to it.
        observation: the pilots, which are copied; for a predictor the sizes of its data.

    Raises:
        UnknownNameError: an option or a preset that the model does not have.
        InvalidValueError: a value that does not fit.
    """
    cls: Any = model_class(config.model)
    options: dict[str, Any] = {"seed": config.seed} | config.model_options
    preset = options.pop("preset", None)
    known = parameters_of(cls)
    for name in options:
        if known and name not in known:
            raise unknown_name("model option", name, ["preset", *known])
    try:
        return config.family.build(cls, preset, observation, options)
    except WichanError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"model_options of {config.model} do not fit: {' '.join(str(error).split())}") from None


def parameters_of(cls: type) -> list[str]:
    """Names of all keyword arguments of a class and, where it passes them on, of its bases."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name not in ("self", "obs")]
