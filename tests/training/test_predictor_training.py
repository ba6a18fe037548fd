"""Training of predictors: losses, settings, frames, a run from start to end, and its files."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError
from wichan.estimators import Linear
from wichan.prediction import LEARNED_PREDICTORS, Hold, LearnedPredictor, Prediction, RNNPredictor
from wichan.random import complex_normal
from wichan.training import TrainConfig, TrainProgress, fit, load, load_prior, load_weights, save_weights
from wichan.training.data import FrameSource, Share, open_source
from wichan.training.fitting import Place, open_run
from wichan.training.history_data import FIRST_BLOCKS
from wichan.training.history_options import chosen_antennas, with_noise
from wichan.training.prediction_losses import make_prediction_loss, parse_prediction_loss
from wichan.training.prediction_task import PredictionTraining
from wichan.training.predictor_files import load_predictor, save_predictor

CELLS = ["cm_A_ds_030_ms_010", "cm_D_ds_300_ms_001", "cm_C_ds_100_ms_030"]
#: 16 ports, 12 subcarriers a band: a block takes milliseconds.
SMALL = {
    "array": {"rows": 2, "columns": 4},
    "num_bins": 30,
    "uplink_bins": [0, 12],
    "downlink_bins": [18, 30],
    "num_history": 6,
    "num_horizon": 2,
    "cell": CELLS,
}
NETWORK = {"hidden": 12, "layers": 1}
COLUMNS = ("h_u_hist", "h_u_pred")


def settings_of(**settings: Any) -> TrainConfig:
    """Settings of a run that takes a second."""
    options = NETWORK | settings.pop("model_options", {})
    small: dict[str, Any] = {"overrides": SMALL, "batch_size": 8, "val_frames": 12, "val_every": 4, "max_steps": 12}
    if "max_time" in settings:
        del small["max_steps"]
    return TrainConfig.of("rnn", **(small | {"model_options": options} | settings))


def train(config: TrainConfig, **options: Any) -> Any:
    return fit(config, device="cpu", **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def first_batches(source: FrameSource, number: int, first: int = 0, size: int = 8) -> list[dict[str, torch.Tensor]]:
    batches = source.batches(COLUMNS, size, Share(), first)
    return [next(batches) for _ in range(number)]


# -- Losses. --


def pair(generator: torch.Generator) -> tuple[Prediction, torch.Tensor]:
    h, wrong = (complex_normal((3, 4, 1, 2, 5), generator=generator, dtype=torch.complex128) for _ in range(2))
    variance = torch.rand(3, 4, 1, 2, 1, generator=generator, dtype=torch.float64) + 0.1
    return Prediction((h + 0.3 * wrong).requires_grad_(), variance.expand(h.shape).clone().requires_grad_()), h


def test_losses_are_their_formulas(generator: torch.Generator) -> None:
    prediction, h = pair(generator)
    error, energy = (prediction.h_pred - h).abs().square().detach(), h.abs().square()
    ratios = error.sum(-1) / energy.sum(-1)
    variance = prediction.err_var.detach()
    want = {
        "ratio-nmse": ratios.mean(),
        "log-nmse": (ratios.mean((1, 2, 3)) + 1e-6).log().mean(),
        "nmse": error.sum() / energy.sum(),
        "mse": error.mean(),
        "nll": (variance.log() + error / variance).mean(),
    }
    for name, value in want.items():
        # Double precision, sums of 40 to 120 terms.
        assert float(make_prediction_loss(name)(prediction, h).detach()) == pytest.approx(float(value), rel=1e-12)


def test_nll_in_a_sum_trains_the_error_alone(generator: torch.Generator) -> None:
    prediction, h = pair(generator)
    alone = torch.autograd.grad(make_prediction_loss("nmse")(prediction, h), prediction.h_pred)[0]
    both = make_prediction_loss("nmse+nll")(prediction, h)
    of_mean, of_error = torch.autograd.grad(both, [prediction.h_pred, prediction.err_var])
    assert torch.equal(of_mean, alone)
    assert float(of_error.abs().min()) > 0


def test_a_loss_of_the_networks_own_stands_in(generator: torch.Generator) -> None:
    prediction, h = pair(generator)
    own = torch.tensor(7.0, dtype=torch.float64)
    nll = float(make_prediction_loss("nll")(prediction, h).detach())
    assert float(make_prediction_loss("ratio-nmse+nll", own)(prediction, h).detach()) == pytest.approx(7 + nll, rel=1e-12)
    assert float(make_prediction_loss("ratio-nmse", own)(prediction, h)) == 7


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("log-mse", UnknownNameError, "loss='log-mse' is unknown; did you mean 'log-nmse'?"),
        ("mse+", UnknownNameError, "loss=''"),
        ("mse+mse", InvalidValueError, "names a term twice"),
        (3, InvalidTypeError, "loss must be a name, got int"),
    ],
)
def test_bad_prediction_losses(name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        parse_prediction_loss(name)
    assert text in str(caught.value)


# -- Settings. --


def test_defaults_follow_the_family() -> None:
    for name in LEARNED_PREDICTORS:
        config = TrainConfig.of(name)
        assert (config.stream, config.loss, config.monitor) == ("csi-rrg", "log-nmse+nll", "score_db")
        assert config.task_options == {"snr_db": [0.0, 25.0], "antennas": 4, "impaired": 0.0}
        assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.of("rnn", loss="mse").monitor == "nmse_db"
    assert TrainConfig.of("rnn", loss="ratio-nmse+nll").monitor == "nmse_ratio"


def test_the_target_follows_the_duplex_mode() -> None:
    assert TrainConfig.of("csi4cast").target == "h_u_pred"
    assert TrainConfig.of("csi4cast", model_options={"duplex": "fdd"}).target == "h_d_pred"
    assert TrainConfig.of("csi4cast", model_options={"preset": "paper-fdd"}).target == "h_d_pred"
    assert TrainConfig.of("csi4cast", model_options={"preset": "paper-fdd", "duplex": "tdd"}).target == "h_u_pred"
    assert TrainConfig.of("rnn", target="h_u_pred").target == "h_u_pred"


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"model_options": {"duplex": "xdd"}}, UnknownNameError, "duplex='xdd' is unknown"),
        ({"model_options": {"preset": "hugh"}}, UnknownNameError, "preset='hugh' is unknown"),
        ({"model_options": {"hiden": 3}}, UnknownNameError, "model option='hiden' is unknown"),
        ({"model_options": {"num_history": 5}}, InvalidValueError, "num_history=5 does not fit the data, which has 6"),
        (
            {"target": "h_d_pred"},
            InvalidValueError,
            "target='h_d_pred': a predictor with duplex='tdd' learns the column h_u_pred",
        ),
        (
            {"stream": "ofdm-siso", "overrides": {}},
            InvalidValueError,
            "is of kind 'ofdm'; a predictor learns from kind 'csi-rrg'",
        ),
        ({"overrides": {"downlink_bins": [400, 410]}}, InvalidValueError, "300 uplink bins and 10 downlink bins"),
        ({"task_options": {"snr": 3}}, UnknownNameError, "task option='snr' is unknown"),
        ({"task_options": {"snr_db": [3, 1]}}, InvalidValueError, "snr_db=[3, 1] must hold the lower number first"),
        ({"task_options": {"snr_db": [1, 2, 3]}}, InvalidValueError, "snr_db=[1, 2, 3] must be a number or [low, high]"),
        ({"task_options": {"snr_db": "loud"}}, InvalidTypeError, "snr_db='loud' must be a real number"),
        ({"task_options": {"antennas": -1}}, InvalidValueError, "antennas=-1"),
        ({"task_options": {"impaired": 1.5}}, InvalidValueError, "impaired=1.5"),
        ({"task_options": 3}, InvalidTypeError, "task_options must be a mapping"),
        ({"monitor": "score"}, UnknownNameError, "monitor='score' is unknown"),
    ],
)
def test_wrong_requests_are_one_line(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^[^\n]*$") as caught:
        train(settings_of(**settings))
    assert text in str(caught.value)


def test_other_families_have_no_task_options() -> None:
    with pytest.raises(InvalidValueError, match="^task_options=\\['antennas'\\] do not apply to linear[^\n]*$"):
        TrainConfig.of("linear", task_options={"antennas": 3})
    with pytest.raises(UnknownNameError, match="^monitor='nmse_ratio' is unknown[^\n]*$"):
        TrainConfig.of("linear", monitor="nmse_ratio")


# -- Noise and antennas. --


def test_noise_has_the_asked_power(generator: torch.Generator) -> None:
    history = complex_normal((40, 16, 1, 6, 12), generator=generator)
    power = torch.full((40,), 4.0)  # of all antennas, more than these have
    added = with_noise(history, power, (10.0, 10.0), generator) - history
    # 46,080 complex draws: relative deviation 1/sqrt(46080) = 0.5 %, taken five times.
    assert float(added.abs().square().mean()) == pytest.approx(0.4, rel=0.025)
    spread = (with_noise(history, power, (0.0, 20.0), generator) - history).abs().square().mean((1, 2, 3, 4)) / 4
    found = -10 * spread.log10()
    # A sample's own estimate is good to 10/ln(10)/sqrt(1152) = 0.13 dB; 40 uniform draws leave no gap of 8 dB at an end.
    assert -1 < float(found.min()) < 8
    assert 12 < float(found.max()) < 21
    assert with_noise(history, power, None, generator) is history


def test_antennas_come_from_groups_of_neighbours(generator: torch.Generator) -> None:
    chosen = chosen_antennas((200, 32), 8, generator)
    assert chosen is not None
    assert torch.equal(chosen // 4, torch.arange(8).expand(200, 8))
    assert sorted(set(chosen.flatten().tolist())) == list(range(32))  # 200 draws miss one of 4 with probability 1e-25
    uneven = chosen_antennas((500, 5), 2, generator)
    assert uneven is not None
    assert uneven[:, 0].max() < uneven[:, 1].min()
    assert set(uneven.flatten().tolist()) == set(range(5))
    for wanted in (0, 5, 9):
        assert chosen_antennas((3, 5), wanted, generator) is None


# -- Frames of the stream. --


def test_batches_depend_on_their_number_alone() -> None:
    source = open_source(settings_of())
    whole = first_batches(source, 5)
    late = first_batches(open_source(settings_of()), 2, first=3)
    for name in COLUMNS:
        assert all(torch.equal(a[name], b[name]) for a, b in zip(whole[3:], late, strict=True))
    assert whole[0]["h_u_hist"].shape == (8, 4, 1, 6, 12)
    assert whole[0]["h_u_pred"].shape == (8, 4, 1, 2, 12)
    assert not torch.equal(first_batches(open_source(settings_of(seed=1)), 1)[0]["h_u_pred"], whole[0]["h_u_pred"])


def test_noise_is_on_the_history_alone_and_new_in_every_batch() -> None:
    noisy, clean = (first_batches(open_source(settings_of(task_options=o)), 3) for o in ({"snr_db": 10}, {"snr_db": None}))
    for a, b in zip(noisy, clean, strict=True):
        assert torch.equal(a["h_u_pred"], b["h_u_pred"])
    noise = [(a["h_u_hist"] - b["h_u_hist"]).flatten(1) for a, b in zip(noisy, clean, strict=True)]
    every = torch.cat(noise)
    gram = (every @ every.mH).abs()
    power = gram.diagonal()
    # 288 draws a sample: correlations of independent ones are about 1/17, largest of 276 about 0.2.
    assert float((gram / (power[:, None] * power).sqrt() - torch.eye(len(gram))).max()) < 0.4
    assert float(power.min()) > 0


def test_a_batch_mixes_cells() -> None:
    source: Any = open_source(settings_of())
    pieces, order = source._chunk(0, COLUMNS)
    assert len(pieces) == len(CELLS)
    assert sorted(order.tolist()) == list(range(12))
    assert len({number // 4 for number in order[:8].tolist()}) > 1


def test_devices_see_other_samples() -> None:
    source = open_source(settings_of())
    shares = [next(source.batches(COLUMNS, 8, Share(rank, 2)))["h_u_pred"] for rank in range(2)]
    alike = (shares[0][:, None] - shares[1][None]).abs().flatten(2).amax(-1)
    assert float(alike.min()) > 1e-3  # equal samples would give 0; channels have unit power


def test_fixed_frames_are_no_frames_of_the_data_set() -> None:
    """Validation and calibration differ from each other and from all that a data set or a training run holds."""
    config = settings_of(task_options={"snr_db": None, "antennas": 0})
    source: Any = open_source(config)
    sets = {part: source.fixed(COLUMNS, 12, part)["h_u_pred"] for part in ("val", "calibration")}
    sets["training"] = torch.cat([batch["h_u_pred"] for batch in first_batches(source, 5)])
    sampler = wc.simulate.KINDS["csi-rrg"](wc.simulate.load_recipe("csi-rrg", SMALL | {"split": "train"}))
    stored = [sampler.sample(sampler.key(0, "train", cell, block))["h_u_pred"] for cell in CELLS for block in (0, 1)]
    sets["data"] = torch.cat(stored)
    names = list(sets)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if {one, other} != {"training", "data"}:  # a stream with the recipe's seed may draw what a data set holds
                apart = (sets[one][:, None] - sets[other][None]).abs().flatten(2).amax(-1)
                assert float(apart.min()) > 1e-3, (one, other)
    assert min(FIRST_BLOCKS.values()) >= 10_000
    assert len(sets["val"]) == 12


def test_fixed_frames_are_the_same_in_every_run() -> None:
    sets = [open_source(settings_of(seed=seed)).fixed(COLUMNS, 7) for seed in (0, 5)]
    assert all(torch.equal(sets[0][name], sets[1][name]) for name in COLUMNS)
    assert sets[0]["h_u_hist"].shape == (7, 16, 1, 6, 12)  # all antennas
    clean = open_source(settings_of(task_options={"snr_db": None})).fixed(COLUMNS, 7)
    assert torch.equal(sets[0]["h_u_pred"], clean["h_u_pred"])
    assert not torch.equal(sets[0]["h_u_hist"], clean["h_u_hist"])
    assert len(open_source(settings_of()).fixed(COLUMNS, 2)["h_u_pred"]) == 2  # fewer frames than cells


def test_other_impairments_come_at_their_share() -> None:
    clean = first_batches(open_source(settings_of(task_options={"snr_db": None})), 12)
    hit = first_batches(open_source(settings_of(task_options={"snr_db": None, "impaired": 1.0})), 12)
    changed = [not torch.equal(a["h_u_hist"], b["h_u_hist"]) for a, b in zip(clean, hit, strict=True)]
    assert any(changed)  # phase noise always changes a batch; a drop or a burst may miss one
    assert all(torch.isfinite(batch["h_u_hist"]).all() for batch in hit)
    assert all(float(batch["h_u_hist"].abs().amax((1, 2, 4)).min()) > 0 for batch in hit)  # lost snapshots are filled
    assert all(torch.equal(a["h_u_pred"], b["h_u_pred"]) for a, b in zip(clean, hit, strict=True))


# -- A data set on disk. --


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 samples of each of 3 cells."""
    path = tmp_path_factory.mktemp("rrg") / "set"
    recipe = wc.simulate.load_recipe("csi-rrg", SMALL | {"split": "train", "splits.train.num_samples": 20})
    wc.simulate.run(recipe, path, workers=1, on_warning=lambda text: None)
    return path


