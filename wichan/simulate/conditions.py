"""The conditions language: how a recipe says what varies from sample to sample, and how it is drawn.

A law is a number or a word, or a mapping with one key::

    snr_db: 10                                # constant
    snr_db: {uniform: [0, 25]}                # also written 0..25
    delay_spread: {log_uniform: [25e-9, 300e-9]}
    max_doppler: {choice: [50, 100, 150]}     # also written [50, 100, 150] or 50:150:50 (both ends)
    num_users: {integer: [1, 4]}              # both ends

One double-precision uniform number is drawn per condition and sample, from a stream of its own, so that changing or
adding a condition leaves all others as they were, and the draws are equal on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import PlainSerializer, PlainValidator

from wichan.errors import InvalidValueError, WichanError, check_real, unknown_name

LAWS = ("constant", "uniform", "log_uniform", "choice", "integer")
_RANGE = re.compile(r"\s*([^:\s]+?)\s*(\.\.|:)\s*([^:\s]+?)\s*(?::\s*([^:\s]+))?\s*$")
MAX_CHOICES = 100_000


@dataclass(frozen=True)
class Law:
    """The distribution of one condition.

    Args:
        kind: one of ``LAWS``.
        values: the constant, the two bounds, or the choices; numbers, or words for a constant or choices.
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def is_text(self) -> bool:
        """Whether the values are words (a profile) and not numbers."""
        return isinstance(self.values[0], str)

    @property
    def categories(self) -> tuple[Any, ...]:
        """The distinct values of a constant or choice; a draw of words is an index into this."""
        return tuple(dict.fromkeys(self.values))

    @property
    def low(self) -> float:
        """Smallest value that can come."""
        return float(min(self.values))

    @property
    def high(self) -> float:
        """Largest value that can come."""
        return float(max(self.values))

    @property
    def num_values(self) -> float:
        """How many different values can come, infinite for a continuous law."""
        if self.kind == "integer":
            return self.high - self.low + 1
        return len(self.categories) if self.kind in ("constant", "choice") or self.low == self.high else math.inf

    def plain(self) -> Any:
        """The law as plain data, in the form it is written in a recipe."""
        return self.values[0] if self.kind == "constant" else {self.kind: list(self.values)}

    def draw(self, u: torch.Tensor) -> torch.Tensor:
        """Map uniform numbers in [0, 1) to values.

        Args:
            u: float64, any shape.

        Returns:
            float64 of the same shape; for words the index into ``categories``.
        """
        if self.kind in ("constant", "choice"):
            table = [self.categories.index(v) for v in self.values] if self.is_text else self.values
            index = (u * len(self.values)).to(torch.int64).clamp_(max=len(self.values) - 1)
            return torch.tensor(table, dtype=torch.float64)[index]
        low, high = (float(v) for v in self.values)
        if self.kind == "integer":
            return ((u * (high - low + 1)).floor_() + low).clamp_(max=high)
        if self.kind == "log_uniform":
            return (u * (math.log(high) - math.log(low)) + math.log(low)).exp_().clamp_(low, high)
        return u * (high - low) + low

    def __str__(self) -> str:
        return str(self.plain())


