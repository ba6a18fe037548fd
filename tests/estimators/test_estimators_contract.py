"""Every registered estimator keeps the library's contract: one entry here for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wichan.channels import TDL
from wichan.estimators import ESTIMATORS, Estimator
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.testing import check_estimator

GRID = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
PILOTS = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3)
MODEL = TDL("A", delay_spread=300e-9, max_doppler=500.0)

SHAPES = {"num_delay_shapes": 4, "num_doppler_shapes": 3, "num_draws": 100}
BLIND = {"delay-doppler-mixture"}  # told no covariance: calibrated over many channels, not for the one above

#: Name in the registry -> the estimator, built for the pilots and the channel above.
ENTRIES: dict[str, Callable[[], Estimator]] = {
    "delay-doppler-mixture": lambda: ESTIMATORS["delay-doppler-mixture"](PILOTS, **SHAPES),
    "ls": lambda: ESTIMATORS["ls"](PILOTS, covariance=MODEL.covariance(GRID)),
    "lmmse": lambda: ESTIMATORS["lmmse"](PILOTS, MODEL.covariance(GRID)),
    "lmmse-bank": lambda: ESTIMATORS["lmmse-bank"](PILOTS, MODEL.covariance(GRID)),
    "lmmse-kronecker": lambda: ESTIMATORS["lmmse-kronecker"](PILOTS, MODEL.covariance(GRID)),
    "lmmse-separable": lambda: ESTIMATORS["lmmse-separable"](PILOTS, MODEL.covariance(GRID)),
}


def draw(count: int, generator: torch.Generator) -> torch.Tensor:
    return MODEL.frequency_response(GRID, count, generator=generator)


def test_every_registered_estimator_has_an_entry() -> None:
    assert set(ENTRIES) == set(ESTIMATORS)


@pytest.mark.parametrize("name", ENTRIES)
def test_estimator_keeps_the_contract(name: str, generator: torch.Generator) -> None:
    # Those that know the covariance of these channels must know their error: calibration is checked too.
    options = {"calibrated": False} if name in BLIND else {}
    report = check_estimator(ENTRIES[name](), PILOTS, generator=generator, channel=draw, compiled=True, **options)
    assert {"compile", *([] if options else ["calibration"])} <= set(report.passed)
