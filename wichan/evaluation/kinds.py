"""What an evaluation does with each kind of recipe: estimators, reference and metrics that apply, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wichan.channels.base import NoClosedFormError
from wichan.errors import InvalidValueError, check_choice, check_int
from wichan.evaluation.baselines import BASELINES, kind_of
from wichan.evaluation.measures import MEASURES

if TYPE_CHECKING:
    from wichan.evaluation.setting import Setting

#: All that a table can show.
METRICS = ("nmse", "ber", "sinr", "rate", *MEASURES)


@dataclass(frozen=True)
class EvaluationKind:
    """Defaults of a kind of recipe.

    Attributes:
        estimators: what is compared where nothing is named.
        genie: the default reference.
        metrics: names of `METRICS` that can be measured.
        batch_size: channels at once.
        num_channels: at each point, where nobody says how many.
    """

    estimators: tuple[str, ...]
    genie: str
    metrics: tuple[str, ...]
    batch_size: int
    num_channels: int = 1000


#: Estimators that take long for a channel, and the default number of channels where one of them runs.
SLOW_CHANNELS = 200
SLOW = {"cme-gibbs": SLOW_CHANNELS, "sbl": 20}

#: Kind of recipe -> what applies to it.
EVALUATION_KINDS: dict[str, EvaluationKind] = {
    "ofdm": EvaluationKind(("ls", "lmmse-pooled", "lmmse-genie"), "lmmse-genie", ("nmse", "ber", "sinr"), 64),
    "quantized": EvaluationKind(("bls", "blmmse", "bussgang-gmm", "bussgang-genie"), "bussgang-genie", ("nmse", "rate"), 64),
    "irs": EvaluationKind(
        ("kron-omp", "kron-sbl-mm", "kron-sbl-svd", "kron-sbl-pc"), "oracle-ls", ("nmse", *MEASURES), 64, 100
    ),
}


def check_recipe_kind(name: str, kind: str) -> EvaluationKind:
    """Return what applies to a recipe's kind.

    Raises:
        InvalidValueError: a kind without pilots to estimate from.
    """
    if kind not in EVALUATION_KINDS:
        allowed = ", ".join(f"'{known}'" for known in EVALUATION_KINDS)
        raise InvalidValueError(f"recipe={name!r} is of kind {kind!r}; only kind {allowed} can be evaluated")
    return EVALUATION_KINDS[kind]


def check_metrics(metrics: Iterable[str], recipe: Any) -> tuple[str, ...]:
    """Return ``metrics``, each once, if all of them apply to the recipe.

    Raises:
        UnknownNameError: no such metric. InvalidValueError: one of another kind of recipe, or none.
    """
    chosen = tuple(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    if not chosen:
        raise InvalidValueError(f"metrics is empty; name at least one of: {', '.join(METRICS)}")
    allowed = check_recipe_kind(recipe.name, recipe.kind).metrics
    for metric in chosen:
        check_choice("metric", metric, METRICS)
        if metric not in allowed:
            where = f"recipe {recipe.name!r} of kind {recipe.kind!r}"
            raise InvalidValueError(f"metric={metric!r} does not apply to {where}; it has {', '.join(allowed)}")
    return chosen


def check_estimators(chosen: Mapping[str, Any], setting: Setting) -> None:
    """Raise unless every named estimator is made for the recipe's kind and can be built; asked before any work is done.

    Raises:
        InvalidValueError: one of another kind of recipe, or one that lacks what it is made of.
    """
    from wichan.evaluation import irs_baselines, quantized_baselines

    checks = {"quantized": quantized_baselines.check_buildable, "irs": irs_baselines.check_buildable}
    kind = setting.recipe.kind
    for name, entry in chosen.items():
        word = name if entry is None else entry
        if not isinstance(word, str):
            continue
        if kind_of(word) in (None, kind):
            if kind_of(word) in checks:
                checks[kind](word, setting)
            continue
        fitting = ", ".join(known for known in BASELINES if kind_of(known) == kind)
        raise InvalidValueError(
            f"estimator {word!r} does not apply to recipe {setting.recipe.name!r} of kind {kind!r}; these do: {fitting}"
        )


def channels_wanted(
    num_channels: int | None, chosen: Mapping[str, Any] | None, on_note: Callable[[str], None] | None
) -> int | None:
    """Channels at each point; where nobody says how many, fewer for all estimators if one is slow; None: the usual."""
    if num_channels is not None:
        return check_int("num_channels", num_channels, minimum=2)
    words = [name if entry is None else entry for name, entry in (chosen or {}).items()]
    slow = sorted((SLOW[word], word) for word in words if isinstance(word, str) and word in SLOW)
    if not slow:
        return None
    count, name = slow[0]
    if on_note is not None:
        on_note(f"{name} takes a tenth of a second a channel or more: {count} channels a point (-n asks for others)")
    return count


def default_reference(setting: Setting) -> str | None:
    """The genie of the recipe's kind; None where a link cannot tell what it would be told."""
    genie = EVALUATION_KINDS[setting.recipe.kind].genie
    if setting.recipe.kind == "ofdm":  # it says itself what to do where it cannot be built
        return genie
    if setting.recipe.kind == "irs":
        from wichan.evaluation.irs_baselines import off_grid

        return genie if off_grid(setting) is None else None
    try:
        closed = all(setting.model(name).has_closed_form for name in setting.profile_weights)
    except NoClosedFormError:
        return None
    return genie if closed else None
