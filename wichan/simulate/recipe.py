"""Loading recipes: by name or file, with overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wichan.errors import InvalidTypeError, InvalidValueError, unknown_name
from wichan.simulate.conditions import LAWS, Law
from wichan.simulate.locate import shipped_recipes
from wichan.simulate.schema import Recipe, unknown_key, validate
from wichan.simulate.yamlio import parse_yaml, read_yaml


@dataclass(frozen=True)
class RecipeInfo:
    """One line of ``wichan recipes``."""

    name: str
    title: str
    kind: str
    path: Path
    card: Path | None


def list_recipes() -> list[RecipeInfo]:
    """Return the shipped recipes, in alphabetical order."""
    infos = []
    for name, path in shipped_recipes().items():
        data = read_yaml(path)
        card = path.with_suffix(".md")
        infos.append(RecipeInfo(name, data.get("title", ""), data.get("kind", ""), path, card if card.is_file() else None))
    return infos


def load_recipe(name_or_path: str | Path | Recipe, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe and apply overrides.

    Args:
        name_or_path: name of a shipped recipe, path of a YAML file (it ends in .yaml or .yml, or holds a slash), or a
            recipe that is loaded already.
        overrides: dotted key -> value, ``{"conditions.snr_db": 10.0, "grid.num_subcarriers": 240}``; a recipe's
            aliases work too (``{"snr_db": 10.0}``). A mapping is merged into the section it meets.

    Raises:
        UnknownNameError: no such recipe or key; the nearest name is suggested.
        InvalidValueError: a value that is not allowed.
    """
    if isinstance(name_or_path, Recipe):
        data = name_or_path.plain()
    elif isinstance(name_or_path, (str, Path)):
        data = read_yaml(_find(name_or_path))
    else:
        raise InvalidTypeError(f"recipe must be a name, a path or a Recipe, got {type(name_or_path).__name__}")
    return recipe_from_dict(data, overrides)


def recipe_from_dict(data: Any, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Build a recipe from plain data: a parsed YAML file, or the recipe inside a data set's manifest."""
    if not isinstance(data, Mapping):
        raise InvalidValueError(f"recipe must be a mapping of keys to values, got {type(data).__name__}")
    data = copy.deepcopy(dict(data))
    data.pop("import", None)  # where an imported data set comes from; the rest describes its samples
    schema = _schema_of(data)
    for key, value in (overrides or {}).items():
        _override(data, str(key), _plain(value), schema)
    recipe: Recipe = validate(schema, data)
    recipe.check()
    return recipe


def parse_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` texts of the command line; values are YAML (``1e-7``, ``[0, 10]``, ``{uniform: [0, 25]}``)."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise InvalidValueError(f"--set {setting!r} must be key=value")
        overrides[key.strip()] = parse_yaml(text, f"--set {key.strip()}")
    return overrides


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise InvalidValueError(f"recipe={text!r} is no file")
        return path
    shipped = shipped_recipes()
    if text not in shipped:
        raise unknown_name("recipe", text, shipped)
    return shipped[text]


def _schema_of(data: Mapping[str, Any]) -> type[Recipe]:
    from wichan.simulate.sources import KINDS

    if "kind" not in data:
        raise InvalidValueError(f"kind is missing; the recipe must give it (known: {', '.join(KINDS)})")
    kind = data["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    schema: type[Recipe] = KINDS[kind].schema
    return schema


def _plain(value: Any) -> Any:
    if isinstance(value, Law):
        return value.plain()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def _override(data: dict[str, Any], key: str, value: Any, schema: type[Recipe]) -> None:
    """Set one dotted key in the raw recipe."""
    aliases = data.get("aliases")
    target = aliases.get(key, key) if isinstance(aliases, Mapping) else key
    if not isinstance(target, str):
        raise InvalidValueError(f"aliases.{key}={target!r} must be a dotted key")
    parts = target.split(".")
    if parts[0] in schema.protected:
        raise InvalidValueError(f"{parts[0]} names the recipe and cannot be overridden; write a recipe file of your own")
    if parts[0] not in schema.model_fields:
        raise unknown_key("", key, [*schema.model_fields, *(aliases or {})])
    section = data
    for depth, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict) or _is_law(section):
            raise InvalidValueError(f"{'.'.join(parts[: depth + 1])} is a value, not a section; {key} cannot be set in it")
    section[parts[-1]] = _merged(section.get(parts[-1]), value)


def _is_law(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in LAWS


def _merged(old: Any, new: Any) -> Any:
    """Merge sections key by key; everything else, laws included, is replaced."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_law(old) and not _is_law(new):
        return {**old, **{k: _merged(old.get(k), v) for k, v in new.items()}}
    return new
