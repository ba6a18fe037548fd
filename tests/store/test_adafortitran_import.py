"""The authors' ``.mat`` trees, made here in every known variant: what comes back, what is noticed, what is refused."""

from __future__ import annotations

import functools
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

import wichan.store as store
from wichan.errors import StoreError, WichanWarning
from wichan.grid import OFDMGrid
from wichan.store.adafortitran_mat import read_sample
from wichan.store.adafortitran_tree import parse_name

OneLine = Callable[[BaseException], str]


@dataclass
class Sample:
    """What was written into one file."""

    path: Path
    h: np.ndarray
    ls: np.ndarray
    no: float


class Maker:
    """Writes files as the authors' generator lays them out."""

    def __init__(self, shape: tuple[int, int] = (120, 14), symbols: tuple[int, ...] = (2, 11)) -> None:
        self.rng = np.random.default_rng(0)
        self.shape, self.symbols = shape, symbols

    def channel(self) -> np.ndarray:
        """A few paths: smooth over subcarriers and symbols."""
        f, t = np.arange(self.shape[0])[:, None], np.arange(self.shape[1])
        total = np.zeros(self.shape, complex)
        for _ in range(5):
            gain = (self.rng.standard_normal() + 1j * self.rng.standard_normal()) / np.sqrt(10)
            total += gain * np.exp(-2j * np.pi * (f * self.rng.uniform(0, 0.01) - t * self.rng.uniform(-0.02, 0.02)))
        return total

    def mask(self, step: int, offset: int) -> np.ndarray:
        mask = np.zeros(self.shape, bool)
        mask[np.ix_(np.arange(offset, self.shape[0], step), self.symbols)] = True
        return mask

    def write(
        self,
        folder: Path,
        index: int,
        *,
        snr: str = "20",
        ds: str = "50",
        dop: str = "500",
        step: int = 3,
        offset: int = 0,
        profile: str = "TDL-A",
        slices: int = 2,
        noise: str | None = "noise_var",
        h: np.ndarray | None = None,
        change: Callable[[dict[str, Any]], Any] | None = None,
        compress: bool = True,
    ) -> Sample:
        h = self.channel() if h is None else h
        mask = self.mask(step, offset)
        no = float(mask.mean() * np.mean(np.abs(h[mask]) ** 2) * 10 ** (-float(snr) / 10))
        noise_part = self.rng.standard_normal((*self.shape, 2)) @ np.array([1, 1j]) * np.sqrt(no / 2)
        ls = np.where(mask, h + noise_part, 0)
        content: dict[str, Any] = {"H": np.stack([h, ls, 2 * h, -h][:slices], axis=-1)}
        if noise is not None:
            content[noise] = no
        if change is not None:
            change(content)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{index}_SNR-{snr}_DS-{ds}_DOP-{dop}_N-{step}_{profile}.mat"
        savemat(path, content, do_compression=compress)
        return Sample(path, h, ls, no)


@pytest.fixture
def maker() -> Maker:
    return Maker()


def tree(folder: Path, maker: Maker) -> dict[tuple[str, str], list[Sample]]:
    """A small tree with all parts of the published one; indices are written out of order."""
    cells: dict[tuple[str, str], list[Sample]] = {}
    for split, count in (("train", 12), ("val", 4)):
        places = sorted(range(1, count + 1), key=str)
        made = {
            i: maker.write(folder / split, i, snr=str(5 * (i % 6)), ds=str(25 * (i % 5 + 1)), dop=str(50 * i)) for i in places
        }
        cells[split, "main"] = [made[i] for i in sorted(made)]
    for name, key, values, label in (
        ("DS_test_set/DS_{}", "ds", ("50", "300"), "ds_{:03d}"),
        ("MDS_test_set/DOP_{}", "dop", ("200", "1000"), "doppler_{:04d}"),
        ("SNR_test_set/SNR_{}", "snr", ("0", "5", "10"), "snr_{:02d}"),
    ):
        for value in values:
            place = folder / "test" / name.format(value)
            cells["test", label.format(int(value))] = [maker.write(place, i, **{key: value}) for i in (1, 2, 3)]
    return cells


