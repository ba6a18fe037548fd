"""The live stream: equal to the data set, any batch size, errors at the call; and the frozen record it yields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from wichan import store
from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.simulate import Batch, load_recipe, run, stream

SMALL = {"grid.num_ofdm_symbols": 4, "grid.num_subcarriers": 12, "pilots.symbols": [0, 3]}
TINY_CSI = {
    "array.rows": 1,
    "array.columns": 1,
    "num_history": 2,
    "num_horizon": 1,
    "cell": ["cm_A_ds_030_ms_001", "cm_C_ds_030_ms_010"],
}


def test_stream_equals_the_data_set_on_disk(tmp_path: Path) -> None:
    recipe = load_recipe("ofdm-siso", {**SMALL, "split": "val"})
    run(recipe, tmp_path / "out", n=600, seed=3, on_warning=lambda text: None)
    stored = store.open(tmp_path / "out").batch(range(600))
    live = list(stream("ofdm-siso", batch_size=200, num_batches=3, seed=3, split="val", **SMALL))
    assert set(live[0].columns) == set(stored)
    for name, value in stored.items():
        assert torch.equal(torch.cat([batch[name] for batch in live]).to(value.dtype), value)


def test_batch_size_does_not_show() -> None:
    whole = next(stream("ofdm-siso", batch_size=600, **SMALL))
    for size in (256, 100, 7):
        pieces = list(stream("ofdm-siso", batch_size=size, num_batches=600 // size, **SMALL))
        assert all(len(piece) == size for piece in pieces)
        for name in ("h", "y", "no", "profile"):
            joined = torch.cat([piece[name] for piece in pieces])
            assert torch.equal(joined, whole[name][: len(joined)])


def test_cells_take_turns_and_the_stream_outlives_the_data_set() -> None:
    batches = stream(
        "csi-rrg", batch_size=20, num_batches=4, columns=["profile", "speed"], **TINY_CSI, **{"splits.train.num_samples": 1}
    )
    assert [sorted(set(batch.speed.tolist())) for batch in batches] == [[1.0], [10.0], [1.0], [10.0]]


def test_overrides_columns_seed_and_split() -> None:
    batch = next(stream("ofdm-siso", batch_size=8, snr_db=10.0, columns=["h", "no"], **SMALL))
    assert batch.columns == ("h", "no")
    assert torch.allclose(batch.no, torch.tensor(0.1))
    other = next(stream("ofdm-siso", batch_size=8, seed=1, **SMALL))
    test = next(stream("ofdm-siso", batch_size=8, split="test", **SMALL))
    assert not torch.equal(batch.h, other.h)
    assert not torch.equal(batch.h, test.h)
    assert list(stream("ofdm-siso", batch_size=8, num_batches=0)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be an integer"),
        ({"batch_size": 2, "num_batches": -1}, "num_batches=-1"),
        ({"batch_size": 2, "seed": -1}, "seed=-1"),
        ({"batch_size": 2, "split": "trian"}, "split='trian' is unknown; did you mean 'train'"),
        ({"batch_size": 2, "columns": ["hh"]}, "columns='hh' is unknown"),
        ({"batch_size": 2, "snrdb": 3.0}, "snrdb is unknown .*did you mean 'snr_db'"),
        ({"batch_size": 2, "device": "gpu7"}, "device='gpu7' is unknown"),
        ({"batch_size": 2, "device": "cuda:99"}, "device='cuda:99' is not available"),
        ({"batch_size": 2, "device": "meta"}, "device='meta' is not supported"),
    ],
)
def test_errors_come_at_the_call(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        stream("ofdm-siso", **arguments)


def test_batch_is_a_frozen_record() -> None:
    batch = next(stream("ofdm-siso", batch_size=4, **SMALL))
    assert len(batch) == 4
    assert batch.h.shape == (4, 1, 1, 4, 12)
    assert set(batch.conditions) == {"snr_db", "delay_spread", "max_doppler", "profile"}
    assert batch.categories == {"profile": ("A",)}
    assert "h" in batch and list(batch) == list(batch.columns)
    moved = batch.to("cpu")
    assert isinstance(moved, Batch) and torch.equal(moved.y, batch.y)
    for change in (lambda: setattr(batch, "h", 1), lambda: delattr(batch, "h")):
        with pytest.raises(AttributeError, match="a Batch is frozen"):
            change()
    with pytest.raises(AttributeError, match=r"no column 'hh' \(it has h, y, no"):
        batch.hh  # noqa: B018
    with pytest.raises(UnknownNameError, match="column='snr' is unknown; did you mean 'snr_db'"):
        batch["snr"]


@pytest.mark.gpu
def test_a_gpu_gets_the_same_channels() -> None:
    cpu = next(stream("ofdm-siso", batch_size=256))
    gpu = next(stream("ofdm-siso", batch_size=256, device="cuda"))
    assert gpu.h.is_cuda and gpu.y.is_cuda and gpu.snr_db.is_cuda
    assert torch.allclose(gpu.h.cpu(), cpu.h, atol=1e-4)
    assert torch.equal(gpu.snr_db.cpu(), cpu.snr_db)
