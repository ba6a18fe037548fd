"""The link-level experiment: its counting, its shortcuts beside Sionna's own blocks, and the whole of it on a few frames."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.sionna, pytest.mark.slow]
fec = pytest.importorskip("sionna.phy.fec.ldpc")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sims"))
counts = pytest.importorskip("link.counts")
decoder = pytest.importorskip("link.decoder")
receivers = pytest.importorskip("link.receivers")
running = pytest.importorskip("link.run")
setting = pytest.importorskip("link.setting")
script = pytest.importorskip("link_level")

SMALL = setting.Setting(num_subcarriers=24, frames_per_chunk=4, num_iter=8)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


# -- Counting --


def tally_of(first, second, streams=1):
    """A tally of two receivers from their wrong blocks, (frames, streams) each."""
    bits = torch.stack([torch.tensor(first), torch.tensor(second)])
    tally = counts.Tally(["other", "wichan-lmmse"], streams, 100)
    tally.add(bits, torch.rand(2, bits.shape[1]), torch.ones(bits.shape[1]), torch.ones(2))
    return tally


def test_one_block_a_frame_gives_mcnemar_and_wilson():
    from scipy.stats import binomtest

    both, worse, better, none = 20, 12, 4, 164
    first = [[3]] * both + [[5]] * worse + [[0]] * (better + none)
    second = [[2]] * both + [[0]] * worse + [[1]] * better + [[0]] * none
    tally = tally_of(first, second)
    n = both + worse + better + none
    pair = tally.pair("other", "wichan-lmmse")
    assert (pair.worse, pair.better) == (worse, better)
    assert pair.p_value == pytest.approx(binomtest(worse, worse + better).pvalue)
    half = 1.959964 * math.sqrt(worse + better - (worse - better) ** 2 / n) / n  # Wald's interval for McNemar's difference
    assert pair.bler == pytest.approx(((worse - better) / n, (worse - better) / n - half, (worse - better) / n + half))
    interval = binomtest(both + worse, n).proportion_ci(method="wilson")
    assert tally.bler("other") == pytest.approx(((both + worse) / n, interval.low, interval.high))
    assert tally.ber("other").value == pytest.approx((3 * both + 5 * worse) / (100 * n))


def test_blocks_that_fail_together_count_once():
    from scipy.stats import binomtest

    tally = tally_of([[4, 4]] * 30 + [[0, 0]] * 70, [[0, 0]] * 100, streams=2)
    interval = binomtest(30, 100).proportion_ci(method="wilson")  # 100 frames, not 200 blocks
    assert tally.block_errors("other") == 60
    assert tally.bler("other") == pytest.approx((0.3, interval.low, interval.high))


def test_few_frames_that_all_look_the_same_have_an_interval():
    tally = tally_of([[4, 0]] * 5, [[0, 0]] * 5, streams=2)  # one of two blocks wrong in every frame: no variance at all
    rate = tally.bler("other")
    assert rate.value == 0.5
    assert rate.low < 0.5 < rate.high


def test_counts_survive_json():
    tally = tally_of([[4, 0]] * 3 + [[0, 0]] * 7, [[0, 1]] * 10, streams=2)
    back = counts.Tally.from_json(json.loads(json.dumps(tally.as_json())), tally.receivers, 2, 100)
    assert back.as_json() == tally.as_json()
    assert back.pair("other", "wichan-lmmse") == tally.pair("other", "wichan-lmmse")


# -- Shortcuts --


def test_stopping_changes_no_decision(generator):
    """The stages go on from Sionna's own messages: blocks that stop are codewords already, the others see all iterations."""
    encoder = fec.LDPC5GEncoder(300, 600, num_bits_per_symbol=4)
    bits = torch.randint(0, 2, (48, 300), generator=generator).float()
    noise = torch.randn(48, 600, generator=generator) * torch.linspace(0.4, 1.2, 48)[:, None]
    llr = 2 * (2 * encoder(bits) - 1 + noise)
    plain = fec.LDPC5GDecoder(encoder, num_iter=12)(llr)
    assert torch.equal(decoder.StoppingDecoder(encoder, 12)(llr), plain)
    assert torch.equal(decoder.StoppingDecoder(encoder, 12, step=0)(llr), plain)
    wrong = (plain != bits).any(dim=-1)
    assert 5 < int(wrong.sum()) < 43  # both kinds of blocks were there


def test_sionnas_lmmse_is_its_matrix():
    """The block in double precision and its matrix, kept in single: 1e-5 is a hundred roundings; NMSE to 4 standard errors."""
    link = setting.Link("cdl-mimo", replace(SMALL, frames_per_chunk=128))
    frames = link.frames(6.0, 0)
    frozen = receivers.FrozenLMMSE(link, "f-t-s", frames.no)
    assert frozen.deviation(frames.y[:2], frames.no) < 1e-5
    h_hat, _ = frozen(frames.y, frames.no)
    error = (h_hat - frames.h).abs().square().flatten(1).sum(dim=1) / frames.h[0].numel()
    assert abs(float(error.mean()) - frozen.nmse(frames.no)) < 4 * float(error.std()) / math.sqrt(128)


