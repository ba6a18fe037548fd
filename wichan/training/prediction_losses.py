r"""Losses of predictions by name, and sums of them: ``"ratio-nmse+nll"``.

With the error :math:`e = \hat h - h`, over the K subcarriers of one antenna pair and one step:

========== =====================================================================================================
name       loss of a batch
========== =====================================================================================================
ratio-nmse mean over samples, antenna pairs and steps of :math:`\sum_k |e_k|^2 / \sum_k |h_k|^2`, as published
log-nmse   mean over samples of ln(mean over antenna pairs and steps of that ratio): every sample counts alike, in decibels
nmse       sum of \|e\|^2 over the sum of \|h\|^2 of the batch
mse        mean of \|e\|^2
nll        mean of ln(err_var) + \|e\|^2 / err_var: negative log-likelihood of a complex Gaussian error, less ln(pi)
========== =====================================================================================================

In a sum, ``nll`` sees the prediction without its gradient: it trains ``err_var`` alone and leaves ``h_pred`` to the others.

Source: [CSI4CAST2025]_ (ratio-nmse).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from wichan.prediction.base import Prediction
from wichan.training.losses import parse_loss

PredictionLoss = Callable[[Prediction, torch.Tensor], torch.Tensor]
_FLOOR = 1e-20  # of a variance inside a logarithm: -200 dB
_WEAKEST = 1e-12  # power of an antenna pair and step below which it counts as this much
_RATIO_FLOOR = 1e-6  # of an NMSE inside a logarithm: -60 dB


def _power(x: torch.Tensor) -> torch.Tensor:
    """Sum over subcarriers of |x|^2, without the square root of `abs`, whose gradient at 0 is not defined."""
    return torch.view_as_real(x).square().sum((-2, -1))


def error_ratios(h_pred: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    r"""Squared error over energy of every antenna pair and step.

    Args:
        h_pred, h: complex, (\*batch, num_rx_ant, num_tx_ant, num_horizon, num_subcarriers).

    Returns:
        real, (\*batch, num_rx_ant, num_tx_ant, num_horizon).
    """
    return _power(h_pred - h) / _power(h).clamp_min(_WEAKEST * h.shape[-1])


def ratio_nmse(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
    """Mean of the ratios."""
    return error_ratios(prediction.h_pred, h).mean()


def log_nmse(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
    """Mean over samples of the logarithm of a sample's mean ratio."""
    return (error_ratios(prediction.h_pred, h).flatten(1).mean(1) + _RATIO_FLOOR).log().mean()


def nmse(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
    """Squared error over energy, both summed over the batch."""
    return _power(prediction.h_pred - h).sum() / _power(h).sum()


def mse(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return _power(prediction.h_pred - h).mean() / h.shape[-1]


def nll(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the error under ``err_var``."""
    variance = prediction.err_var.clamp_min(_FLOOR)
    error = torch.view_as_real(prediction.h_pred - h).square().sum(-1)
    return (variance.log() + error / variance).mean()


#: name -> loss of a prediction and the truth.
PREDICTION_LOSSES: dict[str, PredictionLoss] = {
    "ratio-nmse": ratio_nmse,
    "log-nmse": log_nmse,
    "nmse": nmse,
    "mse": mse,
    "nll": nll,
}


def parse_prediction_loss(name: str) -> tuple[str, ...]:
    """Split a loss's name at its plus signs.

    Raises:
        UnknownNameError: no such loss. InvalidTypeError: no name. InvalidValueError: one comes twice.
    """
    return parse_loss(name, PREDICTION_LOSSES)


def make_prediction_loss(name: str, own: torch.Tensor | None = None) -> PredictionLoss:
    """Return the loss of a name such as ``"mse"`` or ``"ratio-nmse+nll"``.

    Args:
        name: see the module.
        own: a loss of the mean that the network has worked out itself; it stands in for all terms but ``nll``.

    Returns:
        A function of a `wichan.prediction.Prediction` and the future of the same shape, first axis the batch; its value is a
        real scalar with a gradient.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidValueError: see `parse_prediction_loss`.

    Example:
        >>> h = torch.ones(2, 1, 1, 3, 4, dtype=torch.complex64)
        >>> float(make_prediction_loss("ratio-nmse")(Prediction(0.5 * h, h.real), h))
        0.25
    """
    terms = parse_prediction_loss(name)

    def loss(prediction: Prediction, h: torch.Tensor) -> torch.Tensor:
        fixed = prediction._replace(h_pred=prediction.h_pred.detach()) if len(terms) > 1 or own is not None else prediction
        values = [] if own is None else [own]
        for term in terms:
            if term == "nll":
                values.append(nll(fixed, h))
            elif own is None:
                values.append(PREDICTION_LOSSES[term](prediction, h))
        return torch.stack(values).sum()

    return loss
