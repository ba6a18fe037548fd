"""5G NR reference signals: positions and codes of TS 38.211, and equality with Sionna's for every allocation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from wichan.errors import InvalidValueError, UnknownNameError
from wichan.observations import OFDMGrid, dmrs_pattern
from wichan.observations.dmrs import dmrs_symbols

GRID = OFDMGrid(14, 48, 30e3)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        # Read from Tables 6.4.1.1.3-3 and -4 for a whole slot.
        ({}, [[2]]),
        ({"additional_position": 1}, [[2], [11]]),
        ({"additional_position": 2}, [[2], [7], [11]]),
        ({"additional_position": 3}, [[2], [5], [8], [11]]),
        ({"additional_position": 2, "type_a_position": 3}, [[3], [7], [11]]),
        ({"num_front_symbols": 2}, [[2, 3]]),
        ({"num_front_symbols": 2, "additional_position": 1}, [[2, 3], [10, 11]]),
        ({"mapping_type": "B", "allocation": (4, 10), "additional_position": 3}, [[4], [7], [10], [13]]),
        ({"mapping_type": "B", "allocation": (0, 5), "additional_position": 1}, [[0], [4]]),
        ({"mapping_type": "B", "allocation": (2, 9), "num_front_symbols": 2, "additional_position": 1}, [[2, 3], [7, 8]]),
    ],
)
def test_symbol_positions(options: dict, want: list) -> None:
    assert dmrs_symbols(**options) == want


@pytest.mark.parametrize(("config_type", "front"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_ports_are_orthogonal_within_every_group(config_type: int, front: int) -> None:
    ports = range((4, 6)[config_type - 1] * front)
    pattern = dmrs_pattern(GRID, config_type=config_type, ports=ports, num_front_symbols=front)
    pilots, groups = pattern.pilots.flatten(1), pattern.groups.flatten()
    for label in groups.unique():
        if label >= 0:
            code = pilots[:, groups == label]
            code = code[(code != 0).any(dim=1)]
            assert code.shape[0] == code.shape[1] == 2 * front
            gram = code @ code.mH
            torch.testing.assert_close(gram, 2.0 * front * torch.eye(2 * front, dtype=gram.dtype))


def test_lonely_ports_are_not_grouped() -> None:
    """Ports of different CDM groups share nothing, so each element stands alone."""
    groups = dmrs_pattern(GRID, ports=(0, 2), num_front_symbols=2).groups
    sent = groups[groups >= 0]
    assert sent.numel() == sent.unique().numel() == 2 * 48


def test_pdsch_port_numbers_and_boost() -> None:
    low, high = dmrs_pattern(GRID, ports=(0, 2)), dmrs_pattern(GRID, ports=(1000, 1002))
    assert torch.equal(low.values, high.values)
    # Two CDM groups without data: 3 dB of boost, TS 38.214 Table 6.2.2-1.
    assert low.boost == pytest.approx(2.0)
    assert dmrs_pattern(GRID, ports=(0,), num_cdm_groups_without_data=2, boost_db=10.0).boost == pytest.approx(20.0)


BAD = [
    ({"ports": (4,)}, "ports holds 4"),
    ({"ports": (1012,), "config_type": 2, "num_front_symbols": 2}, "ports holds 12"),
    ({"ports": ()}, "ports is empty"),
    ({"ports": (0, 1000)}, "more than once"),
    ({"config_type": 3}, "config_type=3"),
    ({"additional_position": 4}, "additional_position=4"),
    ({"additional_position": 2, "num_front_symbols": 2}, "additional_position=2 must be at most 1"),
    ({"additional_position": 3, "type_a_position": 3}, "needs type_a_position=2"),
    ({"type_a_position": 4}, "type_a_position=4"),
    ({"allocation": (1, 13)}, r"allocation\[0\]=1 must be 0"),
    ({"allocation": (0, 3)}, "too short"),
    ({"allocation": (0, 15)}, r"allocation\[1\]=15"),
    ({"allocation": (0, 4), "num_front_symbols": 2, "type_a_position": 3}, "too short"),
    ({"ports": (2,), "num_cdm_groups_without_data": 1}, "num_cdm_groups_without_data=1 must be at least 2"),
    ({"num_cdm_groups_without_data": 3}, "num_cdm_groups_without_data=3 must be at most 2"),
    ({"identity": 65536}, "identity=65536"),
    ({"scid": 2}, "scid=2"),
    ({"slot": -1}, "slot=-1"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_options_get_one_line(options: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        dmrs_pattern(GRID, **options)


def test_grid_must_hold_resource_blocks() -> None:
    with pytest.raises(InvalidValueError, match="multiple of 12"):
        dmrs_pattern(OFDMGrid(14, 50, 15e3))
    with pytest.raises(InvalidValueError, match="outside the grid"):
        dmrs_pattern(OFDMGrid(10, 48, 15e3), allocation=(0, 14), additional_position=1)
    with pytest.raises(UnknownNameError, match="mapping_type"):
        dmrs_pattern(GRID, mapping_type="C")


def sionna_grid(config_type, ports, mapping, allocation, front, extra, first, free, identity, scid, slot) -> np.ndarray | None:
    """Sionna's DMRS grid, (ports, T, F), or None where Sionna refuses the combination."""
    from sionna.phy.nr import CarrierConfig, PUSCHConfig, PUSCHDMRSConfig

    carrier = CarrierConfig(n_size_grid=4, slot_number=slot, subcarrier_spacing=30)
    dmrs = PUSCHDMRSConfig(
        config_type=config_type,
        dmrs_port_set=list(ports),
        length=front,
        type_a_position=first,
        num_cdm_groups_without_data=free,
        n_id=identity,
        n_scid=scid,
    )
    try:
        dmrs.additional_position = extra
        options = {"mapping_type": mapping, "symbol_allocation": list(allocation)}
        config = PUSCHConfig(carrier, dmrs, num_layers=len(ports), num_antenna_ports=len(ports), **options)
        if not config.l_bar or max(config.dmrs_symbol_indices) >= sum(allocation):
            return None
        return config.dmrs_grid.transpose(0, 2, 1)
    except (ValueError, IndexError):
        return None


