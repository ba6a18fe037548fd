r"""What an estimate of a reflected channel is worth: error of each pattern, support, symbol errors, spectral efficiency.

Channels of an IRS are (n, num_rx_ant, num_tx_ant, num_patterns, num_subcarriers): one matrix :math:`G_k` a training pattern
and subcarrier. Data go over the dominant singular pair :math:`(\hat u, \hat v)` of the *estimated* matrix, so that the link is
one complex gain,

.. math:: r = g s + w,\qquad g = \hat u^H G \hat v,\qquad \hat g = \hat u^H \hat G \hat v = \sigma_1(\hat G) \ge 0,
    \qquad w \sim \mathcal{CN}(0, \mathrm{no}) .

The receiver believes in :math:`\hat g`. Everything here is exact given the channel: no symbol is drawn.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.errors import (
    InvalidTypeError,
    ShapeError,
    check_finite,
    check_noise,
    check_real,
    check_tensor,
)

_AXES = ("num_rx_ant", "num_tx_ant", "num_patterns", "num_subcarriers")
_LEAST_NOISE = 1e-290


class BeamGains(NamedTuple):
    r"""The link over the beams of an estimate.

    Attributes:
        gain: complex128, (\*batch, num_patterns, num_subcarriers): :math:`\hat u^H G \hat v`, what the link does.
        expected: float64, same shape: :math:`\sigma_1(\hat G)`, what the receiver expects; 0 where the estimate is 0.
    """

    gain: torch.Tensor
    expected: torch.Tensor


def nmse_per_pattern(h_hat: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    r"""Mean over patterns of :math:`\|\hat G_k - G_k\|_F^2 / \|G_k\|_F^2`, channel by channel: the published figure.

    A pattern that happens to cancel the channel counts as much as any other, which makes it larger than the ratio of sums.

    Args:
        h_hat: estimates, complex, (\*batch, num_rx_ant, num_tx_ant, num_patterns, num_subcarriers).
        h: channels, the same shape.

    Returns:
        float64, (\*batch). Patterns without energy are left out; NaN where no pattern has any.

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: tensors that are no such pair, or not finite.

    Source: [He2024]_, as its published code computes it.
    """
    truth, estimate = _pair(h, h_hat)
    error, energy = (_squared(x).sum(dim=(-4, -3, -1)) for x in (estimate - truth, truth))
    heard = energy > 0
    ratio = torch.where(heard, error / energy.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return ratio.sum(dim=-1) / heard.sum(dim=-1)


def support_recovery_rate(coefficients: torch.Tensor, support: torch.Tensor, threshold: float = 1e-4) -> torch.Tensor:
    r"""Jaccard index of the found and the true support, :math:`|\hat S \cap S| / |\hat S \cup S|`.

    .. math:: \hat S = \{i : |\hat x_i| > \delta \max_j |\hat x_j|\}

    Args:
        coefficients: :math:`\hat x`, real or complex, (\*batch, \*num_atoms).
        support: bool, the same shape: where the true coefficients are not 0.
        threshold: :math:`\delta`, from 0 to below 1.

    Returns:
        float64, (\*batch of ``support`` up to its first axis): (n,) for (n, N1, ..., NI). 1 where both sets are empty.

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: tensors that are no such pair, or not finite.

    Source: [He2024]_; 1e-3 for synthetic data and 1e-4 for IRS channels there.
    """
    check_finite("coefficients", check_tensor("coefficients", coefficients))
    threshold = check_real("threshold", threshold, minimum=0.0, maximum=1 - 1e-12)
    if not isinstance(support, torch.Tensor) or support.dtype != torch.bool:
        kind = support.dtype if isinstance(support, torch.Tensor) else type(support).__name__
        raise InvalidTypeError(f"support must be a bool torch.Tensor, got {kind}")
    if coefficients.shape != support.shape or support.dim() < 2:
        shapes = f"{tuple(coefficients.shape)} and {tuple(support.shape)}"
        raise ShapeError(f"coefficients and support have shapes {shapes}; both must be (n, N1, ..., NI)")
    size = coefficients.abs().flatten(1)
    # Above, not at: coefficients that are all 0 find nothing, whatever the threshold.
    found = size > threshold * size.amax(dim=1, keepdim=True)
    truth = support.to(size.device).flatten(1)
    both, either = (members.sum(dim=1).double() for members in (found & truth, found | truth))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def beam_gains(h: torch.Tensor, h_hat: torch.Tensor) -> BeamGains:
    r"""Gain of the dominant singular pair of each estimated matrix, on the true channel and as the estimate has it.

    Args:
        h: channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_patterns, num_subcarriers).
        h_hat: their estimates, the same shape; ``h`` itself gives the receiver that knows the channel.

    Returns:
        `BeamGains`. An estimate of 0 has no beam: its gains are 0.

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: tensors that are no such pair, or not finite.

    Cost: one Hermitian eigenproblem of the smaller antenna number for each matrix.
    """
    truth, estimate = (x.movedim((-4, -3), (-2, -1)) for x in _pair(h, h_hat))
    wide = estimate.shape[-1] > estimate.shape[-2]
    matrix = estimate.mH if wide else estimate
    # The Gram matrix of the matrix over its largest entry: squares of weak channels would vanish otherwise.
    scale = matrix.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    near = torch.linalg.eigh((matrix / scale).mH @ (matrix / scale)).eigenvectors[..., -1:]
    far = matrix @ near
    expected = torch.linalg.vector_norm(far, dim=-2, keepdim=True)
    far = far / expected.clamp_min(torch.finfo(torch.float64).tiny)
    u, v = (near, far) if wide else (far, near)
    silent = expected == 0
    gain = torch.where(silent, 0.0, u.mH @ truth @ v)
    return BeamGains(gain[..., 0, 0], expected[..., 0, 0])


def qpsk_symbol_error_rate(gain: torch.Tensor, no: Any, expected: torch.Tensor | None = None) -> torch.Tensor:
    r"""Exact symbol error rate of QPSK over :math:`r = g s + w` where the receiver expects the gain :math:`\hat g`.

    Minimum distance to :math:`\hat g s` decides by the signs of :math:`r e^{-j \arg \hat g}`. A wrong phase
    :math:`\psi = \arg(g / \hat g)` turns the constellation; real and imaginary part have independent noise of variance no/2:

    .. math:: \mathrm{SER} = 1 - (1 - Q(a))(1 - Q(b)),\quad
        a = \sqrt{\tfrac{2}{\mathrm{no}}}\,|g| \cos(\psi + \tfrac{\pi}{4}),\quad
        b = \sqrt{\tfrac{2}{\mathrm{no}}}\,|g| \sin(\psi + \tfrac{\pi}{4}),

    the same for all four symbols. The modulus of :math:`\hat g` does not matter.

    Args:
        gain: :math:`g`, complex, (\*batch).
        no: noise variance, a number or real, first axes of the batch; 0 is the limit without noise.
        expected: :math:`\hat g`, real or complex, (\*batch); default: one with the phase 0. A gain of 0 is a guess.

    Returns:
        float64, (\*batch), from 0 to 1.

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: tensors that do not fit or are not finite, a negative variance.

    Source: [Proakis2008]_, with the rotation carried through.
    """
    check_finite("gain", check_tensor("gain", gain, kind="complex"))
    seen = gain.to(torch.complex128)
    if expected is not None:
        check_finite("expected", check_tensor("expected", expected))
        if expected.shape != gain.shape:
            raise ShapeError(f"expected has shape {tuple(expected.shape)}; gain has {tuple(gain.shape)}")
        believed = expected.to(seen)
        # Only its phase: without one there is no decision but a guess.
        seen = seen * torch.where(believed == 0, 0.0, torch.exp(-1j * believed.angle()))
    noise = check_noise(no, seen.shape, dtype=torch.float64, device=seen.device)
    # No noise is a very small one: 0 / 0 would be NaN where a decision is a toss.
    level = (noise / 2).clamp_min(_LEAST_NOISE).sqrt()
    a, b = ((seen.real - seen.imag) / level * 0.5**0.5, (seen.real + seen.imag) / level * 0.5**0.5)
    # Q(a) + Q(b) - Q(a) Q(b): without the cancellation of 1 - (1 - Q(a)) (1 - Q(b)) where errors are rare.
    wrong = _tail(a)
    return wrong + _tail(b) * (1 - wrong)


def link_rate(gain: torch.Tensor, no: Any) -> torch.Tensor:
    r"""Bits a channel use over one complex gain, :math:`\log_2(1 + |g|^2 / \mathrm{no})`, transmit power 1.

    The gain is absolute: path loss and the gain of the surface count.

    Args:
        gain: :math:`g = \hat u^H G \hat v`, complex or real, (\*batch).
        no: noise variance, a number or real, first axes of the batch; 0 is taken as 1e-290.

    Returns:
        float64 [bit/s/Hz], (\*batch).

    Raises:
        InvalidTypeError, ShapeError, InvalidValueError: as `qpsk_symbol_error_rate`.
    """
    check_finite("gain", check_tensor("gain", gain))
    noise = check_noise(no, gain.shape, dtype=torch.float64, device=gain.device).clamp_min(_LEAST_NOISE)
    return torch.log1p(_squared(gain) / noise) / math.log(2.0)


# -- Small steps. --


def _tail(x: torch.Tensor) -> torch.Tensor:
    """Q(x), to full relative precision: torch.special.ndtr of long tensors is 0 from -8.3 on."""
    return torch.special.erfc(x * 0.5**0.5) / 2


def _pair(h: torch.Tensor, h_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channel and estimate in double precision."""
    for name, value in (("h", h), ("h_hat", h_hat)):
        check_finite(name, check_tensor(name, value, kind="complex"))
    if h.shape != h_hat.shape or h.dim() < len(_AXES):
        shapes = f"{tuple(h.shape)} and {tuple(h_hat.shape)}"
        raise ShapeError(f"h and h_hat have shapes {shapes}; both must be (*batch, {', '.join(_AXES)})")
    return h.to(torch.complex128), h_hat.to(torch.complex128)


def _squared(value: torch.Tensor) -> torch.Tensor:
    """|x|^2, float64."""
    if not value.is_complex():
        return value.double().square()
    real, imaginary = value.real.double(), value.imag.double()
    return torch.addcmul(real.square(), imaginary, imaginary)
