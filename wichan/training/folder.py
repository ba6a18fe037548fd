"""The folder of a run: settings, state, best weights, metrics."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from wichan.errors import InvalidValueError, StoreError
from wichan.store.files import write_atomic
from wichan.training.config import FREE, TrainConfig

CONFIG, STATE, BEST, METRICS, EVENTS = "config.yaml", "last.safetensors", "best.safetensors", "metrics.csv", "tensorboard"


class RunFolder:
    """Paths and small files of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state, self.best, self.metrics = self.path / STATE, self.path / BEST, self.path / METRICS

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / CONFIG).exists()

    def read_config(self) -> TrainConfig:
        """Settings of the run that the folder holds.

        Raises:
            StoreError: there is none. InvalidValueError: a setting that this version does not know.
        """
        from wichan.simulate.yamlio import read_yaml

        if not self.holds_run:
            raise StoreError(f"{self.path} holds no training run to resume (no {CONFIG})")
        return TrainConfig.from_dict(read_yaml(self.path / CONFIG), str(self.path / CONFIG))

    def check(self, config: TrainConfig, resume: bool) -> None:
        """Check that a run may begin or go on here.

        Raises:
            InvalidValueError: it holds a run and ``resume`` is off, or the run has other settings.
            StoreError: nothing to resume.
        """
        if resume:
            _check_same(self.path, self.read_config(), config)
        elif self.holds_run:
            raise InvalidValueError(f"out={str(self.path)!r} holds a training run; resume it or choose another folder")

    def begin(self, config: TrainConfig) -> None:
        """Make the folder and write the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        write_atomic(self.path / CONFIG, text.encode())

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append a row to the table."""
        new = not self.metrics.exists()
        with self.metrics.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows of steps that are done again."""
        if not self.metrics.exists():
            return
        with self.metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(kept)
            write_atomic(self.metrics, text.getvalue().encode())


def _check_same(path: Path, old: TrainConfig, new: TrainConfig) -> None:
    before, now = old.to_dict(), new.to_dict()
    for name, value in now.items():
        if name not in FREE and before[name] != value:
            raise InvalidValueError(
                f"out={str(path)!r} holds a run with {name}={before[name]!r}, not {value!r}; it cannot be resumed"
            )
