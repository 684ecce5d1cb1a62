"""Errors at the edge: a person's mistake becomes one message and an exit code, without a traceback unless asked for."""

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from negprompt_cli.errors import NegPromptError

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shell's convention (128 + SIGINT)."""

debug = False
"""Whether tracebacks are shown; set by --debug."""


def show_tracebacks(wanted: bool) -> None:
    """Set by the --debug option."""
    global debug
    debug = wanted


class GuardedGroup(TyperGroup):
    """The root command group: every error of a subcommand passes through here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; turn errors into messages and exit codes."""
        try:
            return super().invoke(ctx)
        except NegPromptError as error:
            _complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            _complain(
                "Interrupted. Whole files written before are kept; image features encoded so far are in the cache."
            )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has gone; Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # Usage errors of the parser itself are shown by it, with exit code 2.
            if hasattr(error, "exit_code") and hasattr(error, "show"):
                raise
            _complain(f"Unexpected {type(error).__name__}: {error}\nThis is a defect; --debug shows where it happened.")
            raise typer.Exit(1) from error


def _complain(message: str) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201 - rich would wrap paths and commands
