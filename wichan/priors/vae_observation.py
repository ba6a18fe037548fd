"""The observation that an encoder was made for, as plain data: with its tensors in a weight file it is built again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from wichan.errors import InvalidValueError
from wichan.observations.quantized import QuantizedPilots


def describe_observation(obs: QuantizedPilots) -> dict[str, Any]:
    """What JSON can hold of pilots and converters: all but a matrix without structure, which ``state_dict`` has."""
    bits = obs.num_bits if isinstance(obs.num_bits, tuple) else (obs.num_bits,)
    words = ["inf" if math.isinf(value) else int(value) for value in bits]
    found: dict[str, Any] = {
        "num_measurements": obs.num_measurements,
        "channel_shape": list(obs.channel_shape),
        "num_bits": words if isinstance(obs.num_bits, tuple) else words[0],
        "kind": obs.kind,
        "input_power": obs.input_power,
        "dither_power": obs.dither_power,
        "pilots": "identity" if obs.is_identity else "matrix",
    }
    if obs.pilots is not None:
        sent = obs.pilots.detach().cpu().to(torch.complex128)
        found["pilots"] = [[[float(x.real), float(x.imag)] for x in row] for row in sent.tolist()]
    return found


def undescribed_tensors(obs: QuantizedPilots) -> list[str]:
    """Names in ``obs.state_dict()`` that `describe_observation` does not cover."""
    return [] if obs.is_identity or obs.pilots is not None else ["linear.dense_ri"]


def rebuild_observation(values: Mapping[str, Any]) -> QuantizedPilots:
    """Build the observation of `describe_observation`; a matrix without structure is filled in by ``load_state_dict``.

    Raises:
        InvalidValueError: values that no observation has.
    """
    try:
        given = dict(values)
        rows, shape = int(given.pop("num_measurements")), tuple(int(n) for n in given.pop("channel_shape"))
        bits, pilots = given.pop("num_bits"), given.pop("pilots")
        number: Any = [_resolution(b) for b in bits] if isinstance(bits, list) else _resolution(bits)
        size = math.prod(shape)
        if isinstance(pilots, list):
            sent = torch.view_as_complex(torch.tensor(pilots, dtype=torch.float64))
            return QuantizedPilots.from_sequence(sent, size // len(sent), number, channel_shape=shape, **given)
        matrix = torch.eye(rows, size) if pilots == "identity" else torch.full((rows, size), 2.0)
        return QuantizedPilots(matrix.to(torch.complex128), number, channel_shape=shape, **given)
    except (KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise InvalidValueError(f"obs in the config of a vae does not fit: {' '.join(str(error).split())}") from None


def _resolution(value: Any) -> Any:
    return math.inf if value == "inf" else value
