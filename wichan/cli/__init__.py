"""The command ``wichan``: one file a verb; heavy imports happen inside the verbs, so that ``--help`` is quick."""

from wichan.cli.app import app, main

__all__ = ["app", "main"]
