"""Data to weights: training of learned estimators, weights on disk, released models."""

from wichan.registry import lazy_exports

_NAMES = {
    "ChannelEstimation": "wichan.training.module",
    "DivergedError": "wichan.training.module",
    "LOSSES": "wichan.training.losses",
    "PriorConfig": "wichan.training.priors",
    "PriorResult": "wichan.training.priors",
    "ModelInfo": "wichan.training.zoo",
    "Task": "wichan.training.module",
    "TrainConfig": "wichan.training.config",
    "TrainProgress": "wichan.training.keeper",
    "TrainResult": "wichan.training.fitting",
    "WeightsInfo": "wichan.training.weights_reader",
    "fit": "wichan.training.fitting",
    "fit_prior": "wichan.training.priors",
    "list_models": "wichan.training.zoo",
    "load": "wichan.training.zoo",
    "load_prior": "wichan.training.prior_files",
    "load_weights": "wichan.training.weights",
    "make_loss": "wichan.training.losses",
    "model_folder": "wichan.training.zoo",
    "model_info": "wichan.training.zoo",
    "released": "wichan.training.zoo",
    "save_prior": "wichan.training.prior_files",
    "save_weights": "wichan.training.weights",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES)
__all__ = sorted(_NAMES)  # noqa: PLE0605 (names load lazily)
