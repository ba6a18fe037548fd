"""The public surface is what its inventory says: no name goes, no signature changes, unless somebody means it.

``python tests/test_api_surface.py --update`` (or ``make api``) writes the inventory ``tests/api_surface.json`` anew; its
difference then shows in review. Annotations are left out: they are checked by mypy, and their text differs by version.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import pytest

INVENTORY = Path(__file__).with_name("api_surface.json")
COMMAND = "python tests/test_api_surface.py --update"
FILES = ("wichan.grid", "wichan.random", "wichan.registry", "wichan.cli")  # offered, but no attribute of wichan itself

Surface = dict[str, dict[str, Any]]


def modules() -> Iterator[ModuleType]:
    """wichan, its rooms, the packages that those offer by name, and the public files."""
    waiting = ["wichan", *FILES]
    while waiting:
        module = importlib.import_module(waiting.pop(0))
        yield module
        waiting += [value.__name__ for name in public_names(module) if inspect.ismodule(value := getattr(module, name))]


def public_names(module: ModuleType) -> list[str]:
    """What ``__all__`` says, or what is defined in the file itself."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return sorted(name for name in own if not name.startswith("_"))


def signature(value: Any) -> str:
    """Names, order, kinds and defaults of the arguments."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    empty = inspect.Parameter.empty
    plain = [p.replace(annotation=empty, default=p.default if p.default is empty else Default(p.default)) for p in parameters]
    return str(inspect.Signature(plain))


class Default:
    """A default value, written without what differs by machine: addresses in memory and places on disk."""

    def __init__(self, value: Any) -> None:
        name = "<path>" if isinstance(value, PurePath) else getattr(value, "__qualname__", None)
        self.text = name or re.sub(r" at 0x[0-9a-f]+", "", repr(value))

    def __repr__(self) -> str:
        return self.text


def describe(value: Any) -> dict[str, Any]:
    """Kind of a public object, and what a caller can do with it."""
    if inspect.isclass(value):
        return {"kind": "class", "signature": signature(value), "members": dict(sorted(members(value)))}
    if inspect.ismodule(value):
        return {"kind": "module"}
    if type(value).__name__ == "Registry":
        return {"kind": "registry", "entries": sorted(value)}
    if callable(value):
        return {"kind": "function", "signature": signature(value)}
    return {"kind": type(value).__name__}


def members(cls: type) -> Iterator[tuple[str, str]]:
    """Public methods and properties that come from wichan, inherited ones too, each with its signature."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] != "wichan":
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            if isinstance(value, property) or type(value).__name__ in ("cached_property", "ComplexBuffer"):
                yield name, "property"
            elif inspect.isroutine(value):
                yield name, signature(getattr(cls, name))


def surface() -> Surface:
    """The whole public surface, module by module."""
    return {module.__name__: {n: describe(getattr(module, n)) for n in public_names(module)} for module in modules()}


def differences(before: Surface, now: Surface) -> list[str]:
    """One line for every name that was added, removed or changed."""
    lines = []
    for room in sorted(before.keys() | now.keys()):
        old, new = before.get(room, {}), now.get(room, {})
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                lines.append(f"removed: {room}.{name}")
            elif name not in old:
                lines.append(f"added: {room}.{name}")
            elif old[name] != new[name]:
                lines += [f"changed: {room}.{name}{text}" for text in changes(old[name], new[name])]
    return lines


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            for name in sorted(was.keys() | now.keys()):
                if was.get(name) != now.get(name):
                    yield f".{name}: {was.get(name, '(absent)')} -> {now.get(name, '(absent)')}"
        elif isinstance(was, list) and isinstance(now, list):
            gone, come = sorted(set(was) - set(now)), sorted(set(now) - set(was))
            yield f": {key} gone {gone}, new {come}"
        elif was != now:
            yield f": {key} {was} -> {now}"


def test_public_surface_is_the_inventory() -> None:
    now = json.loads(json.dumps(surface()))
    lines = differences(json.loads(INVENTORY.read_text()), now)
    if lines:
        told = "\n".join(lines)
        pytest.fail(f"the public surface is not the inventory's; if you mean it: {COMMAND}\n{told}", pytrace=False)


def test_a_lost_name_and_a_changed_signature_are_told() -> None:
    now = json.loads(json.dumps(surface()))
    before = json.loads(json.dumps(now))
    before["wichan.estimators"]["Lost"] = {"kind": "class", "signature": "()", "members": {}}
    before["wichan.channels"]["TDL"]["signature"] = "(profile)"
    before["wichan.channels"]["TDL"]["members"]["draw"] = "(self)"
    before["wichan.estimators"]["ESTIMATORS"]["entries"].append("gone")
    del before["wichan.metrics"]["nmse_db"]
    lines = differences(before, now)
    assert "removed: wichan.estimators.Lost" in lines
    assert "added: wichan.metrics.nmse_db" in lines
    assert "changed: wichan.channels.TDL.draw: (self) -> (absent)" in lines
    assert any(
        line.startswith("changed: wichan.channels.TDL: signature (profile) -> (profile, *, delay_spread") for line in lines
    )
    assert "changed: wichan.estimators.ESTIMATORS: entries gone ['gone'], new []" in lines
    assert len(lines) == 5
    assert differences(now, now) == []


def test_inventory_holds_what_users_call() -> None:
    known = json.loads(INVENTORY.read_text())
    assert {"wichan.channels", "wichan.estimators", "wichan.errors", "wichan.grid", "wichan.cli"} <= known.keys()
    assert known["wichan.channels"]["TDL"]["kind"] == "class"
    assert "frequency_response" in known["wichan.channels"]["TDL"]["members"]
    assert known["wichan.metrics"]["nmse_db"]["kind"] == "function"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(f"usage: {COMMAND}")
    sys.path.insert(0, str(INVENTORY.parent.parent))
    INVENTORY.write_text(json.dumps(surface(), indent=1) + "\n")
    print(f"wrote {INVENTORY}")
