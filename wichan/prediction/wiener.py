"""The best linear predictor, learned from data."""

from __future__ import annotations

from typing import Any, Self

from wichan.prediction.linear_predictor import LinearPredictor, check_ridge, ridge_solve

#: What ``ridge=None`` chooses from.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


class WienerPredictor(LinearPredictor):
    r"""Ridge regression of all antennas' future on all antennas' past.

    .. math:: W = C_{yx} (C_{xx} + \rho\, \tfrac{\mathrm{tr}\, C_{xx}}{n} I)^{-1}, \qquad \hat h = W x ,

    with x the n = A T entries of a history and y the A P entries of its future at one subcarrier. Neither covariance depends
    on the subcarrier, because the phases of propagation paths are random: a shift in frequency changes phases alone, the
    same in past and future, also where the future is that of a band at a fixed distance. So one map is learned from the
    equations of all subcarriers; the published baseline learns one for each, from 300 times fewer.

    The regression is on histories as they come, noise included: the caller adds it (and repairs gaps) before the fit.

    Args:
        ridge: :math:`\rho`; None: the one of `RIDGES` with the least error on every fifth sample, which is then fitted too.
        per_bin: one map a subcarrier, as published.
        center: subtract means (they vanish for channels with random phases; the published baseline subtracts them).
        num_history, num_horizon, duplex: see `Predictor`.

    Attributes:
        chosen_ridge: the one in use; None before a fit has chosen.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: a negative ridge, numbers below 1, another mode.

    Memory of a fit: 16 G A^2 T (T + P) bytes with G groups (1, or the subcarriers): 5.2 MB, or 1.6 GB per bin, for 32
    antennas, 16 + 4 snapshots and 300 subcarriers; twice that where the ridge is chosen. Any number of samples.
    Cost of a fit: 8 A^2 T (T + P) K FLOP a sample, 0.8 GFLOP there.

    Source: the baseline of [CSI4CAST2025]_; ridge 1e-4 in absolute terms there.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(1)
        >>> h = torch.randn(40, 2, 1, 20, 3, dtype=torch.complex64, generator=g)
        >>> wiener = WienerPredictor().fit([(h[..., :16, :], h[..., 16:, :])])
        >>> wiener(h[..., :16, :]).h_pred.shape
        torch.Size([40, 2, 1, 4, 3])
    """

    presets = {"default": {}, "published": {"per_bin": True, "center": True, "ridge": 1e-4}}

    def __init__(
        self,
        ridge: float | None = None,
        *,
        per_bin: bool = False,
        center: bool = False,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
    ) -> None:
        super().__init__(num_history, num_horizon, duplex, per_bin, center)
        self.ridge = None if ridge is None else check_ridge(ridge)
        self.chosen_ridge = self.ridge

    def config(self) -> dict[str, Any]:
        """See `LinearPredictor.config`."""
        return super().config() | {"ridge": self.ridge}

    def fit(self, batches: Any) -> Self:
        r"""Learn from pairs, in one pass.

        Args:
            batches: iterable of (history, future), complex
                (\*batch, num_rx_ant, num_tx_ant, num_history or num_horizon, num_subcarriers), any number of samples each.

        Returns:
            self.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no such pairs, NaN, unequal grids, none at all; fewer than
                5 samples where the ridge is chosen.
        """
        kept, held = self._gather(batches, hold_out=self.ridge is None)
        ridge, error = self.ridge, None
        if held is not None:
            fit, test = (part.centred(kept) if self.center else part for part in (kept, held))
            tried = [test.error(ridge_solve(fit.gram, fit.cross, value)) for value in RIDGES]
            best = min(range(len(RIDGES)), key=lambda index: float(tried[index].sum()))
            ridge, error = RIDGES[best], tried[best]  # what was not fitted shows the error better than the fit does
            kept = kept + held
        assert ridge is not None
        self.chosen_ridge = ridge
        centred = kept.centred(kept) if self.center else kept
        self._keep(ridge_solve(centred.gram, centred.cross, ridge), kept, centred, error)
        return self
