"""Several evaluations in one table, which also shows how they differ.

Only figures on the same images are compared: different ID images, different OOD sets of one name, and limited trials are
refused. Every other fact that may explain a difference (backbone, shots, loss, ...) is in the caption if it is the same for
all, and otherwise in a column. No winner is chosen.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from negprompt_cli.choices import FprConvention
from negprompt_cli.data.results.evaluations import (
    AVERAGE,
    EvaluationDocument,
    below_chance,
    evaluation_path,
    load_evaluation,
)
from negprompt_cli.data.results.runs import EVALUATION
from negprompt_cli.data.studies.published import MARKS, Figure, published
from negprompt_cli.engine.metrics.detection import METRICS
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.steps.shared.comparison import ALL_RUNS, Comparison, Line
from negprompt_cli.steps.shared.paired_runs import compare_score_files
from negprompt_cli.steps.shared.scored_sets import is_score_file, is_table


def compare_runs(
    runs: Sequence[Path],
    *,
    scores: Sequence[str] | None = None,
    fpr: FprConvention = "id-positive",
    with_published: bool = False,
) -> Comparison:
    """Merge the evaluations of run folders or JSON files, or compare files of scores image by image.

    Args:
        runs: run folders or evaluation documents, or files of scores that evaluations saved.
        scores: only these scores; None for all.
        fpr: the FPR95 convention to show.
        with_published: add published figures for these data, if there are any.

    Raises:
        UsageError: there is no evaluation, one is a limited trial, the ID or OOD images differ, or no run has a score.
    """
    if files := [run for run in runs if is_table(run)]:
        return _of_files(files, runs, scores, fpr, with_published)
    paths = [evaluation_path(run) for run in runs]
    documents = [load_evaluation(path) for path in paths]
    labels = run_labels(paths)
    _refuse_limited(labels, documents)
    _refuse_other_images(labels, documents)
    names = list(dict.fromkeys(score for document in documents for score in (*document.scores, *_streams(document))))
    for score in scores or ():
        if score not in names:
            raise UsageError(f"No run was evaluated with score {score!r}.{did_you_mean(score, names)}")
    facts = [run_facts(document) for document in documents]
    differing = tuple(key for key in facts[0] if len({f[key] for f in facts}) > 1)
    same_sets = len({tuple(sorted(document.ood_names)) for document in documents}) == 1
    sets = tuple(dict.fromkeys(name for document in documents for name in document.ood_names))
    notes = []
    if not same_sets:
        notes.append("The runs were evaluated on different OOD sets, so no averages are shown.")
    chosen = [name for name in names if scores is None or name in scores]
    lines = tuple(_lines(chosen, labels, documents, [{key: mine[key] for key in differing} for mine in facts]))
    streams = tuple(
        _line(label, score, document, {key: mine[key] for key in differing}, accuracy=False)
        for label, document, mine in zip(labels, documents, facts, strict=True)
        for score in _streams(document)
        if score in chosen
    )
    if (warning := below_chance(cell for line in lines for cell in line.cells.values())) is not None:
        notes.append(warning.message)
    figures: tuple[Figure, ...] = ()
    if with_published:
        figures, remarks = _published(documents, same_sets, fpr)
        notes += remarks
    first = documents[0].id
    return Comparison(
        id_name=first.name,
        id_images=first.images,
        id_classes=first.classes,
        fpr=fpr,
        sets=(*sets, AVERAGE) if same_sets else sets,
        lines=lines,
        shared={key: value for key, value in facts[0].items() if key not in differing},
        differing={label: {key: mine[key] for key in differing} for label, mine in zip(labels, facts, strict=True)},
        published=figures,
        sources={label: document.provenance for label, document in zip(labels, documents, strict=True)},
        notes=tuple(notes),
        streams=streams,
    )


def _of_files(
    files: Sequence[Path], runs: Sequence[Path], scores: Sequence[str] | None, fpr: FprConvention, with_published: bool
) -> Comparison:
    if len(files) < len(runs):
        other = next(run for run in runs if run not in files)
        found = "is none" if other.exists() else "does not exist"
        raise UsageError(f"{files[0]} is a file of scores and {other} {found}. Compare files of one kind.")
    if wrong := [path for path in files if not is_score_file(path)]:
        raise UsageError(
            f"{wrong[0]} is not a file of an evaluation's scores, which has a row for each ID and OOD image."
        )
    if with_published:
        raise UsageError(
            "Published figures can be added to evaluations only, because files of scores do not name their model."
        )
    labels = run_labels(files)
    if len(set(labels)) < len(files):
        labels = list(map(str, files))  # they differ in the suffix
    return compare_score_files(files, labels, scores=scores, fpr=fpr)


def _lines(
    scores: Sequence[str],
    labels: Sequence[str],
    documents: Sequence[EvaluationDocument],
    facts: Sequence[dict[str, str]],
) -> Iterator[Line]:
    """First scores with the same figures in all runs, such as baselines, once each; then the other scores of each run."""
    shared = set()
    for score in scores:
        having = [i for i, document in enumerate(documents) if score in document.scores]
        if not having:
            continue
        first = documents[having[0]]
        if len(having) > 1 and all(_same_figures(score, first, documents[i]) for i in having[1:]):
            shared.add(score)
            name = ALL_RUNS if len(having) == len(documents) else ", ".join(labels[i] for i in having)
            same_accuracy = len({documents[i].id.accuracy for i in having}) == 1
            yield _line(name, score, first, dict.fromkeys(facts[0], "-"), accuracy=same_accuracy)
    for label, document, mine in zip(labels, documents, facts, strict=True):
        for score in document.scores:
            if score in scores and score not in shared:
                yield _line(label, score, document, mine)


def _line(run: str, score: str, document: EvaluationDocument, facts: dict[str, str], *, accuracy: bool = True) -> Line:
    return Line(
        run=run,
        score=score,
        accuracy=document.id.accuracy if accuracy else None,
        accuracy_std=document.id.accuracy_std if accuracy else None,
        facts=facts,
        cells={row.ood: row for row in (*document.rows, *document.test_time) if row.score == score},
    )


def _streams(document: EvaluationDocument) -> list[str]:
    """Names of the scores that learn from the test images."""
    return list(dict.fromkeys(row.score for row in document.test_time))


def _same_figures(score: str, one: EvaluationDocument, other: EvaluationDocument) -> bool:
    """Whether a score has the same figures on the same sets, except for rounding."""
    rows, others = ({row.ood: row for row in d.rows if row.score == score} for d in (one, other))
    return rows.keys() == others.keys() and all(
        math.isclose(row.figure(metric) or 0.0, others[ood].figure(metric) or 0.0, rel_tol=0, abs_tol=1e-12)
        for ood, row in rows.items()
        for metric in METRICS
    )


def run_facts(document: EvaluationDocument) -> dict[str, str]:
    """The facts that may explain a difference between two evaluations, in words."""
    prompts, model = document.prompts, document.model

    def text(value: Any) -> str:
        return "-" if value is None else str(value)

    name = model.name.rstrip("/")
    short = "local-dir:…/" + name.rsplit("/", 1)[-1] if name.startswith("local-dir:") and "/" in name else name
    return {
        "model": " ".join(filter(None, (short, model.pretrained, f"({model.weights_sha256[:8]})"))),
        "prompts": prompts.kind,
        "loss": text(prompts.loss),
        "negatives": text(prompts.negatives),
        "score form": text(prompts.score_form),
        "shots": "all" if prompts.shots == 0 else text(prompts.shots),
        "context vectors": text(prompts.context),
        "classes learned on": text(prompts.learned_on_classes),
        "seeds": ",".join(str(s) for s in document.seed_list),
        "tau": text(document.temperature),
        "template": text(document.template),
        "precision": text(document.precision),
    }


def run_labels(paths: Sequence[Path]) -> list[str]:
    """Names for evaluation documents, as short as possible without being equal."""
    full = [p.resolve().parent.parts if p.name == EVALUATION else p.resolve().with_suffix("").parts for p in paths]
    labels = []
    for mine in full:
        depth = 1
        others = [other for other in full if other != mine]
        while depth < len(mine) and any(other[-depth:] == mine[-depth:] for other in others):
            depth += 1
        labels.append("/".join(mine[-depth:]))
    return labels


def _refuse_limited(labels: Sequence[str], documents: Sequence[EvaluationDocument]) -> None:
    limited = [label for label, document in zip(labels, documents, strict=True) if document.limited]
    if limited:
        raise UsageError(
            f"Limited trials cannot be compared: {', '.join(limited)}. Train and evaluate them again with all images."
        )


def _refuse_other_images(labels: Sequence[str], documents: Sequence[EvaluationDocument]) -> None:
    first = documents[0]
    for label, document in zip(labels, documents, strict=True):
        mine, other = first.id, document.id
        same = (mine.name, mine.images, mine.classes) == (other.name, other.images, other.classes)
        if not same or _differ(mine.files_sha256, other.files_sha256):
            raise UsageError(
                f"The ID images differ: {labels[0]} was measured on {mine.name} ({mine.images} images of {mine.classes} "
                f"classes), {label} on {other.name} ({other.images} images of {other.classes} classes"
                f"{', other files' if same else ''}). Only figures on the same ID images can be compared."
            )
        for earlier_label, earlier in zip(labels, documents, strict=True):
            for name in set(document.ood) & set(earlier.ood):
                one, two = document.ood[name], earlier.ood[name]
                if one.images != two.images or _differ(one.files_sha256, two.files_sha256):
                    raise UsageError(
                        f"OOD set {name} has other images in {label} ({one.images}) than in {earlier_label} "
                        f"({two.images}). Evaluate both on the same images."
                    )


def _differ(one: str | None, two: str | None) -> bool:
    return one is not None and two is not None and one != two


def _published(
    documents: Sequence[EvaluationDocument], same_sets: bool, fpr: FprConvention
) -> tuple[tuple[Figure, ...], list[str]]:
    """The published figures that can be compared with these runs, with notes about them, or a note why there are none."""
    facts, first = published(), documents[0]
    names = facts.benchmarks_of(first.id.name, first.ood_names) if same_sets else []
    if not names:
        single = [b for b in facts.benchmarks.values() if len(b.id) == 1]
        known = dict.fromkeys(f"{', '.join(b.id)} against {', '.join(b.ood)}" for b in single)
        return (), [f"No published figures for these ID and OOD sets. There are figures for {'; '.join(known)}."]
    models = {document.model.name for document in documents}
    name = next((n for n in names if all(facts.fits(n, model) for model in models)), None)
    if name is None:
        theirs = " or ".join(facts.benchmarks[n].backbone for n in names)
        return (), [
            f"Published figures are not shown, because they are of {theirs} and these runs of {', '.join(sorted(models))}."
        ]
    figures = tuple(facts.of(name))
    marks = "; ".join(f"{mark}: {meaning}" for mark, meaning in MARKS.items() if mark in {f.mark for f in figures})
    notes = [
        f"Published figures are means over the OOD sets, with weights that differ between papers. Evidence: {marks}."
    ]
    if any(f.needs == "test stream" for f in figures):
        notes.append("Methods that need the test stream learn from the test images, OOD images included.")
    if fpr != "id-positive":
        notes.append(
            "Papers report FPR95 with ID positive. With OOD positive it is known only if somebody recomputed it."
        )
    return figures, notes
