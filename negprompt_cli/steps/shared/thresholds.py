"""A threshold from held-out ID images, for prompts in memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from negprompt_cli.data.results.artifacts import Calibration, Prompts
from negprompt_cli.data.sets.imagesets import ImageSet, classes_without_data, files_digest, match_classes
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.engine.metrics.calibration import (
    choose_threshold,
    highest_acceptance,
    images_for_precision,
    images_needed,
)
from negprompt_cli.engine.metrics.conformal import class_thresholds
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.outcomes import ClassAccuracy, by_class
from negprompt_cli.steps.shared.scorer import Scorer, default_score, make_scorer
from negprompt_cli.steps.shared.training_data import of_training_classes
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import percent, some_of

WEAK, WEAK_IMAGES = 0.5, 5
"""A class is weak if less than this share of its held-out images is predicted as it, and it has at least this many."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of the choice of a threshold.

    `acceptance`: share of ID images to accept, in (0, 1). `confidence`: confidence of its interval, in (0, 1). `score`: name
    of the score; None for the default. `by_class`: whether predicted classes with enough held-out images get their own
    thresholds.
    """

    acceptance: float = 0.95
    confidence: float = 0.95
    score: str | None = None
    by_class: bool = False


@dataclass(frozen=True)
class HeldOut:
    """Results on held-out ID images: their number, and the share with the right class.

    `classes`: results by class key, for classes with held-out images.
    """

    images: int
    accuracy: float
    classes: Mapping[str, ClassAccuracy]


def held_out_images(bench: Workbench) -> ImageSet:
    """The evaluation images of the configured ID data, only those of the training classes.

    Raises:
        UsageError: there are no such data, or no such classes.
    """
    images, asked = bench.id_images("eval"), bench.config.data.train_classes
    return images if asked == "all" else of_training_classes(images, asked)


def held_out_accuracy(bench: Workbench, prompts: Prompts) -> HeldOut:
    """How well prompts classify the evaluation images of the configured ID data; reports weak classes.

    Raises:
        UsageError: there are no such images, or their classes do not match.
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
        judged = sum(one.images >= WEAK_IMAGES for one in classes.values())
        lowest = sorted(weak, key=lambda key: weak[key].correct / weak[key].images)
        described = [
            f"{names[key]} ({percent(weak[key].correct / weak[key].images, decimals=0)} %, mostly taken for "
            f"{names[weak[key].taken_for or key]})"
            for key in lowest
        ]
        message = (
            f"{len(weak)} of {judged} classes with at least {WEAK_IMAGES} held-out images are recognised in less than half "
            f"of them: {some_of(described)}. Check their images and names, or add images."
        )
        bench.decide(
            Decision("weak-classes", message, {"classes": {k: asdict(v) for k, v in weak.items()}}, warning=True)
        )
    return found


def calibrate_prompts(bench: Workbench, prompts: Prompts, options: CalibrateOptions) -> Calibration:
    """Choose a threshold for prompts on the evaluation images of the configured ID data.

    Args:
        bench: the configuration; its data are held-out ID images of the prompts' classes.
        prompts: prompts of the loaded model; their threshold, if they have one, is ignored.

    Raises:
        UsageError: there are too few images, classes do not match, or the score cannot be computed.
    """
    spec = bench.config.data.spec
    # Without this, a calibrated score would use its old threshold.
    prompts = replace(prompts, calibration=None)
    found = held_out_images(bench)
    images = match_classes(found, prompts.classes)
    if absent := classes_without_data(found, prompts.classes):
        raise UsageError(
            f"{len(absent)} of the {len(prompts.classes)} classes of the prompts are not in {spec}: "
            f"{some_of([c.name for c in absent])}. A threshold chosen without them may not fit their images. Add held-out "
            "images of these classes, or use data that have them."
        )
    require_enough(len(images), options, spec)
    limited = " (limited)" if bench.config.data.limit is not None else ""
    return calibrate_on(bench, prompts, images, options, data=spec + limited)


def calibrate_on(
    bench: Workbench, prompts: Prompts, images: ImageSet, options: CalibrateOptions, *, data: str
) -> Calibration:
    """Choose a threshold for prompts on given images; warns if the acceptance is uncertain because they are few.

    Args:
        bench: the model, and the temperature and template of the score.
        prompts: prompts without a threshold.
        images: held-out ID images with labels that index the prompts' classes; at least as many as `require_enough` needs.
        data: name of the images.

    Raises:
        UsageError: there are too few images, or the score cannot be computed.
    """
    scorer = make_scorer(bench, prompts, score=options.score or default_score(prompts))
    encoded = bench.encode(images)
    calibration = calibrate_scorer(
        scorer,
        scorer.judge(encoded.features),
        options,
        data=data,
        files_sha256=files_digest(images.paths, images.root),
    )
    if calibration.low < (floor := max(0.0, 2 * options.acceptance - 1)):
        precise = images_for_precision(options.acceptance, confidence=options.confidence)
        message = (
            f"With only {calibration.images} images the acceptance is uncertain: between {percent(calibration.low)} and "
            f"{percent(calibration.high)} %. About {precise} images would keep it above {100 * floor:g} %."
        )
        facts = {"images": calibration.images, "low": calibration.low, "high": calibration.high, "precise": precise}
        bench.decide(Decision("threshold", message, facts, warning=True))
    return calibration


def calibrate_scorer(
    scorer: Scorer,
    judged: Judgements,
    options: CalibrateOptions,
    *,
    data: str,
    files_sha256: str = "",
) -> Calibration:
    """Choose a threshold from the scores of n held-out ID images.

    Args:
        scorer: the scorer that judged them.
        judged: their scores and predictions.
        data: name of the images.
        files_sha256: digest of the list of image files; empty for features without files.

    Raises:
        UsageError: there are too few images.
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
    """Check, before any image is read, that there are enough.

    Raises:
        UsageError: there are too few; the message says how many are needed.
    """
    needed = images_needed(options.acceptance)
    if images < needed:
        raise UsageError(
            f"{spec} has {images} held-out ID images, which are too few to choose a threshold that accepts "
            f"{100 * options.acceptance:g} % of ID images: {needed} are needed.{_enough_for(images)} Add images.",
            remedy="acceptance",
        )


def _enough_for(images: int) -> str:
    """A sentence, with a space before it, about the acceptance for which these images are enough."""
    return f" {images} images are enough for {100 * highest_acceptance(images):g} %." if images >= 2 else ""


def enough_for_threshold(bench: Workbench, held_out: int, options: CalibrateOptions) -> bool:
    """Whether this number of held-out images is enough for a threshold; warns if not."""
    needed = images_needed(options.acceptance)
    if held_out < needed:
        message = (
            f"There is no threshold, because {held_out} held-out ID images are too few for an acceptance of "
            f"{100 * options.acceptance:g} %: at least {needed} are needed. Scores and classes work without a threshold. "
            f"Calibrate the artifact when you have more images, or with a smaller acceptance.{_enough_for(held_out)}"
        )
        facts = {"threshold": None, "held_out": held_out, "needed": needed, "acceptance": options.acceptance}
        bench.decide(Decision("threshold", message, facts, warning=True))
    return held_out >= needed
