"""Mixture of factor analysers: Gaussian components of a few factors plus noise, fitted by EM."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import check_choice, check_int
from wichan.priors.base import MixturePrior, Progress
from wichan.priors.mfa_em import NOISES, FactorForm, unpack
from wichan.priors.samples import Channels


class MFA(MixturePrior):
    r"""Zero-mean mixture of factor analysers, :math:`p(h) = \sum_k \pi_k\, \mathcal{CN}(h; 0, \Lambda_k\Lambda_k^H + \Psi_k)`.

    A channel with few paths lies close to a subspace of few dimensions, and a component then needs N L numbers instead of N^2.

    Args:
        num_components: K >= 1.
        num_factors: L, columns of the loading :math:`\Lambda_k`, from 1 to N - 1. With N - 1 and isotropic noise any covariance
            is possible, as in a `GMM`.
        noise: "isotropic", :math:`\Psi_k = \psi_k I` (probabilistic principal components), or "diagonal", any diagonal
            :math:`\Psi_k > 0`.
        floor: smallest element of :math:`\Psi_k`, relative to the mean power of a channel's element in training.
        max_iter: most EM iterations of a start.
        tol: EM ends when the mean log-likelihood of a channel changes by less.
        num_restarts: starts, of which the one with the highest likelihood is kept.
        batch_size: ``None`` for exact EM; a number for stepwise EM over mini-batches of that many channels.
        seed: of the start and of the mini-batches.

    Attributes:
        history: mean log-likelihood of a training channel at the start of each iteration. With exact EM it never falls beyond
            rounding; with mini-batches it is a mean over batches while parameters change, and may.
        converged: whether ``tol`` was reached.

    ``num_parameters`` counts K (2 N L + 1) real numbers for isotropic, K (2 N L + N) for diagonal noise, and K - 1 weights;
    that a rotation of the factors changes nothing is not subtracted.

    Cost of an iteration: that of a `GMM` with full covariances, since the samples enter through their weighted second moments
    alone; diagonal noise adds 64 K N^2 L FLOP.

    Source: [Ghahramani1996]_, [Tipping1999]_; for channels [Fesl2023]_; for quantised pilots [Fesl2024]_.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = torch.randn(200, 8, generator=generator, dtype=torch.complex64)
        >>> prior = MFA(2, num_factors=3, max_iter=5).fit(h)
        >>> [tuple(part.shape) for part in prior.factors()]
        [(2, 8, 3), (2, 8)]
    """

    kind = "mfa"

    def __init__(
        self,
        num_components: int,
        num_factors: int,
        *,
        noise: str = "isotropic",
        floor: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        num_restarts: int = 1,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_components,
            floor=floor,
            max_iter=max_iter,
            tol=tol,
            num_restarts=num_restarts,
            batch_size=batch_size,
            seed=seed,
        )
        self.num_factors = check_int("num_factors", num_factors, minimum=1)
        self.noise = check_choice("noise", noise, NOISES)

    def fit(self, h: Channels, *, progress: Progress | None = None) -> MFA:
        r"""Learn from channels by EM.

        Args:
            h: complex (T, \*shape); or, for channels that memory does not hold, a function without arguments that returns an
                iterable of such pieces anew on each call (one call an iteration, and one before).
            progress: called with (iteration, max_iter, mean log-likelihood); a true value ends EM after that iteration.

        Returns:
            The prior itself, with ``shape`` those of the channels.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no complex tensor, no batch, NaN, mean power 0, fewer channels than
                components, as many factors as elements.

        Warns:
            WichanWarning: all channels are equal, or components without weight remain. The floor keeps both finite.
        """
        from wichan.priors.em import fit_mixture

        fit_mixture(self, h, progress)
        return self

    def _form(self, shape: tuple[int, ...] | None = None) -> FactorForm:
        return FactorForm(self.shape if shape is None else shape, self.num_factors, self.noise)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Loading, complex128 (K, N, L), and diagonal of the noise, float64 (K, N)."""
        self._require_fit()
        return unpack(self.values)

    def _options(self) -> dict[str, Any]:
        return {"num_factors": self.num_factors, "noise": self.noise}
