"""The contract of a predictor as one call: every promise of `wichan.prediction.base` becomes a named check."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_generator, check_int
from wichan.prediction.base import Prediction, Predictor
from wichan.random import complex_normal
from wichan.testing.contract import CheckReport, run_checks
from wichan.testing.tolerances import relative_tolerance

_BATCH = 3


@dataclass
class PredictorBench:
    """The predictor under test with everything that makes its inputs."""

    predictor: Predictor
    generator: torch.Generator
    antennas: tuple[int, int]
    num_subcarriers: int
    dtype: torch.dtype

    def history(self, batch: tuple[int, ...] = (_BATCH,)) -> torch.Tensor:
        """Two paths that turn in time and along frequency, seen by all antennas, and a little noise."""
        steps = torch.arange(self.predictor.num_history, dtype=torch.float64)[:, None]
        bins = torch.arange(self.num_subcarriers, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.complex128)
        for turn, delay in ((0.13, 0.01), (-0.31, 0.03)):
            gain = complex_normal((*batch, *self.antennas, 1, 1), generator=self.generator, dtype=torch.complex128)
            phase = 2 * math.pi * (turn * steps - delay * bins)
            total = total + gain * torch.polar(torch.ones_like(phase), phase)
        noise = complex_normal(total.shape, 1e-3, generator=self.generator, dtype=torch.complex128)
        return (total + noise).to(self.dtype)

    @torch.no_grad()
    def run(self, history: Any, no: Any = None, *, present: Any = None) -> Prediction:
        """Predict without a gradient."""
        return self.predictor(history, no, present=present)


def check_predictor(
    predictor: Predictor,
    *,
    generator: torch.Generator,
    num_rx_ant: int = 4,
    num_tx_ant: int = 1,
    num_subcarriers: int = 24,
    dtype: torch.dtype = torch.complex64,
    skip: Mapping[str, str] | None = None,
) -> CheckReport:
    """Check that a predictor keeps the library's contract.

    Args:
        predictor: the predictor, ready to use (fitted where it learns). It is set to ``eval()`` and put back afterwards.
        generator: source of the test histories, CPU.
        num_rx_ant, num_tx_ant, num_subcarriers: of the histories it was made for.
        dtype: complex64 or complex128, the precision of its weights if it has any.
        skip: name of a check -> why it does not apply, such as ``{"scale": "a fixed z-score, as published"}``.

    Returns:
        `CheckReport` with the names that passed and those that were left out.

    Raises:
        AssertionError: at least one check failed; the message lists all of them, a line each.
        InvalidTypeError, InvalidValueError, UnknownNameError: arguments of this function that make no sense.

    Example:
        >>> from wichan.prediction import Hold
        >>> report = check_predictor(Hold(), generator=torch.Generator().manual_seed(1))
        >>> "scale" in report.passed
        True
    """
    if not isinstance(predictor, Predictor):
        raise InvalidTypeError(f"predictor must be a Predictor, got {type(predictor).__name__}")
    check_generator("generator", generator)
    sizes = {"num_rx_ant": num_rx_ant, "num_tx_ant": num_tx_ant, "num_subcarriers": num_subcarriers}
    for name, value in sizes.items():
        check_int(name, value, minimum=1)
    if dtype not in (torch.complex64, torch.complex128):
        raise InvalidValueError(f"dtype={dtype} must be torch.complex64 or torch.complex128")
    reasons = dict(skip or {})
    for name in reasons:
        check_choice("skip", name, PREDICTOR_CHECKS)
    bench = PredictorBench(predictor, generator, (num_rx_ant, num_tx_ant), num_subcarriers, dtype)
    was_training = predictor.training
    predictor.eval()
    try:
        return run_checks(PREDICTOR_CHECKS, bench, reasons)
    finally:
        predictor.train(was_training)


# -- The output. --


def output(bench: PredictorBench) -> None:
    """A `Prediction` of finite numbers in the shape and precision of the history."""
    history = bench.history()
    made = bench.run(history)
    assert isinstance(made, Prediction), f"forward returns {type(made).__name__}, not Prediction"
    want = (*history.shape[:-2], bench.predictor.num_horizon, history.shape[-1])
    for name, part, kind in (("h_pred", made.h_pred, history.dtype), ("err_var", made.err_var, history.real.dtype)):
        assert tuple(part.shape) == want, f"{name} has shape {tuple(part.shape)}, it must be {want}"
        assert part.dtype == kind, f"{name} is {part.dtype} for {history.dtype} input"
        assert bool(torch.isfinite(part).all()), f"{name} holds NaN or infinity"
    assert float(made.err_var.min()) > 0, f"err_var goes down to {float(made.err_var.min()):.3g}"


def deterministic(bench: PredictorBench) -> None:
    """The same history gives the same bits twice."""
    history = bench.history()
    _same(bench.run(history), bench.run(history), "a second call")


def batches(bench: PredictorBench) -> None:
    """A sample does not depend on its neighbours; no batch axis and two of them work."""
    history = bench.history((2, 2))
    full = bench.run(history)
    _close(bench.run(history.flatten(0, 1)), _part(full, lambda x: x.flatten(0, 1)), "one batch axis and two")
    _close(bench.run(history[1, 0]), _part(full, lambda x: x[1, 0]), "a sample alone and in a batch")


def layout(bench: PredictorBench) -> None:
    """Histories that are views (expanded, transposed, conjugated) count like their copies."""
    history = bench.history()
    _close(bench.run(history.conj().resolve_conj().conj()), bench.run(history), "a conjugated view and a copy")
    turned = history.mT.contiguous().mT
    _close(bench.run(turned), bench.run(history), "a transposed view and a copy")


def scale(bench: PredictorBench) -> None:
    """The prediction follows the scale of the history, over twelve decades of amplitude."""
    history = bench.history()
    want = bench.run(history)
    for factor in (1e-6, 1e6):
        got = bench.run(history * factor)
        rescaled = Prediction(got.h_pred / factor, got.err_var / factor / factor)
        _close(rescaled, want, f"a history times {factor:g}")


def extremes(bench: PredictorBench) -> None:
    """Constant histories, one silent antenna, a single snapshot that is not zero, strong noise: finite numbers."""
    history = bench.history()
    silent, lonely = history.clone(), torch.zeros_like(history)
    silent[..., :1, :, :, :] = 0 if bench.antennas[0] > 1 else silent[..., :1, :, :, :]
    lonely[..., -1, :] = history[..., -1, :]
    constant = torch.ones_like(history)
    noise = complex_normal(history.shape, 100.0, generator=bench.generator, dtype=history.dtype)
    cases = {"a constant history": constant, "a silent antenna": silent, "one snapshot": lonely, "noise": history + noise}
    for name, case in cases.items():
        made = bench.run(case)
        assert all(bool(torch.isfinite(part).all()) for part in made), f"{name} gives NaN or infinity"
        assert float(made.err_var.min()) >= 0, f"{name} gives a negative err_var"


def told(bench: PredictorBench) -> None:
    """``no`` may be a number or one a sample, also 0; ``present`` that says all arrived changes nothing."""
    history = bench.history()
    for no in (0.0, 1e-3, torch.full((_BATCH,), 1e-3, dtype=history.real.dtype)):
        made = bench.run(history, no)
        assert all(bool(torch.isfinite(part).all()) for part in made), f"no={no} gives NaN or infinity"
    all_there = torch.ones(_BATCH, history.shape[-2], dtype=torch.bool)
    _same(bench.run(history, present=all_there), bench.run(history), "present that says all arrived")


def gaps(bench: PredictorBench) -> None:
    """What stands in a lost snapshot has no influence on a predictor that takes gaps."""
    if not bench.predictor.takes_gaps or bench.predictor.num_history < 2:
        return
    history = bench.history()
    present = torch.ones(_BATCH, history.shape[-2], dtype=torch.bool)
    present[:, -1] = False
    zeroed, other = history.clone(), history.clone()
    zeroed[..., -1, :] = 0
    other[..., -1, :] *= 3j
    _close(bench.run(other, present=present), bench.run(zeroed, present=present), "what stands in a lost snapshot")


# -- Bad input. --


def refuses_histories(bench: PredictorBench) -> None:
    """Another length, NaN, infinity, no power, half precision, real numbers, too few axes."""
    history = bench.history()
    spoilt = {}
    for bad in (math.nan, math.inf):
        spoilt[bad] = history.clone()
        spoilt[bad][-1, 0, 0, 0, 0] = bad
    powerless = history.clone()
    powerless[0] = 0
    cases: list[tuple[str, Any, type[Exception]]] = [
        ("a longer history", torch.cat([history, history[..., :1, :]], dim=-2), InvalidValueError),
        ("NaN", spoilt[math.nan], InvalidValueError),
        ("infinity", spoilt[math.inf], InvalidValueError),
        ("a sample without power", powerless, InvalidValueError),
        ("no antenna axes", history[0, 0, 0], InvalidValueError),
        ("an empty batch", history[:0], InvalidValueError),
        ("real numbers", history.real, InvalidTypeError),
        ("a NumPy array", history.numpy(), InvalidTypeError),
    ]
    for what, value, kind in cases:
        _refuses(bench, value, kind, what)


def refuses_told(bench: PredictorBench) -> None:
    """A ``present`` of another shape or kind, one that says all was lost, and a ``no`` that is none."""
    history = bench.history()
    good = torch.ones(_BATCH, history.shape[-2], dtype=torch.bool)
    _refuses(bench, history, InvalidValueError, "present of another shape", present=good[:, :-1])
    _refuses(bench, history, InvalidTypeError, "present that is not bool", present=good.float())
    lost = good.clone()
    lost[0] = False
    _refuses(bench, history, InvalidValueError, "a sample of which all snapshots were lost", present=lost)
    for no in (-1.0, math.nan, torch.ones(_BATCH + 1)):
        _refuses(bench, history, InvalidValueError, f"no={no if isinstance(no, float) else 'of another batch'}", no=no)


# -- Manners. --


def manners(bench: PredictorBench) -> None:
    """Inputs and torch's global generator are left alone."""
    history = bench.history()
    kept, before = history.clone(), torch.get_rng_state()
    bench.run(history)
    assert torch.equal(history, kept), "history was modified"
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator was used"


