"""How Sionna's resource grid and wichan's lattice with pilots describe the same frame, in both directions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int
from wichan.grid import OFDMGrid
from wichan.integrations.sionna.require import require_sionna
from wichan.observations.ofdm import OFDMPilots
from wichan.observations.pilots import PilotPattern

PRECISIONS = ("single", "double")


def check_resource_grid(resource_grid: Any) -> Any:
    """Return ``resource_grid`` if it is a Sionna ``ResourceGrid`` with pilots."""
    from sionna.phy.ofdm import ResourceGrid

    if not isinstance(resource_grid, ResourceGrid):
        raise InvalidTypeError(f"resource_grid must be a sionna.phy.ofdm.ResourceGrid, got {type(resource_grid).__name__}")
    pattern = resource_grid.pilot_pattern
    if not pattern.num_pilot_symbols or not bool((pattern.pilots != 0).any()):
        raise InvalidValueError("resource_grid has no pilots; give it a pilot_pattern to estimate channels from")
    streams = (resource_grid.num_tx, resource_grid.num_streams_per_tx)
    size = (*streams, resource_grid.num_ofdm_symbols, resource_grid.num_effective_subcarriers)
    if tuple(pattern.mask.shape) != size:
        have = tuple(pattern.mask.shape)
        raise ShapeError(f"resource_grid has (transmitters, streams, symbols, subcarriers) = {size}, its pilot_pattern {have}")
    return resource_grid


def lattice_span(resource_grid: Any) -> tuple[slice, list[int]]:
    """Where the lattice lies in the FFT, and which of its subcarriers carry pilots or data.

    The lattice runs from the first to the last effective subcarrier. A nulled DC carrier in between belongs to it, so that
    it is uniform and a covariance on it is exact; it never carries a pilot, and is left out of what Sionna is given.
    """
    used = [int(index) for index in resource_grid.effective_subcarrier_ind]
    return slice(used[0], used[-1] + 1), [index - used[0] for index in used]


def grid_of(resource_grid: Any) -> OFDMGrid:
    """The lattice of a resource grid: `lattice_span`, with the symbol duration that its cyclic prefix gives."""
    span, _ = lattice_span(resource_grid)
    return OFDMGrid(
        num_ofdm_symbols=int(resource_grid.num_ofdm_symbols),
        num_subcarriers=span.stop - span.start,
        subcarrier_spacing=float(resource_grid.subcarrier_spacing),
        symbol_duration=float(resource_grid.ofdm_symbol_duration),
    )


def placed_pilots(resource_grid: Any) -> torch.Tensor:
    """Pilots of every stream on the lattice, complex, (num_tx * num_streams_per_tx, T, F), zero where silent.

    Raises:
        InvalidValueError: a stream sends data on an element where another stream sends a pilot.
    """
    pattern = resource_grid.pilot_pattern
    span, used = lattice_span(resource_grid)
    mask = pattern.mask.flatten(0, 1).bool()
    layers = pattern.pilots.detach().new_zeros(mask.shape)
    layers[mask] = pattern.pilots.detach().flatten()  # both stream by stream, then symbol-major
    sent = (layers != 0).any(dim=0)
    for stream, reserved in enumerate(mask):
        if bool((sent & ~reserved).any()):
            tx, of_tx = divmod(stream, int(resource_grid.num_streams_per_tx))
            raise InvalidValueError(
                f"resource_grid: stream {of_tx} of transmitter {tx} sends data where another sends pilots; "
                "reserve the pilot elements of all streams in every mask"
            )
    full = layers.new_zeros(*layers.shape[:2], span.stop - span.start)
    return full.index_copy(-1, torch.tensor(used, device=full.device), layers)


def observation_of(resource_grid: Any) -> OFDMPilots:
    r"""Return the pilots of a Sionna resource grid as an observation, on which wichan's estimators are built.

    Transmit antenna ``tx * num_streams_per_tx + stream`` of the observation is stream ``stream`` of transmitter ``tx``; its
    channel is what Sionna calls the effective channel, precoding included. Values, places and energies of the pilots are
    Sionna's, also where several streams share elements (code-division groups of DMRS).

    The lattice covers the effective subcarriers; a nulled DC carrier between them belongs to it, without pilots. So it is
    uniform, and ``model.covariance(observation_of(resource_grid).grid)`` is exact. Its frequencies may differ from Sionna's
    by a common offset (guard carriers of unequal number), which changes no covariance of channels with random phases.

    Args:
        resource_grid: ``sionna.phy.ofdm.ResourceGrid`` with pilots, also that of a ``PUSCHTransmitter``.

    Returns:
        `OFDMPilots` on the device of the resource grid.

    Raises:
        MissingDependencyError: no usable Sionna.
        InvalidTypeError, InvalidValueError: no resource grid, one without pilots, or data of one stream on pilots of another.

    Example:
        >>> from sionna.phy.ofdm import ResourceGrid
        >>> rg = ResourceGrid(14, 76, 15e3, cyclic_prefix_length=6, num_guard_carriers=(2, 1), dc_null=True,
        ...                   pilot_pattern="kronecker", pilot_ofdm_symbol_indices=[2, 11])
        >>> pilots = observation_of(rg)
        >>> pilots.grid.shape, rg.num_effective_subcarriers, pilots.num_pilots
        ((14, 73), 72, 144)
    """
    require_sionna("observation_of")
    check_resource_grid(resource_grid)
    layers = placed_pilots(resource_grid)
    silent = [index for index, layer in enumerate(layers) if not bool((layer != 0).any())]
    if silent:
        tx, stream = divmod(silent[0], int(resource_grid.num_streams_per_tx))
        raise InvalidValueError(f"resource_grid: stream {stream} of transmitter {tx} sends no pilot; every stream must")
    return OFDMPilots.from_pattern(grid_of(resource_grid), PilotPattern("sionna", layers, groups=despreading_groups(layers)))


# -- Which elements tell apart streams that share them. --


def despreading_groups(layers: torch.Tensor) -> torch.Tensor | None:
    """Smallest sets of neighbouring elements on which streams that share elements can be told apart, as labels (T, F).

    Tried for each set of streams that share elements, in this order: neighbours in frequency, in time (adjacent symbols), and
    both. ``None`` where no elements are shared, or where none of these works.
    """
    values = layers.detach().cpu().to(torch.complex128)
    active = values != 0
    if not bool((active.sum(dim=0) > 1).any()):
        return None
    labels = torch.full(active.shape[1:], -1)
    count = 0
    for sharing in active.flatten(1).unique(dim=1).T:
        size = int(sharing.sum())
        if not size:
            continue
        places = (active == sharing[:, None, None]).all(dim=0)
        for rows, columns in _extents(size):
            found = _tiles(places, rows, columns)
            if found and (size == 1 or all(_distinct(values[sharing][:, tile[0], tile[1]]) for tile in found)):
                break
        else:
            return None
        for tile in found:
            labels[tile[0], tile[1]] = count
            count += 1
    return labels


def _extents(size: int) -> list[tuple[int, int]]:
    """(symbols, elements a symbol) of the groups that may tell ``size`` streams apart, small ones first."""
    options = [(1, size)] + [(2, columns) for columns in range(1, size + 1) if 2 * columns >= size]
    return options if size > 1 else [(1, 1)]


def _tiles(places: torch.Tensor, rows: int, columns: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the marked elements into tiles of adjacent symbols and of neighbours in frequency; empty where they do not fit."""
    symbols = places.any(dim=1).nonzero().flatten().tolist()
    if len(symbols) % rows:
        return []
    tiles = []
    for start in range(0, len(symbols), rows):
        bundle = symbols[start : start + rows]
        first = places[bundle[0]]
        if any(b - a != 1 or not torch.equal(places[b], first) for a, b in pairwise(bundle)):
            return []
        for piece in _pieces(first.nonzero().flatten(), columns):
            tiles.append((torch.tensor(bundle).repeat_interleave(len(piece)), piece.repeat(rows)))
    return tiles


