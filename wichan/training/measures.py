"""Validation of estimates: sums over a batch, which are added up over batches and devices, and metrics from them."""

from __future__ import annotations

import torch

from wichan.estimators.base import Estimate


def estimate_sums(estimate: Estimate, h: torch.Tensor, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums of a batch: error, energy, decibels a frame, normalised error, and ``loss``, its mean loss."""
    squared = torch.view_as_real(estimate.h_hat - h).double().square().sum(-1).flatten(1)
    energy = torch.view_as_real(h).double().square().sum(-1).flatten(1).sum(1)
    error = squared.sum(1)
    known = squared / estimate.err_var.double().flatten(1).clamp_min(1e-30)
    return {
        "frames": torch.full((), len(h), dtype=torch.float64, device=h.device),
        "error": error.sum(),
        "energy": energy.sum(),
        "decibels": 10 * (error / energy).clamp_min(1e-30).log10().sum(),
        "known": known.mean(1).sum(),
        "loss": loss.double() * len(h),
    }


def estimate_summary(sums: dict[str, float]) -> dict[str, float]:
    """``nmse_db`` (ratio of sums), ``score_db`` (mean of the frames' dB), ``error_ratio`` (1 if calibrated), ``loss``."""
    n = sums["frames"]
    ratio = torch.tensor(sums["error"] / sums["energy"], dtype=torch.float64)
    return {
        "nmse_db": float(10 * ratio.log10()),
        "score_db": sums["decibels"] / n,
        "error_ratio": sums["known"] / n,
        "loss": sums["loss"] / n,
    }
