"""Reading a weight file: what it is, what it says about itself, and its tensors, with nothing executed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors

from wichan.errors import InvalidValueError, StoreError, WichanError, check_choice
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.observations.pilots import PilotPattern

SUFFIX = ".safetensors"
FORMAT = "wichan-weights-"
FORMAT_VERSION = 1
PILOTS = "obs.pilots_ri"  # the buffer of a learned estimator that holds its pilots
_AXES = "axes"  # where a prior notes the axes of a channel

_MAX_HEADER = 100 << 20  # the limit of the safetensors format itself
_PICKLES = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


@dataclass(frozen=True, eq=False)
class WeightsInfo:
    """What a weight file says about itself.

    Attributes:
        path: the file.
        kind: which learned estimator, a key of `wichan.estimators.LEARNED`, which prior, a key of `wichan.priors.PRIORS`, or
            which learned predictor, a key of `wichan.prediction.LEARNED_PREDICTORS`.
        config: its hyper-parameters.
        obs: grid and pilots that it was trained for; None for a prior or a predictor, which know channels and no pilots.
        training: how it was trained: whatever its trainer noted.
        version: wichan's version when the file was written.
        num_parameters: numbers in its tensors, pilots and axes not counted.
        num_bytes: size of the file.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    obs: OFDMPilots | None
    training: dict[str, Any]
    version: str
    num_parameters: int
    num_bytes: int


def weights_file(path: str | Path) -> Path:
    """Return the weight file that ``path`` means.

    Raises:
        InvalidValueError: nothing there, or a folder without weights.
    """
    target = Path(path)
    if target.is_dir():
        for name in ("weights", "best"):
            if (target / f"{name}{SUFFIX}").is_file():
                return target / f"{name}{SUFFIX}"
        raise InvalidValueError(f"path={str(path)!r} is a folder without weights{SUFFIX} or best{SUFFIX}")
    if not target.is_file():
        raise InvalidValueError(f"path={str(path)!r} is no file; a weight file ends in {SUFFIX}")
    return target


