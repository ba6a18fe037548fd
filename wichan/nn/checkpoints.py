"""State dicts of other people's checkpoints: taken out of a file's content, and held against a network of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from wichan.errors import StoreError

#: Numbers in a file: far above what was published, below what a hostile file could make us allocate.
MAX_NUMBERS = 1 << 28

#: Inside of an encoder layer: what ours (`wichan.nn.encoder`) calls a tensor -> what PyTorch's own layer calls it.
_LAYER_NAMES = {
    ".attention.in_": ".self_attn.in_proj_",
    ".attention.out.": ".self_attn.out_proj.",
    ".feed_forward.0.": ".linear1.",
    ".feed_forward.2.": ".linear2.",
    ".attention_norm.": ".norm1.",
    ".feed_forward_norm.": ".norm2.",
}


def state_tensors(where: str, content: Any, key: str, wrappers: re.Pattern[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name.

    Args:
        where: the file, for messages.
        content: what it holds, see `wichan.nn.torch_files.read_torch_file`: a dict with ``key``, or a bare state dict.
        key: where a state dict stands in it.
        wrappers: what trainers and compiling put before a name; left out.

    Raises:
        StoreError: no state dict, something else than a tensor in it, or more than `MAX_NUMBERS` numbers.
    """
    state = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise StoreError(f"{where} holds no state dict: {type(state).__name__} stands where {key} must be")
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise StoreError(f"{where} holds no state dict: a {type(value).__name__} stands where a tensor must be")
        tensors[wrappers.sub("", name)] = value
    if sum(value.numel() for value in tensors.values()) > MAX_NUMBERS:
        raise StoreError(f"{where} holds more than {MAX_NUMBERS} numbers")
    return tensors


def renamed(name: str, beginnings: Mapping[str, str], layer: str) -> str:
    """A tensor's name under which others keep it.

    Args:
        name: ours.
        beginnings: beginning of a name of ours -> theirs; the first that fits counts.
        layer: what the names of their encoder layers begin with; these are PyTorch's own.
    """
    for ours, theirs in beginnings.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if name.startswith(layer):
        for ours, theirs in _LAYER_NAMES.items():
            name = name.replace(ours, theirs)
    return name


def check_fit(where: str, kind: str, wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Raise unless a file's tensors have the names, shapes and kinds of those of a network, and are finite.

    Args:
        where: the file, for messages.
        kind: what the network is called.
        wanted: tensors of the network under the file's names; they may lie on the meta device.
        state: tensors of the file.

    Raises:
        StoreError: the line names the first tensors that do not fit.
    """
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    for names, word in ((missing, "lacks"), (extra, "holds unknown")):
        if names:
            raise StoreError(f"{where} does not fit {kind!r}: it {word} {len(names)} tensors: {some_names(names)}")
    for name, want in wanted.items():
        value = state[name]
        if value.shape != want.shape or value.is_floating_point() != want.is_floating_point() or value.is_complex():
            numbers = "real numbers" if want.is_floating_point() else "whole numbers"
            have, need = f"{tuple(value.shape)} {value.dtype}", f"{tuple(want.shape)} of {numbers}"
            raise StoreError(f"{where} does not fit {kind!r}: {name} is {have}, it must be {need}")
        if not bool(torch.isfinite(value).all()):
            raise StoreError(f"{where} is damaged: {name} holds NaN or infinite values")


def some_names(names: Iterable[str]) -> str:
    """The first three names, cut to a readable length."""
    shown = list(names)
    return ", ".join(repr(name[:80]) for name in shown[:3]) + (", ..." if len(shown) > 3 else "")
