"""LMMSE in its modes against the dense textbook formula, in complex128."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wichan.channels import CDL, TDL, ULA, RayleighBlock, RicianBlock
from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.estimators.joint_filter import JointFilter
from wichan.estimators.lmmse import LMMSE
from wichan.estimators.mismatched import KroneckerFilter, SuccessiveFilter
from wichan.estimators.spectral import SeparableFilter
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.random import complex_normal

GRID = OFDMGrid(num_ofdm_symbols=6, num_subcarriers=24, subcarrier_spacing=30e3)
COMB = OFDMPilots(GRID, symbols=(1, 4), subcarrier_step=3)
RX3 = torch.tensor([[1, 0.5, 0.2j], [0.5, 1, 0.5], [-0.2j, 0.5, 1]], dtype=torch.complex128)
RX2 = torch.tensor([[1, 0.5], [0.5, 1]], dtype=torch.complex128)
TX2 = torch.tensor([[1, 0.9j], [-0.9j, 1]], dtype=torch.complex128)
FADING = {"delay_spread": 300e-9, "max_doppler": 500.0}


def random_covariance() -> ChannelCovariance:
    generator = torch.Generator().manual_seed(11)
    ranks = ((3, 2), (6, 2), (24, 1))
    terms = [
        KroneckerTerm(*(complex_normal(r, 0.3, generator=generator, dtype=torch.complex128) for r in ranks)) for _ in range(5)
    ]
    return ChannelCovariance(terms, 3, 1)


def sampled_covariance() -> ChannelCovariance:
    h = complex_normal((40, 1, 1, *GRID.shape), generator=torch.Generator().manual_seed(12))
    return ChannelCovariance.from_samples(h)


def scattered() -> OFDMPilots:
    """Pilots on a diagonal: no product of symbols and subcarriers, and of unequal power."""
    full = torch.zeros(GRID.shape, dtype=torch.complex64)
    for k in range(0, 24, 2):
        full[k // 2 % 6, k] = 1 + 0.1j * k
    return OFDMPilots.from_pattern(GRID, full)


def irregular() -> OFDMPilots:
    """Pilots on symbols x subcarriers, but no regular comb."""
    full = torch.zeros(GRID.shape, dtype=torch.complex64)
    rows, columns = torch.tensor([0, 1, 4]), torch.tensor([0, 1, 5, 11, 12, 23])
    full[rows[:, None], columns] = 2j
    return OFDMPilots.from_pattern(GRID, full)


CASES: dict[str, tuple[Callable[[], OFDMPilots], Callable[[], ChannelCovariance], type]] = {
    "one product": (lambda: COMB, lambda: TDL("A", **FADING).covariance(GRID), SeparableFilter),
    "one product, irregular pilots": (irregular, lambda: TDL("A", **FADING).covariance(GRID), SeparableFilter),
    "one product, one pilot": (
        lambda: OFDMPilots(GRID, (3,), 24),
        lambda: TDL("A", **FADING).covariance(GRID),
        SeparableFilter,
    ),
    "white antennas": (lambda: COMB, lambda: TDL("A", num_rx_ant=3, **FADING).covariance(GRID), SeparableFilter),
    "correlated antennas": (
        lambda: COMB,
        lambda: TDL("A", num_rx_ant=3, rx_correlation=RX3, **FADING).covariance(GRID),
        SeparableFilter,
    ),
    "flat in time and frequency": (lambda: COMB, lambda: RayleighBlock(num_rx_ant=2).covariance(GRID), SeparableFilter),
    "scattered pilots": (scattered, lambda: TDL("A", **FADING).covariance(GRID), JointFilter),
    "scattered pilots, correlated antennas": (
        scattered,
        lambda: TDL("A", num_rx_ant=3, rx_correlation=RX3, **FADING).covariance(GRID),
        JointFilter,
    ),
    "line of sight": (lambda: COMB, lambda: TDL("D", **FADING).covariance(GRID), JointFilter),
    "line of sight over antennas": (lambda: COMB, lambda: RicianBlock(3, k_factor_db=3.0).covariance(GRID), JointFilter),
    "many terms": (lambda: COMB, random_covariance, JointFilter),
    "samples": (lambda: COMB, sampled_covariance, JointFilter),
    "two transmit antennas": (
        lambda: OFDMPilots(GRID, (1, 4), 2, num_tx_ant=2),
        lambda: TDL("A", num_rx_ant=2, num_tx_ant=2, rx_correlation=RX2, tx_correlation=TX2, **FADING).covariance(GRID),
        JointFilter,
    ),
    "two transmit antennas, line of sight": (
        lambda: OFDMPilots(GRID, (1, 4), 2, num_tx_ant=2),
        lambda: TDL("D", num_rx_ant=2, num_tx_ant=2, **FADING).covariance(GRID),
        JointFilter,
    ),
}


def textbook(obs: OFDMPilots, matrix: torch.Tensor, num_rx_ant: int, no: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return W = R P^H (P R P^H + no I)^-1 and P, both dense."""
    pilots = obs.matrix(num_rx_ant).to(torch.complex128)
    seen = pilots @ matrix
    gram = seen @ pilots.mH + no * torch.eye(len(pilots), dtype=torch.float64)
    return torch.linalg.solve(gram, seen).mH, pilots


