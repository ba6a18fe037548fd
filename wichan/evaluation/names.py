"""What a name on the command line stands for: a baseline, a released model, or a file of weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wichan.errors import InvalidValueError, check_choice
from wichan.evaluation.baselines import BASELINES
from wichan.training.weights_reader import SUFFIX, weights_file


def named(words: Iterable[Any]) -> dict[Any, str | None]:
    """Read estimators as the command line gives them: ``ls``, ``NAME=PATH`` of a weight file, or the path alone.

    Returns:
        name in the table -> what it stands for; None: the name itself. A path alone is called by its stem.

    Raises:
        InvalidValueError: one name for two things.

    Example:
        >>> named(["ls", "mine=runs/a/best.safetensors", "runs/b/last.safetensors"])
        {'ls': None, 'mine': 'runs/a/best.safetensors', 'last': 'runs/b/last.safetensors'}
    """
    found: dict[Any, str | None] = {}
    for word in words:
        name, entry = _parts(word) if isinstance(word, str) else (word, None)
        if found.setdefault(name, entry) != entry:
            both = f"{found[name] or name!r} and {entry or name!r}"
            raise InvalidValueError(f"estimators={name!r} stands for {both}; give each a name: A=PATH,B=PATH")
    return found


def _parts(word: str) -> tuple[str, str | None]:
    name, sign, target = word.partition("=")
    if not sign:
        return (Path(word).stem, word) if word.endswith(SUFFIX) else (word, None)
    if not name.strip() or not target.strip():
        raise InvalidValueError(f"estimators={word!r} must be NAME=PATH, or a name alone")
    return name.strip(), target.strip()


def check_known(word: str) -> None:
    """Raise unless ``word`` is one of `BASELINES`, a released model, or leads to a weight file.

    Raises:
        UnknownNameError: none of them; the nearest name is suggested. InvalidValueError: a path that leads nowhere.
    """
    if word in BASELINES:
        return
    from wichan.training.zoo import is_path, released

    if is_path(word):
        weights_file(word)
    else:
        check_choice("estimator", word, dict.fromkeys([*BASELINES, *released()]))
