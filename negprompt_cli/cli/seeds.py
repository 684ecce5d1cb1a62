"""`--seeds 1,2,3`: one command for several seeds, its printed results, and the options it excludes. Imports no torch."""

from typing import TYPE_CHECKING, Any

from negprompt_cli.cli.options import Common, option, split_commas
from negprompt_cli.errors import UsageError

if TYPE_CHECKING:
    pass

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
