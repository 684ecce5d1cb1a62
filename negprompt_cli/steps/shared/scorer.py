"""A model, prompts, a score and a threshold: what judges single images, whoever asks.

The command line, the export and the Python API share it, so they say the same of the same image. Which score: the one
asked for, else the one the artifact is calibrated for, else `negprompt` where there are negatives and `mcm` where
there are none. The calibrated score is computed as it was calibrated, with its own temperature and template.
"""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.data.encoding.batches import Batch
from negprompt_cli.data.encoding.features import feature_store
from negprompt_cli.data.encoding.stream import Cache, stream_features
from negprompt_cli.data.results.artifacts import Prompts, check_model
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.class_list import NovelNames
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.judge import judge
from negprompt_cli.engine.judgement import Judgements, check_prompt_score
from negprompt_cli.engine.scores import ScoreOptions, constant_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.score_inputs import make_score_inputs
from negprompt_cli.steps.shared.starts import zero_shot_positive
from negprompt_cli.steps.shared.verdicts import Verdicts, one_class_decisions
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class ScoreChoice:
    """An ID score: its name, the temperature of softmax scores (on cosines), the zero-shot template, and N of logit-gap."""

    name: str
    temperature: float
    template: str
    next_classes: int | None

    @property
    def options(self) -> ScoreOptions:
        """The constants of the score."""
        return ScoreOptions(next_classes=self.next_classes)


@dataclass(frozen=True, eq=False)
class Scorer:
    """Judges image features, and says it in rows by its `verdicts`."""

    clip: Clip
    prompts: Prompts
    bank: ScoreInputs
    choice: ScoreChoice
    verdicts: Verdicts

    @property
    def threshold(self) -> float | None:
        """Images whose score is below are OOD; None where there is none."""
        return self.verdicts.threshold

    def judge(self, features: Tensor) -> Judgements:
        """Judge (B, F) L2-normalised image features."""
        choice = self.choice
        return judge(
            features.to(self.clip.device),
            self.bank,
            choice.name,
            temperature=choice.temperature,
            options=choice.options,
        )

    def rows(self, batch: Batch) -> list[Row]:
        """A row for each image of a batch, in order."""
        judged = None if batch.features is None else self.judge(batch.features)
        return self.verdicts.rows(batch.paths, batch.errors, judged)


@dataclass(frozen=True, eq=False)
class ArtifactJudge:
    """Judges image files with the model and the prompts of a scorer; the workbench says how they are read."""

    bench: Workbench
    scorer: Scorer

    @property
    def verdicts(self) -> Verdicts:
        """Classes, score and thresholds."""
        return self.scorer.verdicts

    def stream(self, paths: Iterable[Path]) -> Generator[list[Row], None, None]:
        """Rows about images, batch by batch as they are listed, in their order; features come from the cache or go there.

        Raises:
            UsageError: the decoder is not installed, or does not know the model's preprocessing.
        """
        asked, decoder, clip = self.bench.config.compute, self.bench.config.data.decoder, self.scorer.clip
        progress = self.bench.progress
        cache = Cache(feature_store(clip, decoder, progress, partial=True), progress) if asked.cache else None
        batches = stream_features(
            clip, paths, batch_size=asked.image_batch, workers=asked.workers, decoder=decoder, cache=cache
        )
        known = 0
        with closing(batches):
            for batch in batches:
                known += batch.known
                yield self.scorer.rows(batch)
        if known:
            progress.say(f"The features of {known} images were in the cache.")


def default_score(prompts: Prompts) -> str:
    """The score of an artifact that is not calibrated.

    Without negatives it is MCM: with OpenAI's ViT-B/16 on ImageNet its FPR95 (ID positive) is 43.7 on far OOD sets, where
    that of the highest cosine is 64.9 (published in LogitGap, NeurIPS 2025, table 11); on real ViT-B/32 features its mean
    AUROC on four problems is 89.2 against 87.2. MCM says nothing with one class, so there it is the highest cosine.
    """
    if prompts.negative is not None:
        return "negprompt"
    return "mcm" if len(prompts.classes) > 1 else "max-logit"


def choose_score(prompts: Prompts, asked: str | None, settings: EvaluateConfig) -> ScoreChoice:
    """Choose the score of an artifact by the rule above.

    Args:
        prompts: the artifact.
        asked: a score by name, or None.
        settings: temperature, template and N of a score that is not the calibrated one.

    Raises:
        UsageError: an unknown score, one that needs more than prompts, or negatives where there are none.
    """
    known = prompts.calibration
    if known is not None and asked in (None, known.score):
        return ScoreChoice(known.score, **known.settings)
    name = asked or default_score(prompts)
    check_prompt_score(name)
    if constant_scores([name], len(prompts.classes)):
        raise UsageError(f"With one class the score {name} is the same for every image. Use max-logit or negprompt.")
    if name == "negprompt" and prompts.negative is None:
        raise UsageError("The score negprompt needs negative prompts, and there are none. Use max-logit or mcm.")
    return ScoreChoice(name, settings.temperature, settings.template, settings.next_classes)


def make_scorer(
    bench: Workbench, prompts: Prompts, *, score: str | None = None, threshold: float | None = None
) -> Scorer:
    """Encode the prompts and choose score and threshold.

    Args:
        bench: the model at hand; its configuration gives temperature and template of an uncalibrated score.
        prompts: an artifact for this model.
        score: a score by name; None for the artifact's own.
        threshold: an own threshold; None for the calibrated one, if the score is the calibrated one.

    Raises:
        UsageError: as `choose_score`.
    """
    choice = choose_score(prompts, score, bench.config.evaluate)
    if score is None and prompts.calibration is None:
        why = "there are no negative prompts" if prompts.negative is None else "the prompts are not calibrated"
        facts = {"score": choice.name, "negatives": prompts.negatives_per_class, "calibrated": False}
        bench.decide(Decision("score", f"The score is {choice.name}, because {why}.", facts))
    for decision in one_class_decisions(prompts.classes):
        bench.decide(decision)
    verdicts = calibrated_verdicts(prompts, choice.name).with_threshold(threshold)
    bank = make_score_inputs(bench, prompts, [choice.name], template=choice.template)
    return Scorer(bench.clip, prompts, bank, choice, verdicts)


def calibrated_verdicts(prompts: Prompts, score: str) -> Verdicts:
    """The thresholds and calibration scores of an artifact, where they are of this score."""
    known = prompts.calibration
    found = Verdicts(
        prompts.classes,
        score,
        threshold=None,
        calibrated_for=known.score if known else None,
        prompts_sha256=prompts.sha256,
        weights_sha256=prompts.model.weights_sha256,
    )
    if known is None or known.score != score:
        return found
    by_class = {i: known.by_class[c.key] for i, c in enumerate(prompts.classes) if c.key in known.by_class}
    return replace(found, threshold=known.threshold, by_class=by_class, calibration_scores=np.array(known.scores))


def open_prompts(bench: Workbench, artifact: ArtifactFile) -> Prompts:
    """Open an artifact and check that it fits the model at hand.

    Raises:
        UsageError: missing, unsound, or of another model.
    """
    artifact.require(bench.config.data.spec)
    prompts = artifact.prompts
    clip = bench.clip
    check_model(prompts, clip.identity, clip.plan.width, artifact.path)
    return prompts


def named_prompts(bench: Workbench, names: NovelNames) -> Prompts:
    """Prompts for class names alone: "a photo of a <name>." (`positive.context.words`), nothing learned."""
    for decision in names.decisions:
        bench.decide(decision)
    return zero_shot_positive(bench.clip, bench.config, names.classes)
