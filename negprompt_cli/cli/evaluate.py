"""`negprompt evaluate`: how well scores separate ID images from OOD sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from negprompt_cli.cli import completion
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import PROMPTS, Common, Without, option, split_commas
from negprompt_cli.cli.seeds import SEEDS, parse_seeds
from negprompt_cli.data.results.runs import EVALUATION as EVALUATION_FILE
from negprompt_cli.data.results.runs import NEGATIVE
from negprompt_cli.engine.scores import score_names
from negprompt_cli.engine.test_time import TEST_TIME_SCORES
from negprompt_cli.wording import percent

if TYPE_CHECKING:
    from negprompt_cli.steps.evaluate import Evaluation
    from negprompt_cli.steps.seeds import SeedsEvaluation

EXAMPLES = (
    "negprompt evaluate --data imagenet --ood inaturalist,sun,places,dtd",
    "negprompt evaluate --data photos --ood noise,sketches --scores negprompt,mcm --json",
    "negprompt evaluate --data photos --ood noise --save-scores scores.csv --ci",
)


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate` that belong to the configuration."""

    # Commas within a SPEC are no separators, so the list is read later.
    ood: str | None = option(
        "OOD sets: names or paths, separated by commas.",
        key="evaluate.ood",
        read=lambda text: [text],
        metavar="SPECS",
        autocompletion=completion.sets,
    )
    scores: str | None = option(
        "Scores, separated by commas (default negprompt, mcm, mcm-zero-shot, max-logit and energy). "
        f"all means all that can be computed of: {', '.join(score_names())}.",
        key="evaluate.scores",
        read=split_commas,
        autocompletion=completion.scores_or_all,
    )
    test_time: str | None = option(
        f"Add scores that learn from the test images: {', '.join(TEST_TIME_SCORES)}. They have their own table.",
        key="evaluate.test_time",
        read=split_commas,
        metavar="NAMES",
    )
    stream_order: str | None = option(
        "Seeds of the image orders for --test-time (default 0,1,2).",
        key="evaluate.stream_orders",
        read=split_commas,
        metavar="SEEDS",
    )
    recalls: str | None = option(
        "Also report FPR at these recalls, e.g. 0.9,0.99.", key="evaluate.recalls", read=split_commas, metavar="NUMBERS"
    )
    temperature: float | None = option(
        "Divide cosines by T in softmax scores (default 1).", key="evaluate.temperature", metavar="T"
    )
    template: str | None = option(
        "Zero-shot prompt with {} for the class name, or an ensemble: openai-80, openai-7, neglabel or csp.",
        key="evaluate.template",
        metavar="TEXT",
    )
    templates: str | None = option(
        "Also try each template of an ensemble or a file (one per line), and show how zero-shot scores vary.",
        key="evaluate.templates",
        metavar="NAME|FILE",
    )
    words: str | None = option(
        "File of words for neglabel and csp, one per line (default: WordNet's nouns).",
        name="--negative-words",
        key="evaluate.words",
        metavar="FILE",
    )
    neighbours: int | None = option("Number of neighbours for knn (default 5).", key="evaluate.neighbours")
    ci: bool | None = option(
        "Add bootstrap intervals, and compare scores with the best baseline on the same images.",
        name="--ci/--no-ci",
        key="evaluate.ci",
    )


def evaluate(
    common: Annotated[Common, Without("verbose")],
    options: EvaluateOptions,
    prompts: Path | None = PROMPTS,
    seeds: str | None = SEEDS,
    save_scores: Path | None = option(
        "Write the scores of every image to a .csv, .jsonl or .parquet file.", metavar="FILE"
    ),
    words_out: Path | None = option("Write the chosen negative words to a CSV file.", metavar="FILE"),
    out: Path | None = option("Result file (default <run>/evaluation.json)."),
) -> None:
    """Measure how well prompts separate ID and OOD images.

    This prints AUROC and FPR95 for each score and OOD set. FPR95 is the share of OOD images that are accepted when 95 % of
    the ID images are accepted.
    """
    talk = common.talk()
    many = parse_seeds(seeds, common, prompts=prompts)
    asked = common.asked(options)
    folder = common.run_folder(asked)
    path = out or folder / EVALUATION_FILE
    from negprompt_cli.steps.shared.artifact_file import seed_artifacts

    each = seed_artifacts(folder, many or (), NEGATIVE)
    source = each[many[0]] if many else common.artifact(asked, prompts, NEGATIVE)
    from negprompt_cli.steps.evaluate import run_evaluate
    from negprompt_cli.steps.seeds import evaluate_seeds
    from negprompt_cli.steps.shared.score_file import check_score_file
    from negprompt_cli.steps.shared.score_file import save_scores as write_scores
    from negprompt_cli.steps.shared.words_file import check_words_file, save_words
    from negprompt_cli.steps.shared.workbench import Workbench

    if save_scores:
        check_score_file(save_scores, overwrite=common.overwrite)
    config = source.configure(asked, "model")
    if words_out:
        check_words_file(words_out, config.evaluate.scores, overwrite=common.overwrite)
    start_processes(config)
    # Features are kept for the artifacts of several seeds.
    bench = Workbench(config, talk, remember=bool(many))
    result: Evaluation | SeedsEvaluation
    if many:
        over = evaluate_seeds(bench, folder, path, artifacts=each, overwrite=common.overwrite)
        result, measured = over, over.measured
    else:
        single = run_evaluate(bench, path, artifact=source, overwrite=common.overwrite)
        result, measured = single, (single.measured,)
    if save_scores:
        write_scores(save_scores, measured)
        talk.say(f"Wrote the scores of every image to {save_scores}")
    if words_out:
        save_words(words_out, measured)
        talk.say(f"Wrote the chosen negative words to {words_out}")
    print_evaluation(talk, result)
    talk.result(result.path, result.document.document())


def print_evaluation(talk: Talk, result: "Evaluation | SeedsEvaluation") -> None:
    """Print the result on stdout: a table of scores by OOD sets, then the data, the model and the prompts."""
    document = result.document
    columns, rows = document.table()
    talk.table(f"AUROC / FPR95 (ID positive), per cent{document.spread}", columns, rows, labels=1)
    for more in (document.differences(), document.template_spread(), document.test_time_table()):
        if more is not None:
            talk.line("")
            talk.table(*more, labels=1)
    talk.line("")
    facts, model, prompts = document.id, document.model, document.prompts
    seeds = f"seed{'s' if document.seeds else ''} {', '.join(map(str, document.seed_list))}"
    talk.line(
        f"ID {facts.name}: {facts.images} images, {facts.classes} classes, accuracy {percent(facts.accuracy)} %\n"
        f"Model {model.name} {model.pretrained or ''}".rstrip()
        + f"\nPrompts {prompts.kind}: loss {prompts.loss}, {prompts.negatives} negatives, {prompts.shots} shots, {seeds}"
    )
    if document.limited:
        talk.line("LIMITED: a trial on some of the images. Do not quote these figures.")
