"""The best estimate for unknown conditions: a bank of LMMSE filters, weighted by how well each explains the pilots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_finite,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.condition_grid import ConditionGrid, condition_grid
from wichan.estimators.mixture import SeparableMixture
from wichan.estimators.mixture_joint import JointMixture
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

MAX_JOINT = 128  # components that are kept with filters over the whole grid
SMALL = 8192  # channel entries up to which rank is cheap enough to leave nothing out
_MAX_EMPTY = 8  # a grid of factors is used while it has at most this many places for each condition


class LMMSEBank(Estimator):
    r"""Conditional mean of a channel whose conditions (delay spread, Doppler, profile) are unknown.

    Given its condition c the channel is Gaussian with covariance :math:`R_c`, so over conditions with weights :math:`w_c` it
    is a Gaussian mixture, and the estimate of least mean square error has a closed form:

    .. math:: \hat h = \sum_c p(c \mid y)\, \mathrm{LMMSE}_c(y), \quad
        p(c \mid y) \propto w_c\, \mathcal{CN}(y; 0, P R_c P^H + \mathrm{no}\, I), \quad
        \mathrm{err\_var} = \sum_c p(c \mid y) \big( \mathrm{err}_c + |\hat h_c - \hat h|^2 \big).

    No estimator that is not told the conditions does better on average, as far as the bank holds the true ones. Antennas
    share the condition.

    Where every :math:`R_c` is one product of a time and a frequency factor, white over receive antennas, and pilots are
    symbols x subcarriers, everything is done for each axis (`SeparableMixture`): hundreds of conditions cost some MFLOP a
    frame. Else (several transmit antennas, line of sight, clusters, other patterns) each condition keeps a filter over
    the whole grid, at most 128 of them.

    Args:
        obs: the pilots.
        covariances: a `ChannelCovariance` with a batch of conditions, or several with or without a batch.
        weights: prior probabilities in the order of the conditions, any shape with as many entries (`posterior` returns
            that shape); default uniform. They are normalised to sum to 1.
        no_floor: smallest ``no`` in use, relative to the largest eigenvalue that the pilots see; ``no=0`` means this.
        rtol: smallest eigenvalue of R that filters over the whole grid keep, relative to the largest; default as in `LMMSE`.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: an observation, covariances or weights that do not fit, no power,
            or too many conditions that share no factors.

    Cost: see `SeparableMixture` and `JointMixture`; `from_model` with 16 x 20 conditions and 160 pilots on a slot of 14 x 120
    takes about 5 MFLOP a frame.

    Sources: the bank of filters [Magill1965]_; the conditional mean of a linear model under a mixture [Flam2011]_.

    Example:
        >>> from wichan.channels import TDL
        >>> from wichan.grid import OFDMGrid
        >>> grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=24, subcarrier_spacing=15e3)
        >>> model, g = TDL("A", delay_spread=100e-9, max_doppler=100.0), torch.Generator().manual_seed(7)
        >>> obs = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
        >>> bank = LMMSEBank.from_model(obs, model, delay_spreads=[30e-9, 100e-9, 300e-9], max_dopplers=[0.0, 100.0])
        >>> y = obs.observe(model.frequency_response(grid, 4, generator=g), no=0.01, generator=g)
        >>> bank(y, no=0.01).h_hat.shape, bank.posterior(y, no=0.01).shape
        (torch.Size([4, 1, 1, 14, 24]), torch.Size([4, 3, 2]))
    """

    pilots_used = ComplexBuffer()  # saved with the filters: what they were made for
    share: torch.Tensor
    place: torch.Tensor

    def __init__(
        self,
        obs: OFDMPilots,
        covariances: ChannelCovariance | Sequence[ChannelCovariance],
        weights: Any = None,
        *,
        no_floor: float = 1e-12,
        rtol: float | None = None,
    ) -> None:
        super().__init__()
        given = [covariances] if isinstance(covariances, ChannelCovariance) else list(covariances)
        check_covariances(obs, given)
        count = sum((covariance.batch_shape or (1,))[0] for covariance in given)
        self.obs = obs
        self.pilots_used = obs.pilots.detach().clone()
        self.shape = given[0].shape
        self.num_conditions = count
        check_real("no_floor", no_floor, minimum=1e-15, maximum=1.0)
        if rtol is None:
            rtol = 1e-14 if math.prod(self.shape) <= SMALL else 1e-10
        check_real("rtol", rtol, minimum=0.0, maximum=1.0)
        device = obs.pilots.device
        given = [covariance.to(device) for covariance in given]
        log_weights, self.weight_shape = _log_weights(weights, count, device)
        grid = condition_grid(given) if obs.is_separable else None
        if grid is not None and len(grid.time) * len(grid.frequency) > _MAX_EMPTY * count:
            grid = None
        self.mixture = self._separable(grid, log_weights, no_floor) if grid else self._joint(given, log_weights, rtol, no_floor)

    def _separable(self, grid: ConditionGrid, log_weights: torch.Tensor, no_floor: float) -> SeparableMixture:
        places = grid.log_weights(log_weights)
        self.register_buffer("place", grid.place)
        # Conditions in one place share its posterior by their weights; without weight, no share.
        share = log_weights - places.flatten()[grid.place]
        self.register_buffer("share", torch.where(log_weights > -math.inf, share, -math.inf))
        where = (self.obs.pilot_symbols, self.obs.pilot_subcarriers)
        return SeparableMixture(grid.time, grid.frequency, places, *where, no_floor=no_floor)

    def _joint(self, given: list[ChannelCovariance], log_weights: torch.Tensor, rtol: float, no_floor: float) -> JointMixture:
        if self.num_conditions > MAX_JOINT:
            raise InvalidValueError(
                f"covariances hold {self.num_conditions} conditions that are no grid of time x frequency factors seen by "
                f"symbols x subcarriers; at most {MAX_JOINT} are allowed then"
            )
        each = [one for c in given for one in ([c[i] for i in range(c.batch_shape[0])] if c.batch_shape else [c])]
        return JointMixture(self.obs, each, log_weights, rtol=rtol, no_floor=no_floor)

    @classmethod
    def from_model(
        cls,
        obs: OFDMPilots,
        model: ChannelModel | Sequence[ChannelModel],
        *,
        delay_spreads: Any = None,
        max_dopplers: Any = None,
        speeds: Any = None,
        weights: Any = None,
        normalize: str | None = None,
        **options: Any,
    ) -> LMMSEBank:
        """Build the bank of all combinations of conditions of one model, or of several (profiles).

        Args:
            obs: the pilots.
            model: a channel model with closed-form covariance, or a sequence of them.
            delay_spreads: RMS delay spreads [s]; ``None`` leaves a model's own.
            max_dopplers: maximum Doppler shifts [Hz], likewise.
            speeds: speeds [m/s], for models that take a speed.
            weights: prior probabilities; axes are the models (if a sequence was given) and those of the three conditions
                that were given, in this order. `posterior` has the same axes.
            normalize: how the channels are scaled, as in `ChannelModel.covariance`.
            options: ``no_floor`` and ``rtol``.

        Raises:
            NoClosedFormError: a model without closed-form covariance.
        """
        given = {"delay_spread": delay_spreads, "max_doppler": max_dopplers, "speed": speeds}
        axes = {name: _vector(f"{name}s", values) for name, values in given.items() if values is not None}
        several = isinstance(model, Sequence)
        models: Sequence[ChannelModel] = model if isinstance(model, Sequence) else [model]
        if not models or not all(isinstance(one, ChannelModel) for one in models):
            raise InvalidTypeError("model must be a ChannelModel or a sequence of at least one")
        rows = torch.tensor(list(product(*axes.values())), dtype=torch.float64)
        columns = {name: rows[:, i] for i, name in enumerate(axes)}
        covariances = [one.covariance(obs.grid, normalize=normalize, **columns) for one in models]
        shape = (*([len(models)] if several else []), *(len(values) for values in axes.values()))
        if weights is None:
            weights = torch.ones(shape, dtype=torch.float64)
        elif tuple(torch.as_tensor(weights).shape) != shape:
            raise ShapeError(f"weights has shape {tuple(torch.as_tensor(weights).shape)}; it must be {shape}")
        return cls(obs, covariances, weights, **options)

    # -- Use. --

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel.

        Args:
            y: complex64 or complex128, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers), the received grid.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: not used; the bank finds them out.

        Returns:
            `Estimate`: h_hat in the dtype of ``y`` and err_var in its real dtype, both
            (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN on a pilot element of ``y`` or in ``no``,
                negative ``no``, shapes that do not fit, pilots that have changed.
        """
        pilots, noise = self._enter(y, no)
        batch = y.shape[:-3]
        if isinstance(self.mixture, JointMixture):
            h_hat, err_var, _ = self.mixture(pilots, noise)
        else:
            h_hat, err_var, _ = self.mixture(*self._least_squares(pilots, noise))
        return Estimate(h_hat.reshape(*batch, *self.shape), err_var.reshape(*batch, *self.shape))

    def posterior(self, y: torch.Tensor, no: Any) -> torch.Tensor:
        r"""Return :math:`p(c \mid y)`, real, (\*batch, \*weights.shape); arguments of `forward`."""
        found = self._posterior(y, no)[0].exp()
        return found.reshape(*y.shape[:-3], *self.weight_shape)

    def log_evidence(self, y: torch.Tensor, no: Any) -> torch.Tensor:
        r"""Return :math:`\ln p(y)` of the pilot elements of all antennas, real, (\*batch,); arguments of `forward`."""
        return self._posterior(y, no)[1].reshape(y.shape[:-3])

    def _posterior(self, y: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pilots, noise = self._enter(y, no)
        if isinstance(self.mixture, JointMixture):
            return self.mixture.posterior(pilots, noise)
        x, level = self._least_squares(pilots, noise)
        found, evidence = self.mixture.posterior(x, level)
        posterior = found.flatten(1)[:, self.place] + self.share.to(found.dtype)
        return posterior, evidence - math.prod(pilots.shape[1:]) * self._pilot_power().log().to(evidence.dtype)

    def _enter(self, y: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Check; return pilot elements (batch, num_rx_ant, P) and noise, float64, (batch,) or (1,)."""
        check_shape("y", check_tensor("y", y, kind="complex"), (self.shape[0], *self.shape[2:]))
        if y.device != self.obs.pilots.device:
            raise InvalidValueError(f"y is on {y.device}, the estimator on {self.obs.pilots.device}; use one device")
        used = self.obs.pilots.detach()
        if not torch.compiler.is_compiling() and not torch.equal(used.to(self.pilots_used), self.pilots_used):
            raise InvalidValueError("obs.pilots have changed since this LMMSEBank was built; build a new one for them")
        batch = y.shape[:-3]
        noise = check_noise(no, batch, dtype=torch.float64, device=y.device)
        noise = noise.expand(batch).reshape(-1) if noise.dim() else noise.reshape(1)
        pilots = self.obs.extract(y.reshape(-1, *y.shape[-3:]))
        return check_finite("y", pilots), noise

    def _pilot_power(self) -> torch.Tensor:
        return torch.view_as_real(self.obs.pilot_values(torch.complex128)[0].detach()).square().sum(-1).mean()

    def _least_squares(self, pilots: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """LS at the pilots, (batch, num_rx_ant, S, K), and its noise variance."""
        power = self._pilot_power()
        values = self.obs.pilot_values(torch.complex128)[0].detach().conj() / power
        sizes = (len(self.obs.pilot_symbols), len(self.obs.pilot_subcarriers))
        return (pilots * values.to(pilots.dtype)).unflatten(-1, sizes), noise / power

    def extra_repr(self) -> str:
        return f"num_conditions={self.num_conditions}, shape={self.shape}"


def check_covariances(obs: Any, given: Sequence[Any]) -> None:
    """Raise one line if pilots and covariances do not belong together."""
    if not isinstance(obs, OFDMPilots):
        raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
    if not given:
        raise InvalidValueError("covariances=[] must hold at least one ChannelCovariance")
    for covariance in given:
        if not isinstance(covariance, ChannelCovariance):
            raise InvalidTypeError(f"covariances must be ChannelCovariance, got {type(covariance).__name__}")
        want = (given[0].shape[0], obs.num_tx_ant, *obs.grid.shape)
        if covariance.shape != want:
            raise ShapeError(f"covariances have shape {covariance.shape} (rx, tx, symbols, subcarriers); expected {want}")
        if covariance.grid is not None and covariance.grid != obs.grid:
            raise InvalidValueError(f"covariances belong to {covariance.grid}; obs has {obs.grid}")
        if covariance.normalization == "sample":
            raise InvalidValueError("covariances of channels that were scaled one by one (normalization='sample') do not fade")
        if not bool((covariance.mean_power() > 0).all()):
            raise InvalidValueError("covariances has mean power 0; every condition must have power")


def _log_weights(weights: Any, count: int, device: torch.device) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Logarithm of normalised weights, float64 (count,), and the shape in which they were given."""
    if weights is None:
        weights = torch.ones(count, dtype=torch.float64)
    given = torch.as_tensor(weights, dtype=torch.float64, device=device).detach()
    if given.numel() != count:
        raise ShapeError(f"weights has shape {tuple(given.shape)}; it must have {count} entries, one a condition")
    if not bool((given >= 0).all() & given.isfinite().all() & (given.sum() > 0)):
        raise InvalidValueError("weights must be finite, at least 0, and not all 0")
    return (given / given.sum()).flatten().log(), tuple(given.shape)


def _vector(name: str, values: Any) -> list[float]:
    vector = torch.as_tensor(values, dtype=torch.float64)
    if vector.dim() != 1 or not vector.numel():
        raise ShapeError(f"{name} has shape {tuple(vector.shape)}; it must be a vector")
    return [float(v) for v in check_finite(name, vector)]
