"""Transfer: learned contexts for new class names, without training.

This is the paper's open-vocabulary setting (section 3.4): context vectors that all classes share fit any class name.

    run_transfer   from names alone; uses no image, and the result has no threshold
    run_extend     from images of the new classes; the statistics of the score are those of ID images of old and new classes,
                   and a threshold is chosen on held-out images of both
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from negprompt_cli.data.results.artifacts import Calibration, Prompts, check_model, save_prompts
from negprompt_cli.data.sets.class_list import NovelNames
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.data.sets.spec import Spec
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.added_classes import AddedClasses
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.extension import extend_prompts
from negprompt_cli.steps.shared.learning import carry_over
from negprompt_cli.steps.shared.outcomes import ClassAccuracy, Outcome, by_class, outcome
from negprompt_cli.steps.shared.outputs import making, write_config
from negprompt_cli.steps.shared.scorer import make_scorer
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


@dataclass(frozen=True)
class TransferResult:
    """The result of a transfer: the artifact, and which of its class names the source already had and which are new.

    `learned`: whether the contexts were learned with the source's classes.
    """

    path: Path
    prompts: Prompts
    known: tuple[str, ...]
    new: tuple[str, ...]
    learned: bool


def run_transfer(
    bench: Workbench, out: Path, *, artifact: ArtifactFile, names: NovelNames, extend: bool, overwrite: bool
) -> TransferResult:
    """Put the contexts of an artifact in front of new class names, and write `out`.

    Args:
        bench: the configuration; its model must be the artifact's. The artifact keeps the configuration it was trained with.
        artifact: it must have negatives.
        names: the new classes.
        extend: keep the artifact's classes, before the new ones.

    Raises:
        UsageError: `out` exists; the artifact is missing, cannot be transferred or belongs to another model; or a name is
            too long for the text tower.
    """
    with making(out, overwrite=overwrite):
        source = _source(bench, artifact)
        prompts, known = transfer_prompts(bench, source, names, extend=extend)
        made = save_prompts(prompts, out, overwrite=overwrite)
        write_config(made.config, out)
    new = tuple(name for name in made.names if name not in set(known))
    return TransferResult(out, made, known, new, learned=source.kind == "negative")


def _source(bench: Workbench, artifact: ArtifactFile) -> Prompts:
    """The prompts of an artifact that can be transferred with the model at hand."""
    artifact.require(bench.config.data.spec)
    check_transferable(artifact.prompts, artifact.path)
    check_model(artifact.prompts, bench.clip.identity, bench.clip.width, artifact.path)
    return artifact.prompts


def check_transferable(prompts: Prompts, path: Path) -> None:
    """Refuse prompts whose contexts cannot be used for other names.

    Raises:
        UsageError: the prompts have no negatives, or class-specific contexts.
    """
    if prompts.negative is None:
        raise UsageError(f"{path} has only positive prompts.", remedy="learn-negative")
    if prompts.class_specific:
        raise UsageError(
            f"{path} was trained with class-specific contexts, which cannot be transferred to other classes. Train with "
            "shared contexts (positive.context.class_specific: false)."
        )


def transfer_prompts(
    bench: Workbench, source: Prompts, names: NovelNames, *, extend: bool
) -> tuple[Prompts, tuple[str, ...]]:
    """The prompts for new class names, not yet on disk, and the names that `source` already had.

    Args:
        bench: the model of `source`; it receives messages about repeated and known names.
        source: prompts that `check_transferable` accepts, with the digest of their file.
        names: the new classes.
        extend: keep the classes of `source`, before the new ones.

    Raises:
        UsageError: a name is too long for the text tower.
    """
    for decision in names.decisions:
        bench.progress.decide(decision)
    old = {fold(c.name): c for c in source.classes}
    known = [c.name for c in names.classes if fold(c.name) in old]
    if known:
        how = "are kept once" if extend else "are transferred too"
        message = f"{len(known)} names are already classes of the artifact and {how}: {some_of(known)}."
        bench.progress.decide(Decision("prompts-changed", message, {"names": known}, warning=True))
    # A known name keeps its key and wnid, so that images still match it by wnid.
    given = tuple(old.get(fold(c.name), c) for c in names.classes)
    if extend:
        given = (*source.classes, *(c for c in given if fold(c.name) not in old))
    tokenize_prompts([c.name for c in given], bench.clip.tokenizer, bench.clip.plan, context=source.positive.shape[-2])
    if source.calibration is not None:
        lost = source.calibration
        message = (
            f"The threshold of the artifact ({lost.score} at least {lost.threshold:.6g}) was removed, because it was chosen "
            "for other classes. Calibrate the new artifact before you use it to find OOD images."
        )
        facts = {"score": lost.score, "threshold": lost.threshold, "data": lost.data}
        bench.progress.decide(Decision("threshold-dropped", message, facts, warning=True))
    kept = [c.name for c in given if fold(c.name) in old]
    return carry_over(bench, source, given), tuple(kept)


@dataclass(frozen=True)
class Extension:
    """The effect of an extension on held-out images of old and new classes.

    `old_before`, `old_after`: results of the artifact and of the extended one on images of the old classes. `new_before`,
    `new_after`: the same on images of the new classes, which the artifact could accept but not recognise. `taken_for_new`:
    images of old classes that are now predicted as a new one. `classes`: accuracy by class key.
    """

    old_before: Outcome
    old_after: Outcome
    new_before: Outcome
    new_after: Outcome
    taken_for_new: int
    classes: dict[str, ClassAccuracy]


@dataclass(frozen=True)
class Extended:
    """The result of `run_extend`: the artifact, the keys of its new classes, and its effect."""

    transfer: TransferResult
    extension: Extension
    calibration: Calibration | None


def run_extend(
    bench: Workbench, out: Path, *, artifact: ArtifactFile, images: Sequence[Spec], overwrite: bool
) -> Extended:
    """Add the classes of images to an artifact, choose a new threshold, and write `out`.

    The score and the acceptance stay those of the artifact's calibration. With too few held-out images the result has no
    threshold, and a message says how many are needed.

    Args:
        bench: the configuration; its data are the artifact's training data.
        artifact: it must have negatives and shared contexts.
        images: SPECs of images of the new classes, and optionally of old ones.

    Raises:
        UsageError: as `run_transfer`, or images are missing, there is no new class, or a class has no held-out images.
    """
    with making(out, overwrite=overwrite):
        source = _source(bench, artifact)
        prompts, found = extend_prompts(bench, source, images)
        extension = _compared(bench, source, prompts, found)
        prompts = save_prompts(prompts, out, overwrite=overwrite)
        write_config(prompts.config, out)
    old, new = found.classes[: len(source.classes)], found.classes[len(source.classes) :]
    result = TransferResult(
        out, prompts, tuple(c.name for c in old), tuple(c.name for c in new), learned=source.kind == "negative"
    )
    return Extended(result, extension, prompts.calibration)


def _compared(bench: Workbench, source: Prompts, prompts: Prompts, found: AddedClasses) -> Extension:
    """Compare two artifacts, the second with more classes, on the same held-out images."""
    encoded = bench.encode(found.held_out)
    labels, known = encoded.labels.numpy(), len(source.classes)
    is_old = labels < known
    before, after = make_scorer(bench, source), make_scorer(bench, prompts)
    first, second = before.judge(encoded.features), after.judge(encoded.features)
    own = np.where(is_old, labels, -1)
    return Extension(
        old_before=outcome(before, first, own, is_old),
        old_after=outcome(after, second, labels, is_old),
        new_before=outcome(before, first, own, ~is_old),
        new_after=outcome(after, second, labels, ~is_old),
        taken_for_new=int((second.predictions[is_old] >= known).sum()),
        classes=by_class(second.predictions, labels, prompts.classes),
    )
