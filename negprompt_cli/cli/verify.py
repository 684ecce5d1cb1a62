"""`negprompt verify`: whether an artifact can be reproduced."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import hanging
from negprompt_cli.cli.options import MOVED_MODEL, MOVED_ROOT, TAG, Common, argument, flag, only, option
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
    artifact: Path = argument("ARTIFACT", "Prompt artifact."),
    parent: Path | None = option("Artifact that it was made from, if that is in another folder."),
    retrain: bool = flag("Train again in memory and compare the bytes."),
    data: str | None = option("New place of the ID data, if they moved.", metavar="SPEC"),
    data_root: str | None = MOVED_ROOT,
    model: str | None = MOVED_MODEL,
    pretrained: str | None = TAG,
    device: str | None = option("Where to compute: auto, cpu, cuda, cuda:N or mps (default: as recorded)."),
) -> None:
    """Check whether an artifact can be reproduced.

    It compares the file, model, data, configuration and versions with what the artifact records. The exit code is 1 if
    something differs. --retrain trains again; on a CPU the result has the same bytes.
    """
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile

    ArtifactFile(artifact).require_named()
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
