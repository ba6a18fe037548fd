"""Rates behind coarse converters: simulated links, closed forms, the numbers that others print, and manners."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from wichan.channels import SpatialGaussian
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.estimators import BussgangGenie, BussgangLMMSE
from wichan.evaluation import rate_legacy, rate_uatf
from wichan.evaluation.rate import data_observation, rate_from_means, rate_from_terms, rate_legacy_terms, rate_terms
from wichan.observations import OFDMGrid, OFDMPilots, QuantizedPilots, Quantizer, pilot_sequence, quantized_ofdm
from wichan.random import complex_normal


def simulated(
    h: torch.Tensor,
    h_hat: torch.Tensor,
    no: float,
    bits: Any,
    num_symbols: int,
    generator: torch.Generator,
    dither: float = 0.0,
) -> float:
    """Use-and-then-forget rate of maximum-ratio combining, from symbols that pass the converters; h is (n, rx, users)."""
    combiner = h_hat / h_hat.abs().square().sum(dim=1, keepdim=True).clamp_min(0.1)
    users = h.shape[2]
    scale = math.sqrt((users + no + dither) / 2)
    gain, power, sent = 0.0, 0.0, 0.0
    # Gaussian symbols whose powers are stratified over the symbols of each channel, which takes most noise out of the averages.
    draws = [torch.rand(len(h), users, num_symbols, generator=generator, dtype=torch.float64) for _ in range(3)]
    energy = -torch.log1p(-(draws[0].argsort(dim=-1) + draws[1]) / num_symbols)
    symbols = torch.polar(energy.sqrt(), 2 * math.pi * draws[2])
    for s in symbols[..., None].unbind(dim=2):
        noise = complex_normal((len(h), h.shape[1]), no + dither, generator=generator, dtype=torch.complex128)
        y = (h @ s)[..., 0] + noise
        r = torch.stack([Quantizer(b)(y[:, m], scale) for m, b in enumerate(bits)], dim=1)
        z = (combiner.conj() * r[..., None]).sum(dim=1)
        gain, power = gain + (z * s[..., 0].conj()).sum(dim=0), power + z.abs().square().mean(dim=0)
        sent = sent + s[..., 0].abs().square().sum(dim=0)
    signal = (gain / sent).abs().square()  # by the symbols' own power, which takes their noise out of the gain
    return float(torch.log2(1 + signal / (power / num_symbols - signal)).sum())


def spatial(count: int, num_rx_ant: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    model = SpatialGaussian(num_rx_ant)
    drawn = model.sample(count, generator=generator)
    return drawn.h[..., 0].to(torch.complex128), model.conditional_covariance(drawn.angles, drawn.powers)


def pilots(num_rx_ant: int, num_bits: Any, **options: Any) -> QuantizedPilots:
    return QuantizedPilots(torch.eye(num_rx_ant, dtype=torch.complex128), num_bits, **options)


# -- Links. --


@pytest.mark.parametrize(
    ("bits", "snr_db", "dither"),
    [
        ([1] * 8, 0, 0.0),
        ([1] * 8, 20, 0.0),
        ([1] * 8, 20, 0.5),
        ([2] * 8, 10, 0.0),
        ([3] * 8, 10, 0.0),
        ([1, 1, 1, 1, 1, 3, math.inf, math.inf], 10, 0.0),
        ([math.inf] * 8, 5, 0.0),
    ],
    ids=["1-bit", "1-bit-20-dB", "dithered", "2-bit", "3-bit", "mixed", "unquantised"],
)
def test_the_rate_is_that_of_a_simulated_link(bits: list, snr_db: float, dither: float, generator: torch.Generator) -> None:
    h, _ = spatial(1500, 8, generator)
    h_hat = h + complex_normal(h.shape, 0.2, generator=generator, dtype=h.dtype)
    no = 10 ** (-snr_db / 10)
    got = float(rate_uatf(h, h_hat, no, pilots(8, bits, dither_power=dither)))
    want = simulated(h[..., None], h_hat[..., None], no, bits, 80, generator, dither)
    # 120 000 symbols: simulations of other seeds scatter by 0.006.
    assert abs(got - want) < 0.03


def test_two_users_share_the_converters(generator: torch.Generator) -> None:
    h = complex_normal((1500, 8, 2), generator=generator, dtype=torch.complex128)
    h_hat = h + complex_normal(h.shape, 0.2, generator=generator, dtype=h.dtype)
    sequences = torch.stack([pilot_sequence(2), pilot_sequence(2, "angle").conj()])
    obs = QuantizedPilots.from_sequence(sequences, 8, num_bits=2)
    got = float(rate_uatf(h, h_hat, 0.1, obs))
    assert abs(got - simulated(h, h_hat, 0.1, [2] * 8, 80, generator)) < 0.04  # of two users
    # The gain control follows what the pilots' was told: channels of twice the power, their estimates alike.
    louder = QuantizedPilots.from_sequence(sequences, 8, num_bits=2, input_power=2 * obs.input_power)
    assert data_observation(louder).input_power == pytest.approx(2 * data_observation(obs).input_power)
    torch.testing.assert_close(rate_uatf(2**0.5 * h, 2**0.5 * h_hat, 0.2, louder), torch.tensor(got, dtype=torch.float64))


def test_without_converters_it_is_textbook(generator: torch.Generator) -> None:
    h = complex_normal((200, 4), generator=generator, dtype=torch.complex128)
    h = h / h.abs().square().sum(dim=1, keepdim=True).sqrt() * math.sqrt(3.0)
    for no in (0.1, 2.0):  # every channel has energy 3, so that the channel hardens exactly
        torch.testing.assert_close(float(rate_uatf(h, h, no, pilots(4, math.inf))), math.log2(1 + 3 / no))
        torch.testing.assert_close(float(rate_legacy(h, h, no, pilots(4, math.inf))), math.log2(1 + 3 / no))
    # A useless estimate carries nothing, to the square of 1/sqrt(200).
    assert float(rate_uatf(h, torch.roll(h, 1, 0), 0.1, pilots(4, math.inf))) < 0.1


# -- Numbers in print. --


@pytest.mark.slow
def test_numbers_of_perfect_knowledge(generator: torch.Generator) -> None:
    # 32 antennas, one cluster: what the legacy formula says, and what a link carries. Averages over 8000 channels, and over the
    # reference's own 10 000, leave a standard error of 0.05 in the first (a thousand leave 0.11), 0.02 in the second.
    h, _ = spatial(8000, 32, generator)
    for snr_db, legacy, true in ((0, 2.92, 2.33), (10, 4.36, 2.05), (20, 4.65, 1.47)):
        no = 10 ** (-snr_db / 10)
        assert abs(float(rate_legacy(h, h, no, pilots(32, 1))) - legacy) < 0.15
        assert abs(float(rate_uatf(h, h, no, pilots(32, 1))) - true) < 0.06
    assert abs(float(rate_legacy(h, h, 0.01, pilots(32, 2))) - 6.63) < 0.15
    assert abs(float(rate_uatf(h[:2000], h[:2000], 0.01, pilots(32, 2))) - 3.4) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_bits", "genie", "sample", "perfect"),
    [
        (
            1,
            [0.319, 1.028, 2.160, 2.844, 2.862, 2.764, 2.713],
            [0.143, 0.634, 1.400, 1.947, 2.254, 2.380, 2.419],
            [0.911, 1.844, 2.943, 3.846, 4.361, 4.577, 4.653],
        ),
        (
            2,
            [0.478, 1.324, 2.619, 3.908, 4.701, 4.913, 4.848],
            [0.232, 0.913, 1.895, 2.811, 3.600, 4.088, 4.261],
            [1.169, 2.278, 3.619, 4.906, 5.869, 6.397, 6.616],
        ),
    ],
    ids=["1-bit", "2-bit"],
)
def test_the_published_table(num_bits: int, genie: list, sample: list, perfect: list, generator: torch.Generator) -> None:
    # One cluster, 32 antennas, one pilot, legacy rate at -10, -5, ..., 20 dB; the reference used 10^4 channels, these are 6000.
    h, covariance = spatial(6000, 32, generator)
    train, _ = spatial(10_000, 32, generator)
    obs = pilots(32, num_bits)
    told, average = BussgangGenie(obs), BussgangLMMSE.from_samples(obs, train)
    for i, snr_db in enumerate(range(-10, 25, 5)):
        if i % 2:  # every other one says as much
            continue
        no = obs.no_from_snr_db(snr_db)
        r = obs.observe(h, no, generator=generator)
        estimates = torch.stack([told(r, no, covariance=covariance).h_hat, average(r, no).h_hat, h])
        found = rate_legacy(h, estimates, no, obs)
        want = torch.tensor([genie[i], sample[i], perfect[i]], dtype=torch.float64)
        # About 2.5 standard errors of the two samples of channels.
        assert bool(((found - want).abs() < 0.04 * want + 0.02).all()), f"{found.tolist()} at {snr_db} dB, not {want.tolist()}"


# -- Manners. --


def test_batches_estimators_and_noise_per_channel(generator: torch.Generator) -> None:
    h, _ = spatial(60, 4, generator)
    first, second = (h + complex_normal(h.shape, power, generator=generator, dtype=h.dtype) for power in (0.1, 0.5))
    obs, no = pilots(4, 2), torch.linspace(0.05, 0.5, 60, dtype=torch.float64)
    whole = rate_terms(h, torch.stack([first, second]), no, obs)
    assert whole.gain.shape == whole.power.shape == (2, 60, 1)
    for row, h_hat in enumerate((first, second)):
        alone = rate_terms(h, h_hat, no, obs)
        torch.testing.assert_close(alone.gain, whole.gain[row])
        torch.testing.assert_close(rate_from_terms(alone), rate_from_terms(whole)[row])
    parts = [rate_terms(h[i : i + 25], first[i : i + 25], no[i : i + 25], obs) for i in (0, 25, 50)]
    means = (sum(getattr(part, name).sum(dim=0) for part in parts) / 60 for name in ("gain", "power"))
    torch.testing.assert_close(rate_from_means(*means), rate_from_terms(whole)[0])
    one_by_one = rate_terms(h[7:8], first[7:8], float(no[7]), obs)
    torch.testing.assert_close(one_by_one.power, whole.power[0, 7:8])
    single = rate_uatf(h.to(torch.complex64), first.to(torch.complex64), no.float(), obs)
    torch.testing.assert_close(single, rate_from_terms(whole)[0], rtol=1e-5, atol=0)


def test_shapes_of_recipes_and_many_pilots(generator: torch.Generator) -> None:
    h, _ = spatial(20, 4, generator)
    plain = rate_uatf(h, 0.5 * h, 0.1, pilots(4, 1))
    grid = h.reshape(20, 4, 1, 1, 1)
    obs = QuantizedPilots.from_sequence(pilot_sequence(3), 4, channel_shape=(4, 1, 1, 1))
    torch.testing.assert_close(rate_uatf(grid, 0.5 * grid, 0.1, obs), plain)
    mixed = QuantizedPilots.from_sequence(pilot_sequence(2), 4, num_bits=[1, 2, 1, 2] * 2)
    torch.testing.assert_close(rate_uatf(h, h, 0.1, mixed), rate_uatf(h, h, 0.1, pilots(4, [1, 2, 1, 2])))
    legacy = rate_legacy_terms(h[:5], h[:5], 0.1, pilots(4, 1), covariance=h.mT @ h.conj() / 20)
    torch.testing.assert_close(legacy.power, rate_legacy_terms(h, h, 0.1, pilots(4, 1)).power[:5])


def test_no_noise_and_silent_channels(generator: torch.Generator) -> None:
    h, _ = spatial(20, 4, generator)
    for bits in (1, 2):
        assert 0 < float(rate_uatf(h, h, 0.0, pilots(4, bits))) < 20
        assert float(rate_uatf(h, torch.zeros_like(h), 0.1, pilots(4, bits))) == 0
        assert math.isfinite(float(rate_uatf(torch.zeros_like(h), h, 0.0, pilots(4, bits))))


def test_bad_arguments() -> None:
    h, obs = torch.ones(3, 2, dtype=torch.complex64), pilots(2, 1)
    with pytest.raises(InvalidTypeError, match="obs must be QuantizedPilots"):
        rate_uatf(h, h, 0.1, obs.linear)
    with pytest.raises(ShapeError, match="both must end in"):
        rate_uatf(h, h[:2], 0.1, obs)
    with pytest.raises(ShapeError, match="the last axes must be"):
        rate_uatf(h[:, :1], h[:, :1], 0.1, obs)
    with pytest.raises(ShapeError, match="0 channels"):
        rate_uatf(h[:0], h[:0], 0.1, obs)
    for bad in (h.clone().fill_(math.nan), h.clone().fill_(math.inf)):
        with pytest.raises(InvalidValueError, match="h_hat holds"):
            rate_uatf(h, bad, 0.1, obs)
    with pytest.raises(InvalidValueError, match="must be at least 0"):
        rate_uatf(h, h, -0.1, obs)
    with pytest.raises(UnknownNameError, match="combiner='zf' is unknown"):
        rate_uatf(h, h, 0.1, obs, combiner="zf")
    with pytest.raises(InvalidValueError, match="floor=0 must be greater than 0"):
        rate_uatf(h, h, 0.1, obs, floor=0.0)
    with pytest.raises(ShapeError, match=r"covariance has shape \(3, 3\)"):
        rate_legacy(h, h, 0.1, obs, covariance=torch.eye(3))
    with pytest.raises(InvalidTypeError, match="no="):
        rate_legacy(h, h, "0.1", obs)
    changing = QuantizedPilots.from_sequence(pilot_sequence(2), 2, num_bits=[1, 1, 2, 2])
    with pytest.raises(InvalidValueError, match="changes from one pilot to the next"):
        rate_uatf(h, h, 0.1, changing)
    with pytest.raises(InvalidValueError, match="without a data phase"):
        rate_uatf(h, h, 0.1, QuantizedPilots(torch.ones(3, 2, dtype=torch.complex128)))
    wideband = quantized_ofdm(OFDMPilots(OFDMGrid(2, 4, 15e3), symbols=(0,), subcarrier_step=1), 1)
    with pytest.raises(InvalidValueError, match="without a data phase"):
        rate_uatf(
            torch.ones(1, 1, 1, 2, 4, dtype=torch.complex64), torch.ones(1, 1, 1, 2, 4, dtype=torch.complex64), 0.1, wideband
        )
    two = QuantizedPilots.from_sequence(torch.ones(2, 2, dtype=torch.complex128), 2)
    with pytest.raises(InvalidValueError, match="legacy rate is defined for one"):
        rate_legacy(torch.ones(1, 2, 2, dtype=torch.complex64), torch.ones(1, 2, 2, dtype=torch.complex64), 0.1, two)
