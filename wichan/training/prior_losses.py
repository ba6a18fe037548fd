r"""Losses of a variational autoencoder of channels: terms by name with weights, ``"elbo"`` or ``"mse+0.01*kl"``.

======== ===========================================================================================================
term     mean over a batch, at one latent point drawn from the encoder's
======== ===========================================================================================================
nll      how badly C_z explains the target: :math:`\log|K| + x^H K^{-1} x` with x = h, K = C_z for circulant structures;
         x = h + noise of variance no, K = C_z + no I for Toeplitz ones, whose C_z alone is ill conditioned; and x = r,
         K = C_{r|z} for ``variant="real"``, the covariance behind the converters
kl       Kullback-Leibler divergence of the latent point from its prior
elbo     nll + kl, the negative evidence lower bound [Fesl2024]
mse      :math:`\lVert \hat h_z - h\rVert^2` of the Bussgang filter of C_z: what the estimator is judged by
log-mse  the logarithm of that, by which every SNR counts alike
======== ===========================================================================================================

Sums, not means, over the entries of a channel. The network that tells the error is trained beside: it sees no gradient of these
terms, and they none of its loss, :math:`\log v + \lVert \hat h_z - h\rVert^2 / (N v)`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_real, unknown_name
from wichan.estimators import stationary_filter
from wichan.estimators.bussgang_vae import ConditionalFilter
from wichan.priors.vae import VAE

TERMS = ("elbo", "nll", "kl", "mse", "log-mse")
_FAINT = 1e-3  # mean squared error an entry below which log-mse gains little more
# Single precision: relative to the diagonal of a covariance behind converters, and the smallest noise of the target.
_LOADING, _NO_FLOOR = 1e-4, 1e-4


def parse_prior_loss(name: Any) -> dict[str, float]:
    """Read a sum of weighted terms.

    Returns:
        Term -> weight, in the order of the name.

    Raises:
        UnknownNameError: no such term. InvalidTypeError, InvalidValueError: no text, a weight that is not above 0, one twice.

    Example:
        >>> parse_prior_loss("mse + 0.01*kl")
        {'mse': 1.0, 'kl': 0.01}
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"loss must be a name, got {type(name).__name__}")
    weights: dict[str, float] = {}
    # A plus sign in an exponent (1e+2) is none between terms.
    for part in re.split(r"(?<![0-9.][eE])\+", name):
        factor, _, term = part.strip().rpartition("*")
        term = term.strip()
        if term not in TERMS:
            raise unknown_name("loss", term, TERMS)
        if term in weights:
            raise InvalidValueError(f"loss={name!r} names a term twice")
        try:
            weights[term] = check_real(f"loss: weight of {term}", float(factor) if factor else 1.0, positive=True)
        except ValueError:
            raise InvalidValueError(f"loss={name!r}: the weight of {term} must be a number above 0, got {factor!r}") from None
    if "elbo" in weights and {"nll", "kl"} & set(weights):
        raise InvalidValueError(f"loss={name!r} names elbo, which is nll + kl, and a part of it")
    return weights


class PriorLoss:
    """The loss of a name.

    Args:
        name: see the module.
        prior: what is trained; ``variant="real"`` has no channels and thus neither mse nor log-mse.

    Raises:
        InvalidValueError: a term that the variant does not have.
    """

    def __init__(self, name: str, prior: VAE) -> None:
        self.weights = parse_prior_loss(name)
        self.filters = ConditionalFilter(prior.obs, prior)
        squared = [term for term in ("mse", "log-mse") if term in self.weights]
        if prior.variant == "real" and squared:
            raise InvalidValueError(f"loss={name!r}: {squared[0]} needs channels, and variant='real' sees none; use nll and kl")

    def __call__(
        self, prior: VAE, mean: torch.Tensor, log_std: torch.Tensor, spectra: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The loss of a batch, a scalar.

        Args:
            prior: the network.
            mean, log_std: of the latent points, (T, L).
            spectra: at one point each, (T, *sizes).
            batch: ``y`` (T, M), ``no`` (T,), ``h``, and ``noise``, CN(0, 1) like h.
        """
        total = spectra.new_zeros(())
        share = self.weights.get("elbo", 0.0)
        divergence, likelihood = (self.weights.get(term, 0.0) + share for term in ("kl", "nll"))
        if divergence:
            total = total + divergence * prior.divergence(mean, log_std)
        if likelihood:
            total = total + likelihood * self._misfit(prior, spectra, batch).mean()
        level = prior.error_of(mean, batch["no"])
        judged = "mse" in self.weights or "log-mse" in self.weights
        if not judged and level is None:
            return total
        with torch.set_grad_enabled(judged and torch.is_grad_enabled()):
            found = self.filters(spectra, batch["y"], batch["no"], exact=False, error=False, loading=_LOADING)
            error = torch.view_as_real(found.h_hat - batch["h"]).square().flatten(1).sum(-1) / prior.dim
        total = total + prior.dim * self.weights.get("mse", 0.0) * error.mean()
        if "log-mse" in self.weights:
            total = total + prior.dim * self.weights["log-mse"] * (error + _FAINT).log().mean()
        return total if level is None else total + (level.log() + error.detach() / level).mean()

    def _misfit(self, prior: VAE, spectra: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """nll of each sample, (T,)."""
        if prior.variant == "real":
            found = self.filters(spectra, batch["y"], batch["no"], exact=False, error=False, loading=_LOADING)
            return -found.log_likelihood
        if prior.grid.is_circulant:
            power = torch.view_as_real(prior.grid.transform(batch["h"])).square().sum(-1)
            return (spectra.log() + power / spectra).flatten(1).sum(-1)
        no = batch["no"].clamp_min(_NO_FLOOR)
        x = (batch["h"] + batch["noise"] * no.sqrt().reshape(-1, *[1] * (batch["h"].dim() - 1))).flatten(1)
        cov = prior.grid.covariance(spectra)
        cov = cov + no[:, None, None] * torch.eye(prior.dim, dtype=cov.dtype, device=cov.device)
        return -stationary_filter.solve(cov, x)[1]