def true_error(filters: torch.Tensor, pilots: torch.Tensor, matrix: torch.Tensor, no: float) -> torch.Tensor:
    """Diagonal of the error covariance of any linear filter under R = ``matrix``."""
    left = torch.eye(len(matrix), dtype=torch.complex128) - filters @ pilots
    return ((left @ matrix @ left.mH) + no * filters @ filters.mH).diagonal().real


def dense_filter(lmmse: LMMSE, obs: OFDMPilots, num_rx_ant: int, no: float) -> torch.Tensor:
    """The filter of a linear estimator, column by column, from unit observations."""
    count = num_rx_ant * obs.num_pilots
    units = torch.eye(count, dtype=torch.complex128).unflatten(1, (num_rx_ant, obs.num_pilots))
    grid = torch.zeros(count, num_rx_ant, obs.grid.num_resource_elements, dtype=torch.complex128)
    grid[..., obs.pilot_index] = units
    return lmmse(grid.unflatten(-1, obs.grid.shape), no).h_hat.flatten(1).T


@pytest.mark.parametrize("no", [0.03, 1e-4])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_textbook(case: tuple, no: float) -> None:
    obs, covariance, kind = case[0](), case[1](), case[2]
    lmmse, rx = LMMSE(obs, covariance), covariance.num_rx_ant
    assert type(lmmse.filter) is kind
    matrix = covariance.matrix()
    filters, pilots = textbook(obs, matrix, rx, no)
    # The dense solve is the less exact of the two: its matrix has a condition number of largest eigenvalue over no.
    scale = float(matrix.abs().max()) / no
    torch.testing.assert_close(dense_filter(lmmse, obs, rx, no), filters, rtol=0, atol=1e-9 if no > 0.01 else 1e-13 * scale**2)
    want = (matrix - filters @ pilots @ matrix).diagonal().real
    y = torch.zeros(2, rx, *GRID.shape, dtype=torch.complex128)
    for value in (no, torch.tensor([no, 7.0], dtype=torch.float64)):
        err_var = lmmse(y, value).err_var[0].flatten()
        torch.testing.assert_close(err_var, want, rtol=0, atol=1e-9 * float(want.max()))
    torch.testing.assert_close(lmmse.expected_error(no).flatten(), want, rtol=0, atol=1e-9 * float(want.max()))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_single_precision_follows_double(case: tuple, generator: torch.Generator) -> None:
    obs, covariance = case[0](), case[1]()
    lmmse = LMMSE(obs, covariance)
    y = complex_normal((5, covariance.num_rx_ant, *GRID.shape), generator=generator, dtype=torch.complex128)
    double, single = lmmse(y, 0.03), lmmse(y.to(torch.complex64), 0.03)
    assert single.h_hat.dtype == torch.complex64
    assert single.err_var.dtype == torch.float32
    # A dozen float32 roundings of numbers of order 1.
    torch.testing.assert_close(single.h_hat.to(torch.complex128), double.h_hat, rtol=0, atol=5e-6)
    torch.testing.assert_close(single.err_var.double(), double.err_var, rtol=1e-5, atol=0)


