"""Every shipped recipe has a card, and the numbers in it are current."""

from __future__ import annotations

import re

import pytest

from wichan.simulate import KINDS, Recipe, list_recipes, load_recipe, plan_cells, stream

RECIPES = [info.name for info in list_recipes()]
# Those that compute channels ask for Sionna where a recipe does.
COMPUTED = [pytest.param(name, marks=[pytest.mark.sionna] if name == "umi-ofdm" else []) for name in RECIPES]


def card_of(name: str) -> str:
    (info,) = [info for info in list_recipes() if info.name == name]
    assert info.card is not None
    return info.card.read_text()


def full(name: str) -> Recipe:
    return load_recipe(name, {"split": "all"})


@pytest.mark.parametrize("name", RECIPES)
def test_card_gives_command_licence_snr_and_columns(name: str) -> None:
    card = card_of(name)
    assert card.startswith(f"# {name}\n")
    assert f"`wichan simulate {name} -o out`" in card
    assert "licence" in card
    assert "SNR" in card
    sampler = KINDS[full(name).kind](full(name))
    for column in sampler.columns:
        assert f"`{column.name}`" in card
        if column.shape:
            assert f"`{column.name}` {column.shape}" in card


@pytest.mark.parametrize("name", COMPUTED)
def test_card_gives_the_current_interference(name: str) -> None:
    if name == "umi-ofdm":
        pytest.importorskip("sionna.phy")
    recipe = full(name)
    lines = [item.line() for item in KINDS[recipe.kind](recipe).interference()]
    printed = re.findall(r"^(?:\w+): profile .*$", card_of(name), flags=re.MULTILINE)
    assert printed == lines
    # a plain sequence of pilots over a flat channel leaves nothing out that could be counted, nor does one carrier of an IRS
    assert len(lines) == (0 if recipe.kind in ("quantized", "irs") else len(recipe.split_names()))


@pytest.mark.parametrize("name", RECIPES)
def test_card_gives_the_current_size(name: str) -> None:
    recipe = full(name)
    per_sample = KINDS[recipe.kind](recipe).bytes_per_sample
    (shown, unit) = re.findall(r"\| size \| ([0-9.]+) (kB|MB) a sample", card_of(name))[0]
    assert float(shown) == pytest.approx(per_sample / {"kB": 1e3, "MB": 1e6}[unit], rel=0.005)
    sizes: dict[str, float] = {}
    for cell in plan_cells(recipe):
        sizes[cell.split] = sizes.get(cell.split, 0) + cell.count * per_sample / 1e9
    totals = [sum(sizes.values())] if " GB in all" in card_of(name) else list(sizes.values())
    printed = [float(text) for text in re.findall(r"([0-9.]+) GB", card_of(name).split("| size |")[1].split("\n")[0])]
    assert printed == pytest.approx(totals, rel=0.03)


@pytest.mark.parametrize("name", COMPUTED)
def test_example_batch_has_the_columns_of_the_card(name: str) -> None:
    if name == "umi-ofdm":
        pytest.importorskip("sionna.phy")
    batch = next(stream(name, batch_size=2))
    assert all(value.shape[0] == 2 for value in (batch[column] for column in batch))
