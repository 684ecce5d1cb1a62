"""Reading text, YAML, JSON and tables that somebody else wrote: bounded in size and depth, and nothing in them is executed.

A text file is read up to a limit that its kind never honestly reaches, in blocks, so that an endless file (a device, a
pipe) costs no more memory than the limit. YAML is read by PyYAML's safe loader with more rules: no tags, no deeper nesting
than any file of this package has, and aliases, which can unfold without bound ("billion laughs"), count as what they
stand for. JSON is read by the standard library, which bounds its depth; a key that comes twice is refused, because a
parser would silently keep the last one.

Leaves out: schemas, which belong to whoever reads the file.
"""

import codecs
import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from negprompt_cli.errors import UsageError

MAX_YAML_BYTES = 256 << 10
"""Largest YAML text; PyYAML reads about 70 KiB in a second."""
MAX_YAML_DEPTH = 32
MAX_YAML_NODES = 100_000
MAX_YAML_PLAIN = 4096
"""Most characters of a text without quotes: the loader takes digits and colons for a number, however long it is."""
_BLOCK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_BINARY = {
    b"PK\x03\x04": "an archive or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
    b"\x1f\x8b": "compressed",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x04": "a pickle of Python",
    b"SQLite format": "a database",
}
"""How files begin that are tables, and no text."""


def read_text(path: Path, *, most: int, what: str, nul: bool = False) -> str:
    r"""Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; the mark is dropped, line ends are `\n`.

    Args:
        path: the file.
        most: largest size, bytes.
        what: what it should be, for messages: "a list".
        nul: whether the text may contain NUL, as a separator does.

    Raises:
        UsageError: it cannot be read, is larger than `most`, holds NUL bytes or is in another encoding.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path), most=most, what=what, nul=nul)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(f"{path} cannot be read: {reason or error}.") from error


def read_stream(file: BinaryIO, where: str, *, most: int, what: str, nul: bool = False) -> str:
    """Read text from an open file or a pipe, as `read_text` does.

    Args:
        file: open for reading bytes.
        where: what messages call it.
        most: largest size, bytes.
        what: what it should be, for messages.
        nul: whether the text may contain NUL.

    Raises:
        UsageError: larger than `most`, with NUL bytes, or in another encoding.
    """
    blocks: list[bytes] = []
    size, encoding = 0, "utf-8-sig"
    while block := file.read(_BLOCK):
        if not blocks:
            encoding = next((name for mark, name in _MARKS if block.startswith(mark)), encoding)
            if (kind := next((kind for start, kind in _BINARY.items() if block.startswith(start)), None)) is not None:
                raise UsageError(f"{where} is {kind}, not {what}. Save it as text, such as CSV in UTF-8.")
        if b"\0" in block and not nul and encoding == "utf-8-sig":
            raise UsageError(f"{where} holds NUL bytes, so it is not {what}. Save it as UTF-8 text.")
        size += len(block)
        if size > most:
            raise UsageError(f"{where} is larger than {_amount(most)}, so it is not {what}.")
        blocks.append(block)
    try:
        text = b"".join(blocks).decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not a UTF-8 text file (byte {error.start}). Save it as UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    if not nul and "\0" in text:
        raise UsageError(f"{where} holds NUL characters, so it is not {what}. Save it as UTF-8 text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, where: str) -> Any:
    """Read JSON text.

    Raises:
        UsageError: not JSON, too deep, or with a key that comes twice in one object; one line that names `where`.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: not readable as JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{where}: not readable as JSON: {reason}.") from None


def parse_rows(text: str, delimiter: str) -> list[list[str]]:
    """Read a table of quoted or unquoted cells, stripped; blank lines and '#' comments are left out.

    Args:
        text: the table, with or without a header.
        delimiter: one character.

    Raises:
        ValueError: quotes that do not close, or a cell of more than 128 KiB.
    """
    lines = (line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, strict=True)]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return [row for row in rows if any(row)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:100]!r} comes twice")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")


def read_yaml(path: Path, *, what: str) -> Any:
    """Read a YAML file by the rules above.

    Args:
        path: the file.
        what: what it should be, for messages: "a catalogue".

    Raises:
        UsageError: it cannot be read, or `parse_yaml` refuses it; names the file.
    """
    return parse_yaml(read_text(path, most=MAX_YAML_BYTES, what=what), str(path))


def parse_yaml(text: str, where: str, *, texts: bool = False) -> Any:
    """Read YAML text by the rules above into dicts, lists, numbers, dates and texts.

    Args:
        text: one document.
        where: what messages call it.
        texts: leave every scalar the text that it is; otherwise `no` is False and `010` is 8.

    Raises:
        UsageError: too large or too deep with its aliases unfolded, with tags, or not YAML; one line that names `where`.
    """
    if len(text) > MAX_YAML_BYTES:
        raise UsageError(f"{where}: more than {_amount(MAX_YAML_BYTES)} of YAML.")
    try:
        return yaml.load(text, Loader=_TextLoader) if texts else yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{where}{line}: not readable as YAML: {error.problem or error.context}.") from None
    # Beside its own errors PyYAML lets through what int(), float() and datetime raise, and unhashable keys.
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise UsageError(f"{where}: not readable as YAML: {reason}.") from None


@dataclass(frozen=True)
class _Extent:
    """How many nodes a piece of YAML has, aliases unfolded, and how deep it goes."""

    nodes: int
    depth: int


class _Loader(yaml.SafeLoader):
    """The safe loader with bounds. The scanner runs at most a line ahead of what is refused."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._extents: dict[int, _Extent] = {}
        self._nodes = self._depth = self._deepest = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node, after a look at the event that begins it."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            extent = self._extents.get(id(node))
            if extent is None:
                raise _refused("an alias refers to the value that contains it", event)
            self._enter(extent, event)
            return node
        if getattr(event, "tag", None) is not None:
            raise _refused("YAML tags (!) are not allowed here", event)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > MAX_YAML_PLAIN:
            raise _refused(f"more than {MAX_YAML_PLAIN} characters need quotes", event)
        before, deepest = self._nodes, self._deepest
        self._deepest = self._depth
        self._enter(_Extent(1, 1), event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._extents[id(node)] = _Extent(self._nodes - before, self._deepest - self._depth)
        self._deepest = max(deepest, self._deepest)
        return node

    def _enter(self, extent: _Extent, event: yaml.Event) -> None:
        """Count what begins here, and refuse it where it is too much."""
        self._nodes += extent.nodes
        self._deepest = max(self._deepest, self._depth + extent.depth)
        if self._deepest > MAX_YAML_DEPTH:
            raise _refused(f"nested more than {MAX_YAML_DEPTH} deep", event)
        if self._nodes > MAX_YAML_NODES:
            raise _refused(f"more than {MAX_YAML_NODES} values, aliases unfolded", event)


class _TextLoader(_Loader):
    """Scalars stay texts, and a key that comes twice is refused."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node: that of a text for every scalar."""
        return "tag:yaml.org,2002:str" if kind is yaml.ScalarNode else super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """One mapping."""
        pairs = [(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        _unique(pairs)
        return super().construct_mapping(node, deep)


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _amount(size: int) -> str:
    unit, name = next((u, n) for u, n in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")) if size >= u)
    return f"{size // unit} {name}"
