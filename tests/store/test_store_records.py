from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wichan.store as store
from wichan.errors import InvalidTypeError, InvalidValueError, WichanError
from wichan.store.blocks import as_array, as_arrays


def test_plan_covers_every_sample_once(small):
    plan = store.make_plan(small.cells, 32)
    assert [p.index for p in plan] == list(range(len(plan)))
    for cell in small.cells:
        mine = [p for p in plan if (p.split, p.cell) == (cell.split, cell.cell)]
        assert [i for p in mine for i in range(p.first, p.first + p.count)] == list(range(cell.count))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "1h"},
        {"name": "split"},
        {"name": "a/b"},
        {"dtype": "float16"},
        {"shape": (0,), "axes": ("a",)},
        {"shape": (2,)},
        {"shape": (1 << 29,), "axes": ("a",)},
        {"categories": ("A",)},
        {"dtype": "category"},
        {"dtype": "category", "categories": ("A", "A")},
        {"dtype": "category", "categories": tuple(f"{i:060d}" for i in range(1000))},
        {"unit": 3},
    ],
)
def test_column_refuses(changes, one_line):
    with pytest.raises(WichanError) as error:
        store.Column(**({"name": "h", "dtype": "complex64"} | changes))
    one_line(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"f": lambda: 0}},
        {"recipe": {"x": float("nan")}},
        {"recipe": {"x": "\ud800"}},
        {"recipe": [1]},
        {"seed": 1.5},
        {"block_size": 0},
        {"recipe_version": -1},
        {"recipe_name": ""},
        {"columns": ()},
        {"columns": (store.Column("h", "bool"), store.Column("h", "int8"))},
    ],
)
def test_header_refuses(small, changes, one_line):
    with pytest.raises(WichanError) as error:
        small.header(**changes)
    one_line(error.value)


def test_header_takes_what_json_makes_of_it(small):
    header = small.header(recipe={"speeds": (1, 2)}, seed=np.int64(5))
    assert header.recipe == {"speeds": [1, 2]}
    assert json.loads(json.dumps(header.to_json()))["seed"] == 5


def test_versions_name_everything_that_fixes_the_bits():
    assert set(store.current_versions()) == {"cpu", "h5py", "hdf5", "numpy", "python", "torch", "wichan"}


@pytest.mark.parametrize("cells", [[], [store.Cell("a", "b", 1)] * 2])
def test_writer_refuses_cells(small, tmp_path, cells):
    with pytest.raises(WichanError):
        small.writer(tmp_path, cells=cells)
    assert not list(tmp_path.iterdir())


def test_category_takes_codes_and_text():
    column = store.Column("profile", "category", categories=("A", "Ü"))
    for values in ([0, 1, 1], np.array([0, 1, 1], np.int16), ["A", "Ü", "Ü"], np.array(["A", "Ü", "Ü"])):
        assert as_array(column, values).tolist() == [0, 1, 1]
    for values in ([0, 2], [-1], ["A", "X"], [0.0]):
        with pytest.raises(WichanError):
            as_array(column, values)


def test_blocks_are_checked_but_never_cast(small):
    rows = small.rows(store.make_plan(small.cells, 32)[0])
    with pytest.raises(InvalidTypeError, match="h.*complex128.*complex64"):
        as_arrays(small.columns, rows | {"h": rows["h"].astype(np.complex128)})
    with pytest.raises(InvalidValueError, match=r"\(num_samples, 2, 3\)"):
        as_arrays(small.columns, rows | {"h": rows["h"][:, 0]})
    with pytest.raises(InvalidValueError, match="equally long"):
        as_arrays(small.columns, rows | {"h": rows["h"][:5]})
    with pytest.raises(InvalidValueError, match="snr_db"):
        as_arrays(small.columns, {name: value for name, value in rows.items() if name != "snr_db"})
    with pytest.raises(InvalidValueError, match="did you mean 'snr_db'"):
        as_arrays(small.columns, rows | {"snr": rows["snr_db"]})
    with pytest.raises(InvalidTypeError, match="objects"):
        as_arrays(small.columns, rows | {"h": np.array([{}] * 32)})


@given(st.integers(1, 400), st.integers(1, 400), st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_shard_size_is_whole_blocks_within_the_limit(block, limit_kib, lengths):
    columns = [store.Column(f"c{i}", "float32", (n,), ("axis",)) for i, n in enumerate(lengths)]
    from wichan.store.layout import layout

    limit = limit_kib * 1024
    try:
        size = store.samples_per_shard(columns, block, limit)
    except InvalidValueError:
        assert block * sum(column.nbytes for column in columns) > limit - 64 * 1024
        return
    assert size % block == 0 and layout(tuple(columns), size).size <= limit