def _number(field: str, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValueError(f"{field}={value!r} must be a number")
    if not math.isfinite(value):
        raise InvalidValueError(f"{field}={value} must be finite")
    return value


def _from_text(text: str) -> tuple[str, Sequence[Any]] | None:
    """Read the short forms ``a..b`` and ``a:b:step``; other words are no range."""
    match = _RANGE.match(text)
    if match is None:
        return None
    try:
        first, last = float(match[1]), float(match[3])
        step = float(match[4]) if match[4] is not None else None
    except ValueError:
        return None
    if match[2] == ".." and step is None:
        return "uniform", [first, last]
    if match[2] != ":" or step is None:
        return None
    count = (last - first) / step if step else math.inf
    if not 0 <= count < MAX_CHOICES:
        raise InvalidValueError(f"{text!r} must be first:last:step with a step that leads from first to last")
    points = [first + i * step for i in range(math.floor(count + 1e-9) + 1)]
    return "choice", [int(p) if p.is_integer() else p for p in points]


def parse_law(
    value: Any,
    field: str = "condition",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    positive: bool = False,
    words: bool = False,
) -> Law:
    """Build a `Law` from the plain data of a recipe.

    Args:
        value: number, word, list, or mapping with one key of ``LAWS``.
        field: name in error messages.
        minimum: smallest value allowed.
        maximum: largest value allowed.
        positive: values must be greater than 0.
        words: values are words (a profile name) instead of numbers.

    Raises:
        InvalidValueError: a form or a value that is not allowed.
    """
    if isinstance(value, Law):
        kind, values = value.kind, list(value.values)
    else:
        kind, values = _split(value, field, words)
    if not values:
        raise InvalidValueError(f"{field} has no values; at least one is needed")
    if len(values) > MAX_CHOICES:
        raise InvalidValueError(f"{field} has {len(values)} choices; at most {MAX_CHOICES} are allowed")
    if words:
        bad = next((v for v in values if not isinstance(v, str)), None)
        if bad is not None or kind not in ("constant", "choice"):
            raise InvalidValueError(f"{field}={value!r} must be a name, or {{choice: [names]}}")
        return Law(kind, tuple(values))
    numbers = tuple(_number(field, v) for v in values)
    _check_form(field, kind, numbers)
    check_real(field, min(numbers), minimum=minimum, positive=positive)
    check_real(field, max(numbers), maximum=maximum)
    return Law(kind, numbers)


def _split(value: Any, field: str, words: bool) -> tuple[str, list[Any]]:
    if isinstance(value, str) and not words:
        value = {"constant": value} if (short := _from_text(value)) is None else {short[0]: list(short[1])}
    if isinstance(value, (list, tuple)):
        return "choice", list(value)
    if not isinstance(value, Mapping):
        return "constant", [value]
    if len(value) != 1:
        raise InvalidValueError(f"{field}={dict(value)!r} must have exactly one key out of {', '.join(LAWS)}")
    kind, values = next(iter(value.items()))
    if kind not in LAWS:
        raise unknown_name(f"{field}: law", kind, LAWS)
    if kind == "constant" and not isinstance(values, (list, tuple)):
        values = [values]
    if not isinstance(values, (list, tuple)):
        raise InvalidValueError(f"{field}: {kind}={values!r} must be a list")
    return kind, list(values)


def _check_form(field: str, kind: str, numbers: tuple[float, ...]) -> None:
    if kind == "constant" and len(numbers) != 1:
        raise InvalidValueError(f"{field}: constant={list(numbers)} must be one value")
    if kind in ("uniform", "log_uniform", "integer"):
        if len(numbers) != 2 or numbers[0] > numbers[1]:
            raise InvalidValueError(f"{field}: {kind}={list(numbers)} must be [low, high] with low <= high")
        if kind == "log_uniform" and numbers[0] <= 0:
            raise InvalidValueError(f"{field}: log_uniform={list(numbers)} must have bounds greater than 0")
        if kind == "integer" and any(float(v) != int(v) for v in numbers):
            raise InvalidValueError(f"{field}: integer={list(numbers)} must have whole bounds")


def law_type(**limits: Any) -> Any:
    """Return the pydantic type of a law with the limits of `parse_law`."""

    def validate(value: Any) -> Law:
        try:
            return parse_law(value, "", **limits)
        except WichanError as error:  # pydantic collects ValueErrors only
            raise ValueError(str(error)) from None

    return Annotated[Law, PlainValidator(validate), PlainSerializer(Law.plain)]


AnyLaw = law_type()
NonNegativeLaw = law_type(minimum=0.0)
PositiveLaw = law_type(positive=True)
NameLaw = law_type(words=True)
