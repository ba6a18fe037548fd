"""Elements of a surface: phases of few bits, reflections, failures, and the surface as an antenna array."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import IRSCascade, quantize_phases, reflection_from_phases, stuck_reflection, surface_array
from wichan.channels.irs_elements import draw_elements
from wichan.channels.irs_geometry import array_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError

NOW = torch.zeros(1, dtype=torch.float64)


def angles(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5) * 20


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_levels_of_a_quantiser(bits, generator):
    """2^b levels, all of them used, none further than half a step on the circle, and rounding again changes nothing."""
    phase = angles(20_000, generator=generator)
    level = quantize_phases(phase, bits)
    step = 2 * math.pi / 2**bits
    index = level / step
    assert float((index - index.round()).abs().max()) < 1e-9
    assert set(index.round().to(torch.int64).tolist()) == set(range(2**bits))
    error = torch.remainder(level - phase + math.pi, 2 * math.pi) - math.pi
    assert float(error.abs().max()) <= step / 2 + 1e-9
    assert torch.allclose(quantize_phases(level, bits), level, atol=1e-12)
    # Mean phasor of a uniform error: sinc(2^-b), to 5 standard errors of a bounded mean.
    sinc = math.sin(math.pi / 2**bits) / (math.pi / 2**bits)
    assert abs(complex(torch.exp(1j * error).mean()) - sinc) < 5 / math.sqrt(20_000)


def test_one_bit_is_plus_and_minus_one():
    have = reflection_from_phases(quantize_phases(torch.tensor([0.1, 3.0, -3.0, 1.5, 1.6], dtype=torch.float64), 1))
    assert torch.allclose(have, torch.tensor([1, -1, -1, 1, -1], dtype=torch.complex128), atol=1e-15)


def test_the_gradient_passes_straight_through(generator):
    phase = angles(50, generator=generator).requires_grad_()
    level = quantize_phases(phase, 2)
    assert torch.equal(level, quantize_phases(phase.detach(), 2))
    weight = torch.arange(50, dtype=torch.float64)
    (level * weight).sum().backward()
    assert torch.equal(phase.grad, weight)


def test_phases_of_few_bits_can_be_learned(generator):
    """Ascent on the quantised power ends well above random phases and below the aligned ones."""
    model = IRSCascade(1, 32, 1, 2)
    draw = model.sample(1, generator=generator).double()
    parts = model.element_cascade(draw).flatten()
    phase = angles(32, generator=generator).requires_grad_()
    start = float((reflection_from_phases(quantize_phases(phase.detach(), 2)) @ parts).abs().square())
    best = start
    for _ in range(60):
        power = model.response(draw, NOW, NOW, reflection_from_phases(quantize_phases(phase, 2))).abs().square().sum()
        (gradient,) = torch.autograd.grad(power, phase)
        phase = (phase + 0.3 * gradient / gradient.abs().max()).detach().requires_grad_()
        best = max(best, float(power.detach()))
    bound = float(parts.abs().sum().square())
    assert 3 * start < best <= bound and best > 0.7 * bound


def test_reflection_from_phases(generator):
    phase = angles(3, 5, generator=generator)
    size = torch.rand(5, generator=generator, dtype=torch.float64)
    assert torch.allclose(reflection_from_phases(phase, size), size * torch.exp(1j * phase), atol=1e-14)
    assert torch.allclose(reflection_from_phases(phase, 0.25).abs(), torch.full_like(phase, 0.25))
    assert reflection_from_phases(phase.float()).dtype == torch.complex64
    assert torch.autograd.gradcheck(reflection_from_phases, (phase.requires_grad_(), size.requires_grad_()))


def test_failures_have_their_rate_and_switch_elements_off(generator):
    """Binomial share to 5 standard errors; a failed element's entry of the element cascade is 0, the others untouched."""
    state = draw_elements((400, 50), 0.2, generator=generator)
    failed = float((state == 0).double().mean())
    assert abs(failed - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 20_000)
    assert torch.equal(state, (state != 0).to(torch.complex64))
    whole, broken = (
        IRSCascade(2, 12, 3, failure_rate=rate).sample(6, generator=torch.Generator().manual_seed(1)) for rate in (0.0, 0.5)
    )
    model = IRSCascade(2, 12, 3)
    parts = model.element_cascade(whole) * broken.elements[:, None, None, :, None]
    assert torch.equal(model.element_cascade(broken), parts)
    assert float(parts.abs().min()) == 0 < float(parts.abs().max())
    theta = torch.ones(12, dtype=torch.complex64)
    want = model.response(whole, NOW, NOW, broken.elements[:, None])
    have = model.response(broken, NOW, NOW, theta)
    assert torch.allclose(have, want, atol=1e-6 * float(want.abs().max()))
    assert float(IRSCascade(2, 12, 3, failure_rate=1.0, direct=False).mean_power()) == 0


