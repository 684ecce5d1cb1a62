"""What the training commands share: the summary they print, and how they stop and resume.

After Ctrl-C or SIGTERM, which clusters send before they kill a job, a training ends with its last finished epoch on disk and
prints the command that resumes it.
"""

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from negprompt_cli import schemas
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.error_exit import INTERRUPTED, Stopped
from negprompt_cli.cli.options import flag
from negprompt_cli.engine.parallel.ranks import ranks_from_environment

if TYPE_CHECKING:
    from negprompt_cli.steps.shared.outputs import TrainingResult

TERMINATED = 143
"""Exit code after SIGTERM, the shell's convention (128 + SIGTERM)."""

RESUME = flag("Resume an interrupted run, or start a new one.")


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that the code that cleans up after Ctrl-C also runs then."""


@contextmanager
def resumable() -> Iterator[None]:
    """Make SIGTERM stop a training as Ctrl-C does, and print the command that resumes it.

    Raises:
        Stopped: instead of KeyboardInterrupt.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, _Terminated)
        raise Stopped(
            f"{'Terminated' if terminated else 'Interrupted'}. Finished epochs and image features are kept. Resume "
            f"with:\n  {resume_command(sys.argv, torchrun=ranks_from_environment().several)}",
            TERMINATED if terminated else INTERRUPTED,
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_command(typed: Sequence[str], *, torchrun: bool) -> str:
    """The command line that was typed, plus --resume.

    Args:
        typed: the arguments as in `sys.argv`.
        torchrun: whether the command runs in several processes. The options of a torchrun that a person started are unknown.
    """
    program, *arguments = typed
    if "--resume" not in arguments:
        # After -- it would be read as a path.
        end = arguments.index("--") if "--" in arguments else len(arguments)
        arguments = [*arguments[:end], "--resume", *arguments[end:]]
    if torchrun:
        name = (
            "negprompt" if any(a.partition("=")[0] == "--gpus" for a in arguments) else "torchrun ... -m negprompt_cli"
        )
    else:
        name = "python -m negprompt_cli" if Path(program).name == "__main__.py" else "negprompt"
    return f"{name} {shlex.join(arguments)}"


def _terminate(_signal: int, _frame: Any) -> NoReturn:
    # A second signal would interrupt the writing of the checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _training_facts(result: "TrainingResult") -> dict[str, Any]:
    """A training as JSON values."""
    prompts = result.prompts
    return {
        "path": str(result.path),
        "sha256": prompts.sha256,
        "kind": prompts.kind,
        "model": prompts.model.__dict__,
        "classes": len(prompts.classes),
        "negatives": prompts.negatives_per_class,
        "seed": prompts.config.seed,
        "limited": prompts.config.data.limit is not None,
        **prompts.training[-1].model_dump(),
    }


def print_trainings(talk: Talk, results: Sequence["TrainingResult"], *, several: bool) -> None:
    """Print a summary of one training, or where the artifacts of several seeds are; one JSON document with --json.

    Args:
        talk: prints.
        results: one training, or one for each seed of --seeds.
        several: whether there was --seeds.
    """
    if not several:
        _print_training(talk, results[0])
        return
    if talk.as_json:
        talk.document({"schema": schemas.TRAINING_SEEDS, "seeds": [_training_facts(result) for result in results]})
    else:
        for result in results:
            talk.made(result.path)


def _print_training(talk: Talk, result: "TrainingResult") -> None:
    prompts, last = result.prompts, result.prompts.training[-1]
    rows = [
        ("classes", str(len(prompts.classes))),
        ("context vectors", str(prompts.positive.shape[-2])),
        ("training images", str(last.images)),
        ("epoch kept", f"{last.epoch} of {len(result.history)}" if result.history else str(last.epoch)),
        ("sha256", prompts.sha256),
    ]
    if prompts.negative is not None:
        rows.insert(2, ("negatives per class", str(prompts.negatives_per_class)))
        rows.insert(3, ("loss preset", prompts.config.negative.loss.name))
    talk.facts(f"{last.stage.capitalize()} prompts", rows)
    talk.result(result.path, {"schema": schemas.TRAINING, **_training_facts(result)})
