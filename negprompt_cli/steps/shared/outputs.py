"""Output files: when they may be replaced, and the configuration that is written next to them."""

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
    """The result of a training step; `history` is empty if `resume` found a finished artifact."""

    path: Path
    prompts: Prompts
    history: tuple[EpochReport, ...]


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that `path` can be written.

    Raises:
        UsageError: it exists and `overwrite` is false, it is a folder, or one of its parents is a file.
    """
    check_place(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists.", remedy="overwrite-output")


@contextmanager
def making(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Make `path` in the body of a with statement; no other command can make it at the same time.

    Raises:
        UsageError: it exists and `overwrite` is false, another command is making it, or it is a folder.
    """
    refuse_existing(path, overwrite=overwrite)
    with claimed(path):
        # The command that had the claim before may have made it.
        refuse_existing(path, overwrite=overwrite)
        yield


def write_config(config: Config, path: Path) -> None:
    """Write the resolved configuration next to an output, as <stem>.config.yaml, in the format that `load_config` reads."""
    atomic_write_text(path.with_name(f"{path.stem}.config.yaml"), config.to_yaml())


def write_training(learned: Learned, out: Path, *, overwrite: bool) -> TrainingResult:
    """Write a learned artifact, with its configuration and its epochs next to it.

    Raises:
        UsageError: the artifact exists and `overwrite` is false.
    """
    prompts = save_prompts(learned.prompts, out, overwrite=overwrite)
    write_config(prompts.config, out)
    write_history(learned.history, out)
    return TrainingResult(out, prompts, learned.history)


def write_history(history: Iterable[EpochReport], path: Path) -> None:
    """Write one JSON line per epoch next to an artifact, as <stem>.metrics.jsonl."""
    lines = "".join(json.dumps(asdict(report)) + "\n" for report in history)
    atomic_write_text(path.with_name(f"{path.stem}.metrics.jsonl"), lines)
