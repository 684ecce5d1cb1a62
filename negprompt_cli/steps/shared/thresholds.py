"""A threshold from held-out ID images, for prompts in memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from negprompt_cli.data.results.artifacts import Calibration, Prompts
from negprompt_cli.data.sets.imagesets import ImageSet, classes_without_data, files_digest, match_classes
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.engine.metrics.calibration import choose_threshold, images_for_precision, images_needed
from negprompt_cli.engine.metrics.conformal import class_thresholds
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.outcomes import ClassAccuracy, by_class
from negprompt_cli.steps.shared.scorer import Scorer, default_score, make_scorer
from negprompt_cli.steps.shared.training_data import of_training_classes
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import percent, some_of

WEAK, WEAK_IMAGES = 0.5, 5
"""A class is weak where fewer than this share of at least so many held-out images are predicted as it."""


@dataclass(frozen=True)
class CalibrateOptions:
    """What to aim for.

    `acceptance`: share of ID images to accept. `confidence`: of its interval. `score`: by name, None to choose. `by_class`:
    whether predicted classes with enough held-out images get thresholds of their own.
    """

    acceptance: float = 0.95
    confidence: float = 0.95
    score: str | None = None
    by_class: bool = False


@dataclass(frozen=True)
class HeldOut:
    """ID images that were not trained on, judged: `images` of them, of which a share `accuracy` has the right class.

    `classes`: by class key, those with held-out images.
    """

    images: int
    accuracy: float
    classes: Mapping[str, ClassAccuracy]

    def document(self) -> dict[str, Any]:
        """The record in a JSON document."""
        return asdict(self)


def held_out_images(bench: Workbench) -> ImageSet:
    """The evaluation images of the configured ID data: those of the classes that are trained; the others are not ID.

    Raises:
        UsageError: no such data, or no such classes.
    """
    images, asked = bench.id_images("eval"), bench.config.data.train_classes
    return images if asked == "all" else of_training_classes(images, asked)


def held_out_accuracy(bench: Workbench, prompts: Prompts) -> HeldOut:
    """How well prompts classify the evaluation images of the configured ID data; tells of weak classes.

    Raises:
        UsageError: there are none, or their classes do not match.
        NegPromptError: an image is broken.
    """
    images = match_classes(held_out_images(bench), prompts.classes)
    encoded = bench.encode(images)
    scorer = make_scorer(bench, replace(prompts, calibration=None), score="max-logit")
    predicted, labels = scorer.judge(encoded.features).predictions, encoded.labels.numpy()
    classes = by_class(predicted, labels, prompts.classes)
    found = HeldOut(len(labels), float((predicted == labels).mean()), classes)
    names = {c.key: c.name for c in prompts.classes}
    weak = {key: one for key, one in classes.items() if one.images >= WEAK_IMAGES and one.correct < WEAK * one.images}
    if weak:
        lowest = sorted(weak, key=lambda key: weak[key].correct / weak[key].images)
        told = [
            f"{names[key]} ({percent(weak[key].correct / weak[key].images, decimals=0)} %, mostly taken for "
            f"{names[weak[key].taken_for or key]})"
            for key in lowest
        ]
        said = (
            f"{len(weak)} of {len(prompts.classes)} classes are recognised in fewer than half of their held-out images: "
            f"{some_of(told)}. Check their images and names, or add images."
        )
        bench.decide(Decision("weak-classes", said, {"classes": {k: asdict(v) for k, v in weak.items()}}, warning=True))
    return found


def calibrate_prompts(bench: Workbench, prompts: Prompts, options: CalibrateOptions) -> Calibration:
    """Choose a threshold for prompts on the evaluation images of the configured ID data.

    Args:
        bench: the configuration; its data are held-out ID images of the prompts' classes.
        prompts: prompts of the model at hand; a threshold they have is passed over.
        options: what to aim for.

    Raises:
        UsageError: too few images, classes that do not match, or the score cannot be computed.
        NegPromptError: an image is broken.
    """
    spec = bench.config.data.spec
    # A calibrated score would be taken with the threshold that is to be chosen anew.
    prompts = replace(prompts, calibration=None)
    found = held_out_images(bench)
    images = match_classes(found, prompts.classes)
    if absent := classes_without_data(found, prompts.classes):
        raise UsageError(
            f"{len(absent)} of the {len(prompts.classes)} classes of the prompts are not in {spec}: "
            f"{some_of([c.name for c in absent])}. A threshold chosen without them would say nothing of their images. Add "
            "held-out images of these classes, or give data that have them."
        )
    require_enough(len(images), options, spec)
    limited = " (limited)" if bench.config.data.limit is not None else ""
    return calibrate_on(bench, prompts, images, options, data=spec + limited)


def calibrate_on(
    bench: Workbench, prompts: Prompts, images: ImageSet, options: CalibrateOptions, *, data: str
) -> Calibration:
    """Choose a threshold for prompts on given images; warns where they leave the acceptance uncertain.

    Args:
        bench: the model, and temperature and template of the score.
        prompts: prompts without a threshold.
        images: held-out ID images with labels that index the prompts' classes, as many as `require_enough` wants.
        options: what to aim for.
        data: what the images are called.

    Raises:
        UsageError: too few images, or the score cannot be computed.
        NegPromptError: an image is broken.
    """
    scorer = make_scorer(bench, prompts, score=options.score or default_score(prompts))
    encoded = bench.encode(images)
    calibration = calibrate_scorer(
        scorer,
        scorer.judge(encoded.features),
        options,
        data=data,
        files_sha256=files_digest(encoded.images.paths, encoded.images.root),
    )
    if calibration.low < (floor := max(0.0, 2 * options.acceptance - 1)):
        precise = images_for_precision(options.acceptance, confidence=options.confidence)
        said = (
            f"{calibration.images} images leave the acceptance uncertain: between {percent(calibration.low)} and "
            f"{percent(calibration.high)} %. About {precise} would keep it above {100 * floor:g} %."
        )
        facts = {"images": calibration.images, "low": calibration.low, "high": calibration.high, "precise": precise}
        bench.decide(Decision("threshold", said, facts, warning=True))
    return calibration


def calibrate_scorer(
    scorer: Scorer,
    judged: Judgements,
    options: CalibrateOptions,
    *,
    data: str,
    files_sha256: str = "",
) -> Calibration:
    """Choose a threshold from what was judged of n held-out ID images.

    Args:
        scorer: what judged them.
        judged: their scores and predictions.
        options: what to aim for.
        data: what the images are called.
        files_sha256: digest of the list of image files, where there are files.

    Raises:
        UsageError: too few images.
    """
    aim = {"acceptance": options.acceptance, "confidence": options.confidence}
    chosen = choose_threshold(judged.scores, **aim)
    own = class_thresholds(judged.scores, judged.predictions, **aim) if options.by_class else {}
    return Calibration(
        score=scorer.choice.name,
        temperature=scorer.choice.temperature,
        template=scorer.choice.template,
        next_classes=scorer.choice.next_classes,
        threshold=chosen.value,
        acceptance=chosen.acceptance,
        accepted=chosen.accepted,
        images=chosen.images,
        low=chosen.low,
        high=chosen.high,
        confidence=chosen.confidence,
        data=data,
        files_sha256=files_sha256,
        by_class={scorer.prompts.classes[label].key: value for label, value in own.items()},
        scores=tuple(np.sort(judged.scores).tolist()),
    )


def require_enough(images: int, options: CalibrateOptions, spec: str) -> None:
    """Stop before any image is read where there are too few.

    Raises:
        UsageError: too few; says how many are needed.
    """
    needed = images_needed(options.acceptance)
    if images < needed:
        raise UsageError(
            f"{spec} has {images} held-out ID images, too few to choose a threshold that accepts "
            f"{100 * options.acceptance:g} % of ID images: {needed} are needed. Add images, or accept a smaller share.",
            remedy="acceptance",
        )


def enough_for_threshold(bench: Workbench, held_out: int, options: CalibrateOptions) -> bool:
    """Whether so many held-out images are enough for a threshold; warns where they are not."""
    needed = images_needed(options.acceptance)
    if held_out < needed:
        said = (
            f"No threshold: {held_out} held-out ID images are too few for an acceptance of {100 * options.acceptance:g} %, "
            f"at least {needed} are needed. Scores and classes work without a threshold. Calibrate the artifact once there "
            f"are more images."
        )
        facts = {"threshold": None, "held_out": held_out, "needed": needed, "acceptance": options.acceptance}
        bench.decide(Decision("threshold", said, facts, warning=True))
    return held_out >= needed
