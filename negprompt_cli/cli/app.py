"""The Typer app: the list of subcommands, and the options of `negprompt` itself.

A subcommand is imported when it is run. `negprompt --help` needs only the list below, so it is fast. The module of a
subcommand has a function of the same name and its `EXAMPLES`, or a Typer app `<name>_app` for a group of commands. If the
name is a Python keyword, an underscore follows it (`import_`).
"""

from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from negprompt_cli._version import __version__
from negprompt_cli.cli.error_exit import GuardedGroup, show_tracebacks
from negprompt_cli.errors import UsageError, did_you_mean

PANELS = {
    "Use": {
        "fit": "Learn a detector from a folder of images sorted by class.",
        "score": "Predict each image's class and decide whether it is OOD.",
        "calibrate": "Choose the threshold that accepts a share of ID images.",
        "report": "Write an HTML page with pictures about evaluated runs.",
        "export": "Write the detector as an ONNX or torch.export file.",
    },
    "The paper": {
        "train-positive": "Learn positive prompts from a few ID images (stage 1).",
        "train-negative": "Learn negative prompts from ID images only (stage 2).",
        "evaluate": "Measure how well prompts separate ID and OOD images.",
        "transfer": "Apply learned prompts to new class names without training.",
    },
    "Research": {
        "sweep": "Run a grid of settings over ID problems and seeds.",
        "compare": "Merge evaluations on the same images into one table.",
        "cite": "Print BibTeX entries, and a paragraph about a result.",
        "reproduce": "Repeat a published experiment and compare the figures.",
        "inspect": "Show an artifact's contents and the words nearest to it.",
        "verify": "Check whether an artifact can be reproduced.",
        "import": "Convert a CoOp, LoCoOp or official NegPrompt checkpoint.",
    },
    "Tools": {
        "demo": "Run the paper's four steps on generated images, offline.",
        "data": "List, check, download and sample data sets.",
        "config": "Show presets and resolved configurations.",
        "cache": "List or clear cached features.",
        "env": "Print versions, devices and settings for a bug report.",
    },
}
"""The groups on the page of `negprompt --help`, and the subcommands of each with the first line of their help, in order."""

SUBCOMMANDS = {name: summary for panel in PANELS.values() for name, summary in panel.items()}
"""Every subcommand with the first line of its help."""


class LazyGroup(GuardedGroup):
    """The root command. It lists placeholders, and imports the real subcommand to run or complete it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `SUBCOMMANDS`."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A placeholder with the name and the summary of a subcommand."""
        return TyperCommand(cmd_name, help=SUBCOMMANDS[cmd_name]) if cmd_name in SUBCOMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the subcommands, with a section for each group."""
        for title, panel in PANELS.items():
            with formatter.section(title):
                formatter.write_dl(list(panel.items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the subcommand that was named; an error names the nearest ones if there is none."""
        name, *rest = args
        if name not in SUBCOMMANDS and not name.startswith("-"):
            raise UsageError(f"No such command '{name}'.{did_you_mean(name, SUBCOMMANDS)}")
        if name in SUBCOMMANDS:
            return name, load_subcommand(name), rest
        return super().resolve_command(ctx, args)


def load_subcommand(name: str) -> Any:
    """Import one subcommand and build it.

    Args:
        name: a key of `SUBCOMMANDS`.
    """
    from negprompt_cli.cli.options import command

    attribute = name.replace("-", "_")
    if iskeyword(attribute):
        attribute += "_"
    module = import_module(f"negprompt_cli.cli.{attribute}")
    group = getattr(module, f"{attribute}_app", None)
    if group is None:
        group = typer.Typer(add_completion=False, context_settings=app.info.context_settings)
        command(group, name, shown=module.EXAMPLES)(getattr(module, attribute))
    built = get_command(group)
    built.name = name
    return built


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Drawing this page with rich would double its time. The pages of subcommands are drawn with rich.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"negprompt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; allowed anywhere in the command.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Detect out-of-distribution images with CLIP and learned negative prompts (NegPrompt, CVPR 2024)."""
    show_tracebacks(debug)
