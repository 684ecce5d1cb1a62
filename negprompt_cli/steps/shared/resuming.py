"""Interruption and resumption of a training: its checkpoint is kept while it runs and is gone once the artifact is whole.

A checkpoint beside an artifact therefore means that the files of that training may not all be written yet, and one alone
that its epochs are not all done; either way the training resumes from it. Whatever moment it is stopped at, what comes out
is what would have come out without the stop: the state is whole epochs, and later epochs depend on nothing else.
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
"""Sections of the configuration that decide each stage's result. Hardware may change between a stop and a resumption."""

SECONDS = 1.0
"""Least time between two writings of a checkpoint.

An epoch of few classes takes some 10 ms, and so does a synced write on a local disk (8 ms measured on a busy one); on a
network's it takes longer. Writing every such epoch would cost half the time and more, and gain little: a kill that nobody
can foresee costs a second and an epoch at most, and Ctrl-C and SIGTERM, which can be caught, cost no whole epoch."""


class Resumable:
    """The checkpoint of one training. Used as a context around the training it writes the last epoch when that is stopped.

    Args:
        stage: 'positive' or 'negative'.
        config: the resolved configuration.
        out: the artifact that will be made.
        positives: stage 2's positive artifact, or None where they are untrained; stage 1 has none.
        progress: told what is found.
        clock: seconds, for the spacing of checkpoints.
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
        """Look for what an earlier training left, before any work is done, and say it.

        Args:
            resume: whether to resume from there.
            overwrite: whether an artifact of another training may be replaced.

        Returns:
            The artifact, if `resume` and this training is finished already.

        Raises:
            UsageError: an artifact is in the way, or `resume` and it or the checkpoint is of another configuration.
        """
        refuse_existing(self._out, overwrite=overwrite or resume)
        if not resume:
            if self._path.is_file():
                self._progress.warn(
                    f"{self._path}, the checkpoint of an interrupted training, will be replaced, because resuming was not "
                    "asked for"
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
            self._progress.say(f"{self._out} is finished already, with this configuration: nothing to do.")
            return made
        else:
            self._progress.say(f"no checkpoint at {self._path}: starting from the first epoch")
        return None

    def restore(self, data: TrainingData, weights_sha256: str, start: Tensor) -> State | None:
        """The state to resume from, or None to start; from now on checkpoints can be kept.

        Args:
            data: the ID training images.
            weights_sha256: digest of the model's weights.
            start: the initial contexts.

        Raises:
            UsageError: the checkpoint is of other data or another model.
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
        self._progress.say(f"resuming after epoch {last.epoch} of {last.epochs} from {self._path}")
        return state

    def keep(self, state: State) -> None:
        """Take the state after an epoch; write it if the last writing is long enough ago.

        The first one is always written, so that there is a checkpoint from before the artifact until after it, and so that
        a place that cannot be written to is found early.

        Raises:
            NegPromptError: the first checkpoint cannot be written.
        """
        self._pending = state
        if self._written is None or self._clock() - self._written >= SECONDS:
            self._write()

    def remove(self) -> None:
        """Drop the checkpoint: the artifact and the files beside it are on disk."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Without a first one, what failed is its writing.
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
            # The training needs no disk until its end, when there may be room again; the checkpoint before is whole.
            if not self._failing:
                self._progress.warn(f"{error} Training continues.")
            self._failing = True
        self._written = self._clock()

    def _finished(self, *, overwrite: bool) -> Prompts | None:
        """The artifact of this very training, if it is there."""
        if not self._out.exists():
            return None
        try:
            made = load_prompts(self._out)
            lines = differences(_settings(self._stage, made.config, made.kind, made.parents), self._settings)
            if lines:
                raise UsageError(
                    f"{self._out} is of another training:\n{_indented(lines)}It cannot be resumed with these settings.",
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
                "Repeat the settings it was started with to resume it.",
                remedy="no-resume",
            )


def _settings(stage: Stage, config: Config, kind: str, parents: Sequence[Parent]) -> dict[str, Fact]:
    """What decides a stage's artifact, as far as the artifact itself tells: configuration and positives."""
    facts = {"stage": kind, **flat_facts(config.model_dump(mode="json", include=set(SECTIONS[stage])))}
    if stage == "negative":
        facts["positive artifact"] = parents[0].sha256 if parents else ZERO_SHOT
    return facts


def _versions() -> Facts:
    # An artifact names the versions it was made with, so it is made with one of each.
    return {"negprompt": __version__, "torch": torch.__version__}


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"  {line}\n" for line in lines)
