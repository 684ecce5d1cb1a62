"""A listener for tests that keeps what a job tells it."""

from collections.abc import Iterator
from contextlib import contextmanager

from negprompt_cli.progress import Silent


class Recorder(Silent):
    """What was said and warned of, the titles and totals of tasks, and the units done of all together."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.tasks: list[str] = []
        self.totals: list[int] = []
        self.advanced = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, at_most: bool = False) -> Iterator["Recorder"]:
        self.tasks.append(title)
        self.totals.append(total)
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.advanced += count
