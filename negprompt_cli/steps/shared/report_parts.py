"""The parts of a report that need only labels, predictions and scores: answer, numbers, tables and galleries.

The threshold here accepts 95 % of the ID test images, as in the definition of FPR95. It is a point of the ROC curve, not a
detector's threshold, which is chosen on other images.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.results.evaluation_means import average_over_sets
from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument, Row, figure_cells
from negprompt_cli.engine.metrics.bootstrap import bootstrap_average_ci
from negprompt_cli.engine.metrics.detection import acceptance_curve, area_under_roc, fpr_at_recall, metrics_of
from negprompt_cli.report.page import Gallery, Number, Table, Thumbnail
from negprompt_cli.report.thumbnails import thumbnails
from negprompt_cli.steps.shared.class_tables import TAKEN, TALL_ROWS, class_table, interval, most_common
from negprompt_cli.steps.shared.scored_sets import RECALL, ScoredSet, ScoredSets
from negprompt_cli.wording import cell, percent

UNTRAINED = "mcm-zero-shot"
THUMBNAILS = 12
"""Number of images of one set in a gallery."""
RESAMPLED = 20_000_000
"""Largest number of images in all resamples together, so that intervals of large sets take only seconds."""

FPR95_NOTE = "In per cent. FPR95: share of OOD images that are accepted when 95 % of the ID images are accepted."
"""The note below tables of AUROC and FPR95."""
INTERVALS_NOTE = "95 % intervals over images: bootstrap, and Clopper and Pearson for the accuracy."
"""The note below measured numbers."""
Lines = Callable[[ScoredSet, int], Sequence[str]]
"""Returns the lines about one image of a set: its predicted class, and more if known."""


def measured_numbers(sets: ScoredSets, seed: int) -> list[Number]:
    """AUROC and FPR95 averaged over the OOD sets and ID accuracy, each with its 95 % interval over images."""
    main = sets.scores[0]
    own = sets.id_set.scores[main]
    others = [ood.scores[main] for ood in sets.ood_sets]
    resamples = int(np.clip(RESAMPLED // (len(own) * len(others) + sum(map(len, others))), 100, 500))
    found = bootstrap_average_ci(own, others, generator=np.random.default_rng(seed), n=resamples)
    auroc, fpr = found["auroc"], found["fpr95_id_positive"]
    numbers = [
        Number("AUROC", f"{percent(auroc.value)} %", f"{percent(auroc.low)} to {percent(auroc.high)}"),
        Number("OOD accepted (FPR95)", f"{percent(fpr.value)} %", f"{percent(fpr.low)} to {percent(fpr.high)}"),
    ]
    labelled = sets.id_set.labels >= 0
    if labelled.any():
        right = float((sets.id_set.predictions == sets.id_set.labels)[labelled].mean())
        numbers.append(Number("ID accuracy", f"{percent(right)} %", interval(right, int(labelled.sum()))))
    return numbers


def recorded_numbers(document: EvaluationDocument, score: str) -> list[Number]:
    """The three numbers of several seeds, with their standard deviations over the seeds."""
    row, seeds = document.row(score, AVERAGE), f"over {len(document.seeds)} seeds"
    if row is None:
        return []
    spread = row.std or {}

    def number(name: str, value: float, deviation: float | None) -> Number:
        return Number(
            name, f"{percent(value)} %", f"± {percent(deviation)} {seeds}" if deviation is not None else seeds
        )

    return [
        number("AUROC", row.auroc, spread.get("auroc")),
        number("OOD accepted (FPR95)", row.fpr95_id_positive, spread.get("fpr95_id_positive")),
        number("ID accuracy", document.id.accuracy, document.id.accuracy_std),
    ]


def answer(sets: ScoredSets) -> list[str]:
    """The answer in sentences, for the main score."""
    main, *others = sets.scores
    fprs = {score: [fpr_at_recall(sets.curve(score, ood), RECALL) for ood in sets.ood_sets] for score in sets.scores}
    means = {score: float(np.mean(values)) for score, values in fprs.items()}
    count, share = len(sets.ood_sets), percent(means[main])
    whose = (
        f"On average over {count} OOD sets, {share} % of the images"
        if count > 1
        else f"{share} % of the OOD images ({sets.ood_sets[0].name})"
    )
    sentences = [f"{whose} are accepted when 95 % of the ID images are accepted (score {main})."]
    if count > 1:
        worst, best = int(np.argmax(fprs[main])), int(np.argmin(fprs[main]))
        sentences.append(
            f"The hardest set is {sets.ood_sets[worst].name} ({percent(fprs[main][worst])} % accepted), the easiest is "
            f"{sets.ood_sets[best].name} ({percent(fprs[main][best])} %)."
        )
    if others:
        best_other = min(others, key=means.__getitem__)
        message = f"The best other score is {best_other} ({percent(means[best_other])} % accepted)."
        if UNTRAINED in others and best_other != UNTRAINED:
            message += f" Untrained prompts ({UNTRAINED}) accept {percent(means[UNTRAINED])} %."
        sentences.append(message)
    return sentences


def scores_table(sets: ScoredSets) -> Table:
    """AUROC / FPR95 (ID positive) of each score on each OOD set and on average, without intervals."""
    correct, lines = sets.id_set.predictions == sets.id_set.labels, []
    for score in sets.scores:
        own = []
        for ood in sets.ood_sets:
            found = metrics_of(acceptance_curve(sets.id_set.scores[score], ood.scores[score], correct))
            own.append(Row.model_validate(found.model_dump() | {"ood": ood.name, "images": len(ood), "score": score}))
        lines.append([*own, average_over_sets(own)])
    cells = [[cell(score), *figures] for score, figures in zip(sets.scores, figure_cells(lines), strict=True)]
    header = ["score", *(ood.name for ood in sets.ood_sets), AVERAGE]
    return Table("All scores: AUROC / FPR95", header, cells, FPR95_NOTE)


def id_class_table(sets: ScoredSets) -> Table:
    """A row per ID class, those with the lowest accuracy first."""
    found, score = sets.id_set, sets.scores[0]
    accepted = found.scores[score] >= sets.threshold(score)
    return class_table(f"ID classes (score {score})", found.labels, found.predictions, sets.names, accepted)


def ood_class_tables(sets: ScoredSets) -> Iterator[Table]:
    """A table for each OOD set with classes, with a row per class, those with the most accepted images first."""
    score = sets.scores[0]
    threshold = sets.threshold(score)
    for ood in sets.ood_sets:
        rows = []
        for label in np.unique(ood.labels[ood.labels >= 0]).tolist():
            mine = ood.labels == label
            values, name = ood.scores[score][mine], ood.classes[label]
            area = area_under_roc(acceptance_curve(sets.id_set.scores[score], values))
            accepted = float((values >= threshold).mean())
            taken = most_common(ood.predictions[mine], sets.names)
            rows.append((-accepted, [name, str(len(values)), percent(area), percent(accepted), taken]))
        if rows:
            title, header = f"Classes of {ood.name} (score {score})", ["class", "images", "AUROC", "accepted", TAKEN]
            cells = [row for _, row in sorted(rows)]
            note = "In per cent. Accepted: share of the images at or above the threshold."
            yield Table(title, header, cells, note, words=(0, 4), tall=len(cells) > TALL_ROWS)


def galleries(sets: ScoredSets, rules: PixelsConfig, more: Lines) -> list[Gallery]:
    """The images with the worst errors of the main score; `more` adds lines about each."""
    score = sets.scores[0]
    made = [
        _gallery(
            sets,
            ood,
            np.argsort(-ood.scores[score], kind="stable"),
            f"OOD images of {ood.name} that look most like ID",
            rules,
            more,
        )
        for ood in sets.ood_sets
    ]
    least = np.argsort(sets.id_set.scores[score], kind="stable")
    title = f"ID images of {sets.id_set.name} that look most like OOD"
    return [*made, _gallery(sets, sets.id_set, least, title, rules, more)]


def _gallery(
    sets: ScoredSets, scored: ScoredSet, order: npt.NDArray[np.intp], title: str, rules: PixelsConfig, more: Lines
) -> Gallery:
    score, chosen = sets.scores[0], order[:THUMBNAILS].tolist()
    threshold = sets.threshold(score)
    paths = [scored.paths[i] for i in chosen]
    cards = [
        Thumbnail(
            jpeg,
            scored.own(i),
            [*more(scored, i), f"score {scored.scores[score][i]:.4g}"],
            badge="OOD" if scored.scores[score][i] < threshold else "ID",
            path=str(path),
        )
        for i, path, jpeg in zip(chosen, paths, thumbnails(paths, rules), strict=True)
    ]
    kind = "ID images with the lowest" if scored is sets.id_set else "OOD images with the highest"
    return Gallery(title, f"The {len(cards)} {kind} scores. The badge is the verdict at the threshold.", cards)
