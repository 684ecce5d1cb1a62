"""What must be there before a step can start, checked first and reported all at once.

A person who starts a step without its data and without the artifact of the step before hears of both in one message.
"""

import difflib
from collections.abc import Callable
from pathlib import Path

from negprompt_cli.errors import SeveralErrors, UsageError
from negprompt_cli.wording import some_of

ZERO_SHOT = "zero-shot"
"""Stands for positives that are not trained, in the place of an artifact."""


def together(*checks: Callable[[], object]) -> None:
    """Run checks and raise one error with everything they complain of.

    Raises:
        UsageError: at least one check raised one.
    """
    errors: list[UsageError] = []
    for check in checks:
        try:
            check()
        except UsageError as error:
            if str(error) not in map(str, errors):
                errors.append(error)
    if errors:
        raise SeveralErrors(errors) if len(errors) > 1 else errors[0]


def require_positive(positive: str | Path, spec: str) -> None:
    """Stop with the command that makes the positive artifact, if it is not there.

    Raises:
        UsageError: it is missing.
    """
    path = Path(positive)
    if str(positive) != ZERO_SHOT and not path.is_file():
        raise UsageError(f"No positive prompts at {path}.", remedy="learn-positive", data=spec, run=path.parent)


def require_named(path: Path) -> None:
    """Stop where an artifact that was named is not there; says which there are nearby.

    Raises:
        UsageError: it is missing, or a folder.
    """
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise UsageError(f"There is no file {path}: its folder {folder} does not exist.")
    artifacts = sorted(each.name for each in folder.glob("*.safetensors"))
    what = f"{path} is a folder, not an artifact." if path.is_dir() else f"There is no file {path}."
    if not artifacts:
        raise UsageError(f"{what} {folder} holds no artifact (*.safetensors).")
    near = difflib.get_close_matches(path.name, artifacts, n=3, cutoff=0.5) if not path.is_dir() else artifacts
    shown = f"Did you mean {' or '.join(str(folder / name) for name in near[:3])}?" if near else ""
    raise UsageError(f"{what} {shown or f'{folder} holds {some_of(artifacts)}.'}")


def require_prompts(path: Path, spec: str) -> None:
    """Stop with the commands that make a prompt artifact, if it is not there.

    Raises:
        UsageError: it is missing.
    """
    if not path.is_file():
        raise UsageError(f"No prompt artifact at {path}.", remedy="learn-prompts", data=spec, run=path.parent)
