"""`--seeds 1,2,3`: one command for several seeds, its printed results, and the options it excludes. Imports no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from negprompt_cli import schemas
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.options import Common, option, split_commas
from negprompt_cli.cli.training import training_facts
from negprompt_cli.errors import UsageError

if TYPE_CHECKING:
    from negprompt_cli.steps.shared.outputs import TrainingResult

SEEDS = option("Several seeds, e.g. 1,2,3, each in a folder <run>/seed-N.", metavar="SEEDS")


def parse_seeds(text: str | None, common: Common, **excluded: Any) -> tuple[int, ...] | None:
    """The seeds of --seeds, or None.

    Args:
        text: value of --seeds.
        common: the shared options; --seed is refused together with --seeds.
        excluded: values of options that name a single file and so exclude --seeds.

    Raises:
        UsageError: the seeds are not distinct non-negative integers, or another option excludes --seeds.
    """
    if text is None:
        return None
    parts = split_commas(text)
    if not parts or not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text}: write non-negative integers separated by commas, for example --seeds 1,2,3.")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"--seeds {text}: a seed is repeated. Write each seed once.")
    given = [name for name, value in {"seed": common.seed, **excluded}.items() if value is not None]
    if given:
        raise UsageError(
            f"--{given[0]} cannot be used with --seeds, which writes files with their usual names into <run>/seed-N/."
        )
    return seeds


def print_training_seeds(talk: Talk, results: Sequence["TrainingResult"]) -> None:
    """Print where the seeds' artifacts are, or one JSON document with --json."""
    if talk.as_json:
        talk.document({"schema": schemas.TRAINING_SEEDS, "seeds": [training_facts(result) for result in results]})
    else:
        for result in results:
            talk.made(result.path)
