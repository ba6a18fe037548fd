"""The error variance of any predictor, corrected by what its errors turned out to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_int
from wichan.estimators.learned import seeded
from wichan.observations.imputation import impute
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.error_head import PredictionErrorHead, count_features, prediction_features
from wichan.prediction.learned import interleaved, root_mean_square

_ROWS = 4096  # antenna pairs in a step of the fit
_RATE = 3e-3
_LARGEST = 1e9  # of an error relative to what was claimed


class CalibratedPredictor(Predictor):
    r"""A predictor whose ``err_var`` is multiplied by a factor that was learned from its errors.

    The factor belongs to an antenna pair and a step. A small network makes it of `prediction_features` and of what the
    predictor itself claims; it is fitted by Gaussian likelihood: it minimises the mean of

    .. math:: \log f + \frac{1}{f} \, \frac{1}{K} \sum_k \frac{|h_k - \hat h_k|^2}{v_k}

    with the claimed variances v. A fresh one has f = 1. The prediction itself stays as it is, bit for bit.

    Args:
        predictor: any predictor, ready to use.
        seed: of the initial weights and of the order of the fit.

    Raises:
        InvalidTypeError: no `Predictor`.

    Example:
        >>> from wichan.prediction import Hold
        >>> g = torch.Generator().manual_seed(1)
        >>> h = torch.randn(64, 4, 1, 20, 8, dtype=torch.complex64, generator=g)
        >>> calibrated = CalibratedPredictor(Hold()).fit([(h[..., :16, :], h[..., 16:, :])], steps=20)
        >>> bool((calibrated(h[..., :16, :]).h_pred == Hold()(h[..., :16, :]).h_pred).all())
        True
    """

    center: torch.Tensor
    spread: torch.Tensor
    step_scale: torch.Tensor

    def __init__(self, predictor: Predictor, *, seed: int = 0) -> None:
        if not isinstance(predictor, Predictor):
            raise InvalidTypeError(f"predictor must be a Predictor, got {type(predictor).__name__}")
        super().__init__(predictor.num_history, predictor.num_horizon, predictor.duplex)
        self.predictor, self.seed = predictor, check_int("seed", seed, minimum=0)
        with seeded(self.seed):
            self.error_head = PredictionErrorHead(self.num_history, self.num_horizon, extra=self.num_horizon)
        count = count_features(self.num_horizon) + self.num_horizon
        self.register_buffer("center", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("step_scale", torch.ones(self.num_horizon))

    @property
    def takes_gaps(self) -> bool:  # type: ignore[override]
        """Whether the predictor inside does."""
        return self.predictor.takes_gaps

    def forward(self, history: torch.Tensor, no: Any = None, *, present: torch.Tensor | None = None) -> Prediction:
        """Predict as the predictor inside does, with the corrected error variance; see there."""
        made, features = self._predict(history, no, present)
        scaled = (features - self.center) / self.spread
        factor = (self.error_head.claim(scaled) * self.step_scale).to(made.err_var.dtype)
        return Prediction(made.h_pred, made.err_var * factor.reshape(*made.err_var.shape[:-1], 1))

    def _predict(self, history: torch.Tensor, no: Any, present: torch.Tensor | None) -> tuple[Prediction, torch.Tensor]:
        """The prediction, and features (samples, antennas, count) in the precision of the network."""
        check_history(history, self.num_history)
        present = check_present(present, history)
        made = self.predictor(history, no, present=present)
        whole = history.detach() if present is None else impute(history.detach(), present)
        parts, ahead, claimed = (_by_antenna(part) for part in (whole, made.h_pred.detach(), made.err_var.detach()))
        past = interleaved(parts)
        level = root_mean_square(past)
        seen = prediction_features(past / level, interleaved(ahead) / level)
        relative = (claimed.mean(-1) / level[..., 0]) / level[..., 0]
        own = relative.clamp(1e-9, 1e9).log() / 3
        return made, torch.cat([seen, own], dim=-1).to(self.center.dtype)

    def fit(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], *, steps: int = 400) -> Self:
        r"""Learn the factor from pairs of history and future.

        Args:
            batches: pairs of complex tensors, (\*batch, num_rx_ant, num_tx_ant, num_history or num_horizon,
                num_subcarriers): histories as impaired as they will be, clean futures; not those that the predictor was
                fitted to. They are read once; about 30 numbers an antenna pair are kept.
            steps: of the fit; 0 only sets a factor for each step of the horizon.

        Returns:
            self.

        Raises:
            InvalidValueError, ShapeError: no batch at all, shapes that do not fit.
        """
        check_int("steps", steps, minimum=0)
        seen, ratios = [], []
        for history, future in batches:
            with torch.no_grad():
                made, features = self._predict(history, None, None)
            if future.shape != made.h_pred.shape:
                raise ShapeError(f"future has shape {tuple(future.shape)}; the prediction has {tuple(made.h_pred.shape)}")
            floor = torch.finfo(made.err_var.dtype).tiny
            ratio = (future - made.h_pred).detach().abs().square() / made.err_var.detach().clamp_min(floor)
            seen.append(features.flatten(0, -2))
            # A claim of no error at all would make it infinite, and the fit NaN.
            ratios.append(_by_antenna(ratio.clamp_max(_LARGEST)).mean(-1).flatten(0, -2).to(features.dtype))
        if not seen:
            raise InvalidValueError("batches is empty; the fit needs at least one pair of history and future")
        self._fit(torch.cat(seen), torch.cat(ratios), steps)
        return self

    def _fit(self, features: torch.Tensor, ratios: torch.Tensor, steps: int) -> None:
        """Minimise the negative log-likelihood, then make the mean normalised error of each step 1."""
        with torch.no_grad():
            self.center.copy_(features.mean(0))
            self.spread.copy_(features.std(0, correction=0).clamp_min(1e-3))
            self.step_scale.fill_(1.0)
            scaled = (features - self.center) / self.spread
        layers = self.error_head.layers
        draw = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(layers.parameters(), lr=_RATE)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / steps)
            rows = torch.randint(len(scaled), (min(_ROWS, len(scaled)),), generator=draw).to(scaled.device)
            with torch.enable_grad():
                log_factor = layers(scaled[rows]).clamp(-12, 12)
                loss = (log_factor + ratios[rows] * (-log_factor).exp()).mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            left = torch.cat([ratios[part] / self.error_head.claim(scaled[part]) for part in _slices(len(scaled))])
            self.step_scale.copy_(left.double().mean(0).clamp(1e-9, 1e9))


def _by_antenna(h: torch.Tensor) -> torch.Tensor:
    """(*batch, rx, tx, steps, K) to (samples, antennas, steps, K)."""
    return h.reshape(-1, h.shape[-4] * h.shape[-3], *h.shape[-2:])


def _slices(count: int) -> list[slice]:
    return [slice(start, start + 8 * _ROWS) for start in range(0, count, 8 * _ROWS)]
