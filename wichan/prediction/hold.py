"""No prediction: the last snapshot stands for all that follow, and its age tells its error."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import check_noise
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.noise_level import noise_variance


class Hold(Predictor):
    r"""Repeat the last snapshot that arrived ("no prediction", NP, in the literature).

    Its error is read off the history. Snapshots d apart differ by :math:`D(d) = E|y_{t+d} - y_t|^2 = D_h(d) + 2 n`, noise
    n in both, while the future channel is clean, so that a snapshot of age d errs by

    .. math:: \mathrm{err\_var} = E|h_{t+d} - y_t|^2 = D(d) - n = D_h(d) + n .

    D is averaged over all antennas, subcarriers and pairs of snapshots of a sample; its clean part is shared out by the
    power of each antenna pair. Ages beyond what the history shows count as the oldest that it does show. Where the noise is
    not told it is read off late delays (`wichan.prediction.noise_level`; with fewer than 4 subcarriers it counts as none).

    In FDD the last uplink snapshot stands for the downlink, as published. The phases of two bands are then taken as
    independent: the error is the power of the snapshot plus that of the channel.

    Args:
        num_history, num_horizon, duplex: see `Predictor`.

    Source: the baseline NP of [CSI4CAST2025]_; its error variance is ours.
    """

    takes_gaps = True

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict the snapshots that follow a history.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers), any antennas and grid.
            no: noise variance of the history, a number or a tensor over the leading batch axes; None: estimated.
            present: bool (\*batch, num_history), which snapshots arrived; None: all.

        Returns:
            `Prediction`, both parts expanded views: the channel over the steps, ``err_var`` over the subcarriers.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: another length, NaN, no power, no snapshot at all.
        """
        check_history(history, self.num_history)
        present = check_present(present, history)
        batch, antennas, (length, width) = history.shape[:-4], history.shape[-4:-2], history.shape[-2:]
        y = history.reshape(-1, antennas.numel(), length, width)
        there = y.new_ones(len(y), length).real if present is None else present.reshape(-1, length).to(y.real.dtype)
        last = length - 1 - there.flip(-1).argmax(-1)
        held = y.gather(2, last[:, None, None, None].expand(-1, y.shape[1], 1, width))
        shape = (*batch, *antennas, self.num_horizon, width)
        if no is None:
            # A lost snapshot is shown as silence, which the estimate leaves out.
            noise = noise_variance(y[:, :, None] * there[:, None, None, :, None]) if width > 3 else y.new_zeros(len(y)).real
        else:
            noise = check_noise(no, batch, dtype=y.real.dtype, device=y.device).expand(batch).reshape(-1)
        err_var = self._error(y, there, last, noise)
        h_pred = held.reshape(*batch, *antennas, 1, width).expand(shape)
        return Prediction(h_pred, err_var.reshape(*batch, *antennas, self.num_horizon, 1).expand(shape))

    def _error(self, y: torch.Tensor, there: torch.Tensor, last: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """E|h - y|^2 for each antenna pair and step, (samples, antennas, num_horizon)."""
        gram = snapshot_gram(y, there)
        count = there.sum(-1)
        power = gram.diagonal(dim1=-2, dim2=-1).sum(-1) / count[:, None]
        whole = power.mean(-1)
        noise = torch.minimum(noise, whole)[:, None]
        clean = (power - noise).clamp_min(0)
        if self.duplex == "fdd":
            error = (power + clean.mean(-1, keepdim=True))[..., None].expand(-1, -1, self.num_horizon)
        else:
            steps = torch.arange(1, self.num_horizon + 1, device=y.device)
            age = (y.shape[2] - 1 - last)[:, None] + steps
            table = differences(gram.mean(1), there)
            moved = (table.gather(-1, age.clamp_max(y.shape[2] - 1)) - 2 * noise).clamp_min(0)
            share = clean / clean.mean(-1, keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
            error = share[..., None] * moved[:, None] + noise[..., None]
        # Rounding is the least that a difference of snapshots can show.
        return torch.maximum(error, torch.finfo(power.dtype).eps * whole[:, None, None])


def snapshot_gram(y: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Re(Y Y^H) / K of the snapshots that arrived, (samples, antennas, L, L), for y complex (samples, antennas, L, K)."""
    parts = torch.view_as_real(y.resolve_conj()).flatten(-2)
    return (parts @ parts.mT) * (there[:, None, :, None] * there[:, None, None, :]) / y.shape[-1]


def differences(gram: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Mean square difference of snapshots d = 0 ... L - 1 apart from their Gram matrices (samples, L, L); (samples, L).

    A distance at which no pair arrived takes the value of the next shorter one; where there is but one snapshot, twice its
    power: it says nothing about what follows.
    """
    length = gram.shape[-1]
    power = gram.diagonal(dim1=-2, dim2=-1)
    table, known = [torch.zeros_like(power[:, 0])], there.sum(-1) == 1
    table[0] = torch.where(known, 2 * power.sum(-1), table[0])
    for d in range(1, length):
        pairs = there[:, d:] * there[:, : length - d]
        total = ((power[:, d:] + power[:, : length - d]) * pairs).sum(-1) - 2 * gram.diagonal(d, -2, -1).sum(-1)
        number = pairs.sum(-1)
        table.append(torch.where(number > 0, total / number.clamp_min(1), table[-1]))
    return torch.stack(table, dim=-1)