def test_large_grids_take_filters_axis_by_axis() -> None:
    """Above some size one matrix for all pilots costs more than one for each axis; the answer stays."""
    grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=96, subcarrier_spacing=30e3)
    obs = OFDMPilots(grid, (1, 4, 7, 10, 13), 1)
    lmmse = LMMSE(obs, TDL("A", delay_spread=1e-6, max_doppler=2000.0).covariance(grid))
    assert isinstance(lmmse.filter, SeparableFilter)
    lmmse(torch.ones(1, 1, *grid.shape, dtype=torch.complex128), 0.1)
    assert "see_time" in lmmse.filter._matrices(torch.complex128)
    small = LMMSE(COMB, TDL("A", **FADING).covariance(GRID))
    assert isinstance(small.filter, SeparableFilter)
    assert "see" in small.filter._matrices(torch.complex128)
    y = complex_normal((2, 1, *grid.shape), generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    joint = JointFilter(obs, TDL("A", delay_spread=1e-6, max_doppler=2000.0).covariance(grid), 1e-15)
    pilots, no = obs.extract(y), torch.tensor(0.1, dtype=torch.float64)
    want = joint.estimate(pilots, joint.prepare(no, torch.complex128))
    torch.testing.assert_close(lmmse(y, 0.1).h_hat, want, rtol=0, atol=1e-9)


def test_tucker_form_equals_dense_form() -> None:
    """A large array keeps its modes in Tucker form; a small problem expands them."""
    grid = OFDMGrid(num_ofdm_symbols=8, num_subcarriers=48, subcarrier_spacing=30e3)
    obs = OFDMPilots(grid, (1, 5), 4)
    model = CDL("D", delay_spread=300e-9, carrier_frequency=3.5e9, speed=30.0, rx_array=ULA(4))
    covariance = model.covariance(grid)
    lmmse = LMMSE(obs, covariance, rtol=1e-12)
    assert isinstance(lmmse.filter, JointFilter)
    assert lmmse.filter.modes.factor().bases[2] is not None
    dense = LMMSE(obs, ChannelCovariance.from_matrix(covariance.matrix(), covariance.shape), rtol=1e-12)
    assert isinstance(dense.filter, JointFilter)
    assert dense.filter.modes.factor().bases[2] is None
    y = complex_normal((3, 4, *grid.shape), generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    # Both leave out what lies below 1e-12 of the largest eigenvalue, and not quite the same.
    torch.testing.assert_close(lmmse(y, 0.1).h_hat, dense(y, 0.1).h_hat, rtol=0, atol=1e-6)
    torch.testing.assert_close(lmmse(y, 0.1).err_var, dense(y, 0.1).err_var, rtol=0, atol=1e-8)


MISMATCHED = {
    "line of sight": lambda: TDL("D", **FADING).covariance(GRID),
    "line of sight over antennas": lambda: TDL("D", num_rx_ant=2, **FADING).covariance(GRID),
    "clusters over antennas": lambda: CDL(
        "A", delay_spread=300e-9, carrier_frequency=3.5e9, speed=30.0, rx_array=ULA(3)
    ).covariance(GRID),
    "samples": sampled_covariance,
}


@pytest.mark.parametrize("structure", ["kronecker", "separable"])
@pytest.mark.parametrize("make", MISMATCHED.values(), ids=MISMATCHED.keys())
def test_approximations_know_their_true_error(make: Callable[[], ChannelCovariance], structure: str) -> None:
    covariance = make()
    lmmse, rx, no = LMMSE(COMB, covariance, structure), covariance.num_rx_ant, 0.03
    assert type(lmmse.filter) is {"kronecker": KroneckerFilter, "separable": SuccessiveFilter}[structure]
    matrix, pilots = covariance.matrix(), COMB.matrix(rx).to(torch.complex128)
    want = true_error(dense_filter(lmmse, COMB, rx, no), pilots, matrix, no)
    torch.testing.assert_close(lmmse.expected_error(no).flatten(), want, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("make", MISMATCHED.values(), ids=MISMATCHED.keys())
def test_kronecker_is_the_lmmse_of_the_marginals(make: Callable[[], ChannelCovariance]) -> None:
    covariance, no = make(), 0.03
    filters = textbook(COMB, covariance.kronecker().matrix(), covariance.num_rx_ant, no)[0]
    found = dense_filter(LMMSE(COMB, covariance, "kronecker"), COMB, covariance.num_rx_ant, no)
    torch.testing.assert_close(found, filters, rtol=0, atol=1e-9)


@pytest.mark.parametrize("no", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", MISMATCHED)
def test_joint_is_best(name: str, no: float) -> None:
    covariance = MISMATCHED[name]()
    error = {s: LMMSE(COMB, covariance, s).expected_error(no) for s in ("joint", "kronecker", "separable")}
    for structure in ("kronecker", "separable"):
        # Joint is the minimum for every entry, not only on average; 1e-9 for rounding.
        assert bool((error["joint"] <= error[structure] * (1 + 1e-9)).all())
        assert float(error["joint"].mean()) < float(error[structure].mean())
    if name == "clusters over antennas":
        # No theorem where R is no product (with line of sight, white handed-over noise hedges against the mismatch).
        assert float(error["kronecker"].mean()) < float(error["separable"].mean())


@pytest.mark.parametrize("no", [1e-3, 0.1, 10.0])
def test_structures_of_a_product(no: float) -> None:
    """For one Kronecker product, joint and kronecker coincide, and filters in turn are worse."""
    covariance = TDL("A", num_rx_ant=2, rx_correlation=RX2, **FADING).covariance(GRID)
    joint, kronecker, separable = (LMMSE(COMB, covariance, s).expected_error(no) for s in ("joint", "kronecker", "separable"))
    torch.testing.assert_close(kronecker, joint)
    assert float(separable.mean()) > float(joint.mean()) * (1 + 1e-6)
    assert bool((separable >= joint * (1 - 1e-9)).all())


def test_separable_stages_by_hand() -> None:
    """The hand-over of noise, written out for one receive antenna."""
    covariance, no = TDL("A", **FADING).covariance(GRID), 0.2
    term = covariance.terms[0]
    assert isinstance(term, KroneckerTerm)
    time, frequency = (m @ m.mH for m in (term.time, term.frequency))
    power = float(frequency.diagonal().real.mean())
    stages, noise = [], no / (power * float(COMB.pilot_values().abs().square().mean()))
    for matrix, index in ((frequency / power, COMB.pilot_subcarriers), (time, COMB.pilot_symbols)):
        seen = matrix[index]
        filters = torch.linalg.solve(seen[:, index] + noise * torch.eye(len(index), dtype=torch.float64), seen).mH
        error = float((matrix - filters @ seen).diagonal().real.mean())
        stages.append((filters, error))
        noise = error / (1 - error)
    want = torch.kron(stages[1][0], stages[0][0] / (1 - stages[0][1])) / COMB.pilot_values(torch.complex128)
    found = dense_filter(LMMSE(COMB, covariance, "separable"), COMB, 1, no)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("structure", ["joint", "kronecker", "separable"])
@pytest.mark.parametrize("profile", ["A", "D"])
def test_batch_of_conditions_equals_one_by_one(profile: str, structure: str, generator: torch.Generator) -> None:
    model = TDL(profile, num_rx_ant=2, rx_correlation=RX2, **FADING)
    spread, doppler = torch.linspace(25e-9, 300e-9, 4), torch.linspace(0, 700, 4)
    covariance = model.covariance(GRID, delay_spread=spread, max_doppler=doppler)
    y = complex_normal((4, 3, 2, *GRID.shape), generator=generator, dtype=torch.complex128)
    no = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.01
    batched = LMMSE(COMB, covariance, structure)
    together, by_condition, by_frame = batched(y, 0.03), batched(y, no[:, 0]), batched(y, no)
    for i in range(4):
        one = LMMSE(COMB, model.covariance(GRID, delay_spread=float(spread[i]), max_doppler=float(doppler[i])), structure)
        for found, value in ((together, 0.03), (by_condition, float(no[i, 0])), (by_frame, no[i])):
            want = one(y[i], value)
            torch.testing.assert_close(found.h_hat[i], want.h_hat, rtol=0, atol=1e-9)
            torch.testing.assert_close(found.err_var[i], want.err_var, rtol=1e-8, atol=1e-12)


def test_many_conditions_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    from wichan.estimators import lmmse as module

    spread = torch.linspace(25e-9, 300e-9, 9)
    covariance = TDL("A", **FADING).covariance(GRID, delay_spread=spread)
    y = complex_normal((9, 1, *GRID.shape), generator=generator)
    whole = LMMSE(COMB, covariance)(y, 0.1)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 2**17)
    calls: list[int] = []
    original = SeparableFilter.__init__

    def counted(self: SeparableFilter, obs: OFDMPilots, term: KroneckerTerm) -> None:
        calls.append(term.batch_shape[0])
        original(self, obs, term)

    monkeypatch.setattr(SeparableFilter, "__init__", counted)
    cut = LMMSE(COMB, covariance)(y, 0.1)
    assert len(calls) > 1
    assert sum(calls) == 9
    torch.testing.assert_close(cut.h_hat, whole.h_hat)
    torch.testing.assert_close(cut.err_var, whole.err_var)
