"""Learned predictors on disk: one safetensors file of the weights' format, which rebuilds its predictor and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as pack_tensors

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError
from wichan.prediction import LEARNED_PREDICTORS
from wichan.store.files import write_atomic
from wichan.training.weights import as_text, fill_module, ordered
from wichan.training.weights_reader import FORMAT, FORMAT_VERSION, SUFFIX, WeightsInfo, check_values, one_line, read_weights

if TYPE_CHECKING:
    from wichan.prediction import LearnedPredictor


def save_predictor(predictor: LearnedPredictor, path: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a learned predictor to one safetensors file: all that `load_predictor` needs to build it again.

    After any crash the file holds the old weights or the new ones. Equal weights and notes give equal bytes.

    Args:
        predictor: of a kind in ``wichan.prediction.LEARNED_PREDICTORS``.
        path: where to; it must end in ``.safetensors``.
        training: how it was trained, as JSON can hold it (recipe, steps, seconds, ...).

    Returns:
        The path.

    Raises:
        InvalidTypeError, InvalidValueError: no learned predictor, another suffix, NaN in the weights, notes that JSON cannot
            hold. StoreError: the file cannot be written.
    """
    from wichan import __version__
    from wichan.prediction import LearnedPredictor

    if not isinstance(predictor, LearnedPredictor):
        raise InvalidTypeError(f"predictor must be a learned predictor, got {type(predictor).__name__}")
    target = Path(path)
    if target.suffix != SUFFIX:
        raise InvalidValueError(f"path={str(path)!r} must end in {SUFFIX}")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in predictor.state_dict().items()}
    for name, value in tensors.items():
        check_values(f"predictor: tensor {name}", value, InvalidValueError)
    notes = {
        "format": f"{FORMAT}{FORMAT_VERSION}",
        "kind": predictor.kind,
        "config": as_text("config", predictor.config()),
        "grid": "{}",
        "training": as_text("training", dict(training or {})),
        "wichan": __version__,
    }
    write_atomic(target, ordered(pack_tensors(tensors, notes)))
    return target


def load_predictor(path: str | Path) -> LearnedPredictor:
    """Read a learned predictor from a file of `save_predictor`; nothing in the file is executed.

    Args:
        path: the file, or a folder with ``weights.safetensors`` or ``best.safetensors`` in it.

    Returns:
        The predictor, on the CPU, in evaluation mode, in the precision in which it was saved.

    Raises:
        InvalidValueError: no such file, or one that holds an estimator or a prior.
        StoreError: the file is a pickle, cut short, damaged, foreign, of a newer format, or does not hold what its kind needs.
    """
    info, tensors = read_weights(path)
    return predictor_of(info, tensors)


def predictor_of(info: WeightsInfo, tensors: Mapping[str, torch.Tensor]) -> LearnedPredictor:
    """Build the predictor that `read_weights` has found; raises as `load_predictor`."""
    where = str(info.path)
    if info.kind not in LEARNED_PREDICTORS:
        raise InvalidValueError(
            f"path={where!r} holds weights of kind {info.kind!r} and no predictor; wichan.load reads all kinds"
        )
    try:
        made: LearnedPredictor = LEARNED_PREDICTORS[info.kind].from_config(info.config)
    except Exception as error:  # whatever a damaged config makes a constructor raise
        raise StoreError(f"{where} cannot be used: {one_line(error)}") from None
    if any(value.dtype == torch.float64 for value in tensors.values()):
        made = made.double()
    fill_module(where, info.kind, made, tensors)
    return made.eval()


def refuse_pilots(kind: str, obs: Any) -> None:
    """Raise `InvalidValueError` if pilots are passed for a predictor, which reads channels and not pilots."""
    if obs is not None:
        raise InvalidValueError(f"obs={type(obs).__name__} does not apply to a predictor ({kind!r}), which takes no pilots")
