"""The folder of a run: what it is about, and one HDF5 file of scores a finished cell. A run that was stopped goes on here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from wichan.errors import InvalidValueError, StoreError
from wichan.evaluation.benchmarks.metrics import MEASURES
from wichan.evaluation.benchmarks.scoring import Job, JobScores
from wichan.store.files import write_atomic, writing

RUN_FILE = "run.json"
FORMAT, FORMAT_VERSION = "wichan-benchmark", 1
_FIELDS = ("values", "energy", "se0", "seconds")


class RunFolder:
    """Scores of finished cells, written atomically: after any crash a cell's file is whole or not there.

    Args:
        path: made if it is not there.
        about: plain JSON of everything that decides the scores; a folder of another run is refused.

    Raises:
        InvalidValueError: the folder holds a run with other arguments. StoreError: it cannot be written, or is damaged.
    """

    def __init__(self, path: str | Path, about: dict[str, Any]) -> None:
        self.path = Path(path)
        self._about = json.loads(json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **about}))
        with writing(self.path / RUN_FILE):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
        found = self._found()
        if found is None:
            write_atomic(self.path / RUN_FILE, (json.dumps(self._about, indent=2) + "\n").encode())
        elif found != self._about:
            raise InvalidValueError(
                f"out={self.path} holds a run with other arguments ({_difference(found, self._about)}); "
                "choose another folder or remove this one"
            )

    def _found(self) -> dict[str, Any] | None:
        path = self.path / RUN_FILE
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError:
            raise StoreError(f"{path} is damaged or foreign: not JSON") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise StoreError(f"{path} is foreign: it does not describe a run of a benchmark")
        return found

    def cell_file(self, job: Job) -> Path:
        """Where a job's scores lie."""
        return self.path / "cells" / f"{job.name}.h5"

    def save(self, job: Job, scores: JobScores) -> None:
        """Write a job's scores."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["job"] = json.dumps(_described(job))
            file.attrs["measures"] = ",".join(MEASURES)
            for name in _FIELDS:
                file.create_dataset(name, data=getattr(scores, name).numpy(), compression="gzip", shuffle=True)
        write_atomic(self.cell_file(job), buffer.getvalue())

    def load(self, job: Job, num_predictors: int) -> JobScores | None:
        """Scores of a finished job; None if it is not finished.

        Raises:
            StoreError: a damaged file; remove it and run again.
        """
        path = self.cell_file(job)
        if not path.exists():
            return None
        try:
            with h5py.File(path, "r") as file:
                if json.loads(file.attrs["job"]) != json.loads(json.dumps(_described(job))):
                    raise ValueError("it holds another cell")
                scores = JobScores(*(torch.from_numpy(np.asarray(file[name])) for name in _FIELDS))
        except Exception as error:  # h5py raises many kinds of errors on a damaged file
            what = " ".join(str(error).split())
            raise StoreError(f"{path} is damaged ({what:.100}); remove it and run again") from None
        if scores.values.shape[:3] != (len(job.noises), num_predictors, job.num_samples):
            raise StoreError(f"{path} is damaged (scores of shape {tuple(scores.values.shape)}); remove it and run again")
        return scores


def _described(job: Job) -> dict[str, Any]:
    noises = [list(pair) for pair in job.noises]
    return {"category": job.category, "cell": job.cell.name, "duplex": job.duplex, "noises": noises, "samples": job.num_samples}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first argument that differs, with both values."""
    for key in [*wanted, *found]:
        old, new = found.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            if list(old) != list(new):
                return f"{key}: {_names(old)} there, {_names(new)} now"
            return f"{key}: {_difference(old, new)}"
        shown = (json.dumps(part) for part in (old, new))
        return f"{key}: " + ", ".join(
            f"{text if len(text) <= 60 else text[:57] + '...'} {when}"
            for text, when in zip(shown, ("there", "now"), strict=True)
        )
    return "another order"


def _names(part: dict[str, Any]) -> str:
    words = list(part)
    return f"[{', '.join(words[:8])}{f', ... ({len(words)})' if len(words) > 8 else ''}]"
