r"""The covariance over all conditions of a recipe: what a receiver can know that is not told the conditions.

.. math:: \bar R = E_c[R(c)] = \sum_p w_p\, E_c\Big[\sum_k S_k(c) \otimes T_k(c) \otimes F_k(c)\Big]

Conditions of a recipe are independent, and in most models the delay spread changes F only and the Doppler T only. Then the
mean of each term is the Kronecker product of the means, exactly, and each mean is a one-dimensional quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from wichan.channels.base import NoClosedFormError
from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.errors import InvalidValueError
from wichan.evaluation.setting import Setting, kronecker_terms
from wichan.linalg import thin_factor
from wichan.random import derive_seed, make_generator

QUADRATURE_POINTS = 64
TRAINING_SAMPLES = 4096
_AXES = ("space", "time", "frequency")
_RTOL = 1e-10


@dataclass(frozen=True)
class Pooled:
    """A pooled covariance and how it was found."""

    covariance: ChannelCovariance
    note: str


def pooled_covariance(setting: Setting) -> Pooled:
    """Average the covariance over the laws of a recipe.

    Closed form where each factor depends on conditions of its own; a mean over draws of the conditions where a condition
    moves several factors of a term; an estimate from training samples where the model has no closed form.
    """
    try:
        terms, notes = [], []
        for profile, weight in setting.profile_weights.items():
            part, note, template = _pool_profile(setting, profile)
            terms += [KroneckerTerm(term.space * weight**0.5, term.time, term.frequency) for term in part]
            notes.append(note)
        return Pooled(ChannelCovariance(terms, template.num_rx_ant, template.num_tx_ant), _joined(notes))
    except NoClosedFormError:
        return _from_samples(setting)


def _joined(notes: list[str]) -> str:
    return "; ".join(dict.fromkeys(notes))


def _nodes(setting: Setting, name: str) -> torch.Tensor:
    """Midpoints of equal probability: exact for constants and for choices, second order for smooth laws."""
    law = setting.laws[name]
    count = len(law.values) if law.kind in ("constant", "choice") else QUADRATURE_POINTS
    if law.kind == "integer":
        count = min(int(law.high - law.low) + 1, 4 * QUADRATURE_POINTS)
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def _pool_profile(setting: Setting, profile: str) -> tuple[list[KroneckerTerm], str, ChannelCovariance]:
    """Mean terms of one profile, how they were found, and a covariance of the same sizes."""
    names = [name for name in setting.laws if name not in ("profile", "snr_db")]
    template = setting.covariance(profile, setting.draw_conditions({}))
    at_median = kronecker_terms(template)
    swept = {}
    for name in names:
        swept[name] = kronecker_terms(setting.covariance(profile, setting.draw_conditions({name: _nodes(setting, name)})))
    if any(len(terms) != len(at_median) for terms in swept.values()):
        return _pool_draws(setting, profile, names)
    means = []
    for index, middle in enumerate(at_median):
        owners = {axis: [n for n in names if _varies(getattr(swept[n][index], axis))] for axis in _AXES}
        used = [name for owner in owners.values() for name in owner]
        if len(used) > len(set(used)) or any(len(owner) > 1 for owner in owners.values()):
            return _pool_draws(setting, profile, names)
        factors = [_mean_factor(getattr(swept[owners[a][0]][index] if owners[a] else middle, a)) for a in _AXES]
        means.append(KroneckerTerm(*factors))
    return means, "closed form, averaged over the recipe's conditions", template


def _varies(factor: torch.Tensor) -> bool:
    if factor.dim() < 3 or factor.shape[0] == 1:
        return False
    return float((factor - factor[:1]).abs().max()) > 1e-9 * float(factor.abs().max())


def _mean_factor(factor: torch.Tensor) -> torch.Tensor:
    """A thin factor of the mean of A_q A_q^H over the batch axis."""
    if factor.dim() == 2:
        return factor
    return thin_factor(torch.einsum("qnr,qmr->nm", factor, factor.conj()) / factor.shape[0], _RTOL)


def _pool_draws(setting: Setting, profile: str, names: list[str]) -> tuple[list[KroneckerTerm], str, ChannelCovariance]:
    """Mean over joint draws of the conditions, kept as that many terms each."""
    generator = make_generator(setting.seed, "pooled", profile)
    u = {name: torch.rand(QUADRATURE_POINTS, dtype=torch.float64, generator=generator) for name in names}
    covariance = setting.covariance(profile, setting.draw_conditions(u))
    terms = []
    for q in range(QUADRATURE_POINTS):
        one = covariance[q] if covariance.batch_shape else covariance
        terms += [KroneckerTerm(t.space / QUADRATURE_POINTS**0.5, t.time, t.frequency) for t in kronecker_terms(one)]
    return terms, f"mean over {QUADRATURE_POINTS} draws of the conditions", covariance


def _from_samples(setting: Setting) -> Pooled:
    """Estimate the covariance from samples that evaluation never sees (another seed)."""
    from wichan.simulate import stream

    elements = setting.grid.num_resource_elements
    if elements > 4096:
        raise InvalidValueError(
            f"grid has {elements} elements; without a closed form a covariance can be estimated for at most 4096"
        )
    seed = derive_seed(setting.seed, "training samples")
    batches = stream(setting.recipe, batch_size=256, seed=seed, split=setting.split, num_batches=TRAINING_SAMPLES // 256)
    h = torch.cat([batch.h for batch in batches])
    return Pooled(ChannelCovariance.from_samples(h), f"estimated from {TRAINING_SAMPLES} independent training samples")


def frequency_covariance(
    setting: Setting, columns: Mapping[str, torch.Tensor], profiles: Sequence[str] | None = None
) -> torch.Tensor:
    """Covariance over subcarriers, averaged over antennas, times and the conditions of given samples.

    Args:
        setting: the recipe's parts.
        columns: condition name -> (n,).
        profiles: profile of each sample; None where the source has none.

    Returns:
        complex128, (num_subcarriers, num_subcarriers).
    """
    count = next(iter(columns.values())).shape[0]
    names = list(profiles) if profiles is not None else [""] * count
    total = torch.zeros(setting.grid.num_subcarriers, setting.grid.num_subcarriers, dtype=torch.complex128)
    for name in dict.fromkeys(names):
        index = torch.tensor([i for i, other in enumerate(names) if other == name])
        picked = {key: columns[key][index].double() for key in setting.arguments(columns)}
        # Movement changes no power, so the cheapest of all covariances over time will do: that of a standing channel.
        picked |= {key: torch.zeros((), dtype=torch.float64) for key in ("speed", "max_doppler") if key in picked}
        covariance = setting.covariance(name, picked)
        averaged = covariance.sizes[0] * covariance.sizes[1]
        for term in covariance.terms:
            factor = term.marginals()[2]
            gram = factor @ factor.mH / averaged
            total += gram * index.numel() if gram.dim() == 2 else gram.sum(dim=0) * (index.numel() / gram.shape[0])
    return total / count
