"""One line for every failure: errors, interrupts and broken pipes become messages and exit codes, never tracebacks."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from wichan.cli.console import message, one_line_warnings
from wichan.errors import InvalidTypeError, InvalidValueError, WichanError

DONE, FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


class Guarded(TyperGroup):
    """The command group; turns whatever a verb raises into one line on stderr and an exit code.

    0 done, 1 failed, 2 wrong usage (a bad option, name or value), 130 interrupted by Ctrl-C, 141 reader went away.
    With ``WICHAN_DEBUG=1`` the traceback is shown instead.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C is caught here, before Typer turns it into a silent exit."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            message("error", "interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(BROKEN_PIPE) from None

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Parse, run, report; exits with the code unless ``standalone_mode`` is off."""
        code = self._run(args, prog_name, **extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(self, args: Any, prog_name: str | None, **extra: Any) -> int:
        try:
            with one_line_warnings():
                code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
            return BROKEN_PIPE
        except Exception as error:
            if os.environ.get("WICHAN_DEBUG", "") not in ("", "0"):
                raise
            return report(error)
        return code if isinstance(code, int) else DONE


def report(error: Exception) -> int:
    """Print the one line that explains ``error`` and return the exit code that goes with it."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the option parser's own errors
        message("error", _usage(error))
        return int(error.exit_code)
    if isinstance(error, WichanError):
        message("error", str(error))
        return WRONG_USAGE if isinstance(error, (InvalidValueError, InvalidTypeError)) else FAILED
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        message("error", f"{name}{error.strerror}")
        return FAILED
    if isinstance(error, MemoryError):
        message("error", "out of memory; ask for smaller batches or fewer workers")
        return FAILED
    message("error", f"{type(error).__name__}: {error} (unexpected; run again with WICHAN_DEBUG=1 for the traceback)")
    return FAILED


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
