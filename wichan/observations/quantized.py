"""Dense pilots seen through coarse converters: r = Q(A h + n)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import (
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_noise,
    check_shape,
    check_tensor,
)
from wichan.nn.buffers import ComplexBuffer
from wichan.observations import snr
from wichan.observations.base import Observation
from wichan.observations.dense import DensePilots
from wichan.observations.quantizer_bank import ConverterBank
from wichan.observations.quantizer_statistics import bussgang_gain, output_power


def pilot_sequence(num_pilots: int, kind: str = "angle_amp") -> torch.Tensor:
    r"""Pilots of one transmit antenna for coarse converters.

    .. math:: x_p \propto a_p\, e^{j\frac\pi2\frac pP},\qquad \lVert x\rVert^2 = P

    A complex sign commutes with rotations by a quarter turn, so angles fill one quarter.

    Args:
        num_pilots: P.
        kind: ``"angle_amp"``, amplitudes a_p from 0.5 to 1 in equal steps; ``"angle"``, a_p = 1; ``"ones"``, x_p = 1.

    Returns:
        complex128, (num_pilots,).

    Example:
        >>> pilot_sequence(2, "angle").angle().tolist()
        [0.0, 0.7853981633974483]
    """
    count = check_int("num_pilots", num_pilots, minimum=1)
    check_choice("kind", kind, ("angle_amp", "angle", "ones"))
    if kind == "ones":
        return torch.ones(count, dtype=torch.complex128)
    angle = (math.pi / 2) * torch.arange(count, dtype=torch.float64) / count
    amplitude = torch.linspace(0.5, 1.0, count, dtype=torch.float64) if kind == "angle_amp" else torch.ones_like(angle)
    return torch.polar(amplitude * (count / amplitude.square().sum()).sqrt(), angle)


class QuantizedPilots(Observation):
    r"""Linear measurements of a flattened channel behind coarse converters.

    .. math:: r = Q(A h + n),\qquad n \sim \mathcal{CN}\big(0, (\mathrm{no} + \mathrm{dither\_power})\, I_M\big)

    Q quantises every real and imaginary part by itself (`Quantizer`). Before it, a gain control that knows ``input_power``
    and ``no``, but not the sample, sets all converters to the standard deviation
    :math:`\sqrt{(\mathrm{input\_power} + \mathrm{no} + \mathrm{dither\_power})/2}` of a real part. The SNR convention is
    "quantised": 1/no for antennas of unit power.

    The statistics of r for circular Gaussian y = A h + n are what linear estimators need: `bussgang_gain`, `output_power`,
    `output_covariance`.

    Args:
        matrix: A, complex, (M, N).
        num_bits: resolution of the converters, 1 to 12 or ``math.inf``; a sequence of M of them for mixed resolution.
        kind: ``"uniform"`` or ``"lloyd-max"``.
        channel_shape: trailing axes of ``h`` that are flattened into N (row-major); default (N,).
        input_power: E|y_m|^2 without noise that the gain control assumes; default :math:`\lVert A\rVert_F^2/M`, right for
            uncorrelated channel elements of unit power.
        dither_power: variance of Gaussian dither that is added before the converters and not subtracted afterwards. At high
            SNR it takes the place of the noise without which one bit loses the amplitude of the channel.

    Attributes:
        linear: the `DensePilots` before the converters.
        pilots: complex, (num_tx_ant, P), where `from_sequence` made the matrix; else ``None``.

    Raises:
        ShapeError, InvalidTypeError, InvalidValueError: a matrix that is not (M, N) and finite, another number of
            resolutions than rows, a resolution that is not allowed, a power that is not positive.

    Source: [Fesl2024]_ (system model), [Li2017]_ (one bit).

    Example:
        >>> obs = QuantizedPilots.from_sequence(pilot_sequence(2), num_rx_ant=4, num_bits=3)
        >>> h = torch.ones(5, 4, dtype=torch.complex128)
        >>> obs.observe(h, obs.no_from_snr_db(10.0), generator=torch.Generator().manual_seed(7)).shape
        torch.Size([5, 8])
    """

    snr_convention = "quantised"
    _sent = ComplexBuffer(persistent=False)  # X, (0, 0) where the matrix was given

    def __init__(
        self,
        matrix: torch.Tensor,
        num_bits: int | float | Sequence[int | float] = 1,
        *,
        kind: str = "uniform",
        channel_shape: Sequence[int] | None = None,
        input_power: float | None = None,
        dither_power: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = DensePilots(matrix, channel_shape)
        self.channel_shape = self.linear.channel_shape
        self.num_measurements = self.linear.num_measurements
        self.kind = kind
        power = self.linear.signal_power if input_power is None else input_power
        self.converters = ConverterBank(self.num_measurements, num_bits, kind, power, dither_power)
        self.num_bits = self.converters.num_bits
        self.input_power = self.converters.input_power
        self.dither_power = self.converters.dither_power
        self.is_linear = self.converters.is_linear
        self.is_identity = self._has_identity()
        self._sent = self.linear.dense.new_zeros(0, 0)

    def _has_identity(self) -> bool:
        matrix = self.linear.dense.detach()
        rows, columns = matrix.shape
        return rows == columns and bool(torch.equal(matrix, torch.eye(rows, dtype=matrix.dtype, device=matrix.device)))

    @classmethod
    def from_sequence(cls, pilots: torch.Tensor, num_rx_ant: int, num_bits: Any = 1, **options: Any) -> QuantizedPilots:
        r"""Pilots that are sent one after the other, each received by all antennas.

        .. math:: y_p = H x_p + n_p,\qquad A = X^{\mathsf T} \otimes I_{N_r}

        with the columns of A ordered for h = (num_rx_ant, num_tx_ant), row-major, and measurements pilot by pilot: row
        ``p * num_rx_ant + r``.

        Args:
            pilots: complex, (P,) of one transmit antenna, or X (num_tx_ant, P).
            num_rx_ant: receive antennas.
            num_bits: as for the class; mixed resolution has an entry for each of P num_rx_ant rows.
            options: further arguments of the class. ``channel_shape`` defaults to (num_rx_ant,) for pilots (P,) and to
                (num_rx_ant, num_tx_ant) for a matrix.

        Raises:
            ShapeError, InvalidTypeError, InvalidValueError: pilots of another shape, real or not finite.
        """
        check_finite("pilots", check_tensor("pilots", pilots, kind="complex"))
        if pilots.dim() not in (1, 2) or 0 in pilots.shape:
            raise ShapeError(f"pilots has shape {tuple(pilots.shape)}; it must be (P,) or (num_tx_ant, P)")
        rx = check_int("num_rx_ant", num_rx_ant, minimum=1)
        sent = pilots if pilots.dim() == 2 else pilots[None]
        eye = torch.eye(rx, dtype=sent.dtype, device=sent.device)
        matrix = torch.einsum("tp,rs->prst", sent, eye).reshape(sent.shape[1] * rx, rx * sent.shape[0])
        options.setdefault("channel_shape", (rx,) if pilots.dim() == 1 else (rx, sent.shape[0]))
        obs = cls(matrix, num_bits, **options)
        obs._sent = sent
        return obs

    @property
    def pilots(self) -> torch.Tensor | None:
        """X, complex, (num_tx_ant, P), where `from_sequence` made the matrix; else ``None``."""
        return self._sent if self._sent.numel() else None

    # -- The observation. --

    def matrix(self) -> torch.Tensor:
        """The matrix A, (M, N)."""
        return self.linear.matrix()

    def project(self, h: torch.Tensor) -> torch.Tensor:
        r"""A h, what arrives without noise and before the converters: (\*batch, \*channel_shape) to (\*batch, M)."""
        return self.linear.project(h)

    def adjoint(self, x: torch.Tensor) -> torch.Tensor:
        r"""A^H x: (\*batch, M) to (\*batch, \*channel_shape)."""
        return self.linear.adjoint(x)

    def extract(self, y: torch.Tensor) -> torch.Tensor:
        r"""Everything is observed: returns ``y`` (\*batch, M) after a shape check."""
        return self.linear.extract(y)

    def noise_power(self, no: Any) -> Any:
        """Variance of noise and dither together: no + dither_power; a number or a tensor, as ``no``."""
        return self.converters.noise_power(no)

    def scale(self, no: Any) -> Any:
        """Standard deviation of a real part that the converters are set to; a number or a tensor, as ``no``."""
        return self.converters.scale(no)

    def quantize(self, y: torch.Tensor, no: Any) -> torch.Tensor:
        r"""What the converters make of received samples.

        Args:
            y: complex, (\*batch, M), noise included.
            no: noise variance that the gain control knows, a number or a tensor over the leading batch axes.

        Returns:
            r: complex as ``y``, (\*batch, M). The gradient is straight-through.
        """
        check_finite("y", check_shape("y", check_tensor("y", y, kind="complex"), (self.num_measurements,)))
        return self.converters(y, check_noise(no, y.shape[:-1], dtype=y.real.dtype, device=y.device))

    def noiseless(self, h: torch.Tensor) -> torch.Tensor:
        r"""Q(A h) without noise and dither, (\*batch, M); the gradient is straight-through."""
        return self.quantize(self.linear.noiseless(h), 0.0)

    def observe(self, h: torch.Tensor, no: Any, *, generator: torch.Generator) -> torch.Tensor:
        r"""Quantised noisy measurements.

        Args:
            h: complex, (\*batch, \*channel_shape).
            no: noise variance per measurement, a number or a tensor over the leading batch axes.
            generator: source of noise and dither, drawn on its device.

        Returns:
            r: complex as ``h``, (\*batch, M).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: real or half-precision ``h``, NaN, wrong shape, negative ``no``.
        """
        check_shape("h", check_tensor("h", h, kind="complex"), self.channel_shape)
        lead = h.shape[: h.dim() - len(self.channel_shape)]
        no = check_noise(no, lead, dtype=h.real.dtype, device=h.device)
        # Noise and dither are both white and Gaussian: one draw of their sum.
        return self.converters(self.linear.observe(h, no + self.dither_power, generator=generator), no)

    # -- Power. --

    @property
    def signal_power(self) -> float:
        """||A||_F^2 / M: E||A h||^2 / M for uncorrelated channel elements of unit power."""
        return self.linear.signal_power

    def no_from_snr_db(self, snr_db: Any, *, mean_power: float = 1.0) -> Any:
        """Noise variance for E|h|^2/no [dB]; number in, number out, tensor in, tensor out. The dither does not count."""
        return snr.no_from_snr_db(snr_db, "quantised", self, mean_power=mean_power)

    def snr_db_from_no(self, no: Any, *, mean_power: float = 1.0) -> Any:
        """SNR [dB] of a noise variance under the convention "quantised"."""
        return snr.snr_db_from_no(no, "quantised", self, mean_power=mean_power)

    # -- Statistics for circular Gaussian y. --

    def bussgang_gain(self, variance: torch.Tensor, no: Any) -> torch.Tensor:
        r"""Gains b of the Bussgang decomposition: r_m = b_m y_m + q_m with E[q y^H] = 0, so E[r y^H] = diag(b) C_y.

        Args:
            variance: E|y_m|^2, noise and dither included, real, (\*batch, M). Variances below 1e-12 ``input_power`` are
                raised to that.
            no: noise variance that the gain control knows, a number or a tensor over the leading axes.

        Returns:
            real, (\*batch, M); 1 for infinite resolution. Differentiable. Cost: 2^(B-1) exponentials a measurement.
        """
        return self.converters.statistic(bussgang_gain, check_tensor("variance", variance, kind="real"), no)

    def output_power(self, variance: torch.Tensor, no: Any) -> torch.Tensor:
        r"""E|r_m|^2, real, (\*batch, M): the diagonal of the covariance of r; arguments as for `bussgang_gain`."""
        return self.converters.statistic(output_power, check_tensor("variance", variance, kind="real"), no)

    def input_covariance(self, cov_h: torch.Tensor, no: Any) -> torch.Tensor:
        r"""Covariance of what enters the converters, A C A^H + (no + dither_power) I: complex, (\*batch, M, M).

        Args:
            cov_h: C, complex, (\*batch, N, N).
            no: noise variance, a number or a tensor over the leading axes.
        """
        columns = self.linear.dense.shape[1]
        check_shape("cov_h", check_tensor("cov_h", cov_h, kind="complex"), (columns, columns))
        matrix = self.linear.dense.to(cov_h.device, cov_h.dtype)
        cov = cov_h if self.is_identity else matrix @ cov_h @ matrix.mH
        noise = self.converters.aligned(no, cov.shape[:-2], cov) + self.dither_power
        return cov + noise[..., None, None] * torch.eye(self.num_measurements, dtype=cov.dtype, device=cov.device)

    def output_covariance(self, cov_y: torch.Tensor, no: Any, method: str = "exact") -> torch.Tensor:
        r"""Covariance of r.

        * ``"exact"``: the arcsine law for one bit, otherwise moments of two Gaussians behind the converters, within 1e-9 of
          the input power (`wichan.observations.quantizer_moments`); computed in double precision whatever comes.
        * ``"white"``: distortion that is white, :math:`b_i [C_y]_{ij} b_j` off the diagonal of E|r|^2. It is positive
          definite and makes filters within 4 % of the exact error, but must not predict errors: for correlated channels of
          few bits it promises far less than comes.
        * ``"scaled"``: :math:`\beta^2 C_y + (1-\beta^2)\operatorname{diag} C_y` with one :math:`\beta`, the mean gain in
          [0, 1]; the coarsest, kept since published results use it.

        Args:
            cov_y: Hermitian, complex, (\*batch, M, M), of what enters the converters: noise and dither included.
            no: noise variance that the gain control knows, a number or a tensor over the leading axes.
            method: see above. With infinite resolution all are ``cov_y``.

        Returns:
            C_r: Hermitian, complex as ``cov_y``, (\*batch, M, M). It has first derivatives in ``cov_y`` and ``no``; for them
            correlations are kept 1e-7 away from 1.

        Raises:
            UnknownNameError, ShapeError, InvalidTypeError, InvalidValueError: unknown method, another shape, a real tensor,
                NaN, a negative variance.

        Cost: one bit, 2 arcsines an entry. Several bits where measurements have one variance (Toeplitz covariances): a table
        for each batch item and a look-up for each entry. Several bits with variances that differ: 20 (SNR 0 dB) to 500
        (20 dB) multiplications for each real part, whatever B is, and some 50 4^(B-1) exponentials more for the few entries
        with a correlation beyond 0.95 to 0.997: from 7 bits and 25 dB on "white" is the better choice. Memory beyond input and
        output stays below 300 MB for M up to 1000, unless a gradient is asked for.
        """
        return self.converters.covariance(check_tensor("cov_y", cov_y, kind="complex"), no, method)

    def extra_repr(self) -> str:
        bits = self.num_bits if not isinstance(self.num_bits, tuple) else "mixed"
        return f"num_bits={bits}, kind={self.kind!r}, dither_power={self.dither_power:g}"
