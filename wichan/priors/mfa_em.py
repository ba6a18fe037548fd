r"""The M-step of factor analysers, :math:`C = \Lambda\Lambda^H + \Psi` with few columns in :math:`\Lambda`.

With S the weighted sample covariance of a component, both kinds of noise need nothing else of the samples:

* isotropic, :math:`\Psi = \psi I`: the maximum in closed form ([Tipping1999]_). :math:`\psi` is the mean of the N - L smallest
  eigenvalues of S, the L largest are kept. Where :math:`\psi` falls below the floor, the maximum under
  :math:`C \succeq \epsilon I` is the same with :math:`\psi = \epsilon` and no eigenvalue below it.
* diagonal: the updates of factor analysis ([Ghahramani1996]_) with :math:`\beta = \Lambda^H C^{-1}`,

  .. math:: \Lambda \leftarrow S\beta^H (I - \beta\Lambda + \beta S \beta^H)^{-1},\qquad
            \Psi \leftarrow \max(\mathrm{diag}(S - \Lambda\beta S), \epsilon).

  Each is a step of EM over the factors, so several in a row still never lower the likelihood. The elements of :math:`\Psi`
  enter the bound one by one, and the maximum of each above the floor is the free one or the floor.
"""

from __future__ import annotations

import torch

from wichan.errors import InvalidValueError
from wichan.priors.structure import Components, Structure

NOISES = ("isotropic", "diagonal")


def pack(loading: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Loading, complex (K, N, L), and noise, real (K, N), as one real tensor (K, N, 2 L + 1)."""
    return torch.cat([loading.real, loading.imag, noise.unsqueeze(-1)], dim=-1).double()


def unpack(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `pack`."""
    factors = (values.shape[-1] - 1) // 2
    return torch.complex(values[..., :factors], values[..., factors:-1]), values[..., -1]


class FactorForm(Structure):
    """Covariances of low rank plus diagonal noise, stored as `pack` does.

    Args:
        shape: axes of a channel.
        num_factors: L, less than N.
        noise: "isotropic" or "diagonal".
        steps: updates of factor analysis an M-step (diagonal noise).
    """

    def __init__(self, shape: tuple[int, ...], num_factors: int, noise: str, steps: int = 4) -> None:
        super().__init__(shape)
        if num_factors >= self.dim:
            raise InvalidValueError(f"num_factors={num_factors} must be less than the N={self.dim} elements of a channel")
        self.num_factors = num_factors
        self.noise = noise
        self.steps = steps
        self.values_shape = (self.dim, 2 * num_factors + 1)

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim * self.num_factors + (1 if self.noise == "isotropic" else self.dim)

    def update(self, second: torch.Tensor, old: Components | None, floor: float) -> Components:
        """M-step from weighted sample covariances (K, N, N)."""
        if self.noise == "isotropic":
            return self._truncated(second, floor)
        values = None if old is None else old.values
        loading, noise = unpack(self._truncated(second, floor).values if values is None else values)  # type: ignore[arg-type]
        for _ in range(self.steps):
            loading, noise = factor_step(second, loading, noise, floor)
        return self.components(pack(loading, noise))

    def _truncated(self, second: torch.Tensor, floor: float) -> Components:
        powers, vectors = torch.linalg.eigh(second)
        rest = self.dim - self.num_factors
        psi = powers[:, :rest].mean(-1, keepdim=True).clamp_min(floor)
        kept = torch.maximum(powers[:, rest:], psi)
        loading = vectors[..., rest:] * (kept - psi).sqrt().unsqueeze(-2)
        values = pack(loading, psi.expand(-1, self.dim))
        return Components(torch.cat([psi.expand(-1, rest), kept], dim=-1), vectors, values)

    def values(self, components: Components) -> torch.Tensor:
        assert components.values is not None
        return components.values

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        loading, noise = unpack(values.double())
        return loading @ loading.mH + torch.diag_embed(noise).to(loading.dtype)


def factor_step(
    second: torch.Tensor, loading: torch.Tensor, noise: torch.Tensor, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One EM step of factor analysis, batched over components; 16 N^2 L FLOP each."""
    white = loading / noise.unsqueeze(-1)
    eye = torch.eye(loading.shape[-1], dtype=loading.dtype, device=loading.device)
    spread = torch.linalg.inv(eye + loading.mH @ white)  # I - beta Lambda, the posterior covariance of the factors
    beta = spread @ white.mH
    cross = second @ beta.mH
    moment = spread + beta @ cross
    moment = (moment + moment.mH) / 2
    new = torch.linalg.solve(moment, cross, left=False)
    left = second.diagonal(dim1=-2, dim2=-1).real - (new * cross.conj()).sum(-1).real
    return new, left.clamp_min(floor)
