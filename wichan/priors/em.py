r"""Expectation maximisation for mixtures of zero-mean Gaussians ([Dempster1977]_), exact or stepwise over mini-batches.

The E-step gives responsibilities :math:`w_{tk} = p(k | h_t)`. The M-step sets :math:`\pi_k = \sum_t w_{tk} / T` and, through
the prior's structure, a covariance that raises :math:`-\log|C| - \mathrm{tr}(C^{-1} S_k)` under :math:`C \succeq \epsilon I`,
where :math:`S_k = \sum_t w_{tk} h_t h_t^H / \sum_t w_{tk}`. The floor is part of the model and the M-step keeps to it: it
raises eigenvalues below the floor to it, where adding the floor to all would not be the maximum of anything. So the
log-likelihood itself never falls.

Stepwise EM ([Cappe2009]_) takes a running mean of the moments over mini-batches, of which the n-th counts n^-0.6.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from wichan.errors import InvalidValueError, WichanWarning
from wichan.priors.estep import DenseEStep, EStep, Moments, SpectralEStep
from wichan.priors.samples import Channels, Samples
from wichan.priors.start import kmeans_labels, log_periodogram, parts, split_heaviest
from wichan.priors.structure import Components, Structure
from wichan.random import make_generator

if TYPE_CHECKING:
    from wichan.priors.base import MixturePrior, Progress

_START_SAMPLES = 16384  # k-means looks at a random subset of so many channels
_CACHE_BYTES = 1 << 28  # of digested channels, and of bounds, kept from one iteration to the next
_FORGET = 0.6  # stepwise EM: the n-th mini-batch counts n^-0.6


@dataclass
class _Mixture:
    """Parameters between two steps."""

    components: Components
    log_weights: torch.Tensor


@dataclass
class _Run:
    """Where one start has led to."""

    mixture: _Mixture
    history: list[float]
    converged: bool
    stopped: bool
    counts: torch.Tensor


def fit_mixture(prior: MixturePrior, h: Channels, progress: Progress | None = None) -> None:
    """Fit a prior whose ``_form(shape)`` is a `Structure` to channels, and install the best of its restarts.

    Raises:
        InvalidValueError: fewer channels than components; the rest as `wichan.priors.samples.Samples`.
    """
    assert isinstance(prior.num_components, int)
    subset_size = max(_START_SAMPLES, 32 * prior.num_components)
    samples = Samples(h, subset_size, make_generator(prior.seed, "subset"))
    if prior.num_components > samples.num:
        raise InvalidValueError(f"num_components={prior.num_components} must be at most the number of channels, {samples.num}")
    form = prior._form(samples.shape)
    best: _Run | None = None
    for restart in range(prior.num_restarts):
        run = _Fitting(prior, form, samples, restart, progress).run()
        if best is None or run.history[-1] > best.history[-1]:
            best = run
        if run.stopped:
            break
    assert best is not None
    _warn(best, samples)
    prior._install(samples.shape, best.mixture.log_weights, values=form.values(best.mixture.components))
    prior.history, prior.converged = best.history, best.converged


def _warn(run: _Run, samples: Samples) -> None:
    if bool((samples.subset == samples.subset[:1]).all()):
        warnings.warn(
            f"h holds {samples.num} equal channel(s): covariances of rank one, and the floor in all other directions",
            WichanWarning,
            stacklevel=4,
        )
    elif lost := int((run.counts < _least(samples.num)).sum()):
        warnings.warn(
            f"{lost} of {len(run.counts)} components have no weight left: h may hold fewer distinct channels than that",
            WichanWarning,
            stacklevel=4,
        )


def _least(num: int) -> float:
    """Responsibility (in channels) below which a component counts as lost."""
    return min(1e-2, 1e-3 * num)


class _Fitting:
    """One start of EM, to convergence or the last iteration."""

    def __init__(self, prior: MixturePrior, form: Structure, samples: Samples, restart: int, progress: Progress | None) -> None:
        self.prior, self.form, self.samples, self.progress = prior, form, samples, progress
        self.restart = restart
        self.floor = prior.floor * samples.power
        self.generator = make_generator(prior.seed, "em", restart)
        num, dim, k = samples.num, samples.subset.shape[1], int(prior.num_components)
        in_memory = not samples.is_stream and prior.batch_size is None
        self.remember = in_memory and 4 * num * k <= _CACHE_BYTES
        self.cache = in_memory and 24 * num * dim <= _CACHE_BYTES
        self.estep: EStep = SpectralEStep(samples.shape) if form.spectral else DenseEStep(samples.shape, self.remember)
        self.converged = self.stopped = False
        self.kept: list = []
        self.memories: list[dict[str, torch.Tensor]] = []
        self.features = log_periodogram(samples.subset.reshape(-1, *samples.shape))

    def run(self) -> _Run:
        k = int(self.prior.num_components)
        by_parts = (self.restart + self.form.spectral) % 2 == 1  # circulant forms begin with these; see `wichan.priors.start`
        labels = kmeans_labels(parts(self.samples.subset) if by_parts else self.features, k, self.generator)
        start = self.estep.labelled(self.samples.subset, labels, k)
        mixture = self._m_step(start, None)
        return self._exact(mixture) if self.prior.batch_size is None else self._stepwise(mixture, start)

    # -- Exact EM --

    def _exact(self, mixture: _Mixture) -> _Run:
        history: list[float] = []
        before: _Mixture | None = None  # what the M-step gave before components were re-seeded
        may_seed = True
        for iteration in range(self.prior.max_iter):
            moments = self._pass(mixture)
            if before is not None and moments.total / moments.num < history[-1]:
                # The new components did not pay at once: without them the likelihood cannot fall.
                mixture, may_seed = before, False
                moments = self._pass(mixture)
            before = None
            self._record(history, moments.total / moments.num)
            last = self.converged or self.stopped or iteration + 1 == self.prior.max_iter
            after = self._m_step(moments, mixture.components)
            if may_seed and not last:
                seeded = self._seed(moments, mixture)
                if len(seeded):
                    before, after = after, self._m_step(moments, mixture.components, seeded)
            mixture = after
            if last:
                break
        return _Run(mixture, history, self.converged, self.stopped, moments.counts)

    def _pass(self, mixture: _Mixture) -> Moments:
        """Moments of all channels."""
        self.estep.update(mixture.components, mixture.log_weights)
        total: Moments | None = None
        for number, digest in enumerate(self._digests()):
            if self.remember and number == len(self.memories):
                self.memories.append({})
            part = self.estep.moments(digest, self.memories[number] if self.remember else None)
            total = part if total is None else total.add(part)
        assert total is not None
        return total

    def _digests(self) -> list:
        if not self.cache:
            return (self.estep.digest(chunk) for chunk in self.samples.chunks())  # type: ignore[return-value]
        if not self.kept:
            self.kept = [self.estep.digest(chunk) for chunk in self.samples.chunks()]
        return self.kept

    # -- Stepwise EM --

    def _stepwise(self, mixture: _Mixture, start: Moments) -> _Run:
        size = self.prior.batch_size
        assert size is not None
        history: list[float] = []
        running, steps = _mean(start), 1 + start.num / size
        for epoch in range(self.prior.max_iter):
            total, seen = 0.0, 0
            for batch in self.samples.batches(size):
                self.estep.update(mixture.components, mixture.log_weights)
                part = self.estep.moments(self.estep.digest(batch))
                total, seen, steps = total + part.total, seen + part.num, steps + 1
                share = min(1.0, part.num / size) * steps**-_FORGET
                running.add(_mean(part), share, 1.0 - share)
                mixture = self._m_step(running, mixture.components)
            self._record(history, total / seen)
            if self.converged or self.stopped:
                break
            if epoch + 1 < self.prior.max_iter:
                seeded = self._seed(running, mixture)
                if len(seeded):
                    mixture = self._m_step(running, mixture.components, seeded)
        return _Run(mixture, history, self.converged, self.stopped, running.counts * self.samples.num)

    # -- Both --

    def _record(self, history: list[float], value: float) -> None:
        """Append to the history and report it; notes whether EM has converged, and whether it was told to stop."""
        history.append(value)
        self.converged = len(history) > 1 and abs(value - history[-2]) < self.prior.tol
        self.stopped = self.progress is not None and bool(self.progress(len(history), self.prior.max_iter, value))

    def _m_step(self, moments: Moments, old: Components | None, seeded: torch.Tensor | None = None) -> _Mixture:
        second = moments.second()
        components = self.form.update(second, old, self.floor)
        if seeded is not None:  # these have nothing to do with the components they replace
            components.put(seeded, self.form.update(second[seeded], None, self.floor))
        return _Mixture(components, (moments.counts / moments.counts.sum()).clamp_min(1e-35).log())

    def _seed(self, moments: Moments, mixture: _Mixture) -> torch.Tensor:
        """Give lost components half of the heaviest ones, in ``moments``; the indices of all components that changed."""
        scale = self.samples.num / float(moments.counts.sum())
        lost = (moments.counts * scale < _least(self.samples.num)).nonzero()[:, 0].tolist()
        if not lost:
            return torch.empty(0, dtype=torch.int64)
        labels = mixture.components.log_density(self.samples.subset, self.samples.shape).add_(mixture.log_weights).argmax(1)
        return split_heaviest(self.estep, moments, lost, labels, self.samples.subset, self.features, self.generator)


def _mean(moments: Moments) -> Moments:
    """Moments of an average sample."""
    return Moments(moments.total / moments.num, 1, moments.counts / moments.num, moments.sums / moments.num)
