"""What the tests of interruption share: drawn images, a small model, and commands in processes that can be killed."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from processes import SERVER, slow_epochs
from scoring_world import write_images

from negprompt_cli.demo.model import unpack_model

CLASSES = ("red circle", "green square", "blue triangle", "yellow star")
Prepare = Callable[[], None]
"""Run in the process before the command; must be a function of a module."""


@dataclass(frozen=True)
class World:
    """A model, images of four classes, and a cache of their features."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "photos"

    def command(self, name: str, run: Path, *more: object) -> list[str]:
        """A command line on this world."""
        words = ["--model", f"local-dir:{self.folder / 'model'}", "--data", self.images, "--run", run]
        return [str(w) for w in (name, *words, "--device", "cpu", "--workers", 0, "--shots", 6, *more)]

    def start(self, arguments: Sequence[str], said: Path, prepare: Prepare | None = None) -> ForkServerProcess:
        """Start a command; what it prints goes to the file `said`."""
        cache = str(self.folder / "cache")
        process = SERVER.Process(target=_main, args=(list(arguments), said, cache, prepare))
        process.start()
        return process

    def finish(self, arguments: Sequence[str], prepare: Prepare | None = None) -> tuple[int, str]:
        """Run a command to its end: its exit code, negative for a signal, and what it printed."""
        said = self.folder / "said.txt"
        said.unlink(missing_ok=True)
        process = self.start(arguments, said, prepare)
        process.join(120)
        code = process.exitcode
        assert code is not None, "the command hangs"
        return code, said.read_text("utf-8") if said.exists() else ""


def make_world(folder: Path) -> World:
    """Draw the images and unpack the model."""
    for seed, name in enumerate(CLASSES):
        write_images(folder / "photos" / name.replace(" ", "_"), 12, seed=seed)
    unpack_model(folder / "model")
    return World(folder)


def files(run: Path) -> dict[str, bytes]:
    """What a run folder holds."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def every_epoch() -> None:
    """Write a checkpoint after every epoch, however short."""
    from negprompt_cli.steps.shared import resuming

    resuming.SECONDS = 0.0


def slow_and_often(seconds: float) -> None:
    """Take epochs of some time at least, and write a checkpoint every few of them."""
    from negprompt_cli.steps.shared import resuming

    resuming.SECONDS = 0.05
    slow_epochs(seconds)


def _main(arguments: list[str], said: Path, cache: str, prepare: Prepare | None) -> None:
    from negprompt_cli.cli import main

    torch.set_num_threads(1)
    os.environ |= {"NEGPROMPT_CACHE": cache, "COLUMNS": "300", "NO_COLOR": "1"}
    # The server ignores Ctrl-C; a command does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["negprompt", *arguments]
    if prepare:
        prepare()
    with said.open("w", encoding="utf-8") as output, redirect_stdout(output), redirect_stderr(output):
        main()
