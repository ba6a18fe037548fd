"""The coded link with learned estimators, on a few frames."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from wichan.estimators import FortiTran
from wichan.evaluation import Setting
from wichan.simulate import load_recipe, stream
from wichan.training import save_weights

pytestmark = [pytest.mark.sionna, pytest.mark.slow]
pytest.importorskip("sionna.phy.ofdm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sims"))
learned_link = pytest.importorskip("learned_link")


def test_receivers_decode_the_same_frames(tmp_path, capsys):
    network = FortiTran(Setting.of(load_recipe("ofdm-siso")).observation, width=8, layers=1)
    network.warm_start(stream("ofdm-siso", batch_size=256, num_batches=2))
    path = save_weights(network, tmp_path / "network.safetensors")
    words = ["--quick", "--points", "0", "25", "25.5", "26", "--receivers", "perfect", "ls", "lmmse-pooled", "fortitran"]
    assert learned_link.main([*words, "--weights", f"fortitran={path}", "--out", str(tmp_path)]) == 0
    assert "BLER" in capsys.readouterr().out
    assert (tmp_path / "learned_link.png").stat().st_size > 5000
    with (tmp_path / "learned_link.csv").open() as file:
        rows = {(row["snr_db"], row["receiver"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 4
    assert float(rows["25.0", "perfect"]["nmse"]) == 0
    assert int(rows["25.0", "perfect"]["block_errors"]) == 0
    assert all(int(row["blocks"]) == 4 for row in rows.values())
    assert float(rows["25.0", "fortitran"]["nmse"]) < float(rows["25.0", "ls"]["nmse"])
