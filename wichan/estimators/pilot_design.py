r"""Linear MMSE estimation that is differentiable in the pilots, and the pilots that are best for it.

`wichan.estimators.LMMSE` factorises once for pilots that stay; here every call starts from the pilots, so that they can be
learned by gradient, through the channel or on the closed-form error.
"""

from __future__ import annotations

from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_finite,
    check_int,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.estimators.base import Estimate
from wichan.linalg import hermitian_part, hermitian_solve
from wichan.observations.dense import DensePilots
from wichan.observations.ofdm import OFDMPilots


def lmmse_error(pilots: Any, covariance: Any, no: Any) -> torch.Tensor:
    r"""Error variance of the best linear estimate of a zero-mean channel, differentiable in the pilots.

    .. math:: \mathrm{err} = \mathrm{diag}\big(R - R P^H (P R P^H + \mathrm{no}\, I)^{-1} P R\big)

    Args:
        pilots: the matrix P, complex (M, N), or `OFDMPilots` or `DensePilots`, learned ones too.
        covariance: R, a `ChannelCovariance` of one condition or a Hermitian matrix (N, N).
        no: noise variance, greater than 0: a number, or a real tensor without axes.

    Returns:
        real, (N,), in double precision where one of the inputs has it or R is a `ChannelCovariance`; differentiable in
        pilots, a matrix R and ``no``. Its sum is the mean squared error of the whole channel.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: inputs that do not fit together, NaN, ``no`` not above 0.

    Cost: 8 M N (M + N) + 8 M^3/3 FLOP; 16 (N^2 + 2 M N) bytes. For the error over a whole OFDM grid use
    `LMMSE.expected_error`, which knows the structure of R.

    Example:
        >>> R = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.complex128)
        >>> [round(float(e), 3) for e in lmmse_error(torch.eye(2, dtype=torch.complex128), R, no=0.1)]
        [0.073, 0.073]
    """
    return _solved(*_checked(pilots, covariance, no))[1]


def lmmse_estimate(y: torch.Tensor, pilots: Any, covariance: Any, no: Any) -> Estimate:
    r"""The best linear estimate of a zero-mean channel, differentiable in everything.

    .. math:: \hat h = R P^H (P R P^H + \mathrm{no}\, I)^{-1} y

    Args:
        y: complex, (\*batch, M): what is left of a received OFDM grid is ``obs.extract(y).flatten(-2)``.
        pilots, covariance, no: as in `lmmse_error`.

    Returns:
        `Estimate`: h_hat, (\*batch, N) in the dtype of ``y``, and err_var, (N,), real.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `lmmse_error`, and ``y`` of another length.

    Cost: that of `lmmse_error`, and 8 M N FLOP a channel.
    """
    matrix, moment, variance = _checked(pilots, covariance, no)
    check_shape("y", check_finite("y", check_tensor("y", y, kind="complex")), (matrix.shape[0],))
    solved, error = _solved(matrix, moment, variance)
    # (K^-1 P R)^H is R P^H K^-1, since R and K are Hermitian; rows of y are multiplied by its transpose.
    return Estimate(y @ solved.conj().to(y.dtype), error.to(y.real.dtype))


