"""Other people's programs: the only room that imports them."""

from wichan.registry import lazy_exports

_NAMES = {"sionna": "wichan.integrations.sionna"}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
