"""The contract of an estimator as one call: every promise of `wichan.estimators.base` becomes a named check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from wichan.errors import InvalidTypeError, check_choice, check_generator, check_int, check_real
from wichan.estimators.base import Estimator
from wichan.testing.bench import Bench, Skipped
from wichan.testing.checks import CHECKS


@dataclass(frozen=True)
class CheckReport:
    """What `check_estimator` found.

    Attributes:
        passed: names of the checks that held.
        skipped: name -> reason.
        failed: name -> what went wrong, one line.
    """

    passed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} checks passed, {len(self.failed)} failed, {len(self.skipped)} skipped"]
        lines += [f"  failed  {name}: {reason}" for name, reason in self.failed.items()]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def check_estimator(
    est: Estimator,
    obs: Any,
    *,
    generator: torch.Generator,
    num_rx_ant: int = 1,
    mean_power: float = 1.0,
    no: float = 0.05,
    channel: Callable[[int, torch.Generator], torch.Tensor] | None = None,
    calibrated: bool | None = None,
    conditions: Callable[[tuple[int, ...]], dict[str, Any]] | None = None,
    compiled: bool = False,
    skip: Mapping[str, str] | None = None,
) -> CheckReport:
    """Check that an estimator keeps the library's contract.

    Args:
        est: the estimator, ready to use. It is set to ``eval()`` for the checks and put back afterwards.
        obs: the observation it was built for (`OFDMPilots`, `DensePilots`, ...), or an `OFDMGrid` whose every element is
            observed as the channel plus noise.
        generator: source of channels and noise, on the device of ``est``.
        num_rx_ant: receive antennas of the test channels (OFDM observations).
        mean_power: E|h|^2 of the test channels when ``channel`` is not given.
        no: noise variance of the ordinary checks, greater than 0.
        channel: ``channel(batch_size, generator) -> h`` draws channels the estimator is made for. Default: white Gaussian.
        calibrated: check ``err_var`` against the true error by decile; default: when ``channel`` is given.
        conditions: ``conditions(batch_shape)`` gives keyword arguments of the estimator's forward.
        compiled: also run under ``torch.compile(backend="eager")``.
        skip: name of a check -> why it does not apply.

    Returns:
        `CheckReport` with the names that passed and those that were left out.

    Raises:
        AssertionError: at least one check failed; the message lists all of them, a line each.
        InvalidTypeError, UnknownNameError: arguments of this function that make no sense.

    Example:
        >>> from wichan.estimators import LS
        >>> from wichan.observations import OFDMGrid, OFDMPilots
        >>> pilots = OFDMPilots(OFDMGrid(4, 12, 15e3), symbols=(0, 3), subcarrier_step=2)
        >>> report = check_estimator(LS(pilots), pilots, generator=torch.Generator().manual_seed(1))
        >>> "batch_independence" in report.passed
        True
    """
    if not isinstance(est, torch.nn.Module):
        raise InvalidTypeError(f"est must be an Estimator (a torch.nn.Module), got {type(est).__name__}")
    check_generator("generator", generator)
    check_real("no", no, positive=True)
    check_real("mean_power", mean_power, positive=True)
    check_int("num_rx_ant", num_rx_ant, minimum=1)
    reasons = dict(skip or {})
    for name in reasons:
        check_choice("skip", name, CHECKS)
    if not compiled:
        reasons.setdefault("compile", "not asked for (compiled=True)")
    if channel is None or not (True if calibrated is None else calibrated):
        reasons.setdefault("calibration", "no channel sampler" if channel is None else "not asked for (calibrated=True)")
    bench = Bench(est, obs, generator, num_rx_ant, mean_power, float(no), channel, conditions)
    was_training = est.training
    est.eval()
    try:
        return run_checks(CHECKS, bench, reasons)
    finally:
        est.train(was_training)


def run_checks(checks: Mapping[str, Callable[[Any], None]], bench: Any, reasons: dict[str, str]) -> CheckReport:
    """Run checks on a bench, one after the other, and report; those named in ``reasons`` are left out.

    Raises:
        AssertionError: at least one failed; the message lists all of them, a line each.
    """
    passed: list[str] = []
    failed: dict[str, str] = {}
    for name, check in checks.items():
        if name in reasons:
            continue
        try:
            check(bench)
        except Skipped as reason:
            reasons[name] = str(reason)
        except AssertionError as error:
            failed[name] = _first_line(error)
        except Exception as error:  # a crash inside the estimator is a finding about it, not about this function
            failed[name] = f"raised {type(error).__name__}: {_first_line(error)}"
        else:
            passed.append(name)
    report = CheckReport(tuple(passed), {name: reasons[name] for name in checks if name in reasons}, failed)
    if failed:
        raise AssertionError(str(report))
    return report


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
