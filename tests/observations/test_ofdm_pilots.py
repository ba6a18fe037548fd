"""OFDM pilots: the linear map against loops and its dense twin, the noise, gradients, and bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, WichanError
from wichan.grid import OFDMGrid as PlainGrid
from wichan.observations import OFDMGrid, OFDMPilots, PilotPattern
from wichan.random import complex_normal

GRID = OFDMGrid(14, 24, 15e3)


def pilots_of(kind: str) -> OFDMPilots:
    return {
        "comb": lambda: OFDMPilots(GRID, symbols=(2, 11), subcarrier_step=3, boost_db=2.0),
        "block": lambda: OFDMPilots.block(GRID, (1, 5, 9), num_tx_ant=3),
        "kronecker": lambda: OFDMPilots.kronecker(GRID, (2, 11), 2, 2),
        "dmrs": lambda: OFDMPilots.dmrs(GRID, ports=(0, 1, 2), additional_position=1),
    }[kind]()


KINDS = ["comb", "block", "kronecker", "dmrs"]


@pytest.mark.parametrize("kind", KINDS)
def test_signal_equals_loop(kind: str, generator: torch.Generator) -> None:
    obs = pilots_of(kind)
    h = complex_normal((2, 2, obs.num_tx_ant, 14, 24), generator=generator)
    y = obs.noiseless(h)
    want = torch.zeros_like(y)
    for antenna in range(obs.num_tx_ant):
        for t in range(14):
            for k in range(24):
                want[:, :, t, k] += obs.pilots[antenna, t, k] * h[:, :, antenna, t, k]
    torch.testing.assert_close(y, want)
    # Symbol-major order of the pilot vector.
    torch.testing.assert_close(obs.extract(y), torch.stack([y[:, :, t, k] for t, k in obs.mask.nonzero().tolist()], dim=-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_adjoint_and_matrix_belong_to_project(kind: str, lead: tuple, generator: torch.Generator) -> None:
    obs = pilots_of(kind)
    h = complex_normal((*lead, 2, obs.num_tx_ant, 14, 24), generator=generator, dtype=torch.complex128)
    x = complex_normal((*lead, 2, obs.num_pilots), generator=generator, dtype=torch.complex128)
    seen = obs.project(h)
    torch.testing.assert_close((seen.conj() * x).sum(), (h.conj() * obs.adjoint(x)).sum())
    dense = obs.matrix(num_rx_ant=2).to(torch.complex128)
    torch.testing.assert_close(seen.flatten(-2), h.flatten(-4) @ dense.mT)


def test_apply_is_project_and_still_walks_modules(generator: torch.Generator) -> None:
    obs = pilots_of("comb")
    h = complex_normal((1, 1, 14, 24), generator=generator)
    assert torch.equal(obs.apply(h), obs.project(h))
    visited: list[nn.Module] = []
    nn.Sequential(obs).apply(visited.append)
    assert obs in visited


def test_separability() -> None:
    assert pilots_of("comb").is_separable
    assert not pilots_of("kronecker").is_separable
    assert not OFDMPilots(GRID, (2,), learnable=True).is_separable
    uneven = torch.ones(1, 8)
    uneven[0, 3] = 2
    assert not OFDMPilots(GRID, (2,), 3, values=uneven).is_separable
    staggered = torch.zeros(14, 24, dtype=torch.complex64)
    staggered[2, ::4], staggered[9, 2::4] = 1, 1
    obs = OFDMPilots.from_pattern(GRID, staggered)
    assert not obs.is_separable
    assert obs.pilot_symbols.tolist() == [2, 9]
    assert obs.pilot_subcarriers.tolist() == list(range(0, 24, 2))


def test_power() -> None:
    # 3 ports at beta = 2: the element of CDM group 0 carries two of them, that of group 1 one.
    obs = pilots_of("dmrs")
    assert obs.pilot_power == pytest.approx(2.0)
    assert obs.signal_power == pytest.approx(3.0)
    assert pilots_of("kronecker").signal_power == pytest.approx(1.0)


def test_snr_at_a_pilot_element_is_what_was_asked_for(generator: torch.Generator) -> None:
    obs = pilots_of("dmrs")
    h = complex_normal((400, 1, 3, 14, 24), 4.0, generator=generator)
    no = obs.no_from_snr_db(7.0, mean_power=4.0)
    noise = obs.observe(h, no, generator=generator) - obs.noiseless(h)
    ratio = obs.project(h).abs().square().mean() / noise.abs().square().mean()
    # 400 frames x 48 elements: the ratio is known to about 1 %, 0.04 dB.
    assert 10 * math.log10(ratio) == pytest.approx(7.0, abs=0.15)
    assert obs.snr_db_from_no(no, mean_power=4.0) == pytest.approx(7.0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_noise_is_white_circular_and_everywhere(dtype: torch.dtype, generator: torch.Generator) -> None:
    obs = pilots_of("comb")
    no = torch.tensor([0.0, 0.5, 2.0])
    y = obs.observe(torch.zeros(3, 60, 1, 14, 24, dtype=dtype), no, generator=generator)
    assert y.dtype == dtype
    assert not y[0].any()
    # 60 x 336 samples a row: standard error of a variance is 0.7 %, 5 of them are allowed.
    for i in (1, 2):
        assert y[i].abs().square().mean().item() == pytest.approx(no[i].item(), rel=0.035)
        assert y[i].real.square().mean().item() == pytest.approx(no[i].item() / 2, rel=0.05)
        assert (y[i].square().mean().abs() / no[i]).item() < 0.035
        assert (y[i, :, :, 1:] * y[i, :, :, :-1].conj()).mean().abs().item() < 0.035 * no[i].item()


def test_one_seed_gives_the_same_noise_pattern_at_every_level() -> None:
    obs = pilots_of("comb")
    h = torch.zeros(1, 1, 14, 24, dtype=torch.complex128)
    low, high = (obs.observe(h, no, generator=torch.Generator().manual_seed(3)) for no in (1.0, 4.0))
    torch.testing.assert_close(high, 2 * low)


def test_noise_level_per_receive_antenna(generator: torch.Generator) -> None:
    obs = pilots_of("comb")
    y = obs.observe(
        torch.zeros(2, 2, 1, 14, 24, dtype=torch.complex64), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), generator=generator
    )
    assert (y.abs().amax(dim=(-2, -1)) > 0).tolist() == [[False, True], [True, False]]


def test_differentiable_in_channel_pilots_and_noise_level() -> None:
    small = OFDMGrid(2, 4, 15e3)
    h = complex_normal((2, 1, 2, 2, 4), generator=torch.Generator().manual_seed(1), dtype=torch.complex128).requires_grad_()
    p = complex_normal((2, 2, 4), generator=torch.Generator().manual_seed(2), dtype=torch.complex128).requires_grad_()
    no = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)

    def run(h: torch.Tensor, p: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        return OFDMPilots.from_pattern(small, p).observe(h, no, generator=torch.Generator().manual_seed(3))

    assert torch.autograd.gradcheck(run, (h, p, no))


def test_learnable_pilots_train_and_silent_elements_stay_silent(generator: torch.Generator) -> None:
    obs = OFDMPilots.kronecker(GRID, (2, 11), 2, 2, learnable=True)
    assert [name for name, _ in obs.named_parameters()] == ["pilots_ri"]
    active = obs.pilots.detach() != 0
    before = obs.pilots.detach().clone()
    step = torch.optim.SGD(obs.parameters(), lr=0.1)
    h = complex_normal((4, 1, 2, 14, 24), generator=generator)
    obs.observe(h, 0.1, generator=generator).abs().square().sum().backward()
    step.step()
    after = obs.pilots.detach()
    assert torch.equal(after != 0, active)
    assert bool((after[active] != before[active]).all())


def test_saving_loading_copying_and_precision() -> None:
    obs = OFDMPilots(GRID, (2, 11), 3, boost_db=3.0)
    other = OFDMPilots(GRID, (2, 11), 3)
    other.load_state_dict(obs.state_dict())
    assert torch.equal(other.pilots, obs.pilots)
    assert torch.equal(copy.deepcopy(obs).pilots, obs.pilots)
    assert obs.double().pilots.dtype == torch.complex128
    assert obs.mask.dtype == torch.bool


def test_grid_is_reexported() -> None:
    assert OFDMGrid is PlainGrid


def test_global_generator_is_left_alone(generator: torch.Generator) -> None:
    before = torch.get_rng_state()
    pilots_of("comb").observe(torch.zeros(1, 1, 14, 24, dtype=torch.complex64), 1.0, generator=generator)
    assert torch.equal(before, torch.get_rng_state())


@given(st.sampled_from([torch.float32, torch.complex64, torch.complex128]), st.lists(st.integers(1, 3), min_size=0, max_size=6))
def test_any_shape_is_observed_or_refused(dtype: torch.dtype, shape: list[int]) -> None:
    obs = OFDMPilots(OFDMGrid(2, 3, 15e3), (1,))
    h = torch.zeros(shape, dtype=dtype)
    try:
        y = obs.observe(h, 1.0, generator=torch.Generator().manual_seed(1))
    except WichanError as error:
        assert "\n" not in str(error)
        assert dtype == torch.float32 or tuple(shape[-3:]) != (1, 2, 3) or len(shape) < 4
    else:
        assert y.shape == (*shape[:-3], 2, 3)


OBS = OFDMPilots(GRID, (2, 11), 3)
H = torch.zeros(5, 1, 1, 14, 24, dtype=torch.complex64)


def observe(h: object = H, no: object = 1.0, generator: object = None) -> torch.Tensor:
    return OBS.observe(h, no, generator=generator or torch.Generator())  # type: ignore[arg-type]


def poisoned() -> torch.Tensor:
    h = H.clone()
    h[3, 0, 0, 2, 3] = torch.nan
    return h


BAD = [
    (lambda: OFDMPilots(GRID), InvalidValueError, "symbols is missing"),
    (lambda: OFDMPilots(GRID, (2,), pattern=PilotPattern("x", torch.ones(1, 14, 24) + 0j)), InvalidValueError, "both given"),
    (lambda: OFDMPilots(GRID, pattern=torch.ones(1, 14, 24) + 0j), InvalidTypeError, "pattern must be a PilotPattern"),  # type: ignore[arg-type]
    (lambda: OFDMPilots.from_pattern(GRID, torch.ones(1, 14, 23) + 0j), ShapeError, r"must be \(14, 24\)"),
    (lambda: OFDMPilots(GRID, (2, 14)), InvalidValueError, "outside the grid"),
    (lambda: observe(h=H.real), InvalidTypeError, "h has dtype torch.float32"),
    (lambda: observe(h=[1]), InvalidTypeError, "h must be a torch.Tensor"),
    (lambda: observe(h=H[..., :-1]), ShapeError, r"h has shape \(5, 1, 1, 14, 23\)"),
    (lambda: observe(h=H.expand(5, 1, 2, 14, 24)), ShapeError, r"the last axes must be \(\*, 1, 14, 24\)"),
    (lambda: observe(h=poisoned()), InvalidValueError, "h holds 1 NaN"),
    (lambda: observe(no=-0.1), InvalidValueError, "no=-0.1 must be at least 0"),
    (lambda: observe(no=math.nan), InvalidValueError, "no holds NaN"),
    (lambda: observe(no=1j), InvalidTypeError, "no=1j must be a number"),
    (lambda: observe(no=torch.ones(5) + 0j), InvalidTypeError, "no has dtype torch.complex64"),
    (lambda: observe(no=torch.ones(4)), ShapeError, r"no has shape \(4,\)"),
    (lambda: observe(generator=7), InvalidTypeError, "generator must be a torch.Generator"),
    (lambda: OBS.extract(torch.zeros(5, 1, 14, 25, dtype=torch.complex64)), ShapeError, "y has shape"),
    (lambda: OBS.extract(torch.zeros(14, 24, dtype=torch.complex64)), ShapeError, "y has shape"),
    (lambda: OBS.adjoint(torch.zeros(5, 1, 7, dtype=torch.complex64)), ShapeError, "x has shape"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_input_gets_one_line(call, kind, message) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
