from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wichan.store as store
from wichan.errors import StoreError, WichanError


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def victim(finished, tmp_path_factory):
    """A copy that tests damage and mend again."""
    folder = tmp_path_factory.mktemp("victim") / "out"
    shutil.copytree(finished, folder)
    return folder


def test_sound_set(finished):
    calls = []
    report = store.verify(finished, progress=lambda done, total: calls.append((done, total)))
    assert report.ok and report.complete and not report.problems and len(report.shards) == 8
    size = sum(entry.stat().st_size for entry in finished.glob("*.h5"))
    assert calls[-1] == (size, size) and calls == sorted(calls)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@given(which=st.integers(0, 7), place=st.integers(0, 2**31), mask=st.integers(1, 255))
def test_one_changed_byte_is_found_and_named(victim, which, place, mask):
    path = sorted(victim.glob("*.h5"))[which]
    data = path.read_bytes()
    damaged = bytearray(data)
    damaged[place % len(data)] ^= mask
    path.write_bytes(damaged)
    try:
        report = store.verify(victim)
        assert not report.ok
        assert [shard.name for shard in report.shards if shard.status == "hash"] == [path.name] and len(report.problems) == 1
    finally:
        path.write_bytes(data)
    assert store.verify(victim).ok


@given(which=st.integers(0, 6), place=st.integers(0, 2**31), mask=st.integers(1, 255))
def test_reading_a_damaged_shard_gives_an_error_or_samples_but_never_a_crash(victim, which, place, mask):
    path = sorted(victim.glob("shard-*.h5"))[which]
    data = path.read_bytes()
    damaged = bytearray(data)
    damaged[place % min(len(data), 4000)] ^= mask  # most of the metadata lies in front
    path.write_bytes(damaged)
    try:
        assert store.open(victim)[:]["h"].shape == (153, 2, 3)
    except StoreError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(data)


@given(which=st.integers(0, 7), size=st.integers(0, 2**31))
def test_truncation_is_found(victim, which, size):
    path = sorted(victim.glob("*.h5"))[which]
    data = path.read_bytes()
    path.write_bytes(data[: size % len(data)])
    try:
        report = store.verify(victim)
        assert [(shard.name, shard.status) for shard in report.shards if shard.status != "ok"] == [(path.name, "size")]
        assert report.problems[0].startswith(path.name)
    finally:
        path.write_bytes(data)


def test_missing_extra_and_stale_files(copy):
    (copy / "shard-00002.h5").rename(copy / "shard-12345.h5")
    (copy / ".tmp-shard-00004.h5-00ff00ff").write_bytes(b"")
    (copy / "data.h5").unlink()
    report = store.verify(copy)
    assert not report.ok and report.unlisted == ("shard-12345.h5",) and report.stale == (".tmp-shard-00004.h5-00ff00ff",)
    assert {shard.name: shard.status for shard in report.shards if shard.status != "ok"} == {
        "shard-00002.h5": "missing",
        "data.h5": "missing",
    }
    assert json.loads(json.dumps(report.to_dict()))["problems"][0]["name"] == "shard-00002.h5"


def test_damaged_manifest_is_an_error(copy, one_line):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    for call in (store.verify, store.info, store.open):
        with pytest.raises(StoreError, match="checksum") as error:
            call(copy)
        one_line(error.value)


def test_unfinished_set_can_be_sound(tmp_path, small):
    with small.writer(tmp_path) as writer:
        writer.write_shard(writer.pending[0], small.blocks(writer.pending[0]))
    report = store.verify(tmp_path)
    assert report.ok and not report.complete and (report.num_samples, report.num_planned) == (32, 153)


def test_unreadable_file_is_reported(copy, monkeypatch):
    from pathlib import Path

    opened = Path.open

    def failing(path, *arguments, **options):
        if path.name == "shard-00001.h5":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    assert store.verify(copy).problems == ("shard-00001.h5: cannot be read: Input/output error",)


def test_info(finished, tmp_path, small):
    facts = store.info(finished)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["recipe"], facts["seed"], facts["complete"], facts["num_samples"]) == ("small", 7, True, 153)
    assert facts["num_bytes"] == sum(entry.stat().st_size for entry in finished.glob("*.h5"))
    assert facts["splits"]["train"] == {"num_samples": 120, "num_planned": 120, "cells": {"a": 100, "b": 20}}
    assert facts["snr_convention"] == "pilot" and facts["columns"][1]["unit"] == "dB"
    with small.writer(tmp_path) as writer:
        writer.write_shard(writer.pending[3], small.blocks(writer.pending[3]))
    assert store.info(tmp_path)["splits"]["train"] == {"num_samples": 4, "num_planned": 120, "cells": {"a": 4, "b": 0}}


@pytest.mark.parametrize("call", [store.verify, store.info, store.open, store.merge])
def test_not_a_data_set(tmp_path, call, one_line):
    with pytest.raises(WichanError, match="not a wichan data set") as error:
        call(tmp_path)
    one_line(error.value)
    assert not os.listdir(tmp_path)
