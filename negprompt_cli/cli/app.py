"""The Typer app: which subcommands there are, and the options that belong to none of them.

Subcommands are imported when they are run: the list below is all that `negprompt --help` needs, so it answers at once
however many commands there are. A module holds one function of the command's name and its `EXAMPLES`, or a Typer app
`<name>_app` for a group; a name that Python keeps for itself is followed by an underscore (`import_`).
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
        "report": "Write one HTML page, with pictures, about evaluated runs.",
        "export": "Write the detector as an ONNX or torch.export file.",
    },
    "The paper": {
        "train-positive": "Learn positive prompts from a few ID images (stage 1).",
        "train-negative": "Learn negative prompts from ID images only (stage 2).",
        "evaluate": "Measure how well prompts tell ID images from OOD images.",
        "transfer": "Apply learned prompts to new class names, untrained.",
    },
    "Research": {
        "sweep": "Run a grid of settings over ID problems and seeds.",
        "compare": "Merge evaluations on the same images into one table.",
        "cite": "Print BibTeX, and the sentence a paper needs for a result.",
        "reproduce": "Repeat an experiment of the field and compare figures.",
        "inspect": "Show what an artifact holds, and which words are nearest.",
        "verify": "Check whether an artifact could be made again.",
        "import": "Convert a CoOp, LoCoOp or official NegPrompt checkpoint.",
    },
    "Tools": {
        "demo": "Run the paper's four steps on drawn images, offline.",
        "data": "List, check, download and sample data sets.",
        "config": "Show presets and resolved configurations.",
        "cache": "List or clear cached image features.",
        "env": "Print versions, devices and settings for a bug report.",
    },
}
"""The parts of `negprompt --help` and in each the subcommands with the first line of their help, in order."""

SUBCOMMANDS = {name: summary for panel in PANELS.values() for name, summary in panel.items()}
"""Every subcommand with the first line of its help."""


class LazyGroup(GuardedGroup):
    """The root command: stand-ins for listing, the real subcommand for running and completing."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `SUBCOMMANDS`."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that knows its name and its summary."""
        return TyperCommand(cmd_name, help=SUBCOMMANDS[cmd_name]) if cmd_name in SUBCOMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the subcommands, a section for each panel."""
        for title, panel in PANELS.items():
            with formatter.section(title):
                formatter.write_dl(list(panel.items()))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The subcommand that was asked for, imported now; an unknown name gets the nearest ones."""
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
    # Drawing this one page with rich would take as long again as everything else; subcommands' pages are drawn.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"negprompt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (works anywhere on the line).")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Detect out-of-distribution images with CLIP and learned negative prompts (NegPrompt, CVPR 2024)."""
    show_tracebacks(debug)
