"""A first guess for learned estimators: the best linear map of their kind, in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError

if TYPE_CHECKING:
    from wichan.estimators.learned import LearnedEstimator

_RIDGE = 1e-6  # of the mean pilot power: keeps the normal equations regular with few frames


def best_linear(estimator: LearnedEstimator, batches: Iterable[Any]) -> torch.Tensor:
    r"""Return the real matrix W that spreads pilots to the grid with the least squared error over ``batches``.

    .. math:: W = \Big(\sum \Re\{h x^H\}\Big) \Big(\sum \Re\{x x^H\} + \epsilon I\Big)^{-1},

    with pilots x and channels h scaled as the estimator scales its input; real and imaginary parts share W, as in the
    networks. The mean of a channel is zero, so no bias is needed.

    Args:
        estimator: whose pilots and scaling count.
        batches: anything with ``y`` (n, num_rx_ant, T, F) and ``h`` (n, num_rx_ant, 1, T, F).

    Returns:
        float64, (F * T, num_pilots), rows and columns subcarrier by subcarrier.

    Raises:
        InvalidValueError: no batch.

    Cost: 4 P (P + T F) FLOP a frame, once.
    """
    size, pilots_seen = estimator.obs.grid.num_resource_elements, estimator.obs.num_pilots
    gram = torch.zeros(pilots_seen, pilots_seen, dtype=torch.float64)
    cross = torch.zeros(size, pilots_seen, dtype=torch.float64)
    count = 0
    for batch in batches:
        x = estimator.least_squares(batch.y)
        h = batch.h.transpose(-1, -2).reshape(-1, size)
        if estimator.scale_input:
            level = x.abs().square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
            x, h = x / level, h / level
        x_parts, h_parts = (torch.cat([part.real, part.imag]).double().cpu() for part in (x, h))
        gram += x_parts.mT @ x_parts
        cross += h_parts.mT @ x_parts
        count += x.shape[0]
    if not count:
        raise InvalidValueError("batches is empty; at least one is needed")
    floor = _RIDGE * gram.diagonal().mean() + 1e-300
    return torch.linalg.solve(gram + floor * torch.eye(pilots_seen, dtype=torch.float64), cross.mT).mT
