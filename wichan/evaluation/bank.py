"""The bank of LMMSE filters over a recipe's conditions: the best that an estimator can do that is not told them."""

from __future__ import annotations

import math
from itertools import product

import torch

from wichan.channels.base import NoClosedFormError
from wichan.errors import InvalidValueError
from wichan.estimators.bank import MAX_JOINT
from wichan.estimators.condition_grid import condition_grid
from wichan.evaluation.baselines import Built
from wichan.evaluation.setting import Setting

#: How many values stand for the law of a condition: where conditions share factors, and where each keeps a filter.
NODES = {"delay_spread": 16, "max_doppler": 24, "speed": 24}
NODES_JOINT = {"delay_spread": 8, "max_doppler": 12, "speed": 12}
_LARGE, _LARGE_LIMIT = 4096, 48  # channel entries above which a filter takes a second to build, and how many of them then
_OTHER = 4  # for conditions not named above
# Quantiles are taken at (k / n)^warp: dense where a value is small, since there an error costs the most dB.
_WARP = 1.5


def build_lmmse_bank(setting: Setting) -> Built:
    """LMMSE of every condition, weighted by its posterior: the conditional mean for one that is told nothing."""
    from wichan.estimators import LMMSEBank

    refusal = f"estimator 'lmmse-bank' cannot be built for source {setting.recipe.source!r}"
    if not all(setting.model(name).has_closed_form for name in setting.profile_weights):
        raise InvalidValueError(f"{refusal}: no closed-form covariance; leave it out (--estimators ls,lmmse-pooled)")
    profiles = setting.profile_weights
    counts, limit = NODES, math.inf
    try:
        middle = [setting.covariance(profile, setting.draw_conditions({})) for profile in profiles]
        if not setting.observation.is_separable or condition_grid(middle) is None:
            most = MAX_JOINT if math.prod(middle[0].sizes) <= _LARGE else _LARGE_LIMIT
            counts, limit = NODES_JOINT, max(1, most // len(profiles))
        columns, weights = _conditions(setting, counts, limit)
        covariances = [setting.covariance(profile, columns) for profile in profiles]
    except NoClosedFormError as error:
        raise InvalidValueError(f"{refusal}: {error}; leave it out (--estimators ls,lmmse-pooled)") from None
    prior = torch.cat([weights * share for share in profiles.values()])
    bank = LMMSEBank(setting.observation, covariances, prior)
    return Built(bank, note=f"conditional mean over {bank.num_conditions} conditions of the recipe")


def _conditions(setting: Setting, counts: dict[str, int], limit: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All combinations of values that stand for the laws, as columns, and their weights."""
    names = [name for name in setting.laws if name not in ("profile", "snr_db")]
    sizes = {name: int(min(counts.get(name, _OTHER), setting.laws[name].num_values)) for name in names}
    while math.prod(sizes.values()) > limit:  # too many filters to keep: the finest law gets coarser
        widest = max(sizes, key=lambda name: sizes[name])
        sizes[widest] -= 1
    nodes = {name: law_nodes(setting, name, size) for name, size in sizes.items()}
    u = {name: torch.tensor(values, dtype=torch.float64) for name, values in _mesh({n: v[0] for n, v in nodes.items()}).items()}
    shares = _mesh({name: found[1] for name, found in nodes.items()})
    weights = torch.ones(1, dtype=torch.float64)
    for values in shares.values():
        weights = weights * torch.tensor(values, dtype=torch.float64)
    return setting.draw_conditions(u), weights


def law_nodes(setting: Setting, name: str, size: int) -> tuple[list[float], list[float]]:
    """Quantiles that stand for a law, and their probabilities; each of a few discrete values stands for itself."""
    law = setting.laws[name]
    if law.num_values <= size:
        choices = len(law.values) if law.kind in ("constant", "choice") else int(law.num_values)
        return [(i + 0.5) / choices for i in range(choices)], [1.0 / choices] * choices
    edges = [(i / size) ** _WARP for i in range(size + 1)]
    middles = [((i + 0.5) / size) ** _WARP for i in range(size)]
    return middles, [high - low for low, high in zip(edges, edges[1:], strict=False)]


def _mesh(axes: dict[str, list[float]]) -> dict[str, list[float]]:
    """Every combination: name -> one value for each of them."""
    rows = list(product(*axes.values()))
    return {name: [row[i] for row in rows] for i, name in enumerate(axes)}
