"""The network behind `DADNet`: sparse Bayesian learning of angle-Doppler spectra, each step with a learned correction."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from wichan.prediction.dad_spectrum import AngleDopplerModel
from wichan.prediction.dad_transform import DelayAngle

_FLOOR = 1e-4  # noise-to-signal ratio that a history is taken to have at least
_FEATURES = 6
_RANGE = (-30.0, 25.0)  # of the logarithm of a spectral line over the noise
_KERNEL = (3, 5)  # angles, Doppler shifts
_BLUR = math.log(0.15 / 0.35)  # half of its logistic is 0.15


class _Cells(NamedTuple):
    """The cells of samples, in units of the noise of the quietest snapshot."""

    strong: torch.Tensor  # complex128 (B, N, columns, L, copies)
    rest: torch.Tensor  # complex128 (B, 1, columns, L, cells * copies), all others as copies of one
    noise: torch.Tensor  # float64 (B, L), at least 1, infinite where a snapshot was lost
    order: torch.Tensor  # (B, cells), their numbers, strongest first
    rows: torch.Tensor  # complex (B, rows, rows), eigenvectors of the panel's rows
    unit: torch.Tensor  # (B,), amplitude of the unit


class DADNetwork(nn.Module):
    r"""Predict by linear minimum mean square error estimation whose second moments are learned in a few corrected steps.

    Subcarriers are moved to delays, rows of the panel to the eigenvectors of their covariance in the sample. A cell (row,
    delay) holds the columns of the panel over L snapshots; polarisations are draws of one law. Its covariance C is that of
    plane waves with powers p on a grid of angles and Doppler shifts, see `AngleDopplerModel`. From a flat p, each stage takes
    the step of sparse Bayesian learning and adds to its logarithm what a small network makes of the evidence:

    .. math:: \ln p \leftarrow \ln p + \gamma \ln \frac{\tfrac1M \sum_m |a^H C^{-1} y_m|^2}{a^H C^{-1} a} + f(\text{evidence}),

    followed by a blur of learned strength. f is two circular convolutions over angle and Doppler; it sees the spectrum, both
    sides of the ratio, the power held, and spectrum and power held summed over all cells. It begins at zero, so that a fresh
    network already is the method that it unrolls. The prediction is linear in the history given p, turns with its phase, grows
    with its scale, and a shift of all Doppler frequencies by a line of the grid, or of all angles, shifts p and nothing else.

    Noise is measured for each snapshot in what the delays of the window leave over: a snapshot hit by a burst counts for
    less, one that is exactly zero counts as lost. Gradients reach the weights, not the history.

    Args:
        num_history, num_horizon, num_subcarriers: L, P, F.
        panel: (rows, columns, polarizations).
        max_delay: see `wichan.prediction.dad_transform.delay_basis`.
        num_cells: cells with a spectrum of their own, strongest first; the others share one. At most all.
        num_dopplers: lines of a spectrum on the Doppler axis; it has two angles a column.
        width: channels of the network.
        stages: number of steps.
    """

    def __init__(
        self,
        num_history: int,
        num_horizon: int,
        num_subcarriers: int,
        *,
        panel: tuple[int, int, int],
        max_delay: float,
        num_cells: int,
        num_dopplers: int,
        width: int,
        stages: int,
    ) -> None:
        super().__init__()
        self.num_horizon = num_horizon
        self.transform = DelayAngle(math.prod(panel), 1, num_subcarriers, panel=panel, max_delay=max_delay)
        shape, delays = self.transform.shape, self.transform.num_delays
        self.num_cells = min(num_cells, shape.rows * delays)
        self.model = AngleDopplerModel(shape.columns, num_history, num_horizon, 2 * shape.columns, num_dopplers)
        self.stages = nn.ModuleList(_Stage(width) for _ in range(stages))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Map histories, complex (B, num_ant, L, F), to predictions (B, num_ant, P, F)."""
        with torch.no_grad():
            cells = self._analyse(h)
        mean = self._forecast(cells.strong, cells.noise)
        if cells.rest.shape[-1]:
            shared = self._forecast(cells.rest, cells.noise)[:, 0].unflatten(-1, (-1, mean.shape[-1]))
            mean = torch.cat([mean, shared.movedim(-2, 1)], dim=1)
        return self._synthesise(mean.to(h.dtype), cells)

    def flops(self) -> int:
        r"""FLOP of one sample, counted from the sizes: 2 for a real multiplication with addition, 8 for a complex one.

        With A antennas, D delays, F subcarriers, spectra of G points for series of n = columns times L numbers, and S stages:
        8 A F (L + P) D for the transforms; for each spectrum 4 n^3 for each of S + 1 inverses and, for each stage, two
        Fourier transforms of 5 G log2 G and 2 G times the weights; for each series 8 n^2 for each product with an inverse,
        a Fourier transform for each stage and 8 n P columns for the prediction.
        """
        (columns, length), points, copies = self.model.size, math.prod(self.model.grid), self.transform.copies
        subcarriers, delays = self.transform.basis.shape
        stages, size = len(self.stages), columns * length
        dense = 8 * self.transform.shape.num_ant * subcarriers * (length + self.num_horizon) * delays
        weights = sum(p.numel() for p in self.stages.parameters() if p.dim() == 4)
        series = copies * self.transform.shape.rows * delays
        spectra = self.num_cells + (series > copies * self.num_cells)
        line = 5 * points * math.log2(points)
        per_spectrum = (stages + 1) * 4 * size**3 + stages * 2 * line + 2 * points * weights
        per_series = (stages + 1) * 8 * size**2 + stages * line + 8 * size * columns * self.num_horizon
        return round(dense + spectra * per_spectrum + series * per_series)

    def _analyse(self, h: torch.Tensor) -> _Cells:
        """Move histories to cells and pick the strongest."""
        x = self.transform.analyse(h.unsqueeze(2))  # (B, copies, columns, rows, L, D)
        power = _power(h).sum((1, 3))
        outside = (power - _power(x).sum((1, 2, 3, 5))).clamp_min(0)
        spare = max(h.shape[-1] - self.transform.num_delays, 1)
        noise = torch.maximum(outside / spare, _FLOOR / h.shape[-1] * power.mean(1, keepdim=True)) / h.shape[1]
        noise = torch.where(power > 0, noise, torch.inf)
        unit = noise.amin(1)
        x = torch.fft.ifft2(x, dim=(2, 3), norm="ortho") / unit.sqrt()[:, None, None, None, None, None]
        _, rows = torch.linalg.eigh(torch.einsum("bmcrtd,bmcstd->brs", x, x.conj()))
        y = torch.einsum("brs,bmcrtd->bsdctm", rows.conj(), x).flatten(1, 2)
        order = _power(y).sum((2, 3, 4)).argsort(dim=1, descending=True)
        y = y.gather(1, _spread(order, y)).to(torch.complex128)
        rest = y[:, self.num_cells :].movedim(1, -2).flatten(-2).unsqueeze(1)
        return _Cells(y[:, : self.num_cells], rest, (noise / unit[:, None]).double(), order, rows, unit.sqrt())

    def _forecast(self, series: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Predict cells, complex128 (B, N, columns, L, copies) to (B, N, columns, P, copies)."""
        p = self._start(series, noise)
        for stage in self.stages:
            assert isinstance(stage, _Stage)
            p = self._step(stage, p, series, noise)
        columns, length = self.model.size
        cross = self.model._covariance(p, self.model.future_lags).unflatten(-1, (columns * self.num_horizon, columns * length))
        mean = cross @ (self.model._inverse(p, noise) @ series.flatten(2, 3))
        return mean.unflatten(2, (columns, self.num_horizon))

    def _start(self, series: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A flat spectrum of each cell's power less its noise, (B, N, angles, dopplers)."""
        numbers = self.model.size[0] * series.shape[-1]
        there = noise.isfinite()
        quiet = torch.where(there, noise, 0).sum(-1)[:, None] * numbers
        power = (_power(series).sum((2, 3, 4)) - quiet).clamp_min(0.01 * quiet)
        level = power / (there.sum(-1)[:, None] * numbers * math.prod(self.model.grid))
        return level[:, :, None, None].expand(-1, -1, *self.model.grid)

    def _step(self, stage: _Stage, p: torch.Tensor, series: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """One step of sparse Bayesian learning with its correction."""
        inverse = self.model._inverse(p, noise)
        matched = _power(self.model._matched(inverse @ series.flatten(2, 3))).mean(-1)
        expected = self.model._diagonal(inverse).clamp_min(1e-12)
        ratio = (matched / expected + 1e-6).log()
        points = math.prod(self.model.grid)
        held = p.square() * matched
        pooled = [((v.sum(1, keepdim=True) * points + 0.1).log() / 4).expand(v.shape) for v in (p, held)]
        own = [(p * points + 1e-3).log() / 4, ratio / 2, (expected + 1e-4).log() / 4, (held * points + 0.1).log() / 4]
        change = stage(torch.stack([*own, *pooled], dim=2).flatten(0, 1).to(stage.gain.dtype))
        level = p.log() + stage.gain * ratio + change.reshape(p.shape).clamp(-8, 8)
        return _blurred(level.clamp(*_RANGE).exp(), 0.5 * stage.blur.sigmoid())

    def _synthesise(self, mean: torch.Tensor, cells: _Cells) -> torch.Tensor:
        """Cells (B, cells, columns, P, copies), strongest first, to antennas and subcarriers (B, num_ant, P, F)."""
        shape, delays = self.transform.shape, self.transform.num_delays
        full = torch.empty_like(mean).scatter(1, _spread(cells.order, mean), mean).unflatten(1, (shape.rows, delays))
        x = torch.einsum("brs,bsdcpm->bmcrpd", cells.rows, full) * cells.unit[:, None, None, None, None, None]
        return self.transform.synthesise(torch.fft.fft2(x, dim=(2, 3), norm="ortho")).squeeze(2)


class _Stage(nn.Module):
    """Two circular convolutions over angle and Doppler, (n, features, angles, dopplers) to (n, angles, dopplers)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        around = (_KERNEL[0] // 2, _KERNEL[1] // 2)
        self.inner = nn.Conv2d(_FEATURES, width, _KERNEL, padding=around, padding_mode="circular")
        self.outer = nn.Conv2d(width, 1, _KERNEL, padding=around, padding_mode="circular")
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.ones(()))
        self.blur = nn.Parameter(torch.full((), _BLUR))

    def forward(self, evidence: torch.Tensor) -> torch.Tensor:
        """Return the correction."""
        return self.outer(nn.functional.silu(self.inner(evidence)))[:, 0]


def _blurred(p: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Give ``share`` of every point's power to its neighbours, on each axis of the grid."""
    for axis in (-1, -2):
        p = (1 - share) * p + share / 2 * (p.roll(1, axis) + p.roll(-1, axis))
    return p


def _power(z: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(z).square().sum(-1)


def _spread(index: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """``index`` (B, N) as `gather` and `scatter` want it for ``cells`` (B, all, *)."""
    tail = cells.shape[2:]
    return index.reshape(*index.shape, *[1] * len(tail)).expand(*index.shape, *tail)
