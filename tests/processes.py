"""Processes of their own for tests, and trainings that are interrupted.

Processes are forked from a server that has everything imported, so that a job takes about as long as its work, and never
from the process of the tests, which has threads.
"""

import multiprocessing
import time

import pytest

from negprompt_cli.engine.prompt_learners.training import State
from negprompt_cli.steps.shared.resuming import Resumable

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["negprompt_cli.steps.fit", "negprompt_cli.cli.fit", "timm", "open_clip"])


def interrupt_at(monkeypatch: pytest.MonkeyPatch, epoch: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Have trainings in this process interrupted at the end of their n-th epoch, before that is kept."""
    real, epochs = Resumable.keep, []

    def counting(self: Resumable, state: State) -> None:
        epochs.append(None)
        if len(epochs) == epoch:
            raise error("stopped on purpose")
        real(self, state)

    monkeypatch.setattr(Resumable, "keep", counting)


def slow_epochs(seconds: float) -> None:
    """Have each epoch of trainings in this process take some time at least, for good."""
    real = Resumable.keep

    def slow(self: Resumable, state: State) -> None:
        time.sleep(seconds)
        real(self, state)

    Resumable.keep = slow  # type: ignore[method-assign]
