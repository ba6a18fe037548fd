"""Channels under known reflection patterns: one picture a pattern, antennas against antennas."""

from __future__ import annotations

from pathlib import Path

import torch

from wichan.errors import InvalidValueError, ShapeError, check_tensor
from wichan.evaluation.figure import png_path

#: Recipes whose snapshots are patterns, and pictures that would take them for instants.
PATTERN_KINDS = ("irs",)
OF_INSTANTS = ("heatmap", "doppler", "delay-doppler", "correlation")


def check_instants(kind: str, recipe: str, recipe_kind: str | None) -> None:
    """Refuse a picture over time of what does not run over time.

    Raises:
        InvalidValueError: such a picture.
    """
    if recipe_kind in PATTERN_KINDS and kind in OF_INSTANTS:
        raise InvalidValueError(
            f"kind={kind!r} does not apply to recipe {recipe!r} of kind {recipe_kind!r}: its snapshots are reflection "
            "patterns, no instants; without --kind all patterns are drawn"
        )


def pattern_figure(h: torch.Tensor, path: str | Path, *, title: str = "") -> None:
    """Write a picture of one channel under every pattern, |h| [dB] over both ends' antennas, mean power over subcarriers.

    Args:
        h: complex, (num_rx_ant, num_tx_ant, num_patterns, num_subcarriers).
        path: PNG to write.
        title: line above.

    Raises:
        InvalidTypeError, ShapeError: no such channel.
    """
    from matplotlib.figure import Figure

    check_tensor("h", h, kind="complex")
    if h.dim() != 4 or 0 in h.shape:
        raise ShapeError(f"h has shape {tuple(h.shape)}; it must be (rx, tx, patterns, subcarriers), none empty")
    power = h.abs().square().mean(-1).movedim(-1, 0).double()
    level = 10 * power.clamp_min(float(power.max()) * 1e-6 + 1e-300).log10()
    columns = min(len(level), 6)
    rows = -(-len(level) // columns)
    figure = Figure(figsize=(1.5 + 1.35 * columns, 0.9 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    top = float(level.max())
    for number, axis in enumerate(axes.flat):
        if number >= len(level):
            axis.set_visible(False)
            continue
        image = axis.imshow(level[number].numpy(), aspect="auto", origin="lower", cmap="viridis", vmin=top - 30, vmax=top)
        axis.set_title(f"pattern {number}", fontsize=9)
        axis.locator_params(integer=True)
    figure.supxlabel("transmit antenna", fontsize=9)
    figure.supylabel("receive antenna", fontsize=9)
    figure.colorbar(image, ax=axes, label="|h| [dB]", shrink=0.9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(png_path(path), dpi=130)
