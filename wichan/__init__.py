"""wichan: simulate, estimate and compare wireless channels.

Rooms load when they are first used, so that ``import wichan`` costs little more than ``import torch``.
"""

from wichan.registry import lazy_exports

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "beamforming",
    "channels",
    "errors",
    "estimators",
    "evaluation",
    "integrations",
    "linalg",
    "metrics",
    "nn",
    "observations",
    "prediction",
    "priors",
    "simulate",
    "store",
    "testing",
    "training",
)
_NAMES = {room: f"wichan.{room}" for room in _ROOMS} | {"OFDMGrid": "wichan.grid", "load": "wichan.training.zoo"}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = ["OFDMGrid", "__version__", "load", *_ROOMS]  # noqa: PLE0604 (names load lazily)
