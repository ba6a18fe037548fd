"""Phases of a reflecting surface: closed forms, bounds, blind search, discrete optima by enumeration, and manners."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from wichan.beamforming import align_phases, irs_beams, maximise_rate, random_reflection, reflect
from wichan.beamforming.irs_ascent import ascend, compress, race, starts, values_at
from wichan.beamforming.irs_objectives import BeamGain, WaterFilledRate, water_filling
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.random import complex_normal


def cn(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return complex_normal(shape, generator=generator, dtype=torch.complex128)


def rich(batch: int, nbs: int, nms: int, elements: int, generator: torch.Generator, *, direct: bool = False, freqs: int = 1):
    """Cascades of two Rayleigh hops, and a direct link of comparable strength."""
    first, second = cn(batch, freqs, elements, nms, generator=generator), cn(batch, freqs, nbs, elements, generator=generator)
    z = torch.einsum("bfnl,bflm->bnmlf", second, first)
    return torch.cat([z, elements**0.5 * cn(batch, nbs, nms, 1, freqs, generator=generator)], dim=3) if direct else z


def paths(batch: int, nbs: int, nms: int, elements: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Cascades of two hops of ``count`` plane waves each."""

    def waves(size: int) -> torch.Tensor:
        u = 2 * torch.rand(batch, count, 1, generator=generator, dtype=torch.float64) - 1
        return torch.exp(1j * math.pi * u * torch.arange(size))

    gains = [cn(batch, count, generator=generator) for _ in range(2)]
    first = torch.einsum("bp,bpl,bpm->blm", gains[0], waves(elements), waves(nms))
    second = torch.einsum("bp,bpn,bpl->bnl", gains[1], waves(nbs), waves(elements))
    return torch.einsum("bnl,blm->bnml", second, first)[..., None]


def top(channel: torch.Tensor) -> torch.Tensor:
    """Largest squared singular value, mean over subcarriers."""
    return torch.linalg.svdvals(channel.movedim(-1, -3))[..., 0].square().mean(dim=-1)


def capacity(channel: torch.Tensor, snr: float, learned: torch.Tensor | None = None) -> torch.Tensor:
    """Water-filled rate of (..., nbs, nms) by bisection over the water level: another way than the library's.

    ``learned`` is the same channel where gradients are wanted, with powers held fixed.
    """
    gains = torch.linalg.svdvals(channel).square() * snr
    low, high = torch.zeros_like(gains[..., :1]), 1 + (1 / gains).amax(dim=-1, keepdim=True)
    for _ in range(60):
        level = (low + high) / 2
        much = (level - 1 / gains).clamp_min(0).sum(dim=-1, keepdim=True) > 1
        low, high = torch.where(much, low, level), torch.where(much, level, high)
    gains_again = gains if learned is None else torch.linalg.svdvals(learned).square() * snr
    return torch.log2(1 + gains_again * (low - 1 / gains).clamp_min(0)).sum(dim=-1)


def climb(z: torch.Tensor, objective: Any, count: int, generator: torch.Generator, *, direct: bool = False) -> torch.Tensor:
    """Best of ``count`` random starts of Adam over the phases, by automatic differentiation: a search that knows nothing."""
    angles = 2 * math.pi * torch.rand(count, len(z), z.shape[3] - direct, generator=generator, dtype=torch.float64)
    angles.requires_grad_()
    many = z.expand(count, *z.shape)
    search = torch.optim.Adam([angles], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, 400, eta_min=1e-4)
    for _ in range(400):
        search.zero_grad()
        (-objective(reflect(many, torch.exp(1j * angles), direct=direct)).log().sum()).backward()
        search.step()
        schedule.step()
    return objective(reflect(many, torch.exp(1j * angles.detach()), direct=direct)).amax(dim=0)


# -- One stream between fixed beams: closed forms. --


@pytest.mark.parametrize("direct", [False, True])
def test_alignment_reaches_the_triangle_inequality(direct: bool, generator: torch.Generator) -> None:
    z = rich(20, 1, 1, 33, generator, direct=direct)
    amplitude = reflect(z, align_phases(z, direct=direct), direct=direct).abs()[:, 0, 0, 0]
    # Rounding of a sum of 34 terms.
    torch.testing.assert_close(amplitude, z.abs().sum(dim=3)[:, 0, 0, 0], rtol=1e-13, atol=0)
    blind = random_reflection(33, (20,), generator=generator, dtype=torch.complex128)
    assert (amplitude > 1.2 * reflect(z, blind, direct=direct).abs()[:, 0, 0, 0]).all()