@pytest.mark.parametrize("name", ["tdl-simo", "cdl-simo", "cdl-mimo"])
def test_snr_is_that_of_channels_of_power_one(name):
    """Also where elements are crossed to the wave; the mean over 128 channels, to 4 standard errors."""
    link = setting.Link(name, replace(SMALL, frames_per_chunk=128))
    power = link.frames(6.0, 0).h.abs().square().flatten(1).mean(dim=1)
    assert float(link.covariance.mean_power()) == pytest.approx(1.0)
    assert abs(float(power.mean()) - 1) < 4 * float(power.std()) / math.sqrt(128)


@pytest.mark.parametrize("name", ["tdl-mimo", "cdl-simo"])
def test_no_order_of_sionnas_passes_beats_the_joint_filter(name):
    """In closed form: the joint filter is the best linear one, and clearly better where antennas and delays are tied."""
    link = setting.Link(name, SMALL)
    joint = 10 * math.log10(float(receivers.LMMSE(link.pilots, link.covariance).expected_error(0.3).mean()))
    best = receivers.FrozenLMMSE(link, "f-t", 0.3).nmse(0.3)
    assert 10 * math.log10(best) - joint > (0.5 if name == "cdl-simo" else 0.05)


def test_sionnas_channels_have_the_same_statistics():
    """128 channels drawn by Sionna: wichan's filter makes the error that it promises, to 4 standard errors."""
    link = setting.Link("cdl-simo", replace(SMALL, frames_per_chunk=128, channel="sionna"))
    frames = link.frames(6.0, 0)
    estimate = receivers.make_receivers(link, ["wichan-lmmse"], 6.0, {})["wichan-lmmse"]
    h_hat, err_var = estimate(frames)
    error = (h_hat - frames.h).abs().square().flatten(1).mean(dim=1)
    assert abs(float(error.mean() - err_var.mean())) < 4 * float(error.std()) / math.sqrt(128)


def test_least_squares_is_compared_with_its_best_interpolation():
    """Averaging over time halves the noise on a channel that hardly moves, and nothing else is as good there."""
    link = setting.Link("tdl-simo", replace(SMALL, speed=0.1))
    found = receivers.best_interpolation(link, 0.0)
    assert next(iter(found)) == "lin_time_avg"
    assert found["lin_time_avg"] == pytest.approx(found["lin"] - 3.0, abs=0.7)  # scatter over 4 chunks
    made = {kind: receivers.make_receivers(link, ["ls"], 0.0, {"ls": kind})["ls"] for kind in found}
    frames = link.frames(0.0, 3)
    errors = {kind: float((ls(frames)[0] - frames.h).abs().square().mean()) for kind, ls in made.items()}
    assert min(errors, key=errors.get) == "lin_time_avg"


def test_without_errors_a_rate_still_has_an_upper_bound():
    tally = counts.Tally(["one"], 1, 100)
    tally.add(torch.zeros(1, 30, 1, dtype=torch.int64), torch.ones(1, 30), torch.ones(30), torch.ones(1))
    assert tally.ber("one") == (0.0, 0.0, 0.1)  # the rule of three


# -- The whole --


def plan(folder, **changes):
    names = ["perfect", "ls", "sionna-lmmse", "wichan-lmmse"]
    limits = {"min_errors": 10**6, "min_frames": 1, "max_frames": 8, "search": False} | changes
    return running.Plan(SMALL, {"tdl-mimo": (4.0,)}, names, folder, **limits)


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    whole = running.simulate(plan(tmp_path / "a"))
    running.simulate(plan(tmp_path / "b", max_frames=4))
    assert running.simulate(plan(tmp_path / "b")) == whole
    assert whole["counts"]["tdl-mimo"]["4.0"]["chunks"] == 2
    assert json.loads((tmp_path / "b" / "counts.json").read_text()) == whole


def test_no_point_is_begun_when_time_is_up(tmp_path):
    assert running.simulate(plan(tmp_path, max_time=0.0))["counts"] == {}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_quick_run(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert script.main(["--quick", "--links", "cdl-simo", *out]) == 0
    text = capsys.readouterr().out
    assert "wichan-lmmse against sionna-lmmse" in text
    rows = rows_of(tmp_path / "out" / "link_level.csv")
    nmse = {(row["snr_db"], row["receiver"]): float(row["nmse"]) for row in rows}
    points = sorted({row["snr_db"] for row in rows})
    assert len(points) == 2
    for snr in points:  # 8 common frames: a difference of 1 dB in NMSE shows
        assert 0 == nmse[snr, "perfect"] < nmse[snr, "wichan-lmmse"] < nmse[snr, "sionna-lmmse"] < nmse[snr, "ls"]
    assert (tmp_path / "out" / "link_level.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "out" / "link_level.json").read_text())["rows"]) == len(rows)
    (tmp_path / "out" / "link_level.csv").unlink()
    assert script.main(["--quick", "--links", "cdl-simo", "--plot-only", *out]) == 0
    assert rows_of(tmp_path / "out" / "link_level.csv") == rows
    assert script.main(["--quick", "--links", "cdl-simo", "--seed", "2", *out]) == 1
    assert "holds another setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--links", "umi"], "invalid choice"),
        (["--max-time", "soon"], "no duration"),
        (["--min-errors", "0"], "at least 1"),
        (["--seed", "-1"], "at least 0"),
    ],
)
def test_wrong_usage_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_nothing_to_plot(tmp_path, capsys):
    assert script.main(["--plot-only", "--out", str(tmp_path)]) == 1
    assert "run without it first" in capsys.readouterr().err
