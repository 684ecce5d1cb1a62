"""What a step takes over from the artifact it starts from, unless told otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negprompt_cli.data.results.artifacts import load_prompts


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
