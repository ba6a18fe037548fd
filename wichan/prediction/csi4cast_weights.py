r"""A thrifty CSI-4CAST: the transformer answers with weights of the past snapshots instead of with the future itself.

A history is taken to R delays that hold all paths of a window (`delay_basis`), which takes noise out as the convolutions of
the published network are to do. There, for delay r and step p of the horizon,

.. math:: \hat c_{p, r} = \sum_{r'} (I + \sum_m \alpha_m M_m)_{r r'} \sum_t w_{p, r', t}\, c_{t, r'} .

The weights w are what the adaptive re-weighting of the published network stands for, made explicit: those that would have
predicted the end of the history itself (least squares with a ridge), trusted as far as the network says, and the network's
own added. It is a transformer whose tokens are delays and which sees what does not depend on scale and phase: power and
autocorrelation of every delay, averaged over the antennas of a sample. All antennas share the weights, so that the costly
part runs once a sample instead of once an antenna, and the answer turns and grows with the history.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from wichan.nn.buffers import ComplexBuffer
from wichan.nn.encoder import EncoderLayer
from wichan.prediction.csi4cast_band import BandMap, delay_basis

_FLOOR = 1e-6  # of a delay's power, relative to the mean power of a delay


class WeightNetwork(nn.Module):
    r"""Past to future of the antennas of a sample, by weights that they share.

    Args:
        num_subcarriers: complex features K of a snapshot.
        num_history: snapshots T seen.
        num_horizon: snapshots P predicted.
        taps: delays R kept, at most K; the window is (R - 10) / K of the largest unambiguous delay.
        order: snapshots that the least-squares weights take; 0: none of those. At most T - P.
        maps: matrices M of which a sample's own is mixed; 0: none.
        fine: points for each delay of the spectrum in `BandMap`, which takes the prediction to the band ``offset`` bins
            above; 0: the future is that of the band itself.
        offset: see there.
        width, layers, heads, hidden, dropout: of the transformer, one token a delay.

    Cost of a sample of A antennas: 8 A K R (T + P) FLOP for the two changes of basis, 24 R width^2 for a layer, and 8 R^2
    maps + 8 R^2 P A for the matrices.
    """

    basis = ComplexBuffer(persistent=False)

    def __init__(
        self,
        num_subcarriers: int,
        num_history: int,
        num_horizon: int,
        *,
        taps: int,
        order: int,
        maps: int,
        fine: int,
        offset: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        taps = min(taps, num_subcarriers)
        self.num_history, self.num_horizon = num_history, num_horizon
        self.order = max(0, min(order, num_history - num_horizon))
        self.basis = delay_basis(num_subcarriers, taps)
        self.embedding = nn.Linear(2 * num_history - 1, width)
        self.delays = nn.Parameter(0.1 * torch.randn(taps, width))
        steps = (EncoderLayer(width, heads, hidden, dropout, "pre") for _ in range(layers))
        self.encoder = nn.Sequential(*steps, nn.LayerNorm(width))
        self.trust = nn.Linear(width, 1 + num_horizon)  # logarithm of the ridge, and a factor for every step
        self.weights = nn.Linear(width, num_horizon * num_history * 2)
        for layer in (self.trust, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # training begins at the least-squares weights
            self.trust.bias.copy_(torch.tensor([math.log(0.1)] + [1.0] * num_horizon))
        self.band = BandMap(num_subcarriers, taps, fine, offset, width) if fine else None
        self.num_maps = maps
        if maps:
            self.mixture = nn.Linear(width, maps)
            self.maps = nn.Parameter(torch.randn(maps, taps, taps, 2) * (0.1 / taps**0.5))

    def forward(self, x: torch.Tensor, group: int | None = None) -> torch.Tensor:
        """Predict.

        Args:
            x: (sequences, num_history, 2 num_subcarriers), the antennas of a sample one after the other.
            group: antennas of a sample; None: all sequences are one sample.

        Returns:
            (sequences, num_horizon, 2 num_subcarriers).
        """
        h = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        basis = self.basis.to(h.dtype)
        c = (h @ basis.conj()).unflatten(0, (-1, group or max(1, len(x)))).permute(0, 3, 2, 1)
        gram = c @ c.mH / c.shape[-1]
        tokens = self.encoder(self.embedding(invariants(gram)) + self.delays)
        future = self._weights(gram, tokens) @ c  # (samples, taps, num_horizon, antennas)
        if self.band is not None:
            power = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
            future = (self.band(power, tokens) @ future.flatten(2)).view_as(future)
        if self.num_maps:
            share = self.mixture(tokens.mean(1)).to(future.dtype)
            mixed = (share @ torch.view_as_complex(self.maps).flatten(1)).unflatten(-1, self.maps.shape[1:3])
            future = future + (mixed @ future.flatten(2)).view_as(future)
        answer = future.permute(0, 3, 2, 1).flatten(0, 1) @ basis.mT
        return torch.view_as_real(answer).flatten(-2)

    def _weights(self, gram: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Weights of the snapshots, complex (samples, taps, num_horizon, num_history)."""
        weights = torch.view_as_complex(self.weights(tokens).unflatten(-1, (self.num_horizon, self.num_history, 2)))
        if not self.order:
            return weights
        ridge, trust = self.trust(tokens).split([1, self.num_horizon], dim=-1)
        fitted = fitted_weights(gram, self.order, self.num_horizon, ridge[..., 0].clamp(-12, 6).exp())
        return weights + nn.functional.pad(trust[..., None] * fitted, (self.num_history - self.order, 0))


