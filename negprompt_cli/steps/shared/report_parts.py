"""The parts of a report that need only labels, predictions and scores: answer, numbers, tables and galleries.

The threshold here accepts 95 % of the ID test images, as in the definition of FPR95. It is a point of the ROC curve, not a
detector's threshold, which is chosen on other images.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument
from negprompt_cli.engine.metrics.bootstrap import bootstrap_average_ci
from negprompt_cli.engine.metrics.calibration import accepting_threshold
from negprompt_cli.engine.metrics.detection import acceptance_curve, area_under_roc, fpr_at_recall
from negprompt_cli.report.page import Gallery, Number, Table, Thumbnail
from negprompt_cli.report.thumbnails import thumbnails
from negprompt_cli.steps.shared.class_tables import TALL_ROWS, interval
from negprompt_cli.steps.shared.scored_sets import ScoredSet, ScoredSets
from negprompt_cli.wording import percent

RECALL = 0.95
THUMBNAILS = 16
"""Number of images of one set in a gallery."""
RESAMPLED = 20_000_000
"""Largest number of images in all resamples together, so that intervals of large sets take only seconds."""

FPR95_NOTE = "In per cent. FPR95: share of OOD images that are accepted when 95 % of the ID images are accepted."
"""The note below tables of AUROC and FPR95."""
Lines = Callable[[ScoredSet, int], Sequence[str]]
"""Returns the lines about one image of a set: its predicted class, and more if known."""


def threshold_of(sets: ScoredSets, score: str) -> float:
    """The threshold that accepts 95 % of the ID images."""
    return accepting_threshold(sets.id_set.scores[score], RECALL)


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
        among = interval(right, int(labelled.sum())).removesuffix(" %")
        numbers.append(Number("ID accuracy", f"{percent(right)} %", among))
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
    main = sets.scores[0]
    curves = [acceptance_curve(sets.id_set.scores[main], ood.scores[main]) for ood in sets.ood_sets]
    fprs = [fpr_at_recall(curve, RECALL) for curve in curves]
    many = len(fprs) > 1
    share = percent(float(np.mean(fprs)))
    whose = (
        f"On average over {len(fprs)} OOD sets, {share} % of the images"
        if many
        else f"{share} % of the OOD images ({sets.ood_sets[0].name})"
    )
    sentences = [f"{whose} are accepted when 95 % of the ID images are accepted (score {main})."]
    if many:
        worst, best = int(np.argmax(fprs)), int(np.argmin(fprs))
        sentences.append(
            f"The hardest set is {sets.ood_sets[worst].name} ({percent(fprs[worst])} % accepted), the easiest is "
            f"{sets.ood_sets[best].name} ({percent(fprs[best])} %)."
        )
    if "mcm-zero-shot" in sets.scores[1:]:
        plain = [
            fpr_at_recall(acceptance_curve(sets.id_set.scores["mcm-zero-shot"], ood.scores["mcm-zero-shot"]), RECALL)
            for ood in sets.ood_sets
        ]
        sentences.append(f"Untrained prompts (score mcm-zero-shot) accept {percent(float(np.mean(plain)))} %.")
    return sentences


def scores_table(sets: ScoredSets) -> Table:
    """AUROC / FPR95 (ID positive) of each score on each OOD set and on average, without intervals."""
    rows = []
    for score in sets.scores:
        pairs = []
        for ood in sets.ood_sets:
            curve = acceptance_curve(sets.id_set.scores[score], ood.scores[score])
            pairs.append((area_under_roc(curve), fpr_at_recall(curve, RECALL)))
        pairs.append(tuple(np.mean(pairs, axis=0).tolist()))
        rows.append([score, *(f"{percent(auroc)} / {percent(fpr)}" for auroc, fpr in pairs)])
    return Table(
        "All scores: AUROC / FPR95", ["score", *(ood.name for ood in sets.ood_sets), AVERAGE], rows, FPR95_NOTE
    )


def id_class_table(sets: ScoredSets) -> Table:
    """A row per ID class, those with the most rejected images first."""
    score, names = sets.scores[0], sets.names
    labels, predictions, values = sets.id_set.labels, sets.id_set.predictions, sets.id_set.scores[score]
    threshold = threshold_of(sets, score)
    rows = []
    for label in np.unique(labels[labels >= 0]).tolist():
        mine = labels == label
        wrong = Counter(predictions[mine & (predictions != label)].tolist())
        accuracy, rejected = float((predictions[mine] == label).mean()), float((values[mine] < threshold).mean())
        rows.append((names[label], _most_common(wrong, names), int(mine.sum()), accuracy, rejected))
    note = "Rejected: share of the class's images below the threshold, in per cent."
    return _by_class(f"ID classes (score {score})", ("accuracy", "rejected"), rows, note)


def ood_class_tables(sets: ScoredSets) -> Iterator[Table]:
    """A table for each OOD set with classes, with a row per class, those with the most accepted images first."""
    score, names = sets.scores[0], sets.names
    id_values, threshold = sets.id_set.scores[score], threshold_of(sets, score)
    for ood in sets.ood_sets:
        rows = []
        for label in np.unique(ood.labels[ood.labels >= 0]).tolist():
            mine = ood.labels == label
            values = ood.scores[score][mine]
            taken = _most_common(Counter(ood.predictions[mine].tolist()), names)
            area = area_under_roc(acceptance_curve(id_values, values))
            accepted = float((values >= threshold).mean())
            rows.append((ood.classes[label], taken, int(mine.sum()), area, accepted))
        if rows:
            note = "Accepted: share of the class's images at or above the threshold, in per cent."
            yield _by_class(f"Classes of {ood.name} (score {score})", ("AUROC", "accepted"), rows, note)


def _by_class(
    title: str, figures: tuple[str, str], rows: Sequence[tuple[str, str, int, float, float]], note: str
) -> Table:
    """A table of classes: name, most frequent other prediction, images and two fractions, sorted by the last fraction."""
    cells = [
        [name, taken, str(images), percent(first), percent(last)]
        for name, taken, images, first, last in sorted(rows, key=lambda row: (-row[-1], row[0]))
    ]
    header = ["class", "most often taken for", "images", *figures]
    return Table(title, header, cells, note=note, names=2, tall=len(rows) > TALL_ROWS)


def _most_common(counts: Counter[int], names: Sequence[str]) -> str:
    """The class with the highest count, with the count; a dash for none."""
    return next((f"{names[label]} ({count})" for label, count in counts.most_common(1)), "-")


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
    threshold = threshold_of(sets, score)
    paths = [scored.paths[i] for i in chosen]
    cards = [
        Thumbnail(
            jpeg,
            scored.own(i),
            [f"score {scored.scores[score][i]:.4g}", *more(scored, i)],
            badge="OOD" if scored.scores[score][i] < threshold else "ID",
            path=str(path),
        )
        for i, path, jpeg in zip(chosen, paths, thumbnails(paths, rules), strict=True)
    ]
    kind = "ID images with the lowest" if scored is sets.id_set else "OOD images with the highest"
    return Gallery(title, f"The {len(cards)} {kind} scores.", cards)
