"""What a channel is like: spreads, coherence, delay-Doppler and angle-delay views, effective rank."""

from wichan.registry import lazy_exports

_NAMES: dict[str, str] = {}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
