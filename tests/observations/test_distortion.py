"""Interference left out by a frequency-domain model, against brute-force time-domain simulation and known limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wichan.errors import InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import Distortion, OFDMGrid, doppler_distortion, model_distortion
from wichan.observations import late_path_distortion as late
from wichan.observations.distortion import LARGE_Z

SPACING = 15e3


def qpsk(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.choice([-1, 1], shape) + 1j * rng.choice([-1, 1], shape)) / np.sqrt(2)


def simulated_ici(normalized_doppler: float, spectrum: str, frames: int = 6000, size: int = 64) -> float:
    """Send random symbols through a fading channel sample by sample; what the FFT does not explain is interference."""
    rng = np.random.default_rng(5)
    x = qpsk(rng, frames, size)
    waves = 8
    angle = rng.uniform(-np.pi, np.pi, (frames, waves, 1))
    rate = np.cos(angle) if spectrum == "jakes" else rng.uniform(-1, 1, (frames, waves, 1))
    phase = rng.uniform(-np.pi, np.pi, (frames, waves, 1))
    turns = normalized_doppler * rate * (np.arange(size) + 0.5) / size
    h = np.exp(1j * (2 * np.pi * turns + phase)).sum(axis=1) / math.sqrt(waves)
    y = np.fft.fft(h * np.fft.ifft(x, axis=-1, norm="ortho"), axis=-1, norm="ortho")
    return float(np.mean(np.abs(y - h.mean(axis=-1, keepdims=True) * x) ** 2))


@pytest.mark.parametrize("spectrum", ["jakes", "uniform"])
@pytest.mark.parametrize("normalized", [0.05, 0.3, 1.2])
def test_doppler_distortion_equals_simulation(spectrum: str, normalized: float) -> None:
    # 6000 frames: 1.5 % standard error of the interference power; 64 samples a symbol shift it by well under 1 %.
    want = simulated_ici(normalized, spectrum)
    assert doppler_distortion(normalized * SPACING, SPACING, spectrum=spectrum) == pytest.approx(want, rel=0.05)


def test_doppler_limits() -> None:
    assert doppler_distortion(0.0, SPACING) == 0.0
    # So fast that a symbol sees the channel average out: everything turns into interference.
    assert doppler_distortion(500 * SPACING, SPACING) == pytest.approx(1.0, abs=2e-3)
    powers = [doppler_distortion(f, SPACING) for f in np.linspace(0, 2 * SPACING, 50)]
    assert all(0 <= low <= high <= 1 for low, high in zip(powers, powers[1:], strict=False))


@pytest.mark.parametrize("spectrum", ["jakes", "uniform"])
def test_closed_limit_continues_the_quadrature(spectrum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = np.array([LARGE_Z + 0.1, LARGE_Z + 1.7, LARGE_Z + 3.3]) * SPACING / (2 * math.pi)  # a period of cos(z)
    limit = [doppler_distortion(f, SPACING, spectrum=spectrum) for f in speeds]
    monkeypatch.setattr("wichan.observations.distortion.LARGE_Z", math.inf)
    exact = [doppler_distortion(f, SPACING, spectrum=spectrum) for f in speeds]
    assert limit == pytest.approx(exact, rel=0, abs=2e-9)  # of 1 - P = 5e-4; the neglected terms are below 2 z^-2.5
    assert limit != exact


def test_absurd_doppler_is_quick() -> None:
    # A quadrature would need 1e10 panels here.
    assert doppler_distortion(1e15, SPACING) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("spectrum", "divisor"), [("jakes", 6), ("uniform", 9)])
def test_small_doppler_form(spectrum: str, divisor: int) -> None:
    for doppler in (0.5, 2.0, 2.5, 100.0, 300.0):
        small = (math.pi * doppler / SPACING) ** 2 / divisor
        assert doppler_distortion(doppler, SPACING, spectrum=spectrum, approximate=True) == pytest.approx(small)
        # The next term is (2 pi f T)^2 / 40 of the first at most; 1e-9 absolute is what 1 - J0 keeps in double precision.
        relative = (2 * math.pi * doppler / SPACING) ** 2 / 20
        exact = doppler_distortion(doppler, SPACING, spectrum=spectrum)
        assert exact == pytest.approx(small, rel=relative + 1e-7)
        assert exact <= small * (1 + 1e-7)


def test_known_number() -> None:
    """300 Hz at 15 kHz: (pi 0.02)^2 / 6 is -31.8 dB."""
    assert 10 * math.log10(doppler_distortion(300.0, SPACING)) == pytest.approx(-31.8, abs=0.05)


def simulated_late(delay: int, prefix: int, size: int = 64, frames: int = 3000) -> tuple[float, float]:
    """One late path: power that is not the attenuated symbol itself, and the part that is."""
    rng = np.random.default_rng(6)
    x = qpsk(rng, 3, frames, size)
    time = np.fft.ifft(x, axis=-1, norm="ortho")
    stream = np.concatenate([np.concatenate([part[:, size - prefix :], part], axis=-1) for part in time], axis=-1)
    start = 2 * (size + prefix) + prefix - delay
    y = np.fft.fft(stream[:, start : start + size], axis=-1, norm="ortho")
    sent = x[2] * np.exp(-2j * np.pi * np.arange(size) * delay / size)
    gain = np.mean(y * sent.conj()).real
    return float(np.mean(np.abs(y - gain * sent) ** 2)), gain**2


@pytest.mark.parametrize("delay", [3, 8, 9, 20, 50, 72])
def test_late_path_equals_simulation(delay: int) -> None:
    lost, kept = simulated_late(delay, prefix=8)
    got = late([1.0], [delay / 64], cyclic_prefix=8 / 64, useful_duration=1.0)
    # One late sample in 3000 frames: 1.8 % standard error; inside the prefix it is zero to rounding.
    assert got == pytest.approx(lost, rel=0.06, abs=1e-12)
    assert got + kept == pytest.approx(1.0, abs=0.01)


def test_late_paths_add_by_power() -> None:
    powers, delays = [2.0, 1.0, 1.0], [0.0, 0.2, 5.0]
    epsilon = 0.1
    want = (1.0 * (1 - (1 - epsilon) ** 2) + 1.0) / 4  # the last path is later than a whole symbol
    assert late(powers, delays, cyclic_prefix=0.1, useful_duration=1.0) == pytest.approx(want)


def test_model_distortion_on_a_grid() -> None:
    grid = OFDMGrid(14, 120, SPACING)
    inside = model_distortion(grid, max_doppler=300.0, powers=[0.5, 0.5], delays=[0.0, 4e-6])
    assert inside.late_paths == 0.0
    assert inside.total == inside.doppler == doppler_distortion(300.0, SPACING)
    assert inside.total_db == pytest.approx(-31.8, abs=0.05)
    late = model_distortion(grid, powers=[0.5, 0.5], delays=[1e-6, 8e-6])
    excess = (7e-6 - grid.cyclic_prefix) * SPACING  # the receiver follows the first path
    assert late.late_paths == pytest.approx(0.5 * (1 - (1 - excess) ** 2))
    assert model_distortion(grid).total == 0.0
    assert model_distortion(grid).total_db == -math.inf


def test_warning_margin() -> None:
    left_out = Distortion(doppler=1e-3, late_paths=0.0)
    assert left_out.matters(no=0.009)
    assert not left_out.matters(no=0.011)
    assert left_out.matters(no=0.011, signal_power=2.0)
    assert not Distortion(0.0, 0.0).matters(no=0.0)


UNIT: dict = {"cyclic_prefix": 0, "useful_duration": 1}
BAD = [
    (lambda: doppler_distortion(-1.0, SPACING), InvalidValueError, "max_doppler=-1 must be at least 0"),
    (lambda: doppler_distortion(1.0, 0.0), InvalidValueError, "subcarrier_spacing=0 must be greater than 0"),
    (lambda: doppler_distortion(1.0, SPACING, spectrum="jake"), UnknownNameError, "did you mean 'jakes'"),
    (
        lambda: late([1], [1, 2], **UNIT),
        ShapeError,
        "powers has 1 and delays has 2",
    ),
    (lambda: late([], [], **UNIT), ShapeError, "at least 1"),
    (lambda: late([-1], [0], **UNIT), InvalidValueError, "powers holds -1"),
    (lambda: late([1], [-1], **UNIT), InvalidValueError, "delays holds -1"),
    (lambda: late([0], [0], **UNIT), InvalidValueError, "powers are all zero"),
    (
        lambda: late([1], [math.nan], **UNIT),
        InvalidValueError,
        "delays holds 1 NaN",
    ),
    (lambda: late([1], [0], cyclic_prefix=-1, useful_duration=1), InvalidValueError, "cyclic_prefix=-1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()
