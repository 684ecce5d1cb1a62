"""Files of a run folder: where they go, when they may be replaced, and the configuration written beside them."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from negprompt_cli.config import Config
from negprompt_cli.data.files.atomic import atomic_write_text, check_place
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.engine.prompt_learners.training import EpochReport
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.learning import Learned


@dataclass(frozen=True)
class TrainingResult:
    """What a training step made; `history` is empty where resuming found the artifact finished."""

    path: Path
    prompts: Prompts
    history: tuple[EpochReport, ...]


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before any work is done if `path` is there and may not be replaced.

    Raises:
        UsageError: it exists and `overwrite` is false, it is a folder, or it is below a file.
    """
    check_place(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists.", remedy="overwrite-output")


@contextmanager
def making(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Make `path` in the body: nobody else does at the same time, and it is there already only where it may be replaced.

    Raises:
        UsageError: it exists and `overwrite` is false, another command is making it, or it is a folder.
    """
    refuse_existing(path, overwrite=overwrite)
    with claimed(path):
        # Whoever had the claim until now may have made it.
        refuse_existing(path, overwrite=overwrite)
        yield


def write_config(config: Config, path: Path) -> None:
    """Write the resolved configuration beside an output, as <stem>.config.yaml, in the format that is read."""
    atomic_write_text(path.with_name(f"{path.stem}.config.yaml"), config.to_yaml())


def write_training(learned: Learned, out: Path, *, overwrite: bool) -> TrainingResult:
    """Write an artifact that was learned, with its configuration and its epochs beside it.

    Raises:
        NegPromptError: a file cannot be written.
        UsageError: without `overwrite`, the artifact is there by then.
    """
    prompts = save_prompts(learned.prompts, out, overwrite=overwrite)
    write_config(prompts.config, out)
    write_history(learned.history, out)
    return TrainingResult(out, prompts, learned.history)


def write_history(history: Iterable[EpochReport], path: Path) -> None:
    """Write one JSON line per epoch beside an artifact, as <stem>.metrics.jsonl."""
    lines = "".join(json.dumps(asdict(report)) + "\n" for report in history)
    atomic_write_text(path.with_name(f"{path.stem}.metrics.jsonl"), lines)
