"""Lazy tables ``name -> "module:attribute"``: one line registers a method, nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from wichan.errors import unknown_name


class Registry(Mapping[str, Any]):
    """A read-only mapping that imports an entry when it is first looked up.

    Args:
        field: what an entry is called in error messages ("estimator", "recipe", ...).
        entries: name -> ``"package.module:attribute"``.

    Example:
        >>> math = Registry("function", {"root": "math:sqrt"})
        >>> math["root"](9.0)
        3.0
    """

    def __init__(self, field: str, entries: Mapping[str, str]) -> None:
        self.field = field
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        if name not in self._entries:
            raise unknown_name(self.field, name, self._entries)
        module, _, attribute = self._entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, target: str) -> None:
        """Register ``target`` ("module:attribute") under ``name``; an existing name is replaced."""
        self._entries[name] = target


def lazy_exports(package: str, exports: Mapping[str, str]) -> tuple[Any, Any]:
    """Return ``(__getattr__, __dir__)`` for a package whose names load on first use (PEP 562).

    Args:
        package: ``__name__`` of the package.
        exports: public name -> module that defines it; a module mapped to itself is a sub-package.
    """

    def get(name: str) -> Any:
        module = exports.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        loaded = importlib.import_module(module)
        value = loaded if module == f"{package}.{name}" and not hasattr(loaded, name) else getattr(loaded, name)
        setattr(importlib.import_module(package), name, value)
        return value

    def names() -> list[str]:
        return sorted(exports)

    return get, names
