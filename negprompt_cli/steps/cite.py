"""A paragraph about each evaluation for a paper, and the references of its scores and data sets.

All facts come from the evaluation document, so that only what was recorded is reported. Limited trials are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negprompt_cli import schemas
from negprompt_cli._version import __version__
from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument, Row, evaluation_path, load_evaluation
from negprompt_cli.data.sets.catalogue import built_in
from negprompt_cli.data.studies.citations import bibtex
from negprompt_cli.engine.scores import SCORES
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.wording import percent

LIBRARIES = ("torch", "open_clip")
"""The libraries whose versions the paragraph names."""


@dataclass(frozen=True)
class Citation:
    """One evaluation in words. `scores` and `data`: references by name; unknown ones are absent."""

    path: Path
    paragraph: str
    scores: dict[str, str]
    data: dict[str, str]


def cite_runs(runs: Sequence[Path], *, score: str | None = None) -> tuple[Citation, ...]:
    """Describe evaluations.

    Args:
        runs: run folders, or evaluation documents.
        score: the score to report; None for negprompt, or for the first score if negprompt was not computed.

    Raises:
        UsageError: there is no evaluation, it is a limited trial, or the score was not computed.
    """
    return tuple(_cite(evaluation_path(run), score) for run in runs)


def to_document(citations: Sequence[Citation]) -> dict[str, Any]:
    """The citations as JSON values."""
    evaluations = [{**vars(one), "path": str(one.path)} for one in citations]
    return {"schema": schemas.CITATION, "bibtex": bibtex(), "evaluations": evaluations}


def _cite(path: Path, score: str | None) -> Citation:
    document = load_evaluation(path)
    if document.limited:
        raise UsageError(
            f"{path} is a limited trial on some of the images, so it cannot be cited. Evaluate all images."
        )
    names = document.scores
    chosen = score or ("negprompt" if "negprompt" in names else names[0])
    if chosen not in names:
        raise UsageError(f"{path} has no score {chosen!r}.{did_you_mean(chosen, names)}")
    sets = {name: name.partition("#")[0] for name in (document.id.name, *document.ood_names)}
    known = built_in().sets
    return Citation(
        path,
        describe(document, chosen),
        {name: f"{SCORES[name].paper} ({SCORES[name].url})" for name in names if name in SCORES},
        {name: cited for name, base in sets.items() if base in known and (cited := known[base].citation)},
    )


def describe(document: EvaluationDocument, score: str) -> str:
    """A paragraph with the model, prompts, data, score, figures with their convention, and versions.

    Args:
        document: an evaluation that has the score.
        score: the score to report.

    Raises:
        ValueError: the evaluation does not have the score.
    """
    model, id_facts = document.model, document.id
    weights = f"weights {model.pretrained}, " if model.pretrained else ""
    several = len(document.ood_names) > 1
    row = document.row(score, AVERAGE if several else document.ood_names[0])
    if row is None:
        raise ValueError(f"no figures of {score}")
    libraries = ", ".join(f"{name} {document.versions[name]}" for name in LIBRARIES if name in document.versions)
    made = f"negprompt {document.versions.get('negprompt', __version__)}"
    sentences = [
        f"We use {model.name} ({weights}sha256 {model.weights_sha256[:12]}) with {_prompts(document)}.",
        f"ID images are those of {id_facts.name} ({id_facts.images} images, {id_facts.classes} classes, top-1 accuracy "
        f"{percent(id_facts.accuracy, id_facts.accuracy_std or None)} %); OOD images are those of "
        + ", ".join(
            f"{name} ({document.ood[name].images})" if name in document.ood else name for name in document.ood_names
        )
        + ".",
        f"{'On average over the OOD sets, t' if several else 'T'}he score {_score(document, score)} has an AUROC of "
        f"{row.figure_text('auroc')} % and an FPR95 of {row.figure_text('fpr95_id_positive')} % with ID as the positive "
        f"class (the share of OOD images accepted at the threshold that accepts 95 % of ID images; "
        f"{row.figure_text('fpr95_ood_positive')} % with OOD as the positive class){_spread(document)}.",
        *_compared(row),
        f"Computed with {made}{f' ({libraries})' if libraries else ''}.",
    ]
    return " ".join(sentences)


def _prompts(document: EvaluationDocument) -> str:
    prompts, many = document.prompts, document.seed_list
    if prompts.shots is None and prompts.loss is None:
        return f"{prompts.kind} prompts"
    images = "all training images" if prompts.shots == 0 else f"{prompts.shots} images per class"
    parts = [f"seed{'s' if len(many) > 1 else ''} {', '.join(map(str, many))}"]
    if prompts.context is not None:
        parts.insert(0, f"{prompts.context} context vectors")
    if prompts.negatives:
        parts.insert(0, f"{prompts.negatives} negative prompts per class")
    loss = f" with the loss {prompts.loss}" if prompts.loss else ""
    what = "positive prompts" if not prompts.negatives else "positive and negative prompts"
    on = ""
    if prompts.learned_on_classes not in (None, document.id.classes):
        on = f" of {prompts.learned_on_classes} of the classes"
    return f"{what} learned{loss} from {images}{on} ({', '.join(parts)})"


def _score(document: EvaluationDocument, score: str) -> str:
    """The score with the settings that affect it: its form, its temperature and its template."""
    record = SCORES.get(score)
    details = []
    if score == "negprompt" and document.prompts.score_form:
        details.append(f"form {document.prompts.score_form}")
    if document.temperature is not None and document.temperature != 1:
        details.append(f"temperature {document.temperature:g}")
    if record is not None and "zero_shot" in record.requires and document.template:
        details.append(f'template "{document.template}"')
    return score + (f" ({', '.join(details)})" if details else "")


def _spread(document: EvaluationDocument) -> str:
    return f", as mean and standard deviation over {len(document.seeds)} seeds" if len(document.seeds) > 1 else ""


def _compared(row: Row) -> list[str]:
    versus = row.versus
    if versus is None:
        return []
    level = f"{100 * versus.level:g} %"
    return [
        f"The difference from {versus.baseline}, the best baseline on the same images, is {versus.auroc.text()} points of "
        f"AUROC ({level} interval by DeLong) and {versus.fpr95_id_positive.text()} points of FPR95 ({level} interval by "
        "paired bootstrap)."
    ]