@pytest.mark.parametrize("direct", [False, True])
def test_alignment_with_fixed_beams(direct: bool, generator: torch.Generator) -> None:
    z = rich(5, 4, 3, 16, generator, direct=direct)
    u, v = cn(4, generator=generator), cn(5, 3, 1, 1, generator=generator)
    effective = torch.einsum("n,bnml,bm->bl", u.conj(), z[..., 0], v[..., 0, 0])
    channel = reflect(z, align_phases(z, u, v, direct=direct), direct=direct)[..., 0]
    amplitude = torch.einsum("n,bnm,bm->b", u.conj(), channel, v[..., 0, 0]).abs()
    torch.testing.assert_close(amplitude, effective.abs().sum(dim=1), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("num_bits", "elements"), [(1, 9), (2, 5), (3, 3)])
@pytest.mark.parametrize("direct", [False, True])
def test_discrete_alignment_is_the_best_of_all(num_bits: int, elements: int, direct: bool, generator: torch.Generator) -> None:
    z = rich(40, 1, 1, elements, generator, direct=direct)
    levels = torch.exp(2j * math.pi * torch.arange(2**num_bits, dtype=torch.float64) / 2**num_bits)
    every = torch.tensor(list(itertools.product(range(len(levels)), repeat=elements)))
    sums = z[:, 0, 0, :elements, 0] @ levels[every].mT + (z[:, 0, 0, -1] if direct else 0)
    theta = align_phases(z, direct=direct, num_bits=num_bits)
    torch.testing.assert_close(reflect(z, theta, direct=direct).abs()[:, 0, 0, 0], sums.abs().amax(dim=1), rtol=1e-12, atol=0)
    assert (theta[..., None] - levels).abs().amin(dim=-1).max() < 1e-15


@pytest.mark.parametrize(("num_bits", "loss_db"), [(1, -3.92), (2, -0.91), (3, -0.22)])
def test_loss_of_few_bits_is_the_known_one(num_bits: int, loss_db: float, generator: torch.Generator) -> None:
    """(2^B / pi sin(pi / 2^B))^2 for many elements of equal strength and random phase [Wu2020]."""
    z = random_reflection(20_000, (20, 1, 1), generator=generator, dtype=torch.complex128)[..., None]
    amplitude = reflect(z, align_phases(z, num_bits=num_bits)).abs()
    # The limit is that of L -> infinity; the best rotation adds some standard deviations, 1 / sqrt(L) = 0.7 % of 0.06 dB each.
    assert float(20 * torch.log10(amplitude / 20_000).mean()) == pytest.approx(loss_db, abs=0.1)


def test_alignment_has_gradients_and_silent_elements_do_not_break_it(generator: torch.Generator) -> None:
    z = rich(1, 1, 1, 4, generator, direct=True)
    z[..., 1, :] = 0
    z.requires_grad_()
    theta = align_phases(z, direct=True)
    assert float(theta[0, 1].detach().angle()) == pytest.approx(float(z[0, 0, 0, -1, 0].detach().angle()), abs=1e-15)
    theta.real.sum().backward()
    assert torch.isfinite(torch.view_as_real(z.grad)).all() and z.grad.abs().sum() > 0
    smooth = rich(2, 1, 1, 3, generator, direct=True).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: align_phases(x, direct=True), smooth)


