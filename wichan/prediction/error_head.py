"""How wrong is a prediction? A small network that looks at the history and at what was predicted from it."""

from __future__ import annotations

import torch
from torch import nn

_FLOOR = 1e-6  # share of the power below which a difference counts as none: single precision leaves about 1e-7
_LAGS = (1, 2, 3, 4)
_ORDERS = (1, 3, 7, 15)
_LARGEST = 12.0  # of an exponent: errors between 6e-6 and 160,000 times the power of the channel


class PredictionErrorHead(nn.Module):
    r"""Error variance of a prediction for each antenna pair and step, from a few numbers of the history and the prediction.

    It sees `prediction_features`, free of scale and phase, and makes from them

    .. math:: \mathrm{err\_var}(a, s) = c\, p\, e^{u_s(\text{features of } a)},

    with the power p of the history and a scale c that is set after training. A fresh head claims nothing: its error is the
    power of the channel. The history and the prediction are taken as they are: no gradient reaches the mean.

    Args:
        num_history: snapshots of a history.
        num_horizon: steps of a prediction.
        hidden: width of its two hidden layers.
        extra: features that the caller adds.
    """

    scale: torch.Tensor

    def __init__(self, num_history: int, num_horizon: int, hidden: int = 48, extra: int = 0) -> None:
        super().__init__()
        sizes = (count_features(num_horizon) + extra, hidden, hidden, num_horizon)
        first, second, last = (nn.Linear(before, after) for before, after in zip(sizes, sizes[1:], strict=False))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.num_history, self.num_horizon = num_history, num_horizon
        self.layers = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, history: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Return err_var in units of the power of the history.

        Args:
            history: real (samples, antennas, num_history, 2 K), parts interleaved, of unit mean square over a sample.
            predicted: real (samples, antennas, num_horizon, 2 K), in the same units.

        Returns:
            real (samples, antennas, num_horizon).
        """
        return self.claim(prediction_features(history, predicted))

    def claim(self, features: torch.Tensor) -> torch.Tensor:
        """The same from features, real (..., number of features) to (..., num_horizon)."""
        return self.scale * self.layers(features).clamp(-_LARGEST, _LARGEST).exp()


def count_features(num_horizon: int) -> int:
    """Numbers that `prediction_features` gives for an antenna pair."""
    return len(_LAGS) + len(_ORDERS) + 2 + 3 + 2 * num_horizon


@torch.no_grad()
def prediction_features(history: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    r"""What a history and a prediction say about the error, free of scale and phase.

    Of the sample: its mean square differences over 1 to 4 snapshots, the part of a snapshot that 1, 3, 7 and 15 earlier ones
    do not explain (the diagonal of the Cholesky factor of the snapshots' Gram matrix), its noise (second differences
    along frequency), its selectivity (differences over a thirty-second of the band). Of the antenna pair: its power, its
    differences over a snapshot, and the curvature of its last three snapshots. Of each step: power of the prediction and its
    distance from the last snapshot. All are logarithms relative to the power of the sample, a third of them so that they
    lie about -5 ... 1.

    Args:
        history: real (samples, antennas, num_history, 2 K), of unit mean square over a sample.
        predicted: real (samples, antennas, num_horizon, 2 K), in the same units.

    Returns:
        real (samples, antennas, `count_features`).

    Cost: a product of L x 2 K with its transpose for each antenna pair, and a few passes over the last snapshots.
    """
    count, antennas, length, width = history.shape
    y = torch.view_as_complex(history.unflatten(-1, (-1, 2)).contiguous())
    product = y @ y.mH / width
    whole, gram = product.mean(1).to(torch.complex128), product.real
    sample = [_difference(whole.real, lag) for lag in _LAGS] + _innovations(whole) + [_noise(history), _selectivity(history)]
    shared = torch.stack([value.to(history.dtype) for value in sample], dim=-1)
    last = history[..., -1:, :]
    own = [gram.diagonal(dim1=-2, dim2=-1).mean(-1), _difference(gram, 1), _curvature(gram)]
    power = predicted.square().mean(-1)
    distance = (predicted - last).square().mean(-1)
    parts = [shared[:, None].expand(-1, antennas, -1), torch.stack(own, dim=-1), power, distance]
    return (torch.cat(parts, dim=-1).clamp_min(0) + _FLOOR).log() / 3


def _difference(gram: torch.Tensor, lag: int) -> torch.Tensor:
    """Mean square difference of snapshots ``lag`` apart, from their Gram matrices (..., L, L)."""
    length = gram.shape[-1]
    if lag >= length:
        lag = length - 1
    power = gram.diagonal(dim1=-2, dim2=-1)
    across = gram.diagonal(lag, -2, -1).sum(-1)
    return (power[..., lag:].sum(-1) + power[..., : length - lag].sum(-1) - 2 * across) / (length - lag)


def _innovations(gram: torch.Tensor) -> list[torch.Tensor]:
    """Power of the part of snapshot n that snapshots 0 ... n - 1 do not explain, for a few n; from (samples, L, L)."""
    length = gram.shape[-1]
    shifted = gram + _FLOOR * torch.eye(length, dtype=gram.dtype, device=gram.device)
    left = torch.linalg.cholesky_ex(shifted)[0].diagonal(dim1=-2, dim2=-1).real.square()
    return [left[..., min(order, length - 1)] for order in _ORDERS]


def _curvature(gram: torch.Tensor) -> torch.Tensor:
    """Mean square of y[-1] - 2 y[-2] + y[-3]; of y[-1] - y[-2] where there are no three."""
    taps = torch.zeros(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    values = (1.0, -2.0, 1.0) if len(taps) > 2 else (-1.0, 1.0)[-len(taps) :]
    taps[-len(values) :] = taps.new_tensor(values)
    return (gram @ taps) @ taps


def _noise(history: torch.Tensor) -> torch.Tensor:
    """About the noise-to-signal ratio: second differences along frequency, where a channel hardly bends."""
    y = history[:, :, -4:].unflatten(-1, (-1, 2))
    if y.shape[-2] < 3:
        return history.new_zeros(len(history))
    bend = y[..., 2:, :] - 2 * y[..., 1:-1, :] + y[..., :-2, :]
    return bend.square().mean((1, 2, 3, 4)) / 6


def _selectivity(history: torch.Tensor) -> torch.Tensor:
    """Mean square difference of subcarriers a thirty-second of the band apart."""
    y = history[:, :, -4:].unflatten(-1, (-1, 2))
    step = max(1, y.shape[-2] // 32)
    if y.shape[-2] <= step:
        return history.new_zeros(len(history))
    return (y[..., step:, :] - y[..., :-step, :]).square().mean((1, 2, 3, 4))
