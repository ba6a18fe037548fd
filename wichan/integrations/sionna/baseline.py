"""Sionna's channel estimators beside wichan's: as a baseline of an evaluation, on the same channels, pilots and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_noise, check_tensor
from wichan.estimators.base import Estimate, Estimator
from wichan.integrations.sionna.layout import resource_grid_of
from wichan.integrations.sionna.require import require_sionna
from wichan.observations.ofdm import OFDMPilots

if TYPE_CHECKING:
    from wichan.channels.covariance import ChannelCovariance
    from wichan.evaluation.baselines import Built
    from wichan.evaluation.setting import Setting

_CHUNK_BYTES = 2**28  # what Sionna's filters of one chunk of frames may take


def as_baseline(sionna: Any, observation: OFDMPilots | None = None) -> Estimator:
    r"""Return a Sionna channel estimator as one of wichan's, called as ``(y, no)`` on wichan's axes.

    Args:
        sionna: a ``sionna.phy.ofdm.BaseChannelEstimator``; or a function ``resource_grid -> estimator``, called once with
            `resource_grid_of(observation)`, so that it has the pilots of a wichan observation.
        observation: needed with a function; with an estimator it is checked against the estimator's grid.

    Returns:
        An `Estimator`: y (\*batch, num_rx_ant, T, F) and no in; h_hat and err_var (\*batch, num_rx_ant, streams, T, F) out.
        Its precision is that of the Sionna estimator, and ``y`` must have it.

    Raises:
        MissingDependencyError: no usable Sionna.
        InvalidTypeError, InvalidValueError, ShapeError: no estimator, a function without an observation, inputs that do not
            fit the estimator's grid.

    Example:
        >>> import wichan as wc
        >>> from sionna.phy.ofdm import LSChannelEstimator
        >>> pilots = OFDMPilots(wc.OFDMGrid(14, 48, 15e3), symbols=(2, 11), subcarrier_step=4)
        >>> ls = as_baseline(lambda rg: LSChannelEstimator(rg, interpolation_type="lin", device=rg.device), pilots)
        >>> h = torch.ones(5, 2, 1, 14, 48, dtype=torch.complex64)
        >>> bool((ls(pilots.noiseless(h), 0.0).h_hat - h).abs().max() < 1e-6)
        True
    """
    require_sionna("as_baseline")
    from sionna.phy.ofdm import BaseChannelEstimator

    if observation is not None and not isinstance(observation, OFDMPilots):
        raise InvalidTypeError(f"observation must be OFDMPilots, got {type(observation).__name__}")
    estimator = sionna
    if not isinstance(sionna, BaseChannelEstimator):
        if not callable(sionna) or isinstance(sionna, torch.nn.Module):
            found = type(sionna).__name__
            raise InvalidTypeError(f"sionna must be a Sionna channel estimator or a function resource_grid -> one, got {found}")
        if observation is None:
            raise InvalidValueError("observation is missing; a function needs the pilots whose resource grid it is given")
        precision = "double" if observation.pilots.dtype == torch.complex128 else "single"
        estimator = sionna(resource_grid_of(observation, precision=precision))
    if not isinstance(estimator, BaseChannelEstimator):
        raise InvalidTypeError(
            f"sionna(resource_grid) returned {type(estimator).__name__}; it must be a sionna.phy.ofdm.BaseChannelEstimator"
        )
    return SionnaBaseline(estimator, observation)


class SionnaBaseline(Estimator):
    """See `as_baseline`.

    The Sionna estimator stays on the device that it was built on, since Sionna's blocks cannot be moved: ``.to`` leaves it
    alone, and a call takes its input there and its answer back.
    """

    _places: torch.Tensor
    _carriers: torch.Tensor | None
    _pilots_seen: torch.Tensor | None

    def __init__(self, sionna: Any, observation: OFDMPilots | None = None) -> None:
        super().__init__()
        self._held = (sionna, observation)  # in a tuple it is no submodule, so `.to` does not move half of it
        pattern = sionna._pilot_pattern
        self._shape = (int(pattern.num_ofdm_symbols), int(pattern.num_effective_subcarriers))
        self._num_streams = int(pattern.num_tx) * int(pattern.num_streams_per_tx)
        places = pattern.mask.flatten(0, 1).any(dim=0).flatten().nonzero().flatten()  # where pilots are read
        carriers = sionna._remove_nulled_scs._sc_ind
        whole = torch.equal(carriers.cpu(), torch.arange(len(carriers)))
        self.register_buffer("_places", places.clone(), persistent=False)
        pilots = None if observation is None else torch.view_as_real(observation.pilots.detach()).clone()
        self.register_buffer("_pilots_seen", pilots, persistent=False)
        self.register_buffer("_carriers", None if whole else carriers.clone(), persistent=False)
        if observation is not None:
            have, want = (observation.num_tx_ant, *observation.grid.shape), (self._num_streams, *self._shape)
            if have != want:
                names = "(antennas, symbols, subcarriers)"
                raise ShapeError(f"observation has {names} = {have}, the Sionna estimator's grid {want}")

    @property
    def sionna(self) -> Any:
        """The Sionna estimator."""
        return self._held[0]

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel; ``conditions`` are not used.

        Args:
            y: complex, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers).
            no: noise variance, a number or a tensor over the leading batch axes.
        """
        check_tensor("y", y, kind="complex")
        self._check_pilots()
        if y.dim() < 3 or tuple(y.shape[-2:]) != self._shape:
            raise ShapeError(f"y has shape {tuple(y.shape)}; the last axes must be (any, {self._shape[0]}, {self._shape[1]})")
        if y.dtype != self.sionna.cdtype:
            wanted = "double" if y.dtype == torch.complex128 else "single"
            have = f"the Sionna estimator precision={self.sionna.precision!r}"
            raise InvalidTypeError(f"y has dtype {y.dtype}, {have}; build it with precision={wanted!r}")
        check_finite("y", y.flatten(-2).index_select(-1, self._places.to(y.device)))
        batch = y.shape[:-3]
        noise = check_noise(no, batch, dtype=y.real.dtype, device=y.device).expand(batch).reshape(-1)
        frames = y.reshape(-1, 1, *y.shape[-3:])
        if not frames.shape[0]:
            empty = y.new_zeros(*batch, y.shape[-3], self._num_streams, *self._shape)
            return Estimate(empty, empty.real.clone())
        step = self._step(y)
        parts = [self._chunk(some, level) for some, level in zip(frames.split(step), noise.split(step), strict=True)]
        h_hat, err_var = (torch.cat(pieces).to(y.device) for pieces in zip(*parts, strict=True))
        shape = (*batch, y.shape[-3], self._num_streams, *self._shape)
        return Estimate(h_hat.reshape(shape), err_var.reshape(shape))

    def _check_pilots(self) -> None:
        observation, seen = self._held[1], self._pilots_seen
        if observation is None or seen is None or torch.compiler.is_compiling():
            return
        now = torch.view_as_real(observation.pilots.detach()).to(seen)  # as the copy, which may have been cast with the module
        if not torch.equal(now, seen):
            raise InvalidValueError("pilots have changed since the Sionna estimator was built on them; build it again")

    def _chunk(self, y: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, no = y.to(self.sionna.device), no.to(self.sionna.device)
        if self._carriers is not None:  # Sionna leaves out the nulled carriers again
            full = y.new_zeros(*y.shape[:-1], int(self._carriers.max()) + 1)
            y = full.index_copy(-1, self._carriers.to(y.device), y)
        h_hat, err_var = self.sionna(y, no)
        return h_hat, torch.as_tensor(err_var, dtype=h_hat.real.dtype, device=h_hat.device).expand(h_hat.shape)

    def _step(self, y: torch.Tensor) -> int:
        """Frames at once: Sionna's LMMSE makes a filter for every frame, antenna, stream and symbol or subcarrier."""
        symbols, subcarriers = self._shape
        filters = symbols * subcarriers * max(symbols, subcarriers) * y.shape[-3] * self._num_streams
        return max(1, _CHUNK_BYTES // (4 * y.element_size() * filters))


# -- By name in ``wichan evaluate``. --


def _check_alone(observation: OFDMPilots, name: str) -> None:
    shared = (observation.pilots.detach() != 0).sum(dim=0) > 1
    if bool(shared.any()):
        raise InvalidValueError(
            f"{name}: {int(shared.sum())} pilot elements are shared by several antennas, which Sionna's OFDM estimators cannot "
            "tell apart; give one of its PUSCH estimators through as_baseline"
        )


def _ready(setting: Setting, name: str, make: Callable[[Any], Any], note: str) -> Built:
    from wichan.evaluation.baselines import Built

    sionna = require_sionna(f"estimator {name!r}")
    _check_alone(setting.observation, name)
    return Built(as_baseline(make, setting.observation), note=f"Sionna {sionna.__version__}, {note}")


def build_ls(setting: Setting) -> Built:
    """Sionna's ``LSChannelEstimator`` with linear interpolation."""

    def make(resource_grid: Any) -> Any:
        from sionna.phy.ofdm import LSChannelEstimator

        return LSChannelEstimator(
            resource_grid, interpolation_type="lin", precision=resource_grid.precision, device=resource_grid.device
        )

    return _ready(setting, "sionna-ls", make, "linear interpolation")


def build_lmmse(setting: Setting) -> Built:
    """Sionna's ``LMMSEChannelEstimator`` with what "lmmse-pooled" knows, as far as it can use it.

    It takes one covariance an axis, so it gets the marginals of the pooled covariance over frequency, time and (with several
    receive antennas) space, each with the channel's mean power on the diagonal. The order is frequency, time, space: time
    first, its default, is worse on pilots that are sparse in time. That is all the knowledge that "lmmse-kronecker" and
    "lmmse-separable" have; between antennas it smooths, but it does not estimate jointly.
    """
    require_sionna("estimator 'sionna-lmmse'")
    space, time, frequency = axis_covariances(setting.pooled.covariance)
    spatial = space.shape[0] > 1

    def make(resource_grid: Any) -> Any:
        from sionna.phy.ofdm import LMMSEChannelEstimator

        place = {"precision": resource_grid.precision, "device": resource_grid.device}
        covariances = [c.to(resource_grid.device, resource_grid.cdtype) for c in (time, frequency, space)]
        return LMMSEChannelEstimator(resource_grid, *covariances[: 2 + spatial], order="f-t-s" if spatial else "f-t", **place)

    order = "frequency, time, space" if spatial else "frequency, time"
    return _ready(setting, "sionna-lmmse", make, f"{order}; marginals of the pooled covariance: {setting.pooled.note}")


def axis_covariances(covariance: ChannelCovariance) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Covariances over receive antennas, times and subcarriers, each averaged over the other axes, complex128.

    The diagonal of each has the channel's mean power as its mean.
    """
    total = [torch.zeros(n, n, dtype=torch.complex128, device=covariance.device) for n in covariance.sizes]
    for term in covariance.terms:
        for axis, factor in enumerate(term.marginals()):
            total[axis] += factor @ factor.mH
    antennas, times, subcarriers = covariance.sizes
    pairs = total[0].unflatten(0, (covariance.num_rx_ant, -1)).unflatten(2, (covariance.num_rx_ant, -1))
    space = pairs.diagonal(dim1=1, dim2=3).sum(-1) / (covariance.num_tx_ant * times * subcarriers)
    return space, total[1] / (antennas * subcarriers), total[2] / (antennas * times)
