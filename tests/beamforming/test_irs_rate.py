"""Rates of given beams: the formula, streams that leak, gradients through phases, pilots that cost, and the study of them."""

from __future__ import annotations

import csv
import math
import runpy
from pathlib import Path

import pytest
import torch

from wichan.beamforming import align_phases, data_share, irs_beams, maximise_rate, reflect, spectral_efficiency
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.random import complex_normal

SIMS = Path(__file__).resolve().parents[2] / "sims"


def cn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


# -- Formula. --


def test_one_stream_is_the_formula(generator: torch.Generator) -> None:
    g, u, v = cn(7, 4, 3, 1, generator=generator), cn(7, 4, 1, 1, generator=generator), cn(7, 3, 1, 1, generator=generator)
    power, no = torch.rand(7, generator=generator, dtype=torch.float64), 0.3
    got = spectral_efficiency(g, u, v, power, no, 18, 200)
    for i in range(7):
        signal = abs(complex(u[i, :, 0, 0].conj() @ g[i, :, :, 0] @ v[i, :, 0, 0])) ** 2
        norm = float(u[i].abs().square().sum())
        assert float(got[i]) == pytest.approx(0.91 * math.log2(1 + float(power[i]) * signal / (no * norm)), rel=1e-12)
    # Noise passes the combiner, too: its norm does not matter. Nor do common phases.
    torch.testing.assert_close(spectral_efficiency(g, 5j * u, v, power, no, 18, 200), got, rtol=1e-12, atol=0)


def test_absolute_gain_is_kept(generator: torch.Generator) -> None:
    g = cn(1, 2, 2, 1, generator=generator)
    beams = irs_beams(g[..., None, :])
    near, far = (spectral_efficiency(a * g, beams.combiner, beams.precoder, 1e6, 1.0) for a in (1.0, 1e-2))
    assert float(near - far) == pytest.approx(math.log2(1e4), abs=0.01)  # 40 dB at high SNR


@pytest.mark.parametrize("freqs", [1, 3])
def test_streams_of_the_true_channel_reach_the_capacity(freqs: int, generator: torch.Generator) -> None:
    z = cn(5, 4, 3, 10, freqs, generator=generator)
    best = maximise_rate(z, 2.0, 0.5)
    channel = reflect(z, best.reflection)
    got = spectral_efficiency(channel, best.combiner, best.precoder, 2.0, 0.5)
    torch.testing.assert_close(got, best.rate, rtol=1e-10, atol=0)
    # Beams of another channel leak, and a combiner of zeros hears nothing; neither may exceed the capacity of these phases.
    other = cn(5, 4, 3, freqs, generator=generator)
    wrong = maximise_rate(channel[..., None, :] + 0.5 * other[..., None, :], 2.0, 0.5)
    leaky = spectral_efficiency(channel, wrong.combiner, wrong.precoder, 2.0, 0.5)
    assert (leaky < best.rate).all() and (leaky > 0).all()
    assert (spectral_efficiency(channel, 0 * best.combiner, best.precoder, 2.0, 0.5) == 0).all()


def test_leakage_counts_as_noise() -> None:
    g = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.complex128)[..., None]
    eye = torch.eye(2, dtype=torch.complex128)[..., None]
    rate = spectral_efficiency(g, eye, eye / math.sqrt(2), power=2.0, no=1.0)
    # First stream: signal 1, leakage 1/4, noise 1; second: signal 1, noise 1.
    assert float(rate) == pytest.approx(math.log2(1 + 1 / 1.25) + 1.0, rel=1e-14)


# -- Gradients. --


def test_gradient_through_phases(generator: torch.Generator) -> None:
    z = cn(2, 3, 2, 5, 2, generator=generator)
    beams = irs_beams(z[..., :4, :], num_starts=1)

    def rate(phases: torch.Tensor) -> torch.Tensor:
        channel = reflect(z, torch.exp(1j * phases), direct=True)
        return spectral_efficiency(channel, beams.combiner, beams.precoder, 3.0, 0.5, 6, 100)

    phases = torch.rand(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rate, phases)


