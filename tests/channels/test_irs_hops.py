"""Hops of other sources: clustered delay lines with the surface as one end, Rayleigh blocks, ray-traced paths."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.channels import (
    CDL,
    TDL,
    ULA,
    IRSCascade,
    IRSDraw,
    RayleighBlock,
    frequency_response,
    plane_wave_rays,
    surface_array,
)
from wichan.channels.arrays import AntennaArray
from wichan.channels.irs_synthesis import cascade_response
from wichan.channels.plane_waves import Terminal

TIMES = torch.tensor([0.0, 2e-3], dtype=torch.float64)
TONES = torch.tensor([-2e6, 0.0, 3e6], dtype=torch.float64)


def clustered(profile: str, tx: AntennaArray, rx: AntennaArray, speed: float = 0.0) -> CDL:
    return CDL(profile, delay_spread=100e-9, carrier_frequency=3.5e9, speed=speed, tx_array=tx, rx_array=rx)


def phases(*shape: int, generator: torch.Generator) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle), angle)


def product_of_hops(draw, times, frequencies, theta):
    """H_b diag(theta) H_a + D with hops by the library's plain kernel; theta is (T, L)."""
    first = frequency_response(draw.ms_irs, times, frequencies)
    second = frequency_response(draw.irs_bs, times, frequencies)
    answer = torch.einsum("nbltf,tl,nlmtf->nbmtf", second, theta, first)
    return answer if draw.direct is None else answer + frequency_response(draw.direct, times, frequencies)


def assert_equal(have, want, tolerance=1e-12):
    """Against the root mean square; hundreds of rays in double keep 1e-14."""
    assert have.shape == want.shape
    assert float((have - want).abs().max()) < tolerance * float(want.abs().square().mean().sqrt())


def model_of(kind: str) -> IRSCascade:
    surface = surface_array((3, 4))
    if kind == "clustered":
        first, second = clustered("A", ULA(2), surface, speed=3.0), clustered("D", surface, ULA(4))
        return IRSCascade(2, (3, 4), 4, ms_irs=first, irs_bs=second, direct_link=clustered("C", ULA(2), ULA(4), speed=3.0))
    if kind == "one clustered":
        return IRSCascade((1, 2), (3, 4), 4, 3, irs_bs=clustered("B", surface, ULA(4)), max_delay=1e-7, max_doppler=40.0)
    if kind == "two polarisations":
        dual = AntennaArray(surface.positions, (0.0, math.pi / 2))
        first = clustered("A", ULA(1, polarization="cross"), dual, speed=3.0)
        return IRSCascade(2, (2, 12), 4, ms_irs=first, irs_bs=clustered("E", dual, ULA(2, polarization="cross")))
    assert kind == "rayleigh"
    return IRSCascade(2, 12, 4, ms_irs=RayleighBlock(12, 2), irs_bs=TDL("A30", max_doppler=50.0, num_rx_ant=4, num_tx_ant=12))


KINDS = ("clustered", "one clustered", "two polarisations", "rayleigh")


@pytest.mark.parametrize("form", ["auto", "pair", "chain", "element"])
@pytest.mark.parametrize("kind", KINDS)
def test_response_is_the_product_of_the_hops(kind, form, generator):
    model = model_of(kind)
    draw = model.sample(2, generator=generator).double()
    theta = phases(2, model.num_irs_elements, generator=generator)
    if kind == "clustered" and form == "pair":
        draw = draw[:1]  # 461 times 460 pairs of rays
    have = cascade_response(draw, TIMES, TONES, theta, form=form)
    assert_equal(have, product_of_hops(draw, TIMES, TONES, theta))


@pytest.mark.parametrize("kind", KINDS)
def test_elements_add_up(kind, generator):
    model = model_of(kind)
    draw = model.sample(3, generator=generator).double()
    theta = phases(model.num_irs_elements, generator=generator)
    parts = model.element_cascade(draw, TONES)
    weights = torch.cat([theta, torch.ones(1, dtype=theta.dtype)]) if model.direct else theta
    assert_equal(torch.einsum("nbmlf,l->nbmf", parts, weights), model.response(draw, TIMES[:1], TONES, theta)[:, :, :, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_mean_power_of_hops_of_other_sources(kind, generator):
    """Over random phases: L times the product of the hops' own powers, to 5 standard errors of 1,200 links."""
    model = model_of(kind)
    energies = []
    for _ in range(8):
        theta = phases(150, 1, model.num_irs_elements, generator=generator).to(torch.complex64)
        h = model.response(model.sample(150, generator=generator), TIMES[:1], TONES[:1], theta)
        energies.append(h.abs().square().double().mean(dim=(1, 2, 3, 4)))
    energy = torch.cat(energies)
    error = float(energy.std()) / math.sqrt(len(energy))
    assert abs(float(energy.mean()) - model.mean_power()) < 5 * error < 0.3 * model.mean_power()


def test_gains_scale_hops_of_their_own(generator):
    options = {"ms_irs": RayleighBlock(6, 2), "direct_link": RayleighBlock(3, 2)}
    plain, scaled = (
        IRSCascade(2, 6, 3, **options, **gains).sample(4, generator=torch.Generator().manual_seed(9))
        for gains in ({}, {"hop_gain_db": (-20.0, 0.0), "direct_gain_db": -40.0})
    )
    assert torch.allclose(scaled.ms_irs.gain, 0.1 * plain.ms_irs.gain, rtol=1e-6)
    assert torch.allclose(scaled.direct.gain, 0.01 * plain.direct.gain, rtol=1e-6)
    assert torch.equal(scaled.irs_bs.gain, plain.irs_bs.gain)


def test_draws_of_models_have_no_paths(generator):
    """Only geometric links have directions; a draw without them widens what it has."""
    draw = model_of("clustered").sample(2, generator=generator)
    assert draw.paths == {} and draw.columns == {} and draw.geometry is None
    assert draw.double().ms_irs.gain.dtype == torch.complex128
    assert set(model_of("one clustered").sample(2, generator=generator).paths) == {"ms_irs_arrival", "ms_irs_departure"}


def test_ray_traced_paths_between_placed_arrays(generator):
    """Paths of a ray tracer, a delay each, from angles at both ends; the cascade of its rays by hand."""
    surface, still = surface_array((2, 3)), torch.zeros(1, 3, dtype=torch.float64)
    ends = {
        "ms": Terminal(ULA(2), torch.tensor([math.pi, 0.0, 0.0], dtype=torch.float64)),
        "irs": Terminal(surface, torch.tensor([0.4, 0.1, 0.0], dtype=torch.float64)),
        "bs": Terminal(ULA(3), torch.zeros(3, dtype=torch.float64)),
    }

    def trace(tx, rx, count):
        angle = {
            name: math.pi * torch.rand(1, count, 1, generator=generator, dtype=torch.float64)
            for name in ("aoa", "zoa", "aod", "zod")
        }
        matrix = phases(1, count, 1, 2, 2, generator=generator)
        amplitude = torch.rand(1, count, 1, generator=generator, dtype=torch.float64)
        delay = 1e-7 * torch.rand(1, count, generator=generator, dtype=torch.float64)
        return plane_wave_rays(angle, matrix, amplitude, delay, ends[rx], ends[tx], wavelength=0.1, velocity=still)

    draw = IRSDraw.from_rays(trace("ms", "irs", 5), trace("irs", "bs", 4), trace("ms", "bs", 2))
    theta = phases(2, 6, generator=generator)
    for form in ("pair", "chain", "element"):
        assert_equal(cascade_response(draw, TIMES, TONES, theta, form=form), product_of_hops(draw, TIMES, TONES, theta))
