"""Weights on disk: what goes in comes out, nothing runs, and every bad file is one clear line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

import wichan as wc
from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, UnknownNameError, WichanError
from wichan.estimators import AdaFortiTran, CeViT, FortiTran, LearnedEstimator, Linear
from wichan.observations import OFDMPilots
from wichan.random import complex_normal
from wichan.training import load_weights, model_folder, model_info, released, save_weights, zoo
from wichan.training.weights_reader import describe_pilots, read_weights

ROOT = Path(__file__).resolve().parents[2]
GRID = wc.OFDMGrid(6, 12, 15e3)
SMALL = {"width": 8, "layers": 1, "heads": 2}
CONDITIONS = {"delay_spread": 1e-7, "max_doppler": 200.0}


def small(kind: str, obs: OFDMPilots | None = None, **options: Any) -> LearnedEstimator:
    """A tiny network of a kind, in evaluation mode."""
    obs = OFDMPilots(GRID, (1, 4), 3) if obs is None else obs
    made = {
        "linear": lambda: Linear(obs, **options),
        "fortitran": lambda: FortiTran(obs, **(SMALL | options)),
        "adafortitran": lambda: AdaFortiTran(obs, **(SMALL | options)),
        "cevit": lambda: CeViT(obs, patch=(3, 4), hidden=8, **(SMALL | options)),
    }
    return made[kind]().eval()


KINDS = ("linear", "fortitran", "adafortitran", "cevit")


def received(generator: torch.Generator, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return complex_normal((3, 1, *GRID.shape), generator=generator, dtype=dtype)


def spoil(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> Path:
    """Write a weight file with changed tensors or metadata, with the library's own writer."""
    data = source.read_bytes()
    notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data)
    change(tensors, notes)
    save_file(tensors, target, notes)
    return target


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_weights(small("adafortitran"), tmp_path / "ada.safetensors", {"recipe": "ofdm-siso", "steps": 3})


# -- There and back. --


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_estimates_the_same(tmp_path: Path, generator: torch.Generator, kind: str, dtype: torch.dtype) -> None:
    options = {"condition_ranges": None} if kind == "cevit" else {}
    est = small(kind, seed=5, **options).to(dtype.to_real())
    again = load_weights(save_weights(est, tmp_path / "w.safetensors"))
    y, told = received(generator, dtype), CONDITIONS | {"snr_db": 10.0}
    for mine, theirs in zip(again(y, 0.1, **told), est(y, 0.1, **told), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert type(again) is type(est)
    assert again.config() == est.config()
    assert again.told == est.told
    assert again.obs.grid == est.obs.grid
    assert not again.training


def test_pilots_of_any_pattern_come_back(tmp_path: Path) -> None:
    values = torch.zeros(6, 12, dtype=torch.complex128)
    values[1, ::2], values[3, 1::3] = 1j, -2.0
    obs = OFDMPilots.from_pattern(wc.OFDMGrid(6, 12, 30e3, 40e-6), values)
    again = load_weights(save_weights(small("linear", obs), tmp_path / "w.safetensors"))
    assert again.obs.grid == obs.grid
    assert torch.equal(again.obs.pilots, obs.pilots)
    assert again.obs.pilots.dtype == torch.complex128  # the weights beside it are in single precision
    assert again.network.weight.dtype == torch.float32


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, wichan as wc, wichan.training\n"
        "obs = wc.observations.OFDMPilots(wc.OFDMGrid(6, 12, 15e3), (1, 4), 3)\n"
        "wc.training.save_weights(wc.estimators.Linear(obs), sys.argv[1], {'b': 1, 'a': [2]})\n"
    )
    first = save_weights(small("linear"), tmp_path / "a.safetensors", {"a": [2], "b": 1})
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # another process: the library's own order of metadata differs by process
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.safetensors")], check=True, env=env, timeout=120)
    assert first.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert load(first.read_bytes()).keys() == small("linear").state_dict().keys()  # and the library reads it


def test_file_says_what_it_is(saved: Path) -> None:
    info, tensors = read_weights(saved)
    assert (info.kind, info.version, info.num_bytes) == ("adafortitran", wc.__version__, saved.stat().st_size)
    assert info.training == {"recipe": "ofdm-siso", "steps": 3}
    assert info.config == small("adafortitran").config()
    assert info.num_parameters == sum(p.numel() for p in small("adafortitran").parameters()) + 1  # the scale of err_var
    assert set(tensors) == set(small("adafortitran").state_dict())
    assert not any(value.is_complex() for value in tensors.values())
    assert describe_pilots(info.obs) == "6 x 12, 15 kHz, 8 pilots in symbols 1, 4 at subcarriers 0, 3, 6, 9"


