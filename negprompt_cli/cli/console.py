"""What a command prints: progress and notices on stderr; tables and documents that are its result on stdout.

On a terminal, a running task is a live bar. Elsewhere it prints a line when it begins and at most one every ten seconds;
with -v also one for each step that has a note, such as an epoch. When it ends, both print the same last line. With -q,
stdout has only the path of the result, and stderr only warnings and errors. --json is as quiet and prints one document on
stdout. rich is imported when something is drawn, so that `--help` is fast.
"""

import io
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from negprompt_cli.decisions import Decision, documents
from negprompt_cli.wording import Cell, cell, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

PLAIN_SECONDS = 10.0
"""Seconds between the lines of a task in a log that is not a terminal."""
PLAIN_WIDTH = 80
"""Columns of a table in a file or a pipe."""


class _Task:
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._started = title, unit, time.monotonic()
        self._done, self._note = 0, ""

    def end(self) -> None:
        """Print the last line."""
        text = f"{self._title}: {self._done} {self._unit} in {time.monotonic() - self._started:.1f} s"
        _print_plain(f"{text}, {self._note}" if self._note else text)


class _Bar(_Task):
    def __init__(self, progress: "Progress", title: str, total: int, unit: str, *, width: int) -> None:
        super().__init__(title, unit)
        self._progress = progress
        self._task = progress.add_task(textwrap.shorten(title, width, placeholder=" …"), total=total, rate="", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the bar."""
        self._done, self._note = self._done + count, note
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        self._progress.update(self._task, advance=count, rate=f"{rate:.3g} {self._unit}/s", note=note)


class _Lines(_Task):
    def __init__(self, title: str, total: int, unit: str, *, at_most: bool, verbose: bool) -> None:
        super().__init__(title, unit)
        self._total, self._verbose, self._last = total, verbose, self._started
        self._most = "at most " if at_most else ""
        _print_plain(f"{title}: {self._most}{total} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count, and print a line when it is time for one."""
        self._done, self._note = self._done + count, note
        now = time.monotonic()
        if self._verbose and note:
            _print_plain(f"{self._title}: {self._done} {self._unit}, {note}")
        elif now - self._last >= PLAIN_SECONDS and self._done < self._total:
            self._last = now
            rate = self._done / max(1e-9, now - self._started)
            left = (self._total - self._done) / rate
            done = f"{self._done} of {self._most}{self._total} {self._unit}"
            text = f"{self._title}: {done}, {rate:.3g}/s, {self._most}{left:.0f} s left"
            _print_plain(f"{text}, {note}" if note else text)


class _Nothing:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Print nothing."""


class Talk:
    """Prints the messages of a step and the results of a command.

    Args:
        quiet: -q was given.
        as_json: --json was given, which implies `quiet`.
        verbose: -v was given.
    """

    def __init__(self, *, quiet: bool, as_json: bool, verbose: bool = False) -> None:
        self.quiet, self.as_json, self.verbose = quiet or as_json, as_json, verbose
        self.decisions: list[Decision] = []
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Print a message on stderr, unless it was printed before."""
        if not self.quiet and text not in self._said:
            self._said.add(text)
            _print_plain(text)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, even if `quiet`, unless it was printed before."""
        if (line := f"warning: {text}") not in self._said:
            self._said.add(line)
            _print_plain(line, style="yellow")

    def decide(self, decision: Decision) -> None:
        """Print a decision on stderr, once, and keep it for the document."""
        if decision not in self.decisions:
            self.decisions.append(decision)
            (self.warn if decision.warning else self.say)(decision.message)

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, at_most: bool = False) -> Iterator[_Bar | _Lines | _Nothing]:
        """Show a bar on a terminal, and print lines elsewhere; print a last line when the task ends."""
        if self.quiet:
            yield _Nothing()
            return
        console = _stderr()
        task: _Bar | _Lines
        if console.is_terminal:
            from rich.progress import Progress

            with Progress(*_bar_columns(console.width), console=console, transient=True) as progress:
                task = _Bar(progress, title, total, unit, width=max(8, console.width - 24))
                yield task
        else:
            task = _Lines(title, total, unit, at_most=at_most, verbose=self.verbose)
            yield task
        task.end()

    def facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values on stderr, a line each; lines are never broken, so that paths and digests can be copied."""
        width = max(len(name) for name, _ in rows)
        self.say("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)]))

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, labels: int | None = None
    ) -> None:
        """Print a table that is the command's result on stdout; see `table_text`."""
        if not self.quiet:
            typer.echo(table_text(title, columns, rows, labels=labels), nl=False)

    def line(self, text: str) -> None:
        """Print a line of the command's result on stdout."""
        if not self.quiet:
            typer.echo(text)

    def result(self, path: Path, document: dict[str, Any]) -> None:
        """Print the result's document on stdout with --json, else where it is."""
        if self.as_json:
            self.document(document)
        else:
            self.made(path)

    def document(self, document: dict[str, Any]) -> None:
        """Print a JSON document on stdout, with the decisions of the step."""
        own = document.get("decisions", [])
        document = {**document, "decisions": [*own, *(d for d in documents(self.decisions) if d not in own)]}
        typer.echo(json.dumps(document, indent=1))

    def made(self, path: Path) -> None:
        """Print where the result is: the path alone on stdout with -q, a line on stderr otherwise."""
        typer.echo(str(path) if self.quiet else f"Wrote {path}", err=not self.quiet)


def table_text(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, labels: int | None = None
) -> str:
    """A table as text that fits the terminal, or 80 columns in a file or a pipe.

    Words are never broken: numbers stay on one line, and other texts wrap between words. If the columns do not fit, the
    table is drawn in parts, one below the other, and each part has the columns that name the rows. If a single column does
    not fit, the table is wider than the terminal.

    Args:
        title: the line above the table.
        columns: the headings.
        rows: the cells. Columns of numbers after the first are aligned to the right.
        labels: how many columns name the rows; None never splits the table into parts.
    """
    terminal = sys.stdout.isatty()
    room = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if terminal else PLAIN_WIDTH
    cells = [[cell(value) if isinstance(value, str) else value for value in row] for row in rows]
    naming = list(range(len(columns) if labels is None else labels))

    def fits(chosen: Sequence[int]) -> bool:
        least = [_widths(columns[i], [row[i] for row in cells])[0] for i in chosen]
        return sum(least) + _space(len(least)) <= room

    parts: list[list[int]] = [list(naming)]
    for i in range(len(naming), len(columns)):
        if len(parts[-1]) > len(naming) and not fits([*parts[-1], i]):
            parts.append(list(naming))
        parts[-1].append(i)
    drawn = [_drawn([columns[i] for i in p], [[row[i] for i in p] for row in cells], room, terminal) for p in parts]
    heading = textwrap.fill(title, room, break_long_words=False, break_on_hyphens=False)
    return (f"{heading}\n" if title else "") + "\n".join(drawn)


def hanging(prefix: str, text: str) -> str:
    """A text after a prefix, wrapped between words to 80 columns; its other lines are indented by the prefix's width."""
    wrapped = textwrap.fill(
        text,
        PLAIN_WIDTH,
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped or prefix.rstrip()


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[Cell]], room: int, terminal: bool) -> str:
    """A table of at most `room` columns if its longest words allow it."""
    from rich.console import Console
    from rich.text import Text

    ranges = [_widths(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
    widths = [most for _, most in ranges]
    room -= _space(len(widths))
    while sum(widths) > room and (wrapping := [i for i, width in enumerate(widths) if width > ranges[i][0]]):
        widths[max(wrapping, key=lambda i: widths[i])] -= 1
    table = _empty_table()
    for i, column in enumerate(columns):
        right = i > 0 and _figures([row[i] for row in rows])
        table.add_column(Text(column), justify="right" if right else "left", width=widths[i])
    for row in rows:
        table.add_row(*(Text.assemble(*((text, "bold" if strong else "") for text, strong in spans)) for spans in row))
    buffer = io.StringIO()
    Console(file=buffer, width=10_000, force_terminal=terminal).print(table)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _empty_table() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


@lru_cache
def _space(columns: int) -> int:
    """The width of the gaps between and after the columns of a table, which depends on the version of rich."""
    from rich.console import Console

    table = _empty_table()
    for _ in range(columns):
        table.add_column(width=1)
    return Console(width=10_000).measure(table).maximum - columns


def _widths(heading: str, cells: Sequence[Cell]) -> tuple[int, int]:
    """The least and the greatest width of a column: figures stay on one line, other texts wrap between words."""
    from rich.cells import cell_len

    texts = [plain(spans) for spans in cells]
    whole = max(map(cell_len, texts), default=0)
    words = max((cell_len(word) for text in texts for word in text.split()), default=0)
    least = max(whole if _figures(cells) else words, *map(cell_len, heading.split()), 1)
    return least, max(whole, cell_len(heading), 1)


def _figures(cells: Sequence[Cell]) -> bool:
    """Whether a column has only figures."""
    return bool(cells) and all(_numeric(plain(spans)) for spans in cells)


def _numeric(text: str) -> bool:
    """Whether a cell has only figures: `77.7 / 57.2`, `0.5 ± 0.1`, `9.1 [8.0, 9.9]`, `70.1 to 71.2`, or a dash."""
    return all(c.isdigit() or c in "-+.,/±[]%<! " for c in text.replace(" to ", " "))


def _bar_columns(width: int) -> list["ProgressColumn"]:
    """The parts of a bar that fit a terminal of this width; the title and the share done are always shown."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), MofNCompleteColumn()]
    if width >= 50:
        columns.append(TimeRemainingColumn())
    if width >= 75:
        columns.insert(1, BarColumn(bar_width=20))
    if width >= 100:
        columns.append(TextColumn("{task.fields[rate]}"))
    if width >= 160:
        columns.append(TextColumn("{task.fields[note]}"))
    return columns


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _print_plain(text: str, style: str = "") -> None:
    """Print text on stderr unchanged: without markup, and without breaking lines, so that paths and commands stay whole."""
    from rich.text import Text

    _stderr().print(Text(text, style=style), soft_wrap=True)
