"""The noise variance, learned beside the prior variances."""

from __future__ import annotations

import torch

from wichan.estimators.kronecker_estep import Spectrum, squared


def start_noise(y: torch.Tensor) -> torch.Tensor:
    """A tenth of the mean of |y|^2, float64 (B,)."""
    return 0.1 * squared(y.flatten(1)).double().mean(-1)


def update_noise(found: Spectrum, no: torch.Tensor) -> torch.Tensor:
    r"""One EM update of the noise variance, float64 (B,), from sums of positive terms only.

    .. math:: \sigma^2 \leftarrow \frac{\sigma^2}{M} \sum \frac{\sigma^2 |\tilde y|^2}{(\sigma^2 + \lambda)^2}
        + \frac{\lambda}{\sigma^2 + \lambda}

    Args:
        found: of `spectrum` at ``no``.
        no: (B,).
    """
    total, noise = found.total.flatten(1).double(), no.double()[:, None]
    terms = noise * squared(found.rotated).flatten(1).double() / total.square() + found.eigenvalues.flatten(1).double() / total
    return no * terms.mean(-1)
