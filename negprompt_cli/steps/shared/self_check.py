"""The self-check: what a criterion of ID data alone makes of a learned score, on a user's own backbone and images.

Negatives are learned as embeddings without some of the classes and images, and those play OOD or are judged
(`engine.criterion`). The figures are beside those of mcm and max-logit on the same prompts, which need no training. It
costs seconds, since nothing is encoded. The positive prompts are the artifact's own, learned with all classes; the negatives
of the check are not the artifact's but ones learned by the same loss.

Leaves out: choosing a score. A person who is told that a simpler score does better may choose it.
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
"""Scores of the same positives that need no negatives."""
NOISE = 0.002
"""Differences of AUROC up to this one decide nothing: other draws of the small problems change them by as much."""


def self_check(
    config: Config, data: Features, positives: Tensor, statistics: IdStatistics | None, *, scale: float
) -> tuple[Criterion | None, Decision]:
    """Judge the learned score by the ID data that it was learned from.

    Args:
        config: its sections seed and negative decide.
        data: the ID training features.
        positives: (K, F) features of the positive prompts.
        statistics: the artifact's, for the default form of the score; None for the paper's.
        scale: CLIP's logit scale.

    Returns:
        The figures, None where the data are too few, and what a person is told: a warning where the learned score is below
        the better of the simple ones by more than `NOISE`.
    """
    known = None if statistics is None else statistics.to(positives.device, positives.dtype)
    learn = learner_of_parts(config, known, scale=scale)
    try:
        found = measure_criterion(
            positives, data.images, data.labels, learn, scores=(LEARNED, *SIMPLE), seed=config.seed
        )
    except UsageError as error:
        return None, Decision("self-check", f"No self-check of the score: {error}", {"sides": None})
    return found, told(found)


def learner_of_parts(config: Config, known: IdStatistics | None, *, scale: float) -> Learn:
    """Learns negatives as embeddings from a part of the ID data.

    Args:
        config: its sections seed and negative decide.
        known: statistics of all ID data, which say how images differ that negatives have not seen; None for the paper's
            score.
        scale: CLIP's logit scale.
    """

    def learn(positives: Tensor, images: Tensor, labels: Tensor) -> ScoreInputs:
        part = Features(images, labels)
        negatives = negatives_of(positives, embedding_offsets(config, part, positives, scale=scale))
        own = None if known is None else known.of_part(images, labels, positives, negatives)
        return ScoreInputs(positives, negatives, None, scale, id_statistics=own)

    return learn


def told(found: Criterion) -> Decision:
    """The line of a self-check."""
    means = {score: found.overall(score) for score in (LEARNED, *SIMPLE)}
    figures = ", ".join(
        f"{score} {percent(one.auroc)} / {percent(one.fpr95_id_positive)}" for score, one in means.items()
    )
    above = [score for score in SIMPLE if means[LEARNED].auroc > means[score].auroc]
    best = max(SIMPLE, key=lambda score: means[score].auroc)
    behind = means[best].auroc - means[LEARNED].auroc > NOISE
    said = f"Self-check, part of the ID classes in the place of OOD images, AUROC / FPR95: {figures}."
    if behind:
        said += (
            f" The learned score is below {best} on these data. Compare them on OOD images of your own before you rely on "
            f"it, or calibrate and score with {best}."
        )
    said += f" Differences of AUROC below {percent(NOISE)} decide nothing."
    facts = {"sides": found.document(), "better_than": above, "problems": found.problems}
    return Decision("self-check", said, facts, warning=behind)