@pytest.mark.sionna
def test_equals_sionna_for_every_allocation() -> None:
    """Positions, codes, sequence and boost; both sides also refuse the same combinations."""
    pytest.importorskip("sionna")
    compared = 0
    for mapping, front, extra, first in itertools.product("AB", (1, 2), (0, 1, 2, 3), (2, 3)):
        for start, length in [(0, n) for n in range(1, 15)] + [(3, 9), (5, 6)]:
            args = (1, (0, 1), mapping, (start, length), front, extra, first, 2, 7, 0, 3)
            want = sionna_grid(*args)
            try:
                got = dmrs_pattern(
                    GRID,
                    ports=(0, 1),
                    mapping_type=mapping,
                    allocation=(start, length),
                    num_front_symbols=front,
                    additional_position=extra,
                    type_a_position=first,
                    num_cdm_groups_without_data=2,
                    identity=7,
                    slot=3,
                ).values.numpy()
            except InvalidValueError:
                assert want is None, f"Sionna accepts {args}"
                continue
            assert want is not None, f"Sionna refuses {args}"
            np.testing.assert_allclose(got, want, atol=1e-6, err_msg=str(args))
            compared += 1
    assert compared > 150


@pytest.mark.sionna
@pytest.mark.parametrize(("config_type", "front"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_equals_sionna_for_every_port(config_type: int, front: int) -> None:
    pytest.importorskip("sionna")
    free = 1 + config_type
    for port in range((4, 6)[config_type - 1] * front):
        for identity, scid, slot in ((0, 0, 0), (4321, 1, 9)):
            want = sionna_grid(config_type, (port,), "A", (0, 14), front, 1, 2, free, identity, scid, slot)
            got = dmrs_pattern(
                GRID,
                config_type=config_type,
                ports=(port,),
                num_front_symbols=front,
                additional_position=1,
                num_cdm_groups_without_data=free,
                identity=identity,
                scid=scid,
                slot=slot,
            ).values.numpy()
            np.testing.assert_allclose(got, want, atol=1e-6)