def disk(folder: Path, **settings: Any) -> TrainConfig:
    return settings_of(stream=None, data=str(folder), overrides={}, **settings)


def test_the_last_tenth_of_every_cell_is_for_validation(folder: Path) -> None:
    config = disk(folder, task_options={"snr_db": None, "antennas": 0})
    source: Any = open_source(config)
    whole = wc.store.open(folder, split="train")
    cells = {(source._held_out.tolist()[i], whole.cell_of(place)[1:]) for i, place in enumerate(source._held_out.tolist())}
    assert sorted(position for _, (_, position) in cells) == [18, 18, 18, 19, 19, 19]
    seen = torch.cat([batch["h_u_pred"] for batch in first_batches(source, 6)])  # one pass and a part of the next
    held = torch.cat([source.fixed(COLUMNS, 3, part)["h_u_pred"] for part in ("val", "calibration")])
    assert len(torch.unique(held.flatten(1).abs().sum(1))) == 6
    assert float((seen[:, None] - held[None]).abs().flatten(2).amax(-1).min()) > 1e-3
    assert source.epoch_frames == 54


def test_noise_is_drawn_anew_in_every_pass(folder: Path) -> None:
    config = disk(folder, task_options={"snr_db": 20, "antennas": 0}, batch_size=27)
    batches = first_batches(open_source(config), 4, size=27)  # two passes
    first, second = (torch.cat([b["h_u_hist"] for b in batches[i : i + 2]]).flatten(1) for i in (0, 2))
    apart = (first[:, None] - second[None]).abs().square().mean(-1)
    nearest = apart.min(1).values
    # The same channel under two noises of -20 dB of the sample's power, which is 1 but for the future and the gap.
    assert float(nearest.mean()) == pytest.approx(0.02, rel=0.3)
    fixed = [open_source(config).fixed(COLUMNS, 6)["h_u_hist"] for _ in range(2)]
    assert torch.equal(*fixed)


