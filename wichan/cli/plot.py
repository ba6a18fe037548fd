"""``wichan plot``: a picture of what a data set holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_PROFILE_SAMPLES = 512


def plot(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PNG to write; default: NAME_sample_I.png here.")] = None,
    sample: Annotated[int, typer.Option("--sample", help="Which sample to show.")] = 0,
    column: Annotated[str | None, typer.Option("--column", help="Which channel to show; default: the first.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw a channel of a data set.

    One sample over time and frequency, and the mean power delay profile beside theory.
    """
    import wichan.store as store
    from wichan.cli.console import emit_json, say
    from wichan.errors import check_int

    data = store.open(path)
    try:
        check_int("--sample", sample, minimum=0, maximum=len(data) - 1)
        name = _channel_column(data, column)
        target = out if out is not None else Path(f"{path.resolve().name}_sample_{sample}.png")
        _draw(data, name, sample, target)
    finally:
        data.close()
    if json:
        emit_json({"path": str(target), "column": name, "sample": sample})
    else:
        say(str(target))


def _channel_column(data: Any, wanted: str | None) -> str:
    """The column to draw: complex, with time and frequency as its last axes."""
    from wichan.errors import InvalidValueError, unknown_name

    fit = [n for n, c in data.columns.items() if c.dtype.startswith("complex") and len(c.shape) >= 2 and min(c.shape[-2:]) > 0]
    if wanted is not None and wanted not in fit:
        raise unknown_name("--column", wanted, fit)
    if not fit:
        raise InvalidValueError("the data set has no complex column with a time and a frequency axis to draw")
    return wanted or fit[0]


def _draw(data: Any, name: str, sample: int, target: Path) -> None:
    from wichan.evaluation import channel_figure

    # The sample itself, and its neighbours of the same cell for the mean profile.
    split, cell, _ = data.cell_of(sample)
    start = sample - sample % _PROFILE_SAMPLES
    size = data.columns[name].nbytes
    stop = min(len(data), start + max(1, min(_PROFILE_SAMPLES, (128 << 20) // size)))
    rows = [i for i in range(start, max(stop, sample + 1)) if data.cell_of(i)[:2] == (split, cell)]
    batch = data.batch(rows)
    grid, covariance = _theory(data, name, batch)
    header = data.manifest.header
    title = f"{header.recipe_name}, {split}/{cell}: {name}"
    channel_figure(batch[name], target, grid=grid, sample=rows.index(sample), covariance=covariance, title=title)


def _theory(data: Any, name: str, batch: dict[str, Any]) -> tuple[Any, Any]:
    """Grid, and covariance over subcarriers at the conditions of the samples, where the recipe tells them."""
    from wichan.errors import WichanError
    from wichan.evaluation import Setting
    from wichan.evaluation.pooling import frequency_covariance
    from wichan.simulate import recipe_from_dict

    recipe = data.manifest.header.recipe
    if name != "h" or recipe.get("kind") != "ofdm":
        return None, None
    try:
        setting = Setting.of(recipe_from_dict(recipe))
        profiles = None
        if "profile" in batch:
            profiles = [data.categories["profile"][code] for code in batch["profile"].tolist()]
        return setting.grid, frequency_covariance(setting, batch, profiles)
    except WichanError:  # a picture without theory beats none
        return None, None
