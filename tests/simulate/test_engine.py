"""Runs to disk: the same bits whatever the shard size, workers, parts, kills and interrupts; and what a run reports."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wichan import store
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, WichanWarning
from wichan.simulate import DryRun, Progress, Recipe, RunReport, load_recipe, plan_report, run
from wichan.simulate.engine import prepare
from wichan.simulate.ofdm import OFDMSampler
from wichan.simulate.workers import WorkerPool

SMALL = {
    "grid.num_ofdm_symbols": 4,
    "grid.num_subcarriers": 12,
    "pilots.symbols": [0, 3],
    "max_doppler": {"uniform": [0, 100]},
    "snr_db": {"uniform": [0, 10]},
}
CELLS = {"slow": {"max_doppler": 1}, "mid": {"max_doppler": 50}, "fast": {"max_doppler": 90}}


def small(**overrides: Any) -> Recipe:
    return load_recipe("ofdm-siso", {**SMALL, "split": "train", **overrides})


def hashes(folder: Path) -> dict[str, str]:
    return {shard.name: shard.sha256 for shard in store.load_manifest(folder).shards}


def samples(folder: Path, **selection: Any) -> dict[str, torch.Tensor]:
    data = store.open(folder, **selection)
    return data.batch(range(len(data)))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 1,700 samples in shards of one block."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(small(), folder, n=1700, shard_size=256)
    return folder


# -- The same bits. --


def test_shard_size_does_not_change_samples(whole: Path, tmp_path: Path) -> None:
    run(small(), tmp_path / "out", n=1700, shard_size=768)
    assert len(hashes(tmp_path / "out")) == 3 != len(hashes(whole))
    assert equal(samples(whole), samples(tmp_path / "out"))


@pytest.mark.parametrize("n", [1, 256, 300])
def test_smaller_n_is_a_prefix(whole: Path, tmp_path: Path, n: int) -> None:
    run(small(), tmp_path / "out", n=n)
    first = {name: value[:n] for name, value in samples(whole).items()}
    assert equal(samples(tmp_path / "out"), first)


def test_a_subset_of_cells_equals_the_full_run(tmp_path: Path) -> None:
    settings = {"split": "test", "splits.test.cells": CELLS}
    run(small(**settings), tmp_path / "all", n=40)
    run(small(**settings, cell=["fast", "slow"]), tmp_path / "some", n=40)
    assert len(store.open(tmp_path / "all")) == 120
    for cell in ("slow", "fast"):
        assert equal(samples(tmp_path / "all", cells=[cell]), samples(tmp_path / "some", cells=[cell]))


def test_four_workers_write_the_same_bytes_as_one(whole: Path, tmp_path: Path) -> None:
    report = run(small(), tmp_path / "out", n=1700, shard_size=256, workers=4)
    assert (report.workers, report.samples, report.complete) == (4, 1700, True)
    assert hashes(tmp_path / "out") == hashes(whole)
    assert store.verify(tmp_path / "out").ok


def test_threads_of_the_caller_do_not_change_samples(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, sample = set(), OFDMSampler.sample
    monkeypatch.setattr(OFDMSampler, "sample", lambda *a, **k: (seen.add(torch.get_num_threads()), sample(*a, **k))[1])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(small(), tmp_path / "out", n=1700, shard_size=256)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}  # kernels of small blocks happen to give the same bits with two threads, larger ones do not
    assert hashes(tmp_path / "out") == hashes(whole)


def test_parts_together_equal_the_whole(whole: Path, tmp_path: Path) -> None:
    reports = [run(small(), tmp_path / "out", n=1700, shard_size=256, shard=f"{i}/3") for i in (2, 3, 1)]
    assert [report.samples for report in reports] == [256 + 256, 256 + 256, 3 * 256 - 92]
    assert [report.complete for report in reports] == [False, False, True]
    assert hashes(tmp_path / "out") == hashes(whole)
    assert store.verify(tmp_path / "out").ok


def test_another_seed_gives_other_samples(whole: Path, tmp_path: Path) -> None:
    run(small(), tmp_path / "out", n=20, seed=1)
    assert not torch.equal(samples(tmp_path / "out")["h"], samples(whole)["h"][:20])
    with pytest.raises(StoreError):
        run(small(), tmp_path / "out", n=20, seed=2)


# -- Interruptions. --

KILLED = """
import os, signal, sys
from wichan.simulate import recipe_from_dict, run
import json
def callback(progress):
    if progress.samples_done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
