"""The verbs of ``wichan``, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from wichan.cli.doctor import doctor
from wichan.cli.evaluate import evaluate
from wichan.cli.guard import Guarded
from wichan.cli.info import info
from wichan.cli.models import models
from wichan.cli.plot import plot
from wichan.cli.recipes import recipes
from wichan.cli.simulate import simulate
from wichan.cli.train import train
from wichan.cli.verify import verify

app = typer.Typer(
    name="wichan",
    cls=Guarded,
    help="Simulate, estimate and compare wireless channels.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from wichan import __version__

        typer.echo(f"wichan {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _verb in (simulate, recipes, models, info, verify, plot, train, evaluate, doctor):
    app.command(_verb.__name__)(_verb)
