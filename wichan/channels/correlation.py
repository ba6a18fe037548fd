"""Antenna correlation matrices of 3GPP conformance tests."""

from __future__ import annotations

import torch

from wichan.errors import InvalidValueError, check_choice, check_int, check_tensor
from wichan.linalg import psd_sqrt

# TS 38.104 table G.2.3.1.2-1 (as TS 36.104 table B.5.2-1): base station alpha, terminal beta.
LEVELS = {"low": (0.0, 0.0), "medium": (0.9, 0.3), "high": (0.9, 0.9)}


def exponential_correlation(num_ant: int, coefficient: float) -> torch.Tensor:
    r"""Correlation of a uniform linear array in 3GPP's form, :math:`R_{ij} = \rho^{((i-j)/(N-1))^2}`, complex128 (N, N).

    Two antennas have correlation rho, the outer pair of four too (TS 38.104 table G.2.3.1.1-1).
    """
    check_int("num_ant", num_ant, minimum=1)
    if not 0 <= coefficient < 1:
        raise InvalidValueError(f"coefficient={coefficient:g} must lie in [0, 1)")
    index = torch.arange(num_ant, dtype=torch.float64)
    exponent = ((index[:, None] - index[None, :]) / max(num_ant - 1, 1)).square()
    if coefficient == 0:
        return torch.eye(num_ant, dtype=torch.complex128)
    return (coefficient**exponent).to(torch.complex128)


def mimo_correlation(
    level: str, num_rx_ant: int, num_tx_ant: int, direction: str = "uplink"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Receive and transmit correlation matrices of TS 38.104 annex G.2.3 (``"low"``, ``"medium"``, ``"high"``).

    In the uplink the base station receives. The full matrix is the Kronecker product of the two; 3GPP's small diagonal
    load for four antennas only mends the rounding of its printed tables and is not needed here.
    """
    alpha, beta = LEVELS[check_choice("correlation", level, LEVELS)]
    if check_choice("direction", direction, ("uplink", "downlink")) == "downlink":
        alpha, beta = beta, alpha
    return exponential_correlation(num_rx_ant, alpha), exponential_correlation(num_tx_ant, beta)


def check_correlation(field: str, matrix: torch.Tensor, num_ant: int) -> torch.Tensor:
    """Return a valid correlation matrix as complex128: Hermitian, unit diagonal, no negative eigenvalue."""
    matrix = check_tensor(field, matrix).to(torch.complex128)
    if tuple(matrix.shape) != (num_ant, num_ant):
        raise InvalidValueError(f"{field} has shape {tuple(matrix.shape)}; it must be ({num_ant}, {num_ant})")
    if not torch.allclose(matrix, matrix.mH, atol=1e-6):
        raise InvalidValueError(f"{field} is not Hermitian")
    if not torch.allclose(matrix.diagonal().real, torch.ones(num_ant, dtype=torch.float64), atol=1e-6):
        raise InvalidValueError(f"{field} must have a unit diagonal")
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    if smallest < -1e-8:
        raise InvalidValueError(f"{field} has the negative eigenvalue {smallest:.3g}; a correlation matrix has none")
    return matrix


def correlation_root(field: str, matrix: torch.Tensor | None, num_ant: int) -> torch.Tensor:
    """Hermitian square root of a correlation matrix (identity for ``None``), complex128 (num_ant, num_ant)."""
    if matrix is None:
        return torch.eye(num_ant, dtype=torch.complex128)
    return psd_sqrt(check_correlation(field, matrix, num_ant))


def correlation_roots(
    num_rx_ant: int,
    num_tx_ant: int,
    correlation: str | None,
    rx_correlation: torch.Tensor | None,
    tx_correlation: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Square roots of both ends' correlation, from a 3GPP level or from matrices (identity where nothing is given)."""
    if correlation is not None:
        if rx_correlation is not None or tx_correlation is not None:
            raise InvalidValueError(f"correlation={correlation!r} excludes rx_correlation and tx_correlation")
        rx_correlation, tx_correlation = mimo_correlation(correlation, num_rx_ant, num_tx_ant)
    rx_root = correlation_root("rx_correlation", rx_correlation, num_rx_ant)
    return rx_root, correlation_root("tx_correlation", tx_correlation, num_tx_ant)
