"""Predictors that are told what no receiver knows: bounds for those that are not."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wichan.channels import CDL
from wichan.channels.rays import Rays
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_int,
    check_noise,
    check_real,
    check_tensor,
)
from wichan.prediction.base import Prediction, Predictor, check_history, check_present
from wichan.prediction.noise_level import noise_variance
from wichan.prediction.wiener_genie_cell import CellFilter
from wichan.prediction.wiener_genie_geometry import geometry_predict

GIVEN = ("cell", "geometry")


class WienerGenie(Predictor):
    r"""Linear minimum mean square error prediction with knowledge that a receiver does not have.

    ``given="cell"``: told profile, delay spread and speed, that is the law of the channels, but not the sample's coupling,
    phases and direction of travel. It bounds what any linear predictor can learn from data of one cell. See `CellFilter`.

    ``given="geometry"``: told the sample's rays (delays, Doppler shifts, array responses, magnitudes in each polarisation), all
    but their phases. It bounds what estimating rays can give, by any linear fit of their amplitudes. Phases of polarisations
    are taken as independent of each other. See `geometry_predict`.

    Both work for the uplink's own future and for the downlink's, whose rays are the same at other frequencies.

    Channels that were divided by their own RMS are neither Gaussian nor of the law's power: pass the factor that was applied
    as ``scale``, and the filter works in the units of the model.

    Args:
        given: ``"cell"`` or ``"geometry"``.
        frequencies: [Hz] relative to the carrier, of the history, (num_subcarriers,).
        target_frequencies: of the prediction; default the same. ``duplex="fdd"`` needs them.
        csi_period: distance of snapshots [s].
        model: the cell's `CDL`, only for ``given="cell"``.
        rtol, max_rank: of the filter of a cell, see `CellFilter`.
        num_history, num_horizon, duplex: see `Predictor`.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError: a model missing or not wanted, no frequencies, ...

    Cost: the filter of a cell is built by the constructor and holds for every noise level; rays are a system of equations a
    sample. See `CellFilter` and `geometry_predict`.

    Example:
        >>> from wichan.channels import CDL, ULA, frequency_response
        >>> model = CDL("D", delay_spread=1e-7, carrier_frequency=2.4e9, speed=3.0, rx_array=ULA(4))
        >>> f, t = torch.arange(12) * 30e3, torch.arange(20) * 2e-3
        >>> rays = model.sample(2, generator=torch.Generator().manual_seed(1))
        >>> h = frequency_response(rays, t, f)
        >>> genie = WienerGenie("geometry", frequencies=f, csi_period=2e-3)
        >>> error = genie(h[..., :16, :], 1e-3, rays=rays).h_pred - h[..., 16:, :]
        >>> bool(error.abs().square().mean() < 0.01)
        True
    """

    takes_gaps: ClassVar[bool] = False

    def __init__(
        self,
        given: str = "cell",
        *,
        frequencies: torch.Tensor,
        target_frequencies: torch.Tensor | None = None,
        csi_period: float = 2.352e-3,
        model: CDL | None = None,
        rtol: float = 1e-7,
        max_rank: int = 3000,
        num_history: int = 16,
        num_horizon: int = 4,
        duplex: str = "tdd",
    ) -> None:
        super().__init__(num_history, num_horizon, duplex)
        self.given = check_choice("given", given, GIVEN)
        self.csi_period = check_real("csi_period", csi_period, positive=True)
        band = _axis("frequencies", frequencies)
        if target_frequencies is None and duplex == "fdd":
            raise InvalidValueError("target_frequencies=None is missing; with duplex='fdd' the future is at other frequencies")
        # Not buffers: phases need these in double precision whatever the module is cast to.
        self._bands = (band, band if target_frequencies is None else _axis("target_frequencies", target_frequencies))
        if (model is None) != (self.given == "geometry"):
            raise InvalidValueError(
                f"model={type(model).__name__} does not fit given={given!r}; a cell is told as a CDL, rays at the call"
            )
        if model is not None and not isinstance(model, CDL):
            raise InvalidTypeError(f"model must be a CDL, got {type(model).__name__}")
        self.takes_gaps = self.given == "geometry"  # type: ignore[misc]
        self.filter: CellFilter | None = None
        if model is not None:
            self.filter = CellFilter(
                model,
                self.csi_period,
                (self.num_history, self.num_horizon),
                *self._bands,
                rtol=check_real("rtol", rtol, minimum=1e-14, maximum=1.0),
                max_rank=check_int("max_rank", max_rank, minimum=1),
            )

    def forward(
        self,
        history: torch.Tensor,
        no: Any = None,
        *,
        present: torch.Tensor | None = None,
        scale: Any = None,
        rays: Rays | None = None,
    ) -> Prediction:
        r"""Predict.

        Args:
            history: complex, (\*batch, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
            no: noise variance of the history, a number or a tensor over the leading batch axes; None: estimated from the
                history, see `wichan.prediction.noise_level.noise_variance`.
            present: bool, (\*batch, num_history); used where rays are given, ignored where a cell is.
            scale: factor that was applied to the channels of the model, a number or real (\*batch,); None: 1.
            rays: the samples' `Rays`, with the same batch axes, for ``given="geometry"``.

        Returns:
            `Prediction`. err_var is exact for each antenna (given the cell) or each polarisation (given the rays) and step,
            as the mean over the other axes.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, no power, rays missing or of another batch, ...
        """
        check_history(history, self.num_history, num_subcarriers=len(self._bands[0]))
        mask = check_present(present, history)
        batch, (rx, tx) = history.shape[:-4], history.shape[-4:-2]
        factor = _positive("scale", 1.0 if scale is None else scale, batch, history)
        given = noise_variance(history) if no is None else no
        level = check_noise(given, batch, dtype=torch.float64, device=history.device).expand(batch) / factor.square()
        samples = history.reshape(-1, *history.shape[-4:]) / factor.reshape(-1, 1, 1, 1, 1).to(history.real.dtype)
        if self.filter is not None:
            self._refuse_rays(rays)
            model = self.filter.model
            if (rx, tx) != (model.num_rx_ant, model.num_tx_ant):
                raise ShapeError(f"history has {rx} x {tx} antennas; the model has {model.num_rx_ant} x {model.num_tx_ant}")
            h, error = self.filter(samples.flatten(1, 2), level.reshape(-1))
            h, error = h.unflatten(1, (rx, tx)), error.unflatten(1, (rx, tx))
        else:
            h, error = self._from_rays(samples, level.reshape(-1), batch, rays, mask)
        factor = factor.reshape(-1, 1, 1, 1, 1).to(history.real.dtype)
        err_var = (error.to(factor.dtype) * factor.square()).expand(h.shape)
        return Prediction((h * factor).reshape(*batch, *h.shape[1:]), err_var.reshape(*batch, *h.shape[1:]))

    def _refuse_rays(self, rays: Rays | None) -> None:
        if rays is not None:
            raise InvalidValueError("rays must not be given with given='cell'; build WienerGenie('geometry', ...) for them")

    def _from_rays(
        self, samples: torch.Tensor, level: torch.Tensor, batch: torch.Size, rays: Rays | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(rays, Rays):
            raise InvalidTypeError(f"rays must be the samples' Rays with given='geometry', got {type(rays).__name__}")
        if rays.batch_shape != batch or len(batch) != 1:
            raise ShapeError(
                f"rays have batch axes {tuple(rays.batch_shape)}, history {tuple(batch)}; both must be one equal axis"
            )
        if (rays.num_rx_ant, rays.num_tx_ant) != tuple(samples.shape[1:3]):
            want = f"{rays.num_rx_ant} x {rays.num_tx_ant}"
            raise ShapeError(f"history has {samples.shape[1]} x {samples.shape[2]} antennas; rays have {want}")
        times = torch.arange(self.num_history + self.num_horizon, dtype=torch.float64) * self.csi_period
        instants = (times[: self.num_history], times[self.num_history :])
        return geometry_predict(samples, level, rays.to(samples.device), instants, self._bands, mask)

    def extra_repr(self) -> str:
        """See `Predictor.extra_repr`."""
        return f"given={self.given!r}, {super().extra_repr()}"


def _axis(name: str, value: Any) -> torch.Tensor:
    axis = check_tensor(name, value).to(torch.float64)
    if axis.dim() != 1 or not axis.numel() or not bool(axis.isfinite().all()):
        raise ShapeError(f"{name} has shape {tuple(axis.shape)}; it must be one axis of finite frequencies")
    return axis.cpu()


def _positive(name: str, value: Any, batch: torch.Size, history: torch.Tensor) -> torch.Tensor:
    factor = check_noise(value, batch, dtype=torch.float64, device=history.device, field=name).expand(batch)
    if not torch.compiler.is_compiling() and bool((factor <= 0).any()):
        raise InvalidValueError(f"{name}={float(factor.min()):g} must be greater than 0")
    return factor
