"""Which device to compute on."""

from __future__ import annotations

import torch

from wichan.errors import InvalidValueError


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; ``"auto"`` is a GPU where there is one.

    Raises:
        InvalidValueError: an unknown name, or a device that this machine does not have.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise InvalidValueError(f"device={device!r} is unknown; allowed are auto, cpu, cuda, cuda:0, ...") from None
    if chosen.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= found:
            raise InvalidValueError(f"device={str(device)!r} is not available; this machine has {found} CUDA devices")
    elif chosen.type != "cpu" or chosen.index:
        raise InvalidValueError(f"device={str(device)!r} is not supported; allowed are auto, cpu, cuda, cuda:0, ...")
    return chosen
