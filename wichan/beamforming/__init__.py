"""Which beam? Phases of an intelligent reflecting surface, beams at both ends, and the rate that they give."""

from wichan.registry import lazy_exports

_EXPORTS = {
    "IRSBeams": "irs_phases",
    "align_phases": "irs_phases",
    "data_share": "irs_rate",
    "irs_beams": "irs_phases",
    "maximise_rate": "irs_phases",
    "random_reflection": "irs_phases",
    "reflect": "irs_phases",
    "spectral_efficiency": "irs_rate",
}

__getattr__, __dir__ = lazy_exports(__name__, {name: f"{__name__}.{module}" for name, module in _EXPORTS.items()})
__all__ = sorted(_EXPORTS)  # noqa: PLE0605 (names load lazily)
