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
    from wichan.estimators import LearnedEstimator


def save_weights(est: LearnedEstimator, path: str | Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a learned estimator to one safetensors file: all that `load_weights` needs to build it again.

    After any crash the file holds the old weights or the new ones. Equal weights and notes give equal bytes.

    Args:
        est: the estimator.
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
        "config": _json("config", est.config()),
        "grid": _json("grid", _grid_notes(est.obs)),
        "training": _json("training", dict(training or {})),
        "wichan": __version__,
    }
    write_atomic(target, _ordered(pack_tensors(tensors, notes)))
    return target


def load_weights(path: str | Path, obs: OFDMPilots | None = None) -> LearnedEstimator:
    """Read a learned estimator from a file of `save_weights`; nothing in the file is executed.

    Args:
        path: the file, or a folder with ``weights.safetensors`` or ``best.safetensors`` in it.
        obs: pilots of the link that it shall work in: the same positions on the same grid, the symbols may differ.
            Default: the pilots that it was trained with.

    Returns:
        The estimator, on the CPU, in evaluation mode, in the precision in which it was saved.

    Raises:
        InvalidValueError: no such file, or ``obs`` has another grid or other pilot positions (a checkpoint of another grid).
        StoreError: the file is a pickle, cut short, damaged, foreign, of a newer format, or does not hold what its kind needs.
    """
    info, tensors = read_weights(path)
    where = str(info.path)
    est = _built(info)
    if any(value.dtype == torch.float64 for name, value in tensors.items() if name != PILOTS):
        est = est.double()
    _check_tensors(where, info.kind, est.state_dict(), tensors)
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


def _built(info: WeightsInfo) -> LearnedEstimator:
    """A fresh estimator of the kind and size that the file names."""
    from wichan.estimators import LEARNED

    try:
        est: LearnedEstimator = LEARNED[info.kind].from_config(info.config, info.obs)
    except Exception as error:  # whatever a damaged config makes a constructor raise
        raise StoreError(f"{info.path} cannot be used: {one_line(error)}") from None
    return est


def _check_tensors(where: str, kind: str, want: Mapping[str, torch.Tensor], have: Mapping[str, torch.Tensor]) -> None:
    """Raise unless the file holds exactly the tensors that the estimator has."""
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


def _json(field: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{field} must be what JSON can hold: {one_line(error)}") from None


def _ordered(data: bytes) -> bytes:
    """The same file with its header sorted: the library writes metadata in an order that differs from run to run."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]
