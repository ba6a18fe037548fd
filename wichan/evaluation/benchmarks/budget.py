"""How much of the benchmark is scored: ``full`` is all of it, ``quick`` takes minutes and keeps every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wichan.errors import check_choice, check_int
from wichan.evaluation.benchmarks.scenarios import CATEGORIES, Cell, Setting, cells

BUDGETS = ("quick", "full")
#: Samples a setting. ``quick`` keeps all regular cells with all degrees.
NUM_SAMPLES: dict[str, dict[str, int]] = {
    "quick": {"regular": 4, "robustness": 2, "generalization": 4},
    "full": dict.fromkeys(CATEGORIES, 100),
}
#: Training samples a cell for the predictors that are fitted on the fly (27 cells).
FIT_SAMPLES = {"quick": 20, "full": 60}
_LETTERS, _SPREADS = "ABCDE", 6


def quick_cells() -> tuple[Cell, ...]:
    """30 of the 510 generalization cells: every pair of letter and delay spread, with all 17 speeds among them.

    The speed moves on by 4 of 17 from one delay spread to the next and by 7 from one letter to the next; both numbers have no
    divisor in common with 17, so no letter and no delay spread keeps to a part of the speeds.
    """
    every = cells("generalization")
    speeds = len(every) // (len(_LETTERS) * _SPREADS)
    places = [
        (letter * _SPREADS + spread) * speeds + (7 * letter + 4 * spread) % speeds
        for letter in range(len(_LETTERS))
        for spread in range(_SPREADS)
    ]
    return tuple(every[place] for place in places)


def within_budget(settings: Sequence[Setting], budget: str) -> tuple[Setting, ...]:
    """Leave out what a budget does not score.

    Raises:
        UnknownNameError: no such budget.
    """
    if check_choice("budget", budget, BUDGETS) == "full":
        return tuple(settings)
    kept = {cell.name for cell in quick_cells()}
    return tuple(s for s in settings if s.category != "generalization" or s.cell.name in kept)


def sample_counts(budget: str, num_samples: int | None) -> Mapping[str, int]:
    """Samples a setting, by category.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidValueError: no such budget, or no positive integer.
    """
    check_choice("budget", budget, BUDGETS)
    if num_samples is None:
        return NUM_SAMPLES[budget]
    return dict.fromkeys(CATEGORIES, check_int("num_samples", num_samples, minimum=1, maximum=1_000_000))
