"""One line for every failure: errors, interrupts and broken pipes become messages and exit codes, never tracebacks."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from wichan.cli.console import emit_json, message, one_line, one_line_warnings
from wichan.errors import InvalidTypeError, InvalidValueError, WichanError

DONE, FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


class Interrupted(Exception):
    """Ctrl-C, with what to say about it: an exception of our own, since Typer turns `KeyboardInterrupt` into silence."""


class Guarded(TyperGroup):
    """The command group; turns whatever a verb raises into one line on stderr and an exit code.

    0 done, 1 failed, 2 wrong usage (a bad option, name or value), 130 interrupted by Ctrl-C, 141 reader went away.
    With ``--json`` the line is on stdout too, as ``{"error": "..."}``. With ``WICHAN_DEBUG=1`` the traceback is shown
    instead.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C is renamed here, before Typer turns it into a silent exit."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(BROKEN_PIPE) from None

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Parse, run, report; exits with the code unless ``standalone_mode`` is off."""
        words = list(sys.argv[1:] if args is None else args)
        code = self._run(words, prog_name, **extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(self, args: list[str], prog_name: str | None, **extra: Any) -> int:
        try:
            with one_line_warnings():
                code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
            return BROKEN_PIPE
        except Exception as error:
            if os.environ.get("WICHAN_DEBUG", "") not in ("", "0") and not isinstance(error, Interrupted):
                raise
            return report(error, as_json="--json" in args)
        return code if isinstance(code, int) else DONE


def report(error: Exception, *, as_json: bool = False) -> int:
    """Print the one line that explains ``error`` (and one JSON object on stdout) and return its exit code."""
    code, text = explain(error)
    message("error", text)
    if as_json:
        try:
            emit_json({"error": one_line(text)})
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
    return code


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the line that go with ``error``."""
    if isinstance(error, Interrupted):
        return INTERRUPTED, str(error)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the option parser's own errors
        return int(error.exit_code), _usage(error)
    if isinstance(error, WichanError):
        return WRONG_USAGE if isinstance(error, (InvalidValueError, InvalidTypeError)) else FAILED, str(error)
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{name}{error.strerror}"
    if isinstance(error, MemoryError):
        return FAILED, "out of memory; ask for smaller batches or fewer workers"
    return FAILED, f"{type(error).__name__}: {error} (unexpected; run again with WICHAN_DEBUG=1 for the traceback)"


def _usage(error: Any) -> str:
    """The parser's message, with the command whose ``--help`` tells more."""
    text = str(error.format_message()).strip()
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "wichan"
    return f"{text} (see: {where} --help)"


def _silence_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (lives until the process ends)
