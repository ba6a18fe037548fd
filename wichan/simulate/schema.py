"""What a recipe may say: the fields every kind shares, and one-line errors for the rest."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from wichan.errors import InvalidValueError, UnknownNameError, WichanError, unknown_name


def _number_only(value: Any) -> Any:
    # Pydantic would read "3" and True as numbers; a recipe that says so is wrong.
    if isinstance(value, (bool, str)):
        raise ValueError(f"={value!r} must be a number")
    return value


Real = Annotated[float, BeforeValidator(_number_only), Field(allow_inf_nan=False)]
PositiveReal = Annotated[float, BeforeValidator(_number_only), Field(allow_inf_nan=False, gt=0)]
CarrierFrequency = Annotated[PositiveReal, Field(le=1e12)]
Whole = Annotated[int, BeforeValidator(_number_only)]
Count = Annotated[int, BeforeValidator(_number_only), Field(ge=1, le=10**9)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100)]


class Model(BaseModel):
    """Base of all recipe sections: unknown keys are refused, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Split(Model):
    """One split of a data set: how many samples each of its cells holds."""

    num_samples: Count


def _as_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_as_names), Field(min_length=1)]


class Recipe(Model):
    """The fields that every recipe has; a kind adds its own.

    Attributes:
        name: the recipe's name; part of every seed.
        recipe_version: grows when a change alters samples; part of every seed.
        kind: how samples are made, a name of `wichan.simulate.sources.KINDS`.
        title: one line for ``wichan recipes``.
        seed: default seed.
        split: splits to generate, ``"all"`` or names.
        cell: cells to generate, ``"all"`` or names.
        aliases: short names for dotted keys that a user may set.
    """

    protected: ClassVar[tuple[str, ...]] = ("name", "recipe_version", "kind", "aliases")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    recipe_version: Annotated[int, BeforeValidator(_number_only), Field(ge=1)]
    kind: str
    title: str = ""
    seed: Annotated[int, BeforeValidator(_number_only), Field(ge=0, lt=2**63)] = 0
    split: Names = ["all"]
    cell: Names = ["all"]
    aliases: dict[str, str] = {}

    def split_names(self) -> tuple[str, ...]:
        """All splits that the recipe knows, selected or not."""
        return tuple(self.splits)  # type: ignore[attr-defined]

    def num_samples(self, split: str) -> int:
        """Default number of samples in each cell of ``split``."""
        return int(self.splits[split].num_samples)  # type: ignore[attr-defined]

    def cell_names(self, split: str) -> tuple[str, ...]:
        """All cells of ``split``, selected or not, in their fixed order."""
        return ("main",)

    def selected_splits(self) -> tuple[str, ...]:
        """Splits to generate, in the recipe's order."""
        return select("split", self.split, self.split_names())

    def selected_cells(self) -> tuple[tuple[str, str], ...]:
        """(split, cell) pairs to generate, in the recipe's order; every cell asked for must be in one of the splits."""
        splits = self.selected_splits()
        if "all" in self.cell:
            return tuple((split, cell) for split in splits for cell in self.cell_names(split))
        wanted = dict.fromkeys(self.cell)
        chosen = tuple((split, cell) for split in splits for cell in self.cell_names(split) if cell in wanted)
        for name in wanted:
            if not any(cell == name for _, cell in chosen):
                raise self._missing_cell(name, splits)
        return chosen

    def _missing_cell(self, name: str, splits: tuple[str, ...]) -> WichanError:
        elsewhere = [split for split in self.split_names() if name in self.cell_names(split)]
        if elsewhere:
            hint = f"it is in {', '.join(elsewhere)}: set split={elsewhere[0]}"
            return InvalidValueError(f"cell={name!r} is not in the selected split {', '.join(splits)}; {hint}")
        return unknown_name("cell", name, dict.fromkeys(cell for split in splits for cell in self.cell_names(split)))

    def check(self) -> None:
        """Checks between fields, after each field is valid alone; raises `WichanError`."""
        if "all" in self.split_names():
            raise InvalidValueError("splits.all: a split cannot be called 'all'; the word selects every split")
        self.selected_cells()

    def plain(self) -> dict[str, Any]:
        """The whole recipe as plain JSON data; `wichan.simulate.recipe_from_dict` reads it back."""
        return self.model_dump(mode="json")


def select(field: str, wanted: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Names of ``known`` that are ``wanted`` ("all" means every one), in the order of ``known``."""
    for name in wanted:
        if name != "all" and name not in known:
            raise unknown_name(field, name, ("all", *known))
    return known if "all" in wanted else tuple(name for name in known if name in wanted)


def unknown_key(section: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a key that a section (empty: the recipe itself) does not have; suggests the nearest one."""
    names = [str(key) for key in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:16]) + (", ..." if len(names) > 16 else "")
    path = f"{section}.{name}" if section else str(name)
    return UnknownNameError(f"{path if len(path) <= 120 else path[:117] + '...'} is unknown (known: {shown or 'none'}{hint})")


def explain(error: ValidationError, schema: type[BaseModel], section: str = "") -> WichanError:
    """Turn pydantic's report into one line: dotted field, value, what is allowed."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    lead = [section] if section else []
    path = ".".join([*lead, *location])
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(schema, location[:-1])
        return unknown_key(".".join([*lead, *location[:-1]]), location[-1], known)
    if kind == "missing":
        return InvalidValueError(f"{path} is missing; the recipe must give it")
    if kind in ("value_error", "assertion_error"):
        return InvalidValueError(f"{path}{first['ctx']['error']}")
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        keys = ", ".join(_fields_at(schema, location))
        tail = f" with the keys {keys}" if keys else ""
        return InvalidValueError(f"{path}={shown} must be a mapping {{key: value, ...}}{tail}")
    message = first["msg"].replace("Input should", "must").replace("String should", "must").replace("List should", "must")
    return InvalidValueError(f"{path}={shown} {message[0].lower()}{message[1:]}")


def _fields_at(schema: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the section of ``schema`` that ``location`` leads to."""
    current: Any = schema
    for part in location:
        current = _unwrap(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[part].annotation if part in current.model_fields else None
        elif typing.get_origin(current) in (dict, list):
            current = typing.get_args(current)[-1]
    current = _unwrap(current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _unwrap(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
        else:
            return annotation


def validate(schema: type[Any], data: Any, section: str = "") -> Any:
    """Return ``schema`` filled with ``data``, or raise one clear line; ``section`` is where in the recipe the data stands."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise explain(error, schema, section) from None
    except RecursionError:
        raise InvalidValueError("recipe is nested too deeply") from None
