"""The contract of every estimator: observation in, channel and its uncertainty out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import nn


class Estimate(NamedTuple):
    r"""A channel estimate.

    Attributes:
        h_hat: complex, (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).
        err_var: real, same shape (it may be an expanded view): E|h - h_hat|^2 given the observation.
    """

    h_hat: torch.Tensor
    err_var: torch.Tensor


class Estimator(nn.Module, ABC):
    """Base of all channel estimators.

    Built from hyper-parameters and fitted tensors; buffers hold what can be computed beforehand, so ``.to(device)``,
    ``state_dict`` and ``torch.compile`` work. Output precision follows input precision.
    """

    @abstractmethod
    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        """Estimate the channel from the observation ``y`` with noise variance ``no``."""
