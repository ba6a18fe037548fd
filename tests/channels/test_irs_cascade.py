"""IRS links: power, conditions, precision, reproduction and bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from wichan.channels import IRSCascade, IRSDraw, NoClosedFormError, RayleighBlock, SpatialGaussian
from wichan.channels.irs_synthesis import cascade_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.grid import OFDMGrid

STILL, CARRIER = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
TIMES = torch.arange(3, dtype=torch.float64) * 0.4e-3
TONES = torch.arange(-2, 3, dtype=torch.float64) * 1.5e6

# Name: model, times, frequencies.
LINKS = {
    "published": (IRSCascade(6, 256, 16, 3, angles="block", grid_size=18), STILL, CARRIER),
    "moving": (IRSCascade((2, 2), 10, 3, 5, max_delay=1e-6, max_doppler=300.0, direct=True), TIMES, TONES),
    "failing": (IRSCascade(2, (4, 4), 2, 2, failure_rate=0.3, max_doppler=100.0), TIMES, CARRIER),
}


def phases(*shape: int, generator: torch.Generator) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle), angle)


def assert_equal(have, want, tolerance=1e-12):
    """Largest deviation against the root mean square; sums of at most 256 rounded terms are within 1e-14 of it in double."""
    assert have.shape == want.shape
    assert float((have - want).abs().max()) < tolerance * float(want.abs().square().mean().sqrt())


# -- Power --


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"angles": "cluster", "direct": True, "hop_gain_db": (-3.0, 2.0), "direct_gain_db": 6.0},
        {"angles": "block", "grid_size": 8, "failure_rate": 0.4},
        {"ms_irs": RayleighBlock(20, 2), "direct": True},
    ],
)
def test_mean_power_over_random_phases(options, generator):
    """A mean over 8,000 links and patterns; products of exponentials deviate by at most 4 of their mean: 5 standard errors."""
    model = IRSCascade(2, 20, 3, 3, **options)
    theta = phases(8000, 1, 20, generator=generator).to(torch.complex64)
    h = model.response(model.sample(8000, generator=generator), STILL, CARRIER, theta)
    energy = h.abs().square().double().mean(dim=(1, 2, 3, 4))
    assert float(energy.std() / energy.mean()) < 4
    assert float(energy.mean()) == pytest.approx(model.mean_power(), rel=5 * 4 / math.sqrt(8000))


def test_mean_power_of_the_published_benchmark():
    """256 elements, unit hops: 256; a 1/sqrt(L) pattern as in the paper makes it 1."""
    assert IRSCascade(6, 256, 16, 3, angles="block", grid_size=18).mean_power() == 256


def test_uniform_directions_make_the_power_of_a_fixed_pattern_that_of_random_phases(generator):
    """A linear surface whose first hop is white over the elements does not see the pattern; 5 standard errors of a mean."""
    model = IRSCascade(1, 16, 1, 2)
    draw = model.sample(20_000, generator=generator)
    energy = model.response(draw, STILL, CARRIER).abs().square().double().flatten()
    error = float(energy.std()) / math.sqrt(len(energy))
    assert abs(float(energy.mean()) - model.mean_power()) < 5 * error < 0.2 * model.mean_power()


def test_conditions_override_the_model(generator):
    """Per-sample gains scale the links exactly; delays scale with the largest one."""
    model = IRSCascade(2, 8, 2, 2, direct=True, max_delay=1e-7)
    plain = model.sample(3, generator=torch.Generator().manual_seed(4))
    db = torch.tensor([-10.0, 0.0, 20.0])
    given = model.sample(
        3, generator=torch.Generator().manual_seed(4), ms_irs_gain_db=db, direct_gain_db=-20.0, max_delay=2e-7, max_doppler=50.0
    )
    ratio = (given.ms_irs.gain / plain.ms_irs.gain).real.flatten(1)
    assert torch.allclose(ratio, 10 ** (db / 20)[:, None].expand_as(ratio), rtol=1e-6)
    assert torch.allclose(given.direct.gain, 0.1 * plain.direct.gain, rtol=1e-6)
    assert torch.equal(given.irs_bs.gain, plain.irs_bs.gain)
    assert torch.allclose(given.irs_bs.delay, 2 * plain.irs_bs.delay, rtol=1e-12)
    assert not plain.ms_irs.doppler.any() and not given.irs_bs.doppler.any()
    assert 0 < float(given.ms_irs.doppler.abs().max()) <= 50.0


def test_doppler_follows_the_departure_and_one_heading(generator):
    """With one departure a hop has one Doppler; over isotropic headings in a plane its mean square is f_D^2 / 2 (5 %: 5
    standard errors of 0.35 / sqrt(n) for a squared cosine)."""
    model = IRSCascade(4, 8, 2, 3, angles="cluster", max_doppler=100.0)
    doppler = model.sample(4000, generator=generator).ms_irs.doppler.squeeze(1)
    assert torch.equal(doppler[:, :1].expand_as(doppler), doppler)
    assert float(doppler[:, 0].square().mean()) == pytest.approx(5000.0, rel=0.06)


def test_grid_of_resource_elements(generator):
    """`frequency_response` draws, synthesises and normalises in one go, and takes a reflection."""
    model = IRSCascade(2, 8, 3, 2, max_delay=1e-7, max_doppler=50.0)
    grid = OFDMGrid(3, 4, 30e3)
    theta = phases(3, 8, generator=generator)
    made = [torch.Generator().manual_seed(3) for _ in range(3)]
    h = model.frequency_response(grid, 5, generator=made[0], dtype=torch.complex128, reflection=theta)
    draw = model.sample(5, generator=made[1]).double()
    assert_equal(h, model.response(draw, grid.times, grid.frequencies, theta))
    scaled = model.frequency_response(
        grid, 5, generator=made[2], dtype=torch.complex128, reflection=theta, normalize="ensemble"
    )
    assert_equal(scaled * math.sqrt(model.mean_power()), h)
    still = IRSCascade(2, 8, 3, 2).frequency_response(grid, 5, generator=generator)
    assert still.shape == (5, 3, 2, 3, 4) and torch.equal(still[:, :, :, :1, :1].expand_as(still), still)
    with pytest.raises(NoClosedFormError):
        model.covariance(grid)


# -- Precision, reproduction, devices --


@pytest.mark.parametrize("name", ["published", "moving"])
def test_precision_of_the_answer(name, generator):
    """Single precision is within 1e-5 of double: responses and gains are rounded to 6e-8, sums of 256 terms add little."""
    model, times, frequencies = LINKS[name]
    draw = model.sample(8, generator=generator)
    theta = phases(len(times), model.num_irs_elements, generator=generator)
    single = model.response(draw, times, frequencies, theta.to(torch.complex64))
    double = model.response(draw.double(), times, frequencies, theta)
    assert (single.dtype, double.dtype) == (torch.complex64, torch.complex128)
    assert_equal(single.to(torch.complex128), double, tolerance=1e-5)


def test_same_seed_same_bits():
    model = LINKS["moving"][0]
    first, second = (model.sample(5, generator=torch.Generator().manual_seed(11)) for _ in range(2))
    for name in first.columns:
        assert torch.equal(first.columns[name], second.columns[name])
    for link in ("ms_irs", "irs_bs", "direct"):
        assert torch.equal(getattr(first, link).gain, getattr(second, link).gain)
    other = model.sample(5, generator=torch.Generator().manual_seed(12))
    assert not torch.equal(first.ms_irs.gain, other.ms_irs.gain)


def test_switches_leave_directions_and_gains_alone():
    """A wide band, motion and failures are the same links with more; nothing is redrawn."""
    plain, rich = (
        IRSCascade(2, 8, 3, 2, direct=True, **options).sample(5, generator=torch.Generator().manual_seed(2))
        for options in ({}, {"max_delay": 1e-6, "max_doppler": 99.0, "failure_rate": 0.5})
    )
    for name, value in plain.paths.items():
        assert torch.equal(value, rich.paths[name])
    assert torch.equal(plain.direct.gain.flatten(), rich.direct.gain.flatten())
    assert rich.elements is not None and plain.elements is None


def test_double_computes_responses_anew_and_picks_stay_picks(generator):
    model = LINKS["failing"][0]
    draw = model.sample(6, generator=generator)
    wide = draw.double()
    exact, _ = model.geometry.responses("irs_bs", draw.paths, torch.complex128)
    assert torch.equal(wide.irs_bs.rx_response.reshape(exact.shape), exact)
    assert float((wide.irs_bs.rx_response - draw.irs_bs.rx_response).abs().max()) > 0
    picked = draw[2:4].to("cpu").double()
    assert torch.equal(picked.irs_bs.rx_response, wide.irs_bs.rx_response[2:4])
    assert torch.equal(picked.elements, wide.elements[2:4]) and set(picked.paths) == set(draw.paths)
    columns = draw.columns
    assert columns["elements"].shape == (6, 16) and columns["irs_bs_arrival"].dtype == torch.float32


# -- Bad input --


@pytest.mark.parametrize(
    "arguments,options,error,text",
    [
        ((6, (0, 4), 16), {}, InvalidValueError, "num_irs=0 must be at least 1"),
        ((6, 16, 16, 0), {}, InvalidValueError, "num_paths=0"),
        ((6.0, 16, 16), {}, InvalidTypeError, "num_ms_ant=6.0"),
        ((6, 16, (2, 2, 2)), {}, ShapeError, "num_bs_ant"),
        ((6, 16, 16), {"angles": "blocks"}, UnknownNameError, "did you mean 'block'"),
        ((6, 16, 16), {"angles": "grid"}, InvalidValueError, "grid_size=None is missing"),
        ((6, 16, 16), {"grid_size": 18}, InvalidValueError, "grid_size=18 is for"),
        ((6, 16, 16), {"angles": "grid", "grid_size": "18"}, InvalidTypeError, "grid_size='18'"),
        ((6, 16, 16), {"angles": "grid", "grid_size": {"ms": 8, "irs": 8}}, InvalidValueError, "no entry 'bs'"),
        ((6, 16, 16), {"angles": "grid", "grid_size": {"ms": 8, "irs": (8, 8), "bs": 8}}, ShapeError, "2 axes"),
        ((6, 16, 16, 9), {"angles": "block", "grid_size": 8}, InvalidValueError, "num_paths=9 must be at most 8"),
        ((6, 16, 16), {"angle_spread": -0.1}, InvalidValueError, "angle_spread"),
        ((6, 16, 16), {"hop_gain_db": -80.0}, ShapeError, "hop_gain_db=-80.0 must be a pair"),
        ((6, 16, 16), {"hop_gain_db": (0.0, math.nan)}, InvalidValueError, "hop_gain_db=nan"),
        ((6, 16, 16), {"direct": "yes"}, InvalidTypeError, "direct='yes'"),
        ((6, 16, 16), {"failure_rate": 1.5}, InvalidValueError, "failure_rate=1.5"),
        ((6, 16, 16), {"max_delay": -1e-9}, InvalidValueError, "max_delay"),
        ((6, 16, 16), {"max_doppler": math.inf}, InvalidValueError, "max_doppler"),
        ((6, 16, 16), {"max_amplitude": 0.0}, InvalidValueError, "max_amplitude=0"),
        ((6, 16, 16), {"ms_distance": -3.0, "carrier_frequency": 28e9}, InvalidValueError, "ms_distance=-3"),
        ((6, 16, 16), {"ms_distance": (5.0, 2.0), "carrier_frequency": 28e9}, InvalidValueError, "low <= high"),
        ((6, 16, 16), {"ms_distance": 3.0}, InvalidValueError, "carrier_frequency=None is missing"),
        ((6, 16, 16), {"carrier_frequency": 28e9}, InvalidValueError, "give a distance"),
        (
            (6, 16, 16),
            {"bs_distance": 3.0, "carrier_frequency": 28e9, "angles": "block", "grid_size": 18},
            InvalidValueError,
            "angles='block'",
        ),
        ((6, 16, 16), {"ms_irs": RayleighBlock(8, 6)}, ShapeError, r"ms_irs has \(8, 6\)"),
        ((6, 16, 16), {"irs_bs": RayleighBlock(16, 6)}, ShapeError, r"this link asks for \(16, 16\)"),
        ((6, 16, 16), {"direct_link": RayleighBlock(6, 16)}, ShapeError, "direct_link"),
        ((6, 16, 16), {"ms_irs": "cdl"}, InvalidTypeError, "ms_irs must be a ChannelModel"),
        (
            (6, 16, 16),
            {"ms_irs": RayleighBlock(16, 6), "ms_distance": 3.0, "carrier_frequency": 28e9},
            InvalidValueError,
            "ms_irs has a model of its own",
        ),
    ],
)
def test_bad_models_are_refused_in_one_line(arguments, options, error, text):
    with pytest.raises(error, match=text) as caught:
        IRSCascade(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_bad_draws_and_reflections_are_refused_in_one_line(generator):
    model = IRSCascade(2, 8, 3, 2)
    draw = model.sample(4, generator=generator)
    ones = torch.ones(8, dtype=torch.complex64)
    cases = [
        (lambda: model.response(draw, STILL, CARRIER, ones[:7]), ShapeError, r"reflection has shape \(7,\)"),
        (lambda: model.response(draw, TIMES, CARRIER, ones.expand(2, 8)), ShapeError, "3 times ask for 1 or 3"),
        (lambda: model.response(draw, STILL, CARRIER, ones.expand(5, 1, 8)), ShapeError, r"\(4, T, 8\)"),
        (lambda: model.response(draw, STILL, CARRIER, ones.real), InvalidTypeError, "reflection has dtype"),
        (lambda: model.response(draw, STILL, CARRIER, ones * math.nan), InvalidValueError, "reflection holds 8 NaN"),
        (lambda: model.response(draw, STILL, CARRIER, ones * 1.5), InvalidValueError, "modulus of 1.5"),
        (lambda: model.response(draw, STILL, torch.tensor([math.nan]), ones), InvalidValueError, "frequencies holds 1 NaN"),
        (lambda: model.response(draw, STILL[None], CARRIER, ones), ShapeError, "times has shape"),
        (lambda: model.response(draw.ms_irs, STILL, CARRIER), InvalidTypeError, "draw must be an IRSDraw"),
        (lambda: IRSCascade(2, 8, 4, 2).response(draw, STILL, CARRIER), ShapeError, r"draw has \(3, 8, 2\)"),
        (lambda: model.element_cascade(draw, time=math.nan), InvalidValueError, "time=nan"),
        (lambda: cascade_response(draw, STILL, CARRIER, form="pairs"), UnknownNameError, "did you mean 'pair'"),
        (lambda: model.sample(0, generator=generator), InvalidValueError, "batch_size=0"),
        (lambda: model.sample(4, generator=7), InvalidTypeError, "generator must be"),
        (lambda: model.sample(4, generator=generator, speed=3.0), UnknownNameError, "condition='speed'"),
        (lambda: model.sample(4, generator=generator, max_delay=torch.ones(3)), ShapeError, "max_delay has shape"),
        (lambda: IRSDraw.from_rays(draw.ms_irs, draw.ms_irs), ShapeError, "irs_bs has 2 transmit ports"),
        (lambda: IRSDraw.from_rays(draw.ms_irs, draw[:2].irs_bs), ShapeError, "batch shape"),
        (lambda: IRSDraw.from_rays(draw.ms_irs, draw.irs_bs.double()), InvalidTypeError, "irs_bs has dtype"),
        (lambda: IRSDraw.from_rays(draw.ms_irs, draw.irs_bs, draw.irs_bs), ShapeError, "direct has"),
        (
            lambda: IRSDraw.from_rays(draw.ms_irs, replace(draw.irs_bs, doppler=draw.irs_bs.doppler * math.nan)),
            InvalidValueError,
            "doppler of irs_bs holds",
        ),
        (lambda: IRSDraw.from_rays(draw, draw.irs_bs), InvalidTypeError, "ms_irs must be Rays"),
        (lambda: IRSDraw.from_rays(draw.ms_irs, draw.irs_bs, elements=ones), ShapeError, "elements has shape"),
        (lambda: IRSDraw.from_paths(model.geometry, draw.paths, {"ms_irs": ones.expand(4, 8)}), ShapeError, "ms_irs_gain"),
        (lambda: IRSDraw.from_paths(model.geometry, {}, {"ms_irs": ones}), InvalidValueError, "no entry 'ms_irs_arrival'"),
        (lambda: IRSDraw.from_paths(model.geometry, {}, {"direct_link": ones}), UnknownNameError, "gains='direct_link'"),
        (lambda: IRSDraw.from_paths(model.geometry, {}, {}), InvalidValueError, "both hops need gains"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_model_without_rays_is_refused_when_it_draws(generator):
    model = IRSCascade(1, 8, 3, irs_bs=SpatialGaussian(3, num_tx_ant=8))
    with pytest.raises(InvalidTypeError, match="irs_bs draws SpatialDraw"):
        model.sample(2, generator=generator)


def test_an_active_surface_may_amplify(generator):
    model = IRSCascade(1, 8, 3, max_amplitude=4.0)
    draw = model.sample(2, generator=generator)
    ones = torch.ones(8, dtype=torch.complex64)
    h = model.response(draw, STILL, CARRIER, 4 * ones)
    assert torch.allclose(h, 4 * model.response(draw, STILL, CARRIER), rtol=1e-5, atol=1e-5 * float(h.abs().max()))


def test_every_combination_of_arrays_has_its_shape(generator):
    for ms, surface, bs in itertools.product((2, (1, 3)), (4, (2, 3)), (3, (2, 2))):
        model = IRSCascade(ms, surface, bs)
        draw = model.sample(2, generator=generator)
        assert model.response(draw, STILL, CARRIER).shape == (2, model.num_rx_ant, model.num_tx_ant, 1, 1)
        assert draw.paths["ms_irs_arrival"].shape == (2, 3, len(model.irs_shape))
        assert (draw.num_rx_ant, draw.num_irs_elements, draw.num_tx_ant) == tuple(
            math.prod(shape) for shape in (model.bs_shape, model.irs_shape, model.ms_shape)
        )
