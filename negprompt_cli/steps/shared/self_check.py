"""The self-check: measures a learned score with ID data alone, on a user's own model and images.

Negatives are learned as embeddings without some of the classes and images, which are then used as OOD or as ID test images
(`engine.criterion`). The figures are compared with those of mcm and max-logit on the same prompts, which need no training.
Nothing is encoded, so the check takes only seconds. The positive prompts are the artifact's own, learned with all classes.
The negatives are not the artifact's, but learned with the same loss.

The check never chooses the score; a person may choose a simpler one if it does better.
"""

from torch import Tensor

from negprompt_cli.config import Config
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.criterion import Criterion, Learn, measure_criterion
from negprompt_cli.engine.embedding_negatives import negatives_of
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.embedding_learning import embedding_offsets
from negprompt_cli.wording import percent

LEARNED = "negprompt"
SIMPLE = ("mcm", "max-logit")
"""Scores with the same positives that need no negatives."""
NOISE = 0.002
"""Smaller differences of AUROC decide nothing, as in the study of the default score (engine/README.md)."""


def self_check(
    config: Config, data: Features, positives: Tensor, statistics: IdStatistics | None, *, scale: float
) -> tuple[Criterion | None, Decision]:
    """Measure the learned score with the ID data that it was learned from.

    Args:
        config: its sections seed and negative are used.
        data: the ID training features.
        positives: (K, F) features of the positive prompts.
        statistics: the artifact's ID statistics, for the default form of the score; None for the paper's form.
        scale: CLIP's logit scale.

    Returns:
        The figures (None if there are too few data), and the message: a warning if the AUROC of the learned score is more
        than `NOISE` below that of the better simple score.
    """
    known = None if statistics is None else statistics.to(positives.device, positives.dtype)
    learn = learner_of_parts(config, known, scale=scale)
    try:
        found = measure_criterion(
            positives, data.images, data.labels, learn, scores=(LEARNED, *SIMPLE), seed=config.seed
        )
    except UsageError as error:
        return None, Decision("self-check", f"There is no self-check of the score: {error}", {"sides": None})
    return found, describe(found)


def learner_of_parts(config: Config, known: IdStatistics | None, *, scale: float) -> Learn:
    """A function that learns negatives as embeddings from a part of the ID data.

    Args:
        config: its sections seed and negative are used.
        known: statistics of all ID data, for the spread of images that the negatives have not seen; None for the paper's
            score.
        scale: CLIP's logit scale.
    """

    def learn(positives: Tensor, images: Tensor, labels: Tensor) -> ScoreInputs:
        part = Features(images, labels)
        negatives = negatives_of(positives, embedding_offsets(config, part, positives, scale=scale))
        own = None if known is None else known.of_part(images, labels, positives, negatives)
        return ScoreInputs(positives, negatives, None, scale, id_statistics=own)

    return learn


def describe(found: Criterion) -> Decision:
    """The message of a self-check."""
    means = {score: found.overall(score) for score in (LEARNED, *SIMPLE)}
    figures = ", ".join(
        f"{score} {percent(one.auroc)} / {percent(one.fpr95_id_positive)}" for score, one in means.items()
    )
    above = [score for score in SIMPLE if means[LEARNED].auroc > means[score].auroc]
    best = max(SIMPLE, key=lambda score: means[score].auroc)
    behind = means[best].auroc - means[LEARNED].auroc > NOISE
    message = f"Self-check without OOD images (some ID classes are used as OOD), AUROC / FPR95: {figures}."
    if behind:
        message += (
            f" The learned score is worse than {best} on these data. Compare both on your own OOD images before you rely on "
            f"it, or calibrate and score with {best}."
        )
    message += f" AUROC differences below {percent(NOISE)} are noise."
    facts = {"sides": found.document(), "better_than": above, "problems": found.problems}
    return Decision("self-check", message, facts, warning=behind)