def test_an_optimiser_learns_the_closed_form(generator: torch.Generator) -> None:
    z = cn(1, 1, 33, 1, generator=generator)
    one = torch.ones(1, 1, 1, dtype=torch.complex128)
    phases = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    learner = torch.optim.LBFGS([phases], max_iter=300, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        learner.zero_grad()
        value = -spectral_efficiency(reflect(z, torch.exp(1j * phases), direct=True), one, one, 1.0, 1.0)
        value.backward()
        return value

    learner.step(loss)
    best = spectral_efficiency(reflect(z, align_phases(z, direct=True), direct=True), one, one, 1.0, 1.0)
    # The direct link leaves one hill and one top; the search stops where the gradient is below 1e-7.
    assert abs(float(best + loss().detach())) < 1e-9
    learned = phases.detach() - align_phases(z, direct=True).angle()
    assert torch.cos(learned).min() > 1 - 1e-9


# -- Pilots and manners. --


def test_pilots_cost_their_share(generator: torch.Generator) -> None:
    assert data_share(0, None) == 1.0 and data_share(50, 200) == 0.75
    g, u, v = cn(4, 3, 1, generator=generator), cn(4, 1, 1, generator=generator), cn(3, 1, 1, generator=generator)
    free, paid = spectral_efficiency(g, u, v, 1.0, 1.0), spectral_efficiency(g, u, v, 1.0, 1.0, 50, 200)
    assert float(paid / free) == pytest.approx(0.75, rel=1e-12) and free.shape == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pilot_uses": 200, "coherence_uses": 200}, InvalidValueError, "pilot_uses=200 must be less than coherence_uses=200"),
        ({"pilot_uses": 201, "coherence_uses": 200}, InvalidValueError, "no use is left for data"),
        ({"pilot_uses": 5}, InvalidValueError, "coherence_uses=None with pilot_uses=5"),
        ({"pilot_uses": -1, "coherence_uses": 9}, InvalidValueError, "pilot_uses=-1 must be at least 0"),
        ({"coherence_uses": 0}, InvalidValueError, "coherence_uses=0 must be greater than 0"),
        ({"no": 0.0}, InvalidValueError, "no=0 must be greater than 0"),
        ({"no": math.nan}, InvalidValueError, "no holds NaN"),
        ({"power": -1.0}, InvalidValueError, "power=-1 must be at least 0"),
        ({"power": torch.ones(3)}, ShapeError, r"power has shape \(3,\)"),
        ({"channel": torch.ones(2, 2)}, InvalidTypeError, "channel has dtype torch.float32"),
        ({"channel": torch.ones(2, 2, dtype=torch.complex64)}, ShapeError, "num_bs_ant, num_ms_ant, num_subcarriers"),
        ({"channel": torch.full((2, 4, 3, 1), math.inf, dtype=torch.complex64)}, InvalidValueError, "channel holds"),
        ({"combiner": torch.ones(2, 4, 1, dtype=torch.complex64)}, ShapeError, r"combiner has shape \(2, 4, 1\)"),
        ({"combiner": torch.ones(2, 4, 2, 1, dtype=torch.complex64)}, ShapeError, "combiner has 2 streams, precoder 1"),
        ({"precoder": torch.ones(2, 3, 1, 1, dtype=torch.complex128)}, InvalidTypeError, "precoder has dtype"),
        ({"precoder": None}, InvalidTypeError, "precoder must be a torch.Tensor"),
    ],
    ids=[
        "pilots-fill",
        "pilots-exceed",
        "no-block",
        "negative-pilots",
        "empty-block",
        "noiseless",
        "nan-noise",
        "negative-power",
        "power-axes",
        "real",
        "axes",
        "infinite",
        "beam-axes",
        "streams",
        "precision",
        "none",
    ],
)
def test_bad_input_is_refused(change: dict, error: type, message: str) -> None:
    ones = {"channel": (2, 4, 3, 1), "combiner": (2, 4, 1, 1), "precoder": (2, 3, 1, 1)}
    arguments = {name: torch.ones(shape, dtype=torch.complex64) for name, shape in ones.items()} | {"power": 1.0, "no": 1.0}
    with pytest.raises(error, match=message) as caught:
        spectral_efficiency(**(arguments | change))
    assert "\n" not in str(caught.value)


# -- The study. --


@pytest.mark.slow
def test_study_of_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(SIMS))
    main = runpy.run_path(str(SIMS / "irs_rate.py"))["main"]
    assert main(["--quick", "--num-channels", "4", "--out", str(tmp_path)]) == 0
    assert "estimated / perfect" in capsys.readouterr().out
    with (tmp_path / "irs_rate.csv").open(encoding="utf-8") as file:
        rows = {(row["panel"], row["scheme"], float(row["point"])): float(row["value"]) for row in csv.DictReader(file)}
    high = {scheme: value for (panel, scheme, point), value in rows.items() if panel == "power" and point == 25}
    # At 25 dBm the estimate is good: close to the truth, above its own coarse phases, and far above no surface.
    assert 0.9 * high["perfect CSI"] < high["estimated CSI"] <= 1.001 * high["perfect CSI"]
    assert high["estimated CSI, 1 bit"] < high["estimated CSI, 2 bits"] < high["estimated CSI"]
    assert high["no surface"] + 4 < high["estimated CSI"]
    law = {(scheme, point): value for (panel, scheme, point), value in rows.items() if panel == "scaling"}
    # 20 log10(256) in single precision; the losses are those of 256 elements, a little less than of infinitely many.
    assert law["continuous", 256] == pytest.approx(48.165, abs=1e-3)
    assert law["2 bits", 256] - law["continuous", 256] == pytest.approx(-0.91, abs=0.1)
    assert law["1 bit", 256] - law["continuous", 256] == pytest.approx(-3.92, abs=0.4)
    assert (tmp_path / "irs_rate.png").stat().st_size > 10_000
    assert main(["--quick", "--set", "num_irs=0"]) == 1
    assert "num_irs" in capsys.readouterr().err
