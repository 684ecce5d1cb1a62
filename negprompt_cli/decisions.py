"""Decisions: typed records of what a command chose, guessed, left out or changed by itself.

Each is printed when it is made. The command's JSON document has all of them under the key `decisions`, so that a script can
check what a reader of the terminal would see. Scripts may rely on the names in `KINDS`: the meaning of a released kind does
not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "split",
    "layout",
    "list-form",
    "class-names",
    "class-names-form",
    "classes-left-out",
    "files-left-out",
    "images-skipped",
    "images-not-judged",
    "values-scaled",
    "sampled",
    "corrected",
    "limited",
    "score",
    "score-below-chance",
    "scores-left-out",
    "test-time",
    "threshold",
    "threshold-dropped",
    "weights",
    "few-classes",
    "weak-classes",
    "prompts-changed",
    "checkpoint-part-ignored",
    "training-data-changed",
    "duplicates-left-out",
    "id-images-in-ood",
    "training-above-start",
    "training-not-settled",
    "self-check",
    "other",
]
"""The kinds of decisions.

    split                    one folder was split in half for training and evaluation
    layout                   the layout of a folder of images was guessed
    list-form                which form of image list was read
    class-names              which file or rule named the classes
    class-names-form         which form of class list was read
    classes-left-out         classes were left out: repeated, without images, or unknown
    files-left-out           files were left out: not images, or without a class
    images-skipped           images could not be read and do not count in the figures
    images-not-judged        images could not be read and have no verdict
    values-scaled            pixel values were scaled to the usual range
    sampled                  images or classes were drawn at random, or there were fewer than requested
    corrected                images that a person moved to another class are training images
    limited                  only part of the images was used (`limit`)
    score                    an ID score was chosen because none was named
    score-below-chance       a score puts OOD images above ID images (AUROC below 0.5)
    scores-left-out          all scores were requested, and some cannot be computed here
    test-time                a score learns from the test images
    threshold                which threshold is used, or why there is none
    threshold-dropped        a threshold that no longer applies was removed from an artifact
    weights                  which of several weights files in a model's folder is used
    few-classes              a score has a restricted meaning with one or two classes
    weak-classes             classes have a low accuracy on held-out images
    prompts-changed          how an artifact's classes were matched or changed
    checkpoint-part-ignored  parts of an imported checkpoint were not needed and not read
    duplicates-left-out      images are also in another part of the data, by content
    id-images-in-ood         images are both ID and OOD in one evaluation
    training-data-changed    the training images are not those of the artifact's training
    training-above-start     a training ended with a higher loss than it started with
    training-not-settled     a training did all its epochs and its loss was still falling
    self-check               how the learned score compares with simpler ones on ID data alone
    other                    any other decision
"""

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Decision:
    """One decision.

    `message`: whole sentences for people. `facts`: the same information for scripts, as JSON values. `warning`: whether it
    is shown even if only warnings are.
    """

    kind: Kind
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)
    warning: bool = False

    def __str__(self) -> str:
        return self.message

    def document(self) -> dict[str, Any]:
        """The record in a JSON document."""
        return {"kind": self.kind, "message": self.message, "warning": self.warning, "facts": dict(self.facts)}


def documents(decisions: "list[Decision] | tuple[Decision, ...]") -> list[dict[str, Any]]:
    """Records in a JSON document, without repetitions, in the order they were made."""
    made: list[dict[str, Any]] = []
    for decision in decisions:
        if (record := decision.document()) not in made:
            made.append(record)
    return made