run(recipe_from_dict(json.loads(sys.argv[1])), sys.argv[2], n=1700, shard_size=256, progress=callback)
"""


def test_killed_three_times_it_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    recipe, out = json.dumps(small().plain()), tmp_path / "out"
    for after in (1, 3 * 256, 2 * 256):  # samples computed since the start of each attempt
        done = subprocess.run([sys.executable, "-c", KILLED, recipe, str(out), str(after)], timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL
    report = run(small(), out, n=1700, shard_size=256)
    assert 0 < report.samples <= 1700
    assert report.samples + report.samples_found == 1700
    assert hashes(out) == hashes(whole)
    assert store.verify(out).ok


def test_interrupt_keeps_finished_shards(whole: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.samples_done >= 3 * 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path / "out", n=1700, shard_size=256, progress=interrupt)
    report = run(small(), tmp_path / "out", n=1700, shard_size=256)
    assert report.samples_found in (512, 768)  # the third shard may or may not have been handed over in full
    assert hashes(tmp_path / "out") == hashes(whole)


def test_a_killed_worker_is_a_clear_error_and_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    job = prepare(small(), n=1700, shard_size=256)
    with (
        pytest.raises(StoreError, match=r"worker process \d+ was killed by signal 9 \(SIGKILL; out of memory\?\); finished"),
        store.DatasetWriter(tmp_path / "out", job.header(), job.plan.cells, shard_size=256) as writer,
        WorkerPool(job.recipe, job.seed, 1) as pool,
    ):
        pool.write(writer, lambda rows: pool._workers[0].process.kill(), lambda: None)
    run(small(), tmp_path / "out", n=1700, shard_size=256)
    assert hashes(tmp_path / "out") == hashes(whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_with_workers_lists_what_they_finished(whole: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def stop(progress: Progress) -> None:
        if progress.samples_done >= 2 * 256:
            time.sleep(0.2)  # the workers go on and finish shards that this thread has not heard of
            raise error

    with pytest.raises(error):
        run(small(), tmp_path / "out", n=1700, shard_size=256, workers=2, progress=stop)
    files = {path.name for path in (tmp_path / "out").glob("shard-*.h5")}
    assert len(files) >= 2
    assert set(hashes(tmp_path / "out")) == files  # nothing is made again
    assert not list((tmp_path / "out").glob(".tmp-*"))
    report = run(small(), tmp_path / "out", n=1700, shard_size=256)
    assert isinstance(report, RunReport)
    assert report.samples == 1700 - sum(256 if name != "shard-00006.h5" else 164 for name in files)
    assert hashes(tmp_path / "out") == hashes(whole)


TERMINATED = """
import json, os, signal, sys
from wichan.simulate import recipe_from_dict, worker
from wichan.simulate.engine import prepare
from wichan.store import DatasetWriter
class Pipe:
    def __init__(self, messages):
        self.messages, self.sent = messages, []
    def recv(self):
        return self.messages.pop(0)
    def send(self, message):
        if message[0] == "shard":
            os.kill(os.getpid(), signal.SIGTERM)  # the shard is in place, its report is not out
        self.sent.append(message[0])
job = prepare(recipe_from_dict(json.loads(sys.argv[1])), n=512, shard_size=256)
with DatasetWriter(sys.argv[2], job.header(), job.plan.cells, shard_size=256) as writer:
    pipe = Pipe([{"recipe": job.recipe.plain(), "seed": 0}, *map(writer.job, writer.pending)])
    worker.serve(pipe)