def test_a_run_on_a_data_set(folder: Path) -> None:
    result = train(disk(folder, model_options={"duplex": "fdd"}, max_steps=4))
    assert result.steps == 4
    assert math.isfinite(result.best["nmse_ratio"])
    with pytest.raises(InvalidValueError, match="^batch_size=64 [^\n]*54 training frames$"):
        train(disk(folder, batch_size=64))


def test_data_sets_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    one = wc.simulate.load_recipe("csi-rrg", SMALL | {"split": "train", "splits.train.num_samples": 1})
    wc.simulate.run(one, tmp_path / "one", workers=1, on_warning=lambda text: None)
    with pytest.raises(InvalidValueError, match="^data=[^\n]*one sample a cell"):
        open_source(disk(tmp_path / "one"))
    other = wc.simulate.load_recipe("csi-rrg", SMALL | {"split": "regular", "splits.regular.num_samples": 2})
    wc.simulate.run(other, tmp_path / "two", workers=1, on_warning=lambda text: None)
    with pytest.raises(InvalidValueError, match="^data=[^\n]*has no split 'train' \\(it has regular\\)"):
        open_source(disk(tmp_path / "two"))


# -- A run. --


class Nearest(LearnedPredictor):
    """One weight a step: the last snapshot times a number; with a loss of its own on request."""

    kind = "nearest"
    own = False

    def _build(self) -> nn.Module:
        return nn.Conv1d(1, self.num_horizon, 1, bias=False)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        last = x.flatten(0, 1)[:, -1:]
        return self.network(last).unflatten(0, x.shape[:2])

    def training_loss(self, history: torch.Tensor, future: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        return self.network.weight.square().sum() if self.own else None


class Joint(Nearest):
    """The same, but it wants all antennas."""

    kind = "joint"
    joint_antennas = True


@pytest.fixture
def tiny_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the classes of this file."""
    from wichan.training.predictors import Predictors

    monkeypatch.setattr(Predictors, "models", lambda self: {"rnn": RNNPredictor, "nearest": Nearest, "joint": Joint})


def test_a_run_learns_and_leaves_a_folder(tmp_path: Path) -> None:
    easy = SMALL | {"cell": ["cm_D_ds_030_ms_010", "cm_D_ds_300_ms_010"]}
    config = settings_of(
        overrides=easy,
        model_options={"hidden": 48},
        loss="nmse+nll",
        lr=1e-2,
        batch_size=16,
        ema=0.98,
        max_steps=200,
        val_every=100,
        val_frames=60,
    )
    result = train(config, out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [100, 200]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    est = result.estimator
    assert isinstance(est, RNNPredictor)
    assert not est.training
    frames = open_source(config).fixed(COLUMNS, 60)
    future = frames["h_u_pred"]
    with torch.no_grad():
        found = est(frames["h_u_hist"])
    error, energy = (found.h_pred - future).abs().square(), future.abs().square()
    ratio = float((error.sum(-1) / energy.sum(-1)).mean())
    # float32 in other batch sizes
    assert result.best["nmse_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert result.best["nmse_db"] == pytest.approx(10 * math.log10(float(error.sum() / energy.sum())), abs=1e-3)
    scale = float(est.error_head.scale)  # set after this validation
    assert result.best["error_ratio"] == pytest.approx(scale * float((error / found.err_var).mean()), rel=1e-3)
    assert set(result.best) == {"nmse_db", "score_db", "error_ratio", "loss", "nmse_ratio"}
    hold = Hold(6, 2)(frames["h_u_hist"]).h_pred
    held = 10 * math.log10(float((hold - future).abs().square().sum() / energy.sum()))
    # Measured -13.3 dB; no prediction at all has 0 dB, the last snapshot about -1 dB.
    assert result.best["nmse_db"] < min(-8.0, held - 5)


def test_err_var_is_calibrated_on_frames_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from wichan.training.history_data import HistoryStream

    asked: list[str] = []
    fixed = HistoryStream.fixed

    def spied(self: Any, names: Any, number: int, part: str = "val") -> Any:
        asked.append(part)
        return fixed(self, names, number, part)

    monkeypatch.setattr(HistoryStream, "fixed", spied)
    result = train(settings_of())
    assert asked == ["val", "calibration"]
    assert float(result.estimator.error_head.scale) != 1.0
    asked.clear()
    assert float(train(settings_of(loss="mse")).estimator.error_head.scale) == 1.0
    assert asked == ["val"]


def interrupt_at(step: int) -> Callable[[TrainProgress], None]:
    def follow(state: TrainProgress) -> None:
        if state.steps == step and not state.metrics:
            os.kill(os.getpid(), signal.SIGINT)

    return follow


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    config = settings_of(task_options={"impaired": 0.5})
    whole = train(config, out=tmp_path / "whole")
    again = train(config)
    assert same(again.estimator, whole.estimator)
    part = train(config, out=tmp_path / "part", progress=interrupt_at(6))
    assert (part.stopped, part.steps) == ("interrupted", 6)
    assert isinstance(load_weights(tmp_path / "part"), RNNPredictor)  # Ctrl-C keeps weights
    rest = train(config, out=tmp_path / "part", resume=True)
    assert rest.best == whole.best
    assert same(rest.estimator, whole.estimator)
    assert not same(train(config.changed(seed=1)).estimator, whole.estimator)
    with pytest.raises(InvalidValueError, match="holds a run with task_options="):
        train(config.changed(task_options={"antennas": 2}), out=tmp_path / "part", resume=True)


def test_all_antennas_reach_a_network_that_uses_them_jointly(tiny_kinds: None) -> None:
    for name, antennas in (("nearest", 4), ("joint", 16)):
        config = TrainConfig.of(name, overrides=SMALL, batch_size=4, max_steps=1, val_frames=3)
        source, task = open_run(config, Place(torch.device("cpu")))
        batch = next(source.batches(task.columns, 4, Share()))
        assert batch["h_u_hist"].shape[1] == antennas
        assert type(task.network) is {"nearest": Nearest, "joint": Joint}[name]


def test_a_loss_of_its_own_trains_the_mean(tiny_kinds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nearest, "own", True)
    config = TrainConfig.of("nearest", overrides=SMALL, batch_size=4, max_steps=40, val_frames=3, lr=0.1, ema=0.0, loss="mse")
    before = Nearest(num_subcarriers=12, num_history=6, num_horizon=2, seed=0).network.weight
    for loss in ("mse", "mse+nll"):
        made = train(config.changed(loss=loss, monitor="loss", val_every=1000)).estimator
        # The loss is the square of the weights: they go to 0 and to nowhere that predicts.
        assert float(made.network.weight.detach().abs().max()) < 0.2 * float(before.detach().abs().max())
    moved = made.error_head.layers[-1].bias.detach().abs().max()
    assert float(moved) > 0  # trained beside it by nll


def test_half_precision_and_idle_weights() -> None:
    result = train(settings_of(precision="bf16-mixed", loss="nmse", max_steps=4))
    assert math.isfinite(result.best["nmse_ratio"])
    for loss, idle in (("mse", True), ("mse+nll", False)):
        config = settings_of(loss=loss)
        source, task = open_run(config, Place(torch.device("cpu")))
        assert isinstance(task, PredictionTraining)
        assert task.has_idle_weights is idle


# -- Files. --


def made(kind: str = "rnn", **options: Any) -> LearnedPredictor:
    sizes = {"num_subcarriers": 12, "num_history": 6, "num_horizon": 2, "seed": 3}
    found: LearnedPredictor = LEARNED_PREDICTORS[kind](**(sizes | options))
    return found.eval()


@pytest.mark.parametrize("kind", list(LEARNED_PREDICTORS))
def test_files_rebuild_predictors(kind: str, tmp_path: Path, generator: torch.Generator) -> None:
    cls = LEARNED_PREDICTORS[kind]
    sizes = {"num_subcarriers": 12, "num_history": 6, "num_horizon": 2, "seed": 3}
    predictor = cls.preset("tiny", **sizes).eval()
    path = save_weights(predictor, tmp_path / "a.safetensors", {"steps": 3})
    assert path.read_bytes() == save_predictor(predictor, tmp_path / "b.safetensors", {"steps": 3}).read_bytes()
    history = complex_normal((2, 32, 1, 6, 12), generator=generator)
    with torch.no_grad():
        want = predictor(history)
        for found in (load_weights(path), load_predictor(path), load(path), load(str(path), device="cpu")):
            assert type(found) is cls
            assert not found.training
            assert found.duplex == "tdd"
            assert torch.equal(found(history).h_pred, want.h_pred)
            assert torch.equal(found(history).err_var, want.err_var)


def test_double_precision_is_kept(tmp_path: Path) -> None:
    path = save_weights(made().double(), tmp_path / "a.safetensors")
    assert {value.dtype for value in load_weights(path).state_dict().values()} == {torch.float64}


def test_predictors_take_no_pilots_and_are_no_priors(tmp_path: Path) -> None:
    path = save_weights(made(), tmp_path / "a.safetensors")
    pilots = wc.observations.OFDMPilots(wc.OFDMGrid(6, 12, 15e3), (1, 4), 3)
    for read in (lambda: load_weights(path, pilots), lambda: load(path, obs=pilots)):
        with pytest.raises(InvalidValueError, match="^obs=OFDMPilots does not apply to a predictor \\('rnn'\\)[^\n]*$"):
            read()
    with pytest.raises(InvalidValueError, match="^path=[^\n]*holds the predictor 'rnn' and no prior[^\n]*$"):
        load_prior(path)
    other = save_weights(Linear(pilots), tmp_path / "linear.safetensors")
    with pytest.raises(InvalidValueError, match="^path=[^\n]*holds weights of kind 'linear' and no predictor[^\n]*$"):
        load_predictor(other)
    with pytest.raises(InvalidTypeError, match="^predictor must be a learned predictor, got Linear$"):
        save_predictor(Linear(pilots), tmp_path / "c.safetensors")  # type: ignore[arg-type]


def test_damaged_files(tmp_path: Path) -> None:
    whole = save_weights(made(hidden=8, layers=1), tmp_path / "a.safetensors").read_bytes()
    changes = [
        (whole[:-9], "cut short or damaged"),
        (whole.replace(b'\\"hidden\\": 8', b'\\"hidden\\": 9'), "has shape"),
        (whole.replace(b"hidden", b"hiddem"), "cannot be used"),
        (whole.replace(b'"kind":"rnn"', b'"kind":"cnn"'), "cannot be used: config of cnn does not fit"),
        (whole.replace(b'"kind":"rnn"', b'"kind":"rmn"'), "kind='rmn' is unknown"),
    ]
    for damaged, text in changes:
        (tmp_path / "b.safetensors").write_bytes(damaged)
        assert damaged != whole
        with pytest.raises(StoreError, match="^[^\n]*$") as caught:
            load_weights(tmp_path / "b.safetensors")
        assert text in str(caught.value)
    broken = made()
    with torch.no_grad():
        broken.error_head.layers[-1].bias[0] = math.nan
    with pytest.raises(InvalidValueError, match="^predictor: tensor error_head[^\n]*NaN"):
        save_weights(broken, tmp_path / "c.safetensors")
    with pytest.raises(InvalidValueError, match="must end in .safetensors"):
        save_weights(made(), tmp_path / "c.bin")
