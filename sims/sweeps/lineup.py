"""Who takes part: names, what is drawn in which colour, and how each estimator is built once for all sweeps."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from wichan.errors import InvalidValueError, WichanError
from wichan.evaluation import BASELINES, Setting
from wichan.evaluation.baselines import Built
from wichan.evaluation.learned import build_learned

GENIE, BANK = "lmmse-genie", "lmmse-bank"
#: name -> (colour, marker). A network that is told the conditions and the same network that is not share a colour.
STYLES: dict[str, tuple[str, str]] = {
    "ls": ("#7F7F7F", "o"),
    "lmmse-pooled": ("#56B4E9", "s"),
    "lmmse-plugin": ("#0072B2", "D"),
    "delay-doppler-mixture": ("#009E73", "P"),
    BANK: ("#000000", "X"),
    "linear": ("#8C6D31", "<"),
    "fortitran": ("#E69F00", "^"),
    "cevit": ("#CC79A7", "v"),
    "adafortitran": ("#D55E00", "*"),
    "adafortitran-blind": ("#D55E00", "*"),
    GENIE: ("#000000", ""),
}
ESTIMATORS = tuple(STYLES)
#: Trained for one grid and one set of pilots: name -> (model, whether conditions are estimated instead of told).
NETWORKS = {
    "linear": ("linear", False),
    "fortitran": ("fortitran", False),
    "cevit": ("cevit", False),
    "adafortitran": ("adafortitran", False),
    "adafortitran-blind": ("adafortitran", True),
}


def line_style(name: str, told: Sequence[str]) -> str:
    """Solid: told nothing; dash-dotted: told the conditions; dashed: the genie."""
    if name == GENIE:
        return "--"
    return "-." if told else "-"


def build(
    setting: Setting, names: Sequence[str], weights: Mapping[str, Path], *, lenient: bool = False
) -> tuple[dict[str, Built], dict[str, str]]:
    """Build estimators for a recipe.

    Args:
        setting: the recipe's parts.
        names: of `ESTIMATORS`.
        weights: model -> weight file to use instead of the released one.
        lenient: leave out what is not there (a network without weights, an unknown name) instead of raising.

    Returns:
        (name -> estimator, name -> why it was left out). A network for other pilots is always left out.

    Raises:
        WichanError: an estimator that cannot be built.
    """
    made: dict[str, Built] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = _build_one(setting, name, weights)
        except WichanError as error:
            if not (lenient or _wrong_pilots(error)):
                raise
            left_out[name] = str(error)
    return made, left_out


def _build_one(setting: Setting, name: str, weights: Mapping[str, Path]) -> Built:
    model, blind = NETWORKS.get(name, ("", False))
    built: Built = build_learned(str(weights[model]), setting, blind=blind) if model in weights else BASELINES[name](setting)
    return built


def _wrong_pilots(error: WichanError) -> bool:
    """Whether a network refused because it was trained for another pattern."""
    return isinstance(error, InvalidValueError) and "is trained for" in str(error)


def weight_file(text: str) -> tuple[str, Path]:
    """``MODEL=PATH``."""
    model, sign, path = text.partition("=")
    if not sign or not path:
        raise argparse.ArgumentTypeError(f"{text!r} must be MODEL=PATH, such as adafortitran=runs/ada/best.safetensors")
    return model, Path(path)
