"""The uncertainty that the choice of test images causes: intervals of figures and of differences from the best baseline.

A baseline is a score that needs no negative prompts. The best one is that with the highest mean AUROC over these very test
images, so the choice favours the baseline and never the score that is compared with it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from negprompt_cli.config import Config
from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument, Gap, Row, Versus
from negprompt_cli.engine.metrics.bootstrap import bootstrap_ci
from negprompt_cli.engine.metrics.paired import Difference, Judged, paired_differences
from negprompt_cli.engine.scores import find_score

if TYPE_CHECKING:
    from negprompt_cli.steps.shared.measure import Measured


def with_intervals(document: EvaluationDocument, measured: Sequence["Measured"], config: Config) -> EvaluationDocument:
    """The document with bootstrap intervals of each row, and paired differences from the best baseline, if there is one.

    Args:
        document: an evaluation, of one artifact or of one per seed.
        measured: the scores behind it, by seed.
        config: how many resamples, the level, and the seed of the resamples.
    """
    rows = [row if row.ood == AVERAGE else _with_interval(row, measured, config) for row in document.rows]
    return _with_differences(document.model_copy(update={"rows": tuple(rows)}), measured, config)


def _with_interval(row: Row, measured: Sequence["Measured"], config: Config) -> Row:
    settings = config.evaluate
    samples = [
        (
            one.id_set.table.scores[row.score],
            next(s.table.scores[row.score] for s in one.ood_sets if s.name == row.ood),
            one.correct,
        )
        for one in measured
    ]
    generator = np.random.default_rng(config.seed)
    found = bootstrap_ci(samples, generator=generator, n=settings.resamples, level=settings.level)
    ci = {metric: (interval.low, interval.high) for metric, interval in found.items()}
    return row.model_copy(update={"ci": ci, "ci_level": settings.level})


def _with_differences(
    document: EvaluationDocument, measured: Sequence["Measured"], config: Config
) -> EvaluationDocument:
    baseline = best_baseline(document)
    sizes = [len(measured[0].id_set.encoded), *(len(s.encoded) for s in measured[0].ood_sets)]
    if baseline is None or len(document.scores) < 2 or min(sizes) < 2:
        return document
    settings = config.evaluate
    found = paired_differences(
        {score: _judged(measured, score) for score in document.scores},
        baseline,
        generator=np.random.default_rng(config.seed),
        n=settings.resamples,
        level=settings.level,
    )
    versus = {
        (score, ood): versus_of(gaps, baseline, settings.level)
        for score, by_set in found.items()
        for ood, gaps in zip((*document.ood_names, AVERAGE), by_set, strict=True)
    }

    def compared(row: Row) -> Row:
        mine = versus.get((row.score, row.ood))
        return row if mine is None else row.model_copy(update={"versus": mine})

    return document.model_copy(update={"rows": tuple(map(compared, document.rows))})


def best_baseline(document: EvaluationDocument) -> str | None:
    """The score without negatives whose mean AUROC over the OOD sets is highest, the first of equals."""
    means = {
        row.score: row.auroc
        for row in document.rows
        if row.ood == AVERAGE and "negatives" not in find_score(row.score).requires
    }
    return max(means, key=lambda score: means[score], default=None)


def _judged(measured: Sequence["Measured"], score: str) -> Sequence[Judged]:
    """A score's judgements by seed; one where all seeds say the same, as zero-shot scores do."""
    return different(
        [Judged(m.id_set.table.scores[score], tuple(s.table.scores[score] for s in m.ood_sets)) for m in measured]
    )


def different(judged: Sequence[Judged]) -> Sequence[Judged]:
    """The first alone where all judgements of the same images are the same, else all."""
    parts = [np.concatenate([one.id_scores, *one.ood_scores]) for one in judged]
    return judged[:1] if all(np.array_equal(part, parts[0]) for part in parts) else judged


def versus_of(differences: Mapping[str, Difference], baseline: str, level: float) -> Versus:
    """The record of the differences in each metric from a baseline."""
    gaps = {name: Gap(difference=d.value, low=d.low, high=d.high, p=d.p) for name, d in differences.items()}
    return Versus(baseline=baseline, level=level, **gaps)
