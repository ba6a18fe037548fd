"""Pilot patterns: which resource elements of which transmit antenna carry which known symbol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_int, check_real, check_tensor
from wichan.grid import OFDMGrid, check_grid
from wichan.observations.sequences import default_values


@dataclass(frozen=True, eq=False)
class PilotPattern:
    r"""Known symbols on the grid, one layer a transmit antenna.

    Antenna :math:`a` sends :math:`\sqrt{b}\, p_a(t, k)`: zero where it is silent.

    Args:
        name: what the pattern is called in cards and messages.
        pilots: complex, (num_tx_ant, num_ofdm_symbols, num_subcarriers), before the boost; zero where silent.
        boost: power factor :math:`b` on every pilot, greater than 0 (1 is no boost).
        groups: optional int64, (num_ofdm_symbols, num_subcarriers): elements with the same label are despread together
            (a code-division group); -1 where there is no pilot. ``None``: antennas do not share elements, or the receiver
            pairs neighbours by itself.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: pilots that are not complex, not finite, or an antenna without any;
            a boost that is not positive; groups that do not fit.
    """

    name: str
    pilots: torch.Tensor
    boost: float = 1.0
    groups: torch.Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("pilots", self.pilots, kind="complex")
        if self.pilots.dim() != 3:
            raise ShapeError(
                f"pilots has shape {tuple(self.pilots.shape)}; it must be (num_tx_ant, num_ofdm_symbols, num_subcarriers)"
            )
        check_finite("pilots", self.pilots)
        check_real("boost", self.boost, positive=True)
        if self.pilots.numel() == 0:
            raise ShapeError(f"pilots has shape {tuple(self.pilots.shape)}; every axis must be at least 1")
        silent = [a for a, layer in enumerate(self.pilots.detach()) if not bool((layer != 0).any())]
        if silent:
            raise InvalidValueError(f"pilots of transmit antenna {silent[0]} are all zero; every antenna must send")
        if self.groups is not None:
            self._check_groups(self.groups)

    def _check_groups(self, groups: torch.Tensor) -> None:
        if not isinstance(groups, torch.Tensor) or groups.dtype != torch.int64:
            raise InvalidTypeError("groups must be an int64 tensor of labels, or None")
        if groups.shape != self.pilots.shape[1:]:
            raise ShapeError(f"groups has shape {tuple(groups.shape)}; the pilots ask for {tuple(self.pilots.shape[1:])}")
        if not torch.equal(groups >= 0, (self.pilots.detach() != 0).any(dim=0)):
            raise InvalidValueError("groups must be at least 0 exactly where a pilot is sent, and -1 elsewhere")

    @property
    def num_tx_ant(self) -> int:
        """Transmit antennas."""
        return self.pilots.shape[0]

    @property
    def values(self) -> torch.Tensor:
        """Transmitted symbols with the boost, complex, (num_tx_ant, num_ofdm_symbols, num_subcarriers)."""
        return self.pilots if self.boost == 1.0 else self.pilots * self.boost**0.5


def check_symbols(symbols: Any, num_ofdm_symbols: int) -> list[int]:
    """Return pilot symbol indices, ascending: not empty, inside the grid, none twice."""
    if isinstance(symbols, torch.Tensor):
        symbols = symbols.tolist()
    if isinstance(symbols, (str, bytes)) or not isinstance(symbols, (Sequence, range, set, frozenset)):
        raise InvalidTypeError(f"symbols must be a sequence of integers, got {type(symbols).__name__}")
    chosen = [check_int("symbols", value) for value in symbols]
    if not chosen:
        raise InvalidValueError("symbols is empty; at least one OFDM symbol must carry pilots")
    outside = [value for value in chosen if not 0 <= value < num_ofdm_symbols]
    if outside:
        raise InvalidValueError(f"symbols holds {outside[0]}, outside the grid (allowed: 0 to {num_ofdm_symbols - 1})")
    if len(set(chosen)) < len(chosen):
        double = next(value for value in chosen if chosen.count(value) > 1)
        raise InvalidValueError(f"symbols holds {double} more than once; every symbol may appear once")
    return sorted(chosen)


def check_comb(step: Any, offset: Any, num_subcarriers: int) -> list[int]:
    """Return the pilot subcarriers ``offset, offset + step, ...`` of a comb."""
    step = check_int("subcarrier_step", step, minimum=1)
    if step > num_subcarriers:
        raise InvalidValueError(f"subcarrier_step={step} is larger than the grid (at most {num_subcarriers} subcarriers)")
    offset = check_int("subcarrier_offset", offset, minimum=0)
    if offset >= min(step, num_subcarriers):
        raise InvalidValueError(f"subcarrier_offset={offset} must be below subcarrier_step={step}")
    return list(range(offset, num_subcarriers, step))


def boost_from_db(boost_db: Any) -> float:
    """Power factor of a boost in dB."""
    return float(10 ** (check_real("boost_db", boost_db, minimum=-200.0, maximum=200.0) / 10))


def _placed(grid: OFDMGrid, symbols: list[int], subcarriers: list[int], values: Any) -> torch.Tensor:
    """Full-grid layer (T, F) with ``values`` on symbols x subcarriers."""
    rows, columns = torch.tensor(symbols), torch.tensor(subcarriers)
    if values is None:
        picked = default_values(*grid.shape)[rows[:, None], columns]
    else:
        if not isinstance(values, torch.Tensor):
            try:
                values = torch.as_tensor(values, dtype=torch.complex64)
            except (TypeError, ValueError, RuntimeError):
                raise InvalidTypeError(f"values must be complex numbers, got {type(values).__name__}") from None
        values = check_finite("values", check_tensor("values", values))
        want = (len(symbols), len(subcarriers))
        if values.dim() not in (0, 2) or (values.dim() == 2 and tuple(values.shape) != want):
            raise ShapeError(f"values has shape {tuple(values.shape)}; allowed are a number or {want}, symbols x subcarriers")
        if bool((values.detach() == 0).any()):
            raise InvalidValueError("values holds a zero; a pilot must have power")
        complex_dtype = torch.complex128 if values.dtype in (torch.complex128, torch.float64) else torch.complex64
        picked = values.to(complex_dtype).expand(want)
    layer = torch.zeros(grid.shape, dtype=picked.dtype, device=picked.device)
    return layer.index_put((rows[:, None].to(picked.device), columns.to(picked.device)), picked)


def comb_pattern(
    grid: OFDMGrid,
    symbols: Sequence[int] | None = None,
    subcarrier_step: int = 1,
    *,
    subcarrier_offset: int = 0,
    boost_db: float = 0.0,
    values: Any = None,
) -> PilotPattern:
    """Every ``subcarrier_step``-th subcarrier of the chosen symbols; one transmit antenna, unit energy a pilot plus the boost.

    Args:
        grid: the lattice.
        symbols: OFDM symbols with pilots (default: all).
        subcarrier_step: spacing of pilots in subcarriers, 1 to num_subcarriers.
        subcarrier_offset: first pilot subcarrier, below the step.
        boost_db: power of a pilot [dB] relative to 1.
        values: pilot symbols, a number or (num_symbols, num_pilot_subcarriers); default: the fixed QPSK sequence of
            `wichan.observations.sequences.default_values`, of modulus 1.

    Raises:
        InvalidValueError: symbols that are empty, repeated or outside the grid; a step or offset that does not fit.
    """
    num_symbols, num_subcarriers = check_grid(grid).shape
    rows = check_symbols(range(num_symbols) if symbols is None else symbols, num_symbols)
    columns = check_comb(subcarrier_step, subcarrier_offset, num_subcarriers)
    return PilotPattern("comb", _placed(grid, rows, columns, values)[None], boost_from_db(boost_db))


def block_pattern(
    grid: OFDMGrid, symbols: Sequence[int] = (0,), *, num_tx_ant: int = 1, boost_db: float = 0.0, values: Any = None
) -> PilotPattern:
    """Whole OFDM symbols of pilots; several antennas take turns in time (antenna a sends in ``symbols[a::num_tx_ant]``).

    Energy: every pilot has |p|^2 = 1 (times the boost), and an antenna is silent in the symbols of the others.
    ``values``: a number or (num_symbols, num_subcarriers).
    """
    rows = check_symbols(symbols, check_grid(grid).num_ofdm_symbols)
    count = check_int("num_tx_ant", num_tx_ant, minimum=1)
    if count > len(rows):
        raise InvalidValueError(f"num_tx_ant={count} needs as many pilot symbols, got {len(rows)}")
    full = _placed(grid, rows, list(range(grid.num_subcarriers)), values)
    turn = torch.full((grid.num_ofdm_symbols,), -1)
    turn[torch.tensor(rows)] = torch.arange(len(rows)) % count
    return PilotPattern("block", _split(full, turn[:, None].expand(grid.shape), count), boost_from_db(boost_db))


def kronecker_pattern(
    grid: OFDMGrid,
    symbols: Sequence[int],
    num_tx_ant: int,
    subcarrier_step: int = 1,
    *,
    subcarrier_offset: int = 0,
    boost_db: float = 0.0,
    values: Any = None,
) -> PilotPattern:
    """A comb whose teeth the antennas share in turn: orthogonal in frequency, zeros where an antenna is silent.

    Tooth i of the comb belongs to antenna ``i % num_tx_ant``. Energy: every pilot has |p|^2 = 1 (times the boost), so an
    antenna spends 1/num_tx_ant of the energy of the comb; Sionna's ``KroneckerPilotPattern(normalize=True)``, which gives
    each stream the energy of the full comb, is ``boost_db = 10 log10(num_tx_ant)``.
    ``values``: a number or (num_symbols, num_teeth); other arguments as in `comb_pattern`.
    """
    rows = check_symbols(symbols, check_grid(grid).num_ofdm_symbols)
    columns = check_comb(subcarrier_step, subcarrier_offset, grid.num_subcarriers)
    count = check_int("num_tx_ant", num_tx_ant, minimum=1)
    if count > len(columns):
        raise InvalidValueError(f"num_tx_ant={count} needs as many pilot subcarriers, got {len(columns)}")
    full = _placed(grid, rows, columns, values)
    turn = torch.full((grid.num_subcarriers,), -1)
    turn[torch.tensor(columns)] = torch.arange(len(columns)) % count
    return PilotPattern("kronecker", _split(full, turn.expand(grid.shape), count), boost_from_db(boost_db))


def _split(full: torch.Tensor, turn: torch.Tensor, count: int) -> torch.Tensor:
    owner = torch.arange(count)[:, None, None] == turn
    return torch.where(owner.to(full.device), full, torch.zeros_like(full))
