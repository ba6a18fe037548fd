r"""Mixtures of channels learned from quantised pilots alone.

Each iteration weighs the observations by a Gaussian stand-in for their likelihood,

.. math:: w_{tk} \propto \pi_k\, \mathcal{CN}(r_t; 0, C_{r,k}),

recovers each component's covariance from the weighted observations (`wichan.priors.recover_covariance`), and lets the prior
project it to its structure. :math:`C_{r,k}` takes the distortion for white: that is positive definite whatever is recovered,
and the estimators that came out were as good as with the exact covariance of r.

This is not maximum likelihood, so its objective, the mean of :math:`\log\sum_k \pi_k \mathcal{CN}(r_t; 0, C_{r,k})`, need not
rise: the best iteration is kept.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, WichanWarning
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.quantized_samples import QuantizedSamples, Tally, form_features
from wichan.priors.recovery import Recovery, nearest_psd
from wichan.priors.start import kmeans_labels, log_periodogram
from wichan.random import make_generator

if TYPE_CHECKING:
    from wichan.priors.base import MixturePrior, Progress

_START_SAMPLES = 16384  # k-means looks at so many observations
_PATIENCE = 5  # iterations without a better objective


def fit_from_quantized(
    prior: MixturePrior, obs: QuantizedPilots, r: torch.Tensor, no: Any, progress: Progress | None = None
) -> None:
    r"""Fit a mixture prior to quantised pilots, in place ([Fesl2024]_).

    Args:
        prior: a mixture with a number of components. Its ``max_iter``, ``tol``, ``num_restarts``, ``floor`` and ``seed`` hold;
            ``batch_size`` does not, since all passes go through the observations in chunks. It ends when the objective has not
            risen by ``tol`` for five iterations.
        obs: what made the observations, see `wichan.priors.recover_covariance`.
        r: complex, (\*batch, M).
        no: noise variance, a number or a tensor over the batch.
        progress: called with (iteration, max_iter, objective); a true value ends the iteration.

    Raises:
        As `wichan.priors.recover_covariance`, and InvalidValueError for fewer observations than components.

    Warns:
        WichanWarning: all observations are equal.

    Cost of an iteration over T observations: 4 T K M^2 FLOP; products of pairs are kept where they fit in 512 MiB.
    """
    if not isinstance(prior.num_components, int):
        raise InvalidTypeError(f"num_components={prior.num_components!r} must be an integer to learn from quantised pilots")
    samples = QuantizedSamples(r, obs, no, "labels")
    prior._form(tuple(obs.channel_shape))  # refuses a structure that does not fit before anything is changed
    if prior.num_components > samples.num:
        raise InvalidValueError(
            f"num_components={prior.num_components} must be at most the number of observations, {samples.num}"
        )
    if bool((samples.unit == samples.unit[0]).all()):
        text = f"r holds {samples.num} equal observation(s): the prior is bounded by its floors, not by data"
        warnings.warn(text, WichanWarning, stacklevel=3)
    recovery = Recovery(samples)
    best: _Best | None = None
    for restart in range(prior.num_restarts):
        found = _Loop(prior, samples, recovery, restart).run(progress)
        if best is None or found.objective > best.objective:
            best = found
    assert best is not None
    prior._install(prior.shape, best.log_weights, **best.values)
    prior.history, prior.converged = best.history, best.converged


@dataclass
class _Best:
    """Parameters of a prior at the best iteration of a start, and how the start went."""

    objective: float
    log_weights: torch.Tensor
    values: dict[str, torch.Tensor]
    history: list[float]
    converged: bool = False


class _Loop:
    """One start of the iteration."""

    def __init__(self, prior: MixturePrior, samples: QuantizedSamples, recovery: Recovery, restart: int) -> None:
        self.prior, self.samples, self.recovery = prior, samples, recovery
        self.components = int(prior.num_components)
        self.tally = self._start(make_generator(prior.seed, "quantized-em", restart))

    def _start(self, generator: torch.Generator) -> Tally:
        """k-means on periodograms, as for channels themselves, of a random subset."""
        samples, inverse = self.samples, self.recovery.inverse
        chosen = torch.randperm(samples.num, generator=generator)[:_START_SAMPLES].to(samples.unit.device)
        seen = samples.unit[chosen]
        if inverse is not None:
            seen = seen @ inverse.mT.to(seen.dtype)
        features = log_periodogram(seen.reshape(-1, *samples.obs.channel_shape))
        labels = kmeans_labels(features, self.components, generator)
        weights = torch.zeros(samples.num, self.components, dtype=samples.dtype, device=seen.device)
        weights[samples.order[chosen], labels] = 1.0
        return samples.tally(weights)

    def run(self, progress: Progress | None) -> _Best:
        prior, history = self.prior, []
        best: _Best | None = None
        mark, since = -math.inf, 0
        for iteration in range(prior.max_iter):
            self._m_step()
            objective, self.tally = self._e_step()
            history.append(objective)
            if best is None or objective > best.objective:
                best = _Best(objective, prior.log_weights, {n: getattr(prior, n) for n in prior.values_names}, history)
            mark, since = (objective, 0) if objective >= mark + prior.tol else (mark, since + 1)
            stop = progress is not None and progress(iteration + 1, prior.max_iter, objective) is True
            if stop or since >= _PATIENCE:
                break
        assert best is not None
        best.converged = since >= _PATIENCE
        return best

    def _m_step(self) -> None:
        count = self.tally.count.sum(0)
        covs = nearest_psd(self.recovery.covariances(self.tally), self.prior.floor)
        covs, count = _reseeded(covs, count)
        self.prior.shape = tuple(self.samples.obs.channel_shape)
        self.prior._m_step_from_covariances(covs, count / count.sum())

    def _e_step(self) -> tuple[float, Tally]:
        """Objective, and sums over the samples with their responsibilities."""
        samples, prior = self.samples, self.prior
        tally = samples.empty_tally(self.components)
        forms, constants = self._densities(prior.covariances(), prior.log_weights)
        total, products = 0.0, samples.dim**2
        for g, _, block in samples.chunks():
            joint = torch.addmm(constants[g].unsqueeze(1), forms[g], block[:products], alpha=-1.0)
            norm = torch.logsumexp(joint, dim=0)
            total += float(norm.sum(dtype=torch.float64))
            weight = joint.sub_(norm).exp_()
            tally.sums[g] += weight @ block.T
            tally.count[g] += weight.sum(1, dtype=torch.float64)
        return total / samples.num, tally

    def _densities(self, covs: torch.Tensor, log_weights: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """For each level, coefficients of the quadratic forms (K, M^2) and what their negatives are added to, (K,)."""
        samples = self.samples
        forms, constants = [], []
        for level in samples.levels:
            cov = samples.obs.output_covariance(samples.obs.input_covariance(covs, level.no), level.no, "white")
            scale = torch.where(samples.bank.signs, 1.0, level.scale).to(covs.real.dtype)
            lower = torch.linalg.cholesky(cov / (scale[:, None] * scale))
            log_det = 2 * lower.diagonal(dim1=-2, dim2=-1).real.log().sum(-1) + 2 * scale.log().sum()
            forms.append(form_features(torch.cholesky_inverse(lower)).to(samples.dtype))
            constants.append((log_weights - log_det - samples.dim * math.log(math.pi)).to(samples.dtype))
        return forms, constants


def _reseeded(covs: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give components with less than one observation half of the heaviest one, which is tilted into two different ones."""
    empty = (count < 1.0).nonzero()[:, 0].tolist()
    if not empty:
        return covs, count
    covs, count = covs.clone(), count.clone()
    for k in empty:
        heaviest = int(count.argmax())
        values, vectors = torch.linalg.eigh(covs[heaviest])
        tilt = torch.full_like(values, 0.5)
        tilt[1::2] = 1.5
        for index, tilted in ((k, values * tilt), (heaviest, values * (2 - tilt))):
            kept = tilted * (values.sum() / tilted.sum())  # the power stays
            covs[index] = (vectors * kept) @ vectors.mH
        count[k] = count[heaviest] = count[heaviest] / 2
    return covs, count
