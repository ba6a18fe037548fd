"""Damaged histories: SNRs, published degrees, what is hit and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError, WichanError
from wichan.observations import (
    AWGN,
    HISTORY_IMPAIRMENTS,
    Burst,
    HistoryImpairment,
    PacketDrop,
    PhaseNoise,
    history_impairment,
)
from wichan.random import complex_normal

# Target dB -> (degree, SNR that the benchmark's authors measured with it over their 27 training cells).
PUBLISHED_PHASE = {10: (0.32, 10.008), 15: (0.18, 14.929), 20: (0.10, 20.012), 25: (0.056, 25.040)}
PUBLISHED_BURST = {10: (0.29, 9.821), 15: (0.16, 14.994), 20: (0.09, 20.237), 25: (0.054, 25.116)}
EVERY = [("awgn", 15.0), ("awgn", (0.0, 25.0)), ("phase", 15), ("drop", 0.4), ("burst", 15)]


def channels(*shape: int, generator: torch.Generator, power: float = 1.0, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return complex_normal(shape, power, generator=generator, dtype=dtype)


def energies(h: torch.Tensor) -> torch.Tensor:
    """Energy of each sample, in double."""
    return h.to(torch.complex128).abs().square().flatten(1).sum(1)


def snr_db(clean: torch.Tensor, damaged: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(energies(clean) / energies(damaged.to(torch.complex128) - clean))


@pytest.mark.parametrize("db", [0.0, 20.0, 25.0])
def test_noise_has_its_snr_in_every_sample(db: float, generator: torch.Generator) -> None:
    h = channels(6, 8, 1, 16, 300, generator=generator) * torch.logspace(-3, 3, 6)[:, None, None, None, None]
    damaged, present = AWGN(db)(h, generator=generator)
    # 38400 numbers: the noise power of a sample scatters by 0.5 % (0.02 dB)
    assert torch.allclose(snr_db(h, damaged), torch.full((6,), db, dtype=torch.float64), atol=0.09)
    assert present.all() and present.shape == (6, 16)
    noise = (damaged - h).to(torch.complex128)
    assert torch.allclose(noise.real.square().sum() / noise.imag.square().sum(), torch.tensor(1.0).double(), rtol=0.05)
    expected = energies(h) / h[0].numel() / 10 ** (db / 10)
    assert torch.allclose(AWGN(db).no(h).double(), expected, rtol=1e-5)  # rounding of a float32 mean


def test_noise_at_the_benchmark_s_size_is_exact_to_a_twentieth_of_a_decibel(generator: torch.Generator) -> None:
    h = channels(4, 32, 1, 16, 300, generator=generator)
    damaged, _ = AWGN(10.0)(h, generator=generator)
    # 153600 numbers: 0.26 %, 0.011 dB
    assert torch.allclose(snr_db(h, damaged), torch.full((4,), 10.0, dtype=torch.float64), atol=0.05)


def test_an_snr_for_every_sample_and_one_that_is_drawn(generator: torch.Generator) -> None:
    h = channels(400, 2, 1, 4, 64, generator=generator)
    given = torch.linspace(0, 30, 400)
    told, _ = AWGN(given)(h, generator=generator)
    # 512 numbers a sample: 4.4 %, 0.19 dB; the largest of 400 stays below five times that
    assert torch.allclose(snr_db(h, told), given.double(), atol=1.0)
    drawn = snr_db(h, AWGN((5.0, 25.0))(h, generator=generator)[0])
    assert 4.0 < float(drawn.min()) < 6.5 and 23.5 < float(drawn.max()) < 26.0
    quarters = torch.histc(drawn, bins=4, min=5.0, max=25.0)
    # counts of 400 draws in four bins: 100 with a deviation of 8.7
    assert torch.allclose(quarters, torch.full_like(quarters, 100.0), atol=36)
    with pytest.raises(InvalidValueError, match=r"snr_db=\(5.0, 25.0\) is drawn for every sample; give snr_db"):
        AWGN((5.0, 25.0)).no(h)
    assert torch.allclose(AWGN((5.0, 25.0)).no(h, given), AWGN(given).no(h))


@pytest.mark.parametrize("db", PUBLISHED_PHASE)
def test_phase_noise_has_the_published_snr_and_keeps_magnitudes(db: int, generator: torch.Generator) -> None:
    impairment = PhaseNoise.preset(db)
    degree, achieved = PUBLISHED_PHASE[db]
    assert impairment.std == degree
    h = channels(1000, 4, 1, 16, 8, generator=generator, power=2.0)
    damaged, present = impairment(h, generator=generator)
    assert torch.allclose(damaged.abs(), h.abs(), rtol=1e-5)  # a cosine, a sine and a product in float32
    measured = 10 * math.log10(float(energies(h).sum() / energies(damaged - h).sum()))
    # 512,000 numbers: 0.3 %, 0.01 dB
    assert measured == pytest.approx(achieved, abs=0.05)
    assert impairment.expected_snr_db() == pytest.approx(achieved, abs=0.005)  # the authors' own 4 million numbers
    assert present.all()


def test_phase_noise_is_white_over_antennas_snapshots_and_bins(generator: torch.Generator) -> None:
    h = channels(50, 4, 2, 16, 32, generator=generator)
    phase = (PhaseNoise(0.1)(h, generator=generator)[0] * h.conj()).angle().double()
    assert float(phase.std()) == pytest.approx(0.1, rel=0.01)  # 204,800 numbers: 0.16 %
    for axis in range(5):
        neighbours = (phase * phase.roll(1, axis)).mean() / phase.square().mean()
        assert abs(float(neighbours)) < 0.012  # five times 1 / sqrt(204800)


def test_a_dropped_snapshot_is_zero_and_the_others_keep_their_bits(generator: torch.Generator) -> None:
    h = channels(2000, 2, 1, 16, 3, generator=generator)
    damaged, present = PacketDrop(0.07)(h, generator=generator)
    mask = present[:, None, None, :, None].expand_as(h)
    assert torch.equal(damaged[mask], h[mask])
    assert not damaged[~mask].any()
    # 32,000 snapshots: a rate of 0.07 scatters by 0.0014
    assert float((~present).double().mean()) == pytest.approx(0.07, abs=0.006)
    assert (~present).double().mean(0).sub(0.07).abs().max() < 0.03  # no slot is special: 0.0057 for each of 16
    assert (~present).sum(1).max() > 1  # slots fall alone


def test_drop_rates_at_the_limits(generator: torch.Generator) -> None:
    h = channels(3, 2, 1, 4, 3, generator=generator)
    kept, present = PacketDrop(0.0)(h, generator=generator)
    assert torch.equal(kept, h) and present.all()
    gone, present = PacketDrop(1.0)(h, generator=generator)
    assert not gone.any() and not present.any()
    assert PacketDrop(0.1).expected_snr_db() == pytest.approx(10.0)
    assert PacketDrop(0.0).expected_snr_db() == math.inf == PhaseNoise(0.0).expected_snr_db()


@pytest.mark.parametrize("power", [2.0, 1.0, 1e-4])
@pytest.mark.parametrize("db", PUBLISHED_BURST)
def test_bursts_have_the_published_snr(db: int, power: float, generator: torch.Generator) -> None:
    impairment = Burst.preset(db, reference_power=power)
    degree, achieved = PUBLISHED_BURST[db]
    assert impairment.degree == degree
    h = channels(4000, 2, 1, 16, 4, generator=generator, power=power)
    damaged, present = impairment(h, generator=generator)
    measured = 10 * math.log10(float(energies(h).sum() / energies(damaged - h).sum()))
    # the energy of one sample's burst scatters by 60 %, that of 4000 by 1 % (0.04 dB); the published value by 0.02 dB
    assert measured == pytest.approx(achieved, abs=0.3)
    assert measured == pytest.approx(impairment.expected_snr_db(), abs=0.2)
    assert present.all()


def test_bursts_are_drawn_as_published(generator: torch.Generator) -> None:
    count, degree = 8000, 0.054
    h = torch.zeros(count, 1, 1, 16, 1, dtype=torch.complex64)
    hit = Burst(degree)(h, generator=generator)[0].abs().flatten(1) > 0
    # The published rule, drawn with NumPy: failures before a success of probability 2 d, and a burst if G - 1 < 16.
    failures = np.random.default_rng(0).geometric(2 * degree, 200_000) - 1
    expected = float((failures - 1 < 16).mean())
    assert expected == pytest.approx(1 - (1 - 2 * degree) ** 17, abs=0.004)  # 0.0008 for 200,000 draws
    assert float(hit.any(1).double().mean()) == pytest.approx(expected, abs=0.02)  # 0.004 for 8000
    hit = hit[hit.any(1)]
    start = hit.int().argmax(1)
    length = hit.sum(1)
    assert torch.equal(length, torch.clamp(16 - start, max=10))
    slot = torch.arange(16)
    assert torch.equal(hit, (slot >= start[:, None]) & (slot < (start + length)[:, None]))  # one piece
    starts = torch.bincount(start, minlength=16).double() / len(start)
    assert (starts - 1 / 16).abs().max() < 0.015  # 0.003 for each start


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_the_envelope_of_a_burst(slots: int, generator: torch.Generator) -> None:
    h = torch.zeros(60, 40, 1, slots, 50, dtype=torch.complex128)
    noise = Burst(0.5, reference_power=2.0)(h, generator=generator)[0]  # d = 0.5 always hits
    found = noise.abs().square().mean(dim=(1, 2, 4)).div(2).sqrt()
    start = (found > 0).int().argmax(1)
    for s, row in zip(start.tolist(), found, strict=True):
        length = min(10, slots - s)
        bell = torch.exp(-torch.linspace(-1, 1, length, dtype=torch.float64).square() / 2)
        # 4000 real and imaginary parts a snapshot: 1.1 %, five times that for the worst of 600
        assert torch.allclose(row[s : s + length], bell, rtol=0.055)
        assert not row[s + length :].any() and not row[:s].any()


@pytest.mark.parametrize("db", [-2.9, 0.0, 12.3, 60.0])
def test_closed_form_of_phase_noise_is_its_inverse(db: float) -> None:
    assert PhaseNoise.from_snr_db(db).expected_snr_db() == pytest.approx(db, abs=1e-6)  # doubles, cancellation at 60 dB


@pytest.mark.parametrize("slots", [1, 4, 16, 40])
@pytest.mark.parametrize("db", [9.0, 17.5, 60.0])
def test_closed_form_of_bursts_is_its_inverse(db: float, slots: int) -> None:
    made = Burst.from_snr_db(db, num_history=slots)
    assert made.expected_snr_db(num_history=slots) == pytest.approx(db, abs=1e-9)  # sixty halvings of a range of 27
    assert 0 < made.degree <= 0.5


def test_degrees_fall_with_the_snr_and_end_where_the_closed_form_does() -> None:
    degrees = [Burst.from_snr_db(db).degree for db in range(6, 60)]
    assert degrees == sorted(degrees, reverse=True)
    lowest = Burst(0.5).expected_snr_db()
    assert Burst.from_snr_db(lowest).degree == pytest.approx(0.5)
    with pytest.raises(InvalidValueError, match="snr_db=5 must be at least 5.12"):
        Burst.from_snr_db(5.0)
    with pytest.raises(InvalidValueError, match="snr_db=-4 must be greater than -3.01"):
        PhaseNoise.from_snr_db(-4)


def test_every_published_setting_has_its_impairment() -> None:
    assert {"awgn", "phase", "drop", "burst"} == set(HISTORY_IMPAIRMENTS)
    assert [history_impairment("awgn", db).degree for db in (0, 5, 10, 15, 20, 25)] == [0, 5, 10, 15, 20, 25]
    for name, table in (("phase", PUBLISHED_PHASE), ("burst", PUBLISHED_BURST)):
        assert [history_impairment(name, db).degree for db in table] == [degree for degree, _ in table.values()]
        assert history_impairment(name, 12.5).expected_snr_db() == pytest.approx(12.5)
    assert [history_impairment("drop", percent / 100).degree for percent in range(1, 11)] == [p / 100 for p in range(1, 11)]
    for name, kind in HISTORY_IMPAIRMENTS.items():
        made = history_impairment(name, 0.5 if name == "drop" else 20)
        assert type(made) is kind and made.name == name and kind.__name__ in repr(made)


@pytest.mark.parametrize(("name", "degree"), EVERY)
def test_same_generator_same_bits_and_the_history_is_left_alone(name: str, degree: object, generator: torch.Generator) -> None:
    h = channels(5, 2, 3, 16, 7, generator=generator)
    before, impairment = h.clone(), history_impairment(name, degree)
    first, second, other = (impairment(h, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(h, before)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].dtype == h.dtype and first[0].shape == h.shape


@pytest.mark.parametrize(("name", "degree"), EVERY)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_any_leading_axes_layout_and_precision(
    name: str, degree: object, lead: tuple[int, ...], generator: torch.Generator
) -> None:
    impairment = history_impairment(name, degree)
    h = channels(*lead, 4, 1, 16, 6, generator=generator, dtype=torch.complex128)
    damaged, present = impairment(h, generator=torch.Generator().manual_seed(3))
    assert damaged.dtype == torch.complex128 and damaged.shape == h.shape and present.shape == (*lead, 16)
    layouts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x.mT.contiguous().mT,
        lambda x: x.conj().resolve_conj().conj(),  # a lazy conjugate
        lambda x: torch.stack([x, x], -1)[..., 0],
    ]
    for layout in layouts:
        again, _ = impairment(layout(h), generator=torch.Generator().manual_seed(3))
        assert torch.allclose(again, damaged, rtol=1e-12)  # sums in another order


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: AWGN("20"), InvalidTypeError, "snr_db='20' must be a real number"),
        (lambda: AWGN(math.nan), InvalidValueError, "snr_db=nan must be finite"),
        (lambda: AWGN(400), InvalidValueError, "snr_db=400 must be at most 300"),
        (lambda: AWGN((20, 10)), InvalidValueError, r"snr_db=\(20.0, 10.0\) must be a pair with low <= high"),
        (lambda: AWGN((1, 2, 3)), InvalidTypeError, r"must be a number, a tensor or a pair \(low, high\)"),
        (lambda: AWGN(torch.tensor([1.0, math.inf])), InvalidValueError, "snr_db holds 1 NaN or infinite"),
        (lambda: AWGN(torch.tensor([1.0, -200.0])), InvalidValueError, "snr_db=-200 must be at least -100"),
        (lambda: AWGN(torch.zeros(0)), ShapeError, "snr_db is an empty tensor"),
        (lambda: PhaseNoise(-0.1), InvalidValueError, "std=-0.1 must be at least 0"),
        (lambda: PhaseNoise.preset(12), InvalidValueError, "snr_db=12 has no preset; published are 10, 15, 20, 25"),
        (lambda: PacketDrop(1.5), InvalidValueError, "rate=1.5 must be at most 1"),
        (lambda: PacketDrop(True), InvalidTypeError, "rate=True must be a real number"),
        (lambda: Burst(0.0), InvalidValueError, "degree=0 must be greater than 0"),
        (lambda: Burst(0.51), InvalidValueError, "degree=0.51 must be at most 0.5"),
        (lambda: Burst(0.1, reference_power=0), InvalidValueError, "reference_power=0 must be greater than 0"),
        (lambda: Burst(0.1).expected_snr_db(num_history=0), InvalidValueError, "num_history=0 must be at least 1"),
        (lambda: history_impairment("awng", 20), UnknownNameError, "name='awng' is unknown; did you mean 'awgn'"),
        (lambda: history_impairment("phase", "x"), InvalidTypeError, "degree='x' must be a real number"),
    ],
)
def test_bad_degrees(make: Callable[[], HistoryImpairment], error: type[WichanError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "degree"), EVERY)
def test_bad_histories(name: str, degree: object, generator: torch.Generator) -> None:
    impairment, h = history_impairment(name, degree), channels(2, 3, 1, 4, 5, generator=generator)
    with pytest.raises(ShapeError, match=r"history has shape \(1, 4, 5\); it must be \(\*batch, num_rx_ant"):
        impairment(h[0, 0], generator=generator)
    with pytest.raises(ShapeError, match=r"history has shape \(0, 3, 1, 4, 5\)"):
        impairment(h[:0], generator=generator)
    with pytest.raises(InvalidTypeError, match="history has dtype torch.float32"):
        impairment(h.real, generator=generator)
    with pytest.raises(InvalidTypeError, match="generator must be a torch.Generator"):
        impairment(h, generator=None)
    h[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(InvalidValueError, match="history holds .* NaN or infinite"):
        impairment(h, generator=generator)


def test_an_snr_that_does_not_fit_the_batch(generator: torch.Generator) -> None:
    h = channels(2, 3, 1, 4, 5, generator=generator)
    with pytest.raises(ShapeError, match=r"snr_db has shape \(3,\); it must fit the batch \(2,\)"):
        AWGN(torch.zeros(3))(h, generator=generator)