def test_weights_for_other_pilot_symbols_share_everything_else(saved: Path, generator: torch.Generator) -> None:
    other = OFDMPilots(GRID, (1, 4), 3, values=2j)
    plain, turned = load_weights(saved), load_weights(saved, other)
    y = received(generator)
    # A network sees y / p: what the other pilots make of 2j y is what the first make of y.
    want, _ = plain(y * plain.obs.pilots[0], 0.1, **CONDITIONS)
    have, _ = turned(2j * y, 0.1 * 4, **CONDITIONS)
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)  # single precision


def test_failed_writing_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(StoreError, match="disk full"):
        save_weights(small("linear"), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# -- What is refused when writing. --


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.nn.Linear(2, 2), "a.safetensors"), InvalidTypeError, "must be a learned estimator, got Linear"),
        ((None, "a.pt"), InvalidValueError, "must end in .safetensors"),
        ((None, "no/such/a.safetensors"), StoreError, "cannot write"),
        ((None, "a.safetensors", {"when": object()}), InvalidTypeError, "training must be what JSON can hold"),
    ],
)
def test_bad_saves(tmp_path: Path, arguments: tuple, error: type[WichanError], text: str) -> None:
    est, name, *rest = arguments
    with pytest.raises(error, match=text) as caught:
        save_weights(small("linear") if est is None else est, tmp_path / name, *rest)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_diverged_weights_are_not_saved(tmp_path: Path) -> None:
    est = small("linear")
    with torch.no_grad():
        est.network.bias[3] = torch.nan
    with pytest.raises(InvalidValueError, match=r"tensor network.bias holds 1 NaN or infinite of 72 values"):
        save_weights(est, tmp_path / "w.safetensors")


# -- What is refused when reading. --


