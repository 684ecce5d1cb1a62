"""Import: contexts that another program learned, as an artifact for a given model and given class names."""

from pathlib import Path

from torch import Tensor

from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.results.artifacts import Parent, Prompts, save_prompts
from negprompt_cli.data.sets.class_list import ordered_classes, read_class_list
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens, tokenize_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.coop import ImportedPrompts, read_checkpoint
from negprompt_cli.steps.shared.outputs import making
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


def run_import(bench: Workbench, out: Path, *, checkpoint: Path, classes: Path, overwrite: bool) -> Prompts:
    """Read a checkpoint, check it against model and class names, and write it as an artifact.

    Args:
        bench: its configuration names the model the contexts were learned for.
        checkpoint: a CoOp, LoCoOp or official NegPrompt checkpoint.
        classes: class names in label order, in any form that `class_list` reads.

    Raises:
        UsageError: `out` exists, or the checkpoint is refused or does not fit the model or the class names.
    """
    with making(out, overwrite=overwrite):
        imported = read_checkpoint(checkpoint)
        listed = read_class_list(classes)
        for decision in listed.decisions:
            bench.decide(decision)
        labels = ordered_classes(listed)
        check_shapes(imported, len(labels), bench.clip.width, str(checkpoint))
        clip = bench.clip
        if imported.ignored:
            bench.decide(
                Decision(
                    "checkpoint-part-ignored",
                    f"{len(imported.ignored)} other tensors of {checkpoint} are not read ({some_of(imported.ignored, 4)}): "
                    "the named model's own encoders are used. If the training changed the encoders, scores differ here.",
                    {"file": str(checkpoint), "tensors": list(imported.ignored)},
                    warning=True,
                )
            )
        tokens = tokenize_prompts(
            [c.name for c in labels], clip.tokenizer, clip.plan, context=imported.positive.shape[-2]
        )
        check_tokens(bench, imported, tokens, str(checkpoint))
        if imported.origin == "official":
            bench.decide(
                Decision(
                    "other",
                    "Prompts end with the class name in the official code, and with a full stop here, so scores differ "
                    "slightly from the official code's.",
                    warning=True,
                )
            )
        prompts = Prompts(
            kind="positive" if imported.negative is None else "negative",
            positive=imported.positive,
            negative=imported.negative,
            classes=labels,
            model=clip.identity,
            config=bench.config,
            learned_on=len(labels),
            parents=(Parent(kind=imported.origin, sha256=file_sha256(checkpoint)),),
        )
        return save_prompts(prompts, out, overwrite=overwrite)


def check_shapes(imported: ImportedPrompts, classes: int, width: int, where: str) -> None:
    """Refuse contexts of another width or for another number of classes.

    Raises:
        UsageError: they do not fit; the message says what would fit.
    """
    for name, tensor in (("positive", imported.positive), ("negative", imported.negative)):
        if tensor is None:
            continue
        if tensor.shape[-1] != width:
            raise UsageError(
                f"{where}: {name} contexts are {tensor.shape[-1]} wide, but the named model's text tower is {width} wide.",
                remedy="backbone",
            )
        if tensor.dim() == 4 and tensor.shape[1] != classes:
            raise UsageError(
                f"{where}: {name} contexts are for {tensor.shape[1]} classes, but {classes} are named. List the classes it "
                "was trained on, one per line, in the order of their labels."
            )


def check_tokens(bench: Workbench, imported: ImportedPrompts, tokens: PromptTokens, where: str) -> None:
    """Compare the model and the classes of a checkpoint with the given ones, as far as the checkpoint has them.

    CoOp saves the embeddings of the start token, and of each class name and the tokens after it. Half precision rounds them
    by a part in a thousand.

    Raises:
        UsageError: the model differs, or each class has its own context and class names differ.
    """
    clip, count = bench.clip, len(tokens)
    if imported.logit_scale is not None and abs(imported.logit_scale / clip.logit_scale - 1) > 0.01:
        raise UsageError(
            f"{where} was trained with a model of logit scale {imported.logit_scale:.4g}, but that of the named model is "
            f"{clip.logit_scale:.4g}: its contexts belong to other weights.",
            remedy="backbone",
        )
    embedding: Tensor = clip.plan.embedding.weight.detach().float().cpu()  # type: ignore[operator]
    trained = next((part for part in (imported.prefix, imported.suffix) if part is not None), None)
    if trained is None:
        return
    if imported.prefix is not None and not _close(imported.prefix[0, :1], embedding[list(tokens.start[-1:])]):
        raise UsageError(
            f"{where} was trained with another model: its start token is not that of {clip.identity}.",
            remedy="backbone",
        )
    if len(trained) != count:
        message = f"{where} was trained on {len(trained)} classes. Its context is used for the {count} named classes."
        facts = {"file": where, "trained_on": len(trained), "named": count}
        bench.decide(Decision("prompts-changed", message, facts, warning=True))
        return
    if imported.suffix is None:
        return
    suffix = imported.suffix
    other = [
        name
        for i, (name, ids) in enumerate(zip(tokens.names, tokens.rest, strict=True))
        if len(ids) > suffix.shape[1] or not _close(suffix[i, : len(ids)], embedding[list(ids)])
    ]
    if not other:
        return
    message = f"{len(other)} of {count} classes had other names in the training of {where}: {some_of(other, 5)}."
    if imported.positive.dim() == 4:
        raise UsageError(
            f"{message} Each class has its own context, so the names and their order must be those of the training."
        )
    bench.decide(
        Decision("class-names", f"{message} The names given are used.", {"file": where, "differing": other}, True)
    )


def _close(stored: Tensor, own: Tensor) -> bool:
    return stored.shape == own.shape and float((stored - own).norm()) <= 0.01 * float(own.norm())
