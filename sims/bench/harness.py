"""Paired timing: wichan and its peer in turn, in one process, medians and their ratio; nothing is gated on a time."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds a unit (sample, slot, frame, MB) of both, and how much faster wichan is."""

    kernel: str
    setting: str
    unit: str
    wichan: float
    peer_name: str
    peer: float
    target: str = ""
    floor: float | None = None

    @property
    def ratio(self) -> float:
        """How many times faster than the peer."""
        return self.peer / self.wichan

    @property
    def floor_fraction(self) -> float | None:
        """Share of the floor that is reached (1 = the floor itself)."""
        return None if self.floor is None else self.floor / self.wichan


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int, ours_calls: int = 1) -> tuple[float, float]:
    """Median seconds of ``ours`` and ``peer``, measured in turn after one warm-up each.

    ``ours_calls`` calls are timed together where one call is too short for the clock.
    """
    ours()
    peer()
    mine, theirs = [], []
    for _ in range(repeats):
        theirs.append(seconds(peer))
        mine.append(seconds(lambda: [ours() for _ in range(ours_calls)]) / ours_calls)
    return statistics.median(mine), statistics.median(theirs)


def median_seconds(work: Callable[[], Any], repeats: int = 9) -> float:
    """Median wall time after one warm-up."""
    work()
    return statistics.median(seconds(work) for _ in range(repeats))


def gemm_rate(links: int = 640, clusters: int = 23, subcarriers: int = 750, batch: int = 8) -> float:
    """Complex GEMM rate [FLOP/s] of this machine at the synthesis kernel's shape, into a warm buffer."""
    left = torch.randn(batch, links, clusters, dtype=torch.complex64)
    right = torch.randn(batch, clusters, subcarriers, dtype=torch.complex64)
    out = torch.empty(batch, links, subcarriers, dtype=torch.complex64)
    return 8 * batch * links * clusters * subcarriers / median_seconds(lambda: torch.bmm(left, right, out=out), 15)


def fill_rate(megabytes: int = 256) -> float:
    """Rate [bytes/s] at which zeros are written into a warm buffer larger than the caches that matter."""
    target = torch.ones(megabytes << 18, dtype=torch.float32)
    return target.numel() * 4 / median_seconds(target.zero_, 7)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    packages = {}
    for name in ("torch", "numpy", "h5py", "sionna-no-rt", "sionna", "gmm-estimator", "qce"):
        try:
            packages[name] = version(name)
        except ImportError:
            continue
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model
        )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "packages": packages,
    }


def _time(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table."""
    print("| kernel | setting | wichan | peer | ratio | target | of the floor |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        floor = "" if row.floor_fraction is None else f"{row.floor_fraction:.0%}"
        per = f"/{row.unit}"
        print(
            f"| {row.kernel} | {row.setting} | {_time(row.wichan)}{per} | {row.peer_name} {_time(row.peer)}{per} "
            f"| {row.ratio:.3g}x | {row.target} | {floor} |",
            flush=True,
        )


def save(rows: Sequence[Row], path: Path, **facts: Any) -> None:
    """Write the rows, the machine and ``facts`` (the command, ...) as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {
        **facts,
        "machine": machine(),
        "rows": [asdict(row) | {"ratio": row.ratio, "floor_fraction": row.floor_fraction} for row in rows],
    }
    path.write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
