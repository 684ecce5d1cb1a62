"""The Typer app: its subcommands and the options that belong to none of them."""

from typing import Annotated

import typer

from negprompt_cli import __version__
from negprompt_cli.cli import cache, config, demo, environment, evaluate, train_negative, train_positive, transfer
from negprompt_cli.cli.data import data_app
from negprompt_cli.cli.guard import GuardedGroup, show_tracebacks
from negprompt_cli.cli.options import command

app = typer.Typer(
    cls=GuardedGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
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


command(app, "train-positive")(train_positive.train_positive)
command(app, "train-negative")(train_negative.train_negative)
command(app, "evaluate")(evaluate.evaluate)
command(app, "transfer")(transfer.transfer)
command(app, "demo")(demo.demo)
app.add_typer(data_app, name="data")
app.add_typer(config.config_app, name="config")
app.add_typer(cache.cache_app, name="cache")
command(app, "env")(environment.environment)
