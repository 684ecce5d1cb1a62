"""The command line: one Typer app with one file per subcommand. A file parses options, calls a step and prints its result.

Importing this package imports neither torch nor open_clip: a command imports its step when it runs. For every command,
errors of the package become one message and an exit code: 0 done, 1 failed at run time, 2 usage error or bad input, 130
interrupted, 143 a training was ended by SIGTERM.
"""

import gc
import os
import sys

from negprompt_cli.cli.app import app
from negprompt_cli.cli.launch import remember_line, run_as_rank
from negprompt_cli.engine.parallel.ranks import ranks_from_environment

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line, alone or as one process of several; `--debug` works anywhere on the line."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    remember_line(sys.argv[1:])
    # OpenMP reads this when torch is loaded. By default its threads spin while they wait, which makes a training with small
    # tensors several times slower if other processes use the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # pydantic would read the metadata of every installed package to look for plugins, which takes as long as its own import.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    # Imports make very many objects, which live as long as the process. By default the garbage collector visits them again
    # and again. There is no gc.freeze at the exit, because it makes nanobind, which triton uses, print a list of leaks.
    gc.set_threshold(5_000)
    ranks = ranks_from_environment()
    if ranks.several:
        run_as_rank(ranks, lambda: app(arguments, prog_name="negprompt"))
    else:
        app(arguments, prog_name="negprompt")
