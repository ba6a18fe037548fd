"""The settings of the CSI-RRG benchmark: which cell, which noise, how much of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError, check_choice, check_real
from wichan.prediction.base import DUPLEX_MODES

#: Category -> split of the recipe whose cells and samples it uses.
CATEGORIES = {"regular": "regular", "robustness": "regular", "generalization": "generalization"}

_AWGN = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
_TARGETS = (10.0, 15.0, 20.0, 25.0)
#: Noise -> degrees: dB for ``awgn``, ``phase`` and ``burst``, the rate of lost snapshots for ``drop``.
DEGREES: dict[str, tuple[float, ...]] = {
    "awgn": _AWGN,
    "phase": _TARGETS,
    "burst": _TARGETS,
    "drop": tuple(k / 100 for k in range(1, 11)),
}
#: Category -> noises, one at a time.
NOISES = {"regular": ("awgn",), "robustness": ("phase", "burst", "drop"), "generalization": ("awgn",)}


@dataclass(frozen=True)
class Cell:
    """A channel cell: CDL letter, RMS delay spread [s], speed [m/s]."""

    name: str
    profile: str
    delay_spread: float
    speed: float


@dataclass(frozen=True)
class Setting:
    """One setting that predictors are scored in.

    Attributes:
        category: ``"regular"``, ``"robustness"`` or ``"generalization"``.
        cell: the channel cell.
        noise: what is done to the history, a key of `DEGREES`.
        degree: how much of it, see `DEGREES`.
        duplex: ``"tdd"`` or ``"fdd"``.
    """

    category: str
    cell: Cell
    noise: str
    degree: float
    duplex: str

    @property
    def name(self) -> str:
        """A stable name, such as ``regular/tdd/cm_A_ds_030_ms_010/awgn_20``."""
        return f"{self.category}/{self.duplex}/{self.cell.name}/{self.noise}_{self.degree:g}"

    @property
    def split(self) -> str:
        """The recipe's split whose samples it uses."""
        return CATEGORIES[self.category]


def cells(split: str) -> tuple[Cell, ...]:
    """All cells of a split of the recipe ``csi-rrg``: 27 in ``"train"`` and ``"regular"``, 510 in ``"generalization"``.

    Raises:
        UnknownNameError: no such split.

    Example:
        >>> [len(cells(split)) for split in ("train", "regular", "generalization")]
        [27, 27, 510]
    """
    known = _splits()
    return known[check_choice("split", split, known)]


@functools.cache
def _splits() -> dict[str, tuple[Cell, ...]]:
    from wichan.simulate import load_recipe

    recipe: Any = load_recipe("csi-rrg")
    return {
        name: tuple(Cell(c.name, c.profile, c.delay_spread, c.speed) for c in split.cells.values())
        for name, split in recipe.splits.items()
    }


def settings(
    duplex: str,
    categories: Iterable[str] | None = None,
    *,
    cells: Iterable[str] | None = None,
    noises: Iterable[str] | Mapping[str, Sequence[float]] | None = None,
) -> tuple[Setting, ...]:
    """All settings of a duplex mode, 162 regular, 486 of robustness and 3,060 of generalization, or some of them.

    Args:
        duplex: ``"tdd"`` or ``"fdd"``.
        categories: keys of `CATEGORIES`; default all.
        cells: names of cells; default all. Each must be in at least one of the categories.
        noises: keys of `DEGREES`, or a mapping noise -> degrees; default all. Each must belong to a category chosen.

    Returns:
        In a fixed order: category, cell, noise, degree.

    Raises:
        UnknownNameError, InvalidValueError: a category, cell, noise or degree that the benchmark does not have.

    Example:
        >>> len(settings("tdd")), len(settings("fdd", ["regular"]))
        (3708, 162)
    """
    check_choice("duplex", duplex, DUPLEX_MODES)
    chosen = check_categories(categories)
    wanted = None if cells is None else _check_cells(cells, chosen)
    degrees = _check_noises(noises, chosen)
    return tuple(
        Setting(category, cell, noise, degree, duplex)
        for category in chosen
        for cell in _splits()[CATEGORIES[category]]
        if wanted is None or cell.name in wanted
        for noise in NOISES[category]
        for degree in degrees.get(noise, ())
    )


def check_categories(categories: Iterable[str] | None) -> tuple[str, ...]:
    """Categories in their fixed order.

    Raises:
        InvalidValueError, UnknownNameError: none, or one that the benchmark does not have.
    """
    names = _words("categories", categories, tuple(CATEGORIES))
    for name in names:
        check_choice("category", name, CATEGORIES)
    return tuple(name for name in CATEGORIES if name in names)


def _words(field: str, value: Any, default: tuple[str, ...]) -> list[str]:
    if value is None:
        return list(default)
    words = [value] if isinstance(value, str) else list(value)
    if not words:
        raise InvalidValueError(f"{field}={words} is empty; name at least one of: {', '.join(default[:12])}")
    return words


def _check_cells(names: Iterable[str], categories: Sequence[str]) -> set[str]:
    known = {cell.name: None for category in categories for cell in _splits()[CATEGORIES[category]]}
    words = _words("cells", names, tuple(known))
    for word in words:
        if word not in known and any(word == cell.name for cell in _splits()["generalization"]):
            raise UnknownNameError(
                f"cell={word!r} is not in the categories chosen, {', '.join(categories)}; it is in generalization"
            )
        check_choice("cell", word, known)
    return set(words)


def _check_noises(noises: Any, categories: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Noise -> degrees, each one that the benchmark has."""
    known = tuple(noise for noise in DEGREES if any(noise in NOISES[category] for category in categories))
    if noises is not None and not isinstance(noises, Mapping):
        noises = dict.fromkeys(_words("noises", noises, known))
    chosen = {}
    for noise, degrees in (dict.fromkeys(known) if noises is None else noises).items():
        if noise in DEGREES and noise not in known:
            raise UnknownNameError(
                f"noise={noise!r} is not in the categories chosen, {', '.join(categories)} (they have: {', '.join(known)})"
            )
        check_choice("noise", noise, known)
        chosen[noise] = DEGREES[noise] if degrees is None else tuple(_degree(noise, degree) for degree in _many(noise, degrees))
    if not chosen:
        raise InvalidValueError(f"noises={noises} is empty; name at least one of: {', '.join(known)}")
    return {noise: tuple(d for d in DEGREES[noise] if d in set(chosen[noise])) for noise in DEGREES if noise in chosen}


def _many(noise: str, degrees: Any) -> list[Any]:
    if isinstance(degrees, (int, float)):
        return [degrees]
    if isinstance(degrees, str) or not isinstance(degrees, Iterable):
        raise InvalidTypeError(f"degrees of noise {noise!r} must be numbers, got {type(degrees).__name__}")
    return list(degrees)


def _degree(noise: str, value: Any) -> float:
    number = check_real(f"degree of noise {noise!r}", value)
    for degree in DEGREES[noise]:
        if abs(degree - number) < 1e-9:
            return degree
    known = ", ".join(f"{degree:g}" for degree in DEGREES[noise])
    raise InvalidValueError(f"degree {number:g} of noise {noise!r} is not in the benchmark (degrees: {known})")
