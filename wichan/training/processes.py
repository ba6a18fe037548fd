"""Several devices: the other processes of a run, started for it and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wichan.errors import WichanError
from wichan.training.config import TrainConfig
from wichan.training.data import Share

if TYPE_CHECKING:
    from wichan.training.fitting import Place


class CompanionError(WichanError, RuntimeError):
    """Another process of the run has ended before its time."""


_NAMES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")


@contextlib.contextmanager
def companions(config: TrainConfig, place: Place, saved: Path | None) -> Iterator[None]:
    """Run processes 1, 2, ... of ``place.share.world`` beside this one, which is number 0.

    Each is a fresh interpreter (the caller's script is not imported again) in a process group of its own, so that Ctrl-C
    reaches this process alone; Lightning finds them through the variables that it sets for processes of its own.

    Args:
        config: the run.
        place: of this process.
        saved: state to resume from.
    """
    world = place.share.world
    if world == 1:
        yield
        return
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    before = {name: os.environ.get(name) for name in _NAMES}
    others = [_start(config, replace(place, share=Share(rank, world)), saved, common) for rank in range(1, world)]
    os.environ.update(common | {"LOCAL_RANK": "0"})
    try:
        yield
        for process in others:
            process.wait(timeout=60)
    except RuntimeError as error:
        dead = [process.returncode for process in others if process.poll()]
        if not dead:
            raise
        raise CompanionError(f"one of the {world} processes of the run ended with exit code {dead[0]}") from error
    finally:
        for process in others:
            process.kill()  # does nothing to one that has ended
            process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _start(config: TrainConfig, place: Place, saved: Path | None, common: dict[str, str]) -> subprocess.Popen[bytes]:
    job = {
        "config": config.to_dict(),
        "device": place.device.type,
        "rank": place.share.rank,
        "world": place.share.world,
        "threads": place.threads or torch.get_num_threads(),
        "saved": None if saved is None else str(saved),
    }
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = {**os.environ, **common, "LOCAL_RANK": str(place.share.rank), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "wichan.training.worker", json.dumps(job)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