def state(bench: PredictorBench) -> None:
    """Saving and loading the state, and a deep copy, give back the same predictor; no tensor is left out."""
    history = bench.history()
    want = bench.run(history)
    other = copy.deepcopy(bench.predictor)
    weights = {name: value.clone() for name, value in bench.predictor.state_dict().items()}
    with torch.no_grad():
        for value in other.state_dict().values():
            if value.is_floating_point() or value.is_complex():
                value.zero_()
    other.load_state_dict(weights)
    with torch.no_grad():
        _same(other(history), want, "a saved and loaded state")
    for name, module in bench.predictor.named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not loose, f"{'.'.join(filter(None, (name, loose[0])))} is a plain tensor; register it as a buffer"


PREDICTOR_CHECKS: dict[str, Callable[[PredictorBench], None]] = {
    check.__name__: check
    for check in (
        output,
        deterministic,
        batches,
        layout,
        scale,
        extremes,
        told,
        gaps,
        refuses_histories,
        refuses_told,
        manners,
        state,
    )
}


def _part(made: Prediction, cut: Callable[[torch.Tensor], torch.Tensor]) -> Prediction:
    return Prediction(cut(made.h_pred), cut(made.err_var))


def _same(first: Prediction, second: Prediction, what: str) -> None:
    same = torch.equal(first.h_pred, second.h_pred) and torch.equal(first.err_var, second.err_var)
    assert same, f"{what} gives another result"


def _close(first: Prediction, second: Prediction, what: str) -> None:
    for name, one, other in zip(("h_pred", "err_var"), first, second, strict=True):
        rms = float(other.abs().square().mean().sqrt()) or 1.0
        worst = float((one - other).abs().max()) / rms
        allowed = relative_tolerance(first.h_pred.dtype)
        assert worst <= allowed, f"{what}: {name} differs by {worst:.2e} of the root mean square"


def _refuses(
    bench: PredictorBench, history: Any, kind: type[Exception], what: str, *, no: Any = None, present: Any = None
) -> None:
    try:
        bench.run(history, no, present=present)
    except kind as error:
        assert "\n" not in str(error), f"the error for {what} has more than one line"
        return
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__} instead of {kind.__name__}") from error
    raise AssertionError(f"{what} is accepted; {kind.__name__} expected")
