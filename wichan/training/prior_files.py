"""Priors on disk: one safetensors file of the weights' format, which rebuilds its prior and runs nothing when it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as pack_tensors

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError
from wichan.priors import PRIORS
from wichan.store.files import write_atomic
from wichan.training.weights import as_text, fill_module, ordered
from wichan.training.weights_reader import FORMAT, FORMAT_VERSION, SUFFIX, WeightsInfo, check_values, one_line, read_weights

if TYPE_CHECKING:
    from wichan.priors import VAE, MixturePrior


def save_prior(prior: MixturePrior | VAE, path: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a prior to one safetensors file: all that `load_prior` needs to build it again.

    After any crash the file holds the old prior or the new one. Equal priors and notes give equal bytes.

    Args:
        prior: a fitted `GMM` or `MFA`, or a `VAE`.
        path: where to; it must end in ``.safetensors``.
        training: how it was fitted, as JSON can hold it (recipe, samples, seconds, ...).

    Returns:
        The path.

    Raises:
        InvalidTypeError, InvalidValueError: no prior, one that was not fitted, another suffix, NaN in it, notes that JSON
            cannot hold. StoreError: the file cannot be written.
    """
    from wichan import __version__

    kind = getattr(prior, "kind", None)
    if not isinstance(prior, torch.nn.Module) or not isinstance(kind, str) or kind not in PRIORS:
        raise InvalidTypeError(f"prior must be one of {', '.join(PRIORS)}, got {type(prior).__name__}")
    target = Path(path)
    if target.suffix != SUFFIX:
        raise InvalidValueError(f"path={str(path)!r} must end in {SUFFIX}")
    if not getattr(prior, "is_fitted", True):
        raise InvalidValueError("prior is not fitted: there is nothing to save; call fit first")
    config: Callable[[], dict[str, Any]] = prior.config  # type: ignore[assignment]
    # Copies: the format wants tensors that are contiguous and share no memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in prior.state_dict().items()}
    for name, value in tensors.items():
        check_values(f"prior: tensor {name}", value, InvalidValueError)
    notes = {
        "format": f"{FORMAT}{FORMAT_VERSION}",
        "kind": kind,
        "config": as_text("config", config()),
        "grid": "{}",
        "training": as_text("training", dict(training or {})),
        "wichan": __version__,
    }
    write_atomic(target, ordered(pack_tensors(tensors, notes)))
    return target


def load_prior(path: str | Path) -> MixturePrior | VAE:
    """Read a prior from a file of `save_prior`; nothing in the file is executed.

    Args:
        path: the file, or a folder with ``weights.safetensors`` or ``best.safetensors`` in it.

    Returns:
        The prior, on the CPU, in evaluation mode.

    Raises:
        InvalidValueError: no such file, or one that holds an estimator.
        StoreError: the file is a pickle, cut short, damaged, foreign, of a newer format, or does not hold what its kind needs.
    """
    info, tensors = read_weights(path)
    return prior_of(info, tensors)


def prior_of(info: WeightsInfo, tensors: Mapping[str, torch.Tensor]) -> MixturePrior | VAE:
    """Build the prior that `read_weights` has found; raises as `load_prior`."""
    where = str(info.path)
    if info.kind not in PRIORS:
        raise InvalidValueError(f"path={where!r} holds {_what(info)} and no prior; wichan.load reads both")
    try:
        prior: MixturePrior | VAE = PRIORS[info.kind].from_config(info.config)
    except Exception as error:  # whatever a damaged config makes a constructor raise
        raise StoreError(f"{where} cannot be used: {one_line(error)}") from None
    fill_module(where, info.kind, prior, tensors)
    return prior.eval()


def _what(info: WeightsInfo) -> str:
    return f"the {'predictor' if info.obs is None else 'estimator'} {info.kind!r}"
