"""The chosen negative words as a CSV file: score, seed of the prompts, word and distance (higher = farther from ID)."""

from collections.abc import Sequence
from pathlib import Path

from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.tables import csv_line
from negprompt_cli.engine.scores import find_score
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.measure import Measured
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.possible_scores import ALL

COLUMNS = ("score", "seed", "word", "distance")


def check_words_file(path: Path, scores: Sequence[str], *, overwrite: bool) -> None:
    """Check, before any work, that there will be words to write.

    Raises:
        UsageError: no score uses words, or the file exists and `overwrite` is false.
    """
    if ALL not in scores and not any(_choices(name) for name in scores):
        raise UsageError("None of the scores chooses negative words.", remedy="word-scores")
    refuse_existing(path, overwrite=overwrite)


def save_words(path: Path, measured: Sequence[Measured]) -> None:
    """Write the words of every choice, in the order of the scores."""
    lines = [csv_line(COLUMNS)]
    for one in measured:
        # Test-time scores have the words of neglabel; scores that share words have them under the first one's name.
        names = {choice: name for name in ("neglabel", *reversed(one.scores)) for choice in _choices(name)}
        for chosen in one.words:
            rows = zip(chosen.words, chosen.distances, strict=True)
            lines += [csv_line((names[chosen.choice], one.prompts.config.seed, *row)) for row in rows]
    atomic_write_text(path, "".join(lines))


def _choices(score: str) -> set[str]:
    return {need for need in find_score(score).requires if "words" in need}
