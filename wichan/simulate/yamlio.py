"""Reading YAML that strangers wrote: plain data only, numbers as engineers write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from wichan.errors import InvalidValueError

MAX_BYTES = 1 << 20
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")
_INT = re.compile(r"[-+]?[0-9]+$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")


class _PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the scalars of YAML 1.2: ``1e-7`` is a float, ``no`` is a word, ``1:30`` is not 90."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        # An alias can make a tiny file unfold into gigabytes; no recipe needs one.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"key {key.value!r} appears twice (line {key.start_mark.line + 1})")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# Order matters: the first pattern that fits wins, so integers come before floats.
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _construct_int(loader: yaml.SafeLoader, node: Any) -> int:
    # The stock constructor reads 010 as octal 8.
    return int(loader.construct_scalar(node))


def _construct_float(loader: yaml.SafeLoader, node: Any) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan").lower())


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str, field: str) -> Any:
    """Parse YAML text into plain data (mappings, lists, strings, numbers, booleans, ``None``).

    Args:
        text: YAML.
        field: what to call the text in an error message.

    Raises:
        InvalidValueError: no valid YAML, a tag, an alias, a key twice, or more than 1 MiB.
    """
    if len(text) > MAX_BYTES:
        raise InvalidValueError(f"{field} has {len(text)} characters; at most {MAX_BYTES} are allowed")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader with fewer scalar forms)
    except RecursionError:
        raise InvalidValueError(f"{field} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise InvalidValueError(f"{field} is not valid YAML: {' '.join(str(problem).split())}{where}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file with `parse_yaml`; a missing, unreadable, binary or oversized file is one clear error."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidValueError(f"recipe={str(path)!r} has {path.stat().st_size} bytes; at most {MAX_BYTES} are allowed")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidValueError(f"recipe={str(path)!r} cannot be read: {reason}") from None
    return parse_yaml(text, f"recipe {path.name}")
