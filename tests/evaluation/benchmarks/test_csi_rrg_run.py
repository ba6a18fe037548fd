"""Runs of the CSI-RRG benchmark: the same noise for everybody, any chunk size, resumed or not, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, StoreError, UnknownNameError, WichanError
from wichan.evaluation import BenchmarkResult, CSIRRGBenchmark
from wichan.evaluation.benchmarks.channels import LiveChannels
from wichan.evaluation.benchmarks.contestants import contestant_of
from wichan.evaluation.benchmarks.scenarios import cells
from wichan.evaluation.benchmarks.scoring import NOISE_UNIT, Job, damaged, score_job
from wichan.observations import AWGN
from wichan.prediction import CNNPredictor, Prediction
from wichan.random import make_generator
from wichan.simulate import load_recipe, stream
from wichan.simulate import run as simulate
from wichan.training import save_weights

#: 8 antennas and 12 bins: a hundredth of the numbers.
SMALL = {"uplink_bins": [0, 12], "downlink_bins": [20, 32], "num_bins": 32, "array.rows": 2, "array.columns": 2}
CELLS = ["cm_D_ds_300_ms_001", "cm_A_ds_030_ms_010"]


def benchmark(duplex: str = "tdd", **changes: Any) -> CSIRRGBenchmark:
    arguments: dict[str, Any] = {"cells": CELLS, "categories": ["regular", "robustness"], "num_samples": 2, "overrides": SMALL}
    return CSIRRGBenchmark(duplex, **arguments | changes)


def last(history: torch.Tensor) -> torch.Tensor:
    return history[..., -1:, :].expand(-1, -1, -1, 4, -1)


def scores(result: BenchmarkResult) -> torch.Tensor:
    return torch.cat([result.scores.nmse, result.scores.nmse_pooled, result.scores.se], dim=-1)


def test_channels_are_those_of_the_stream() -> None:
    source = LiveChannels(SMALL, 3, torch.device("cpu"))
    cell = next(c for c in cells("regular") if c.name == CELLS[1])
    batch = next(stream("csi-rrg", split="regular", cell=CELLS[1], batch_size=20, seed=3, **SMALL))
    for duplex, column in (("tdd", "h_u_pred"), ("fdd", "h_d_pred")):
        block = source.block("regular", cell, 0, duplex)
        assert torch.equal(block.history, batch["h_u_hist"])
        assert torch.equal(block.target, batch[column])


def test_a_setting_is_what_its_impairment_makes(generator: torch.Generator) -> None:
    history = torch.randn(7, 2, 1, 16, 3, dtype=torch.complex64, generator=generator)
    place = ("regular", "cell", 20)
    seen, present = damaged(history, "awgn", 15.0, 7, seed=4, place=place)
    key = ("csi-rrg-noise", "regular", "cell", "awgn", 20 // NOISE_UNIT)
    want, _ = AWGN(15.0)(history[:NOISE_UNIT], generator=make_generator(4, *key))
    assert present is None
    assert torch.equal(seen[:NOISE_UNIT], want)
    fewer, _ = damaged(history[:2], "awgn", 15.0, 2, seed=4, place=place)  # the end of a data set
    assert torch.equal(fewer, seen[:2])
    lost, present = damaged(history, "drop", 0.5, 7, seed=4, place=place)
    assert present is not None
    assert torch.equal(lost, history.masked_fill(~present[:, None, None, :, None], 0))


def test_degrees_share_their_draws(generator: torch.Generator) -> None:
    history = torch.randn(5, 2, 1, 16, 3, dtype=torch.complex64, generator=generator)
    low, high = (damaged(history, "awgn", degree, 5, seed=0, place=("s", "c", 0))[0] - history for degree in (0.0, 20.0))
    assert torch.allclose(low, 10 * high, atol=1e-5)  # rounding of a sum of order 1, ten times
    other = damaged(history, "awgn", 20.0, 5, seed=1, place=("s", "c", 0))[0] - history
    assert not torch.allclose(high, other, atol=1e-3)


def test_everybody_sees_the_same_and_chunks_do_not_matter() -> None:
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}

    def watcher(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def predict(history: torch.Tensor) -> torch.Tensor:
            seen[name].append(history.clone())
            return last(history)

        return predict

    cell = next(c for c in cells("regular") if c.name == CELLS[1])
    source = LiveChannels(SMALL, 0, torch.device("cpu"))
    job = Job("robustness", cell, "tdd", (("phase", 10.0), ("burst", 10.0), ("drop", 0.1)), 23)
    values = []
    for size in (20, 3):
        players = [replace(contestant_of(name, watcher(name)), batch_size=size) for name in seen]
        values.append(score_job(job, source, players, seed=5))
    half = len(seen["a"]) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen["a"], seen["b"], strict=True))
    assert half > 0
    assert torch.equal(values[0].values[..., :3], values[1].values[..., :3])
    assert torch.equal(values[0].values[:, 0, ..., :3], values[0].values[:, 1, ..., :3])
    assert values[0].values.shape == (3, 2, 23, 4, 4)


def test_a_function_that_writes_into_its_argument_harms_nobody() -> None:
    chosen = benchmark(categories=["regular"], noises={"awgn": [20]})
    result = chosen.run({"rude": lambda history: last(history.zero_()), "last": last})
    alone = chosen.run({"last": last})
    assert torch.equal(result.scores.nmse[:, 1], alone.scores.nmse[:, 0])
    assert torch.allclose(result.values("nmse")[:, 0], torch.ones(2, dtype=torch.float64), rtol=1e-6)


def test_first_samples_do_not_depend_on_how_many_there_are() -> None:
    cell = cells("regular")[0]
    source = LiveChannels(SMALL, 0, torch.device("cpu"))
    players = [contestant_of("last", last)]
    few, many = (score_job(Job("regular", cell, "tdd", (("awgn", 10.0),), count), source, players, seed=0) for count in (3, 24))
    assert torch.equal(few.values[..., :3], many.values[:, :, :3, :, :3])


def test_known_predictors() -> None:
    targets = []
    for name in reversed(CELLS):  # the benchmark's order
        batch = next(stream("csi-rrg", split="regular", cell=name, batch_size=20, **SMALL))
        targets.append(batch["h_u_pred"][:2])
    calls = iter([target for target in targets for _ in range(6)])
    result = benchmark(categories=["regular"]).run(
        {
            "zero": lambda history: torch.zeros_like(last(history)),
            "perfect": lambda history: next(calls),
            "array": lambda history: last(history).numpy().astype(np.complex128),
            "tuple": lambda history: (last(history), torch.ones(2)),
            "hold": "hold",
        }
    )
    nmse, se = result.values("nmse"), result.values("se")
    assert torch.allclose(nmse[:, 0], torch.ones(12, dtype=torch.float64), rtol=1e-6)
    assert torch.equal(nmse[:, 1], torch.zeros(12, dtype=torch.float64))
    assert torch.allclose(se[:, 1], result.scores.se0.mean(-1), rtol=1e-6)
    assert torch.equal(nmse[:, 2], nmse[:, 3])
    assert torch.allclose(nmse[:, 2], nmse[:, 4], rtol=1e-6)
    assert bool(result.scores.calibration[:, :4].isnan().all())
    assert bool(result.scores.calibration[:, 4].isfinite().all())


def test_workers_do_not_matter() -> None:
    one, two = (benchmark(workers=workers).run(["hold", "wiener"]) for workers in (1, 2))
    assert torch.equal(scores(one), scores(two))


def test_seeds_matter() -> None:
    first, second = (benchmark(seed=seed, categories=["regular"]).run({"last": last}) for seed in (0, 1))
    assert not torch.allclose(first.scores.nmse, second.scores.nmse)


def test_gaps_go_to_those_who_take_them() -> None:
    class Careful(torch.nn.Module):
        takes_gaps = True

        def forward(self, history: torch.Tensor, present: torch.Tensor | None = None) -> Prediction:
            if present is not None:
                assert bool((history[~present[:, None, None, :].expand(history.shape[:-1])] == 0).all())
            counted.append(present is not None)
            return Prediction(last(history), torch.ones(()).expand_as(last(history)))

    counted: list[bool] = []
    chosen = benchmark(noises={"drop": [0.1]}, categories=["robustness"], num_samples=10)
    result = chosen.run({"careful": Careful(), "hold": "hold", "blind": last})
    assert any(counted)
    nmse = result.values("nmse")
    assert torch.allclose(nmse[:, 1], nmse[:, 2], rtol=1e-6)  # a filled gap holds the last snapshot that arrived
    assert bool((nmse[:, 0] != nmse[:, 2]).any())
    published = benchmark(noises={"drop": [0.1]}, categories=["robustness"], num_samples=10, imputation="published")
    gap = published.run({"first": lambda history: history[..., :4, :]})
    plain = chosen.run({"first": lambda history: history[..., :4, :]})
    assert not torch.equal(gap.scores.nmse, plain.scores.nmse)  # the gap at the start stays


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = benchmark().run(["hold", "wiener"])
    done: list[int] = []

    def stop(views: int, total: int) -> None:
        done.append(views)
        if views > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(workers=1).run(["hold", "wiener"], tmp_path, stop)
    kept = sorted(path.name for path in (tmp_path / "cells").iterdir())
    assert kept == [f"regular_{name}.h5" for name in sorted(CELLS)]
    again: list[int] = []
    resumed = benchmark(workers=1).run(["hold", "wiener"], tmp_path, lambda views, total: again.append(views))
    assert again[0] == 24  # two cells x 6 settings x 2 samples were there
    assert again[-1] == benchmark().num_views
    assert torch.equal(scores(resumed), scores(whole))
    assert resumed.to_csv() == whole.to_csv()


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    benchmark(categories=["regular"]).run(["hold"], tmp_path)
    for other, players, text in (
        (benchmark(categories=["regular"], seed=1), ["hold"], "seed: 0 there, 1 now"),
        (benchmark(categories=["regular"]), ["hold", "pad"], "predictors"),
        (benchmark(), ["hold"], "cells"),
    ):
        with pytest.raises(InvalidValueError, match=text) as caught:
            other.run(players, tmp_path)
        assert "\n" not in str(caught.value)


def test_folder_of_another_function_is_refused(tmp_path: Path) -> None:
    small = benchmark(categories=["regular"])
    whole = small.run({"mine": last}, tmp_path)
    assert torch.equal(scores(small.run({"mine": lambda history: last(history)}, tmp_path)), scores(whole))
    with pytest.raises(InvalidValueError, match="predictors: mine: answers:"):
        small.run({"mine": lambda history: 0.9 * last(history)}, tmp_path)
    with pytest.raises(InvalidValueError, match=r"predictors: \[mine\] there, \[mine, hold\] now"):
        small.run({"mine": last, "hold": "hold"}, tmp_path)


@pytest.mark.parametrize("word", ["mine=", "=weights.safetensors"])
def test_half_a_weight_file_is_refused(word: str) -> None:
    with pytest.raises(InvalidValueError, match="weights are given as NAME=PATH"):
        benchmark(categories=["regular"]).run([word])


def test_damaged_folder(tmp_path: Path) -> None:
    small = benchmark(categories=["regular"])
    small.run(["hold"], tmp_path)
    file = tmp_path / "cells" / f"regular_{CELLS[0]}.h5"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StoreError, match="is damaged.*remove it and run again"):
        small.run(["hold"], tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StoreError, match="foreign"):
        small.run(["hold"], tmp_path)
    (tmp_path / "run.json").write_text("no")
    with pytest.raises(StoreError, match="not JSON"):
        small.run(["hold"], tmp_path)


def test_what_a_stopped_run_fitted_serves_no_other_run(tmp_path: Path) -> None:
    benchmark(categories=["regular"]).run(["wiener"], tmp_path)
    (tmp_path / "run.json").unlink()  # as if it had been stopped while the next predictor was fitted
    for file in (tmp_path / "cells").iterdir():
        file.unlink()
    other = benchmark(categories=["regular"], seed=1)
    assert torch.equal(scores(other.run(["wiener"], tmp_path)), scores(other.run(["wiener"])))


def test_fitted_predictors_are_kept(tmp_path: Path) -> None:
    small = benchmark(categories=["regular"])
    first = small.run(["wiener"], tmp_path)
    path = tmp_path / "fitted" / "wiener-tdd.safetensors"
    stamp = path.stat().st_mtime_ns
    for name in CELLS:
        (tmp_path / "cells" / f"regular_{name}.h5").unlink()
    again = small.run(["wiener"], tmp_path)
    assert path.stat().st_mtime_ns == stamp
    assert torch.equal(scores(first), scores(again))
    assert "540 training samples" in first.notes["wiener"]
    path.write_bytes(b"no")
    with pytest.raises(StoreError, match=r"wiener-tdd.safetensors is damaged"):
        small.run(["wiener"], tmp_path)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (lambda h: h, ShapeError, r"predictor 'mine' returned shape \(2, 8, 1, 16, 12\); it must be \(2, 8, 1, 4, 12\)"),
        (lambda h: last(h) * torch.nan, InvalidValueError, "predictor 'mine' returned 768 NaN or infinite of 768 values"),
        (lambda h: last(h).real, InvalidTypeError, "predictor 'mine' returned torch.float32"),
        (lambda h: None, InvalidTypeError, "predictor 'mine' returned NoneType"),
        (lambda h: (), InvalidTypeError, "predictor 'mine' returned tuple"),
        (lambda h: h.nothing, InvalidValueError, r"predictor 'mine' failed on \(2, 8, 1, 16, 12\): AttributeError"),
    ],
    ids=["shape", "nan", "real", "none", "empty", "raises"],
)
def test_wrong_answers_name_the_predictor(answer: Any, error: type[WichanError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        benchmark(categories=["regular"]).run({"hold": "hold", "mine": answer})
    assert "\n" not in str(caught.value)


def test_one_list_serves_both_duplex_modes() -> None:
    notes: list[str] = []
    run = benchmark("fdd", categories=["regular"]).run(["hold", "pad"], on_note=notes.append)
    assert run.predictors == ("hold",)
    assert notes == ["left out: predictor 'pad' has no FDD form: it follows one band in time"]


@pytest.mark.parametrize(
    ("duplex", "players", "error", "text"),
    [
        ("tdd", ["hol"], UnknownNameError, "predictor='hol' is unknown; did you mean 'hold'"),
        ("tdd", [], InvalidValueError, "predictors is empty"),
        ("tdd", ["hold", "hold"], InvalidValueError, "predictors names 'hold' twice"),
        ("tdd", 3, InvalidTypeError, "predictors must be names"),
        ("tdd", {"mine": 3}, InvalidTypeError, "predictor 'mine' must be callable"),
        ("tdd", [last], InvalidTypeError, "predictors holds function"),
        ("fdd", ["pad"], InvalidValueError, "predictor 'pad' has no FDD form"),
        ("fdd", ["ar"], InvalidValueError, "predictor 'ar' has no FDD form"),
        ("tdd", ["mine=/no/such/file.safetensors"], WichanError, "/no/such/file.safetensors"),
    ],
)
def test_wrong_predictors(duplex: str, players: Any, error: type[WichanError], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        benchmark(duplex, categories=["regular"]).run(players)
    assert "\n" not in str(caught.value)


def test_weight_files(tmp_path: Path) -> None:
    size = {"num_subcarriers": 12, "levels": (4,)}
    path = save_weights(CNNPredictor(**size), tmp_path / "small.safetensors")
    arguments: dict[str, Any] = {"categories": ["regular"], "noises": {"awgn": [20]}}
    result = benchmark(**arguments).run([f"small={path}", "hold"], tmp_path / "out")
    mine = CNNPredictor(**size).eval()
    same = benchmark(**arguments).run({"small": mine, "hold": "hold"})
    assert result.predictors == ("small", "hold")
    assert torch.allclose(result.scores.nmse, same.scores.nmse, rtol=1e-5)  # other batches: rounding
    assert result.notes["small"] == f"weights of {path}"
    save_weights(CNNPredictor(**size, seed=1), path)
    with pytest.raises(InvalidValueError, match="other arguments .predictors"):
        benchmark(**arguments).run([f"small={path}", "hold"], tmp_path / "out")
    with pytest.raises(InvalidValueError, match="was trained for duplex='tdd'; this run is 'fdd'"):
        benchmark("fdd", **arguments).run([f"small={path}"])
    with pytest.raises(ShapeError, match="predictor 'small': history has 12 subcarriers"):
        wide = save_weights(CNNPredictor(num_subcarriers=13, levels=(4,)), tmp_path / "wide.safetensors")
        benchmark(**arguments).run([f"small={wide}"])


def test_unreleased_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wichan.training.zoo.released", dict)
    with pytest.raises(InvalidValueError, match="no trained weights of 'cnn' for fdd: train them .wichan train cnn"):
        benchmark("fdd").run(["cnn"])
    notes: list[str] = []
    result = benchmark("fdd", categories=["regular"]).run(on_note=notes.append)
    assert result.predictors == ("hold", "wiener")  # what is left without weights and without those of TDD only
    assert sum("left out" in note for note in notes) == len(notes) >= 7


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"overrides": {"splits.regular.num_samples": 3}}, "overrides sets 'splits.regular.num_samples'"),
        ({"overrides": {"cell": "all"}}, "overrides sets 'cell'"),
        ({"overrides": {"doppler": 1}}, "doppler"),
        ({"imputation": "zero"}, "imputation='zero' is unknown"),
        ({"budget": "small"}, "budget='small' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": 0}, "workers=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"data": "somewhere"}, "data and overrides exclude each other"),
        ({"data": "no-such-folder", "overrides": None}, "no-such-folder"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(WichanError, match=text) as caught:
        benchmark(**arguments)
    assert "\n" not in str(caught.value)


def test_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    settings = {**SMALL, "split": "regular", "cell": CELLS}
    recipe = load_recipe("csi-rrg", settings)
    simulate(recipe, folder, n=7)
    arguments: dict[str, Any] = {"overrides": None, "data": folder, "categories": ["regular"]}
    stored = benchmark(**arguments, num_samples=7).run({"last": last})
    computed = benchmark(categories=["regular"], num_samples=7).run({"last": last})
    assert torch.equal(scores(stored), scores(computed))
    with pytest.raises(InvalidValueError, match=f"has 7 samples of cell '{CELLS[1]}'; 8 are asked for"):
        benchmark(**arguments | {"num_samples": 8})
    with pytest.raises(UnknownNameError, match="has no cell 'cm_A_ds_030_ms_001' in split 'regular'; choose with cells"):
        benchmark(**arguments | {"cells": ["cm_A_ds_030_ms_001"]})
    with pytest.raises(InvalidValueError, match="has no split 'generalization'"):
        benchmark(**arguments | {"categories": ["generalization"]})
    with pytest.raises(InvalidValueError, match="holds no rays"):
        benchmark(**arguments).run(["wiener-genie-geometry"])
    manifest = folder / "manifest.json"
    other = tmp_path / "part"
    simulate(recipe, other, n=7, shard="1/2")
    with pytest.raises(StoreError, match=r"is unfinished: \d+ of 14 samples are there"):
        benchmark(**arguments | {"data": other})
    assert json.loads(manifest.read_text())["complete"] is True


def test_references_and_fits_follow_the_settings_of_a_data_set(tmp_path: Path) -> None:
    settings = {**SMALL, "csi_period": 1e-3, "doppler_angles": "departure"}
    simulate(load_recipe("csi-rrg", settings | {"split": "regular", "cell": CELLS}), tmp_path / "data", n=2)
    players = ["wiener", "wiener-genie-cell"]
    chosen: dict[str, Any] = {"categories": ["regular"], "cells": CELLS[:1]}
    stored = benchmark(overrides=None, data=tmp_path / "data", **chosen).run(players)
    assert torch.equal(scores(stored), scores(benchmark(overrides=settings, **chosen).run(players)))


def test_foreign_data_set(tmp_path: Path) -> None:
    simulate(load_recipe("ofdm-siso", {"split": "test"}), tmp_path / "x", n=2, on_warning=lambda text: None)
    with pytest.raises(InvalidValueError, match="holds the recipe 'ofdm-siso'; the benchmark needs csi-rrg"):
        benchmark(overrides=None, data=tmp_path / "x")


@pytest.mark.parametrize("duplex", ["tdd", "fdd"])
def test_references_are_better_than_anybody(duplex: str) -> None:
    chosen = benchmark(duplex, cells=CELLS[:1], noises={"awgn": [20], "drop": [0.05]})
    result = chosen.run(["hold", "wiener", "wiener-genie-cell", "wiener-genie-geometry"])
    nmse = result.values("nmse_pooled").mean(0)
    assert float(nmse[2:].max()) < 0.3 * float(nmse[:2].min())
    assert float(nmse[3]) < float(nmse[2])


def test_estimate_counts_and_times() -> None:
    estimate = benchmark().estimate(["hold", "wiener"])
    assert (estimate.settings, estimate.samples, estimate.views) == (48, 8, 96)
    assert estimate.seconds > 0
    assert set(estimate.per_view) == {"hold", "wiener", ""}
    assert set(estimate.to_dict()["seconds_per_view"]) == {"hold", "wiener", "noise and scores"}


@pytest.mark.slow
def test_hold_is_near_the_published_numbers() -> None:
    # Released NP scores, TDD, 20 dB, steps 1 to 3. Two standard deviations: 7 % each for their 100 samples, 3 % for our 500.
    chosen = CSIRRGBenchmark(
        categories=["regular"], cells=["cm_D_ds_300_ms_010"], noises={"awgn": [20]}, num_samples=500, workers=1
    )
    nmse = chosen.run({"last": last}).scores.nmse[0, 0]
    assert nmse[:3].tolist() == pytest.approx([0.324, 1.046, 1.714], rel=0.15)
