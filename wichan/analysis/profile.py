"""Power over delay: the mean profile of channels, and what it converges to."""

from __future__ import annotations

from typing import Any

import torch

from wichan.analysis.sources import check_channel, expected_power, is_covariance, parts_of, rows_of
from wichan.errors import check_int, check_shape, check_tensor


def power_delay_profile(source: Any, *, oversampling: int = 4, batch_dims: int = 0) -> torch.Tensor:
    r"""Mean power over delay, seen through a Hann window of the whole band.

    .. math:: P(\tau_d) = E\,\Big|\sum_k w_k h_k e^{j 2\pi k d / (oK)}\Big|^2, \qquad \sum_k w_k = 1

    A path shows as a peak of its own power, 4/bandwidth wide; the window keeps weak late paths above the sidelobes of
    strong early ones.

    Args:
        source: channels, complex, (\*, num_subcarriers); or a `ChannelCovariance`, whose conditions are averaged over:
            then the answer is what that of channels converges to.
        oversampling: o, points in each delay bin 1/bandwidth.
        batch_dims: leading axes of a channel to keep; all others are averaged over.

    Returns:
        float64, (\*kept, o num_subcarriers) at delays d / (o bandwidth).

    Example:
        >>> k = torch.arange(64)
        >>> path = torch.polar(torch.ones(64), -2 * torch.pi * k * 5 / 64)  # delay: 5 bins
        >>> profile = power_delay_profile(path, oversampling=1)
        >>> int(profile.argmax()), round(float(profile.max()), 6)
        (5, 1.0)
    """
    check_int("oversampling", oversampling, minimum=1)
    if is_covariance(source):
        size = source.sizes[2]
        return expected_power(source, frequency=lambda x: _taps(x, oversampling * size)).flatten()
    h = check_channel(source)
    rows = rows_of(h, batch_dims)
    size = oversampling * h.shape[-1]
    total = torch.zeros(rows.shape[0], size, dtype=torch.float64, device=h.device)
    for part in parts_of(rows, size):
        total = total + torch.view_as_real(_taps(part.to(torch.complex128), size)).square().sum(dim=(1, -1))
    return (total / rows.shape[1]).reshape(*h.shape[:batch_dims], size)


def profile_of_covariance(covariance: torch.Tensor, *, oversampling: int = 4) -> torch.Tensor:
    """What `power_delay_profile` converges to, from E[h h^H] over subcarriers, (num_subcarriers, num_subcarriers)."""
    check_shape("covariance", check_tensor("covariance", covariance), (covariance.shape[-1],) * 2)
    window = _window(covariance.shape[-1]).to(covariance.device)
    size = check_int("oversampling", oversampling, minimum=1) * covariance.shape[-1]
    seen = window[:, None] * covariance.to(torch.complex128) * window
    half = torch.fft.ifft(seen, n=size, dim=-2, norm="forward")
    return torch.fft.fft(half, n=size, dim=-1).diagonal().real


def _taps(x: torch.Tensor, size: int) -> torch.Tensor:
    return torch.fft.ifft(x * _window(x.shape[-1]).to(x.device), n=size, dim=-1, norm="forward")


def _window(size: int) -> torch.Tensor:
    window = torch.hann_window(size + 2, periodic=False, dtype=torch.float64)[1:-1]  # without the two zeros
    return window / window.sum()
