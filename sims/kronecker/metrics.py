"""What is measured of a sparse estimate and of the channel that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

SUCCESS = 1e-2  # an NMSE below it counts as a success
SYNTHETIC_LEVEL, IRS_LEVEL = 1e-3, 1e-4  # relative level above which a coefficient belongs to the support


def nmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """|estimate - truth|^2 / |truth|^2 of each instance, (B,)."""
    error = (estimate - truth).abs().square().flatten(1).sum(1)
    return error / truth.abs().square().flatten(1).sum(1)


def recovery(estimate: Tensor, support: Tensor, level: float) -> Tensor:
    """Support recovery rate |S_hat n S| / |S_hat u S|, with S_hat = {i: |x_i| > level max|x|}, (B,); nothing found: 0."""
    size = estimate.abs().flatten(1)
    found = size > level * size.amax(1, keepdim=True)
    true = support.flatten(1)
    return (found & true).sum(1) / (found | true).sum(1).clamp_min(1)


def pattern_nmse(h_hat: Tensor, h: Tensor) -> Tensor:
    """Mean over patterns of |G_hat - G|_F^2 / |G|_F^2, channels (B, Nbs, Nms, K, F): (B,)."""
    error = (h_hat - h).abs().square().sum((1, 2, 4))
    return (error / h.abs().square().sum((1, 2, 4))).mean(1)


def qpsk_ser(h_hat: Tensor, h: Tensor, no: Tensor) -> Tensor:
    r"""Symbol error rate of QPSK beamformed with the dominant singular pair of the estimate, closed form.

    The receiver combines with u, the transmitter sends along v, symbols have power 1 and noise has variance ``no``. Detection
    takes the symbol that is nearest to z / g_hat with the estimated gain g_hat = u^H G_hat v > 0, which only asks for the
    quadrant of z. With the true gain g = u^H G v, both parts of g e^{j pi/4} must keep their sign:

        SER = 1 - Phi(sqrt(2 / no) Re(g e^{j pi/4})) Phi(sqrt(2 / no) Im(g e^{j pi/4})).

    An estimate of zero guesses: 3/4. Mean over patterns and subcarriers.

    Args:
        h_hat, h: (B, Nbs, Nms, K, F), complex.
        no: (B,).

    Returns:
        (B,).
    """
    estimate, truth = (part.permute(0, 3, 4, 1, 2).to(torch.complex128) for part in (h_hat, h))
    left, level, right = torch.linalg.svd(estimate, full_matrices=False)
    gain = (left[..., 0].conj() * (truth @ right[..., 0, :, None].conj())[..., 0]).sum(-1)
    turned = gain * complex(0.5**0.5, 0.5**0.5) * (2 / no.double())[:, None, None].sqrt()
    # 1 - Phi(a) Phi(b) in tails, so that error rates far below 1e-16 do not vanish.
    lost = [torch.special.erfc(part / 2**0.5) / 2 for part in (turned.real, turned.imag)]
    ser = lost[0] + lost[1] - lost[0] * lost[1]
    return torch.where(level[..., 0] > 0, ser, 0.75).mean((1, 2))
