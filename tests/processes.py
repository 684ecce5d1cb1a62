"""Processes of their own for tests, and trainings that are interrupted.

Processes are forked from a server that has everything imported, so that a job takes about as long as its work, and never
from the process of the tests, which has threads.
"""

import multiprocessing
import time
from typing import Any

import pytest
import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["negprompt_cli.steps.fit", "negprompt_cli.cli.fit", "timm", "open_clip"])


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Have the n-th step of trainings in this process interrupted."""
    real, steps = torch.optim.SGD.step, []

    def counting(*arguments: Any) -> Any:
        steps.append(None)
        if len(steps) == step:
            raise error("stopped on purpose")
        return real(*arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counting)


def slow_steps(seconds: float) -> None:
    """Have each step of trainings in this process take some time at least, for good."""
    real = torch.optim.SGD.step

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return real(*arguments)

    torch.optim.SGD.step = slow  # type: ignore[method-assign]