# -- Beams and phases. --


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("freqs", [1, 3])
def test_beams_are_the_singular_pair_and_stay_below_the_bounds(direct: bool, freqs: int, generator: torch.Generator) -> None:
    z = rich(8, 4, 3, 24, generator, direct=direct, freqs=freqs)
    beams = irs_beams(z, direct=direct)
    channel = reflect(z, beams.reflection, direct=direct)
    torch.testing.assert_close(beams.gain, top(channel), rtol=1e-12, atol=0)
    amplitude = torch.einsum("bnf,bnmf,bmf->bf", beams.combiner[:, :, 0].conj(), channel, beams.precoder[:, :, 0])
    torch.testing.assert_close(amplitude.abs().square().mean(dim=1), beams.gain, rtol=1e-12, atol=0)
    torch.testing.assert_close(beams.reflection.abs(), torch.ones(8, 24, dtype=torch.float64), rtol=1e-14, atol=0)
    # Every element with beams of its own, and the energy of all elements in one beam: two bounds of the optimum.
    single = torch.linalg.svdvals(z.permute(0, 4, 3, 1, 2))[..., 0].sum(dim=2).square().mean(dim=1)
    joint = z.shape[3] * torch.linalg.svdvals(z.permute(0, 4, 1, 2, 3).flatten(2, 3))[..., 0].square().mean(dim=1)
    assert (beams.gain <= torch.minimum(single, joint) * (1 + 1e-12)).all()


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("objective", ["gain", "rate"])
def test_no_step_descends(objective: str, direct: bool, generator: torch.Generator) -> None:
    core = compress(rich(6, 4, 3, 20, generator, direct=direct, freqs=2), direct)
    goal = BeamGain() if objective == "gain" else WaterFilledRate(torch.full((6,), 0.1, dtype=torch.float64), None)
    begin = starts(core, 4)
    value = values_at(core, begin, goal)
    for steps in range(1, 25):
        theta, risen = ascend(core, begin, goal, max_iter=steps, tol=0.0)
        torch.testing.assert_close(values_at(core, theta, goal), risen, rtol=1e-12, atol=0)
        assert (risen >= value).all()
        value = risen
    assert (value > 1.05 * values_at(core, begin, goal)).any()


@pytest.mark.parametrize("direct", [False, True])
def test_gain_is_that_of_a_blind_search(direct: bool, generator: torch.Generator) -> None:
    z = rich(6, 4, 3, 12, generator, direct=direct)
    found = irs_beams(z, direct=direct, tol=1e-9, max_iter=1000).gain / climb(z, top, 12, generator, direct=direct)
    # Not convex: three starts may end on a lower hill than the best of twelve, here at most 3 % below and hardly on average.
    assert float(found.min()) > 0.97
    assert float(found.mean()) > 0.995


def test_rate_is_that_of_a_blind_search(generator: torch.Generator) -> None:
    z = rich(6, 3, 3, 12, generator)
    best = climb(z, lambda channel: capacity(channel[..., 0].detach(), 0.05, channel[..., 0]), 12, generator)
    found = maximise_rate(z, 0.05, 1.0, tol=1e-9, max_iter=1000).rate / best
    # As above, with as many starts on either side.
    assert float(found.min()) > 0.97
    assert float(found.mean()) > 0.995


def test_line_of_sight_gains_the_square_of_all_elements(generator: torch.Generator) -> None:
    """One path a hop: |g|^2 L^2 Nbs Nms, the squared power law [Wu2019]; a random surface has L, 3 dB for a doubling."""
    for elements in (16, 64, 256):
        z = paths(4, 4, 2, elements, 1, generator)
        power = z[:, 0, 0, 0, 0].abs().square()
        torch.testing.assert_close(irs_beams(z).gain, power * elements**2 * 8, rtol=1e-10, atol=0)
        blind = random_reflection(elements, (4,), generator=generator, dtype=z.dtype)
        assert (top(reflect(z, blind)) < 0.5 * power * elements**2 * 8).all()


def test_few_paths_are_compressed_without_loss(generator: torch.Generator) -> None:
    z = paths(5, 8, 6, 32, 2, generator)
    core = compress(z, False)
    assert core.shape == (1, 2, 2)
    theta = random_reflection(32, (5,), generator=generator, dtype=z.dtype)
    small = torch.linalg.svdvals(core.fold(core.channel(theta[:, None]))[:, 0, 0])
    # Eigenvectors of Gram matrices are exact to rounding over the gap, here far below 1e-10.
    torch.testing.assert_close(small, torch.linalg.svdvals(reflect(z, theta)[..., 0])[:, :2], rtol=1e-10, atol=1e-10)


