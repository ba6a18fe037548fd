from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wichan.store as store
from wichan.errors import StoreError
from wichan.store.manifest import describe_difference, parse_manifest


def _manifest(small, **changes):
    plan = store.make_plan(small.cells, 32)
    shards = [store.Shard(**vars(p), bytes=1000 + p.index, sha256=f"{p.index:064x}") for p in plan]
    return store.Manifest(small.header(**changes), small.cells, 32).with_shards(shards[:4])


def _sealed(entries: dict) -> bytes:
    """A manifest with these entries and a checksum that fits."""
    import hashlib

    body = json.dumps({k: v for k, v in entries.items() if k != "checksum"})[:-1].encode() + b",\n"
    return body + f'"checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def test_round_trip(small):
    manifest = _manifest(small)
    again = parse_manifest(manifest.to_bytes(), "m")
    assert again == manifest and again.to_bytes() == manifest.to_bytes()
    assert (again.num_samples, again.num_planned) == (32 * 3 + 4, 153)


def test_holds_no_clock_and_names_its_content(small):
    entries = json.loads(_manifest(small).to_bytes())
    assert not [key for key in entries if "time" in key or "date" in key]
    assert entries["columns"][0]["axes"] == ["num_rx_ant", "num_subcarriers"]
    assert entries["shards"][1]["name"] == "shard-00001.h5"


def test_any_changed_byte_is_found(small):
    data = _manifest(small).to_bytes()

    @given(st.integers(0, len(data) - 1), st.integers(1, 255))
    def flip(position, mask):
        damaged = bytearray(data)
        damaged[position] ^= mask
        with pytest.raises(StoreError) as error:
            parse_manifest(bytes(damaged), "m")
        assert "\n" not in str(error.value)

    flip()


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -2])
def test_cut_short(small, cut):
    with pytest.raises(StoreError):
        parse_manifest(_manifest(small).to_bytes()[:cut], "m")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "foreign"),
        (b'{"format": "other"}', "foreign"),
        (b'{"format": "wichan-dataset", "format_version": 99}', "format_version=99"),
        (b'{"format": "wichan-dataset", "format_version": 1}', "checksum"),
    ],
)
def test_foreign_files(data, message, one_line):
    with pytest.raises(StoreError, match=message) as error:
        parse_manifest(data, "out/manifest.json")
    assert one_line(error.value).startswith("out/manifest.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("columns", []),
        ("columns", [{"name": "h"}]),
        ("columns", 3),
        ("cells", [{"split": "a", "cell": "b", "count": -1}]),
        ("seed", "x"),
        ("shard_size", 0),
        ("shards", [{"name": "../../x"}]),
        ("shards", None),
        ("data", {"bytes": "many", "sha256": ""}),
        ("recipe", None),
    ],
)
def test_malformed_entries_with_a_fitting_checksum(small, key, value, one_line):
    entries = json.loads(_manifest(small).to_bytes())
    with pytest.raises(StoreError) as error:
        parse_manifest(_sealed(entries | {key: value}), "m")
    one_line(error.value)
    parse_manifest(_sealed(entries), "m")  # the same without the change is fine


@pytest.mark.parametrize(
    ("change", "value"),
    [("name", "../secret.h5"), ("index", 99), ("count", 31), ("cell", "b"), ("sha256", "zz"), ("bytes", None)],
)
def test_shards_must_be_planned(small, change, value):
    entries = json.loads(_manifest(small).to_bytes())
    entries["shards"][0][change] = value
    with pytest.raises(StoreError):
        parse_manifest(_sealed(entries), "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed is 7 there and 8 here"),
        ({"recipe": {"speed": [1, 3]}}, r"recipe.speed is \[1, 2.5\] there and \[1, 3\] here"),
        ({"recipe": {"speed": [1, 2.5], "extra": True}}, "recipe.extra is absent there and true here"),
        ({"recipe_version": 4}, "recipe_version is 3 there and 4 here"),
        ({"block_size": 16}, "block_size is 8 there and 16 here"),
        ({"versions": {"wichan": "9"}}, "versions"),
        ({"device": "cuda"}, '"cpu" there and "cuda" here'),
    ],
)
def test_difference_names_field_and_both_values(small, changes, message):
    import re

    assert describe_difference(_manifest(small), _manifest(small)) is None
    assert re.search(message, describe_difference(_manifest(small), _manifest(small, **changes)))


def test_load_says_what_is_wrong(tmp_path, one_line):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (("nothing", "does not exist"), ("file", "is a file"), ("empty", "not a wichan data set")):
        with pytest.raises(StoreError, match=message) as error:
            store.load_manifest(tmp_path / name)
        assert name in one_line(error.value)
