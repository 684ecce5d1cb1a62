"""`negprompt transfer`: learned contexts for new class names."""

import sys
from pathlib import Path
from typing import Annotated

from negprompt_cli import schemas
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.options import OUTPUT, Common, option
from negprompt_cli.data.results.runs import NEGATIVE, transfer_name
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

TRANSFER = "Transfer"
MAX_LIST_BYTES = 64 << 20
"""A class list larger than this is not one: WordNet's nouns are 2 MB."""


def transfer(
    common: Common,
    classes: Annotated[
        str, option("--classes", help="File with one class name per line, or - for standard input.", panel=TRANSFER)
    ],
    extend: Annotated[bool, option("--extend", help="Keep the artifact's own classes too.", panel=TRANSFER)] = False,
    prompts: Annotated[
        Path | None, option("--prompts", help="Prompt artifact (default <run>/negative.safetensors).", panel=TRANSFER)
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "--out", help="Artifact (default transfer-<stem>.safetensors in --run, or beside --prompts).", panel=OUTPUT
        ),
    ] = None,
) -> None:
    """Put learned contexts in front of new class names; nothing is trained."""
    talk = Talk(quiet=common.quiet, as_json=common.json)
    config = common.resolve()
    folder = common.run_folder(config)
    source = prompts or folder / NEGATIVE
    stem = "stdin" if classes == "-" else Path(classes).stem
    from negprompt_cli.data.sets.class_list import read_class_list
    from negprompt_cli.steps.shared.base import artifact_base
    from negprompt_cli.steps.shared.preflight import require_prompts, together
    from negprompt_cli.steps.transfer import run_transfer

    texts: list[str] = []
    together(
        lambda: texts.append(_read(classes)),
        lambda: require_prompts(source, config.data.spec),
    )
    config = common.resolve(base=artifact_base(source, sections=("model",)))
    result = run_transfer(
        config,
        out or (source.parent if prompts and common.run is None else folder) / transfer_name(stem),
        prompts_path=source,
        names=read_class_list(texts[0], "standard input" if classes == "-" else classes),
        extend=extend,
        overwrite=common.overwrite,
        progress=talk,
    )
    made = result.prompts
    talk.table(
        "transferred prompts",
        ("", ""),
        [
            ("artifact", str(result.path)),
            ("classes", str(len(made.classes))),
            ("of them learned" if result.learned else "of them in the source", str(len(result.known))),
            ("new", _some(result.new)),
            ("contexts learned on", f"{made.learned_on} classes"),
            ("negatives per class", str(made.negatives_per_class)),
            ("sha256", made.sha256),
        ],
    )
    talk.result(
        result.path,
        {
            "schema": schemas.TRANSFER,
            "path": str(result.path),
            "sha256": made.sha256,
            "weights_sha256": made.model.weights_sha256,
            "versions": dict(made.written_with),
            "classes": made.names,
            "known": list(result.known),
            "new": list(result.new),
            "learned_on_classes": made.learned_on,
            "parents": [p.model_dump() for p in made.parents],
        },
    )


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {some_of(names)}" if names else "0"


def _read(classes: str) -> str:
    """The text of the class list.

    Raises:
        UsageError: no such file, or not text.
    """
    if classes == "-":
        data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    else:
        path = Path(classes)
        if not path.exists() or path.is_dir():
            raise UsageError(
                f"--classes {classes}: no such file. Write one class name per line into it, or pass - and pipe the names."
            )
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except OSError as error:
            raise UsageError(f"--classes {classes}: cannot be read ({error.strerror}).") from None
    if len(data) > MAX_LIST_BYTES:
        raise UsageError(f"--classes {classes}: larger than 64 MiB, so not a list of class names.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--classes {classes}: not UTF-8 text.") from None
