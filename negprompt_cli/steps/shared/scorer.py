"""A model, prompts, a score and a threshold: what judges single images, whoever asks.

The command line, the export and the Python API share it, so they say the same of the same image. Which score: the one
asked for, else the one the artifact is calibrated for, else `negprompt` where there are negatives and `mcm` where
there are none. The calibrated score is computed as it was calibrated, with its own temperature and template.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from negprompt_cli.data.encoding.batches import Batch
from negprompt_cli.data.results.artifacts import Prompts, check_model
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.class_list import NovelNames
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.judgement import Judgements, check_prompt_score, judge
from negprompt_cli.engine.metrics.conformal import p_values
from negprompt_cli.engine.scores import constant_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.score_inputs import make_score_inputs
from negprompt_cli.steps.shared.starts import zero_shot_positive
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class ScoreChoice:
    """An ID score: its name, the temperature of the softmax scores (on cosines), and the zero-shot template."""

    name: str
    temperature: float
    template: str


@dataclass(frozen=True, eq=False)
class Scorer:
    """Judges images.

    `threshold`: images whose score is below are OOD; None where there is none. `by_class`: thresholds of predicted classes
    that have one of their own. `calibration_scores`: (n,) ascending scores of the held-out ID images, None where the score
    is not the calibrated one.
    """

    clip: Clip
    prompts: Prompts
    bank: ScoreInputs
    choice: ScoreChoice
    threshold: float | None
    by_class: Mapping[int, float] = field(default_factory=dict)
    calibration_scores: npt.NDArray[np.float64] | None = None

    def judge(self, features: Tensor) -> Judgements:
        """Judge (B, F) L2-normalised image features."""
        return judge(features.to(self.clip.device), self.bank, self.choice.name, temperature=self.choice.temperature)

    def rows(self, batch: Batch) -> list[Row]:
        """A row for each image of a batch, in order."""
        verdicts = None if batch.features is None else self.judge(batch.features)
        p = None
        if verdicts is not None and self.calibration_scores is not None:
            p = p_values(verdicts.scores, self.calibration_scores)
        rows, place = [], 0
        for path, error in zip(batch.paths, batch.errors, strict=True):
            if verdicts is None or error is not None:
                rows.append(Row(str(path), error=error))
            else:
                rows.append(self._row(path, verdicts, place, None if p is None else float(p[place])))
                place += 1
        return rows

    def _row(self, path: Path, verdicts: Judgements, i: int, p_value: float | None) -> Row:
        prediction = int(verdicts.predictions[i])
        label = self.prompts.classes[prediction]
        score = float(verdicts.scores[i])
        nearest = similarity = None
        if verdicts.negatives is not None and verdicts.similarities is not None:
            owner, number = verdicts.negatives[i].tolist()
            nearest = f"{self.prompts.classes[owner].name} #{number + 1}"
            similarity = float(verdicts.similarities[i])
        return Row(
            path=str(path),
            prediction=label.key,
            prediction_name=label.name,
            probability=float(verdicts.probabilities[i]),
            score=score,
            p_value=p_value,
            is_ood=None if self.threshold is None else score < self.by_class.get(prediction, self.threshold),
            nearest_negative=nearest,
            negative_similarity=similarity,
        )


def default_score(prompts: Prompts) -> str:
    """The score of an artifact that is not calibrated.

    Without negatives it is MCM: with OpenAI's ViT-B/16 on ImageNet its FPR95 (ID positive) is 43.7 on far OOD sets, where
    that of the highest cosine is 64.9 (published in LogitGap, NeurIPS 2025, table 11); on real ViT-B/32 features its mean
    AUROC on four problems is 89.2 against 87.2. MCM says nothing with one class, so there it is the highest cosine.
    """
    if prompts.negative is not None:
        return "negprompt"
    return "mcm" if len(prompts.classes) > 1 else "max-logit"


def choose_score(prompts: Prompts, asked: str | None, *, temperature: float, template: str) -> ScoreChoice:
    """Choose the score of an artifact by the rule above.

    Args:
        prompts: the artifact.
        asked: a score by name, or None.
        temperature: for a score that is not the calibrated one.
        template: the same.

    Raises:
        UsageError: an unknown score, one that needs more than prompts, or negatives where there are none.
    """
    known = prompts.calibration
    if known is not None and asked in (None, known.score):
        return ScoreChoice(known.score, known.temperature, known.template)
    name = asked or default_score(prompts)
    check_prompt_score(name)
    if constant_scores([name], len(prompts.classes)):
        raise UsageError(f"With one class the score {name} is the same for every image. Use max-logit or negprompt.")
    if name == "negprompt" and prompts.negative is None:
        raise UsageError("The score negprompt needs negative prompts, and there are none. Use max-logit or mcm.")
    return ScoreChoice(name, temperature, template)


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
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(
            f"A threshold must be a finite number, not {threshold}: with it every image would be judged alike."
        )
    settings = bench.config.evaluate
    choice = choose_score(prompts, score, temperature=settings.temperature, template=settings.template)
    if score is None and prompts.calibration is None:
        why = "there are no negative prompts" if prompts.negative is None else "the prompts are not calibrated"
        facts = {"score": choice.name, "negatives": prompts.negatives_per_class, "calibrated": False}
        bench.decide(Decision("score", f"The score is {choice.name}, because {why}.", facts))
    if len(prompts.classes) == 1:
        said = "There is one class, so every image is predicted as it with probability 1; the score tells images apart."
        bench.decide(Decision("few-classes", said, {"classes": 1}))
    made = prompts.calibration if prompts.calibration and prompts.calibration.score == choice.name else None
    by_class: dict[int, float] = {}
    if made and threshold is None:
        threshold = made.threshold
        by_class = {i: made.by_class[c.key] for i, c in enumerate(prompts.classes) if c.key in made.by_class}
    return Scorer(
        bench.clip,
        prompts,
        make_score_inputs(bench, prompts, [choice.name], template=choice.template),
        choice,
        threshold,
        by_class,
        np.array(made.scores) if made else None,
    )


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
