"""`negprompt demo`: the four steps on generated images, offline, in under a minute."""

import shlex
from pathlib import Path
from typing import Annotated

from negprompt_cli import schemas
from negprompt_cli.cli.options import Common, only, option

EXAMPLES = (
    "negprompt demo",
    "negprompt demo --run runs/demo --overwrite",
)


def demo(
    common: Annotated[Common, only("overwrite", "json", "quiet", "verbose")],
    run: Path = option("Run folder (default demo).", default=Path("demo")),
    seed: int = option("Random seed for sampling, initialisation and batch order.", default=0, min=0),
) -> None:
    """Run the paper's four steps on generated images, offline.

    It uses a small CLIP from the package and needs no network and no GPU. Its figures are no evidence about real images.
    """
    talk = common.talk()
    from negprompt_cli.cli.evaluate import print_evaluation
    from negprompt_cli.steps.demo import run_demo
    from negprompt_cli.steps.shared.histogram import draw_histograms

    made = run_demo(run, seed=seed, overwrite=common.overwrite, progress=talk)
    picture = draw_histograms(made.evaluation.measured, run / "scores.png", scores=("negprompt", "mcm", "max-logit"))
    talk.line("\nLearned classes:")
    print_evaluation(talk, made.evaluation)
    talk.line("\nNew class names, without training:")
    print_evaluation(talk, made.transferred)
    talk.result(
        run,
        {
            "schema": schemas.DEMO,
            "folder": str(run),
            "picture": str(picture),
            "evaluation": made.evaluation.document.document(),
            "transferred": made.transferred.document.document(),
        },
    )
    talk.say(
        "\nThis demo used generated shapes and a very small CLIP. Its figures are no evidence about real images."
        f"\nScore histograms: {picture}\n\nTry next:"
    )
    model, folder = shlex.quote(made.model), shlex.quote(str(run))
    shapes, near = shlex.quote(str(made.world.shapes)), shlex.quote(str(made.world.near))
    talk.say(f"  negprompt train-negative --model {model} --data {shapes} --run {folder} --negatives 4 --overwrite")
    talk.say(
        f"  negprompt evaluate --data {shapes} --run {folder} --ood {near} --scores negprompt,mcm,energy --overwrite"
    )
    talk.say("  negprompt fit PATH/TO/YOUR/CLASS_FOLDERS --run runs/mine")
