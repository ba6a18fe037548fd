"""Weights that the authors of CSI-4CAST left on disk, brought into the network of this library [CSI4CAST2025]_.

Their checkpoints are files of ``torch.save``, often with pickled objects of a training framework inside. Only tensors are
taken, see `wichan.nn.torch_files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from wichan.errors import InvalidValueError, StoreError
from wichan.nn.checkpoints import check_fit, renamed, some_names, state_tensors
from wichan.nn.encoder import sinusoidal_positions
from wichan.nn.torch_files import read_torch_file
from wichan.prediction.csi4cast import CSI4CAST, PUBLISHED, checked_settings
from wichan.prediction.csi4cast_network import CSI4CASTNetwork

C = TypeVar("C", bound=CSI4CAST)

_MAX_LAYERS = 100  # far above what was published; below what a hostile file could make us work on
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")  # what trainers and compiling put before a name
_TOKENS = "embedding.embedding.value_embedding.tokenConv.weight"
_POSITIONS = "embedding.embedding.position_embedding.pe"
_OVER_TIME = "embedding.predict_linear_pre.weight"
_LAYER = "transformer.transformer.layers."
_BRANCH = "embedding.RB_freq."
_NAMES = {  # ours -> theirs, by the beginning of the name
    "embedding.value.": "embedding.embedding.value_embedding.tokenConv.",
    "embedding.over_time.": "embedding.predict_linear_pre.",
    "time_stamp.": "embedding.embedding.temporal_embedding.embed.",
    "predictor.": _LAYER,
    "to_features.": "mlp.pred_to_data.",
    "to_future.": "mlp.hist_to_pred.",
}
_BLOCK_NAMES = {
    "first.": "g_pw_conv_in.",
    "first_norm.": "g_pw_conv_in_bn.",
    "depthwise.": "dw_conv.",
    "depthwise_norm.": "dw_conv_bn.",
    "last.": "g_pw_conv_out.",
    "last_norm.": "g_pw_conv_out_bn.",
}
_ATTENTION_NAMES = {
    "average": {"attention.squeeze.": "ca.se.1.", "attention.excite.": "ca.se.3."},
    "average-max": {"attention.squeeze.": "ca.fc1.", "attention.excite.": "ca.fc2."},
}


def load_official(cls: type[C], path: str | Path, **options: Any) -> C:
    """Build a predictor from a checkpoint of the authors' code; nothing in the file is executed.

    It behaves as published, with one sample a batch as in the published tests (``standardise="batch"`` makes an answer
    depend on the rest of the batch, as their code does). The input is z-scored with the buffers ``shift`` and ``spread``;
    set them where the data set's statistics are known. A checkpoint says nothing about ``err_var``: the error head is fresh.

    Args:
        cls: `CSI4CAST`.
        path: the file; a dict with ``state_dict``, or a bare state dict.
        **options: what the file does not hold, first of all ``heads`` (default 8, with a subcarrier ARL 4) and ``duplex``
            (default ``"tdd"``, with a subcarrier ARL ``"fdd"``), as published.

    Returns:
        The predictor, in evaluation mode, in float64 if the weights are and else in float32.

    Raises:
        StoreError: no such file, a damaged one, no network of the authors, tensors that are missing, left over, of another
            shape or not finite. InvalidValueError: an option that does not fit.
    """
    where = str(path)
    state = _state(where, read_torch_file(path))
    sizes = _sizes(where, state)
    shared = {name: sizes.pop(name) for name in ("num_subcarriers", "num_history", "num_horizon", "duplex")}
    shared |= {"scale_input": False} | {
        name: options.pop(name) for name in ("duplex", "scale_input", "seed") if name in options
    }
    both = sorted(options.keys() & (sizes.keys() - {"heads"} | {"design"}))
    if both:
        raise InvalidValueError(f"{both[0]}={options[both[0]]!r:.40} cannot be chosen: the weights in {where} show it")
    settings: dict[str, Any] = PUBLISHED | {"standardise": "sample"} | sizes | options
    checked = checked_settings(settings)
    with torch.device("meta"):  # nothing is allocated before names and shapes fit
        plan = CSI4CASTNetwork(checked, *(shared[name] for name in ("num_subcarriers", "num_history", "num_horizon")))
    names = {name: official_name(name, len(checked.denoiser), checked.blocks, checked.attention) for name in plan.state_dict()}
    _check(where, {names[name]: value for name, value in plan.state_dict().items()}, state)
    predictor = cls(**shared, **settings)
    if any(value.dtype == torch.float64 for value in state.values()):
        predictor = predictor.double()
    predictor.network.load_state_dict({name: state[theirs] for name, theirs in names.items()})
    return predictor.eval()


def official_name(name: str, denoiser: int, blocks: int, attention: str) -> str:
    """What the authors call a tensor of our network.

    Args:
        name: ours.
        denoiser: maps between both ends of the denoiser, one less than its steps; the authors count its halves apart.
        blocks: ShuffleNet blocks.
        attention: kind of their channel attention.

    Example:
        >>> official_name("denoiser.steps.3.1.weight", 3, 4, "average")
        'denoiser.decoder.1.1.weight'
        >>> official_name("delay.features.exit.bias", 3, 4, "average")
        'embedding.RB_delay.5.bias'
    """
    if name.startswith("denoiser.steps."):
        step, rest = name.removeprefix("denoiser.steps.").split(".", 1)
        half = (denoiser + 1) // 2
        return f"denoiser.encoder.{step}.{rest}" if int(step) < half else f"denoiser.decoder.{int(step) - half}.{rest}"
    branch, _, rest = name.partition(".")
    if branch in ("frequency", "delay"):
        return _branch_name("freq" if branch == "frequency" else "delay", rest, blocks, attention)
    return renamed(name, _NAMES, _LAYER)


def _branch_name(branch: str, name: str, blocks: int, attention: str) -> str:
    """The same inside of one branch."""
    layer, _, rest = name.partition(".")
    if layer in ("temporal", "subcarrier"):
        inner = f"mlp.{rest}" if rest.startswith("mlp.") else rest.replace("norm.", "layernorm.")
        return f"arl.{layer}_proj_{branch}.{inner}"
    part, _, rest = rest.partition(".")
    if part in ("entry", "exit"):
        return f"embedding.RB_{branch}.{0 if part == 'entry' else blocks + 1}.{rest}"
    index, rest = rest.split(".", 1)
    for ours, theirs in (_BLOCK_NAMES | _ATTENTION_NAMES[attention]).items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
            break
    return f"embedding.RB_{branch}.{int(index) + 1}.{rest}"


# -- What the file holds. --


def _state(where: str, content: Any) -> dict[str, torch.Tensor]:
    """The tensors by name, without what wrappers put before it."""
    tensors = state_tensors(where, content, "state_dict", _WRAPPED)
    if _TOKENS not in tensors:
        raise StoreError(f"{where} holds no network of CSI-4CAST's authors: its tensors are {some_names(sorted(tensors))}")
    return tensors


def _sizes(where: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Settings that the shapes show."""

    def size(name: str, axis: int, axes: int) -> int:
        value = state.get(name)
        if value is None or value.dim() != axes or not value.numel():
            raise StoreError(f"{where} lacks the tensor {name} with {axes} axes")
        return value.shape[axis]

    def count(pattern: str) -> int:
        found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
        if len(found) > _MAX_LAYERS:
            raise StoreError(f"{where} holds more than {_MAX_LAYERS} layers")
        return len(found)

    width, features, history = size(_TOKENS, 0, 3), size(_TOKENS, 1, 3), size(_OVER_TIME, 0, 2)
    if features % 2:
        raise StoreError(f"{where}: {_TOKENS} takes {features} features; real and imaginary parts must be pairs")
    _drop_positions(where, state, history, width)
    encoder = count(r"denoiser\.encoder\.(\d{1,4})\.0\.weight$")
    maps = [size(f"denoiser.encoder.{i}.0.weight", 0, 4) for i in range(encoder)]
    decoder = count(r"denoiser\.decoder\.(\d{1,4})\.0\.weight$")
    maps += [size(f"denoiser.decoder.{i}.0.weight", 0, 4) for i in range(decoder - 1)]
    blocks = count(re.escape(_BRANCH) + r"(\d{1,4})\.dw_conv\.weight$")
    channels = size(_BRANCH + "0.weight", 0, 4)
    sizes: dict[str, Any] = {
        "num_subcarriers": features // 2,
        "num_history": history,
        "num_horizon": size("mlp.hist_to_pred.weight", 0, 2),
        "denoiser": tuple(maps),
        "width": width,
        "channels": channels,
        "blocks": blocks,
        "groups": channels // size(_BRANCH + "1.g_pw_conv_in.weight", 1, 4) if blocks else 1,
        "attention": "average-max" if _BRANCH + "1.ca.fc1.weight" in state else "average",
        "layers": count(re.escape(_LAYER) + r"(\d{1,4})\.linear1\.weight$"),
        "hidden": size(_LAYER + "0.linear1.weight", 0, 2),
        "time_stamp": "embedding.embedding.temporal_embedding.embed.weight" in state,
    }
    for layer in ("temporal", "subcarrier"):
        depth = count(rf"arl\.{layer}_proj_freq\.mlp\.mlp\.(\d{{1,4}})\.weight$") - 1
        if depth > 0:
            sizes |= {f"{layer}_hidden": size(f"arl.{layer}_proj_freq.mlp.mlp.0.weight", 0, 2), f"{layer}_depth": depth}
    if "temporal_hidden" not in sizes:
        sizes["arl"] = "none"
    wide = "subcarrier_hidden" in sizes
    return sizes | {"duplex": "fdd" if wide else "tdd", "heads": 4 if wide else 8}


def _drop_positions(where: str, state: dict[str, torch.Tensor], history: int, width: int) -> None:
    """Fixed positions must be the sinusoids that we compute ourselves; then they are no weight."""
    table = state.pop(_POSITIONS, None)
    if table is None:
        return
    if table.dim() == 3 and table.shape[0] == 1 and table.shape[1] >= history and table.shape[2] == width:
        ours = sinusoidal_positions(history, width)
        if table.is_floating_point() and bool((table[:, :history].float() - ours).abs().max() < 1e-4):
            return
    raise StoreError(f"{where} holds a table of positions that is not the sinusoidal one")


def _check(where: str, wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Names, shapes and values of the file against those of a network of its size."""
    check_fit(where, "csi4cast", wanted, state)
    for name, value in state.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            raise StoreError(f"{where} is damaged: {name} holds negative values")
