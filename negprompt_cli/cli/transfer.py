"""`negprompt transfer`: learned contexts for new class names."""

import sys
from pathlib import Path
from typing import Annotated

from negprompt_cli import schemas
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import IMAGES, Common, Without, option
from negprompt_cli.data.results.runs import NEGATIVE, transfer_name
from negprompt_cli.wording import some_of

EXAMPLES = (
    "negprompt transfer --classes novel.txt --data imagenet",
    "ls photos | negprompt transfer --classes - --prompts negative.safetensors --out photos.safetensors",
)


def transfer(
    common: Annotated[Common, Without(*IMAGES, "verbose")],
    classes: Annotated[str, option("--classes", help="Class names: text, CSV, JSON or YAML; - is standard input.")],
    extend: Annotated[bool, option("--extend", help="Keep the artifact's own classes too.")] = False,
    prompts: Annotated[
        Path | None, option("--prompts", help="Prompt artifact (default <run>/negative.safetensors).")
    ] = None,
    out: Annotated[
        Path | None,
        option("--out", help="Artifact (default transfer-<stem>.safetensors in --run, or beside --prompts)."),
    ] = None,
) -> None:
    """Apply learned prompts to new class names, untrained.

    The contexts that were learned on some classes are put in front of the new names; nothing is trained.
    """
    talk = common.talk()
    asked = common.asked()
    source = common.artifact(asked, prompts, NEGATIVE)
    folder = source.path.parent if prompts and common.run is None else common.run_folder(asked)
    stem = "stdin" if classes == "-" else Path(classes).stem
    from negprompt_cli.data.sets.class_list import ClassList, novel_names, read_class_list
    from negprompt_cli.steps.shared.preflight import together
    from negprompt_cli.steps.transfer import run_transfer

    config = source.configure(asked, "model")
    start_processes(config)
    listed: list[ClassList] = []
    together(
        lambda: listed.append(
            read_class_list(sys.stdin.buffer, "standard input") if classes == "-" else read_class_list(Path(classes))
        ),
        lambda: source.require(config.data.spec),
    )
    result = run_transfer(
        config,
        out or folder / transfer_name(stem),
        artifact=source,
        names=novel_names(listed[0]),
        extend=extend,
        overwrite=common.overwrite,
        progress=talk,
    )
    made = result.prompts
    talk.facts(
        "transferred prompts",
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
