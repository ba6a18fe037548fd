"""Special functions that PyTorch does not have, or not to double precision."""

from __future__ import annotations

import torch


def bessel_j0(x: torch.Tensor) -> torch.Tensor:
    """Bessel function J0 of a float64 tensor, through SciPy.

    ``torch.special.bessel_j0`` is off by up to 4e-7 near x = 5 in double precision (PyTorch 2.13), which makes Jakes
    covariances indefinite.
    """
    from scipy.special import j0

    return torch.from_numpy(j0(x.detach().cpu().to(torch.float64).numpy())).to(x.device)
