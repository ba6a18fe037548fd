"""One line to a picture: of channels at hand, or of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidTypeError, InvalidValueError, check_tensor
from wichan.evaluation.figure import png_path
from wichan.evaluation.plots import PLOTS
from wichan.evaluation.plots.dataset import MAX_BYTES, MAX_SAMPLES, dataset_view
from wichan.evaluation.plots.draw import Picture
from wichan.evaluation.plots.patterns import check_instants
from wichan.evaluation.plots.view import ChannelView, Expected
from wichan.grid import OFDMGrid, check_grid

# Kinds that look at powers, delays and angles only: theory for them is that of a standing terminal.
_STILL = ("heatmap", "pdp", "angle-delay", "cdf", "constellation")


def plot_channels(
    kind: str,
    h: torch.Tensor | ChannelView,
    path: str | Path | None = None,
    *,
    grid: OFDMGrid | None = None,
    covariance: ChannelCovariance | None = None,
    **options: Any,
) -> Picture:
    r"""Draw channels; in a notebook the answer shows itself.

    Args:
        kind: a name in ``PLOTS``: ``"heatmap"``, ``"pdp"``, ``"doppler"``, ``"delay-doppler"``, ``"angle-delay"``,
            ``"correlation"``, ``"cdf"`` or ``"constellation"``.
        h: complex, (num_samples, num_rx_ant, num_tx_ant, num_times, num_subcarriers); or a `ChannelView` with everything.
        path: PNG to write, if any.
        grid: gives the axes their units; or give ``times=`` and ``frequencies=``.
        covariance: theory, drawn dashed; a batched one is averaged over its conditions.
        options: other fields of `ChannelView`: ``times``, ``frequencies``, ``sample``, ``label``, ``title``, ``rx_array``,
            ``tx_array``, ``y`` with ``pilots`` and ``no``.

    Returns:
        `Picture`: the PNG and the key numbers.

    Raises:
        UnknownNameError: no such kind. InvalidValueError, ShapeError: channels that the kind does not apply to.

    Example:
        >>> from wichan.channels import TDL
        >>> grid, model = OFDMGrid(14, 72, 30e3), TDL("C", delay_spread=100e-9, max_doppler=500.0)
        >>> h = model.frequency_response(grid, 64, generator=torch.Generator().manual_seed(7))
        >>> picture = plot_channels("pdp", h, grid=grid, covariance=model.covariance(grid))
        >>> sorted(picture.numbers)[0], round(picture.numbers["theory_rms_delay_spread"] * 1e9)
        ('mean_power', 100)
    """
    draw = PLOTS[kind]
    target = None if path is None else png_path(path)
    if isinstance(h, ChannelView):
        if grid is not None or covariance is not None or options:
            raise InvalidValueError("a ChannelView holds everything; grid=, covariance= and other fields go into it")
        view = h
    else:
        view = _view(h, grid, covariance, options)
    picture: Picture = draw(view)
    if target is not None:
        picture.save(target)
    return picture


def _view(h: Any, grid: OFDMGrid | None, covariance: ChannelCovariance | None, options: dict[str, Any]) -> ChannelView:
    check_tensor("h", h, kind="complex")
    known = ChannelView.__dataclass_fields__
    for name in options:
        if name not in known or name in ("h", "theory"):
            raise InvalidTypeError(f"plot_channels() knows no argument {name!r}")
    if grid is not None:
        check_grid(grid)
        options = {"times": grid.times, "frequencies": grid.frequencies} | options
    if covariance is not None:
        if not isinstance(covariance, ChannelCovariance):
            raise InvalidTypeError(f"covariance must be a ChannelCovariance, got {type(covariance).__name__}")
        options = options | {"theory": (Expected(covariance),)}
    return ChannelView(h, **options)


def plot_dataset(
    folder: str | Path,
    kind: str,
    path: str | Path | None = None,
    *,
    sample: int = 0,
    column: str | None = None,
    max_samples: int = MAX_SAMPLES,
    max_bytes: int = MAX_BYTES,
) -> Picture:
    """Draw a data set folder as ``wichan plot FOLDER --kind KIND`` does: theory for the same samples' conditions.

    Args:
        folder: of the data set.
        kind: a name in ``PLOTS``.
        path: PNG to write, if any.
        sample: which sample to show; means run over its neighbours in the same cell.
        column: which channel; default the first.
        max_samples, max_bytes: how many neighbours at most.

    Raises:
        StoreError: not a data set. InvalidValueError: no such sample, or a kind that does not apply.
    """
    from wichan.store import load_manifest

    draw = PLOTS[kind]
    target = None if path is None else png_path(path)
    header = load_manifest(folder).header
    check_instants(kind, header.recipe_name, header.recipe.get("kind"))
    view = dataset_view(
        folder,
        sample=sample,
        column=column,
        received=kind == "constellation",
        motion=kind not in _STILL,
        max_samples=max_samples,
        max_bytes=max_bytes,
    )
    picture: Picture = draw(view)
    if target is not None:
        picture.save(target)
    return picture
