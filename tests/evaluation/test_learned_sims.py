"""The experiments with learned estimators: wrong conditions, equal trainings, pages that are filled from CSV files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch

from wichan.errors import InvalidValueError
from wichan.estimators import AdaFortiTran, Estimate
from wichan.evaluation import Setting
from wichan.evaluation.baselines import Built
from wichan.simulate import load_recipe
from wichan.training import save_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sims"))
fill_results = pytest.importorskip("fill_results")
runs = pytest.importorskip("honest.runs")
lineup = pytest.importorskip("sweeps.lineup")
mismatch = pytest.importorskip("sweeps.mismatch")


class Recorder:
    """Notes what it is told."""

    def __init__(self):
        self.seen = []

    def __call__(self, y, no, **conditions):
        self.seen.append(conditions)
        return Estimate(y[:, :, None], y.abs())


@pytest.mark.parametrize(("percent", "random"), [(-50, False), (30, False), (30, True)])
def test_one_condition_is_told_wrong_and_the_other_is_not(percent, random):
    true = {"delay_spread": torch.full((4000,), 1e-7), "max_doppler": torch.full((4000,), 500.0)}
    recorder = Recorder()
    wrong = mismatch.Wrong("x", "max_doppler", percent, random)
    built = mismatch.told_wrong(Built(recorder, told=tuple(true)), wrong, seed=0)
    built.estimator(torch.zeros(4000, 1, 2, 2, dtype=torch.complex64), 0.1, **true)
    told = recorder.seen[0]
    assert torch.equal(told["delay_spread"], true["delay_spread"])
    error = told["max_doppler"] / 500.0 - 1
    if random:  # uniform in +-30 %: standard deviation 30 / sqrt(3) %, of 4000 draws within 3 %
        assert error.abs().max() <= 0.3 + 1e-6
        assert float(error.std()) == pytest.approx(0.3 / 3**0.5, rel=0.05)
    else:
        assert float((error - percent / 100).abs().max()) < 1e-6


def test_random_errors_are_the_same_for_every_estimator():
    wrong = mismatch.Wrong("x", "delay_spread", 50, True)
    seen = []
    for _ in range(2):
        recorder = Recorder()
        built = mismatch.told_wrong(Built(recorder), wrong, seed=0)
        built.estimator(torch.zeros(5, 1, 2, 2, dtype=torch.complex64), 0.1, delay_spread=torch.full((5,), 1e-7))
        seen.append(recorder.seen[0]["delay_spread"])
    assert torch.equal(*seen)
    assert len(seen[0].unique()) == 5


def test_a_network_for_other_pilots_is_left_out_and_says_why(tmp_path):
    small = {"grid.num_subcarriers": 24}
    dense = Setting.of(load_recipe("ofdm-siso", small))
    sparse = Setting.of(load_recipe("ofdm-siso", small | {"pilots.subcarrier_step": 6}))
    path = save_weights(AdaFortiTran(dense.observation, width=8, layers=1), tmp_path / "ada.safetensors")
    names, weights = ["ls", "adafortitran", "adafortitran-blind"], {"adafortitran": path}
    made, left_out = lineup.build(dense, names, weights)
    assert list(made) == names
    assert not left_out
    assert made["adafortitran"].told == ("delay_spread", "max_doppler")
    assert made["adafortitran-blind"].told == ()
    made, left_out = lineup.build(sparse, names, weights)
    assert list(made) == ["ls"]
    assert all("is trained for" in why for why in left_out.values())


def test_what_is_not_there_stops_a_real_run_and_is_left_out_of_a_smoke_run(tmp_path):
    setting = Setting.of(load_recipe("ofdm-siso", {"grid.num_subcarriers": 24}))
    weights = {"fortitran": tmp_path / "nothing.safetensors"}
    with pytest.raises(InvalidValueError, match="nothing"):
        lineup.build(setting, ["ls", "fortitran"], weights)
    made, left_out = lineup.build(setting, ["ls", "fortitran"], weights, lenient=True)
    assert (list(made), list(left_out)) == (["ls"], ["fortitran"])


@pytest.mark.parametrize("model", ["adafortitran", "cevit"])
@pytest.mark.parametrize("kind", ["frozen", "independent"])
def test_the_command_of_a_training_gives_its_settings(model, kind):
    import json

    from typer.testing import CliRunner

    from wichan.cli import app

    words = shlex.split(runs.command(model, kind, Path("runs"), "20m"))
    assert words[-2:] == ["-o", f"runs/{model}-{kind}"]
    found = CliRunner().invoke(app, [*words[1:], "--dry-run", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["config"] == runs.settings(model, kind, 1200.0, quick=False).to_dict()


def test_a_page_is_filled_between_its_comments_and_nowhere_else():
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
    filled = fill_results.fill(page, "x", "| new |")
    assert filled == "a\n<!-- begin x -->\n\n| new |\n\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
    assert fill_results.fill(filled, "x", "| new |") == filled
    with pytest.raises(SystemExit):
        fill_results.fill(page, "z", "")


def test_every_block_has_its_place_on_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text()
    for name in fill_results.BLOCKS:
        assert fill_results.fill(page, name, "x") != page
