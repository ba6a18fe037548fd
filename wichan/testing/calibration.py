"""Is ``err_var`` what it says? Normalised errors by decile."""

from __future__ import annotations

import torch

from wichan.errors import ShapeError, check_int


def calibration_by_decile(h_hat: torch.Tensor, err_var: torch.Tensor, h: torch.Tensor, *, num_bins: int = 10) -> torch.Tensor:
    r"""Mean of :math:`|h - \hat h|^2 / \mathrm{err\_var}` in each bin of ``err_var``.

    All elements are sorted by ``err_var`` and cut into ``num_bins`` equal parts; a calibrated estimator gives 1 in each.

    Args:
        h_hat, h: complex, equal shapes.
        err_var: real, same shape.
        num_bins: number of bins, at least 1.

    Returns:
        float64, (num_bins,). An error without any variance counts as infinite, no error without variance as 1.

    Raises:
        ShapeError: shapes that differ, or fewer elements than bins.
    """
    check_int("num_bins", num_bins, minimum=1)
    if h_hat.shape != h.shape or err_var.shape != h.shape:
        raise ShapeError(
            f"h_hat {tuple(h_hat.shape)}, err_var {tuple(err_var.shape)} and h {tuple(h.shape)} must have one shape"
        )
    if h.numel() < num_bins:
        raise ShapeError(f"h has {h.numel()} elements; {num_bins} bins need at least as many")
    error = (h - h_hat).detach().abs().double().square().flatten()
    variance = err_var.detach().double().flatten()
    ratio = torch.where((error == 0) & (variance == 0), torch.ones_like(error), error / variance)
    order = torch.argsort(variance, stable=True)
    return torch.stack([part.mean() for part in torch.tensor_split(ratio[order], num_bins)])
