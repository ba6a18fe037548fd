"""Weights that the authors of AdaFortiTran left on disk, brought into the networks of this library [Guler2025]_.

Their checkpoints are files of ``torch.save`` with pickled configuration objects inside. Only tensors and plain values are
taken, see `wichan.nn.torch_files`; of the configuration, what the weights do not show: heads, patch and dropout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, check_int
from wichan.estimators.learned import LearnedEstimator
from wichan.grid import OFDMGrid
from wichan.nn.checkpoints import check_fit, renamed, some_names, state_tensors
from wichan.nn.encoder import sinusoidal_positions
from wichan.nn.pickle_stream import Inert
from wichan.nn.torch_files import read_torch_file
from wichan.observations.ofdm import OFDMPilots

E = TypeVar("E", bound=LearnedEstimator)

_GRID = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3)
_SYMBOLS = (2, 11)
_MAX_LAYERS = 100  # far above what was published; below what a hostile file could make us allocate
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")  # what data parallelism and compiling put before a name
_LAYER = "transformer_encoder.transformer.layers."
_TABLE = "transformer_encoder.positional_encoding."
_NAMES = {  # ours -> theirs, by the beginning of the name
    "upsampler.": "pilot_upsampler.",
    "first_enhancer.layers.": "initial_enhancer.conv_block.",
    "adapter.snr_db.": "channel_adapter.snr_encoder.",
    "adapter.delay_spread.": "channel_adapter.ds_encoder.",
    "adapter.max_doppler.": "channel_adapter.dop_encoder.",
    "embedding.": "transformer_encoder.linear_1.",
    "positions": _TABLE + "position_embeddings",
    "encoder.": _LAYER,
    "projection.": "transformer_encoder.linear_2.",
    "second_enhancer.layers.": "final_refiner.conv_block.",
}


def load_official(
    cls: type[E], path: str | Path, obs: OFDMPilots | None = None, *, subcarrier_offset: int = 0, **options: Any
) -> E:
    """Build an estimator from a checkpoint of the authors' code; nothing in the file is executed.

    The result behaves as published: no scaling of the input, conditions in raw dB, ns and Hz, where the SNR counts the power
    over the whole grid (``"grid-measured-realised"``). A checkpoint says nothing about ``err_var``: the error head is fresh.

    Args:
        cls: the class to build: `AdaFortiTran`, `FortiTran` or `Linear`.
        path: the file; a dict with ``model_state_dict``, or a bare state dict.
        obs: pilots that the network was trained for, which the file does not hold. Default: as published, 120 subcarriers of
            15 kHz by 14 symbols, pilots in symbols 2 and 11 on as many evenly spaced subcarriers as the weights ask for.
        subcarrier_offset: first pilot subcarrier of that default: 0, or 1 for data of the generator of 2026.
        **options: other hyper-parameters of ``cls``, first of all ``heads``, where the file holds no configuration.

    Returns:
        The estimator, in evaluation mode, in float64 if the weights are and else in float32.

    Raises:
        StoreError: no such file, a damaged one, no network of the authors, tensors that are missing, left over, of another
            shape or not finite. InvalidValueError: another kind of network, or one for another grid or number of pilots.
    """
    where = str(path)
    content = read_torch_file(path)
    state = state_tensors(where, content, "model_state_dict", _WRAPPED)
    kind, first = _kind(where, state)
    if kind != cls.kind:
        raise InvalidValueError(f"{where} holds a network of kind {kind!r}, not {cls.kind!r}")
    if first.dim() != 2:
        raise StoreError(f"{where} does not fit {kind!r}: its first layer has shape {tuple(first.shape)}")
    pilots = _pilots(where, first.shape[1], first.shape[0], obs, check_int("subcarrier_offset", subcarrier_offset, minimum=0))
    settings: dict[str, Any] = {"scale_input": False, "condition_ranges": None}
    if kind != "linear":
        settings |= _settings(where, content) | _sizes(where, state)
    try:
        estimator = cls(pilots, **(settings | options))
    except TypeError as error:
        raise InvalidTypeError(f"an option does not fit {kind!r}: {error}") from None
    if any(value.dtype == torch.float64 for value in state.values()):
        estimator = estimator.double()
    _fill(where, kind, estimator.network, state)
    return estimator.eval()


def official_name(kind: str, name: str) -> str:
    """What the authors call a parameter of our network.

    Example:
        >>> official_name("fortitran", "encoder.3.attention.in_weight")
        'transformer_encoder.transformer.layers.3.self_attn.in_proj_weight'
    """
    if kind == "linear":
        return f"linear.{name}"
    return renamed(name, _NAMES, _LAYER)


# -- What the file holds. --


def _kind(where: str, state: Mapping[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """Which network it is, and its first layer: pilots to the grid."""
    if "pilot_upsampler.weight" in state:
        adapted = any(name.startswith("channel_adapter.") for name in state)
        return "adafortitran" if adapted else "fortitran", state["pilot_upsampler.weight"]
    if "linear.weight" in state:
        return "linear", state["linear.weight"]
    raise StoreError(f"{where} holds no network of AdaFortiTran's authors: its tensors are {some_names(sorted(state))}")


def _pilots(where: str, count: int, elements: int, obs: OFDMPilots | None, offset: int) -> OFDMPilots:
    """The pilots given, if the weights fit them, or the published ones."""
    if obs is not None:
        if not isinstance(obs, OFDMPilots):
            raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
        if offset:
            raise InvalidValueError(f"subcarrier_offset={offset} and obs are both given; obs already says where the pilots are")
        if (obs.num_pilots, obs.grid.num_resource_elements) != (count, elements):
            there = f"{obs.num_pilots} pilots on {obs.grid.num_resource_elements} resource elements"
            raise InvalidValueError(f"{where} was made for {count} pilots on {elements} resource elements, obs has {there}")
        return obs
    if elements != _GRID.num_resource_elements:
        raise InvalidValueError(f"{where} was made for {elements} resource elements, not for 120 x 14; pass obs")
    for step in range(1, _GRID.num_subcarriers + 1):
        if offset < step and len(range(offset, _GRID.num_subcarriers, step)) * len(_SYMBOLS) == count:
            return OFDMPilots(_GRID, symbols=_SYMBOLS, subcarrier_step=step, subcarrier_offset=offset)
    raise InvalidValueError(f"{where} was made for {count} pilots, which symbols 2 and 11 cannot share evenly; pass obs")


def _sizes(where: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Hyper-parameters that the shapes show; checked so far that a network of that size holds no more than the file does."""
    embedding = _matrix(where, state, "transformer_encoder.linear_1.weight")
    width = embedding.shape[0]
    layers = {int(match[1]) for name in state if (match := re.match(re.escape(_LAYER) + r"(\d{1,4})\.", name))}
    if len(layers) > _MAX_LAYERS:
        raise StoreError(f"{where} holds more than {_MAX_LAYERS} layers")
    for layer in sorted(layers):
        projection = f"{_LAYER}{layer}.self_attn.in_proj_weight"
        if _matrix(where, state, projection).shape != (3 * width, width):
            raise StoreError(f"{where}: {projection} must have shape {(3 * width, width)}, as linear_1.weight has {width} rows")
    sizes = {"width": width, "layers": len(layers)}
    learned, fixed = state.get(_TABLE + "position_embeddings"), state.get(_TABLE + "pe")
    if learned is None and fixed is not None:
        _check_fixed(where, fixed, width)
        del state[_TABLE + "pe"]  # no weight
        return sizes | {"positions": "sinusoidal", "max_tokens": fixed.shape[1]}
    if learned is None or learned.dim() != 3 or learned.shape[2] != width:
        raise StoreError(f"{where} lacks the table {_TABLE}position_embeddings (1, count, {width})")
    return sizes | {"max_tokens": learned.shape[1]}


