"""The scorer: a model, prompts, a score and a threshold that judge single images.

The command line, the export and the Python API share it, so they give the same result for the same image. The score is the
requested one, else the one that the artifact is calibrated for, else `negprompt`, or `mcm` without negatives. The calibrated
score uses the temperature and template of its calibration.
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
    """Judges image features, and makes rows with its `verdicts`."""

    clip: Clip
    prompts: Prompts
    bank: ScoreInputs
    choice: ScoreChoice
    verdicts: Verdicts

    @property
    def threshold(self) -> float | None:
        """Images with a lower score are OOD; None if there is no threshold."""
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
    """Judges image files with the model and the prompts of a scorer; the workbench has the settings for reading them."""

    bench: Workbench
    scorer: Scorer

    @property
    def verdicts(self) -> Verdicts:
        """Classes, score and thresholds."""
        return self.scorer.verdicts

    def stream(self, paths: Iterable[Path]) -> Generator[list[Row], None, None]:
        """Rows of images, in batches and in order, while `paths` is still being listed; features are cached.

        Raises:
            UsageError: the decoder is not installed, or does not support the model's preprocessing.
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

    Without negatives it is MCM. With OpenAI's ViT-B/16 on ImageNet and far OOD sets, the FPR95 (ID positive) of MCM is 43.7,
    and that of the highest cosine is 64.9 (published in LogitGap, NeurIPS 2025, table 11). On real ViT-B/32 features the
    mean AUROC on four problems is 89.2 against 87.2. With one class MCM is constant, so the score is the highest cosine.
    """
    if prompts.negative is not None:
        return "negprompt"
    return "mcm" if len(prompts.classes) > 1 else "max-logit"


def choose_score(prompts: Prompts, asked: str | None, settings: EvaluateConfig) -> ScoreChoice:
    """Choose the score of an artifact by the rule above.

    Args:
        prompts: the artifact.
        asked: name of a score, or None.
        settings: temperature, template and N of a score that is not the calibrated one.

    Raises:
        UsageError: the score is unknown, needs more than prompts, or needs negatives and there are none.
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
    """Encode the prompts, and choose the score and the threshold.

    Args:
        bench: the model; its configuration has the temperature and template of an uncalibrated score.
        prompts: an artifact for this model.
        score: name of a score; None for the artifact's own.
        threshold: another threshold; None for the calibrated one, if the score is the calibrated one.

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
    """The verdicts of an artifact, with its thresholds and calibration scores if they belong to this score."""
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
    """Open an artifact and check that it belongs to the model.

    Raises:
        UsageError: the artifact is missing, invalid, or belongs to another model.
    """
    artifact.require(bench.config.data.spec)
    prompts = artifact.prompts
    clip = bench.clip
    check_model(prompts, clip.identity, clip.width, artifact.path)
    return prompts


def named_prompts(bench: Workbench, names: NovelNames) -> Prompts:
    """Prompts from class names alone, without learning: "a photo of a <name>." (`positive.context.words`)."""
    for decision in names.decisions:
        bench.decide(decision)
    return zero_shot_positive(bench, names.classes)
