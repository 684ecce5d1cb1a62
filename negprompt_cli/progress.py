"""How long jobs report their progress: messages, and tasks that advance.

Jobs use this protocol and know nothing of terminals. The command line draws it with rich; in Python, pass `Silent`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from negprompt_cli.decisions import Decision


class Task(Protocol):
    """A running task."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report that `count` more units are done, with a short `note`."""


class Progress(Protocol):
    """Receives the messages of a job."""

    def say(self, text: str) -> None:
        """Receive a message."""

    def warn(self, text: str) -> None:
        """Receive a warning, which a person should not miss."""

    def decide(self, decision: Decision) -> None:
        """Receive a decision of the job; show it and keep it."""

    def task(self, title: str, total: int, unit: str, *, at_most: bool = False) -> AbstractContextManager[Task]:
        """Start a task of `total` units ('images', 'epochs'), or of `at_most` so many; leaving the context ends it."""


class _SilentTask:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Ignore it."""


class Silent:
    """A listener that prints nothing."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Ignore it."""

    def decide(self, decision: Decision) -> None:
        """Pass its message to `warn` or `say`."""
        (self.warn if decision.warning else self.say)(decision.message)

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, at_most: bool = False) -> Iterator[Task]:
        """Ignore it."""
        yield _SilentTask()
