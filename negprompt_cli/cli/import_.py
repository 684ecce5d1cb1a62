"""`negprompt import`: checkpoints of other programs as prompt artifacts."""

from pathlib import Path
from typing import Annotated

from negprompt_cli import schemas
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import IMAGES, Common, Without, argument, option

EXAMPLES = ("negprompt import model.pth.tar-50 --classes names.txt --model ViT-B-16-quickgelu --pretrained openai",)


def import_(
    common: Annotated[Common, Without(*IMAGES, "verbose")],
    checkpoint: Path = argument("CHECKPOINT", "A file model.pth.tar-N, or a state dict."),
    classes: Path = option("Class names in label order: text, CSV, JSON or YAML.", metavar="FILE", default=...),
    out: Path | None = option("Artifact to write (default: the checkpoint's name + .safetensors)."),
) -> None:
    """Convert a CoOp, LoCoOp or official NegPrompt checkpoint.

    The result is a prompt artifact. A checkpoint does not name its model, so pass --model and --pretrained. Only tensors are
    read from it.
    """
    talk = common.talk()
    config = common.asked().config()
    start_processes(config)
    path = out or Path(f"{checkpoint.name}.safetensors")
    from negprompt_cli.steps.import_ import run_import
    from negprompt_cli.steps.shared.workbench import Workbench

    made = run_import(Workbench(config, talk), path, checkpoint=checkpoint, classes=classes, overwrite=common.overwrite)
    talk.facts(
        "Imported prompts",
        [
            ("kind", made.kind),
            ("model", str(made.model)),
            ("classes", str(len(made.classes))),
            ("contexts", "one per class" if made.class_specific else "shared by the classes"),
            ("context vectors", str(made.positive.shape[-2])),
            ("negatives per class", str(made.negatives_per_class)),
        ],
    )
    talk.result(
        path,
        {
            "schema": schemas.IMPORT,
            "path": str(path),
            "sha256": made.sha256,
            "parents": [p.model_dump() for p in made.parents],
            "versions": dict(made.written_with),
            "kind": made.kind,
            "model": made.model.__dict__,
            "classes": made.names,
            "negatives": made.negatives_per_class,
        },
    )