def test_the_first_start_pays_on_few_paths(generator: torch.Generator) -> None:
    """Phases of the leading singular vector lie on a higher hill than random ones, by a percent or two on average."""
    z = paths(100, 8, 4, 64, 3, generator)
    core, goal = compress(z, False), BeamGain()
    blind = random_reflection(64, (100, 1), generator=generator, dtype=z.dtype)
    ends = [race(core, begin, goal, max_iter=100, tol=1e-6)[:, None] for begin in (starts(core, 1), blind)]
    informed, random = (values_at(core, end, goal) for end in ends)
    assert float((informed / random).mean()) > 1.005 and float((informed / random).min()) > 0.9


def test_wideband_with_equal_subcarriers_is_narrowband(generator: torch.Generator) -> None:
    z = rich(4, 3, 2, 16, generator, direct=True)
    wide = irs_beams(z.expand(-1, -1, -1, -1, 4), direct=True, tol=1e-10, max_iter=500).gain
    # Both end on the same hill; how close to its top is a matter of `tol`.
    torch.testing.assert_close(wide, irs_beams(z, direct=True, tol=1e-10, max_iter=500).gain, rtol=1e-6, atol=0)


def test_alignment_over_subcarriers_climbs_the_mean_gain(generator: torch.Generator) -> None:
    z = rich(10, 1, 1, 16, generator, freqs=4, direct=True)
    gain = reflect(z, align_phases(z, direct=True), direct=True).abs().square().mean(dim=(1, 2, 3))
    one = reflect(z, align_phases(z[..., :1], direct=True), direct=True).abs().square().mean(dim=(1, 2, 3))
    assert (gain > one * 0.99).all() and gain.mean() > 1.1 * one.mean()


# -- Rate of several streams. --


