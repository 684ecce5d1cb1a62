"""Every error of a command becomes one message and an exit code; tracebacks are shown only with --debug."""

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from negprompt_cli.cli.faults import explain
from negprompt_cli.cli.remedies import full_message
from negprompt_cli.errors import NegPromptError, UsageError, wrong_value

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shell's convention (128 + SIGINT)."""

debug = False
"""Whether tracebacks are shown; set by --debug."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped a job. The message says what is kept and how to resume."""

    def __init__(self, message: str, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def show_tracebacks(wanted: bool) -> None:
    """Set whether tracebacks are shown."""
    global debug
    debug = wanted


class GuardedGroup(TyperGroup):
    """The root command, which handles the errors of all subcommands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; turn errors into messages and exit codes."""
        if sys.getfilesystemencoding() == "ascii":
            _say(
                "warning: this locale has only ASCII characters, so files and classes with other characters in their names "
                "may not be recognised. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
            )
        try:
            _need_streams()
            return super().invoke(ctx)
        except NegPromptError as error:
            complain(full_message(error))
            raise typer.Exit(error.exit_code) from error
        except Stopped as stop:
            complain(str(stop))
            raise typer.Exit(stop.exit_code) from None
        except KeyboardInterrupt:
            complain("Interrupted. Finished files are kept, and the image features encoded so far are in the cache.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output closed the pipe, which is no error.
            _give_up_stdout()
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except typer.BadParameter as error:
            from pydantic import ValidationError

            if error.param is None or not isinstance(error.__cause__, ValidationError):
                raise
            complain(wrong_value(error.param.opts[-1], error.__cause__.errors()[:1]))
            raise typer.Exit(UsageError.exit_code) from error
        except Exception as error:
            # The parser shows its own usage errors, with exit code 2.
            if hasattr(error, "exit_code") and hasattr(error, "show"):
                raise
            defect = (
                f"Unexpected {type(error).__name__}: {error}\nThis is a bug. Run the command with --debug to see where."
            )
            complain(explain(error) or defect)
            if isinstance(error, OSError):
                _give_up_stdout()
            raise typer.Exit(1) from error

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the whole command line; it is also an error if --help or --version cannot write."""
        try:
            return super().main(*args, **more)
        except OSError as error:
            complain(explain(error) or str(error))
            _give_up_stdout()
            sys.exit(1)


def _give_up_stdout() -> None:
    """Discard what could not be written to stdout, because Python would report it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _need_streams() -> None:
    """Give a process that was started without standard input or standard error empty ones, as daemons start it.

    Raises:
        UsageError: standard output is closed, so that results would be lost.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        raise UsageError("Standard output is closed. Send it to a file, or to /dev/null.")


def complain(message: str) -> None:
    """Print one error message on stderr, after the traceback if --debug was given."""
    if debug:
        traceback.print_exc(file=sys.stderr)
    _say(f"error: {message}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - rich would wrap paths and commands
