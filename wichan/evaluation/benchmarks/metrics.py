"""What is kept of a prediction: a few sums a sample and step, from which all scores follow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from wichan.errors import ShapeError, check_real

#: SNR [dB] at which spectral efficiency is measured, whatever the noise of the history.
SE_SNR_DB = 10.0
#: What `step_scores` measures, in this order.
MEASURES = ("ratio", "error", "se", "claimed")
_SAFE = (1e-20, 1e20)  # squared norms that need no scaling in single precision


class TargetSums(NamedTuple):
    """What every prediction of the same future shares; each (num_samples, num_horizon), float32.

    Attributes:
        energy: sum of |h|^2 over antennas and bins.
        se: spectral efficiency of a transmitter that knows h [bit/s/Hz].
    """

    energy: torch.Tensor
    se: torch.Tensor


def target_sums(h: torch.Tensor, snr_db: float = SE_SNR_DB) -> TargetSums:
    r"""Sums of a target.

    .. math:: \mathrm{SE}_0 = \frac{1}{F} \sum_f \log_2\!\left(1 + \|h_f\|^2 / \sigma^2\right), \quad
              \sigma^2 = 10^{-\mathrm{SNR}/10}

    Args:
        h: complex, (num_samples, num_rx_ant, num_tx_ant, num_horizon, num_subcarriers).
        snr_db: SNR of the data [dB].
    """
    power = torch.view_as_real(h).square().sum(-1).flatten(1, 2)
    gain = power.sum(1)
    se = torch.log1p(gain * 10 ** (check_real("snr_db", snr_db) / 10)).mean(-1) / math.log(2)
    return TargetSums(gain.sum(-1), se)


def step_scores(
    h_pred: torch.Tensor, h: torch.Tensor, err_var: torch.Tensor | None = None, snr_db: float = SE_SNR_DB
) -> torch.Tensor:
    r"""Measure a prediction, sample by sample and step by step.

    - ``ratio``: :math:`\frac1A \sum_a \|h_a - \hat h_a\|^2 / \|h_a\|^2`, the mean over antennas of ratios; its mean over
      samples is the NMSE of [CSI4CAST2025]_. An antenna pair without power counts 0 where nothing was predicted, else
      infinity.
    - ``error``: :math:`\sum_{a,f} |h - \hat h|^2`; its sum over samples over that of the energies is the pooled NMSE.
    - ``se``: :math:`\frac1F \sum_f \log_2\!\left(1 + |\hat h_f^H h_f|^2 / (\|\hat h_f\|^2 \sigma^2)\right)` [bit/s/Hz], the
      inner product over antennas: what matched beamforming with the prediction reaches. A factor common to all antennas of
      a bin cancels. Where nothing was predicted it is 0.
    - ``claimed``: sum of ``err_var`` over antennas and bins; NaN without.

    Args:
        h_pred: complex, (num_samples, num_rx_ant, num_tx_ant, num_horizon, num_subcarriers).
        h: the truth, same shape.
        err_var: what the predictor says of its error, same shape, real; None: nothing.
        snr_db: SNR of the data [dB] behind ``se``.

    Returns:
        float32, (num_samples, num_horizon, 4) in the order of `MEASURES`. Costs about 25 FLOP an element and no copy larger
        than the prediction.

    Raises:
        ShapeError: shapes that differ.
    """
    if h_pred.shape != h.shape or h.dim() != 5:
        raise ShapeError(f"h_pred has shape {tuple(h_pred.shape)} and h {tuple(h.shape)}; both must be one shape of five axes")
    h_pred, h = h_pred.flatten(1, 2), h.flatten(1, 2)
    error = torch.view_as_real(h_pred - h).square().sum((-1, -2))
    energy = torch.view_as_real(h).square().sum((-1, -2))
    ratio = torch.where(error > 0, error / energy, error).mean(1)
    se = torch.log1p(_matched_gain(h_pred, h) * 10 ** (check_real("snr_db", snr_db) / 10)).mean(-1) / math.log(2)
    claimed = torch.full_like(ratio, torch.nan) if err_var is None else err_var.flatten(1, 2).sum((1, -1))
    return torch.stack([ratio, error.sum(1), se, claimed.to(ratio)], dim=-1).float()


def _matched_gain(h_pred: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    r""":math:`|\hat h^H h|^2 / \|\hat h\|^2` over antennas (axis 1), 0 where nothing was predicted."""
    norm = torch.view_as_real(h_pred).square().sum(-1).sum(1)
    low, high = _SAFE
    if not bool(((norm > low) & (norm < high)).all()):  # a factor cancels, but squares would over- or underflow
        peak = h_pred.abs().amax(1, keepdim=True).clamp_min(torch.finfo(norm.dtype).tiny)
        h_pred = h_pred / peak
        norm = torch.view_as_real(h_pred).square().sum(-1).sum(1)
    inner = torch.view_as_real(torch.linalg.vecdot(h_pred, h, dim=1)).square().sum(-1)
    return torch.where(norm > 0, inner / norm, inner)
