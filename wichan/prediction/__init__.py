"""From past CSI to future CSI and its uncertainty: one file a method."""

from wichan.registry import Registry, lazy_exports

PREDICTORS = Registry(
    "predictor",
    {
        "ar": "wichan.prediction.ar:VectorAR",
        "dad": "wichan.prediction.delay_angle_doppler:DelayAngleDoppler",
        "hold": "wichan.prediction.hold:Hold",
        "pad": "wichan.prediction.pad:PAD",
        "wiener": "wichan.prediction.wiener:WienerPredictor",
        "wiener-genie": "wichan.prediction.wiener_genie:WienerGenie",
    },
)

LEARNED_PREDICTORS = Registry(
    "learned predictor",
    {
        "cnn": "wichan.prediction.cnn:CNNPredictor",
        "csi4cast": "wichan.prediction.csi4cast:CSI4CAST",
        "csibert2": "wichan.prediction.csibert2:CSIBERT2Predictor",
        "dadnet": "wichan.prediction.dad_net:DADNet",
        "rnn": "wichan.prediction.rnn:RNNPredictor",
    },
)

_NAMES = {
    "CNNPredictor": "wichan.prediction.cnn",
    "CSI4CAST": "wichan.prediction.csi4cast",
    "CSIBERT2Predictor": "wichan.prediction.csibert2",
    "CalibratedPredictor": "wichan.prediction.calibration",
    "DADNet": "wichan.prediction.dad_net",
    "DelayAngleDoppler": "wichan.prediction.delay_angle_doppler",
    "Hold": "wichan.prediction.hold",
    "LearnedPredictor": "wichan.prediction.learned",
    "PAD": "wichan.prediction.pad",
    "Prediction": "wichan.prediction.base",
    "Predictor": "wichan.prediction.base",
    "RNNPredictor": "wichan.prediction.rnn",
    "VectorAR": "wichan.prediction.ar",
    "WienerGenie": "wichan.prediction.wiener_genie",
    "WienerPredictor": "wichan.prediction.wiener",
}

__getattr__, __dir__ = lazy_exports(__name__, _NAMES | {"PREDICTORS": __name__, "LEARNED_PREDICTORS": __name__})
__all__ = ["LEARNED_PREDICTORS", "PREDICTORS", *sorted(_NAMES)]  # noqa: PLE0604 (names load lazily)
