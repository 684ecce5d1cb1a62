"""`negprompt verify`: could this artifact be made again?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.options import DATA, HARDWARE, MODEL, OUTPUT, option

if TYPE_CHECKING:
    from negprompt_cli.steps.verify import Verification

DIFFERS = 1
"""Exit code where something differs."""


def verify(
    artifact: Annotated[Path, typer.Argument(help="Prompt artifact.", metavar="ARTIFACT")],
    parent: Annotated[
        Path | None,
        option("--parent", help="What it was made from, where that is not beside it.", panel=DATA, metavar="PATH"),
    ] = None,
    retrain: Annotated[
        bool, option("--retrain", help="Train again, in memory, and compare the bytes.", panel=OUTPUT)
    ] = False,
    data: Annotated[str | None, option("--data", help="Where the ID data lie now, if they moved.", panel=DATA)] = None,
    data_root: Annotated[
        str | None,
        option("--data-root", help="Where named data sets lie now.", panel=DATA, envvar="NEGPROMPT_DATA_ROOT"),
    ] = None,
    model: Annotated[
        str | None, option("--model", help="Where the artifact's model lies now, if it moved.", panel=MODEL)
    ] = None,
    pretrained: Annotated[
        str | None, option("--pretrained", help="open_clip tag or weights file.", panel=MODEL)
    ] = None,
    device: Annotated[
        str | None, option("--device", help="auto, cpu, cuda, cuda:N or mps (default: as recorded).", panel=HARDWARE)
    ] = None,
    as_json: Annotated[bool, option("--json", help="One JSON document on stdout.", panel=OUTPUT)] = False,
    quiet: Annotated[bool, option("-q", "--quiet", help="Print only the verdict.", panel=OUTPUT)] = False,
) -> None:
    """Check whether an artifact could be made again: digests, model, data, configuration, versions.

    Exit code 1 where something differs. With --retrain it is really made again: bit for bit the same on a CPU.
    """
    from negprompt_cli.steps.verify import run_verify

    changes: dict[str, Any] = {
        "data.spec": data,
        "data.root": data_root,
        "model.name": model,
        "model.pretrained": pretrained,
        "compute.device": device,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if model is not None:
        # The recorded tag belongs to the recorded model.
        changes["model.pretrained"] = pretrained
    found = run_verify(
        artifact, parent=parent, retrain=retrain, changes=changes, progress=Talk(quiet=quiet, as_json=as_json)
    )
    if as_json:
        typer.echo(json.dumps(found.document(), indent=1, ensure_ascii=False))
    else:
        _print(found, quiet=quiet)
    if found.status == "differs":
        raise typer.Exit(DIFFERS)


def _print(found: "Verification", *, quiet: bool) -> None:
    """The lines for people, the verdict last."""
    if not quiet:
        width = max(len(check.what) for check in found.checks)
        for check in found.checks:
            typer.echo(f"{check.status:<7}  {check.what:<{width}}  {check.reason}")
    typer.echo(f"{found.status}: {found.conclusion}")
