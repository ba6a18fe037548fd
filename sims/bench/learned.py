"""AdaFortiTran beside its published form, same weights: wall and CPU time of a forward pass and of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Row, paired
from published import PublishedAdaFortiTran

from wichan.estimators import AdaFortiTran
from wichan.estimators.official import official_name

BATCH = {"paper": 128, "paper-large": 32}
STEP = 32


def _pair(preset: str, dropout: float) -> tuple[AdaFortiTran, PublishedAdaFortiTran]:
    """Ours and the published form with the same weights."""
    ours = AdaFortiTran.preset(preset, dropout=dropout)
    peer = PublishedAdaFortiTran(ours.obs.num_pilots, ours.hyper["width"], dropout)
    peer.load_state_dict({official_name("adafortitran", name): p.detach() for name, p in ours.network.named_parameters()})
    return ours, peer


def _frames(count: int, pilots: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, pilots, dtype=torch.complex64, generator=generator)
    conditions = torch.rand(count, 3, generator=generator) * torch.tensor([25.0, 300.0, 1000.0])
    return x, conditions, torch.randn(count, 120, 14, dtype=torch.complex64, generator=generator)


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _both_clocks(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> list[tuple[str, float, float]]:
    """Wall time and CPU time, each in turn, medians."""
    wall = paired(ours, peer, repeats)
    spent: list[tuple[float, float]] = [(_cpu(ours), _cpu(peer)) for _ in range(repeats)]
    middle = len(spent) // 2
    cpu = [sorted(column)[middle] for column in zip(*spent, strict=True)]
    return [("wall", *wall), ("CPU", cpu[0], cpu[1])]


def forward(repeats: int) -> list[Row]:
    """Inference; the peer with torch's fused encoder and without it, whichever is quicker."""
    rows = []
    for preset, count in BATCH.items():
        ours, peer = _pair(preset, 0.1)
        ours.eval()
        peer.eval()
        x, conditions, _ = _frames(count, ours.obs.num_pilots)
        columns = [value[:, None] for value in conditions.unbind(-1)]

        def mine(ours: Any = ours, x: Any = x, conditions: Any = conditions) -> torch.Tensor:
            with torch.no_grad():
                return ours._mean(x, conditions)

        def theirs(peer: Any = peer, x: Any = x, columns: Any = columns) -> torch.Tensor:
            with torch.no_grad():
                return peer(x, *columns)

        gap = float((mine() - theirs()).abs().max() / theirs().abs().max())
        best: list[tuple[str, float, float]] = []
        for fused in (True, False):
            torch.backends.mha.set_fastpath_enabled(fused)
            found = _both_clocks(mine, theirs, repeats)
            best = found if not best or found[1][2] < best[1][2] else best
        torch.backends.mha.set_fastpath_enabled(True)
        width = ours.hyper["width"]
        for clock, fast, slow in best:
            setting = f"forward, width {width}, batch {count}, {clock} time (outputs differ by {gap:.0e})"
            rows.append(Row("AdaFortiTran", setting, "frame", fast / count, "published form", slow / count, ">= 2x"))
    return rows


def training_step(repeats: int) -> list[Row]:
    """Forward and backward pass of the mean squared error, without dropout and with the published 10 %."""
    rows = []
    for preset, dropout in (("paper", 0.0), ("paper", 0.1), ("paper-large", 0.0)):
        ours, peer = _pair(preset, dropout)
        x, conditions, h = _frames(STEP, ours.obs.num_pilots)
        columns = [value[:, None] for value in conditions.unbind(-1)]

        def step(module: Any, estimate: Callable[[], torch.Tensor], h: torch.Tensor = h) -> None:
            module.zero_grad()
            torch.view_as_real(estimate() - h).square().mean().backward()

        def mine(ours: Any = ours, x: Any = x, conditions: Any = conditions, step: Any = step) -> None:
            step(ours, lambda: ours._mean(x, conditions))

        def theirs(peer: Any = peer, x: Any = x, columns: Any = columns, step: Any = step) -> None:
            step(peer, lambda: peer(x, *columns))

        for clock, fast, slow in _both_clocks(mine, theirs, repeats):
            setting = f"training step, width {ours.hyper['width']}, dropout {dropout}, batch {STEP}, {clock} time"
            rows.append(Row("AdaFortiTran", setting, "frame", fast / STEP, "published form", slow / STEP, ">= 2x"))
    return rows


def learned(repeats: int) -> list[Row]:
    """Both."""
    return forward(repeats) + training_step(repeats)
