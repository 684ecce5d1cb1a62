"""Evaluation: metrics of every score on ID images and OOD sets, with their provenance.

Figures are fractions, not per cent. FPR95 is reported in both conventions, and its names say which class is positive.
Nothing is tuned here.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negprompt_cli import schemas
from negprompt_cli.config import Config, EvaluateConfig
from negprompt_cli.data.results.evaluation_means import average_over_sets, over_orders
from negprompt_cli.data.results.evaluations import (
    AVERAGE,
    EvaluationDocument,
    IdFacts,
    Model,
    OfTemplate,
    OodFacts,
    PromptFacts,
    Row,
    StreamRow,
    below_chance,
    save_evaluation,
)
from negprompt_cli.data.results.provenance import device_name, versions
from negprompt_cli.data.sets.imagesets import files_digest
from negprompt_cli.decisions import documents
from negprompt_cli.engine.metrics.detection import acceptance_curve, area_under_roc, fpr_at_recall, metrics_of
from negprompt_cli.engine.scores import find_score
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.intervals import with_intervals
from negprompt_cli.steps.shared.measure import Measured, Scored, measure
from negprompt_cli.steps.shared.outputs import making, write_config
from negprompt_cli.steps.shared.test_time import StreamScores
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: the document, and the scores of all images."""

    path: Path
    document: EvaluationDocument
    measured: Measured


def run_evaluate(bench: Workbench, out: Path, *, artifact: ArtifactFile, overwrite: bool) -> Evaluation:
    """Score ID and OOD images and write the evaluation document to `out`.

    Args:
        artifact: any prompt artifact.

    Raises:
        UsageError: `out` exists, the artifact is missing or belongs to another model, data are missing, classes do not
            match, or a score is unknown or cannot be computed.
    """
    with making(out, overwrite=overwrite):
        measured = measure(bench, artifact, keep_features=False)
        document = evaluation_document(bench, measured, artifact.path)
        save_evaluation(out, document)
        write_config(bench.config, out)
    return Evaluation(out, document, measured)


def evaluation_document(bench: Workbench, measured: Measured, path: Path) -> EvaluationDocument:
    """Compute every metric, and record it with its provenance.

    Raises:
        UsageError: the scores of a set are not finite.
    """
    config, prompts = bench.config, measured.prompts
    rows: list[Row] = []
    for name in measured.scores:
        own = [_row(config, measured, name, ood) for ood in measured.ood_sets]
        rows += [*own, average_over_sets(own)]
    if (warning := below_chance(rows)) is not None:
        bench.decide(warning)
    document = EvaluationDocument(
        schema=schemas.EVALUATION,
        limited=config.data.limit is not None or prompts.config.data.limit is not None,
        model=Model(
            name=prompts.model.name,
            pretrained=prompts.model.pretrained,
            weights_sha256=prompts.model.weights_sha256,
        ),
        prompts=PromptFacts(
            path=str(path),
            sha256=prompts.sha256,
            kind=prompts.kind,
            loss=None if prompts.negative is None else prompts.config.negative.loss.name,
            negatives=prompts.negatives_per_class,
            score_form=prompts.score_form,
            seed=prompts.config.seed,
            shots=prompts.config.data.shots,
            context=prompts.positive.shape[-2],
            learned_on_classes=prompts.learned_on,
        ),
        id=IdFacts(
            name=measured.id_set.name,
            images=len(measured.id_set.encoded),
            classes=len(prompts.classes),
            accuracy=float(measured.correct.mean()),
            files_sha256=_digest(measured.id_set),
            skipped=measured.id_set.encoded.skipped,
        ),
        ood={s.name: OodFacts(images=len(s.encoded), files_sha256=_digest(s)) for s in measured.ood_sets},
        skipped={s.name: s.encoded.skipped for s in measured.ood_sets if s.encoded.skipped},
        temperature=config.evaluate.temperature,
        template=config.evaluate.template,
        options=_used_options(config.evaluate, [*measured.scores, *(["neglabel"] if measured.test_time else [])]),
        precision=str(bench.compute.dtype).removeprefix("torch."),
        device=device_name(bench.compute.device),
        versions=versions(),
        decisions=tuple(documents(bench.decisions)),
        left_out=dict(measured.left_out),
        rows=tuple(rows),
        templates=tuple(template_figures(measured)),
        test_time=tuple(_stream_rows(measured)),
    )
    return with_intervals(document, [measured], config) if config.evaluate.ci else document


