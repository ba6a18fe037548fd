"""Predictors by name: closed forms, those fitted on the fly, released weights, anybody's weight file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_int, unknown_name
from wichan.evaluation.benchmarks.contestants import Contestant, contestant_of
from wichan.evaluation.benchmarks.fitting import Fit, fitted
from wichan.evaluation.benchmarks.genie import GenieCaller
from wichan.prediction import LEARNED_PREDICTORS, PREDICTORS, Predictor

_FITTED = ("ar", "wiener")
_GENIES = {"wiener-genie-cell": "cell", "wiener-genie-geometry": "geometry"}
#: They follow a process in time and have no form that crosses bands.
TDD_ONLY = ("ar", "pad", "dad", "dadnet")
#: Name -> one line for ``wichan evaluate --list``.
NAMES = {
    "hold": "repeats the last snapshot (no prediction)",
    "ar": "vector autoregression over antennas, fitted on the fly; TDD",
    "wiener": "linear regression of future on past, fitted on the fly",
    "pad": "Prony's method in angle and delay; TDD",
    "dad": "delay-angle-Doppler prediction from the history alone; TDD",
    "wiener-genie-cell": "conditional mean told the cell's law and the noise: a reference; up to a minute a cell",
    "wiener-genie-geometry": "conditional mean told the paths and the noise: a reference",
    "cnn": "convolutional network of the published comparison, released in a small form",
    "rnn": "recurrent network of the published comparison, released in a small form",
    "csi4cast": "released weights of CSI4CAST's small form, a design of its own and not the published network",
    "csibert2": "CSI-BERT2 as a predictor, released in a small form",
    "dadnet": "learned delay-angle-Doppler predictor; released weights; TDD",
}
_LARGE = 2  # samples at once of a network on a CPU: activations of one sample take up to 0.2 GB


@dataclass(frozen=True)
class Roster:
    """How contestants are made.

    Attributes:
        fit: for those that are fitted.
        device: where they compute.
        batch_size: samples at once; None: 20, and 2 for networks on a CPU.
    """

    fit: Fit
    device: torch.device
    batch_size: int | None = None

    @property
    def duplex(self) -> str:
        """``"tdd"`` or ``"fdd"``."""
        return self.fit.duplex


def contestants_of(predictors: Any, roster: Roster) -> tuple[list[Contestant], list[str]]:
    """Build everybody that was asked for.

    Args:
        predictors: names of `NAMES`, ``NAME=PATH`` (a weight file), a mapping name -> callable (or name, or path), or None:
            all that can be had.

    Returns:
        contestants, and notes on who was left out.

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError: no such predictor, none, the same name twice, none with a form
            for this duplex mode, one without released weights.
    """
    if predictors is None:
        return _everybody(roster)
    if isinstance(predictors, Mapping):
        wanted = list(predictors.items())
    elif isinstance(predictors, (str, Sequence)):
        wanted = [_pair(word) for word in ([predictors] if isinstance(predictors, str) else predictors)]
    else:
        raise InvalidTypeError(f"predictors must be names or a mapping name -> callable, got {type(predictors).__name__}")
    names = [name for name, _ in wanted]
    if not names:
        raise InvalidValueError(f"predictors is empty; name at least one of: {', '.join(NAMES)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidValueError(f"predictors names {twice[0]!r} twice; every name stands for one")
    kept, notes = _with_a_form(wanted, roster.duplex)
    return [_sized(_made(name, what, roster), roster) for name, what in kept], notes


def _with_a_form(wanted: list[tuple[str, Any]], duplex: str) -> tuple[list[tuple[str, Any]], list[str]]:
    """Leave out what follows one band in time where another is asked for, so that one list serves both modes."""
    if duplex != "fdd":
        return wanted, []
    kept = [(name, what) for name, what in wanted if not (isinstance(what, str) and what in TDD_ONLY)]
    reasons = [str(_missing(what, duplex)) for name, what in wanted if isinstance(what, str) and what in TDD_ONLY]
    if not kept:
        raise InvalidValueError(reasons[0])
    return kept, [f"left out: {reason}" for reason in reasons]


def _pair(word: Any) -> tuple[str, Any]:
    if not isinstance(word, str):
        raise InvalidTypeError(f"predictors holds {type(word).__name__}; give names, or a mapping name -> callable")
    name, equals, path = word.partition("=")
    if equals and not (name.strip() and path.strip()):
        raise InvalidValueError(f"predictors holds {word!r}; weights are given as NAME=PATH")
    return (name.strip(), Path(path.strip()).expanduser()) if equals else (word.strip(), word.strip())


def _everybody(roster: Roster) -> tuple[list[Contestant], list[str]]:
    chosen, notes = [], []
    for name in NAMES:
        if name in _GENIES:
            continue  # references that are told more stand in a comparison only where they are asked for
        reason = _missing(name, roster.duplex)
        if reason:
            notes.append(f"left out: {reason}")
        else:
            chosen.append(_sized(_made(name, name, roster), roster))
    return chosen, notes


def _missing(name: str, duplex: str) -> str | None:
    """Why there is no such predictor for a duplex mode; None: there is."""
    if duplex == "fdd" and name in TDD_ONLY:
        return f"predictor {name!r} has no FDD form: it follows one band in time"
    if name in LEARNED_PREDICTORS:
        from wichan.training.zoo import released

        if f"{name}-{duplex}" not in released():
            train = f"wichan train {name} --stream csi-rrg --model-set duplex={duplex}"
            return f"no trained weights of {name!r} for {duplex}: train them ({train}) and give {name}=PATH"
    return None


def _made(name: str, what: Any, roster: Roster) -> Contestant:
    if isinstance(what, Path):
        return _weights(name, what, roster)
    if not isinstance(what, str):
        return contestant_of(name, what)
    if what not in NAMES:
        from wichan.training.zoo import is_path, released

        if what in released() or is_path(what):
            return _weights(name, what, roster)
        raise unknown_name("predictor", what, NAMES)
    reason = _missing(what, roster.duplex)
    if reason:
        raise InvalidValueError(reason)
    if what in LEARNED_PREDICTORS:
        return _weights(name, f"{what}-{roster.duplex}", roster)
    if what in _GENIES:
        given = _GENIES[what]
        caller = GenieCaller(given, roster.fit.source, roster.duplex)
        return Contestant(name, caller, NAMES[what], {"genie": given}, told=given, takes_gaps=caller.takes_gaps)
    if what in _FITTED:
        predictor: Any = fitted(what, roster.fit)
        note, identity = roster.fit.note(what), {"fitted": what, "samples": roster.fit.num_samples}
    else:
        recipe = roster.fit.source.recipe
        kind: Any = PREDICTORS[what]
        sizes = {"num_history": recipe.num_history, "num_horizon": recipe.num_horizon}
        predictor = kind(**sizes) if what in TDD_ONLY else kind(duplex=roster.duplex, **sizes)
        note, identity = NAMES[what], {"closed form": what}
    return replace(contestant_of(name, predictor.eval().to(roster.device)), note=note, identity=identity, own=False)


def _weights(name: str, model: str | Path, roster: Roster) -> Contestant:
    """Released weights, or a weight file."""
    from wichan.training.weights_reader import weights_file
    from wichan.training.zoo import load, weights_path

    predictor = load(model)
    if not isinstance(predictor, Predictor):
        raise InvalidValueError(f"{name}={model} is {type(predictor).__name__}, which predicts no channels")
    if predictor.duplex != roster.duplex:
        raise InvalidValueError(f"{name}={model} was trained for duplex={predictor.duplex!r}; this run is {roster.duplex!r}")
    digest = hashlib.sha256(weights_file(weights_path(model)).read_bytes()).hexdigest()[:16]
    made = contestant_of(name, predictor.to(roster.device))
    return replace(made, note=f"weights of {model}", identity={"weights": digest}, own=False)


def _sized(contestant: Contestant, roster: Roster) -> Contestant:
    if roster.batch_size is not None:
        return replace(contestant, batch_size=check_int("batch_size", roster.batch_size, minimum=1))
    network = getattr(contestant.predictor, "network", None) is not None
    return replace(contestant, batch_size=_LARGE) if network and roster.device.type == "cpu" else contestant