def quiet_import(*arguments: Any, **options: Any) -> store.WichanDataset:
    """An import that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return store.import_adafortitran(*arguments, **options)


# -- What comes back. --


@pytest.mark.parametrize(
    ("slices", "noise", "offset", "compress"),
    [(2, "noise_var", 0, True), (4, "var_hat", 1, False), (3, None, 1, True), (2, "var_hat", 0, True)],
)
def test_values_come_back_exactly(
    tmp_path: Path, maker: Maker, slices: int, noise: str | None, offset: int, compress: bool
) -> None:
    options: dict[str, Any] = {"slices": slices, "noise": noise, "offset": offset, "compress": compress}
    names = [(10, "20", "50", "500"), (2, "-5", "300", "1000"), (1, "2.5", "0.5", "12.25")]
    made = [maker.write(tmp_path / "in", i, snr=s, ds=d, dop=f, **options) for i, s, d, f in names]
    ds = quiet_import(tmp_path / "in", tmp_path / "out")
    assert len(ds) == 3 and store.verify(tmp_path / "out").ok and ds.manifest.complete
    for row, sample in zip(range(3), reversed(made), strict=True):  # by index, not by name
        item = ds[row]
        assert np.array_equal(item["h"][0, 0].numpy(), sample.h.T.astype(np.complex64))
        assert np.array_equal(item["y"][0].numpy(), sample.ls.T.astype(np.complex64))
        # Where the file does not say, the variance follows from name and channel: the same number by another sum.
        assert float(item["no"]) == pytest.approx(sample.no, rel=1e-6)
    assert ds[:]["snr_db"].tolist() == [2.5, -5, 20]
    assert ds[:]["delay_spread"].tolist() == [np.float32(v) for v in (0.5e-9, 300e-9, 50e-9)]
    assert ds[:]["max_doppler"].tolist() == [12.25, 1000, 500]
    assert ds.categories["profile"] == ("A",) and ds[:]["profile"].tolist() == [0, 0, 0]
    origin = ds.manifest.header.recipe["import"]
    assert origin["importer"] == "adafortitran" and origin["folder"] == "in" and origin["files"] == 3
    assert origin["pilots"] == {"symbols": [2, 11], "subcarrier_step": 3, "subcarrier_offset": offset}
    assert ds.columns["h"].shape == (1, 1, 14, 120) and ds.manifest.header.snr_convention == "grid-measured-realised"


def test_the_tree_becomes_splits_and_cells(tmp_path: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = tree(tmp_path / "data", maker)
    (tmp_path / "data" / "README.txt").write_text("not a sample")
    (tmp_path / "data" / "train" / "._1_SNR-20.mat").write_bytes(b"left by another system")
    (tmp_path / "data" / "train" / "1_SNR-20_DS-50_DOP-500_N-3_TDL-A.mat.bak").write_bytes(b"passed over")
    seen: list[tuple[int, int]] = []
    monkeypatch.chdir(tmp_path)
    ds = quiet_import("data", progress=lambda done, total: seen.append((done, total)))
    assert ds.folder == Path("data-wichan")
    assert [(cell.split, cell.cell, cell.count) for cell in ds.manifest.cells] == [(*key, len(v)) for key, v in cells.items()]
    assert [key[1] for key in cells] == ["main"] * 2 + [
        *("ds_050", "ds_300", "doppler_0200", "doppler_1000", "snr_00", "snr_05", "snr_10")
    ]
    row = 0
    for samples in cells.values():
        for sample in samples:
            assert np.array_equal(ds[row]["h"][0, 0].numpy(), sample.h.T.astype(np.complex64))
            row += 1
    total = sum(map(len, cells.values()))
    assert seen[-1] == (total, total) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    # Once more: nothing to do.
    assert len(quiet_import("data", progress=lambda *numbers: pytest.fail("nothing is left to read"))) == total


def test_one_folder_of_the_tree_keeps_its_split(tmp_path: Path, maker: Maker) -> None:
    maker.write(tmp_path / "val", 1)
    maker.write(tmp_path / "some set" / "Odd Name!", 1)
    maker.write(tmp_path / "two" / "a" / "SNR_5", 1)
    maker.write(tmp_path / "two" / "b" / "SNR_5", 1)
    maker.write(tmp_path / "two" / "SNR_-2.5", 1)
    places = {
        name: [(c.split, c.cell) for c in quiet_import(tmp_path / name, tmp_path / f"out {name}").manifest.cells]
        for name in ("val", "some set", "two")
    }
    assert places["val"] == [("val", "main")] and places["some set"] == [("data", "odd_name")]
    assert sorted(places["two"]) == [("data", "a_snr_05"), ("data", "b_snr_05"), ("data", "snr_-2.5")]


def test_the_manifest_holds_a_recipe_that_knows_the_pilots(tmp_path: Path, maker: Maker) -> None:
    import wichan as wc

    tree(tmp_path / "data", maker)
    ds = quiet_import(tmp_path / "data", tmp_path / "out")
    recipe = wc.simulate.recipe_from_dict(ds.manifest.header.recipe)
    link = wc.simulate.build_link(recipe)
    assert torch.equal(link.observation.mask, ds[0]["y"][0] != 0)
    assert link.grid == OFDMGrid(14, 120, 15e3) and recipe.independent_fading
    assert set(recipe.split_names()) == {"train", "val", "test"} and len(recipe.cell_names("test")) == 7
    law = link.laws("test", "ds_300")
    assert law["delay_spread"].values == (300e-9,) and law["snr_db"].values == (20,) and law["profile"].values == ("A",)
    # Least squares at the pilots: the file's own numbers.
    ls = link.observation.extract(ds[:]["y"]) / link.observation.pilot_values()
    assert torch.equal(ls, link.observation.extract(ds[:]["y"]))
    result = wc.evaluation.evaluate(data=tmp_path / "out", estimators=["ls"], sweep="snr_db")
    rows = [row for row in result.rows() if row["estimator"] == "ls"]
    assert [row["point"] for row in rows] == [0.0, 5.0, 10.0, 20.0]
    nmse = [row["nmse_db"] for row in rows]
    # A pilot is 13.2 dB above the SNR in the name, and interpolating between pilots averages about 2 dB of noise away.
    assert nmse[0] == pytest.approx(-15, abs=2.5) and nmse[2] < nmse[1] < nmse[0]


@pytest.mark.parametrize(
    ("profiles", "categories", "known"),
    [
        (("TDL-A30",), ("A30",), True),
        (("TDL-B", "TDL-A"), ("A", "B"), True),
        (("TDL-A", "TDLA"), ("A",), True),
        (("TDL-A", "TDL-A30"), ("A", "A30"), False),
        (("CDL-D",), ("CDL-D",), False),
        (("Mine-2",), ("Mine-2",), False),
    ],
)
def test_profiles(tmp_path: Path, maker: Maker, profiles: tuple[str, ...], categories: tuple[str, ...], known: bool) -> None:
    from wichan.simulate import build_link, recipe_from_dict

    for i, profile in enumerate(profiles):
        maker.write(tmp_path / "in", i, profile=profile)
    ds = quiet_import(tmp_path / "in", tmp_path / "out")
    assert ds.categories["profile"] == categories
    recipe = ds.manifest.header.recipe
    assert ("kind" in recipe) == known
    if known:
        assert ("delay_spread" in recipe["conditions"]) == (categories != ("A30",))
        assert build_link(recipe_from_dict(recipe)).observation.num_pilots == 80


def test_another_grid(tmp_path: Path) -> None:
    maker = Maker(shape=(48, 7), symbols=(1, 5))
    grid = OFDMGrid(num_ofdm_symbols=7, num_subcarriers=48, subcarrier_spacing=30e3)
    for i in range(2):
        maker.write(tmp_path / "in", i, step=8, offset=3)
    ds = quiet_import(tmp_path / "in", tmp_path / "out", grid=grid)
    assert ds.columns["y"].shape == (1, 7, 48)
    found = ds.manifest.header.recipe["import"]["pilots"]
    assert found == {"symbols": [1, 5], "subcarrier_step": 8, "subcarrier_offset": 3}


def test_a_sample_that_is_exactly_zero_belongs_to_the_pilots(tmp_path: Path, maker: Maker) -> None:
    for i in range(12):
        place = (3 * i, 2)  # a different one in every file, the first files included
        maker.write(tmp_path / "in", i, change=lambda c, place=place: c["H"].__setitem__((*place, 1), 0))
    ds = quiet_import(tmp_path / "in", tmp_path / "out")
    assert ds.manifest.header.recipe["import"]["pilots"]["subcarrier_step"] == 3
    assert [(int((sample["y"] != 0).sum()), float(sample["y"][0, 2, 3 * i].abs())) for i, sample in enumerate(ds)] == [
        (79, 0.0)
    ] * 12


# -- What is noticed. --


def noise_warning(tmp_path: Path, maker: Maker, count: int = 4, **options: Any) -> str:
    for i in range(count):
        maker.write(tmp_path / "test" / "SNR_20", i, **options)
        maker.write(tmp_path / "test" / "SNR_5", i, snr="5")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.import_adafortitran(tmp_path / "test", tmp_path / "out")
    texts = [str(item.message) for item in caught]
    assert len(texts) <= 1 and all(item.category is WichanWarning for item in caught)
    return texts[0] if texts else ""


@pytest.mark.parametrize("name", ["shifted band", "another file", "conjugate", "no noise", "scaled variance"])
def test_a_channel_that_does_not_belong_to_its_pilots_is_noticed(tmp_path: Path, maker: Maker, name: str) -> None:
    def change(content: dict[str, Any]) -> None:
        h = content["H"]
        if name == "shifted band":  # a spectrum whose halves were not swapped
            h[:, :, 0] = np.roll(h[:, :, 0], 60, axis=0)
        elif name == "another file":
            h[:, :, 0] = maker.channel()
        elif name == "conjugate":
            h[:, :, 0] = h[:, :, 0].conj()
        elif name == "no noise":
            h[:, :, 1] = h[:, :, 0] * (h[:, :, 1] != 0)
        else:
            content["noise_var"] *= 21  # the variance without the dilution over empty elements

    text = noise_warning(tmp_path, maker, change=change)
    assert "may not belong together in 1 of 2 cells; the worst is test/snr_20: mean |H_LS - H|^2 at the pilots is" in text
    assert "\n" not in text


def test_the_numbers_of_the_warning(tmp_path: Path, maker: Maker) -> None:
    text = noise_warning(tmp_path, maker, count=40, change=lambda c: c.update(noise_var=10 * c["noise_var"]))
    ds = store.open(tmp_path / "out", split="test", cells="snr_20")[:]
    pilots = ds["y"][:, 0] != 0
    error = ((ds["y"][:, 0] - ds["h"][:, 0, 0]).abs().square()[pilots]).mean()
    assert text.endswith(f"at the pilots is {float(error):.3g}, the noise variance {float(ds['no'].mean()):.3g}")
    assert float(error) / float(ds["no"].mean()) == pytest.approx(0.1, rel=0.1)  # 3200 pilots: 2 % standard deviation


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": 1},
        {"noise": None},
        {"noise": "var_hat"},
        {"noise": "var_hat", "change": lambda c: c.update(var_hat=1.3 * c["var_hat"])},  # an estimate may be off
        {"offset": 0, "step": 3, "snr": "-7"},
        {"snr": "30"},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_honest_data_do_not_warn(tmp_path: Path, maker: Maker, options: dict[str, Any]) -> None:
    assert noise_warning(tmp_path, maker, **options) == ""


def test_doppler_may_add_to_the_noise(tmp_path: Path, maker: Maker) -> None:
    """Interference between subcarriers at 1000 Hz is above the noise at 25 dB; without Doppler the same error is a mismatch."""

    def change(content: dict[str, Any]) -> None:
        spread = 0.001 * np.mean(np.abs(content["H"][:, :, 0]) ** 2)  # the bound is 0.0073 of the power
        noise = maker.rng.standard_normal((120, 14, 2)) @ np.array([1, 1j]) * np.sqrt(spread / 2)
        content["H"][:, :, 1] += noise * (content["H"][:, :, 1] != 0)

    for dop, warns in (("1000", False), ("10", True)):
        text = noise_warning(tmp_path / dop, maker, snr="25", dop=dop, change=change)
        assert bool(text) == warns


def test_frozen_fading_is_noticed(tmp_path: Path, maker: Maker) -> None:
    channels = {(ds, dop): maker.channel() for ds in ("50", "100") for dop in ("100", "200")}
    for i in range(24):
        ds, dop = ("50", "100")[i % 2], ("100", "200")[i // 2 % 2]
        turn = np.exp(2j * np.pi * i * np.arange(120) / 256)[:, None]  # another timing estimate
        maker.write(tmp_path / "in" / ("train", "val")[i // 16], i, ds=ds, dop=dop, h=channels[ds, dop] * turn)
    with pytest.warns(WichanWarning, match="share one channel") as caught:
        ds = store.import_adafortitran(tmp_path / "in", tmp_path / "out")
    assert len(caught) == 1
    recipe = ds.manifest.header.recipe
    assert recipe["import"]["frozen_fading"] and recipe["independent_fading"] is False
    from wichan.simulate import recipe_from_dict

    assert recipe_from_dict(recipe).independent_fading is False


# -- What is refused. --


@pytest.mark.parametrize(
    "name",
    [
        "1_SNR-20_DS-50_DOP-500_N-3.mat",
        "1_SNR-20_DS-50_DOP-500_N-3_TDL-A.mat.mat",
        "x1_SNR-20_DS-50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-20_DS--50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-20_DS-50_DOP-500_N-0_TDL-A.mat",
        "1_SNR-1e1_DS-50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-nan_DS-50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-20_DS-50_DOP-500_N-3_TDL A.mat",
        "1_SNR-20_DS-50_DOP-500_N-3_TDL-.mat",
        "\u0661_SNR-20_DS-50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-20_DS-50_DOP-500_N-3_TDL-A\n.mat",
        "1_SNR-999_DS-50_DOP-500_N-3_TDL-A.mat",
        "1_SNR-20_DS-5000000_DOP-500_N-3_TDL-A.mat",
        "H.mat",
    ],
)
def test_names_outside_the_pattern(tmp_path: Path, maker: Maker, name: str, one_line: OneLine) -> None:
    maker.write(tmp_path / "in", 1).path.rename(tmp_path / "in" / name)
    with pytest.raises(StoreError, match="pattern|allowed are") as error:
        store.import_adafortitran(tmp_path / "in", tmp_path / "out")
    text = one_line(error.value)
    assert name.split("\n")[0] in text and (
        "{index}_SNR-{dB}_DS-{ns}_DOP-{Hz}_N-{spacing}_{profile}.mat" in text or "allowed" in text
    )
    assert not (tmp_path / "out").exists()


def test_names_that_the_authors_pattern_refuses_are_read() -> None:
    file = parse_name(Path("007_SNR--2.5_DS-30_DOP-12.5_N-10_TDL-A30.MAT"))
    assert (file.index, file.snr_db, file.delay_spread, file.max_doppler) == (7, -2.5, 30e-9, 12.5)
    assert (file.spacing, file.profile) == (10, "TDL-A30") and parse_name(Path("1_SNR-+3_DS-200_DOP-1_N-3_A.mat")).snr_db == 3


def test_folders_that_hold_nothing(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "train" / "a.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, message in (("empty", "holds no .mat file"), ("file", "is not a folder"), ("absent", "does not exist")):
        with pytest.raises(StoreError, match=message) as error:
            store.import_adafortitran(tmp_path / name, tmp_path / "out")
        assert name in one_line(error.value)


def set_to(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(entries)


def put(place: tuple[int, ...], value: complex) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["H"].__setitem__(place, value)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no H": (lambda c: c.update(G=c.pop("H")), "holds no numeric array H"),
    "matrix": (set_to(H=np.ones((120, 14))), r"H has shape \(120, 14\)"),
    "one slice": (set_to(H=np.ones((120, 14, 1))), r"H has shape \(120, 14, 1\)"),
    "five slices": (set_to(H=np.ones((120, 14, 5), np.int8)), "2 to 4"),
    "transposed": (
        lambda c: c.update(H=c["H"].transpose(1, 0, 2)),
        r"H has shape \(14, 120, 2\); it must be \(120, 14, 2 to 4\)",
    ),
    "NaN in the channel": (put((5, 5, 0), np.nan), "NaN"),
    "NaN in the pilots": (put((0, 2, 1), np.nan), "NaN"),
    "infinite": (put((5, 5, 0), np.inf), "infinite"),
    "too large": (put((5, 5, 0), 1e200), "too large"),
    "text": (set_to(H="hello"), "no numeric array H"),
    "cell": (set_to(H=np.array([[1], "a"], dtype=object)), "no numeric array H"),
    "struct": (set_to(H={"a": np.ones(3)}), "no numeric array H"),
    "two variances": (set_to(noise_var=[1.0, 2.0]), "noise_var must be one finite number"),
    "negative variance": (set_to(noise_var=-1.0), "noise_var must be one finite number"),
    "variance is NaN": (set_to(noise_var=np.nan), "noise_var must be one finite number"),
    "no pilot": (lambda c: c["H"].__setitem__((..., 1), 0), "pilot"),
    "a stray pilot": (put((1, 2, 1), 1.0), "pilots"),
    "half of the pilots": (
        lambda c: c["H"].__setitem__((slice(0, 120, 6), slice(None), 1), 0),
        "has 40 pilots|are 6 subcarriers apart",
    ),
    "many variables": (set_to(junk=np.random.default_rng(0).standard_normal(100_000)), "a sample takes at most"),
}


@pytest.mark.parametrize("position", [0, 20])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path: Path, maker: Maker, name: str, position: int, one_line: OneLine) -> None:
    """Among the files that are looked at first, and later."""
    change, message = BROKEN[name]
    if position:
        for i in range(9):
            maker.write(tmp_path / "in", i)
    bad = maker.write(tmp_path / "in", position, change=change)
    with pytest.raises(StoreError, match=message) as error:
        store.import_adafortitran(tmp_path / "in", tmp_path / "out")
    assert bad.path.name in one_line(error.value)


def test_mixed_sets(tmp_path: Path, maker: Maker, one_line: OneLine) -> None:
    cases: list[tuple[list[dict[str, Any]], str]] = [
        ([{}, {"offset": 1}], "form no comb"),
        ([{}] * 9 + [{"offset": 1}], "80 of them off the 80"),
        ([{}] * 9 + [{"step": 10}], "N-10; those of the first files are 3 subcarriers apart"),
        ([{"step": 10}] * 9 + [{}], "N-3; those of the first files are 10 subcarriers apart"),
        ([{}, {"step": 4}], "form no comb"),
    ]
    for number, (files, message) in enumerate(cases):
        for i, options in enumerate(files):
            maker.write(tmp_path / str(number), i, **options)
        with pytest.raises(StoreError, match=message) as error:
            store.import_adafortitran(tmp_path / str(number), tmp_path / "out")
        one_line(error.value)
    for i in range(2):  # the name and the content of all files disagree
        path = maker.write(tmp_path / "lying", i).path
        path.rename(path.with_name(path.name.replace("N-3", "N-6")))
    with pytest.raises(StoreError, match="names pilots N-6; those of the first files are 3"):
        store.import_adafortitran(tmp_path / "lying", tmp_path / "out")


def test_an_import_goes_on_after_an_error(tmp_path: Path, maker: Maker, fingerprint: Callable[[Path], dict[str, str]]) -> None:
    cells = tree(tmp_path / "in", maker)
    quiet_import(tmp_path / "in", tmp_path / "whole")
    victim = cells["test", "ds_300"][2].path  # not among those that are looked at beforehand
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=r"3_SNR-20_DS-300.*cut short"):
        store.import_adafortitran(tmp_path / "in", tmp_path / "out")
    with pytest.warns(WichanWarning, match="incomplete"):
        kept = len(store.open(tmp_path / "out"))
    assert kept >= 16
    victim.write_bytes(data)
    seen: list[int] = []
    quiet_import(tmp_path / "in", tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert seen[0] > kept  # what was there is not read again
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")
    maker.write(tmp_path / "in" / "val", 99)
    with pytest.raises(StoreError, match="holds another run"):
        store.import_adafortitran(tmp_path / "in", tmp_path / "out")


# -- Files that are made to do harm. --


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body


def variable(matlab_class: int, name: bytes = b"f", rest: bytes = b"") -> bytes:
    """A variable of any MATLAB class."""
    flags = struct.pack("<IIII", 6, 8, matlab_class, 0)
    shape = struct.pack("<IIii", 5, 8, 1, 1)
    return element(14, flags + shape + element(1, name.ljust(8, b"\0")) + rest)


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


@pytest.mark.parametrize(("matlab_class", "text"), [(3, "an object"), (16, "a function handle"), (17, "an object of a class")])
@pytest.mark.parametrize("packed", [False, True])
def test_objects_and_functions_are_refused(
    tmp_path: Path, maker: Maker, matlab_class: int, text: str, packed: bool, one_line: OneLine
) -> None:
    path = maker.write(tmp_path / "in", 1).path
    extra = variable(matlab_class)
    path.write_bytes(path.read_bytes() + (element(15, zlib.compress(extra)) if packed else extra))
    with pytest.raises(StoreError, match=f"holds {text}; only numbers are read") as error:
        store.import_adafortitran(tmp_path / "in", tmp_path / "out")
    one_line(error.value)


@functools.cache
def hostile() -> dict[str, tuple[bytes, str]]:
    bomb = zlib.compress(bytes(16 << 20), 9)
    return {
        "bomb": (HEADER + element(15, bomb), "unpacks to more than"),
        "many bombs": (
            HEADER
            + element(15, zlib.compress(variable(6, b"a", element(9, bytes(8)))))
            + element(15, zlib.compress(bytes(1 << 20), 9)),
            "unpacks to more than",
        ),
        "open end": (HEADER + element(15, zlib.compress(variable(6))[:-6]), "does not end|damaged"),
        "no zlib": (HEADER + element(15, b"nonsense" * 5), "damaged"),
        "no variable": (HEADER + element(9, bytes(64)), "starts no variable"),
        "length": (HEADER + struct.pack("<II", 14, 2**31) + bytes(50), "cut short"),
        "half a tag": (HEADER + b"\x0e\x00\x00", "cut short"),
        "sizes": (HEADER + variable(6, b"H", struct.pack("<II", 9, 2**31 - 8)), "damaged|no numeric"),
        "shape": (HEADER + element(14, struct.pack("<IIIIIIiiii", 6, 8, 6, 0, 5, 16, 2**30, 2**30, 2**30, 4)), "damaged"),
        "version 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n", "7.3 file"),
        "version 4": (struct.pack("<IIIII", 0, 1, 1, 0, 2) + b"H\0" + bytes(8), "no MATLAB 5 file"),
        "empty": (b"", "no MATLAB 5 file or is cut short"),
        "header only": (HEADER, "holds no numeric array H"),
        "text": (b"# Created by Octave\n" * 20, "no MATLAB 5 file"),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_files(tmp_path: Path, name: str, one_line: OneLine) -> None:
    data, message = hostile()[name]
    path = tmp_path / "x.mat"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=message) as error:
        read_sample(path, (120, 14))
    one_line(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mat")
    with pytest.raises(StoreError, match="not a regular file"):
        read_sample(tmp_path / "x.mat", (120, 14))


def test_values_are_those_that_scipy_reads(tmp_path: Path, maker: Maker) -> None:
    """Every numeric type, real and complex, packed and not, beside variables of other kinds."""
    others = {
        "text": "hello",
        "cell": np.array([[1], "a"], dtype=object),
        "struct": {"a": np.ones(3)},
        "empty": np.zeros((0, 3)),
    }
    for number, dtype in enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c16", "c8")):
        values = maker.rng.integers(0, 100, (120, 14, 3)).astype(dtype)
        values = values + 1j * values[::-1] if dtype[0] == "c" else values
        path = tmp_path / f"{number}.mat"
        savemat(path, others | {"H": values, "var_hat": np.array(3, dtype)}, do_compression=number % 2 == 0)
        sample, reference = read_sample(path, (120, 14)), loadmat(path)
        assert np.array_equal(sample.h, reference["H"][:, :, 0]) and np.array_equal(sample.ls, reference["H"][:, :, 1])
        assert sample.no == 3 and not sample.exact


def test_every_truncation_is_noticed(tmp_path: Path, maker: Maker, one_line: OneLine) -> None:
    for compress in (True, False):
        data = maker.write(tmp_path, 1, compress=compress).path.read_bytes()
        path = tmp_path / "x.mat"
        for length in (*range(0, 400, 23), *range(500, len(data) - 200, len(data) // 15), len(data) - 100, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(StoreError) as error:
                read_sample(path, (120, 14))
            one_line(error.value)


def test_flipped_bytes_are_refused_or_give_numbers(tmp_path: Path, maker: Maker, one_line: OneLine) -> None:
    data = maker.write(tmp_path, 1, compress=False).path.read_bytes()
    path = tmp_path / "x.mat"
    draw = random.Random(3)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            changed[draw.choice((draw.randrange(220), draw.randrange(len(data))))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SciPy may doubt a type
                read_sample(path, (120, 14))
        except StoreError as error:
            one_line(error)


@given(data=st.binary(max_size=200))
def test_rubbish_after_a_header_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "x.mat"
    path.write_bytes(HEADER + data)
    with pytest.raises(StoreError) as error:
        read_sample(path, (120, 14))
    assert "\n" not in str(error.value)