def template_figures(measured: Measured) -> Iterator[OfTemplate]:
    """The figures of zero-shot scores with each of the other templates, on each OOD set and averaged over the sets."""
    for template, on_id in measured.id_set.by_template.items():
        for score, id_scores in on_id.scores.items():
            figures: list[tuple[float, float, float]] = []
            for ood in measured.ood_sets:
                curve = acceptance_curve(id_scores, ood.by_template[template].scores[score])
                fprs = (fpr_at_recall(curve, 0.95), fpr_at_recall(curve.mirrored(), 0.95))
                figures.append((area_under_roc(curve), *fprs))
            names = [*(ood.name for ood in measured.ood_sets), AVERAGE]
            means = [statistics.fmean(column) for column in zip(*figures, strict=True)]
            for name, (auroc, id_positive, ood_positive) in zip(names, [*figures, means], strict=True):
                yield OfTemplate(
                    template=template,
                    ood=name,
                    score=score,
                    auroc=auroc,
                    fpr95_id_positive=id_positive,
                    fpr95_ood_positive=ood_positive,
                )


def _stream_rows(measured: Measured) -> Iterator[StreamRow]:
    """The rows of test-time scores, by score and OOD set, and their averages; each order of the stream has its figures."""
    for name in dict.fromkeys(one.score for one in measured.test_time):
        mine = [one for one in measured.test_time if one.score == name]
        orders = list(dict.fromkeys(one.order for one in mine))
        rows = {(one.ood, one.order): _stream_figures(measured, one) for one in mine}
        sets = list(dict.fromkeys(one.ood for one in mine))
        for ood in sets:
            yield over_orders([rows[ood, order] for order in orders], orders)
        yield over_orders([average_over_sets([rows[ood, order] for ood in sets]) for order in orders], orders)


def _stream_figures(measured: Measured, one: StreamScores) -> Row:
    figures = metrics_of(acceptance_curve(one.id_scores, one.ood_scores, measured.correct)).model_dump()
    return Row.model_validate({"ood": one.ood, "images": len(one.ood_scores), "score": one.score, **figures})


def _row(config: Config, measured: Measured, name: str, ood: Scored) -> Row:
    settings = config.evaluate
    id_scores, ood_scores = measured.id_set.table.scores[name], ood.table.scores[name]
    try:
        curve = acceptance_curve(id_scores, ood_scores, measured.correct)
        figures = metrics_of(curve).model_dump()
    except ValueError as error:
        raise UsageError(f"Score {name} on {ood.name} cannot be measured: {error}.") from error
    more: dict[str, Any] = {}
    if settings.recalls:
        mirrored = curve.mirrored()
        more["fpr"] = {
            f"{recall:g}": {
                "id_positive": fpr_at_recall(curve, recall),
                "ood_positive": fpr_at_recall(mirrored, recall),
            }
            for recall in settings.recalls
        }
    return Row.model_validate({"ood": ood.name, "images": len(ood.encoded), "score": name, **figures, **more})


def _digest(scored: Scored) -> str:
    """Digest of a list of images, which does not depend on its folder."""
    return files_digest(scored.encoded.images.paths, scored.encoded.images.root)


def _used_options(settings: EvaluateConfig, scores: Sequence[str]) -> dict[str, Any]:
    """The parameters of the computed scores."""
    needs = {need for name in scores for need in find_score(name).requires}
    used: dict[str, Any] = {}
    if needs & {"words", "words_by_images", "words_filtered", "csp_words"}:
        used |= {name: getattr(settings, name) for name in ("words", "word_count", "word_groups")}
    if "csp_words" in needs:
        used |= {"adjectives": settings.adjectives, "phrase_template": settings.phrase_template}
    if "logit-gap" in scores:
        used["next_classes"] = settings.next_classes
    if "knn" in scores:
        used["neighbours"] = settings.neighbours
    if any(name.startswith("mahalanobis") for name in scores):
        used["shrinkage"] = settings.shrinkage
    if "local_features" in needs:
        used["local_weight"] = settings.local_weight
    return used