def _matrix(where: str, state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    value = state.get(name)
    if value is None or value.dim() != 2:
        raise StoreError(f"{where} lacks the matrix {name}")
    return value


def _check_fixed(where: str, table: torch.Tensor, width: int) -> None:
    """Fixed positions must be the sinusoids that we compute ourselves."""
    if table.dim() == 3 and table.shape[0] == 1 and table.shape[2] == width and table.is_floating_point():
        ours = sinusoidal_positions(table.shape[1], width)
        if bool((table.float() - ours).abs().max() < 1e-3):  # the authors round angles of up to 512 rad to single precision
            return
    raise StoreError(f"{where} holds a table of positions that is not the sinusoidal one")


def _settings(where: str, content: Any) -> dict[str, Any]:
    """Hyper-parameters that only the configuration shows; it comes as a plain dict or as the inert record of an object."""
    config = content.get("model_config") if isinstance(content, dict) else None
    values = config.state if isinstance(config, Inert) else config
    if isinstance(values, dict):
        values = values.get("__dict__", values)
    if not isinstance(values, dict):
        return {}
    activation = values.get("activation", "gelu")
    if activation != "gelu":
        shown = repr(activation)[:30] if isinstance(activation, str) else type(activation).__name__
        raise StoreError(f"{where} was trained with activation {shown}; only 'gelu' can be built")
    found: dict[str, Any] = {}
    heads, patch, dropout = values.get("num_head"), values.get("patch_size"), values.get("dropout")
    if isinstance(heads, int):
        found["heads"] = heads
    if isinstance(patch, (list, tuple)) and len(patch) == 2 and all(isinstance(size, int) for size in patch):
        found["patch"] = tuple(patch)
    if isinstance(dropout, float):
        found["dropout"] = dropout
    return found


# -- Into the network. --


def _fill(where: str, kind: str, network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy the tensors into the parameters, name by name."""
    parameters = {official_name(kind, name): value for name, value in network.named_parameters()}
    check_fit(where, kind, parameters, state)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