def test_stuck_elements_reflect_what_they_are_stuck_at(generator):
    theta = reflection_from_phases(angles(4, 6, generator=generator)).requires_grad_()
    failed = torch.tensor([True, False, False, True, False, False])
    have = stuck_reflection(theta, failed, 1j)
    assert torch.equal(have[:, failed], torch.full((4, 2), 1j, dtype=torch.complex128))
    assert torch.equal(have[:, ~failed], theta[:, ~failed])
    have.real.sum().backward()
    assert not theta.grad[:, failed].any() and bool(theta.grad[:, ~failed].all())
    assert not stuck_reflection(theta.detach(), failed)[:, failed].any()


@pytest.mark.parametrize("shape", [7, (3, 4)])
def test_the_surface_as_an_array_has_the_order_of_the_cascade(shape, generator):
    """Zenith and azimuth to cosines: u_row = cos(zenith), u_col = sin(zenith) sin(azimuth)."""
    zenith, azimuth = (math.pi * torch.rand(9, generator=generator, dtype=torch.float64) for _ in range(2))
    across = zenith.sin() * azimuth.sin()
    cosines = across[:, None] if isinstance(shape, int) else torch.stack([zenith.cos(), across], dim=-1)
    array = surface_array(shape)
    sizes = (shape,) if isinstance(shape, int) else shape
    assert array.num_ant == math.prod(sizes)
    want = array_response(cosines, sizes, torch.complex128)
    assert float((array.response(zenith, azimuth) - want).abs().max()) < 1e-13


def test_bad_input_is_refused_in_one_line():
    phase, theta = torch.zeros(4), torch.ones(4, dtype=torch.complex64)
    cases = [
        (lambda: quantize_phases(phase, 0), InvalidValueError, "num_bits=0"),
        (lambda: quantize_phases(phase, 1.5), InvalidTypeError, "num_bits=1.5"),
        (lambda: quantize_phases(phase * math.nan, 2), InvalidValueError, "phases holds 4 NaN"),
        (lambda: quantize_phases(theta, 2), InvalidTypeError, "phases has dtype"),
        (lambda: reflection_from_phases(phase, 1.5), InvalidValueError, "amplitude=1.5"),
        (lambda: reflection_from_phases(phase, phase - 0.5), InvalidValueError, "amplitude=-0.5"),
        (lambda: reflection_from_phases([0.0]), InvalidTypeError, "phases must be a torch.Tensor"),
        (lambda: draw_elements((2,), -0.1, generator=torch.Generator()), InvalidValueError, "failure_rate=-0.1"),
        (lambda: draw_elements((2,), 0.1, generator=None), InvalidTypeError, "generator"),
        (lambda: stuck_reflection(theta, phase), InvalidValueError, "failed has dtype"),
        (lambda: stuck_reflection(theta, torch.zeros(3, dtype=torch.bool)), ShapeError, "failed has shape"),
        (lambda: surface_array((0, 4)), InvalidValueError, "rows=0"),
        (lambda: surface_array((2, 4, 4)), ShapeError, "shape="),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
