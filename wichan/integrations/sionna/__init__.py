"""Sionna both ways: wichan's estimators and channels in a Sionna link, Sionna's in wichan.

Importing this package does not import Sionna; using a name of it does, and says which extra to install where it is missing.
"""

from wichan.registry import lazy_exports

_NAMES: dict[str, str] = {}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
