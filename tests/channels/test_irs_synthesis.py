"""The kernel of IRS links against the product of the hops: its forms, its signs and orders, gradients, compilation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wichan.channels import IRSCascade, IRSDraw, RayleighBlock, Rays, frequency_response
from wichan.channels.irs_synthesis import cascade_costs, cascade_response, cascade_sizes

STILL, CARRIER = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
TIMES = torch.arange(3, dtype=torch.float64) * 0.4e-3
TONES = torch.arange(-2, 3, dtype=torch.float64) * 1.5e6

# Name: model, times, frequencies.
LINKS = {
    "published": (IRSCascade(6, 256, 16, 3, angles="block", grid_size=18), STILL, CARRIER),
    "planar": (IRSCascade((1, 2), (3, 4), (2, 2), 2, angles="grid", grid_size=8, direct=True), STILL, CARRIER),
    "wide band": (IRSCascade(2, (4, 3), 3, 4, angles="cluster", max_delay=1e-6, direct=True), STILL, TONES),
    "moving": (IRSCascade((2, 2), 10, 3, 5, max_delay=1e-6, max_doppler=300.0, direct=True), TIMES, TONES),
    "failing": (IRSCascade(2, (4, 4), 2, 2, failure_rate=0.3, max_doppler=100.0), TIMES, CARRIER),
    "unequal hops": (IRSCascade(4, 12, 2, 2, ms_irs=RayleighBlock(12, 4), max_delay=1e-7), STILL, TONES),
}


def phases(*shape: int, generator: torch.Generator) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle), angle)


def product_of_hops(draw: IRSDraw, times, frequencies, theta):
    """H_b diag(theta) H_a + D with hops by the library's plain kernel; theta is (n, T, L)."""
    first = frequency_response(draw.ms_irs, times, frequencies)
    second = frequency_response(draw.irs_bs, times, frequencies)
    if draw.elements is not None:
        theta = theta * draw.elements[:, None]
    answer = torch.einsum("nbltf,ntl,nlmtf->nbmtf", second, theta, first)
    return answer if draw.direct is None else answer + frequency_response(draw.direct, times, frequencies)


def assert_equal(have, want, tolerance=1e-12):
    """Largest deviation against the root mean square; sums of at most 256 rounded terms are within 1e-14 of it in double."""
    assert have.shape == want.shape
    assert float((have - want).abs().max()) < tolerance * float(want.abs().square().mean().sqrt())


@pytest.mark.parametrize("form", ["auto", "pair", "chain", "element"])
@pytest.mark.parametrize("name", LINKS)
def test_response_is_the_product_of_the_hops(name, form, generator):
    model, times, frequencies = LINKS[name]
    draw = model.sample(4, generator=generator).double()
    theta = phases(4, len(times), model.num_irs_elements, generator=generator)
    have = cascade_response(draw, times, frequencies, theta, form=form)
    assert_equal(have, product_of_hops(draw, times, frequencies, theta))
    assert_equal(model.response(draw, times, frequencies, theta), have)


@pytest.mark.parametrize("name", LINKS)
def test_elements_add_up_to_the_response(name, generator):
    model, times, frequencies = LINKS[name]
    draw = model.sample(3, generator=generator).double()
    parts = model.element_cascade(draw, frequencies, time=float(times[-1]))
    assert parts.shape[3] == model.num_irs_elements + model.direct
    theta = phases(model.num_irs_elements, generator=generator)
    weights = torch.cat([theta, torch.ones(1, dtype=theta.dtype)]) if model.direct else theta
    total = torch.einsum("nbmlf,l->nbmf", parts, weights)
    assert_equal(total.unsqueeze(3), model.response(draw, times[-1:], frequencies, theta))


def test_shapes_of_a_reflection(generator):
    """One for all, one a time, many at one time, one a sample: all are the same numbers."""
    model, times, frequencies = LINKS["moving"]
    draw = model.sample(4, generator=generator).double()
    theta = phases(4, 3, 10, generator=generator)
    one = model.response(draw, times, frequencies, theta[0, 0])
    assert_equal(model.response(draw, times, frequencies, theta[:1, :1].expand(4, -1, -1)), one)
    assert_equal(model.response(draw, times, frequencies, theta[0, :1]), one)
    assert_equal(model.response(draw, times, frequencies, theta[0])[:, :, :, 0], one[:, :, :, 0])
    assert_equal(model.response(draw, times, frequencies, theta)[0], model.response(draw, times, frequencies, theta[0])[0])
    many = phases(7, 10, generator=generator)
    together = model.response(draw, times[1:2], frequencies, many)
    assert together.shape == (4, 3, 4, 7, 5)
    assert_equal(together[:, :, :, 4:5], model.response(draw, times[1:2], frequencies, many[4]))
    assert_equal(model.response(draw, times, frequencies), model.response(draw, times, frequencies, torch.ones_like(theta[0])))


