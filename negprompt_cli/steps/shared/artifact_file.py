"""The artifact that a command starts from: opened, hashed and checked once, and handed on as it is."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from negprompt_cli.config import Asked, Config
from negprompt_cli.data.results.artifacts import Prompts, load_prompts
from negprompt_cli.data.results.runs import seed_folder
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of


@dataclass(frozen=True)
class ArtifactFile:
    """A prompt artifact where it is, or where it should be."""

    path: Path

    @cached_property
    def prompts(self) -> Prompts:
        """What it holds.

        Raises:
            UsageError: it is missing, or not a sound artifact.
        """
        return load_prompts(self.path)

    @property
    def missing(self) -> bool:
        """Whether there is no file at all."""
        return not self.path.is_file()

    def configure(self, asked: Asked, *sections: str) -> Config:
        """The configuration asked for, above the named sections of the artifact's own.

        A missing artifact has none: the step itself says what to do about it.

        Raises:
            UsageError: a wrong key or value, an artifact that is not sound, or one whose model is not where it was.
        """
        if self.missing:
            return asked.config()
        recorded = self.prompts.config
        config = asked.config(recorded.model_dump(mode="json", include=set(sections)))
        if config.model.name == recorded.model.name:
            check_recorded_model(recorded.model.name)
        return config

    def require(self, spec: str) -> None:
        """Stop if there is no artifact; the data `spec` are what one can be learned from.

        Raises:
            UsageError: it is missing.
        """
        if self.missing:
            raise UsageError(
                f"No prompt artifact at {self.path}.", remedy="learn-prompts", data=spec, run=self.path.parent
            )

    def require_positive(self, spec: str) -> None:
        """Stop if there are no positives; the data `spec` are what they can be learned from.

        Raises:
            UsageError: they are missing.
        """
        if self.missing:
            raise UsageError(
                f"No positive prompts at {self.path}.", remedy="learn-positive", data=spec, run=self.path.parent
            )

    def require_named(self) -> None:
        """Stop where an artifact that was named is not there; says which there are nearby.

        Raises:
            UsageError: it is missing, or a folder.
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
            raise UsageError(f"{what} The folder {folder.absolute()} holds no artifact (*.safetensors).")
        near = difflib.get_close_matches(path.name, artifacts, n=3, cutoff=0.5) if not path.is_dir() else artifacts
        shown = f"Did you mean {' or '.join(str(folder / name) for name in near[:3])}?" if near else ""
        raise UsageError(f"{what} {shown or f'Artifacts in {folder.absolute()}: {some_of(artifacts)}.'}")


def seed_artifacts(run: Path, seeds: Sequence[int], name: str) -> dict[int, ArtifactFile]:
    """The artifact called `name` of each seed of a run."""
    return {seed: ArtifactFile(seed_folder(run, seed) / name) for seed in seeds}


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
