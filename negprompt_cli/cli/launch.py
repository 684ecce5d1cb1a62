"""Several processes: started through torchrun for --gpus, and what this process does when it is one of them.

`--gpus N` runs the same command line again under torchrun, in N processes. Rank 0 then runs the command and is the only one
that prints, reads standard input and writes; the others lend it their devices (`engine.parallel`). torchrun ends the whole
job when one process dies. Its own reports are left out here, since rank 0 or this process says what happened; whoever calls
torchrun reads them as usual.
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
"""How long a rank that lost rank 0 waits before it fails too, so that torchrun sees first who died first."""

_line: list[str] | None = None


def remember_line(arguments: Sequence[str]) -> None:
    """Keep the command's arguments as they were typed, for --gpus to run again."""
    global _line
    _line = list(arguments)


def start_processes(config: "Config") -> None:
    """Where a configuration wants several processes and this is none of them, run the command in them and exit as it does.

    Does nothing where the application was not started from a command line, which there is none of to run again.

    Raises:
        typer.Exit: the processes are done.
    """
    wanted = config.compute.gpus or 1
    if _line is not None and wanted > 1 and not ranks_from_environment().several:
        raise typer.Exit(_launch(wanted, _line))


def run_as_rank(ranks: Ranks, command: Callable[[], None]) -> NoReturn:
    """Be one process of several: rank 0 runs `command`, the others serve it; then exit."""
    code = _serve(ranks) if ranks.rank else _lead(ranks, command)
    # Not the usual way out: threads of torch.distributed that still wind up would abort a process while Python shuts down.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _lead(ranks: Ranks, command: Callable[[], None]) -> int:
    """Be rank 0 and run the command; its exit code."""
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
    """Run the command in processes of this machine; its exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    if "--debug" not in arguments:
        logging.disable(logging.CRITICAL)
    # Without the double dash torchrun takes our --run for an abbreviation of its own --run-path.
    line = ["--standalone", "--nproc-per-node", str(processes), "-m", "--", "negprompt_cli", *arguments]
    try:
        run(parse_args(line))
    except ChildFailedError as error:
        return exit_code_of({rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def exit_code_of(codes: dict[int, int]) -> int:
    """The job's exit code for those of the ranks that failed; says what rank 0 cannot have said itself."""
    # torchrun ends the others with SIGTERM when one has failed, which is then not what went wrong.
    causes = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    killed = {rank: -code for rank, code in causes.items() if code < 0}
    for rank, number in sorted(killed.items()):
        complain(
            f"rank {rank} was ended by {signal.Signals(number).name}, and the job with it. If nobody sent that signal, the "
            "machine may have run out of memory: try fewer processes, or a smaller --image-batch or --memory."
        )
    if killed:
        return 1
    if 0 not in causes:
        complain(f"rank {min(causes)} failed, and the job with it; its message is above.")
        return 1
    return causes[0]


def _serve(ranks: Ranks) -> int:
    """Serve rank 0 without a word; the exit code."""
    # Ctrl-C reaches every process of a terminal, but only rank 0 knows what to do about it.
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
            complain(f"rank {ranks.rank}: {error}")
            return error.exit_code
    except Exception as error:
        complain(f"rank {ranks.rank}: {explain(error) or f'Unexpected {type(error).__name__}: {error}. A defect.'}")
        return 1
    return 0


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C interrupts; torchrun passes it on to rank 0, which has heard it already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