def test_signs_and_element_orders_by_hand():
    """One path a hop, written out with NumPy: the surface sees u_in + u_out, e^{+j pi m u} at every end, e^{-j 2 pi f tau}."""
    model = IRSCascade((2, 3), (4, 5), (3, 2), 1)
    cosines = {
        "ms_irs_arrival": (0.31, -0.62),
        "ms_irs_departure": (-0.2, 0.45),
        "irs_bs_arrival": (0.7, 0.1),
        "irs_bs_departure": (-0.55, 0.37),
    }
    paths = {name: torch.tensor([[value]], dtype=torch.float64) for name, value in cosines.items()}
    gains = {
        "ms_irs": torch.tensor([[0.5 + 1j]], dtype=torch.complex128),
        "irs_bs": torch.tensor([[2.0 - 1j]], dtype=torch.complex128),
    }
    delays = {"ms_irs": torch.tensor([[30e-9]], dtype=torch.float64), "irs_bs": torch.tensor([[50e-9]], dtype=torch.float64)}
    dopplers = {"ms_irs": torch.tensor([[120.0]], dtype=torch.float64)}
    draw = IRSDraw.from_paths(model.geometry, paths, gains, delays, dopplers)
    theta = np.exp(1j * np.linspace(0, 5, 20))

    def array(rows, cols, u):
        return np.array([np.exp(1j * np.pi * (r * u[0] + c * u[1])) for r in range(rows) for c in range(cols)])

    u_in, u_out = (np.array(cosines[name]) for name in ("ms_irs_arrival", "irs_bs_departure"))
    core = sum(theta[el] * array(4, 5, u_in + u_out)[el] for el in range(20))
    ends = np.outer(array(3, 2, cosines["irs_bs_arrival"]), array(2, 3, cosines["ms_irs_departure"]))
    moment, tone = 2e-3, 4e6
    phase = np.exp(2j * np.pi * (120.0 * moment - tone * 80e-9))
    want = (0.5 + 1j) * (2 - 1j) * phase * core * ends
    times, tones = torch.tensor([moment], dtype=torch.float64), torch.tensor([tone], dtype=torch.float64)
    have = model.response(draw, times, tones, torch.from_numpy(theta))[0, :, :, 0, 0]
    assert_equal(have, torch.from_numpy(want))


@pytest.mark.parametrize("size", [8, 18])
def test_a_sum_on_the_grid_is_on_the_grid(size, generator):
    """The response is that of one path a hop whose surface sees grid point (g_in + g_out - R/2) mod R alone; R is even."""
    model = IRSCascade(1, 40, 1, 1, angles="grid", grid_size=size)
    draw = model.sample(50, generator=generator).double()
    steps = [(draw.paths[name][:, 0, 0] + 1) * size / 2 for name in ("ms_irs_arrival", "irs_bs_departure")]
    assert float((steps[0] - steps[0].round()).abs().max()) < 1e-12  # exact in double, not rounded to single precision
    index = (steps[0] + steps[1]).round() - size / 2
    element = torch.arange(40, dtype=torch.float64)
    core = torch.exp(1j * math.pi * element * (-1 + 2 * (index % size) / size)[:, None])
    theta = phases(5, 40, generator=generator)
    gain = (draw.ms_irs.gain * draw.irs_bs.gain).reshape(50, 1)
    assert_equal(model.response(draw, STILL, CARRIER, theta)[:, 0, 0, :, 0], gain * (core @ theta.T))


def test_forms_are_chosen_by_counting():
    """Few paths and many elements take the path form, many paths and few elements the element form."""
    generator = torch.Generator().manual_seed(1)

    def cheapest(paths, elements, steps, tones=1):
        draw = IRSCascade(6, elements, 16, paths).sample(1, generator=generator)
        costs = cascade_costs(cascade_sizes(draw, steps, steps, tones))
        return min(costs, key=costs.__getitem__)

    assert cheapest(3, 256, 6) == "pair"
    assert cheapest(12, 512, 6, 16) == "chain"
    assert cheapest(100, 64, 6) == "element"


