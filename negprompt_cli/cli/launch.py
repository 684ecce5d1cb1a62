"""Several processes: how --gpus starts them with torchrun, and how one of them runs.

`--gpus N` runs the same command line again under torchrun, in N processes. Rank 0 runs the command; it alone prints, reads
standard input and writes files. The other ranks compute for it on their devices (`engine.parallel`). torchrun ends the whole
job when one process dies. torchrun's own reports are hidden, because rank 0 or this process reports the failure; they are
shown if a person starts torchrun.
"""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from negprompt_cli.cli.error_exit import complain
from negprompt_cli.cli.faults import explain
from negprompt_cli.cli.remedies import full_message
from negprompt_cli.engine.parallel.ranks import Ranks, ranks_from_environment, usable_cores
from negprompt_cli.errors import NegPromptError

if TYPE_CHECKING:
    from negprompt_cli.config import Config

WAIT_SECONDS = 2.0
"""How long a rank that lost rank 0 waits before it fails too, so that torchrun finds the first failure first."""

_line: list[str] | None = None


def remember_line(arguments: Sequence[str]) -> None:
    """Keep the command's arguments as they were typed, for --gpus to run again."""
    global _line
    _line = list(arguments)


def start_processes(config: "Config") -> None:
    """If the configuration asks for several processes, run the command in them and exit with its exit code.

    Does nothing in one of those processes, or when called from Python, where there is no command line to repeat.

    Raises:
        typer.Exit: the processes have ended.
    """
    wanted = config.compute.gpus or 1
    if _line is not None and wanted > 1 and not ranks_from_environment().several:
        raise typer.Exit(_launch(wanted, _line))


def run_as_rank(ranks: Ranks, command: Callable[[], None]) -> NoReturn:
    """Run as one process of several: rank 0 runs `command`, and the others compute for it. Then exit."""
    code = _serve(ranks) if ranks.rank else _lead(ranks, command)
    # Skip Python's usual exit: threads of torch.distributed that are still ending would abort the process during it.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _lead(ranks: Ranks, command: Callable[[], None]) -> int:
    """Run the command as rank 0 and return its exit code."""
    signal.signal(signal.SIGINT, _interrupt_once)
    from negprompt_cli.engine.parallel.rank_calls import assemble

    try:
        team = assemble(ranks)
    except NegPromptError as error:
        complain(full_message(error))
        return error.exit_code
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        team.dismiss()
    return 0


def _launch(processes: int, arguments: list[str]) -> int:
    """Run the command in several processes of this machine and return its exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    if "--debug" not in arguments:
        logging.disable(logging.CRITICAL)
    # Without the double dash torchrun reads our --run as an abbreviation of its own --run-path.
    line = ["--standalone", "--nproc-per-node", str(processes), "-m", "--", "negprompt_cli", *arguments]
    try:
        run(parse_args(line))
    except ChildFailedError as error:
        return exit_code_of({rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def exit_code_of(codes: dict[int, int]) -> int:
    """The job's exit code from the exit codes of failed ranks; prints what rank 0 could not print itself."""
    # When one rank fails, torchrun ends the others with SIGTERM, which is then not the cause.
    causes = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    killed = {rank: -code for rank, code in causes.items() if code < 0}
    for rank, number in sorted(killed.items()):
        complain(
            f"Rank {rank} was ended by {signal.Signals(number).name}, which ended the job. If nobody sent that signal, the "
            "machine may have run out of memory: try fewer processes, or a smaller --image-batch or --memory."
        )
    if killed:
        return 1
    if 0 not in causes:
        complain(f"Rank {min(causes)} failed, which ended the job. Its message is above.")
        return 1
    return causes[0]


def _serve(ranks: Ranks) -> int:
    """Compute for rank 0, without printing, and return the exit code."""
    # Ctrl-C reaches every process of a terminal, but only rank 0 handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore")
    from negprompt_cli.engine.parallel.rank_calls import LostRank, assemble
    from negprompt_cli.steps.shared.rank_worker import serve

    team = None
    try:
        team = assemble(ranks)
        serve(team)
    except LostRank as error:
        if team is None or not team.over:
            time.sleep(WAIT_SECONDS)
            complain(f"Rank {ranks.rank}: {error}")
            return error.exit_code
    except Exception as error:
        complain(
            f"Rank {ranks.rank}: {explain(error) or f'Unexpected {type(error).__name__}: {error}. This is a bug.'}"
        )
        return 1
    return 0


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Handle the first Ctrl-C only: torchrun sends a second one to rank 0, which has already received it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
