"""``wichan models``: what is trained and released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wichan.training import ModelInfo, WeightsInfo


def models(
    name: Annotated[str | None, typer.Argument(help="Show the card of this model, or what a weight file holds.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the released models, or show one in full."""
    from wichan.training.zoo import is_path

    if name is None:
        _list(json)
    elif is_path(name):
        _file(name, json)
    else:
        _one(name, json)


def _list(as_json: bool) -> None:
    from wichan.cli.console import emit_json, print_table, say
    from wichan.training import list_models

    known = list_models()
    if as_json:
        emit_json({"models": [_plain(model) for model in known]})
    elif not known:
        say("no model is released with this version")
    else:
        print_table(
            ["model", "kind", "parameters", "size", "trained on", "grid and pilots", "result"], [_row(m) for m in known]
        )


def _row(model: ModelInfo) -> list[str]:
    from wichan.cli.console import human_bytes

    weights = model.weights
    size = [f"{weights.num_parameters:,}", human_bytes(weights.num_bytes)]
    return [model.name, model.kind, *size, model.trained_on, _purpose(weights), model.headline]


def _purpose(weights: WeightsInfo) -> str:
    """Grid and pilots of an estimator; size of a prior, which goes with any pilots; what a predictor makes of what."""
    from wichan.prediction import LEARNED_PREDICTORS
    from wichan.training.weights_reader import describe_pilots

    if weights.obs is not None:
        return describe_pilots(weights.obs)
    if weights.kind in LEARNED_PREDICTORS:
        past, future, width = (weights.config.get(f"num_{name}", "?") for name in ("history", "horizon", "subcarriers"))
        mode = str(weights.config.get("duplex", "")).upper()
        return f"{mode} predictor, {past} snapshots to {future}, {width} subcarriers"
    seen = weights.config.get("obs")  # of an encoder, which reads pilots
    shape = weights.config.get("shape") or (seen.get("channel_shape", []) if isinstance(seen, dict) else [])
    size = " x ".join(str(n) for n in shape if n != 1) or "1"
    names = {"num_components": "components", "num_factors": "factors"}
    parts = [f"{weights.config[key]} {word}" for key, word in names.items() if weights.config.get(key)]
    structure = weights.config.get("structure")
    return ", ".join([f"prior of {size} channel elements", *parts, *([str(structure)] if structure else [])])


def _heading(weights: WeightsInfo) -> str:
    from wichan.prediction import LEARNED_PREDICTORS

    if weights.obs is not None:
        return "grid and pilots"
    return "predicts" if weights.kind in LEARNED_PREDICTORS else "channels"


def _plain(model: ModelInfo) -> dict[str, Any]:
    fields = ("name", "title", "kind", "trained_on", "overrides", "command", "wall_time", "headline")
    return {field: getattr(model, field) for field in fields} | _weights(model.weights)


def _weights(weights: WeightsInfo) -> dict[str, Any]:
    """What the file of weights says, as JSON holds it."""
    about = {"path": str(weights.path), "kind": weights.kind}
    about |= {"num_parameters": weights.num_parameters, "num_bytes": weights.num_bytes}
    noted = {"config": weights.config, "training": weights.training, "wichan": weights.version}
    obs = weights.obs
    if obs is None:
        return about | noted
    grid = obs.grid
    pilots = {
        "grid": {
            "num_ofdm_symbols": grid.num_ofdm_symbols,
            "num_subcarriers": grid.num_subcarriers,
            "subcarrier_spacing": grid.subcarrier_spacing,
            "symbol_duration": grid.symbol_duration,
        },
        "pilots": {
            "num_pilots": obs.num_pilots,
            "symbols": obs.pilot_symbols.tolist(),
            "subcarriers": obs.pilot_subcarriers.tolist(),
        },
    }
    return about | pilots | noted


def _one(name: str, as_json: bool) -> None:
    from wichan.cli.console import emit_json, is_terminal, say, show
    from wichan.training import model_info

    model = model_info(name)
    if as_json:
        emit_json(_plain(model) | {"card": model.card})
    elif is_terminal():
        from rich.markdown import Markdown

        show(Markdown(model.card))
    else:
        say(model.card.rstrip())


def _file(path: str, as_json: bool) -> None:
    from wichan.cli.console import emit_json, human_bytes, key_values, say
    from wichan.training.weights_reader import read_weights

    info, _ = read_weights(path)
    if as_json:
        emit_json(_weights(info))
        return
    rows = {
        "file": info.path,
        "kind": info.kind,
        "parameters": f"{info.num_parameters:,}",
        "size": human_bytes(info.num_bytes),
        _heading(info): _purpose(info),
        "written by": f"wichan {info.version}",
    }
    rows |= {f"config.{key}": value for key, value in info.config.items()}
    rows |= {f"training.{key}": value for key, value in info.training.items()}
    say(key_values(rows))
