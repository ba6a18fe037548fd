"""``wichan recipes``: what can be simulated."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show the card of this recipe and all its settings.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the recipes, or show one in full."""
    if name is None:
        _list(json)
    else:
        _one(name, json)


def _list(as_json: bool) -> None:
    from wichan.cli.console import emit_json, print_table
    from wichan.simulate import list_recipes

    known = list_recipes()
    if as_json:
        emit_json({"recipes": [{"name": r.name, "title": r.title, "kind": r.kind, "path": str(r.path)} for r in known]})
    else:
        print_table(["recipe", "what it makes"], [[r.name, r.title] for r in known])


def _one(name: str, as_json: bool) -> None:
    from wichan.cli.console import emit_json
    from wichan.simulate import list_recipes, load_recipe

    recipe = load_recipe(name)
    shipped = {r.name: r for r in list_recipes()}.get(recipe.name)
    card = shipped.card.read_text(encoding="utf-8") if shipped is not None and shipped.card is not None else ""
    if as_json:
        emit_json({"name": recipe.name, "title": recipe.title, "kind": recipe.kind, "card": card, "recipe": recipe.plain()})
    else:
        _print(card or f"# {recipe.name}\n\n{recipe.title}\n", recipe.plain())


def _print(card: str, plain: dict[str, Any]) -> None:
    import yaml

    from wichan.cli.console import is_terminal, say, show

    settings = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True).rstrip()
    if not is_terminal():
        say(f"{card.rstrip()}\n\n## All settings\n\n{settings}")
        return
    from rich.markdown import Markdown
    from rich.syntax import Syntax

    show(Markdown(card))
    show(Markdown("## All settings"))
    show(Syntax(settings, "yaml", background_color="default", word_wrap=True))
