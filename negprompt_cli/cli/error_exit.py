"""Errors at the edge: a person's mistake becomes one message and an exit code, without a traceback unless asked for."""

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from negprompt_cli.cli.faults import explain
from negprompt_cli.cli.remedies import full_message
from negprompt_cli.errors import NegPromptError

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shell's convention (128 + SIGINT)."""

debug = False
"""Whether tracebacks are shown; set by --debug."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or a request to end; the message says what is kept and how to continue."""

    def __init__(self, message: str, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def show_tracebacks(wanted: bool) -> None:
    """Set by the --debug option."""
    global debug
    debug = wanted


class GuardedGroup(TyperGroup):
    """The root command group: every error of a subcommand passes through here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; turn errors into messages and exit codes."""
        if sys.getfilesystemencoding() == "ascii":
            _say(
                "warning: this locale knows no letters beyond a to z, so that files and classes with others in their names "
                "may not be recognised. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
            )
        try:
            return super().invoke(ctx)
        except NegPromptError as error:
            complain(full_message(error))
            raise typer.Exit(error.exit_code) from error
        except Stopped as stop:
            complain(str(stop))
            raise typer.Exit(stop.exit_code) from None
        except KeyboardInterrupt:
            complain("Interrupted. Files that were finished are kept; image features encoded so far are in the cache.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has gone, which is no fault.
            _give_up_stdout()
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # Usage errors of the parser itself are shown by it, with exit code 2.
            if hasattr(error, "exit_code") and hasattr(error, "show"):
                raise
            defect = f"Unexpected {type(error).__name__}: {error}\nThis is a defect; --debug shows where it happened."
            complain(explain(error) or defect)
            if isinstance(error, OSError):
                _give_up_stdout()
            raise typer.Exit(1) from error

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the whole command line: what --help and --version cannot write is an error too."""
        try:
            return super().main(*args, **more)
        except OSError as error:
            complain(explain(error) or str(error))
            _give_up_stdout()
            sys.exit(1)


def _give_up_stdout() -> None:
    """Forget what could not be written to stdout: Python would complain once more when it flushes it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(message: str) -> None:
    """Print one error message on stderr; with --debug the traceback of the error being handled before it."""
    if debug:
        traceback.print_exc(file=sys.stderr)
    _say(f"error: {message}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - rich would wrap paths and commands
