"""Number of components by held-out log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_int, check_real
from wichan.priors.base import MixturePrior, Progress
from wichan.priors.samples import Channels, Samples
from wichan.random import make_generator

_MOST_CHANNELS = 32768  # that "auto" looks at
_MOST_COMPONENTS = 512


class ComponentChoice(NamedTuple):
    """What `choose_num_components` found.

    Args:
        num_components: the candidate with the highest held-out log-likelihood.
        log_likelihoods: mean log-likelihood of a held-out channel for each candidate that was fitted.
    """

    num_components: int
    log_likelihoods: dict[int, float]


def choose_num_components(
    h: torch.Tensor,
    candidates: Sequence[int] | None = None,
    *,
    make: Callable[[int], MixturePrior] | None = None,
    holdout: float = 0.2,
    patience: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> ComponentChoice:
    r"""Fit priors of growing size to a part of the channels, and compare them on the rest.

    Args:
        h: complex (T, \*shape), T >= 2.
        candidates: numbers of components; default the powers of 2 up to a quarter of the training part, at most 512.
        make: unfitted prior for a number of components; default ``GMM(k, **options)``.
        holdout: share of channels that is held out, drawn at random.
        patience: end after so many candidates in a row below the best.
        seed: of the split.
        progress: passed to every fit.
        options: of `GMM`, such as ``structure``.

    Returns:
        `ComponentChoice`.

    Raises:
        InvalidTypeError, InvalidValueError: no tensor, fewer than 2 channels, no candidate, a candidate larger than the
            training part; what `fit` raises.

    Example:
        >>> h = torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
        >>> choose_num_components(h, (1, 8), structure="circulant").num_components
        1
    """
    from wichan.priors.gmm import GMM

    if not isinstance(h, torch.Tensor):
        raise InvalidTypeError(f"h must be a torch.Tensor, got {type(h).__name__}")
    if h.dim() < 2 or len(h) < 2:
        raise InvalidValueError(f"h has shape {tuple(h.shape)}; at least 2 channels are needed to hold one out")
    holdout = check_real("holdout", holdout, positive=True, maximum=0.9)
    patience = check_int("patience", patience, minimum=1)
    order = torch.randperm(len(h), generator=make_generator(seed, "holdout")).to(h.device)
    number = min(max(1, round(holdout * len(h))), len(h) - 1)
    held_out, train = h[order[:number]], h[order[number:]]
    if candidates is None:
        most = min(_MOST_COMPONENTS, max(1, len(train) // 4))
        candidates = [1 << n for n in range(most.bit_length())]
    sizes = sorted({check_int("candidates", k, minimum=1) for k in candidates})
    if not sizes:
        raise InvalidValueError("candidates=[] must hold at least one number of components")
    if sizes[-1] > len(train):
        raise InvalidValueError(f"candidates={sizes[-1]} must be at most the {len(train)} channels that are not held out")
    scores: dict[int, float] = {}
    for k in sizes:
        prior = make(k) if make is not None else GMM(k, **options)
        scores[k] = prior.fit(train, progress=progress).log_likelihood(held_out)
        if len(scores) - 1 - list(scores).index(max(scores, key=scores.__getitem__)) >= patience:
            break
    return ComponentChoice(max(scores, key=scores.__getitem__), scores)


def choose_for(prior: MixturePrior, h: Channels, progress: Progress | None) -> int:
    """Number of components for a prior's own options, from at most 32768 channels drawn at random."""
    samples = Samples(h, _MOST_CHANNELS, make_generator(prior.seed, "auto"))
    if samples.num == 1:
        return 1
    config = prior.config() | {"shape": None}
    subset = samples.subset.reshape(-1, *samples.shape)
    choice = choose_num_components(
        subset, make=lambda k: type(prior).from_config(config | {"num_components": k}), seed=prior.seed, progress=progress
    )
    return choice.num_components