def optimal_pilots(covariance: torch.Tensor, energy: float, no: float, num_pilots: int | None = None) -> torch.Tensor:
    r"""The pilots of least mean squared error for a correlated block-fading channel: beams along R's strong eigenvectors.

    .. math:: \min_P \sum_i \Big(\tfrac{1}{\lambda_i} + \tfrac{q_i}{\mathrm{no}}\Big)^{-1}, \qquad
        P = \mathrm{diag}(\sqrt{q})\, U^H, \quad q_i = \mathrm{no}\, \big(c - 1/\lambda_i\big)^+, \quad \sum_i q_i = E

    With :math:`R = U \Lambda U^H`; the water level c leaves weak eigenvectors without power, and no more than ``num_pilots``
    get any [Kotecha2004]_. At low SNR one beam remains; for equal eigenvalues any orthogonal pilots are as good.

    Args:
        covariance: R over what the pilots excite at once, as a rule the transmit antennas, Hermitian (N, N).
        energy: E, the sum of \|p\|^2 over all pilots and antennas, greater than 0.
        no: noise variance, greater than 0.
        num_pilots: M, resource elements with pilots; default N.

    Returns:
        complex128, (M, N): row m is what the antennas send on pilot element m, strongest beam first; rows of zeros where
        silence is best. In an `OFDMPilots` pattern, element m of antenna a is ``P[m, a]``.

    Raises:
        InvalidValueError, InvalidTypeError, ShapeError: a covariance that is not square, not finite or zero; other arguments
            not above 0.
    """
    moment = _hermitian(check_finite("covariance", check_tensor("covariance", covariance)).detach())
    power = check_real("energy", energy, positive=True)
    variance = check_real("no", no, positive=True)
    size = moment.shape[0]
    rows = size if num_pilots is None else check_int("num_pilots", num_pilots, minimum=1)
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(0), vectors.flip(1)
    if values[0] <= 0:
        raise InvalidValueError("covariance has no positive eigenvalue; the channel must have power")
    usable = int((values > 1e-14 * values[0]).sum())
    inverse = 1 / values[: min(rows, usable)]
    active = torch.arange(1, inverse.numel() + 1, dtype=torch.float64, device=values.device)
    level = (power / variance + inverse.cumsum(0)) / active
    count = int((level > inverse).sum())  # the levels that cover their own mode come first
    share = variance * (level[count - 1] - inverse[:count])
    pilots = moment.new_zeros(rows, size)
    pilots[:count] = share.sqrt()[:, None] * vectors[:, :count].mH
    return pilots


def _solved(matrix: torch.Tensor, moment: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K^-1 P R with K = P R P^H + no I, (M, N), and the error variance that this filter leaves, (N,)."""
    seen = matrix @ moment
    noise = variance * torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    solved = hermitian_solve(hermitian_part(seen @ matrix.mH) + noise, seen, name="covariance of the pilots")
    return solved, moment.diagonal().real - (seen.conj() * solved).real.sum(0)


def _checked(pilots: Any, covariance: Any, no: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pilot matrix and covariance in one dtype, the noise variance as a tensor without axes."""
    if isinstance(covariance, ChannelCovariance):
        moment = covariance.matrix()
        if moment.dim() != 2:
            raise ShapeError(f"covariance has {moment.shape[0]} conditions; one is needed, covariance[i]")
    else:
        moment = check_finite("covariance", check_tensor("covariance", covariance))
    if isinstance(pilots, OFDMPilots):
        antennas = covariance.num_rx_ant if isinstance(covariance, ChannelCovariance) else 1
        matrix = pilots.matrix(antennas)
    elif isinstance(pilots, DensePilots):
        matrix = pilots.matrix()
    else:
        if not isinstance(pilots, torch.Tensor):
            raise InvalidTypeError(f"pilots must be a matrix, OFDMPilots or DensePilots, got {type(pilots).__name__}")
        matrix = check_finite("pilots", check_tensor("pilots", pilots, kind="complex"))
        if matrix.dim() != 2 or 0 in matrix.shape:
            raise ShapeError(f"pilots has shape {tuple(matrix.shape)}; it must be (M, N) with M and N at least 1")
    if tuple(moment.shape) != (matrix.shape[1], matrix.shape[1]):
        raise ShapeError(f"covariance has shape {tuple(moment.shape)}; the pilots ask for {(matrix.shape[1],) * 2}")
    dtype = torch.promote_types(matrix.dtype, moment.dtype)
    return matrix.to(dtype), moment.to(matrix.device, dtype), _positive(no, dtype, matrix.device)


def _positive(no: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if not isinstance(no, torch.Tensor):
        return torch.tensor(check_real("no", no, positive=True), dtype=dtype, device=device)
    check_finite("no", check_tensor("no", no, kind="real"))
    if no.dim():
        raise ShapeError(f"no has shape {tuple(no.shape)}; one noise variance is needed, without axes")
    if not torch.compiler.is_compiling():
        check_real("no", no.detach(), positive=True)
    return no.to(device, dtype)


def _hermitian(matrix: torch.Tensor) -> torch.Tensor:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise ShapeError(f"covariance has shape {tuple(matrix.shape)}; it must be (N, N)")
    return hermitian_part(matrix.to(torch.complex128))
