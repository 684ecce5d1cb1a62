"""`negprompt verify`: whether an artifact can be reproduced."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import hanging
from negprompt_cli.cli.options import Common, MovedRoot, only, option
from negprompt_cli.cli.remedies import REMEDIES

if TYPE_CHECKING:
    from negprompt_cli.steps.verify import Verification

EXAMPLES = (
    "negprompt verify runs/photos/negative.safetensors",
    "negprompt verify runs/photos/negative.safetensors --retrain",
)

DIFFERS = 1
"""Exit code if something differs."""


def verify(
    common: Annotated[Common, only("json", "quiet")],
    artifact: Annotated[Path, typer.Argument(help="Prompt artifact.", metavar="ARTIFACT")],
    parent: Annotated[
        Path | None,
        option("--parent", help="Artifact it was made from, if that is in another folder."),
    ] = None,
    retrain: Annotated[bool, option("--retrain", help="Train again in memory and compare the bytes.")] = False,
    data: Annotated[
        str | None, option("--data", help="Where the ID data are now, if they moved.", metavar="SPEC")
    ] = None,
    data_root: MovedRoot = None,
    model: Annotated[str | None, option("--model", help="Where the artifact's model is now, if it moved.")] = None,
    pretrained: Annotated[str | None, option("--pretrained", help="open_clip tag or weights file.")] = None,
    device: Annotated[
        str | None, option("--device", help="auto, cpu, cuda, cuda:N or mps (default: as recorded).")
    ] = None,
) -> None:
    """Check whether an artifact can be reproduced.

    Compares digests, model, data, configuration and versions. The exit code is 1 if something differs. --retrain trains
    again; on a CPU the result has the same bytes.
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
        # The recorded tag belongs to the recorded model only.
        changes["model.pretrained"] = pretrained
    found = run_verify(artifact, parent=parent, retrain=retrain, changes=changes, progress=common.talk())
    if common.json:
        typer.echo(json.dumps(found.document(), indent=1, ensure_ascii=False))
    else:
        _print(found, quiet=common.quiet)
    if found.status == "differs":
        raise typer.Exit(DIFFERS)


def _print(found: "Verification", *, quiet: bool) -> None:
    """Print the checks for people, and the verdict last."""
    if not quiet:
        width = max(len(check.what) for check in found.checks)
        for check in found.checks:
            text = f"{check.reason} {REMEDIES[check.remedy]}" if check.remedy else check.reason
            typer.echo(hanging(f"{check.status:<7}  {check.what:<{width}}  ", text))
    typer.echo(f"{found.status}: {found.conclusion}")
