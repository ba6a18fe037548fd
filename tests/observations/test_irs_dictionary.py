"""The Kronecker dictionary of the cascade: the true coefficients give the physical channel, under any reflection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from wichan.channels import CDL, IRSCascade, Panel
from wichan.channels.synthesis import frequency_response
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.observations import IRSDictionary, IRSTraining

BAND = torch.arange(-4, 4, dtype=torch.float64) * 1e5
TAPS = 8  # delays of the band's grid, 1 / (8 x 100 kHz) apart
PUBLISHED = IRSCascade(6, 256, 16, 3, angles="block", grid_size=18)
# link, points of the grid, direct link, further arguments of the training
CASES: dict[str, tuple[IRSCascade, Any, dict[str, Any]]] = {
    "published": (PUBLISHED, 18, {}),
    "square surface": (IRSCascade(6, (16, 16), 16, 3, angles="block", grid_size=18), 18, {}),
    "all planar": (
        IRSCascade((2, 2), (3, 4), (2, 3), 4, angles="grid", grid_size={"ms": (3, 2), "irs": (5, 6), "bs": (4, 3)}),
        {"ms": (3, 2), "irs": (5, 6), "bs": (4, 3)},
        {},
    ),
    "direct link": (IRSCascade(6, 64, 16, 3, angles="grid", grid_size=18, direct=True), 18, {}),
    "odd grid": (IRSCascade(3, 15, 4, 2, angles="grid", grid_size=7, direct=True), 7, {"patterns": "hadamard"}),
    "band": (IRSCascade(2, 16, 4, 2, angles="grid", grid_size=6, max_delay=1e-6), 6, {"frequencies": BAND}),
    "band, direct, planar": (
        IRSCascade(2, (4, 4), 4, 2, angles="grid", grid_size=6, max_delay=1e-6, direct=True),
        6,
        {"frequencies": BAND},
    ),
    "one of everything": (IRSCascade(1, 4, 1, 1, angles="grid", grid_size=2), 2, {"num_pilots": 1, "num_patterns": 1}),
}


def made(name: str) -> tuple[IRSTraining, IRSDictionary]:
    irs, grid, options = CASES[name]
    obs = IRSTraining(irs, **{"num_pilots": 3, "num_patterns": 6, **options})
    return obs, obs.dictionary(grid)


def on_grid(obs: IRSTraining, draw: Any, generator: torch.Generator) -> Any:
    """The draw in double precision, its delays moved to the grid's."""
    draw = draw.double()
    if obs.num_subcarriers == 1:
        return draw
    for link in ("ms_irs", "irs_bs", *(("direct",) if draw.direct is not None else ())):
        rays = getattr(draw, link)
        taps = torch.randint(0, TAPS, rays.delay.shape, generator=generator)
        draw = replace(draw, **{link: replace(rays, delay=taps.double() / (TAPS * 1e5))})
    return draw


def true_coefficients(dictionary: IRSDictionary, draw: Any) -> torch.Tensor:
    """Products of path gains, added up where the grid's indices say; written without the code under test."""
    obs, irs = dictionary.observation, dictionary.observation.irs
    x = torch.zeros(draw.batch_shape[0], *dictionary.num_atoms, dtype=torch.complex128)
    grids = [dictionary.grids[k] or () for k in range(3)]

    def index(grid: tuple[int, ...], cosines: torch.Tensor, sums: bool = False) -> int:
        place = 0
        for size, u in zip(grid, cosines.tolist(), strict=True):
            start = -1 + (1 / size if sums and size % 2 else 0)
            steps = (u - start) * size / 2
            assert abs(steps - round(steps)) < 1e-9  # on the grid
            place = place * size + round(steps) % size
        return place

    def tap(*delays: torch.Tensor) -> tuple[int, ...]:
        return (round(float(sum(delays)) * TAPS * 1e5) % TAPS,) if obs.num_subcarriers > 1 else ()

    gains = {name: getattr(draw, name).gain.flatten(1) for name in irs.links}
    delays = {name: getattr(draw, name).delay.expand(gains[name].shape) for name in irs.links}
    p = draw.paths
    for n in range(draw.batch_shape[0]):
        for i in range(gains["ms_irs"].shape[1]):
            for j in range(gains["irs_bs"].shape[1]):
                place = (
                    index(grids[0], p["ms_irs_arrival"][n, i] + p["irs_bs_departure"][n, j], sums=True),
                    index(grids[1], p["ms_irs_departure"][n, i]),
                    index(grids[2], p["irs_bs_arrival"][n, j]),
                    *tap(delays["ms_irs"][n, i], delays["irs_bs"][n, j]),
                )
                x[(n, *place)] += gains["ms_irs"][n, i] * gains["irs_bs"][n, j]
        for i in range(gains["direct"].shape[1] if "direct" in gains else 0):
            place = (
                dictionary.num_atoms[0] - 1,
                index(grids[1], p["direct_departure"][n, i]),
                index(grids[2], p["direct_arrival"][n, i]),
                *tap(delays["direct"][n, i]),
            )
            x[(n, *place)] += gains["direct"][n, i]
    return x


