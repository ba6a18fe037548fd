"""Prony's method in the angle-delay domain: one recursion for all angles and delays of a sample."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import InvalidValueError, check_choice, check_int, check_noise, check_real
from wichan.prediction.base import Prediction, Predictor, check_history, check_present

EQUATIONS = ("last", "all")


class PAD(Predictor):
    r"""Prony-based prediction: a linear recursion in time, shared by all angle-delay bins, fitted on each history alone.

    .. math:: y_t = -\sum_{l=1}^{p} \hat p_l\, y_{t-l}, \qquad
        \hat p = -\big(X^H X + \rho\, \tfrac{\mathrm{tr}\, X^H X}{p} I\big)^{-1} X^H y ,

    where column l of X holds the snapshot :math:`y_{t-l}` in all bins (antennas x subcarriers, 9,600 as published) and y the
    target :math:`y_t`. A sum of p complex exponentials in time obeys such a recursion exactly, with the exponentials as roots;
    where more than p rays move, or noise is added, it is an approximation that the ridge shrinks.

    The published method transforms antennas and subcarriers by a DFT first. One set of coefficients serves all bins and the
    DFT is unitary up to a factor, so :math:`X^H X` and :math:`X^H y` are the same before and after it (the factor cancels
    against that of the ridge): no transform is needed for the same answer. Everything follows from the T x T Gram matrix of
    the snapshots, and the roll-out is one P x T matrix a sample.

    Where a prediction is not finite, or exceeds the largest magnitude of the history by ``limit``, the last snapshot is held.

    Args:
        order: p, below num_history.
        equations: ``"last"``, as published: the last snapshot is the only target; ``"all"``: every snapshot from the p-th on
            is, which costs the same and has num_history - p times the equations.
        ridge: :math:`\rho`, relative to the mean of the Gram matrix' diagonal.
        limit: growth over the history's peak at which the last snapshot is held.
        num_history, num_horizon, duplex: see `Predictor`. Only ``"tdd"``: a recursion continues the band it has seen.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: an order of num_history or more, a negative ridge, ``"fdd"``.

    Cost: 8 A K T (T + P) FLOP a sample with A antennas, K subcarriers: 0.025 GFLOP as published (whose code: 14.75).

    Source: the baseline of [CSI4CAST2025]_.

    Example:
        >>> t = torch.arange(20.0)
        >>> tone = torch.polar(torch.ones(20), 0.3 * t)[:, None] * torch.ones(1, 2, 1, 1, 4)
        >>> h_pred, _ = PAD(order=2, ridge=1e-9)(tone[..., :16, :])
        >>> bool((h_pred - tone[..., 16:, :]).abs().max() < 1e-3)
        True
    """

    presets = {"published": {}, "all": {"equations": "all"}}

    def __init__(
        self,
        order: int = 8,
        *,
        equations: str = "last",
        ridge: float = 1e-4,
        limit: float = 5.0,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
    ) -> None:
        if duplex == "fdd":
            raise InvalidValueError("duplex='fdd' is not possible for PAD, which continues the band it has seen; use 'tdd'")
        super().__init__(num_history, num_horizon, duplex)
        self.order = check_int("order", order, minimum=1, maximum=self.num_history - 1)
        self.equations = check_choice("equations", equations, EQUATIONS)
        self.ridge = check_real("ridge", ridge, minimum=0.0, maximum=1e6)
        self.limit = check_real("limit", limit, positive=True)

    def config(self) -> dict[str, Any]:
        """Hyper-parameters that rebuild the predictor, as JSON can hold them."""
        names = ("order", "equations", "ridge", "limit", "num_history", "num_horizon", "duplex")
        return {name: getattr(self, name) for name in names}

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict.

        Args:
            history, no, present: see `Predictor`; ``no`` and ``present`` are not used.

        Returns:
            `Prediction`. err_var is the same for all antennas and subcarriers of a sample: the mean squared residual of the
            fit, carried through the roll-out, :math:`\sigma_e^2 \sum_{j<q} |\psi_j|^2` at step q; where the last snapshot is
            held, the mean of :math:`|y_t - y_{t-q}|^2` over the history.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no such history, NaN, no power.
        """
        check_history(history, self.num_history)
        check_present(present, history)
        if no is not None:
            check_noise(no, history.shape[:-4], dtype=history.real.dtype, device=history.device)
        rows = history.movedim(-2, -4).flatten(-3)  # (*batch, T, bins)
        gram = self._gram(rows)
        taps, residual = self._recursion(gram)
        weight, growth = self._roll_out(taps)
        predicted = weight.to(rows.dtype) @ rows
        peak = rows.abs().amax((-2, -1))
        bad = ~(predicted.abs().amax((-2, -1)) <= self.limit * peak)  # a NaN is bad, too
        error = residual.unsqueeze(-1) * growth
        if bool(bad.any()):
            predicted = torch.where(bad[..., None, None], rows[..., -1:, :], predicted)
            error = torch.where(bad.unsqueeze(-1), self._held_error(gram), error)
        error = error / rows.shape[-1]
        rx, tx, _, subcarriers = history.shape[-4:]
        h = predicted.unflatten(-1, (rx, tx, subcarriers)).movedim(-4, -2)
        err_var = error.to(h.real.dtype)[..., None, None, :, None].expand(h.shape)
        return Prediction(h, err_var)

    def _gram(self, rows: torch.Tensor) -> torch.Tensor:
        r"""Inner products of snapshots :math:`y_s^H y_t`, complex128 (\*batch, T, T); double, as they are inverted."""
        wide = rows.to(torch.complex128)
        return wide.conj() @ wide.mT

    def _recursion(self, gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Return minus the coefficients (\*batch, order), lag 1 first, and the residual energy (\*batch,) of a target."""
        last, order = self.num_history - 1, self.order
        targets = torch.arange(order if self.equations == "all" else last, last + 1)
        back = targets[:, None] - torch.arange(1, order + 1)
        normal = gram[..., back[:, :, None], back[:, None, :]].sum(-3)
        right = gram[..., back, targets[:, None]].sum(-2)
        level = normal.diagonal(dim1=-2, dim2=-1).real.mean(-1).clamp_min(torch.finfo(torch.float64).tiny)
        loaded = normal + (max(self.ridge, 1e-14) * level)[..., None, None] * torch.eye(order, device=gram.device)
        factor, _ = torch.linalg.cholesky_ex(loaded)
        taps = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
        energy = gram[..., targets, targets].real.sum(-1)
        fitted = 2 * (taps.conj() * right).real.sum(-1) - (taps.conj() * (normal @ taps.unsqueeze(-1)).squeeze(-1)).real.sum(-1)
        return taps, (energy - fitted).clamp_min(0) / len(targets)

    def _roll_out(self, taps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Return predictions as combinations of snapshots (\*batch, P, T) and :math:`\sum_{j<q} |\psi_j|^2` (\*batch, P)."""
        past, ahead = self.num_history, self.num_horizon
        # One more column: the answer to an innovation of one at the first predicted snapshot.
        known = torch.eye(past, past + 1, dtype=taps.dtype, device=taps.device)
        snapshots = list(known.expand(*taps.shape[:-1], past, past + 1).unbind(-2))
        for step in range(ahead):
            recent = torch.stack(snapshots[: -self.order - 1 : -1], dim=-2)
            following = (taps.unsqueeze(-2) @ recent).squeeze(-2)
            if step == 0:
                following = following + torch.eye(past + 1, dtype=taps.dtype, device=taps.device)[-1]
            snapshots.append(following)
        rolled = torch.stack(snapshots[past:], dim=-2)
        return rolled[..., :past], rolled[..., past].abs().square().cumsum(-1)

    def _held_error(self, gram: torch.Tensor) -> torch.Tensor:
        r"""Mean energy of the difference between snapshots 1, 2, ... apart, (\*batch, P)."""
        power = gram.diagonal(dim1=-2, dim2=-1).real
        steps = []
        for step in range(1, self.num_horizon + 1):
            lag = min(step, self.num_history - 1)
            cross = gram.diagonal(offset=lag, dim1=-2, dim2=-1).real
            steps.append((power[..., lag:] + power[..., : self.num_history - lag] - 2 * cross).mean(-1))
        return torch.stack(steps, dim=-1).clamp_min(0)
