r"""Losses by name, and sums of them: ``"mse"``, ``"log-mse+nll"``.

With the error :math:`e = \hat h - h` on the grid of a frame:

========== ===============================================================================================
name       loss of a batch
========== ===============================================================================================
mse        mean of \|e\|^2 (twice the mean over real and imaginary parts that the published training takes)
nmse       sum of \|e\|^2 over the sum of \|h\|^2
log-mse    mean over frames of ln(mean over the grid of \|e\|^2): every frame counts alike, in decibels
nll        mean of ln(err_var) + \|e\|^2 / err_var: negative log-likelihood of a complex Gaussian error, less ln(pi)
========== ===============================================================================================

In a sum, ``nll`` sees the estimate without its gradient: it trains ``err_var`` alone and leaves ``h_hat`` to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, unknown_name
from wichan.estimators.base import Estimate

Loss = Callable[[Estimate, torch.Tensor], torch.Tensor]
_FLOOR = 1e-20  # of a mean squared error inside a logarithm: -200 dB


def _squared(error: torch.Tensor) -> torch.Tensor:
    """|error|^2 without the square root of `abs`, whose gradient at 0 is not defined."""
    return torch.view_as_real(error).square().sum(-1)


def mse(estimate: Estimate, h: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return _squared(estimate.h_hat - h).mean()


def nmse(estimate: Estimate, h: torch.Tensor) -> torch.Tensor:
    """Squared error over energy, both summed over the batch."""
    return _squared(estimate.h_hat - h).sum() / _squared(h).sum()


def log_mse(estimate: Estimate, h: torch.Tensor) -> torch.Tensor:
    """Mean over frames of the logarithm of a frame's mean squared error."""
    return (_squared(estimate.h_hat - h).flatten(1).mean(1) + _FLOOR).log().mean()


def nll(estimate: Estimate, h: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the error under ``err_var``."""
    variance = estimate.err_var.clamp_min(_FLOOR)
    return (variance.log() + _squared(estimate.h_hat - h) / variance).mean()


#: name -> loss of an estimate and the truth, both (batch, ...).
LOSSES: dict[str, Loss] = {"mse": mse, "nmse": nmse, "log-mse": log_mse, "nll": nll}


def parse_loss(name: str, losses: Mapping[str, Any] = LOSSES) -> tuple[str, ...]:
    """Split a loss's name at its plus signs; ``losses`` are those that there are.

    Raises:
        UnknownNameError: no such loss. InvalidValueError: one comes twice.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"loss must be a name, got {type(name).__name__}")
    terms = tuple(term.strip() for term in name.split("+"))
    for term in terms:
        if term not in losses:
            raise unknown_name("loss", term, losses)
    if len(set(terms)) < len(terms):
        raise InvalidValueError(f"loss={name!r} names a term twice")
    return terms


def make_loss(name: str) -> Loss:
    """Return the loss of a name such as ``"mse"`` or ``"log-mse+nll"``.

    Returns:
        A function of an `wichan.estimators.Estimate` and ``h`` of the same shape, first axis the batch; its value is a real
        scalar with a gradient.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidValueError: see `parse_loss`.

    Example:
        >>> from wichan.estimators import Estimate
        >>> h = torch.ones(2, 1, 1, 3, 4, dtype=torch.complex64)
        >>> float(make_loss("mse")(Estimate(0.5 * h, h.real), h))
        0.25
    """
    terms = parse_loss(name)

    def loss(estimate: Estimate, h: torch.Tensor) -> torch.Tensor:
        fixed = estimate._replace(h_hat=estimate.h_hat.detach()) if len(terms) > 1 else estimate
        values = [LOSSES[term](fixed if term == "nll" else estimate, h) for term in terms]
        return torch.stack(values).sum()

    return loss
