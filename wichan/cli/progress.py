"""Progress: a bar with samples/s, MB/s and time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any

from wichan.cli.console import human_bytes, human_seconds, stderr

_PLAIN_PERIOD = 5.0


class ProgressReport:
    """Shows how far a long run is, on stderr.

    Args:
        label: what is being done, one or two words.
        unit: what is counted.

    Use as a context manager and call `update` with totals, from any thread.
    """

    def __init__(self, label: str, *, unit: str = "samples") -> None:
        self.label, self.unit = label, unit
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last_line = 0.0

    def __enter__(self) -> ProgressReport:
        self._start = self._last_line = time.monotonic()
        if stderr().is_terminal:
            self._bar = _rich_bar(self.unit)
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=None, speed="", left="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def label_now(self, text: str) -> None:
        """Change what the bar says beside its label; where there is no bar, nothing."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self.label}: {text}")

    def update(
        self, done: int, total: int, rate: float | None = None, byte_rate: float = 0.0, seconds_left: float | None = None
    ) -> None:
        """Tell how far the run is.

        Args:
            done: units that are there; the clock of the mean rate starts at 0.
            total: units in all.
            rate: units a second; default: the mean since the start.
            byte_rate: bytes a second; 0 leaves it out.
            seconds_left: default: what the rate implies.
        """
        if not done:  # what came before was preparation, and says nothing of the rate
            self._start = time.monotonic()
        if rate is None:
            rate = done / max(time.monotonic() - self._start, 1e-9)
        if seconds_left is None:
            seconds_left = (total - done) / rate if rate > 0 else math.inf
        speed = f"{rate:.3g} {self.unit}/s" if rate < 100 else f"{rate:,.0f} {self.unit}/s"
        if byte_rate:
            speed += f", {human_bytes(byte_rate)}/s"
        left = f"{human_seconds(seconds_left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, speed=speed, left=left)
        elif time.monotonic() - self._last_line >= _PLAIN_PERIOD:
            self._last_line = time.monotonic()
            share = 100 * done / max(total, 1)
            stderr().print(f"{self.label}: {done:,}/{total:,} {self.unit} ({share:.0f} %), {speed}, {left}", soft_wrap=True)


def _rich_bar(unit: str) -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
        console=stderr(),
        transient=True,
        refresh_per_second=4,
    )