print(*pipe.sent, len(pipe.messages))
"""


def test_a_worker_told_to_stop_still_reports_a_shard_that_is_in_place(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TERMINATED, json.dumps(small().plain()), str(tmp_path / "out")]
    done = subprocess.run(command, timeout=120, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["block", "shard", "1"]  # and it takes no other shard


def test_an_error_in_a_worker_is_its_own_error(tmp_path: Path) -> None:
    job = prepare(small(), n=300)
    with WorkerPool(job.recipe, job.seed, 1) as pool, pytest.raises(InvalidValueError, match="profile='Z' is unknown"):
        worker = pool._workers[0]
        pool._stop()
        pool._setup["recipe"] = {**pool._setup["recipe"], "profile": "Z"}  # type: ignore[dict-item]
        pool._workers.append(pool._start())
        pool._receive(pool._workers[0])
    assert worker.process.returncode is not None


# -- What a run says. --


def test_progress_counts_every_sample(tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = run(small(), tmp_path / "out", n=600, shard_size=256, progress=seen.append)
    assert isinstance(report, RunReport)
    assert [p.samples_done for p in seen] == [256, 512, 600]
    last = seen[-1]
    assert (last.samples_total, last.samples_found, last.shards_total, last.shards_done) == (600, 0, 3, 2)
    assert last.bytes_done == last.bytes_total == report.bytes > 600 * 48 * 16
    assert last.seconds_left == 0 and last.samples_per_second > 0 and last.bytes_per_second > 0
    again = run(small(), tmp_path / "out", n=600, shard_size=256, progress=seen.append)
    assert (again.samples, again.samples_found, len(seen)) == (0, 600, 3)
    assert report.to_dict()["path"] == str(tmp_path / "out")


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    plan = run(small(), tmp_path / "out", n=1700, dry_run=True)
    assert isinstance(plan, DryRun)
    assert (plan.cells, plan.samples, plan.workers) == (1, 1700, 1)
    assert plan.bytes == 1700 * (48 * 16 + 4 * 4 + 1)
    assert plan.seconds > 0
    assert not (tmp_path / "out").exists()
    assert plan_report(small(), n=1700, shard="1/4", shard_size=256).samples == 512
    assert plan_report("csi-rrg").bytes == 27_000 * (32 * (16 + 4 + 4) * 300 * 8 + 4 * 3 + 1)


def test_a_disk_too_small_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    per_sample = 48 * 16 + 4 * 4 + 1
    asked, free = [], [0]

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(10**12, 0, free[0])  # type: ignore[attr-defined]

    monkeypatch.setattr("wichan.simulate.space.shutil.disk_usage", usage)
    new = tmp_path / "a" / "b"
    free[0] = 512 * per_sample - 1
    with pytest.raises(StoreError, match=r"^disk too small: .*/a/b needs 392.5 KiB more, and .* has 392.5 KiB free; [^\n]*$"):
        run(small(), new, n=512)
    assert not new.parent.exists()
    assert asked == [tmp_path]
    (warning,) = run(small(), new, n=512, dry_run=True).warnings
    assert warning.startswith("disk too small")
    free[0] += 1
    assert not plan_report(small(), new, n=512).warnings
    free[0] = 256 * per_sample
    assert plan_report(small(), new, n=512, shard_size=256).warnings
    assert not plan_report(small(), new, n=512, shard_size=256, shard="1/2").warnings


def test_only_bytes_still_to_be_written_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"n": 512, "shard_size": 256}
    out, size = tmp_path / "out", 256 * (48 * 16 + 4 * 4 + 1)
    run(small(), out, **settings)
    free = [0]
    monkeypatch.setattr("wichan.simulate.space.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free[0]))
    assert run(small(), out, **settings).samples == 0  # type: ignore[union-attr]
    (out / "shard-00001.h5").write_bytes(b"cut short")
    free[0] = size - 10
    with pytest.raises(StoreError, match="disk too small"):
        run(small(), out, **settings)
    (out / ".tmp-shard-00001.h5-0123abcd").write_bytes(bytes(10))  # of a killed run: the next one removes it
    with pytest.warns(WichanWarning, match="1 listed shard missing or cut short"):
        assert run(small(), out, **settings).samples == 256  # type: ignore[union-attr]


def test_interference_near_the_noise_warns_once(tmp_path: Path) -> None:
    risky = small(max_doppler=1500.0, snr_db=20.0)
    with pytest.warns(WichanWarning, match="within 10 dB of the noise") as caught:
        report = run(risky, tmp_path / "a", n=1)
    assert len(caught) == len(report.warnings) == 1  # type: ignore[union-attr]
    lines: list[str] = []
    run(risky, tmp_path / "b", n=1, on_warning=lines.append)
    assert tuple(lines) == report.warnings  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": "a"}, "seed='a' must be an integer"),
        ({"shard": "3/2"}, "shard=3/2: i must be between 1 and n=2"),
        ({"shard_size": 100}, "shard_size=100 must be a multiple of the block size 256"),
        ({"device": "tpu"}, "device='tpu' is unknown"),
        ({"device": "mps"}, "device='mps' is not supported; allowed are auto, cpu, cuda"),
        ({"device": "meta"}, "device='meta' is not supported; allowed are auto, cpu, cuda"),
        ({"device": "cpu:3"}, "device='cpu:3' is not supported; allowed are auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device='cuda:99' is not available; this machine has [0-9]+ CUDA devices"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        run(small(), tmp_path / "out", **{"n": 5, **arguments})
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("spoil", [lambda folder: (folder / "foreign.txt").write_text("x"), lambda folder: None])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    if spoil(folder) is None:
        run(load_recipe("ofdm-siso", {**SMALL, "split": "val"}), folder, n=5)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError):
        run(small(), folder, n=5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
