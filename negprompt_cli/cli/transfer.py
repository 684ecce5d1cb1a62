"""`negprompt transfer`: learned contexts for new class names, or for the classes of new images."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from negprompt_cli import schemas
from negprompt_cli.cli.calibrate import print_calibration
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import PROMPTS, Common, Without, flag, option
from negprompt_cli.data.results.runs import NEGATIVE, transfer_name
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import file_name, percent, some_of

if TYPE_CHECKING:
    from negprompt_cli.steps.transfer import Extended, TransferResult

EXAMPLES = (
    "negprompt transfer --classes novel.txt --data imagenet",
    "ls photos | negprompt transfer --classes - --prompts negative.safetensors --out photos.safetensors",
    "negprompt transfer --extend --images tulip --prompts runs/photos/negative.safetensors",
)


def transfer(
    common: Annotated[Common, Without("class_names", "verbose")],
    classes: str | None = option("File of class names: text, CSV, JSON or YAML; - reads stdin.", metavar="FILE"),
    images: str | None = option("Images of new classes, for --extend; they may include old classes.", metavar="SPECS"),
    extend: bool = flag("Keep the classes of the artifact, too."),
    prompts: Path | None = PROMPTS,
    out: Path | None = option("Artifact to write (default transfer-<stem>.safetensors in --run or next to --prompts)."),
) -> None:
    """Apply learned prompts to new class names without training.

    With --classes, the learned contexts are put in front of the new class names; no images are needed.

    With --extend --images, the classes of the images are added to those of the artifact. A folder without class folders is
    one class with the name of the folder. A new threshold is chosen on held-out images of the new classes, and of the old
    ones from the artifact's training data.
    """
    talk = common.talk()
    if (classes is None) == (images is None):
        raise UsageError("Pass the new classes either as --classes FILE or as --extend --images FOLDER.")
    if images is not None and not extend:
        raise UsageError("--images adds classes to those of the artifact. Pass --extend too.")
    asked = common.asked()
    source = common.artifact(asked, prompts, NEGATIVE)
    folder = source.path.parent if prompts and common.run is None else common.run_folder(asked)
    config = source.configure(asked, "model", *(("data", "seed") if images is not None else ()))
    start_processes(config)
    from negprompt_cli.data.sets.class_list import ClassList, novel_names, read_class_list
    from negprompt_cli.data.sets.sources import path_name
    from negprompt_cli.data.sets.spec import split_specs, user_path
    from negprompt_cli.steps.shared.preflight import together
    from negprompt_cli.steps.shared.workbench import Workbench
    from negprompt_cli.steps.transfer import run_extend, run_transfer

    bench = Workbench(config, talk)
    if images is not None:
        specs = split_specs(images)
        stem = file_name("+".join(path_name(user_path(spec.base)) + spec.label for spec in specs))
        path = out or folder / transfer_name(stem)
        extended = run_extend(bench, path, artifact=source, images=specs, overwrite=common.overwrite)
        _print_transfer(talk, extended.transfer)
        _print_extension(talk, extended)
        calibration = extended.calibration.model_dump() if extended.calibration else None
        effect = {"extension": asdict(extended.extension), "calibration": calibration}
        talk.result(path, _document(extended.transfer) | effect)
        return
    stem = "stdin" if classes == "-" else Path(classes or "").stem
    path = out or folder / transfer_name(stem)
    listed: list[ClassList] = []

    def read() -> None:
        if classes == "-":
            listed.append(read_class_list(sys.stdin.buffer, "standard input"))
        else:
            listed.append(read_class_list(Path(classes or "")))

    together(read, lambda: source.require(config.data.spec))
    names = novel_names(listed[0])
    result = run_transfer(bench, path, artifact=source, names=names, extend=extend, overwrite=common.overwrite)
    _print_transfer(talk, result)
    talk.result(path, _document(result))


def _print_transfer(talk: Talk, result: "TransferResult") -> None:
    made, new = result.prompts, result.new
    talk.facts(
        "Transferred prompts",
        [
            ("classes", str(len(made.classes))),
            ("of them learned" if result.learned else "of them in the source", str(len(result.known))),
            ("new", f"{len(new)}: {some_of(new)}" if new else "0"),
            ("contexts learned on", f"{made.learned_on} classes"),
            ("negatives per class", str(made.negatives_per_class)),
            ("sha256", made.sha256),
        ],
    )


def _print_extension(talk: Talk, result: "Extended") -> None:
    """Print what an extension changed."""
    found, new = result.extension, result.transfer.new
    names = {c.key: c.name for c in result.transfer.prompts.classes}
    if result.calibration:
        print_calibration(talk.say, result.calibration)
    talk.say(
        f"Old classes, {found.old_after.images} held-out images: {found.old_after.shares()} (before: "
        f"{found.old_before.shares()}). {found.taken_for_new} of them are now recognised as a new class."
    )
    talk.say(
        f"New classes ({some_of(new)}), {found.new_after.images} held-out images: {found.new_after.shares()} (before: "
        f"{found.new_before.accepted_share()})."
    )
    for key in [c.key for c in result.transfer.prompts.classes if c.name in new]:
        one = found.classes[key]
        taken = f"; most of the others are recognised as {names[one.taken_for]}" if one.taken_for else ""
        talk.say(f"  {names[key]}: {percent(one.correct / one.images)} % of {one.images} recognised{taken}")


def _document(result: "TransferResult") -> dict[str, Any]:
    made = result.prompts
    return {
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
    }
