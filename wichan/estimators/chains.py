r"""Have Markov chains mixed? Split R-hat and the effective number of draws, for many quantities at once."""

from __future__ import annotations

import torch


def _split(draws: torch.Tensor) -> torch.Tensor:
    """Halve every chain: one that drifts disagrees with itself. (S, chains, ...) to (S/2, 2 chains, ...)."""
    half = draws.shape[0] // 2
    return torch.cat([draws[:half], draws[len(draws) - half :]], dim=1)


def _variances(halves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean variance within half-chains, and the variance that all of them together suggest."""
    n = halves.shape[0]
    within = halves.var(dim=0).mean(dim=0)
    return within, (n - 1) / n * within + halves.mean(dim=0).var(dim=0)


def split_r_hat(draws: torch.Tensor) -> torch.Tensor:
    r"""Potential scale reduction of split chains [Gelman2013]_; 1 when they have mixed, above 1.1 when they have not.

    .. math:: \hat R = \sqrt{\widehat{\mathrm{var}}^+ / W}

    Args:
        draws: float64, (num_samples, num_chains, ...), at least 4 samples.

    Returns:
        float64, (...); 1 where nothing varies at all.
    """
    within, total = _variances(_split(draws))
    tiny = torch.finfo(draws.dtype).tiny
    # Chains that stand still at different places have not mixed: their ratio is large, not undefined.
    ratio = (total / within.clamp_min(tiny)).clamp_max(1e12).sqrt()
    scale = draws.square().mean(dim=(0, 1))
    return torch.where(total > 1e-24 * scale, ratio, torch.ones_like(ratio))


def effective_samples(draws: torch.Tensor) -> torch.Tensor:
    r"""Number of independent draws that would say as much about the mean [Gelman2013]_, by Geyer's monotone sequence.

    Args:
        draws: float64, (num_samples, num_chains, ...), at least 4 samples.

    Returns:
        float64, (...), at most num_samples * num_chains * log10 of that number, as draws that alternate may say more than
        independent ones; the total number of draws where nothing varies.

    Cost: two FFTs of twice the length a chain.
    """
    halves = _split(draws)
    n, chains = halves.shape[:2]
    within, total = _variances(halves)
    spectrum = torch.fft.rfft(halves - halves.mean(dim=0), n=2 * n, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(dim=1) / (n - 1)
    tiny = torch.finfo(draws.dtype).tiny
    correlation = 1 - (within - covariance) / total.clamp_min(tiny)
    correlation[0] = 1.0
    pairs = correlation[: 2 * (n // 2)].unflatten(0, (-1, 2)).sum(dim=1)
    pairs = torch.where(torch.cummin(pairs, dim=0).values > 0, pairs, torch.zeros_like(pairs))
    time = 2 * torch.cummin(pairs, dim=0).values.sum(dim=0) - 1
    count = torch.tensor(float(n * chains), dtype=draws.dtype, device=draws.device)
    found = count / torch.maximum(time, 1 / count.log10().clamp_min(1.0))
    return torch.where(total > 1e-24 * draws.square().mean(dim=(0, 1)), found, count)
