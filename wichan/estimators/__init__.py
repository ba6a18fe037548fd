"""From what the receiver sees to the channel and its uncertainty: one file a method."""

from wichan.registry import Registry, lazy_exports

ESTIMATORS = Registry(
    "estimator",
    {
        "ls": "wichan.estimators.ls:LS",
        "lmmse": "wichan.estimators.lmmse:LMMSE",
        "lmmse-kronecker": "wichan.estimators.lmmse:lmmse_kronecker",
        "lmmse-separable": "wichan.estimators.lmmse:lmmse_separable",
    },
)

_NAMES = {
    "Estimate": "wichan.estimators.base",
    "Estimator": "wichan.estimators.base",
    "LMMSE": "wichan.estimators.lmmse",
    "LS": "wichan.estimators.ls",
    "lmmse_error": "wichan.estimators.pilot_design",
    "lmmse_estimate": "wichan.estimators.pilot_design",
    "optimal_pilots": "wichan.estimators.pilot_design",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES | {"ESTIMATORS": __name__})
__all__ = ["ESTIMATORS", *sorted(_NAMES)]  # noqa: PLE0604 (names load lazily)
