from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import wichan.store as store
from wichan.errors import StoreError, WichanWarning


def _part(small, folder, i, n, limit=None):
    with small.writer(folder, part=(i, n)) as writer:
        for plan in writer.pending[:limit]:
            writer.write_shard(plan, small.blocks(plan))
        return writer.finish() if limit is None else None


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_make_the_same_folder(tmp_path, small, fingerprint, order):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    for i in order:
        manifest = _part(small, folder, i, 3)
        assert manifest.complete == (i == order[-1])
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_parts_at_the_same_time(tmp_path, small, fingerprint):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda i: _part(small, folder, i, 3), (1, 2, 3)))
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_more_parts_than_shards(tmp_path, small, fingerprint):
    for i in range(1, 10):
        manifest = _part(small, tmp_path / "out", i, 9)
    assert manifest.complete and store.verify(tmp_path / "out").ok


def test_part_resumes_and_others_finish_first(tmp_path, small, fingerprint):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    _part(small, folder, 1, 2, limit=1)
    assert not _part(small, folder, 2, 2).complete
    with pytest.warns(WichanWarning, match="incomplete"):
        assert len(store.open(folder)) == 32 + (32 + 4 + 32)  # shard 0; shards 1, 3, 5
    with pytest.raises(StoreError, match="lacks 3 of 7 shards, the first is shard-00002.h5"):
        store.merge(folder)
    assert _part(small, folder, 1, 2).complete
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_whole_run_takes_over_from_parts(tmp_path, small, fingerprint):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    _part(small, folder, 1, 3, limit=2)
    _part(small, folder, 2, 3)
    with small.writer(folder) as writer:
        assert [shard.index for shard in writer.done] == [0, 1, 3, 4]
    small.write(folder)
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_part_of_a_finished_or_begun_whole(tmp_path, small, fingerprint):
    folder = tmp_path / "out"
    with small.writer(folder) as writer:
        writer.write_shard(writer.pending[0], small.blocks(writer.pending[0]))
    _part(small, folder, 1, 2)
    assert _part(small, folder, 2, 2).complete
    before = fingerprint(folder)
    assert _part(small, folder, 1, 2).complete
    assert fingerprint(folder) == before


def test_parts_must_agree(tmp_path, small, one_line):
    _part(small, tmp_path, 1, 3)
    with pytest.raises(StoreError, match="shared in 3 parts; this run is part 1 of 2") as error:
        _part(small, tmp_path, 1, 2)
    one_line(error.value)
    with pytest.raises(StoreError, match="seed is 7 there and 8 here"):
        small.writer(tmp_path, part=(2, 3), header=small.header(seed=8))


def test_explicit_merge_after_the_last_part_died(tmp_path, small, fingerprint, monkeypatch):
    from wichan.store import writer as writers

    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    _part(small, folder, 1, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writers, "merge", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        _part(small, folder, 2, 2)
    assert not store.load_manifest(folder).complete
    assert store.merge(folder).complete
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_stale_file_of_another_part_is_left_alone(tmp_path, small):
    _part(small, tmp_path, 1, 2, limit=1)
    theirs, mine = tmp_path / ".tmp-shard-00001.h5-0123abcd", tmp_path / ".tmp-shard-00002.h5-0123abcd"
    for path in (theirs, mine):
        path.write_bytes(b"x")
    _part(small, tmp_path, 1, 2)
    assert theirs.exists() and not mine.exists()
