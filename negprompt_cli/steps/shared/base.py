"""What a step takes over from the artifact it starts from, unless told otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.errors import UsageError


def artifact_base(path: Path, *, sections: Sequence[str]) -> dict[str, Any]:
    """Sections of the configuration an artifact was made with, as values that stand below every other source.

    A missing artifact gives nothing: the step itself says what to do about it.

    Args:
        path: a prompt artifact.
        sections: names of sections of `Config`.

    Raises:
        UsageError: the file is there but is not a sound artifact.
    """
    if not path.is_file():
        return {}
    values = load_prompts(path).config.model_dump(mode="json")
    return {section: values[section] for section in sections}


def check_recorded_model(name: str) -> None:
    """Stop where an artifact's model was a folder that is not there now.

    Args:
        name: the model's name as the artifact records it.

    Raises:
        UsageError: says where the folder was looked for.
    """
    if not name.startswith("local-dir:"):
        return
    folder = user_path(name.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UsageError(
            f"The artifact records that its model is {name}, and there is no folder {folder.absolute()} now: the artifact "
            "was made in another working directory, or the model moved.",
            remedy="moved-model",
        )