def test_a_large_batch_in_parts_is_the_batch(generator, monkeypatch):
    import wichan.channels.irs_synthesis as kernel

    model, times, frequencies = LINKS["moving"]
    draw = model.sample(7, generator=generator).double()
    theta = phases(7, 3, 10, generator=generator)
    whole = {form: cascade_response(draw, times, frequencies, theta, form=form) for form in ("pair", "chain", "element")}
    monkeypatch.setattr(kernel, "_HELD", 3000)
    for form, want in whole.items():
        assert_equal(cascade_response(draw, times, frequencies, theta, form=form), want)


def test_any_batch_axes(generator):
    """Rays with two batch axes: each link is that of the flat batch."""
    model = IRSCascade(2, 6, 3, 2, direct=True)
    draw = model.sample(6, generator=generator).double()

    def fold(rays):
        parts = (rays.gain, rays.doppler, rays.rx_response, rays.tx_response)
        gain, doppler, rx, tx = (part.unflatten(0, (2, 3)) for part in parts)
        return Rays(gain, rays.delay, doppler, rx, tx)

    folded = IRSDraw.from_rays(fold(draw.ms_irs), fold(draw.irs_bs), fold(draw.direct))
    theta = phases(6, 4, 6, generator=generator)
    have = model.response(folded, STILL, CARRIER, theta.unflatten(0, (2, 3)))
    assert_equal(have.flatten(0, 1), model.response(draw, STILL, CARRIER, theta))
    assert_equal(model.element_cascade(folded).flatten(0, 1), model.element_cascade(draw))
    assert_equal(model.response(draw[2], STILL, CARRIER, theta[2]), model.response(draw, STILL, CARRIER, theta)[2])


@pytest.mark.gpu
def test_gpu_equals_cpu(generator):
    """The same draw on both devices, in double precision to 1e-12."""
    for name in ("published", "moving", "unequal hops"):
        model, times, frequencies = LINKS[name]
        draw = model.sample(4, generator=generator).double()
        theta = phases(len(times), model.num_irs_elements, generator=generator)
        there = model.response(draw.to("cuda"), times, frequencies, theta)
        assert there.device.type == "cuda"
        assert_equal(there.cpu(), model.response(draw, times, frequencies, theta))


# -- Gradients --


@pytest.mark.parametrize("form", ["pair", "chain", "element"])
def test_gradients_in_reflection_gains_directions_delays(form, generator):
    model = IRSCascade(2, (2, 2), 2, 2, direct=True, max_delay=1e-7, max_doppler=80.0)
    draw = model.sample(2, generator=generator).double()
    links = ("ms_irs", "irs_bs", "direct")
    rays = [getattr(draw, link) for link in links]
    names = list(draw.paths)
    # Nanoseconds and Hertz beside numbers of order one: scaled, so that one step fits all.
    tensors = [phases(3, 4, generator=generator)]
    tensors += [ray.gain.reshape(2, 2) for ray in rays] + [draw.paths[name] for name in names]
    tensors += [ray.delay * 1e7 for ray in rays] + [rays[0].doppler.reshape(2, 2) * 1e-2]

    def link(theta, *rest):
        gains = dict(zip(links, rest[:3], strict=True))
        paths = dict(zip(names, rest[3 : 3 + len(names)], strict=True))
        delays = {name: value * 1e-7 for name, value in zip(links, rest[3 + len(names) : -1], strict=True)}
        made = IRSDraw.from_paths(model.geometry, paths, gains, delays, {"ms_irs": rest[-1] * 1e2})
        return cascade_response(made, TIMES, TONES[:2], theta, form=form)

    inputs = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    assert_equal(link(*inputs).detach()[..., :1], link(*tensors)[..., :1])
    assert torch.autograd.gradcheck(link, inputs, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pair", "chain", "element"])
def test_compiled_equals_eager(form, generator):
    """Values are not looked at under compilation, and the answer is the same to rounding."""
    model, times, frequencies = LINKS["moving"]
    draw = model.sample(2, generator=generator).double()
    theta = phases(len(times), model.num_irs_elements, generator=generator)
    compiled = torch.compile(
        lambda reflection: cascade_response(draw, times, frequencies, reflection, form=form), backend="aot_eager"
    )
    assert_equal(compiled(theta), cascade_response(draw, times, frequencies, theta, form=form))