def read_weights(path: str | Path) -> tuple[WeightsInfo, dict[str, torch.Tensor]]:
    """Read what a weight file says about itself, and its tensors; see `load_weights` for what is refused."""
    target = weights_file(path)
    try:
        with target.open("rb") as file:
            size = target.stat().st_size
            notes = _notes(str(target), _header(target, file.read(8), size, file))
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise StoreError(f"cannot read {target}: {error.strerror or error}") from None
    try:
        tensors = read_tensors(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise StoreError(f"{target} is cut short or damaged: {one_line(error)}") from None
    for name, value in tensors.items():
        check_values(f"{target} is damaged: tensor {name}", value, StoreError)
    return _info(target, notes, tensors, len(data)), tensors


def _header(path: Path, first: bytes, size: int, file: Any) -> dict[str, Any]:
    """The JSON header of a safetensors file; anything else is told apart here, before the whole file is read."""
    length = int.from_bytes(first, "little") if len(first) == 8 else 0
    start = file.read(1) if 2 <= length <= _MAX_HEADER else b""
    if start != b"{":
        if first.startswith(_PICKLES) or path.suffix.lower() in _PICKLE_SUFFIXES:
            raise StoreError(
                f"{path} is a pickle or an archive of them, which may run code when it is read, and is not read; "
                "a checkpoint of the authors of AdaFortiTran: AdaFortiTran.from_official_checkpoint(path)"
            )
        raise StoreError(f"{path} is {'cut short' if size < 16 else 'no safetensors file'} ({size} bytes)")
    if length > size - 8:
        raise StoreError(f"{path} is cut short: its header has {length} bytes, the file {size}")
    try:
        header = json.loads(start + file.read(length - 1))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: its header is not JSON ({one_line(error)})") from None
    if not isinstance(header, dict):
        raise StoreError(f"{path} is damaged: its header is no JSON object")
    return header


def _notes(where: str, header: dict[str, Any]) -> dict[str, Any]:
    """Our metadata, of a format that this version knows."""
    notes = header.get("__metadata__")
    word = notes.get("format") if isinstance(notes, dict) else None
    found = re.fullmatch(rf"{FORMAT}([0-9]{{1,9}})", word) if isinstance(word, str) else None
    if not isinstance(notes, dict) or found is None:
        said = f"its metadata says {word[:40]!r}" if isinstance(word, str) else "its metadata does not say"
        raise StoreError(f"{where} is a safetensors file, but does not hold weights of wichan (format {FORMAT}N; {said})")
    if int(found[1]) > FORMAT_VERSION:
        raise StoreError(f"{where} has format {word}; this wichan reads up to {FORMAT}{FORMAT_VERSION}: update wichan")
    return notes


def _info(path: Path, notes: dict[str, Any], tensors: Mapping[str, torch.Tensor], num_bytes: int) -> WeightsInfo:
    from wichan.estimators import LEARNED
    from wichan.prediction import LEARNED_PREDICTORS
    from wichan.priors import PRIORS

    parsed = {}
    for key in ("config", "grid", "training"):
        try:
            parsed[key] = json.loads(notes[key])
        except (KeyError, TypeError, ValueError, RecursionError):
            parsed[key] = None
        if not isinstance(parsed[key], dict):
            raise StoreError(f"{path} is damaged: {key} in its metadata must be a JSON object")
    try:
        kind = check_choice("kind", notes.get("kind"), [*LEARNED, *PRIORS, *LEARNED_PREDICTORS])
        obs = _pilots(parsed["grid"], tensors) if kind in LEARNED else None
    except (WichanError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path} cannot be used: {one_line(error)}") from None
    return WeightsInfo(
        path=path,
        kind=kind,
        config=parsed["config"],
        obs=obs,
        training=parsed["training"],
        version=str(notes.get("wichan", "unknown")),
        num_parameters=sum(value.numel() for name, value in tensors.items() if name not in (PILOTS, _AXES)),
        num_bytes=num_bytes,
    )


def _pilots(grid: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> OFDMPilots:
    """The pilots that the weights were trained for."""
    settings = dict(grid)
    name = settings.pop("pattern", "custom")
    lattice = OFDMGrid(**settings)
    values = tensors.get(PILOTS)
    if values is None or not values.is_floating_point() or values.dim() != 4 or values.shape[-1] != 2:
        raise StoreError(f"tensor {PILOTS} must hold the pilots, real (num_tx_ant, num_ofdm_symbols, num_subcarriers, 2)")
    return OFDMPilots.from_pattern(lattice, PilotPattern(str(name), torch.view_as_complex(values.contiguous())))


def describe_pilots(obs: OFDMPilots) -> str:
    """Grid and pilots in one line: ``'14 x 120, 15 kHz, 160 pilots in symbols 2, 5, 8, 11 at subcarriers 0, 3, ..., 117'``."""
    grid = obs.grid
    symbols, subcarriers = obs.pilot_symbols.tolist(), obs.pilot_subcarriers.tolist()
    places = ", ".join(map(str, subcarriers))
    steps = {after - before for before, after in zip(subcarriers, subcarriers[1:], strict=False)}
    if len(subcarriers) > 4:
        middle = "..." if len(steps) == 1 else "... (uneven)"
        places = f"{subcarriers[0]}, {subcarriers[1]}, {middle}, {subcarriers[-1]}"
    shape = f"{grid.num_ofdm_symbols} x {grid.num_subcarriers}, {grid.subcarrier_spacing / 1e3:g} kHz"
    return f"{shape}, {obs.num_pilots} pilots in symbols {', '.join(map(str, symbols))} at subcarriers {places}"


def check_values(what: str, value: torch.Tensor, error: type[WichanError]) -> None:
    """Raise ``error`` if a tensor holds NaN or infinity."""
    bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() or value.is_complex() else 0
    if bad:
        raise error(f"{what} holds {bad} NaN or infinite of {value.numel()} values; all must be finite")


def one_line(error: BaseException) -> str:
    """The text of an error, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