def test_water_filling_is_optimal(generator: torch.Generator) -> None:
    gains = torch.rand(50, 6, generator=generator, dtype=torch.float64).square() * 10
    gains[0, 2:] = 0
    powers = water_filling(gains, torch.full((50,), 1.5, dtype=torch.float64))
    torch.testing.assert_close(powers.sum(dim=1), torch.full((50,), 1.5, dtype=torch.float64), rtol=1e-12, atol=0)
    slope = gains / (1 + powers * gains)  # equal where there is power, lower elsewhere: the conditions of the optimum
    level = slope.amax(dim=1, keepdim=True)
    assert ((slope - level).abs()[powers > 0] < 1e-12).all() and (powers >= 0).all()
    silent = water_filling(torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert silent.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("freqs", [1, 3])
def test_rate_is_log_det_of_what_is_returned(freqs: int, generator: torch.Generator) -> None:
    z = rich(5, 4, 3, 16, generator, direct=True, freqs=freqs)
    power, no = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1, 2.0
    found = maximise_rate(z, power, no, direct=True)
    channel = reflect(z, found.reflection, direct=True).movedim(-1, 1) @ found.precoder.movedim(-1, 1)
    noise = torch.eye(4, dtype=z.dtype)
    rate = torch.linalg.slogdet(noise + power[:, None, None, None] / no * channel @ channel.mH).logabsdet.mean(dim=1)
    torch.testing.assert_close(found.rate, rate / math.log(2), rtol=1e-11, atol=0)
    sent = found.precoder.abs().square().sum(dim=(1, 2)).mean(dim=1)
    torch.testing.assert_close(sent, torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gain, channel.abs().square().sum(dim=(2, 3)).mean(dim=1), rtol=1e-11, atol=0)


def test_no_phase_alone_improves_the_rate(generator: torch.Generator) -> None:
    z = rich(3, 3, 2, 10, generator)
    found = maximise_rate(z, 0.1, 1.0, tol=1e-12, max_iter=3000)
    for element, turn in itertools.product(range(10), (-0.02, 0.02)):
        theta = found.reflection.clone()
        theta[:, element] *= complex(math.cos(turn), math.sin(turn))
        # A step of 0.02 rad loses about 4e-4 of the rate at an optimum and could gain 2e-2 elsewhere.
        assert (capacity(reflect(z, theta)[..., 0], 0.1) < found.rate * (1 + 1e-6)).all()


def test_one_stream_at_any_power_is_the_best_beam(generator: torch.Generator) -> None:
    z = rich(6, 4, 3, 16, generator)
    gain = irs_beams(z, tol=1e-9, max_iter=500).gain
    for power in (1e-4, 1.0, 100.0):
        rate = maximise_rate(z, power, 1.0, num_streams=1, tol=1e-9, max_iter=500).rate
        # Hills of 1 % in gain, see above, are 1 % of the rate at low power and less above.
        torch.testing.assert_close(rate, torch.log2(1 + power * gain), rtol=0.02, atol=0)
    more = maximise_rate(z, 10.0, 1.0).rate
    assert (more > 1.2 * maximise_rate(z, 10.0, 1.0, num_streams=1).rate).all()


# -- Discrete phases of beams and rates. --


def test_discrete_beams_and_rates_against_enumeration(generator: torch.Generator) -> None:
    z = rich(20, 3, 2, 8, generator, direct=True)
    every = torch.tensor(list(itertools.product((1.0, -1.0), repeat=8)), dtype=z.dtype)
    channels = torch.stack([reflect(z, theta, direct=True) for theta in every])
    for best, found in (
        (top(channels).amax(dim=0), irs_beams(z, direct=True, num_bits=1).gain),
        (capacity(channels[..., 0], 0.1).amax(dim=0), maximise_rate(z, 0.1, 1.0, direct=True, num_bits=1).rate),
    ):
        share = found / best
        assert (share <= 1 + 1e-12).all()
        # Local optima of alternation and of single changes: some channels lose up to 12 %, hardly one in ten loses any.
        assert float(share.mean()) > 0.985 and float(share.min()) > 0.85


@pytest.mark.parametrize("freqs", [1, 2])
def test_discrete_phases_have_their_values_and_more_bits_help(freqs: int, generator: torch.Generator) -> None:
    z = rich(4, 3, 2, 16, generator, freqs=freqs)
    gains = []
    for num_bits in (1, 2, 4):
        beams = irs_beams(z, num_bits=num_bits)
        turns = beams.reflection.angle() / (2 * math.pi) * 2**num_bits
        assert (turns - turns.round()).abs().max() < 1e-12
        torch.testing.assert_close(beams.gain, top(reflect(z, beams.reflection)), rtol=1e-12, atol=0)
        gains.append(float(beams.gain.mean()))
        rounded = maximise_rate(z, 0.1, 1.0, num_bits=num_bits).reflection.angle() / (2 * math.pi) * 2**num_bits
        assert (rounded - rounded.round()).abs().max() < 1e-12
    assert gains[0] < gains[1] < gains[2] < 1.001 * float(irs_beams(z).gain.mean())


# -- Manners. --


@pytest.mark.parametrize("direct", [False, True])
def test_channels_of_zeros_give_zeros_and_no_nan(direct: bool, generator: torch.Generator) -> None:
    z = rich(3, 3, 2, 6, generator, direct=direct)
    z[1] = 0
    for num_bits in (None, 1):
        beams = irs_beams(z, direct=direct, num_bits=num_bits)
        rates = maximise_rate(z, 1.0, 1.0, direct=direct, num_bits=num_bits)
        assert beams.gain[1] == 0 and rates.rate[1] == 0 and (beams.gain[[0, 2]] > 0).all()
        for tensor in (*beams[:3], *rates[:3]):
            assert torch.isfinite(torch.view_as_real(tensor)).all()
        norms = torch.cat([beams.combiner, beams.precoder], dim=1)[1].norm()
        assert float(norms) == pytest.approx(math.sqrt(2), rel=1e-12)
    assert (maximise_rate(z, 0.0, 1.0, direct=direct).rate == 0).all()


def test_batches_types_and_weak_channels(generator: torch.Generator) -> None:
    z = rich(6, 3, 2, 8, generator, freqs=2)
    whole = irs_beams(z)
    shaped = irs_beams(z.unflatten(0, (2, 3)))
    assert shaped.combiner.shape == (2, 3, 3, 1, 2) and shaped.precoder.shape == (2, 3, 2, 1, 2)
    torch.testing.assert_close(shaped.gain.flatten(), whole.gain, rtol=0, atol=0)
    for i in range(6):  # alone as in company; products of other sizes round differently, and stops differ by `tol`
        torch.testing.assert_close(irs_beams(z[i]).gain, whole.gain[i], rtol=1e-3, atol=0)
    assert irs_beams(z[:0]).reflection.shape == (0, 8)
    single = maximise_rate(z.to(torch.complex64), 1.0, torch.full((6,), 2.0))
    assert single.reflection.dtype == torch.complex64 and single.rate.dtype == torch.float32
    # Absolute path gains of -140 dB are ordinary.
    weak = irs_beams((1e-7 * z).to(torch.complex64))
    torch.testing.assert_close(weak.gain.double() * 1e14, whole.gain, rtol=1e-3, atol=0)


def test_random_phases(generator: torch.Generator) -> None:
    theta = random_reflection(1000, (3,), num_bits=2, generator=generator)
    assert theta.shape == (3, 1000) and theta.dtype == torch.complex64
    turns = (theta.angle() / (math.pi / 2)).round().long() % 4
    counts = torch.bincount(turns.flatten(), minlength=4)
    # 3000 draws over four levels: standard deviation 24.
    assert (counts - 750).abs().max() < 100


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cascade": "z"}, InvalidTypeError, "cascade must be a torch.Tensor"),
        ({"cascade": torch.ones(2, 2, 3, 1)}, InvalidTypeError, "cascade has dtype torch.float32"),
        ({"cascade": torch.ones(2, 3, 1, dtype=torch.complex64)}, ShapeError, "num_bs_ant, num_ms_ant, L, num_subcarriers"),
        ({"cascade": torch.full((2, 2, 3, 1), math.nan, dtype=torch.complex64)}, InvalidValueError, "NaN"),
        ({"cascade": torch.ones(2, 2, 1, 1, dtype=torch.complex64), "direct": True}, ShapeError, "L \\+ 1"),
        ({"num_bits": 0}, InvalidValueError, "num_bits=0 must be at least 1"),
        ({"num_bits": 1.5}, InvalidTypeError, "num_bits=1.5 must be an integer"),
        ({"num_starts": 0}, InvalidValueError, "num_starts=0 must be at least 1"),
        ({"max_iter": 0}, InvalidValueError, "max_iter=0"),
        ({"tol": -1.0}, InvalidValueError, "tol=-1"),
    ],
    ids=["type", "real", "axes", "nan", "only-direct", "no-bits", "half-bits", "starts", "steps", "tolerance"],
)
def test_bad_input_is_refused(change: dict, error: type, message: str) -> None:
    arguments = {"cascade": torch.ones(2, 2, 3, 1, dtype=torch.complex64)} | change
    for call in (irs_beams, lambda cascade, **rest: maximise_rate(cascade, 1.0, 1.0, **rest)):
        with pytest.raises(error, match=message) as caught:
            call(**arguments)
        assert "\n" not in str(caught.value)


