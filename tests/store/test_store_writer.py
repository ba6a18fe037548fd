from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest

import wichan.store as store
from wichan.errors import InvalidValueError, StoreError, WichanError, WichanWarning


def test_finished_folder_holds_exactly_the_data_set(tmp_path, small, fingerprint):
    manifest = small.write(tmp_path / "a")
    assert manifest.complete and manifest == store.load_manifest(tmp_path / "a")
    names = [f"shard-{i:05d}.h5" for i in range(7)]
    assert list(fingerprint(tmp_path / "a")) == ["data.h5", "manifest.json", *names]
    small.write(tmp_path / "b")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_view_over_all_shards(tmp_path, small, monkeypatch):
    small.write(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    with h5py.File(tmp_path / "moved" / "data.h5") as file:
        for name, values in small.everything().items():
            assert file[name].is_virtual and np.array_equal(file[name][()], values)
        assert file["h"].attrs["unit"] == b"1"
        cells = file["cell_names"][()][file["cell"][()]]
        splits = file["split_names"][()][file["split"][()]]
    assert cells.tolist() == [b"a"] * 100 + [b"b"] * 20 + [b"a"] * 33
    assert splits.tolist() == [b"train"] * 120 + [b"test"] * 33


def test_view_reads_nan_where_a_shard_is_missing(tmp_path, small):
    small.write(tmp_path)
    (tmp_path / "shard-00000.h5").unlink()
    with h5py.File(tmp_path / "data.h5") as file:
        assert np.isnan(file["snr_db"][:32]).all() and np.isnan(file["h"][:32].imag).all()
        assert np.isfinite(file["snr_db"][32:]).all()


def test_finished_set_is_left_alone(tmp_path, small, fingerprint):
    small.write(tmp_path)
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    with small.writer(tmp_path) as writer:
        assert writer.is_complete and not writer.pending and len(writer.done) == 7
        assert writer.finish() == writer.manifest
    assert {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == before


def test_left_early_goes_on_with_equal_bits(tmp_path, small, fingerprint):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), small.writer(folder) as writer:
        writer.write_shard(writer.pending[0], small.blocks(writer.pending[0]))

        def interrupted():
            yield small.rows(writer.pending[1], 0, 8)
            raise KeyboardInterrupt

        writer.write_shard(writer.pending[1], interrupted())
    assert list(fingerprint(folder)) == ["manifest.json", "shard-00000.h5"]
    with small.writer(folder) as writer:
        assert [shard.index for shard in writer.done] == [0] and len(writer.pending) == 6
        with pytest.raises(StoreError, match="lacks 6 of 7 shards, the first is shard-00001.h5"):
            writer.finish()
    small.write(folder)
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import Small
small = Small()
with small.writer(Path(sys.argv[1])) as writer:
    for plan in writer.pending:
        def blocks():
            for number, block in enumerate(small.blocks(plan)):
                if (plan.index, number) == (int(sys.argv[3]), 2):
                    print("there", flush=True)
                    sys.stdin.read()
                yield block
        writer.write_shard(plan, blocks())
    writer.finish()
"""


@pytest.mark.parametrize("at", [0, 2, 5])
def test_kill_9_in_the_middle_of_a_shard(tmp_path, small, fingerprint, at):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent), str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = list(fingerprint(folder))
    assert any(name.startswith(f".tmp-shard-{at:05d}.h5-") for name in left)
    report = store.verify(folder)  # whatever is listed is whole
    assert report.ok and not report.complete and report.stale
    assert small.write(folder).complete
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("name", ["manifest.json", "data.h5", "shard-00003.h5"])
def test_death_around_a_rename(tmp_path, small, fingerprint, monkeypatch, name):
    """Stop just before and just after a file gets its name: going on gives the same folder."""
    small.write(tmp_path / "whole")
    replace = os.replace

    class Death(BaseException):
        pass

    for after in (False, True):
        folder = tmp_path / f"out-{after}"
        small.write(folder) if name == "manifest.json" else None
        if name == "manifest.json":  # the manifest of an unfinished run
            (folder / "data.h5").unlink()

        def dying(source, target, after=after):
            if Path(target).name == name:
                if after:
                    replace(source, target)
                raise Death
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            with pytest.raises(Death):
                small.write(folder)
        small.write(folder)
        assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_missing_and_cut_shards_are_made_again(tmp_path, small, fingerprint):
    small.write(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / "shard-00001.h5").unlink()
    os.truncate(tmp_path / "shard-00004.h5", 100)
    with pytest.warns(WichanWarning, match="2 listed shards missing or cut short.*shard-00001.h5, shard-00004.h5"):
        manifest = small.write(tmp_path)
    assert manifest.complete and fingerprint(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed is 7 there and 8 here"),
        ({"recipe": {"speed": [1, 9]}}, "recipe.speed"),
        ({"block_size": 16}, "block_size is 8 there and 16 here"),
        ({"versions": store.current_versions() | {"torch": "9.9"}}, "versions.torch.*9.9"),
        ({"recipe_name": "other"}, '"small" there and "other" here'),
    ],
)
def test_another_run_is_refused(tmp_path, small, fingerprint, changes, message, one_line):
    small.write(tmp_path)
    before = fingerprint(tmp_path)
    with pytest.raises(StoreError, match=message) as error:
        small.writer(tmp_path, header=small.header(**changes))
    assert "another folder" in one_line(error.value)
    assert fingerprint(tmp_path) == before
    with pytest.raises(StoreError, match=r"cells.train/a.count is 100 there and 200 here"):
        small.writer(tmp_path, cells=[store.Cell("train", "a", 200), *small.cells[1:]])
    assert fingerprint(tmp_path) == before


def test_foreign_folders_are_refused_and_untouched(tmp_path, small, fingerprint, one_line):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty and not a wichan data set.*notes.txt") as error:
        small.writer(tmp_path)
    one_line(error.value)
    assert list(fingerprint(tmp_path)) == ["notes.txt"]
    (tmp_path / "notes.txt").rename(tmp_path / "manifest.json")
    with pytest.raises(StoreError, match="not JSON"):
        small.writer(tmp_path)
    assert list(fingerprint(tmp_path)) == ["manifest.json"]
    for path in (tmp_path / "manifest.json", tmp_path / "manifest.json" / "below"):
        with pytest.raises(StoreError, match="is a file"):
            small.writer(path)


def test_stale_files_are_cleared_but_others_kept(tmp_path, small, fingerprint):
    (tmp_path / ".tmp-shard-00000.h5-0123abcd").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".lock").write_text("99999999 nowhere\n")
    small.write(tmp_path)
    hidden = [name for name in fingerprint(tmp_path) if name.startswith(".")]
    assert hidden == [".DS_Store"]


def test_errors_in_the_background_come_back(tmp_path, small, monkeypatch, one_line):
    from wichan.store import shards

    def fails(*_):
        raise OSError(5, "Input/output error")

    with small.writer(tmp_path) as writer:
        monkeypatch.setattr(shards, "write_at", fails)
        with pytest.raises(StoreError, match="Input/output error") as error:
            for plan in writer.pending:
                writer.write_shard(plan, small.blocks(plan))
            writer.finish()
        one_line(error.value)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]
    assert small.write(tmp_path).complete


def test_bad_block_names_the_column_and_drops_only_its_shard(tmp_path, small):
    with small.writer(tmp_path) as writer:
        good, bad = writer.pending[:2]
        writer.write_shard(good, small.blocks(good))
        with pytest.raises(WichanError, match="snr_db"):
            writer.write_shard(bad, [small.rows(bad) | {"snr_db": np.zeros(32)}])
        with pytest.raises(InvalidValueError, match="not planned"):
            writer.write_shard(store.ShardPlan(0, "train", "a", 0, 31), [])
    assert [shard.index for shard in store.load_manifest(tmp_path).shards] == [0]


def test_queue_is_bounded(tmp_path, small, monkeypatch):
    """While the disk stands still, the caller is held up after a few blocks instead of filling the memory."""
    gate, drawn = threading.Event(), []
    append = store.ShardWriter.append

    def slow(writer, block):
        assert gate.wait(30)
        append(writer, block)

    monkeypatch.setattr(store.ShardWriter, "append", slow)
    with small.writer(tmp_path, queue_bytes=1000) as writer:
        plan = writer.pending[0]
        rows = small.rows(plan)

        def blocks():
            for i in range(32):
                drawn.append(i)
                yield {name: value[i : i + 1] for name, value in rows.items()}

        thread = threading.Thread(target=writer.write_shard, args=(plan, blocks()))
        thread.start()
        thread.join(0.5)
        held, alive = len(drawn), thread.is_alive()
        gate.set()
        thread.join()
        writer.flush()
    # A sample takes 48 + 4 + 16 + 1 + 1 = 70 bytes: 14 fit the queue, and the caller holds one more.
    assert alive and held == 15 and len(drawn) == 32


def test_progress_counts_listed_shards(tmp_path, small):
    seen = []

    def progress(shard):
        seen.append((shard.index, shard in store.load_manifest(tmp_path).shards))

    small.write(tmp_path, progress=progress)
    assert seen == [(index, True) for index in range(7)]


def _work(job, small):
    return job.write(small.blocks(job.plan))


def test_worker_processes_write_their_own_shards(tmp_path, small, fingerprint):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    with small.writer(folder) as writer, ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        jobs = [writer.job(plan) for plan in reversed(writer.pending)]
        for shard in pool.map(_work, jobs, [small] * len(jobs)):
            writer.commit(shard)
        writer.finish()
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_commit_wants_the_file(tmp_path, small):
    with small.writer(tmp_path) as writer:
        shard = store.Shard(**vars(writer.pending[0]), bytes=10, sha256="0" * 64)
        with pytest.raises(StoreError, match="shard-00000.h5 is not in"):
            writer.commit(shard)


def test_closed_writer_says_so(tmp_path, small):
    writer = small.writer(tmp_path)
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.write_shard(writer.pending[0], [])


@pytest.mark.parametrize("options", [{"part": (0, 2)}, {"part": (3, 2)}, {"part": 3}, {"part": (1, 2.5)}, {"queue_bytes": 0}])
def test_bad_options(tmp_path, small, options, one_line):
    with pytest.raises(WichanError) as error:
        small.writer(tmp_path / "out", **options)
    one_line(error.value)
    assert not (tmp_path / "out").exists()


def test_shard_size_must_be_whole_blocks(tmp_path, small):
    with pytest.raises(InvalidValueError, match="multiple of block_size=8"):
        store.DatasetWriter(tmp_path, small.header(), small.cells, shard_size=12)
