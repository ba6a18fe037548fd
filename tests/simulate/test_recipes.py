"""Loading recipes: where they are found, overrides, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError, WichanError
from wichan.simulate import KINDS, list_recipes, load_recipe, parse_overrides, recipe_from_dict
from wichan.simulate.locate import recipe_folder, shipped_recipes
from wichan.simulate.yamlio import parse_yaml, read_yaml

NAMES = ("csi-rrg", "mimo-ofdm", "ofdm-siso", "ofdm-siso-legacy")


def test_all_recipes_are_listed_with_title_and_card() -> None:
    infos = {info.name: info for info in list_recipes()}
    assert set(NAMES) <= set(infos)
    assert all(info.title and info.kind in KINDS and info.card is not None for info in infos.values())


def test_recipes_are_found_in_a_wheel_and_in_a_repository(tmp_path: Path) -> None:
    package = tmp_path / "site" / "wichan"
    package.mkdir(parents=True)
    with pytest.raises(WichanError, match="no recipes found"):
        recipe_folder(package)
    beside = tmp_path / "site" / "datasets"
    beside.mkdir()
    (beside / "a.yaml").write_text("name: a")
    assert recipe_folder(package) == beside
    packed = package / "_data" / "datasets"
    packed.mkdir(parents=True)
    (packed / "b.yaml").write_text("name: b")
    assert shipped_recipes(package) == {"b": packed / "b.yaml"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_the_manifest(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(recipe.plain()) == recipe
    assert load_recipe(recipe) == recipe


def test_a_recipe_is_loaded_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((recipe_folder() / "ofdm-siso.yaml").read_text().replace("name: ofdm-siso", "name: mine"))
    assert load_recipe(path).name == load_recipe(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("delay_spread=1e-7", "delay_spread", 1e-7),
        ("delay_spread=30e-9", "delay_spread", 30e-9),
        ("snr_db=[0,5]", "snr_db", [0, 5]),
        ("snr_db=0..25", "snr_db", "0..25"),
        ("snr_db={uniform: [0, 1e1]}", "snr_db", {"uniform": [0, 10.0]}),
    ],
)
def test_an_alias_sets_a_condition(setting: str, field: str, value: Any) -> None:
    conditions = load_recipe("ofdm-siso", parse_overrides([setting])).plain()["conditions"]
    assert conditions[field] == value
    assert type(conditions[field]) is type(value)


def test_overrides_merge_sections_and_replace_laws() -> None:
    plain = load_recipe("ofdm-siso", {"conditions": {"snr_db": 3.0}, "grid": {"num_subcarriers": 24}}).plain()
    assert plain["conditions"]["snr_db"] == 3.0
    assert "delay_spread" in plain["conditions"]
    assert (plain["grid"]["num_subcarriers"], plain["grid"]["num_ofdm_symbols"]) == (24, 14)
    law = load_recipe("ofdm-siso", {"snr_db": {"choice": [1, 2]}}).plain()["conditions"]["snr_db"]
    assert law == {"choice": [1, 2]}


def test_null_takes_a_condition_away() -> None:
    recipe = load_recipe("ofdm-siso", parse_overrides(["profile=A30", "delay_spread=null"]))
    assert set(recipe.laws("train", "main")) == {"snr_db", "max_doppler", "profile"}  # type: ignore[attr-defined]


BAD = [
    ("ofdm-siso", "grid.num_subcarriers=0", "grid.num_subcarriers=0 must be greater than or equal to 1"),
    ("ofdm-siso", "grid.num_subcarriers='12'", "grid.num_subcarriers='12' must be a number"),
    ("ofdm-siso", "grid.num_subcarriers=true", "grid.num_subcarriers=True must be a number"),
    ("ofdm-siso", "grid.num_ofdm_symbols=1e5", "grid has 12000000 elements; at most 8388608"),
    ("ofdm-siso", "grid.num_subcarriers=.inf", "grid.num_subcarriers=inf must be a finite"),
    ("ofdm-siso", "grid.num_subcarrier=3", r"^grid.num_subcarrier is unknown \(known: num_.*; did you mean 'num_subc.*\?\)$"),
    ("ofdm-siso", "grid.symbol_duration=1e-6", "grid.symbol_duration=1e-06 s is shorter"),
    ("ofdm-siso", "grid=5", "grid=5 must be a mapping {key: value, ...} with the keys num_ofdm_symbols, num_subcarriers, sub"),
    ("ofdm-siso", "grid.num_subcarriers.x=1", "grid.num_subcarriers is a value, not a section"),
    ("ofdm-siso", "snr=3", "^snr is unknown .*did you mean 'snr_db'"),
    ("ofdm-siso", "snr_db=abc", "conditions.snr_db='abc' must be a number"),
    ("ofdm-siso", "snr_db=null", "conditions.snr_db is missing"),
    ("ofdm-siso", "delay_spread=-1e-7", "conditions.delay_spread=-1e-07 must be at least 0"),
    ("ofdm-siso", "delay_spread=null", "conditions.delay_spread is missing; profile 'A' is scaled by it"),
    ("ofdm-siso", "conditions.max_dopler=5", "conditions.max_dopler is unknown .*did you mean 'max_doppler'"),
    ("ofdm-siso", "conditions.speed=3", "conditions.speed excludes conditions.max_doppler"),
    ("ofdm-siso", "profile=Z", "profile='Z' is unknown"),
    ("ofdm-siso", "profile=A30", "profile 'A30' has fixed delays; --set conditions.delay_spread=null takes it away"),
    ("ofdm-siso", "channel.foo=3", r"^channel.foo is unknown \(known: num_rx_ant, num_tx_ant, "),
    ("ofdm-siso", "conditions=5", "conditions=5 must be a mapping {key: value, ...}$"),
    ("ofdm-siso", "channel=5", "channel=5 must be a mapping {key: value, ...}$"),
    ("mimo-ofdm", "channel.rx_array=5", "channel.rx_array=5 must be a mapping .* with the keys rows, columns, "),
    ("ofdm-siso", "snr_db=5000", "conditions.snr_db=5000 must be at most 200"),
    ("ofdm-siso", "snr_db=-5000", "conditions.snr_db=-5000 must be at least -200"),
    ("ofdm-siso", "max_doppler=1e12", r"conditions.max_doppler=1e\+12 must be at most 1e\+07"),
    ("ofdm-siso", "delay_spread={uniform: [0, 1]}", "conditions.delay_spread=1 must be at most 0.001"),
    ("ofdm-siso", "splits.test.cells={a: {snr_db: 300}}", "splits.test.cells.a.snr_db=300 must be at most 200"),
    ("mimo-ofdm", "speed=1e9", r"conditions.speed=1e\+09 must be at most 100000"),
    ("mimo-ofdm", "channel.carrier_frequency=1e30", r"channel.carrier_frequency=1e\+30 must be less than or equal to"),
    ("csi-rrg", "splits.train.speeds=[1e9]", "splits.train.speeds.0=1000000000.0 must be less than or equal to 10000"),
    ("csi-rrg", "los_phase=rnd", "los_phase='rnd' must be random or a number"),
    ("csi-rrg", "los_phase=.inf", "los_phase=inf must be random or a number"),
    ("csi-rrg", "los_phase=true", "los_phase=True must be random or a number"),
    ("ofdm-siso", "source=umi", "source='umi' is unknown"),
    ("ofdm-siso", "source=rayleigh", r"conditions.delay_spread is unknown \(known: snr_db\)"),
    ("ofdm-siso", "pilots.symbols=[2,20]", "pilots.symbols holds 20"),
    ("ofdm-siso", "pilots.subcarrier_step=0", "pilots.subcarrier_step=0 must be at least 1"),
    ("ofdm-siso", "pilots.patern=comb", r"pilots.patern is unknown \(known: pattern, .*did you mean 'pattern'"),
    ("ofdm-siso", "pilots.pattern=cmob", "pilots.pattern='cmob' is unknown; did you mean 'comb'"),
    ("ofdm-siso", "channel.num_tx_ant=4", "pilots serve 1 transmit antennas; the channel has 4"),
    ("ofdm-siso", "channel.num_rx_an=2", "channel.num_rx_an is unknown .*did you mean 'num_rx_ant'"),
    ("ofdm-siso", "split=tst", "split='tst' is unknown; did you mean 'test'"),
    ("ofdm-siso", "cell=foo", "cell='foo' is unknown"),
    ("ofdm-siso", "name=x", "name names the recipe and cannot be overridden"),
    ("ofdm-siso", "splits.train.num_samples=0", "splits.train.num_samples=0 must be"),
    ("ofdm-siso", "splits.train.cells={a: {snr: 3}}", "splits.train.cells.a.snr is unknown .*did you mean 'snr_db'"),
    ("ofdm-siso", "splits.all.num_samples=3", "splits.all: a split cannot be called 'all'"),
    ("ofdm-siso", "seed=-1", "seed=-1 must be"),
    ("ofdm-siso", "snr_convention=grid", "snr_convention='grid' must be 'pilot'"),
    ("mimo-ofdm", "channel.carrier_frequency=0", "channel.carrier_frequency=0 must be greater than 0"),
    ("mimo-ofdm", "channel.tx_array.rows=0", "channel.tx_array.rows=0 must be"),
    ("mimo-ofdm", "speed=-3", "conditions.speed=-3 must be at least 0"),
    ("csi-rrg", "cell=cm_A_ds_101_ms_010", "cell='cm_A_ds_101_ms_010' is unknown; did you mean 'cm_A_ds_100_ms_010'"),
    ("csi-rrg", "cell=cm_B_ds_100_ms_010", "it is in generalization: set split=generalization"),
    ("csi-rrg", "downlink_bins=[450,800]", r"downlink_bins=\[450, 800\] must be \[first, end\]"),
    ("csi-rrg", "splits.train.profiles=[F]", "splits.train.profiles.0='F' must be 'A'"),
    ("csi-rrg", "splits.train.delay_spreads=[-1e-9]", "splits.train.delay_spreads.0=-1e-09 must be"),
    ("csi-rrg", "num_history=4000", "a sample has 307814413 bytes; at most 67108864"),
]


@pytest.mark.parametrize(("name", "setting", "message"), BAD, ids=[setting for _, setting, _ in BAD])
def test_a_bad_setting_is_one_clear_line(name: str, setting: str, message: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message) as caught:
        load_recipe(name, parse_overrides([setting]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["snr_db", "=3", "snr_db=[1", "snr_db=!!python/object:os.system x", "snr_db=*a", "snr_db={a: 1, a: 2}"]
)
def test_a_bad_command_line_setting_is_refused(setting: str) -> None:
    with pytest.raises(InvalidValueError, match=r"must be key=value|is not valid YAML"):
        parse_overrides([setting])


def test_unknown_and_missing_recipes(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="recipe='ofdm-sios' is unknown; did you mean 'ofdm-siso'"):
        load_recipe("ofdm-sios")
    with pytest.raises(InvalidValueError, match="is no file"):
        load_recipe("nowhere/x.yaml")
    with pytest.raises(InvalidTypeError, match="must be a name, a path or a Recipe, got int"):
        load_recipe(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="must be a mapping"):
        recipe_from_dict([1])
    with pytest.raises(InvalidValueError, match="kind is missing"):
        recipe_from_dict({"name": "x"})
    with pytest.raises(UnknownNameError, match="kind='ofmd' is unknown; did you mean 'ofdm'"):
        recipe_from_dict({"name": "x", "kind": "ofmd"})
    with pytest.raises(InvalidValueError, match="grid is missing"):
        recipe_from_dict({"name": "x", "kind": "ofdm", "recipe_version": 1, "pilots": {}, "conditions": {}, "splits": {}})
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidValueError, match="cannot be read"):
        load_recipe(binary)


def test_yaml_reads_numbers_as_engineers_write_them() -> None:
    text = "{a: 1e-7, b: 30e3, c: 010, d: no, e: 1:30, f: true, g: 5., h: .5, i: ~, j: -3}"
    read = parse_yaml(text, "x")
    assert read == {"a": 1e-7, "b": 3e4, "c": 10, "d": "no", "e": "1:30", "f": True, "g": 5.0, "h": 0.5, "i": None, "j": -3}
    assert isinstance(read["b"], float)


def test_hostile_yaml_is_refused_quickly(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    with pytest.raises(InvalidValueError, match="aliases"):
        parse_yaml(bomb, "x")
    with pytest.raises(InvalidValueError, match="nested too deeply|not valid YAML"):
        parse_yaml("[" * 5000 + "]" * 5000, "x")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InvalidValueError, match="at most 1048576"):
        read_yaml(large)
