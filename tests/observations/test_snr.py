"""SNR conventions: measured ratios, conversions, and the numbers printed in docs/snr.md."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.observations import (
    SNR_CONVENTIONS,
    DensePilots,
    OFDMGrid,
    OFDMPilots,
    convert_snr_db,
    no_from_snr_db,
    snr_db_from_no,
)
from wichan.random import complex_normal

GRID = OFDMGrid(14, 120, 15e3)
PILOTS = OFDMPilots(GRID, (2, 11), 3)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "snr.md"


@pytest.mark.parametrize(
    ("step", "gain_db"),
    # Pilots x 2 symbols on 120 x 14: the differences that the AdaFortiTran data set needs, 10 log10(1680 / pilots).
    [(3, 13.2), (4, 14.5), (5, 15.4), (6, 16.2), (8, 17.5), (10, 18.5)],
)
def test_grid_measured_against_pilot(step: int, gain_db: float) -> None:
    obs = OFDMPilots(GRID, (2, 11), step)
    assert convert_snr_db(0.0, "grid-measured", "pilot", obs) == pytest.approx(gain_db, abs=0.05)
    assert convert_snr_db(gain_db, "pilot", "grid-measured", obs) == pytest.approx(0.0, abs=0.05)


REALISED = {"per-realisation", "grid-measured-realised"}


def test_grid_measured_is_what_measuring_gives(generator: torch.Generator) -> None:
    """The noise equals the mean power over all elements of a noiseless received grid, divided by the SNR."""
    h = complex_normal((2000, 1, 1, 14, 120), 0.7, generator=generator)
    measured = PILOTS.noiseless(h).abs().square().mean().item() / 10**0.5
    # 160000 pilot samples: 0.25 % standard error.
    assert no_from_snr_db(5.0, "grid-measured", PILOTS, mean_power=0.7) == pytest.approx(measured, rel=0.01)


def test_quantised_ignores_pilot_energy() -> None:
    boosted = OFDMPilots(GRID, (2, 11), 3, boost_db=6.0)
    assert no_from_snr_db(10.0, "quantised") == pytest.approx(0.1)
    assert convert_snr_db(10.0, "quantised", "pilot", boosted) == pytest.approx(16.0)


def test_dense_is_power_per_measurement() -> None:
    obs = DensePilots(torch.eye(3, 6, dtype=torch.complex64) * 2)
    assert no_from_snr_db(0.0, "dense", obs) == pytest.approx(4.0)
    assert no_from_snr_db(0.0, "dense", PILOTS) == pytest.approx(no_from_snr_db(0.0, "pilot", PILOTS))


def test_per_realisation_takes_the_fading_out(generator: torch.Generator) -> None:
    h = complex_normal((6, 2, 1, 14, 120), generator=generator) * torch.linspace(0.1, 3, 6)[:, None, None, None, None]
    no = no_from_snr_db(torch.full((6,), 12.0), "per-realisation", PILOTS, h=h)
    assert no.shape == (6,)
    for i in range(6):
        power = PILOTS.project(h[i]).abs().square().mean()
        assert 10 * math.log10(power / no[i]) == pytest.approx(12.0, abs=1e-4)
    back = convert_snr_db(snr_db_from_no(no, "pilot", PILOTS), "pilot", "per-realisation", PILOTS, h=h)
    torch.testing.assert_close(back, torch.full((6,), 12.0), rtol=0, atol=1e-4)


def test_per_realisation_of_dense_measurements(generator: torch.Generator) -> None:
    obs = DensePilots(complex_normal((4, 6), generator=generator))
    h = complex_normal((3, 6), generator=generator)
    torch.testing.assert_close(no_from_snr_db(0.0, "per-realisation", obs, h=h), obs.noiseless(h).abs().square().mean(dim=-1))


@pytest.mark.parametrize(
    ("source", "target"),
    list(itertools.permutations(sorted(SNR_CONVENTIONS.keys() - {"per-realisation", "grid-measured-realised"}), 2)),
)
def test_conversion_keeps_the_noise(source: str, target: str) -> None:
    obs = OFDMPilots(GRID, (0, 7), 5, boost_db=4.0)
    snr_db = convert_snr_db(3.0, source, target, obs, mean_power=2.5)
    kept = no_from_snr_db(snr_db, target, obs, mean_power=2.5)
    assert kept == pytest.approx(no_from_snr_db(3.0, source, obs, mean_power=2.5))
    assert snr_db_from_no(kept, source, obs, mean_power=2.5) == pytest.approx(3.0)


def test_tensors_in_tensors_out() -> None:
    snr = torch.tensor([0.0, 10.0], dtype=torch.float64)
    no = PILOTS.no_from_snr_db(snr)
    torch.testing.assert_close(no, torch.tensor([1.0, 0.1], dtype=torch.float64))
    torch.testing.assert_close(PILOTS.snr_db_from_no(no), snr)
    torch.testing.assert_close(convert_snr_db(snr, "pilot", "quantised", PILOTS), snr)
    assert snr_db_from_no(0.0, "quantised") == math.inf


def test_page_names_every_convention_and_its_formula() -> None:
    text = PAGE.read_text()
    for item in SNR_CONVENTIONS.values():
        assert f'`"{item.name}"`' in text
        assert item.formula and item.description


def test_numbers_on_the_page() -> None:
    """Every row of the page's table of examples: pattern, convention -> pilot in dB."""
    call = r"`OFDMPilots\(grid, \((.*?)\), (\d+)(?:, boost_db=(\d+))?\)`"
    rows = re.findall(rf"\| {call} \| (\d+) \| ([+-][\d.]+) \| ([+-][\d.]+) \|", PAGE.read_text())
    assert len(rows) >= 6
    for symbols, step, boost, count, measured, quantised in rows:
        obs = OFDMPilots(GRID, tuple(int(s) for s in symbols.split(",") if s.strip()), int(step), boost_db=float(boost or 0))
        assert obs.num_pilots == int(count)
        assert convert_snr_db(0.0, "grid-measured", "pilot", obs) == pytest.approx(float(measured), abs=0.051)
        assert convert_snr_db(0.0, "quantised", "pilot", obs) == pytest.approx(float(quantised), abs=0.051)


BAD = [
    (lambda: convert_snr_db(0.0, "pilots", "pilot", PILOTS), UnknownNameError, "did you mean 'pilot'"),
    (lambda: no_from_snr_db(math.nan, "pilot", PILOTS), InvalidValueError, "snr_db=nan must be finite"),
    (lambda: no_from_snr_db("10", "pilot", PILOTS), InvalidTypeError, "snr_db='10' must be a real number"),
    (lambda: no_from_snr_db(torch.tensor([1]), "pilot", PILOTS), InvalidTypeError, "snr_db has dtype torch.int64"),
    (lambda: no_from_snr_db(0.0, "pilot"), InvalidTypeError, "obs must be a linear observation"),
    (lambda: no_from_snr_db(0.0, "per-realisation", PILOTS), InvalidValueError, "h is missing"),
    (lambda: no_from_snr_db(0.0, "grid-measured", DensePilots(torch.eye(2) + 0j)), InvalidValueError, "needs pilots on a grid"),
    (lambda: no_from_snr_db(0.0, "pilot", PILOTS, mean_power=0.0), InvalidValueError, "mean_power=0 must be greater than 0"),
    (lambda: snr_db_from_no(-1.0, "pilot", PILOTS), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: snr_db_from_no(torch.tensor([-1.0]), "pilot", PILOTS), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: snr_db_from_no(torch.ones(1) + 0j, "pilot", PILOTS), InvalidTypeError, "a noise variance is real"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
