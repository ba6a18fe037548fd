"""What tests of estimators share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from wichan.priors import GMM, MFA, MixturePrior

Known = Callable[..., MixturePrior]


@pytest.fixture
def known_mixture() -> Known:
    """Makes priors of given covariances: ``known_mixture(covariances, weights=None, shape=None, structure=, num_factors=)``."""

    def make(
        covariances: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        structure: str = "full",
        num_factors: int | None = None,
        noise: str = "isotropic",
    ) -> MixturePrior:
        count, size = covariances.shape[:2]
        shape = (size,) if shape is None else shape
        assert math.prod(shape) == size
        config = {"num_components": count, "shape": list(shape), "floor": 1e-12}
        if num_factors is None:
            prior = GMM.from_config(config | {"structure": structure})
        else:
            prior = MFA.from_config(config | {"num_factors": num_factors, "noise": noise})
        weights = torch.ones(count, dtype=torch.float64) if weights is None else weights
        prior._m_step_from_covariances(covariances.to(torch.complex128), weights)
        return prior

    return make