class Bomb:
    """Says so if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(Bomb.place),))

    place = Path()


@pytest.mark.parametrize("how", ["torch", "pickle-2", "pickle-4", "pickle-0", "legacy"])
def test_pickles_are_not_read(tmp_path: Path, how: str) -> None:
    Bomb.place = tmp_path / "bang"
    path = tmp_path / "checkpoint.ckpt"
    if how in ("torch", "legacy"):
        torch.save({"model_state_dict": Bomb()}, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol=int(how[-1])))
    for call in (load_weights, wc.load):
        with pytest.raises(StoreError, match=r"is a pickle.*not read;.*AdaFortiTran\.from_official_checkpoint\(path\)$"):
            call(path)
    renamed = path.rename(tmp_path / "checkpoint.safetensors")
    with pytest.raises(StoreError, match="no safetensors file" if how == "pickle-0" else "is a pickle"):
        load_weights(renamed)
    assert not Bomb.place.exists()


def test_archives_count_as_pickles(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(StoreError, match="is a pickle or an archive of them"):
        load_weights(tmp_path / "w.safetensors")


def test_every_cut_is_one_clear_line(saved: Path) -> None:
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in (0, 5, 8, 9, header // 2, header - 1, header, header + 1, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(StoreError, match="cut short|damaged") as caught:
            load_weights(saved)
        assert "\n" not in str(caught.value)


def test_no_flipped_byte_of_the_header_does_harm(saved: Path) -> None:
    """Anything may stand there: the file is refused in one line, or the change is without meaning (a white space)."""
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for place in range(0, header, 23):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        try:
            load_weights(saved)
        except WichanError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > header // 46  # most bytes matter


def drop(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    del tensors["network.projection.bias"], tensors["error_head.scale"]
    tensors["extra"] = torch.ones(1)


def reshape(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    tensors["error_head.scale"] = torch.ones(2)


def retype(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    tensors["error_head.scale"] = torch.ones((), dtype=torch.int64)


def not_a_number(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    tensors["error_head.layers.0.bias"][7] = torch.nan


def silent(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    tensors["obs.pilots_ri"] *= 0


def no_pilots(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    del tensors["obs.pilots_ri"]


def note(key: str, value: str) -> Callable[[dict[str, torch.Tensor], dict[str, str]], None]:
    def change(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
        notes[key] = value

    return change


def config(key: str, value: Any) -> Callable[[dict[str, torch.Tensor], dict[str, str]], None]:
    def change(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
        notes["config"] = json.dumps(json.loads(notes["config"]) | {key: value})

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda tensors, notes: notes.clear(),
            r"not hold weights of wichan \(format wichan-weights-N; its metadata does not say\)",
        ),
        (note("format", "wichan-state-1"), "does not hold weights of wichan .*its metadata says 'wichan-state-1'"),
        (note("format", "wichan-weights-" + 5000 * "9"), "does not hold weights of wichan"),
        (note("format", "wichan-weights-2"), r"has format wichan-weights-2; .* up to wichan-weights-1: update wichan"),
        (note("kind", "fortitram"), r"kind='fortitram' is unknown; did you mean 'fortitran'"),
        (lambda tensors, notes: notes.pop("kind"), "kind=None is unknown"),
        (note("config", "{"), "config in its metadata must be a JSON object"),
        (note("config", "[1]"), "config in its metadata must be a JSON object"),
        (note("grid", "{}"), "cannot be used: .*num_ofdm_symbols"),
        (note("grid", '{"num_ofdm_symbols": 6, "num_subcarriers": 12, "subcarrier_spacing": -1}'), "subcarrier_spacing=-1"),
        (note("grid", '{"num_ofdm_symbols": 6, "num_subcarriers": 13, "subcarrier_spacing": 1}'), "pilots has shape"),
        (config("depth", 3), "cannot be used: config of adafortitran does not fit"),
        (config("width", "wide"), "width='wide' must be an integer"),
        (config("condition_ranges", [1, 2]), "cannot be used"),
        (config("width", 12), r"does not fit 'adafortitran': tensor .* has shape .*, with its config it must be"),
        (config("layers", 2), r"tensors of 'adafortitran' with its config: \d+ missing \(network\..*, \.\.\.\)$"),
        (drop, r"2 missing \(error_head.scale, network.projection.bias\), 1 unexpected \(extra\)"),
        (reshape, r"tensor error_head.scale has shape \(2,\), with its config it must be \(\)"),
        (retype, "tensor error_head.scale has dtype torch.int64, not torch.float32"),
        (not_a_number, r"is damaged: tensor error_head.layers.0.bias holds 1 NaN"),
        (silent, "all zero"),
        (no_pilots, "tensor obs.pilots_ri must hold the pilots"),
    ],
)
def test_files_that_do_not_fit(saved: Path, tmp_path: Path, change: Any, text: str) -> None:
    path = spoil(saved, tmp_path / "spoiled.safetensors", change)
    with pytest.raises(StoreError, match=text) as caught:
        load_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(StoreError, match="does not hold weights of wichan"):
        load_weights(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    "obs",
    [
        OFDMPilots(wc.OFDMGrid(6, 24, 15e3), (1, 4), 3),
        OFDMPilots(wc.OFDMGrid(6, 12, 30e3), (1, 4), 3),
        OFDMPilots(GRID, (1, 4), 3, subcarrier_offset=1),
        OFDMPilots(GRID, (1, 5), 3),
        OFDMPilots(GRID, (1, 4), 2),
    ],
)
def test_a_checkpoint_of_another_grid(saved: Path, obs: OFDMPilots) -> None:
    with pytest.raises(InvalidValueError, match="is a checkpoint of another grid: adafortitran was made for") as caught:
        wc.load(saved, obs=obs)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for path, text in [("no.safetensors", "is no file"), ("run", "a folder without weights.safetensors")]:
        with pytest.raises(InvalidValueError, match=text):
            wc.load(tmp_path / path)
    with pytest.raises(InvalidTypeError, match="obs must be OFDMPilots, got OFDMGrid"):
        load_weights(save_weights(small("linear"), tmp_path / "w.safetensors"), GRID)
    with pytest.raises(InvalidTypeError, match="name of a model or a path, got int"):
        wc.load(3)


# -- Released models. --


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two released models."""
    folder = tmp_path / "models"
    for kind in ("fortitran", "linear"):
        (folder / kind).mkdir(parents=True)
        save_weights(small(kind), folder / kind / "weights.safetensors")
        (folder / kind / "card.md").write_text(f"# {kind}\n")
        (folder / kind / "config.yaml").write_text(
            f"title: A {kind}\nkind: {kind}\ntrained_on: ofdm-siso\ncommand: wichan train {kind}\nwall_time: 1 min\nheadline:\n"
        )
    (folder / "README.md").write_text("# Models\n")
    monkeypatch.setattr(zoo, "model_folder", lambda: folder)
    return folder


def test_released_models_load_by_name(models: Path) -> None:
    assert released() == {name: models / name for name in ("fortitran", "linear")}
    est = wc.load("fortitran", device="cpu", obs=OFDMPilots(GRID, (1, 4), 3, values=1j))
    assert isinstance(est, FortiTran)
    assert not est.training
    assert complex(est.obs.pilots.sum()) == pytest.approx(8j)
    info = model_info("linear")
    assert (info.title, info.headline, info.overrides, info.weights.kind) == ("A linear", "", {}, "linear")
    assert info.card == "# linear\n"


def test_a_released_name_goes_before_a_file_of_that_name(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models.parent)
    (models.parent / "linear").write_text("not weights")
    assert wc.load("linear").kind == "linear"
    folder = models.parent / "mine"
    folder.mkdir()
    save_weights(small("cevit"), folder / "best.safetensors")
    assert wc.load("mine").kind == "cevit"  # a folder of a training run


