"""Import: other people's learned contexts as an artifact, for a model and class names that the user names."""

from collections import Counter
from pathlib import Path

from negprompt_cli.data.results.artifacts import Parent, Prompts, save_prompts
from negprompt_cli.data.sets.classnames import ClassLabel, is_wnid
from negprompt_cli.data.sets.spec import read_lines
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.coop import ForeignPrompts, read_checkpoint
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.workbench import Workbench


def run_import(bench: Workbench, out: Path, *, checkpoint: Path, classes: Path, overwrite: bool) -> Prompts:
    """Read a checkpoint, check it against model and class names, and write it as an artifact.

    Args:
        bench: its configuration names the model the contexts were learned for.
        out: the artifact to write.
        checkpoint: a CoOp, LoCoOp or official NegPrompt checkpoint.
        classes: class names in label order, one per line; `wnid name` lines as in CoOp's classnames.txt will do.
        overwrite: whether `out` may be replaced.

    Raises:
        UsageError: `out` exists, the checkpoint is refused, or does not fit the model or the class names.
    """
    refuse_existing(out, overwrite=overwrite)
    foreign = read_checkpoint(checkpoint)
    labels = read_ordered_classes(classes)
    check_foreign(foreign, len(labels), bench.clip.plan.width, str(checkpoint))
    clip = bench.clip
    tokenize_prompts([c.name for c in labels], clip.tokenizer, clip.plan, context=foreign.positive.shape[-2])
    if foreign.origin == "official":
        bench.progress.warn(
            "The official code ends its prompts with the class name; here a full stop follows it, so scores differ a little "
            "from the official code's."
        )
    prompts = Prompts(
        kind="positive" if foreign.negative is None else "negative",
        positive=foreign.positive,
        negative=foreign.negative,
        classes=labels,
        model=clip.identity,
        config=bench.config,
        learned_on=len(labels),
        parents=(Parent(kind=foreign.origin, sha256=_digest(checkpoint)),),
    )
    return save_prompts(prompts, out)


def read_ordered_classes(path: Path) -> tuple[ClassLabel, ...]:
    """Class names in label order: names may repeat, a wnid in front becomes the key.

    Raises:
        UsageError: unreadable, or empty.
    """
    lines = read_lines(path)
    if not lines:
        raise UsageError(f"{path} holds no class names: write one per line, in the order of the labels.")
    labels = [_label(line) for line in lines]
    seen: Counter[str] = Counter()
    unique = []
    for label in labels:
        seen[label.key] += 1
        key = label.key if seen[label.key] == 1 else f"{label.key} ({seen[label.key]})"
        unique.append(ClassLabel(key, label.name, label.wnid))
    return tuple(unique)


def check_foreign(foreign: ForeignPrompts, classes: int, width: int, where: str) -> None:
    """Refuse contexts of other widths or for another number of classes.

    Raises:
        UsageError: they do not fit; says what would.
    """
    for name, tensor in (("positive", foreign.positive), ("negative", foreign.negative)):
        if tensor is None:
            continue
        if tensor.shape[-1] != width:
            raise UsageError(
                f"{where}: {name} contexts are {tensor.shape[-1]} wide, but the named model's text tower is {width} wide. "
                "Name the backbone they were learned for with --model and --pretrained (CoOp's ViT-B/16 is --model "
                "ViT-B-16-quickgelu --pretrained openai)."
            )
        if tensor.dim() == 4 and tensor.shape[1] != classes:
            raise UsageError(
                f"{where}: {name} contexts are for {tensor.shape[1]} classes, but {classes} are named. List the classes it "
                "was trained on, one per line, in the order of their labels."
            )


def _label(line: str) -> ClassLabel:
    first, _, rest = line.partition(" ")
    if is_wnid(first) and rest.strip():
        return ClassLabel(first, " ".join(rest.split()), first)
    name = " ".join(line.split())
    return ClassLabel(name, name, None)


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
