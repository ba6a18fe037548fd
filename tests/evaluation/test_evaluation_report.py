"""Tables, CSV, JSON and figures of an evaluation."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from wichan.errors import InvalidValueError, ShapeError
from wichan.evaluation.figure import channel_figure, curve_figure, power_delay_profile, profile_of_covariance
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import compare
from wichan.evaluation.table import plain_table
from wichan.grid import OFDMGrid

PNG = b"\x89PNG\r\n\x1a\n"


def make_evaluation(
    *, points: tuple = (0.0, 10.0), sweep: str = "snr_db", reference: int | None = 2, num_channels: int = 40
) -> Evaluation:
    """Three estimators; "genie" is told and best, "ls" is worst."""
    generator = torch.Generator().manual_seed(11)
    names, told = ("ls", "blind", "genie"), ((), (), ("delay_spread",))
    errors, energies = [], []
    for p in range(len(points)):
        base = torch.rand(num_channels, generator=generator, dtype=torch.float64) + 0.5
        errors.append(torch.stack([0.4 * base, 0.1 * base, 0.05 * base]) / (p + 1))
        energies.append(torch.ones(num_channels, dtype=torch.float64))
    calibration = torch.ones(len(points), 3, dtype=torch.float64)
    calibration[:, 0] = torch.nan
    return Evaluation(
        sweep=sweep,
        points=points,
        estimators=names,
        told=told,
        reference=None if reference is None else names[reference],
        num_channels=(num_channels,) * len(points),
        statistics=compare(errors, energies, generator=generator, reference=reference, num_resamples=100),
        calibration=calibration,
        notes={"ls": "linear interpolation"},
        provenance={"recipe": "a-recipe", "seed": 3, "versions": {"wichan": "0"}},
    )


def test_plain_table_ranks_told_apart() -> None:
    lines = plain_table(make_evaluation()).splitlines()
    assert lines[0] == "NMSE [dB] of a-recipe against SNR [dB]"
    assert all("\x1b" not in line and "│" not in line for line in lines)
    order = [line.split()[0] for line in lines if line.split() and line.split()[0] in ("ls", "blind", "genie")]
    assert order == ["blind", "ls", "genie"]
    assert lines.index("-- conditions unknown") < lines.index("-- conditions known")
    row = next(line for line in lines if line.startswith("blind"))
    # The gap is 10 log10(0.1 / 0.05) for every channel, so its interval has no width.
    assert row.endswith("+3.01 [+3.01, +3.01]")
    assert next(line for line in lines if line.startswith("genie")).endswith("reference")
    assert "40 channels a point" in lines[-1]


def test_table_without_reference_has_no_score() -> None:
    text = plain_table(make_evaluation(reference=None))
    assert "score" not in text


def test_long_sweep_is_cut_into_blocks() -> None:
    evaluation = make_evaluation(points=tuple(float(p) for p in range(20)))
    text = plain_table(evaluation)
    assert text.count("estimator ") == 3
    assert max(len(line) for line in text.splitlines()[:-1]) <= 100


def test_units_of_a_sweep_are_for_people() -> None:
    lines = plain_table(make_evaluation(sweep="delay_spread", points=(25e-9, 300e-9))).splitlines()
    assert lines[0].endswith("against RMS delay spread [ns]")
    assert lines[2].split()[:3] == ["estimator", "25", "300"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_rich_table_fits_the_terminal(width: int) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(make_evaluation(points=tuple(float(p) for p in range(0, 35, 5))))
    text = console.file.getvalue()
    assert "NMSE [dB] of a-recipe" in text  # square brackets are text here, not markup
    assert "conditions known" in text
    assert "+3.01 ±0.00" in text
    assert "…" not in text  # nothing is cut off
    assert max(len(line) for line in text.splitlines()) <= width


def test_csv_has_one_line_a_point_and_full_precision(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    text = evaluation.to_csv(tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6
    row = next(r for r in rows if r["estimator"] == "genie" and float(r["point"]) == 10.0)
    assert float(row["nmse"]) == float(evaluation.statistics.nmse.value[1, 2])
    assert float(row["nmse_low"]) <= float(row["nmse"]) <= float(row["nmse_high"])
    assert row["told"] == "delay_spread"
    assert next(r for r in rows if r["estimator"] == "ls")["calibration"] == ""


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    evaluation = make_evaluation(num_channels=1)  # one channel: intervals are NaN, which JSON does not have
    text = evaluation.to_json(tmp_path / "e.json")
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value["recipe"] == "a-recipe"
    assert value["seed"] == 3
    assert value["num_channels"] == [1, 1]
    assert value["ranking"] == [["blind", "ls"], ["genie"]]
    point = value["estimators"][0]["points"][1]
    assert point["nmse"] == pytest.approx(float(evaluation.statistics.nmse.value[1, 0]))
    assert point["nmse_low"] is None


@pytest.mark.parametrize("reference", [None, 2])
@pytest.mark.parametrize(("sweep", "points"), [("snr_db", (0.0, 10.0)), ("profile", ("A", "B", "C"))])
def test_curve_figure_is_a_small_png(tmp_path: Path, reference: int | None, sweep: str, points: tuple) -> None:
    path = curve_figure(make_evaluation(reference=reference, sweep=sweep, points=points), tmp_path / "deep" / "f.png")
    data = path.read_bytes()
    assert data.startswith(PNG)
    assert 3_000 < len(data) < 80_000


def test_figures_leave_pyplot_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    curve_figure(make_evaluation(), tmp_path / "f.png")
    assert dict(matplotlib.rcParams) == before


def test_save_writes_three_files(tmp_path: Path) -> None:
    paths = make_evaluation().save(tmp_path / "out")
    assert [path.name for path in paths] == ["evaluate_snr_db.csv", "evaluate_snr_db.json", "evaluate_snr_db.png"]
    assert all(path.stat().st_size for path in paths)


def test_profile_shows_each_path_with_its_own_power() -> None:
    bins, delays, powers = 64, (3, 20), (1.0, 1e-4)
    k = torch.arange(bins, dtype=torch.float64)
    waves = [torch.polar(torch.full_like(k, p**0.5), -2 * torch.pi * k * d / bins) for d, p in zip(delays, powers, strict=True)]
    profile = power_delay_profile(sum(waves)[None], oversampling=4)
    assert int(profile.argmax()) == 4 * delays[0]
    # At 17 bins distance the Hann window leaks below -80 dB, so both peaks keep their power.
    torch.testing.assert_close(profile[[4 * d for d in delays]], torch.tensor(powers, dtype=torch.float64), rtol=0.02, atol=0)


def test_profile_of_data_equals_profile_of_its_covariance(generator: torch.Generator) -> None:
    h = torch.randn(30, 12, dtype=torch.complex128, generator=generator)
    covariance = torch.einsum("nk,nl->kl", h, h.conj()) / 30
    torch.testing.assert_close(power_delay_profile(h), profile_of_covariance(covariance))


def test_channel_figure(tmp_path: Path, generator: torch.Generator) -> None:
    grid = OFDMGrid(4, 12, 15e3)
    h = torch.randn(5, 1, 1, 4, 12, dtype=torch.complex64, generator=generator)
    path = channel_figure(h, tmp_path / "c.png", grid=grid, sample=4, covariance=torch.eye(12), title="t")
    assert path.read_bytes().startswith(PNG)
    assert channel_figure(h, tmp_path / "d.png").read_bytes() != path.read_bytes()


def test_channel_figure_refuses_what_does_not_fit(tmp_path: Path) -> None:
    h = torch.ones(2, 1, 1, 4, 12, dtype=torch.complex64)
    with pytest.raises(ShapeError, match="h has shape"):
        channel_figure(h, tmp_path / "c.png", grid=OFDMGrid(4, 13, 15e3))
    with pytest.raises(InvalidValueError, match="sample=2"):
        channel_figure(h, tmp_path / "c.png", sample=2)
    assert not list(tmp_path.iterdir())


def test_a_point_of_one_channel_claims_no_interval(tmp_path: Path) -> None:
    import wichan as wc

    folder = tmp_path / "few"
    wc.simulate.run("ofdm-siso", folder, n=3, on_warning=lambda text: None)
    text = str(wc.evaluation.evaluate(data=folder, estimators=["ls"], reference=None))
    assert "1 channel a point" in text and "has no interval" in text and "±" not in text


def test_what_cannot_be_built_is_said_before_a_pooled_covariance_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import wichan as wc
    from wichan.evaluation.setting import Setting

    monkeypatch.setattr(Setting, "pooled", property(lambda self: pytest.fail("pooled before the refusal")))
    monkeypatch.setattr(wc.channels.TDL, "has_closed_form", False)
    with pytest.raises(wc.errors.InvalidValueError, match="lmmse-genie"):
        wc.evaluation.evaluate("ofdm-siso", ["lmmse-pooled"], points=[0], num_channels=2)
