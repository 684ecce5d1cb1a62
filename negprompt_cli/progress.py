"""What long jobs tell whoever started them: lines, and tasks that advance.

Jobs know this protocol and nothing of terminals; the command line draws it with rich, a library user may pass `Silent`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from negprompt_cli.decisions import Decision


class Task(Protocol):
    """A running task."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more units are done, with a short `note` on the progress."""


class Progress(Protocol):
    """Listener of a job."""

    def say(self, text: str) -> None:
        """Take one line of information."""

    def warn(self, text: str) -> None:
        """Take one line that a person should not miss."""

    def decide(self, decision: Decision) -> None:
        """Take what was decided for the person who started the job; tell it and keep it."""

    def task(self, title: str, total: int, unit: str) -> AbstractContextManager[Task]:
        """Start a task of `total` units ('images', 'epochs'); leaving the context ends it."""


class _SilentTask:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Ignore it."""


class Silent:
    """A listener that says nothing."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Ignore it."""

    def decide(self, decision: Decision) -> None:
        """Hand its message to `warn` or `say`."""
        (self.warn if decision.warning else self.say)(decision.message)

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        """Ignore it."""
        yield _SilentTask()
