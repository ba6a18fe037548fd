"""Known sequences of IRS training: reflection patterns over time and pilots over the terminal's antennas."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_finite, check_generator, check_int, check_tensor

PATTERN_KINDS = ("random", "dft", "hadamard")
PILOT_KINDS = ("qpsk", "dft")
# Above this size a draw is degenerate with probability 2^-256, and looking would take longer than drawing.
MAX_CHECKED = 256
MAX_DRAWS = 100


def irs_patterns(
    num_patterns: int,
    num_elements: int,
    kind: str = "random",
    *,
    generator: torch.Generator | None = None,
    direct: bool = False,
) -> torch.Tensor:
    r"""Reflection patterns of modulus 1, one row a pattern.

    With as many patterns as unknowns, ``num_patterns >= num_elements + direct``, the columns of "dft" and "hadamard" are
    orthogonal, :math:`\Theta^H\Theta = K I`, and so is the column of ones that a direct link sees. With fewer, the patterns
    are rows of such a matrix that the generator picks; they are orthogonal to each other where it is square.

    Args:
        num_patterns: K.
        num_elements: L.
        kind: ``"random"``, entries +-1 with equal chances, redrawn until the patterns can be told apart (see
            `is_well_conditioned`); ``"dft"``; ``"hadamard"``, whose entries are +-1 too.
        generator: source of the draw; not needed for "dft" and "hadamard" with as many patterns as unknowns.
        direct: whether patterns should be orthogonal to a direct link, which none of them changes.

    Returns:
        complex128, (K, L).

    Raises:
        UnknownNameError, InvalidTypeError, InvalidValueError: unknown kind, a size below 1, no generator where one is
            needed, or "hadamard" with ``num_patterns`` that is not the order of a matrix that `hadamard_matrix` knows.

    Example:
        >>> patterns = irs_patterns(8, 8, "hadamard")
        >>> torch.equal(patterns @ patterns.mH, 8 * torch.eye(8, dtype=torch.complex128))
        True
    """
    rows = check_int("num_patterns", num_patterns, minimum=1)
    columns = check_int("num_elements", num_elements, minimum=1)
    check_choice("patterns", kind, PATTERN_KINDS)
    unknowns = columns + bool(direct)
    if kind == "random":
        return _signs(rows, columns, direct, check_generator("generator", generator))
    order = max(rows, unknowns)
    if kind == "hadamard" and rows < unknowns:
        order = _next_order(unknowns)
    if rows < order:
        source = check_generator("generator", generator)
        chosen = torch.randperm(order, generator=source, device=source.device)[:rows].cpu().sort().values
    else:
        chosen = torch.arange(rows)
    # The first column, all ones, belongs to the direct link.
    places = torch.arange(columns) + bool(direct)
    if kind == "dft":
        return fourier(chosen, places, order)
    return hadamard_matrix(order)[chosen][:, places].to(torch.complex128)


def irs_pilots(
    num_tx_ant: int, num_pilots: int, kind: str = "qpsk", *, generator: torch.Generator | None = None
) -> torch.Tensor:
    r"""Pilots of a terminal with several antennas; every pilot vector has power 1.

    Args:
        num_tx_ant: antennas of the terminal.
        num_pilots: P.
        kind: ``"qpsk"``, independent QPSK symbols, redrawn like random patterns; ``"dft"``,
            :math:`e^{-j2\pi mp/\max(P,N)}`, whose rows are orthogonal for P >= num_tx_ant.
        generator: source of the symbols; not needed for "dft".

    Returns:
        complex128, (num_tx_ant, P).
    """
    rows = check_int("num_tx_ant", num_tx_ant, minimum=1)
    columns = check_int("num_pilots", num_pilots, minimum=1)
    scale = rows**-0.5
    if check_choice("pilots", kind, PILOT_KINDS) == "dft":
        return scale * fourier(torch.arange(rows), torch.arange(columns), max(rows, columns))
    source = check_generator("generator", generator)

    def draw() -> torch.Tensor:
        signs = _random_signs((2, rows, columns), source)
        return torch.complex(signs[0], signs[1]) * (scale / math.sqrt(2))

    return _redrawn(draw, lambda symbols: symbols)


def given_or_made(label: str, value: Any, shape: tuple[int, int], make: Any) -> torch.Tensor:
    """A matrix that the caller gave, checked, or the one that ``make`` makes of its name; complex128."""
    if isinstance(value, str):
        made: torch.Tensor = make(value)
        return made
    check_finite(label, check_tensor(label, value))
    if tuple(value.shape) != shape:
        raise ShapeError(f"{label} has shape {tuple(value.shape)}; it must be {shape}")
    if not (value.is_complex() or value.is_floating_point()):
        value = value.to(torch.float64)
    return value.to(torch.complex128)


def fourier(rows: torch.Tensor, columns: torch.Tensor, order: int) -> torch.Tensor:
    r"""Entries :math:`e^{-j2\pi rc/n}` of a DFT matrix of order n; the product is taken modulo n, so that none is rounded."""
    place = torch.outer(rows, columns) % order
    phase = place.double() * (-2 * math.pi / order)
    return torch.polar(torch.ones_like(phase), phase)


def is_well_conditioned(matrix: torch.Tensor) -> bool:
    r"""Whether the rows (of a wide matrix) or the columns (of a tall one) of unit-modulus entries can be told apart.

    The Gram matrix of the n shorter vectors, over their length m, has eigenvalues that spread between
    :math:`(1 \pm \sqrt{n/m})^2`; the smallest must reach half of the lower end, or of :math:`1/m^2` where that is more.
    """
    short, long = sorted(matrix.shape)
    if short > MAX_CHECKED:
        return True
    wide = matrix if matrix.shape[0] == short else matrix.mT
    power = float(wide.abs().square().mean()) * long
    smallest = float(torch.linalg.eigvalsh(wide @ wide.mH)[0]) / power
    return smallest >= 0.5 * max((1 - math.sqrt(short / long)) ** 2, long**-2)


def _random_signs(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    bits = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (2 * bits - 1).to("cpu", torch.float64)


def _signs(rows: int, columns: int, direct: bool, generator: torch.Generator) -> torch.Tensor:
    def with_direct(signs: torch.Tensor) -> torch.Tensor:
        return torch.cat([signs, torch.ones(rows, 1, dtype=torch.float64)], dim=1) if direct else signs

    return _redrawn(lambda: _random_signs((rows, columns), generator), with_direct).to(torch.complex128)


def _redrawn(draw: Any, seen: Any) -> torch.Tensor:
    """The first draw that is well conditioned as the receiver sees it; the last one where none of many is."""
    for _ in range(MAX_DRAWS):
        matrix: torch.Tensor = draw()
        if is_well_conditioned(seen(matrix)):
            break
    return matrix


# -- Hadamard matrices. --


def hadamard_matrix(order: int) -> torch.Tensor:
    """A matrix of +-1 with orthogonal rows and columns, float64 (order, order); its first column is all ones.

    Orders are 1, 2, q + 1 for a prime q = 4k + 3 (Paley), and twice an order (Sylvester): of the multiples of 4 up to
    100 all but 28, 36, 52, 56, 76, 92 and 100.

    Raises:
        InvalidValueError: another order; the message names the nearest.
    """
    size = check_int("order", order, minimum=1)
    if not _is_order(size):
        near = [n for n in (_next_order(size, -1), _next_order(size)) if n]
        raise InvalidValueError(
            f"num_patterns={size} is not the order of a Hadamard matrix that can be made here; the nearest are "
            f"{' and '.join(map(str, near))}"
        )
    return _hadamard(size)


def _hadamard(order: int) -> torch.Tensor:
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 2 == 0 and _is_order(order // 2):
        half = _hadamard(order // 2)
        return torch.cat([torch.cat([half, half], dim=1), torch.cat([half, -half], dim=1)])
    prime = order - 1
    square = torch.full((prime,), -1.0, dtype=torch.float64)
    square[torch.arange(prime) ** 2 % prime] = 1.0  # which numbers are squares modulo the prime
    square[0] = 0.0
    steps = torch.arange(prime)
    matrix = torch.eye(order, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, -1.0
    matrix[1:, 1:] += square[(steps[None, :] - steps[:, None]) % prime]
    return matrix * matrix[:, :1]  # rows with the sign that makes the first column all ones


def _is_order(order: int) -> bool:
    if order in (1, 2):
        return True
    if order < 1 or order % 4:
        return False
    prime = order - 1
    is_prime = all(prime % d for d in range(2, math.isqrt(prime) + 1))
    return is_prime or _is_order(order // 2)


def _next_order(size: int, step: int = 1) -> int:
    while size > 0 and not _is_order(size):
        size += step
    return size
