"""Vector autoregression: each snapshot of the array from the snapshots before it."""

from __future__ import annotations

from typing import Any, Self

import torch

from wichan.errors import InvalidValueError, check_int
from wichan.prediction.linear_predictor import LinearPredictor, check_ridge, ridge_solve
from wichan.prediction.streaming import SecondMoments


class VectorAR(LinearPredictor):
    r"""Vector autoregressive model of the antennas, rolled out over the horizon.

    .. math:: y_t = \sum_{l=1}^{p} A_l\, y_{t-l} + e_t , \qquad
        (A_1 \dots A_p) = R_p (G_p + \rho\, \tfrac{\mathrm{tr}\, G_p}{pA} I)^{-1},

    with A x A matrices fitted on all windows that end within the history or at the first snapshot after it, and predictions
    fed back for the steps that follow. As the roll-out is linear, its four steps are composed once into one map of the last p
    snapshots, and a call costs what the Wiener filter's does. Only the uplink's own future can be rolled out: ``"tdd"``.

    The joint second moments of a history and its next snapshot hold those of the windows of every order (order p sums the
    blocks of T + 1 - p windows; a longer order has fewer), so all orders are fitted from one pass over the data, and the
    error of each roll-out on other data follows from second moments of those.

    Args:
        order: p; None: the order from 1 to num_history with the least roll-out error on the validation data. (The size of the
            released file of the baseline implies 11.)
        ridge: :math:`\rho`, relative to the mean of the Gram matrix' diagonal.
        per_bin: one model a subcarrier, as published; ``False``: one for all, see `wichan.prediction.WienerPredictor`.
        center: subtract means, as published.
        num_history, num_horizon, duplex: see `Predictor`.

    Attributes:
        chosen_order: the order in use; None before a fit has chosen.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: an order beyond the history, a negative ridge, ``"fdd"``.

    Memory of a fit: 16 G A^2 (T + 1) (T + 1 + P) bytes with G groups (1, or the subcarriers), twice that where the order is
    chosen: 11.7 MB for 32 antennas and 16 + 4 snapshots; 3.5 GB with 300 groups. Any number of samples.
    Cost of a fit: 8 A^2 (T + 1) (T + 1 + P) K FLOP a sample, 0.9 GFLOP with 300 subcarriers.

    Source: the baseline of [CSI4CAST2025]_.

    Example:
        >>> g = torch.Generator().manual_seed(1)
        >>> h = torch.randn(20, 2, 1, 20, 3, dtype=torch.complex64, generator=g)
        >>> ar = VectorAR(order=2).fit([(h[..., :16, :], h[..., 16:, :])])
        >>> ar(h[..., :16, :]).h_pred.shape
        torch.Size([20, 2, 1, 4, 3])
    """

    presets = {"default": {}, "published": {"per_bin": True, "center": True}}

    def __init__(
        self,
        order: int | None = None,
        ridge: float = 1e-4,
        *,
        per_bin: bool = False,
        center: bool = False,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
    ) -> None:
        if duplex == "fdd":
            raise InvalidValueError(
                "duplex='fdd' is not possible for VectorAR, which continues the band it has seen; use 'tdd'"
            )
        super().__init__(num_history, num_horizon, duplex, per_bin, center)
        self.order = None if order is None else check_int("order", order, minimum=1, maximum=self.num_history)
        self.ridge = check_ridge(ridge)
        self.chosen_order = self.order

    def config(self) -> dict[str, Any]:
        """See `LinearPredictor.config`."""
        return super().config() | {"order": self.order, "ridge": self.ridge}

    def fit(self, batches: Any, validation: Any = None) -> Self:
        r"""Learn from pairs, in one pass.

        Args:
            batches: iterable of (history, future), complex
                (\*batch, num_rx_ant, num_tx_ant, num_history or num_horizon, num_subcarriers), any number of samples each.
            validation: the same, to choose the order and to measure the error; None: every fifth sample of ``batches``, which
                is fitted too once the order is chosen.

        Returns:
            self.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no such pairs, NaN, unequal grids, none at all; fewer than
                5 samples where the order is chosen from ``batches``.
        """
        kept, held = self._gather(batches, hold_out=self.order is None and validation is None, lead=1)
        test = held
        if validation is not None:
            test, _ = self._gather(validation, hold_out=False, lead=1)
            if test.cross.shape != kept.cross.shape:
                raise InvalidValueError("validation has another number of antennas or subcarriers than batches")
        fit, test = (part if part is None or not self.center else part.centred(kept) for part in (kept, test))
        assert fit is not None
        order, error = self.order, None
        if test is not None:
            orders = range(1, self.num_history + 1) if order is None else [order]
            tried = {p: test.error(self._roll_out(fit, p)) for p in orders}
            order = min(tried, key=lambda p: float(tried[p].sum()))
            error = tried[order]
        assert order is not None
        total = kept if held is None else kept + held
        centred = total.centred(total) if self.center else total
        self.chosen_order = order
        self._keep(self._roll_out(centred, order), total, centred, error)
        return self

    def _roll_out(self, moments: SecondMoments, order: int) -> torch.Tensor:
        """Fit one order; return the map of its roll-out, complex128 (G, A * num_horizon, A * num_history)."""
        past, ahead = self.num_history, self.num_horizon
        ants = moments.cross.shape[-2] // ahead
        blocks = self._blocks(moments, ants)  # (G, times, times, A, A), blocks[:, t, s] = sum y_t y_s^H
        windows = torch.arange(order, past + 1)  # each ends at a target snapshot
        lags = torch.arange(1, order + 1)
        back = windows[:, None] - lags  # (windows, order)
        gram = blocks[:, back[:, :, None], back[:, None, :]].sum(1)  # (G, order, order, A, A)
        cross = blocks[:, windows[:, None], back].sum(1)  # (G, order, A, A)
        gram = gram.transpose(-3, -2).flatten(-2).flatten(1, 2)
        cross = cross.transpose(1, 2).flatten(-2)
        matrix = ridge_solve(gram, cross, self.ridge).unflatten(-1, (order, ants))  # (G, A, order, A)
        return self._compose(matrix)

    def _blocks(self, moments: SecondMoments, ants: int) -> torch.Tensor:
        past = self.num_history
        history, first = moments.gram[:, : ants * past], moments.gram[:, ants * past :]
        rows = torch.cat([history.unflatten(1, (ants, past)), first.unsqueeze(2)], dim=2)  # (G, A, T + 1, columns)
        old, new = rows[..., : ants * past].unflatten(-1, (ants, past)), rows[..., ants * past :].unsqueeze(-1)
        return torch.cat([old, new], dim=-1).permute(0, 2, 4, 1, 3)

    def _compose(self, matrix: torch.Tensor) -> torch.Tensor:
        """Write every predicted snapshot as a map of the history, (G, A, order, A) -> (G, A * P, A * T)."""
        groups, ants, order, _ = matrix.shape
        past, ahead = self.num_history, self.num_horizon
        known = torch.eye(past * ants, dtype=matrix.dtype, device=matrix.device).reshape(past, ants, past * ants)
        snapshots = list(known.expand(groups, -1, -1, -1).unbind(1))  # each (G, A, T * A), time slowest
        for _ in range(ahead):
            recent = torch.stack(snapshots[: -order - 1 : -1], dim=1)  # lag 1 first
            snapshots.append(torch.einsum("galb,glbi->gai", matrix, recent))
        rolled = torch.stack(snapshots[past:], dim=2)  # (G, A, P, T * A)
        return rolled.unflatten(-1, (past, ants)).transpose(-1, -2).flatten(-2).flatten(1, 2)
