"""Prediction from the delays, angles and Doppler shifts that a sample shows by itself."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from wichan.errors import InvalidValueError, check_int, check_noise, check_real
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.dad_spectrum import AngleDopplerModel, Forecast
from wichan.prediction.dad_transform import DelayAngle, check_panel

_CHUNK = 16  # samples worked on at once: about 10 MB each as published
_LARGEST = 128  # unknowns of a joint covariance; an array with more columns than that allows is taken beam by beam
_NOISE_FLOOR = 1e-6  # of the power: what a clean history is taken to hold
#: Exponents and logarithm of the factor of `_calibrated`, and where they were fitted: share of error and of noise in the power.
_CALIBRATION = (1.149, 0.339, -0.114)
_FITTED = (1e-4, 3e-3)
_PRIOR_WEIGHT = 64  # values of the whole sample's noise level that a snapshot's own estimate is averaged with


class DelayAngleDoppler(Predictor):
    r"""Sparse Bayesian prediction in delay, angle and Doppler: what a panel tells apart is predicted apart. Needs no training.

    1. **Delay and row.** The history goes to an orthonormal basis of the delays that can occur (`delay_basis`) and to the
       eigenvectors of the rows' covariance. Their products are the *cells*; each holds a T x N matrix (snapshots x columns)
       for each polarisation. Noise is measured snapshot by snapshot outside the window of delays, so bursts count less.
    2. **Angle and Doppler.** In each of the ``num_cells`` strongest cells, a power spectrum p over angle and Doppler is
       learned from the sample itself (type-II maximum likelihood, `AngleDopplerModel.fit`), shared by polarisations. The
       other cells share one spectrum.
    3. **Prediction.** :math:`\hat x = C_{fp}(p) (C_{pp}(p) + N)^{-1} y`, the conditional mean under the learned
       covariance, and its variance, go back to antennas and subcarriers. A lost snapshot is simply no equation.

    Nothing ties Doppler to angle beforehand, and profile, delay spread, speed and noise are not asked for.

    Args:
        num_history, num_horizon, duplex: see `Predictor`. Only ``"tdd"``: no cell says anything of a band never seen.
        panel: (rows, columns, polarizations) of the larger side of the link, row fastest, polarisation slowest; None: see
            `wichan.prediction.dad_transform.panel_shape`.
        max_delay: largest delay, as a fraction of 1 / subcarrier spacing; 0.15 is 5 us at 30 kHz.
        num_cells: cells with a spectrum of their own.
        num_doppler: grid points of Doppler over one cycle a snapshot; None: four times ``num_history``.
        iterations: steps of the spectrum's fit. Each makes it sharper; few are a prior of smoothness.
        smoothing: share of a grid point's power that goes to its neighbours in each step.
        inflation: factor on ``err_var``. The posterior variance v does not know that p itself is estimated from 16 snapshots:
            too small where little can be known, too large where much is. It is already corrected by the power law
            v (v / P)^0.34 (N / P)^-0.11 e^1.15 of power P and noise N, fitted on channels of the benchmark's training split.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: numbers out of range, ``"fdd"``.

    Cost of a sample, A antenna pairs, F subcarriers, D delays, n = N T, G grid points, K cells and the shared one, I steps
    (see `flops`): 8 A F D (T + P) + (K + 1) (I + 1) 4 n^3 + FFTs, 0.32 GFLOP as published. Memory: 10 MB a sample, 16 at once.

    Source: type-II likelihood and its fixed point as in [Tipping2001]_, with the covariance structure above.

    Example:
        >>> t, k = torch.arange(20.0)[:, None], torch.arange(48.0)
        >>> wave = torch.polar(torch.ones(20, 48), 6.2832 * (0.123 * t - 0.02 * k)).expand(2, 1, 20, 48)
        >>> h_pred, err_var = DelayAngleDoppler()(wave[:, :, :16])
        >>> bool((h_pred - wave[:, :, 16:]).abs().max() < 0.05)
        True
    """

    takes_gaps: ClassVar[bool] = True

    def __init__(
        self,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
        *,
        panel: Any = None,
        max_delay: float = 0.15,
        num_cells: int = 24,
        num_doppler: int | None = None,
        iterations: int = 5,
        smoothing: float = 0.2,
        inflation: float = 1.0,
    ) -> None:
        super().__init__(num_history, num_horizon, duplex)
        if duplex != "tdd":
            raise InvalidValueError(
                f"duplex={duplex!r} is not possible for DelayAngleDoppler, which continues the band it has seen; use 'tdd'"
            )
        span = self.num_history + self.num_horizon
        self.panel = None if panel is None else check_panel(panel)
        self.max_delay = check_real("max_delay", max_delay, positive=True, maximum=1.0)
        self.num_cells = check_int("num_cells", num_cells, minimum=1)
        points = max(4 * self.num_history, span) if num_doppler is None else num_doppler
        self.num_doppler = check_int("num_doppler", points, minimum=span)
        self.iterations = check_int("iterations", iterations, minimum=1)
        self.smoothing = check_real("smoothing", smoothing, minimum=0.0, maximum=1.0)
        self.inflation = check_real("inflation", inflation, positive=True)

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict the snapshots that follow a history.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
            no: noise variance of the history, a number or a tensor over the leading batch axes; None: measured, see the
                class; where all delays can occur (few subcarriers), at most 1/100 of the power.
            present: bool, (\*batch, num_history): which snapshots arrived; None: all that are not zero.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: see `check_history`, `check_present`; ``panel`` does not fit.
        """
        history = check_history(history, self.num_history)
        mask = check_present(present, history)
        batch = history.shape[:-4]
        transform = self._transform(history.shape[-4], history.shape[-3], history.shape[-1])
        h = history.reshape(-1, *history.shape[-4:])
        kept = h.abs().amax((1, 2, 4)) > 0
        if mask is not None:
            kept = kept & mask.reshape(kept.shape)
            _refuse_empty(kept)
            h = h * kept[:, None, None, :, None]
        told = None
        if no is not None:
            told = check_noise(no, batch, dtype=h.real.dtype, device=h.device).expand(batch).reshape(-1, 1)
        parts = []
        for i in range(0, len(h), _CHUNK):
            part = slice(i, i + _CHUNK)
            parts.append(self._predict(transform, h[part], kept[part], None if told is None else told[part]))
        mean, variance = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        shape = (*batch, *mean.shape[1:])
        return Prediction(mean.reshape(shape), variance.reshape(*shape[:-1], 1).expand(shape))

    def flops(self, num_rx_ant: int, num_tx_ant: int, num_subcarriers: int) -> float:
        """FLOP that a sample costs: matrix products, inverses and FFTs, a complex multiply-add being 8."""
        transform = self._transform(num_rx_ant, num_tx_ant, num_subcarriers)
        columns, rows = self._split(transform)
        snapshots, steps = self.num_history, self.num_horizon
        n, grid = columns * snapshots, 2 * columns * self.num_doppler if columns > 1 else self.num_doppler
        values = num_rx_ant * num_tx_ant * transform.num_delays
        cells = rows * transform.num_delays
        own = min(self.num_cells, cells)
        turn = 8 * values * (snapshots + steps) * (num_subcarriers + rows) + 8 * values * snapshots * rows
        shared, copies = int(cells > own), transform.copies
        root = min(n, (cells - own) * copies) if shared else 0
        fft = 5 * grid * math.log2(grid)
        fit = own * (4 * n**3 + 8 * n**2 * copies + fft * (copies + 2)) + shared * (
            4 * n**3 + 8 * n**2 * root + fft * (root + 2)
        )
        last = (own + shared) * (4 * n**3 + 8 * n**2 * columns * steps + 2 * fft) + 8 * n * columns * steps * cells * copies
        return turn + 8 * n**2 * (cells - own) * copies * shared + self.iterations * fit + last

    def _transform(self, num_rx_ant: int, num_tx_ant: int, num_subcarriers: int) -> DelayAngle:
        return DelayAngle(num_rx_ant, num_tx_ant, num_subcarriers, panel=self.panel, max_delay=self.max_delay)

    def _split(self, transform: DelayAngle) -> tuple[int, int]:
        """Columns that are modelled jointly, and what is taken apart beside the delays."""
        columns, rows = transform.shape.columns, transform.shape.rows
        return (columns, rows) if columns * self.num_history <= _LARGEST else (1, columns * rows)

    def _predict(
        self, transform: DelayAngle, h: torch.Tensor, kept: torch.Tensor, told: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (B, num_rx_ant, num_tx_ant, P, F) and variance (B, num_rx_ant, num_tx_ant, P) of a few samples."""
        x = transform.analyse(h)
        noise = _noise(h, x, kept) if told is None else told.expand(kept.shape)
        count = kept.sum(1, keepdim=True) * math.prod(transform.links) * h.shape[-1]
        power = h.abs().square().sum((1, 2, 3, 4))[:, None] / count
        noise = torch.where(kept, torch.maximum(noise, _NOISE_FLOOR * power), torch.inf)
        columns, rows = self._split(transform)
        axes = (2, 3) if columns == transform.shape.columns else (3,)
        x = torch.fft.ifftn(x, dim=axes, norm="ortho")
        vectors = _row_vectors(x)
        y = torch.einsum("brs,bmcrtd->bsdctm", vectors.conj(), x)
        y = y.movedim(3, 2).unsqueeze(4).flatten(1, 3) if columns == 1 else y.flatten(1, 2)  # one column: beams are cells
        mean, variance = self._back(transform, vectors, self._cells(y, noise), h.dtype)
        level = torch.where(kept, noise, 0).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        return mean, self.inflation * _calibrated(variance, power[..., None, None], level[..., None, None])

    def _cells(self, y: torch.Tensor, noise: torch.Tensor) -> Forecast:
        """Forecast of all cells, (B, cells, N, T, M): the strongest by their own spectra, the others by a common one."""
        cells, columns, snapshots, copies = y.shape[1:]
        angles = 2 * columns if columns > 1 else 1
        model = AngleDopplerModel(columns, snapshots, self.num_horizon, angles, self.num_doppler)
        own = min(self.num_cells, cells)
        order = y.abs().square().sum((2, 3, 4)).argsort(dim=1, descending=True, stable=True)
        y = _take(y, order)
        strong, weak = y[:, :own], y[:, own:].permute(0, 2, 3, 1, 4).flatten(3)[:, None]
        mean, variance = model.predict(model.fit(strong, noise, self.iterations, self.smoothing), strong, noise)
        if cells > own:
            spectrum = model.fit(_condensed(weak), noise, self.iterations, self.smoothing)
            shared = model.predict(spectrum, weak, noise)
            mean = torch.cat([mean, shared.mean[:, 0].unflatten(-1, (cells - own, copies)).permute(0, 3, 1, 2, 4)], 1)
            variance = torch.cat([variance, shared.variance.expand(-1, cells - own, -1, -1)], 1)
        back = order.argsort(dim=1)
        return Forecast(_take(mean, back), _take(variance, back))

    def _back(
        self, transform: DelayAngle, vectors: torch.Tensor, cells: Forecast, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From cells to antennas and subcarriers."""
        _, columns, rows = transform.shape
        mean, variance = cells.mean.to(dtype), cells.variance.to(vectors.real.dtype)
        if mean.shape[2] == columns:
            mean = mean.unflatten(1, (rows, transform.num_delays))
            variance = variance.unflatten(1, (rows, transform.num_delays)).sum(2)
            mean = torch.einsum("brs,bsdcpm->bmcrpd", vectors, mean)
            mean = torch.fft.fft2(mean, dim=(2, 3), norm="ortho") if transform.beams > 1 else mean
        else:
            mean = mean.squeeze(2).unflatten(1, (rows, columns, transform.num_delays))
            variance = variance.squeeze(2).unflatten(1, (rows, columns, transform.num_delays)).sum(3)
            variance = variance.mean(2, keepdim=True).expand(-1, -1, columns, -1)  # a beam's error lies on all its columns
            mean = torch.fft.fft(torch.einsum("brs,bscdpm->bmcrpd", vectors, mean), dim=3, norm="ortho")
        spread = torch.einsum("brs,bscp->bcrp", vectors.abs().square(), variance) / transform.basis.shape[0]
        return transform.synthesise(mean), transform.antennas(spread)


def _noise(h: torch.Tensor, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Noise variance of every snapshot, (B, T): what the window of delays leaves over, drawn towards the sample's mean."""
    rows, spare = h.shape[1] * h.shape[2], h.shape[4] - x.shape[5]
    count = kept.sum(1, keepdim=True)
    if not spare:  # all delays are in the window: the weakest quarter of them is as good a guess as any
        power = x.abs().square().sum((1, 2, 3, 4))
        weakest = power.sort(dim=1).values[:, : max(power.shape[1] // 4, 1)].mean(1, keepdim=True)
        level = torch.minimum(weakest, 0.01 * power.mean(1, keepdim=True)) / (count * rows)
        return level.expand(kept.shape)
    left = (h.abs().square().sum((1, 2, 4)) - x.abs().square().sum((1, 2, 3, 5))).clamp_min(0) / (rows * spare)
    mean = (left * kept).sum(1, keepdim=True) / count
    return (left * rows * spare + mean * _PRIOR_WEIGHT) / (rows * spare + _PRIOR_WEIGHT)


def _calibrated(variance: torch.Tensor, power: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The posterior variance, (B, num_rx_ant, num_tx_ant, P), corrected for a spectrum that is itself an estimate."""
    constant, share, clean = _CALIBRATION
    error, loud = (variance / power).clamp(_FITTED[0], 1.0), (noise / power).clamp(_FITTED[1], 1.0)
    return variance * math.exp(constant) * error**share * loud**clean


def _row_vectors(x: torch.Tensor) -> torch.Tensor:
    """Eigenvectors of the covariance of the rows, (B, rows, rows): most power ends up in few of them."""
    covariance = torch.einsum("bmcrtd,bmcstd->brs", x, x.conj()).to(torch.complex128)
    return torch.linalg.eigh(covariance).eigenvectors.to(x.dtype)


def _condensed(y: torch.Tensor) -> torch.Tensor:
    """As few copies with the same second moment: (B, 1, N, T, M) -> (B, 1, N, T, at most N T)."""
    flat = y.flatten(2, 3).to(torch.complex128)
    root = torch.linalg.qr(flat.mH, mode="r").R.mH
    return (root * math.sqrt(root.shape[-1] / flat.shape[-1])).unflatten(2, y.shape[2:4])


def _take(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Entries of axis 1 in the given order."""
    return values[torch.arange(len(values), device=values.device)[:, None], order]


def _refuse_empty(kept: torch.Tensor) -> None:
    if not torch.compiler.is_compiling():
        empty = int((~kept.any(1)).sum())
        if empty:
            raise InvalidValueError(f"present leaves {empty} samples without power; each needs a snapshot that is not zero")
