"""Do an estimator and a predictor keep the library's contract? Run `check_estimator` and `check_predictor` on your own."""

from wichan.registry import lazy_exports

_NAMES = {
    "CHECKS": "wichan.testing.checks",
    "CheckReport": "wichan.testing.contract",
    "CALIBRATION_TOLERANCE": "wichan.testing.tolerances",
    "calibration_by_decile": "wichan.testing.calibration",
    "check_estimator": "wichan.testing.contract",
    "check_predictor": "wichan.testing.predictors",
    "relative_tolerance": "wichan.testing.tolerances",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
