"""`negprompt config ls|show`: the presets of the package, and resolved configurations."""

import typer

from negprompt_cli.cli.options import SET, argument, command, group

config_app = group("config")


@command(config_app, "ls", shown=("negprompt config ls",))
def ls() -> None:
    """List the presets with their first lines."""
    from negprompt_cli.config import preset_names, preset_text

    for name in preset_names():
        about = preset_text(name).splitlines()[0].lstrip("# ")
        typer.echo(f"{name:<12} {about}")


@command(config_app, "show", shown=("negprompt config show", "negprompt config show paper --set data.shots=4"))
def show(
    name: str | None = argument("NAME", "Preset or YAML file (default: all defaults).", default=None),
    assignments: list[str] | None = SET,
) -> None:
    """Print a configuration with all its defaults.

    The output can be read again with --config.
    """
    from negprompt_cli.config import load_config

    typer.echo(load_config(name, assignments=assignments or ()).to_yaml(), nl=False)
