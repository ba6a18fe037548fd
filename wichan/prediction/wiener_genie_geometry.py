"""The linear minimum mean square error predictor of known rays: what is left when only phases are unknown."""

from __future__ import annotations

import torch

from wichan.channels.rays import Rays
from wichan.channels.synthesis import delay_phasors, phasors

_CHUNK_BYTES = 2**27  # what the Gram matrices of samples solved at a time may take


def geometry_predict(
    history: torch.Tensor,
    no: torch.Tensor,
    rays: Rays,
    times: tuple[torch.Tensor, torch.Tensor],
    frequencies: tuple[torch.Tensor, torch.Tensor],
    present: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Predict from known delays, Doppler shifts, array responses and magnitudes of rays, whose phases are unknown.

    Phases are independent and uniform in every ray and pair of polarisations, so given the rest a pair of polarisations is

    .. math:: h = \sum_n x_n\, a_n \otimes d_n \otimes \phi_n, \qquad E[x x^H] = P = \mathrm{diag}(|g_n|^2) ,

    and the estimate of x solves a system of the number of rays,

    .. math:: \hat x = P^{1/2} (P^{1/2} \Gamma P^{1/2} + \mathrm{no}\, I)^{-1} P^{1/2} b, \qquad
        \Gamma = (A^H A) \circ (D^H D) \circ (\Phi^H \Phi), \quad b = (a_n \otimes d_n \otimes \phi_n)^H y ,

    in which the Gram matrix of three-way products is the elementwise product of three small ones.

    Args:
        history: complex (samples, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
        no: float64 (samples,).
        rays: of these samples; the phases of ``gain`` are not looked at.
        times: [s], of the history and of the prediction. frequencies: [Hz], the same.
        present: bool (samples, num_history), snapshots to use; None: all.

    Returns:
        complex (samples, num_rx_ant, num_tx_ant, num_horizon, target subcarriers), and the error, float64, (samples,
        num_rx_ant, num_tx_ant, num_horizon, 1): mean over subcarriers and over the antennas of equal polarisation.

    Cost with N rays and Q pairs of polarisations: 6 Q N^3 FLOP a sample, 1.2 GFLOP for 23 clusters of 20 rays; 48 Q N^2 bytes.
    """
    rays = rays.double()
    count = rays.num_clusters * rays.num_rays
    pairs = rays.gain.shape[-2] * rays.gain.shape[-1]
    step = max(1, _CHUNK_BYTES // (48 * pairs * count**2))
    answers = []
    for first in range(0, history.shape[0], step):
        part = slice(first, first + step)
        own = rays[part]
        phi = tuple(delay_phasors(own.delay, f, torch.complex128) for f in frequencies)
        mask = None if present is None else present[part]
        answers.append(_solve(history[part], no[part], own, times, phi, mask))
    predicted, error = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return predicted, error


def _solve(
    history: torch.Tensor,
    no: torch.Tensor,
    rays: Rays,
    times: tuple[torch.Tensor, torch.Tensor],
    phi: tuple[torch.Tensor, ...],
    present: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    power = rays.gain.abs().square().flatten(-2).movedim(-1, 1).flatten(2)  # (samples, pairs, N)
    place = _responses(rays)  # (samples, N, positions)
    turn, ahead = (phasors(rays.doppler.flatten(1), t, torch.complex128) for t in times)
    if present is not None:
        turn = turn * present.unsqueeze(-2)
    spatial = place.conj() @ place.mT
    gram = _times_clusters(spatial * (turn.conj() @ turn.mT), phi[0].conj() @ phi[0].mT)
    root = power.sqrt()
    system = root.unsqueeze(-1) * gram.unsqueeze(1) * root.unsqueeze(-2)
    # Without noise the system may be singular: a floor at the rounding of double precision.
    peak = system.diagonal(dim1=-2, dim2=-1).real.amax((-2, -1))
    noise = torch.maximum(no, 1e-12 * peak)
    system.diagonal(dim1=-2, dim2=-1).add_(noise[:, None, None])
    factor = torch.linalg.cholesky(system)
    right = root * _adjoint(history, rays, place, turn, phi[0])
    solved = root * torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    predicted = _synthesis(solved, history, rays, place, ahead, phi[1])
    inverse = torch.cholesky_inverse(factor)
    covariance = root.unsqueeze(-1) * inverse * root.unsqueeze(-2)
    mixed = covariance * _times_clusters(spatial.conj(), phi[1] @ phi[1].mH).unsqueeze(1)
    energy = ((mixed.mT @ ahead.unsqueeze(1)) * ahead.unsqueeze(1).conj()).real.sum(-2).clamp_min(0)
    error = noise[:, None, None] * energy / (place.shape[-1] * phi[1].shape[-1])  # (samples, pairs, P)
    return predicted, _per_port(error, rays, history)


def _times_clusters(matrix: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Multiply a matrix between rays, (..., N, N), by one between their clusters, (clusters, clusters) or with a batch."""
    clusters = between.shape[-1]
    blocks = matrix.unflatten(-1, (clusters, -1)).unflatten(-3, (clusters, -1))
    return (blocks * between[..., :, None, :, None]).flatten(-4, -3).flatten(-2)


def _responses(rays: Rays) -> torch.Tensor:
    """Array response of every ray at both ends, complex128 (samples, N, rx positions * tx positions)."""
    one = rays.gain.new_ones(*rays.gain.shape[:-2], 1)
    rx = one if rays.rx_response is None else rays.rx_response
    tx = one if rays.tx_response is None else rays.tx_response
    return (rx.unsqueeze(-1) * tx.unsqueeze(-2)).flatten(-2).flatten(1, 2)


def _ports(rays: Rays) -> tuple[int, int, int, int]:
    """Polarisations and positions of the receiver, then of the transmitter."""
    rx, tx = rays.gain.shape[-2:]
    return rx, rays.num_rx_ant // rx, tx, rays.num_tx_ant // tx


def _adjoint(history: torch.Tensor, rays: Rays, place: torch.Tensor, turn: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Match a history with every ray, complex128 (samples, pairs, N)."""
    p, n, q, m = _ports(rays)
    # In double: the system amplifies the rounding of its right side by as much as the noise is weak.
    seen = history.to(torch.complex128) @ phi.mH.reshape(-1, 1, 1, *phi.mH.shape[-2:])  # (samples, rx, tx, T, clusters)
    seen = seen.unflatten(2, (q, m)).unflatten(1, (p, n)).permute(0, 6, 1, 3, 2, 4, 5)
    seen = seen.flatten(4, 5).flatten(2, 3).flatten(3)  # (samples, clusters, pairs, positions * T)
    basis = (place.unsqueeze(-1) * turn.unsqueeze(-2)).flatten(-2).unflatten(1, (rays.num_clusters, -1))
    matched = seen @ basis.mH  # (samples, clusters, pairs, rays)
    return matched.transpose(1, 2).flatten(2)


def _synthesis(
    solved: torch.Tensor, history: torch.Tensor, rays: Rays, place: torch.Tensor, ahead: torch.Tensor, phi: torch.Tensor
) -> torch.Tensor:
    """Channel of ray amplitudes (samples, pairs, N), (samples, rx, tx, P, subcarriers)."""
    p, n, q, m = _ports(rays)
    basis = (place.unsqueeze(-1) * ahead.unsqueeze(-2)).flatten(-2).unflatten(1, (rays.num_clusters, -1))
    waves = solved.unflatten(2, (rays.num_clusters, -1)).transpose(1, 2) @ basis  # (samples, clusters, pairs, positions * P)
    waves = waves.unflatten(3, (n, m, -1)).unflatten(2, (p, q)).permute(0, 2, 4, 3, 5, 6, 1)
    ports = waves.flatten(3, 4).flatten(1, 2).to(history.dtype)  # (samples, rx, tx, P, clusters)
    return ports @ phi.to(history.dtype).reshape(-1, 1, 1, *phi.shape[-2:])


def _per_port(error: torch.Tensor, rays: Rays, history: torch.Tensor) -> torch.Tensor:
    """Spread (samples, pairs, P) over the ports, (samples, rx, tx, P, 1)."""
    p, n, q, m = _ports(rays)
    ports = error.unflatten(1, (p, q)).repeat_interleave(n, 1).repeat_interleave(m, 2)
    return ports.unsqueeze(-1)
