"""Metrics of reflected channels: simulated links, limits in closed form, and manners."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from wichan.beamforming import spectral_efficiency
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.evaluation import (
    beam_gains,
    median_interval,
    nmse_per_pattern,
    qpsk_symbol_error_rate,
    resampled_sums,
    support_recovery_rate,
)
from wichan.evaluation.irs_metrics import link_rate
from wichan.random import complex_normal

QPSK = torch.tensor([1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j], dtype=torch.complex128) / 2**0.5


def channels(generator: torch.Generator, count: int = 20, rx: int = 5, tx: int = 3, error: float = 0.3) -> Any:
    """Channels (count, rx, tx, 4 patterns, 2 subcarriers) and estimates of them."""
    h = complex_normal((count, rx, tx, 4, 2), generator=generator, dtype=torch.complex128)
    return h, h + complex_normal(h.shape, error, generator=generator, dtype=h.dtype)


def gaussian_tail(x: float) -> float:
    return math.erfc(x / 2**0.5) / 2


# -- Symbol errors --


@pytest.mark.parametrize("phase", [0.0, 0.3, -0.6, math.pi / 4, 1.2, -3.0], ids=["0", "0.3", "-0.6", "pi/4", "1.2", "-3"])
@pytest.mark.parametrize("no", [0.05, 0.4, 2.0])
def test_symbol_errors_are_those_of_minimum_distance(phase: float, no: float, generator: torch.Generator) -> None:
    gain, expected = (
        0.8 * torch.ones((), dtype=torch.complex128),
        1.7 * torch.exp(torch.tensor(-1j * phase, dtype=torch.complex128)),
    )
    number = 200_000
    sent = torch.randint(4, (number,), generator=generator)
    r = gain * QPSK[sent] + complex_normal((number,), no, generator=generator, dtype=torch.complex128)
    decided = (r[:, None] - expected * QPSK).abs().argmin(dim=1)
    simulated = float((decided != sent).double().mean())
    got = float(qpsk_symbol_error_rate(gain, no, expected))
    # Four standard errors of the share of 200 000 symbols; 1e-5 where errors are all but certain or all but absent.
    assert abs(got - simulated) < 4 * math.sqrt(got * (1 - got) / number) + 1e-5


def test_symbol_errors_of_whole_links(generator: torch.Generator) -> None:
    # The chain: beams of the estimate, data through the true channel, noise at the antennas, decision by the estimated gain.
    h, h_hat = channels(generator, count=6, error=1.5)
    no, number = 1.5, 4000
    gains = beam_gains(h, h_hat)
    got = qpsk_symbol_error_rate(gains.gain, no, gains.expected)
    truth, estimate = (x.movedim((1, 2), (-2, -1)) for x in (h, h_hat))
    left, strength, right = torch.linalg.svd(estimate, full_matrices=False)
    u, v = left[..., :1], right.mH[..., :1]
    sent = torch.randint(4, (*truth.shape[:-2], number), generator=generator)
    noise = complex_normal((*truth.shape[:-1], number), no, generator=generator, dtype=torch.complex128)
    r = (u.mH @ (truth @ v * QPSK[sent][..., None, :] + noise))[..., 0, :]
    decided = (r[..., None] - strength[..., :1, None] * QPSK).abs().argmin(dim=-1)
    simulated = (decided != sent).double().mean(dim=-1)
    spread = (got * (1 - got) / number).sqrt()
    assert got.shape == (6, 4, 2)
    # 48 links: none beyond 4.5 standard errors, their mean within 4 of its own.
    assert bool(((got - simulated).abs() < 4.5 * spread + 1e-4).all())
    assert abs(float((got - simulated).mean())) < 4 * float(spread.square().sum().sqrt()) / got.numel()
    assert 0.05 < float(got.mean()) < 0.7  # and there is something to compare


def test_symbol_errors_in_closed_form() -> None:
    gain = torch.tensor([0.5, 1.0, 2.0], dtype=torch.complex128)
    q = torch.tensor([gaussian_tail(float(g.real) / 0.3**0.5) for g in gain], dtype=torch.float64)
    torch.testing.assert_close(qpsk_symbol_error_rate(gain, 0.3), 2 * q - q.square(), rtol=1e-12, atol=0)
    # An eighth of a turn puts the symbol on a border of its quadrant: one coin a symbol, and a rare error beyond it.
    turned = qpsk_symbol_error_rate(gain * torch.exp(torch.tensor(0.25j * math.pi)), 1e-6)
    torch.testing.assert_close(turned, torch.full_like(turned, 0.5), rtol=1e-12, atol=0)
    # Rare errors keep their digits: 2 Q(20) is 5.5e-89.
    rare = qpsk_symbol_error_rate(torch.full((64,), 20.0, dtype=torch.complex128), 1.0)
    torch.testing.assert_close(rare, torch.full_like(rare, 2 * gaussian_tail(20.0)), rtol=1e-10, atol=0)


def test_symbol_errors_of_the_modulus_do_not_matter(generator: torch.Generator) -> None:
    gain = complex_normal((50,), generator=generator, dtype=torch.complex128)
    expected = complex_normal((50,), generator=generator, dtype=torch.complex128)
    first, second = (qpsk_symbol_error_rate(gain, 0.2, scale * expected) for scale in (1.0, 1e6))
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-300)  # rounding of the phase
    turn = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    torch.testing.assert_close(qpsk_symbol_error_rate(gain * turn, 0.2, expected * turn), first, rtol=1e-9, atol=1e-300)


def test_symbol_errors_at_the_limits() -> None:
    one = torch.ones(2, dtype=torch.complex128)
    assert qpsk_symbol_error_rate(one, 0.0).tolist() == [0.0, 0.0]
    assert qpsk_symbol_error_rate(-one, 0.0).tolist() == [1.0, 1.0]
    for gain, expected in ((0 * one, one), (one, 0 * one), (0 * one, 0 * one)):
        for no in (0.0, 0.1):
            assert qpsk_symbol_error_rate(gain, no, expected).tolist() == [0.75, 0.75]  # a guess among four
    single = qpsk_symbol_error_rate(one.to(torch.complex64), torch.tensor([0.5, 2.0]))
    assert single.dtype == torch.float64
    assert bool((single[0] < single[1]) & (single > 0).all())


# -- Beams --


@pytest.mark.parametrize(("rx", "tx"), [(5, 3), (3, 5), (1, 4), (4, 1)])
def test_beams_are_the_dominant_singular_pair(rx: int, tx: int, generator: torch.Generator) -> None:
    h, h_hat = channels(generator, rx=rx, tx=tx)
    gains = beam_gains(h, h_hat)
    truth, estimate = (x.movedim((1, 2), (-2, -1)) for x in (h, h_hat))
    u, s, vh = torch.linalg.svd(estimate, full_matrices=False)
    want = (u[..., :1].mH @ truth @ vh.mH[..., :1])[..., 0, 0]
    torch.testing.assert_close(gains.expected, s[..., 0], rtol=1e-10, atol=0)
    # One phase is common to both beams of a pair, and leaves the gain alone.
    torch.testing.assert_close(gains.gain, want, rtol=1e-8, atol=1e-8)
    known = beam_gains(h, h)
    torch.testing.assert_close(known.gain, known.expected.to(known.gain), rtol=1e-10, atol=1e-10)
    assert bool((gains.gain.abs() <= known.expected * (1 + 1e-10)).all())
    for scale in (1e-150, 1e-30, 1e150):
        torch.testing.assert_close(beam_gains(scale * h, scale * h_hat).gain / scale, want, rtol=1e-8, atol=1e-8)


def test_an_estimate_of_zero_has_no_beam(generator: torch.Generator) -> None:
    h, _ = channels(generator)
    gains = beam_gains(h, torch.zeros_like(h))
    assert float(gains.gain.abs().max()) == float(gains.expected.max()) == 0
    assert float(qpsk_symbol_error_rate(gains.gain, 0.1, gains.expected).min()) == 0.75
    assert float(link_rate(gains.gain, 0.1).max()) == 0


def test_rates_are_those_of_the_beams_spelt_out(generator: torch.Generator) -> None:
    h, h_hat = channels(generator)
    no = torch.linspace(0.05, 0.5, len(h), dtype=torch.float64)
    got = 0.9 * link_rate(beam_gains(h, h_hat).gain, no[:, None, None]).mean(dim=-1)
    u, _, vh = torch.linalg.svd(h_hat.movedim((1, 2), (-2, -1)), full_matrices=False)
    beams = (x[..., :1].movedim((-2, -1), (1, 2)) for x in (u, vh.mH))  # (n, antennas, 1 stream, patterns, subcarriers)
    per_pattern = (x.movedim(3, 1) for x in (h, *beams))
    noise = no[:, None].expand(-1, 4)
    want = spectral_efficiency(*per_pattern, power=1.0, no=noise, pilot_uses=20, coherence_uses=200)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)
    assert math.isfinite(float(link_rate(torch.ones(1), 0.0)))


# -- Errors and supports --


def test_error_of_each_pattern(generator: torch.Generator) -> None:
    h, h_hat = channels(generator)
    h = h * torch.tensor([1.0, 10.0, 0.1, 1.0])[:, None]  # patterns of very different energy
    want = torch.zeros(len(h), dtype=torch.float64)
    for k in range(4):
        want += (h_hat - h)[..., k, :].abs().square().sum(dim=(1, 2, 3)) / h[..., k, :].abs().square().sum(dim=(1, 2, 3)) / 4
    torch.testing.assert_close(nmse_per_pattern(h_hat, h), want, rtol=1e-12, atol=0)
    silent = h.clone()
    silent[..., 1, :] = 0
    kept = [0, 2, 3]
    left = nmse_per_pattern(h_hat[..., kept, :], silent[..., kept, :])
    torch.testing.assert_close(nmse_per_pattern(h_hat, silent), left, rtol=1e-12, atol=0)
    assert bool(nmse_per_pattern(h_hat, torch.zeros_like(h)).isnan().all())
    assert nmse_per_pattern(h_hat[0].to(torch.complex64), h[0].to(torch.complex64)).shape == ()


def test_support_recovery_counts_by_hand() -> None:
    x = torch.tensor([[[3.0, 1e-3, 0.0], [0.0, -1.0, 1e-5]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    true = torch.tensor([[[True, False, True], [False, True, False]]] * 2)
    # Found: two true ones, with 1e-4 also 1e-3 of 3; of the three true ones one is missed.
    assert support_recovery_rate(x, true, 1e-4).tolist() == [0.5, 0.0]
    assert support_recovery_rate(x, true, 1e-2).tolist() == [pytest.approx(2 / 3), 0.0]
    assert support_recovery_rate(x, true, 0.0).tolist() == [0.4, 0.0]
    assert support_recovery_rate(1j * x, true).tolist() == [0.5, 0.0]
    assert support_recovery_rate(0 * x, ~true & true).tolist() == [1.0, 1.0]
    # 1e-4 of the largest is not found, what lies just above is.
    edge = torch.tensor([[1.0, 1e-4, 1.0001e-4]], dtype=torch.float64)
    assert support_recovery_rate(edge, torch.ones(1, 3, dtype=torch.bool)).tolist() == [pytest.approx(2 / 3)]


def test_median_has_the_interval_of_infinitely_many_resamples(generator: torch.Generator) -> None:
    values = torch.rand(2, 31, generator=generator, dtype=torch.float64).square()
    got = median_interval(values)
    index = torch.randint(31, (40_000, 31), generator=generator)
    copies = values[:, index].median(dim=-1).values
    assert got.value.tolist() == values.median(dim=1).values.tolist()
    for tail, bound in ((0.025, got.low), (0.975, got.high)):
        # The bound is the smallest value that enough of the resamples do not exceed, up to 4 standard errors of their share.
        slack = 4 * math.sqrt(tail * (1 - tail) / 40_000)
        below = torch.stack([(copy < b).double().mean() for copy, b in zip(copies, bound, strict=True)])
        upto = torch.stack([(copy <= b).double().mean() for copy, b in zip(copies, bound, strict=True)])
        assert bool((below < tail + slack).all())
        assert bool((upto > tail - slack).all())
    assert bool(median_interval(torch.ones(3, 1)).low.isnan().all())
    assert bool(median_interval(torch.tensor([[1.0, math.nan]])).value.isnan().all())
    assert median_interval(torch.tensor([3.0, 1.0, 2.0, 4.0])).value == 2.0  # the lower one of two in the middle
    assert resampled_sums(values, 5, generator=generator).shape == (2, 5)


# -- Bad input --


def test_bad_arguments() -> None:
    h = torch.ones(2, 3, 2, 4, 1, dtype=torch.complex64)
    for metric in (beam_gains, nmse_per_pattern):
        with pytest.raises(ShapeError, match=r"both must be \(\*batch, num_rx_ant, num_tx_ant, num_patterns"):
            metric(h, h[:1])
        with pytest.raises(ShapeError, match="both must be"):
            metric(h[0, 0], h[0, 0])
        with pytest.raises(InvalidTypeError, match="complex64"):
            metric(h.real, h.real)
        with pytest.raises(InvalidValueError, match="must be finite"):
            metric(h, h * math.nan)
    gain = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(InvalidTypeError, match="gain"):
        qpsk_symbol_error_rate(gain.real, 0.1)
    with pytest.raises(InvalidValueError, match="no=-0.1 must be at least 0"):
        qpsk_symbol_error_rate(gain, -0.1)
    with pytest.raises(ShapeError, match="expected has shape"):
        qpsk_symbol_error_rate(gain, 0.1, gain[:1])
    with pytest.raises(InvalidValueError, match="expected holds"):
        qpsk_symbol_error_rate(gain, 0.1, gain * math.inf)
    with pytest.raises(InvalidValueError, match="gain holds"):
        link_rate(gain * math.nan, 0.1)
    x, true = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(InvalidTypeError, match="support must be a bool"):
        support_recovery_rate(x, x)
    with pytest.raises(ShapeError, match="coefficients and support have shapes"):
        support_recovery_rate(x, true[:1])
    with pytest.raises(InvalidValueError, match="threshold=1 must be at most"):
        support_recovery_rate(x, true, 1.0)
    with pytest.raises(InvalidValueError, match="coefficients holds"):
        support_recovery_rate(x * math.nan, true)
    with pytest.raises(ShapeError, match="at least 1 channel"):
        median_interval(torch.ones(3, 0))
