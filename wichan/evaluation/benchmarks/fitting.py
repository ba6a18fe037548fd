"""Predictors that learn second moments: fitted on the training cells when they are asked for, and kept beside the results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wichan.errors import StoreError
from wichan.evaluation.benchmarks.channels import LiveChannels
from wichan.evaluation.benchmarks.scenarios import cells
from wichan.observations import AWGN
from wichan.prediction import PREDICTORS, Predictor
from wichan.random import make_generator
from wichan.store.files import write_atomic

#: SNR of the histories in the fit [dB], uniform, as the published models were trained.
FIT_SNR_DB = (0.0, 25.0)


@dataclass(frozen=True)
class Fit:
    """What a fit depends on.

    Attributes:
        source: computed channels; a data set to be scored is not fitted on.
        per_cell: samples of each of the 27 training cells.
        seed: of the noise.
        duplex: ``"tdd"`` or ``"fdd"``.
        folder: where fitted predictors are kept; None: nowhere.
    """

    source: LiveChannels
    per_cell: int
    seed: int
    duplex: str
    folder: Path | None = None

    @property
    def num_samples(self) -> int:
        """Samples in all."""
        return self.per_cell * len(cells("train"))

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a fit depends on, plain JSON."""
        facts = {"samples": self.num_samples, "seed": self.seed, "duplex": self.duplex, "snr_db": list(FIT_SNR_DB)}
        return facts | {"channels": self.source.describe()}

    def note(self, name: str) -> str:
        """How the predictor was made, in a few words."""
        return f"{name}, fitted on {self.num_samples:,} training samples with AWGN of {FIT_SNR_DB[0]:g} to {FIT_SNR_DB[1]:g} dB"

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Training pairs, block by block: block 0 of every cell, then block 1, ..."""
        size = self.source.block_size
        noise = AWGN(FIT_SNR_DB)
        for index in range(-(-self.per_cell // size)):
            for cell in cells("train"):
                block = self.source.block("train", cell, index, self.duplex)
                count = min(size, self.per_cell - index * size)
                generator = make_generator(self.seed, "csi-rrg-fit", cell.name, index, device=block.history.device)
                history, _ = noise(block.history, generator=generator)
                yield history[:count], block.target[:count]


def fitted(name: str, fit: Fit) -> Predictor:
    """Return ``ar`` or ``wiener`` for a duplex mode, fitted now or read from ``fit.folder``.

    Raises:
        StoreError: a damaged file in the folder.
    """
    kind: Any = PREDICTORS[name]
    path = None if fit.folder is None else fit.folder / "fitted" / f"{name}-{fit.duplex}.safetensors"
    kept = None if path is None or not path.exists() else _read(kind, path, fit)
    if kept is not None:
        return kept
    sizes = {"num_history": fit.source.recipe.num_history, "num_horizon": fit.source.recipe.num_horizon}
    predictor = kind(**sizes) if name == "ar" else kind(duplex=fit.duplex, **sizes)
    predictor.fit(fit.batches())
    if path is not None:
        _write(predictor, path, fit)
    return predictor.eval()


def _write(predictor: Any, path: Path, fit: Fit) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in predictor.state_dict().items()}
    notes = {"config": json.dumps(predictor.config()), "fit": json.dumps(fit.identity, sort_keys=True)}
    write_atomic(path, save(state, metadata=notes))


def _read(kind: Any, path: Path, fit: Fit) -> Predictor | None:
    """What was kept; None if it was fitted otherwise, by a run that was stopped before it said what it is about."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
            config = json.loads(notes["config"])
            if notes.get("fit") != json.dumps(fit.identity, sort_keys=True):
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        predictor = kind.from_config(config)
        predictor.load_state_dict(state)
    except Exception as error:  # whatever is wrong with it, the file is not what was written
        raise StoreError(f"{path} is damaged ({' '.join(str(error).split()):.100}); remove it and run again") from None
    return predictor.eval()
