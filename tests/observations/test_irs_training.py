"""IRS training: against the physical cascade, its matrix, noise and SNR, seeds, gradients and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.channels import CDL, IRSCascade, Panel, RayleighBlock
from wichan.channels.synthesis import frequency_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import IRSTraining
from wichan.observations.snr import no_from_snr_db
from wichan.random import complex_normal

IRS = IRSCascade(3, 12, 4)
BAND = torch.arange(-2, 3, dtype=torch.float64) * 1e5
HOP: dict[str, Any] = {"delay_spread": 1e-7, "speed": 3.0, "carrier_frequency": 3.5e9}
FIRST = CDL("C", rx_array=Panel(1, 8), tx_array=Panel(1, 2), **HOP)
SECOND = CDL("C", rx_array=Panel(1, 4), tx_array=Panel(1, 8), **HOP)
CASES: dict[str, tuple[IRSCascade, dict[str, Any]]] = {
    "narrow": (IRS, {}),
    "one of everything": (IRSCascade(1, 1, 1, 1), {"num_pilots": 1, "num_patterns": 1}),
    "planar, direct": (IRSCascade((2, 2), (3, 4), (2, 3), direct=True), {"patterns": "dft", "pilots": "dft"}),
    "band": (IRSCascade(2, 6, 3, max_delay=1e-6, direct=True), {"frequencies": BAND, "patterns": "hadamard"}),
    "moving": (IRSCascade(2, 6, 3, max_doppler=300.0, direct=True), {"pattern_duration": 1e-3}),
    "clustered hops": (IRSCascade(2, 8, 4, ms_irs=FIRST, irs_bs=SECOND), {"pattern_duration": 1e-3, "frequencies": BAND}),
}


def training(name: str) -> IRSTraining:
    irs, options = CASES[name]
    return IRSTraining(irs, **{"num_pilots": 2, "num_patterns": 8, **options})


def physical(obs: IRSTraining, draw: Any) -> torch.Tensor:
    """The cascade from its two hops, pattern by pattern, and the received pilots from it; all of it by hand."""
    first = frequency_response(draw.ms_irs, obs.times, obs.frequencies)
    second = frequency_response(draw.irs_bs, obs.times, obs.frequencies)
    h = torch.einsum("nblkf,kl,nlmkf->nbmkf", second, obs.patterns, first)
    return h if draw.direct is None else h + frequency_response(draw.direct, obs.times, obs.frequencies)


@pytest.mark.parametrize("name", CASES)
def test_measurements_are_pilots_through_the_physical_cascade(name: str, generator: torch.Generator) -> None:
    obs = training(name)
    draw = obs.irs.sample(3, generator=generator).double()
    h = obs.channel(draw)
    assert h.shape[1:] == obs.channel_shape and obs.has_direct == (draw.direct is not None)
    # sums over up to 12 elements and 9 paths pairs of amplitudes near 1
    torch.testing.assert_close(h, physical(obs, draw), rtol=0, atol=1e-12)
    y = obs.noiseless(draw)
    assert y.shape == (3, obs.num_measurements)
    for k, p, b, f in ((0, 0, 0, 0), tuple(size - 1 for size in obs.measurement_shape)):
        place = ((k * obs.num_pilots + p) * obs.channel_shape[0] + b) * obs.num_subcarriers + f
        want = (obs.pilots[:, p] * h[:, b, :, k, f]).sum(-1)
        torch.testing.assert_close(y[:, place], want, rtol=0, atol=1e-12)
    assert torch.equal(obs.noiseless(h), y)
    assert obs.pilot_uses == obs.num_pilots * obs.num_patterns


@pytest.mark.parametrize("name", CASES)
def test_matrix_and_adjoint(name: str, generator: torch.Generator) -> None:
    obs = training(name)
    h = complex_normal((2, *obs.channel_shape), generator=generator, dtype=torch.complex128)
    y = complex_normal((2, obs.num_measurements), generator=generator, dtype=torch.complex128)
    torch.testing.assert_close(obs.project(h), h.flatten(1) @ obs.matrix().mT, rtol=0, atol=1e-12)
    torch.testing.assert_close((obs.project(h).conj() * y).sum(), (h.conj() * obs.adjoint(y)).sum(), rtol=1e-12, atol=1e-11)
    assert torch.equal(obs.extract(y), y) and torch.equal(obs.apply(h), obs.project(h))
    assert obs.signal_power == pytest.approx(float(obs.matrix().abs().square().sum()) / obs.num_measurements)


def test_noise_is_white_and_circular(generator: torch.Generator) -> None:
    obs = training("narrow")
    draw = IRS.sample(4000, generator=generator)
    no = torch.where(torch.arange(4000) < 2000, 0.5, 2.0)
    noise = obs.observe(draw, no, generator=generator) - obs.noiseless(draw)
    assert noise.dtype == torch.complex64
    for part, level in ((noise[:2000], 0.5), (noise[2000:], 2.0)):
        # 2000 x 64 exponential variables: five standard errors are 1.4 % of the level, in the square and the cross term
        assert float(part.abs().square().mean()) == pytest.approx(level, rel=0.014)
        assert abs(complex(part.square().mean())) < 0.014 * level
        correlation = (part.mH @ part / 2000).fill_diagonal_(0)
        assert float(correlation.abs().max()) < level * 6 / 2000**0.5  # largest of 4032 entries of this standard error
    assert torch.equal(obs.observe(draw, 0.0, generator=generator), obs.noiseless(draw))


def test_snr_of_the_link_and_of_each_realisation(generator: torch.Generator) -> None:
    obs = training("narrow")
    draw = IRS.sample(20_000, generator=generator)
    h = obs.channel(draw)
    power = obs.project(h).abs().square().mean(-1)
    no = obs.no_from_snr_db(7.0)
    assert no == pytest.approx(12 / 10**0.7)
    assert obs.snr_db_from_no(no) == pytest.approx(7.0)
    assert obs.no_from_snr_db(7.0, mean_power=1.0) == pytest.approx(10**-0.7)
    # A sum of two uniform cosines is uniform modulo 2, which makes the mean 12 under any pattern; power under fading of few
    # paths has a standard deviation near 1.5 of its mean: 20000 samples, five standard errors
    assert float(power.mean()) == pytest.approx(12, rel=0.05)
    each = no_from_snr_db(torch.full((20_000,), 7.0), "per-realisation", obs, h=h)
    torch.testing.assert_close(10 * torch.log10(power / each), torch.full((20_000,), 7.0), rtol=0, atol=1e-4)


def test_seed_fixes_patterns_and_pilots_and_nothing_else_does() -> None:
    first, again, other = (IRSTraining(IRS, 3, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.patterns, again.patterns) and torch.equal(first.pilots, again.pilots)
    assert not torch.equal(first.patterns, other.patterns) and not torch.equal(first.pilots, other.pilots)
    more = IRSTraining(IRS, 5, 6, seed=1)
    assert torch.equal(first.patterns, more.patterns)


def test_matrices_of_the_caller_are_taken_as_they_are(generator: torch.Generator) -> None:
    patterns = torch.polar(torch.ones(5, 12, dtype=torch.float64), torch.rand(5, 12, generator=generator, dtype=torch.float64))
    pilots = complex_normal((3, 2), generator=generator, dtype=torch.complex128)
    obs = IRSTraining(IRS, 2, 5, patterns=patterns, pilots=pilots)
    assert torch.equal(obs.patterns, patterns) and torch.equal(obs.pilots, pilots)
    assert obs.signal_power == pytest.approx(float(pilots.abs().square().sum()) / 2)
    signs = IRSTraining(IRS, 2, 5, patterns=patterns.real.sign())
    assert signs.patterns.dtype == torch.complex128


def test_state_and_precision_follow_the_module(generator: torch.Generator) -> None:
    obs, other = IRSTraining(IRS, 3, 6, seed=1), IRSTraining(IRS, 3, 6, seed=2)
    other.load_state_dict(obs.state_dict())
    assert torch.equal(other.patterns, obs.patterns)
    assert other.float().pilots.dtype == torch.complex64
    h = obs.channel(IRS.sample(2, generator=generator))
    assert h.dtype == obs.project(h).dtype == obs.adjoint(obs.project(h)).dtype == torch.complex64


def test_gradient_reaches_the_channel(generator: torch.Generator) -> None:
    obs = IRSTraining(IRSCascade(2, 4, 2), 2, 2)
    h = complex_normal((2, 2, 2, 2, 1), generator=generator, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: obs.observe(h, 0.1, generator=torch.Generator().manual_seed(0)), (h,))


G = torch.Generator()
OBS = IRSTraining(IRS, 2, 5)
H = torch.ones(2, 4, 3, 5, 1, dtype=torch.complex64)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: IRSTraining(RayleighBlock(2, 2), 2, 5),
        InvalidTypeError,
        "irs must be a wichan.channels.IRSCascade, got Rayleigh",
    ),
    (lambda: IRSTraining(IRS, 0, 5), InvalidValueError, "num_pilots=0 must be at least 1"),
    (lambda: IRSTraining(IRS, 2, 0), InvalidValueError, "num_patterns=0 must be at least 1"),
    (lambda: IRSTraining(IRS, 2, 5, patterns="walsh"), UnknownNameError, "patterns='walsh' is unknown"),
    (lambda: IRSTraining(IRS, 2, 14, patterns="hadamard"), InvalidValueError, "num_patterns=14 .* nearest are 12 and 16"),
    (lambda: IRSTraining(IRS, 2, 5, patterns=torch.ones(5, 11)), ShapeError, r"patterns has shape \(5, 11\); .* \(5, 12\)"),
    (lambda: IRSTraining(IRS, 2, 5, patterns=torch.ones(5, 12) / 0), InvalidValueError, "patterns holds 60 NaN or infinite"),
    (
        lambda: IRSTraining(IRS, 2, 5, patterns=torch.full((5, 12), 2.0)),
        InvalidValueError,
        "patterns holds a modulus of 2; .* 1",
    ),
    (lambda: IRSTraining(IRS, 2, 5, patterns=3), InvalidTypeError, "patterns must be a torch.Tensor"),
    (lambda: IRSTraining(IRS, 2, 5, pilots="ofdm"), UnknownNameError, "pilots='ofdm' is unknown"),
    (lambda: IRSTraining(IRS, 2, 5, pilots=torch.ones(2, 3)), ShapeError, r"pilots has shape \(2, 3\); it must be \(3, 2\)"),
    (lambda: IRSTraining(IRS, 2, 5, seed=-1), InvalidValueError, "seed=-1 must be at least 0"),
    (lambda: IRSTraining(IRS, 2, 5, pattern_duration=-1.0), InvalidValueError, "pattern_duration=-1 must be at least 0"),
    (lambda: IRSTraining(IRS, 2, 5, frequencies=BAND[:0]), ShapeError, r"frequencies has shape \(0,\)"),
    (lambda: IRSTraining(IRS, 2, 5, frequencies=BAND * math.nan), InvalidValueError, "frequencies holds 5 NaN"),
    (lambda: IRSTraining(IRS, 2, 5, frequencies=BAND * 0), InvalidValueError, "frequencies holds the same value twice"),
    (lambda: OBS.observe(H[:, :3], 1.0, generator=G), ShapeError, r"h has shape .* the last axes must be \(4, 3, 5, 1\)"),
    (lambda: OBS.observe(H.real, 1.0, generator=G), InvalidTypeError, "h has dtype torch.float32"),
    (lambda: OBS.observe(H * math.nan, 1.0, generator=G), InvalidValueError, "h holds"),
    (lambda: OBS.observe(H, -1.0, generator=G), InvalidValueError, "no=-1 must be at least 0"),
    (lambda: OBS.observe(H, torch.ones(3), generator=G), ShapeError, r"no has shape \(3,\)"),
    (lambda: OBS.observe(H, 1.0, generator=None), InvalidTypeError, "generator must be a torch.Generator"),
    (lambda: OBS.observe("draw", 1.0, generator=G), InvalidTypeError, "draw must be an IRSDraw, got str"),
    (lambda: OBS.adjoint(H), ShapeError, r"y has shape .* \(40\)"),
    (lambda: OBS.extract(torch.ones(3)), ShapeError, r"y has shape \(3,\)"),
    (lambda: IRSTraining(IRSCascade(8, 4, 64), 8, 64).matrix(), InvalidValueError, "32768 x 32768 entries"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
