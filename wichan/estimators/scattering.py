"""What a receiver may expect before it has seen anything: random delay profiles and Doppler spectra, no table among them."""

from __future__ import annotations

import math

import torch

from wichan.channels.special import bessel_j0

_CLUSTERS = 24
_DIRECTIONS = 6
_MAX_K_DB = 20.0


def _uniform(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def delay_profiles(
    count: int, delay_spread: tuple[float, float], *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Draw power-delay profiles as TR 38.901 draws clusters (7.5, steps 5 and 6), with its parameters drawn too.

    1 to 24 clusters with exponential delays, powers :math:`e^{-\tau (r - 1)/r}` with 3 dB of shadowing and the delay scaling
    r uniform in 1.7 to 4; a quarter of the profiles has a direct path with K uniform in 0 to 20 dB. Each is scaled to an RMS
    delay spread that is log-uniform in ``delay_spread``. The first path arrives at time 0.

    Args:
        count: profiles.
        delay_spread: (least, largest) [s].
        generator: source of randomness.

    Returns:
        Delays [s] and powers (which sum to 1), float64, (count, 24); absent clusters have power 0.
    """
    ratio = 1.7 + 2.3 * _uniform(generator, count, 1)
    present = torch.arange(_CLUSTERS) < torch.randint(1, _CLUSTERS + 1, (count, 1), generator=generator)
    delay = -ratio * _uniform(generator, count, _CLUSTERS).clamp_min(1e-12).log()
    shadowing = 10 ** (-0.3 * torch.randn(count, _CLUSTERS, generator=generator, dtype=torch.float64))
    power = torch.exp(-delay * (ratio - 1) / ratio) * shadowing * present
    delay = delay - torch.where(present, delay, math.inf).amin(1, keepdim=True)
    delay, power = delay * present, power / power.sum(1, keepdim=True)
    k_factor = 10 ** (_MAX_K_DB / 10 * _uniform(generator, count, 1))
    direct = (_uniform(generator, count, 1) < 0.25).double() * k_factor / (k_factor + 1)
    first = torch.nn.functional.one_hot(torch.where(power > 0, delay, math.inf).argmin(1), _CLUSTERS)
    power = power * (1 - direct) + first * direct
    mean = (power * delay).sum(1, keepdim=True)
    own = (power * (delay - mean).square()).sum(1, keepdim=True).sqrt()
    low, high = delay_spread
    wanted = low * (high / low) ** _uniform(generator, count, 1)
    # A single path has no spread to scale, and a strong direct one so little that its echoes would go anywhere.
    return delay / own.clamp_min(0.05) * wanted, power


def doppler_correlations(count: int, max_doppler: float, lags: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    r"""Draw correlations over time, :math:`E[h(t + \Delta) h^*(t)]`, at time differences ``lags``.

    The maximum Doppler is uniform in 0 to ``max_doppler``. Nearly half of the draws are isotropic (Jakes); the others have a
    direct path from anywhere with K uniform in 0 to 20 dB over Jakes fading, or 1 to 6 directions, each 50 degrees wide.

    Args:
        count: draws.
        max_doppler: [Hz].
        lags: float64, (n,) [s].
        generator: source of randomness.

    Returns:
        complex128, (count, n), 1 at lag 0.
    """
    doppler = max_doppler * _uniform(generator, count)
    jakes = bessel_j0(2 * math.pi * doppler[:, None] * lags).to(torch.complex128)
    kind = _uniform(generator, count)[:, None]
    k_factor = 10 ** (_MAX_K_DB / 10 * _uniform(generator, count))[:, None]
    shift = doppler * torch.cos(2 * math.pi * _uniform(generator, count))
    line = torch.exp(2j * math.pi * shift[:, None] * lags)
    rician = (k_factor * line + jakes) / (k_factor + 1)
    angle = 2 * math.pi * _uniform(generator, count, _DIRECTIONS)
    power = -_uniform(generator, count, _DIRECTIONS).clamp_min(1e-12).log()
    power = power * (torch.arange(_DIRECTIONS) < torch.randint(1, _DIRECTIONS + 1, (count, 1), generator=generator))
    power = power / power.sum(1, keepdim=True)
    spread = torch.linspace(-math.radians(25), math.radians(25), 9, dtype=torch.float64)
    shifts = (doppler[:, None, None] * torch.cos(angle[..., None] + spread)).flatten(1)
    weights = (power[..., None] / len(spread)).expand(-1, -1, len(spread)).flatten(1).to(torch.complex128)
    directed = torch.einsum("nd,ndl->nl", weights, torch.exp(2j * math.pi * shifts[..., None] * lags))
    return torch.where(kind < 0.45, jakes, torch.where(kind < 0.75, rician, directed))
