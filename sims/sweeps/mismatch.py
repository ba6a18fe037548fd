"""Conditions that are told wrong: a delay spread or a Doppler that is off by a factor, or by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wichan.evaluation import Evaluation, evaluate
from wichan.evaluation.baselines import Built
from wichan.random import make_generator

#: condition -> relative errors in per cent: every frame off by the same share, and each frame by its own up to that share.
BIASES = {"delay_spread": (-50, -25, 25, 50), "max_doppler": (-30, -15, 15, 30)}
SPREADS = {"delay_spread": (25, 50), "max_doppler": (15, 30)}
POINTS = (5.0, 15.0, 25.0)


@dataclass(frozen=True)
class Wrong:
    """An error of what an estimator is told.

    Args:
        method: the estimator's name.
        condition: which condition is wrong.
        percent: size of the error.
        random: uniform within +-``percent`` for each frame, instead of the same for all.
    """

    method: str
    condition: str
    percent: int
    random: bool

    @property
    def name(self) -> str:
        """What tables call it."""
        sign = "+-" if self.random else ("+" if self.percent > 0 else "")
        return f"{self.method} {self.condition} {sign}{self.percent}%"


def told_wrong(built: Built, wrong: Wrong, seed: int) -> Built:
    """The same estimator, told a wrong condition. Random errors are the same for every estimator."""
    generator = make_generator(seed, "told wrong", wrong.condition, wrong.percent)

    def estimate(y: torch.Tensor, no: Any, **conditions: Any) -> Any:
        value = conditions[wrong.condition]
        error = torch.full_like(value, wrong.percent / 100)
        if wrong.random:
            uniform = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value)
            error = error * (2 * uniform - 1)
        return built.estimator(y, no, **(conditions | {wrong.condition: value * (1 + error)}))

    return Built(estimate, told=built.told, note=f"{built.note}; {wrong.condition} wrong by {wrong.percent} %")


def all_errors(methods: list[str], quick: bool) -> list[Wrong]:
    """Every error of every method."""
    found = []
    for condition, biases in BIASES.items():
        biases, spreads = (biases[::3], SPREADS[condition][1:]) if quick else (biases, SPREADS[condition])
        for method in methods:
            found += [Wrong(method, condition, percent, False) for percent in biases]
            found += [Wrong(method, condition, percent, True) for percent in spreads]
    return found


def run(
    recipe: str, made: dict[str, Built], untold: list[str], num_channels: int, quick: bool
) -> tuple[Evaluation, list[Wrong]]:
    """Measure all errors on the same channels, beside the truth and beside estimators that are told nothing.

    Args:
        recipe: its name.
        made: estimators by name, the genie among them; those that are told delay spread and Doppler are told wrong too.
        untold: names that are drawn for comparison.
        num_channels: at each of `POINTS`.
        quick: fewer errors and points.
    """
    wanted = set(BIASES)
    methods = [name for name, built in made.items() if wanted <= set(built.told)]
    wrongs = all_errors(methods, quick)
    estimators: dict[str, Any] = {name: built for name, built in made.items() if name in methods or name in untold}
    # The networks' modes are set by evaluate for what it is given; behind a function they would not be.
    for name in methods:
        if isinstance(made[name].estimator, torch.nn.Module):
            made[name].estimator.eval()
    estimators |= {wrong.name: told_wrong(made[wrong.method], wrong, seed=0) for wrong in wrongs}
    points = POINTS[1:2] if quick else POINTS
    return evaluate(recipe, estimators, sweep="snr_db", points=points, num_channels=num_channels, detail=False), wrongs
