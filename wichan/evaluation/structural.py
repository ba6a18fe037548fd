"""Sweeps over settings of a recipe: at every point a link of its own, and estimators built for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, unknown_name
from wichan.evaluation.feeds import Feed, FeedOptions, RecipeFeed, base_setting
from wichan.evaluation.kinds import check_recipe_kind
from wichan.evaluation.measure import Measured

# Sections of a recipe whose keys are worth sweeping, for the list of a wrong name.
_SECTIONS = ("grid", "channel", "pilots", "quantizer", "prior", "training", "dictionary", "sbl")


def setting_key(recipe: Any, sweep: str, overrides: Mapping[str, Any] | None = None) -> tuple[str, str | None]:
    """Tell conditions, which change from channel to channel, from settings, for which the link is built anew.

    Args:
        recipe: name, path or `Recipe`.
        sweep: a condition, ``profile``, a dotted key of the recipe, or one of its aliases.
        overrides: further settings.

    Returns:
        The name of the condition and None; or ``sweep`` and the dotted key of the setting.

    Raises:
        UnknownNameError: neither.
    """
    from wichan.simulate import load_recipe

    loaded: Any = load_recipe(recipe, {k: v for k, v in (overrides or {}).items() if k not in ("split", "cell")})
    check_recipe_kind(loaded.name, loaded.kind)
    key = loaded.aliases.get(sweep, sweep)
    conditions = [*loaded.conditions, *(["profile"] if loaded.profile is not None else [])]
    name = key.removeprefix("conditions.")
    if name in conditions or name == "profile":
        return name, None
    section = key.partition(".")[0]
    sections = [field for field in type(loaded).model_fields if field not in loaded.protected]
    if "." not in key or section not in sections or section == "conditions":
        short = [alias for alias, target in loaded.aliases.items() if not target.startswith("conditions.")]
        open_ended = [f"{part}..." for part in sections if part in _SECTIONS]
        raise unknown_name("sweep", sweep, [*conditions, *short, *open_ended])
    return sweep, key


def setting_points(sweep: str, points: Sequence[Any] | None) -> list[float | str]:
    """Values of a swept setting: numbers (whole ones as ``int``, infinity allowed) or words, none of them twice.

    Raises:
        InvalidValueError: no points, or one that comes back. InvalidTypeError: what is no number or word.
    """
    if not points:
        raise InvalidValueError(f"points is missing: a sweep over the setting {sweep!r} needs its values, such as points=1,2,4")
    checked: list[float | str] = []
    for point in points:
        value = point.item() if hasattr(point, "item") else point
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise InvalidTypeError(f"points={point!r} must be a number or a word, got {type(point).__name__}")
        if isinstance(value, float) and math.isnan(value):
            raise InvalidValueError("points=nan must be a number")
        checked.append(int(value) if isinstance(value, float) and value.is_integer() else value)
    if len(set(checked)) < len(checked):
        raise InvalidValueError(f"points={checked} holds a point more than once")
    return checked


class SettingFeed(RecipeFeed):
    """Draws channels of a recipe in which one setting has one value; all conditions follow the recipe's laws."""

    def __init__(
        self, recipe: Any, options: FeedOptions, key: str, value: float | str, overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.setting = base_setting(recipe, {**(overrides or {}), key: value}, options.split, options.seed)
        self._lay_out([value], [self.setting.recipe], options, overrides)


def setting_feeds(recipe: Any, options: FeedOptions, key: str, overrides: Mapping[str, Any] | None) -> list[SettingFeed]:
    """One feed a point; all points are checked before any channel is drawn.

    The channels are the same draws at all points where the setting does not change the channel's law.
    """
    return [SettingFeed(recipe, options, key, value, overrides) for value in setting_points(options.sweep, options.points)]


def note_mixed_snr(feeds: Sequence[Feed], on_note: Callable[[str], None] | None) -> None:
    """Say that each point of a sweep over a setting mixes SNRs, where it does: the noisiest rule its error."""
    setting = feeds[0].setting
    law = setting.laws.get("snr_db")
    if on_note is not None and isinstance(feeds[0], SettingFeed) and law is not None and law.num_values > 1:
        on_note("every point mixes all SNRs of the recipe; fix one with snr_db=10 among the settings (--set snr_db=10)")


def merged(parts: Sequence[Measured]) -> Measured:
    """Measurements of several points, one after the other."""
    return Measured(
        [energy for part in parts for energy in part.energies],
        [error for part in parts for error in part.errors],
        torch.cat([part.calibration for part in parts]),
    )


def merged_notes(points: Sequence[float | str], notes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Notes of estimators that were built at every point: one text where they agree, else one a point."""
    found = {}
    for name in notes[0]:
        texts = [note[name] for note in notes]
        same = len(set(texts)) == 1
        found[name] = texts[0] if same else "; ".join(f"{point}: {text}" for point, text in zip(points, texts, strict=True))
    return found
