r"""The bank of filters for components of low rank plus a diagonal and A = I, where C_r has that form, too.

.. math:: C_k = \Lambda \Lambda^H + \Psi,\qquad C_{r,k} = D + G G^H,\; G = \mathrm{diag}(g) \Lambda, \qquad
    C_{r,k}^{-1} = D^{-1} - D^{-1} G S^{-1} G^H D^{-1},\; S = I + G^H D^{-1} G

It does without quantisation and for the approximations "white" and "scaled" of C_r. The arcsine law and the exact covariance
are functions of every entry and leave no low rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wichan.estimators.bussgang_banks import Bank, finish, form_dtype, product_by_component
from wichan.estimators.bussgang_filters import chunks, moments, squared, true_error
from wichan.linalg import hermitian_cholesky
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.base import MixturePrior

_SQUARES = 2**19  # projected entries at once


class WoodburyBank(Bank):
    """Filters as a diagonal and a product of two thin matrices.

    Cost: an observation, 8 K N L FLOP for the posterior and 16 N L (32 N L for "scaled")
    for each component that counts.
    """

    def __init__(
        self, prior: MixturePrior, obs: QuantizedPilots, no: float, method: str, floor: float, dtype: torch.dtype
    ) -> None:
        factors = prior.factors()
        assert factors is not None
        loading, psi = factors[0].to(torch.complex128), factors[1].to(torch.float64)
        covariances = prior.covariances()
        made = [
            _component_filters(obs, loading[some], psi[some], covariances[some], (no, method, floor))
            for some in chunks(len(loading), obs)
        ]
        diagonal, left, right, inverse, project, log_det, error, need = zip(*made, strict=True)
        self.diagonal = torch.cat(diagonal).to(dtype)  # (K, N)
        self.left = torch.cat(left).to(dtype).mT.contiguous()  # (K, L', N)
        self.right = torch.cat(right).to(dtype).mT.contiguous()  # (K, N, L')
        found = form_dtype(max(need), dtype)
        self.is_precise = found is not None  # else the two terms of a form cancel too much
        kind = found or torch.float64
        self.inverse = torch.cat(inverse).to(kind)  # 1 / D, (K, N)
        self.project = torch.cat(project).to(torch.complex64 if kind == torch.float32 else torch.complex128)
        self.project = self.project.mT.contiguous()  # (K, N, L)
        self.offset = prior.log_weights - torch.cat(log_det)
        self.error = torch.cat(error).to(self.diagonal.real.dtype)

    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        count, size, rank = self.project.shape
        # One product for all components: their thin matrices side by side.
        wide = self.project.transpose(0, 1).reshape(size, count * rank)
        parts = []
        for part in x.to(self.project.dtype).split(max(1, _SQUARES // (count * rank))):
            seen = squared((part @ wide).unflatten(1, (count, rank))).sum(-1)
            parts.append(self.inverse @ squared(part).mT - seen.mT)
        return finish(self.offset, torch.cat(parts, dim=-1))

    def estimates(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        thin = product_by_component(x, self.right, counts)
        parts = [some * one for some, one in zip(x.split(list(counts)), self.diagonal, strict=True)]
        return torch.cat(parts) + product_by_component(thin, self.left, counts)


def _component_filters(
    obs: QuantizedPilots,
    loading: torch.Tensor,
    psi: torch.Tensor,
    covariance: torch.Tensor,
    setting: tuple[float, str, float],
) -> tuple[Any, ...]:
    """Diagonal, left and right factors of W, 1/D, projection, log-determinant, error and the precision that forms need."""
    no, method, floor = setting
    found = moments(obs, covariance, no, "exact" if obs.is_linear else method, floor)
    variance = found.cov_y.diagonal(dim1=-2, dim2=-1).real
    gain = obs.bussgang_gain(variance, found.no)
    one_gain = method == "scaled" and not obs.is_linear
    share = gain.mean(-1, keepdim=True).clamp(0, 1).expand_as(gain) if one_gain else gain
    seen = share[..., None] * loading  # G
    # D in positive terms: what the converters add, and what they pass of the diagonal part.
    added = (found.output.diagonal(dim1=-2, dim2=-1).real - share.square() * variance).clamp_min(0)
    noise = added + share.square() * (psi + obs.noise_power(found.no)[:, None])
    inverse = 1 / noise
    scaled = inverse[..., None] * seen  # D^-1 G
    eye = torch.eye(seen.shape[-1], dtype=seen.dtype, device=seen.device)
    root = hermitian_cholesky(eye + seen.mH @ scaled, name="inner covariance of the observation")
    project = torch.linalg.solve_triangular(root, scaled.mH, upper=False)  # (K, L, N)
    thin = torch.linalg.solve_triangular(root.mH, project, upper=True)  # S^-1 G^H D^-1
    diagonal = psi * gain * inverse
    if not one_gain:
        left, right = loading - diagonal[..., None] * seen, thin
    else:
        passed = gain[..., None] * loading  # B Lambda
        through = (inverse[..., None] * passed).mH
        left = torch.cat([loading, -loading @ (through @ seen) - diagonal[..., None] * seen], dim=-1)
        right = torch.cat([through, thin], dim=-2)
    weight = torch.diag_embed(diagonal).to(left.dtype) + left @ right
    exact = found.output if obs.is_linear else obs.output_covariance(found.cov_y, found.no, "exact")
    log_det = noise.log().sum(-1) + 2 * root.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)
    need = float((inverse.square().sum(-1).sqrt() * found.output.diagonal(dim1=-2, dim2=-1).real.sum(-1)).max())
    return diagonal, left, right, inverse, project, log_det, true_error(weight, found, exact), need
