"""Delay statistics: mean delay, RMS delay spread, coherence bandwidth."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.analysis.correlation import crossing, frequency_correlation, neighbour_correlation
from wichan.analysis.lines import Lines, check_lines, delay_lines
from wichan.analysis.profile import power_delay_profile
from wichan.analysis.sources import check_channel, grid_of, lattice, step_of
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidValueError, check_choice, check_real
from wichan.grid import OFDMGrid

METHODS = ("correlation", "profile")


def mean_delay(
    source: Any,
    delays: torch.Tensor | None = None,
    *,
    grid: OFDMGrid | None = None,
    frequencies: torch.Tensor | None = None,
    batch_dims: int = 0,
    method: str = "correlation",
    threshold_db: float = 30.0,
    no: float = 0.0,
) -> torch.Tensor:
    r"""Power-weighted mean delay [s], :math:`\bar\tau = \sum P \tau / \sum P`.

    Arguments as in `rms_delay_spread`. From channels the delay is known up to multiples of 1/subcarrier_spacing; the answer
    lies within half of that around 0.

    Example:
        >>> float(mean_delay(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0])))
        3.0
    """
    return _moments(source, delays, grid, frequencies, batch_dims, method, threshold_db, no)[0]


def rms_delay_spread(
    source: Any,
    delays: torch.Tensor | None = None,
    *,
    grid: OFDMGrid | None = None,
    frequencies: torch.Tensor | None = None,
    batch_dims: int = 0,
    method: str = "correlation",
    threshold_db: float = 30.0,
    no: float = 0.0,
) -> torch.Tensor:
    r"""RMS delay spread [s], :math:`\sigma_\tau = \sqrt{\sum P (\tau - \bar\tau)^2 / \sum P}`.

    From paths it is exact. From channels on a grid there are two methods:

    - ``"correlation"``: the curvature of the frequency correlation at lag 0, from neighbouring subcarriers,
      :math:`\sigma_\tau = \sqrt{-2 \ln|\rho(\Delta f)|} / (2\pi \Delta f)`. The window of the band does not enter. It is low
      by a relative order of :math:`(2\pi\Delta f \tau)^2` with tau the delay of late paths, which is little at 15 kHz, and
      sensitive to noise: say how much there is (``no``).
    - ``"profile"``: the second moment of `power_delay_profile` above a threshold, with the second moment of its Hann window,
      :math:`1/(3 B^2)`, taken off. Robust to noise that lies below the threshold; paths below it are lost
      too, and the answer is rough where the spread is less than 1/bandwidth.

    Both are right on average: a single channel shows the spread of that fading, and paths closer than 1/bandwidth interfere.

    Args:
        source: one of

            - powers, real, (\*batch, num_paths), with ``delays`` beside them;
            - `Rays` (batch axes are kept; powers of all antenna pairs are summed);
            - a model (`TDL`, `CDL`, `RayleighBlock`) or `TapTable` (a scalable one answers in units of its spread). A `CDL` is
              weighed as its antennas see it: with isotropic ones this is its ``delay_spread``;
            - channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers), with a grid;
            - a `ChannelCovariance` (one answer a condition).
        delays: [s], (num_paths,) or (\*batch, num_paths), with powers only.
        grid, frequencies: the OFDM lattice, or frequencies [Hz] in equal steps, for channels.
        batch_dims: leading axes of a channel to keep; all others are averaged over.
        method: ``"correlation"`` or ``"profile"``, for channels.
        threshold_db: for ``"profile"``: power this far below the peak counts as none [dB].
        no: for ``"correlation"``: noise variance of every element.

    Returns:
        float64, () or (\*kept,).

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: a source of another kind, no lattice, powers that are negative.

    Example:
        >>> round(float(rms_delay_spread(torch.ones(2), torch.tensor([0.0, 2e-6]))), 9)  # two paths 2 us apart
        1e-06
        >>> from wichan.channels import TDL
        >>> round(float(rms_delay_spread(TDL("A", delay_spread=100e-9))) * 1e9)  # ns
        100
    """
    return _moments(source, delays, grid, frequencies, batch_dims, method, threshold_db, no)[1]


def _moments(
    source: Any,
    delays: torch.Tensor | None,
    grid: OFDMGrid | None,
    frequencies: torch.Tensor | None,
    batch_dims: int,
    method: str,
    threshold_db: float,
    no: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    lines = _lines(source, delays)
    if lines is not None:
        return lines.moments()
    size = source.sizes[2] if isinstance(source, ChannelCovariance) else check_channel(source).shape[-1]
    points = lattice("frequencies", frequencies, grid_of(source, grid), size)
    if check_choice("method", method, METHODS) == "correlation":
        rho, step = neighbour_correlation(source, "frequency", points, batch_dims, check_real("no", no, minimum=0.0))
        return -rho.angle() / (2 * math.pi * step), spread_of(rho, step)
    if isinstance(source, ChannelCovariance) and source.batch_shape:
        raise InvalidValueError("method='profile' needs one condition; index the covariance first, or use method='correlation'")
    return _profile_moments(source, step_of("frequencies", points), batch_dims, threshold_db)


def circular_spread(rho: torch.Tensor) -> torch.Tensor:
    r"""Spread of an angle [rad] from its first circular moment, :math:`\sqrt{-2 \ln|\rho|}`; gradient 0 where it is 0."""
    square = -2 * rho.abs().clamp(min=1e-300).log()
    safe = torch.where(square > 0, square, torch.ones_like(square))
    return torch.where(square > 0, safe.sqrt(), torch.zeros_like(square))


def spread_of(rho: torch.Tensor, step: float) -> torch.Tensor:
    """RMS spread in the conjugate unit of ``step``, from the correlation one step away."""
    return circular_spread(rho) / (2 * math.pi * step)


def _profile_moments(source: Any, step: float, batch_dims: int, threshold_db: float) -> tuple[torch.Tensor, torch.Tensor]:
    profile = power_delay_profile(source, batch_dims=batch_dims)
    size = profile.shape[-1]
    bandwidth = step * (size // 4)
    floor = profile.amax(-1, keepdim=True) * 10 ** (-check_real("threshold_db", threshold_db, minimum=0.0) / 10)
    profile = torch.where(profile >= floor, profile, torch.zeros_like(profile))
    # Delays go round: they are counted from the circular mean, so that leakage before delay 0 is just before it.
    angle = torch.arange(size, dtype=torch.float64, device=profile.device) * (2 * math.pi / size)
    centre = torch.complex((profile * angle.cos()).sum(-1), (profile * angle.sin()).sum(-1)).angle().unsqueeze(-1)
    away = torch.remainder(angle - centre + math.pi, 2 * math.pi) - math.pi
    mean, spread = Lines(profile, away / (2 * math.pi * step)).moments()
    variance = (spread.square() - 1 / (3 * bandwidth**2)).clamp(min=0.0)
    safe = torch.where(variance > 0, variance, torch.ones_like(variance))
    return mean + centre.squeeze(-1) / (2 * math.pi * step), torch.where(variance > 0, safe.sqrt(), torch.zeros_like(variance))


def _lines(source: Any, delays: torch.Tensor | None) -> Lines | None:
    """Paths, or ``None`` for channels and covariances."""
    if delays is not None:
        return check_lines(source, delays, "delays")
    if isinstance(source, ChannelCovariance) or (isinstance(source, torch.Tensor) and source.is_complex()):
        return None
    if isinstance(source, torch.Tensor):
        raise InvalidValueError("delays is missing; powers need the delays of their paths (a channel is complex)")
    return delay_lines(source)


def coherence_bandwidth(
    source: Any,
    delays: torch.Tensor | None = None,
    *,
    level: float = 0.5,
    grid: OFDMGrid | None = None,
    frequencies: torch.Tensor | None = None,
    batch_dims: int = 0,
    no: float = 0.0,
) -> torch.Tensor:
    r"""Coherence bandwidth [Hz]: the first frequency lag at which :math:`|\rho(\Delta f)|` falls to ``level``.

    Args:
        source, delays, grid, frequencies, batch_dims, no: as in `rms_delay_spread`.
        level: between 0 and 1; 0.5 and 0.9 are common.

    Returns:
        float64, () or (\*kept,). Exact for paths (searched up to 16 / delay spread); for channels and covariances a straight
        line between subcarriers. Infinity where the correlation never falls so low (a strong specular path, a narrow band).

    Example:
        >>> half = coherence_bandwidth(torch.ones(2), torch.tensor([0.0, 1e-6]))  # |cos(pi df 1 us)| = 1/2
        >>> round(float(half))
        333333
    """
    lines = _lines(source, delays)
    if lines is not None:
        return lines.crossing(check_level(level))
    value, lag = frequency_correlation(source, grid=grid, frequencies=frequencies, batch_dims=batch_dims, no=no)
    step_of("frequencies", lag)
    return crossing(value, lag, level)


def check_level(level: float) -> float:
    """Return a correlation level between 0 and 1."""
    if not 0 < check_real("level", level) < 1:
        raise InvalidValueError(f"level={level:g} must lie between 0 and 1")
    return level
