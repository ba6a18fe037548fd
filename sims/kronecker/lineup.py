"""Estimators by the names that tables show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kronecker import plain
from wichan.estimators import OMP, PCSBL, SBL, KroneckerOMP, KroneckerSBL, OracleLS
from wichan.observations import KroneckerDictionary

#: Published shares of a factor's largest hyper-parameter below which an atom is removed (synthetic problem).
PUBLISHED_PRUNE = {"svd": 1e-3, "am": 1e-2, "single": 1e-2}
PUBLISHED_DENSE_PRUNE = 1e-3
#: Factors of the IRS case whose angles come in blocks.
COUPLED = ("irs", "bs")
#: The published start, hyper-parameters of one, in the unit of this library's IRS coefficients: there arrays, patterns and
#: dictionary are normalised, so that a coefficient is L sqrt(Nms Nbs) times as large, L = 256, Nms = 6, Nbs = 16.
IRS_START = 1 / (256**2 * 6 * 16)


def coupled_start(coupling: float) -> float:
    """The same with two coupled factors, where g is one: a variance is the sum over itself and its two neighbours."""
    return IRS_START * (1 + 2 * coupling) ** 2


_PUBLISHED_SBL: dict[str, dict[str, Any]] = {
    f"kron-sbl-{m_step} published": {"m_step": m_step, "start": 1.0, "prune": prune}
    for m_step, prune in PUBLISHED_PRUNE.items()
}
_UNKNOWN: dict[str, dict[str, Any]] = {
    f"kron-sbl-{m_step} unknown noise": {"m_step": m_step, "learn_noise": True} for m_step in ("svd", "am", "single")
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"kron-sbl-{m_step}": {"m_step": m_step} for m_step in ("svd", "am", "single", "mm")},
    **_PUBLISHED_SBL,
    **_UNKNOWN,
    "kron-sbl-pc 0.8": {"m_step": "am", "couple": COUPLED, "coupling": 0.8},
    "kron-sbl-pc 0.5": {"m_step": "am", "couple": COUPLED, "coupling": 0.5},
    "kron-sbl-svd pc 0.8": {"m_step": "svd", "couple": COUPLED, "coupling": 0.8},
    "kron-sbl-mm pc 0.8": {"m_step": "mm", "couple": COUPLED, "coupling": 0.8},
    "irs-svd published": {"m_step": "svd", "start": IRS_START, "prune": 0.0},
    "irs-am published": {"m_step": "am", "start": IRS_START, "prune": (1e-2, 1e-1, 1e-3)},
    "irs-pc 0.8 published": {
        "m_step": "am",
        "couple": COUPLED,
        "coupling": 0.8,
        "start": coupled_start(0.8),
        "prune": (1e-2, 1e-1, 1e-2),
    },
    "irs-pc 0.5 published": {
        "m_step": "am",
        "couple": COUPLED,
        "coupling": 0.5,
        "start": coupled_start(0.5),
        "prune": (1e-2, 1e-1, 1e-2),
    },
}
_OTHERS: dict[str, Callable[[KroneckerDictionary], Any]] = {
    "sbl": SBL,
    "pc-sbl": PCSBL,
    "omp": OMP,
    "kron-omp": lambda dictionary: KroneckerOMP(dictionary, form="strong"),
    "kron-omp-published": lambda dictionary: KroneckerOMP(dictionary, form="published"),
    "oracle-ls": OracleLS,
}
GENERAL_EIG = "kron-sbl-single general eig"
DENSE = ("sbl", "pc-sbl")


def build(name: str, dictionary: KroneckerDictionary) -> Any:
    """The estimator of a name."""
    if name in SETTINGS:
        return KroneckerSBL(dictionary, **SETTINGS[name])
    return _OTHERS[name](dictionary)


def solve(name: str, dictionary: KroneckerDictionary, y: Tensor, no: Tensor, support: Sequence[Tensor]) -> tuple[Any, float]:
    """The answer of an estimator to a batch, and the CPU seconds that it took, building excluded."""
    if name == GENERAL_EIG:
        return _general_eig(dictionary, y, no)
    estimator = build(name, dictionary)
    told = {"support": tuple(support)} if name == "oracle-ls" else {}
    unknown = SETTINGS.get(name, {}).get("learn_noise", False)
    begin = time.process_time()
    with torch.no_grad():
        answer = estimator(y, None if unknown else no, **told)
    return answer, time.process_time() - begin


class Plain:
    """The fields of an answer that studies read, from `kronecker.plain`."""

    def __init__(self, coefficients: Tensor, num_iterations: Tensor) -> None:
        self.coefficients, self.num_iterations = coefficients, num_iterations
        self.no_hat: Tensor | None = None


def _general_eig(dictionary: KroneckerDictionary, y: Tensor, no: Tensor) -> tuple[Plain, float]:
    """The published KSBL as its code has it: a general eigenvalue routine, start at one, atoms removed below 1e-2."""
    factors = [factor.numpy() for factor in dictionary.factors]
    begin = time.process_time()
    options: dict[str, Any] = {"threshold": PUBLISHED_PRUNE["single"], "symmetric": False}
    traces = [
        plain.solve(factors, received.numpy(), float(level), "single", **options) for received, level in zip(y, no, strict=True)
    ]
    seconds = time.process_time() - begin
    found = torch.as_tensor(np.stack([trace.mean for trace in traces]))
    return Plain(found, torch.tensor([trace.iterations for trace in traces])), seconds
