"""What the linear predictors share: one matrix from the antennas' past to their future, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wichan.errors import InvalidValueError, check_noise, check_real
from wichan.nn.buffers import ComplexBuffer
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.streaming import SecondMoments, pairs

_HELD_OUT = 5  # every fifth sample chooses among hyper-parameters
_FLOORS = (1e-9, 1e-5)  # least ridges; the second for Gram matrices that the first leaves indefinite


class LinearPredictor(Predictor):
    r"""Base of predictors :math:`\hat h = b + W x`: x stacks antennas and past snapshots, the answer antennas and steps.

    Args:
        num_history, num_horizon, duplex: see `Predictor`.
        per_bin: a map for every subcarrier. ``False``: one for all of them.
        center: subtract the means of the data of the fit.

    Attributes:
        weight: complex64 (groups, num_ant * num_horizon, num_ant * num_history), the antenna varying slowest; groups is 1 or
            num_subcarriers. Empty before a fit.
        offset: complex64 (groups, num_ant * num_horizon).
        error: float32 (groups, num_ant * num_horizon), error of the fit divided by the power of its histories.

    Cost of a call: 8 A^2 T P FLOP a subcarrier with A antennas, T snapshots, P steps: 0.16 GFLOP a sample as published.
    """

    weight = ComplexBuffer()
    offset = ComplexBuffer()
    error: torch.Tensor

    def __init__(self, num_history: int, num_horizon: int, duplex: str, per_bin: bool, center: bool) -> None:
        super().__init__(num_history, num_horizon, duplex)
        self.per_bin, self.center = bool(per_bin), bool(center)
        self.weight = torch.zeros(0, 0, 0, dtype=torch.complex64)
        self.offset = torch.zeros(0, 0, dtype=torch.complex64)
        self.register_buffer("error", torch.zeros(0, 0))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a map."""
        return self.error.numel() > 0

    def config(self) -> dict[str, Any]:
        """Hyper-parameters that rebuild the predictor, as JSON can hold them; what a fit found is in ``state_dict``."""
        shared = ("num_history", "num_horizon", "duplex", "per_bin", "center")
        return {name: getattr(self, name) for name in shared}

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        r"""Predict.

        Args:
            history, no, present: see `Predictor`; ``no`` and ``present`` are not used.

        Returns:
            `Prediction`; err_var is that of the fit, times the power of the history over that in the fit.

        Raises:
            InvalidValueError: before a fit; NaN or no power. ShapeError: another length, antenna count or grid.
        """
        if not self.is_fitted:
            raise InvalidValueError(f"{type(self).__name__} has no weights yet; call fit((history, future) pairs) or load them")
        groups, rows = self.error.shape
        subcarriers = groups if self.per_bin else None
        check_history(history, self.num_history, num_ant=rows // self.num_horizon, num_subcarriers=subcarriers)
        check_present(present, history)
        if no is not None:
            check_noise(no, history.shape[:-4], dtype=history.real.dtype, device=history.device)
        x = history.resolve_conj().flatten(-4, -2)
        weight, offset = self.weight.to(x.dtype), self.offset.to(x.dtype)
        mapped = weight @ x if groups == 1 else torch.einsum("koi,...ik->...ok", weight, x)
        h = mapped + offset.mT
        power = torch.view_as_real(x).square().sum(-1).mean((-2, -1))
        err_var = self.error.to(power).mT.expand(rows, x.shape[-1]) * power[..., None, None]
        shape = (*history.shape[:-2], self.num_horizon, x.shape[-1])
        return Prediction(h.reshape(shape), err_var.reshape(shape))

    # -- Fitting and keeping. --

    def _gather(self, batches: Any, hold_out: bool, lead: int = 0) -> tuple[SecondMoments, SecondMoments | None]:
        """Moments of x = (history, first ``lead`` future snapshots) and y = future, and of the samples held out."""
        kept: SecondMoments | None = None
        held: SecondMoments | None = None
        seen = 0
        for history, future in pairs(batches, self.num_history, self.num_horizon):
            x = torch.cat([history.flatten(1, 2), future[:, :, :lead].flatten(1, 2)], dim=1) if lead else history.flatten(1, 2)
            y = future.flatten(1, 2)
            if kept is None:
                size = (x.shape[1], y.shape[1], x.shape[-1] if self.per_bin else 1)
                kept = SecondMoments(*size, device=x.device)
                held = SecondMoments(*size, device=x.device) if hold_out else None
            if held is None:
                kept.add(x, y)
                continue
            out = (seen + torch.arange(x.shape[0], device=x.device)) % _HELD_OUT == _HELD_OUT - 1
            seen += x.shape[0]
            kept.add(x[~out], y[~out])
            held.add(x[out], y[out])
        assert kept is not None
        if held is not None and not held.count:
            raise InvalidValueError(f"batches hold {seen} samples; at least {_HELD_OUT} are needed to choose a hyper-parameter")
        return kept, held

    def _keep(self, weight: torch.Tensor, raw: SecondMoments, centred: SecondMoments, error: torch.Tensor | None) -> None:
        """Store a map (G, m, n), n the length of the history, with its error (G, m); None: that on the data of the fit."""
        n = weight.shape[-1]
        power = raw.gram[..., :n, :n].diagonal(dim1=-2, dim2=-1).real.mean() / raw.count
        self.weight = weight.to(torch.complex64)
        offset = torch.zeros_like(raw.target_sum)
        if self.center:
            offset = (raw.target_sum - (weight @ raw.input_sum[..., :n, None]).squeeze(-1)) / raw.count
        self.offset = offset.to(torch.complex64)
        error = centred.error(weight) if error is None else error
        self._buffers["error"] = (error / power).to(torch.float32)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in ("weight_ri", "offset_ri", "error"):  # a fresh predictor does not know antennas and grid
            value = state_dict.get(prefix + name)
            if isinstance(value, torch.Tensor) and not self.is_fitted:
                self._buffers[name] = torch.empty_like(value, device=self.error.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def ridge_solve(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    r"""Return :math:`W = C (G + \rho\, \bar g I)^{-1}` with :math:`\bar g` the mean of the diagonal of G.

    Args:
        gram: complex128 (groups, n, n). cross: complex128 (groups, m, n). ridge: :math:`\rho`, at least 0.
    """
    # Floors at the rounding of products in single precision: a Gram matrix of fewer equations than unknowns is singular, and
    # its smallest eigenvalues may come out a little below zero.
    factor, failed = _loaded_factor(gram, max(ridge, _FLOORS[0]))
    if bool(failed.any()):
        again, _ = _loaded_factor(gram, max(ridge, _FLOORS[1]))
        factor = torch.where(failed[:, None, None], again, factor)
    return torch.cholesky_solve(cross.mH, factor).mH


def _loaded_factor(gram: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factor of gram with ``ridge`` times the mean of its diagonal added, and which groups have none."""
    level = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    loaded = gram + (ridge * level)[..., None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(loaded)
    return factor, info != 0


def check_ridge(value: Any) -> float:
    """Return a ridge, relative to the mean of a Gram matrix' diagonal: 0 to 1e6."""
    return check_real("ridge", value, minimum=0.0, maximum=1e6)
