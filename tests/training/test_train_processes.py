"""Several processes that train one network."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wichan.training import TrainConfig, TrainProgress, fit, load_weights
from wichan.training.data import Share
from wichan.training.fitting import Place, open_run
from wichan.training.processes import CompanionError

pytestmark = pytest.mark.slow


def test_two_processes_make_the_step_of_the_joint_batch(tiny: Callable[..., TrainConfig]) -> None:
    """One step of gradient descent on the mean loss of both shares, computed here by hand."""
    config = tiny(max_steps=1, val_every=1, loss="mse", optimiser="adamw", ema=0.0, clip=0.0, lr=1e-2, warmup=0.0)
    result = fit(config, device="cpu", devices=2, threads=1)
    assert (result.steps, result.frames) == (1, 32)
    source, task = open_run(config, Place(torch.device("cpu")))
    halves = [next(source.batches(task.columns, 16, Share(rank, 2))) for rank in range(2)]
    loss = torch.stack([task.loss(half) for half in halves]).mean()
    optimiser = task.configure_optimizers()
    loss.backward()
    optimiser.step()
    for name, mine in task.network.named_parameters():
        theirs = result.estimator.get_parameter(name)
        # Adam divides by the gradient's size: where that is near rounding, so is the quotient's error.
        assert torch.allclose(mine, theirs, atol=2e-4), name
    with torch.no_grad():
        sums = task.measure(task.network.eval(), source.fixed(task.columns, 32))
    measured = task.summary({name: float(value) for name, value in sums.items()})
    assert result.best["nmse_db"] == pytest.approx(measured["nmse_db"], abs=2e-3)


def test_ctrl_c_and_resume_with_two_processes(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = tiny(max_steps=40, val_every=20)
    before = dict(os.environ)

    def follow(state: TrainProgress) -> None:
        if state.steps == 7:
            os.kill(os.getpid(), signal.SIGINT)

    part = fit(config, out=tmp_path, device="cpu", devices=2, threads=1, progress=follow)
    assert part.stopped == "interrupted"
    assert 7 <= part.steps <= 12  # agreed every five steps
    rest = fit(config, out=tmp_path, resume=True, device="cpu", devices=2, threads=1)
    assert (rest.steps, rest.frames, rest.stopped) == (40, 40 * 32, "max_steps")
    assert load_weights(tmp_path).kind == "linear"
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()


def test_a_process_that_dies_ends_the_run_in_one_line(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wichan.training.processes as processes

    started: list[Any] = []
    real = processes.subprocess.Popen

    def remembered(*args: Any, **options: Any) -> Any:
        started.append(real(*args, **options))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", remembered)

    def follow(state: TrainProgress) -> None:
        if state.steps == 3:
            started[0].kill()
            started[0].wait()

    with pytest.raises(CompanionError, match="^one of the 2 processes of the run ended with exit code -9$"):
        fit(tiny(max_steps=1000, val_every=1000), device="cpu", devices=2, threads=1, progress=follow)
