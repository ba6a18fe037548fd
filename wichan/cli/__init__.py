"""The command ``wichan``: one file a verb; heavy imports happen inside the verbs, so that ``--help`` is quick."""

from __future__ import annotations

import sys

from wichan.registry import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"app": "wichan.cli.verbs"})
__all__ = ["app", "main"]


def main(args: list[str] | None = None) -> None:
    """Run the command with ``args`` (default: the process's) and leave with its exit code."""
    try:
        # Imported here, so that Ctrl-C while Typer and the verbs load ends in one line too.
        from wichan.cli.verbs import app

        app(args, prog_name="wichan")
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        if "--json" in (sys.argv[1:] if args is None else args):
            print('{\n  "error": "interrupted"\n}')
        sys.exit(130)