def test_unknown_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UnknownNameError, match=r"model='fortran' is unknown; did you mean 'fortitran'\? \(known: fortitran, linear\)"
    ):
        wc.load("fortran")
    with pytest.raises(InvalidValueError, match="device='tpu'"):
        wc.load("linear", device="tpu")
    monkeypatch.setattr(zoo, "model_folder", lambda: models / "linear")
    with pytest.raises(UnknownNameError, match="no model is released"):
        wc.load("linear")


LINES = "title: x\ntrained_on: x\ncommand: x\nwall_time: x\nheadline: x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "lacks kind, trained_on"),
        ("[1]\n", "must hold keys and values"),
        ("a: *b\n", "not valid YAML"),
        (
            "title: x\nkind: cevit\ntrained_on: x\ncommand: x\nwall_time: x\nheadline: x\n",
            "says kind 'cevit', its weights say 'linear'",
        ),
        (LINES + "kind: linear\noverrides: 3\n", "overrides"),
    ],
)
def test_bad_configs(models: Path, text: str, message: str) -> None:
    (models / "linear" / "config.yaml").write_text(text)
    with pytest.raises(WichanError, match=message) as caught:
        model_info("linear")
    assert "\n" not in str(caught.value)


def test_models_are_found_in_a_wheel_and_beside_the_package(tmp_path: Path) -> None:
    package = tmp_path / "wichan"
    with pytest.raises(WichanError, match="no models found in .*; reinstall wichan"):
        model_folder(package)
    (tmp_path / "models").mkdir()
    assert model_folder(package) == tmp_path / "models"
    (package / "_data" / "models").mkdir(parents=True)
    assert model_folder(package) == package / "_data" / "models"


# -- What is really released. --

SHIPPED = sorted(path.parent for path in (ROOT / "models").glob("*/config.yaml"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_released_model_keeps_what_its_card_says(folder: Path) -> None:
    info = model_info(folder.name)
    assert sorted(path.name for path in folder.iterdir()) == ["card.md", "config.yaml", "weights.safetensors"]
    assert info.weights.num_bytes <= 20_000_000
    assert info.command.startswith("wichan train")
    assert info.command in info.card
    assert info.title and info.wall_time and info.trained_on in info.card
    if info.kind in wc.prediction.LEARNED_PREDICTORS:
        check_predictor_at_work(folder.name)
    else:
        check_estimator_at_work(info, folder.name)


def check_predictor_at_work(name: str) -> None:
    """A released predictor is ahead of holding, on cells of its benchmark and fresh noise."""
    cells = ["cm_A_ds_300_ms_010", "cm_C_ds_030_ms_030", "cm_D_ds_100_ms_010"]
    batch = next(wc.simulate.stream("csi-rrg", split="regular", cells=cells, batch_size=60, num_batches=1))
    rows = slice(None, None, 10)  # blocks hold 20 samples of a cell
    history = wc.observations.AWGN(15.0)(batch.h_u_hist[rows], generator=torch.Generator().manual_seed(1))[0]
    est = wc.load(name)
    target = (batch.h_u_pred if est.duplex == "tdd" else batch.h_d_pred)[rows]
    with torch.no_grad():
        h_pred, err_var = est(history)
    plain = wc.prediction.Hold(duplex=est.duplex)(history).h_pred
    assert bool(torch.isfinite(err_var).all()) and float(err_var.min()) >= 0
    # At these speeds the last snapshot is out of date: holding is at -2 to 4 dB, so even a weak network is dBs ahead.
    assert float(wc.metrics.nmse_db(h_pred, target)) < float(wc.metrics.nmse_db(plain, target)) - 1.0


def check_estimator_at_work(info: Any, name: str) -> None:
    """A released estimator is ahead of least squares on its recipe."""
    settings = info.overrides | {"batch_size": 64, "num_batches": 1, "split": "test"}
    batch = next(wc.simulate.stream(info.trained_on, **settings))
    link = wc.simulate.build_link(wc.simulate.load_recipe(info.trained_on, info.overrides))
    est = wc.load(name, obs=link.observation)
    told = {name: batch.conditions[name] for name in getattr(est, "told", ())}
    least_squares = wc.estimators.LS if isinstance(link.observation, wc.observations.OFDMPilots) else wc.estimators.BLS
    with torch.no_grad():
        h_hat, err_var = est(batch.y, batch.no, **told)
        plain, _ = least_squares(link.observation)(batch.y, batch.no)
    assert bool(torch.isfinite(err_var).all()) and float(err_var.min()) >= 0
    # Least squares interpolates noise; over 64 channels of mixed conditions anything that was trained is dBs better.
    assert float(wc.metrics.nmse_db(h_hat, batch.h)) < float(wc.metrics.nmse_db(plain, batch.h)) - 1.0
