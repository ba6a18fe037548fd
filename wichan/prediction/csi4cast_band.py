"""Delays of a band: the basis in which a thrifty CSI-4CAST works, and the way from one band to its neighbour."""

from __future__ import annotations

import math

import torch
from torch import nn

from wichan.nn.buffers import ComplexBuffer

_FLOOR = 1e-6  # of a delay's power, relative to the mean power of a delay
_MARGIN = 10  # delays beyond the window: what a band-limited function of finite length needs to be held to about 1e-6
_KINDS = 16  # templates of delay spectra


class BandMap(nn.Module):
    r"""Linear MMSE map from the delays of the observed band to those of its neighbour, from a spectrum that tokens describe.

    A sample's power over a fine grid of delays :math:`\tau_g` is the power seen around each delay times
    :math:`\exp(u_g)`, where u comes from the tokens and from templates that are mixed by their mean. With that power,

    .. math:: M = F\,\mathrm{diag}(p)\,N^H (N\,\mathrm{diag}(p)\,N^H + \sigma^2 I)^{-1},

    where the columns of N and F are paths of delay :math:`\tau_g` in the basis of the near and the far band. So the network
    learns where the delays of a channel lie, and the extrapolation over frequency follows.

    Args:
        num_subcarriers: bins of either band.
        taps: delays of the basis.
        fine: points of the grid for each of them.
        offset: first bin of the far band minus that of the near one.
        width: features of a token.

    Cost of a sample: 16 taps^3 fine FLOP and a factorisation.
    """

    near = ComplexBuffer(persistent=False)
    far = ComplexBuffer(persistent=False)

    def __init__(self, num_subcarriers: int, taps: int, fine: int, offset: int, width: int) -> None:
        super().__init__()
        self.near, self.far = path_responses(num_subcarriers, taps, fine, offset)
        self.fine = fine
        self.spectrum = nn.Linear(width, fine)
        self.kinds = nn.Linear(width, _KINDS)
        self.templates = nn.Parameter(0.05 * torch.randn(_KINDS, taps * fine))
        self.load = nn.Linear(width, 1)
        nn.init.zeros_(self.load.weight)
        nn.init.constant_(self.load.bias, math.log(0.03))

    def forward(self, power: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return M.

        Args:
            power: of each delay of the near band, real (samples, taps).
            tokens: (samples, taps, width).

        Returns:
            complex (samples, taps, taps).
        """
        mean = tokens.mean(1)
        shape = self.spectrum(tokens).flatten(1) + self.kinds(mean) @ self.templates
        level = power.mean(-1, keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
        spectrum = shape.clamp(-12, 6).exp() * (power / level + _FLOOR).repeat_interleave(self.fine, 1) / self.fine
        dtype = torch.promote_types(power.dtype, torch.complex64)
        near, far = self.near.to(dtype), self.far.to(dtype)
        shaped = near.mH * spectrum[..., None]
        load = self.load(mean).clamp(-12, 6).exp().expand(-1, power.shape[1]).double()
        root = torch.linalg.cholesky((near @ shaped).to(torch.complex128) + torch.diag_embed(load))
        return torch.cholesky_solve((far @ shaped).mH.to(torch.complex128), root).mH.to(dtype)


def delay_basis(num_subcarriers: int, taps: int) -> torch.Tensor:
    r"""Orthonormal basis of what paths of a delay window look like over a band, each vector close to one delay.

    The DFT's own taps leak: a path between two taps reaches all of them. The span of paths with delays in [0, W] is nearly
    finite, K W + a few dimensions (discrete prolate spheroidal sequences), and the basis of that span nearest to steering
    vectors of evenly spaced delays is their polar factor inside it.

    Args:
        num_subcarriers: K.
        taps: R; the window is (R - 10) / K of the largest unambiguous delay (half of R where R is below 20).

    Returns:
        complex128 (K, R).
    """
    window, delays = _delays(num_subcarriers, taps)
    bins = torch.arange(num_subcarriers, dtype=torch.float64, device="cpu")
    apart = bins[:, None] - bins
    kernel = torch.polar(torch.ones_like(apart), -math.pi * window * apart) * torch.sinc(window * apart)
    span = torch.linalg.eigh(kernel)[1][:, -taps:]
    left, _, right = torch.linalg.svd(span.mH @ _paths(bins, delays), full_matrices=False)
    return span @ (left @ right)


def path_responses(num_subcarriers: int, taps: int, fine: int, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paths on a fine grid of delays in the basis of `delay_basis`: in the band itself and ``offset`` bins above it.

    Returns:
        twice complex128 (taps, taps * fine), columns of about unit length.
    """
    _, delays = _delays(num_subcarriers, taps)
    step = float(delays[1] - delays[0]) if taps > 1 else 1.0
    inside = (torch.arange(fine, dtype=torch.float64, device="cpu") - (fine - 1) / 2) * (step / fine)
    grid = (delays[:, None] + inside).flatten()
    bins = torch.arange(num_subcarriers, dtype=torch.float64, device="cpu")
    basis = delay_basis(num_subcarriers, taps)
    return basis.mH @ _paths(bins, grid), basis.mH @ _paths(bins + offset, grid)


def _delays(num_subcarriers: int, taps: int) -> tuple[float, torch.Tensor]:
    """Window as a share of the largest unambiguous delay, and evenly spaced delays in taps of the DFT."""
    margin = float(min(_MARGIN, taps // 2)) if taps < num_subcarriers else 0.0
    last = taps - margin if margin else num_subcarriers - 1.0
    delays = torch.linspace(-0.4 * margin, last + 0.4 * margin, taps, dtype=torch.float64, device="cpu")
    return (taps - margin) / num_subcarriers, delays


def _paths(bins: torch.Tensor, delays: torch.Tensor) -> torch.Tensor:
    """Responses of unit energy over a band, (bins, delays)."""
    count = len(bins)
    return torch.polar(
        torch.full((), count**-0.5, dtype=torch.float64, device="cpu"), -2 * math.pi / count * bins[:, None] * delays
    )
