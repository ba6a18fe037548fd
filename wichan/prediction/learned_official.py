"""Weights of the published CNN and RNN baselines, as their authors left them on disk [CSI4CAST2025]_.

Their checkpoints are files of ``torch.save``, often with pickled objects of a training framework inside. Only tensors are
taken, see `wichan.nn.torch_files`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from wichan.errors import InvalidValueError, StoreError
from wichan.nn.checkpoints import check_fit, state_tensors
from wichan.nn.torch_files import read_torch_file
from wichan.prediction.learned import LearnedPredictor

P = TypeVar("P", bound=LearnedPredictor)

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")  # what trainers and compiling put before a name
_MOST = 64  # layers: far above what was published, below what a hostile file could make us build
Tensors = dict[str, torch.Tensor]


class OfficialBaseline(LearnedPredictor):
    """A baseline whose published weights can be read."""

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """Read a checkpoint of the authors' code without executing anything in it.

        Args:
            path: the file.
            **options: what it does not hold, see `load_official_baseline`.

        Raises:
            StoreError: not such a file. InvalidValueError: an option that the weights show.
        """
        return load_official_baseline(cls, path, **options)


def load_official_baseline(cls: type[P], path: str | Path, **options: Any) -> P:
    """Build a CNN or an RNN from a checkpoint of the authors' code; nothing in the file is executed.

    The input is z-scored with the buffers ``shift`` and ``spread``; set them where the data set's statistics are known. A
    checkpoint says nothing about ``err_var``: the error head is fresh.

    Args:
        cls: `CNNPredictor` or `RNNPredictor`.
        path: the file; a dict with ``state_dict``, or a bare state dict.
        **options: what the file does not hold: ``duplex``, for the CNN ``num_subcarriers``, for the RNN ``num_history`` and
            ``num_horizon`` (defaults as published: "tdd", 300, 16 and 4).

    Returns:
        The predictor, in evaluation mode, in float64 if the weights are and else in float32.

    Raises:
        StoreError: no such file, a damaged one, no network of that kind, tensors that are missing, left over, of another
            shape or not finite. InvalidValueError: an option that the weights show.
    """
    where = str(path)
    rename, sizes_of = _KINDS[cls.kind]
    state = {rename(name): value for name, value in state_tensors(where, read_torch_file(path), "state_dict", _WRAPPED).items()}
    sizes = sizes_of(where, state)
    both = sorted(options.keys() & sizes.keys())
    if both:
        raise InvalidValueError(f"{both[0]}={options[both[0]]!r:.40} cannot be chosen: the weights in {where} show it")
    settings = {"scale_input": False} | sizes | options
    with torch.device("meta"):  # nothing is allocated before names and shapes fit
        plan = cls.from_config(settings).network.state_dict()
    check_fit(where, cls.kind, plan, state)
    predictor = cls.from_config(settings)
    if any(value.dtype == torch.float64 for value in state.values()):
        predictor = predictor.double()
    predictor.network.load_state_dict(state)
    return predictor.eval()


def _rnn_name(name: str) -> str:
    """Theirs -> ours."""
    return name.replace("encoder.0.", "embedding.").replace("decoder.0.", "head.")


def _rnn_sizes(where: str, state: Tensors) -> dict[str, Any]:
    features, layers = _size(where, state, "embedding.weight", 1), 0
    while layers < _MOST and f"rnn.weight_hh_l{layers}" in state:
        layers += 1
    if features % 2:
        raise StoreError(f"{where} takes {features} features; real and imaginary parts must be pairs")
    return {"num_subcarriers": features // 2, "hidden": _size(where, state, "head.weight", 1), "layers": max(layers, 1)}


def _cnn_name(name: str) -> str:
    """Theirs -> ours; halves are joined by `_cnn_sizes`, which knows how long the first one is."""
    return name.replace("postprocess.", "head.")


def _cnn_sizes(where: str, state: Tensors) -> dict[str, Any]:
    levels: list[int] = []
    while len(levels) < _MOST and f"encoder.{len(levels)}.weight" in state:
        levels.append(_size(where, state, f"encoder.{len(levels)}.weight", 0))
    for name in [name for name in state if name.startswith(("encoder.", "decoder."))]:
        half, index, rest = [*name.split(".", 2), ""][:3]  # what has fewer parts stays, and is refused as unknown
        if rest and index.isdecimal() and len(index) < 4:
            first = 0 if half == "encoder" else len(levels)
            state[f"autoencoder.{2 * (int(index) + first)}.{rest}"] = state.pop(name)
    if not levels:
        raise StoreError(f"{where} does not fit cnn: it lacks the tensor encoder.0.weight")
    horizon, history = (_size(where, state, "head.weight", axis) for axis in (0, 1))
    return {"levels": levels, "num_history": history, "num_horizon": horizon}


_KINDS: dict[str, tuple[Callable[[str], str], Callable[[str, Tensors], dict[str, Any]]]] = {
    "cnn": (_cnn_name, _cnn_sizes),
    "rnn": (_rnn_name, _rnn_sizes),
}


def _size(where: str, state: Tensors, name: str, axis: int) -> int:
    value = state.get(name)
    if value is None or value.dim() <= axis or not value.numel():
        raise StoreError(f"{where} lacks the tensor that becomes {name}")
    return value.shape[axis]
