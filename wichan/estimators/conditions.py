r"""SNR, delay spread and Doppler from the pilots: what a receiver without an oracle can know.

``method="likelihood"`` (the default where the pilots are a lattice) takes the mean over candidates, weighted by their
likelihood: exponential delay profiles and Jakes fading, searched in turn (`wichan.estimators.pilot_likelihood`).
``method="correlation"`` inverts the correlations of the pilots over lags, as textbooks do, for any pattern
(`wichan.estimators.pilot_correlation`).

RMSE (and bias) on ``ofdm-siso``, 4096 frames of the test split with seed 11, limits those of the recipe; delay spread in ns
(a constant is off by 79), Doppler in Hz (a constant: 540):

================================  =============  =============  =============  =============  =============
SNR per pilot [dB]                0 to 5         5 to 10        10 to 15       15 to 20       20 to 25
================================  =============  =============  =============  =============  =============
delay spread, likelihood          48 (+1)        40 (+6)        36 (+5)        30 (+5)        29 (+5)
delay spread, correlation         87 (-8)        67 (-6)        60 (-9)        60 (-7)        59 (-6)
Doppler, likelihood               176 (+25)      134 (+23)      114 (+13)      101 (+17)      90 (+9)
Doppler, correlation              311 (-26)      266 (-25)      266 (-28)      257 (-16)      261 (-18)
================================  =============  =============  =============  =============  =============

Fading is what limits them: a frame holds few independent looks. Of the SNR, the power of the frame is known to 0.7 dB at 0 to
5 dB and 0.1 dB from 15 dB on (without ``no``: 1.1 and 0.5 dB), but fades by 2 to 3 dB about that of the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.condition_estimator import NAMES, SNR_LIMITS, ConditionEstimator, Conditions, Limits
from wichan.observations.ofdm import OFDMPilots
from wichan.observations.snr import convert_snr_db


def estimate_noise(obs: OFDMPilots, y: torch.Tensor, *, silent: torch.Tensor | None = None) -> torch.Tensor:
    r"""Noise variance of each frame, real (\*batch,).

    From elements where nothing is sent if ``silent`` names some (bool, (num_ofdm_symbols, num_subcarriers)); else from the
    pilots: third differences along frequency, which is the correlation at lags 1 to 3 extrapolated to lag 0
    (`wichan.estimators.pilot_correlation.difference_noise`). Elements without pilots carry data in a real frame, so none is
    taken unasked. On ``ofdm-siso`` the error is 0.5 dB, the bias -0.04 dB.

    Raises:
        InvalidValueError, ShapeError: fewer than 4 pilots in every symbol, ``silent`` of another shape or on a pilot.
    """
    return ConditionEstimator(obs, ()).noise(y, silent)


def estimate_snr_db(
    obs: OFDMPilots,
    y: torch.Tensor,
    no: Any = None,
    *,
    mean_power: float | None = None,
    silent: torch.Tensor | None = None,
    limits: Limits = SNR_LIMITS,
) -> torch.Tensor:
    r"""SNR at a pilot element [dB], real (\*batch,): (mean |y|^2 - no) / no over the pilots and receive antennas.

    It is the SNR of the frame, fading included; with ``mean_power`` it is that of the link (convention "pilot"). Arguments as
    in `estimate_conditions`.
    """
    est = ConditionEstimator(obs, ("snr_db",), limits={"snr_db": limits}, mean_power=mean_power)
    return est(y, no, silent=silent)["snr_db"]


def estimate_delay_spread(
    obs: OFDMPilots,
    y: torch.Tensor,
    no: Any = None,
    *,
    limits: Limits | None = None,
    method: str = "auto",
    fallback: float | None = None,
) -> torch.Tensor:
    r"""RMS delay spread [s], real (\*batch,), whatever the receiver's timing. Arguments as in `estimate_conditions`."""
    return _one("delay_spread", obs, y, no, limits, method, fallback)


def estimate_max_doppler(
    obs: OFDMPilots,
    y: torch.Tensor,
    no: Any = None,
    *,
    limits: Limits | None = None,
    method: str = "auto",
    fallback: float | None = None,
) -> torch.Tensor:
    r"""Maximum Doppler [Hz] of Jakes fading, real (\*batch,). Arguments as in `estimate_conditions`.

    Unambiguous up to 0.61 / (spacing of the pilot symbols), the first minimum of J0.
    """
    return _one("max_doppler", obs, y, no, limits, method, fallback)


