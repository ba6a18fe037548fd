r"""Laplacian angular spectra as sums of few plane waves: nodes and weights in the angle itself.

A cluster at angle :math:`\theta_p` with standard deviation s sends power from :math:`\theta_p + \Delta` with density
proportional to :math:`e^{-\sqrt 2 |\Delta| / s}` for :math:`|\Delta| \le \pi`. The usual recipe [Fesl2024]_ lays a lattice
over the spatial frequency :math:`u = \pi\sin\theta`, where the density has the Jacobian :math:`1/\sqrt{\pi^2-u^2}` that must
be capped at end-fire. Integrating over :math:`\Delta` has no Jacobian, hence no cap, and Gauss-Legendre nodes on either side
of the kink leave an error of 3e-7 in every correlation with some hundred times fewer waves.
"""

from __future__ import annotations

import math

import torch

# The density falls by e^-16 = 1e-7 before the tail is cut.
REACH = 16.0


def decay_of(spread: float) -> float:
    """Decay constant [rad] of a Laplace density with standard deviation ``spread`` [rad]."""
    return spread / math.sqrt(2)


def legendre(low: float, high: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre nodes and weights of an interval, float64 (count,) each; the weights sum to its width."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    half = (high - low) / 2
    return torch.from_numpy(nodes) * half + (low + half), torch.from_numpy(weights) * half


def laplace_nodes(spread: float, bandwidth: float) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Offsets and weights of the waves of one cluster.

    Args:
        spread: standard deviation of the spectrum [rad], greater than 0.
        bandwidth: fastest phase of the array over the angle [rad per rad], :math:`\pi (N-1)` for N antennas.

    Returns:
        ``(offsets, weights)``, float64 (L,): symmetric offsets [rad], weights that sum to 1.
    """
    decay = decay_of(spread)
    reach = min(REACH, math.pi / decay)
    # Half a turn of phase a node is the limit of Gauss-Legendre; 12 more reach full accuracy.
    count = 12 + math.ceil(bandwidth * decay * reach / 3.2)
    nodes, weights = legendre(0.0, reach, count)
    weights = weights * torch.exp(-nodes)
    weights = weights / (2 * weights.sum())
    offsets = nodes * decay
    return torch.cat([-offsets.flip(0), offsets]), torch.cat([weights.flip(0), weights])


def uniform_laplace_nodes(largest: float, spread: float, bandwidth: float) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Nodes and weights of the angle of a wave when the cluster's own angle is uniform in (-largest, largest).

    The density is a difference of Laplace distribution functions, smooth between the kinks at :math:`\pm` ``largest`` and the
    ends of the layers beside them, so every piece has a Gauss-Legendre rule of its own.

    Returns:
        ``(angles, weights)``, float64 (L,), symmetric; weights sum to 1.
    """
    decay = decay_of(spread)
    layer = min(REACH * decay, math.pi)
    edges = {-largest - layer, -largest, largest, largest + layer}
    if layer < largest:
        edges |= {layer - largest, largest - layer}
    ends = sorted(edges)
    pieces = []
    for low, high in zip(ends, ends[1:], strict=False):
        count = 24 + math.ceil(bandwidth * (high - low) / 3.2)
        nodes, weights = legendre(low, high, count)
        density = (_laplace_cdf(nodes + largest, decay) - _laplace_cdf(nodes - largest, decay)) / (2 * largest)
        pieces.append((nodes, weights * density))
    angles, weights = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return angles, weights / weights.sum()


def _laplace_cdf(offset: torch.Tensor, decay: float) -> torch.Tensor:
    """Distribution function of the Laplace density cut at half a turn."""
    far = math.exp(-math.pi / decay)
    near = (1 - torch.exp(-offset.abs().clamp(max=math.pi) / decay)) / (1 - far)
    return (1 + torch.sign(offset) * near) / 2
