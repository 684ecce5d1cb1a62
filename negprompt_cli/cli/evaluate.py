"""`negprompt evaluate`: ID images against OOD sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from negprompt_cli.cli.console import Talk, percent
from negprompt_cli.cli.options import EVALUATION, OUTPUT, Common, option
from negprompt_cli.data.runs import EVALUATION as EVALUATION_FILE
from negprompt_cli.data.runs import NEGATIVE
from negprompt_cli.engine.scores import score_names

if TYPE_CHECKING:
    from negprompt_cli.steps.evaluate import Evaluation


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of evaluation that belong to the configuration."""

    temperature: Annotated[
        float | None,
        option(
            "--temperature", help="tau of the softmax scores, on cosines.", panel=EVALUATION, key="evaluate.temperature"
        ),
    ] = None
    template: Annotated[
        str | None,
        option("--template", help="Zero-shot prompt with {} for the name.", panel=EVALUATION, key="evaluate.template"),
    ] = None


def evaluate(
    common: Common,
    options: EvaluateOptions,
    ood: Annotated[
        str | None, option("--ood", help="OOD sets: NAMES or PATHS, comma separated.", panel=EVALUATION)
    ] = None,
    scores: Annotated[
        str | None,
        option("--scores", help=f"Comma separated, of: {', '.join(score_names())}.", panel=EVALUATION),
    ] = None,
    prompts: Annotated[
        Path | None, option("--prompts", help="Prompt artifact (default <run>/negative.safetensors).", panel=EVALUATION)
    ] = None,
    out: Annotated[Path | None, option("--out", help="Result (default <run>/evaluation.json).", panel=OUTPUT)] = None,
) -> None:
    """Measure how well prompts tell ID images from OOD images.

    Prints AUROC and FPR95 (ID positive: the share of OOD accepted where 95 % of ID are) per OOD set and score.
    """
    talk = Talk(quiet=common.quiet, as_json=common.json)
    flags: dict[str, Any] = {
        "evaluate__ood": None if ood is None else [ood],
        "evaluate__scores": None if scores is None else [s.strip() for s in scores.split(",") if s.strip()],
    }
    config = common.resolve(options, **flags)
    folder = common.run_folder(config)
    source = prompts or folder / NEGATIVE
    from negprompt_cli.steps.base import artifact_base
    from negprompt_cli.steps.evaluate import run_evaluate

    config = common.resolve(options, base=artifact_base(source, sections=("model",)), **flags)
    result = run_evaluate(
        config, out or folder / EVALUATION_FILE, prompts_path=source, overwrite=common.overwrite, progress=talk
    )
    print_evaluation(talk, result)
    talk.result(result.path, result.document)


def print_evaluation(talk: Talk, result: "Evaluation") -> None:
    """The result as a table: a row per score, AUROC and FPR95 per OOD set, in per cent."""
    document = result.document
    rows = document["rows"]
    sets = list(dict.fromkeys(row["ood"] for row in rows))
    cells = {(row["score"], row["ood"]): row for row in rows}
    columns = ["score", *sets]
    body = [
        [
            score,
            *(f"{percent(cells[score, s]['auroc'])} / {percent(cells[score, s]['fpr95_id_positive'])}" for s in sets),
        ]
        for score in dict.fromkeys(row["score"] for row in rows)
    ]
    ident, model = document["id"], document["model"]
    limited = "  LIMITED: a trial, not a result to quote." if document["limited"] else ""
    talk.table("AUROC / FPR95 (ID positive), per cent", columns, body)
    talk.say(
        f"ID {ident['name']}: {ident['images']} images, {ident['classes']} classes, "
        f"accuracy {percent(ident['accuracy'])} %. Model {model['name']} {model['pretrained'] or ''}".rstrip()
        + f". Prompts: {document['prompts']['kind']}, loss {document['prompts']['loss']}, "
        f"{document['prompts']['negatives']} negatives, {document['prompts']['shots']} shots, "
        f"seed {document['prompts']['seed']}.{limited}"
    )
    skipped = len(ident["skipped"]) + sum(len(files) for files in document["skipped"].values())
    if skipped:
        talk.warn(f"{skipped} broken images were skipped; they are named in {result.path}.")
