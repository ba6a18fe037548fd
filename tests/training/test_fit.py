"""A run from start to end: it learns, it resumes to the same bits, it stops when it should, it says what is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError
from wichan.training import LOSSES, DivergedError, TrainConfig, TrainProgress, fit, load_weights
from wichan.training.data import open_source
from wichan.training.state import read_state

Make = Callable[..., TrainConfig]


def train(config: TrainConfig, **options: Any) -> Any:
    return fit(config, device="cpu", **options)


def interrupt_at(step: int) -> Callable[[TrainProgress], None]:
    """Press Ctrl-C after a step."""

    def follow(state: TrainProgress) -> None:
        if state.steps == step and not state.metrics:
            os.kill(os.getpid(), signal.SIGINT)

    return follow


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


# -- It learns. --


def test_a_run_learns_and_leaves_a_folder(tiny: Make, tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    config = tiny(max_steps=150, val_every=50, lr=0.02, batch_size=32)
    result = train(config, out=tmp_path / "deep" / "run", progress=seen.append)
    folder = tmp_path / "deep" / "run"
    assert (result.steps, result.frames, result.stopped, result.folder) == (150, 4800, "max_steps", folder)
    scores = [float(row["val_score_db"]) for row in rows(folder)]
    assert [int(row["step"]) for row in rows(folder)] == [50, 100, 150]
    assert scores[-1] < -5  # a fresh network is at 0 dB, an untrained matrix above
    assert result.best["score_db"] == min(scores)
    assert same(load_weights(folder / "best.safetensors"), result.estimator)
    assert not result.estimator.training
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "config.yaml",
        "last.safetensors",
        "metrics.csv",
    ]
    assert [state.steps for state in seen if state.metrics] == [50, 100, 150]
    assert seen[0].used == pytest.approx(1 / 150)
    assert 0 <= result.busy <= 1
    assert json.dumps(result.to_dict())


def test_validation_metrics_are_those_of_the_kept_weights(tiny: Make) -> None:
    config = tiny("adafortitran")
    result = train(config)
    frames = open_source(config).fixed(("h", "y", "no", "delay_spread", "max_doppler"), config.val_frames)
    conditions = {name: frames[name] for name in ("delay_spread", "max_doppler")}
    with torch.no_grad():
        h_hat, _ = result.estimator(frames["y"], frames["no"], **conditions)
    # Float32 in other batch sizes.
    assert result.best["nmse_db"] == pytest.approx(float(wc.evaluation.nmse_db(h_hat, frames["h"])), abs=1e-4)
    per_frame = wc.evaluation.nmse_db(h_hat, frames["h"], dim=(1, 2, 3, 4))
    assert result.best["score_db"] == pytest.approx(float(per_frame.mean()), abs=1e-4)


def test_err_var_is_calibrated_in_the_end(tiny: Make) -> None:
    config = tiny(max_steps=100, val_every=50, lr=0.02, val_frames=256)
    result = train(config)
    frames = open_source(config).fixed(("h", "y", "no"), 512, "calibration")
    with torch.no_grad():
        h_hat, err_var = result.estimator(frames["y"], frames["no"])
    half = slice(0, 256)  # the frames that set the scale
    ratio = ((h_hat - frames["h"]).abs().square() / err_var)[half].mean()
    assert float(result.estimator.error_head.scale) != 1.0
    assert float(ratio) == pytest.approx(1.0, abs=1e-4)  # by construction, to float32


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generators_alone(tiny: Make) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    first, second, other = (train(tiny("fortitran", seed=seed), threads=1) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert same(first.estimator, second.estimator)
    assert not same(first.estimator, other.estimator)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "adam", "schedule": "constant", "ema": 0.0, "clip": 0.0},
        {"loss": "mse", "schedule": "exponential", "weight_decay": 0.1},
        {"precision": "bf16-mixed"},
        {"model_options": {"preset": "paper", "width": 8, "layers": 1}, "loss": "nmse+nll"},
    ],
)
def test_other_settings(tiny: Make, settings: dict[str, Any]) -> None:
    result = train(tiny("fortitran", **settings))
    assert result.steps == 12
    assert all(torch.isfinite(value).all() for value in result.estimator.state_dict().values())


def test_half_precision_wraps_the_forward_pass(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    make = wc.estimators.FortiTran._build

    def spied(self: Any) -> torch.nn.Module:
        network = make(self)
        network.upsampler.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        return network

    monkeypatch.setattr(wc.estimators.FortiTran, "_build", spied)
    train(tiny("fortitran", precision="bf16-mixed", max_steps=1, loss="mse", ema=0.0))
    first = seen.index(torch.float32)  # a batch goes through in pieces
    assert first > 0
    assert set(seen[:first]) == {torch.bfloat16}  # the step
    assert set(seen[first:]) == {torch.float32}  # validation


def test_the_gradient_is_clipped(tiny: Make, tmp_path: Path) -> None:
    # Adam's first step has the same length whatever the gradient's, but its first moment is a tenth of the gradient.
    moments = []
    for clip in (0.0, 1e-3):
        folder = tmp_path / str(clip)
        train(tiny(max_steps=1, clip=clip, loss="mse"), out=folder)
        tensors = read_state(folder / "last.safetensors")[1]
        moments.append(torch.cat([v.flatten() for k, v in tensors.items() if k.endswith("exp_avg")]).norm() / (1 - 0.9))
    assert moments[0] > 2e-3
    assert float(moments[1]) == pytest.approx(1e-3, rel=1e-3)


def test_events_for_tensorboard_where_it_is_installed(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path / "tensorboard")
            assert purge_step == 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def flush(self) -> None: ...

        def close(self) -> None:
            written.append(("closed", 0))

    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    train(tiny(), out=tmp_path)
    assert [step for name, step in written if name == "val/nmse_db"] == [4, 8, 12]
    assert written[-1] == ("closed", 0)


def test_without_tensorboard_one_note_says_so(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notes: list[str] = []
    train(tiny(), out=tmp_path, on_note=notes.append)
    assert notes == ["tensorboard is not installed: metrics go to metrics.csv only"]


# -- It resumes. --


@pytest.mark.parametrize(
    ("model", "step", "settings"), [("linear", 5, {}), ("fortitran", 6, {}), ("fortitran", 2, {"ema": 0.0})]
)
def test_a_resumed_run_ends_in_the_same_bits(
    tiny: Make, tmp_path: Path, model: str, step: int, settings: dict[str, Any]
) -> None:
    config = tiny(model, **settings)
    whole = train(config, out=tmp_path / "whole")
    part = train(config, out=tmp_path / "part", progress=interrupt_at(step))
    assert (part.stopped, part.steps) == ("interrupted", step)
    assert load_weights(tmp_path / "part" / "best.safetensors").kind == model  # Ctrl-C keeps weights, early as it came
    rest = train(config, out=tmp_path / "part", resume=True)
    assert (rest.steps, rest.stopped) == (12, "max_steps")
    assert rest.best == whole.best
    assert same(rest.estimator, whole.estimator)
    states = [read_state(tmp_path / name / "last.safetensors")[1] for name in ("whole", "part")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    columns = ("step", "frames", "lr", "val_nmse_db", "val_score_db", "val_error_ratio", "val_loss")
    picked = [[[row[name] for name in columns] for row in rows(tmp_path / name)] for name in ("whole", "part")]
    assert picked[0] == picked[1]
    assert rest.seconds > part.seconds


def test_a_finished_run_can_be_prolonged(tiny: Make, tmp_path: Path) -> None:
    train(tiny(schedule="constant", warmup=0.0), out=tmp_path / "run")
    again = train(tiny(schedule="constant", warmup=0.0), out=tmp_path / "run", resume=True)
    assert (again.steps, again.stopped) == (12, "max_steps")
    longer = train(tiny(schedule="constant", warmup=0.0, max_steps=20), out=tmp_path / "run", resume=True)
    assert longer.steps == 20
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [4, 8, 12, 16, 20]
    # Nothing in a constant schedule depends on the budget: the prolonged run is the long run.
    assert same(longer.estimator, train(tiny(schedule="constant", warmup=0.0, max_steps=20)).estimator)


def test_metrics_that_the_state_does_not_know_are_written_anew(tiny: Make, tmp_path: Path) -> None:
    train(tiny(), out=tmp_path, progress=interrupt_at(6))
    with (tmp_path / "metrics.csv").open("a") as file:  # as if the machine had died between table and state
        file.write((tmp_path / "metrics.csv").read_text().splitlines()[1].replace("4,", "8,", 1) + "\n")
    train(tiny(), out=tmp_path, resume=True)
    assert [int(row["step"]) for row in rows(tmp_path)] == [4, 8, 12]


def test_files_hold_numbers_and_no_pickle(tiny: Make, tmp_path: Path) -> None:
    train(tiny(), out=tmp_path)
    for name in ("last.safetensors", "best.safetensors"):
        data = (tmp_path / name).read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        assert all(isinstance(value, torch.Tensor) for value in load_file(tmp_path / name).values())
        assert "format" in header["__metadata__"]
    notes = json.loads(header["__metadata__"]["training"])
    assert TrainConfig.from_dict(notes["config"]) == tiny()
    assert notes["metrics"]["nmse_db"] == pytest.approx(float(rows(tmp_path)[-1]["val_nmse_db"]))


# -- It stops. --


def test_time_counts_over_all_parts(tiny: Make, tmp_path: Path) -> None:
    config = tiny(max_time=1.0, val_every=1000)
    first = train(config, out=tmp_path, progress=interrupt_at(2))
    rest = train(config, out=tmp_path, resume=True)
    assert first.stopped == "interrupted"
    assert rest.stopped == "max_time"
    assert 1.0 <= rest.seconds < 1.0 + 5.0  # one step more, on a machine that may be busy
    assert rest.best  # a validation closes the run, though none was due
    assert train(config, out=tmp_path, resume=True).steps == rest.steps  # nothing is left of the budget


def test_epochs_of_a_stream(tiny: Make, tiny_recipe: dict[str, Any]) -> None:
    small = tiny_recipe | {"splits.train.num_samples": 40}
    assert train(tiny(max_epochs=3, overrides=small)).steps == 3 * (40 // 16)


def test_patience(tiny: Make, tmp_path: Path) -> None:
    # At this rate nothing moves, and equal is no improvement.
    config = tiny(max_steps=100, patience=2, lr=1e-30, ema=0.0)
    result = train(config, out=tmp_path)
    assert (result.stopped, result.steps, result.best_step) == ("patience", 12, 4)
    assert train(config, out=tmp_path, resume=True).stopped == "patience"


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_best(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [0], LOSSES["mse"]

    def failing(estimate: Any, h: torch.Tensor) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return real(estimate, h) * (float("nan") if calls[0] > 6 else 1.0)

    monkeypatch.setitem(LOSSES, "mse", failing)
    with pytest.raises(DivergedError, match="^the loss is nan after 7 steps; the best weights are kept[^\n]*$"):
        train(tiny(loss="mse"), out=tmp_path)
    assert same(load_weights(tmp_path), load_weights(tmp_path / "best.safetensors"))
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / "best.safetensors").values())
    monkeypatch.setitem(LOSSES, "mse", real)
    assert train(tiny(loss="mse"), out=tmp_path, resume=True).steps == 12  # from the last good state


# -- What is wrong. --


@pytest.mark.parametrize(
    ("settings", "options", "error", "text"),
    [
        ({"model_options": {"widht": 3}}, {}, UnknownNameError, "widht"),
        ({"model_options": {"preset": "papre"}}, {}, UnknownNameError, "did you mean 'paper'"),
        ({"overrides": {"grid.subcarriers": 3}}, {}, UnknownNameError, "grid.subcarriers"),
        ({"stream": "ofdm-sisi"}, {}, UnknownNameError, "did you mean 'ofdm-siso'"),
        ({}, {"resume": True}, InvalidValueError, "resume needs the folder"),
        ({}, {"devices": 0}, InvalidValueError, "devices=0"),
        ({}, {"threads": 0}, InvalidValueError, "threads=0"),
        ({}, {"device": "tpu"}, InvalidValueError, "device='tpu'"),
    ],
)
def test_wrong_requests_are_one_line(
    tiny: Make, settings: dict[str, Any], options: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    where = {} if options.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(error, match="^[^\n]*$") as caught:
        fit(tiny("fortitran", **settings), **({"device": "cpu"} | where | options))
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_no_settings() -> None:
    with pytest.raises(InvalidTypeError, match="config must be a TrainConfig, got str"):
        fit("linear")  # type: ignore[arg-type]


def test_folders_that_cannot_be_resumed(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no training run"):
        train(tiny(), out=tmp_path, resume=True)
    train(tiny(), out=tmp_path)
    with pytest.raises(InvalidValueError, match="holds a training run; resume it"):
        train(tiny(), out=tmp_path)
    with pytest.raises(InvalidValueError, match="a run with model='linear', not 'fortitran'"):
        train(tiny("fortitran"), out=tmp_path, resume=True)
    with pytest.raises(InvalidValueError, match=r"a run with lr=0\.0002, not 0\.5"):
        train(tiny(lr=0.5), out=tmp_path, resume=True)
    state = tmp_path / "last.safetensors"
    whole = state.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\x80\x04pickle", (tmp_path / "best.safetensors").read_bytes()):
        state.write_bytes(damaged)
        with pytest.raises(StoreError, match="^[^\n]*$"):
            train(tiny(max_steps=30), out=tmp_path, resume=True)
    state.write_bytes(whole)
    (tmp_path / "config.yaml").write_text("model: linear\nwarp: 9\n")
    with pytest.raises(UnknownNameError, match="setting='warp'"):
        train(tiny(), out=tmp_path, resume=True)


def test_a_run_that_died_before_its_first_state_begins_anew(tiny: Make, tmp_path: Path) -> None:
    train(tiny(), out=tmp_path)
    (tmp_path / "last.safetensors").unlink()
    result = train(tiny(), out=tmp_path, resume=True)
    assert result.steps == 12
    assert [int(row["step"]) for row in rows(tmp_path)] == [4, 8, 12]


def test_sigterm_ends_a_run_as_ctrl_c_does(tiny: Make, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def follow(state: TrainProgress) -> None:
        if state.steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train(tiny(), out=tmp_path, progress=follow)
    assert (result.steps, result.stopped) == (5, "interrupted")
    assert read_state(tmp_path / "last.safetensors")[0].steps == 5
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_run_in_a_thread(tiny: Make) -> None:
    # Signals belong to the main thread: a run elsewhere must do without.
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(train(tiny())))
    thread.start()
    thread.join()
    assert done[0].steps == 12


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_gpu(tiny: Make, tmp_path: Path, precision: str) -> None:
    config = tiny("adafortitran", precision=precision, warm_start=512)
    part = fit(config, out=tmp_path, device="cuda", progress=interrupt_at(6))
    rest = fit(config, out=tmp_path, device="cuda", resume=True)
    assert (part.steps, rest.steps) == (6, 12)
    assert next(rest.estimator.parameters()).device.type == "cpu"
    here = train(tiny("adafortitran", warm_start=512))
    # The channels are the same, the noise and the dropout are not.
    assert rest.best["nmse_db"] == pytest.approx(here.best["nmse_db"], abs=1.0)
