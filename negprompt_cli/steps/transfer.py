"""Transfer: learned contexts in front of class names they were never trained on; nothing is trained.

The paper's open-vocabulary setting (section 3.4): context vectors shared by all classes carry over to any name.
"""

from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Prompts, check_model, save_prompts
from negprompt_cli.data.sets.class_list import NovelNames
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.learning import carry_over
from negprompt_cli.steps.shared.outputs import making, write_config
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


@dataclass(frozen=True)
class TransferResult:
    """What a transfer made: the artifact, and which of its class names the source had already and which are new.

    `learned`: whether the source's classes are those that its contexts were learned with.
    """

    path: Path
    prompts: Prompts
    known: tuple[str, ...]
    new: tuple[str, ...]
    learned: bool


def run_transfer(
    config: Config,
    out: Path,
    *,
    artifact: ArtifactFile,
    names: NovelNames,
    extend: bool,
    overwrite: bool,
    progress: Progress,
    bench: Workbench | None = None,
) -> TransferResult:
    """Put the contexts of an artifact in front of new class names and write `out`.

    Args:
        config: the resolved configuration; its model must be the artifact's. The artifact keeps the configuration it
            was trained with.
        out: the artifact to write.
        artifact: one with negatives.
        names: the new classes.
        extend: keep the artifact's classes in front of the new ones.
        overwrite: whether `out` may be replaced.
        progress: told what was dropped or known already.
        bench: a workbench to share the model with other steps.

    Raises:
        UsageError: `out` exists, the artifact is missing, has no negatives or class-specific contexts, or does not fit
            the model; a name is too long for the text tower.
    """
    with making(out, overwrite=overwrite):
        artifact.require(config.data.spec)
        source = artifact.prompts
        check_transferable(source, artifact.path)
        bench = bench or Workbench(config, progress)
        clip = bench.clip
        check_model(source, clip.identity, clip.plan.width, artifact.path)
        prompts, known = transfer_prompts(clip, source, names, extend=extend, budget=bench.budget, progress=progress)
        made = save_prompts(prompts, out, overwrite=overwrite)
        write_config(made.config, out)
    new = tuple(name for name in made.names if name not in set(known))
    return TransferResult(out, made, known, new, learned=source.kind == "negative")


def check_transferable(prompts: Prompts, path: Path) -> None:
    """Refuse prompts whose contexts cannot be put in front of other names.

    Raises:
        UsageError: no negatives, or class-specific contexts.
    """
    if prompts.negative is None:
        raise UsageError(f"{path} holds positive prompts only.", remedy="learn-negative")
    if prompts.class_specific:
        raise UsageError(
            f"{path} was trained with class-specific contexts, which belong to its own classes and do not "
            "transfer. Train with shared contexts (positive.context.class_specific: false)."
        )


def transfer_prompts(
    clip: Clip, source: Prompts, names: NovelNames, *, extend: bool, budget: int, progress: Progress
) -> tuple[Prompts, tuple[str, ...]]:
    """The prompts for new class names, not yet on disk, and those of their names that `source` had already.

    Args:
        clip: the model of `source`.
        source: prompts that `check_transferable` lets pass, with the digest of their file.
        names: the new classes.
        extend: keep the classes of `source` in front of the new ones.
        budget: bytes for text activations.
        progress: told what was dropped or known already.

    Raises:
        UsageError: a name is too long for the text tower.
    """
    for decision in names.decisions:
        progress.decide(decision)
    old = {fold(c.name): c for c in source.classes}
    known = [c.name for c in names.classes if fold(c.name) in old]
    if known:
        how = "kept once" if extend else "transferred all the same"
        said = f"{len(known)} names are among the artifact's classes already, {how}: {some_of(known)}"
        progress.decide(Decision("prompts-changed", said, {"names": known}, warning=True))
    # A name that is known keeps its key and wnid, so that images still match it by wnid.
    given = tuple(old.get(fold(c.name), c) for c in names.classes)
    if extend:
        given = (*source.classes, *(c for c in given if fold(c.name) not in old))
    tokenize_prompts([c.name for c in given], clip.tokenizer, clip.plan, context=source.positive.shape[-2])
    if source.calibration is not None:
        lost = source.calibration
        said = (
            f"The threshold of the artifact ({lost.score} at least {lost.threshold:.6g}) was chosen for its own classes "
            "and is left out. Calibrate the new artifact before images are called OOD."
        )
        facts = {"score": lost.score, "threshold": lost.threshold, "data": lost.data}
        progress.decide(Decision("threshold-dropped", said, facts, warning=True))
    kept = [c.name for c in given if fold(c.name) in old]
    return carry_over(clip, source, given, budget=budget), tuple(kept)
