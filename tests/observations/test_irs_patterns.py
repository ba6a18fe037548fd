"""Reflection patterns and pilots of IRS training: orthogonality, draws that are not degenerate, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.observations import irs_patterns
from wichan.observations.irs_training_patterns import hadamard_matrix, irs_pilots, is_well_conditioned

ORDERS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68, 72, 80, 84, 88, 96, 104, 108, 128, 256)


def seen(patterns: torch.Tensor, direct: bool) -> torch.Tensor:
    """Patterns with the column that a direct link adds."""
    return torch.cat([torch.ones_like(patterns[:, :1]), patterns], dim=1) if direct else patterns


@pytest.mark.parametrize("order", ORDERS)
def test_hadamard_matrices(order: int) -> None:
    matrix = hadamard_matrix(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.mT, order * torch.eye(order, dtype=torch.float64))
    assert bool((matrix[:, 0] == 1).all())


def test_hadamard_orders_that_are_left_out() -> None:
    refused = []
    for order in range(4, 101, 4):
        try:
            hadamard_matrix(order)
        except InvalidValueError:
            refused.append(order)
    assert refused == [28, 36, 52, 56, 76, 92, 100]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    ("kind", "count", "elements"), [("dft", 7, 6), ("dft", 12, 6), ("hadamard", 8, 7), ("hadamard", 12, 6)]
)
def test_enough_patterns_are_orthogonal_with_the_direct_link(kind: str, count: int, elements: int, direct: bool) -> None:
    patterns = irs_patterns(count, elements, kind, direct=direct)
    columns = seen(patterns, direct)
    gram = columns.mH @ columns
    # sums of up to 12 numbers of modulus 1
    torch.testing.assert_close(gram, count * torch.eye(columns.shape[1], dtype=torch.complex128), rtol=0, atol=1e-13)
    torch.testing.assert_close(patterns.abs(), torch.ones(count, elements, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "elements"), [("dft", 16), ("dft", 10), ("hadamard", 16)])
def test_few_patterns_are_orthogonal_rows_that_the_generator_picks(
    kind: str, elements: int, generator: torch.Generator
) -> None:
    patterns = irs_patterns(4, elements, kind, generator=generator)
    gram = patterns @ patterns.mH
    torch.testing.assert_close(gram, elements * torch.eye(4, dtype=torch.complex128), rtol=0, atol=1e-13)
    others = irs_patterns(4, elements, kind, generator=generator)
    assert not torch.equal(patterns, others)


def test_few_hadamard_patterns_of_a_surface_of_any_size(generator: torch.Generator) -> None:
    patterns = irs_patterns(3, 9, "hadamard", generator=generator, direct=True)
    assert patterns.shape == (3, 9)
    assert torch.equal(patterns.abs(), torch.ones(3, 9, dtype=torch.float64))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("count", "elements"), [(1, 1), (2, 2), (3, 3), (6, 256), (16, 15), (40, 8)])
def test_random_patterns_are_signs_that_can_be_told_apart(count: int, elements: int, direct: bool) -> None:
    for seed in range(20):
        patterns = irs_patterns(count, elements, generator=torch.Generator().manual_seed(seed), direct=direct)
        assert torch.equal(patterns.imag, torch.zeros(count, elements, dtype=torch.float64))
        assert set(patterns.real.flatten().tolist()) <= {-1.0, 1.0}
        assert is_well_conditioned(seen(patterns, direct))


def test_plain_signs_would_often_be_degenerate(generator: torch.Generator) -> None:
    """Half of all 2 x 2 sign matrices are singular: the redraw is needed, and the share says that it looks at the rank."""
    draws = 2.0 * torch.randint(0, 2, (400, 2, 2), generator=generator) - 1
    good = [is_well_conditioned(draw.double()) for draw in draws]
    rank = [int(torch.linalg.matrix_rank(draw)) == 2 for draw in draws]
    assert good == rank
    assert 150 < sum(good) < 250  # 400 draws of chance one half: five standard deviations are 50


def test_entries_of_random_patterns_are_balanced(generator: torch.Generator) -> None:
    mean = irs_patterns(64, 256, generator=generator).real.mean()
    assert abs(float(mean)) < 5 / 128  # 16384 signs


def test_one_generator_one_draw() -> None:
    first, second = (irs_patterns(6, 32, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["qpsk", "dft"])
@pytest.mark.parametrize(("antennas", "count"), [(1, 1), (6, 3), (4, 9)])
def test_pilot_vectors_have_power_one(kind: str, antennas: int, count: int, generator: torch.Generator) -> None:
    pilots = irs_pilots(antennas, count, kind, generator=generator)
    torch.testing.assert_close(pilots.abs().square().sum(0), torch.ones(count, dtype=torch.float64))
    torch.testing.assert_close(pilots.abs(), torch.full((antennas, count), antennas**-0.5, dtype=torch.float64))
    if kind == "qpsk":
        angle = torch.angle(pilots) / (torch.pi / 4)
        assert torch.allclose(angle.abs() % 2, torch.ones_like(angle))
        assert is_well_conditioned(pilots)
    elif count >= antennas:
        eye = count / antennas * torch.eye(antennas, dtype=torch.complex128)
        torch.testing.assert_close(pilots @ pilots.mH, eye, rtol=0, atol=1e-13)


G = torch.Generator()
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: irs_patterns(0, 4, generator=G), InvalidValueError, "num_patterns=0 must be at least 1"),
    (lambda: irs_patterns(2, 0, generator=G), InvalidValueError, "num_elements=0 must be at least 1"),
    (lambda: irs_patterns(2.5, 4, generator=G), InvalidTypeError, "num_patterns=2.5 must be an integer"),
    (lambda: irs_patterns(2, 4, "randm"), UnknownNameError, "patterns='randm' is unknown; did you mean 'random'"),
    (lambda: irs_patterns(2, 4), InvalidTypeError, "generator must be a torch.Generator"),
    (lambda: irs_patterns(2, 4, "dft"), InvalidTypeError, "generator must be a torch.Generator"),
    (lambda: irs_patterns(6, 3, "hadamard"), InvalidValueError, "num_patterns=6 is not the order .* nearest are 4 and 8"),
    (lambda: irs_patterns(30, 3, "hadamard"), InvalidValueError, "num_patterns=30 .* nearest are 24 and 32"),
    (lambda: hadamard_matrix(0), InvalidValueError, "order=0 must be at least 1"),
    (lambda: irs_pilots(0, 3, "dft"), InvalidValueError, "num_tx_ant=0 must be at least 1"),
    (lambda: irs_pilots(3, 0, "dft"), InvalidValueError, "num_pilots=0 must be at least 1"),
    (lambda: irs_pilots(3, 2, "bpsk"), UnknownNameError, "pilots='bpsk' is unknown"),
    (lambda: irs_pilots(3, 2), InvalidTypeError, "generator must be a torch.Generator"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
