"""The layers, read from the sources: nothing imports upward, and nothing below the command line speaks of its options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import negprompt_cli
from negprompt_cli.cli.app import SUBCOMMANDS
from negprompt_cli.cli.remedies import REMEDIES, full_message
from negprompt_cli.errors import NegPromptError, SeveralErrors, UsageError

PACKAGE = Path(negprompt_cli.__file__).parent
SOURCES = {path.relative_to(PACKAGE): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

LAYERS = (
    ("errors", "progress", "decisions", "choices", "wording", "schemas", "loss_presets", "_version"),
    ("data/files",),
    ("config",),
    ("engine",),
    ("data",),
    ("steps", "report", "demo"),
    ("embeddings",),
    ("cli", "api"),
)
"""The package from the bottom to the top; a module belongs to the first place named that holds it."""

NEVER = {
    "engine/prompt_learners": ("engine/clip", "engine/parallel", "engine/scores", "engine/metrics", "engine/judge"),
    "engine/scores": ("engine/clip", "engine/parallel", "engine/prompt_learners", "engine/metrics", "engine/judge"),
    "engine/metrics": ("engine/clip", "engine/parallel", "engine/prompt_learners", "engine/scores", "engine/judge"),
    "engine/losses": ("engine/clip", "engine/parallel", "engine/prompt_learners", "engine/scores", "engine/metrics"),
    "engine/clip": ("engine/parallel", "engine/scores", "engine/metrics"),
    "data/files": ("data/sets", "data/prepare", "data/encoding", "data/results", "data/studies"),
    "data/sets": ("data/prepare", "data/encoding", "data/results", "data/studies"),
    "data/encoding": ("data/prepare", "data/results", "data/studies"),
    # The training core touches no file but through the workbench and the data that it is given.
    "steps/shared/learning": ("data/files", "steps/shared/outputs", "steps/shared/resuming"),
}
"""Rooms of one layer that must not know each other."""

COMPOSING = {"demo", "fit", "report", "reproduce", "seeds", "sweep"}
"""Steps that are made of other steps."""


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}/")


def layer(module: str) -> int:
    """The place of a module in `LAYERS`; the most specific place decides."""
    found = [(len(place), i) for i, places in enumerate(LAYERS) for place in places if within(module, place)]
    return max(found)[1] if found else len(LAYERS)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module of the package that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("negprompt_cli."):
            module = node.module.removeprefix("negprompt_cli.").replace(".", "/")
            yield module
            yield from (f"{module}/{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("negprompt_cli."):
                    yield alias.name.removeprefix("negprompt_cli.").replace(".", "/")


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string literal, docstrings and the fixed parts of f-strings included, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def module_name(path: Path) -> str:
    return path.with_suffix("").as_posix().removesuffix("/__init__")


def test_no_import_runs_upward() -> None:
    wrong = [
        f"{path} imports {target}"
        for path, tree in SOURCES.items()
        for target in imports(tree)
        if layer(target) > layer(module_name(path))
    ]
    assert not wrong


def test_steps_have_helpers_in_common_and_not_each_other() -> None:
    steps = {path.stem for path in SOURCES if path.parent == Path("steps")} - {"__init__"}
    wrong = [
        f"{path} imports {target}"
        for path, tree in SOURCES.items()
        if within(module_name(path), "steps") and path.stem not in COMPOSING
        for target in imports(tree)
        if target.count("/") == 1 and target.removeprefix("steps/") in steps
    ]
    assert not wrong


def test_rooms_of_a_layer_are_apart() -> None:
    wrong = [
        f"{path} imports {target}"
        for path, tree in SOURCES.items()
        for room, others in NEVER.items()
        if within(module_name(path), room)
        for target in imports(tree)
        if any(within(target, other) for other in others)
    ]
    assert not wrong


@pytest.mark.parametrize("place", ["engine", "data", "steps/verify.py", "steps/shared"])
def test_what_is_below_the_command_line_names_no_options_or_commands(place: str) -> None:
    option = re.compile(r"(?<![\w-])--[a-z]")
    command = re.compile(rf"\bnegprompt ({'|'.join(SUBCOMMANDS)})\b")
    found = [
        f"{path}:{line}: {text[:60]!r}"
        for path, tree in SOURCES.items()
        if within(path.as_posix(), place)
        for line, text in texts(tree)
        if option.search(text) or command.search(text)
    ]
    found += [
        str(path)
        for path in (PACKAGE / place).rglob("*.yaml")
        if option.search(text := path.read_text("utf-8")) or command.search(text)
    ]
    assert not found


def test_each_remedy_is_written_once_and_used() -> None:
    raised = {
        node.value
        for tree in SOURCES.values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "remedy"
        for node in ast.walk(keyword.value)
        if isinstance(node, ast.Constant) and node.value
    }
    assert raised == set(REMEDIES)


def test_advice_follows_the_message_with_facts_quoted_for_a_shell() -> None:
    error = UsageError("No such set.", remedy="data-download", name="dtd", data_root="my data")
    assert "data download dtd --data-root 'my data'" in full_message(error)
    assert full_message(UsageError("There.", remedy="overwrite")).startswith("There. Pass --overwrite")
    assert full_message(NegPromptError("Disk full.")) == "Disk full."


def test_advice_of_a_cause_and_of_several_errors_is_kept() -> None:
    inner = UsageError("No folder.", remedy="data-elsewhere")
    try:
        raise UsageError("Part of it: No folder.") from inner
    except UsageError as outer:
        assert "--data-root" in full_message(outer)
    both = full_message(SeveralErrors([inner, UsageError("And this.", remedy="overwrite")]))
    assert both.index("--data-root") < both.index("And this.") < both.index("--overwrite")
