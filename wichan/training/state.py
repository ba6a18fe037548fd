"""The state of a run on disk: all that is needed to go on as if nothing had happened. One safetensors file, no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from wichan.errors import StoreError
from wichan.store.files import write_atomic

if TYPE_CHECKING:
    from wichan.training.module import Task

FORMAT = "wichan-training-1"


@dataclass
class RunState:
    """Where a run stands, besides its tensors.

    Attributes:
        steps: optimiser steps done.
        seconds: time spent.
        best: metrics of the best weights, empty before the first validation.
        best_step: when they were found.
        stale: validations since.
        stopped: why the run ended, empty while it goes on.
        scaler: state of the gradient scaler (16-mixed).
    """

    steps: int = 0
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    stale: int = 0
    stopped: str = ""
    scaler: dict[str, Any] = field(default_factory=dict)


def save_state(path: Path, task: Task, optimiser: torch.optim.Optimizer, state: RunState) -> None:
    """Write weights, their average, the optimiser and ``state``; after a crash the file is the old one or the new one."""
    tensors = {f"network.{name}": value for name, value in task.network.state_dict().items()}
    notes: dict[str, Any] = {"state": asdict(state), "updates": 0}
    if task.average is not None:
        tensors |= {f"average.{name}": value for name, value in task.average.module.state_dict().items()}
        notes["updates"] = task.average.updates
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, save(plain, {"format": FORMAT, "notes": json.dumps(notes)}))


def read_state(path: Path) -> tuple[RunState, dict[str, torch.Tensor], int]:
    """Read a file of `save_state`.

    Returns:
        The state, all tensors by their full name, and the average's number of updates.

    Raises:
        StoreError: the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise StoreError(f"{path} is no state of a training run (format {about.get('format')!r}, not {FORMAT!r})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        notes = json.loads(about["notes"])
        return RunState(**notes["state"]), tensors, int(notes["updates"])
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist; there is nothing to resume") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def restore_network(task: Task, tensors: dict[str, torch.Tensor], updates: int, path: Path) -> None:
    """Put saved weights into a task.

    Raises:
        StoreError: they belong to another network.
    """
    try:
        task.network.load_state_dict(_under(tensors, "network."))
        if task.average is not None:
            task.average.module.load_state_dict(_under(tensors, "average."))
            task.average.updates = updates
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise StoreError(f"{path} holds another network: {(lines[1:] or lines)[0]}") from None


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the saved moments into an optimiser."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under(tensors, "optimiser.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
