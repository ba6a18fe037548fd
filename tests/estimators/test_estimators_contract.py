"""Every registered estimator keeps the library's contract: one entry here for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.channels import TDL
from wichan.estimators import ESTIMATORS, Estimator
from wichan.grid import OFDMGrid
from wichan.linalg import kron
from wichan.observations import DensePilots, OFDMPilots, QuantizedPilots, pilot_sequence
from wichan.priors import GMM, MFA
from wichan.random import complex_normal
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


# -- Behind coarse converters: two pilots of four antennas, channels of one covariance or of a mixture. --

ANTENNAS = 4
MIXTURE = torch.stack([(1 - rho) * torch.eye(ANTENNAS) + rho for rho in (0.0, 0.6)]).to(torch.complex128)
ONE = MIXTURE[1:]


def behind(num_bits: float) -> QuantizedPilots:
    return QuantizedPilots.from_sequence(pilot_sequence(2), ANTENNAS, num_bits)


def known(kind: type, covariances: torch.Tensor, **options: Any) -> Any:
    """A prior of these covariances, equally likely."""
    prior = kind.from_config({"num_components": len(covariances), "shape": [ANTENNAS], **options})
    prior._m_step_from_covariances(covariances, torch.ones(len(covariances), dtype=torch.float64))
    return prior


def told_covariance(batch: tuple[int, ...]) -> dict[str, Any]:
    return {"covariance": ONE[0].expand(*batch, ANTENNAS, ANTENNAS)}


#: Name -> resolution, covariances of the channels, the estimator, what it is told. The posterior of a mixture is exact without
#: quantisation, and so nearly behind five bits that the error is calibrated.
QUANTIZED: dict[str, tuple[float, torch.Tensor, Callable[[Any], Estimator], Any]] = {
    "bls": (3, ONE, lambda obs: ESTIMATORS["bls"](obs, ONE[0]), None),
    "bussgang-genie": (3, ONE, lambda obs: ESTIMATORS["bussgang-genie"](obs), told_covariance),
    "bussgang-gmm": (5, MIXTURE, lambda obs: ESTIMATORS["bussgang-gmm"](known(GMM, MIXTURE), obs), None),
    "bussgang-lmmse": (2, ONE, lambda obs: ESTIMATORS["bussgang-lmmse"](obs, ONE[0]), None),
    "bussgang-mfa": (math.inf, MIXTURE, lambda obs: ESTIMATORS["bussgang-mfa"](known(MFA, MIXTURE, num_factors=1), obs), None),
    "gmm-em": (5, ONE, lambda obs: ESTIMATORS["gmm-em"](known(GMM, ONE), obs), None),
}


def draw_quantized(covariances: torch.Tensor) -> Callable[[int, torch.Generator], torch.Tensor]:
    roots = torch.linalg.cholesky(covariances).to(torch.complex64)

    def channels(count: int, generator: torch.Generator) -> torch.Tensor:
        white = complex_normal((count, ANTENNAS), generator=generator)
        chosen = torch.randint(len(roots), (count,), generator=generator)
        return (roots[chosen] @ white[..., None]).squeeze(-1)

    return channels


# -- Sparse coefficients over a Kronecker dictionary: four of 42 at known places, behind a dense observation. --

DICTIONARY = [
    complex_normal(size, generator=torch.Generator().manual_seed(3), dtype=torch.complex128) for size in ((4, 6), (5, 7))
]
SUPPORT = torch.zeros(6, 7, dtype=torch.bool)
SUPPORT[1:3, [2, 5]] = True


def told_support(batch: tuple[int, ...]) -> dict[str, Any]:
    return {"support": SUPPORT.expand(*batch, 6, 7)}


def draw_sparse(count: int, generator: torch.Generator) -> torch.Tensor:
    return complex_normal((count, 6, 7), generator=generator) * SUPPORT


#: Name -> options, what it is told. Who finds the support says 0 for what it left out, and is not calibrated there.
SPARSE: dict[str, tuple[dict[str, Any], Any]] = {
    "kronecker-omp": ({}, None),
    "kronecker-sbl": ({"max_iter": 5}, None),
    "omp": ({}, None),
    "oracle-ls": ({}, told_support),
    "pc-sbl": ({"max_iter": 5}, None),
    "sbl": ({"max_iter": 5}, None),
}


def test_every_registered_estimator_has_an_entry() -> None:
    assert {*ENTRIES, *QUANTIZED, *SPARSE} == set(ESTIMATORS)


@pytest.mark.parametrize("name", SPARSE)
def test_estimator_of_sparse_coefficients_keeps_the_contract(name: str, generator: torch.Generator) -> None:
    options, told = SPARSE[name]
    obs = DensePilots(kron(*DICTIONARY), (6, 7))
    report = check_estimator(
        ESTIMATORS[name](DICTIONARY, **options),
        obs,
        generator=generator,
        channel=draw_sparse,
        conditions=told,
        no=0.01,
        compiled=True,
        calibrated=told is not None,
    )
    assert {"compile", "gradient", *(["calibration"] if told else [])} <= set(report.passed)


@pytest.mark.parametrize("name", QUANTIZED)
def test_estimator_behind_converters_keeps_the_contract(name: str, generator: torch.Generator) -> None:
    num_bits, covariances, make, told = QUANTIZED[name]
    obs = behind(num_bits)
    # At this noise and these resolutions the error falls with the noise, which it does not for few bits and little noise.
    report = check_estimator(
        make(obs), obs, generator=generator, channel=draw_quantized(covariances), conditions=told, no=0.3, compiled=True
    )
    assert {"compile", "calibration"} <= set(report.passed)


@pytest.mark.parametrize("name", ENTRIES)
def test_estimator_keeps_the_contract(name: str, generator: torch.Generator) -> None:
    # Those that know the covariance of these channels must know their error: calibration is checked too.
    options = {"calibrated": False} if name in BLIND else {}
    report = check_estimator(ENTRIES[name](), PILOTS, generator=generator, channel=draw, compiled=True, **options)
    assert {"compile", *([] if options else ["calibration"])} <= set(report.passed)
