"""A wichan estimator in a Sionna link, where one of Sionna's stood."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_noise,
    check_tensor,
)
from wichan.integrations.sionna.layout import PRECISIONS, check_resource_grid, lattice_span, observation_of
from wichan.integrations.sionna.require import require_sionna
from wichan.observations.ofdm import OFDMPilots

ANTENNAS = ("auto", "joint", "separate")
_COMPLEX = {"single": torch.complex64, "double": torch.complex128}


def as_channel_estimator(
    estimator: Any, resource_grid: Any, *, antennas: str = "auto", device: str | None = None, precision: str | None = None
) -> Any:
    r"""Return a Sionna channel estimator that asks a wichan estimator.

    It stands wherever ``LSChannelEstimator`` or ``LMMSEChannelEstimator`` stood, also in
    ``PUSCHReceiver(transmitter, channel_estimator=...)``: called as ``h_hat, err_var = obj(y, no)`` with

    - y: complex, ``[batch_size, num_rx, num_rx_ant, num_ofdm_symbols, fft_size]``;
    - no: noise variance, a number (also an integer) or a tensor with the first axes of ``[batch_size, num_rx, num_rx_ant]``;
    - h_hat: complex, ``[batch_size, num_rx, num_rx_ant, num_tx, num_streams_per_tx, num_ofdm_symbols,
      num_effective_subcarriers]``; err_var: real, the same shape.

    All streams are estimated together from what all of them send, so the estimator must be built for as many transmit
    antennas, ``num_tx * num_streams_per_tx``: build it on `observation_of(resource_grid)`, or give a function that does.

    Unlike Sionna's own, the result is in the precision of ``y`` unless ``precision`` says otherwise, half precision is
    refused, and an answer of the estimator with a wrong shape, NaN or a negative variance is an error in one line.

    Args:
        estimator: a wichan `Estimator`, or any ``torch.nn.Module`` that answers ``(y, no)`` with ``(h_hat, err_var)`` in
            wichan's axes; or a function ``pilots -> estimator``, called once with `observation_of(resource_grid)`.
        resource_grid: ``sionna.phy.ofdm.ResourceGrid`` with pilots.
        antennas: "joint": the estimator is given all receive antennas of a receiver at once; "separate": one at a time;
            "auto": one at a time if it says that it was built for one (its attribute ``num_rx_ant``, or the covariance of
            LMMSE), together otherwise. An estimator for any number also gets them one at a time where ``no`` differs.
        device: device of inputs and outputs; default is that of the resource grid.
        precision: "single" or "double", to which inputs are cast; default: that of ``y``.

    Returns:
        An instance of a subclass of ``sionna.phy.ofdm.BaseChannelEstimator``; ``.estimator`` and ``.pilots`` are its parts.

    Raises:
        MissingDependencyError: no usable Sionna.
        InvalidTypeError, InvalidValueError, ShapeError: no estimator, an estimator of other pilots than those of the resource
            grid or for fewer streams, one that must be told more than ``no``, and in calls: inputs or answers that do not fit.

    Example:
        >>> import wichan as wc
        >>> from sionna.phy.ofdm import ResourceGrid
        >>> rg = ResourceGrid(14, 72, 15e3, pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11])
        >>> model = wc.channels.TDL("A", delay_spread=100e-9, max_doppler=100.0)
        >>> lmmse = as_channel_estimator(lambda pilots: wc.estimators.LMMSE(pilots, model.covariance(pilots.grid)), rg)
        >>> y = torch.randn(8, 1, 4, 14, 72, dtype=torch.complex64, generator=torch.Generator().manual_seed(7))
        >>> h_hat, err_var = lmmse(y, 0.1)
        >>> h_hat.shape, err_var.dtype
        (torch.Size([8, 1, 4, 1, 1, 14, 72]), torch.float32)
    """
    require_sionna("as_channel_estimator")
    check_resource_grid(resource_grid)
    check_choice("antennas", antennas, ANTENNAS)
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    pilots = observation_of(resource_grid)
    built = _built(estimator, pilots)
    _check_told(built)
    place = str(resource_grid.device) if device is None else str(device)
    _check_device(built, place)
    _check_pilots(built, pilots, resource_grid)
    return _adapter_class()(built, resource_grid, pilots, antennas, place, precision)


# -- The estimator, checked once. --


def _built(estimator: Any, pilots: OFDMPilots) -> Callable[..., Any]:
    if isinstance(estimator, OFDMPilots) or not callable(estimator):
        found = type(estimator).__name__
        raise InvalidTypeError(f"estimator must be an Estimator or a function pilots -> Estimator, got {found}")
    from sionna.phy.ofdm import BaseChannelEstimator

    if isinstance(estimator, BaseChannelEstimator):
        raise InvalidTypeError(f"estimator is Sionna's {type(estimator).__name__} already; it needs no adapter")
    if isinstance(estimator, torch.nn.Module):
        return estimator
    if not _takes_pilots(estimator):
        raise InvalidTypeError(
            "estimator must be an Estimator or a function of the pilots alone; a function (y, no) is given as: lambda pilots: f"
        )
    made = estimator(pilots)
    if not callable(made):
        raise InvalidTypeError(f"estimator(pilots) returned {type(made).__name__}; it must return an Estimator")
    return made


def _takes_pilots(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a built-in that does not say what it takes
        return True
    return True


def _check_told(estimator: Any) -> None:
    """A link hands over ``y`` and ``no`` alone: there is nobody who could tell true delay spreads."""
    told = getattr(estimator, "told", ())
    if isinstance(told, tuple) and told:
        raise InvalidValueError(
            f"estimator must be told {', '.join(map(str, told))}, which a Sionna link does not know; give "
            "wichan.estimators.WithEstimatedConditions(estimator, observation_of(resource_grid)), which estimates them"
        )


def _own_pilots(estimator: Any) -> OFDMPilots | None:
    for name in ("obs", "observation", "pilots"):
        value = getattr(estimator, name, None)
        if isinstance(value, OFDMPilots):
            return value
    return None


def _check_pilots(estimator: Any, pilots: OFDMPilots, resource_grid: Any) -> None:
    """Raise unless the estimator was made for the pilots of the resource grid (one that does not say is trusted)."""
    own = _own_pilots(estimator)
    if own is None:
        return
    advice = "build it on observation_of(resource_grid)"
    if own.num_tx_ant != pilots.num_tx_ant:
        streams = f"num_tx={resource_grid.num_tx} x num_streams_per_tx={resource_grid.num_streams_per_tx}"
        raise ShapeError(
            f"estimator is made for {own.num_tx_ant} transmit antenna(s), resource_grid has {pilots.num_tx_ant} "
            f"stream(s) ({streams}); {advice}"
        )
    if own.grid.shape != pilots.grid.shape:
        raise ShapeError(f"estimator is made for a grid of {own.grid.shape}, resource_grid has {pilots.grid.shape}; {advice}")
    mine, theirs = own.grid, pilots.grid
    if not math.isclose(mine.subcarrier_spacing, theirs.subcarrier_spacing, rel_tol=1e-9):
        pair = f"subcarrier_spacing={mine.subcarrier_spacing:g} Hz, resource_grid has {theirs.subcarrier_spacing:g} Hz"
        raise InvalidValueError(f"estimator is made for {pair}; {advice}")
    # Sionna counts the cyclic prefix in whole samples, so equal durations may differ by half of one.
    half_sample = 0.5 / (resource_grid.fft_size * theirs.subcarrier_spacing)
    if abs(mine.symbol_duration - theirs.symbol_duration) > half_sample * (1 + 1e-6):
        pair = f"symbol_duration={mine.symbol_duration:g} s, resource_grid has {theirs.symbol_duration:g} s"
        raise InvalidValueError(f"estimator is made for {pair}; {advice}")
    want = pilots.pilots.detach().cpu()
    have = own.pilots.detach().cpu().to(want.dtype)
    if not torch.equal(have != 0, want != 0):
        raise InvalidValueError(f"estimator is made for pilots at other elements than resource_grid has; {advice}")
    difference = float((have - want).abs().max())
    if difference > 1e-5 * float(want.abs().max()):
        raise InvalidValueError(
            f"estimator is made for other pilot values (up to {difference:.3g} away) than resource_grid has; {advice}"
        )


def _check_device(estimator: Any, device: str) -> None:
    tensors = [*estimator.parameters(), *estimator.buffers()] if isinstance(estimator, torch.nn.Module) else []
    for tensor in tensors:
        if tensor.device != torch.device(device):
            raise InvalidValueError(
                f"estimator is on {tensor.device}, device={device!r}; move it there first, as by .to({device!r})"
            )


def _antennas_of(estimator: Any) -> int | None:
    """Receive antennas that the estimator was built for; ``None`` if it does not say (any number)."""
    value = getattr(estimator, "num_rx_ant", None)
    if value is None:
        shape = getattr(estimator, "shape", None)  # of LMMSE: (rx, tx, symbols, subcarriers)
        value = shape[0] if isinstance(shape, tuple) and len(shape) == 4 else None
    return value if isinstance(value, int) else None


# -- One call. --


def _checked_input(y: Any, shape: tuple[int, int]) -> torch.Tensor:
    check_tensor("y", y, kind="complex")
    if y.dim() != 5 or tuple(y.shape[-2:]) != shape:
        raise ShapeError(f"y has shape {tuple(y.shape)}; it must be (batch_size, num_rx, num_rx_ant, {shape[0]}, {shape[1]})")
    return y


def _checked_noise(no: Any, y: torch.Tensor) -> torch.Tensor:
    """The noise variance as a real tensor that broadcasts to (batch_size, num_rx, num_rx_ant) from the left."""
    if isinstance(no, torch.Tensor) and no.dtype in (torch.float16, torch.bfloat16):
        raise InvalidTypeError(f"no has dtype {no.dtype}; allowed are single and double precision")
    return check_noise(no, y.shape[:3], dtype=y.real.dtype, device=y.device)


def _is_separate(antennas: str, built_for: int | None, num_rx_ant: int, per_antenna: bool) -> bool:
    """Whether the receive antennas go to the estimator one at a time."""
    if antennas == "auto" and built_for == 1 and num_rx_ant > 1:
        return True
    if antennas == "separate" and built_for in (None, 1):
        return True
    wanted = 1 if antennas == "separate" else num_rx_ant
    if built_for is not None and built_for != wanted:
        raise ShapeError(
            f"estimator is made for {built_for} receive antenna(s), y has {num_rx_ant} (antennas={antennas!r}); "
            "build it for as many, or for one"
        )
    if not per_antenna:
        return False
    if antennas == "auto" and built_for is None:
        return True
    raise InvalidValueError(
        f"no differs between the {num_rx_ant} receive antennas, which the estimator filters jointly; "
        "give one no for all of them, or an estimator for one antenna"
    )


def _run(
    estimator: Any, antennas: str, y: torch.Tensor, no: torch.Tensor, num_tx_ant: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ask the estimator, antennas together or one at a time; returns (B, R, A, streams, T, F) twice."""
    by_antenna = no.dim() == 3 and no.shape[2] > 1
    per_antenna = by_antenna and (torch.compiler.is_compiling() or bool((no != no[..., :1]).any()))
    separate = _is_separate(antennas, _antennas_of(estimator), y.shape[2], per_antenna)
    if separate:
        answer = estimator(y.unsqueeze(3), no)
        want = (*y.shape[:3], 1, num_tx_ant, *y.shape[3:])
    else:
        answer = estimator(y, no[..., 0] if no.dim() == 3 else no)
        want = (*y.shape[:3], num_tx_ant, *y.shape[3:])
    h_hat, err_var = _checked_answer(answer, want, y)
    return (h_hat.squeeze(3), err_var.squeeze(3)) if separate else (h_hat, err_var)


