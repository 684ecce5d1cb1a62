"""Decisions: what a command chose, guessed, left out or changed for the person who ran it, as typed records.

Each is told when it is made, and all of them are in the command's JSON document under the one key `decisions`, so that a
script can refuse what a reader of the terminal would have noticed. `KINDS` are the words that a script may compare with; a
kind keeps its meaning once it is released.
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
"""What a decision is about.

    split                    training and evaluation images were made by halving one folder
    layout                   how a folder of images was understood, where that was a guess
    list-form                which form of image list was read
    class-names              which file or rule named the classes
    class-names-form         which form of class list was read
    classes-left-out         classes given twice, without images, or not among those known
    files-left-out           files that are no images, or belong to no class
    images-skipped           images that cannot be read, left out of the figures
    images-not-judged        images that cannot be read, which have no verdict
    values-scaled            pixel values that were scaled to the usual range
    sampled                  images or classes drawn from more of them, or fewer than asked for
    corrected                images that a person moved to another class, which are trained on
    limited                  a trial on part of the images (--limit)
    score                    which ID score is used, where none was asked for
    score-below-chance       a score puts OOD images above ID images (AUROC below 0.5)
    scores-left-out          scores that cannot be computed here, where all were asked for
    test-time                scores that learn from the test images
    threshold                which threshold is used, or why there is none
    threshold-dropped        a threshold that no longer applies was left out of an artifact
    weights                  which of several files of weights in a model's folder is used
    few-classes              what one or two classes mean for scores
    weak-classes             classes with a low accuracy on held-out images
    prompts-changed          what became of an artifact's classes
    checkpoint-part-ignored  parts of a foreign checkpoint that were not needed and not read
    duplicates-left-out      images that another part of the data has too, by content
    id-images-in-ood         images that are ID and OOD in one evaluation
    training-data-changed    training images are not those that an artifact was trained with
    training-above-start     a training ended with a higher loss than it started with
    training-not-settled     a training did all its epochs while its loss was still falling
    self-check               what ID data alone say of the learned score against simpler ones
    other                    anything else that was decided
"""

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Decision:
    """One decision.

    `message`: whole sentences for people. `facts`: the same for scripts, as values of JSON. `warning`: whether a person
    should not miss it, also with -q.
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
    """Records in a JSON document, each once, in the order they were made."""
    made: list[dict[str, Any]] = []
    for decision in decisions:
        if (record := decision.document()) not in made:
            made.append(record)
    return made
