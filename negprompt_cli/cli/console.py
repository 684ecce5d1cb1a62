"""How a command talks: progress, notices and tables on stderr, results on stdout.

On a terminal, tasks are live bars with rate and time left; elsewhere they are plain lines, few enough to read in a log.
With -q only warnings and errors are shown besides the path that was made. rich is imported when something is drawn, so that
`--help` does not wait for it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from negprompt_cli.decisions import Decision, documents

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAIN_SECONDS = 10.0
"""How often a plain log hears of a task of many small units."""


class _Bar:
    def __init__(self, progress: "Progress", title: str, total: int, unit: str) -> None:
        self._progress, self._unit, self._started = progress, unit, time.monotonic()
        self._done = 0
        self._task = progress.add_task(title, total=total, rate="", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the bar on."""
        self._done += count
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        self._progress.update(self._task, advance=count, rate=f"{rate:.3g} {self._unit}/s", note=note)


class _Lines:
    def __init__(self, console: "Console", title: str, total: int, unit: str) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._started = self._last = time.monotonic()
        self._done = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        """Write a line for each epoch, for each stretch of time, and at the end."""
        self._done += count
        now = time.monotonic()
        if note or self._done >= self._total or now - self._last >= PLAIN_SECONDS:
            self._last = now
            rate = self._done / max(1e-9, now - self._started)
            left = (self._total - self._done) / rate
            text = f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.3g}/s, {left:.0f} s left"
            _print_plain(self._console, f"{text}  {note}".rstrip())


class _Nothing:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Say nothing."""


class Talk:
    """A step's listener on the command line, and the place results are printed from."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.decisions: list[Decision] = []
        from rich.console import Console

        self._err = Console(stderr=True)

    def say(self, text: str) -> None:
        """One line of information on stderr."""
        if not self.quiet:
            _print_plain(self._err, text)

    def warn(self, text: str) -> None:
        """One warning on stderr, quiet or not."""
        _print_plain(self._err, f"warning: {text}", style="yellow")

    def decide(self, decision: Decision) -> None:
        """Tell a decision on stderr, once, and keep it for the document."""
        if decision not in self.decisions:
            self.decisions.append(decision)
            (self.warn if decision.warning else self.say)(decision.message)

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[_Bar | _Lines | _Nothing]:
        """A bar on a terminal, lines elsewhere."""
        if self.quiet:
            yield _Nothing()
        elif not self._err.is_terminal:
            yield _Lines(self._err, title, total, unit)
        else:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self._err) as progress:
                yield _Bar(progress, title, total, unit)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stderr; columns after the first are right-aligned where they hold numbers."""
        if self.quiet:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left")
        for i, column in enumerate(columns):
            numeric = bool(rows) and all(row[i].replace(".", "").replace("-", "").isdigit() for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._err.print(table)

    def result(self, path: Path, document: dict[str, Any]) -> None:
        """What was made, on stdout: the document with --json, its `decisions` included, else the path."""
        document = {**document, "decisions": document.get("decisions", documents(self.decisions))}
        typer.echo(json.dumps(document, indent=1) if self.as_json else str(path))


def _print_plain(console: "Console", text: str, style: str = "") -> None:
    """Print text as it is: no markup, and no line broken where a path or a command would be."""
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=True)
