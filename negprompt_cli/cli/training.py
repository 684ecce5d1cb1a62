"""What the two training commands print when they are done."""

from typing import TYPE_CHECKING

from negprompt_cli.cli.console import Talk, percent

if TYPE_CHECKING:
    from negprompt_cli.steps.train_positive import TrainingResult


def print_training(talk: Talk, result: "TrainingResult") -> None:
    """A summary table on stderr, and the path or the JSON document on stdout."""
    prompts, last = result.prompts, result.prompts.training[-1]
    rows = [
        ("artifact", str(result.path)),
        ("classes", str(len(prompts.classes))),
        ("context vectors", str(prompts.positive.shape[-2])),
        ("training images", str(last.images)),
        ("epoch kept", f"{last.epoch} of {len(result.history)}"),
        *((name, f"{value:.4f}") for name, value in last.terms.items()),
        ("ID accuracy in training", f"{percent(last.accuracy)} %"),
        ("sha256", prompts.sha256),
    ]
    if prompts.negative is not None:
        rows.insert(3, ("negatives per class", str(prompts.negatives_per_class)))
        rows.insert(4, ("loss preset", prompts.config.negative.loss.name))
    talk.table(f"{last.stage} prompts", ("", ""), rows)
    talk.result(
        result.path,
        {
            "schema": "negprompt/training/1",
            "path": str(result.path),
            "sha256": prompts.sha256,
            "kind": prompts.kind,
            "model": prompts.model.__dict__,
            "classes": len(prompts.classes),
            "negatives": prompts.negatives_per_class,
            "seed": prompts.config.seed,
            "limited": prompts.config.data.limit is not None,
            **last.model_dump(),
        },
    )