def test_bad_beams_reflections_and_powers_are_refused(generator: torch.Generator) -> None:
    z = torch.ones(2, 2, 3, 1, dtype=torch.complex64)
    with pytest.raises(InvalidValueError, match="combiner=None stands for a single antenna, but the cascade has 2"):
        align_phases(z)
    with pytest.raises(ShapeError, match=r"precoder has shape \(3,\); it must be \(2,\)"):
        align_phases(z, z[:, 0, 0, 0], torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ShapeError, match=r"reflection has shape \(4,\); it must be \(3,\)"):
        reflect(z, torch.ones(4, dtype=torch.complex64))
    with pytest.raises(InvalidValueError, match="no=0 must be greater than 0"):
        maximise_rate(z, 1.0, 0.0)
    with pytest.raises(InvalidValueError, match="power=-1 must be at least 0"):
        maximise_rate(z, -1.0, 1.0)
    with pytest.raises(InvalidValueError, match="num_streams=3 must be at most 2"):
        maximise_rate(z, 1.0, 1.0, num_streams=3)
    with pytest.raises(InvalidTypeError, match=r"generator must be a torch.Generator"):
        random_reflection(3, generator=None)
    with pytest.raises(InvalidValueError, match="num_bits=13 must be at most 12"):
        random_reflection(3, num_bits=13, generator=generator)
