"""The synthesis kernel against a plain NumPy loop, closed forms, and its own gradients."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from wichan.channels import (
    Rays,
    cluster_coefficients,
    delay_phasors,
    filter_taps,
    frequency_response,
    impulse_response,
)
from wichan.channels.synthesis import phasors
from wichan.errors import InvalidTypeError, ShapeError

DOUBLE = torch.float64


def random_rays(generator, batch=(3,), clusters=4, rays=5, pol=(2, 1), positions=(3, 2), dtype=torch.complex128):
    real = DOUBLE if dtype == torch.complex128 else torch.float32

    def normal(*shape):
        return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=real))

    lead = (*batch, clusters, rays)
    return Rays(
        gain=normal(*lead, *pol),
        delay=torch.rand(*batch, clusters, generator=generator, dtype=real) * 1e-6,
        doppler=torch.randn(*lead, generator=generator, dtype=real) * 300,
        rx_response=None if positions[0] is None else normal(*lead, positions[0]),
        tx_response=None if positions[1] is None else normal(*lead, positions[1]),
    )


def loop_response(rays: Rays, times: torch.Tensor, frequencies: torch.Tensor) -> np.ndarray:
    """The definition, one term at a time."""
    gain, delay, doppler = rays.gain.numpy(), rays.delay.numpy(), rays.doppler.numpy()
    batch, clusters, num_rays, rx_pol, tx_pol = gain.shape
    ones = np.ones((batch, clusters, num_rays, 1))
    rx = ones if rays.rx_response is None else rays.rx_response.numpy()
    tx = ones if rays.tx_response is None else rays.tx_response.numpy()
    t, f = times.numpy(), frequencies.numpy()
    n_rx, n_tx = rx.shape[-1], tx.shape[-1]
    h = np.zeros((batch, rx_pol * n_rx, tx_pol * n_tx, t.size, f.size), complex)
    for b, c, r, p, n, q, m in np.ndindex(batch, clusters, num_rays, rx_pol, n_rx, tx_pol, n_tx):
        amplitude = gain[b, c, r, p, q] * rx[b, c, r, n] * tx[b, c, r, m]
        wave = np.exp(2j * np.pi * (doppler[b, c, r] * t[:, None] - delay[b, c] * f[None, :]))
        h[b, p * n_rx + n, q * n_tx + m] += amplitude * wave
    return h


@pytest.mark.parametrize("pol,positions", [((2, 1), (3, 2)), ((1, 1), (None, None)), ((2, 2), (None, 3)), ((1, 2), (4, None))])
@pytest.mark.parametrize("uniform", [True, False])
def test_equals_the_definition(generator, pol, positions, uniform):
    rays = random_rays(generator, pol=pol, positions=positions)
    times = torch.arange(9, dtype=DOUBLE) * 1e-3 if uniform else torch.rand(9, generator=generator, dtype=DOUBLE)
    frequencies = (torch.arange(11, dtype=DOUBLE) - 5) * 30e3 if uniform else torch.tensor([-1e6, 0.0, 2e5], dtype=DOUBLE)
    h = frequency_response(rays, times, frequencies)
    assert np.allclose(h.numpy(), loop_response(rays, times, frequencies), atol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_single_precision_fast_path_equals_double(generator, scale):
    """SISO without gradients takes the polar path; 1e-5 is 100 float32 roundings of a sum of 5 unit terms."""
    single = random_rays(generator, pol=(1, 1), positions=(None, None), dtype=torch.complex64)
    double = dataclasses.replace(single, gain=single.gain.to(torch.complex128))
    times = torch.arange(14, dtype=DOUBLE) * scale
    fast, slow = cluster_coefficients(single, times), cluster_coefficients(double, times)
    assert fast.dtype == torch.complex64 and slow.dtype == torch.complex128
    assert torch.allclose(fast.to(torch.complex128), slow, atol=1e-5 * float(slow.abs().max()))


def test_phasors_stay_accurate_over_many_turns():
    """A million turns lose nothing: phases are reduced in float64 before the cast."""
    rate = torch.tensor([1.0e6 + 0.25], dtype=DOUBLE)
    got = phasors(rate, torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE))
    assert torch.allclose(got, torch.tensor([[1, 1j, -1]], dtype=torch.complex64), atol=1e-6)


def test_two_level_tables_equal_direct_phasors(generator):
    delay = torch.rand(7, generator=generator, dtype=DOUBLE) * 1e-6
    frequencies = (torch.arange(75, dtype=DOUBLE) - 37) * 30e3
    direct = torch.exp(-2j * math.pi * delay[:, None] * frequencies)
    assert torch.allclose(delay_phasors(delay, frequencies, torch.complex128), direct, atol=1e-12)


def test_out_buffer_and_shared_delays_give_the_same_bits(generator):
    rays = random_rays(generator, dtype=torch.complex64)
    shared = dataclasses.replace(rays, delay=rays.delay[0])
    own = dataclasses.replace(rays, delay=rays.delay[0].expand(3, -1).contiguous())
    times, frequencies = torch.arange(6, dtype=DOUBLE) * 1e-3, torch.arange(8, dtype=DOUBLE) * 15e3
    out = torch.empty(3, 6, 2, 6, 8, dtype=torch.complex64)
    assert frequency_response(shared, times, frequencies, out=out) is out
    assert torch.equal(out, frequency_response(own, times, frequencies))


def test_static_rays_are_constant_in_time(generator):
    rays = dataclasses.replace(random_rays(generator), doppler=torch.zeros(3, 4, 5, dtype=DOUBLE))
    h = frequency_response(rays, torch.arange(4, dtype=DOUBLE), torch.arange(3, dtype=DOUBLE))
    assert torch.equal(h[..., :1, :].expand_as(h), h)


def test_impulse_response_transforms_to_the_frequency_response(generator):
    rays = random_rays(generator)
    times, frequencies = torch.arange(6, dtype=DOUBLE) * 1e-3, torch.arange(8, dtype=DOUBLE) * 15e3
    a, tau = impulse_response(rays, times)
    phase = torch.exp(-2j * math.pi * tau[..., None] * frequencies)
    assert torch.allclose(torch.einsum("bmnkt,bkf->bmntf", a, phase), frequency_response(rays, times, frequencies), atol=1e-10)


def test_filter_taps_put_an_on_grid_delay_into_one_tap():
    one = torch.ones(1, 1, 1, 1, 1, dtype=torch.complex128)
    rays = Rays(gain=one, delay=torch.tensor([[3e-6]], dtype=DOUBLE), doppler=torch.zeros(1, 1, 1, dtype=DOUBLE))
    taps = filter_taps(rays, torch.zeros(1, dtype=DOUBLE), bandwidth=1e6, num_taps=6)
    assert torch.allclose(taps.flatten().abs(), torch.tensor([0, 0, 0, 1, 0, 0], dtype=DOUBLE), atol=1e-12)


def test_reciprocal_is_the_transpose(generator):
    rays = random_rays(generator)
    times, frequencies = torch.arange(6, dtype=DOUBLE) * 1e-3, torch.arange(8, dtype=DOUBLE) * 15e3
    forward, back = (frequency_response(r, times, frequencies) for r in (rays, rays.reciprocal()))
    assert torch.allclose(back, forward.transpose(1, 2), atol=1e-12)


def test_gradients_in_gains_delays_dopplers_and_responses(generator):
    rays = random_rays(generator, batch=(1,), clusters=2, rays=2, positions=(2, 1))
    times, frequencies = torch.arange(7, dtype=DOUBLE) * 1e-4, torch.arange(7, dtype=DOUBLE) * 15e3
    # delays enter scaled: a derivative per second would be 1e6 times the function
    inputs = [rays.gain, rays.delay * 1e6, rays.doppler, rays.rx_response, rays.tx_response]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]

    def synthesize(gain, delay, doppler, rx, tx):
        return frequency_response(Rays(gain, delay * 1e-6, doppler, rx, tx), times, frequencies)

    assert torch.autograd.gradcheck(synthesize, inputs, atol=1e-6)


def test_siso_gradient_path_equals_the_fast_path(generator):
    rays = random_rays(generator, pol=(1, 1), positions=(None, None), dtype=torch.complex64)
    times, frequencies = torch.arange(14, dtype=DOUBLE) * 1e-4, torch.arange(12, dtype=DOUBLE) * 15e3
    tracked = dataclasses.replace(rays, gain=rays.gain.clone().requires_grad_())
    with_grad = frequency_response(tracked, times, frequencies)
    assert with_grad.requires_grad
    assert torch.allclose(with_grad, frequency_response(rays, times, frequencies), atol=1e-4)


def test_selecting_and_moving(generator):
    rays = random_rays(generator)
    times, frequencies = torch.arange(3, dtype=DOUBLE), torch.arange(2, dtype=DOUBLE)
    whole = frequency_response(rays.to("cpu"), times, frequencies)
    assert torch.equal(frequency_response(rays[1:], times, frequencies), whole[1:])
    assert (rays.num_rx_ant, rays.num_tx_ant, rays.num_clusters, rays.num_rays) == (6, 2, 4, 5)


def test_bad_input_is_named(generator):
    rays = random_rays(generator)
    with pytest.raises(ShapeError, match="doppler has shape"):
        dataclasses.replace(rays, doppler=rays.doppler[:1])
    with pytest.raises(ShapeError, match="rx_response has leading axes"):
        dataclasses.replace(rays, rx_response=rays.rx_response[:, :1])
    with pytest.raises(ShapeError, match="delay has shape"):
        dataclasses.replace(rays, delay=rays.delay[:, :1])
    with pytest.raises(InvalidTypeError, match="gain has dtype"):
        dataclasses.replace(rays, gain=rays.gain.real)
    with pytest.raises(ShapeError, match="times has shape"):
        frequency_response(rays, torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ShapeError, match="out has shape"):
        frequency_response(rays, torch.zeros(2), torch.zeros(2), out=torch.empty(1, dtype=torch.complex128))
