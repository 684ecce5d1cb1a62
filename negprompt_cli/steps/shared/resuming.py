"""Interrupting and resuming a training. Its checkpoint exists while it runs, and is removed when the artifact is complete.

A checkpoint without an artifact means that epochs are missing. A checkpoint next to an artifact means that other files of
the training may be missing. In both cases the training resumes from the checkpoint, and the result is the same as without
the interruption: a state has only whole epochs, and later epochs depend on nothing else.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor

from negprompt_cli._version import __version__
from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Parent, Prompts, load_prompts
from negprompt_cli.data.results.checkpoints import (
    Checkpoint,
    DamagedCheckpoint,
    Fact,
    Facts,
    checkpoint_path,
    differences,
    flat_facts,
    load_checkpoint,
    save_checkpoint,
    tensor_digest,
)
from negprompt_cli.data.results.runs import ZERO_SHOT
from negprompt_cli.engine.prompt_learners.training import State
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.learning import TrainingData
from negprompt_cli.steps.shared.outputs import refuse_existing

Stage = Literal["positive", "negative"]
SECTIONS: dict[Stage, tuple[str, ...]] = {
    "positive": ("seed", "model", "data", "positive"),
    "negative": ("seed", "model", "data", "positive", "negative"),
}
"""Sections of the configuration that affect each stage's result. The hardware may be different when a training resumes."""

SECONDS = 1.0
"""Shortest time in seconds between two writings of a checkpoint.

An epoch with few classes takes about 10 ms, and so does a synced write on a local disk (8 ms measured on a busy one); on a
network disk it takes longer. Writing every epoch would take at least half of the time and save little: an unexpected kill
loses at most a second and an epoch, and Ctrl-C and SIGTERM, which can be caught, lose no whole epoch."""


class Resumable:
    """The checkpoint of one training; a context manager that writes the last finished epoch if the training is interrupted.

    Args:
        stage: 'positive' or 'negative'.
        out: the artifact that the training writes.
        positives: stage 2's positive artifact; None for untrained positives, and for stage 1.
        clock: returns seconds, for the time between checkpoints.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        out: Path,
        *,
        positives: Prompts | None = None,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage, self._out = stage, out
        self._settings = _settings(stage, config, stage, () if positives is None else (positives.parent(),))
        self._progress, self._clock = progress, clock
        self._path = checkpoint_path(out)
        self._facts: Facts = {}
        self._found: Checkpoint | None = None
        self._pending: State | None = None
        self._written: float | None = None
        self._failing = False

    def find(self, *, resume: bool, overwrite: bool) -> Prompts | None:
        """Look for files of an earlier training, before any work, and report them.

        Args:
            resume: whether to resume the earlier training.
            overwrite: whether an artifact of another training may be replaced.

        Returns:
            The artifact, if `resume` is true and this training is already finished; else None.

        Raises:
            UsageError: an artifact exists and may not be replaced; or `resume` is true, and it or the checkpoint has another
                configuration.
        """
        refuse_existing(self._out, overwrite=overwrite or resume)
        if not resume:
            if self._path.is_file():
                self._progress.warn(
                    f"{self._path}, the checkpoint of an interrupted training, is replaced, because this run does not "
                    "resume it."
                )
            return None
        made = self._finished(overwrite=overwrite)
        if self._path.is_file():
            try:
                self._found = load_checkpoint(self._path)
                self._compare(self._found.facts, {**_versions(), **self._settings})
            except DamagedCheckpoint as error:
                self._progress.warn(f"{error} Starting from the first epoch.")
        elif made:
            self._progress.say(f"{self._out} is already finished with this configuration. There is nothing to do.")
            return made
        else:
            self._progress.say(f"There is no checkpoint at {self._path}. Starting from the first epoch.")
        return None

    def restore(self, data: TrainingData, weights_sha256: str, start: Tensor) -> State | None:
        """The state to resume from, or None to start; call it before `keep`.

        Args:
            data: the ID training images.
            weights_sha256: digest of the model's weights.
            start: the initial contexts.

        Raises:
            UsageError: the checkpoint has other data or another model.
        """
        digests: Facts = {
            "model weights": weights_sha256,
            "class names": hashlib.sha256(json.dumps([asdict(c) for c in data.classes]).encode()).hexdigest(),
            "training features": tensor_digest(data.features.images),
            "training labels": tensor_digest(data.features.labels),
            "initial contexts": tensor_digest(start),
        }
        self._facts = {**_versions(), **self._settings, **digests}
        if self._found is None:
            return None
        self._compare(self._found.facts, digests)
        state = self._found.state
        if state.contexts.shape != start.shape:
            raise DamagedCheckpoint(f"{self._path} holds contexts of another shape than this training's. Remove it.")
        last = state.history[-1]
        self._progress.say(f"Resuming after epoch {last.epoch} of at most {last.epochs} from {self._path}")
        return state

    def keep(self, state: State) -> None:
        """Keep the state after an epoch, and write it if the last writing is long enough ago.

        The first state is always written. So a checkpoint exists before the artifact and until it is complete, and a folder
        that cannot be written to is found early.

        Raises:
            NegPromptError: the first checkpoint cannot be written.
        """
        self._pending = state
        if self._written is None or self._clock() - self._written >= SECONDS:
            self._write()

    def remove(self) -> None:
        """Remove the checkpoint, after the artifact and the files next to it are written."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If no checkpoint was written, the first writing itself failed.
        if isinstance(error, KeyboardInterrupt | NegPromptError) and self._written is not None:
            self._write()

    def _write(self) -> None:
        if self._pending is None:
            return
        try:
            save_checkpoint(Checkpoint(self._pending, self._facts), self._path)
            self._pending, self._failing = None, False
        except NegPromptError as error:
            if self._written is None:
                raise
            # The training needs no disk until its end, when there may be space again. The previous checkpoint is complete.
            if not self._failing:
                self._progress.warn(f"{error} The training continues.")
            self._failing = True
        self._written = self._clock()

    def _finished(self, *, overwrite: bool) -> Prompts | None:
        """The artifact of this training, if it exists."""
        if not self._out.exists():
            return None
        try:
            made = load_prompts(self._out)
            lines = differences(_settings(self._stage, made.config, made.kind, made.parents), self._settings)
            if lines:
                raise UsageError(
                    f"{self._out} is the artifact of another training:\n{_indented(lines)}It cannot be resumed with these "
                    "settings.",
                    remedy="overwrite-output",
                )
        except UsageError:
            if overwrite:
                return None
            raise
        return made

    def _compare(self, recorded: Facts, present: Facts) -> None:
        if lines := differences(recorded, present):
            raise UsageError(
                f"{self._path} is the checkpoint of another training:\n{_indented(lines)}"
                "To resume it, use the settings that it was started with.",
                remedy="no-resume",
            )


def _settings(stage: Stage, config: Config, kind: str, parents: Sequence[Parent]) -> dict[str, Fact]:
    """What affects a stage's artifact and is recorded in it: configuration and positives."""
    facts = {"stage": kind, **flat_facts(config.model_dump(mode="json", include=set(SECTIONS[stage])))}
    if stage == "negative":
        facts["positive artifact"] = parents[0].sha256 if parents else ZERO_SHOT
    return facts


def _versions() -> Facts:
    # An artifact records the versions of its training, so all of its epochs must have the same versions.
    return {"negprompt": __version__, "torch": torch.__version__}


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"  {line}\n" for line in lines)
