"""Weights on disk: one safetensors file that rebuilds its estimator, and that runs nothing when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as pack_tensors

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError
from wichan.observations import OFDMPilots
from wichan.prediction import LEARNED_PREDICTORS
from wichan.store.files import write_atomic
from wichan.training.weights_reader import (
    FORMAT,
    FORMAT_VERSION,
    PILOTS,
    SUFFIX,
    WeightsInfo,
    check_values,
    one_line,
    read_weights,
)

if TYPE_CHECKING:
    from wichan.estimators import BussgangVAE, LearnedEstimator
    from wichan.prediction import LearnedPredictor
    from wichan.priors import VAE


def save_weights(
    est: LearnedEstimator | LearnedPredictor | VAE | BussgangVAE, path: str | Path, training: Mapping[str, Any] | None = None
) -> Path:
    """Write a learned estimator to one safetensors file: all that `load_weights` needs to build it again.

    After any crash the file holds the old weights or the new ones. Equal weights and notes give equal bytes.

    Args:
        est: the estimator, or a learned predictor. A `VAE` and its `BussgangVAE` give the same file, that of the prior.
        path: where to; it must end in ``.safetensors``.
        training: how it was trained, as JSON can hold it (recipe, steps, seconds, ...).

    Returns:
        The path.

    Raises:
        InvalidTypeError, InvalidValueError: no learned estimator, another suffix, NaN in the weights, notes that JSON cannot
            hold. StoreError: the file cannot be written.

    Example:
        >>> import tempfile, wichan as wc
        >>> pilots = wc.observations.OFDMPilots(wc.OFDMGrid(6, 12, 15e3), (1, 4), 3)
        >>> path = save_weights(wc.estimators.Linear(pilots), tempfile.mkdtemp() + "/linear.safetensors")
        >>> load_weights(path).kind
        'linear'
    """
    from wichan import __version__
    from wichan.estimators import LearnedEstimator
    from wichan.prediction import LearnedPredictor
    from wichan.priors import VAE

    if isinstance(est, torch.nn.Module) and isinstance(getattr(est, "prior", est), VAE):
        from wichan.training.prior_files import save_prior

        return save_prior(getattr(est, "prior", est), path, training)
    if isinstance(est, LearnedPredictor):
        from wichan.training.predictor_files import save_predictor

        return save_predictor(est, path, training)
    if not isinstance(est, LearnedEstimator):
        raise InvalidTypeError(f"est must be a learned estimator, got {type(est).__name__}")
    target = Path(path)
    if target.suffix != SUFFIX:
        raise InvalidValueError(f"path={str(path)!r} must end in {SUFFIX}")
    # Copies: the format wants tensors that are contiguous and share no memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in est.state_dict().items()}
    for name, value in tensors.items():
        check_values(f"est: tensor {name}", value, InvalidValueError)
    notes = {
        "format": f"{FORMAT}{FORMAT_VERSION}",
        "kind": est.kind,
        "config": as_text("config", est.config()),
        "grid": as_text("grid", _grid_notes(est.obs)),
        "training": as_text("training", dict(training or {})),
        "wichan": __version__,
    }
    write_atomic(target, ordered(pack_tensors(tensors, notes)))
    return target


def load_weights(path: str | Path, obs: Any = None) -> LearnedEstimator | LearnedPredictor | BussgangVAE:
    """Read a learned estimator or predictor from a file of `save_weights`; nothing in the file is executed.

    The file of a `VAE` gives its estimator, a `BussgangVAE` with the pilots that the encoder was trained for, whose attribute
    ``prior`` is the network; `wichan.training.prior_files.load_prior` gives the network by itself.

    Args:
        path: the file, or a folder with ``weights.safetensors`` or ``best.safetensors`` in it.
        obs: pilots of the link that it shall work in: the same positions on the same grid, the symbols may differ.
            Default: the pilots that it was trained with. A predictor has none.

    Returns:
        The estimator or predictor, on the CPU, in evaluation mode, in the precision in which it was saved.

    Raises:
        InvalidValueError: no such file, or ``obs`` has another grid or other pilot positions (a checkpoint of another grid), or
            is passed for a predictor.
        StoreError: the file is a pickle, cut short, damaged, foreign, of a newer format, or does not hold what its kind needs.
    """
    info, tensors = read_weights(path)
    where = str(info.path)
    if info.kind == "vae":
        from wichan.estimators import BussgangVAE
        from wichan.training.prior_files import prior_of

        return BussgangVAE(prior_of(info, tensors), obs).eval()
    if info.kind in LEARNED_PREDICTORS:
        from wichan.training.predictor_files import predictor_of, refuse_pilots

        refuse_pilots(info.kind, obs)
        return predictor_of(info, tensors)
    if info.obs is None:
        raise InvalidValueError(f"path={where!r} holds a prior of kind {info.kind!r} and no estimator; wichan.load reads both")
    est = _built(info, info.obs)
    if any(value.dtype == torch.float64 for name, value in tensors.items() if name != PILOTS):
        est = est.double()
    check_tensors(where, info.kind, est.state_dict(), tensors)
    est.load_state_dict(tensors)
    return adapted(est.eval(), obs, f"{where} is a checkpoint of another grid: ")


def adapted(est: LearnedEstimator, obs: OFDMPilots | None, prefix: str) -> LearnedEstimator:
    """Return ``est`` for the pilot symbols of ``obs``; an error about another grid starts with ``prefix``."""
    if obs is None:
        return est
    if not isinstance(obs, OFDMPilots):
        raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
    try:
        return est.for_observation(obs)
    except InvalidValueError as error:
        raise InvalidValueError(f"{prefix}{error}") from None


def _built(info: WeightsInfo, obs: OFDMPilots) -> LearnedEstimator:
    """A fresh estimator of the kind and size that the file names."""
    from wichan.estimators import LEARNED

    try:
        est: LearnedEstimator = LEARNED[info.kind].from_config(info.config, obs)
    except Exception as error:  # whatever a damaged config makes a constructor raise
        raise StoreError(f"{info.path} cannot be used: {one_line(error)}") from None
    return est


def check_tensors(where: str, kind: str, want: Mapping[str, torch.Tensor], have: Mapping[str, torch.Tensor]) -> None:
    """Raise `StoreError` unless the file ``where`` holds exactly the tensors ``want`` of an estimator or prior."""
    missing, extra = (sorted(a.keys() - b.keys()) for a, b in ((want, have), (have, want)))
    if missing or extra:
        found = {"missing": missing, "unexpected": extra}
        texts = [f"{len(names)} {word} ({_some(names)})" for word, names in found.items() if names]
        raise StoreError(f"{where} does not hold the tensors of {kind!r} with its config: {', '.join(texts)}")
    for name, value in want.items():
        if have[name].shape != value.shape:
            shapes = f"{tuple(have[name].shape)}, with its config it must be {tuple(value.shape)}"
            raise StoreError(f"{where} does not fit {kind!r}: tensor {name} has shape {shapes}")
        if have[name].is_floating_point() != value.is_floating_point() or have[name].is_complex():
            raise StoreError(f"{where} does not fit {kind!r}: tensor {name} has dtype {have[name].dtype}, not {value.dtype}")


def fill_module(where: str, kind: str, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the tensors of the file ``where`` into a fresh module; raises `StoreError` unless they fit."""
    check_tensors(where, kind, module.state_dict(), tensors)
    try:
        module.load_state_dict(dict(tensors))
    except (RuntimeError, ValueError, TypeError) as error:
        raise StoreError(f"{where} cannot be used: {one_line(error)}") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


# -- Writing. --


def _grid_notes(obs: OFDMPilots) -> dict[str, Any]:
    grid = obs.grid
    return {
        "num_ofdm_symbols": grid.num_ofdm_symbols,
        "num_subcarriers": grid.num_subcarriers,
        "subcarrier_spacing": grid.subcarrier_spacing,
        "symbol_duration": grid.symbol_duration,
        "pattern": obs.name,
    }


def as_text(field: str, value: Any) -> str:
    """JSON text of ``value``.

    Raises:
        InvalidTypeError: JSON cannot hold it.
    """
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{field} must be what JSON can hold: {one_line(error)}") from None


def ordered(data: bytes) -> bytes:
    """Return a safetensors file with a sorted header: the order of metadata that the library writes differs by run."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]
