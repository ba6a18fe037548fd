"""Sionna draws from generators of its own that belong to the whole process: lend them for a while, then put them back."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from wichan.errors import check_int
from wichan.integrations.sionna.require import require_sionna

_LOCK = threading.RLock()


@contextlib.contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run a block with every generator that Sionna may use freshly seeded, and leave all of them as they were.

    Covers `sionna.phy.config` (its PyTorch, NumPy and Python generators; ``config.seed`` itself stays untouched) and the
    global generators of PyTorch, NumPy and Python. They are put back bit for bit when the block ends, by an exception too.
    Threads that use it wait for each other; a thread that uses Sionna without it at the same time would disturb both.

    Args:
        seed: the same seed gives the same draws, whatever was drawn before; an integer from 0 to 2^64 - 1.

    Example:
        >>> import pytest; phy = pytest.importorskip("sionna.phy")
        >>> before = phy.config.torch_rng("cpu").get_state()
        >>> with isolated_rng(7):
        ...     first = phy.utils.rand((2,))
        >>> with isolated_rng(7):
        ...     assert torch.equal(first, phy.utils.rand((2,)))
        >>> bool(torch.equal(before, phy.config.torch_rng("cpu").get_state()))
        True
    """
    number = check_int("seed", seed, minimum=0, maximum=2**64 - 1)
    config = require_sionna("isolated_rng").phy.config
    with _LOCK:
        before = _states(config)
        try:
            _seed_all(config, number)
            yield
        finally:
            _restore(config, before)


def seed_from(generator: torch.Generator) -> int:
    """Draw a seed for `isolated_rng` from a generator."""
    return int(torch.randint(0, 2**63 - 1, (1,), generator=generator, device=generator.device, dtype=torch.int64))


def _states(config: Any) -> dict[str, Any]:
    return {
        "sionna": {device: config.torch_rng(device).get_state() for device in config.available_devices},
        "sionna_numpy": config.np_rng.bit_generator.state,
        "sionna_python": config.py_rng.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "numpy": np.random.get_state(),  # noqa: NPY002 (kept for the user, never drawn from)
        "python": random.getstate(),
    }


def _seed_all(config: Any, seed: int) -> None:
    for device in config.available_devices:
        config.torch_rng(device).manual_seed(seed)
    config.np_rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    config.py_rng.seed(seed)
    # Nothing that Sionna offers draws from these today; a user's own model may.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def _restore(config: Any, before: dict[str, Any]) -> None:
    for device, state in before["sionna"].items():
        config.torch_rng(device).set_state(state)
    config.np_rng.bit_generator.state = before["sionna_numpy"]
    config.py_rng.setstate(before["sionna_python"])
    torch.set_rng_state(before["torch"])
    if before["cuda"] is not None:
        torch.cuda.set_rng_state_all(before["cuda"])
    np.random.set_state(before["numpy"])  # noqa: NPY002
    random.setstate(before["python"])
