"""``wichan plot``: a picture of what a data set holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

# The names of `wichan.evaluation.PLOTS`, which --help shall not have to load; a test compares them.
KINDS = ("heatmap", "pdp", "doppler", "delay-doppler", "angle-delay", "correlation", "cdf", "constellation")
_ONE_SAMPLE = ("heatmap", "delay-doppler", "constellation")
_PROFILE_SAMPLES = 512
_PROFILE_BYTES = 64 << 20


def plot(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PNG to write; default: NAME_sample_I.png here.")] = None,
    sample: Annotated[int, typer.Option("--sample", help="Which sample to show.")] = 0,
    column: Annotated[str | None, typer.Option("--column", help="Which channel to show; default: the first.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help=f"What to draw: {', '.join(KINDS)}; default: heatmap and pdp in one.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw the channels of a data set.

    Without --kind: one sample over time and frequency, and the mean power delay profile beside theory; of a link over a
    reflecting surface, one sample under every training pattern.
    """
    if kind is not None:
        _draw_kind(path, kind, out, sample, column, json)
        return
    import wichan.store as store
    from wichan.cli.console import emit_json, say
    from wichan.errors import check_int
    from wichan.evaluation.figure import png_path
    from wichan.evaluation.plots.dataset import channel_column

    target = png_path(out) if out is not None else Path(f"{path.resolve().name}_sample_{sample}.png")
    data = store.open(path)
    check_int("--sample", sample, minimum=0, maximum=len(data) - 1)
    name = channel_column(data, column)
    # Of the large columns only the one that is drawn is read.
    small = [n for n, c in data.columns.items() if not c.shape]
    data = store.open(path, columns=[name, *small], allow_incomplete=True)  # what is unfinished has been said
    try:
        _draw(data, name, sample, target)
    finally:
        data.close()
    if json:
        emit_json({"path": str(target), "column": name, "sample": sample})
    else:
        say(str(target))


def _draw_kind(path: Path, kind: str, out: Path | None, sample: int, column: str | None, as_json: bool) -> None:
    from wichan.cli.console import emit_json, say
    from wichan.errors import check_choice
    from wichan.evaluation import PLOTS, plot_dataset
    from wichan.evaluation.figure import png_path

    check_choice("--kind", kind, PLOTS)
    # The sample is in the name only where it is in the picture.
    number = f"_sample_{sample}" if kind in _ONE_SAMPLE else ""
    target = png_path(out if out is not None else f"{path.resolve().name}_{kind}{number}.png")
    picture = plot_dataset(path, kind, sample=sample, column=column, max_samples=_PROFILE_SAMPLES, max_bytes=_PROFILE_BYTES)
    picture.save(target)
    if as_json:
        emit_json({"path": str(target), "kind": kind, "column": column, "sample": sample, **picture.numbers})
    else:
        say(str(target))


def _draw(data: Any, name: str, sample: int, target: Path) -> None:
    from wichan.evaluation import channel_figure
    from wichan.evaluation.plots.dataset import neighbours
    from wichan.evaluation.plots.patterns import PATTERN_KINDS, pattern_figure

    rows = neighbours(data, sample, data.columns[name].nbytes, _PROFILE_SAMPLES, _PROFILE_BYTES)
    batch = data.batch(rows)
    split, cell, _ = data.cell_of(sample)
    title = f"{data.manifest.header.recipe_name}, {split}/{cell}: {name}"
    if data.manifest.header.recipe.get("kind") in PATTERN_KINDS:
        pattern_figure(batch[name][rows.index(sample)], target, title=f"{title}, sample {sample}")
        return
    known = _known(data, name, batch, (split, cell))
    channel_figure(batch[name], target, sample=rows.index(sample), label=f"sample {sample}", title=title, **known)


def _known(data: Any, name: str, batch: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
    """What the recipe tells of a column: its grid or its times and frequencies, and the theory for these samples."""
    from wichan.errors import WichanError
    from wichan.simulate import KINDS, recipe_from_dict

    stored = data.manifest.header.recipe
    rules = {"ofdm": _ofdm, "csi-rrg": _csi_rrg}
    if stored.get("kind") not in rules:
        return {}
    try:
        recipe = recipe_from_dict(stored)
        return rules[recipe.kind](KINDS[recipe.kind](recipe), name, data, batch, place)
    except WichanError:  # a picture without theory beats none
        return {}


def _ofdm(sampler: Any, name: str, data: Any, batch: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
    from wichan.evaluation import Setting
    from wichan.evaluation.pooling import frequency_covariance

    setting = Setting.of(sampler.recipe)
    if name != "h":
        return {"grid": setting.grid}
    profiles = None
    if "profile" in batch:
        profiles = [data.categories["profile"][code] for code in batch["profile"].tolist()]
    return {"grid": setting.grid, "covariance": frequency_covariance(setting, batch, profiles)}


def _csi_rrg(sampler: Any, name: str, data: Any, batch: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
    from wichan import OFDMGrid

    recipe, past = sampler.recipe, sampler.recipe.num_history
    band = slice(*(recipe.downlink_bins if name.startswith("h_d") else recipe.uplink_bins))
    times = sampler.times[:past] if name.endswith("hist") else sampler.times[past:]
    frequencies = sampler.frequencies[band]
    grid = OFDMGrid(1, frequencies.numel(), recipe.subcarrier_spacing)  # the covariance knows differences only
    terms = sampler.model(recipe.scenario(*place)).covariance_terms(grid)
    powers = [term.space.abs().square().sum() * term.time.abs().square().sum() for term in terms]
    covariance = sum(power * term.frequency @ term.frequency.mH for power, term in zip(powers, terms, strict=True))
    # Every sample was divided by its own energy, so only the shape can agree: theory gets the power of the data.
    covariance = covariance * (batch[name].abs().square().mean() / covariance.diagonal().real.mean())
    return {"times": times, "frequencies": frequencies, "covariance": covariance, "theory": "theory, scaled to equal power"}
