"""CSI-4CAST: convolutions, adaptive re-weighting, ShuffleNet and a transformer, one antenna at a time [CSI4CAST2025]_."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int, check_real
from wichan.prediction.csi4cast_network import CSI4CASTNetwork, CSI4CASTSettings
from wichan.prediction.csi4cast_weights import WeightNetwork
from wichan.prediction.learned import LearnedPredictor

#: What the published code does and this library does not, unless asked: see `CSI4CASTSettings`.
PUBLISHED: dict[str, Any] = {"rectified": True, "standardise": "batch", "delay_operation": "multiply", "time_stamp": True}
_CHOICES = {
    "design": ("direct", "weights"),
    "standardise": ("sample", "batch"),
    "arl": ("mlp", "norm", "none"),
    "delay_operation": ("add", "multiply"),
    "features": ("shuffle", "mobile", "mlp"),
    "attention": ("average", "average-max"),
    "predictor": ("transformer", "lstm", "mlp"),
}
_MINIMA = {
    "maps": 0,
    "order": 0,
    "fine": 0,
    "offset": -(1 << 20),
    "temporal_depth": 0,
    "subcarrier_hidden": 0,
    "subcarrier_depth": 0,
    "blocks": 0,
    "layers": 0,
}
_FDD = {
    "duplex": "fdd",
    "denoiser": (4, 8, 16, 32, 16, 8, 4),
    "subcarrier_hidden": 2048,
    "channels": 128,
    "groups": 8,
    "attention": "average-max",
    "layers": 4,
    "heads": 4,
    "hidden": 2048,
    "dropout": 0.2,
}
_TINY = {
    "temporal_hidden": 32,
    "channels": 16,
    "blocks": 2,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "hidden": 128,
    "dropout": 0.0,
    "front_dropout": 0.0,
}
_LEAN = {"temporal_hidden": 32, "temporal_depth": 1, "channels": 16, "blocks": 2, "skip": True}
_SMALL = {"design": "weights", "width": 64, "layers": 2, "heads": 4, "hidden": 128, "dropout": 0.0}


class CSI4CAST(LearnedPredictor):
    r"""CSI-4CAST: L snapshots of K subcarriers to P.

    As published (``design="direct"``), every antenna pair is a sequence of its own. A convolutional residual takes noise
    out; a delay branch (inverse DFT) and a frequency branch weigh the snapshots anew (adaptive layers) and pass ShuffleNet
    blocks; their sum becomes one token a snapshot for a transformer encoder, whose answer a linear layer takes to the
    subcarriers and another over time to the future.

    Presets: ``"paper-tdd"`` and ``"paper-fdd"`` are the published networks with all that `PUBLISHED` names; ``"lean"`` is the
    TDD one with narrow adaptive layers and ShuffleNet blocks and a skip connection; ``"tiny"`` is for tests. ``"small"``
    (``design="weights"``) is another network for the same end, see `wichan.prediction.csi4cast_weights`: a transformer over
    delays that answers with weights of the snapshots, shared by the antennas of a sample.

    Args:
        compat: take the published behaviour for whatever ``settings`` does not name (`PUBLISHED`): a noise estimate without
            negative values, one standardisation for the whole batch, so that an answer depends on the other samples, a
            product in the delay branch's adaptive layer, and 4 x width parameters that nothing uses.
        num_subcarriers, num_history, num_horizon, duplex, scale_input, seed: see `LearnedPredictor`.
        **settings: see `CSI4CASTSettings`.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: a setting that does not exist or has another value.

    Cost of a sample of 32 antenna pairs: 71 GFLOP (preset ``"paper-tdd"``), 99 (``"paper-fdd"``), 22 (``"lean"``), 0.15
    (``"small"``, where a complex product counts as 8).

    Source: [CSI4CAST2025]_, layers and sizes as in the authors' code.
    """

    network: CSI4CASTNetwork | WeightNetwork
    kind = "csi4cast"
    presets = {
        "paper-tdd": {"compat": True, "scale_input": False},
        "paper-fdd": {"compat": True, "scale_input": False, **_FDD},
        "tiny": _TINY,
        "lean": _LEAN,
        "small": _SMALL,
    }

    def __init__(
        self,
        *,
        compat: bool = False,
        num_subcarriers: int = 300,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
        scale_input: bool = True,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.settings = checked_settings((PUBLISHED if compat else {}) | settings)
        super().__init__(
            num_subcarriers=num_subcarriers,
            num_history=num_history,
            num_horizon=num_horizon,
            duplex=duplex,
            scale_input=scale_input,
            seed=seed,
        )

    def _build(self) -> nn.Module:
        s = self.settings
        if s.design == "weights":
            return WeightNetwork(
                self.num_subcarriers,
                self.num_history,
                self.num_horizon,
                taps=s.taps,
                order=s.order,
                maps=s.maps,
                fine=s.fine if self.duplex == "fdd" else 0,
                offset=s.offset,
                width=s.width,
                layers=s.layers,
                heads=s.heads,
                hidden=s.hidden,
                dropout=s.dropout,
            )
        return CSI4CASTNetwork(self.settings, self.num_subcarriers, self.num_history, self.num_horizon)

    def _config(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings) | {"denoiser": list(self.settings.denoiser)}

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.flatten(0, 1), x.shape[1]).unflatten(0, x.shape[:2])

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """Read a checkpoint of the authors' code without executing anything in it.

        Args:
            path: the file; a dict with ``state_dict``. Other objects in it are never built.
            **options: settings that the weights do not show, see `wichan.prediction.csi4cast_official.load_official`.

        Raises:
            StoreError, InvalidValueError: no such file, a truncated one, names or shapes that do not fit.
        """
        from wichan.prediction.csi4cast_official import load_official

        return load_official(cls, path, **options)


def checked_settings(given: dict[str, Any]) -> CSI4CASTSettings:
    """Settings whose every value has been checked.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: a name that does not exist, a value that is not allowed.
    """
    fields = {field.name: field.default for field in dataclasses.fields(CSI4CASTSettings)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        check_choice("setting", name, fields)
        if name in _CHOICES:
            checked[name] = check_choice(name, value, _CHOICES[name])
        elif name == "denoiser":
            if not isinstance(value, (list, tuple)):
                raise InvalidTypeError(f"denoiser must be a list of numbers of maps, got {type(value).__name__}")
            checked[name] = tuple(check_int("denoiser", size, minimum=1) for size in value)
        elif isinstance(fields[name], bool):
            checked[name] = bool(value)
        elif isinstance(fields[name], float):
            checked[name] = check_real(name, value, minimum=0.0, maximum=0.9)
        else:
            checked[name] = check_int(name, value, minimum=_MINIMA.get(name, 1))
    settings = CSI4CASTSettings(**checked)
    for divisor, of in (("groups", "channels"), ("heads", "width")):
        if getattr(settings, of) % getattr(settings, divisor):
            raise InvalidValueError(f"{of}={getattr(settings, of)} is not divisible by {divisor}={getattr(settings, divisor)}")
    return settings
