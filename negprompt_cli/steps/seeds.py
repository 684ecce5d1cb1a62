"""One job for several seeds: a folder per seed, one model for all, and figures as mean and standard deviation.

Seed N's files are in <run>/seed-N/ under their usual names. The standard deviation is that of a sample (n - 1) of training
seeds, which decide the sampling of shots, the initialisation and the batch order. It does not include the choice of test
images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from negprompt_cli.data.results.evaluation_means import average_over_seeds
from negprompt_cli.data.results.evaluations import EvaluationDocument, save_evaluation
from negprompt_cli.data.results.runs import NEGATIVE, POSITIVE, seed_folder
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.evaluate import Evaluation, run_evaluate
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.intervals import with_intervals
from negprompt_cli.steps.shared.measure import Measured
from negprompt_cli.steps.shared.outputs import TrainingResult, making, refuse_existing, write_config
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive


@dataclass(frozen=True)
class SeedsEvaluation:
    """The result of an evaluation over seeds: the document of means, and each seed's evaluation."""

    path: Path
    document: EvaluationDocument
    evaluations: tuple[Evaluation, ...]

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The scores of all images, by seed."""
        return tuple(e.measured for e in self.evaluations)


def train_positive_seeds(
    bench: Workbench, run: Path, *, seeds: Sequence[int], overwrite: bool, resume: bool = False
) -> list[TrainingResult]:
    """Stage 1 once for each seed, into <run>/seed-N/; raises what `run_train_positive` raises."""

    def learn(mine: Workbench, out: Path) -> TrainingResult:
        return run_train_positive(mine, out, overwrite=overwrite, resume=resume)

    return _each_seed(bench, run, POSITIVE, seeds, learn, replace=overwrite or resume)


def train_negative_seeds(
    bench: Workbench,
    run: Path,
    *,
    positives: Mapping[int, ArtifactFile | None],
    overwrite: bool,
    resume: bool = False,
) -> list[TrainingResult]:
    """Stage 2 once for each seed, into <run>/seed-N/, from the seed's positives or, for None, from untrained ones.

    Raises what `run_train_negative` raises.
    """
    missing = dict.fromkeys(str(p.path) for p in positives.values() if p and p.missing)
    if missing:
        raise UsageError(f"No positive prompts at {', '.join(missing)}.", remedy="learn-positive-seeds")

    def learn(mine: Workbench, out: Path) -> TrainingResult:
        source = positives[mine.config.seed]
        return run_train_negative(mine, out, positive=source, overwrite=overwrite, resume=resume)

    return _each_seed(bench, run, NEGATIVE, list(positives), learn, replace=overwrite or resume)


def _each_seed(
    bench: Workbench,
    run: Path,
    name: str,
    seeds: Sequence[int],
    learn: Callable[[Workbench, Path], TrainingResult],
    *,
    replace: bool,
) -> list[TrainingResult]:
    """Learn <run>/seed-N/<name> for each seed, with the same model and the configuration with this seed."""
    outs = [seed_folder(run, seed) / name for seed in seeds]
    together(*(partial(refuse_existing, out, overwrite=replace) for out in outs))
    results = []
    for seed, out in zip(seeds, outs, strict=True):
        bench.progress.say(f"Seed {seed}")
        results.append(learn(bench.with_config(bench.config.model_copy(update={"seed": seed})), out))
    return results


def evaluate_seeds(
    bench: Workbench, run: Path, out: Path, *, artifacts: Mapping[int, ArtifactFile], overwrite: bool
) -> SeedsEvaluation:
    """Evaluate the artifact of every seed into <run>/seed-N/ and write the means to `out`.

    A workbench with `remember` encodes the images only once.

    Raises:
        UsageError, NegPromptError: as `run_evaluate`, or an artifact was trained with another seed than its folder names.
    """
    # If `out` is not in the run folder, the evaluations of single seeds are next to it.
    outs = [
        seed_folder(run, seed) / out.name if out.parent == run else out.with_name(f"{out.stem}-seed-{seed}{out.suffix}")
        for seed in artifacts
    ]
    missing = [str(a.path) for a in artifacts.values() if a.missing]
    if missing:
        raise UsageError(f"No prompt artifact at {', '.join(missing)}.", remedy="learn-prompts-seeds")
    together(*(partial(refuse_existing, o, overwrite=overwrite) for o in (out, *outs)))
    made = []
    for (seed, artifact), own in zip(artifacts.items(), outs, strict=True):
        bench.progress.say(f"Seed {seed}: {artifact.path}")
        result = run_evaluate(bench, own, artifact=artifact, overwrite=overwrite)
        found = result.document.prompts.seed
        if found != seed:
            raise UsageError(
                f"{artifact.path} was trained with seed {found}, but is in the folder of seed {seed}. Move it, or train "
                "again."
            )
        made.append(result)
    config, document = bench.config, average_over_seeds([e.document for e in made])
    if config.evaluate.ci:
        document = with_intervals(document, [e.measured for e in made], config)
    with making(out, overwrite=overwrite):
        save_evaluation(out, document)
        write_config(config, out)
    return SeedsEvaluation(out, document, tuple(made))