def _pieces(subcarriers: torch.Tensor, columns: int) -> list[torch.Tensor]:
    """Cut into neighbours of ``columns``; a rest joins the last piece."""
    whole = len(subcarriers) // columns
    if not whole:
        return [subcarriers]
    ends = [columns * (index + 1) for index in range(whole - 1)] + [len(subcarriers)]
    return [subcarriers[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _distinct(pilots: torch.Tensor) -> bool:
    """Whether pilots (streams, elements) are far from linearly dependent."""
    spectrum = torch.linalg.svdvals(pilots)
    return pilots.shape[1] >= pilots.shape[0] and bool(spectrum[-1] > 1e-6 * spectrum[0])


# -- From wichan to Sionna. --


def resource_grid_of(
    observation: OFDMPilots, *, num_tx: int = 1, precision: str | None = None, device: str | None = None
) -> Any:
    r"""Return the Sionna resource grid that has the same pilots as an observation.

    Every subcarrier is effective (no guard carriers, no DC null), and the elements where any antenna sends a pilot are
    reserved for all streams. Sionna counts the cyclic prefix in whole samples, so the symbol duration is rounded to half a
    sample, :math:`1/(2 F \Delta f)`; estimators are not affected, since none of Sionna's knows it.

    Args:
        observation: the pilots, copied as they are now.
        num_tx: transmitters that the antennas are shared out to, each with ``num_tx_ant / num_tx`` streams.
        precision: "single" or "double"; default is Sionna's.
        device: default is that of the observation.

    Returns:
        ``sionna.phy.ofdm.ResourceGrid``.

    Raises:
        MissingDependencyError: no usable Sionna.
        InvalidTypeError, InvalidValueError: no `OFDMPilots`, antennas that cannot be shared out, a cyclic prefix longer than
            the useful part.

    Example:
        >>> from wichan.observations import OFDMGrid
        >>> pilots = OFDMPilots(OFDMGrid(14, 48, 15e3), symbols=(2, 11), subcarrier_step=3)
        >>> rg = resource_grid_of(pilots)
        >>> rg.num_pilot_symbols, rg.cyclic_prefix_length
        (32, 3)
    """
    require_sionna("resource_grid_of")
    from sionna.phy.ofdm import PilotPattern as SionnaPattern
    from sionna.phy.ofdm import ResourceGrid

    if not isinstance(observation, OFDMPilots):
        raise InvalidTypeError(f"observation must be OFDMPilots, got {type(observation).__name__}")
    count, num_tx = observation.num_tx_ant, check_int("num_tx", num_tx, minimum=1)
    if count % num_tx:
        raise InvalidValueError(f"num_tx={num_tx} must divide the observation's num_tx_ant={count}")
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    grid = observation.grid
    prefix = round(grid.cyclic_prefix * grid.bandwidth)
    if prefix > grid.num_subcarriers:
        raise InvalidValueError(
            f"observation.grid.symbol_duration={grid.symbol_duration:g} s has a cyclic prefix longer than the useful part; "
            "Sionna cannot express it"
        )
    place = {"precision": precision, "device": str(observation.mask.device) if device is None else device}
    streams = (num_tx, count // num_tx)
    mask = observation.mask.expand(*streams, *grid.shape)
    pilots = observation.pilot_values().detach().unflatten(0, streams)
    return ResourceGrid(
        num_ofdm_symbols=grid.num_ofdm_symbols,
        fft_size=grid.num_subcarriers,
        subcarrier_spacing=grid.subcarrier_spacing,
        num_tx=streams[0],
        num_streams_per_tx=streams[1],
        cyclic_prefix_length=prefix,
        pilot_pattern=SionnaPattern(mask, pilots, **place),
        **place,
    )