def fitted_weights(gram: torch.Tensor, order: int, num_horizon: int, ridge: torch.Tensor) -> torch.Tensor:
    """Weights that would have predicted the end of the history best, forwards and (conjugated) backwards in time.

    Args:
        gram: complex (samples, taps, num_history, num_history), c c^H averaged over antennas.
        order: snapshots that are weighed, at most num_history - num_horizon.
        num_horizon: steps ahead.
        ridge: (samples, taps), above 0: what is added to the diagonal, relative to the delay's power.

    Returns:
        complex (samples, taps, num_horizon, order), oldest snapshot first.
    """
    both = (gram + gram.flip(-2, -1).conj()) / 2
    starts = range(gram.shape[-1] - order - num_horizon + 1)
    windows = torch.stack([both[..., s : s + order + num_horizon, s : s + order] for s in starts]).mean(0)
    inner, ahead = windows.split([order, num_horizon], dim=-2)
    power = inner.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    power = (power + _FLOOR * power.mean(-1, keepdim=True) + torch.finfo(power.dtype).tiny)[..., None, None]
    load = torch.diag_embed(ridge[..., None].expand(*ridge.shape, order).double())
    root = torch.linalg.cholesky((inner / power).to(torch.complex128) + load)
    return torch.cholesky_solve((ahead / power).mH.to(torch.complex128), root).mH.to(gram.dtype)


def invariants(gram: torch.Tensor) -> torch.Tensor:
    """What the transformer sees of each delay: power and autocorrelation, averaged over antennas.

    Args:
        gram: complex (samples, taps, num_history, num_history), c c^H averaged over antennas.

    Returns:
        real (samples, taps, 2 num_history - 1): real and imaginary parts of the correlations over 1 ... num_history - 1
        snapshots relative to the delay's power, and the logarithm of that power relative to the mean over delays.
    """
    power = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    tiny = torch.finfo(power.dtype).tiny
    level = power.mean(-1, keepdim=True) + tiny
    power = power + _FLOOR * level
    features = [(power / level).log()[..., None] / 3]
    for lag in range(1, gram.shape[-1]):
        features.append(torch.view_as_real(gram.diagonal(-lag, -2, -1).mean(-1) / power))
    return torch.cat(features, dim=-1)
