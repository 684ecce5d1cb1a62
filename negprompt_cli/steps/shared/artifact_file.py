"""The artifact that a command starts from. It is opened, hashed and checked only once.

torch is imported when an artifact is opened, so a missing one is reported before that.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from negprompt_cli.config import Asked, Config
from negprompt_cli.data.results.runs import seed_folder
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

if TYPE_CHECKING:
    from negprompt_cli.data.results.artifacts import Prompts


@dataclass(frozen=True)
class ArtifactFile:
    """The path of a prompt artifact, which may not exist yet."""

    path: Path

    @cached_property
    def prompts(self) -> "Prompts":
        """Its content.

        Raises:
            UsageError: the file is missing, or not a valid artifact.
        """
        from negprompt_cli.data.results.artifacts import load_prompts

        return load_prompts(self.path)

    @property
    def missing(self) -> bool:
        """Whether the file does not exist."""
        return not self.path.is_file()

    def configure(self, asked: Asked, *sections: str) -> Config:
        """The configuration with the settings asked for, which override the named sections of the artifact's configuration.

        A missing artifact is no error here, because the step itself reports it.

        Raises:
            UsageError: a key or value is wrong, the artifact is invalid, or its model has moved.
        """
        if self.missing:
            return asked.config()
        recorded = self.prompts.config
        config = asked.config(recorded.model_dump(mode="json", include=set(sections)))
        if config.model.name == recorded.model.name:
            check_recorded_model(recorded.model.name)
        return config

    def require(self, spec: str, *, positive: bool = False) -> None:
        """Check that the artifact exists.

        Args:
            spec: the data to learn one from, for the advice.
            positive: whether positive prompts are wanted, which stage 2 starts from.

        Raises:
            UsageError: it is missing.
        """
        if not self.missing:
            return
        places = {"data": spec, "run": self.path.parent}
        if positive:
            raise UsageError(f"There are no positive prompts at {self.path}.", remedy="learn-positive", **places)
        raise UsageError(f"There is no prompt artifact at {self.path}.", remedy="learn-prompts", **places)

    def require_named(self) -> None:
        """Check that a named artifact exists.

        Raises:
            UsageError: it is missing, or a folder; the message names artifacts in the same folder.
        """
        if not self.missing:
            return
        path = self.path
        folder = path if path.is_dir() else path.parent
        if not folder.is_dir():
            raise UsageError(f"There is no file {path}: its folder {folder} does not exist.")
        artifacts = sorted(each.name for each in folder.glob("*.safetensors"))
        what = f"{path} is a folder, not an artifact." if path.is_dir() else f"There is no file {path}."
        if not artifacts:
            raise UsageError(f"{what} The folder {folder.absolute()} has no artifact (*.safetensors).")
        near = difflib.get_close_matches(path.name, artifacts, n=3, cutoff=0.5) if not path.is_dir() else artifacts
        shown = f"Did you mean {' or '.join(str(folder / name) for name in near[:3])}?" if near else ""
        raise UsageError(f"{what} {shown or f'Artifacts in {folder.absolute()}: {some_of(artifacts)}.'}")


def seed_artifacts(run: Path, seeds: Sequence[int], name: str) -> dict[int, ArtifactFile]:
    """The artifact with the file name `name` of each seed of a run."""
    return {seed: ArtifactFile(seed_folder(run, seed) / name) for seed in seeds}


def check_recorded_model(name: str) -> None:
    """Check that an artifact's model, if it is a folder, exists.

    Args:
        name: the model's name as the artifact records it.

    Raises:
        UsageError: the folder is missing; the message names its path.
    """
    if not name.startswith("local-dir:"):
        return
    folder = user_path(name.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UsageError(
            f"The artifact's model is {name}, but there is no folder {folder.absolute()}: the artifact was made in another "
            "working directory, or the model was moved.",
            remedy="moved-model",
        )