def estimate_conditions(obs: OFDMPilots, y: torch.Tensor, no: Any = None, **options: Any) -> Conditions:
    r"""SNR, delay spread and Doppler of each frame; antennas are averaged over.

    Args:
        obs: the pilots, any pattern whose antennas can be told apart.
        y: received grids, complex, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers). Only pilots are read.
        no: noise variance, a number or a tensor over leading batch axes; ``None``: `estimate_noise` finds it.
        **options: of `ConditionEstimator`.

    Returns:
        `Conditions`, each (\*batch,), never NaN: a frame of zeros has the lowest SNR, and delay spread and Doppler as if
        nothing were known (the mean over the candidates; by "correlation" the lower limits).

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `ConditionEstimator`; NaN on a pilot, a ``y`` of another grid.

    Cost: about 1 ms a frame of 160 pilots by likelihood, 0.1 ms by correlation; building the candidates 0.1 s.

    Example:
        >>> from wichan.channels import TDL
        >>> from wichan.grid import OFDMGrid
        >>> grid, g = OFDMGrid(14, 120, 15e3), torch.Generator().manual_seed(7)
        >>> obs = OFDMPilots(grid, symbols=(2, 5, 8, 11), subcarrier_step=3)
        >>> h = TDL("A", delay_spread=200e-9, max_doppler=900.0).frequency_response(grid, 64, generator=g)
        >>> found = estimate_conditions(obs, obs.observe(h, no=0.01, generator=g), no=0.01, mean_power=1.0)
        >>> [round(float(value.mean()), digits) for value, digits in zip(found, (3, 7, -2))]
        [20.0, 2e-07, 900.0]
    """
    return Conditions(**ConditionEstimator(obs, **options)(y, no))


class WithEstimatedConditions(Estimator):
    r"""An estimator that wants to be told conditions, told what the pilots say of them.

    Args:
        estimator: any estimator; its attribute ``told`` names the conditions that it wants.
        obs: the pilots.
        ranges: name -> (low, high), SI units, that conditions are kept within; default: what the estimator was trained on
            (its attribute ``condition_ranges``), else the default limits of `ConditionEstimator`.
        mean_power: E|h|^2 that the estimator's ``snr_db`` refers to; ``None`` measures it in each frame.
        snr_convention: of the estimator's ``snr_db``.
        **options: of `ConditionEstimator`. A condition that the pilots do not show stands at the middle of its range.

    Raises:
        InvalidTypeError, InvalidValueError: no estimator; a condition that no pilot shows.
    """

    told: tuple[str, ...] = ()

    def __init__(
        self,
        estimator: Estimator,
        obs: OFDMPilots,
        ranges: Mapping[str, Limits] | None = None,
        *,
        mean_power: float | None = 1.0,
        snr_convention: str = "pilot",
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(estimator, nn.Module):
            raise InvalidTypeError(f"estimator must be an Estimator, got {type(estimator).__name__}")
        wanted = tuple(getattr(estimator, "told", ()))
        unknown = [name for name in wanted if name not in NAMES]
        if unknown:
            raise InvalidValueError(f"estimator wants to be told {unknown[0]!r}; pilots show {', '.join(NAMES)} only")
        known = dict(getattr(estimator, "condition_ranges", None) or {}) if ranges is None else dict(ranges)
        limits = {name: tuple(pair) for name, pair in known.items() if name in NAMES}
        self.shift_db = convert_snr_db(0.0, "pilot", snr_convention, obs)
        if "snr_db" in limits:
            limits["snr_db"] = tuple(value - self.shift_db for value in limits["snr_db"])
        middle = {name: (low + high) / 2 for name, (low, high) in limits.items()}
        fallback = middle | dict(options.pop("fallback", None) or {})
        self.estimator = estimator
        self.conditions = ConditionEstimator(obs, wanted, limits=limits, mean_power=mean_power, fallback=fallback, **options)

    def forward(self, y: torch.Tensor, no: Any = None, **conditions: Any) -> Estimate:
        """Estimate conditions, then the channel.

        Args:
            y, no: as in `estimate_conditions`; ``no=None`` is estimated for the inner estimator too.
            **conditions: some that are known after all; the others are estimated.
        """
        no = self.conditions.noise(y) if no is None else no
        found = self.conditions(y, no)
        if "snr_db" in found:
            found["snr_db"] = found["snr_db"] + self.shift_db
        result: Estimate = self.estimator(y, no, **(found | conditions))
        return result


def _one(
    name: str, obs: OFDMPilots, y: torch.Tensor, no: Any, limits: Limits | None, method: str, fallback: float | None
) -> torch.Tensor:
    bounds = None if limits is None else {name: limits}
    known = None if fallback is None else {name: fallback}
    return ConditionEstimator(obs, (name,), limits=bounds, method=method, fallback=known)(y, no)[name]
