"""Where pilots and channel lie along one axis, and thin factors of a codebook of correlations there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.errors import InvalidValueError
from wichan.estimators.codebook import cell_means, design_codebook
from wichan.estimators.scattering import delay_profiles, doppler_correlations
from wichan.linalg import compress_factor, thin_factor, toeplitz

_UNITS = (1, 2, 3, 4, 6, 8, 12)  # fractions of a symbol or subcarrier at which despread pilots may sit
_DESIGN_PILOTS = 64  # pilots of an axis that the codebook is designed on
_NOISE_FREQUENCY = (0.1, 0.01, 0.003)  # of a pilot, which one axis sees for itself
_NOISE_TIME = (0.02, 0.002, 0.0003)  # after averaging over subcarriers
_RTOL = 1e-10  # smallest eigenvalue of a factor, relative to its largest
_SHORT = 256  # rows up to which a covariance is decomposed as a matrix
_FINE = 5  # delay bins for each resolution cell of the band, on longer axes
_BEYOND = 1e-4  # share of the mean power that a longer axis may leave to delays past its last bin
_MAX_ROWS = 1536


@dataclass(frozen=True)
class Axis:
    """Positions along one axis, in steps of 1/``unit`` symbol or subcarrier from the first pilot.

    Attributes:
        rows: int64, ascending: where the channel is wanted or seen.
        pilots: int64 (S,), indices into ``rows``.
        wanted: int64 (num_tx_ant, T), indices into ``rows``: the grid as each antenna's first pilot sees it.
        unit: steps in a symbol or subcarrier.
    """

    rows: torch.Tensor
    pilots: torch.Tensor
    wanted: torch.Tensor
    unit: int

    @classmethod
    def of(cls, pilots: torch.Tensor, starts: torch.Tensor, size: int) -> Axis:
        """Lay out an axis.

        Args:
            pilots: float64 (S,), positions after the first one, in symbols or subcarriers.
            starts: float64 (num_tx_ant,), where the first one lies for each antenna.
            size: symbols or subcarriers of the grid.

        Raises:
            InvalidValueError: pilots at no simple fraction of a symbol or subcarrier, an axis that is too long.
        """
        wanted = torch.arange(size, dtype=torch.float64) - starts[:, None].cpu()
        places = torch.cat([pilots.cpu(), wanted.flatten()])
        for unit in _UNITS:
            steps = (places * unit).round()
            if float((steps / unit - places).abs().max()) < 1e-6:
                break
        else:
            raise InvalidValueError("obs: pilots lie at no simple fraction of a symbol or subcarrier")
        rows, index = steps.long().unique(return_inverse=True)
        if len(rows) > _MAX_ROWS:
            raise InvalidValueError(
                f"obs.grid has {size} symbols or subcarriers; at most {_MAX_ROWS} positions of an axis are allowed: "
                "estimate the band in parts"
            )
        count = len(pilots)
        return cls(rows, index[:count], index[count:].view(len(starts), size), unit)

    @property
    def span(self) -> int:
        """Steps from the first row to the last."""
        return int(self.rows[-1] - self.rows[0])

    def design_lags(self) -> torch.Tensor:
        """Lags of a regular comb as dense as the pilots, float64 (n,), in steps."""
        places = self.rows[self.pilots]
        if len(places) < 2:
            return torch.zeros(1, dtype=torch.float64)
        step = int(places.diff().min())
        count = min(int(places[-1] - places[0]) // step + 1, _DESIGN_PILOTS)
        return torch.arange(count, dtype=torch.float64) * step


def delay_factors(
    axis: Axis, spacing: float, delay_spread: tuple[float, float], draws: int, size: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Codebook of delay shapes on a frequency axis with subcarriers ``spacing`` [Hz] apart: thin factors and weights."""
    step = spacing / axis.unit
    delay, power = delay_profiles(draws, delay_spread, generator=generator)
    book = design_codebook(_correlation(delay, power, axis.design_lags() * step), size, _NOISE_FREQUENCY, generator=generator)
    if len(axis.rows) <= _SHORT:
        lags = torch.arange(axis.span + 1, dtype=torch.float64) * step
        return _from_correlations(axis.rows, cell_means(_correlation(delay, power, lags), book.member)), book.weight
    return _from_profiles(axis.rows * step, delay, power, book.member), book.weight


def doppler_factors(
    axis: Axis, symbol_duration: float, max_doppler: float, draws: int, size: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Codebook of Doppler shapes on a time axis: thin factors and weights."""
    lags = torch.arange(axis.span + 1, dtype=torch.float64) * (symbol_duration / axis.unit)
    correlation = doppler_correlations(draws, max_doppler, lags, generator=generator)
    # Interpolation asks for all symbols, so the codebook is designed on all of them and not on the pilots alone.
    design = correlation[:, :: axis.unit][:, :_DESIGN_PILOTS]
    book = design_codebook(design, size, _NOISE_TIME, generator=generator)
    return _from_correlations(axis.rows, cell_means(correlation, book.member)), book.weight


def _correlation(delay: torch.Tensor, power: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """Correlation over frequency of each profile at ``lags`` [Hz], complex128 (count, n)."""
    parts = [
        torch.einsum("dp,dpl->dl", p.to(torch.complex128), torch.exp(-2j * math.pi * d[..., None] * lags))
        for d, p in zip(delay.split(256), power.split(256), strict=True)
    ]
    return torch.cat(parts)


def _from_correlations(rows: torch.Tensor, correlation: torch.Tensor) -> list[torch.Tensor]:
    """Thin factors on ``rows`` from correlations (cells, n) at lags 0, 1, ... steps."""
    place = rows - rows[0]
    found = []
    for column in correlation:
        matrix = toeplitz(torch.cat([column[:1].real.to(column.dtype), column[1:]]))
        found.append(thin_factor(matrix[place[:, None], place], _RTOL))
    return found


def _from_profiles(
    frequencies: torch.Tensor, delay: torch.Tensor, power: torch.Tensor, member: torch.Tensor
) -> list[torch.Tensor]:
    """Thin factors of the cells' mean profiles on a long axis: on a fine grid of delays, in coordinates they share."""
    band = float(frequencies[-1] - frequencies[0])
    order = delay.flatten().argsort()
    reached = power.flatten()[order].cumsum(0) / power.sum()
    latest = float(delay.flatten()[order][int((reached < 1 - _BEYOND).sum().clamp_max(len(order) - 1))])
    bins = torch.arange(math.ceil(latest * _FINE * band) + 2, dtype=torch.float64) / (_FINE * band)
    place = (delay * (_FINE * band)).clamp(0, len(bins) - 1.001)
    low = place.floor().long()
    spectrum = power.new_zeros(len(delay), len(bins))
    spectrum.scatter_add_(1, low, power * (1 - (place - low))).scatter_add_(1, low + 1, power * (place - low))
    steering = torch.exp(-2j * math.pi * frequencies[:, None] * bins)
    shared = torch.linalg.qr(compress_factor(steering, _RTOL)).Q
    inner = shared.mH @ steering
    return [shared @ compress_factor(inner * row.sqrt(), _RTOL) for row in cell_means(spectrum, member)]
