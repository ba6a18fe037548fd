"""The Bussgang filter of each sample's own covariance: a reference, told what no receiver knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_noise
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_base import QuantizedEstimator, eagerly
from wichan.estimators.bussgang_filters import NO_FLOOR, bussgang_filter, check_covariance, chunks


class BussgangGenie(QuantizedEstimator):
    r"""`BussgangLMMSE` with the covariance that made each sample ("Buss-genie").

    .. math:: \hat h_t = C_t A^H B_t\, C_{r,t}^{-1} r_t,\qquad h_t \sim \mathcal{CN}(0, C_t)

    It is a reference, not a bound: given :math:`C_t` the conditional mean is not linear in r, and
    `wichan.estimators.CMEGibbs` shows what it would gain. A trained `wichan.estimators.BussgangVAE`, whose filter depends on r,
    can be better as well.

    Args:
        obs: a `wichan.observations.QuantizedPilots`.
        model: what turns conditions into covariances: an object with ``conditional_covariance(**conditions)`` that returns
            complex (n, N, N) for conditions with a leading axis n, such as `wichan.channels.SpatialGaussian`. Without one,
            `forward` wants covariances.
        told: names of those conditions: what `forward` wants as keywords.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    Cost: each sample a Cholesky factor and a triangular solve, M^3/3 + M^2 N / 2 complex multiply-adds in double precision, and
    the covariance of its output, in chunks of 64 MiB.

    Example:
        >>> from wichan.observations import QuantizedPilots
        >>> obs = QuantizedPilots(torch.eye(2, dtype=torch.complex128), num_bits=2)
        >>> covariances = torch.eye(2, dtype=torch.complex128).expand(3, 2, 2)
        >>> r = obs.quantize(torch.ones(3, 2, dtype=torch.complex64), no=0.1)
        >>> BussgangGenie(obs)(r, no=0.1, covariance=covariances).h_hat.shape
        torch.Size([3, 2])
    """

    def __init__(
        self, obs: Any, model: Any = None, *, told: Sequence[str] = ("angles", "powers"), no_floor: float = NO_FLOOR
    ) -> None:
        super().__init__(obs, no_floor=no_floor)
        if model is not None and not hasattr(model, "conditional_covariance"):
            raise InvalidTypeError(f"model of type {type(model).__name__} has no method conditional_covariance")
        if isinstance(told, str) or not all(isinstance(name, str) for name in told):
            raise InvalidTypeError(f"told={told!r} must be a sequence of names of conditions")
        self.model = model
        self.told = tuple(told) if model is not None else ("covariance",)

    @eagerly
    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M).
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: ``covariance``, (\*lead, N, N), or what ``told`` names, each (\*lead, ...). ``lead`` is the first
                axes of the batch, and what they hold is shared by the others: with r (T, S, M) and ``covariance`` (T, N, N)
                nothing is factorised S times unless ``no`` differs.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: conditions that are missing, that do not fit the batch, or a
                covariance without power.
        """
        self._check(r)
        batch = tuple(r.shape[:-1])
        noise = check_noise(no, batch, dtype=torch.float64, device=r.device).detach()
        modelled = conditions.get("covariance") is None
        given, lead = self._conditions(conditions, batch, r.device, modelled)
        if not r.numel():
            h_hat = r.new_zeros(*batch, *self.shape)
            return Estimate(h_hat, h_hat.real.clone())
        count, rest = math.prod(lead), batch[len(lead) :]
        # Noise that is the same along the other axes shares the factor, too.
        apart = bool(noise.dim()) and math.prod(noise.shape[len(lead) :]) > 1
        level = noise.expand((*lead, *(rest if apart else (1,) * len(rest)))).reshape(count, -1)
        rows = r.reshape(count, -1, r.shape[-1])
        parts = []
        for some in self._pieces(count, level.shape[1]):
            told = {name: one[some] for name, one in given.items()}
            covariance = self._modelled(told) if modelled else told["covariance"]
            parts.append(self._estimate(rows[some], level[some], covariance))
        h_hat, err_var = (torch.cat(part) for part in zip(*parts, strict=True))
        err_var = err_var.reshape(*lead, *(rest if apart else (1,) * len(rest)), *self.shape)
        return Estimate(h_hat.reshape(*batch, *self.shape), err_var.expand(*batch, *self.shape))

    def _conditions(
        self, conditions: dict[str, Any], batch: tuple[int, ...], device: torch.device, modelled: bool
    ) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
        """Conditions with one leading axis, and the axes of the batch that it stands for."""
        size = math.prod(self.shape)
        names, trailing = (self.told, 1) if modelled else (("covariance",), 2)
        missing = [name for name in names if conditions.get(name) is None]
        if missing:
            raise InvalidTypeError(f"{(missing or names)[0]} is missing: this genie wants to be told {', '.join(self.told)}")
        values = {name: torch.as_tensor(conditions[name]) for name in names}
        if not modelled:
            values["covariance"] = check_covariance("covariance", values["covariance"], size)
        leads = {name: tuple(value.shape[: value.dim() - trailing]) for name, value in values.items()}
        lead = leads[names[0]]
        for name, value in values.items():
            if value.dim() < trailing or leads[name] != batch[: len(lead)] or leads[name] != lead:
                raise ShapeError(f"{name} has shape {tuple(value.shape)}; its leading axes must be the first of {batch}")
        return {name: value.to(device).reshape(-1, *value.shape[len(lead) :]) for name, value in values.items()}, lead

    def _pieces(self, count: int, levels: int) -> list[slice]:
        """Cut samples so that their matrices at all noise variances fit into one chunk."""
        wide = max(some.stop - some.start for some in chunks(count * levels, self.obs))
        step = max(1, wide // levels)
        return [slice(start, start + step) for start in range(0, count, step)]

    def _estimate(self, rows: torch.Tensor, level: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates (n, S, N) and errors (n, S or 1, N) of ``rows`` (n, S, M) at noise (n, S or 1)."""
        with torch.no_grad():
            made = bussgang_filter(self.obs, covariance[:, None], level, "exact", self.no_floor)
        observed = rows.to(torch.complex128)
        if level.shape[1] == 1:
            inner = torch.linalg.solve_triangular(made.root[:, 0], observed.mT, upper=False)
            h_hat = (made.inner[:, 0].mH @ inner).mT
        else:
            inner = torch.linalg.solve_triangular(made.root, observed[..., None], upper=False)
            h_hat = (made.inner.mH @ inner).squeeze(-1)
        return h_hat.to(rows.dtype), made.error.to(rows.real.dtype)

    def _modelled(self, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            covariance = self.model.conditional_covariance(**conditions)
        size = math.prod(self.shape)
        if tuple(covariance.shape[1:]) != (size, size):
            raise InvalidValueError(f"model gives covariances of shape {tuple(covariance.shape)}; the channel wants N={size}")
        return check_covariance("covariance of the model", covariance, size)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, told={self.told}"
