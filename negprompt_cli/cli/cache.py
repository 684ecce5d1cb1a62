"""`negprompt cache ls|clear`: features of images and texts on disk."""

import json
from typing import Annotated

import typer

from negprompt_cli import schemas
from negprompt_cli.cli.options import Common, command, group, only

cache_app = group("cache")


@command(cache_app, "ls", shown=("negprompt cache ls",))
def ls(common: Annotated[Common, only("json")]) -> None:
    """List the cache, with one line per model and precision."""
    from negprompt_cli.data.encoding.cache_folder import cache_folder, list_stores, towers_size

    stores, towers = list_stores(), towers_size()
    if common.json:
        document = {
            "schema": schemas.CACHE,
            "folder": str(cache_folder()),
            "stores": [{**store.__dict__, "folder": str(store.folder)} for store in stores],
            "towers_size": towers,
        }
        typer.echo(json.dumps(document, indent=1))
        return
    rows = [[one.model, one.precision, str(one.files), f"{one.size / 2**20:.1f}"] for one in stores]
    rows += [["image encoders for onnxruntime", "", "", f"{towers / 2**20:.1f}"]] * bool(towers)
    if rows:
        common.talk().table(f"Cache in {cache_folder()}", ["model", "features", "files", "MiB"], rows)
    else:
        typer.echo(f"The cache in {cache_folder()} is empty.", err=True)


@command(cache_app, "clear", shown=("negprompt cache clear",))
def clear() -> None:
    """Remove all cached features.

    They are computed again when they are needed.
    """
    from negprompt_cli.data.encoding.cache_folder import cache_folder, clear_cache

    freed = clear_cache()
    typer.echo(f"{freed / 2**20:.1f} MiB were removed from {cache_folder()}.", err=True)
