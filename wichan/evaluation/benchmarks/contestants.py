"""Who is scored: a predictor of wichan, or anybody's function from past CSI to future CSI."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanError
from wichan.prediction.base import Prediction, Predictor
from wichan.random import make_generator

#: What a contestant is told beside the history: nothing, the cell's statistics, or the true rays.
TOLD = ("", "cell", "geometry")


@dataclass(frozen=True, eq=False)
class Contestant:
    """A predictor under a name.

    Attributes:
        name: what tables call it.
        predictor: a `Predictor`, or a callable ``history -> prediction``.
        note: how it was made.
        identity: plain JSON that changes whenever its answers may: a resumed run must find the same.
        told: one of `TOLD`: then it is called with (history, present, told); ``"geometry"`` needs the rays of the samples.
        takes_gaps: given the raw history and ``present`` where snapshots were lost, instead of a repaired history.
        batch_size: samples that it takes at once.
        own: whether it is the caller's function or module: it gets copies, and one at a time.
    """

    name: str
    predictor: Any
    note: str = ""
    identity: Any = None
    told: str = ""
    takes_gaps: bool = False
    batch_size: int = 20
    own: bool = field(default=False, kw_only=True)

    def predict(self, history: torch.Tensor, present: torch.Tensor | None, shape: torch.Size, told: Any = None) -> Prediction:
        """Predict in batches of at most ``batch_size``.

        Args:
            history: complex64, (num_samples, 32, 1, 16, 300).
            present: bool, (num_samples, 16), where it takes gaps; None: all snapshots are there.
            shape: what the prediction must have.
            told: what a reference is told, see `wichan.evaluation.benchmarks.genie.Told`.

        Returns:
            the prediction; ``err_var`` is filled with NaN where none was given.

        Raises:
            InvalidTypeError, ShapeError, InvalidValueError: no such prediction, NaN, or an error of the predictor; one line
                that names it.
        """
        parts = []
        for first in range(0, history.shape[0], self.batch_size):
            rows = slice(first, first + self.batch_size)
            some = None if present is None else present[rows]
            size = torch.Size((history[rows].shape[0], *shape[1:]))
            parts.append(self._call(history[rows], some, size, None if told is None else told[rows]))
        if len(parts) == 1:
            return parts[0]
        return Prediction(torch.cat([part.h_pred for part in parts]), torch.cat([part.err_var for part in parts]))

    def fingerprint(self, shape: torch.Size, horizon: int, device: torch.device) -> list[str]:
        """Some digits of what it answers to one fixed history: they change when the function does.

        Args:
            shape: of the history, (1, num_rx_ant, num_tx_ant, num_history, num_subcarriers).
            horizon: snapshots to predict.
            device: where it computes.
        """
        generator = make_generator(0, "csi-rrg-probe")
        parts = torch.randn(*shape, 2, generator=generator)
        target = torch.Size((*shape[:3], horizon, shape[4]))
        weights = torch.randn(target, generator=generator).double()
        history = torch.view_as_complex(parts / math.sqrt(2)).to(device)
        with torch.inference_mode():
            answer = self.predict(history, None, target).h_pred.cpu().to(torch.complex128)
        sums = torch.view_as_real((answer * weights).sum((0, 1, 2, 4))).flatten()
        return [f"{value:.3e}" for value in sums.tolist()]

    def _call(self, history: torch.Tensor, present: torch.Tensor | None, shape: torch.Size, told: Any) -> Prediction:
        more = {"present": present} if self.takes_gaps else {}
        if self.own:  # a caller's function may write into its argument, which the others are still to see
            history = history.clone()
        try:
            answer = self.predictor(history, present, told) if self.told else self.predictor(history, **more)
        except WichanError as error:
            raise type(error)(f"predictor {self.name!r}: {error}") from error
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise InvalidValueError(f"predictor {self.name!r} failed on {tuple(history.shape)}: {what:.200}") from error
        return self._checked(answer, history, shape)

    def _checked(self, answer: Any, history: torch.Tensor, shape: torch.Size) -> Prediction:
        first, *rest = answer if isinstance(answer, (tuple, list)) and answer else (answer,)
        h_pred = self._tensor(first, history)
        if h_pred.shape != shape:
            raise ShapeError(f"predictor {self.name!r} returned shape {tuple(h_pred.shape)}; it must be {tuple(shape)}")
        bad = h_pred.numel() - int(torch.isfinite(torch.view_as_real(h_pred).sum(-1)).sum())
        if bad:
            raise InvalidValueError(f"predictor {self.name!r} returned {bad:,} NaN or infinite of {h_pred.numel():,} values")
        err_var = rest[0] if rest and isinstance(rest[0], torch.Tensor) and rest[0].shape == shape else None
        if err_var is None or err_var.is_complex():
            err_var = torch.full((), torch.nan, device=h_pred.device).expand(shape)
        return Prediction(h_pred, err_var)

    def _tensor(self, value: Any, history: torch.Tensor) -> torch.Tensor:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if not isinstance(value, torch.Tensor) or not value.is_complex():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise InvalidTypeError(f"predictor {self.name!r} returned {kind}; it must return a complex tensor or array")
        return value.detach().to(history.device, history.dtype).resolve_conj()


def contestant_of(name: str, predictor: Any) -> Contestant:
    """Wrap a `Predictor` or any callable ``history -> prediction``.

    Args:
        name: what tables call it.
        predictor: takes (num_samples, 32, 1, 16, 300) complex64 and returns (num_samples, 32, 1, 4, 300): a tensor, an array,
            or a tuple that starts with it (then ``err_var``, if it is a real tensor of that shape). With an attribute
            ``takes_gaps`` that is true it is called with ``present=`` too.

    Raises:
        InvalidTypeError: nothing that can be called.
    """
    if not callable(predictor):
        raise InvalidTypeError(f"predictor {name!r} must be callable, history -> prediction; got {type(predictor).__name__}")
    kind = type(predictor)
    gaps = bool(getattr(predictor, "takes_gaps", False))
    note = f"{kind.__module__}.{kind.__qualname__}" if isinstance(predictor, Predictor) else "a function of the caller"
    if isinstance(predictor, torch.nn.Module):
        predictor.eval()
    return Contestant(name, predictor, note, identity="caller", takes_gaps=gaps, own=True)
