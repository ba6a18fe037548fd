"""Training of a link through an IRS: pilots of the terminal under known reflection patterns of the surface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from wichan.channels.irs_geometry import array_response, num_elements
from wichan.channels.synthesis import phasors
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.nn.buffers import ComplexBuffer
from wichan.observations import snr
from wichan.observations.base import Observation, noisy
from wichan.observations.irs_training_patterns import given_or_made, irs_patterns, irs_pilots
from wichan.random import make_generator

if TYPE_CHECKING:
    from wichan.observations.irs_dictionary import IRSDictionary

MAX_DENSE = 1 << 27


class IRSTraining(Observation):
    r"""Pilots through a reconfigurable surface, seen by all antennas of the base station.

    .. math:: y_{kpbf} = \sum_m X_{mp}\, h_{bmkf} + n_{kpbf},\qquad
        h_{\cdot\cdot kf} = H_b \operatorname{diag}(\theta_k) H_a + H_d

    A block of training sends every pilot under every pattern. The channel is the cascade under each pattern (the patterns
    stand where other observations have OFDM symbols), and measurements are flattened in the order pattern, pilot, antenna
    of the base station, subcarrier, the last one fastest. Patterns and pilots are constants of the observation, fixed by
    ``seed``. The SNR convention is "dense": E||A h||^2 / (M no).

    Args:
        irs: the link, a `wichan.channels.IRSCascade`.
        num_pilots: P, pilot vectors under each pattern.
        num_patterns: K.
        patterns: ``"random"`` (+-1), ``"dft"``, ``"hadamard"`` (see `irs_patterns`), or a matrix (K, L).
        pilots: ``"qpsk"``, ``"dft"`` (see `irs_pilots`), or a matrix (Nms, P); a pilot vector has power 1.
        frequencies: subcarriers relative to the carrier, real [Hz], (F,); default one, at the carrier.
        pattern_duration: time from one pattern to the next [s], for draws with Doppler; a channel stands still under a
            pattern.
        seed: fixes random patterns and pilots.

    Attributes:
        irs, num_pilots, num_patterns, num_irs_elements, has_direct: of the link and the training.
        patterns: complex, (K, L).
        pilots: complex, (Nms, P).
        frequencies: real [Hz], (F,).
        channel_shape: (Nbs, Nms, K, F).
        measurement_shape: (K, P, Nbs, F).
        pilot_uses: K P.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: another link, a count below 1, an unknown name, a matrix of another
            shape or with NaN.

    Source: [He2024]_.

    Example:
        >>> from wichan.channels import IRSCascade
        >>> obs = IRSTraining(IRSCascade(2, 16, 4), num_pilots=2, num_patterns=8)
        >>> obs.channel_shape, obs.num_measurements
        ((4, 2, 8, 1), 64)
    """

    snr_convention = "dense"
    patterns = ComplexBuffer()
    pilots = ComplexBuffer()
    frequencies: torch.Tensor

    def __init__(
        self,
        irs: Any,
        num_pilots: int,
        num_patterns: int,
        *,
        patterns: str | torch.Tensor = "random",
        pilots: str | torch.Tensor = "qpsk",
        frequencies: torch.Tensor | None = None,
        pattern_duration: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not all(hasattr(irs, name) for name in ("ms_shape", "irs_shape", "bs_shape", "direct", "max_amplitude")):
            raise InvalidTypeError(f"irs must be a wichan.channels.IRSCascade, got {type(irs).__name__}")
        self.irs = irs
        self.num_pilots = check_int("num_pilots", num_pilots, minimum=1)
        self.num_patterns = check_int("num_patterns", num_patterns, minimum=1)
        self.pattern_duration = check_real("pattern_duration", pattern_duration, minimum=0.0)
        self.seed = check_int("seed", seed, minimum=0)
        self.num_irs_elements = num_elements(irs.irs_shape)
        self.has_direct = bool(irs.direct)
        num_ms, num_bs = num_elements(irs.ms_shape), num_elements(irs.bs_shape)
        self.register_buffer("frequencies", _check_frequencies(frequencies))
        count, elements = self.num_patterns, self.num_irs_elements

        def make_patterns(kind: str) -> torch.Tensor:
            source = make_generator(self.seed, "irs", "patterns")
            return irs_patterns(count, elements, kind, generator=source, direct=self.has_direct)

        def make_pilots(kind: str) -> torch.Tensor:
            return irs_pilots(num_ms, self.num_pilots, kind, generator=make_generator(self.seed, "irs", "pilots"))

        self.patterns = given_or_made("patterns", patterns, (count, elements), make_patterns)
        largest = float(self.patterns.abs().max())
        if largest > irs.max_amplitude * (1 + 1e-4):
            raise InvalidValueError(
                f"patterns holds a modulus of {largest:g}; it must be at most {irs.max_amplitude:g}, the link's max_amplitude"
            )
        self.pilots = given_or_made("pilots", pilots, (num_ms, self.num_pilots), make_pilots)
        self.channel_shape = (num_bs, num_ms, count, self.num_subcarriers)
        self.measurement_shape = (count, self.num_pilots, num_bs, self.num_subcarriers)
        self.num_measurements = math.prod(self.measurement_shape)
        self.pilot_uses = count * self.num_pilots

    @property
    def num_subcarriers(self) -> int:
        """F, 1 for a narrow band."""
        return int(self.frequencies.numel())

    @property
    def times(self) -> torch.Tensor:
        """Time of every pattern [s], float64 (K,)."""
        return torch.arange(self.num_patterns, dtype=torch.float64) * self.pattern_duration

    def channel(self, draw: Any) -> torch.Tensor:
        r"""Cascades of a draw under the training patterns: complex (\*batch, Nbs, Nms, K, F)."""
        h: torch.Tensor = self.irs.response(draw, self.times, self.frequencies.cpu(), reflection=self.patterns)
        return h

    def _channels(self, h: Any) -> torch.Tensor:
        return h if isinstance(h, torch.Tensor) else self.channel(h)

    def project(self, h: torch.Tensor) -> torch.Tensor:
        r"""Pilots applied: (\*batch, Nbs, Nms, K, F) to (\*batch, M). Cost: 8 Nms FLOP a measurement."""
        check_shape("h", check_tensor("h", h, kind="complex"), self.channel_shape)
        received = torch.einsum("mp,...bmkf->...kpbf", self.pilots.to(h.dtype), h)
        return received.flatten(-4)

    def apply(self, h: Any) -> Any:
        """`project` for a tensor; for a function `torch.nn.Module.apply`, so that weight initialisers still pass through."""
        return self.project(h) if isinstance(h, torch.Tensor) else super().apply(h)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        r"""The adjoint of `project`: (\*batch, M) to (\*batch, Nbs, Nms, K, F)."""
        check_shape("y", check_tensor("y", y, kind="complex"), (self.num_measurements,))
        received = y.unflatten(-1, self.measurement_shape)
        return torch.einsum("mp,...kpbf->...bmkf", self.pilots.to(y.dtype).conj(), received)

    def extract(self, y: torch.Tensor) -> torch.Tensor:
        r"""Everything is observed: returns ``y`` (\*batch, M) after a shape check."""
        return check_shape("y", y, (self.num_measurements,))

    def matrix(self) -> torch.Tensor:
        """The matrix from flattened channels to measurements, complex (M, Nbs Nms K F): for tests and dense estimators.

        Raises:
            InvalidValueError: more than 2^27 entries.
        """
        columns = math.prod(self.channel_shape)
        if self.num_measurements * columns > MAX_DENSE:
            raise InvalidValueError(
                f"the matrix would have {self.num_measurements} x {columns} entries; at most {MAX_DENSE} are allowed"
            )
        basis = torch.eye(columns, dtype=self.pilots.dtype, device=self.pilots.device)
        return self.project(basis.unflatten(-1, self.channel_shape)).mT

    def noiseless(self, h: Any) -> torch.Tensor:
        r"""Measurements without noise of channels or of a draw, (\*batch, M); differentiable in channels."""
        return self.project(self._channels(h))

    def observe(self, h: Any, no: Any, *, generator: torch.Generator) -> torch.Tensor:
        r"""Noisy measurements.

        Args:
            h: channels, complex (\*batch, Nbs, Nms, K, F), or a draw of the link.
            no: noise variance per measurement, a number or a tensor over the leading batch axes.
            generator: source of the noise, drawn on its device.

        Returns:
            y: complex as the channels, (\*batch, M).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: real or half-precision ``h``, NaN, wrong shape, negative ``no``.
        """
        signal = check_finite("h", self.noiseless(h))
        return noisy(signal, no, generator)

    # -- Power. --

    @property
    def signal_power(self) -> float:
        """||X||_F^2 / P, 1 for the pilots made here: E||A h||^2 / M for uncorrelated channel elements of unit power."""
        return float(self.pilots.detach().abs().square().sum()) / self.num_pilots

    def no_from_snr_db(self, snr_db: Any, *, mean_power: float | None = None) -> Any:
        """Noise variance for E||A h||^2/(M no) [dB]; ``mean_power`` of the channels is by default that of the link.

        A surface of L elements adds up L powers, so that the link's mean power is L where both hops have unit gain.
        """
        return snr.no_from_snr_db(snr_db, "dense", self, mean_power=self._power(mean_power))

    def snr_db_from_no(self, no: Any, *, mean_power: float | None = None) -> Any:
        """SNR [dB] of a noise variance under the convention "dense"; the inverse of `no_from_snr_db`."""
        return snr.snr_db_from_no(no, "dense", self, mean_power=self._power(mean_power))

    def _power(self, mean_power: float | None) -> float:
        return float(self.irs.mean_power()) if mean_power is None else mean_power

    # -- Structure. --

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of the Kronecker structure: ``"irs"``, ``"ms"``, ``"bs"``, and ``"delay"`` where there are subcarriers."""
        return ("irs", "ms", "bs") if self.num_subcarriers == 1 else ("irs", "ms", "bs", "delay")

    def response(self, axis: str, u: torch.Tensor) -> torch.Tensor:
        r"""Responses along one axis to waves of any coordinate; differentiable.

        Args:
            axis: one of `axes`.
            u: real. Direction cosines, (\*, n) of a linear array and (\*, n, 2) of a planar one, 2-periodic; at the surface
                the sum of arriving and departing cosine. For ``"delay"`` the delay of the cascade [s], (\*, n).

        Returns:
            complex, (\*, C, n) with C = L, Nms, Nbs or F.
        """
        check_choice("axis", axis, self.axes)
        check_finite("u", check_tensor("u", u, kind="real"))
        dtype = torch.complex128 if u.dtype == torch.float64 else torch.complex64
        if axis == "delay":
            return phasors(-u, self.frequencies, dtype).mT
        shape = {"irs": self.irs.irs_shape, "ms": self.irs.ms_shape, "bs": self.irs.bs_shape}[axis]
        if len(shape) == 2 and (u.dim() < 2 or u.shape[-1] != 2):
            raise ShapeError(f"u has shape {tuple(u.shape)}; the planar axis {axis!r} asks for (*, n, 2)")
        return array_response(u if len(shape) == 2 else u.unsqueeze(-1), shape, dtype).mT

    def atoms(self, axis: str, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Columns of a dictionary's factor at any coordinate, on its grid or between; differentiable.

        Args:
            axis, u: as in `response`.

        Returns:
            ``(measurement, channel)``: what a unit coefficient adds to measurements, (\*, K, P, Nbs or F, n) along that axis,
            and to the channel, (\*, K, Nms, Nbs or F, n).
        """
        response = self.response(axis, u)
        if axis == "irs":
            seen = self.patterns.to(response.dtype) @ response
            return seen, seen
        return (self.pilots.to(response.dtype).mT @ response if axis == "ms" else response), response

    def dictionary(
        self, grid: int | Mapping[str, Any] = 18, *, direct: bool | None = None, delays: int | torch.Tensor | None = None
    ) -> IRSDictionary:
        """The Kronecker dictionary of a grid of directions; arguments as for `IRSDictionary`."""
        from wichan.observations.irs_dictionary import IRSDictionary

        return IRSDictionary(self, grid, direct=direct, delays=delays)

    def extra_repr(self) -> str:
        return f"num_patterns={self.num_patterns}, num_pilots={self.num_pilots}, channel_shape={self.channel_shape}"


def _check_frequencies(frequencies: Any) -> torch.Tensor:
    if frequencies is None:
        return torch.zeros(1, dtype=torch.float64)
    check_finite("frequencies", check_tensor("frequencies", frequencies, kind="real"))
    if frequencies.dim() != 1 or not frequencies.numel():
        raise ShapeError(f"frequencies has shape {tuple(frequencies.shape)}; it must be (F,) with F at least 1")
    values: torch.Tensor = frequencies.to(torch.float64)
    if values.unique().numel() < values.numel():
        raise InvalidValueError("frequencies holds the same value twice; every subcarrier must have its own")
    return values
