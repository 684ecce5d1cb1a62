"""Help pages and options: what `--help` shows, that its examples are commands, and what options mean."""

import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from negprompt_cli.cli import completion
from negprompt_cli.cli.app import PANELS, SUBCOMMANDS, app, load_subcommand
from negprompt_cli.errors import did_you_mean

CONTRACT = {
    "--config",
    "--set",
    "--data",
    "--data-root",
    "--model",
    "--pretrained",
    "--device",
    "--gpus",
    "--precision",
}
CONTRACT |= {"--run", "--seed", "--limit", "--json", "-q", "--overwrite"}
COMPUTING = (
    "train-positive",
    "train-negative",
    "evaluate",
    "transfer",
    "score",
    "calibrate",
    "fit",
    "export",
    "import",
)


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name."""
    for name in SUBCOMMANDS:
        built = load_subcommand(name)
        if hasattr(built, "commands"):
            yield from ((f"{name} {inner}", command) for inner, command in built.commands.items())
        else:
            yield name, built


LEAVES = dict(leaves())


def page(*words: str, width: int = 80) -> str:
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(width), "NO_COLOR": "1"}).output


def test_the_first_page_has_every_command_whole_in_its_group() -> None:
    text = page()
    assert max(map(len, text.splitlines())) <= 80
    places = [text.index(f"\n{title}:\n") for title in PANELS]
    assert places == sorted(places)
    for name, summary in SUBCOMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE), name


@pytest.mark.parametrize("name", LEAVES)
def test_a_page_begins_with_own_options_and_ends_with_examples(name: str) -> None:
    text = page(*name.split())
    assert max(map(len, text.splitlines())) <= 80
    panels = re.findall(r"^╭─ ([A-Z][a-z ]+?) ─", text, re.MULTILINE)
    assert next(p for p in panels if p != "Arguments") == "Options"
    assert "…" not in text  # nothing is cut
    assert not re.search(r"<(str|int|float|bool|path|list)", text)
    for parameter in LEAVES[name].params:
        for choice in parameter.type_descriptor.choices or ():
            assert str(getattr(choice, "value", choice)) in text
    assert "Examples:" in text.rsplit("╯", 1)[1]


def shown(name: str) -> list[str]:
    return [line.removeprefix("$ ") for line in LEAVES[name].epilog.split("\n\n")[1:]]


@pytest.mark.parametrize("name", LEAVES)
def test_examples_are_commands(name: str) -> None:
    assert 1 <= len(shown(name)) <= 3
    for example in shown(name):
        line = example.rpartition("| ")[2]
        program, *words = shlex.split(line)
        assert program == "negprompt"
        assert words[: len(name.split())] == name.split()
        # Parsing raises where an option is unknown, lacks its value, or has one that is not among its choices.
        LEAVES[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("name", COMPUTING)
def test_computing_commands_take_the_options_of_the_contract(name: str) -> None:
    options = {text for parameter in LEAVES[name].params for text in parameter.opts}
    assert options >= CONTRACT


def test_no_two_commands_mean_different_things_by_one_name() -> None:
    kinds: dict[str, set[tuple[bool, bool]]] = defaultdict(set)
    for command in LEAVES.values():
        for parameter in command.params:
            for text in parameter.opts:
                if text.startswith("--"):
                    kinds[text].add((bool(getattr(parameter, "is_flag", False)), bool(parameter.multiple)))
    assert {name for name, forms in kinds.items() if len(forms) > 1} == set()


def test_near_twins_are_gone() -> None:
    names = {text for command in LEAVES.values() for parameter in command.params for text in parameter.opts}
    assert not names & {"--words", "--train-classes", "--class-specific", "--context-init"}


@pytest.mark.parametrize(
    ("typed", "meant", "not_meant"),
    [
        ("trian", ("train-negative", "train-positive"), ("transfer",)),
        ("tranfer", ("transfer",), ("train-positive",)),
        ("train", ("train-negative", "train-positive"), ()),
        ("evalute", ("evaluate",), ()),
        ("scoer", ("score",), ("report",)),
        ("expotr", ("export",), ()),
    ],
)
def test_a_mistyped_command_offers_the_nearest(typed: str, meant: tuple[str, ...], not_meant: tuple[str, ...]) -> None:
    hint = did_you_mean(typed, SUBCOMMANDS)
    assert all(repr(name) in hint for name in meant)
    assert not any(repr(name) in hint for name in not_meant)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train-negative", "--loss", "seperation"), "separation"),
        (("train-positive", "--keep", "bset"), "best"),
        (("evaluate", "--precision", "bf61"), "bf16"),
        (("evaluate", "--on-error", "sikp"), "skip"),
        (("compare", "x", "--format", "latx"), "latex"),
        (("evaluate", "--dta", "x"), "--data"),
    ],
)
def test_a_wrong_choice_names_the_right_ones(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train-positive --shots banana", "--shots must be a whole number, not 'banana'."),
        ("train-positive --shots -3", "--shots must be at least 0, not -3."),
        ("train-positive --lr 0", "--lr must be greater than 0, not 0.0."),
        ("train-positive --keep bset", "--keep: 'bset' is not one of 'last', 'best'."),
        ("fit photos --shots 2.5", "--shots must be a whole number, not '2.5'."),
        ("data check x --limit 0", "--limit must be at least 1, not '0'."),
        ("calibrate --acceptance x", "--acceptance must be a number, not 'x'."),
        ("evaluate --recalls 2", "--recalls must be at most 1, not '2'."),
        ("evaluate --stream-order a", "--stream-order must be a whole number, not 'a'."),
        ("config show --set data.shots=few", "Configuration key 'data.shots' must be a whole number, not 'few'."),
        ("fit --shots 3 --set data.shots=few", "Configuration key 'data.shots' must be a whole number, not 'few'."),
        (
            "config show --set compute.cache=maybe",
            "Configuration key 'compute.cache' must be true or false, not 'maybe'.",
        ),
        (
            "config show --set model.pixels.values=x",
            "Configuration key 'model.pixels.values' must be 'auto', 'type' or 'range' or a number, not 'x'.",
        ),
        ("config show --set negative.schedule.sgd={}", "Configuration key 'negative.schedule.sgd.lr' is missing."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(line: str, sentence: str) -> None:
    done = CliRunner().invoke(app, line.split())
    assert (done.exit_code, done.output) == (2, f"error: {sentence}\n")


def test_the_shell_completes_names() -> None:
    assert "imagenet" in completion.sets("imagen")
    assert completion.sets("sun,dt") == ["sun,dtd"]
    assert completion.scores("negprompt,mcm-z") == ["negprompt,mcm-zero-shot"]
    assert completion.presets("pa") == ["paper"]
    assert completion.devices("cu") == ["cuda"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("negprompt tra", {"train-positive", "train-negative", "transfer"}),
        ("negprompt train-positive --keep ", {"last", "best"}),
        ("negprompt evaluate --scores negprompt,ma", {"negprompt,max-logit", "negprompt,mahalanobis"}),
    ],
)
def test_bash_completes_commands_choices_and_names(line: str, offered: set[str]) -> None:
    environment = {
        "_NEGPROMPT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    code = "import sys; sys.argv = ['negprompt']; from negprompt_cli.cli import app; app(prog_name='negprompt')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert offered <= set(done.stdout.split()), done.stderr
