"""Demodulation reference signals of 5G NR (PUSCH, and PDSCH with mapping type A) as a pilot pattern."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int
from wichan.grid import OFDMGrid, check_grid
from wichan.observations.pilots import PilotPattern, boost_from_db
from wichan.observations.sequences import dmrs_seed, qpsk_sequence

# Last duration l_d [symbols] of a row -> further symbols for additional position 0, 1, 2, 3; the first symbol l_0 comes on
# top. TS 38.211 Tables 6.4.1.1.3-3 (single symbol) and 6.4.1.1.3-4 (double symbol); None: not defined.
_Row = tuple[tuple[int, ...], ...]
_SINGLE_A: dict[int, _Row | None] = {
    3: None,
    7: ((), (), (), ()),
    9: ((), (7,), (7,), (7,)),
    11: ((), (9,), (6, 9), (6, 9)),
    12: ((), (9,), (6, 9), (5, 8, 11)),
    14: ((), (11,), (7, 11), (5, 8, 11)),
}
_SINGLE_B: dict[int, _Row | None] = {
    4: ((), (), (), ()),
    7: ((), (4,), (4,), (4,)),
    9: ((), (6,), (3, 6), (3, 6)),
    11: ((), (8,), (4, 8), (3, 6, 9)),
    14: ((), (10,), (5, 10), (3, 6, 9)),
}
_DOUBLE_A: dict[int, _Row | None] = {3: None, 9: ((), ()), 12: ((), (8,)), 14: ((), (10,))}
_DOUBLE_B: dict[int, _Row | None] = {4: None, 7: ((), ()), 9: ((), (5,)), 11: ((), (7,)), 14: ((), (9,))}
_TABLES = {("A", 1): _SINGLE_A, ("B", 1): _SINGLE_B, ("A", 2): _DOUBLE_A, ("B", 2): _DOUBLE_B}


def dmrs_symbols(
    *,
    mapping_type: str = "A",
    allocation: tuple[int, int] = (0, 14),
    num_front_symbols: int = 1,
    additional_position: int = 0,
    type_a_position: int = 2,
) -> list[list[int]]:
    """OFDM symbols that carry the reference signal, in groups of ``num_front_symbols`` adjacent ones.

    Args:
        mapping_type: "A" (positions count from the slot's start) or "B" (from the start of the allocation).
        allocation: (first symbol, number of symbols); type A starts at 0.
        num_front_symbols: 1 (single-symbol) or 2 (double-symbol DMRS).
        additional_position: 0 to 3 further positions asked for (0 or 1 with double-symbol DMRS).
        type_a_position: first DMRS symbol of mapping type A, 2 or 3.

    Raises:
        InvalidValueError, UnknownNameError: a combination that TS 38.211 does not define.

    Source: 3GPP TS 38.211 clause 6.4.1.1.3.
    """
    check_choice("mapping_type", mapping_type, ("A", "B"))
    start = check_int("allocation[0]", allocation[0], minimum=0, maximum=13)
    length = check_int("allocation[1]", allocation[1], minimum=1, maximum=14 - start)
    front = check_int("num_front_symbols", num_front_symbols, minimum=1, maximum=2)
    extra = check_int("additional_position", additional_position, minimum=0, maximum=3 if front == 1 else 1)
    first = check_int("type_a_position", type_a_position, minimum=2, maximum=3) if mapping_type == "A" else 0
    if mapping_type == "A" and start:
        raise InvalidValueError(f"allocation[0]={start} must be 0 with mapping_type='A'")
    if mapping_type == "A" and extra == 3 and first != 2:
        raise InvalidValueError("additional_position=3 needs type_a_position=2 with mapping_type='A'")
    table = _TABLES[mapping_type, front]
    row = table[min(last for last in table if last >= length)]
    if row is None or first + front > length:
        raise InvalidValueError(
            f"allocation[1]={length} symbols are too short for num_front_symbols={front} with mapping_type={mapping_type!r}"
        )
    begins = (first, *row[extra])
    return [[start + begin + step for step in range(front)] for begin in begins]


def _check_ports(ports: Sequence[int], config_type: int, front: int) -> list[int]:
    most = (4, 6)[config_type - 1] * front
    if isinstance(ports, (int, str)) or not hasattr(ports, "__iter__"):
        raise InvalidTypeError(f"ports={ports!r} must be a sequence of port numbers such as (0, 1)")
    chosen = [check_int("ports", port, minimum=0) for port in ports]
    chosen = [port - 1000 if port >= 1000 else port for port in chosen]  # PDSCH counts its ports from 1000
    if not chosen:
        raise InvalidValueError("ports is empty; at least one antenna port must send")
    for port in chosen:
        if port >= most:
            raise InvalidValueError(
                f"ports holds {port}; DMRS type {config_type} with {front} front symbol(s) has ports 0 to {most - 1}"
            )
    if len(set(chosen)) < len(chosen):
        raise InvalidValueError(f"ports={list(ports)} holds a port more than once")
    return chosen


def _port(port: int, config_type: int) -> tuple[int, int, int]:
    """(code-division group, sign of w_f(1), sign of w_t(1)): TS 38.211 Tables 6.4.1.1.3-1 and -2."""
    count = (4, 6)[config_type - 1]
    return (port % count) // 2, 1 - 2 * (port % 2), 1 - 2 * (port // count)


def _subcarriers(num_subcarriers: int, config_type: int, group: int) -> torch.Tensor:
    """Subcarriers of a code-division group, (num_pairs, 2): both elements k' = 0, 1 of every frequency pair."""
    if config_type == 1:
        return torch.arange(0, num_subcarriers, 4)[:, None] + torch.tensor([0, 2]) + group
    return torch.arange(0, num_subcarriers, 6)[:, None] + torch.tensor([0, 1]) + 2 * group


def dmrs_pattern(
    grid: OFDMGrid,
    *,
    config_type: int = 1,
    ports: Sequence[int] = (0,),
    mapping_type: str = "A",
    allocation: tuple[int, int] | None = None,
    num_front_symbols: int = 1,
    additional_position: int = 0,
    type_a_position: int = 2,
    num_cdm_groups_without_data: int | None = None,
    identity: int = 0,
    scid: int = 0,
    slot: int = 0,
    boost_db: float = 0.0,
) -> PilotPattern:
    r"""Reference signals of 5G NR, one transmit antenna a port.

    .. math:: p_a(l, k) = \sqrt{\beta}\; w_f(k')\, w_t(l')\, r_l(2n + k'),\qquad
        k = 4n + 2k' + \Delta \text{ (type 1)},\quad k = 6n + k' + \Delta \text{ (type 2)}

    Ports of one code-division (CDM) group share resource elements and are told apart by the signs w_f and w_t; ports of
    different groups use different subcarriers. Energy: |p|^2 = beta (times the boost), where beta equals the number of CDM
    groups without data (0, 3 or 4.77 dB, TS 38.214 Table 6.2.2-1), so a resource element in which m ports send carries
    m beta.

    Args:
        grid: at most 14 symbols, a multiple of 12 subcarriers (whole resource blocks; the first is common resource block 0).
        config_type: DMRS configuration type, 1 or 2.
        ports: antenna ports, from 0 (PUSCH) or from 1000 (PDSCH); one transmit antenna each.
        mapping_type, allocation, num_front_symbols, additional_position, type_a_position: see `dmrs_symbols`;
            ``allocation`` defaults to the whole grid.
        num_cdm_groups_without_data: 1 to 2 (type 1) or 3 (type 2); default: the fewest that hold all ports.
        identity: N_ID, 0 to 65535. scid: n_SCID, 0 or 1. slot: slot number in the frame.
        boost_db: further power of a pilot [dB].

    Raises:
        InvalidValueError: a combination that the specification does not define, or that does not fit the grid.

    Source: 3GPP TS 38.211 clauses 6.4.1.1 (PUSCH) and 7.4.1.1 (PDSCH). PDSCH mapping type B has its own table of positions
    and is not covered; frequency hopping and transform precoding are not either.
    """
    num_symbols, num_subcarriers = check_grid(grid).shape
    if num_symbols > 14 or num_subcarriers % 12:
        raise InvalidValueError(
            f"grid has {num_symbols} symbols x {num_subcarriers} subcarriers; DMRS needs at most 14 and a multiple of 12"
        )
    config_type = check_int("config_type", config_type, minimum=1, maximum=2)
    allocation = (0, num_symbols) if allocation is None else allocation
    positions = dmrs_symbols(
        mapping_type=mapping_type,
        allocation=allocation,
        num_front_symbols=num_front_symbols,
        additional_position=additional_position,
        type_a_position=type_a_position,
    )
    if positions[-1][-1] >= num_symbols:
        raise InvalidValueError(f"allocation={tuple(allocation)} puts pilots outside the grid of {num_symbols} symbols")
    codes = [_port(port, config_type) for port in _check_ports(ports, config_type, num_front_symbols)]
    needed = 1 + max(group for group, _, _ in codes)
    free = num_cdm_groups_without_data
    free = needed if free is None else check_int("num_cdm_groups_without_data", free, minimum=needed, maximum=1 + config_type)
    check_int("identity", identity, minimum=0, maximum=65535)
    check_int("scid", scid, minimum=0, maximum=1)
    check_int("slot", slot, minimum=0)

    pilots = torch.zeros(len(codes), *grid.shape, dtype=torch.complex64)
    for pair in positions:
        for step, symbol in enumerate(pair):
            sequence = qpsk_sequence(dmrs_seed(symbol, slot=slot, identity=identity, scid=scid), num_subcarriers)
            for layer, (group, w_f, w_t) in enumerate(codes):
                columns = _subcarriers(num_subcarriers, config_type, group)
                signs = torch.tensor([1.0, w_f]) * (w_t if step else 1)
                pilots[layer, symbol, columns] = sequence[: columns.numel()].reshape(-1, 2) * signs
    groups = _cdm_labels(grid, codes, positions, config_type)
    return PilotPattern(f"dmrs-type{config_type}", pilots, boost_from_db(boost_db) * free, groups)


def _cdm_labels(
    grid: OFDMGrid, codes: list[tuple[int, int, int]], positions: list[list[int]], config_type: int
) -> torch.Tensor:
    """Smallest sets of elements that tell the ports of a CDM group apart, as labels (T, F).

    Pairs are joined in frequency only where the ports in use differ in w_f, and in time only where they differ in w_t: a
    port that is alone needs no despreading and keeps its full resolution.
    """
    labels = torch.full(grid.shape, -1, dtype=torch.int64)
    count = 0
    for group in sorted({code[0] for code in codes}):
        mine = [code for code in codes if code[0] == group]
        join_f, join_t = len({w_f for _, w_f, _ in mine}) > 1, len({w_t for _, _, w_t in mine}) > 1
        columns = _subcarriers(grid.num_subcarriers, config_type, group)
        per_row = columns.shape[0] if join_f else columns.numel()
        row = torch.arange(per_row)
        row = row[:, None].expand(columns.shape) if join_f else row.reshape(columns.shape)
        for pair in positions:
            for step, symbol in enumerate(pair):
                if step and not join_t or not step:
                    base, count = count, count + per_row
                labels[symbol, columns] = row + base
    return labels