def _checked_answer(answer: Any, shape: tuple[int, ...], y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(answer, tuple) or len(answer) != 2 or not all(isinstance(part, torch.Tensor) for part in answer):
        found = f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__
        raise InvalidTypeError(f"estimator returned {found}; it must return the two tensors (h_hat, err_var)")
    kinds = {"h_hat": y.dtype, "err_var": y.real.dtype}
    for (name, kind), part in zip(kinds.items(), answer, strict=True):
        if part.dtype != kind:
            raise InvalidTypeError(f"estimator returned {name} of dtype {part.dtype}; for y of {y.dtype} it must be {kind}")
        if tuple(part.shape) != shape:
            raise ShapeError(f"estimator returned {name} of shape {tuple(part.shape)}; it must be {shape}")
        check_finite(f"estimator returned {name}, which", part)
    h_hat, err_var = answer
    if not torch.compiler.is_compiling() and err_var.numel() and float(err_var.detach().min()) < 0:
        raise InvalidValueError(f"estimator returned err_var={float(err_var.detach().min()):g}; a variance must be at least 0")
    return h_hat, err_var


@functools.cache
def _adapter_class() -> type:
    """The subclass of Sionna's base class; made when it is first wanted, since Sionna is imported only then."""
    from sionna.phy import Block
    from sionna.phy.ofdm import BaseChannelEstimator

    class WichanChannelEstimator(BaseChannelEstimator):
        """See `as_channel_estimator`."""

        def __init__(
            self, estimator: Any, resource_grid: Any, pilots: OFDMPilots, antennas: str, device: str, precision: str | None
        ) -> None:
            super().__init__(resource_grid, precision=precision, device=device)
            self._built = True
            self._dtype_wanted = None if precision is None else _COMPLEX[precision]
            self._input_shape = (int(resource_grid.num_ofdm_symbols), int(resource_grid.fft_size))
            self._streams = (int(resource_grid.num_tx), int(resource_grid.num_streams_per_tx))
            self._span, used = lattice_span(resource_grid)
            holes = len(used) < self._span.stop - self._span.start
            self.register_buffer("_used", torch.tensor(used, device=device) if holes else None, persistent=False)
            self.register_buffer("_seen", self._pilot_pattern.pilots.detach().clone(), persistent=False)
            self.antennas = antennas
            self.pilots = pilots
            self.estimator = estimator

        def __call__(self, y: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
            # Not Block's: it would cast half and double precision to its own without a word, and leave integers alone.
            return super(Block, self).__call__(y, no)

        def call(self, y: torch.Tensor, no: Any) -> tuple[torch.Tensor, torch.Tensor]:
            """Estimate the channel of all streams: (h_hat, err_var)."""
            y = _checked_input(y, self._input_shape)
            y = y.to(self.device, self._dtype_wanted)  # the device as Sionna's blocks do, the precision only where asked for
            noise = _checked_noise(no, y)
            if not torch.compiler.is_compiling() and not torch.equal(self._pilot_pattern.pilots, self._seen):
                raise InvalidValueError(
                    "pilots of resource_grid have changed since this channel estimator was made; make a new one"
                )
            parts = _run(self.estimator, self.antennas, y[..., self._span], noise, self._streams[0] * self._streams[1])
            if self._used is not None:
                parts = (parts[0].index_select(-1, self._used), parts[1].index_select(-1, self._used))
            return parts[0].unflatten(3, self._streams), parts[1].unflatten(3, self._streams)

    return WichanChannelEstimator
