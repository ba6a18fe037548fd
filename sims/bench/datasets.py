"""Whole data sets to disk, hashed and synced: the CSI-RRG generator beside Sionna, the shard writer beside plain h5py."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from harness import Row, seconds

from wichan import store
from wichan.simulate import load_recipe, run

CELL = "cm_A_ds_030_ms_010"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _sionna_source():
    from sionna.phy.channel import cir_to_ofdm_channel
    from sionna.phy.channel.tr38901 import CDL, PanelArray

    station = PanelArray(4, 4, "dual", "cross", "38.901", 2.4e9)
    terminal = PanelArray(1, 1, "single", "V", "omni", 2.4e9)
    model = CDL("A", 30e-9, 2.4e9, terminal, station, "uplink", min_speed=10.0, max_speed=10.0)
    frequencies = (torch.arange(750) - 375) * 30e3

    def block(batch: int, steps: int, rate: float, keep: int) -> dict[str, torch.Tensor]:
        a, tau = model(batch, steps, rate)
        h = cir_to_ofdm_channel(frequencies, a, tau, normalize=True)[:, 0, :, 0][..., ::keep, :]
        ones = torch.ones(batch)
        return {
            "h_u_hist": h[..., :16, :300],
            "h_u_pred": h[..., 16:, :300],
            "h_d_pred": h[..., 16:, 450:],
            "scale": ones,
            "delay_spread": ones * 30e-9,
            "speed": ones * 10.0,
            "profile": torch.zeros(batch, dtype=torch.int64),
        }

    return block


def _write_with_our_writer(folder: Path, header: store.Header, count: int, make_block, batch: int) -> None:
    cells = (store.Cell("train", CELL, count),)
    with torch.no_grad(), store.DatasetWriter(_fresh(folder), header, cells) as writer:
        for plan in writer.pending:
            blocks = (make_block(min(batch, plan.count - done)) for done in range(0, plan.count, batch))
            writer.write_shard(plan, blocks)
        writer.finish()


def csi_rrg(repeats: int) -> list[Row]:
    """256 samples (0.47 GB) end to end; Sionna sampled directly, and as the benchmark's authors do it (1,400 steps)."""
    recipe = load_recipe("csi-rrg", {"split": "train", "cell": CELL})
    block = _sionna_source()
    count, slow_count, repeats = 256, 4, max(3, repeats // 3)
    with tempfile.TemporaryDirectory(dir=os.environ.get("WICHAN_BENCH_DIR")) as base:
        root = Path(base)
        run(recipe, root / "head", n=1)
        header = store.open(root / "head").manifest.header

        def ours() -> None:
            run(recipe, _fresh(root / "ours"), n=count)

        def direct() -> None:
            _write_with_our_writer(root / "peer", header, count, lambda n: block(n, 20, 1 / 2.352e-3, 1), 10)

        def oversampled() -> None:
            _write_with_our_writer(root / "slow", header, slow_count, lambda n: block(n, 1400, 70 / 2.352e-3, 70), 2)

        ours(), direct(), oversampled()
        times = {"ours": [], "direct": [], "oversampled": []}
        for _ in range(repeats):
            times["direct"].append(seconds(direct) / count)
            times["ours"].append(seconds(ours) / count)
            times["oversampled"].append(seconds(oversampled) / slow_count)
    mine, direct_time, slow_time = (statistics.median(times[key]) for key in ("ours", "direct", "oversampled"))
    setting = "to disk, synced, hashed"
    return [
        Row("CSI-RRG", setting, "sample", mine, "Sionna direct, our writer", direct_time, ">= 2x"),
        Row("CSI-RRG", setting, "sample", mine, "Sionna, 1,400 steps, our writer", slow_time, ">= 100x"),
    ]


def write(repeats: int) -> list[Row]:
    """Two shards of 64 CSI samples each: our writer against h5py with equal chunks, fsync, and SHA-256 of the file."""
    samples, shards = 64, 2
    generator = np.random.default_rng(0)
    parts = generator.standard_normal((samples, 32, 1, 24, 300, 2), dtype=np.float32)
    h = parts.view(np.complex64)[..., 0]
    column = store.Column("h", "complex64", h.shape[1:], ("num_rx_ant", "num_tx_ant", "num_snapshots", "num_subcarriers"))
    header = store.Header({"name": "bench"}, "bench", 1, 0, 16, (column,))
    cells = (store.Cell("train", "main", samples * shards),)
    with tempfile.TemporaryDirectory(dir=os.environ.get("WICHAN_BENCH_DIR")) as base:
        root = Path(base)

        def ours() -> None:
            with store.DatasetWriter(_fresh(root / "ours"), header, cells, shard_size=samples) as writer:
                for plan in writer.pending:
                    writer.write_shard(plan, ({"h": h[first : first + 16]} for first in range(0, plan.count, 16)))
                writer.finish()

        ours()
        with h5py.File(next((root / "ours").glob("shard-*.h5"))) as file:
            chunks = file["h"].chunks

        def peer() -> None:
            folder = _fresh(root / "peer")
            folder.mkdir()
            for shard in range(shards):
                path = folder / f"{shard}.h5"
                with h5py.File(path, "w") as file:
                    data = file.create_dataset("h", (samples, *h.shape[1:]), "complex64", chunks=chunks)
                    for first in range(0, samples, 16):
                        data[first : first + 16] = h[first : first + 16]
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    hashlib.file_digest(file, "sha256").hexdigest()

        ours_times, peer_times = [], []
        for _ in range(repeats):
            peer_times.append(seconds(peer))
            ours_times.append(seconds(ours))
    megabytes = shards * h.nbytes / 1e6
    mine, theirs = statistics.median(ours_times) / megabytes, statistics.median(peer_times) / megabytes
    return [Row("shard writing", "2 x 118 MB", "MB", mine, "h5py + fsync + SHA-256", theirs, ">= 0.8x")]
