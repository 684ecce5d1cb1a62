"""Read untrusted YAML. Size and depth are limited, and nothing is executed.

PyYAML's safe loader reads YAML with further rules: tags and duplicate keys are refused, nesting is limited to what files of
this package need, and an alias counts as much as the value it refers to, because nested aliases can expand without bound
("billion laughs").

Only code that reads YAML imports this module, because importing PyYAML takes longer than the start of most commands.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from negprompt_cli.data.files.textfile import amount, read_text, unique
from negprompt_cli.errors import UsageError, first_line

MAX_YAML_BYTES = 256 << 10
"""Largest YAML text; PyYAML reads about 70 KiB per second."""
MAX_YAML_DEPTH = 32
MAX_YAML_NODES = 100_000
MAX_YAML_PLAIN = 4096
"""Most characters of a text without quotes: the loader converts digits and colons of any length to a number."""


def package_yaml(package: str, name: str) -> Any:
    """Read a file that is part of the package, with PyYAML's parser in C where it has one: that takes a tenth of the time.

    Args:
        package: the package that has the file, `__package__` of the caller.
        name: the file's name.
    """
    text = (resources.files(package) / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_yaml(path: Path, *, what: str) -> Any:
    """Read a YAML file by the rules above.

    Args:
        path: the file.
        what: what the file should be, for messages: "a catalogue".

    Raises:
        UsageError: the file cannot be read, or `parse_yaml` refuses it; the message names the file.
    """
    return parse_yaml(read_text(path, most=MAX_YAML_BYTES, what=what), str(path))


def parse_yaml(text: str, where: str, *, texts: bool = False) -> Any:
    """Read YAML text by the rules above into dicts, lists, numbers, dates and texts.

    Args:
        text: one document.
        where: its name in messages.
        texts: keep every scalar as text; otherwise `no` becomes False and `010` becomes 8.

    Raises:
        UsageError: the text is not YAML, has tags or a key twice, or is too large or too deep with aliases expanded; the
            message begins with `where`.
    """
    if len(text) > MAX_YAML_BYTES:
        raise UsageError(f"{where} has more than {amount(MAX_YAML_BYTES)} of YAML.")
    try:
        return yaml.load(text, Loader=_TextLoader) if texts else yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{where}{line}: not readable as YAML: {error.problem or error.context}.") from None
    # PyYAML does not convert errors of int(), float() and datetime, or those of unhashable keys.
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        reason = first_line(error).rstrip(".")
        raise UsageError(f"{where}: not readable as YAML: {reason}.") from None


@dataclass(frozen=True)
class _Extent:
    """The number of nodes of a piece of YAML, with aliases expanded, and its depth."""

    nodes: int
    depth: int


class _Loader(yaml.SafeLoader):
    """The safe loader with limits. It stops at most one line after the place that exceeds a limit."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._extents: dict[int, _Extent] = {}
        self._nodes = self._depth = self._deepest = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Check the event that begins a node, then compose the node."""
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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are all different."""
        pairs = [(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        unique(pairs)
        return super().construct_mapping(node, deep)

    def _enter(self, extent: _Extent, event: yaml.Event) -> None:
        """Count the nodes that begin here, and refuse them if there are too many or they are too deep."""
        self._nodes += extent.nodes
        self._deepest = max(self._deepest, self._depth + extent.depth)
        if self._deepest > MAX_YAML_DEPTH:
            raise _refused(f"nested more than {MAX_YAML_DEPTH} deep", event)
        if self._nodes > MAX_YAML_NODES:
            raise _refused(f"more than {MAX_YAML_NODES} values with aliases expanded", event)


class _TextLoader(_Loader):
    """A loader that keeps scalars as texts."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a node, which for every scalar is that of a text."""
        return "tag:yaml.org,2002:str" if kind is yaml.ScalarNode else super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