def physical(obs: IRSTraining, draw: Any, reflection: torch.Tensor) -> torch.Tensor:
    still = torch.zeros(1)
    first = frequency_response(draw.ms_irs, still, obs.frequencies)[..., 0, :]
    second = frequency_response(draw.irs_bs, still, obs.frequencies)[..., 0, :]
    h = torch.einsum("nblf,nkl,nlmf->nbmkf", second, reflection, first)
    return h if draw.direct is None else h + frequency_response(draw.direct, still, obs.frequencies)


def phases(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    turns = 2 * torch.pi * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return torch.polar(torch.ones_like(turns), turns)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Within 1e-12 of the largest entry: phases of up to 256 half turns are rounded to 1e-13."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_true_coefficients_give_the_physical_cascade(name: str, generator: torch.Generator) -> None:
    obs, dictionary = made(name)
    draw = on_grid(obs, obs.irs.sample(4, generator=generator), generator)
    x = true_coefficients(dictionary, draw)
    h = physical(obs, draw, obs.patterns.expand(4, -1, -1))
    close(obs.channel(draw), h)
    close(dictionary.channel(x), h)
    close(dictionary.measure(x), obs.project(h))
    assert dictionary.channel_shape == obs.channel_shape
    assert dictionary.num_measurements == obs.num_measurements
    assert torch.equal(dictionary.support(draw), x != 0)


@pytest.mark.parametrize("name", CASES)
def test_the_cascade_under_any_reflection_follows_from_the_coefficients(name: str, generator: torch.Generator) -> None:
    obs, dictionary = made(name)
    draw = on_grid(obs, obs.irs.sample(3, generator=generator), generator)
    x = true_coefficients(dictionary, draw)
    elements = obs.num_irs_elements
    each = phases((3, 5, elements), generator)
    close(dictionary.cascade(x, each), physical(obs, draw, each))
    shared = dictionary.cascade(x, each[0])
    close(shared, physical(obs, draw, each[:1].expand(3, -1, -1)))
    close(dictionary.cascade(x, each[0, 2]), shared[:, :, :, 2:3])
    close(dictionary.cascade(x[0], each[0]), shared[0])
    cascade = dictionary.element_cascade(x)
    assert cascade.shape[1:] == (*obs.channel_shape[:2], elements + obs.has_direct, obs.num_subcarriers)
    weights = torch.cat([each, torch.ones_like(each[..., :1])], dim=-1) if obs.has_direct else each
    close(torch.einsum("nkl,nbmlf->nbmkf", weights, cascade), physical(obs, draw, each))
    close(cascade, obs.irs.element_cascade(draw, obs.frequencies))


@pytest.mark.parametrize("name", CASES)
def test_adjoint_and_dense(name: str, generator: torch.Generator) -> None:
    _, dictionary = made(name)
    x = torch.randn(2, *dictionary.num_atoms, dtype=torch.complex128, generator=generator)
    y = torch.randn(2, dictionary.num_measurements, dtype=torch.complex128, generator=generator)
    left, right = (dictionary.measure(x).conj() * y).sum(), (x.conj() * dictionary.adjoint(y)).sum()
    scale = float(dictionary.measure(x).abs().sum())
    assert abs(complex(left - right)) < 1e-12 * scale  # rounding of that many terms
    if dictionary.num_coefficients < 10_000:
        torch.testing.assert_close(dictionary.measure(x), x.flatten(1) @ dictionary.dense().mT, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_atoms_on_the_grid_are_the_columns(name: str) -> None:
    obs, dictionary = made(name)
    assert obs.axes == dictionary.names
    assert dictionary.synthesis is not None
    for k, axis in enumerate(obs.axes):
        u = dictionary.coordinates[k]
        points = dictionary.grids[k] or ()
        measured, channel = obs.atoms(axis, u)
        count = u.shape[0]
        assert count == torch.Size(points).numel() == dictionary.num_atoms[k] - (k == 0 and obs.has_direct)
        assert torch.equal(measured, dictionary.factors[k][:, :count])
        assert torch.equal(channel, dictionary.synthesis[k][:, :count])
        if axis != "delay":  # directions are 2-periodic
            close(obs.atoms(axis, u + 2)[0], measured)
    if obs.has_direct:
        assert bool((dictionary.factors[0][:, -1] == 1).all())


@pytest.mark.parametrize("axis", ["irs", "ms", "bs", "delay"])
def test_atoms_are_differentiable_between_grid_points(axis: str, generator: torch.Generator) -> None:
    obs, _ = made("band, direct, planar")
    shape = (2, 3, 2) if axis == "irs" else (2, 3)
    unit = torch.rand(*shape, generator=generator, dtype=torch.float64)
    u = (unit * 1e-6 if axis == "delay" else 2 * unit - 1).requires_grad_()
    measured, channel = obs.atoms(axis, u)
    rows = dict(zip(obs.axes, (6, 3, 4, 8), strict=True))[axis]
    assert measured.shape == (2, rows, 3) and channel.shape[-1] == 3
    step = 1e-9 if axis == "delay" else 1e-6
    scale = 1e6 if axis == "delay" else 1.0  # delays are counted in microseconds

    def run(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return obs.atoms(axis, v / scale)

    assert torch.autograd.gradcheck(run, (u.detach() * scale).requires_grad_(), eps=step * scale, atol=1e-5)
    assert obs.atoms(axis, u.detach().float())[0].dtype == torch.complex64


def test_grids_step_through_the_circle() -> None:
    for size in (2, 7, 18):
        irs = IRSCascade(2, 8, 2)
        dictionary = IRSTraining(irs, 2, 8).dictionary(size)
        surface, ms, bs = dictionary.coordinates
        want = -1 + 2 * torch.arange(size, dtype=torch.float64) / size
        assert torch.equal(ms, want) and torch.equal(bs, want)
        sums = (ms[:, None] + ms[None, :] + 1) % 2 - 1
        gap = (sums.flatten()[:, None] - surface).abs()
        # every sum of two points is a point of the surface's grid, and every point is such a sum
        assert float(torch.minimum(gap, 2 - gap).min(1).values.max()) < 1e-12
        assert float(torch.minimum(gap, 2 - gap).min(0).values.max()) < 1e-12
        assert dictionary.periodic == (True, True, True)


def test_support_takes_columns_and_the_nearest_point(generator: torch.Generator) -> None:
    obs, dictionary = made("published")
    draw = PUBLISHED.sample(50, generator=generator)
    support = dictionary.support(draw)
    modes = dictionary.mode_support(draw)
    for k, mode in enumerate(modes):
        assert mode.shape == (50, 18)
        assert torch.equal(mode, support.movedim(k + 1, 1).flatten(2).any(-1))
    # a block: one departure and three neighbouring arrivals a hop
    assert [mode.sum(-1).unique().tolist() for mode in modes] == [[3], [1], [3]]
    columns = dict(draw.columns)
    assert torch.equal(dictionary.support(columns), support)
    moved = {name: value + 0.9 / 18 * (2 * torch.rand(value.shape, generator=generator) - 1) for name, value in columns.items()}
    assert torch.equal(dictionary.mode_support(moved)[1], modes[1])
    assert torch.equal(dictionary.mode_support(moved)[2], modes[2])
    one = dictionary.support({name: value[0] for name, value in columns.items()})
    assert torch.equal(one, support[0])


def test_delays_beyond_the_band_wrap_and_given_ones_do_not(generator: torch.Generator) -> None:
    obs, dictionary = made("band")
    draw = on_grid(obs, obs.irs.sample(20, generator=generator), generator)
    assert bool((draw.ms_irs.delay.amax() + draw.irs_bs.delay.amax()) > TAPS / 8e5)
    assert dictionary.periodic[3]
    given = obs.dictionary(6, delays=torch.tensor([0.0, 1e-6, 5e-6, 2e-5]))
    assert given.num_atoms == (6, 6, 6, 4) and not given.periodic[3]
    taps = given.mode_support({**draw.columns, "ms_irs_delay": torch.full((20, 2), 4e-6), "irs_bs_delay": torch.zeros(20, 2)})
    assert taps[3].tolist() == [[False, False, True, False]] * 20
    assert obs.dictionary(6, delays=5).num_atoms[3] == 5
    assert float(obs.dictionary(6, delays=5).coordinates[3].max()) == pytest.approx(0.8 / 1e5)


def test_the_direct_atom_is_a_choice(generator: torch.Generator) -> None:
    irs = IRSCascade(2, 8, 4, angles="grid", grid_size=4, direct=True)
    obs = IRSTraining(irs, 2, 16)
    with_it, without = obs.dictionary(4), obs.dictionary(4, direct=False)
    assert (with_it.num_atoms, without.num_atoms) == ((5, 4, 4), (4, 4, 4))
    assert with_it.grids[0] == without.grids[0] == (4,)
    assert with_it.has_direct and not without.has_direct
    draw = irs.sample(3, generator=generator)
    assert torch.equal(with_it.support(draw)[:, :4], without.support(draw))
    x = torch.randn(3, 4, 4, 4, dtype=torch.complex128, generator=generator)
    assert without.element_cascade(x).shape == (3, 4, 2, 8, 1)
    plain = IRSTraining(IRSCascade(2, 8, 4), 2, 16).dictionary(4, direct=True)
    assert plain.num_atoms == (5, 4, 4)


def test_single_precision_and_gradients(generator: torch.Generator) -> None:
    _, dictionary = made("odd grid")
    x = torch.randn(2, *dictionary.num_atoms, dtype=torch.complex128, generator=generator)
    theta = phases((3, 15), generator)
    single = dictionary.cascade(x.to(torch.complex64), theta)
    assert single.dtype == dictionary.element_cascade(x.to(torch.complex64)).dtype == torch.complex64
    # sums of some 400 terms in single precision
    torch.testing.assert_close(single.to(torch.complex128), dictionary.cascade(x, theta), rtol=1e-4, atol=1e-3)
    leaf = theta[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: dictionary.cascade(x[:1], t), (leaf,))


def cdl_draw(generator: torch.Generator) -> Any:
    panel = {"ms": Panel(1, 2), "irs": Panel(1, 8), "bs": Panel(1, 4)}
    hop = {"delay_spread": 1e-7, "speed": 0.0, "carrier_frequency": 3.5e9}
    first = CDL("C", rx_array=panel["irs"], tx_array=panel["ms"], **hop)
    second = CDL("C", rx_array=panel["bs"], tx_array=panel["irs"], **hop)
    return IRSCascade(2, 8, 4, ms_irs=first, irs_bs=second).sample(2, generator=generator)


IRS = IRSCascade(6, 32, 16)
OBS = IRSTraining(IRS, 3, 6)
WIDE = IRSTraining(IRS, 3, 6, frequencies=BAND)
X = torch.ones(18, 18, 18, dtype=torch.complex64)
D = OBS.dictionary(18)
PATHS = IRS.sample(2, generator=torch.Generator().manual_seed(0)).columns
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: OBS.dictionary(15), InvalidValueError, "grid=15 must be at least 16, the number of BS antennas along the axis"),
    (lambda: OBS.dictionary({"irs": 18, "ms": 5, "bs": 18}), InvalidValueError, r"grid\['ms'\]=5 must be at least 6"),
    (lambda: OBS.dictionary({"irs": 18, "ms": 6}), InvalidValueError, r"grid\['bs'\] is missing"),
    (lambda: OBS.dictionary({"irs": 18, "ms": 6, "bs": 16, "ris": 3}), UnknownNameError, "grid='ris' is unknown"),
    (lambda: OBS.dictionary({"irs": (18, 18), "ms": 6, "bs": 16}), InvalidValueError, "one number for each of 1 axes"),
    (lambda: OBS.dictionary(18.0), InvalidTypeError, "grid=18.0 must be an integer"),
    (lambda: OBS.dictionary(18, delays=3), InvalidValueError, "delays does not apply: the training has one subcarrier"),
    (lambda: WIDE.dictionary(18, delays=0), InvalidValueError, "delays=0 must be at least 1"),
    (lambda: WIDE.dictionary(18, delays=1e-6), InvalidTypeError, "delays=1e-06 must be a number of points or a tensor"),
    (lambda: WIDE.dictionary(18, delays=torch.ones(2, 2)), ShapeError, r"delays has shape \(2, 2\)"),
    (lambda: WIDE.dictionary(18, delays=-torch.ones(2)), InvalidValueError, "delays=-1 must be at least 0"),
    (
        lambda: IRSTraining(IRS, 3, 4, patterns="dft").dictionary(16),
        InvalidValueError,
        "grid has .* of 16 directions on the axis 'irs' that the patterns do not see .* take other patterns or another grid",
    ),
    (lambda: IRSTraining(IRS, 3, 6, pilots="dft").dictionary(18), InvalidValueError, "on the axis 'ms' that the pilots do not"),
    (lambda: OBS.atoms("delay", torch.ones(2)), UnknownNameError, r"axis='delay' is unknown .*irs, ms, bs"),
    (lambda: OBS.atoms("ms", torch.ones(2).long()), InvalidTypeError, "u has dtype torch.int64"),
    (lambda: OBS.atoms("ms", torch.ones(2) / 0), InvalidValueError, "u holds 2 NaN or infinite"),
    (lambda: made("square surface")[0].atoms("irs", torch.ones(3)), ShapeError, r"u has shape \(3,\); the planar axis 'irs'"),
    (
        lambda: D.cascade(X, torch.ones(31).to(X.dtype)),
        ShapeError,
        r"reflection has shape \(31,\); the last axes must be \(32\)",
    ),
    (lambda: D.cascade(X, torch.ones(32)), InvalidTypeError, "reflection has dtype torch.float32"),
    (lambda: D.cascade(X, torch.ones(2, 3, 32).to(X.dtype)), ShapeError, r"reflection has shape \(2, 3, 32\); it must be"),
    (lambda: D.element_cascade(X[1:]), ShapeError, r"x has shape \(17, 18, 18\)"),
    (lambda: D.support(3), InvalidTypeError, "draw must be an IRSDraw or a mapping of its columns, got int"),
    (lambda: D.support(cdl_draw(torch.Generator().manual_seed(0))), InvalidValueError, "draw has no 'ms_irs_arrival'"),
    (lambda: D.mode_support({}), InvalidValueError, "draw has no 'ms_irs_arrival'"),
    (lambda: made("square surface")[1].support(PATHS), ShapeError, "directions have 1 cosines a path; factor 'irs' has 2 axes"),
    (lambda: WIDE.dictionary(18).support(PATHS), InvalidValueError, "draw has no 'ms_irs_delay'"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
