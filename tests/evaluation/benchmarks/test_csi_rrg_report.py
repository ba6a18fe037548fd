"""What a benchmark result shows and keeps: means, tables, files, pictures, published rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from wichan.errors import InvalidValueError, UnknownNameError
from wichan.evaluation import BenchmarkResult, CSIRRGBenchmark
from wichan.evaluation.benchmarks.literature import published_rows, published_tables
from wichan.evaluation.benchmarks.sheets import sheets
from wichan.evaluation.benchmarks.table import fitted_sheets

SMALL = {"uplink_bins": [0, 12], "downlink_bins": [20, 32], "num_bins": 32, "array.rows": 2, "array.columns": 2}
CELLS = ["cm_A_ds_030_ms_010", "cm_D_ds_300_ms_001", "cm_E_ds_050_ms_045"]


def last(history: torch.Tensor) -> torch.Tensor:
    return history[..., -1:, :].expand(-1, -1, -1, 4, -1)


@pytest.fixture(scope="module")
def result() -> BenchmarkResult:
    benchmark = CSIRRGBenchmark(cells=CELLS, num_samples=3, overrides=SMALL)
    return benchmark.run({"hold": "hold", "last": last, "zero": lambda history: torch.zeros_like(last(history))})


def test_selection_and_means(result: BenchmarkResult) -> None:
    assert result.categories == ("regular", "robustness", "generalization")
    assert len(result.settings) == 2 * 24 + 3 * 6  # the two training cells are cells of generalization too
    assert result.axis("profile") == ["A", "D", "E"]
    assert result.axis("degree", category="regular") == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    chosen = result.select(category="robustness", noise=("phase", "burst"), speed=10)
    assert len(chosen) == 8
    mean = result.mean("nmse", category="robustness", noise=("phase", "burst"), speed=10)
    assert torch.allclose(mean.value, result.values("nmse")[chosen].mean(0))
    assert bool(((mean.low <= mean.value) & (mean.value <= mean.high))[:2].all())
    assert mean.value[2] == pytest.approx(1.0, rel=1e-6)


def test_places(result: BenchmarkResult) -> None:
    places = result.standing("se", category="regular")
    assert places.first.value[2] == 0  # a prediction of zero has no spectral efficiency
    assert places.rank.value[2] == 3
    assert places.first.value[0] == places.first.value[1]  # the same prediction under two names
    assert float(places.rank.low[2]) == float(places.rank.high[2]) == 3


def test_wrong_questions(result: BenchmarkResult) -> None:
    with pytest.raises(UnknownNameError, match="axis='colour'"):
        result.select(colour="red")
    with pytest.raises(InvalidValueError, match="no setting of this run has speed=99"):
        result.mean("nmse", speed=99)
    with pytest.raises(UnknownNameError, match="score='ber'"):
        result.mean("ber")
    with pytest.raises(UnknownNameError, match="score='ber'"):
        result.values("ber")
    with pytest.raises(UnknownNameError, match="kind='pie'"):
        result.figure("x.png", "pie")
    with pytest.raises(InvalidValueError, match=r"must end in .png"):
        result.figure("x.pdf")


def test_csv_has_a_line_for_every_setting_and_predictor(result: BenchmarkResult) -> None:
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert len(rows) == len(result.settings) * 3
    first = rows[0]
    assert first["setting"] == "regular/tdd/cm_A_ds_030_ms_010/awgn_0"
    assert (first["profile"], float(first["delay_spread"]), float(first["speed"])) == ("A", 3e-8, 10.0)
    steps = [float(first[f"nmse_step{p}"]) for p in range(1, 5)]
    assert float(first["nmse"]) == pytest.approx(sum(steps) / 4, rel=1e-12)
    assert float(first["nmse_low"]) <= float(first["nmse"]) <= float(first["nmse_high"])
    assert {row["rank_nmse"] for row in rows} <= {"1", "2", "3"}
    assert rows[2]["calibration"] == ""


def test_summary_is_plain_json(result: BenchmarkResult) -> None:
    summary = json.loads(result.to_json())
    assert summary["benchmark"] == "csi-rrg"
    assert summary["categories"]["regular"]["settings"] == 12
    entry = summary["categories"]["regular"]["predictors"]["hold"]
    assert entry["nmse"]["low"] <= entry["nmse"]["value"] <= entry["nmse"]["high"]
    assert set(summary["predictors"]) == {"hold", "last", "zero"}
    assert summary["versions"]["wichan"]


def test_tables(result: BenchmarkResult) -> None:
    text = result.table()
    for title in ("Regular (TDD)", "Robustness (TDD)", "Lost snapshots, by rate [%]", "Generalization, by speed [m/s]"):
        assert title in text
    assert "12 settings, 36 views" in text
    assert "published)" not in text.replace("(as published)", "")
    assert str(result) == text
    assert max(len(line) for line in text.splitlines()) <= 190


def test_published_rows_stand_under_our_columns(result: BenchmarkResult) -> None:
    text = replace(result, published=True).table()
    table = text[text.index("Lost snapshots") :]
    line = next(line for line in table.splitlines() if line.startswith("RNN (published)"))
    assert line.split()[2:] == ["0.165", "0.215", "0.292"]
    assert published_rows("regular-20db-speed", "tdd", [1.0, 30.0, "mean"])["CSI-4CAST"] == [0.0043, 0.276, 0.111]
    assert published_rows("generalization-speed", "fdd", [3.0, 45.0]) == {"RNN": [None, 0.716]}
    assert published_rows("regular-profile", "tdd", ["A"]) == {}


def test_published_rows_of_other_averages_are_named(result: BenchmarkResult) -> None:
    found = {sheet.title: sheet.caption for sheet in sheets(replace(result, published=True))}
    part = "published rows are means over 162 settings, of which this run has 12: not the same average"
    assert part in found["Regular cells, by SNR [dB]"]
    # E at 45 m/s is not among the published speeds 1, 10, 30 of this table.
    assert "over 324 settings, of which this run has 12 and 6 others" in found["Generalization, by CDL profile"]
    whole = CSIRRGBenchmark(categories=["regular"], noises={"awgn": [20]}, num_samples=1, overrides=SMALL).run(["hold"])
    captions = [sheet.caption for sheet in sheets(replace(whole, published=True))]
    assert not any("not the same average" in caption for caption in captions)
    text = replace(whole, published=True).table()
    assert "This run changed the recipe (uplink_bins=[0, 12], " in text
    assert "0.7 dB more SNR" in text
    assert "changed the recipe" not in whole.table()


def test_published_file_is_complete() -> None:
    tables = published_tables()["tables"]
    for name, modes in tables.items():
        for table in modes.values():
            for method, numbers in table["rows"].items():
                assert len(numbers) == len(table["columns"]), (name, method)
    means = tables["regular-20db-speed"]
    for mode in ("tdd", "fdd"):
        for numbers in means[mode]["rows"].values():
            assert sum(numbers[:3]) / 3 == pytest.approx(numbers[3], abs=0.002)  # rounding of four numbers


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminal_tables_fit_and_lose_no_column(result: BenchmarkResult, width: int) -> None:
    for sheet in sheets(replace(result, published=True)):
        pieces = fitted_sheets(sheet, width)
        columns = [name for piece in pieces for name in piece.header[1:]]
        assert columns == sheet.header[1:]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result)
    text = console.export_text()
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_files(result: BenchmarkResult, tmp_path: Path) -> None:
    written = result.save(tmp_path / "deep")
    assert [path.name for path in written] == [
        *("results.csv", "summary.json", "tables.txt"),
        *("lines.png", "radar.png", "violin.png"),
    ]
    for path in written[3:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
    assert (tmp_path / "deep" / "tables.txt").read_text() == result.table() + "\n"


def test_line_figure_needs_settings_that_it_shows(tmp_path: Path) -> None:
    one = CSIRRGBenchmark(cells=CELLS[:1], categories=["regular"], num_samples=1, overrides=SMALL).run({"last": last})
    assert one.figure(tmp_path / "one.png").exists()
    assert "[" not in one.table().splitlines()[2]  # one sample has no interval
    assert json.loads(one.to_json())["categories"]["regular"]["predictors"]["last"]["nmse"]["low"] is None
